//! What clients and the supervisor say to each other on `<state>/<id>/supervisor.sock` (SOCK_SEQPACKET).
//!
//! ```text
//! client                                      supervisor
//!   Hello {version}              ------>
//!                                <------  Welcome {version, pid}        (or Error)
//!   Attach {session, flags}      ------>  Started {session, pid}        once the session runs
//!                                <------  Stdout(data) Stderr(data) ...
//!   Stdin(data) StdinClose       ------>  StdinAck {bytes}              as the process takes the data
//!   Resize {rows, columns}       ------>
//!   Signal {session, signal}     ------>  Done                          (or Error)
//!   Exec {file, flags}           ------>  Started {session, pid}        (or Error {exit_code, text})
//!   Wait {session}               ------>
//!                                <------  Exited {...}                  to who is attached or waits
//!   Status                       ------>  StatusReport {...}
//!   FindNames                    ------>  Done                          the container has a resolver of names now
//!   CleanupMine                  ------>                                a promise, before the end of session 0
//!   CleanupBegin                 ------>  CleanupGranted + lock          after Exited (or Error: somebody else does it)
//!   CleanupDone                  ------>                                the supervisor ends
//!                                <------  Dropped {reason}              then the connection ends
//! ```
//!
//! A frame is one type byte, fixed little-endian fields, and a payload up to the end; at most 32 KiB. A client has at
//! most [`STDIN_WINDOW`] bytes of stdin unacknowledged, so the socket never fills up towards the supervisor and a
//! signal is never stuck behind input that nobody reads. The supervisor speaks [`VERSION`] and the one before it. A
//! client that inherits its connection (`--client`) is attached to session 0, counts as having promised to clean up,
//! and needs no Hello.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::timestamp::Timestamp;
use crate::wire::{Decoder, Encoder, Malformed};

/// Version of this protocol.
pub const VERSION: u16 = 1;
/// Oldest version that this side still speaks.
pub const OLDEST_VERSION: u16 = 1;
/// Longest frame in bytes, type byte included.
pub const MAX_FRAME: usize = 32 * 1024;
/// Longest payload of a Stdin, Stdout or Stderr frame in bytes.
pub const MAX_DATA: usize = MAX_FRAME - 1;
/// Most bytes of stdin that a client may have sent without an acknowledgement.
pub const STDIN_WINDOW: usize = 64 * 1024;

/// Which streams a client wants, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttachFlags {
    /// The client sends stdin.
    pub stdin: bool,
    /// The client wants stdout (or the terminal's output).
    pub stdout: bool,
    /// The client wants stderr.
    pub stderr: bool,
    /// Output waits for this client when it is slow; without this it is dropped when it falls behind.
    pub foreground: bool,
}

impl AttachFlags {
    fn bits(self) -> u8 {
        u8::from(self.stdin) | u8::from(self.stdout) << 1 | u8::from(self.stderr) << 2 | u8::from(self.foreground) << 3
    }

    fn from_bits(bits: u8) -> Result<AttachFlags, Malformed> {
        if bits & !0xF != 0 {
            return Err(Malformed("unknown attach flag"));
        }
        Ok(AttachFlags {
            stdin: bits & 1 != 0,
            stdout: bits & 2 != 0,
            stderr: bits & 4 != 0,
            foreground: bits & 8 != 0,
        })
    }
}

/// From client to supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// First frame of a connection: the newest version that the client speaks.
    Hello {
        /// Protocol version.
        version: u16,
    },
    /// Follow a session's output and feed its stdin.
    Attach {
        /// Session number.
        session: u32,
        /// Streams.
        flags: AttachFlags,
    },
    /// Input for the attached session.
    Stdin(&'a [u8]),
    /// End of the input.
    StdinClose,
    /// New size of the attached session's terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// Send a signal to a session's process.
    Signal {
        /// Session number.
        session: u32,
        /// Kernel signal number, 1 to 64.
        signal: i32,
    },
    /// Run another process in the container, as a file describes it to the worker.
    Exec {
        /// Description of the process; read (and removed) by `hull-worker exec`.
        file: &'a Path,
        /// Attach this client to the new session; `None` runs it detached.
        attach: Option<AttachFlags>,
    },
    /// Answer with Exited as soon as the session has ended.
    Wait {
        /// Session number.
        session: u32,
    },
    /// Answer with StatusReport.
    Status,
    /// The container was given a resolver of names while it runs: hold its sockets from now on. Answered with Done.
    FindNames,
    /// This client will clean up when session 0 has ended: it will ask to begin within a few seconds.
    CleanupMine,
    /// Asks for the clean-up. Without the grant a client must not touch anything: the container may run again.
    CleanupBegin,
    /// This client has cleaned up: nothing is left but the supervisor itself.
    CleanupDone,
}

