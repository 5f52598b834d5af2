//! Manifests and indexes as registries and archives hold them, OCI's and docker's schema 2.
//!
//! A document is what its media type says, and nothing else may be in it: one with both `layers` and `manifests` is
//! refused, since two readers could take it for two different images (CVE-2021-41190). Schema 1 is refused by name.
//! Documents are at most [`DOCUMENT_BYTES_MAX`] long, because they are read into memory before they are verified.

use std::collections::BTreeMap;

use hull_oci::image as media;
use hull_oci::image::ImageConfiguration;
use hull_oci::{Digest, Platform};
use serde::Deserialize;

use crate::image::{chain_ids, diff_ids};
use crate::{LayerDescriptor, StoredBlob};

/// Largest manifest, index or configuration that is read, in bytes.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Most layers of an image: as many as the kernel's overlay stacks, so that what is taken in can be run.
pub const LAYERS_MAX: usize = 500;
/// How deep indexes may lie in indexes.
pub(crate) const INDEX_DEPTH_MAX: usize = 4;
/// What older builders wrote as a configuration's media type.
const OCTET_STREAM: &str = "application/octet-stream";

/// A document whose content cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what}: {reason}")]
pub struct Invalid {
    /// Which document or field.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

pub(crate) fn invalid(what: &'static str, reason: impl ToString) -> Invalid {
    Invalid { what, reason: reason.to_string() }
}

/// Why a document does not lead to an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is not what the specification says.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Docker's first manifest format.
    #[error("the image has a docker schema 1 manifest, which is not supported; push it again with a current tool")]
    Schema1,
    /// Some other media type.
    #[error("unsupported manifest media type \"{media_type}\"")]
    MediaType {
        /// What it says it is.
        media_type: String,
    },
    /// The configuration is not an image's (a Helm chart or another artifact).
    #[error("not a container image: its configuration has media type \"{media_type}\"")]
    NotAnImage {
        /// The configuration's media type.
        media_type: String,
    },
    /// A layer is not a file system layer.
    #[error("layer {index} has the unsupported media type \"{media_type}\"")]
    Layer {
        /// Its position.
        index: usize,
        /// Its media type.
        media_type: String,
    },
    /// An image that no container could be made of.
    #[error("the image has {count} layers, more than the {LAYERS_MAX} that can be stacked")]
    TooManyLayers {
        /// How many it lists.
        count: usize,
    },
    /// The manifest and the configuration list different numbers of layers.
    #[error("the manifest lists {manifest} layers, the configuration {configuration}")]
    LayerCount {
        /// Layers in the manifest.
        manifest: usize,
        /// Diff ids in the configuration.
        configuration: usize,
    },
    /// No entry of an index is for the wanted platform.
    #[error("no image for platform {wanted}; available: {}", offered.join(", "))]
    Platform {
        /// What was wanted.
        wanted: Platform,
        /// What there is.
        offered: Vec<String>,
    },
    /// Indexes in indexes in indexes.
    #[error("indexes are nested more than {INDEX_DEPTH_MAX} deep")]
    Nesting,
    /// An index leads to more than can be kept in mind.
    #[error("it leads to more than {documents_max} manifests, or more than {bytes_max} bytes of them")]
    TooManyDocuments {
        /// Most manifests and indexes.
        documents_max: usize,
        /// Most bytes of them.
        bytes_max: usize,
    },
}

