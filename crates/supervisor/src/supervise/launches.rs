//! Sessions on their way: the first one from the launch channel that we were started with, others from `hull exec`.
//!
//! Between the start of a worker and its message everything that clients want of the session is kept: signals here,
//! input and sizes with the client. A process may even have ended and been reaped by then; `unclaimed` keeps its
//! status. The worker is answered when the session is on record, so that who started it can rely on `state.json`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::Supervisor;
use super::connection::{Attachment, Early};
use super::poller::Source;
use super::process::spawn_self;
use super::session::Session;
use crate::launch::{Launch, LaunchFailed, LaunchMessage, LaunchReceiver};
use crate::log::LogOptions;
use crate::protocol::{AttachFlags, Reply};
use crate::record::{ExitRecord, LiveState, LiveStatus, RECORD_VERSION, boot_id};
use crate::start::{LAUNCH_FD, WORKER_NAME, channel, vectors};

/// A session whose worker has not reported yet.
#[derive(Debug)]
pub(super) struct PendingLaunch {
    pub(super) session: u32,
    receiver: LaunchReceiver,
    /// The client that asked for it.
    requester: Option<u32>,
    /// To be delivered as soon as there is a process.
    pub(super) signals: Vec<i32>,
    /// A client that was to send stdin has left already.
    pub(super) input_left: bool,
}

impl Supervisor {
    pub(super) fn expect_first_launch(&mut self, channel: OwnedFd) {
        self.expect_launch(0, channel, None);
    }

    fn expect_launch(&mut self, session: u32, channel: OwnedFd, requester: Option<u32>) {
        let receiver = LaunchReceiver::new(channel);
        let watched = self.poller.watch(&receiver, Source::Launch(session));
        let pending = PendingLaunch { session, receiver, requester, signals: Vec::new(), input_left: false };
        match watched {
            Ok(()) => self.launches.push(pending),
            Err(error) => self.launch_failed(&pending, &failure(format!("cannot watch the launch channel: {error}"))),
        }
    }

    /// A client wants another process in the container: a worker of this binary sets it up.
    pub(super) fn exec(&mut self, connection: u32, file: &Path, attach: Option<AttachFlags>) -> io::Result<()> {
        let session = self.next_session;
        let number = session.to_string();
        let arguments = vectors(&[
            WORKER_NAME.as_ref(),
            "exec".as_ref(),
            self.args.root.as_os_str(),
            self.args.state.as_os_str(),
            self.args.id.as_ref(),
            file.as_os_str(),
            number.as_ref(),
        ])?;
        let (theirs, ours) = channel().map_err(io::Error::other)?;
        spawn_self(&arguments, &[(theirs.as_fd(), LAUNCH_FD)], &self.oom_score)?;
        self.next_session += 1;
        if let Some(connection) = self.connection(connection) {
            connection.attached = attach.map(|flags| Attachment { session, flags });
        }
        self.expect_launch(session, ours, Some(connection));
        Ok(())
    }

    /// The worker of a session has reported, or ended.
    pub(super) fn take_launch(&mut self, session: u32) {
        let Some(at) = self.launches.iter().position(|pending| pending.session == session) else { return };
        let pending = self.launches.remove(at);
        let result = match pending.receiver.receive() {
            Ok(Some(LaunchMessage::Launched(launch))) => self.launched(launch, &pending),
            Ok(Some(LaunchMessage::Failed(failed))) => Err(failed),
            Ok(None) => Err(failure("the process that was starting it ended unexpectedly".into())),
            Err(error) => Err(failure(error.to_string())),
        };
        if let Err(failed) = result {
            self.launch_failed(&pending, &failed);
        }
        if self.launches.is_empty() {
            self.unclaimed = Vec::new();
        }
    }

    /// Takes a process over. On failure it is killed: a process that is not on record must not run.
    fn launched(&mut self, launch: Launch, pending: &PendingLaunch) -> Result<(), LaunchFailed> {
        let pid = launch.pid;
        let taken = if launch.session == pending.session {
            self.take_over(launch, pending)
        } else {
            Err(io::Error::other("the worker reported another session"))
        };
        taken.map_err(|error| {
            if let Some(pid) = Pid::from_raw(pid) {
                // A failure means that it has ended already.
                let _ended = kill_process(pid, Signal::KILL);
            }
            failure(format!("the supervisor could not take the process over: {error}"))
        })
    }

