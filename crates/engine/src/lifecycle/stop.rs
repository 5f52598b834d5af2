//! Ending a container and waiting for its end: stop, kill, wait.
//!
//! Signals go through a pidfd that is checked against the state file after it was opened, so that none reaches a
//! process that merely inherited the number; this works with and without a supervisor. The end is reached when the
//! exit record is there, not when the process is gone: whoever waits sees the exit code.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hull_supervisor::client::{Client, ClientError};
use hull_supervisor::record::LiveState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::state::{Action, ContainerState, ExitStatus, Verdict};
use crate::record::ContainerRecord;
use crate::request::NamespaceChoice;
use crate::row::ContainerRow;
use crate::signal::Signal;
use crate::spec::{self, Effective};
use crate::status::{exit_status, timestamp};

/// Seconds between the stop signal and SIGKILL when nobody says otherwise, as docker's.
pub const DEFAULT_STOP_TIMEOUT_SECONDS: i64 = 10;

/// How long a killed container may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const END_POLL: Duration = Duration::from_millis(2);

/// How to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// Seconds to wait before SIGKILL; the container's own or 10 when absent, -1 waits for ever.
    pub timeout_seconds: Option<i64>,
    /// Signal instead of the container's stop signal.
    pub signal: Option<Signal>,
}

impl Engine {
    /// Asks a container to stop and kills it when it does not in time. One that does not run is stopped already.
    ///
    /// # Errors
    /// [`EngineError::Refused`]; [`EngineError::StillRunning`] when even SIGKILL did not end it.
    pub fn stop(&self, name: &str, options: &StopOptions) -> Result<(), EngineError> {
        let row = self.row(name)?;
        let state = self.state_of(&row)?;
        match (self.accept(name, &state, Action::Stop)?, state.pid()) {
            (Verdict::Proceed, Some(_)) => self.stop_running(&row, options),
            _ => Ok(()),
        }
    }

    pub(crate) fn stop_running(&self, row: &ContainerRow, options: &StopOptions) -> Result<(), EngineError> {
        let record = self.record(&row.id)?;
        let effective = Effective::merge(&record.request, &record.image_config);
        let signal = options.signal.map_or_else(|| spec::stop_signal(&effective), Ok)?;
        let seconds =
            options.timeout_seconds.or(record.request.stop_timeout_seconds).unwrap_or(DEFAULT_STOP_TIMEOUT_SECONDS);
        let Some(process) = self.process(&row.id)? else { return self.await_end(row) };
        send(&process, signal, row)?;
        self.cgroup(&row.id)?.thaw().or_else(|error| self.ignore_if_ended(&process, error))?;
        let ended = match u64::try_from(seconds) {
            Ok(seconds) => wait_for_exit(&process, Some(Duration::from_secs(seconds)))?,
            Err(_) => wait_for_exit(&process, None)?,
        };
        if !ended {
            self.kill_running(row, &process)?;
        }
        self.kill_companions(&record)?;
        self.await_end(row)
    }

    /// Sends a signal to a container's first process; with SIGKILL it returns when the container has ended.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when it does not run.
    pub fn kill(&self, name: &str, signal: Signal) -> Result<(), EngineError> {
        let row = self.row(name)?;
        let state = self.state_of(&row)?;
        self.accept(name, &state, Action::Kill)?;
        let Some(process) = self.process(&row.id)? else { return self.await_end(&row) };
        if signal != Signal::KILL {
            return send(&process, signal, &row);
        }
        self.kill_running(&row, &process)?;
        self.kill_companions(&self.record(&row.id)?)?;
        self.await_end(&row)
    }

    /// SIGKILL, also to a frozen container, and the end of the process.
    pub(crate) fn kill_running(&self, row: &ContainerRow, process: &OwnedFd) -> Result<(), EngineError> {
        send(process, Signal::KILL, row)?;
        // On cgroup v1 a frozen process dies only when it is thawed.
        self.cgroup(&row.id)?.thaw().or_else(|error| self.ignore_if_ended(process, error))?;
        if wait_for_exit(process, Some(KILL_TIMEOUT))? {
            return Ok(());
        }
        Err(EngineError::StillRunning { name: row.name.clone(), seconds: KILL_TIMEOUT.as_secs() })
    }

