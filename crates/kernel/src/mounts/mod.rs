//! Mounts by file descriptor (fsopen(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2)).
//!
//! A mount is first made detached: a descriptor that no mount table shows. It is attached in one step, below a
//! root descriptor, at a place that [`inside`] resolved so that no symbolic link of the container leads outside.
//! What dies before attaching leaves nothing behind.
//!
//! When the kernel refuses a file system, its own words are read from the fsopen descriptor and kept in the error.

pub mod foreign;
pub mod image;
pub mod inside;
pub mod mount_table;
pub mod overlay;
pub mod shifted;

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hull_sys::mount as sys;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
    open_tree, unmount,
};
use rustix::path::Arg;

pub use overlay::{OverlayMount, overlay};
pub use sys::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
    MountAttributes,
};

/// A mount operation that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} {subject}: {errno}{}", KernelLog(kernel_log))]
pub struct MountError {
    /// The call, as its man page calls it.
    pub operation: &'static str,
    /// What it was done to: a path, a file system type, an option.
    pub subject: String,
    /// Why.
    pub errno: Errno,
    /// What the kernel said about it (fsopen(2) message log), without its severity letter.
    pub kernel_log: Vec<String>,
}

struct KernelLog<'a>(&'a [String]);

impl fmt::Display for KernelLog<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            lines => write!(f, " (kernel: {})", lines.join("; ")),
        }
    }
}

impl MountError {
    /// An error without a kernel log.
    pub fn new(operation: &'static str, subject: impl Into<String>, errno: Errno) -> MountError {
        MountError { operation, subject: subject.into(), errno, kernel_log: Vec::new() }
    }
}

/// One option of a file system: a flag, or a key with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemOption {
    /// Key as the file system knows it.
    pub key: String,
    /// Value; `None` for a flag.
    pub value: Option<String>,
}

impl FilesystemOption {
    /// Splits `key=value` or `flag`, the form of mount(8) options.
    pub fn parse(option: &str) -> FilesystemOption {
        match option.split_once('=') {
            Some((key, value)) => FilesystemOption { key: key.to_owned(), value: Some(value.to_owned()) },
            None => FilesystemOption { key: option.to_owned(), value: None },
        }
    }
}

/// The messages that the kernel left on an fsopen(2) descriptor, without their severity prefix (`e `, `w `, `i `).
pub fn kernel_log(filesystem: BorrowedFd<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut buffer = [0_u8; 1024];
    while let Ok(length) = rustix::io::read(filesystem, &mut buffer) {
        if length == 0 {
            break;
        }
        let line = String::from_utf8_lossy(&buffer[..length]);
        lines.push(line.trim_end().get(2..).unwrap_or_default().to_owned());
    }
    lines
}

/// Makes a detached mount of a new file system.
///
/// `attributes` are `MOUNT_ATTR_*` bits; `source` is what /proc/mounts will show, where the type takes one.
///
/// # Errors
/// The option or step that the kernel refused, with its message.
pub fn new_filesystem(
    kind: &str,
    source: Option<&str>,
    options: &[FilesystemOption],
    attributes: u64,
) -> Result<OwnedFd, MountError> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| MountError::new("fsopen", kind, errno))?;
    let refused = |operation, subject: String, errno| MountError {
        operation,
        subject,
        errno,
        kernel_log: kernel_log(context.as_fd()),
    };
    if let Some(source) = source {
        fsconfig_set_string(context.as_fd(), "source", source)
            .map_err(|errno| refused("fsconfig", format!("{kind} source {source}"), errno))?;
    }
    configure(context.as_fd(), kind, options)?;
    fsconfig_create(context.as_fd()).map_err(|errno| refused("creating file system", kind.to_owned(), errno))?;
    let flags = MountAttrFlags::from_bits_retain(attributes as u32);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
        .map_err(|errno| refused("fsmount", kind.to_owned(), errno))
}

