//! Mounts of another process' mount namespace, for those who share one with it (a container's /dev/shm).
//!
//! open_tree(2) clones only what is mounted in the caller's own mount namespace, so a thread joins the other one, clones
//! there, and ends. What it brings back is detached and may be attached anywhere.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hull_sys::process::{CLONE_NEWNS, setns};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;

use super::overlay::leave_mount_namespace;
use super::{MountError, clone_tree};

/// Clones what is mounted at `path` in the mount namespace of process `pid`, as seen from that namespace's root.
///
/// # Errors
/// The step that the kernel refused.
pub fn clone_tree_of_process(pid: i32, path: &Path, recursive: bool) -> Result<OwnedFd, MountError> {
    let cloned = std::thread::scope(|scope| scope.spawn(|| clone_there(pid, path, recursive)).join());
    cloned.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn clone_there(pid: i32, path: &Path, recursive: bool) -> Result<OwnedFd, MountError> {
    let file = format!("/proc/{pid}/ns/mnt");
    let namespace = open(file.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| MountError::new("open", file.as_str(), errno))?;
    // A thread that shares its root and working directory with others may not join: this gives it its own.
    leave_mount_namespace()?;
    setns(namespace.as_fd(), CLONE_NEWNS).map_err(|error| {
        MountError::new("setns", file.as_str(), Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
    })?;
    clone_tree(CWD, path, recursive)
}
