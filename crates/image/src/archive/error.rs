//! Why an archive could not be taken in. Every variant names the entry that it is about.

use std::io;
use std::path::PathBuf;

use hull_oci::{Digest, Platform, ReferenceError};

use super::changes::ChangeError;
use crate::content::ContentError;
use crate::manifest::Invalid;
use crate::{ImageError, ManifestError};

/// An error of [`super::load`] or [`super::import`].
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The input cannot be read, or its compression is broken.
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
    /// The input ends inside something.
    #[error("the archive is truncated in {entry}")]
    Truncated {
        /// The entry, or what it ends in.
        entry: String,
    },
    /// It is not a tar archive.
    #[error("not a tar archive: {reason}")]
    NotTar {
        /// What is wrong, and where.
        reason: String,
    },
    /// It is a tar archive, but holds no image.
    #[error(
        "the archive has neither manifest.json (docker-archive) nor index.json (oci-archive); a root file system is \
         taken in by import"
    )]
    NoImage,
    /// What docker wrote before version 1.10.
    #[error("the archive has no manifest.json: the format of docker before 1.10 is not supported")]
    Legacy,
    /// A folder that holds no images.
    #[error("{} is neither an OCI layout (oci-layout, index.json) nor a dir: folder (version, manifest.json)", .0.display())]
    NotALayout(PathBuf),
    /// A file or folder of a layout.
    #[error("cannot {action} {}", path.display())]
    Folder {
        /// Open, read, list.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// None of the images is for the platform that was asked for.
    #[error("the archive has no image for {wanted}; it has {}", offered.join(", "))]
    Platform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        offered: Vec<String>,
    },
    /// There is nothing in it.
    #[error("the archive is empty")]
    Empty,
    /// An entry's name leaves the archive or is no text.
    #[error("unsafe entry name \"{name}\" in the archive: {reason}")]
    Name {
        /// The name, with what is no text replaced.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two entries have one name and different content.
    #[error("the archive has two different entries named {entry}")]
    Duplicate {
        /// The name.
        entry: String,
    },
    /// A document is longer than allowed.
    #[error("{entry} in the archive is longer than {limit_bytes} bytes")]
    TooLong {
        /// The entry.
        entry: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// The archive has more entries than images can need.
    #[error(
        "the archive has more than {entries_max} files and links, or more than {names_bytes_max} bytes in their names"
    )]
    TooManyEntries {
        /// Most files and links.
        entries_max: usize,
        /// Most bytes of all names.
        names_bytes_max: usize,
    },
    /// The archive is larger than allowed.
    #[error("the archive has more than the {limit_bytes} bytes that are allowed (limits.archive-size)")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Something that is named is not there.
    #[error("{named_by} in the archive names {entry}, which is not there")]
    Missing {
        /// What is missing.
        entry: String,
        /// What names it.
        named_by: String,
    },
    /// A blob is not what its name says.
    #[error("{entry} in the archive has the wrong digest: {found}")]
    WrongDigest {
        /// The entry.
        entry: String,
        /// What its bytes have.
        found: Digest,
    },
    /// A blob has not the size that a descriptor says.
    #[error("{entry} in the archive has {found_bytes} bytes, its descriptor says {expected_bytes}")]
    WrongSize {
        /// The entry.
        entry: String,
        /// The descriptor's size.
        expected_bytes: u64,
        /// Its own size.
        found_bytes: u64,
    },
    /// An uncompressed layer is not the one that the configuration lists.
    #[error("{entry} in the archive has the digest {found}, the configuration says {expected}")]
    WrongLayer {
        /// The entry.
        entry: String,
        /// The configuration's diff id.
        expected: Digest,
        /// The layer's digest.
        found: Digest,
    },
    /// A manifest, index or configuration cannot be used.
    #[error("{entry} in the archive cannot be used")]
    Document {
        /// The entry.
        entry: String,
        /// What is wrong.
        source: ManifestError,
    },
    /// A name for an image is none.
    #[error("{entry} in the archive has a wrong name for an image")]
    Reference {
        /// The entry.
        entry: String,
        /// What is wrong.
        source: ReferenceError,
    },
    /// A `--change` is none.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl ArchiveError {
    /// An unusable document.
    pub(super) fn document(entry: &str, source: impl Into<ManifestError>) -> Self {
        Self::Document { entry: entry.to_owned(), source: source.into() }
    }

    /// A document that says something impossible.
    pub(super) fn invalid(entry: &str, what: &'static str, reason: impl ToString) -> Self {
        Self::document(entry, Invalid { what, reason: reason.to_string() })
    }
}

impl From<ContentError> for ArchiveError {
    fn from(error: ContentError) -> Self {
        Self::Image(error.into())
    }
}
