//! Debian's cloud kernels, fetched from the machine's own mirror and unpacked, never installed.
//!
//! `linux-image-cloud-<arch>` is an empty package that depends on the kernel of the day; the kernel package holds
//! `/boot/vmlinuz-<version>` and `/lib/modules/<version>` (since Debian 13 `/usr/lib/modules`).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::apt::Apt;
use crate::workspace;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// 6.12 or newer: Debian 12's backports, or else Debian 13.
    #[value(name = "6.12")]
    Current,
    /// 6.1, the oldest that Hull supports: Debian 12.
    #[value(name = "6.1")]
    Oldest,
}

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Release::Current => "6.12",
            Release::Oldest => "6.1",
        })
    }
}

impl Release {
    fn suites(self) -> &'static [&'static str] {
        match self {
            Release::Current => &["bookworm-backports", "trixie"],
            Release::Oldest => &["bookworm"],
        }
    }
}

/// An unpacked kernel.
pub struct Kernel {
    /// What `uname -r` will say.
    pub version: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The folder with `kernel/` and `modules.builtin`.
    pub modules: PathBuf,
}

/// The kernel, unpacked when it is not there yet.
pub fn ready(release: Release) -> Result<Kernel> {
    let tree = workspace::folder("vm")?.join(format!("kernel-{release}"));
    if !tree.join(".complete").exists() {
        fetch(release, &tree)?;
    }
    find(&tree)
}

fn fetch(release: Release, tree: &Path) -> Result<()> {
    let mut reasons = Vec::new();
    for suite in release.suites() {
        match fetch_from(suite, tree) {
            Ok(()) => return Ok(()),
            Err(error) => reasons.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("no {release} kernel to be had\n{}", reasons.join("\n"))
}

fn fetch_from(suite: &str, tree: &Path) -> Result<()> {
    let apt = Apt::suite(suite)?;
    let dependencies = apt.dependencies("linux-image-cloud-amd64")?;
    let package = dependencies.iter().find(|name| name.starts_with("linux-image-"));
    apt.unpack(&[package.context("linux-image-cloud-amd64 depends on no kernel")?], false, tree)
}

fn find(tree: &Path) -> Result<Kernel> {
    let boot = tree.join("boot");
    for entry in fs::read_dir(&boot).with_context(|| boot.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(version) = name.strip_prefix("vmlinuz-") {
            let places = ["lib/modules", "usr/lib/modules"].map(|place| tree.join(place).join(version));
            let modules = places.into_iter().find(|place| place.exists());
            let modules = modules.with_context(|| format!("no modules for {version} in {}", tree.display()))?;
            return Ok(Kernel { version: version.to_string(), image: boot.join(&name), modules });
        }
    }
    bail!("no vmlinuz in {}", boot.display())
}
