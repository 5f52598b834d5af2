//! Sweeping what killed commands left: a container is either fully there or fully gone.
//!
//! ```text
//! rows whose lease has died           the container was being created or removed: removed to the end
//! runs that nobody holds any more     the start was killed, or the supervisor and then the container: what it had is given up
//! rows without their files            once after a boot (after_boot.rs)
//! folders without a row               containers/<id>, <state>/<id>, cgroup /<instance>/<id>
//! volumes nobody finished, anonymous ones' folders without a row, container snapshots without a container
//! networks whose removal was interrupted
//! ```
//!
//! Commands make the row first and delete it before the last folders, so what has no row now is nobody's, provided that
//! it was seen before the rows were read. Nothing is swept that does not have a container's name, and no state folder
//! whose lock somebody holds. Looking costs one query and four directory listings when there is nothing to do.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use hull_store::Lease;
use hull_supervisor::record::LiveState;
use hull_supervisor::start::LOCK_FILE;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::record;
use crate::row::{self, ContainerRow};
use crate::status::free_lock;
use crate::volumes;

/// What was swept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Containers whose creation or removal had been interrupted.
    pub containers: Vec<ContainerId>,
    /// Folders, cgroups, volumes and snapshots that belonged to nothing.
    pub leftovers: usize,
}

/// Everything that has a container's name somewhere, seen before the rows were read.
#[derive(Debug, Default)]
struct Seen {
    folders: Vec<ContainerId>,
    states: Vec<ContainerId>,
    cgroups: Vec<ContainerId>,
    volumes: Vec<String>,
}

impl Engine {
    /// Sweeps what killed commands left.
    ///
    /// # Errors
    /// The first thing that could not be removed; the next command tries again.
    pub fn recover(&self) -> Result<Recovered, EngineError> {
        let mut recovered = Recovered::default();
        let seen = self.look()?;
        let (rows, volume_rows) =
            self.store().read(|db| Ok::<_, EngineError>((row::all(db)?, volumes::all_names(db)?)))?;
        for row in rows.iter().filter(|row| row.lease.is_some()) {
            if self.finish_interrupted(row)? {
                recovered.containers.push(row.id.clone());
            }
        }
        recovered.containers.extend(self.sweep_after_boot(&rows)?);
        recovered.leftovers += self.sweep_runs(&rows, &seen)?;
        let known: HashSet<&ContainerId> = rows.iter().map(|row| &row.id).collect();
        recovered.leftovers += self.sweep_nameless(&seen, &known)?;
        for name in seen.volumes.iter().filter(|name| !volume_rows.contains(*name)) {
            volumes::remove_folder(self.roots(), name)?;
            recovered.leftovers += 1;
        }
        recovered.leftovers += self.sweep_volumes()? + self.sweep_snapshots()? + self.sweep_networks()?;
        Ok(recovered)
    }

    /// Removes volumes that were being made or removed by commands that have died.
    fn sweep_volumes(&self) -> Result<usize, EngineError> {
        if !self.store().read(volumes::has_leased)? {
            return Ok(0);
        }
        let lease = Lease::current()?;
        let names = self.store().write(|tx| volumes::claim_abandoned(tx, &lease))?;
        for name in &names {
            volumes::remove_folder(self.roots(), name)?;
            self.store().write(|tx| volumes::forget_abandoned(tx, name))?;
        }
        Ok(names.len())
    }

    fn look(&self) -> Result<Seen, EngineError> {
        let volumes = names_in(&self.roots().volumes())?;
        Ok(Seen {
            folders: ids_in(&self.roots().containers())?,
            states: ids_in(&self.roots().state)?,
            cgroups: self.cgroup_ids()?,
            volumes: volumes.into_iter().filter(|name| volumes::is_anonymous_name(name)).collect(),
        })
    }

    /// Containers that have a cgroup under this instance's.
    fn cgroup_ids(&self) -> Result<Vec<ContainerId>, EngineError> {
        let instance = self.cgroups()?.cgroup(&format!("/{}", self.roots().instance()))?;
        let folder = instance.unified_folder().or_else(|| instance.legacy_folder("pids"));
        let folder = folder.or_else(|| instance.legacy_folder("memory"));
        folder.map_or_else(|| Ok(Vec::new()), ids_in)
    }

    /// Ends the creation or removal that a dead command had begun; `false` when its process lives.
    fn finish_interrupted(&self, row: &ContainerRow) -> Result<bool, EngineError> {
        let lease = Lease::current()?;
        if row.lease.as_ref().is_some_and(Lease::is_alive)
            || !self.store().write(|tx| row::claim(tx, &row.id, &lease))?
        {
            return Ok(false);
        }
        // The snapshot may have been recorded after the row was read.
        let row = self.row(row.id.as_str())?;
        // Anonymous volumes of a container that never was are nobody's; a removal without -v leaves them. The snapshot is
        // the last thing that a creation records.
        let has_record = self.roots().container(row.id.as_str()).join(record::FILE_NAME).exists();
        let was_whole = row.snapshot_id.is_some() && has_record;
        self.remove_claimed(&row, !was_whole || row.auto_remove)?;
        Ok(true)
    }

    /// Cleans up after runs whose start or supervisor was killed and whose process, if there was one, is gone.
    fn sweep_runs(&self, rows: &[ContainerRow], seen: &Seen) -> Result<usize, EngineError> {
        let mut swept = 0;
        for row in rows.iter().filter(|row| row.lease.is_none() && seen.states.contains(&row.id)) {
            swept += usize::from(self.sweep_run(row)?);
        }
        Ok(swept)
    }

    fn sweep_run(&self, row: &ContainerRow) -> Result<bool, EngineError> {
        let state_dir = self.roots().runtime_state(row.id.as_str());
        // A start that is under way, or a supervisor, has the lock.
        let Some(_lock) = free_lock(&state_dir)? else { return Ok(false) };
        match LiveState::read(&state_dir)? {
            // An orphan, for an adopter.
            Some(live) if live.is_running() => return Ok(false),
            Some(live) => drop(self.exit_of_unseen(&self.roots().container(row.id.as_str()), &live)?),
            None => {}
        }
        self.finish(&row.id)?;
        Ok(true)
    }

    fn sweep_nameless(&self, seen: &Seen, known: &HashSet<&ContainerId>) -> Result<usize, EngineError> {
        let mut swept = 0;
        for id in seen.states.iter().chain(&seen.cgroups).filter(|id| !known.contains(id)) {
            if self.is_unlocked(id)? {
                self.clean_up_run(id)?;
                swept += 1;
            }
        }
        for id in seen.folders.iter().filter(|id| !known.contains(id)) {
            self.remove_folder(id)?;
            swept += 1;
        }
        Ok(swept)
    }

    /// Whether nobody holds the lock of a state folder. A folder without a lock file, and not of this Hull's making,
    /// counts as held.
    fn is_unlocked(&self, id: &ContainerId) -> Result<bool, EngineError> {
        let state_dir = self.state_dir(id);
        match state_dir.exists() {
            false => Ok(true),
            true if !state_dir.join(LOCK_FILE).exists() => Ok(false),
            true => Ok(free_lock(&state_dir)?.is_some()),
        }
    }
}

fn ids_in(folder: &Path) -> Result<Vec<ContainerId>, EngineError> {
    Ok(names_in(folder)?.iter().filter_map(|name| ContainerId::parse(name)).collect())
}

/// Names of what is in a folder; none when there is no folder.
fn names_in(folder: &Path) -> Result<Vec<String>, EngineError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(EngineError::path("read", folder)(error)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<io::Result<_>>().map_err(EngineError::path("read", folder))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}
