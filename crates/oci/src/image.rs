//! Image-spec types and docker's media types.
//!
//! The types are those of the `oci-spec` crate, re-exported so that one crate decides the version. Docker's own media
//! types, which differ from OCI's in name only, are constants here together with the questions asked about a media
//! type. [`ImageConfig`] is the execution part of an image configuration with every absent value made empty, which is
//! how docker reads it.

use std::collections::BTreeMap;

pub use oci_spec::image::{
    Arch, Config, ConfigBuilder, Descriptor, DescriptorBuilder, History, HistoryBuilder, ImageConfiguration,
    ImageConfigurationBuilder, ImageIndex, ImageIndexBuilder, ImageManifest, ImageManifestBuilder, MediaType,
    OciLayout, OciLayoutBuilder, Os, RootFs, RootFsBuilder,
};
use serde::{Deserialize, Serialize};

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, uncompressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list, its form of an index.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker manifest of the first schema, which is not supported any more.
pub const DOCKER_MANIFEST_V1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// Signed form of [`DOCKER_MANIFEST_V1`].
pub const DOCKER_MANIFEST_V1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, uncompressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker layer that a registry need not hold.
pub const DOCKER_LAYER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// What a registry is told we accept for a manifest, in order of preference.
pub const ACCEPTED_MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST_LIST, DOCKER_MANIFEST];

/// Whether a media type is an index or manifest list.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_MANIFEST_LIST)
}

/// Whether a media type is an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether a media type is a file system layer, of any compression.
pub fn is_layer(media_type: &str) -> bool {
    media_type.starts_with(OCI_LAYER)
        || media_type.starts_with(DOCKER_LAYER)
        || media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
        || media_type == DOCKER_LAYER_FOREIGN_GZIP
}

/// The execution part of an image configuration, absent values made empty.
///
/// Its serialised form is Hull's own, as containers record it; it is not the image-spec's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user[:group]` by name or id; empty for root.
    pub user: String,
    /// `NAME=value` pairs in order.
    pub env: Vec<String>,
    /// Entrypoint; its arguments come before the command's.
    pub entrypoint: Vec<String>,
    /// Default command or arguments.
    pub cmd: Vec<String>,
    /// Working directory; empty for `/`.
    pub working_dir: String,
    /// Container paths that become anonymous volumes.
    pub volumes: Vec<String>,
    /// `port/protocol`, sorted.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to stop, by name or number.
    pub stop_signal: Option<String>,
}

impl From<&ImageConfiguration> for ImageConfig {
    fn from(image: &ImageConfiguration) -> Self {
        let Some(config) = image.config() else {
            return Self::default();
        };
        let sorted = |list: &Option<Vec<String>>| {
            let mut list = list.clone().unwrap_or_default();
            list.sort();
            list
        };
        Self {
            user: config.user().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            volumes: sorted(config.volumes()),
            exposed_ports: sorted(config.exposed_ports()),
            labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
            stop_signal: config.stop_signal().clone().filter(|signal| !signal.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_configuration_as_docker_writes_it() {
        let json = r#"{"architecture":"amd64","os":"linux","created":"2025-01-01T00:00:00Z",
            "config":{"Hostname":"","Env":["PATH=/bin"],"Cmd":["sh"],"Image":"","Volumes":{"/b":{},"/a":{}},
                      "WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null,"ExposedPorts":{"80/tcp":{}}},
            "container_config":{},"docker_version":"28.0","history":[{"created_by":"x","empty_layer":true}],
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let image: ImageConfiguration = serde_json::from_str(json).expect("docker's form is readable");
        let config = ImageConfig::from(&image);
        assert_eq!(config.env, ["PATH=/bin"]);
        assert_eq!(config.volumes, ["/a", "/b"]);
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!((config.cmd, config.entrypoint), (vec!["sh".to_owned()], Vec::new()));
        assert_eq!(config.stop_signal, None);
    }

    #[test]
    fn tells_media_types_apart() {
        assert!(is_index(DOCKER_MANIFEST_LIST) && is_index(OCI_INDEX) && !is_index(OCI_MANIFEST));
        assert!(is_manifest(DOCKER_MANIFEST) && is_manifest(OCI_MANIFEST) && !is_manifest(DOCKER_MANIFEST_V1));
        assert!(is_layer(OCI_LAYER_ZSTD) && is_layer(DOCKER_LAYER_GZIP) && !is_layer(OCI_CONFIG));
    }
}
