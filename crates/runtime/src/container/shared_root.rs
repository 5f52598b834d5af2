//! The mount that a container without a mount namespace of its own leaves on its root directory.
//!
//! In a namespace of its own the container's mounts end with its last process. In the runtime's they stay, so before
//! such a container is made the mount that its root directory is on is noted, by number, in its folder; whoever removes
//! the container takes away what was mounted on the directory since. A mount namespace that was joined by path is its
//! owner's: what the container mounted there ends with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use super::ContainerError;
use crate::plan::{InitPlan, MountNamespace, RootEntry};

const FILE: &str = "root.json";

/// What root.json holds.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    directory: PathBuf,
    /// The mount that it was on.
    mount_id: u64,
}

/// Notes where the root of a container in the runtime's mount namespace will be; does nothing for others.
pub(super) fn note(folder: &Path, plan: &InitPlan) -> Result<(), ContainerError> {
    let (RootEntry::Share(directory), MountNamespace::Runtime) = (&plan.root.entry, plan.namespaces.mount) else {
        return Ok(());
    };
    let mount_id = mount_of(directory).map_err(ContainerError::file("look at", directory))?;
    let path = folder.join(FILE);
    let text = serde_json::to_vec(&Note { directory: directory.clone(), mount_id })
        .map_err(|source| ContainerError::Json { path: path.clone(), source })?;
    fs::write(&path, text).map_err(ContainerError::file("write", &path))
}

/// Takes the mount of such a container away.
pub(super) fn remove(folder: &Path) -> Result<(), ContainerError> {
    let path = folder.join(FILE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(ContainerError::file("read", &path))?,
    };
    let Note { directory, mount_id } =
        serde_json::from_slice(&text).map_err(|source| ContainerError::Json { path, source })?;
    if mount_of(&directory).is_ok_and(|now| now != mount_id) {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        unmount(&directory, flags).map_err(|errno| ContainerError::file("unmount", &directory)(errno.into()))?;
    }
    Ok(())
}

fn mount_of(directory: &Path) -> io::Result<u64> {
    Ok(statx(CWD, directory, AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id)
}
