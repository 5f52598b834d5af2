//! The overlay driver: each layer a folder, each container a folder over them.
//!
//! ```text
//! snapshots/overlay/<id>/
//!   fs/          a layer's files with overlay's whiteouts, or a container's changes
//!   work/        overlay's own, containers only
//!   parents      ids of the layers below, one a line, lowest first, containers only
//! ```
//!
//! Write order of a layer: row with a lease, folder, files, syncfs, then in one durable transaction the lease goes and
//! the chain id comes. Of a container: row with a lease, folder, row released; it need not survive a power cut. Removal:
//! row, then folder. So a folder without a row and a row with a dead lease are always rubbish, and [`Overlay::sweep`]
//! needs no other knowledge.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hull_kernel::mounts::overlay::OverlayMount;
use hull_store::{Lease, Roots, Store};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{Changes, Finished, Prepared, Rootfs, SnapshotError, SnapshotId, Snapshotter, Top, Usage};

const DRIVER: &str = "overlay";

/// Snapshots as overlay directories.
#[derive(Debug)]
pub struct Overlay<'a> {
    store: &'a Store,
    root: PathBuf,
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_path_buf();
    move |source| SnapshotError::File { action, path, source }
}

impl<'a> Overlay<'a> {
    /// The driver of a store.
    pub fn new(store: &'a Store, roots: &Roots) -> Overlay<'a> {
        Overlay { store, root: roots.snapshots().join(DRIVER) }
    }

    /// The folder of a snapshot.
    fn folder(&self, id: &SnapshotId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// The folder that holds a snapshot's own files.
    pub fn files(&self, id: &SnapshotId) -> PathBuf {
        self.folder(id).join("fs")
    }

    fn make(&self, kind: &str) -> Result<SnapshotId, SnapshotError> {
        let id = SnapshotId::new().map_err(SnapshotError::Random)?;
        let lease = Lease::current()?;
        self.store.write(|tx| insert(tx, &id, kind, &lease))?;
        let folder = self.folder(&id);
        let made = make_folder(&self.root, 0o711)
            .and_then(|()| make_folder(&folder, 0o711))
            .and_then(|()| make_folder(&folder.join("fs"), 0o755));
        match made {
            Ok(()) => Ok(id),
            Err(error) => {
                // What made it fail is what the caller must hear; sweep takes the rest.
                let _ = self.remove(&id);
                Err(error)
            }
        }
    }

    fn fill_container(&self, id: &SnapshotId, parents: &[SnapshotId]) -> Result<(), SnapshotError> {
        let folder = self.folder(id);
        make_folder(&folder.join("work"), 0o711)?;
        let lines: String = parents.iter().map(|parent| format!("{parent}\n")).collect();
        let path = folder.join("parents");
        fs::write(&path, lines).map_err(file_error("write", &path))?;
        if let Some(top) = parents.last() {
            copy_root_attributes(&self.files(top), &folder.join("fs"))?;
        }
        self.store.write(|tx| release(tx, id))
    }

    fn parents(&self, id: &SnapshotId) -> Result<Vec<SnapshotId>, SnapshotError> {
        let path = self.folder(id).join("parents");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SnapshotError::Missing(id.clone())),
            other => other.map_err(file_error("read", &path))?,
        };
        text.lines().map(|line| SnapshotId::parse(line).ok_or(SnapshotError::Damaged(path.clone()))).collect()
    }

    /// Folders of layers as overlay wants them: topmost first.
    fn stack(&self, parents: &[SnapshotId]) -> Vec<PathBuf> {
        parents.iter().rev().map(|parent| self.files(parent)).collect()
    }
}

