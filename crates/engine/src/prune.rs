//! Pruning: containers that do not run, images and volumes that nothing uses, and what is reclaimed by that.
//!
//! Each thing is removed as by its own command, one after the other, and one that is taken into use meanwhile stays. What
//! was reclaimed is measured at what goes: a container's own files, a volume's folder, the layers and blobs that the
//! database knows before and not afterwards.

use std::collections::BTreeMap;

use hull_image::{Image, ImageError};
use hull_store::StoreError;
use jiff::Timestamp;

use crate::engine::Engine;
use crate::error::{EngineError, ErrorKind};
use crate::lifecycle::remove::RemoveOptions;
use crate::list::{ContainerSummary, ListQuery};
use crate::usage::files_in;
use crate::volumes::VolumeError;

/// What is to be pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneFilter {
    /// Only what was made before.
    pub until: Option<Timestamp>,
    /// Only what has these labels, with these values where one is given.
    pub labels: Vec<(String, Option<String>)>,
    /// Only what has none of these.
    pub without_labels: Vec<(String, Option<String>)>,
}

/// What was pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Lines about each thing: ids, names, `untagged: ...`, `deleted: ...`.
    pub removed: Vec<String>,
    /// Bytes.
    pub reclaimed_bytes: u64,
}

impl PruneFilter {
    pub(crate) fn takes(&self, created: Timestamp, labels: &BTreeMap<String, String>) -> bool {
        let has = |(name, wanted): &(String, Option<String>)| {
            labels.get(name).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
        };
        self.until.is_none_or(|until| created < until)
            && self.labels.iter().all(has)
            && !self.without_labels.iter().any(has)
    }
}

impl Engine {
    /// Removes every container that does not run.
    ///
    /// # Errors
    /// A container that cannot be removed.
    pub fn prune_containers(&self, filter: &PruneFilter) -> Result<Pruned, EngineError> {
        let mut pruned = Pruned::default();
        for container in self.list(&ListQuery { all: true, ..ListQuery::default() })? {
            if container.state.is_running() || !filter.takes(container.created, &container.labels) {
                continue;
            }
            let bytes = self.container_bytes(&container)?;
            match self.remove(container.id.as_str(), &RemoveOptions::default()) {
                Ok(()) => {
                    pruned.removed.push(container.id.to_string());
                    pruned.reclaimed_bytes += bytes;
                }
                Err(error) if was_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    fn container_bytes(&self, container: &ContainerSummary) -> Result<u64, EngineError> {
        match self.sizes(&container.id, None) {
            Ok((written, _)) => Ok(written + files_in(&self.roots().container(container.id.as_str())).1),
            Err(error) if was_taken(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Removes images without a name, or with `all` every image that no container has.
    ///
    /// # Errors
    /// An image that cannot be removed.
    pub fn prune_images(&self, all: bool, filter: &PruneFilter) -> Result<Pruned, EngineError> {
        let before = self.image_bytes()?;
        let mut removed = Vec::new();
        let used = self.strings("SELECT DISTINCT image_id FROM containers WHERE image_id IS NOT NULL")?;
        for image in self.images()? {
            let unused = !used.contains(&image.id.to_string());
            let created = image.created.unwrap_or(Timestamp::UNIX_EPOCH);
            // Docker's word for it: a digest alone is no name.
            let is_dangling = image.names.iter().all(|name| name.digest.is_some());
            if unused && (all || is_dangling) && filter.takes(created, &image.execution().labels) {
                removed.extend(self.prune_image(&image)?);
            }
        }
        self.collect()?;
        Ok(Pruned { removed, reclaimed_bytes: before.saturating_sub(self.image_bytes()?) })
    }

    /// Removes unfinished downloads and the mounts of layers that no running container has.
    ///
    /// # Errors
    /// A file or mount that cannot be removed.
    pub fn prune_leftovers(&self) -> Result<Pruned, EngineError> {
        let unfinished_bytes = || files_in(&self.roots().content().join("tmp")).1;
        let before = unfinished_bytes();
        self.image_store().content().sweep_unfinished().map_err(ImageError::from)?;
        self.release_layer_mounts()?;
        Ok(Pruned { removed: Vec::new(), reclaimed_bytes: before.saturating_sub(unfinished_bytes()) })
    }

    fn prune_image(&self, image: &Image) -> Result<Vec<String>, EngineError> {
        // Name by name, without force, so that a container that is made meanwhile keeps its image.
        let names: Vec<String> = match image.names.as_slice() {
            [] => vec![image.id.to_string()],
            names => names.iter().map(ToString::to_string).collect(),
        };
        let mut lines = Vec::new();
        for name in names {
            match self.remove_image(&name, false) {
                Ok(removed) => {
                    lines.extend(removed.untagged.iter().map(|name| format!("untagged: {name}")));
                    lines.extend(removed.deleted.iter().map(|id| format!("deleted: {id}")));
                }
                Err(error) if was_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(lines)
    }

    /// Removes anonymous volumes that no container has, or with `all` named ones too.
    ///
    /// # Errors
    /// A volume that cannot be removed.
    pub fn prune_volumes(&self, all: bool, filter: &PruneFilter) -> Result<Pruned, EngineError> {
        let mut pruned = Pruned::default();
        for volume in self.volumes()? {
            let is_meant = (all || volume.anonymous) && volume.containers.is_empty();
            if !is_meant || !filter.takes(volume.created, &volume.labels) {
                continue;
            }
            let (_, bytes) = files_in(&volume.mountpoint);
            match self.remove_volume(&volume.name) {
                Ok(()) => {
                    pruned.removed.push(volume.name);
                    pruned.reclaimed_bytes += bytes;
                }
                Err(EngineError::Volume(VolumeError::InUse { .. } | VolumeError::Missing { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    /// What all images take by the database: unpacked layers and blobs, in bytes.
    fn image_bytes(&self) -> Result<u64, EngineError> {
        let query = "SELECT (SELECT coalesce(sum(size_bytes), 0) FROM layers)
                          + (SELECT coalesce(sum(size_bytes), 0) FROM blobs)";
        let bytes: i64 = self.store().read(|db| Ok::<_, StoreError>(db.query_row(query, [], |row| row.get(0))?))?;
        Ok(bytes.cast_unsigned())
    }
}

/// Whether something was not removed because somebody else has removed it, or uses it, by now.
fn was_taken(error: &EngineError) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict)
}
