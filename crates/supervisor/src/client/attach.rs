//! Attaching this process' standard streams to a session, as `hull run`, `attach` and `exec` do in the foreground.
//!
//! ```text
//! stdin ──► DetachWatch ──► Stdin frames ──► supervisor        at most STDIN_WINDOW bytes under way
//! signals ─► signalfd ────► Signal, Resize ─►
//! stdout, stderr ◄── Stdout, Stderr frames ◄──                 one frame at a time: a slow reader slows the container
//! ```
//!
//! One loop, no threads, no handlers: every signal that could end this process is blocked and read as data, so a raw
//! terminal is restored on every way out but SIGKILL. Output is only written when it does not block, so that signals
//! are forwarded even while nobody reads. In the background (job control) the terminal is not read, because that would
//! stop us, and with us a container whose output we carry.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use hull_kernel::terminal::{self, RawMode, TerminalError, WindowSize};
use hull_sys::signals::{self, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::{Client, ClientError, DetachKeys, detach_keys::DetachWatch};
use crate::log::Stream;
use crate::protocol::{Exited, MAX_FRAME, Reply, Request, STDIN_WINDOW};
use crate::wire;

/// How to attach.
#[derive(Debug, Clone)]
pub struct AttachOptions {
    /// The attached session, for signals.
    pub session: u32,
    /// The session has a terminal: ours goes into raw mode (with `stdin`), sizes are followed, detach keys work.
    pub tty: bool,
    /// Forward our stdin.
    pub stdin: bool,
    /// Keys that detach, with `tty`.
    pub detach_keys: DetachKeys,
    /// Forward signals (docker's `--sig-proxy`). Without it SIGINT, SIGTERM, SIGHUP and SIGQUIT end the attaching.
    pub forward_signals: bool,
    /// Make a full-screen program draw itself anew, by a short change of the size (attaching to a running session).
    pub redraw: bool,
}

/// Why attaching ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachEnd {
    /// The session has ended; all of its output has been written.
    Exited(Exited),
    /// The session could not be started.
    Failed {
        /// 125, 126 or 127.
        exit_code: i32,
        /// Text for the user.
        text: String,
    },
    /// The detach keys were typed.
    Detached,
    /// Our stdout or stderr cannot take more (closed pipe, lost terminal); the container goes on.
    OutputClosed,
    /// The supervisor dropped us and said why.
    Dropped(String),
    /// The supervisor ended without saying anything: it was killed. The container may go on.
    Lost,
    /// A signal that is not forwarded asked us to end.
    Interrupted(i32),
}