impl Snapshotter for Overlay<'_> {
    fn driver(&self) -> &'static str {
        DRIVER
    }

    fn prepare(&self) -> Result<Prepared, SnapshotError> {
        let id = self.make("layer")?;
        let folder = self.files(&id);
        Ok(Prepared { id, folder })
    }

    fn abandon(&self, prepared: Prepared) -> Result<(), SnapshotError> {
        // The folder first: on a full disk the database has no room for its change until the files are gone.
        remove_folder(&self.folder(&prepared.id))?;
        self.remove(&prepared.id)
    }

    fn commit(&self, layers: Vec<Finished>) -> Result<Vec<SnapshotId>, SnapshotError> {
        if layers.is_empty() {
            return Ok(Vec::new());
        }
        let root = File::open(&self.root).map_err(file_error("open", &self.root))?;
        rustix::fs::syncfs(&root).map_err(|errno| file_error("sync", &self.root)(errno.into()))?;
        let kept = self.store.write_durable(|tx| {
            layers.iter().map(|layer| commit_one(tx, layer)).collect::<Result<Vec<_>, SnapshotError>>()
        })?;
        for (layer, kept) in layers.iter().zip(&kept) {
            if layer.prepared.id != *kept {
                self.remove(&layer.prepared.id)?;
            }
        }
        Ok(kept)
    }

    fn layer(&self, chain_id: &str) -> Result<Option<SnapshotId>, SnapshotError> {
        self.store.read(|db| find_layer(db, chain_id))
    }

    fn container(&self, parents: &[SnapshotId]) -> Result<SnapshotId, SnapshotError> {
        let id = self.make("container")?;
        match self.fill_container(&id, parents) {
            Ok(()) => Ok(id),
            Err(error) => {
                let _ = self.remove(&id);
                Err(error)
            }
        }
    }

    fn rootfs(&self, id: &SnapshotId) -> Result<Rootfs, SnapshotError> {
        let lowers = self.stack(&self.parents(id)?);
        let upper = Some((self.files(id), self.folder(id).join("work")));
        Ok(Rootfs::overlay(OverlayMount { lowers, upper, volatile: false }))
    }

    fn view(&self, parents: &[SnapshotId]) -> Result<Rootfs, SnapshotError> {
        Ok(Rootfs::overlay(OverlayMount { lowers: self.stack(parents), upper: None, volatile: false }))
    }

    fn changes(&self, id: &SnapshotId) -> Result<Changes, SnapshotError> {
        let parents = self.parents(id)?;
        let below = if parents.is_empty() { None } else { Some(self.view(&parents)?) };
        Ok(Changes { top: Top::Difference(self.files(id)), below })
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage, SnapshotError> {
        let mut usage = Usage::default();
        let mut seen = HashSet::new();
        add_usage(&self.files(id), &mut usage, &mut seen)?;
        Ok(usage)
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        self.store.write(|tx| {
            tx.execute("DELETE FROM layers WHERE snapshot_id = ?1 AND driver = ?2", params![id.as_str(), DRIVER])?;
            tx.execute("DELETE FROM snapshots WHERE id = ?1", [id.as_str()])?;
            Ok::<_, SnapshotError>(())
        })?;
        remove_folder(&self.folder(id))
    }

    fn sweep(&self) -> Result<usize, SnapshotError> {
        let dead = self.store.read(dead_rows)?;
        for id in &dead {
            self.remove(id)?;
        }
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(dead.len()),
            other => other.map_err(file_error("read", &self.root))?,
        };
        let mut removed = dead.len();
        for entry in entries {
            let entry = entry.map_err(file_error("read", &self.root))?;
            let Some(id) = entry.file_name().to_str().and_then(SnapshotId::parse) else { continue };
            // The row comes before the folder, so one that is missing now was missing when the folder was seen.
            if !self.store.read(|db| has_row(db, &id))? {
                remove_folder(&entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<(), SnapshotError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(file_error("make", path))
}

fn remove_folder(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Overlay shows the mode and owner of the topmost directory as those of the root.
fn copy_root_attributes(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    let metadata = fs::metadata(from).map_err(file_error("read", from))?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid())).map_err(file_error("change", to))?;
    fs::set_permissions(to, metadata.permissions()).map_err(file_error("change", to))
}

fn add_usage(folder: &Path, usage: &mut Usage, seen: &mut HashSet<(u64, u64)>) -> Result<(), SnapshotError> {
    for entry in fs::read_dir(folder).map_err(file_error("read", folder))? {
        let entry = entry.map_err(file_error("read", folder))?;
        let metadata = match entry.metadata() {
            // A running container removes files while they are being counted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(file_error("read", &entry.path()))?,
        };
        if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        // st_blocks counts 512 bytes whatever the file system's block size is (stat(2)).
        usage.bytes += metadata.blocks() * 512;
        usage.inodes += 1;
        if metadata.is_dir() {
            add_usage(&entry.path(), usage, seen)?;
        }
    }
    Ok(())
}

fn insert(tx: &Transaction<'_>, id: &SnapshotId, kind: &str, lease: &Lease) -> Result<(), SnapshotError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (pid, start, boot) = lease.columns();
    tx.execute(
        "INSERT INTO snapshots (id, driver, kind, created_at, lease_pid, lease_start, lease_boot)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![id.as_str(), DRIVER, kind, i64::try_from(now.as_nanos()).unwrap_or(i64::MAX), pid, start, boot],
    )?;
    Ok(())
}

fn release(tx: &Transaction<'_>, id: &SnapshotId) -> Result<(), SnapshotError> {
    let released = tx.execute(
        "UPDATE snapshots SET lease_pid = NULL, lease_start = NULL, lease_boot = NULL WHERE id = ?1",
        [id.as_str()],
    )?;
    if released == 1 { Ok(()) } else { Err(SnapshotError::Missing(id.clone())) }
}

/// Commits one layer unless its chain id is there already; returns the snapshot that the chain id has now.
fn commit_one(tx: &Transaction<'_>, layer: &Finished) -> Result<SnapshotId, SnapshotError> {
    if let Some(known) = find_layer(tx, &layer.chain_id)? {
        return Ok(known);
    }
    release(tx, &layer.prepared.id)?;
    tx.execute(
        "INSERT INTO layers (chain_id, driver, snapshot_id, diff_id, size_bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            layer.chain_id,
            DRIVER,
            layer.prepared.id.as_str(),
            layer.diff_id,
            i64::try_from(layer.size_bytes).unwrap_or(i64::MAX)
        ],
    )?;
    Ok(layer.prepared.id.clone())
}

fn find_layer(db: &Connection, chain_id: &str) -> Result<Option<SnapshotId>, SnapshotError> {
    let found: Option<String> = db
        .prepare_cached("SELECT snapshot_id FROM layers WHERE chain_id = ?1 AND driver = ?2")?
        .query_row(params![chain_id, DRIVER], |row| row.get(0))
        .optional()?;
    Ok(found.as_deref().and_then(SnapshotId::parse))
}

fn has_row(db: &Connection, id: &SnapshotId) -> Result<bool, SnapshotError> {
    Ok(db.query_row("SELECT 1 FROM snapshots WHERE id = ?1", [id.as_str()], |_| Ok(())).optional()?.is_some())
}

/// Snapshots whose makers died before they were finished.
fn dead_rows(db: &Connection) -> Result<Vec<SnapshotId>, SnapshotError> {
    let mut statement = db.prepare(
        "SELECT id, lease_pid, lease_start, lease_boot FROM snapshots WHERE driver = ?1 AND lease_pid IS NOT NULL",
    )?;
    let rows = statement.query_map([DRIVER], |row| {
        let id: String = row.get(0)?;
        Ok((id, Lease::from_columns(row.get(1)?, row.get(2)?, row.get(3)?)))
    })?;
    let mut dead = Vec::new();
    for row in rows {
        let (id, lease) = row?;
        if let (Some(id), Some(lease)) = (SnapshotId::parse(&id), lease)
            && !lease.is_alive()
        {
            dead.push(id);
        }
    }
    Ok(dead)
}
