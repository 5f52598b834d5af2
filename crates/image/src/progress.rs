//! What a pull, push, load or save tells while it works, and where arriving layers go.
//!
//! A [`Progress`] is told about layers from several threads; it draws, counts or ignores, and must be quick. A
//! [`LayerSink`] gets each layer while its bytes are still on their way; it is called on a thread of its own and may
//! take as long as unpacking takes.

use std::io::Read;

use hull_oci::{Digest, Reference};

use crate::LayerDescriptor;

/// What a sink may fail with; it ends the pull and is its error's source.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// What happened to one blob of a layer. Sizes are bytes of the blob as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerEvent {
    /// It is needed and waits for its turn.
    Pulling,
    /// It is in the content store already.
    Exists,
    /// So much has come.
    Downloading {
        /// Bytes so far.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// The transfer broke and is tried again.
    Retrying {
        /// Which attempt comes next, from 2.
        attempt: u32,
        /// What went wrong.
        cause: String,
    },
    /// All bytes are here; the digest is compared and the file is synced.
    Verifying,
    /// The blob is verified and stored.
    Downloaded,
    /// Its files are being written (sent by whoever unpacks); while bytes still come, or after that.
    Unpacking,
    /// The layer is ready for use.
    Done,
    /// It goes to a registry and waits for its turn.
    Preparing,
    /// So much has gone.
    Uploading {
        /// Bytes so far.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// The registry has it now.
    Pushed,
    /// The registry had it already.
    Known,
    /// The registry took it from another of its repositories.
    Mounted {
        /// That repository.
        from: String,
    },
    /// So much was read from an archive.
    Loading {
        /// Bytes so far.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// So much was written to an archive.
    Saving {
        /// Bytes so far.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
}

/// A listener to a pull, push, load or save.
pub trait Progress: Sync {
    /// The reference names this digest on the registry; the layers are going to be fetched.
    fn resolved(&self, reference: &Reference, digest: &Digest) {
        let _ = (reference, digest);
    }

    /// Something happened to the layer whose blob has this digest.
    fn layer(&self, blob: &Digest, event: LayerEvent);

    /// What is being done as a whole, in one line.
    fn status(&self, message: &str) {
        let _ = message;
    }

    /// Something that the user should know although it is no error.
    fn warning(&self, message: &str) {
        let _ = message;
    }
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn layer(&self, _blob: &Digest, _event: LayerEvent) {}
}

/// A blob that can be read, compressed as it comes.
pub type PackedLayer = Box<dyn Read + Send>;

/// Where arriving layers go.
pub trait LayerSink: Sync {
    /// Layer `index` (from 0, lowest first) can be read from `packed`, which waits where bytes are still on their way.
    /// They are not verified until the pull has succeeded, and nothing that is made of them may count before that. The
    /// same blob is delivered once for each position it has. The unpacked stream must have the digest `layer.diff_id`:
    /// that is for the sink to check.
    ///
    /// # Errors
    /// Any; no further layer is fetched then.
    fn layer(&self, index: usize, layer: &LayerDescriptor, packed: PackedLayer) -> Result<(), SinkError>;
}

/// Takes layers and leaves them packed.
#[derive(Debug, Clone, Copy, Default)]
pub struct IgnoreLayers;

impl LayerSink for IgnoreLayers {
    fn layer(&self, _index: usize, _layer: &LayerDescriptor, _packed: PackedLayer) -> Result<(), SinkError> {
        Ok(())
    }
}
