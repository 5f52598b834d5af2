//! One image as it lies in the store: its configuration, names and layers.
//!
//! The id of an image is the digest of its configuration (image-spec, config.md: ImageID); the id of a file system
//! made of the lowest n layers is their chain id (config.md: Layer ChainID). Both depend on content alone, never on
//! how a layer was compressed or where it came from.

use hull_oci::image::{ImageConfig, ImageConfiguration};
use hull_oci::{Digest, Platform, Reference};

use crate::manifest::{Invalid, invalid};

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration.
    pub id: Digest,
    /// Digest of the platform's manifest; absent when it came without one (`docker save` of older engines, import).
    pub manifest_digest: Option<Digest>,
    /// Every name it has: tagged ones and `name@digest` ones, sorted.
    pub names: Vec<Reference>,
    /// Its configuration.
    pub config: ImageConfiguration,
    /// Its layers, lowest first.
    pub layers: Vec<LayerDescriptor>,
    /// What its layers take unpacked, in bytes; what their blobs take while one is not unpacked.
    pub size_bytes: u64,
    /// When it was built, as its configuration says.
    pub created: Option<jiff::Timestamp>,
    /// When it came into this store.
    pub stored_at: jiff::Timestamp,
}

impl Image {
    /// The execution part of the configuration, absent values made empty.
    pub fn execution(&self) -> ImageConfig {
        ImageConfig::from(&self.config)
    }

    /// The platform it is made for.
    pub fn platform(&self) -> Platform {
        platform_of(&self.config)
    }

    /// `name:tag` for each tag, in docker's short form.
    pub fn tags(&self) -> Vec<String> {
        self.names.iter().filter(|name| name.digest.is_none()).map(Reference::familiar).collect()
    }

    /// `name@digest` for each digest that a registry knows it by, in docker's short form.
    pub fn digests(&self) -> Vec<String> {
        self.names.iter().filter(|name| name.digest.is_some()).map(Reference::familiar).collect()
    }
}

/// One layer of an image and the blob that it came as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Id of the file system up to and with this layer.
    pub chain_id: Digest,
    /// Digest of the blob.
    pub digest: Digest,
    /// The blob's media type.
    pub media_type: String,
    /// The blob's size in bytes.
    pub size_bytes: u64,
}

/// The chain ids of a stack of layers, lowest first.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => Digest::sha256_of(format!("{parent} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// The platform that a configuration names.
pub(crate) fn platform_of(config: &ImageConfiguration) -> Platform {
    Platform::new(&config.os().to_string(), &config.architecture().to_string(), config.variant().as_deref())
}

/// Reads a configuration; docker leaves `diff_ids` out, or null, where there is no layer.
pub(crate) fn parse_configuration(bytes: &[u8]) -> Result<ImageConfiguration, Invalid> {
    let mut json: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| invalid("image configuration", error))?;
    if let Some(rootfs) = json.get_mut("rootfs").and_then(serde_json::Value::as_object_mut) {
        let diff_ids = rootfs.entry("diff_ids").or_insert(serde_json::Value::Null);
        if diff_ids.is_null() {
            *diff_ids = serde_json::Value::Array(Vec::new());
        }
    }
    serde_json::from_value(json).map_err(|error| invalid("image configuration", error))
}

/// The diff ids that a configuration lists.
pub(crate) fn diff_ids(config: &ImageConfiguration) -> Result<Vec<Digest>, Invalid> {
    let parse = |text: &String| Digest::parse(text).map_err(|error| invalid("rootfs.diff_ids", error));
    config.rootfs().diff_ids().iter().map(parse).collect()
}

/// When a configuration says that it was built; an unreadable date counts as none.
pub(crate) fn created(config: &ImageConfiguration) -> Option<jiff::Timestamp> {
    config.created().as_deref().and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_the_specification_s() {
        let [a, b, c] = ["a", "b", "c"].map(|text| Digest::sha256_of(text.as_bytes()));
        let chain = chain_ids(&[a.clone(), b.clone(), c.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::sha256_of(format!("{a} {b}").as_bytes()));
        assert_eq!(chain[2], Digest::sha256_of(format!("{} {c}", chain[1]).as_bytes()));
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn a_configuration_without_layers_is_read() {
        for rootfs in [r#"{"type":"layers"}"#, r#"{"type":"layers","diff_ids":null}"#] {
            let json = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{rootfs}}}"#);
            let config = parse_configuration(json.as_bytes()).expect("readable");
            assert!(diff_ids(&config).expect("none").is_empty());
        }
        assert!(parse_configuration(b"{}").is_err());
        assert!(parse_configuration(b"\xff\xfe").is_err());
    }

    #[test]
    fn a_bad_diff_id_is_named() {
        let json = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:../x"]}}"#;
        let error = diff_ids(&parse_configuration(json).expect("readable")).expect_err("not a digest");
        assert!(error.to_string().contains("rootfs.diff_ids"), "{error}");
    }
}
