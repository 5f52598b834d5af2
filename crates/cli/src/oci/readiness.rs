//! Passing on that a container's program is ready (sd_notify(3), `NOTIFY_SOCKET`).
//!
//! The program writes to a socket in its container; the line `READY=` of what it wrote goes to the caller's own
//! `NOTIFY_SOCKET`, followed by which process is to be watched from now on. One who goes away afterwards waits until
//! the service manager has read both (`BARRIER=1`), because it looks the sender up.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, send, sendmsg, socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Failure;

/// How long a service manager may take to read what was sent, in seconds.
const BARRIER_SECONDS: i64 = 30;
const MAXIMUM_BYTES: usize = 4096;

/// Whether somebody on the host waits for the container to be ready.
pub fn is_awaited() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

/// The program's socket and the host's.
#[derive(Debug)]
pub struct Readiness {
    inside: OwnedFd,
    host: OwnedFd,
}

impl Readiness {
    /// Between `inside`, where the program writes, and whoever `NOTIFY_SOCKET` names.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn new(inside: OwnedFd) -> Result<Readiness, Failure> {
        let path = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
        let call = || {
            let address = match path.as_bytes() {
                [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
                path => SocketAddrUnix::new(path)?,
            };
            let host = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
            connect(&host, &address)?;
            Ok(host)
        };
        let host = call().map_err(|errno: Errno| Failure::path("connect to", &path)(errno.into()))?;
        Ok(Readiness { inside, host })
    }

    /// Waits until the program is ready, and says that `main_pid` is to be watched; returns also when the process of
    /// `pidfd` has ended.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn pass_on(&self, pidfd: BorrowedFd<'_>, main_pid: i32) -> Result<(), Failure> {
        let failed = |errno: Errno| Failure::stream("tell that the container is ready")(errno.into());
        loop {
            let mut ready = [PollFd::new(&self.inside, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(Errno::INTR) => continue,
                other => other.map_err(failed)?,
            };
            let (has_word, has_ended) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
            if has_word && self.take(main_pid).map_err(Failure::stream("tell that the container is ready"))? {
                return self.await_barrier().map_err(failed);
            }
            if has_ended && !has_word {
                return Ok(());
            }
        }
    }

    /// Reads one message; whether it was the one that was waited for, which is passed on then.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn take(&self, main_pid: i32) -> io::Result<bool> {
        let mut buffer = [0; MAXIMUM_BYTES];
        let (_, length) = match recv(&self.inside, &mut buffer, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            other => other?,
        };
        let Some(line) = ready_line(&buffer[..length]) else { return Ok(false) };
        send(&self.host, &[line, b"\n"].concat(), SendFlags::NOSIGNAL)?;
        send(&self.host, format!("MAINPID={main_pid}\n").as_bytes(), SendFlags::NOSIGNAL)?;
        Ok(true)
    }

    /// Waits until the other side has closed a descriptor that is sent behind everything else.
    fn await_barrier(&self) -> Result<(), Errno> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        let descriptors = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.host, &[IoSlice::new(b"BARRIER=1")], &mut control, SendFlags::NOSIGNAL)?;
        drop(theirs);
        let patience = Timespec { tv_sec: BARRIER_SECONDS, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&ours, PollFlags::IN)], Some(&patience))? == 0 {
            tracing::warn!("the service manager has not answered for {BARRIER_SECONDS} seconds");
        }
        Ok(())
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }
}

/// The line of a message that says so.
fn ready_line(message: &[u8]) -> Option<&[u8]> {
    message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_that_says_ready_counts() {
        assert_eq!(ready_line(b"STATUS=up\nREADY=1\nMAINPID=1"), Some(&b"READY=1"[..]));
        assert_eq!(ready_line(b"STATUS=READY=1"), None);
        assert_eq!(ready_line(b""), None);
    }
}
