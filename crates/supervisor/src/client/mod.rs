//! Speaking with a supervisor: short blocking requests, and attaching a terminal or pipes.
//!
//! A [`Client`] is one connection, attached to at most one session. Requests wait for their answer; output that
//! arrives meanwhile is set aside for [`attach::run`]. An engine that follows several sessions opens a connection for
//! each. The connection says nothing by ending: a container goes on when its client leaves.

pub mod attach;
mod detach_keys;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags};

pub use detach_keys::{DetachKeys, InvalidDetachKeys};

use crate::protocol::{self, AttachFlags, Exited, MAX_FRAME, OLDEST_VERSION, Reply, Request, StatusReport, VERSION};
use crate::start::{seqpacket_socket, socket_address};
use crate::wire::{self, Malformed};

/// What failed between a client and a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No supervisor listens: the container has ended, or its supervisor was killed.
    #[error("no supervisor listens on {path}", path = path.display())]
    NoSupervisor {
        /// The socket.
        path: PathBuf,
    },
    /// The socket exists but cannot be used.
    #[error("cannot connect to {path}: {source}", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Sending failed.
    #[error("cannot send to the supervisor: {0}")]
    Send(#[source] io::Error),
    /// Receiving failed.
    #[error("cannot receive from the supervisor: {0}")]
    Receive(#[source] io::Error),
    /// The supervisor ended, or was killed, before it answered.
    #[error("the supervisor ended the connection")]
    Ended,
    /// The supervisor ended the connection and said why.
    #[error("dropped by the supervisor: {0}")]
    Dropped(String),
    /// The supervisor speaks only other versions of the protocol.
    #[error("the supervisor speaks version {theirs} of the protocol, this Hull speaks {OLDEST_VERSION} to {VERSION}")]
    Version {
        /// The supervisor's version.
        theirs: u16,
    },
    /// The request failed, or the session could not start.
    #[error("{text}")]
    Refused {
        /// 125, 126 or 127 as docker gives them.
        exit_code: i32,
        /// The supervisor's or worker's text for the user.
        text: String,
    },
    /// The supervisor sent something that is not of the protocol.
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// A session that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Session number.
    pub session: u32,
    /// Process id in the supervisor's pid namespace.
    pub pid: i32,
}

/// One connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    set_aside: VecDeque<Vec<u8>>,
}

