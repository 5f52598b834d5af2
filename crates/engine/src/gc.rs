//! Collecting what belongs to nothing: `hull system gc`, and the end of every prune.
//!
//! ```text
//! recover        interrupted containers, folders and cgroups without a row (recover.rs)
//! layers         that no image has and no living process holds: rows durably, then folders
//! blobs          that no image has and no living process holds, temporary files of the dead, holds of the dead
//! ```
//!
//! Nothing of this asks whether a thing is wanted; that a thing is needed is always written down before it is made or
//! found (holds, leases), so what is not written down now is nobody's.

use std::os::fd::OwnedFd;

use hull_image::Image;
use hull_oci::Digest;
use hull_snapshot::{SnapshotId, Snapshotter};
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::recover::Recovered;

/// What a collection has removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Interrupted containers, and files that belonged to nothing.
    pub recovered: Recovered,
    /// Unpacked layers.
    pub layers: usize,
    /// Blobs and temporary files.
    pub blobs: usize,
}

impl Engine {
    /// Removes everything that belongs to nothing.
    ///
    /// # Errors
    /// The first thing that could not be removed; the next collection tries again.
    pub fn collect(&self) -> Result<Collected, EngineError> {
        let recovered = self.recover()?;
        let blobs = self.image_store().sweep()?;
        let unused = self.store().read(unreferred_layers)?;
        let layers = self.remove_unused_layers(&unused)?;
        Ok(Collected { recovered, layers, blobs })
    }

    /// Mounts an image's files, read-only and for nobody else; they are gone when the descriptor is closed.
    ///
    /// # Errors
    /// A layer that is damaged, or the mount.
    pub fn mount_image(&self, image: &Image) -> Result<OwnedFd, EngineError> {
        let layers: Vec<SnapshotId> = self.ensure_unpacked(image)?;
        Ok(self.snapshots().view(&layers)?.mount_detached()?)
    }

    /// Mounts a container's files, read-only and for nobody else.
    ///
    /// # Errors
    /// What is wrong with its record or its snapshot, or the mount.
    pub fn mount_container(&self, id: &ContainerId) -> Result<OwnedFd, EngineError> {
        Ok(self.container_rootfs(&self.record(id)?)?.as_view().mount_detached()?)
    }
}

/// Chain ids of layers that no image has.
fn unreferred_layers(db: &Connection) -> Result<Vec<Digest>, EngineError> {
    let query = "SELECT DISTINCT chain_id FROM layers WHERE chain_id NOT IN (SELECT chain_id FROM image_layers)";
    let mut statement = db.prepare_cached(query)?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(ids.iter().filter_map(|text| Digest::parse(text).ok()).collect())
}
