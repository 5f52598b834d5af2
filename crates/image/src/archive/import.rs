//! `import`: the tar of a root file system becomes an image of one layer.
//!
//! A plain, gzip or zstd tar becomes the layer's blob as it is; xz and bzip2, for which there is no media type, are
//! undone first. The configuration is docker's: the platform, what `--change` says, and one line of history.

use std::io::{BufRead, Read};
use std::sync::Arc;

use hull_oci::image as media;
use hull_oci::{Digest, Platform, Reference};
use serde_json::json;

use super::ArchiveError;
use super::changes;
use crate::compression::{Compression, Detected, decompress};
use crate::content::{Hasher, SealedBlob};
use crate::image::parse_configuration;
use crate::store::refuse_digest;
use crate::{Holds, ImageStore, LayerDescriptor, LayerEvent, NewImage, Progress, StoredBlob};

/// Bytes handled at a time.
const PART_BYTES: usize = 128 << 10;

/// What the image is to be besides its files.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Its name; without one it is found by id.
    pub reference: Option<Reference>,
    /// Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, USER, WORKDIR, LABEL, VOLUME, STOPSIGNAL.
    pub changes: Vec<String>,
    /// Comment in the history.
    pub message: Option<String>,
    /// Platform; the machine's own when absent.
    pub platform: Option<Platform>,
}

/// Reads a root file system and gives the image made of it, stored and held, to be unpacked and added.
///
/// # Errors
/// [`ArchiveError`]; nothing is left then.
pub fn import<'a>(
    images: &'a ImageStore<'a>,
    input: impl Read,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<NewImage<'a>, ArchiveError> {
    options.reference.iter().try_for_each(refuse_digest)?;
    let config = changes::configuration(&options.changes)?;
    let holds = Arc::new(Holds::new(images)?);
    let layer = spool_layer(&holds, input)?;
    progress.layer(&layer.digest, LayerEvent::Downloaded);
    holds.hold_layers(std::slice::from_ref(&layer))?;
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let now = jiff::Timestamp::now().to_string();
    let comment = options.message.as_deref().unwrap_or("Imported from -");
    let mut json = json!({
        "architecture": platform.architecture,
        "config": config,
        "created": now,
        "history": [{"created": now, "comment": comment}],
        "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    });
    if let Some(variant) = &platform.variant {
        json["variant"] = json!(variant);
    }
    let bytes = json.to_string().into_bytes();
    let id = Digest::sha256_of(&bytes);
    let configuration =
        parse_configuration(&bytes).map_err(|source| ArchiveError::document("configuration", source))?;
    let blob = holds.admit_bytes(&id, &bytes, media::OCI_CONFIG)?;
    Ok(NewImage {
        id,
        manifest_digest: None,
        pulled_digest: None,
        names: options.reference.iter().cloned().collect(),
        configuration,
        blobs: vec![blob, StoredBlob::from(&layer)],
        layers: vec![layer],
        holds,
    })
}

/// Puts the input into the content store as the blob of a lowest layer.
fn spool_layer(holds: &Holds<'_>, input: impl Read) -> Result<LayerDescriptor, ArchiveError> {
    let detected = Detected::new(input)?;
    let media_type = match detected.compression {
        Compression::Gzip => media::OCI_LAYER_GZIP,
        Compression::Zstd => media::OCI_LAYER_ZSTD,
        Compression::None | Compression::Xz | Compression::Bzip2 => media::OCI_LAYER,
    };
    let sealed = match media_type {
        media::OCI_LAYER => spool(holds, detected.decompressed()?)?,
        _ => spool(holds, detected.raw())?,
    };
    if sealed.size_bytes == 0 {
        return Err(ArchiveError::Empty);
    }
    let blob = holds.admit(sealed, media_type)?;
    let diff_id = match media_type {
        media::OCI_LAYER => blob.digest.clone(),
        _ => uncompressed_digest(decompress(holds.open(&blob.digest)?)?)?,
    };
    let chain_id = diff_id.clone();
    let StoredBlob { digest, size_bytes, media_type } = blob;
    Ok(LayerDescriptor { diff_id, chain_id, digest, media_type, size_bytes })
}

fn spool(holds: &Holds<'_>, input: impl Read) -> Result<SealedBlob, ArchiveError> {
    let mut writer = holds.writer()?;
    each_part(input, |part| Ok(writer.append(part)?))?;
    Ok(writer.seal()?)
}

fn uncompressed_digest(input: impl Read) -> Result<Digest, ArchiveError> {
    let mut hasher = Hasher::default();
    each_part(input, |part| {
        hasher.update(part);
        Ok(())
    })?;
    Ok(hasher.finish())
}

fn each_part(input: impl Read, mut take: impl FnMut(&[u8]) -> Result<(), ArchiveError>) -> Result<(), ArchiveError> {
    let mut input = std::io::BufReader::with_capacity(PART_BYTES, input);
    loop {
        let part = match input.fill_buf() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if part.is_empty() {
            return Ok(());
        }
        take(part)?;
        let length = part.len();
        input.consume(length);
    }
}
