//! Becoming a supervisor, and starting other processes from it: descriptors, session, signals, OOM score.
//!
//! What the caller of `hull run` gave this process by inheritance (terminal, pipes, working folder, mask) is dropped
//! here, so that it neither keeps a pipeline open nor a file system busy. The supervisor is hard to kill for the OOM
//! killer; what it starts is not, so the score goes back before every start.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use hull_sys::memory::close_from;
use hull_sys::process::{ExecVectors, inherited_fd, place_fd};
use hull_sys::signals::{self, SignalFd};

use crate::start::{CLIENT_FD, CommandLine, LAUNCH_FD, LISTENER_FD, LOCK_FD, SELF_EXE, SUPERVISOR_NAME};

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// Signals that a supervisor ignores: it ends when its container has ended. SIGKILL makes the container an orphan.
const IGNORED: [i32; 5] = [SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM];

const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";
const OOM_SCORE: &str = "-999";

/// What a supervisor has from the process that started it.
#[derive(Debug)]
pub(super) struct Inherited {
    /// `None` when adopting.
    pub(super) launch: Option<OwnedFd>,
    pub(super) lock: OwnedFd,
    pub(super) listener: OwnedFd,
    pub(super) client: Option<OwnedFd>,
    pub(super) oom_score: OomScore,
}

/// The OOM score to give to other programs, when ours differs from it.
#[derive(Debug, Clone)]
pub(super) struct OomScore(Option<String>);

pub(super) fn become_supervisor(command_line: &CommandLine) -> io::Result<Inherited> {
    let missing = |name: &'static str| move || io::Error::new(io::ErrorKind::NotFound, name);
    let launch = inherited_fd(LAUNCH_FD).filter(|_| !command_line.adopt);
    let lock = inherited_fd(LOCK_FD).ok_or_else(missing("descriptor 4, the lock"))?;
    let listener = inherited_fd(LISTENER_FD).ok_or_else(missing("descriptor 5, the socket"))?;
    let client = if command_line.client { inherited_fd(CLIENT_FD) } else { None };
    if launch.is_none() && !command_line.adopt {
        return Err(missing("descriptor 3, the launch channel")());
    }
    close_from(if client.is_some() { CLIENT_FD + 1 } else { CLIENT_FD })?;
    rustix::fs::fcntl_setfl(&listener, rustix::fs::fcntl_getfl(&listener)? | rustix::fs::OFlags::NONBLOCK)?;
    leave_the_caller()?;
    let oom_score = protect_from_oom();
    Ok(Inherited { launch, lock, listener, client, oom_score })
}

fn leave_the_caller() -> io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for number in 0..3 {
        place_fd(null.as_fd(), number)?;
    }
    // It fails only for a process that leads its group already, and then there is nothing to leave.
    let _leader_already = rustix::process::setsid();
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let name = std::ffi::CString::new(SUPERVISOR_NAME).map_err(io::Error::other)?;
    rustix::thread::set_name(&name)?;
    signals::ignore(&IGNORED);
    Ok(())
}

/// Without the capability the score simply stays as it is.
fn protect_from_oom() -> OomScore {
    let Ok(original) = fs::read_to_string(OOM_SCORE_FILE) else { return OomScore(None) };
    match fs::write(OOM_SCORE_FILE, OOM_SCORE) {
        Ok(()) => OomScore(Some(original)),
        Err(_) => OomScore(None),
    }
}

impl OomScore {
    /// Gives this process the score that it was started with.
    pub(super) fn restore(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |original| fs::write(OOM_SCORE_FILE, original.trim_end()))
    }

    /// Does something that starts a process, which gets that score.
    pub(super) fn lent<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.restore()?;
        let started = start();
        self.protect_again()?;
        started
    }

    fn protect_again(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |_| fs::write(OOM_SCORE_FILE, OOM_SCORE))
    }
}

/// Blocks SIGCHLD for the life of this process and reads it from a descriptor instead.
pub(super) fn watch_children() -> io::Result<SignalFd> {
    // Inherited SIG_IGN would make the kernel throw exit statuses away.
    signals::restore_default(&[SIGCHLD]);
    std::mem::forget(signals::block(&[SIGCHLD]));
    SignalFd::new(&[SIGCHLD])
}

/// Starts this binary with other arguments as a child with an ordinary OOM score.
pub(super) fn spawn_self(
    vectors: &ExecVectors,
    descriptors: &[(BorrowedFd<'_>, RawFd)],
    oom_score: &OomScore,
) -> io::Result<i32> {
    oom_score.lent(|| hull_sys::spawn::spawn(SELF_EXE, vectors, descriptors))
}

/// Becomes this binary with other arguments, keeping `lock` at its number; returns only on failure.
pub(super) fn exec_self(vectors: &ExecVectors, lock: BorrowedFd<'_>, oom_score: &OomScore) -> io::Error {
    if let Err(error) = oom_score.restore().and_then(|()| place_fd(lock, LOCK_FD)) {
        return error;
    }
    signals::restore_default(&IGNORED);
    signals::unblock_all();
    hull_sys::process::execve(SELF_EXE, vectors)
}
