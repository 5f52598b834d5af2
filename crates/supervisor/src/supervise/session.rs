//! One process of the container with its streams: the first process (session 0), or one that was exec'd.
//!
//! ```text
//! Launch ─► running ── pidfd fires, reaped ─► drained ─► Exited
//! ```
//!
//! Outputs are FIFOs (opened for reading and writing, so they never end), pipes, or a terminal's master; the end of a
//! session is the end of its process, never the end of a stream. Input is queued per client, so that each byte is
//! acknowledged to the one who sent it, and written as the process takes it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;

use super::poller::{Poller, Source};
use crate::launch::{Launch, LaunchStdio};
use crate::log::{LogWriter, Stream};
use crate::record::{LiveState, process_stat};
use crate::timestamp::Timestamp;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: u32,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) started_at: Timestamp,
    /// Start time in clock ticks since boot; 0 for a process that had been reaped before it was launched.
    pub(super) start_time: u64,
    /// Wait status as waitpid(2) gives it, when it was reaped before its pidfd was looked at.
    pub(super) wait_status: Option<i32>,
    pub(super) log: Option<LogWriter>,
    pub(super) input: Input,
    pub(super) stdin_once: bool,
    outputs: [Option<Output>; 2],
    terminal: Option<Terminal>,
}

#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    watched: bool,
}

/// The terminal's master, and a slave held open: without it the master would report the end whenever the last program
/// in the container has closed the terminal, although another may open it again.
#[derive(Debug)]
struct Terminal {
    master: OwnedFd,
    _slave: Option<OwnedFd>,
}

/// What reading an output gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Data(usize),
    Nothing,
    End,
}

impl Session {
    /// Takes a launched process over: descriptors become non-blocking, and are watched.
    pub(super) fn new(launch: Launch, poller: &Poller) -> std::io::Result<Session> {
        let (outputs, input, terminal) = match launch.stdio {
            LaunchStdio::Streams { stdin, stdout, stderr } => ([Some(stdout), Some(stderr)], stdin, None),
            LaunchStdio::Terminal { master, stdin } => {
                let input = if stdin { Some(master.try_clone()?) } else { None };
                let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
                let terminal = Terminal {
                    master: master.try_clone()?,
                    _slave: rustix::pty::ioctl_tiocgptpeer(&master, flags).ok(),
                };
                ([Some(master), None], input, Some(terminal))
            }
        };
        for fd in outputs.iter().flatten().chain(&input) {
            rustix::fs::fcntl_setfl(fd, rustix::fs::fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        let session = Session {
            number: launch.session,
            pid: launch.pid,
            pidfd: launch.pidfd,
            started_at: Timestamp::now(),
            start_time: process_stat(launch.pid).map_or(0, |stat| stat.start_time),
            wait_status: None,
            log: launch.log.map(LogWriter::new),
            input: Input { fd: input, ..Input::default() },
            stdin_once: launch.stdin_once,
            outputs: outputs.map(|fd| fd.map(|fd| Output { fd, watched: false })),
            terminal,
        };
        poller.watch(&session.pidfd, Source::Process(session.number))?;
        Ok(session)
    }

    /// A process that another supervisor launched: outputs that could be reopened (non-blocking), and no input.
    pub(super) fn adopted(
        live: &LiveState,
        pidfd: OwnedFd,
        outputs: [Option<OwnedFd>; 2],
        log: Option<LogWriter>,
        poller: &Poller,
    ) -> std::io::Result<Session> {
        poller.watch(&pidfd, Source::Process(0))?;
        Ok(Session {
            number: 0,
            pid: live.pid,
            pidfd,
            started_at: live.started_at,
            start_time: live.pid_start_time,
            wait_status: None,
            log,
            input: Input::default(),
            stdin_once: false,
            outputs: outputs.map(|fd| fd.map(|fd| Output { fd, watched: false })),
            terminal: None,
        })
    }

    /// Reads (or stops reading) the outputs, as the foreground clients allow.
    pub(super) fn watch_outputs(&mut self, wanted: bool, poller: &Poller) -> std::io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let Some(output) = &mut self.outputs[stream as usize] else { continue };
            match (wanted, output.watched) {
                (true, false) => poller.watch(&output.fd, Source::Output(self.number, stream))?,
                (false, true) => poller.forget(&output.fd)?,
                _ => {}
            }
            output.watched = wanted;
        }
        Ok(())
    }

