//! The engine: one Hull's folders and database, and the door to everything that can be done with containers.
//!
//! A value lives as long as one command (or one request of a daemon). It keeps nothing in memory about containers, only
//! where the machine's cgroups are; every method asks the database, the files and the kernel. The methods are in the
//! files of their topics.

use std::path::PathBuf;
use std::sync::OnceLock;

use hull_kernel::cgroups::Layout;
use hull_snapshot::{SnapshotId, Snapshotter};
use hull_store::{Roots, Store};
use rusqlite::Connection;

use crate::configuration::Configuration;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::state::{Action, ContainerState, Verdict, decide};
use crate::row::{self, ContainerRow, Found};

/// One Hull.
#[derive(Debug)]
pub struct Engine {
    roots: Roots,
    store: Store,
    cgroups: OnceLock<Layout>,
    configuration_file: Option<PathBuf>,
    configuration: OnceLock<Configuration>,
}

impl Engine {
    /// Opens a Hull, making its folders when they are missing.
    ///
    /// # Errors
    /// [`EngineError::NotRoot`] without root's rights; else what the folders and the database say.
    pub fn open(roots: Roots) -> Result<Engine, EngineError> {
        let uid = rustix::process::geteuid();
        if !uid.is_root() {
            return Err(EngineError::NotRoot { uid: uid.as_raw() });
        }
        let store = Store::open(&roots)?;
        roots.make_state().map_err(EngineError::path("make", &roots.state))?;
        Ok(Engine { roots, store, cgroups: OnceLock::new(), configuration_file: None, configuration: OnceLock::new() })
    }

    /// With a configuration file of its own, which must be there when something is looked up in it.
    #[must_use]
    pub fn configured_by(self, file: PathBuf) -> Engine {
        Engine { configuration_file: Some(file), configuration: OnceLock::new(), ..self }
    }

    /// The configuration, read when first asked for.
    ///
    /// # Errors
    /// [`EngineError::Configuration`].
    pub fn configuration(&self) -> Result<&Configuration, EngineError> {
        match self.configuration.get() {
            Some(configuration) => Ok(configuration),
            None => {
                let configuration = Configuration::read(self.configuration_file.as_deref())?;
                Ok(self.configuration.get_or_init(|| configuration))
            }
        }
    }

    /// The folders.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The container that `name` means: a name, an id, or an unambiguous prefix of one.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], [`EngineError::AmbiguousContainer`].
    pub fn resolve(&self, name: &str) -> Result<ContainerId, EngineError> {
        self.row(name).map(|row| row.id)
    }

    /// The name of a container.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`].
    pub fn container_name(&self, id: &ContainerId) -> Result<String, EngineError> {
        self.row(id.as_str()).map(|row| row.name)
    }

    pub(crate) fn row(&self, name: &str) -> Result<ContainerRow, EngineError> {
        match self.store.read(|db| row::find(db, name))? {
            Found::One(row) => Ok(*row),
            Found::None => Err(EngineError::NoSuchContainer { name: name.to_owned() }),
            Found::Several(count) => Err(EngineError::AmbiguousContainer { prefix: name.to_owned(), count }),
        }
    }

    /// Whether `action` may be done to a container now, by the state machine.
    ///
    /// # Errors
    /// [`EngineError::Refused`].
    pub fn accept(&self, name: &str, state: &ContainerState, action: Action) -> Result<Verdict, EngineError> {
        decide(state.phase(), action).map_err(|refusal| EngineError::Refused { name: name.to_owned(), refusal })
    }

    /// Removes interrupted snapshots, and finished ones of containers that were never finished.
    pub(crate) fn sweep_snapshots(&self) -> Result<usize, EngineError> {
        let orphans = self.store.read(orphaned_snapshots)?;
        for orphan in &orphans {
            self.snapshots().remove(orphan)?;
        }
        Ok(orphans.len() + self.snapshots().sweep()?)
    }

    /// Where cgroups are mounted, looked up once.
    pub(crate) fn cgroups(&self) -> Result<&Layout, EngineError> {
        match self.cgroups.get() {
            Some(layout) => Ok(layout),
            None => {
                let layout = Layout::detect()?;
                Ok(self.cgroups.get_or_init(|| layout))
            }
        }
    }

    /// The container's cgroup, as a path from each hierarchy's root.
    pub fn cgroup_path(&self, id: &ContainerId) -> String {
        format!("/{}/{id}", self.roots.instance())
    }
}

/// Writable snapshots that no container has. A command that is making one has a row without a snapshot meanwhile, so
/// while there is such a row nothing counts as orphaned; if its command has died, its removal comes first.
fn orphaned_snapshots(db: &Connection) -> Result<Vec<SnapshotId>, EngineError> {
    let mut statement = db.prepare_cached(
        "SELECT id FROM snapshots WHERE kind = 'container' AND lease_pid IS NULL
         AND id NOT IN (SELECT snapshot_id FROM containers WHERE snapshot_id IS NOT NULL)
         AND NOT EXISTS (SELECT 1 FROM containers WHERE snapshot_id IS NULL)",
    )?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(ids.iter().filter_map(|id| SnapshotId::parse(id)).collect())
}