/// From supervisor to client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Answer to Hello.
    Welcome {
        /// Version that is spoken on this connection.
        version: u16,
        /// Process id of the supervisor.
        pid: i32,
    },
    /// The session that the client asked for runs.
    Started {
        /// Session number.
        session: u32,
        /// Process id in the supervisor's pid namespace.
        pid: i32,
    },
    /// Output, or the output of a terminal.
    Stdout(&'a [u8]),
    /// Error output.
    Stderr(&'a [u8]),
    /// A session has ended; all of its output was sent before.
    Exited(Exited),
    /// A request failed, or the session could not start.
    Error {
        /// 125, 126 or 127 as docker gives them for what could not start; 0 for any other refused request.
        exit_code: i32,
        /// Text for the user.
        text: &'a str,
    },
    /// The supervisor ends this connection.
    Dropped {
        /// Why.
        reason: &'a str,
    },
    /// So many more bytes of stdin were taken.
    StdinAck {
        /// Bytes since the last acknowledgement.
        bytes: u32,
    },
    /// A request without a better answer has succeeded.
    Done,
    /// The clean-up is this client's; the message carries the container's lock as a descriptor.
    CleanupGranted,
    /// Answer to Status.
    StatusReport(StatusReport),
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exited {
    /// Session number.
    pub session: u32,
    /// Exit code, 128 + n for signal n; `None` when it cannot be known.
    pub exit_code: Option<i32>,
    /// Signal that ended the process.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container for want of memory (session 0 only).
    pub oom_killed: bool,
    /// When its end was seen.
    pub finished_at: Timestamp,
}

/// The supervisor about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusReport {
    /// Process of session 0; `None` before the launch and after the end.
    pub pid: Option<i32>,
    /// Sessions that run, session 0 included.
    pub sessions: u32,
    /// Connected clients, the asking one included.
    pub clients: u32,
    /// Lines of output that could not be logged.
    pub log_lines_dropped: u64,
}

const HELLO: u8 = 0x01;
const ATTACH: u8 = 0x02;
const STDIN: u8 = 0x03;
const STDIN_CLOSE: u8 = 0x04;
const RESIZE: u8 = 0x05;
const SIGNAL: u8 = 0x06;
const EXEC: u8 = 0x07;
const WAIT: u8 = 0x08;
const STATUS: u8 = 0x09;
const CLEANUP_MINE: u8 = 0x0A;
const CLEANUP_DONE: u8 = 0x0B;
const CLEANUP_BEGIN: u8 = 0x0C;
const FIND_NAMES: u8 = 0x0D;

const WELCOME: u8 = 0x81;
const STARTED: u8 = 0x82;
/// Type byte of a Stdout frame, for senders that write header and data apart.
pub(crate) const STDOUT: u8 = 0x83;
/// Type byte of a Stderr frame.
pub(crate) const STDERR: u8 = 0x84;
const EXITED: u8 = 0x85;
const ERROR: u8 = 0x86;
const DROPPED: u8 = 0x87;
const STDIN_ACK: u8 = 0x88;
const DONE: u8 = 0x89;
const STATUS_REPORT: u8 = 0x8A;
const CLEANUP_GRANTED: u8 = 0x8B;

/// Flag byte of Exec: the low bits are the attach flags when this one is set.
const EXEC_ATTACHED: u8 = 0x80;

impl<'a> Request<'a> {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Request::Hello { version } => Encoder::new(HELLO).u16(*version).done(),
            Request::Attach { session, flags } => Encoder::new(ATTACH).u32(*session).u8(flags.bits()).done(),
            Request::Stdin(data) => Encoder::new(STDIN).rest(data),
            Request::StdinClose => Encoder::new(STDIN_CLOSE).done(),
            Request::Resize { rows, columns } => Encoder::new(RESIZE).u16(*rows).u16(*columns).done(),
            Request::Signal { session, signal } => Encoder::new(SIGNAL).u32(*session).i32(*signal).done(),
            Request::Exec { file, attach } => Encoder::new(EXEC)
                .u8(attach.map_or(0, |flags| flags.bits() | EXEC_ATTACHED))
                .rest(file.as_os_str().as_bytes()),
            Request::Wait { session } => Encoder::new(WAIT).u32(*session).done(),
            Request::Status => Encoder::new(STATUS).done(),
            Request::FindNames => Encoder::new(FIND_NAMES).done(),
            Request::CleanupMine => Encoder::new(CLEANUP_MINE).done(),
            Request::CleanupBegin => Encoder::new(CLEANUP_BEGIN).done(),
            Request::CleanupDone => Encoder::new(CLEANUP_DONE).done(),
        }
    }

    /// Takes a frame apart.
    ///
    /// # Errors
    /// [`Malformed`] for anything that [`Request::encode`] does not make.
    pub fn decode(frame: &'a [u8]) -> Result<Request<'a>, Malformed> {
        let mut fields = Decoder::new(frame);
        let request = match fields.u8()? {
            HELLO => Request::Hello { version: fields.u16()? },
            ATTACH => Request::Attach { session: fields.u32()?, flags: AttachFlags::from_bits(fields.u8()?)? },
            STDIN => return Ok(Request::Stdin(fields.rest())),
            STDIN_CLOSE => Request::StdinClose,
            RESIZE => Request::Resize { rows: fields.u16()?, columns: fields.u16()? },
            SIGNAL => Request::Signal { session: fields.u32()?, signal: fields.i32()? },
            EXEC => return Request::decode_exec(fields),
            WAIT => Request::Wait { session: fields.u32()? },
            STATUS => Request::Status,
            FIND_NAMES => Request::FindNames,
            CLEANUP_MINE => Request::CleanupMine,
            CLEANUP_BEGIN => Request::CleanupBegin,
            CLEANUP_DONE => Request::CleanupDone,
            _ => return Err(Malformed("unknown request")),
        };
        fields.end(request)
    }

    fn decode_exec(mut fields: Decoder<'a>) -> Result<Request<'a>, Malformed> {
        let bits = fields.u8()?;
        let attach = match bits & EXEC_ATTACHED {
            0 => None,
            _ => Some(AttachFlags::from_bits(bits & !EXEC_ATTACHED)?),
        };
        let file = Path::new(OsStr::from_bytes(fields.rest()));
        if file.as_os_str().is_empty() || fields.rest().contains(&0) {
            return Err(Malformed("no file name"));
        }
        Ok(Request::Exec { file, attach })
    }
}

impl<'a> Reply<'a> {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Reply::Welcome { version, pid } => Encoder::new(WELCOME).u16(*version).i32(*pid).done(),
            Reply::Started { session, pid } => Encoder::new(STARTED).u32(*session).i32(*pid).done(),
            Reply::Stdout(data) => Encoder::new(STDOUT).rest(data),
            Reply::Stderr(data) => Encoder::new(STDERR).rest(data),
            Reply::Exited(exited) => exited.encode(),
            Reply::Error { exit_code, text } => Encoder::new(ERROR).i32(*exit_code).rest(text.as_bytes()),
            Reply::Dropped { reason } => Encoder::new(DROPPED).rest(reason.as_bytes()),
            Reply::StdinAck { bytes } => Encoder::new(STDIN_ACK).u32(*bytes).done(),
            Reply::Done => Encoder::new(DONE).done(),
            Reply::CleanupGranted => Encoder::new(CLEANUP_GRANTED).done(),
            Reply::StatusReport(report) => Encoder::new(STATUS_REPORT)
                .i32(report.pid.unwrap_or(0))
                .u32(report.sessions)
                .u32(report.clients)
                .u64(report.log_lines_dropped)
                .done(),
        }
    }

    /// Takes a frame apart.
    ///
    /// # Errors
    /// [`Malformed`] for anything that [`Reply::encode`] does not make.
    pub fn decode(frame: &'a [u8]) -> Result<Reply<'a>, Malformed> {
        let mut fields = Decoder::new(frame);
        let reply = match fields.u8()? {
            WELCOME => Reply::Welcome { version: fields.u16()?, pid: fields.i32()? },
            STARTED => Reply::Started { session: fields.u32()?, pid: fields.i32()? },
            STDOUT => return Ok(Reply::Stdout(fields.rest())),
            STDERR => return Ok(Reply::Stderr(fields.rest())),
            EXITED => Reply::Exited(Exited::decode(&mut fields)?),
            ERROR => return Ok(Reply::Error { exit_code: fields.i32()?, text: text(fields)? }),
            DROPPED => return Ok(Reply::Dropped { reason: text(fields)? }),
            STDIN_ACK => Reply::StdinAck { bytes: fields.u32()? },
            DONE => Reply::Done,
            CLEANUP_GRANTED => Reply::CleanupGranted,
            STATUS_REPORT => Reply::StatusReport(StatusReport {
                pid: Some(fields.i32()?).filter(|pid| *pid > 0),
                sessions: fields.u32()?,
                clients: fields.u32()?,
                log_lines_dropped: fields.u64()?,
            }),
            _ => return Err(Malformed("unknown reply")),
        };
        fields.end(reply)
    }
}

