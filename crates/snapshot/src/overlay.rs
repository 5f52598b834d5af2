//! The overlay driver: each layer a folder, each container a folder over them.
//!
//! ```text
//! snapshots/overlay/<id>/
//!   fs/          a layer's files with overlay's whiteouts, or a container's changes
//!   work/        overlay's own, containers only
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use hull_kernel::mounts::overlay::OverlayMount;
use hull_store::{Roots, Store};

use crate::folders::{Folders, file_error, make_folder, own_as, usage_of};
use crate::{Changes, Finished, Prepared, Rootfs, SnapshotError, SnapshotId, Snapshotter, Space, Top, Usage};

const DRIVER: &str = "overlay";

/// Snapshots as overlay directories.
#[derive(Debug)]
pub struct Overlay<'a> {
    folders: Folders<'a>,
}

impl<'a> Overlay<'a> {
    /// The driver of a store.
    pub fn new(store: &'a Store, roots: &Roots) -> Overlay<'a> {
        Overlay { folders: Folders::new(store, roots, DRIVER) }
    }

    pub(crate) fn folders(&self) -> &Folders<'a> {
        &self.folders
    }

    /// Folders of layers as overlay wants them: topmost first.
    fn stack(&self, parents: &[SnapshotId]) -> Vec<PathBuf> {
        parents.iter().rev().map(|parent| self.folders.files(parent)).collect()
    }
}

impl Snapshotter for Overlay<'_> {
    fn driver(&self) -> &'static str {
        DRIVER
    }

    fn prepare(&self) -> Result<Prepared, SnapshotError> {
        let id = self.folders.layer_to_fill(|id| make_folder(&self.folders.files(id), 0o755))?;
        let space = Space::Folder(self.folders.files(&id));
        Ok(Prepared { id, space })
    }

    fn abandon(&self, prepared: Prepared) -> Result<(), SnapshotError> {
        self.folders.abandon(&prepared)
    }

    fn commit(&self, layers: Vec<Finished>) -> Result<Vec<SnapshotId>, SnapshotError> {
        self.folders.commit(&layers)
    }

    fn layer(&self, chain_id: &str) -> Result<Option<SnapshotId>, SnapshotError> {
        self.folders.layer(chain_id)
    }

    fn container(&self, parents: &[SnapshotId]) -> Result<SnapshotId, SnapshotError> {
        self.folders.container(parents, |id| {
            make_folder(&self.folders.work(id), 0o711)?;
            let Some(top) = parents.last().map(|top| self.folders.files(top)) else { return Ok(()) };
            let below = fs::metadata(&top).map_err(file_error("read", &top))?;
            own_as(&self.folders.files(id), below.mode(), below.uid(), below.gid())
        })
    }

    fn rootfs(&self, id: &SnapshotId) -> Result<Rootfs, SnapshotError> {
        let lowers = self.stack(&self.folders.parents(id)?);
        let upper = Some((self.folders.files(id), self.folders.work(id)));
        Ok(Rootfs::overlay(OverlayMount { lowers, upper, volatile: false }))
    }

    fn view(&self, parents: &[SnapshotId]) -> Result<Rootfs, SnapshotError> {
        Ok(Rootfs::overlay(OverlayMount { lowers: self.stack(parents), upper: None, volatile: false }))
    }

    fn changes(&self, id: &SnapshotId) -> Result<Changes, SnapshotError> {
        let parents = self.folders.parents(id)?;
        let below = if parents.is_empty() { None } else { Some(self.view(&parents)?) };
        Ok(Changes { top: Top::Difference(self.folders.files(id)), below })
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage, SnapshotError> {
        usage_of(&self.folders.files(id))
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        self.folders.remove(id)
    }

    fn sweep(&self) -> Result<usize, SnapshotError> {
        self.folders.sweep()
    }
}
