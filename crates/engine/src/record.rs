//! `containers/<id>/request.json`: the accepted request and what creating the container settled.
//!
//! Written once, when everything else of the container exists, and before the database row loses its lease: a row
//! without a lease always has this file. Only `network connect`, `port add` and their like change it
//! ([`Engine::change_request`]); every start reads it and derives the spec from it afresh. The version is that of [`crate::request::REQUEST_VERSION`]; a file of a newer
//! Hull is refused by name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hull_oci::Digest;
use hull_oci::image::ImageConfig;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::{EngineError, ErrorKind, kind_of};
use crate::id::ContainerId;
use crate::mount_point::MountPoint;
use crate::request::{CreateContainer, REQUEST_VERSION};

/// Name of the file in the container's folder.
pub const FILE_NAME: &str = "request.json";

/// A container as it was created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Version of this form.
    pub version: u32,
    /// Id.
    pub id: ContainerId,
    /// Name without a slash.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// What was asked.
    pub request: CreateContainer,
    /// The image that was found.
    pub image: ImageRef,
    /// The image's wishes.
    pub image_config: ImageConfig,
    /// Id of the writable snapshot.
    pub snapshot: String,
    /// Mounts with volumes named and sources known.
    pub mounts: Vec<MountPoint>,
}

/// Which image a container was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// As the user wrote it.
    pub name: String,
    /// Digest of its configuration; absent for a built-in image.
    pub id: Option<Digest>,
    /// The built-in image.
    pub builtin: Option<Builtin>,
}

/// The images that Hull carries in itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    /// Hull's own binary as the only program, which prints how it sees its world.
    Hello,
    /// The machine's own root file system, read-only, under a private upper layer.
    Host,
}

impl Builtin {
    /// The built-in image of this name.
    pub fn named(name: &str) -> Option<Builtin> {
        match name {
            "hello" => Some(Builtin::Hello),
            "host" => Some(Builtin::Host),
            _ => None,
        }
    }
}

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Read or write.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// It is not what Hull writes.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: serde_json::Error,
    },
    /// It names no snapshot.
    #[error("the record of container {id} is damaged: {snapshot:?} is no snapshot")]
    Snapshot {
        /// The container.
        id: ContainerId,
        /// What it names.
        snapshot: String,
    },
    /// It comes from a newer Hull.
    #[error("{} was written by a newer Hull: it has version {version}, this one knows {REQUEST_VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl RecordError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            RecordError::File { source, .. } => kind_of(source),
            _ => ErrorKind::Internal,
        }
    }
}

impl ContainerRecord {
    /// Reads the record from a container's folder.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn read(folder: &Path) -> Result<ContainerRecord, RecordError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let path = folder.join(FILE_NAME);
        let text =
            fs::read(&path).map_err(|source| RecordError::File { action: "read", path: path.clone(), source })?;
        let damaged = |source| RecordError::Damaged { path: path.clone(), source };
        let Versioned { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version > REQUEST_VERSION {
            return Err(RecordError::Newer { path, version });
        }
        serde_json::from_slice(&text).map_err(damaged)
    }

    /// Writes the record under a temporary name and renames it, so that it is there whole or not at all.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn write(&self, folder: &Path) -> Result<(), RecordError> {
        let path = folder.join(FILE_NAME);
        let text =
            serde_json::to_vec_pretty(self).map_err(|source| RecordError::Damaged { path: path.clone(), source })?;
        replace_file(&path, &text).map_err(|source| RecordError::File { action: "write", path, source })
    }
}

impl Engine {
    /// Changes what was asked of a container, for its next start. Changes happen one after the other: the database's
    /// lock is theirs as well.
    ///
    /// # Errors
    /// What `change` refuses, after which nothing has changed; reading and writing the record.
    pub(crate) fn change_request<T>(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut CreateContainer) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.store().write(|_| {
            let mut record = self.record(id)?;
            let result = change(&mut record.request)?;
            record.write(&self.roots().container(id.as_str()))?;
            Ok(result)
        })
    }
}

/// Writes a file under a temporary name beside it and renames it into place.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ContainerRecord {
        ContainerRecord {
            version: REQUEST_VERSION,
            id: ContainerId::parse(&"ab".repeat(32)).unwrap(),
            name: "web".into(),
            created: Timestamp::UNIX_EPOCH,
            request: CreateContainer { image: "hello".into(), ..CreateContainer::default() },
            image: ImageRef { name: "hello".into(), id: None, builtin: Some(Builtin::Hello) },
            image_config: ImageConfig::default(),
            snapshot: "s1".into(),
            mounts: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        record().write(folder.path()).unwrap();
        assert_eq!(ContainerRecord::read(folder.path()).unwrap(), record());
    }

    #[test]
    fn newer_and_damaged_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, r#"{"version": 99}"#).unwrap();
        assert!(ContainerRecord::read(folder.path()).unwrap_err().to_string().contains("newer Hull"));
        fs::write(&path, "{").unwrap();
        assert!(ContainerRecord::read(folder.path()).unwrap_err().to_string().contains("request.json is damaged"));
    }
}
