//! Signals as data: blocking, ignoring, signalfd(2), and sending through a pidfd (pidfd_send_signal(2)).
//!
//! No handler code is ever installed: a program that wants to react to a signal blocks it and reads it from a
//! [`SignalFd`], so everything happens in its own loop. Signal numbers are the kernel's, 1 to 64, and so are sets of them:
//! each libc keeps other real-time signals out of its own.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Number of the highest signal of the kernel (`_NSIG`).
pub const HIGHEST: i32 = 64;

/// A set of signals, blocked in the calling thread as long as this value lives.
#[derive(Debug)]
pub struct Blocked {
    previous: u64,
}

/// Blocks `signals` in the calling thread (sigprocmask(2)) until the returned value is dropped.
pub fn block(signals: &[i32]) -> Blocked {
    Blocked { previous: change_mask(libc::SIG_BLOCK, set_of(signals)) }
}

/// Unblocks every signal in the calling thread (sigprocmask(2)).
pub fn unblock_all() {
    change_mask(libc::SIG_SETMASK, 0);
}

/// Changes the calling thread's mask and returns the one before.
fn change_mask(how: i32, set: u64) -> u64 {
    let mut previous = 0_u64;
    // SAFETY: set and previous are whole kernel sets, valid for reads and writes; with a valid how this cannot fail.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const set, &raw mut previous, size_of::<u64>());
    }
    previous
}

impl Drop for Blocked {
    fn drop(&mut self) {
        change_mask(libc::SIG_SETMASK, self.previous);
    }
}

/// Ignores `signals` in this process (signal(2) with `SIG_IGN`); programs it executes inherit that.
pub fn ignore(signals: &[i32]) {
    set_action(signals, libc::SIG_IGN);
}

/// Gives `signals` their default action back.
pub fn restore_default(signals: &[i32]) {
    set_action(signals, libc::SIG_DFL);
}

/// Gives every signal its default action, also the two that libc keeps for itself: for a process about to execute a
/// program that is to inherit nothing (Rust ignores SIGPIPE, posix_spawn(3) ignores 32 and 33).
pub fn restore_all_defaults() {
    // The kernel's struct sigaction on 64-bit Linux: handler, flags, restorer, mask. All zero is SIG_DFL.
    let action = [0_u64; 4];
    for signal in 1..=HIGHEST {
        // SAFETY: action is a whole sigaction, valid for reads; SIG_DFL installs no code; SIGKILL and SIGSTOP fail
        // with EINVAL and change nothing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), 0, size_of::<u64>()) };
    }
}

fn set_action(signals: &[i32], action: libc::sighandler_t) {
    for signal in signals {
        // SAFETY: SIG_IGN and SIG_DFL install no code; uncatchable numbers fail with EINVAL and change nothing.
        unsafe { libc::signal(*signal, action) };
    }
}

/// True when this process ignores `signal`, as a shell sets up for `nohup` or a background job.
pub fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null new action only queries; action is valid for writes and read only on success.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// A descriptor that becomes readable when one of its signals is pending (signalfd(2)); the signals must be blocked.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Watches `signals`; non-blocking and close-on-exec.
    ///
    /// # Errors
    /// signalfd(2)'s.
    pub fn new(signals: &[i32]) -> io::Result<SignalFd> {
        let set = set_of(signals);
        let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
        // SAFETY: -1 asks for a new descriptor; set is a whole kernel set.
        let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const set, size_of::<u64>(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this new descriptor to us alone.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Takes one pending signal's number, or `None` when nothing is pending.
    ///
    /// # Errors
    /// read(2)'s, except `EAGAIN` and `EINTR`.
    pub fn take(&self) -> io::Result<Option<i32>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: info is valid for writes of size bytes.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if read == size as isize {
            // SAFETY: the kernel filled the whole structure.
            return Ok(Some(unsafe { info.assume_init() }.ssi_signo as i32));
        }
        match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(None),
            error => Err(error),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends `signal` (0 only checks) to the process behind a pidfd (pidfd_send_signal(2)); real-time signals included.
///
/// # Errors
/// `ESRCH` when it has ended and was reaped, else pidfd_send_signal(2)'s.
pub fn send_to_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed; the other arguments are integers.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel's set of some signals; without 32 and 33, by which libc ends threads and changes ids in all of them.
fn set_of(signals: &[i32]) -> u64 {
    let own = signals.iter().filter(|signal| (1..=HIGHEST).contains(signal) && !(32..=33).contains(*signal));
    own.fold(0, |set, signal| set | 1 << (signal - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_and_not_delivered() {
        // 34 is kept for itself by musl, as 32 and 33 are by both.
        for signal in [libc::SIGUSR1, 34, HIGHEST] {
            let _blocked = block(&[signal]);
            let signals = SignalFd::new(&[signal]).unwrap();
            assert_eq!(signals.take().unwrap(), None);
            // SAFETY: integers; the signal is blocked in this thread.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
            assert_eq!(signals.take().unwrap(), Some(signal));
            assert_eq!(signals.take().unwrap(), None);
        }
    }
}
