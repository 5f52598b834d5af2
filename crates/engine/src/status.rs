//! Where a container is in its life, found out from what is there: row, record, state file, process, lock, freezer.
//!
//! ```text
//! row leased by a living command                      Creating, or Removing once its snapshot is recorded
//! state.json and its process lives                    Running, or Paused when its cgroup is frozen
//!   ... and the lock is free                          its supervisor died: a new one adopts it
//! exit.json                                           Exited; Created when the process never started
//! state.json, its process is gone, no exit.json       lock held: the end is being written, wait for it
//!                                                     lock free: nobody saw the end, it is recorded as unknown
//! neither, but the container was started once         Exited, unknown: the machine was booted since
//! else                                                Created
//! ```
//!
//! The lock is tried only where its holder matters, so that looking at containers never disturbs one that starts.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hull_kernel::cgroups::Cgroup;
use hull_supervisor::record::{ExitRecord, LiveState};
use hull_supervisor::start::{self, StartError, SupervisorArgs};
use jiff::Timestamp;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::state::{ContainerState, ExitStatus};
use crate::row::ContainerRow;

/// How long a supervisor may take from the end of the process to the exit record.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
const RECORD_POLL: Duration = Duration::from_millis(2);

/// The lock of a state folder; none when somebody has it, or is removing the folder.
pub(crate) fn free_lock(state_dir: &Path) -> Result<Option<OwnedFd>, EngineError> {
    match start::lock(state_dir) {
        Err(StartError::Lock { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        result => Ok(result?),
    }
}

impl Engine {
    /// Where a container is in its life. A container whose supervisor died gets a new one on the way.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`]; files that cannot be read.
    pub fn state(&self, id: &ContainerId) -> Result<ContainerState, EngineError> {
        self.state_of(&self.row(id.as_str())?)
    }

    pub(crate) fn state_of(&self, row: &ContainerRow) -> Result<ContainerState, EngineError> {
        let folder = self.roots().container(row.id.as_str());
        if row.lease.as_ref().is_some_and(hull_store::Lease::is_alive) {
            let is_whole = row.snapshot_id.is_some();
            return Ok(if is_whole { ContainerState::Removing } else { ContainerState::Creating });
        }
        let deadline = Instant::now() + RECORD_TIMEOUT;
        loop {
            if let Some(state) = self.observe(row, &folder)? {
                return Ok(state);
            }
            if Instant::now() > deadline {
                return Err(EngineError::NoExitRecord { id: row.id.clone(), seconds: RECORD_TIMEOUT.as_secs() });
            }
            std::thread::sleep(RECORD_POLL);
        }
    }

    /// One look; `None` while a supervisor is between the end of the process and its record.
    fn observe(&self, row: &ContainerRow, folder: &Path) -> Result<Option<ContainerState>, EngineError> {
        let state_dir = self.roots().runtime_state(row.id.as_str());
        let live = LiveState::read(&state_dir)?;
        if let Some(live) = live.as_ref().filter(|live| live.is_running()) {
            self.adopt_orphan(&row.id, &state_dir)?;
            return self.running(&row.id, live).map(Some);
        }
        if let Some(exit) = ExitRecord::read(folder)? {
            return Ok(Some(exited(&exit)));
        }
        match live {
            Some(live) => self.end_unseen(&state_dir, folder, &live),
            None if was_started(folder) && !state_dir.exists() => {
                let status = ExitStatus::default();
                Ok(Some(ContainerState::Exited { status, started_at: None }))
            }
            None => Ok(Some(ContainerState::Created)),
        }
    }

    fn running(&self, id: &ContainerId, live: &LiveState) -> Result<ContainerState, EngineError> {
        let (pid, started_at) = (live.pid, timestamp(live.started_at));
        // A cgroup that vanishes meanwhile belongs to a container that has ended meanwhile: not paused.
        let frozen = self.cgroup(id)?.is_frozen().unwrap_or(false);
        Ok(if frozen {
            ContainerState::Paused { pid, started_at }
        } else {
            ContainerState::Running { pid, started_at }
        })
    }

    /// Starts a new supervisor for a running container that has none.
    fn adopt_orphan(&self, id: &ContainerId, state_dir: &Path) -> Result<(), EngineError> {
        let Some(lock) = free_lock(state_dir)? else { return Ok(()) };
        // It may have ended, and its supervisor with it, just before the lock was taken.
        if LiveState::read(state_dir)?.is_some_and(|live| live.is_running()) {
            tracing::info!(%id, "the supervisor is gone, starting another");
            start::spawn_adopter(&self.supervisor_args(id), lock)?;
        }
        Ok(())
    }

    /// Records the unknown end of a container whose supervisor died before it; `None` when one is alive.
    fn end_unseen(
        &self,
        state_dir: &Path,
        folder: &Path,
        live: &LiveState,
    ) -> Result<Option<ContainerState>, EngineError> {
        let Some(_lock) = free_lock(state_dir)? else { return Ok(None) };
        Ok(Some(exited(&self.exit_of_unseen(folder, live)?)))
    }

    /// The record of an end, made if nobody has written one. The caller holds the container's lock.
    pub(crate) fn exit_of_unseen(&self, folder: &Path, live: &LiveState) -> Result<ExitRecord, EngineError> {
        if let Some(exit) = ExitRecord::read(folder)? {
            return Ok(exit);
        }
        let unknown = ExitRecord::unknown(Some(live.started_at), None);
        unknown.write(folder)?;
        Ok(unknown)
    }

    pub(crate) fn supervisor_args(&self, id: &ContainerId) -> SupervisorArgs {
        SupervisorArgs { id: id.to_string(), root: self.roots().root.clone(), state: self.roots().state.clone() }
    }

    /// The container's cgroup, whether it exists or not.
    pub(crate) fn cgroup(&self, id: &ContainerId) -> Result<Cgroup, EngineError> {
        Ok(self.cgroups()?.cgroup(&self.cgroup_path(id))?)
    }

    /// The exit record of a container's last run, if it has ended.
    pub(crate) fn exit_record(&self, id: &ContainerId) -> Result<Option<ExitRecord>, EngineError> {
        Ok(ExitRecord::read(&self.roots().container(id.as_str()))?)
    }

    /// The socket folder of a running container's supervisor, for clients of it.
    pub fn state_dir(&self, id: &ContainerId) -> PathBuf {
        self.roots().runtime_state(id.as_str())
    }
}

fn exited(exit: &ExitRecord) -> ContainerState {
    match exit.started_at {
        // It never ran; inspect tells why.
        None if exit.error.is_some() => ContainerState::Created,
        started_at => ContainerState::Exited { status: exit_status(exit), started_at: started_at.map(timestamp) },
    }
}

/// An exit record in the engine's words.
pub(crate) fn exit_status(exit: &ExitRecord) -> ExitStatus {
    ExitStatus {
        code: exit.exit_code,
        oom_killed: exit.oom_killed,
        error: exit.error.clone(),
        finished_at: Some(timestamp(exit.finished_at)),
    }
}

/// Every start writes the name files, so their absence means that there was none.
fn was_started(folder: &Path) -> bool {
    folder.join("hostname").exists()
}

/// A supervisor's time as the engine's; out of range is the epoch, which no clock of a running machine shows.
pub(crate) fn timestamp(time: hull_supervisor::Timestamp) -> Timestamp {
    Timestamp::new(time.seconds, time.nanoseconds as i32).unwrap_or_default()
}

/// The engine's time as a supervisor's.
pub(crate) fn supervisor_timestamp(time: Timestamp) -> hull_supervisor::Timestamp {
    let nanoseconds = time.as_nanosecond();
    hull_supervisor::Timestamp {
        seconds: nanoseconds.div_euclid(1_000_000_000) as i64,
        nanoseconds: nanoseconds.rem_euclid(1_000_000_000) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_both_ways() {
        for second in [0, 1_700_000_000, -5] {
            let time = Timestamp::new(second, 0).unwrap() + jiff::SignedDuration::from_nanos(123_456_789);
            assert_eq!(timestamp(supervisor_timestamp(time)), time);
        }
    }
}
