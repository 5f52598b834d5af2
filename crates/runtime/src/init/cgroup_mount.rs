//! A mount of the cgroup v1 hierarchies: a tmpfs with one directory and mount for each (cgroups(7)).
//!
//! In a cgroup namespace of the container's own each hierarchy is mounted anew and shows the namespace's root. Without
//! one it would show the host's, so the container's own cgroup of each hierarchy is bound there instead, as runc does.

use std::os::fd::{AsFd, OwnedFd};

use hull_kernel::cgroups::Layout;
use hull_kernel::mounts::{self, FilesystemOption, MOUNT_ATTR_RDONLY, MountAttributes};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;

use super::filesystem::at;
use crate::failure::{InitFailure, Step};

/// Fills the attached tmpfs with new mounts of all hierarchies, each by its directory's name and its options.
pub(super) fn attach_new(
    tmpfs: &OwnedFd,
    hierarchies: &[(String, Vec<FilesystemOption>)],
    attributes: u64,
) -> Result<(), InitFailure> {
    for (name, options) in hierarchies {
        let mount = mounts::new_filesystem("cgroup", Some("cgroup"), options, attributes).map_err(at(Step::Mount))?;
        attach(tmpfs, name, &mount)?;
    }
    finish(tmpfs, attributes)
}

/// Fills the attached tmpfs with the cgroups that this process is in.
pub(super) fn attach_own(
    tmpfs: &OwnedFd,
    layout: &Layout,
    wanted: &MountAttributes,
    attributes: u64,
) -> Result<(), InitFailure> {
    let own = layout.own_legacy_folders().map_err(|error| InitFailure::because(Step::Mount, "cgroup", error))?;
    for (hierarchy, folder) in own {
        let own = mounts::clone_tree(CWD, &folder, false).map_err(at(Step::Mount))?;
        mounts::set_attributes(own.as_fd(), false, wanted, "cgroup").map_err(at(Step::Mount))?;
        attach(tmpfs, &hierarchy.directory(), &own)?;
    }
    finish(tmpfs, attributes)
}

/// A directory for the hierarchy, and links for the names of controllers that share it.
fn attach(tmpfs: &OwnedFd, name: &str, mount: &OwnedFd) -> Result<(), InitFailure> {
    let failed = |errno: Errno| InitFailure::new(Step::Mount, format!("cgroup hierarchy {name}"), errno);
    mkdirat(tmpfs, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
    let directory =
        openat(tmpfs, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    mounts::attach(mount.as_fd(), directory.as_fd(), name).map_err(at(Step::Mount))?;
    for part in name.split(',').filter(|part| *part != name) {
        symlinkat(name, tmpfs, part).map_err(failed)?;
    }
    Ok(())
}

/// The tmpfs as the spec wants it.
fn finish(tmpfs: &OwnedFd, attributes: u64) -> Result<(), InitFailure> {
    let attributes = MountAttributes { set: attributes & MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    mounts::set_attributes(tmpfs.as_fd(), false, &attributes, "cgroup tmpfs").map_err(at(Step::Mount))
}
