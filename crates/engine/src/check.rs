//! `hull system check`: every blob by digest, every reference; and what of it can be healed.
//!
//! ```text
//! database      integrity and foreign keys, as SQLite checks them
//! blob          its file is there, has its size and its digest; a file without a row that nobody holds
//! image         its configuration can be read
//! layer         its snapshot is known and its files are there
//! container     its record, its image, its snapshot and the layers below, its volumes
//! volume        its folder; a folder without a row
//! ```
//!
//! Repairing begins with a collection, which takes what killed commands left. Then: a damaged blob's file goes, so that the
//! next pull fetches it again; a layer without files is unpacked again from good blobs, under the snapshot that it had, so
//! that containers find it; a volume's missing folder is made, and a folder without a row is a volume again, because it
//! may hold somebody's data. An image whose configuration is gone is removed only when no container has it. What is left
//! is named. The files inside a layer are not compared with anything: only their presence is known.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use hull_image::Image;
use hull_image::content::Hasher;
use hull_oci::Digest;
use hull_snapshot::{SnapshotId, Snapshotter};
use hull_store::{HoldKind, StoreError, is_held};
use rusqlite::Connection;
use serde::Serialize;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::record::ContainerRecord;
use crate::row::{self, ContainerRow};
use crate::volumes;

/// How often, and in which distance, a folder without a row is looked at before it counts as left over.
const REMOVAL_LOOKS: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// Bytes hashed at a time.
const PART_BYTES: usize = 256 << 10;

/// What was looked at and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CheckReport {
    /// Blobs whose digests were compared.
    pub blobs: usize,
    /// Images.
    pub images: usize,
    /// Unpacked layers.
    pub layers: usize,
    /// Containers.
    pub containers: usize,
    /// Volumes.
    pub volumes: usize,
    /// What is wrong, or was.
    pub findings: Vec<Finding>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// database, blob, image, layer, container or volume.
    pub kind: &'static str,
    /// Its digest, id or name.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
    /// What repairing did about it; absent when nothing was done or nothing could be.
    pub healed: Option<String>,
}

impl CheckReport {
    /// Whether nothing is wrong any more.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.healed.is_some())
    }

    fn found(&mut self, kind: &'static str, name: &str, problem: impl Into<String>, healed: Option<String>) {
        self.findings.push(Finding { kind, name: name.to_owned(), problem: problem.into(), healed });
    }
}

impl Engine {
    /// Checks everything, and heals what can be healed when that is asked for.
    ///
    /// # Errors
    /// What keeps the check from going on: the database, a folder that cannot be listed.
    pub fn check(&self, repair: bool) -> Result<CheckReport, EngineError> {
        let mut report = CheckReport::default();
        self.check_database(&mut report)?;
        if repair {
            self.collect()?;
        }
        self.check_blobs(&mut report, repair)?;
        self.check_images(&mut report, repair)?;
        self.check_layers(&mut report, repair)?;
        self.check_containers(&mut report)?;
        self.check_volumes(&mut report, repair)?;
        Ok(report)
    }

    fn check_database(&self, report: &mut CheckReport) -> Result<(), EngineError> {
        let path = self.store().path().display().to_string();
        let problems = self.strings("SELECT integrity_check FROM pragma_integrity_check")?;
        let keys =
            self.strings("SELECT \"table\" || ' refers to a missing ' || parent FROM pragma_foreign_key_check")?;
        for problem in problems.into_iter().filter(|problem| problem != "ok").chain(keys) {
            report.found("database", &path, problem, None);
        }
        Ok(())
    }

