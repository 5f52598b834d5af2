//! The supervisor process: an event loop over one container's sessions, clients and launches.
//!
//! ```text
//! Launching ── Launch ──► Running ── session 0 ended ──► Ending ── everything told ──► exec hull-worker cleanup
//!     └─────── LaunchFailed, or the worker died ──────────►┘            └─ a client has cleaned up ──► exit
//! ```
//!
//! The story is in [`Supervisor::turn`]; each kind of event has its file: `launches`, `sessions` (output, input, end),
//! `requests` (clients), `ending`, `adopt`. Nothing blocks but epoll. No failure of a log, a client or a
//! worker ends the loop: the first one is noted and stands in the exit record.

mod adopt;
mod connection;
mod ending;
mod launches;
mod names;
mod poller;
mod process;
mod requests;
mod session;
mod sessions;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use hull_sys::signals::SignalFd;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::time::ClockId;

use self::connection::Connection;
use self::ending::{Ending, Outcome};
use self::launches::PendingLaunch;
use self::names::Names;
use self::poller::{Poller, Readiness, Source};
use self::session::Session;
use crate::protocol::{AttachFlags, Exited, MAX_FRAME};
use crate::record::LiveState;
use crate::start::{CommandLine, SupervisorArgs};

/// Most clients at a time; further ones wait in the socket's queue.
const MAX_CONNECTIONS: usize = 256;
/// After so many seconds without any event, memory that was only needed for the last burst is given back.
const QUIET_SECONDS: i64 = 1;

/// The program `hull-supervisor`: `args` are the arguments after argv\[0\].
///
/// See [`crate::start`] for the arguments and the inherited descriptors.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let command_line = match CommandLine::parse(args) {
        Ok(command_line) => command_line,
        Err(problem) => {
            eprintln!("hull-supervisor: {problem}");
            return ExitCode::from(125);
        }
    };
    match process::become_supervisor(&command_line).and_then(|inherited| supervise(command_line, inherited)) {
        Ok(never) => never,
        // Standard error is /dev/null by now: the free lock tells that nobody supervises.
        Err(_) => ExitCode::from(125),
    }
}

fn supervise(command_line: CommandLine, inherited: process::Inherited) -> io::Result<ExitCode> {
    let mut supervisor = Supervisor::new(command_line.args, inherited.lock, inherited.listener, inherited.oom_score)?;
    if let Some(client) = inherited.client {
        let all = AttachFlags { stdin: true, stdout: true, stderr: true, foreground: true };
        supervisor.add_first_client(client, all);
    }
    match inherited.launch {
        Some(launch) => supervisor.expect_first_launch(launch),
        None => supervisor.adopt(),
    }
    let outcome = loop {
        if let Some(outcome) = supervisor.outcome() {
            break outcome;
        }
        supervisor.turn()?;
    };
    Ok(match outcome {
        Outcome::Quit => ExitCode::SUCCESS,
        Outcome::CleanUp => supervisor.exec_cleanup(),
    })
}

#[derive(Debug)]
struct Supervisor {
    args: SupervisorArgs,
    /// The container's lock; `None` once a worker that cleans up holds it.
    lock: Option<OwnedFd>,
    listener: OwnedFd,
    listening: bool,
    oom_score: process::OomScore,
    poller: Poller,
    children: SignalFd,
    launches: Vec<PendingLaunch>,
    sessions: Vec<Session>,
    connections: Vec<Connection>,
    /// How sessions ended: the first session and the latest others.
    finished: Vec<Exited>,
    /// Children that were reaped before their launch message came: pid and wait status.
    unclaimed: Vec<(i32, i32)>,
    next_session: u32,
    next_connection: u32,
    live: Option<LiveState>,
    oom_events: Option<OwnedFd>,
    names: Option<Names>,
    ending: Option<Ending>,
    /// A client has cleaned up, or a worker was started for it.
    cleanup_settled: bool,
    /// First thing that went wrong on the way; part of the exit record.
    trouble: Option<String>,
    /// One frame; empty while nothing happens.
    buffer: Vec<u8>,
    ready: Vec<Readiness>,
    /// Something has happened since memory was given back last.
    stirred: bool,
}