impl Exited {
    const HAS_CODE: u8 = 1;
    const OOM_KILLED: u8 = 2;

    fn encode(&self) -> Vec<u8> {
        let code = if self.exit_code.is_some() { Exited::HAS_CODE } else { 0 };
        let oom = if self.oom_killed { Exited::OOM_KILLED } else { 0 };
        Encoder::new(EXITED)
            .u32(self.session)
            .u8(code | oom)
            .i32(self.exit_code.unwrap_or(0))
            .i32(self.signal.unwrap_or(0))
            .i64(self.finished_at.seconds)
            .u32(self.finished_at.nanoseconds)
            .done()
    }

    fn decode(fields: &mut Decoder<'_>) -> Result<Exited, Malformed> {
        let session = fields.u32()?;
        let flags = fields.u8()?;
        let (code, signal) = (fields.i32()?, fields.i32()?);
        let (seconds, nanoseconds) = (fields.i64()?, fields.u32()?);
        if nanoseconds >= 1_000_000_000 {
            return Err(Malformed("nanoseconds of a second or more"));
        }
        Ok(Exited {
            session,
            exit_code: (flags & Exited::HAS_CODE != 0).then_some(code),
            signal: (signal != 0).then_some(signal),
            oom_killed: flags & Exited::OOM_KILLED != 0,
            finished_at: Timestamp { seconds, nanoseconds },
        })
    }
}

