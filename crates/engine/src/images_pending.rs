//! Images until pulling and unpacking are joined here: what is in the store is found, nothing is fetched.
//!
//! Replaced by `images.rs` as soon as the layer extractor is in the tree.

use hull_image::{Image, ImageStore, Progress};
use hull_snapshot::{Overlay, SnapshotId};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::request::PullPolicy;

impl Engine {
    /// The images.
    pub fn image_store(&self) -> ImageStore<'_> {
        ImageStore::new(self.store(), self.roots())
    }

    /// The snapshots.
    pub(crate) fn snapshots(&self) -> Overlay<'_> {
        Overlay::new(self.store(), self.roots())
    }

    pub(crate) fn find_or_pull(
        &self,
        name: &str,
        _platform: Option<&str>,
        _policy: PullPolicy,
        _progress: &dyn Progress,
    ) -> Result<Image, EngineError> {
        self.image_store().resolve(name)?.ok_or_else(|| EngineError::NoSuchImage { name: name.to_owned() })
    }

    pub(crate) fn ensure_unpacked(&self, image: &Image) -> Result<Vec<SnapshotId>, EngineError> {
        Err(EngineError::NoSuchImage { name: image.id.to_string() })
    }
}
