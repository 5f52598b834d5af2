//! Signals as data: blocking, ignoring, signalfd(2), and sending through a pidfd (pidfd_send_signal(2)).
//!
//! No handler code is ever installed: a program that wants to react to a signal blocks it and reads it from a
//! [`SignalFd`], so everything happens in its own loop. Signal numbers are the kernel's, 1 to 64.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Number of the highest signal of the kernel (`_NSIG`).
pub const HIGHEST: i32 = 64;

/// A set of signals, blocked in the calling thread as long as this value lives.
#[derive(Debug)]
pub struct Blocked {
    previous: libc::sigset_t,
}

/// Blocks `signals` in the calling thread (sigprocmask(2)) until the returned value is dropped.
pub fn block(signals: &[i32]) -> Blocked {
    let set = set_of(signals);
    let mut previous = MaybeUninit::uninit();
    // SAFETY: set is initialised, previous is valid for writes; SIG_BLOCK with valid pointers cannot fail.
    let previous = unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, previous.as_mut_ptr());
        previous.assume_init()
    };
    Blocked { previous }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: previous was filled by the kernel when the signals were blocked.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.previous, std::ptr::null_mut()) };
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
        // SAFETY: -1 asks for a new descriptor; set is initialised.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this new descriptor to us alone.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
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

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before it is used; sigaddset refuses invalid numbers with EINVAL.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_and_not_delivered() {
        let _blocked = block(&[libc::SIGUSR1]);
        let signals = SignalFd::new(&[libc::SIGUSR1]).unwrap();
        assert_eq!(signals.take().unwrap(), None);
        // SAFETY: raise takes an integer; the signal is blocked in this thread.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(signals.take().unwrap(), Some(libc::SIGUSR1));
        assert_eq!(signals.take().unwrap(), None);
    }
}
