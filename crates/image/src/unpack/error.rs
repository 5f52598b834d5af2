//! Why a layer cannot be unpacked. Paths are shown as the archive has them, with invalid UTF-8 replaced.

use std::io;

/// A layer that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream ended early or its decompression failed.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// A header is not one of a tar archive.
    #[error("not a tar archive, or damaged after entry {after:?}: {reason}")]
    Damaged {
        /// The last entry that was read.
        after: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A path that would leave the layer, or cannot be one.
    #[error("entry {path:?}: {reason}")]
    Path {
        /// The entry.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An attribute that belongs to the overlay file system itself.
    #[error("entry {path:?}: the attribute {name} is overlay's own")]
    ForbiddenAttribute {
        /// The entry.
        path: String,
        /// The attribute.
        name: String,
    },
    /// A kind of entry that no layer has.
    #[error("entry {path:?}: unknown type {kind:?}")]
    Kind {
        /// The entry.
        path: String,
        /// Its type flag.
        kind: char,
    },
    /// A number or record of an extended header.
    #[error("entry {path:?}: bad {key} in its extended header")]
    Extension {
        /// The entry.
        path: String,
        /// The key.
        key: String,
    },
    /// Too much of something.
    #[error("entry {path:?}: {what} above the limit of {limit}")]
    Limit {
        /// The entry.
        path: String,
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// A hard link whose target is not a file of this layer.
    #[error("entry {path:?}: cannot link to {target:?}")]
    HardLink {
        /// The entry.
        path: String,
        /// What it links to.
        target: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something about the folder or this process.
    #[error("cannot begin to unpack")]
    Folder {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Too many entries.
    #[error("more than {limit} entries")]
    TooManyEntries {
        /// How many are allowed.
        limit: u64,
    },
    /// The kernel refused.
    #[error("entry {path:?}: cannot {action}")]
    Write {
        /// The entry.
        path: String,
        /// What was being done.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A path for an error.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
