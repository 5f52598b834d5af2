//! The launch channel: how the worker that cloned a process hands it over to the supervisor.
//!
//! ```text
//! worker W                                       supervisor S (parent of the process by CLONE_PARENT)
//!   clone init ... init reports a successful execve
//!   -- Launch {session, pid, ...} + descriptors -->   writes state.json
//!   <------------------------------- Taken ----------  tells clients Started
//!   reports to its own parent, exits
//! or, when anything fails, after having removed what it made:
//!   -- LaunchFailed {exit_code, message} --------->   tells clients Error
//! or dies: the channel ends without a message ---->   the same as a failed launch
//! ```
//!
//! One SOCK_SEQPACKET message, descriptors by SCM_RIGHTS in the order of the bits in `DESCRIPTOR_*`. Send `Launch` only
//! when the new program runs: until then a failure can still be reported with its exit code. Output that the process
//! writes before is not lost, its FIFOs keep it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use hull_network::dns::listener::NameSockets;
use hull_network::dns::registration::Held;
use rustix::net::{RecvFlags, SendFlags};

use crate::log::LogOptions;
use crate::wire::{self, Decoder, Encoder, Malformed};

/// What failed on the launch channel.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The supervisor's end is gone, or the socket failed.
    #[error("cannot send to the supervisor: {0}")]
    Send(#[source] io::Error),
    /// The supervisor was killed, or could not put the process on record (then it has killed it).
    #[error("the supervisor did not take the process over")]
    NotTaken,
    /// The other side's message could not be received.
    #[error("cannot receive on the launch channel: {0}")]
    Receive(#[source] io::Error),
    /// The message is not one of this protocol.
    #[error("bad launch message: {0}")]
    Malformed(#[from] Malformed),
}

/// A process that was started and is now the supervisor's.
#[derive(Debug)]
pub struct Launch {
    /// 0 for the container's first process, else the number that the supervisor gave to the worker.
    pub session: u32,
    /// Process id in the supervisor's pid namespace.
    pub pid: i32,
    /// Process descriptor.
    pub pidfd: OwnedFd,
    /// Its standard streams.
    pub stdio: LaunchStdio,
    /// Close its stdin as soon as one attached client closes its own or leaves (docker's StdinOnce).
    pub stdin_once: bool,
    /// Remove the container when it ends; only recorded.
    pub auto_remove: bool,
    /// Where to log the output; `None` for sessions that are not logged.
    pub log: Option<LogOptions>,
    /// How it asks for names, if Hull's resolver answers.
    pub names: Option<Held>,
    /// `memory.events` or `memory.oom_control` of its cgroup, opened for reading.
    pub oom_events: Option<OwnedFd>,
}

/// The supervisor's ends of the standard streams. The supervisor sets them non-blocking, so the process must have
/// opened its own ends separately (a FIFO opened twice, or the other end of a pipe).
#[derive(Debug)]
pub enum LaunchStdio {
    /// Three streams.
    Streams {
        /// Write end of stdin; `None` when the process reads /dev/null.
        stdin: Option<OwnedFd>,
        /// FIFO opened O_RDWR, or the read end of a pipe.
        stdout: OwnedFd,
        /// As stdout.
        stderr: OwnedFd,
    },
    /// One terminal.
    Terminal {
        /// The pty's master.
        master: OwnedFd,
        /// Clients may type (`-i`).
        stdin: bool,
    },
}

/// A process that could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFailed {
    /// 125, 126 or 127 as docker gives them.
    pub exit_code: i32,
    /// The whole text for the user, without `Error:`.
    pub message: String,
}

/// What arrives on the channel.
#[derive(Debug)]
pub enum LaunchMessage {
    /// Success.
    Launched(Launch),
    /// Failure.
    Failed(LaunchFailed),
}

const LAUNCHED: u8 = 1;
const FAILED: u8 = 2;
/// The supervisor's answer to `LAUNCHED`.
const TAKEN: u8 = 3;

const FLAG_TERMINAL: u8 = 1;
const FLAG_STDIN: u8 = 1 << 1;
const FLAG_STDIN_ONCE: u8 = 1 << 2;
const FLAG_AUTO_REMOVE: u8 = 1 << 3;
const FLAG_LOG: u8 = 1 << 4;
const FLAG_OOM_EVENTS: u8 = 1 << 5;
const FLAG_NAMES: u8 = 1 << 6;

/// Longest launch message in bytes; a failure's text is cut to fit.
const MAX_MESSAGE: usize = 16 * 1024;

/// The worker's end of the channel.
#[derive(Debug)]
pub struct LaunchSender(OwnedFd);

impl LaunchSender {
    /// Takes the worker's end of the socket pair.
    pub fn new(socket: OwnedFd) -> LaunchSender {
        LaunchSender(socket)
    }

    /// Hands the process over, and waits until the supervisor has it on record. From then on it is the supervisor's.
    ///
    /// # Errors
    /// [`LaunchError::Send`] or [`LaunchError::NotTaken`]; the process must then be killed by the caller.
    pub fn launched(self, launch: &Launch) -> Result<(), LaunchError> {
        let (message, descriptors) = encode(launch);
        wire::send_with_descriptors(&self.0, &message, &descriptors, SendFlags::empty()).map_err(LaunchError::Send)?;
        let mut answer = [0];
        match wire::receive(&self.0, &mut answer, RecvFlags::empty()) {
            Ok(1) if answer == [TAKEN] => Ok(()),
            Ok(_) => Err(LaunchError::NotTaken),
            Err(error) => Err(LaunchError::Receive(error)),
        }
    }

    /// Reports that there is no process.
    ///
    /// # Errors
    /// [`LaunchError::Send`].
    pub fn failed(self, failed: &LaunchFailed) -> Result<(), LaunchError> {
        let text = failed.message.as_bytes();
        let text = &text[..text.floor_char_boundary_at(MAX_MESSAGE - 8)];
        let message = Encoder::new(FAILED).i32(failed.exit_code).rest(text);
        wire::send_with_descriptors(&self.0, &message, &[], SendFlags::empty()).map_err(LaunchError::Send)
    }
}

impl LaunchStdio {
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, LaunchStdio::Terminal { .. })
    }
}

