//! mount_setattr(2), which rustix does not wrap yet.
//!
//! The rest of the mount API by file descriptor (fsopen, fsmount, open_tree, move_mount) comes from rustix.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct mount_attr` (linux/mount.h): what to set and clear on a mount or a whole tree.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0 for no change.
    pub propagation: u64,
    /// User namespace descriptor for `MOUNT_ATTR_IDMAP`.
    pub userns_fd: u64,
}

/// Read-only.
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Ignore set-user-ID bits.
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// No device access.
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
/// No program execution.
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// The bits that hold the access-time mode.
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
/// Update access times relative to modification.
pub const MOUNT_ATTR_RELATIME: u64 = 0x0;
/// Never update access times.
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
/// Always update access times.
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
/// No access times on directories.
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
/// Shift ids through a user namespace.
pub const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
/// Do not follow symbolic links.
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

const AT_RECURSIVE: libc::c_int = 0x8000;

/// Changes the attributes of the mount that `path` below `dir` names (an empty path is `dir` itself).
///
/// # Errors
/// mount_setattr(2)'s.
pub fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attributes: &MountAttributes,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: path is NUL-terminated, attributes is a live mount_attr of the size given, and the kernel only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
