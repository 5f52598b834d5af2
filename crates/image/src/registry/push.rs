//! Pushing an image: every blob that the registry lacks, then its manifest (distribution-spec 1.1, "Push").
//!
//! An image that came with a manifest is pushed with that one, byte for byte, and with the index above it when every
//! platform of it is here. One that came without (`docker load`,
//! import, commit) gets an OCI manifest which depends on its content alone: layers that are gzip or zstd go as they are,
//! others are compressed once, and what that gives is kept with the image and found again through the database. Three
//! blobs go side by side. After the push the image is known by the digest that the registry has for it, and where its
//! blobs are is remembered for mounting them into other repositories.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flate2::{Compression as Level, GzBuilder};
use hull_oci::image as media;
use hull_oci::{Digest, Reference};
use hull_store::HoldKind;
use hyper::Method;
use serde::Serialize;

use super::RegistryError;
use super::client::{Action, Client, Reach, Wanted};
use super::endpoint::Endpoint;
use super::payload::Content;
use super::platforms::Links;
use super::proxy::Proxies;
use super::settings::Registries;
use super::upload::{Outgoing, Upload};
use crate::compression::{Compression, decompress};
use crate::content::ContentError;
use crate::manifest::{Document, INDEX_DEPTH_MAX, Manifest};
use crate::{DOCUMENT_BYTES_MAX, Holds, Image, ImageError, ImageStore, LayerDescriptor, LayerEvent, Progress};

/// How hard layers are compressed: gzip's own default.
const LEVEL: u32 = 6;
/// Blobs that go side by side.
const LANES: usize = 3;

/// How to push.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// Docker's config.json; absent for `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub docker_config: Option<PathBuf>,
    /// How registries are reached.
    pub registries: Registries,
    /// Which proxies are used.
    pub proxies: Proxies,
    /// How often a request or transfer is tried.
    pub attempts: u32,
    /// Pause after the first failed attempt; each further one is twice as long.
    pub first_pause: Duration,
    /// Blobs up to this size go in one request, larger ones in chunks of it.
    pub chunk_bytes: u64,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            docker_config: None,
            registries: Registries::new(),
            proxies: Proxies::of_environment(),
            attempts: 5,
            first_pause: Duration::from_millis(300),
            chunk_bytes: 32 << 20,
        }
    }
}

/// What a push brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedImage {
    /// Digest of the manifest that the name leads to now.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
}

/// A manifest or index as it goes.
struct Outline {
    digest: Digest,
    media_type: String,
    bytes: Vec<u8>,
    blobs: Vec<Outgoing>,
    /// The manifests that an index leads to, which go before it.
    children: Vec<Outline>,
}

/// Brings an image to a registry under a name.
///
/// # Errors
/// [`RegistryError`]; blobs that have gone by then stay with the registry.
pub fn push(
    images: &ImageStore<'_>,
    image: &Image,
    reference: &Reference,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<PushedImage, RegistryError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RegistryError::Start)?;
    let holds = Holds::new(images)?;
    let reach = Reach::from(options);
    let client =
        runtime.block_on(Client::connect(reference, &Endpoint::registry_of(reference), &reach, Action::Push))?;
    let mut outline = Pusher { images, image, holds: &holds, progress }.outline()?;
    for blob in &mut outline.blobs {
        blob.sources = images.sources(&blob.digest, reference)?;
    }
    runtime.block_on(upload_all(&client, images, &outline.blobs, options, progress))?;
    for child in &outline.children {
        runtime.block_on(put_manifest(&client, child.digest.as_str(), child))?;
    }
    runtime.block_on(put_manifest(&client, reference.target(), &outline))?;
    images.pushed(&image.id, reference, &outline.digest, outline.blobs.iter().map(|blob| &blob.digest))?;
    Ok(PushedImage { size_bytes: outline.bytes.len() as u64, digest: outline.digest })
}