impl AsFd for LaunchSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Cuts UTF-8 bytes without splitting a character.
trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, at: usize) -> usize;
}

impl FloorCharBoundary for [u8] {
    fn floor_char_boundary_at(&self, at: usize) -> usize {
        let mut at = at.min(self.len());
        while at > 0 && at < self.len() && self[at] & 0xC0 == 0x80 {
            at -= 1;
        }
        at
    }
}

/// The supervisor's end of the channel.
#[derive(Debug)]
pub struct LaunchReceiver(OwnedFd);

impl LaunchReceiver {
    /// Takes the supervisor's end of the socket pair.
    pub fn new(socket: OwnedFd) -> LaunchReceiver {
        LaunchReceiver(socket)
    }

    /// The one message; `None` when the worker ended without sending it.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn receive(&self) -> Result<Option<LaunchMessage>, LaunchError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let (length, descriptors) =
            wire::receive_with_descriptors(&self.0, &mut buffer).map_err(LaunchError::Receive)?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some(decode(&buffer[..length], descriptors)?))
    }

    /// Tells the worker that the process is on record. A worker that has ended meanwhile need not be told.
    pub(crate) fn acknowledge(&self) {
        let _ended = wire::send(&self.0, &[&[TAKEN]], SendFlags::DONTWAIT);
    }
}

impl AsFd for LaunchReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn encode(launch: &Launch) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
    let mut flags = 0;
    let mut descriptors = vec![launch.pidfd.as_fd()];
    match &launch.stdio {
        LaunchStdio::Streams { stdin, stdout, stderr } => {
            descriptors.extend([stdout.as_fd(), stderr.as_fd()]);
            if let Some(stdin) = stdin {
                flags |= FLAG_STDIN;
                descriptors.push(stdin.as_fd());
            }
        }
        LaunchStdio::Terminal { master, stdin } => {
            flags |= FLAG_TERMINAL | if *stdin { FLAG_STDIN } else { 0 };
            descriptors.push(master.as_fd());
        }
    }
    if let Some(events) = &launch.oom_events {
        flags |= FLAG_OOM_EVENTS;
        descriptors.push(events.as_fd());
    }
    if let Some(Held { sockets: Some(sockets), liveness }) = &launch.names {
        flags |= FLAG_NAMES;
        descriptors.extend([sockets.udp.as_fd(), sockets.tcp.as_fd(), liveness.as_fd()]);
    }
    flags |= if launch.stdin_once { FLAG_STDIN_ONCE } else { 0 };
    flags |= if launch.auto_remove { FLAG_AUTO_REMOVE } else { 0 };
    flags |= if launch.log.is_some() { FLAG_LOG } else { 0 };
    let header = Encoder::new(LAUNCHED).u8(flags).u32(launch.session).i32(launch.pid);
    let message = match &launch.log {
        Some(log) => header.u64(log.max_bytes).u32(log.max_files).rest(log.path.as_os_str().as_bytes()),
        None => header.done(),
    };
    (message, descriptors)
}

fn decode(message: &[u8], descriptors: Vec<OwnedFd>) -> Result<LaunchMessage, Malformed> {
    let mut fields = Decoder::new(message);
    match fields.u8()? {
        LAUNCHED => decode_launched(fields, descriptors).map(LaunchMessage::Launched),
        FAILED => {
            let exit_code = fields.i32()?;
            let message = String::from_utf8_lossy(fields.rest()).into_owned();
            Ok(LaunchMessage::Failed(LaunchFailed { exit_code, message }))
        }
        _ => Err(Malformed("unknown launch message")),
    }
}