fn text(fields: Decoder<'_>) -> Result<&str, Malformed> {
    str::from_utf8(fields.rest()).map_err(|_| Malformed("text that is not UTF-8"))
}

/// Path of the socket in a container's folder below the state folder.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET_FILE)
}

/// Name of the socket in `<state>/<id>/`.
pub const SOCKET_FILE: &str = "supervisor.sock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_comes_back() {
        let all = AttachFlags { stdin: true, stdout: true, stderr: true, foreground: true };
        for request in [
            Request::Hello { version: 3 },
            Request::Attach { session: 1, flags: AttachFlags { stdout: true, ..AttachFlags::default() } },
            Request::Stdin(b"abc"),
            Request::StdinClose,
            Request::Resize { rows: 24, columns: 80 },
            Request::Signal { session: 2, signal: 64 },
            Request::Exec { file: Path::new("/x y"), attach: Some(all) },
            Request::Exec { file: Path::new("e"), attach: None },
            Request::Exec { file: Path::new("e"), attach: Some(AttachFlags::default()) },
            Request::Wait { session: 0 },
            Request::Status,
            Request::FindNames,
            Request::CleanupMine,
            Request::CleanupBegin,
            Request::CleanupDone,
        ] {
            let frame = request.encode();
            assert_eq!(Request::decode(&frame), Ok(request));
            assert!(Reply::decode(&frame).is_err());
        }
    }

    #[test]
    fn every_reply_comes_back() {
        let exited = Exited {
            session: 0,
            exit_code: Some(137),
            signal: Some(9),
            oom_killed: true,
            finished_at: Timestamp { seconds: 5, nanoseconds: 6 },
        };
        let report = StatusReport { pid: Some(3), sessions: 1, clients: 2, log_lines_dropped: 9 };
        for reply in [
            Reply::Welcome { version: 1, pid: 77 },
            Reply::Started { session: 1, pid: 78 },
            Reply::Stdout(b"o"),
            Reply::Stderr(b""),
            Reply::Exited(exited),
            Reply::Exited(Exited { exit_code: None, signal: None, oom_killed: false, ..exited }),
            Reply::Error { exit_code: 127, text: "not found: é" },
            Reply::Dropped { reason: "slow" },
            Reply::StdinAck { bytes: 4 },
            Reply::Done,
            Reply::CleanupGranted,
            Reply::StatusReport(report),
            Reply::StatusReport(StatusReport { pid: None, ..report }),
        ] {
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn short_long_and_unknown_frames_are_refused() {
        for frame in [&[][..], &[0x01], &[0x01, 1], &[0x01, 1, 0, 0], &[0x02, 0, 0, 0, 0, 0x10], &[0x07, 0], &[0x70]] {
            assert!(Request::decode(frame).is_err(), "{frame:?}");
        }
    }
}
