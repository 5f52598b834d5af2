//! The files of a saved archive, by name, before anything is written.
//!
//! ```text
//! blobs/<algorithm>/<hex>   manifests, configurations, layers: as they are in the content store
//! index.json, oci-layout    the OCI image layout (image-spec, image-layout.md)
//! manifest.json             docker's list of images: Config, RepoTags, Layers
//! repositories              docker's names before 1.10, which docker still writes
//! ```
//!
//! docker 25 and later writes all of them, so that one archive is an OCI layout and what older tools read. The folder
//! of `docker-dir` is containers-image's `dir:` transport instead: `version`, `manifest.json` (the manifest itself, in
//! docker's form) and blobs by their hex digits. Everything follows from the images alone; nothing depends on when or
//! where it is written.

use std::collections::BTreeMap;

use hull_oci::image as media;
use hull_oci::{Digest, Reference};
use serde::{Deserialize, Serialize};

use super::SaveError;
use super::oci::{INDEX, LAYOUT, LAYOUT_VERSION, NAME, NAME_IN_FULL};
use super::spool::blob_name;
use super::{docker, spool};
use crate::own_manifest::{ManifestForm, WrittenDescriptor, WrittenPlatform, manifest_of};
use crate::{DOCUMENT_BYTES_MAX, Image, ImageStore, LayerDescriptor, StoredBlob};

/// What `version` says in a folder of the `dir:` transport.
pub(super) const DIR_VERSION: &str = "Directory Transport Version: 1.1\n";

/// An image to save, and the names that it keeps in the archive.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The image.
    pub image: Image,
    /// Tagged names.
    pub names: Vec<Reference>,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Bytes(Vec<u8>),
    Blob(StoredBlob),
}

impl Source {
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob(blob) => blob.size_bytes,
        }
    }
}

/// Files by name.
pub(super) type Files = BTreeMap<String, Source>;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<WrittenDescriptor>,
}

/// The files of an OCI layout, and docker's beside them where it is to be a docker-archive.
pub(super) fn layout(images: &ImageStore<'_>, chosen: &[Chosen], with_docker: bool) -> Result<Files, SaveError> {
    let mut files = Files::new();
    let mut manifests = Vec::new();
    for Chosen { image, names } in chosen {
        let config = config_blob(images, image)?;
        let (manifest, source) = manifest(images, image, &config)?;
        manifests.extend(descriptors(&manifest, image, names));
        files.insert(blob_name(&manifest.digest), source);
        for blob in image.layers.iter().map(StoredBlob::from).chain([config]) {
            files.insert(blob_name(&blob.digest), Source::Blob(blob));
        }
    }
    let index = Index { schema_version: 2, media_type: media::OCI_INDEX, manifests };
    files.insert(INDEX.to_owned(), json(&index));
    files.insert(LAYOUT.to_owned(), json(&BTreeMap::from([("imageLayoutVersion", LAYOUT_VERSION)])));
    if with_docker {
        files.insert(docker::MANIFEST.to_owned(), json(&chosen.iter().map(listed).collect::<Vec<_>>()));
        if let Some(repositories) = repositories(chosen) {
            files.insert(spool::REPOSITORIES.to_owned(), json(&repositories));
        }
    }
    Ok(files)
}

/// The files of a `dir:` folder, which holds one image without a name.
pub(super) fn directory(images: &ImageStore<'_>, image: &Image) -> Result<Files, SaveError> {
    let config = config_blob(images, image)?;
    let mut files = Files::new();
    let (_, own) = manifest_of(&config, &image.layers, ManifestForm::Docker);
    let stored = stored_manifest(images, image)?.filter(|blob| blob.media_type == media::DOCKER_MANIFEST);
    files.insert(docker::MANIFEST.to_owned(), stored.map_or(Source::Bytes(own), Source::Blob));
    files.insert("version".to_owned(), Source::Bytes(DIR_VERSION.as_bytes().to_vec()));
    for blob in image.layers.iter().map(StoredBlob::from).chain([config]) {
        files.insert(blob.digest.hex().to_owned(), Source::Blob(blob));
    }
    Ok(files)
}