    /// Without a pid namespace of its own a container's other processes outlive its first one: they are killed here.
    fn kill_companions(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        if matches!(record.request.pid, NamespaceChoice::Host | NamespaceChoice::Container(_)) {
            self.cgroup(&record.id)?.kill_all()?;
        }
        Ok(())
    }

    fn ignore_if_ended(&self, process: &OwnedFd, error: hull_kernel::cgroups::CgroupError) -> Result<(), EngineError> {
        if wait_for_exit(process, Some(Duration::ZERO))? { Ok(()) } else { Err(error.into()) }
    }

    /// Waits until the container does not run any more and says how it ended; at once when it does not run. A container
    /// that never ran, or one that was removed meanwhile, ended with 0 as far as anybody knows.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`].
    pub fn wait(&self, name: &str) -> Result<ExitStatus, EngineError> {
        let mut row = self.row(name)?;
        loop {
            match self.state_of(&row)? {
                ContainerState::Running { .. } | ContainerState::Paused { .. } => {}
                ContainerState::Exited { status, .. } => return Ok(status),
                _ => return Ok(ExitStatus { code: Some(0), ..ExitStatus::default() }),
            }
            let answer = Client::connect(&self.state_dir(&row.id)).and_then(|mut client| client.wait(0));
            match answer {
                Ok(exited) => {
                    return Ok(ExitStatus {
                        code: exited.exit_code,
                        oom_killed: exited.oom_killed,
                        error: None,
                        finished_at: Some(timestamp(exited.finished_at)),
                    });
                }
                // It ended just now, or its supervisor was killed and the next look finds it another.
                Err(ClientError::NoSupervisor { .. } | ClientError::Ended) => std::thread::sleep(END_POLL),
                Err(source) => return Err(EngineError::Client { id: row.id, source }),
            }
            row = match self.row(row.id.as_str()) {
                Ok(row) => row,
                Err(EngineError::NoSuchContainer { .. }) => return Ok(self.last_words(&row.id)),
                Err(error) => return Err(error),
            };
        }
    }

    /// What the exit record of a container that is being removed still says.
    fn last_words(&self, id: &ContainerId) -> ExitStatus {
        match self.exit_record(id) {
            Ok(Some(exit)) => exit_status(&exit),
            _ => ExitStatus::default(),
        }
    }

    /// Waits for the record of an end that has come.
    pub(crate) fn await_end(&self, row: &ContainerRow) -> Result<(), EngineError> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            match self.row(row.id.as_str()) {
                Ok(now) if self.state_of(&now)?.is_running() => {}
                Ok(_) | Err(EngineError::NoSuchContainer { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
            if Instant::now() > deadline {
                return Err(EngineError::StillRunning { name: row.name.clone(), seconds: KILL_TIMEOUT.as_secs() });
            }
            std::thread::sleep(END_POLL);
        }
    }

    /// A descriptor of the container's first process; `None` when it has ended.
    pub(crate) fn process(&self, id: &ContainerId) -> Result<Option<OwnedFd>, EngineError> {
        let state_dir = self.state_dir(id);
        let Some(live) = LiveState::read(&state_dir)?.filter(LiveState::is_running) else { return Ok(None) };
        let failed = |errno: Errno| EngineError::Process { id: id.clone(), source: errno.into() };
        let Some(pid) = Pid::from_raw(live.pid) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        // If the recorded process is alive after the opening, the descriptor is its.
        Ok(live.is_running().then_some(pidfd))
    }

    pub(crate) fn record(&self, id: &ContainerId) -> Result<ContainerRecord, EngineError> {
        Ok(ContainerRecord::read(&self.roots().container(id.as_str()))?)
    }
}

/// Sends a signal; a process that has ended has got what it needed.
fn send(process: &OwnedFd, signal: Signal, row: &ContainerRow) -> Result<(), EngineError> {
    match hull_sys::signals::send_to_pidfd(process.as_fd(), signal.number()) {
        Err(error) if error.raw_os_error() != Some(Errno::SRCH.raw_os_error()) => {
            Err(EngineError::Process { id: row.id.clone(), source: error })
        }
        _ => Ok(()),
    }
}

/// Waits for the end of a process, at most so long; says whether it has ended.
fn wait_for_exit(process: &OwnedFd, timeout: Option<Duration>) -> Result<bool, EngineError> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match poll(&mut [PollFd::new(process, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(EngineError::Wait(errno.into())),
        }
    }
}