    fn take_over(&mut self, mut launch: Launch, pending: &PendingLaunch) -> io::Result<()> {
        let number = launch.session;
        let oom_events = launch.oom_events.take();
        let names =
            launch.names.take().map(|held| Ok::<_, io::Error>((launch.pidfd.try_clone()?, held))).transpose()?;
        let (auto_remove, log, tty) = (launch.auto_remove, launch.log.clone(), launch.stdio.is_terminal());
        let mut session = Session::new(launch, &self.poller)?;
        session.wait_status = self.claim(session.pid);
        if number == 0 {
            self.record_launch(&session, LaunchRecord { auto_remove, log, tty, oom_events })?;
        }
        if let Some((process, held)) = names {
            self.hold_names(process, held);
        }
        pending.receiver.acknowledge();
        for signal in &pending.signals {
            // It fails when the process has ended already.
            let _ended = hull_sys::signals::send_to_pidfd(session.pidfd.as_fd(), *signal);
        }
        if pending.input_left {
            session.client_closed_input();
        }
        self.greet_attached(&mut session, pending.requester);
        self.sessions.push(session);
        self.write_input(number);
        Ok(())
    }

    /// Tells who waits for the start, and hands over what clients have sent for the session so far.
    fn greet_attached(&mut self, session: &mut Session, requester: Option<u32>) {
        for connection in &mut self.connections {
            let attached = connection.is_attached_to(session.number);
            if attached || requester == Some(connection.number) {
                connection.reply(&Reply::Started { session: session.number, pid: session.pid });
            }
            if let (true, Some(early)) = (attached, connection.early.take()) {
                let Early { input, input_closed, size } = *early;
                if let Some((rows, columns)) = size {
                    session.resize(rows, columns);
                }
                if !input.is_empty() {
                    session.input.push(connection.number, &input);
                }
                if input_closed {
                    session.client_closed_input();
                }
            }
        }
    }

    /// Status of a child that ended before it was launched.
    fn claim(&mut self, pid: i32) -> Option<i32> {
        let at = self.unclaimed.iter().position(|(unclaimed, _)| *unclaimed == pid)?;
        Some(self.unclaimed.remove(at).1)
    }

    fn record_launch(&mut self, session: &Session, record: LaunchRecord) -> io::Result<()> {
        match fs::remove_file(self.args.container_dir().join(ExitRecord::FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let live = LiveState {
            version: RECORD_VERSION,
            status: LiveStatus::Running,
            pid: session.pid,
            pid_start_time: session.start_time,
            boot_id: boot_id()?,
            started_at: session.started_at,
            tty: record.tty,
            auto_remove: record.auto_remove,
            supervisor_pid: rustix::process::getpid().as_raw_nonzero().get(),
            log: record.log,
            oom_events: record.oom_events.as_ref().and_then(path_of),
        };
        live.write(&self.args.state_dir()).map_err(io::Error::other)?;
        self.live = Some(live);
        self.oom_events = record.oom_events;
        Ok(())
    }

    fn launch_failed(&mut self, pending: &PendingLaunch, failed: &LaunchFailed) {
        let LaunchFailed { exit_code, message } = failed;
        if pending.session == 0 {
            self.begin_failed_end(failed);
        }
        for connection in &mut self.connections {
            let waits = connection.waits_for.contains(&pending.session);
            if waits || connection.is_attached_to(pending.session) || pending.requester == Some(connection.number) {
                connection.waits_for.retain(|session| *session != pending.session);
                connection.reply(&Reply::Error { exit_code: *exit_code, text: message });
            }
        }
    }

    /// Takes the status of every child that has ended. Statuses of sessions wait for their pidfd's event, those of
    /// processes that may still be announced wait in `unclaimed`, all others (workers, orphans of the container) are
    /// of no interest.
    pub(super) fn reap_children(&mut self) {
        while let Ok(Some(_)) = self.children.take() {}
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let session = self.sessions.iter_mut().find(|session| session.pid == pid && session.wait_status.is_none());
            match session {
                Some(session) => session.wait_status = Some(status.as_raw()),
                None if !self.launches.is_empty() => self.unclaimed.push((pid, status.as_raw())),
                None => {}
            }
        }
    }
}

/// What is recorded about session 0 besides the process.
struct LaunchRecord {
    auto_remove: bool,
    log: Option<LogOptions>,
    tty: bool,
    oom_events: Option<OwnedFd>,
}

fn failure(message: String) -> LaunchFailed {
    LaunchFailed { exit_code: 125, message }
}

/// The path of an open file, for the one who may have to open it again.
fn path_of(fd: &OwnedFd) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
}