fn decode_launched(mut fields: Decoder<'_>, descriptors: Vec<OwnedFd>) -> Result<Launch, Malformed> {
    let mut descriptors = descriptors.into_iter();
    let mut descriptor = || descriptors.next().ok_or(Malformed("a descriptor is missing"));
    let flags = fields.u8()?;
    let has = |flag: u8| flags & flag != 0;
    let session = fields.u32()?;
    let pid = fields.i32()?;
    let pidfd = descriptor()?;
    let stdio = if has(FLAG_TERMINAL) {
        LaunchStdio::Terminal { master: descriptor()?, stdin: has(FLAG_STDIN) }
    } else {
        let (stdout, stderr) = (descriptor()?, descriptor()?);
        let stdin = if has(FLAG_STDIN) { Some(descriptor()?) } else { None };
        LaunchStdio::Streams { stdin, stdout, stderr }
    };
    let oom_events = if has(FLAG_OOM_EVENTS) { Some(descriptor()?) } else { None };
    let names = if has(FLAG_NAMES) {
        let sockets = NameSockets { udp: descriptor()?, tcp: descriptor()? };
        Some(Held { sockets: Some(sockets), liveness: descriptor()? })
    } else {
        None
    };
    let log = if has(FLAG_LOG) {
        let (max_bytes, max_files) = (fields.u64()?, fields.u32()?);
        let path = PathBuf::from(std::ffi::OsString::from_vec(fields.rest().to_vec()));
        Some(LogOptions { path, max_bytes, max_files })
    } else {
        fields.end(None)?
    };
    Ok(Launch {
        session,
        pid,
        pidfd,
        stdio,
        stdin_once: has(FLAG_STDIN_ONCE),
        auto_remove: has(FLAG_AUTO_REMOVE),
        log,
        oom_events,
        names,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    fn channel() -> (LaunchSender, LaunchReceiver) {
        let (worker, supervisor) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (LaunchSender::new(worker), LaunchReceiver::new(supervisor))
    }

    #[test]
    fn a_launch_arrives_with_working_descriptors() {
        let (sender, receiver) = channel();
        let (stdin_read, stdin_write) = io::pipe().unwrap();
        let (stdout_read, stdout_write) = io::pipe().unwrap();
        let (stderr_read, _stderr_write) = io::pipe().unwrap();
        let launch = Launch {
            session: 7,
            pid: 4711,
            pidfd: pidfd_open(getpid(), PidfdFlags::empty()).unwrap(),
            stdio: LaunchStdio::Streams {
                stdin: Some(stdin_write.into()),
                stdout: stdout_read.into(),
                stderr: stderr_read.into(),
            },
            stdin_once: true,
            auto_remove: false,
            log: Some(LogOptions { path: "/x/log".into(), max_bytes: 5, max_files: 2 }),
            oom_events: None,
            names: None,
        };
        let worker = std::thread::spawn(move || sender.launched(&launch));
        let Some(LaunchMessage::Launched(launch)) = receiver.receive().unwrap() else { panic!("no launch") };
        receiver.acknowledge();
        worker.join().unwrap().unwrap();
        assert_eq!((launch.session, launch.pid, launch.stdin_once, launch.auto_remove), (7, 4711, true, false));
        assert_eq!(launch.log, Some(LogOptions { path: "/x/log".into(), max_bytes: 5, max_files: 2 }));
        let LaunchStdio::Streams { stdin: Some(stdin), stdout, .. } = launch.stdio else { panic!("streams") };
        std::fs::File::from(stdin).write_all(b"in").unwrap();
        { stdout_write }.write_all(b"out").unwrap();
        let (mut input, mut output) = (String::new(), String::new());
        { stdin_read }.read_to_string(&mut input).unwrap();
        std::fs::File::from(stdout).read_to_string(&mut output).unwrap();
        assert_eq!((input.as_str(), output.as_str()), ("in", "out"));
        assert!(receiver.receive().unwrap().is_none());
    }

    #[test]
    fn a_supervisor_that_does_not_answer_has_not_taken_the_process() {
        let (sender, receiver) = channel();
        let (reader, _writer) = io::pipe().unwrap();
        let launch = Launch {
            session: 0,
            pid: 1,
            pidfd: pidfd_open(getpid(), PidfdFlags::empty()).unwrap(),
            stdio: LaunchStdio::Terminal { master: reader.into(), stdin: false },
            stdin_once: false,
            auto_remove: true,
            log: None,
            oom_events: None,
            names: None,
        };
        let worker = std::thread::spawn(move || sender.launched(&launch));
        assert!(matches!(receiver.receive(), Ok(Some(LaunchMessage::Launched(_)))));
        drop(receiver);
        assert!(matches!(worker.join().unwrap(), Err(LaunchError::NotTaken)));
    }

    #[test]
    fn a_failure_keeps_its_code_and_text_and_a_long_text_is_cut() {
        let (sender, receiver) = channel();
        let message = "é".repeat(20_000);
        sender.failed(&LaunchFailed { exit_code: 127, message: message.clone() }).unwrap();
        let Some(LaunchMessage::Failed(failed)) = receiver.receive().unwrap() else { panic!("no failure") };
        assert_eq!(failed.exit_code, 127);
        assert!(message.starts_with(&failed.message) && failed.message.len() > 16_000);
    }
}
