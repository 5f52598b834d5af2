//! The rows and folders of a driver's snapshots, which all drivers keep in the same way.
//!
//! ```text
//! snapshots/<driver>/<id>/
//!   ...          a layer, in the driver's form
//!   fs/, work/   a container's own files, and overlay's working folder beside them
//!   parents      ids of the layers below, one a line, lowest first, containers only
//! ```
//!
//! Write order of a layer: row with a lease, folder, files, syncfs, then in one durable transaction the lease goes and
//! the chain id comes. Of a container: row with a lease, folder, row released; it need not survive a power cut. Removal:
//! row (of a layer durably: [`crate::forget_unused`]), then folder. So a folder without a row and a row with a dead lease are always rubbish, and [`Folders::sweep`]
//! needs no other knowledge.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hull_store::{Lease, Roots, Store};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{Finished, Prepared, SnapshotError, SnapshotId, Usage};

/// How folders begin in which a process tries a driver out; its lease follows.
pub(crate) const TRYING: &str = "trying-";

/// The snapshots of one driver.
#[derive(Debug)]
pub(crate) struct Folders<'a> {
    store: &'a Store,
    root: PathBuf,
    driver: &'static str,
}

/// An error of a file operation.
pub(crate) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_path_buf();
    move |source| SnapshotError::File { action, path, source }
}

