//! One client of the supervisor: what it is attached to, what it waits for, and what could not be sent to it yet.
//!
//! Sending never blocks. What the socket does not take is kept in order. The session's output is not read while a
//! foreground client has anything kept; any other client is dropped, with a message, when more than [`MAX_BACKLOG`]
//! bytes are kept for it, so that a slow onlooker costs bounded memory and never slows the container.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};

use crate::protocol::{AttachFlags, Reply};
use crate::wire;

/// Most bytes kept for a client that is not in the foreground.
pub(super) const MAX_BACKLOG: usize = 1024 * 1024;

/// Who cleans up after the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CleanupPromise {
    /// Not this client.
    None,
    /// This client will ask for it.
    Made,
    /// This client is at it, with the lock in its hands.
    Begun,
    /// This client has.
    Kept,
}

/// A session that a client follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) session: u32,
    pub(super) flags: AttachFlags,
}

/// Things that a client sent for a session before it was launched.
#[derive(Debug, Default)]
pub(super) struct Early {
    pub(super) input: Vec<u8>,
    pub(super) input_closed: bool,
    pub(super) size: Option<(u16, u16)>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) number: u32,
    pub(super) socket: OwnedFd,
    /// Hello was answered, or the connection was inherited.
    pub(super) greeted: bool,
    pub(super) attached: Option<Attachment>,
    pub(super) waits_for: Vec<u32>,
    pub(super) cleanup: CleanupPromise,
    pub(super) early: Option<Box<Early>>,
    /// Bytes of stdin received and not acknowledged.
    pub(super) input_bytes: usize,
    /// epoll reports room in the socket.
    pub(super) room_watched: bool,
    backlog: VecDeque<Vec<u8>>,
    backlog_bytes: usize,
    state: SocketState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SocketState {
    Open,
    /// Close as soon as the backlog is sent.
    Closing,
    /// The peer has gone.
    Gone,
}

impl Connection {
    pub(super) fn new(number: u32, socket: OwnedFd) -> Connection {
        Connection {
            number,
            socket,
            greeted: false,
            attached: None,
            waits_for: Vec::new(),
            cleanup: CleanupPromise::None,
            early: None,
            input_bytes: 0,
            room_watched: false,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            state: SocketState::Open,
        }
    }

    pub(super) fn is_attached_to(&self, session: u32) -> bool {
        self.attached.is_some_and(|attached| attached.session == session)
    }