    fn check_blobs(&self, report: &mut CheckReport, repair: bool) -> Result<(), EngineError> {
        let images = self.image_store();
        let content = images.content();
        let files = content.digests().map_err(hull_image::ImageError::from)?;
        let rows: HashSet<String> = self.strings("SELECT digest FROM blobs")?.into_iter().collect();
        for digest in files.iter().filter(|digest| !rows.contains(digest.as_str())) {
            let held = self.store().read(|db| Ok::<_, EngineError>(is_held(db, HoldKind::Blob, digest.as_str())?))?;
            if !held && content.path(digest).exists() {
                report.found("blob", digest.as_str(), "its file belongs to nothing", None);
            }
        }
        for text in &rows {
            let Ok(digest) = Digest::parse(text) else {
                report.found("blob", text, "is no digest", None);
                continue;
            };
            report.blobs += 1;
            let path = content.path(&digest);
            let problem = match digest_of(&path, &digest) {
                Ok(found) if found == digest => continue,
                Ok(found) => format!("its content has the digest {found}"),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if self.lacks_file(text, &path)? {
                        report.found("blob", text, "its file is missing: pull or load its image again", None);
                    }
                    continue;
                }
                Err(error) => format!("cannot be read: {error}"),
            };
            let problem = format!("{problem}: pull or load its image again");
            if repair {
                fs::remove_file(&path).map_err(EngineError::path("remove", &path))?;
            }
            report.found("blob", text, problem, None);
        }
        Ok(())
    }

    /// Whether a blob without a file is still known, and nobody is just removing it or bringing it again.
    fn lacks_file(&self, digest: &str, path: &Path) -> Result<bool, EngineError> {
        self.store().write(|tx| {
            let mut known = tx.prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1").map_err(StoreError::from)?;
            Ok(known.exists([digest]).map_err(StoreError::from)? && !path.exists())
        })
    }

    fn check_images(&self, report: &mut CheckReport, repair: bool) -> Result<(), EngineError> {
        for text in self.strings("SELECT id FROM images ORDER BY id")? {
            report.images += 1;
            let Ok(id) = Digest::parse(&text) else {
                report.found("image", &text, "is no digest", None);
                continue;
            };
            let Err(error) = self.image_store().get(&id) else { continue };
            let names = self.store().read(|db| names_of(db, &text))?;
            let problem = format!("its configuration cannot be read ({error}); names: {}", names.join(", "));
            let healed = if repair { self.forget_image(&text)? } else { None };
            report.found("image", &text, problem, healed);
        }
        Ok(())
    }

    /// Removes an image of which nothing can be known any more, unless a container has it.
    fn forget_image(&self, id: &str) -> Result<Option<String>, EngineError> {
        let forgotten = self.store().write_durable(|tx| -> Result<bool, StoreError> {
            let used = "SELECT EXISTS (SELECT 1 FROM containers WHERE image_id = ?1)";
            if tx.query_row(used, [id], |row| row.get(0))? {
                return Ok(false);
            }
            tx.execute("DELETE FROM image_names WHERE image_id = ?1", [id])?;
            tx.execute("DELETE FROM images WHERE id = ?1", [id])?;
            Ok(true)
        })?;
        if forgotten {
            self.collect()?;
        }
        Ok(forgotten.then(|| "removed with its names; pull it again".to_owned()))
    }

    fn check_layers(&self, report: &mut CheckReport, repair: bool) -> Result<(), EngineError> {
        let layers = self.store().read(layer_rows)?;
        for (chain_id, snapshot) in layers {
            report.layers += 1;
            let problem = match SnapshotId::parse(&snapshot) {
                None => "its snapshot's name is none".to_owned(),
                Some(id) => match self.snapshots().usage(&id) {
                    Ok(_) => continue,
                    Err(error) => format!("its files are not there: {error}"),
                },
            };
            let healed = if repair { self.unpack_again(&chain_id, &snapshot)? } else { None };
            report.found("layer", &chain_id, problem, healed);
        }
        Ok(())
    }

    /// Unpacks a layer whose files are gone, and gives it the snapshot's name that it had.
    fn unpack_again(&self, chain_id: &str, snapshot: &str) -> Result<Option<String>, EngineError> {
        let images = self.images()?;
        let has_it = |image: &&Image| image.layers.iter().any(|layer| layer.chain_id.as_str() == chain_id);
        let Some(image) = images.iter().find(has_it) else { return Ok(None) };
        self.store().write_durable(|tx| -> Result<(), StoreError> {
            tx.execute("DELETE FROM layers WHERE snapshot_id = ?1", [snapshot])?;
            tx.execute("DELETE FROM snapshots WHERE id = ?1", [snapshot])?;
            Ok(())
        })?;
        if let Some(old) = SnapshotId::parse(snapshot) {
            self.snapshots().remove(&old)?;
        }
        if self.ensure_unpacked(image).is_err() {
            return Ok(None);
        }
        let Some(new) = self.snapshots().layer(chain_id)? else { return Ok(None) };
        let query = "SELECT driver FROM snapshots WHERE id = ?1";
        let driver: String =
            self.store().read(|db| Ok::<_, StoreError>(db.query_row(query, [new.as_str()], |row| row.get(0))?))?;
        let folder = self.roots().snapshots().join(driver);
        fs::rename(folder.join(new.as_str()), folder.join(snapshot)).map_err(EngineError::path("rename", &folder))?;
        self.store().write_durable(|tx| -> Result<(), StoreError> {
            tx.execute("UPDATE layers SET snapshot_id = ?2 WHERE snapshot_id = ?1", [new.as_str(), snapshot])?;
            tx.execute("UPDATE snapshots SET id = ?2 WHERE id = ?1", [new.as_str(), snapshot])?;
            Ok(())
        })?;
        Ok(Some("unpacked again".to_owned()))
    }

    fn check_containers(&self, report: &mut CheckReport) -> Result<(), EngineError> {
        for row in self.store().read(row::all)?.into_iter().filter(|row| row.lease.is_none()) {
            report.containers += 1;
            let problems = self.problems_of(&row);
            // One that another Hull has begun to remove meanwhile may lack anything.
            if problems.is_empty() || self.row(row.id.as_str()).ok().as_ref() != Some(&row) {
                continue;
            }
            for problem in problems {
                report.found("container", &row.name, problem, None);
            }
        }
        Ok(())
    }

    /// What a container lacks.
    fn problems_of(&self, row: &ContainerRow) -> Vec<String> {
        let record = match ContainerRecord::read(&self.roots().container(row.id.as_str())) {
            Ok(record) => record,
            Err(error) => return vec![format!("{error}: remove it with `hull rm`")],
        };
        let Some(snapshot) = SnapshotId::parse(&record.snapshot) else {
            return vec![format!("{:?} is no snapshot", record.snapshot)];
        };
        if let Err(error) = self.snapshots().usage(&snapshot) {
            return vec![format!("its own files: {error}")];
        }
        let layers = self.snapshots().parents(&snapshot).unwrap_or_default();
        let layers = layers.iter().filter_map(|layer| {
            let error = self.snapshots().usage(layer).err()?;
            Some(format!("the layer {layer} below it: {error}"))
        });
        let volumes = record.mounts.iter().filter_map(|mount| mount.volume());
        let lost = volumes.filter(|volume| !volumes::data_path(self.roots(), volume).is_dir());
        layers.chain(lost.map(|volume| format!("its volume {volume} has no folder"))).collect()
    }

    fn check_volumes(&self, report: &mut CheckReport, repair: bool) -> Result<(), EngineError> {
        let rows = self.store().read(volumes::whole_names)?;
        for name in &rows {
            report.volumes += 1;
            let is_missing = || -> Result<bool, EngineError> {
                let known = self.store().write(|tx| volumes::whole_names(tx))?;
                Ok(known.contains(name) && !volumes::data_path(self.roots(), name).is_dir())
            };
            if !is_missing()? {
                continue;
            }
            if repair {
                volumes::make_folder(self.roots(), name)?;
            }
            let healed = repair.then(|| "an empty folder was made; its content is lost".to_owned());
            report.found("volume", name, "its folder is missing", healed);
        }
        let folder = self.roots().volumes();
        let failed = || EngineError::path("read", &folder);
        let entries = fs::read_dir(&folder).map_err(failed())?.collect::<Result<Vec<_>, _>>().map_err(failed())?;
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !self.stays_alone(&name, &entry.path())? {
                continue;
            }
            let adopted = repair && volumes::is_name(&name);
            if adopted {
                self.store().write_durable(|tx| volumes::insert_whole(tx, &name, "{}"))?;
            }
            let healed = adopted.then(|| "is a volume again".to_owned());
            report.found("volume", &name, "its folder belongs to nothing", healed);
        }
        Ok(())
    }

    /// Whether a volume's folder has no row and goes on having none. The folder of an anonymous volume goes after its
    /// row, so whoever removes one now is given a moment.
    fn stays_alone(&self, name: &str, folder: &Path) -> Result<bool, EngineError> {
        for _ in 0..REMOVAL_LOOKS {
            if !folder.exists() || self.store().read(volumes::all_names)?.contains(name) {
                return Ok(false);
            }
            std::thread::sleep(REMOVAL_PAUSE);
        }
        Ok(true)
    }

    /// The first column of a query.
    pub(crate) fn strings(&self, sql: &str) -> Result<Vec<String>, EngineError> {
        self.store().read(|db| {
            let mut statement = db.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

fn layer_rows(db: &Connection) -> Result<Vec<(String, String)>, StoreError> {
    let mut statement = db.prepare_cached("SELECT chain_id, snapshot_id FROM layers ORDER BY chain_id")?;
    Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

fn names_of(db: &Connection, image: &str) -> Result<Vec<String>, StoreError> {
    let mut statement = db.prepare_cached("SELECT name FROM image_names WHERE image_id = ?1 ORDER BY name")?;
    Ok(statement.query_map([image], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

fn digest_of(path: &Path, like: &Digest) -> std::io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let (mut hasher, mut part) = (Hasher::like(like), vec![0; PART_BYTES]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hasher.finish()),
            length => hasher.update(&part[..length]),
        }
    }
}
