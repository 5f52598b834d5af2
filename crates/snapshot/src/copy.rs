//! The copy driver: each container a full copy of its layers, for file systems that overlay does not work on.
//!
//! ```text
//! snapshots/copy/<id>/
//!   fs/          a layer's files and marks, or all files of a container
//!   merged/      of a layer, everything up to it as one tree; made when it is first to be looked at
//! ```
//!
//! `merged/` is filled under a name with its maker's lease, synced and then renamed, so what is there under its own name is
//! whole. A container's copy is synced too: nobody could tell afterwards which of its files were still to come.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use hull_kernel::mounts::overlay::OverlayMount;
use hull_kernel::tree::merge_layer;
use hull_store::{Lease, Roots, Store};

use crate::folders::{Folders, file_error, make_folder, remove_folder, usage_of};
use crate::{Changes, Finished, Prepared, Rootfs, SnapshotError, SnapshotId, Snapshotter, Space, Top, Usage};

const DRIVER: &str = "copy";
const MERGED: &str = "merged";

/// Snapshots as plain copies.
#[derive(Debug)]
pub struct Copy<'a> {
    folders: Folders<'a>,
}

impl<'a> Copy<'a> {
    /// The driver of a store.
    pub fn new(store: &'a Store, roots: &Roots) -> Copy<'a> {
        Copy { folders: Folders::new(store, roots, DRIVER) }
    }

    pub(crate) fn folders(&self) -> &Folders<'a> {
        &self.folders
    }

    /// Fills an empty folder with what layers are together, lowest first.
    fn merge(&self, layers: &[SnapshotId], into: &Path) -> Result<(), SnapshotError> {
        let open = |path: &Path| File::open(path).map_err(file_error("open", path));
        let target = open(into)?;
        for layer in layers {
            let path = self.folders.files(layer);
            merge_layer(open(&path)?.as_fd(), target.as_fd()).map_err(|source| SnapshotError::Copy {
                from: path,
                to: into.to_path_buf(),
                source,
            })?;
        }
        Ok(())
    }

    /// The tree that layers are together, made when it is missing.
    fn merged(&self, layers: &[SnapshotId], top: &SnapshotId) -> Result<PathBuf, SnapshotError> {
        let folder = self.folders.folder(top);
        let merged = folder.join(MERGED);
        if merged.exists() {
            return Ok(merged);
        }
        self.sweep_merging(&folder)?;
        let temporary = folder.join(format!("{MERGED}-{}", Lease::current()?));
        make_folder(&temporary, 0o755)?;
        let whole = self.merge(layers, &temporary).and_then(|()| self.folders.sync());
        let made = whole.and_then(|()| match fs::rename(&temporary, &merged) {
            // Another process was faster, and its tree is as good as ours.
            Err(_) if merged.exists() => remove_folder(&temporary),
            renamed => renamed.map_err(file_error("make", &merged)),
        });
        if made.is_err() {
            // What made it fail is what the caller must hear; the next one sweeps.
            let _ = remove_folder(&temporary);
        }
        made.map(|()| merged)
    }

    /// Removes what dead processes had begun to merge.
    fn sweep_merging(&self, folder: &Path) -> Result<(), SnapshotError> {
        for entry in fs::read_dir(folder).map_err(file_error("read", folder))? {
            let entry = entry.map_err(file_error("read", folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let maker = name.strip_prefix(MERGED).and_then(|rest| rest.strip_prefix('-'));
            if maker.is_some_and(|maker| !maker.parse::<Lease>().is_ok_and(|maker| maker.is_alive())) {
                remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }
}

impl Snapshotter for Copy<'_> {
    fn driver(&self) -> &'static str {
        DRIVER
    }

    fn prepare(&self) -> Result<Prepared, SnapshotError> {
        let id = self.folders.layer_to_fill(|id| make_folder(&self.folders.files(id), 0o755))?;
        let space = Space::Plain(self.folders.files(&id));
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
            self.merge(parents, &self.folders.files(id))?;
            self.folders.sync()
        })
    }

    fn rootfs(&self, id: &SnapshotId) -> Result<Rootfs, SnapshotError> {
        let files = self.folders.files(id);
        match files.exists() {
            true => Ok(Rootfs::folder(files, false)),
            false => Err(SnapshotError::Missing(id.clone())),
        }
    }

    fn view(&self, parents: &[SnapshotId]) -> Result<Rootfs, SnapshotError> {
        match parents.last() {
            Some(top) => Ok(Rootfs::folder(self.merged(parents, top)?, true)),
            None => Ok(Rootfs::overlay(OverlayMount::default())),
        }
    }

    fn changes(&self, id: &SnapshotId) -> Result<Changes, SnapshotError> {
        let parents = self.folders.parents(id)?;
        let below = if parents.is_empty() { None } else { Some(self.view(&parents)?) };
        Ok(Changes { top: Top::Whole(self.folders.files(id)), below })
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage, SnapshotError> {
        let own = usage_of(&self.folders.files(id))?;
        let merged = self.folders.folder(id).join(MERGED);
        let merged = if merged.exists() { usage_of(&merged)? } else { Usage::default() };
        Ok(Usage { bytes: own.bytes + merged.bytes, inodes: own.inodes + merged.inodes })
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        self.folders.remove(id)
    }

    fn sweep(&self) -> Result<usize, SnapshotError> {
        self.folders.sweep()
    }
}