fn json(document: &impl Serialize) -> Source {
    Source::Bytes(serde_json::to_vec(document).expect("maps of strings are JSON"))
}

fn config_blob(images: &ImageStore<'_>, image: &Image) -> Result<StoredBlob, SaveError> {
    let size_bytes = images.configuration_bytes(&image.id)?.len() as u64;
    Ok(StoredBlob { digest: image.id.clone(), size_bytes, media_type: media::OCI_CONFIG.to_owned() })
}

/// The manifest that the image came with, when it is still there; else the one that follows from its parts.
fn manifest(images: &ImageStore<'_>, image: &Image, config: &StoredBlob) -> Result<(StoredBlob, Source), SaveError> {
    Ok(match stored_manifest(images, image)? {
        Some(blob) => (blob.clone(), Source::Blob(blob)),
        None => {
            let (blob, bytes) = manifest_of(config, &image.layers, ManifestForm::Oci);
            (blob, Source::Bytes(bytes))
        }
    })
}

/// The manifest in the content store, when it names the very blobs that the image has here.
fn stored_manifest(images: &ImageStore<'_>, image: &Image) -> Result<Option<StoredBlob>, SaveError> {
    let Some(digest) = &image.manifest_digest else { return Ok(None) };
    let Some(size_bytes) = images.content().size_bytes(digest)? else { return Ok(None) };
    let bytes = images.content().read(digest, DOCUMENT_BYTES_MAX)?;
    let document = crate::manifest::Document::parse(&bytes, None).map_err(crate::ImageError::from)?;
    let crate::manifest::Document::Manifest(manifest) = document else { return Ok(None) };
    let same = |(described, layer): (&crate::manifest::Descriptor, &LayerDescriptor)| described.digest == layer.digest;
    if manifest.layers.len() != image.layers.len() || !manifest.layers.iter().zip(&image.layers).all(same) {
        return Ok(None);
    }
    let media_type = own_media_type(&bytes).unwrap_or_else(|| match manifest.config.media_type.as_str() {
        media::DOCKER_CONFIG => media::DOCKER_MANIFEST.to_owned(),
        _ => media::OCI_MANIFEST.to_owned(),
    });
    Ok(Some(StoredBlob { digest: digest.clone(), size_bytes, media_type }))
}

/// What a manifest says that it is; OCI's need not say it.
fn own_media_type(manifest: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let typed: Typed = serde_json::from_slice(manifest).ok()?;
    typed.media_type.filter(|text| !text.is_empty())
}

/// An entry of index.json for each name, one without a name for an image that has none.
fn descriptors(manifest: &StoredBlob, image: &Image, names: &[Reference]) -> Vec<WrittenDescriptor> {
    let plain = WrittenDescriptor {
        platform: Some(WrittenPlatform::from(&image.platform())),
        ..WrittenDescriptor::new(manifest.media_type.as_str(), manifest.digest.clone(), manifest.size_bytes)
    };
    let named = |name: &Reference| {
        let annotations = [(NAME_IN_FULL, name.to_string()), (NAME, name.target().to_owned())];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value)).into();
        WrittenDescriptor { annotations, ..plain.clone() }
    };
    match names {
        [] => vec![plain],
        names => names.iter().map(named).collect(),
    }
}

fn listed(Chosen { image, names }: &Chosen) -> ListedImage {
    ListedImage {
        config: blob_name(&image.id),
        repo_tags: names.iter().map(Reference::familiar).collect(),
        layers: image.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
    }
}

/// Repository, tag, and the hex digits of the topmost layer.
fn repositories(chosen: &[Chosen]) -> Option<BTreeMap<String, BTreeMap<String, String>>> {
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for Chosen { image, names } in chosen {
        let top = image.layers.last().map_or(&image.id, |layer| &layer.diff_id);
        for name in names {
            let tags = repositories.entry(name.familiar_name()).or_default();
            tags.insert(name.target().to_owned(), Digest::hex(top).to_owned());
        }
    }
    (!repositories.is_empty()).then_some(repositories)
}
