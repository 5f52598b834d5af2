//! docker-archive: what `docker save` and `skopeo copy docker-archive:` write.
//!
//! `manifest.json` is a list of images: `Config` and `Layers` name files of the archive, `RepoTags` the names. Older
//! dockers write `<id>/layer.tar`, sometimes as a link to another's, newer ones `blobs/sha256/<digest>`. Layers are
//! usually uncompressed; which they are is told by their first bytes. The configuration's digest is the image's id,
//! and its diff ids say what each layer must unpack to.

use std::sync::Arc;

use hull_oci::image as media;
use hull_oci::{Digest, Reference};
use serde::Deserialize;

use super::ArchiveError;
use super::load::existing_or;
use super::oci;
use super::spool::{Spool, Spooled};
use crate::compression::Compression;
use crate::image::{chain_ids, diff_ids, parse_configuration};
use crate::{Holds, LAYERS_MAX, LayerDescriptor, ManifestError, NewImage, StoredBlob};

/// The list of images.
pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ArchivedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The images of a docker-archive.
pub(super) fn images<'a>(spool: &Spool<'_, 'a>, holds: &Arc<Holds<'a>>) -> Result<Vec<NewImage<'a>>, ArchiveError> {
    let bytes = spool.document(MANIFEST, spool.named(MANIFEST, MANIFEST)?)?;
    let list: Vec<ArchivedImage> =
        serde_json::from_slice(&bytes).map_err(|error| ArchiveError::invalid(MANIFEST, "docker-archive", error))?;
    if list.is_empty() {
        return Err(ArchiveError::invalid(MANIFEST, "docker-archive", "it lists no image"));
    }
    list.into_iter().map(|archived| image(archived, spool, holds)).collect()
}

fn image<'a>(
    archived: ArchivedImage,
    spool: &Spool<'_, 'a>,
    holds: &Arc<Holds<'a>>,
) -> Result<NewImage<'a>, ArchiveError> {
    let entry = archived.config.as_str();
    let config = spool.named(entry, MANIFEST)?;
    let bytes = spool.document(entry, config)?;
    let configuration = parse_configuration(&bytes).map_err(|source| ArchiveError::document(entry, source))?;
    let diff_ids = diff_ids(&configuration).map_err(|source| ArchiveError::document(entry, source))?;
    let files = archived.layers.unwrap_or_default();
    if files.len() > LAYERS_MAX {
        return Err(ArchiveError::document(MANIFEST, ManifestError::TooManyLayers { count: files.len() }));
    }
    if files.len() != diff_ids.len() {
        let source = ManifestError::LayerCount { manifest: files.len(), configuration: diff_ids.len() };
        return Err(ArchiveError::document(MANIFEST, source));
    }
    let chain = chain_ids(&diff_ids);
    let layers = files.iter().zip(diff_ids).zip(chain);
    let layers = layers.map(|((name, diff_id), chain_id)| layer(name, diff_id, chain_id, spool));
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let names = archived.repo_tags.unwrap_or_default();
    let parse = |name: &String| {
        Reference::parse(name).map_err(|source| ArchiveError::Reference { entry: MANIFEST.to_owned(), source })
    };
    let names = names.iter().map(parse).collect::<Result<_, _>>()?;
    let layers = existing_or(holds, &config.digest, layers)?;
    let config_blob = StoredBlob {
        digest: config.digest.clone(),
        size_bytes: config.size_bytes,
        media_type: media::DOCKER_CONFIG.to_owned(),
    };
    let mut image = NewImage {
        id: config.digest.clone(),
        manifest_digest: None,
        pulled_digest: None,
        names,
        configuration,
        blobs: std::iter::once(config_blob).chain(layers.iter().map(StoredBlob::from)).collect(),
        layers,
        holds: Arc::clone(holds),
    };
    // docker 25 and later writes an OCI layout around the same blobs, which has the image's manifest.
    if let Some(manifest) = oci::manifest_for(spool, &image) {
        image.manifest_digest = Some(manifest.digest.clone());
        image.blobs.push(manifest);
    }
    Ok(image)
}

fn layer(
    name: &str,
    diff_id: Digest,
    chain_id: Digest,
    spool: &Spool<'_, '_>,
) -> Result<LayerDescriptor, ArchiveError> {
    let file = spool.named(name, MANIFEST)?;
    if file.compression == Compression::None && file.digest != diff_id {
        let (entry, found) = (name.to_owned(), file.digest.clone());
        return Err(ArchiveError::WrongLayer { entry, expected: diff_id, found });
    }
    Ok(LayerDescriptor {
        diff_id,
        chain_id,
        digest: file.digest.clone(),
        media_type: layer_media_type(name, file)?.to_owned(),
        size_bytes: file.size_bytes,
    })
}

fn layer_media_type(name: &str, file: &Spooled) -> Result<&'static str, ArchiveError> {
    match file.compression {
        Compression::None => Ok(media::OCI_LAYER),
        Compression::Gzip => Ok(media::OCI_LAYER_GZIP),
        Compression::Zstd => Ok(media::OCI_LAYER_ZSTD),
        other => Err(ArchiveError::invalid(name, "layer", format!("compression {other:?} is not one of a layer"))),
    }
}