impl Client {
    /// Connects to the supervisor of a container, given its folder below the state folder, and greets it.
    ///
    /// # Errors
    /// [`ClientError::NoSupervisor`] when nothing listens, else the other variants.
    pub fn connect(state_dir: &Path) -> Result<Client, ClientError> {
        let path = protocol::socket_path(state_dir);
        let socket = connect_socket(state_dir).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoSupervisor { path: path.clone() }
            }
            _ => ClientError::Connect { path, source },
        })?;
        let mut client = Client::from_fd(socket);
        client.send(&Request::Hello { version: VERSION })?;
        let theirs = client.expect(|reply| match reply {
            Reply::Welcome { version, .. } => Some(version),
            _ => None,
        })?;
        if (OLDEST_VERSION..=VERSION).contains(&theirs) { Ok(client) } else { Err(ClientError::Version { theirs }) }
    }

    /// Takes the peer of a connection that a supervisor inherits (`--client`): attached to session 0 already.
    pub fn from_fd(socket: OwnedFd) -> Client {
        Client { socket, set_aside: VecDeque::new() }
    }

    /// Waits until the session that this client is attached to runs (session 0 after [`Client::from_fd`]).
    ///
    /// # Errors
    /// [`ClientError::Refused`] with exit code and text when it could not start.
    pub fn started(&mut self) -> Result<Started, ClientError> {
        self.expect(|reply| match reply {
            Reply::Started { session, pid } => Some(Started { session, pid }),
            _ => None,
        })
    }

    /// Attaches to a session; output from now on arrives in [`attach::run`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] when there is no such session, or its launch failed.
    pub fn attach(&mut self, session: u32, flags: AttachFlags) -> Result<Started, ClientError> {
        self.send(&Request::Attach { session, flags })?;
        self.started()
    }

    /// Starts another process in the container as `file` describes it to `hull-worker exec`; returns when it runs.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the worker's exit code (125, 126, 127) and text.
    pub fn exec(&mut self, file: &Path, attach: Option<AttachFlags>) -> Result<Started, ClientError> {
        self.send(&Request::Exec { file, attach })?;
        self.started()
    }

    /// Sends a signal (1 to 64) to a session's process.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the session has ended or the number is no signal.
    pub fn signal(&mut self, session: u32, signal: i32) -> Result<(), ClientError> {
        self.send(&Request::Signal { session, signal })?;
        self.expect(|reply| (reply == Reply::Done).then_some(()))
    }

    /// Sets the size of the attached session's terminal.
    ///
    /// # Errors
    /// [`ClientError::Send`], [`ClientError::Ended`].
    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<(), ClientError> {
        self.send(&Request::Resize { rows, columns })
    }

    /// Waits until a session has ended. A session that ended before is answered at once while it is remembered.
    ///
    /// # Errors
    /// As [`Client::exited`].
    pub fn wait(&mut self, session: u32) -> Result<Exited, ClientError> {
        self.expect_exit(session)?;
        loop {
            if let Some(exited) = self.exited(session, Duration::MAX)? {
                return Ok(exited);
            }
        }
    }

    /// Asks to be told when a session has ended; [`Client::exited`] hears it.
    ///
    /// Ask before sending the signal that ends it: a supervisor whose container has ended waits for nobody who has not
    /// asked.
    ///
    /// # Errors
    /// [`ClientError::Send`], [`ClientError::Ended`].
    pub fn expect_exit(&mut self, session: u32) -> Result<(), ClientError> {
        self.send(&Request::Wait { session })
    }

    /// Waits for at most `timeout` for the end of a session that was asked for, or attached to; `None` when it has not
    /// ended by then.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when there was no such session or it could not start, [`ClientError::Ended`] when the
    /// supervisor was killed.
    pub fn exited(&mut self, session: u32, timeout: Duration) -> Result<Option<Exited>, ClientError> {
        let pick = |reply: Reply<'_>| match reply {
            Reply::Exited(exited) if exited.session == session => Some(exited),
            _ => None,
        };
        let known = self.set_aside.iter().find_map(|frame| Reply::decode(frame).ok().and_then(pick));
        if known.is_some() {
            return Ok(known);
        }
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if !self.is_readable_until(deadline)? {
                return Ok(None);
            }
            let frame = self.receive_new()?;
            match self.sort(frame, pick)? {
                None => {}
                exited => return Ok(exited),
            }
        }
    }

    fn is_readable_until(&self, deadline: Option<Instant>) -> Result<bool, ClientError> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
            match rustix::event::poll(&mut polled, timeout.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(ClientError::Receive(errno.into())),
            }
        }
    }

    /// What the supervisor says about itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<StatusReport, ClientError> {
        self.send(&Request::Status)?;
        self.expect(|reply| match reply {
            Reply::StatusReport(report) => Some(report),
            _ => None,
        })
    }

    /// Has it hold the sockets by which the container asks for names, which it was given while it runs.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn find_names(&mut self) -> Result<(), ClientError> {
        self.send(&Request::FindNames)?;
        self.expect(|reply| match reply {
            Reply::Done => Some(()),
            _ => None,
        })
    }

    /// Promises to clean up after the container's end, so that the supervisor waits for [`Client::begin_cleanup`] for a
    /// few seconds instead of having it done at once.
    ///
    /// # Errors
    /// [`ClientError::Send`], [`ClientError::Ended`].
    pub fn cleanup_mine(&mut self) -> Result<(), ClientError> {
        self.send(&Request::CleanupMine)
    }

    /// Asks for the clean-up after the container's end. `Some` is the container's lock, to be held meanwhile; `None`
    /// means that somebody else cleans up, or has: then nothing of the container may be touched, it may run again.
    ///
    /// When this client ends before [`Client::cleanup_done`], the supervisor has the rest done.
    ///
    /// # Errors
    /// [`ClientError::Send`], [`ClientError::Receive`], [`ClientError::Malformed`].
    pub fn begin_cleanup(&mut self) -> Result<Option<OwnedFd>, ClientError> {
        match self.send(&Request::CleanupBegin) {
            Err(ClientError::Ended) => return Ok(None),
            other => other?,
        }
        let mut frame = vec![0; MAX_FRAME];
        loop {
            let received = wire::receive_with_descriptors(&self.socket, &mut frame);
            let (length, descriptors) = received.map_err(ClientError::Receive)?;
            if length == 0 {
                return Ok(None);
            }
            match Reply::decode(&frame[..length])? {
                Reply::CleanupGranted => return Ok(descriptors.into_iter().next()),
                Reply::Error { .. } | Reply::Dropped { .. } => return Ok(None),
                _ => self.set_aside.push_back(frame[..length].to_vec()),
            }
        }
    }

    /// Says that the clean-up is done: the supervisor just ends.
    ///
    /// # Errors
    /// [`ClientError::Send`]; [`ClientError::Ended`] when the supervisor has ended already.
    pub fn cleanup_done(&mut self) -> Result<(), ClientError> {
        self.send(&Request::CleanupDone)
    }

    /// Sends one request without waiting for an answer.
    ///
    /// # Errors
    /// [`ClientError::Send`], [`ClientError::Ended`].
    pub fn send(&mut self, request: &Request<'_>) -> Result<(), ClientError> {
        wire::send(&self.socket, &[&request.encode()], SendFlags::empty()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Ended,
            _ => ClientError::Send(error),
        })
    }

    /// Waits for the next frame, whatever it is; [`Reply::decode`] takes it apart.
    ///
    /// # Errors
    /// [`ClientError::Ended`] at the end of the connection, [`ClientError::Receive`].
    pub fn receive(&mut self) -> Result<Vec<u8>, ClientError> {
        match self.set_aside.pop_front() {
            Some(frame) => Ok(frame),
            None => self.receive_new(),
        }
    }

    fn receive_new(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut frame = vec![0; MAX_FRAME];
        match wire::receive(&self.socket, &mut frame, RecvFlags::empty()) {
            Ok(0) => Err(ClientError::Ended),
            Ok(length) => {
                frame.truncate(length);
                Ok(frame)
            }
            Err(error) => Err(ClientError::Receive(error)),
        }
    }

    /// Waits for the answer that `pick` accepts; sets output aside.
    fn expect<T>(&mut self, pick: impl Fn(Reply<'_>) -> Option<T>) -> Result<T, ClientError> {
        loop {
            let frame = self.receive_new()?;
            if let Some(answer) = self.sort(frame, &pick)? {
                return Ok(answer);
            }
        }
    }

    /// Picks an answer out of a frame, or sets the frame aside.
    fn sort<T>(&mut self, frame: Vec<u8>, pick: impl Fn(Reply<'_>) -> Option<T>) -> Result<Option<T>, ClientError> {
        match Reply::decode(&frame)? {
            Reply::Error { exit_code, text } => Err(ClientError::Refused { exit_code, text: text.to_owned() }),
            Reply::Dropped { reason } => Err(ClientError::Dropped(reason.to_owned())),
            reply => {
                let answer = pick(reply);
                if answer.is_none() {
                    self.set_aside.push_back(frame);
                }
                Ok(answer)
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn connect_socket(state_dir: &Path) -> io::Result<OwnedFd> {
    let (_dir, address) = socket_address(state_dir)?;
    let socket = seqpacket_socket()?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}