struct Pusher<'p, 'a> {
    images: &'p ImageStore<'a>,
    image: &'p Image,
    holds: &'p Holds<'p>,
    progress: &'p dyn Progress,
}

impl Pusher<'_, '_> {
    fn outline(&self) -> Result<Outline, RegistryError> {
        let things: Vec<_> = self.image.layers.iter().map(|layer| (HoldKind::Blob, &layer.digest)).collect();
        self.holds.hold(&things)?;
        for layer in &self.image.layers {
            self.progress.layer(&layer.diff_id, LayerEvent::Preparing);
        }
        if let Some(index) = self.whole_index()? {
            return Ok(index);
        }
        match &self.image.manifest_digest {
            Some(digest) => self.own_manifest(digest),
            None => self.new_manifest(),
        }
    }

    /// The manifest that the image came with.
    fn own_manifest(&self, digest: &Digest) -> Result<Outline, RegistryError> {
        let bytes = self.images.content().read(digest, DOCUMENT_BYTES_MAX).map_err(ImageError::from)?;
        let invalid = |source| RegistryError::Stored { digest: digest.clone(), source: Box::new(source) };
        let manifest = match Document::parse(&bytes, None).map_err(invalid)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => return Err(invalid(crate::ManifestError::Nesting)),
        };
        let media_type = self.media_type(digest, &bytes, media::OCI_MANIFEST)?;
        let blobs = self.outgoing(&manifest);
        Ok(Outline { digest: digest.clone(), media_type, bytes, blobs, children: Vec::new() })
    }

    fn media_type(&self, digest: &Digest, bytes: &[u8], usual: &str) -> Result<String, RegistryError> {
        match serde_json::from_slice::<MediaType>(bytes) {
            Ok(MediaType { media_type: Some(media_type) }) => Ok(media_type),
            _ => Ok(self.images.media_type(digest)?.unwrap_or_else(|| usual.to_owned())),
        }
    }

    /// The index by which the image was pulled, when everything that it leads to is here.
    fn whole_index(&self) -> Result<Option<Outline>, RegistryError> {
        for digest in self.images.pulled_digests(&self.image.id)? {
            if Some(&digest) == self.image.manifest_digest.as_ref() {
                continue;
            }
            if let Some(outline) = self.outline_of(&digest, INDEX_DEPTH_MAX)?.filter(|found| !found.children.is_empty())
            {
                return Ok(Some(outline));
            }
        }
        Ok(None)
    }

    /// A stored document with all that it leads to; absent when a part is missing.
    fn outline_of(&self, digest: &Digest, depth: usize) -> Result<Option<Outline>, RegistryError> {
        self.holds.hold(&[(HoldKind::Blob, digest)])?;
        let Ok(bytes) = self.images.content().read(digest, DOCUMENT_BYTES_MAX) else { return Ok(None) };
        let invalid = |source| RegistryError::Stored { digest: digest.clone(), source: Box::new(source) };
        let links = Links::of(&bytes).map_err(invalid)?;
        let mut blobs = Vec::new();
        for blob in links.blobs() {
            self.holds.hold(&[(HoldKind::Blob, &blob.digest)])?;
            if self.images.content().size_bytes(&blob.digest).map_err(ImageError::from)? != Some(blob.size_bytes) {
                return Ok(None);
            }
            let own = self.image.layers.iter().find(|layer| layer.digest == blob.digest);
            let shown = own.map_or_else(|| blob.digest.clone(), |layer| layer.diff_id.clone());
            let shown = Some(shown).filter(|_| links.layers.iter().any(|layer| layer.digest == blob.digest));
            blobs.push(outgoing(blob.digest.clone(), blob.size_bytes, shown));
        }
        let mut children = Vec::new();
        for entry in &links.manifests {
            let Some(depth) = depth.checked_sub(1) else { return Ok(None) };
            let Some(mut child) = self.outline_of(&entry.digest, depth)? else { return Ok(None) };
            blobs.append(&mut child.blobs);
            let below = std::mem::take(&mut child.children);
            children.extend(below.into_iter().chain([child]));
        }
        let usual = if children.is_empty() { media::OCI_MANIFEST } else { media::OCI_INDEX };
        let media_type = self.media_type(digest, &bytes, usual)?;
        Ok(Some(Outline { digest: digest.clone(), media_type, bytes, blobs, children }))
    }

    fn outgoing(&self, manifest: &Manifest) -> Vec<Outgoing> {
        let diff_ids = self.image.layers.iter().map(|layer| Some(layer.diff_id.clone()));
        let layers = manifest.layers.iter().zip(diff_ids);
        let blobs = layers.chain([(&manifest.config, None)]);
        blobs.map(|(blob, shown)| outgoing(blob.digest.clone(), blob.size_bytes, shown)).collect()
    }

    /// A manifest for an image that came without one.
    fn new_manifest(&self) -> Result<Outline, RegistryError> {
        let id = &self.image.id;
        let config_bytes = self.images.content().size_bytes(id).map_err(ImageError::from)?.unwrap_or_default();
        let config = NewDescriptor { media_type: media::OCI_CONFIG, digest: id.clone(), size: config_bytes };
        let layers: Vec<_> = self.image.layers.iter().map(|layer| self.layer(layer)).collect::<Result<_, _>>()?;
        let manifest = NewManifest { schema_version: 2, media_type: media::OCI_MANIFEST, config, layers };
        let bytes = serde_json::to_vec(&manifest).expect("numbers and texts have a JSON form");
        let digest = Digest::sha256_of(&bytes);
        self.holds.keep_bytes(&digest, &bytes, media::OCI_MANIFEST)?;
        self.holds.settle()?;
        let needed = manifest.layers.iter().map(|layer| &layer.digest).chain([&digest]);
        self.images.complete(id, &digest, needed)?;
        let shown = self.image.layers.iter().map(|layer| Some(layer.diff_id.clone()));
        let blobs = manifest.layers.iter().zip(shown).chain([(&manifest.config, None)]);
        let blobs = blobs.map(|(blob, shown)| outgoing(blob.digest.clone(), blob.size, shown)).collect();
        Ok(Outline { digest, media_type: media::OCI_MANIFEST.to_owned(), bytes, blobs, children: Vec::new() })
    }

    /// How a layer travels: as it is, or compressed.
    fn layer(&self, layer: &LayerDescriptor) -> Result<NewDescriptor, RegistryError> {
        let path = self.images.content().path(&layer.digest);
        let failed = |source| RegistryError::Compress { digest: layer.digest.clone(), source };
        let mut file = self.images.content().open(&layer.digest).map_err(ImageError::from)?;
        let mut start = Vec::new();
        (&mut file).take(8).read_to_end(&mut start).map_err(failed)?;
        let (media_type, digest) = match Compression::of(&start) {
            Compression::Gzip => (media::OCI_LAYER_GZIP, layer.digest.clone()),
            Compression::Zstd => (media::OCI_LAYER_ZSTD, layer.digest.clone()),
            _ => (media::OCI_LAYER_GZIP, self.compressed(layer, &path)?),
        };
        let size = self.images.content().size_bytes(&digest).map_err(ImageError::from)?.unwrap_or_default();
        Ok(NewDescriptor { media_type, digest, size })
    }

    /// The compressed form of a layer, made unless an earlier push has.
    fn compressed(&self, layer: &LayerDescriptor, path: &std::path::Path) -> Result<Digest, RegistryError> {
        if let Some(known) = self.images.compressed(&layer.digest)? {
            self.holds.hold(&[(HoldKind::Blob, &known)])?;
            if self.images.content().size_bytes(&known).map_err(ImageError::from)?.is_some() {
                return Ok(known);
            }
        }
        let failed = |source| RegistryError::Compress { digest: layer.digest.clone(), source };
        let mut writer = self.holds.writer()?;
        compress(&mut File::open(path).map_err(failed)?, &mut writer).map_err(failed)?;
        let stored = self.holds.admit(writer.seal().map_err(ImageError::from)?, media::OCI_LAYER_GZIP)?;
        self.images.remember_compressed(&layer.digest, &stored.digest)?;
        Ok(stored.digest)
    }
}

