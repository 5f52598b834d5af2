//! `hull commit`: a container becomes an image.
//!
//! ```text
//! freeze ─> top ─ changes ─> tar ─ hash (diff id) ─> gzip ─ hash (digest) ─> blob ─> thaw
//! image's configuration + the container's wishes + --change + one line of history ─> configuration ─> id
//! ```
//!
//! The layer is made from the container's own files, never from what is mounted in it, and owners of a user namespace
//! are given back, so the image is the same whatever the container ran as. Equal changes give equal bytes, and with
//! `SOURCE_DATE_EPOCH` in the environment, which then is the time of creation, an equal id. The new layer is unpacked
//! from its blob like any other. A running container is frozen while its files are read, unless that is not wanted;
//! a commit that is killed by force meanwhile leaves it frozen, for `unpause`.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_image::archive::{CommitOptions, commit};
use hull_image::pack::{PackError, Packer};
use hull_image::{Image, Progress};
use hull_kernel::cgroups::CgroupError;
use hull_oci::Reference;
use jiff::Timestamp;
use rustix::io::Errno;

use crate::changes::{ChangesError, Found, State, Visitor};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::state::ContainerState;
use crate::record::ContainerRecord;
use crate::row::ContainerRow;
use crate::spec::Effective;

/// What to make of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// Name of the image; without one it is found by id.
    pub reference: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// Note in the history.
    pub message: Option<String>,
    /// Dockerfile instructions, as for import.
    pub changes: Vec<String>,
    /// Freeze the container meanwhile.
    pub pause: bool,
}

/// A folder on the way to what is being packed.
struct Pending {
    parent: OwnedFd,
    name: std::ffi::OsString,
    path: PathBuf,
    is_opaque: bool,
    is_written: bool,
}

/// Writes changes as a layer. A folder is written when it is changed or something in it is, since a layer without it
/// would give it root's owner and the usual mode.
struct LayerOf<'p, 'w> {
    packer: &'p mut Packer<'w>,
    folders: Vec<Pending>,
}

impl LayerOf<'_, '_> {
    fn write_folders(&mut self) -> Result<(), ChangesError> {
        for folder in self.folders.iter_mut().filter(|folder| !folder.is_written) {
            self.packer.entry(folder.parent.as_fd(), &folder.name, &folder.path)?;
            if folder.is_opaque {
                self.packer.opaque(&folder.path)?;
            }
            folder.is_written = true;
        }
        Ok(())
    }
}

impl Visitor for LayerOf<'_, '_> {
    fn found(&mut self, found: &Found<'_>) -> Result<(), ChangesError> {
        if !found.is_directory {
            self.write_folders()?;
            return Ok(self.packer.entry(found.parent, found.name, found.path)?);
        }
        let kept = |source| ChangesError::File { action: "keep open", path: found.path.to_owned(), source };
        self.folders.push(Pending {
            parent: found.parent.try_clone_to_owned().map_err(kept)?,
            name: found.name.to_owned(),
            path: found.path.to_owned(),
            is_opaque: found.is_opaque,
            is_written: false,
        });
        match found.state {
            State::Same => Ok(()),
            State::Added | State::Changed => self.write_folders(),
        }
    }

    fn left(&mut self) {
        self.folders.pop();
    }

    fn deleted(&mut self, path: &Path) -> Result<(), ChangesError> {
        // What an opaque folder hides needs no mark of its own.
        if self.folders.iter().any(|folder| folder.is_opaque) {
            return Ok(());
        }
        self.write_folders()?;
        Ok(self.packer.deletion(path)?)
    }
}

impl Engine {
    /// Makes an image of a container.
    ///
    /// # Errors
    /// No such container, one of a built-in image, a wrong instruction or name, and what reading its files or writing
    /// the image says; nothing of the image is left then.
    pub fn commit(&self, name: &str, request: &CommitRequest, progress: &dyn Progress) -> Result<Image, EngineError> {
        let row = self.row(name)?;
        self.commit_row(name, &row, request, progress).map_err(|error| match self.row(row.id.as_str()) {
            // Another Hull has removed it meanwhile, or has not made it yet: that is what is wrong.
            Err(gone @ EngineError::NoSuchContainer { .. }) => gone,
            Ok(row) if row.lease.is_some() => EngineError::NoSuchContainer { name: name.to_owned() },
            _ => error,
        })
    }