    pub(super) fn is_foreground(&self) -> bool {
        self.attached.is_some_and(|attached| attached.flags.foreground)
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Nothing will come of this connection any more.
    pub(super) fn is_over(&self) -> bool {
        self.state == SocketState::Gone || (self.state == SocketState::Closing && self.backlog.is_empty())
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == SocketState::Open
    }

    pub(super) fn peer_has_gone(&mut self) {
        self.state = SocketState::Gone;
    }

    pub(super) fn reply(&mut self, reply: &Reply<'_>) {
        let frame = reply.encode();
        self.send(&frame, &[]);
    }

    /// Sends a frame that is given in two parts, or keeps it.
    pub(super) fn send(&mut self, head: &[u8], data: &[u8]) {
        if self.state != SocketState::Open {
            return;
        }
        if self.backlog.is_empty() {
            match wire::send(&self.socket, &[head, data], SendFlags::DONTWAIT) {
                Ok(()) => return,
                Err(error) if is_full(&error) => {}
                Err(_) => return self.peer_has_gone(),
            }
        }
        let frame = [head, data].concat();
        self.backlog_bytes += frame.len();
        self.backlog.push_back(frame);
        if self.backlog_bytes > MAX_BACKLOG && !self.is_foreground() {
            self.drop_with("this client reads too slowly: it fell more than 1 MiB behind the container's output");
        }
    }

    /// Ends the connection with a message. What the peer has not been sent yet is given up, so that the memory is free
    /// even when it never reads on; what it has been sent is complete up to this point.
    pub(super) fn drop_with(&mut self, reason: &str) {
        self.backlog.clear();
        self.backlog_bytes = 0;
        self.reply(&Reply::Dropped { reason });
        if self.state == SocketState::Open {
            self.state = SocketState::Closing;
        }
    }

    /// Hands the clean-up over, with the lock; false when the client does not take it.
    pub(super) fn grant_cleanup(&mut self, lock: BorrowedFd<'_>) -> bool {
        let frame = Reply::CleanupGranted.encode();
        let granted = self.is_open()
            && !self.has_backlog()
            && wire::send_with_descriptors(&self.socket, &frame, &[lock], SendFlags::DONTWAIT).is_ok();
        if granted {
            self.cleanup = CleanupPromise::Begun;
        }
        granted
    }

    /// Sends what is kept, as far as the socket takes it.
    pub(super) fn flush(&mut self) {
        while let Some(frame) = self.backlog.front() {
            match wire::send(&self.socket, &[frame], SendFlags::DONTWAIT) {
                Ok(()) => {
                    self.backlog_bytes -= frame.len();
                    self.backlog.pop_front();
                }
                Err(error) if is_full(&error) => return,
                Err(_) => return self.peer_has_gone(),
            }
        }
        self.backlog = VecDeque::new();
    }

    /// The next frame's length in `buffer`; `None` when nothing has come. The peer's leaving is noted.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match wire::receive(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok(0) => {
                self.peer_has_gone();
                None
            }
            Ok(length) => Some(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                self.drop_with("a frame of more than 32 KiB");
                None
            }
            Err(_) => {
                self.peer_has_gone();
                None
            }
        }
    }

    /// Acknowledges input of this client that the session took or will never take.
    pub(super) fn acknowledge(&mut self, bytes: usize) {
        let bytes = bytes.min(self.input_bytes);
        self.input_bytes -= bytes;
        if bytes > 0 {
            self.reply(&Reply::StdinAck { bytes: bytes as u32 });
        }
    }
}

/// The socket takes no more now. Want of memory passes too.
fn is_full(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(errno, Some(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS | rustix::io::Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Connection, OwnedFd) {
        let (ours, theirs) = crate::start::channel().unwrap();
        (Connection::new(1, ours), theirs)
    }

    fn read_all(peer: &OwnedFd) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; crate::protocol::MAX_FRAME];
        let mut frames = Vec::new();
        while let Ok(length @ 1..) = wire::receive(peer, &mut buffer, RecvFlags::DONTWAIT) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }

    #[test]
    fn a_slow_onlooker_is_dropped_with_a_message_after_complete_frames() {
        let (mut connection, peer) = pair();
        for number in 0..200_u8 {
            connection.send(&[number], &[number; 10_000]);
        }
        assert!(!connection.is_open() && connection.has_backlog());
        let mut frames = read_all(&peer);
        connection.flush();
        frames.extend(read_all(&peer));
        assert!(connection.is_over());
        let last = frames.pop().unwrap();
        assert!(matches!(Reply::decode(&last), Ok(Reply::Dropped { .. })));
        assert!(frames.len() > 5);
        for (number, frame) in frames.iter().enumerate() {
            assert_eq!(frame, &[number as u8; 10_001]);
        }
    }

    #[test]
    fn a_foreground_client_keeps_everything() {
        let (mut connection, peer) = pair();
        let flags = AttachFlags { foreground: true, ..AttachFlags::default() };
        connection.attached = Some(Attachment { session: 0, flags });
        for number in 0..200_u8 {
            connection.send(&[number], &[number; 10_000]);
        }
        let mut frames = Vec::new();
        while connection.has_backlog() {
            frames.extend(read_all(&peer));
            connection.flush();
        }
        frames.extend(read_all(&peer));
        assert_eq!(frames.len(), 200);
        drop(peer);
        connection.send(b"x", &[]);
        assert!(connection.is_over());
    }
}