impl<'a> Folders<'a> {
    /// Those of `driver` in a store.
    pub fn new(store: &'a Store, roots: &Roots, driver: &'static str) -> Folders<'a> {
        Folders { store, root: roots.snapshots().join(driver), driver }
    }

    /// The driver's own folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a snapshot.
    pub fn folder(&self, id: &SnapshotId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// The folder that holds a snapshot's own files.
    pub fn files(&self, id: &SnapshotId) -> PathBuf {
        self.folder(id).join("fs")
    }

    /// The folder that overlay works in.
    pub fn work(&self, id: &SnapshotId) -> PathBuf {
        self.folder(id).join("work")
    }

    /// Makes a leased row and its folder, and has it filled; a failure leaves neither.
    fn make(
        &self,
        kind: &str,
        fill: impl FnOnce(&SnapshotId) -> Result<(), SnapshotError>,
    ) -> Result<SnapshotId, SnapshotError> {
        let id = SnapshotId::new().map_err(SnapshotError::Random)?;
        let lease = Lease::current()?;
        self.store.write(|tx| insert(tx, &id, self.driver, kind, &lease))?;
        // Layers hold programs that get other users' rights: nobody but root comes near them outside of a container.
        let made = make_folder(&self.root, 0o700)
            .and_then(|()| make_folder(&self.folder(&id), 0o711))
            .and_then(|()| fill(&id));
        if made.is_err() {
            // What made it fail is what the caller must hear; sweep takes the rest.
            let _ = self.remove(&id);
        }
        made.map(|()| id)
    }

    /// A layer to be made, leased to this process.
    pub fn layer_to_fill(
        &self,
        fill: impl FnOnce(&SnapshotId) -> Result<(), SnapshotError>,
    ) -> Result<SnapshotId, SnapshotError> {
        self.make("layer", fill)
    }

    /// A container's snapshot over `parents`, whose own files `fill` makes.
    pub fn container(
        &self,
        parents: &[SnapshotId],
        fill: impl FnOnce(&SnapshotId) -> Result<(), SnapshotError>,
    ) -> Result<SnapshotId, SnapshotError> {
        self.make("container", |id| {
            let lines: String = parents.iter().map(|parent| format!("{parent}\n")).collect();
            let path = self.folder(id).join("parents");
            fs::write(&path, lines).map_err(file_error("write", &path))?;
            make_folder(&self.files(id), 0o755)?;
            fill(id)?;
            self.store.write(|tx| release(tx, id))
        })
    }

    /// The layers below a container's snapshot, lowest first.
    pub fn parents(&self, id: &SnapshotId) -> Result<Vec<SnapshotId>, SnapshotError> {
        let path = self.folder(id).join("parents");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SnapshotError::Missing(id.clone())),
            other => other.map_err(file_error("read", &path))?,
        };
        text.lines().map(|line| SnapshotId::parse(line).ok_or(SnapshotError::Damaged(path.clone()))).collect()
    }

    /// As [`crate::Snapshotter::abandon`].
    pub fn abandon(&self, prepared: &Prepared) -> Result<(), SnapshotError> {
        // The folder first: on a full disk the database has no room for its change until the files are gone.
        remove_folder(&self.folder(&prepared.id))?;
        self.remove(&prepared.id)
    }

    /// Everything in every snapshot is on disk when this returns.
    pub fn sync(&self) -> Result<(), SnapshotError> {
        let root = File::open(&self.root).map_err(file_error("open", &self.root))?;
        rustix::fs::syncfs(&root).map_err(|errno| file_error("sync", &self.root)(errno.into()))
    }

    /// As [`crate::Snapshotter::commit`].
    pub fn commit(&self, layers: &[Finished]) -> Result<Vec<SnapshotId>, SnapshotError> {
        if layers.is_empty() {
            return Ok(Vec::new());
        }
        self.sync()?;
        let kept = self.store.write_durable(|tx| {
            layers.iter().map(|layer| commit_one(tx, self.driver, layer)).collect::<Result<Vec<_>, SnapshotError>>()
        })?;
        for (layer, kept) in layers.iter().zip(&kept) {
            if layer.prepared.id != *kept {
                self.remove(&layer.prepared.id)?;
            }
        }
        Ok(kept)
    }

    /// As [`crate::Snapshotter::layer`].
    pub fn layer(&self, chain_id: &str) -> Result<Option<SnapshotId>, SnapshotError> {
        self.store.read(|db| find_layer(db, self.driver, chain_id))
    }

    /// Whether a snapshot is known.
    pub fn is_known(&self, id: &SnapshotId) -> Result<bool, SnapshotError> {
        self.store.read(|db| has_row(db, id))
    }

    /// Forgets a snapshot; its folder is rubbish from then on.
    pub fn forget(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        self.store.write(|tx| {
            tx.execute("DELETE FROM layers WHERE snapshot_id = ?1 AND driver = ?2", params![id.as_str(), self.driver])?;
            tx.execute("DELETE FROM snapshots WHERE id = ?1", [id.as_str()])?;
            Ok::<_, SnapshotError>(())
        })
    }

    /// Removes a snapshot's row and folder.
    pub fn remove(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        self.forget(id)?;
        remove_folder(&self.folder(id))
    }

    /// As [`crate::Snapshotter::sweep`].
    pub fn sweep(&self) -> Result<usize, SnapshotError> {
        let dead = self.store.read(|db| dead_rows(db, self.driver))?;
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
            let name = entry.file_name().to_string_lossy().into_owned();
            let trier = name.strip_prefix(TRYING).and_then(|lease| lease.parse::<Lease>().ok());
            if trier.is_some_and(|trier| !trier.is_alive()) {
                remove_folder(&entry.path())?;
                removed += 1;
            }
            let Some(id) = SnapshotId::parse(&name) else { continue };
            // The row comes before the folder, so one that is missing now was missing when the folder was seen.
            if !self.is_known(&id)? {
                remove_folder(&entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Makes a folder and its parents where missing.
pub(crate) fn make_folder(path: &Path, mode: u32) -> Result<(), SnapshotError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(file_error("make", path))
}

/// Removes a folder with everything in it, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Gives a top the mode and owner of the layer below: overlay shows those of the topmost directory as the root's.
pub(crate) fn own_as(to: &Path, mode: u32, uid: u32, gid: u32) -> Result<(), SnapshotError> {
    std::os::unix::fs::chown(to, Some(uid), Some(gid)).map_err(file_error("change", to))?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777);
    fs::set_permissions(to, permissions).map_err(file_error("change", to))
}

/// What a folder's content uses, each inode once.
pub(crate) fn usage_of(folder: &Path) -> Result<Usage, SnapshotError> {
    let mut usage = Usage::default();
    add_usage(folder, &mut usage, &mut HashSet::new())?;
    Ok(usage)
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

fn insert(tx: &Transaction<'_>, id: &SnapshotId, driver: &str, kind: &str, lease: &Lease) -> Result<(), SnapshotError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (pid, start, boot) = lease.columns();
    tx.execute(
        "INSERT INTO snapshots (id, driver, kind, created_at, lease_pid, lease_start, lease_boot)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![id.as_str(), driver, kind, i64::try_from(now.as_nanos()).unwrap_or(i64::MAX), pid, start, boot],
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
fn commit_one(tx: &Transaction<'_>, driver: &str, layer: &Finished) -> Result<SnapshotId, SnapshotError> {
    if let Some(known) = find_layer(tx, driver, &layer.chain_id)? {
        return Ok(known);
    }
    release(tx, &layer.prepared.id)?;
    tx.execute(
        "INSERT INTO layers (chain_id, driver, snapshot_id, diff_id, size_bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            layer.chain_id,
            driver,
            layer.prepared.id.as_str(),
            layer.diff_id,
            i64::try_from(layer.size_bytes).unwrap_or(i64::MAX)
        ],
    )?;
    Ok(layer.prepared.id.clone())
}

fn find_layer(db: &Connection, driver: &str, chain_id: &str) -> Result<Option<SnapshotId>, SnapshotError> {
    let found: Option<String> = db
        .prepare_cached("SELECT snapshot_id FROM layers WHERE chain_id = ?1 AND driver = ?2")?
        .query_row(params![chain_id, driver], |row| row.get(0))
        .optional()?;
    Ok(found.as_deref().and_then(SnapshotId::parse))
}

fn has_row(db: &Connection, id: &SnapshotId) -> Result<bool, SnapshotError> {
    Ok(db.query_row("SELECT 1 FROM snapshots WHERE id = ?1", [id.as_str()], |_| Ok(())).optional()?.is_some())
}

/// Snapshots whose makers died before they were finished.
fn dead_rows(db: &Connection, driver: &str) -> Result<Vec<SnapshotId>, SnapshotError> {
    let mut statement = db.prepare(
        "SELECT id, lease_pid, lease_start, lease_boot FROM snapshots WHERE driver = ?1 AND lease_pid IS NOT NULL",
    )?;
    let rows = statement.query_map([driver], |row| {
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
