//! A mount of a container once its source is known: what `request.json` records and `inspect` shows.
//!
//! A [`crate::request::MountRequest`] says what was asked; creating the container settles which volume that is and
//! turns the image's own volume paths into anonymous volumes. Nothing is mounted here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::request::Ownership;

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What is mounted.
    #[serde(flatten)]
    pub kind: MountKind,
    /// Host path of a bind mount or of a volume's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Absolute, clean path inside the container.
    pub target: PathBuf,
    /// Read-only.
    pub read_only: bool,
    /// Propagation as asked; `rprivate` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation: Option<String>,
    /// Whose its files are to be.
    #[serde(default, skip_serializing_if = "Ownership::is_default")]
    pub ownership: Ownership,
}

/// What a [`MountPoint`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind {
        /// With what is mounted below it.
        recursive: bool,
        /// Make a missing source folder, also at a later start.
        create: bool,
    },
    /// A volume.
    Volume {
        /// Its name.
        name: String,
        /// Made for this container alone, removed with `--rm` or `rm -v`.
        anonymous: bool,
    },
    /// A tmpfs.
    Tmpfs {
        /// Size limit in bytes.
        size_bytes: Option<u64>,
        /// Permission bits of its root.
        mode: Option<u32>,
        /// Further options.
        options: Vec<String>,
    },
}

impl MountPoint {
    /// The volume's name, when it is one.
    pub fn volume(&self) -> Option<&str> {
        match &self.kind {
            MountKind::Volume { name, .. } => Some(name),
            _ => None,
        }
    }
}
