//! Volumes as things of their own: made, listed, inspected and removed without a container.
//!
//! Write order of a volume that is made: row with a lease, durably; folder; sync; lease taken off, durably. Of one that
//! is removed: the row leased, durably; folder; row. A volume that a container has is not removed, whoever asks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hull_store::{Lease, StoreError};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::random_hex;
use crate::volume_size;
use crate::volumes::{self, VolumeError};

/// What a volume is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options, as they were written.
    pub options: BTreeMap<String, String>,
    /// The most that it may hold, in bytes.
    pub size_bytes: Option<u64>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSummary {
    /// Name.
    pub name: String,
    /// Whether Hull named it.
    pub anonymous: bool,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// The folder that containers see.
    pub mountpoint: PathBuf,
    /// Containers that have it, by id.
    pub containers: Vec<String>,
}

/// What `hull volume inspect` prints, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeInspect {
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// Always `local`.
    pub driver: &'static str,
    /// Labels; null when there are none.
    pub labels: Option<BTreeMap<String, String>>,
    /// The folder that containers see.
    pub mountpoint: String,
    /// Name.
    pub name: String,
    /// Driver options; null when there are none.
    pub options: Option<BTreeMap<String, String>>,
    /// Always `local`.
    pub scope: &'static str,
}

impl VolumeSummary {
    /// As `hull volume inspect` prints it.
    pub fn inspect(&self) -> VolumeInspect {
        VolumeInspect {
            created_at: self.created.round(jiff::Unit::Second).unwrap_or(self.created).to_string(),
            driver: "local",
            labels: (!self.labels.is_empty()).then(|| self.labels.clone()),
            mountpoint: self.mountpoint.display().to_string(),
            name: self.name.clone(),
            options: (!self.options.is_empty()).then(|| self.options.clone()),
            scope: "local",
        }
    }
}

impl Engine {
    /// Makes a volume; one that is there already stays as it is. Returns its name.
    ///
    /// # Errors
    /// A name that is not allowed; a size where the file system has no project quotas; the disk.
    pub fn create_volume(&self, name: Option<&str>, wanted: &NewVolume) -> Result<String, EngineError> {
        if wanted.size_bytes.is_some() {
            volume_size::check(self.roots())?;
        }
        let name = match name {
            Some(name) => volumes::check_name(name)?.to_owned(),
            None => random_hex(32).map_err(EngineError::path("name a volume in", &self.roots().volumes()))?,
        };
        let anonymous = volumes::is_anonymous_name(&name);
        let text = |map: &BTreeMap<String, String>| serde_json::to_string(map).unwrap_or_else(|_| "{}".to_owned());
        let (labels, options) = (text(&wanted.labels), text(&wanted.options));
        let lease = Lease::current()?;
        self.recover()?;
        let (is_new, project) = self.store().write_durable(|tx| -> Result<_, EngineError> {
            let is_new = volumes::insert_leased(tx, &name, anonymous, &labels, &options, &lease)?;
            let project = match wanted.size_bytes {
                Some(_) if is_new => volume_size::claim(tx, self.roots(), &name)?
                    .map(Some)
                    .ok_or_else(|| VolumeError::NoProject { name: name.clone() })?,
                _ => None,
            };
            Ok((is_new, project))
        })?;
        if is_new {
            volumes::make_folder(self.roots(), &name)?;
            if let (Some(project), Some(bytes)) = (project, wanted.size_bytes) {
                volume_size::limit(self.roots(), &name, project, bytes)?;
            }
            volumes::sync(self.roots())?;
            self.store().write_durable(|tx| volumes::release(tx, &name))?;
        }
        Ok(name)
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// The database's.
    pub fn volumes(&self) -> Result<Vec<VolumeSummary>, EngineError> {
        self.recover()?;
        let mut all = self.store().read(|db| -> Result<Vec<VolumeSummary>, StoreError> {
            let mut statement = db.prepare_cached(&format!("{SELECT} WHERE lease_pid IS NULL ORDER BY name"))?;
            let rows = statement.query_map([], summary)?;
            rows.map(|row| with_containers(db, row?)).collect()
        })?;
        for volume in &mut all {
            volume.mountpoint = volumes::data_path(self.roots(), &volume.name);
        }
        Ok(all)
    }

    /// One volume.
    ///
    /// # Errors
    /// `VolumeError::Missing`.
    pub fn volume(&self, name: &str) -> Result<VolumeSummary, EngineError> {
        let found = self.store().read(|db| -> Result<Option<VolumeSummary>, StoreError> {
            let mut statement = db.prepare_cached(&format!("{SELECT} WHERE name = ?1 AND lease_pid IS NULL"))?;
            let found = statement.query_row([name], summary).optional()?;
            found.map(|volume| with_containers(db, volume)).transpose()
        })?;
        let volume = found.ok_or_else(|| VolumeError::Missing { name: name.to_owned() })?;
        Ok(VolumeSummary { mountpoint: volumes::data_path(self.roots(), name), ..volume })
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// `VolumeError::Missing`, `VolumeError::InUse`.
    pub fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let volume = self.volume(name)?;
        let lease = Lease::current()?;
        let in_use = |containers: Vec<String>| VolumeError::InUse { name: name.to_owned(), containers };
        if !volume.containers.is_empty() {
            return Err(in_use(volume.containers).into());
        }
        // A container may have taken it since.
        if !self.store().write_durable(|tx| volumes::claim_unused(tx, name, &lease))? {
            return Err(in_use(self.volume(name)?.containers).into());
        }
        volumes::remove_folder(self.roots(), name)?;
        Ok(self.store().write(|tx| volumes::forget_abandoned(tx, name))?)
    }
}

const SELECT: &str = "SELECT name, anonymous, created_at, labels, options FROM volumes";

fn summary(row: &Row<'_>) -> rusqlite::Result<VolumeSummary> {
    let created: i64 = row.get(2)?;
    let (labels, options): (String, String) = (row.get(3)?, row.get(4)?);
    Ok(VolumeSummary {
        name: row.get(0)?,
        anonymous: row.get(1)?,
        created: Timestamp::from_nanosecond(i128::from(created)).unwrap_or(Timestamp::UNIX_EPOCH),
        labels: serde_json::from_str(&labels).unwrap_or_default(),
        options: serde_json::from_str(&options).unwrap_or_default(),
        mountpoint: PathBuf::new(),
        containers: Vec::new(),
    })
}

fn with_containers(db: &Connection, volume: VolumeSummary) -> Result<VolumeSummary, StoreError> {
    let query = "SELECT container_id FROM container_volumes WHERE volume = ?1 ORDER BY container_id";
    let mut statement = db.prepare_cached(query)?;
    let containers = statement.query_map([&volume.name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(VolumeSummary { containers, ..volume })
}