    /// Reads once. At the end of a pipe or terminal the output is closed, and with it its place in epoll.
    pub(super) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Read {
        let Some(output) = &self.outputs[stream as usize] else { return Read::End };
        match rustix::io::read(&output.fd, buffer) {
            Ok(length @ 1..) => Read::Data(length),
            Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
            Ok(_) | Err(_) => Read::End,
        }
    }

    /// Stops using an output that has ended.
    pub(super) fn close_output(&mut self, stream: Stream, poller: &Poller) -> std::io::Result<()> {
        match self.outputs[stream as usize].take() {
            // A duplicate of a terminal's master keeps the open file alive, and epoll with it: forget it by name.
            Some(output) if output.watched => poller.forget(&output.fd),
            _ => Ok(()),
        }
    }

    /// Sets the size of the terminal; nothing without one.
    pub(super) fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = &self.terminal {
            let size = hull_kernel::terminal::WindowSize { rows, columns };
            // It only fails when the terminal is gone, and then its size means nothing.
            let _gone = hull_kernel::terminal::set_window_size(&terminal.master, size);
        }
    }

    /// A client has closed its stdin, or left. Terminals have no end of input.
    pub(super) fn client_closed_input(&mut self) {
        if self.stdin_once && self.terminal.is_none() {
            self.input.closing = true;
        }
    }
}

/// Input on its way to a process.
#[derive(Debug, Default)]
pub(super) struct Input {
    fd: Option<OwnedFd>,
    queue: VecDeque<Piece>,
    /// Close it when the queue is empty.
    closing: bool,
    watched: bool,
}

#[derive(Debug)]
struct Piece {
    connection: u32,
    data: Vec<u8>,
    written: usize,
}

/// Bytes of a client that need no more room: written, or never to be.
pub(super) type Acknowledged = Vec<(u32, usize)>;

impl Input {
    /// Queues data of a client; call [`Input::write`] then.
    pub(super) fn push(&mut self, connection: u32, data: &[u8]) {
        self.queue.push_back(Piece { connection, data: data.to_vec(), written: 0 });
    }

    /// Writes what the process takes, and watches for room exactly while something is left.
    pub(super) fn write(&mut self, session: u32, poller: &Poller) -> std::io::Result<Acknowledged> {
        let mut acknowledged = Vec::new();
        while let Some(piece) = self.queue.front_mut() {
            let rest = &piece.data[piece.written..];
            let result = match &self.fd {
                Some(fd) => rustix::io::write(fd, rest),
                None => Err(Errno::PIPE),
            };
            match result {
                Ok(written) => piece.written += written,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                // The process has closed its stdin: what is sent to it is gone, as with a pipe and SIGPIPE ignored.
                Err(_) => {
                    self.close(poller)?;
                    acknowledged.extend(self.queue.drain(..).map(|piece| (piece.connection, piece.data.len())));
                    break;
                }
            }
            if piece.written == piece.data.len() {
                acknowledged.push((piece.connection, piece.data.len()));
                self.queue.pop_front();
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
            if self.closing {
                self.close(poller)?;
            }
        }
        self.watch(session, poller)?;
        Ok(acknowledged)
    }

    fn watch(&mut self, session: u32, poller: &Poller) -> std::io::Result<()> {
        let wanted = !self.queue.is_empty();
        match &self.fd {
            Some(fd) if wanted && !self.watched => poller.watch_room(fd, Source::Input(session))?,
            Some(fd) if !wanted && self.watched => poller.forget(fd)?,
            _ => {}
        }
        self.watched = wanted && self.fd.is_some();
        Ok(())
    }

    fn close(&mut self, poller: &Poller) -> std::io::Result<()> {
        if let Some(fd) = self.fd.take()
            && std::mem::take(&mut self.watched)
        {
            poller.forget(&fd)?;
        }
        Ok(())
    }
}
