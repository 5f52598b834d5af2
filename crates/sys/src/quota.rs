//! Project quotas: quotactl_fd(2) and the project of a folder (linux/quota.h, linux/dqblk_xfs.h, linux/fs.h). rustix
//! and libc have neither. quotactl_fd is there since Linux 5.14.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

const QUOTACTL_FD: libc::c_long = 443;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
const Q_XGETQSTATV: u32 = 0x5808;
const PROJECT_QUOTA: u32 = 2;
/// `QIF_BLIMITS`: the limits of blocks are what is set.
const BLOCK_LIMITS: u32 = 1;
/// `QIF_DQBLKSIZE`: what limits are counted in.
const LIMIT_BLOCK_BYTES: u64 = 1024;
/// `FS_QUOTA_PDQ_ENFD`: project quotas are enforced.
const ENFORCED: u16 = 1 << 5;
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`: what is made in the folder belongs to its project.
const INHERITED: u32 = 0x200;

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Limits {
    hard_blocks: u64,
    soft_blocks: u64,
    used_bytes: u64,
    hard_files: u64,
    soft_files: u64,
    used_files: u64,
    block_time: u64,
    file_time: u64,
    valid: u32,
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_bytes: u32,
    extents: u32,
    project: u32,
    copy_extent_bytes: u32,
    padding: [u8; 8],
}

/// The beginning of `struct fs_quota_statv`, with room for all of it.
#[repr(C)]
#[derive(Clone, Copy)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    rest: [u64; 40],
}

/// What a project has used, and may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectUsage {
    /// Bytes of its files.
    pub used_bytes: u64,
    /// Files.
    pub used_files: u64,
    /// Most bytes; 0 for no limit.
    pub limit_bytes: u64,
}

/// One call. `argument` must be what the command reads and writes.
fn quotactl<T>(file: BorrowedFd<'_>, command: u32, project: u32, argument: &mut T) -> io::Result<()> {
    let command = command << 8 | PROJECT_QUOTA;
    // SAFETY: the kernel reads and writes at most the command's structure, which `argument` is or begins with.
    let result =
        unsafe { libc::syscall(QUOTACTL_FD, file.as_raw_fd(), command, project, std::ptr::from_mut(argument)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the file system that `file` is on enforces project quotas.
///
/// # Errors
/// quotactl_fd(2)'s; what a file system without quotas says counts as no.
pub fn is_enforced(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut state = State { version: 1, padding: 0, flags: 0, rest: [0; 40] };
    match quotactl(file, Q_XGETQSTATV, 0, &mut state) {
        Ok(()) => Ok(state.flags & ENFORCED != 0),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOSYS | libc::ESRCH | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOTBLK | libc::ENODEV) => {
                Ok(false)
            }
            _ => Err(error),
        },
    }
}

/// What a project has on the file system that `file` is on.
///
/// # Errors
/// quotactl_fd(2)'s.
pub fn usage(file: BorrowedFd<'_>, project: u32) -> io::Result<ProjectUsage> {
    let mut limits = Limits::default();
    match quotactl(file, Q_GETQUOTA, project, &mut limits) {
        // XFS knows no project that has nothing.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => other?,
    }
    let limit_bytes = limits.hard_blocks.saturating_mul(LIMIT_BLOCK_BYTES);
    Ok(ProjectUsage { used_bytes: limits.used_bytes, used_files: limits.used_files, limit_bytes })
}

/// Limits what a project may have; 0 takes the limit away. The kernel counts in units of 1024 bytes, rounded up.
///
/// # Errors
/// quotactl_fd(2)'s.
pub fn limit(file: BorrowedFd<'_>, project: u32, bytes: u64) -> io::Result<()> {
    let hard_blocks = bytes.div_ceil(LIMIT_BLOCK_BYTES);
    let mut limits = Limits { hard_blocks, valid: BLOCK_LIMITS, ..Limits::default() };
    quotactl(file, Q_SETQUOTA, project, &mut limits)
}

/// The project that a folder belongs to; 0 for none.
///
/// # Errors
/// ioctl_xfs_fsgetxattr(2)'s.
pub fn project(folder: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(attributes(folder)?.project)
}

fn attributes(folder: BorrowedFd<'_>) -> io::Result<Attributes> {
    const { assert!(size_of::<Attributes>() == 28) };
    let mut attributes = Attributes::default();
    // SAFETY: FS_IOC_FSGETXATTR writes one `struct fsxattr`.
    match unsafe { libc::ioctl(folder.as_raw_fd(), FS_IOC_FSGETXATTR as _, &mut attributes) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives an empty folder, and whatever is made in it, to a project.
///
/// # Errors
/// ioctl_xfs_fsgetxattr(2)'s.
pub fn give(folder: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = attributes(folder)?;
    attributes.project = project;
    attributes.flags |= INHERITED;
    // SAFETY: FS_IOC_FSSETXATTR reads one `struct fsxattr`.
    if unsafe { libc::ioctl(folder.as_raw_fd(), FS_IOC_FSSETXATTR as _, &attributes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn proc_has_no_quotas() {
        let folder = File::open("/proc").unwrap();
        assert!(!is_enforced(folder.as_fd()).unwrap());
        assert!(limit(folder.as_fd(), 1 << 30, 1).is_err());
        assert!(give(folder.as_fd(), 1 << 30).is_err());
    }
}
