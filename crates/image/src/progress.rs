//! What a pull or load tells while it works, and where finished layers go.
//!
//! A [`Progress`] is told about layers from several threads; it draws, counts or ignores, and must be quick. A
//! [`LayerSink`] gets each layer as soon as its blob is verified and in the content store, while other layers are
//! still on their way; it is called on a thread of its own and may take as long as unpacking takes.

use std::path::Path;

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
    /// Its files are being written (sent by whoever unpacks).
    Unpacking,
    /// The layer is ready for use (sent by whoever unpacks).
    Done,
}

/// A listener to a pull or load.
pub trait Progress: Sync {
    /// The reference names this digest on the registry; the layers are going to be fetched.
    fn resolved(&self, reference: &Reference, digest: &Digest) {
        let _ = (reference, digest);
    }

    /// Something happened to the layer whose blob has this digest.
    fn layer(&self, blob: &Digest, event: LayerEvent);

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

/// Where verified layers go.
pub trait LayerSink: Sync {
    /// Layer `index` (from 0, lowest first) is at `blob`, compressed as it came. The same blob is delivered once for
    /// each position it has. The unpacked stream must have the digest `layer.diff_id`: that is for the sink to check.
    ///
    /// # Errors
    /// Any; no further layer is fetched then.
    fn layer_ready(&self, index: usize, layer: &LayerDescriptor, blob: &Path) -> Result<(), SinkError>;
}

/// Takes layers and leaves them packed.
#[derive(Debug, Clone, Copy, Default)]
pub struct IgnoreLayers;

impl LayerSink for IgnoreLayers {
    fn layer_ready(&self, _index: usize, _layer: &LayerDescriptor, _blob: &Path) -> Result<(), SinkError> {
        Ok(())
    }
}
