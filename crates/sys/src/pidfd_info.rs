//! What the kernel still knows about a process behind a pidfd: `PIDFD_GET_INFO` (linux/pidfd.h).
//!
//! Kernels from 6.15 keep the exit status of a reaped process as long as a pidfd that was opened before refers to
//! it (`PIDFD_INFO_EXIT`), so that somebody who is not its parent can learn how it ended. Older kernels (and
//! pidfds that are not on pidfs) have nothing to say, which is an answer and no error here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct pidfd_info`, version 0 (64 bytes).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;

/// The wait status (as waitpid(2) gives it) of a process that ended and was reaped by its parent, whoever that is.
///
/// `None` when it has not been reaped yet, or when this kernel does not keep the status.
///
/// # Errors
/// ioctl(2)'s, except those that mean "not known here" (`ENOTTY`, `EINVAL`, `EOPNOTSUPP`, `ESRCH`).
pub fn exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: info is a live structure of the size encoded in the request number; the kernel writes at most that.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP | libc::ESRCH) => Ok(None),
            _ => Err(error),
        };
    }
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}
