//! Folders as disks of the virtual machine: ext4 file systems made from the test images and from the validation suite,
//! without root.
//!
//! The guest mounts them read-only. A disk is made again when a file of its folder is newer than it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::{program, workspace};

/// Room for the file system itself, in mebibytes.
const OVERHEAD_MB: u64 = 32;

/// The disk with the files of `folder`, made when it is missing or old.
pub fn of(folder: &Path, name: &str) -> Result<PathBuf> {
    let disk = workspace::folder("vm")?.join(format!("{name}.ext4"));
    let (bytes, newest) = measure(folder)?;
    if fs::metadata(&disk).and_then(|meta| meta.modified()).is_ok_and(|made| made > newest) {
        return Ok(disk);
    }
    let partial = disk.with_extension("partial");
    if partial.exists() {
        fs::remove_file(&partial)?;
    }
    let size = format!("{}M", bytes / (1024 * 1024) * 21 / 20 + OVERHEAD_MB);
    let mut command = Command::new(mke2fs()?);
    command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-L", name, "-d"]).arg(folder);
    program::quiet(command.arg(&partial).arg(size)).with_context(|| format!("making the disk {name}"))?;
    fs::rename(partial, &disk)?;
    Ok(disk)
}

/// The size of everything in a folder, and when the newest of it was written.
fn measure(folder: &Path) -> Result<(u64, SystemTime)> {
    let mut bytes = 0;
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(folder)? {
        let meta = entry?.metadata()?;
        bytes += meta.len();
        newest = newest.max(meta.modified()?);
    }
    Ok((bytes, newest))
}

/// mke2fs: the machine's own, or e2fsprogs unpacked.
pub fn mke2fs() -> Result<PathBuf> {
    for place in ["/sbin/mke2fs", "/usr/sbin/mke2fs"] {
        if Path::new(place).exists() {
            return Ok(place.into());
        }
    }
    let tree = workspace::folder("tools")?.join("e2fsprogs");
    Apt::machine()?.unpack(&["e2fsprogs"], true, &tree)?;
    Ok(tree.join("sbin/mke2fs"))
}
