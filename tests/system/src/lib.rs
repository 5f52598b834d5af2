//! What the end-to-end tests know of the lane that they run in, and the things that they all use.
//!
//! The lane says it through the environment: `HULL_BIN` (the program under test), `HULL_TEST_DIR` (where a test makes
//! its root and state folders; nothing may be left there), `HULL_TEST_IMAGES` (`busybox`, `five-layers` and `debian` as
//! `<name>.docker.tar` and `<name>.oci.tar`, and `debian.tar`), `HULL_PEERS` (scripts that run other container tools;
//! not set in the virtual machine) and `HULL_LANE` (`host` or `vm`). Without them tests do not run: what they do to networks
//! and cgroups is for a host of their own, which `cargo xtask test system` makes.
//!
//! ```text
//! hull        one Hull in folders of its own, which proves at its end that nothing of it is left
//! bundle      an OCI bundle and Hull under the name of runc
//! leftovers   that proof: processes, mounts, cgroups, files
//! archive     images made for one test
//! registry    a registry on loopback that answers what a test tells it to
//! systemd     a stand-in for systemd that records what it is asked for
//! terminal    a program on a terminal of its own
//! tree        a file tree as facts, from a folder or a tar
//! place       namespaces for other container tools and their daemons
//! net         network namespaces of a test, wired with each other
//! patience    waiting for a fact, with a deadline and never for a time
//! ```

#![forbid(unsafe_code)]

pub mod archive;
pub mod bundle;
pub mod hull;
pub mod leftovers;
pub mod net;
pub mod patience;
pub mod place;
pub mod registry;
pub mod systemd;
pub mod terminal;
pub mod tree;

use std::path::PathBuf;

use anyhow::{Context, Result};

pub use bundle::Bundle;
pub use hull::{Hull, Run, storage_driver};
pub use patience::{Lines, patience, wait_for};

/// A path that the lane gave in the variable `name`.
pub fn given(name: &str) -> Result<PathBuf> {
    let value = std::env::var_os(name);
    value.map(PathBuf::from).with_context(|| format!("{name} is not set: run this through cargo xtask test system"))
}

/// The program under test.
pub fn hull() -> Result<PathBuf> {
    given("HULL_BIN")
}

/// The file of a test image, such as `busybox.docker.tar`.
pub fn image(file: &str) -> PathBuf {
    let path = given("HULL_TEST_IMAGES").expect("the test images").join(file);
    assert!(path.exists(), "there is no {}: cargo xtask peers makes the test images", path.display());
    path
}

/// Where tests make their folders.
pub fn test_folder() -> PathBuf {
    given("HULL_TEST_DIR").expect("a folder")
}

/// The folder with scripts for the other container tools; `None` in the virtual machine.
pub fn peers() -> Option<PathBuf> {
    std::env::var_os("HULL_PEERS").map(PathBuf::from)
}

/// Whether this is the virtual machine, where cgroup v2 is all there is and everything takes several times longer.
pub fn is_vm() -> bool {
    std::env::var_os("HULL_LANE").is_some_and(|lane| lane == "vm")
}
