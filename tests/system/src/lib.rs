//! What the end-to-end tests know of the lane that they run in.
//!
//! The lane says it through the environment: `HULL_BIN` (the program under test), `HULL_TEST_DIR` (where a test makes
//! its root and state folders; nothing may be left there), `HULL_TEST_IMAGES` (`busybox`, `five-layers` and `debian` as
//! `<name>.docker.tar` and `<name>.oci.tar`, and `debian.tar`), `HULL_PEERS` (scripts that run other container tools;
//! not set in the virtual machine) and `HULL_LANE` (`host` or `vm`).

#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Context, Result};

/// A path that the lane gave in the variable `name`.
pub fn given(name: &str) -> Result<PathBuf> {
    let value = std::env::var_os(name);
    value.map(PathBuf::from).with_context(|| format!("{name} is not set: run this through cargo xtask test system"))
}

/// The program under test.
pub fn hull() -> Result<PathBuf> {
    given("HULL_BIN")
}

/// The folder with scripts for the other container tools; `None` in the virtual machine.
pub fn peers() -> Option<PathBuf> {
    std::env::var_os("HULL_PEERS").map(PathBuf::from)
}

/// Whether this is the virtual machine, where cgroup v2 is all there is and everything takes several times longer.
pub fn is_vm() -> bool {
    std::env::var_os("HULL_LANE").is_some_and(|lane| lane == "vm")
}