/// What failed on our side.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The connection failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The terminal could not be made raw.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    /// A standard stream failed otherwise than by being closed.
    #[error("cannot {what}: {source}")]
    Stream {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGWINCH: i32 = 28;

/// Signals that stay what they are: uncatchable ones, those that tell about our own children, pipes and sockets, those
/// with which a terminal stops a background job, and the two that libc keeps for itself.
const LEFT_ALONE: [i32; 9] = [9, 13, 17, 19, 21, 22, 23, 32, 33];

/// Largest write to a terminal and to a pipe or socket, in bytes: what poll(2) promises not to block (much).
const TERMINAL_CHUNK: usize = 512;
const PIPE_CHUNK: usize = 4096;
/// Bytes read from stdin at once.
const STDIN_CHUNK: usize = 16 * 1024;

/// The size of the terminal that a session would be shown on: that of our output, else of our input.
pub fn own_window_size() -> Option<WindowSize> {
    terminal::window_size(io::stdout()).or_else(|_| terminal::window_size(io::stdin())).ok()
}

/// Connects the standard streams of this process to the session that `client` is attached to, until one side ends.
///
/// # Errors
/// [`AttachError`]. The terminal is restored in any case.
pub fn run(client: &mut Client, options: &AttachOptions) -> Result<AttachEnd, AttachError> {
    // Before the terminal is made raw: a signal in between would end this process and leave it so.
    let watched = watched_signals();
    let _blocked = signals::block(&watched);
    let signals = SignalFd::new(&watched).map_err(stream("watch signals"))?;
    let stdin = io::stdin();
    let raw = match options.tty && options.stdin && terminal::is_terminal(&stdin) {
        true => Some(RawMode::enter(&stdin)?),
        false => None,
    };
    let mut attached = Attached::new(client, options, signals, raw);
    attached.send_size(options.redraw);
    let end = attached.pump();
    let restored = attached.raw.take();
    drop(restored);
    end
}

fn watched_signals() -> Vec<i32> {
    // A signal that is ignored on purpose (nohup, background jobs of old shells) is none of the container's either.
    (1..=signals::HIGHEST).filter(|signal| !LEFT_ALONE.contains(signal) && !signals::is_ignored(*signal)).collect()
}

fn stream(what: &'static str) -> impl Fn(io::Error) -> AttachError {
    move |source| AttachError::Stream { what, source }
}

/// Output that has been received and not yet been written completely.
#[derive(Debug)]
struct PendingOutput {
    stream: Stream,
    frame: Vec<u8>,
    written: usize,
}

struct Attached<'a> {
    client: &'a mut Client,
    options: &'a AttachOptions,
    signals: SignalFd,
    raw: Option<RawMode>,
    detach: Option<DetachWatch>,
    stdin_open: bool,
    stdin_is_terminal: bool,
    unacknowledged: usize,
    outgoing: VecDeque<Vec<u8>>,
    output: Option<PendingOutput>,
    /// Largest write to stdout and to stderr, in bytes.
    chunks: [usize; 2],
    buffer: Vec<u8>,
}

/// Which descriptors were ready.
#[derive(Debug, Clone, Copy)]
struct Ready {
    socket: bool,
    signals: bool,
    stdin: bool,
    output: bool,
}

