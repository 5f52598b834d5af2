//! After the end of a container: what its run has left is removed, and with `--rm` the container itself.
//!
//! Done by the client in the foreground, which has promised it to the supervisor, or by the process into which the
//! supervisor turns (`hull-worker cleanup`); either way while the container's lock is held. The order makes a kill at
//! any point harmless: processes, cgroup, state folder (last, because it says that there was a run), and each step
//! may be done again.

use std::fs;
use std::io;
use std::path::Path;

use hull_kernel::cgroups::Layout;
use hull_supervisor::start::LOCK_FILE;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::external;
use crate::lifecycle::remove::RemoveOptions;
use crate::networks::places;
use crate::networks::sharing::Sharers;
use crate::record::ContainerRecord;
use crate::request::CreateContainer;

/// Removes a state folder, the lock last: from then on somebody else may start the container, and what they make there
/// is theirs.
fn remove_state(state: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        let removed = match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        unless_missing(removed)?;
    }
    unless_missing(fs::remove_file(state.join(LOCK_FILE)))?;
    match fs::remove_dir(state) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        result => unless_missing(result),
    }
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

impl Engine {
    /// Removes what a run has left, and the container when it was started with `--rm`.
    ///
    /// # Errors
    /// What could not be removed; the next command tries again.
    pub fn finish(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.clean_up_run(id)?;
        match self.row(id.as_str()) {
            Ok(row) if row.auto_remove => self.remove_ended(&row, &RemoveOptions { force: false, volumes: true }),
            Ok(_) | Err(EngineError::NoSuchContainer { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Kills what is left in the container's cgroup, removes the cgroup and the state folder.
    ///
    /// # Errors
    /// The cgroup or folder that could not be removed.
    pub(crate) fn clean_up_run(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.delete_external(id)?;
        let cgroup = Layout::detect()?.cgroup(&self.cgroup_path(id))?;
        if cgroup.exists() {
            cgroup.kill_all()?;
        }
        // Another runtime has removed the container's own cgroup already, and knows nothing of the instance's.
        cgroup.remove_with_parent()?;
        self.withdraw_ports(id)?;
        let sharers = self.sharers(id)?;
        self.release_cni(id, sharers.as_ref().and_then(Sharers::namespace).as_deref())?;
        if let Some(sharers) = &sharers {
            self.take_interfaces(id, sharers)?;
        }
        // Its interfaces have gone with its last process; what shaped them has not.
        self.release_shapers(id)?;
        self.store().write(|tx| places::release(tx, id))?;
        let state = self.roots().runtime_state(id.as_str());
        remove_state(&state).map_err(EngineError::path("remove", &state))
    }

    /// Tells another runtime to forget the container, when it was the one to make it.
    fn delete_external(&self, id: &ContainerId) -> Result<(), EngineError> {
        let state = self.roots().runtime_state(id.as_str());
        if !external::was_used(&state) {
            return Ok(());
        }
        match ContainerRecord::read(&self.roots().container(id.as_str())) {
            Ok(ContainerRecord { request: CreateContainer { runtime: Some(program), .. }, .. }) => {
                Ok(external::delete(Path::new(&program), &state, id.as_str())?)
            }
            // A container without a readable record was never started by anybody.
            _ => Ok(()),
        }
    }
}