impl Supervisor {
    fn new(
        args: SupervisorArgs,
        lock: OwnedFd,
        listener: OwnedFd,
        oom_score: process::OomScore,
    ) -> io::Result<Supervisor> {
        let poller = Poller::new()?;
        let children = process::watch_children()?;
        poller.watch(&children, Source::Children)?;
        poller.watch(&listener, Source::Listener)?;
        Ok(Supervisor {
            args,
            lock: Some(lock),
            listener,
            listening: true,
            oom_score,
            poller,
            children,
            launches: Vec::new(),
            sessions: Vec::new(),
            connections: Vec::new(),
            finished: Vec::new(),
            unclaimed: Vec::new(),
            next_session: 1,
            next_connection: 0,
            live: None,
            oom_events: None,
            names: None,
            ending: None,
            cleanup_settled: false,
            trouble: None,
            buffer: Vec::new(),
            ready: Vec::new(),
            stirred: true,
        })
    }

    /// One turn of the loop: wait, take what is ready, tidy up.
    fn turn(&mut self) -> io::Result<()> {
        self.adjust_flow();
        let mut ready = std::mem::take(&mut self.ready);
        self.poller.wait(&mut ready, self.timeout())?;
        if ready.is_empty() {
            self.settle();
        }
        for readiness in ready.drain(..) {
            self.stirred = true;
            self.take_event(readiness);
        }
        self.ready = ready;
        self.remove_connections();
        self.renew_names();
        Ok(())
    }

    fn take_event(&mut self, ready: Readiness) {
        match ready.source {
            Source::Listener => self.accept(),
            Source::Children => self.reap_children(),
            Source::Launch(session) => self.take_launch(session),
            Source::Process(session) => self.take_end(session),
            Source::Output(session, stream) => self.take_output(session, stream),
            Source::Input(session) => self.write_input(session),
            Source::Names => self.take_names(),
            Source::Connection(number) => self.take_connection_event(number, ready),
        }
    }

    /// How long nothing may happen before [`Supervisor::settle`] or a deadline is due; `None` is for ever.
    fn timeout(&self) -> Option<Timespec> {
        let quiet = (self.stirred || !self.listening).then_some(QUIET_SECONDS);
        let deadline = self.ending.as_ref().and_then(Ending::seconds_left);
        let seconds = [quiet, deadline, self.names_due()].into_iter().flatten().min()?;
        Some(Timespec { tv_sec: seconds, tv_nsec: 0 })
    }

    /// Nothing happened for a while: listen again, and give back memory.
    fn settle(&mut self) {
        self.listen_again();
        if std::mem::take(&mut self.stirred) {
            self.buffer = Vec::new();
            self.ready = Vec::new();
            for session in &mut self.sessions {
                if let Some(log) = &mut session.log {
                    log.release();
                }
            }
            hull_sys::memory::trim();
        }
    }

    /// Reads outputs exactly while no foreground client lags behind, and watches for room where something is kept.
    fn adjust_flow(&mut self) {
        let mut results = Vec::new();
        for session in &mut self.sessions {
            let lags = |connection: &Connection| {
                connection.is_attached_to(session.number) && connection.is_foreground() && connection.has_backlog()
            };
            let wanted = !self.connections.iter().any(lags);
            results.push(session.watch_outputs(wanted, &self.poller));
        }
        for connection in &mut self.connections {
            let wanted = connection.has_backlog();
            if wanted != connection.room_watched {
                let source = Source::Connection(connection.number);
                results.push(self.poller.rewatch(&connection.socket, source, wanted));
                connection.room_watched = wanted;
            }
        }
        for result in results {
            self.note("watch a descriptor", result);
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => {
                self.add_connection(socket);
                if self.connections.len() >= MAX_CONNECTIONS {
                    self.stop_listening();
                }
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            // Out of descriptors or memory: the client waits in the queue until something is freed.
            Err(_) => self.stop_listening(),
        }
    }

    fn stop_listening(&mut self) {
        if std::mem::replace(&mut self.listening, false) {
            let result = self.poller.forget(&self.listener);
            self.note("stop listening", result);
        }
    }

    fn listen_again(&mut self) {
        if !self.listening && self.connections.len() < MAX_CONNECTIONS {
            let result = self.poller.watch(&self.listener, Source::Listener);
            self.listening = result.is_ok();
            self.note("listen", result);
        }
    }

    /// Keeps the first failure for the exit record.
    fn note(&mut self, what: &str, result: io::Result<()>) {
        if let Err(error) = result {
            self.trouble.get_or_insert_with(|| format!("the supervisor could not {what}: {error}"));
        }
    }

    /// The frame buffer, to be given back to `self.buffer`.
    fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(MAX_FRAME, 0);
        buffer
    }

    fn session(&mut self, number: u32) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.number == number)
    }

    fn connection(&mut self, number: u32) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.number == number)
    }
}

/// Seconds of the clock that never jumps.
fn monotonic_seconds() -> i64 {
    rustix::time::clock_gettime(ClockId::Monotonic).tv_sec
}
