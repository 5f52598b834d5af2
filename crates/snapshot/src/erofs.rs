//! The EROFS driver: each layer an image in one file, each container a folder over their mounts.
//!
//! ```text
//! snapshots/erofs/
//!   <id>/image   a layer
//!   <id>/fs/     a container's changes
//!   <id>/work/   overlay's own, containers only
//! ```
//!
//! An image is mounted when a container first needs it, and once for all containers ([`crate::layer_mounts`]), so that
//! they share what the kernel caches of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use hull_kernel::erofs::root_attributes;
use hull_kernel::mounts::overlay::OverlayMount;
use hull_store::{Roots, Store};

use crate::folders::{Folders, file_error, make_folder, own_as, remove_folder, usage_of};
use crate::layer_mounts::LayerMounts;
use crate::{Changes, Finished, Prepared, Rootfs, SnapshotError, SnapshotId, Snapshotter, Space, Top, Usage};

const DRIVER: &str = "erofs";
const IMAGE: &str = "image";

/// Snapshots as EROFS images.
#[derive(Debug)]
pub struct Erofs<'a> {
    folders: Folders<'a>,
    mounts: LayerMounts,
}

impl<'a> Erofs<'a> {
    /// The driver of a store.
    pub fn new(store: &'a Store, roots: &Roots) -> Erofs<'a> {
        let folders = Folders::new(store, roots, DRIVER);
        let mounts = LayerMounts::new(roots.layer_mounts(), folders.root());
        Erofs { folders, mounts }
    }

    pub(crate) fn folders(&self) -> &Folders<'a> {
        &self.folders
    }

    /// The shared mounts of its layers.
    pub(crate) fn mounts(&self) -> &LayerMounts {
        &self.mounts
    }

    fn image(&self, id: &SnapshotId) -> PathBuf {
        self.folders.folder(id).join(IMAGE)
    }

    /// A stack over the mounts of layers, lowest first.
    fn over(&self, parents: &[SnapshotId], upper: Option<(PathBuf, PathBuf)>) -> Rootfs {
        // Overlay wants the topmost first.
        let lowers = parents.iter().rev().map(|parent| self.mounts.place(parent)).collect();
        let images = parents.iter().map(|parent| (parent.clone(), self.image(parent))).collect();
        Rootfs::overlay(OverlayMount { lowers, upper, volatile: false }).mounting(self.mounts.clone(), images)
    }
}

impl Snapshotter for Erofs<'_> {
    fn driver(&self) -> &'static str {
        DRIVER
    }

    fn prepare(&self) -> Result<Prepared, SnapshotError> {
        let id = self.folders.layer_to_fill(|_| Ok(()))?;
        let space = Space::Image(self.image(&id));
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
            let Some(path) = parents.last().map(|top| self.image(top)) else { return Ok(()) };
            let root =
                File::open(&path).and_then(|image| root_attributes(&image)).map_err(file_error("read", &path))?;
            own_as(&self.folders.files(id), root.mode, root.uid, root.gid)
        })
    }

    fn rootfs(&self, id: &SnapshotId) -> Result<Rootfs, SnapshotError> {
        let upper = (self.folders.files(id), self.folders.work(id));
        Ok(self.over(&self.folders.parents(id)?, Some(upper)))
    }

    fn view(&self, parents: &[SnapshotId]) -> Result<Rootfs, SnapshotError> {
        Ok(self.over(parents, None))
    }

    fn changes(&self, id: &SnapshotId) -> Result<Changes, SnapshotError> {
        let parents = self.folders.parents(id)?;
        let below = if parents.is_empty() { None } else { Some(self.view(&parents)?) };
        Ok(Changes { top: Top::Difference(self.folders.files(id)), below })
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage, SnapshotError> {
        let image = self.image(id);
        match fs::metadata(&image) {
            Ok(image) => Ok(Usage { bytes: image.blocks() * 512, inodes: 1 }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => usage_of(&self.folders.files(id)),
            Err(error) => Err(file_error("read", &image)(error)),
        }
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        self.folders.forget(id)?;
        self.mounts.unmount(id)?;
        remove_folder(&self.folders.folder(id))
    }

    fn sweep(&self) -> Result<usize, SnapshotError> {
        for id in self.mounts.mounted()? {
            if !self.folders.is_known(&id)? {
                self.mounts.unmount(&id)?;
            }
        }
        self.folders.sweep()
    }
}
