//! The conversation between the parent and the child of a create: one SEQPACKET socket pair.
//!
//! ```text
//! go-between                     parent
//!   | --- Process [pidfd] --------> |   only with a process in between, over a pair of its own
//! child
//!   | --- NeedsCgroup ------------> |   only when systemd makes the cgroup, around the child
//!   | <-- Continue ---------------- |
//!   | --- NeedsIdMap -------------> |   only with a new user namespace; parent writes the maps
//!   | <-- Continue [root mount] --- |   and sends the root mount when that needed the namespace
//!   | --- NeedsTimeOffsets -------> |   only with linux.timeOffsets; parent writes timens_offsets
//!   | <-- Continue ---------------- |
//!   | --- NeedsNetDevices --------> |   only with linux.netDevices; parent moves them
//!   | <-- Continue ---------------- |
//!   | --- Hooks ------------------> |   only with prestart or createRuntime hooks, which the parent runs
//!   | <-- Continue ---------------- |
//!   | --- Terminal [pty master] --> |   only with a terminal
//!   | --- Ready ------------------> |   everything but the program is in place
//!   | <-- Start ------------------- |
//!   | --- Listener(number) -------> |   only with SCMP_ACT_NOTIFY, after Start
//!   | <-- Continue ---------------- |
//!   |   execve closes its end       |   end of file: the program runs
//!   | --- Failed {..} ------------> |   at any point instead
//! ```
//!
//! A container that is started by another command than the one that created it waits at a listening socket; from Start
//! on, the connection accepted there takes the place of the pair. The socket is close-on-exec, so its end of file is the proof that execve succeeded.

use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::failure::InitFailure;

/// A message of either side.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Go-between: this is the child, by its id in the parent's pid namespace and its pidfd.
    Process(i32),
    /// Child: have systemd put me into my cgroup.
    NeedsCgroup,
    /// Child: write my id maps.
    NeedsIdMap,
    /// Child: set the clocks of my time namespace.
    NeedsTimeOffsets,
    /// Child: move the network interfaces into my namespace.
    NeedsNetDevices,
    /// Child: run the hooks that belong before pivot_root.
    Hooks,
    /// Parent: go on with the set-up.
    Continue,
    /// Child: here is the master of my terminal.
    Terminal,
    /// Child: everything but the program is in place.
    Ready,
    /// Parent: execute the program.
    Start,
    /// Child: this descriptor of mine is the filter's listener; give it to the agent.
    Listener(i32),
    /// Child: this failed; it exits.
    Failed(InitFailure),
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Sync(OwnedFd);

/// Longest message: a failure with a path and a kernel message. One page, which is on the stack.
const MAXIMUM_BYTES: usize = 4096;
/// Characters left of a failure's subject and detail when they make the message too long. Each takes six bytes at most.
const DETAIL_CHARACTERS: usize = 256;

impl Sync {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Sync, Sync), Errno> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Sync(one), Sync(other)))
    }

    /// Takes over an end that was inherited.
    pub(crate) fn from_fd(fd: OwnedFd) -> Sync {
        Sync(fd)
    }

    /// Sends a message, with a descriptor where one belongs to it.
    pub(crate) fn send(&self, message: &Message, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let bytes = encoded(message)?;
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        rustix::io::retry_on_intr(|| sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Waits for the next message; `None` is the end of the conversation.
    pub(crate) fn receive(&self) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
        let mut bytes = [0_u8; MAXIMUM_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            Ok(received) => received,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let message = serde_json::from_slice(&bytes[..received.bytes]).map_err(|_| Errno::BADMSG)?;
        Ok(Some((message, fd)))
    }
}

/// Says [`Message::Listener`] on the child's end and waits for the answer, with write(2) and read(2) and without an
/// allocation: whatever other system call this made could be one that waits for the agent.
pub(crate) fn hand_over_listener(socket: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut bytes = [0_u8; 64];
    let mut rest = &mut bytes[..];
    write!(rest, "{{\"Listener\":{}}}", listener.as_raw_fd()).map_err(|_| Errno::NOBUFS)?;
    let unused = rest.len();
    let length = bytes.len() - unused;
    rustix::io::retry_on_intr(|| rustix::io::write(socket, &bytes[..length]))?;
    let mut answer = [0_u8; 64];
    // Anything that is said is Continue; the end of the conversation is no.
    match rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut answer))? {
        0 => Err(Errno::CANCELED),
        _ => Ok(()),
    }
}

/// A message as it travels; a failure whose words are too many keeps the first of them.
fn encoded(message: &Message) -> Result<Vec<u8>, Errno> {
    let encode = |message: &Message| serde_json::to_vec(message).map_err(|_| Errno::INVAL);
    let bytes = encode(message)?;
    match message {
        Message::Failed(failure) if bytes.len() > MAXIMUM_BYTES => {
            let cut = |text: &str| text.chars().take(DETAIL_CHARACTERS).collect();
            encode(&Message::Failed(InitFailure {
                subject: cut(&failure.subject),
                detail: cut(&failure.detail),
                ..failure.clone()
            }))
        }
        _ => Ok(bytes),
    }
}

impl AsFd for Sync {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Step;

    #[test]
    fn a_listener_is_handed_over_in_the_words_of_the_conversation() {
        let (one, other) = Sync::pair().unwrap();
        let child = std::thread::spawn(move || hand_over_listener(other.as_fd(), other.as_fd()).map(|()| other));
        let (message, fd) = one.receive().unwrap().unwrap();
        assert!(matches!(message, Message::Listener(number) if number > 2) && fd.is_none());
        one.send(&Message::Continue, None).unwrap();
        let other = child.join().unwrap().unwrap();
        drop(one);
        assert_eq!(hand_over_listener(other.as_fd(), other.as_fd()), Err(Errno::PIPE));
    }

    #[test]
    fn messages_and_descriptors_cross_and_the_end_is_seen() {
        let (one, other) = Sync::pair().unwrap();
        one.send(&Message::Terminal, Some(one.as_fd())).unwrap();
        let (message, fd) = other.receive().unwrap().unwrap();
        assert!(message == Message::Terminal && fd.is_some());
        drop(fd);
        let failure = InitFailure::new(Step::Mount, "/proc", Errno::PERM);
        one.send(&Message::Failed(failure.clone()), None).unwrap();
        assert_eq!(other.receive().unwrap().unwrap().0, Message::Failed(failure));
        drop(one);
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn a_failure_of_any_length_arrives() {
        let (one, other) = Sync::pair().unwrap();
        let failure = InitFailure::because(Step::Mount, "/\u{1}".repeat(9000), "\u{2}".repeat(9000));
        one.send(&Message::Failed(failure), None).unwrap();
        let Some((Message::Failed(heard), None)) = other.receive().unwrap() else { panic!("not the failure") };
        assert_eq!(
            (heard.subject.chars().count(), heard.detail.chars().count()),
            (DETAIL_CHARACTERS, DETAIL_CHARACTERS)
        );
    }
}
