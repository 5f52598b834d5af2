//! Why the image store could not do what it was asked.
//!
//! Pulling and loading have their own, larger errors, which have this one as a source.

use std::path::PathBuf;

use hull_oci::{Digest, ReferenceError};
use hull_store::{LeaseError, StoreError};

use crate::content::ContentError;
use crate::manifest::{Invalid, ManifestError};
use crate::remove::Conflict;

/// An error of the image store.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A manifest or configuration.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A name that is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// There is no such image.
    #[error("No such image: {name}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// An id prefix that several images have.
    #[error("image id prefix \"{prefix}\" is ambiguous; it matches {}", matches.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Full ids with their names.
        matches: Vec<String>,
    },
    /// A tag was wanted with a digest in its name.
    #[error("refusing to create a tag with a digest reference: {name}")]
    TagWithDigest {
        /// What was asked for.
        name: String,
    },
    /// The image cannot be removed now.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// What the database says about an image cannot be true.
    #[error("image {id} is damaged in {database}: {reason}", database = database.display())]
    Damaged {
        /// The image.
        id: Digest,
        /// The database file.
        database: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl From<rusqlite::Error> for ImageError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<LeaseError> for ImageError {
    fn from(error: LeaseError) -> Self {
        Self::Store(error.into())
    }
}

impl From<Invalid> for ImageError {
    fn from(error: Invalid) -> Self {
        Self::Manifest(error.into())
    }
}