impl<'a> Attached<'a> {
    fn new(
        client: &'a mut Client,
        options: &'a AttachOptions,
        signals: SignalFd,
        raw: Option<RawMode>,
    ) -> Attached<'a> {
        Attached {
            client,
            options,
            signals,
            raw,
            detach: (options.tty && options.stdin).then(|| DetachWatch::new(&options.detach_keys)),
            stdin_open: options.stdin,
            stdin_is_terminal: terminal::is_terminal(io::stdin()),
            unacknowledged: 0,
            outgoing: VecDeque::new(),
            output: None,
            chunks: [chunk(io::stdout().as_fd()), chunk(io::stderr().as_fd())],
            buffer: Vec::new(),
        }
    }

    fn pump(&mut self) -> Result<AttachEnd, AttachError> {
        loop {
            self.send_outgoing()?;
            let ready = self.wait()?;
            if ready.signals
                && let Some(end) = self.take_signals()?
            {
                return Ok(end);
            }
            if ready.output
                && let Some(end) = self.write_output()?
            {
                return Ok(end);
            }
            if ready.stdin
                && let Some(end) = self.read_stdin()?
            {
                return Ok(end);
            }
            if ready.socket
                && self.output.is_none()
                && let Some(end) = self.receive()?
            {
                return Ok(end);
            }
        }
    }

    fn wait(&self) -> Result<Ready, AttachError> {
        let stdin = io::stdin();
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let background = self.stdin_open && self.stdin_is_terminal && !terminal::in_foreground(&stdin);
        let stdin_wanted = self.stdin_open
            && !background
            && self.unacknowledged + STDIN_CHUNK <= STDIN_WINDOW
            && self.outgoing.is_empty();
        let mut socket_flags = if self.output.is_none() { PollFlags::IN } else { PollFlags::empty() };
        if !self.outgoing.is_empty() {
            socket_flags |= PollFlags::OUT;
        }
        let wanted = |wanted: bool, flags| if wanted { flags } else { PollFlags::empty() };
        let is = |stream| self.output.as_ref().is_some_and(|output| output.stream == stream);
        let mut polled = Vec::with_capacity(4);
        polled.push(PollFd::from_borrowed_fd(self.client.as_fd(), socket_flags));
        polled.push(PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN));
        // A descriptor that is not wanted is left out: poll would report its hang-up again and again.
        let stdin_at = push(&mut polled, stdin.as_fd(), wanted(stdin_wanted, PollFlags::IN));
        let stdout_at = push(&mut polled, stdout.as_fd(), wanted(is(Stream::Stdout), PollFlags::OUT));
        let stderr_at = push(&mut polled, stderr.as_fd(), wanted(is(Stream::Stderr), PollFlags::OUT));
        let set_aside = self.output.is_none() && !self.client.set_aside.is_empty();
        let timeout = match (set_aside, background) {
            (true, _) => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
            // Nothing tells when the shell puts us into the foreground without having stopped us: look now and then.
            (false, true) => Some(Timespec { tv_sec: 0, tv_nsec: 300_000_000 }),
            (false, false) => None,
        };
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(stream("wait for input and output")(errno.into())),
        }
        let fired = |at: Option<usize>| at.is_some_and(|at| !polled[at].revents().is_empty());
        Ok(Ready {
            socket: set_aside || fired(Some(0)),
            signals: fired(Some(1)),
            stdin: fired(stdin_at),
            output: fired(stdout_at) || fired(stderr_at),
        })
    }

    /// Sends what is queued for the supervisor, as far as its socket takes it.
    fn send_outgoing(&mut self) -> Result<(), AttachError> {
        while let Some(frame) = self.outgoing.front() {
            match wire::send(&*self.client, &[frame], SendFlags::DONTWAIT) {
                Ok(()) => {
                    self.outgoing.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The supervisor is gone: what it said last is still to be read, and tells how it all ended.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.outgoing.clear();
                    self.stdin_open = false;
                }
                Err(error) => return Err(ClientError::Send(error).into()),
            }
        }
        Ok(())
    }

    fn queue(&mut self, request: &Request<'_>) {
        self.outgoing.push_back(request.encode());
    }

    /// Tells the session the size of our terminal; with `redraw` a wrong size first.
    fn send_size(&mut self, redraw: bool) {
        if let (true, Some(size)) = (self.options.tty, own_window_size()) {
            if redraw {
                self.queue(&Request::Resize { rows: size.rows.saturating_add(1), columns: size.columns });
            }
            self.queue(&Request::Resize { rows: size.rows, columns: size.columns });
        }
    }

    fn take_signals(&mut self) -> Result<Option<AttachEnd>, AttachError> {
        while let Some(signal) = self.signals.take().map_err(stream("read a signal"))? {
            if signal == SIGCONT
                && let Some(raw) = &self.raw
            {
                raw.renew()?;
            }
            if self.options.tty && matches!(signal, SIGWINCH | SIGCONT) {
                self.send_size(false);
            }
            if self.options.forward_signals {
                if !(self.options.tty && signal == SIGWINCH) {
                    self.queue(&Request::Signal { session: self.options.session, signal });
                }
            } else if matches!(signal, SIGHUP | SIGINT | SIGQUIT | SIGTERM) {
                return Ok(Some(AttachEnd::Interrupted(signal)));
            }
        }
        Ok(None)
    }

    fn read_stdin(&mut self) -> Result<Option<AttachEnd>, AttachError> {
        self.buffer.resize(STDIN_CHUNK, 0);
        let length = match rustix::io::read(io::stdin(), &mut self.buffer[..]) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(None),
            // A terminal that was hung up has nothing more to say.
            Err(Errno::IO) => 0,
            Err(errno) => return Err(stream("read stdin")(errno.into())),
        };
        if length == 0 {
            self.stdin_open = false;
            self.queue(&Request::StdinClose);
            return Ok(None);
        }
        let typed = &self.buffer[..length];
        let (passed, detached) = match &mut self.detach {
            Some(watch) => watch.feed(typed),
            None => (typed.to_vec(), false),
        };
        if !passed.is_empty() {
            self.unacknowledged += passed.len();
            self.queue(&Request::Stdin(&passed));
        }
        if detached {
            self.send_outgoing()?;
            return Ok(Some(AttachEnd::Detached));
        }
        Ok(None)
    }

    fn receive(&mut self) -> Result<Option<AttachEnd>, AttachError> {
        let frame = match self.client.set_aside.pop_front() {
            Some(frame) => frame,
            None => {
                let mut frame = vec![0; MAX_FRAME];
                match wire::receive(&*self.client, &mut frame, RecvFlags::DONTWAIT) {
                    Ok(0) => return Ok(Some(AttachEnd::Lost)),
                    Ok(length) => frame.truncate(length),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return Err(ClientError::Receive(error).into()),
                }
                frame
            }
        };
        self.take_reply(frame)
    }

    fn take_reply(&mut self, frame: Vec<u8>) -> Result<Option<AttachEnd>, AttachError> {
        match Reply::decode(&frame).map_err(ClientError::from)? {
            Reply::Stdout(_) => self.output = Some(PendingOutput { stream: Stream::Stdout, frame, written: 1 }),
            Reply::Stderr(_) => self.output = Some(PendingOutput { stream: Stream::Stderr, frame, written: 1 }),
            Reply::StdinAck { bytes } => self.unacknowledged = self.unacknowledged.saturating_sub(bytes as usize),
            Reply::Exited(exited) if exited.session == self.options.session => {
                return Ok(Some(AttachEnd::Exited(exited)));
            }
            Reply::Dropped { reason } => return Ok(Some(AttachEnd::Dropped(reason.to_owned()))),
            // Signals that come too late are answered with errors too; only a failed start carries an exit code.
            Reply::Error { exit_code, text } if exit_code != 0 => {
                return Ok(Some(AttachEnd::Failed { exit_code, text: text.to_owned() }));
            }
            _ => {}
        }
        Ok(None)
    }

    fn write_output(&mut self) -> Result<Option<AttachEnd>, AttachError> {
        let Some(output) = &mut self.output else { return Ok(None) };
        let result = match output.stream {
            Stream::Stdout => write_some(io::stdout().as_fd(), &output.frame[output.written..], self.chunks[0]),
            Stream::Stderr => write_some(io::stderr().as_fd(), &output.frame[output.written..], self.chunks[1]),
        };
        match result {
            Ok(written) => output.written += written,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(None),
            Err(Errno::PIPE | Errno::IO | Errno::CONNRESET) => return Ok(Some(AttachEnd::OutputClosed)),
            Err(errno) => return Err(stream("write the container's output")(errno.into())),
        }
        if output.written == output.frame.len() {
            self.output = None;
        }
        Ok(None)
    }
}

fn chunk(fd: BorrowedFd<'_>) -> usize {
    let kind = rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(FileType::RegularFile) => MAX_FRAME,
        Ok(FileType::CharacterDevice) if terminal::is_terminal(fd) => TERMINAL_CHUNK,
        _ => PIPE_CHUNK,
    }
}

fn write_some(fd: BorrowedFd<'_>, bytes: &[u8], most: usize) -> rustix::io::Result<usize> {
    match bytes {
        [] => Ok(0),
        _ => rustix::io::write(fd, &bytes[..bytes.len().min(most)]),
    }
}

fn push<'fd>(polled: &mut Vec<PollFd<'fd>>, fd: BorrowedFd<'fd>, flags: PollFlags) -> Option<usize> {
    if flags.is_empty() {
        return None;
    }
    polled.push(PollFd::from_borrowed_fd(fd, flags));
    Some(polled.len() - 1)
}