/// Compresses a layer, whatever it is compressed with, so that the same tar always gives the same bytes: no name, no
/// time, no system in the header (RFC 1952, 2.3).
fn compress(layer: &mut dyn Read, into: &mut dyn Write) -> io::Result<()> {
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(into, Level::new(LEVEL));
    io::copy(&mut decompress(layer)?, &mut encoder)?;
    encoder.finish()?;
    Ok(())
}

fn outgoing(digest: Digest, size_bytes: u64, shown: Option<Digest>) -> Outgoing {
    Outgoing { digest, size_bytes, shown, sources: Vec::new() }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct MediaType {
    media_type: Option<String>,
}

/// A manifest as it is written: the order of its fields is a part of its digest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewManifest {
    schema_version: u32,
    media_type: &'static str,
    config: NewDescriptor,
    layers: Vec<NewDescriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewDescriptor {
    media_type: &'static str,
    digest: Digest,
    size: u64,
}

/// Uploads what the registry lacks, several blobs side by side; the first failure ends it.
async fn upload_all(
    client: &Client<'_>,
    images: &ImageStore<'_>,
    blobs: &[Outgoing],
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<(), RegistryError> {
    let mut seen = std::collections::HashSet::new();
    let distinct: VecDeque<&Outgoing> = blobs.iter().filter(|blob| seen.insert(&blob.digest)).collect();
    let queue = Mutex::new(distinct);
    let lane = || async {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(blob) = next else { return Ok::<_, RegistryError>(()) };
            let file = Arc::new(images.content().open(&blob.digest).map_err(ImageError::from)?);
            check_size(blob, &file)?;
            Upload { client, progress, blob, file, chunk_bytes: options.chunk_bytes }.run().await?;
        }
    };
    const { assert!(LANES == 3) };
    tokio::try_join!(lane(), lane(), lane())?;
    Ok(())
}

/// The registry verifies what it gets; a file that is not even as long as it should be does not go there.
fn check_size(blob: &Outgoing, file: &File) -> Result<(), RegistryError> {
    let found_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    match found_bytes == blob.size_bytes {
        true => Ok(()),
        false => {
            let (digest, expected_bytes) = (blob.digest.clone(), blob.size_bytes);
            Err(ContentError::WrongSize { digest, expected_bytes, found_bytes }.into())
        }
    }
}

async fn put_manifest(client: &Client<'_>, target: &str, outline: &Outline) -> Result<(), RegistryError> {
    let url = client.url("manifests", target);
    let content = Content::Bytes(outline.bytes.clone().into());
    let wanted = Wanted { method: Method::PUT, content_type: &outline.media_type, content, ..Wanted::default() };
    let response = client.get(&url, &wanted).await?;
    let told = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
    match told.and_then(|text| Digest::parse(text).ok()) {
        Some(found) if found != outline.digest && found.algorithm() == outline.digest.algorithm() => {
            Err(RegistryError::WrongDigest { url, expected: outline.digest.clone(), found })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tar_is_compressed_to_the_same_bytes() {
        let tar = vec![7; 100_000];
        let packed = |mut bytes: &[u8]| {
            let mut out = Vec::new();
            compress(&mut bytes, &mut out).expect("memory");
            out
        };
        let once = packed(&tar);
        assert_eq!(once[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255], "no time, no name, no system");
        let mut plain = Vec::new();
        decompress(&once[..]).expect("begins").read_to_end(&mut plain).expect("decodes");
        assert_eq!(plain, tar);
        let mut faster = flate2::write::GzEncoder::new(Vec::new(), Level::fast());
        faster.write_all(&tar).expect("memory");
        assert_eq!(packed(&faster.finish().expect("memory")), once, "however it was compressed before");
    }
}