    fn commit_row(
        &self,
        name: &str,
        row: &ContainerRow,
        request: &CommitRequest,
        progress: &dyn Progress,
    ) -> Result<Image, EngineError> {
        let reference = request.reference.as_deref().map(Reference::parse).transpose()?;
        let record = self.record(&row.id)?;
        let images = self.image_store();
        let no_image = || EngineError::NothingToCommitOnto { name: name.to_owned(), image: record.image.name.clone() };
        let base = record.image.id.clone().ok_or_else(no_image)?;
        let base = images.get(&base)?.ok_or_else(|| EngineError::NoSuchImage { name: record.image.name.clone() })?;
        let effective = Effective::merge(&record.request, &record.image_config);
        let options = CommitOptions {
            reference,
            author: request.author.clone(),
            message: request.message.clone(),
            config: self::config(&effective),
            command: effective.cmd.clone(),
            changes: request.changes.clone(),
            created: moment_of_creation(),
        };
        let frozen = match request.pause {
            true => Frozen::freeze(self, &record, &self.state_of(row)?)?,
            false => None,
        };
        let image = commit(&images, &base, &options, progress, |output| self.write_layer(&record, output));
        let thawed = frozen.map_or(Ok(()), Frozen::thaw);
        let image = image?;
        thawed?;
        let image = self.admit(&images, &image, progress)?;
        self.relieve_by_itself();
        Ok(image)
    }

    /// Writes what a container changed as a layer's tar; says how many entries that were.
    fn write_layer(&self, record: &ContainerRecord, output: &mut dyn Write) -> Result<u64, EngineError> {
        let ids = self.ids_of(record)?;
        let mut packer = Packer::new(output, ids);
        let mut layer = LayerOf { packer: &mut packer, folders: Vec::new() };
        self.tell_changes(record, ids, &mut layer)?;
        let report = packer.finish().map_err(ChangesError::from)?;
        Ok(report.entries)
    }
}

/// A container that was frozen for a while; thawed at the latest when this is dropped.
struct Frozen<'e> {
    engine: &'e Engine,
    id: crate::id::ContainerId,
    is_frozen: bool,
}

impl<'e> Frozen<'e> {
    /// Freezes a container that runs; one that does not, or is paused already, is left alone.
    fn freeze(
        engine: &'e Engine,
        record: &ContainerRecord,
        state: &ContainerState,
    ) -> Result<Option<Frozen<'e>>, EngineError> {
        if !matches!(state, ContainerState::Running { .. }) {
            return Ok(None);
        }
        let frozen = Frozen { engine, id: record.id.clone(), is_frozen: true };
        match engine.cgroup(&record.id)?.freeze() {
            Err(error) if has_ended(&error) => Ok(None),
            result => Ok(result.map(|()| Some(frozen))?),
        }
    }

    fn thaw(mut self) -> Result<(), EngineError> {
        self.is_frozen = false;
        match self.engine.cgroup(&self.id)?.thaw() {
            Err(error) if has_ended(&error) => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Whether a cgroup cannot be frozen or thawed because its container's last process has ended, and it has gone.
fn has_ended(error: &CgroupError) -> bool {
    [Errno::NOENT, Errno::NODEV].iter().any(|errno| error.errno() == Some(errno.raw_os_error()))
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if self.is_frozen {
            // What ended the commit is what the user must hear.
            let _ = self.engine.cgroup(&self.id).map(|cgroup| cgroup.thaw());
        }
    }
}

/// The fields of an image's configuration that a container's request may have changed.
fn config(effective: &Effective) -> Vec<(&'static str, serde_json::Value)> {
    use serde_json::json;
    let set = |names: &[String]| {
        let names = names.iter().map(|name| (name.clone(), json!({})));
        serde_json::Value::Object(names.collect())
    };
    let env: Vec<&String> = effective.env.iter().filter(|variable| variable.contains('=')).collect();
    vec![
        ("User", json!(effective.user)),
        ("ExposedPorts", set(&effective.exposed_ports)),
        ("Env", json!(env)),
        ("Entrypoint", json!(effective.entrypoint)),
        ("Cmd", json!(effective.cmd)),
        ("Volumes", set(&effective.volumes)),
        ("WorkingDir", json!(effective.working_dir)),
        ("Labels", json!(effective.labels)),
        ("StopSignal", json!(effective.stop_signal.clone().unwrap_or_default())),
    ]
}

/// Now, or what `SOURCE_DATE_EPOCH` says (reproducible-builds.org); nonsense in it counts as nothing.
fn moment_of_creation() -> Timestamp {
    let wished = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    wished.and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_else(Timestamp::now)
}

impl From<PackError> for EngineError {
    fn from(error: PackError) -> EngineError {
        EngineError::Changes(error.into())
    }
}
