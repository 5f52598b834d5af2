//! System call filters: seccomp(2), which glibc has no function for and rustix lacks.
//!
//! A filter is a classic BPF program of [`Instruction`]s over `struct seccomp_data`; the kernel checks it completely
//! before it takes it. A filter can only be added, never removed, and holds for every process executed afterwards, so
//! callers load it last. The caller has CAP_SYS_ADMIN in its user namespace, or the no_new_privs bit, else `EACCES`.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
const SECCOMP_GET_NOTIF_SIZES: libc::c_uint = 3;

/// Load the filter into every thread of the process.
pub const FLAG_TSYNC: u32 = 1 << 0;
/// Log every action but allow.
pub const FLAG_LOG: u32 = 1 << 1;
/// Leave speculative store bypass as it is.
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// Give back a notification descriptor.
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
/// With [`FLAG_TSYNC`]: fail with `ESRCH` instead of returning a thread id.
pub const FLAG_TSYNC_ESRCH: u32 = 1 << 4;
/// A notified process waits so that only fatal signals interrupt it (Linux 5.19).
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Longest program that the kernel takes (`BPF_MAXINSNS`).
pub const PROGRAM_LENGTH_MAX: usize = 4096;

/// One classic BPF instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the test holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());

/// Sizes of the structures that travel over a notification descriptor, in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NotificationSizes {
    /// `struct seccomp_notif`.
    pub notification: u16,
    /// `struct seccomp_notif_resp`.
    pub response: u16,
    /// `struct seccomp_data`.
    pub data: u16,
}

/// Adds a filter to the calling thread (to all threads with [`FLAG_TSYNC`]).
///
/// Gives the notification descriptor (close-on-exec) when `flags` has [`FLAG_NEW_LISTENER`]. Makes no allocation, so it
/// may be called between a clone and an execve.
///
/// # Errors
/// seccomp(2)'s; `EINVAL` for an empty program or one longer than [`PROGRAM_LENGTH_MAX`]; `ESRCH` when another thread
/// could not take the filter.
pub fn set_filter(flags: u32, program: &[Instruction]) -> io::Result<Option<OwnedFd>> {
    if program.is_empty() || program.len() > PROGRAM_LENGTH_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` points at `program.len()` instructions with sock_filter's layout (asserted above), which live
    // until the call returns; the kernel copies them and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & FLAG_NEW_LISTENER != 0 {
        // SAFETY: with SECCOMP_FILTER_FLAG_NEW_LISTENER a non-negative result is a descriptor just made for us.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(result as i32) }));
    }
    // With TSYNC alone a positive result is the id of a thread that could not follow.
    if result > 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(None)
}

/// Whether the running kernel knows a filter's return action (`SECCOMP_RET_*` without data).
///
/// # Errors
/// seccomp(2)'s, other than the `EOPNOTSUPP` that means no.
pub fn action_is_available(action: u32) -> io::Result<bool> {
    // SAFETY: the kernel reads one u32 through the pointer, which is valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        error => Err(error),
    }
}

/// Whether the running kernel takes a combination of `FLAG_*`.
///
/// # Errors
/// seccomp(2)'s, other than the `EFAULT` (flags taken, program missing) and `EINVAL` (flags refused) that answer.
pub fn flags_are_available(flags: u32) -> io::Result<bool> {
    let no_program = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the pointer is null, so the kernel checks the flags, fails to copy the program and changes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, no_program) };
    if result >= 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EFAULT) => Ok(true),
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        error => Err(error),
    }
}

/// Sizes of the notification structures of the running kernel.
///
/// # Errors
/// seccomp(2)'s.
pub fn notification_sizes() -> io::Result<NotificationSizes> {
    let mut sizes = NotificationSizes::default();
    // SAFETY: the kernel writes a struct seccomp_notif_sizes, three u16 in the order of NotificationSizes, which is
    // repr(C) and valid for writes.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &raw mut sizes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(sizes) }
}

/// A call that waits for its answer (`struct seccomp_notif`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notification {
    /// Names the call in its answer.
    pub id: u64,
    /// The caller, as this process numbers it.
    pub pid: u32,
    flags: u32,
    /// Number of the call.
    pub number: i32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    instruction_pointer: u64,
    /// Arguments.
    pub arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const _: () = assert!(size_of::<Notification>() == 80 && size_of::<Answer>() == 24);

/// Takes the next call from a notification descriptor (seccomp_unotify(2), `SECCOMP_IOCTL_NOTIF_RECV`); waits for one.
///
/// # Errors
/// `ENOENT` when the caller has been killed meanwhile.
pub fn receive_notification(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    const NOTIF_RECV: u32 = 0xc050_2100;
    let mut call = Notification::default();
    // SAFETY: the kernel reads and writes a struct seccomp_notif of the 80 bytes that the request's number states, which
    // `call` is, zeroed as the kernel wants it.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV as _, &raw mut call) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(call) }
}

/// Answers a call in the kernel's place (`SECCOMP_IOCTL_NOTIF_SEND`): with `value`, or with `errno` where that is not 0.
///
/// # Errors
/// `ENOENT` when the caller does not wait any more.
pub fn answer_notification(listener: BorrowedFd<'_>, id: u64, value: i64, errno: i32) -> io::Result<()> {
    const NOTIF_SEND: u32 = 0xc018_2101;
    let answer = Answer { id, value, error: -errno, flags: 0 };
    // SAFETY: the kernel reads a struct seccomp_notif_resp of the 24 bytes that the request's number states, which
    // `answer` is, live until the call returns.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND as _, &raw const answer) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_actions_and_flags() {
        let allow = 0x7fff_0000;
        assert!(action_is_available(allow).expect("seccomp(2) answers"));
        assert!(!action_is_available(0x1234_0000).expect("seccomp(2) answers"));
        assert!(flags_are_available(FLAG_LOG | FLAG_SPEC_ALLOW).expect("seccomp(2) answers"));
        assert!(!flags_are_available(1 << 30).expect("seccomp(2) answers"));
    }

    #[test]
    fn notifications_have_a_size() {
        let sizes = notification_sizes().expect("seccomp(2) answers");
        assert_eq!(sizes.data, 64);
        assert!(sizes.notification >= 80 && sizes.response >= 24, "{sizes:?}");
    }

    #[test]
    fn bad_programs_are_refused() {
        let empty = set_filter(0, &[]).expect_err("empty");
        assert_eq!(empty.raw_os_error(), Some(libc::EINVAL));
        let instruction = Instruction { code: 0xffff, jump_true: 0, jump_false: 0, operand: 0 };
        let nonsense = set_filter(0, &[instruction]).expect_err("not an instruction");
        assert_eq!(nonsense.raw_os_error(), Some(libc::EINVAL));
        let long = set_filter(0, &[instruction; PROGRAM_LENGTH_MAX + 1]).expect_err("too long");
        assert_eq!(long.raw_os_error(), Some(libc::EINVAL));
    }
}