/// A pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    #[serde(rename = "size")]
    pub size_bytes: u64,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<WirePlatform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct WirePlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Descriptor {
    fn platform(&self) -> Option<Platform> {
        let wire = self.platform.as_ref()?;
        Some(Platform::new(&wire.os, &wire.architecture, wire.variant.as_deref()))
    }

    /// Of a blob that nothing describes.
    pub fn of(media_type: &str, digest: Digest, size_bytes: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size_bytes, annotations: None, platform: None }
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// Every field that any manifest format has; which ones are there tells the format where nothing else does.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDocument {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// The manifest of one image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

impl Document {
    /// Reads a document. `announced` is the media type that the registry or the descriptor gave, if any.
    pub fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Self, ManifestError> {
        if is_schema1(announced.unwrap_or_default()) {
            return Err(ManifestError::Schema1);
        }
        let wire = parse_wire(bytes)?;
        if wire.schema_version == 1 || wire.media_type.as_deref().is_some_and(is_schema1) {
            return Err(ManifestError::Schema1);
        }
        if wire.schema_version != 2 {
            return Err(invalid("manifest", format!("schemaVersion is {}, expected 2", wire.schema_version)).into());
        }
        let media_type = agreed_media_type(&wire, announced)?;
        let is_index = match media_type {
            Some(text) if media::is_index(text) => true,
            Some(text) if media::is_manifest(text) => false,
            Some(text) => return Err(ManifestError::MediaType { media_type: text.to_owned() }),
            None => wire.manifests.is_some(),
        };
        match (is_index, wire) {
            (_, WireDocument { layers: Some(_), manifests: Some(_), .. }) => {
                Err(invalid("manifest", "it has both layers and manifests").into())
            }
            (true, WireDocument { manifests: Some(manifests), .. }) => Ok(Self::Index(manifests)),
            (true, _) => Err(invalid("index", "it has no manifests").into()),
            (false, WireDocument { config: Some(config), layers, .. }) => {
                Ok(Self::Manifest(Manifest::checked(config, layers.unwrap_or_default())?))
            }
            (false, _) => Err(invalid("manifest", "it has no config").into()),
        }
    }
}

fn is_schema1(media_type: &str) -> bool {
    matches!(media_type, media::DOCKER_MANIFEST_V1 | media::DOCKER_MANIFEST_V1_SIGNED)
}

fn parse_wire(bytes: &[u8]) -> Result<WireDocument, Invalid> {
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(invalid("manifest", format!("it is longer than {DOCUMENT_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(bytes).map_err(|error| invalid("manifest", error))
}

/// The media type inside and the one announced must be the same where both say something of use.
fn agreed_media_type<'a>(wire: &'a WireDocument, announced: Option<&'a str>) -> Result<Option<&'a str>, ManifestError> {
    let known = |text: &&str| media::is_index(text) || media::is_manifest(text);
    let inside = wire.media_type.as_deref().filter(|text| !text.is_empty());
    match (inside, announced) {
        (Some(inside), Some(outside)) if known(&outside) && inside != outside => {
            Err(invalid("manifest", format!("it is announced as {outside} and says that it is {inside}")).into())
        }
        (Some(inside), _) => Ok(Some(inside)),
        (None, outside) => Ok(outside.filter(known)),
    }
}

impl Manifest {
    fn checked(config: Descriptor, layers: Vec<Descriptor>) -> Result<Self, ManifestError> {
        if !matches!(config.media_type.as_str(), media::OCI_CONFIG | media::DOCKER_CONFIG | OCTET_STREAM) {
            return Err(ManifestError::NotAnImage { media_type: config.media_type });
        }
        if layers.len() > LAYERS_MAX {
            return Err(ManifestError::TooManyLayers { count: layers.len() });
        }
        let readable =
            |layer: &Descriptor| media::is_layer(&layer.media_type) && !layer.media_type.contains("encrypted");
        if let Some((index, layer)) = layers.iter().enumerate().find(|(_, layer)| !readable(layer)) {
            return Err(ManifestError::Layer { index, media_type: layer.media_type.clone() });
        }
        Ok(Self { config, layers })
    }

    /// Joins the manifest's blobs with the configuration's diff ids.
    pub fn layers(&self, config: &ImageConfiguration) -> Result<Vec<LayerDescriptor>, ManifestError> {
        let diff_ids = diff_ids(config)?;
        if diff_ids.len() != self.layers.len() {
            return Err(ManifestError::LayerCount { manifest: self.layers.len(), configuration: diff_ids.len() });
        }
        let chain = chain_ids(&diff_ids);
        let joined = self.layers.iter().zip(diff_ids).zip(chain).map(|((blob, diff_id), chain_id)| LayerDescriptor {
            diff_id,
            chain_id,
            digest: blob.digest.clone(),
            media_type: blob.media_type.clone(),
            size_bytes: blob.size_bytes,
        });
        Ok(joined.collect())
    }
}

impl From<&Descriptor> for StoredBlob {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            digest: descriptor.digest.clone(),
            size_bytes: descriptor.size_bytes,
            media_type: descriptor.media_type.clone(),
        }
    }
}

impl From<&LayerDescriptor> for StoredBlob {
    fn from(layer: &LayerDescriptor) -> Self {
        Self { digest: layer.digest.clone(), size_bytes: layer.size_bytes, media_type: layer.media_type.clone() }
    }
}

/// The entry of an index that fits a platform best: its own, else an older variant that it can run. A single entry
/// without a platform fits everything.
pub(crate) fn select<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, ManifestError> {
    let usable = |entry: &&Descriptor| {
        entry.media_type.is_empty() || media::is_index(&entry.media_type) || media::is_manifest(&entry.media_type)
    };
    for candidate in runnable(wanted) {
        let fits = |entry: &&Descriptor| entry.platform().is_some_and(|offered| candidate.matches(&offered));
        if let Some(entry) = manifests.iter().filter(usable).find(fits) {
            return Ok(entry);
        }
    }
    let mut nameless = manifests.iter().filter(usable).filter(|entry| entry.platform.is_none());
    if let (Some(only), None) = (nameless.next(), nameless.next()) {
        return Ok(only);
    }
    let mut offered: Vec<String> = Vec::new();
    for platform in manifests.iter().filter_map(Descriptor::platform).map(|platform| platform.to_string()) {
        if platform != "unknown/unknown" && !offered.contains(&platform) {
            offered.push(platform);
        }
    }
    if offered.is_empty() {
        offered.push("none".to_owned());
    }
    Err(ManifestError::Platform { wanted: wanted.clone(), offered })
}

/// Whether a machine of one platform runs images of another.
pub(crate) fn runs(machine: &Platform, offered: &Platform) -> bool {
    runnable(machine).iter().any(|candidate| candidate.matches(offered))
}

/// A platform and the older variants of it that the same machine runs, best first.
fn runnable(wanted: &Platform) -> Vec<Platform> {
    let older: &[&str] = match (wanted.architecture.as_str(), wanted.variant.as_deref()) {
        ("arm", Some("v8")) => &["v7", "v6", "v5"],
        ("arm", Some("v7")) => &["v6", "v5"],
        ("arm", Some("v6")) => &["v5"],
        ("arm64", Some(_)) => &["v8"],
        ("amd64", Some("v4")) => &["v3", "v2", "v1"],
        ("amd64", Some("v3")) => &["v2", "v1"],
        ("amd64", Some("v2")) => &["v1"],
        _ => &[],
    };
    let variant = |variant: &&str| Platform::new(&wanted.os, &wanted.architecture, Some(variant));
    std::iter::once(wanted.clone()).chain(older.iter().map(variant)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn manifest(config: &str, layer: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{config}","digest":"{D}","size":2}},
               "layers":[{{"mediaType":"{layer}","digest":"{D}","size":2}}]}}"#,
            media::OCI_MANIFEST
        )
    }

    fn entry(platform: &str) -> Descriptor {
        let text = match platform {
            "" => format!(r#"{{"mediaType":"{}","digest":"{D}","size":2}}"#, media::OCI_MANIFEST),
            _ => {
                let parsed = Platform::parse(platform).expect("platform");
                format!(
                    r#"{{"mediaType":"{}","digest":"{D}","size":2,"platform":{{"os":"{}","architecture":"{}","variant":"{}"}}}}"#,
                    media::OCI_MANIFEST,
                    parsed.os,
                    parsed.architecture,
                    parsed.variant.unwrap_or_default()
                )
            }
        };
        serde_json::from_str(&text).expect("descriptor")
    }

    #[test]
    fn reads_both_formats() {
        let text = manifest(media::OCI_CONFIG, media::OCI_LAYER_ZSTD);
        assert!(matches!(Document::parse(text.as_bytes(), None), Ok(Document::Manifest(_))));
        let text = text.replace(media::OCI_MANIFEST, media::DOCKER_MANIFEST);
        assert!(matches!(Document::parse(text.as_bytes(), Some(media::DOCKER_MANIFEST)), Ok(Document::Manifest(_))));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{D}","size":2}}]}}"#);
        assert!(matches!(Document::parse(index.as_bytes(), None), Ok(Document::Index(_))));
    }

    #[test]
    fn refuses_with_the_reason() {
        let good = manifest(media::OCI_CONFIG, media::OCI_LAYER);
        let table = [
            (manifest("application/vnd.cncf.helm.config.v1+json", media::OCI_LAYER), None, "not a container image"),
            (manifest(media::OCI_CONFIG, "text/plain"), None, "layer 0 has the unsupported media type"),
            (manifest(media::OCI_CONFIG, &format!("{}+encrypted", media::OCI_LAYER_GZIP)), None, "encrypted"),
            (good.clone(), Some(media::OCI_INDEX), "announced as"),
            (good.clone(), Some(media::DOCKER_MANIFEST_V1_SIGNED), "schema 1"),
            (good.replace("\"schemaVersion\":2", "\"schemaVersion\":1"), None, "schema 1"),
            (good.replace("\"schemaVersion\":2", "\"schemaVersion\":3"), None, "schemaVersion is 3"),
            (good.replace("\"layers\"", "\"manifests\":[],\"layers\""), None, "both layers and manifests"),
            (good.replace("\"size\":2", "\"size\":-2"), None, "invalid manifest"),
            (good.replace(D, "sha256:../../x"), None, "invalid manifest"),
            (good.replace(media::OCI_MANIFEST, "text/html"), None, "unsupported manifest media type \"text/html\""),
            ("[]".to_owned(), None, "invalid manifest"),
            ("{".to_owned(), None, "invalid manifest"),
            (" ".repeat(DOCUMENT_BYTES_MAX as usize + 1), None, "longer than"),
        ];
        for (text, announced, reason) in table {
            let error = Document::parse(text.as_bytes(), announced).expect_err(reason).to_string();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }

    #[test]
    fn selects_by_platform() {
        let index = [entry("linux/arm/v6"), entry("linux/amd64"), entry("linux/arm64")];
        let find = |text: &str| select(&index, &Platform::parse(text).expect("platform"));
        assert_eq!(find("linux/amd64"), Ok(&index[1]));
        assert_eq!(find("linux/amd64/v3"), Ok(&index[1]));
        assert_eq!(find("linux/arm64/v9"), Ok(&index[2]));
        assert_eq!(find("linux/arm/v7"), Ok(&index[0]));
        let error = find("linux/riscv64").expect_err("not offered").to_string();
        assert!(error.contains("linux/riscv64") && error.contains("linux/arm/v6, linux/amd64, linux/arm64"), "{error}");
        assert!(find("linux/arm/v5").is_err(), "a newer variant does not run");
    }

    #[test]
    fn a_single_entry_without_platform_fits() {
        let wanted = Platform::parse("linux/amd64").expect("platform");
        assert!(select(&[entry("")], &wanted).is_ok());
        assert!(select(&[entry(""), entry("")], &wanted).is_err());
        assert!(select(&[], &wanted).is_err());
    }
}
