//! Removing containers.
//!
//! ```text
//! lease the row, durably    from here on no start is accepted
//! take the lock             waits for a supervisor that is ending; one that has started meanwhile: begin again
//! processes, cgroup, state folder, snapshot
//! delete the row            with it the claims on volumes and, with -v or --rm, the anonymous volumes' rows
//! volumes' folders, container folder
//! ```
//!
//! A kill at any point leaves either a row with a dead lease, for which [`Engine::recover`] does all of this again, or
//! folders without a row, which it deletes. A removal that another command is doing counts as done when it is.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hull_snapshot::{SnapshotId, Snapshotter};
use hull_store::{Lease, StoreError};
use hull_supervisor::start::{self, StartError};
use rusqlite::Transaction;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::state::{Action, Verdict};
use crate::row::{self, ContainerRow};
use crate::volumes;

/// How long another command's removal, or a supervisor's last steps, are waited for.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(30);
const OTHERS_POLL: Duration = Duration::from_millis(5);

/// How to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it first when it runs.
    pub force: bool,
    /// Also remove its anonymous volumes.
    pub volumes: bool,
}

/// What a removal finds when it wants the container for itself.
pub(crate) enum Idle {
    /// Nobody uses it, and with the lock nobody will.
    Locked(#[allow(dead_code, reason = "held until the removal is done")] Option<OwnedFd>),
    /// It runs again.
    Running,
}

impl Engine {
    /// Removes a container.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for one that runs, without `force`; what could not be removed.
    pub fn remove(&self, name: &str, options: &RemoveOptions) -> Result<(), EngineError> {
        self.recover()?;
        let row = self.row(name)?;
        loop {
            let state = self.state_of(&row)?;
            if self.accept(name, &state, Action::Remove { force: options.force })? == Verdict::AlreadyDone {
                return self.await_removal(&row.id);
            }
            if let Some(process) = self.process(&row.id)?.filter(|_| state.is_running()) {
                self.kill_running(&row, &process)?;
                self.await_end(&row)?;
            }
            if !self.claim_for_removal(&row, options)? {
                return self.await_removal(&row.id);
            }
            match self.lock_idle(&row)? {
                Idle::Locked(_lock) => return self.remove_claimed(&row, options.volumes),
                Idle::Running => self.store().write(|tx| row::give_back(tx, &row))?,
            }
        }
    }

    /// Leases the row. Whoever has to finish an interrupted removal knows of the volumes by what is written here, and
    /// after a power cut that there was one: only a throw-away container is removed after every boot anyway.
    fn claim_for_removal(&self, row: &ContainerRow, options: &RemoveOptions) -> Result<bool, EngineError> {
        let lease = Lease::current()?;
        let claim = |tx: &Transaction<'_>| -> Result<bool, StoreError> {
            let claimed = row::claim(tx, &row.id, &lease)?;
            if claimed && options.volumes {
                row::throw_away(tx, &row.id)?;
            }
            Ok(claimed)
        };
        Ok(if row.auto_remove { self.store().write(claim)? } else { self.store().write_durable(claim)? })
    }

    /// Removes a container that has ended and that its supervisor keeps locked for this. Somebody else's removal in
    /// progress is left to them.
    pub(crate) fn remove_ended(&self, row: &ContainerRow, options: &RemoveOptions) -> Result<(), EngineError> {
        let lease = Lease::current()?;
        if !self.store().write(|tx| row::claim(tx, &row.id, &lease))? {
            return Ok(());
        }
        self.remove_claimed(row, options.volumes)
    }

    /// Everything of a container whose row is leased by this process.
    pub(crate) fn remove_claimed(&self, row: &ContainerRow, with_volumes: bool) -> Result<(), EngineError> {
        self.clean_up_run(&row.id)?;
        if let Some(snapshot) = row.snapshot_id.as_deref().and_then(SnapshotId::parse) {
            self.snapshots().remove(&snapshot)?;
        }
        let unused = self.store().write(|tx| -> Result<Vec<String>, StoreError> {
            let anonymous = if with_volumes { volumes::anonymous_of(tx, &row.id)? } else { Vec::new() };
            row::delete(tx, &row.id)?;
            volumes::forget_unused(tx, anonymous)
        })?;
        for name in unused {
            volumes::remove_folder(self.roots(), &name)?;
        }
        self.remove_folder(&row.id)
    }

    /// The container's lasting files.
    pub(crate) fn remove_folder(&self, id: &ContainerId) -> Result<(), EngineError> {
        let folder = self.roots().container(id.as_str());
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(EngineError::Path { action: "remove", path: folder, source })
            }
            _ => Ok(()),
        }
    }

    /// Waits until the container's lock is free and takes it, unless the container has been started again.
    pub(crate) fn lock_idle(&self, row: &ContainerRow) -> Result<Idle, EngineError> {
        let state_dir = self.state_dir(&row.id);
        let deadline = Instant::now() + OTHERS_TIMEOUT;
        loop {
            match start::lock(&state_dir) {
                Ok(Some(lock)) => return Ok(Idle::Locked(Some(lock))),
                Ok(None) => {}
                // Removed by a clean-up; if it is there again, by another start.
                Err(StartError::Lock { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    if !state_dir.exists() {
                        return Ok(Idle::Locked(None));
                    }
                }
                Err(error) => return Err(error.into()),
            }
            if self.process(&row.id)?.is_some() {
                return Ok(Idle::Running);
            }
            if Instant::now() > deadline {
                return Err(EngineError::Locked { id: row.id.clone(), seconds: OTHERS_TIMEOUT.as_secs() });
            }
            std::thread::sleep(OTHERS_POLL);
        }
    }

    /// Waits until another command's removal is over; takes it over when that command dies.
    fn await_removal(&self, id: &ContainerId) -> Result<(), EngineError> {
        let deadline = Instant::now() + OTHERS_TIMEOUT;
        loop {
            let row = match self.row(id.as_str()) {
                Ok(row) => row,
                Err(EngineError::NoSuchContainer { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            match &row.lease {
                Some(lease) if !lease.is_alive() => {
                    self.recover()?;
                    continue;
                }
                _ => {}
            }
            if Instant::now() > deadline {
                return Err(EngineError::Locked { id: id.clone(), seconds: OTHERS_TIMEOUT.as_secs() });
            }
            std::thread::sleep(OTHERS_POLL);
        }
    }
}
