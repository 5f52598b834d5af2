//! `run` in the foreground: signals go to the container's process, its terminal to the caller's, its end comes back.
//!
//! Everything happens in one loop over a signalfd, the caller's stdin and the terminal's master; no handler, no
//! thread. Without a terminal the container has the caller's own streams and there is nothing to copy. As a subreaper
//! this process also reaps what the container leaves behind when it shares the host's pid namespace (prctl(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hull_kernel::terminal::{self, RawMode};
use hull_sys::signals::{self as signal, SignalFd, send_to_pidfd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, set_child_subreaper, wait};

use super::readiness::Readiness;
use crate::error::Failure;

const SIGCHLD: i32 = 17;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;
/// Signals that cannot be caught, and two that C libraries keep for themselves.
const UNTOUCHED: [i32; 4] = [9, 19, 32, 33];
/// Bytes copied at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Signals that the loop takes.
pub fn signals() -> Vec<i32> {
    (1..=signal::HIGHEST).filter(|number| !UNTOUCHED.contains(number)).collect()
}

/// What is there before the container's process is.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
    /// A container that will tell when it is ready, until it has.
    pub readiness: Option<Readiness>,
}

impl Foreground {
    /// Watches the signals, which the caller has blocked.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(subreaper: bool) -> Result<Foreground, Failure> {
        if subreaper {
            set_child_subreaper(Some(Pid::INIT))
                .map_err(|errno| Failure::stream("become a subreaper")(errno.into()))?;
        }
        let signals = SignalFd::new(&signals()).map_err(Failure::stream("watch signals"))?;
        Ok(Foreground { signals, readiness: None })
    }

    /// Stays until the process has ended; gives its exit code, or 128 and the signal that ended it.
    ///
    /// # Errors
    /// When a stream or the terminal fails.
    pub fn wait(mut self, pid: i32, pidfd: BorrowedFd<'_>, master: Option<&OwnedFd>) -> Result<u8, Failure> {
        let stdin = io::stdin();
        let _raw = match master {
            Some(_) if terminal::is_terminal(&stdin) => {
                Some(RawMode::enter(&stdin).map_err(|error| Failure::Arguments(error.to_string()))?)
            }
            _ => None,
        };
        let mut copies = match master {
            Some(master) => Some(Copies::new(master).map_err(Failure::stream("use the container's terminal"))?),
            None => None,
        };
        loop {
            await_something(&self, copies.as_ref()).map_err(Failure::stream("wait"))?;
            self.tell_readiness();
            if let Some(copies) = &mut copies {
                copies.move_on().map_err(Failure::stream("copy the container's terminal"))?;
            }
            if let Some(code) = self.take_signals(pid, pidfd, master).map_err(Failure::stream("pass a signal on"))? {
                if let Some(copies) = &mut copies {
                    copies.drain().map_err(Failure::stream("copy the container's terminal"))?;
                }
                return Ok(code);
            }
        }
    }

    /// Passes on that the container is ready, once it says so. This process stays the one to be watched.
    fn tell_readiness(&mut self) {
        let Some(readiness) = &self.readiness else { return };
        let this = rustix::process::getpid().as_raw_nonzero().get();
        match readiness.take(this) {
            Ok(false) => {}
            Ok(true) => self.readiness = None,
            Err(error) => {
                tracing::warn!(%error, "cannot tell that the container is ready");
                self.readiness = None;
            }
        }
    }

    /// Passes pending signals on; the exit code once the process is among the children that have ended.
    fn take_signals(&self, pid: i32, pidfd: BorrowedFd<'_>, master: Option<&OwnedFd>) -> io::Result<Option<u8>> {
        while let Some(signal) = self.signals.take()? {
            match (signal, master) {
                (SIGCHLD, _) => {
                    if let Some(code) = reap(pid)? {
                        return Ok(Some(code));
                    }
                }
                // Go programs send it to themselves; it never means anything to a container.
                (SIGURG, _) => {}
                (SIGWINCH, Some(master)) => follow_window(master),
                _ => match send_to_pidfd(pidfd, signal) {
                    // It has ended: its SIGCHLD is next.
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => {}
                    result => result?,
                },
            }
        }
        Ok(None)
    }
}

/// Gives the container's terminal the size of ours; without a terminal here there is no size to follow.
fn follow_window(master: &OwnedFd) {
    if let Ok(size) = terminal::window_size(io::stdin())
        && let Err(error) = terminal::set_window_size(master, size)
    {
        tracing::debug!(%error, "the container's terminal keeps its size");
    }
}

/// Collects every ended child; the exit code of `pid` when it is among them.
fn reap(pid: i32) -> io::Result<Option<u8>> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) if child.as_raw_nonzero().get() == pid => {
                let exit = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                code = exit.and_then(|exit| u8::try_from(exit).ok());
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(code),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Bytes on their way between the caller's streams and the container's terminal.
struct Copies<'a> {
    master: &'a OwnedFd,
    /// Read from stdin, not yet taken by the terminal.
    pending: Vec<u8>,
    stdin_open: bool,
    master_open: bool,
}

impl<'a> Copies<'a> {
    fn new(master: &'a OwnedFd) -> io::Result<Copies<'a>> {
        fcntl_setfl(master, fcntl_getfl(master)? | OFlags::NONBLOCK)?;
        Ok(Copies { master, pending: Vec::new(), stdin_open: true, master_open: true })
    }

    /// Moves what can be moved without waiting.
    fn move_on(&mut self) -> io::Result<()> {
        self.output()?;
        if self.stdin_open && self.pending.is_empty() && is_readable(io::stdin().as_fd())? {
            let mut buffer = [0; CHUNK_BYTES];
            match rustix::io::read(io::stdin(), &mut buffer) {
                Ok(0) | Err(Errno::IO) => self.stdin_open = false,
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.input()
    }

    /// From stdin into the container.
    fn input(&mut self) -> io::Result<()> {
        while self.master_open && !self.pending.is_empty() {
            match rustix::io::write(self.master, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::IO) => self.master_open = false,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// One chunk from the container to stdout; false when there was none.
    fn output(&mut self) -> io::Result<bool> {
        let mut buffer = [0; CHUNK_BYTES];
        match rustix::io::read(self.master, &mut buffer) {
            Ok(0) => self.master_open = false,
            Ok(count) => {
                write_all(&buffer[..count])?;
                return Ok(true);
            }
            // No process has the other end open any more.
            Err(Errno::IO) => self.master_open = false,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(false)
    }

    /// What the container has written before its end.
    fn drain(&mut self) -> io::Result<()> {
        while self.output()? {}
        Ok(())
    }
}

fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(io::stdout(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Somebody made the terminal non-blocking; it takes more soon.
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&io::stdout(), PollFlags::OUT)], None)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut ready = [PollFd::new(&fd, PollFlags::IN)];
    Ok(poll(&mut ready, Some(&rustix::event::Timespec::default()))? > 0)
}

/// Sleeps until a signal or a stream is ready.
fn await_something(foreground: &Foreground, copies: Option<&Copies<'_>>) -> io::Result<()> {
    let stdin = io::stdin();
    let mut ready = vec![PollFd::new(&foreground.signals, PollFlags::IN)];
    if let Some(readiness) = &foreground.readiness {
        ready.push(PollFd::new(readiness, PollFlags::IN));
    }
    if let Some(copies) = copies {
        if copies.master_open {
            let wanted = if copies.pending.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            ready.push(PollFd::new(copies.master, wanted));
        }
        if copies.stdin_open && copies.pending.is_empty() {
            ready.push(PollFd::new(&stdin, PollFlags::IN));
        }
    }
    match poll(&mut ready, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
