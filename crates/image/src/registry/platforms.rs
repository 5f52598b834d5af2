//! The other platforms of an image: their manifests and blobs are stored beside the one that is used here, unread.
//!
//! They belong to the image of this machine's platform, and go with it. Indexes and manifests are only followed, so that
//! attestations and whatever else an index leads to come along too.

use std::collections::HashSet;

use hull_oci::Digest;
use hull_oci::image::ACCEPTED_MANIFESTS;
use hull_store::HoldKind;
use serde::Deserialize;

use super::{Puller, RegistryError, Resolved};
use crate::manifest::{Descriptor, INDEX_DEPTH_MAX};
use crate::{LayerDescriptor, ManifestError, StoredBlob};

/// Most documents that one index may lead to.
const DOCUMENTS_MAX: usize = 1000;
/// And how many bytes they have together: they are in memory, and what they list.
const DOCUMENTS_BYTES_MAX: usize = 32 << 20;

/// What a manifest or index leads to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Links {
    pub config: Option<Descriptor>,
    pub layers: Vec<Descriptor>,
    pub manifests: Vec<Descriptor>,
}

impl Links {
    pub fn of(document: &[u8]) -> Result<Self, ManifestError> {
        let links: Self =
            serde_json::from_slice(document).map_err(|error| crate::manifest::invalid("manifest", error))?;
        if !links.manifests.is_empty() && !links.layers.is_empty() {
            return Err(crate::manifest::invalid("manifest", "it has both layers and manifests").into());
        }
        Ok(links)
    }

    /// Configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers)
    }
}

impl Puller<'_, '_> {
    /// Stores the documents that the name leads to besides those of the platform chosen; returns them, and the blobs that
    /// they need, which are held and may be missing still.
    pub(super) async fn others(
        &self,
        resolved: &Resolved,
    ) -> Result<(Vec<StoredBlob>, Vec<LayerDescriptor>), RegistryError> {
        let mut seen: HashSet<Digest> = resolved.documents.iter().map(|known| known.blob.digest.clone()).collect();
        let (mut documents, mut blobs, mut left_bytes) = (Vec::new(), Vec::new(), DOCUMENTS_BYTES_MAX);
        let mut level: Vec<Vec<u8>> = resolved.documents.iter().map(|document| document.bytes.clone()).collect();
        for _ in 0..=INDEX_DEPTH_MAX {
            let mut below = Vec::new();
            for bytes in &level {
                let links = Links::of(bytes).map_err(|source| self.invalid(source))?;
                for entry in links.manifests.iter().filter(|entry| seen.insert(entry.digest.clone())) {
                    let document = self.document("manifests", entry, &ACCEPTED_MANIFESTS).await?;
                    left_bytes = match left_bytes.checked_sub(document.bytes.len()) {
                        Some(left_bytes) if documents.len() < DOCUMENTS_MAX => left_bytes,
                        _ => return Err(self.invalid(too_many())),
                    };
                    let StoredBlob { digest, media_type, .. } = &document.blob;
                    documents.push(self.holds.keep_bytes(digest, &document.bytes, media_type)?);
                    below.push(document.bytes);
                }
                blobs.extend(links.blobs().filter(|blob| seen.insert(blob.digest.clone())).map(unread));
            }
            level = below;
        }
        let things: Vec<_> = blobs.iter().map(|blob| (HoldKind::Blob, &blob.digest)).collect();
        self.holds.hold(&things)?;
        Ok((documents, blobs))
    }
}

fn too_many() -> ManifestError {
    ManifestError::TooManyDocuments { documents_max: DOCUMENTS_MAX, bytes_max: DOCUMENTS_BYTES_MAX }
}

/// A blob that is stored and not unpacked.
fn unread(blob: &Descriptor) -> LayerDescriptor {
    let Descriptor { digest, media_type, size_bytes, .. } = blob.clone();
    LayerDescriptor { diff_id: digest.clone(), chain_id: digest.clone(), digest, media_type, size_bytes }
}