/// Gives options to a file system that is being made or changed; `kind` names it in errors.
fn configure(context: BorrowedFd<'_>, kind: &str, options: &[FilesystemOption]) -> Result<(), MountError> {
    for FilesystemOption { key, value } in options {
        let set = match value {
            Some(value) => fsconfig_set_string(context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(context, key.as_str()),
        };
        set.map_err(|errno| {
            let value = value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
            let subject = format!("{kind} option {key}{value}");
            MountError { operation: "fsconfig", subject, errno, kernel_log: kernel_log(context) }
        })?;
    }
    Ok(())
}

/// Changes options of the file system that is mounted at `mount`, its root (fspick(2)); what is not mentioned stays.
/// `subject` names it in errors.
///
/// # Errors
/// The option or step that the kernel refused, with its message.
pub fn reconfigure(mount: BorrowedFd<'_>, options: &[FilesystemOption], subject: &str) -> Result<(), MountError> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = fspick(mount, c"", flags).map_err(|errno| MountError::new("fspick", subject, errno))?;
    configure(context.as_fd(), subject, options)?;
    fsconfig_reconfigure(context.as_fd()).map_err(|errno| MountError {
        operation: "reconfiguring file system",
        subject: subject.to_owned(),
        errno,
        kernel_log: kernel_log(context.as_fd()),
    })
}

/// Clones the mount at `path` below `dir` into a detached one (a bind mount not yet attached); with `recursive`
/// what is mounted below it comes too. An empty path clones `dir` itself.
///
/// # Errors
/// open_tree(2)'s, with the path.
pub fn clone_tree<P: Arg + fmt::Debug + Copy>(
    dir: BorrowedFd<'_>,
    path: P,
    recursive: bool,
) -> Result<OwnedFd, MountError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dir, path, flags).map_err(|errno| MountError::new("open_tree", format!("{path:?}"), errno))
}

/// Attaches a detached mount on the file or directory that `target` refers to. `subject` names it in errors.
///
/// # Errors
/// move_mount(2)'s.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, subject: &str) -> Result<(), MountError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags).map_err(|errno| MountError::new("move_mount", subject, errno))
}

/// Attaches a detached mount on the file or directory at `path`, as this process sees it.
///
/// # Errors
/// move_mount(2)'s.
pub fn attach_at(mount: BorrowedFd<'_>, path: &CStr) -> Result<(), MountError> {
    move_mount(mount, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| MountError::new("move_mount", path.to_string_lossy(), errno))
}

/// Attaches a detached mount over the process' own root directory; pivot_root(2) then makes it the root.
///
/// # Errors
/// move_mount(2)'s.
pub fn attach_over_root(mount: BorrowedFd<'_>) -> Result<(), MountError> {
    attach_at(mount, c"/")
}

/// Changes the attributes of the mount behind `mount`, or of everything below it too.
///
/// # Errors
/// mount_setattr(2)'s. `subject` names the mount in them.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: &MountAttributes,
    subject: &str,
) -> Result<(), MountError> {
    sys::mount_setattr(mount, c"", recursive, attributes).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
        MountError::new("mount_setattr", subject, errno)
    })
}

/// Changes the propagation of the mount at `path`, recursively when asked (mount_namespaces(7)).
///
/// `propagation` is one of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` of mount(2).
///
/// # Errors
/// mount_setattr(2)'s.
pub fn set_propagation(path: &CStr, recursive: bool, propagation: Propagation) -> Result<(), MountError> {
    let attributes = MountAttributes { propagation: propagation as u64, ..MountAttributes::default() };
    sys::mount_setattr(CWD, path, recursive, &attributes).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
        MountError::new("mount_setattr", path.to_string_lossy(), errno)
    })
}

/// Propagation types, with the kernel's flag values (linux/mount.h `MS_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Cannot be bind mounted, exchanges nothing.
    Unbindable = 1 << 17,
    /// Exchanges nothing.
    Private = 1 << 18,
    /// Receives only.
    Slave = 1 << 19,
    /// Exchanges both ways.
    Shared = 1 << 20,
}

/// Detaches the mount at `path` lazily (umount2(2) `MNT_DETACH`).
///
/// # Errors
/// umount2(2)'s.
pub fn detach(path: &CStr) -> Result<(), MountError> {
    unmount(path, UnmountFlags::DETACH).map_err(|errno| MountError::new("umount2", path.to_string_lossy(), errno))
}
