//! Manifests that Hull writes: for images that came without one, and in docker's form where OCI's is not understood.
//!
//! An image that was loaded from an older docker-archive, imported or committed has a configuration and layers only.
//! Its manifest follows from those alone (image-spec, manifest.md), field by field in a fixed order, so the same image
//! always gets the same manifest and digest. Docker's form (distribution's manifest-v2-2) has other media types for the
//! same blobs.

use std::collections::BTreeMap;

use hull_oci::image as media;
use hull_oci::{Digest, Platform};
use serde::Serialize;

use crate::{LayerDescriptor, StoredBlob};

/// Whose words a manifest is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestForm {
    /// The OCI image specification's.
    Oci,
    /// Docker's schema 2.
    Docker,
}

/// A pointer to a blob as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WrittenDescriptor {
    /// What it is.
    pub media_type: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its size.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// Names and notes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Which machines it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<WrittenPlatform>,
}

/// A platform as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WrittenPlatform {
    architecture: String,
    os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl From<&Platform> for WrittenPlatform {
    fn from(platform: &Platform) -> Self {
        let Platform { os, architecture, variant } = platform.clone();
        Self { architecture, os, variant }
    }
}

impl WrittenDescriptor {
    /// Of a blob, without annotations.
    pub fn new(media_type: impl Into<String>, digest: Digest, size_bytes: u64) -> Self {
        Self { media_type: media_type.into(), digest, size_bytes, annotations: BTreeMap::new(), platform: None }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenManifest {
    schema_version: u32,
    media_type: &'static str,
    config: WrittenDescriptor,
    layers: Vec<WrittenDescriptor>,
}

/// The manifest of a configuration and layers, and the blob that it is.
pub fn manifest_of(config: &StoredBlob, layers: &[LayerDescriptor], form: ManifestForm) -> (StoredBlob, Vec<u8>) {
    let (media_type, config_type) = match form {
        ManifestForm::Oci => (media::OCI_MANIFEST, media::OCI_CONFIG),
        ManifestForm::Docker => (media::DOCKER_MANIFEST, media::DOCKER_CONFIG),
    };
    let layer = |layer: &LayerDescriptor| {
        WrittenDescriptor::new(layer_type(&layer.media_type, form), layer.digest.clone(), layer.size_bytes)
    };
    let manifest = WrittenManifest {
        schema_version: 2,
        media_type,
        config: WrittenDescriptor::new(config_type, config.digest.clone(), config.size_bytes),
        layers: layers.iter().map(layer).collect(),
    };
    let bytes = serde_json::to_vec(&manifest).expect("strings and numbers are JSON");
    let blob = StoredBlob {
        digest: Digest::sha256_of(&bytes),
        size_bytes: bytes.len() as u64,
        media_type: media_type.to_owned(),
    };
    (blob, bytes)
}

/// A layer's media type in one form's words, whichever it was in. Layers that registries need not hold are held here,
/// so they become ordinary ones.
fn layer_type(media_type: &str, form: ManifestForm) -> &'static str {
    let (plain, gzip, zstd) = match form {
        ManifestForm::Oci => (media::OCI_LAYER, media::OCI_LAYER_GZIP, media::OCI_LAYER_ZSTD),
        ManifestForm::Docker => (media::DOCKER_LAYER, media::DOCKER_LAYER_GZIP, media::DOCKER_LAYER_ZSTD),
    };
    match media_type.rsplit(['+', '.']).next() {
        Some("gzip") => gzip,
        Some("zstd") => zstd,
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_type_has_its_word_in_both_forms() {
        let foreign = media::DOCKER_LAYER_FOREIGN_GZIP;
        for (from, oci, docker) in [
            (media::OCI_LAYER, media::OCI_LAYER, media::DOCKER_LAYER),
            (media::DOCKER_LAYER, media::OCI_LAYER, media::DOCKER_LAYER),
            (media::OCI_LAYER_GZIP, media::OCI_LAYER_GZIP, media::DOCKER_LAYER_GZIP),
            (media::DOCKER_LAYER_GZIP, media::OCI_LAYER_GZIP, media::DOCKER_LAYER_GZIP),
            (foreign, media::OCI_LAYER_GZIP, media::DOCKER_LAYER_GZIP),
            (media::OCI_LAYER_ZSTD, media::OCI_LAYER_ZSTD, media::DOCKER_LAYER_ZSTD),
            ("", media::OCI_LAYER, media::DOCKER_LAYER),
        ] {
            assert_eq!(layer_type(from, ManifestForm::Oci), oci, "{from}");
            assert_eq!(layer_type(from, ManifestForm::Docker), docker, "{from}");
        }
    }

    #[test]
    fn a_manifest_is_these_bytes() {
        let digest = Digest::sha256_of(b"x");
        let config = StoredBlob { digest: digest.clone(), size_bytes: 1, media_type: String::new() };
        let (blob, bytes) = manifest_of(&config, &[], ManifestForm::Oci);
        let expected = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"config\":{{\"mediaType\":\"{}\",\"digest\":\"{digest}\",\
             \"size\":1}},\"layers\":[]}}",
            media::OCI_MANIFEST,
            media::OCI_CONFIG
        );
        assert_eq!(String::from_utf8(bytes).expect("JSON"), expected);
        assert_eq!(blob.digest, Digest::sha256_of(expected.as_bytes()));
    }
}
