//! Pulling from and pushing to a registry: OCI distribution-spec 1.1 and docker's schema 2 over HTTP(S).
//!
//! [`pull`] follows a name to a manifest (through indexes, by platform), gets the configuration, then all layers side
//! by side, and gives back a [`NewImage`] whose every blob is verified and held. Each document is verified by digest
//! before it is read: the manifest by the digest asked for, everything else by the descriptor that led to it. The
//! network runs in a current-thread tokio runtime that lives inside the call; when it returns, by success or error,
//! no thread of it is left. Schema 1 is refused. Pushing is in [`push()`].

pub mod challenge;
mod client;
mod credentials;
mod docker_config;
mod endpoint;
mod error;
mod fetch;
mod login;
mod lookup;
mod payload;
mod platforms;
mod proxy;
mod push;
mod referrers;
mod settings;
mod signatures;
mod transfer;
mod transport;
mod trust;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hull_oci::image::{ACCEPTED_MANIFESTS, ImageConfiguration};
use hull_oci::{Digest, Platform, Reference};
use hull_store::HoldKind;
use hyper::header::CONTENT_TYPE;

pub use credentials::{
    Credentials, CredentialsError, default_path as default_config, encode_base64, load as find_credentials,
};
pub use docker_config::{StoredIn, erase_credentials, store_credentials};
pub use endpoint::{Mirror, MirrorError};
pub use error::RegistryError;
pub use login::try_login;
pub use lookup::{NamedManifest, manifest, tags};
pub use proxy::Proxies;
pub use push::{PushOptions, PushedImage, push};
pub use referrers::{Referrer, referrers};
pub use settings::{ClientCertificate, Registries, RegistryName, RegistryNameError, RegistrySettings};
pub use signatures::{PatternError, TrustPolicy, TrustRule};
pub use transport::TransportError;

use self::client::{Action, Client, Reach, Wanted, read_limited};
use self::endpoint::Endpoint;
use self::fetch::{Fetch, fetch};
use crate::content::{ContentError, Hasher};
use crate::image::{parse_configuration, platform_of};
use crate::manifest::{Descriptor, Document, INDEX_DEPTH_MAX, Manifest, select};
use crate::{
    DOCUMENT_BYTES_MAX, Holds, ImageError, ImageStore, LayerSink, ManifestError, NewImage, Progress, StoredBlob,
};

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Platform wanted; the machine's own when absent, and then an image for one platform alone is taken as it is.
    pub platform: Option<Platform>,
    /// Docker's config.json; absent for `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub docker_config: Option<PathBuf>,
    /// Whether the other platforms' manifests and blobs are stored besides.
    pub all_platforms: bool,
    /// What must be signed.
    pub trust: TrustPolicy,
    /// How registries are reached.
    pub registries: Registries,
    /// Which proxies are used.
    pub proxies: Proxies,
    /// How often a request or transfer is tried.
    pub attempts: u32,
    /// Pause after the first failed attempt; each further one is twice as long.
    pub first_pause: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: None,
            docker_config: None,
            all_platforms: false,
            trust: TrustPolicy::default(),
            registries: Registries::new(),
            proxies: Proxies::of_environment(),
            attempts: 5,
            first_pause: Duration::from_millis(300),
        }
    }
}

/// What a pull brought.
#[derive(Debug)]
pub struct PulledImage<'a> {
    /// The image, to be given to [`ImageStore::add`] when its layers are ready.
    pub image: NewImage<'a>,
    /// What the registry calls it: the digest that the name led to.
    pub digest: Digest,
    /// Whether the name led to this very image before.
    pub up_to_date: bool,
}

/// Brings an image's blobs into the content store and each layer to the sink, from a mirror or the registry.
///
/// # Errors
/// [`RegistryError`]; nothing of the image is left then, except blobs that other images have and, when the registry could
/// not be reached any more, what the next pull goes on with.
pub fn pull<'a>(
    images: &'a ImageStore<'a>,
    reference: &Reference,
    options: &PullOptions,
    sink: &dyn LayerSink,
    progress: &dyn Progress,
) -> Result<PulledImage<'a>, RegistryError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RegistryError::Start)?;
    let holds = Arc::new(Holds::new(images)?);
    let endpoints = Endpoint::all_of(reference, &options.registries);
    let (registry, mirrors) = endpoints.split_last().expect("the registry itself is always among them");
    let work = Work { runtime, images, reference, options, holds, sink, progress };
    for mirror in mirrors {
        match work.pull_from(mirror) {
            Err(error) if error.is_the_place_s() => {
                let name = reference.familiar();
                progress.warning(&format!("the mirror {mirror} does not give {name}: {}", with_causes(&error)));
                // What it gave so far is verified, and need not come again.
                work.holds.settle()?;
            }
            other => return work.ended(other),
        }
    }
    work.ended(work.pull_from(registry))
}

/// An error and what it came from, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// One pull, wherever it is from.
struct Work<'w, 'a> {
    runtime: tokio::runtime::Runtime,
    images: &'a ImageStore<'a>,
    reference: &'w Reference,
    options: &'w PullOptions,
    holds: Arc<Holds<'a>>,
    sink: &'w dyn LayerSink,
    progress: &'w dyn Progress,
}

impl<'a> Work<'_, 'a> {
    fn pull_from(&self, endpoint: &Endpoint) -> Result<PulledImage<'a>, RegistryError> {
        let Self { runtime, images, reference, options, holds, sink, progress } = self;
        let reach = Reach::from(*options);
        let client = runtime.block_on(Client::connect(reference, endpoint, &reach, Action::Pull))?;
        let puller = Puller { client: &client, images, reference, options, holds };
        let resolved = runtime.block_on(puller.resolve())?;
        let digest = resolved.digest().clone();
        runtime.block_on(signatures::check(&options.trust, &client, reference, &digest))?;
        progress.resolved(reference, &digest);
        let mut image = runtime.block_on(puller.image(&resolved, *progress))?;
        let up_to_date = puller.is_up_to_date(&image)?;
        let mut layers = image.layers.clone();
        if options.all_platforms {
            let (documents, others) = runtime.block_on(puller.others(&resolved))?;
            image.blobs.extend(documents.into_iter().chain(others.iter().map(StoredBlob::from)));
            layers.extend(others);
        }
        let (unpacked, layers) = (image.layers.len(), &layers[..]);
        fetch(runtime, &client, &Fetch { holds, layers, unpacked, sink: *sink, progress: *progress })?;
        holds.settle()?;
        Ok(PulledImage { image, digest, up_to_date })
    }

    /// After an interruption the next pull goes on with what is here.
    fn ended(&self, pulled: Result<PulledImage<'a>, RegistryError>) -> Result<PulledImage<'a>, RegistryError> {
        if pulled.as_ref().is_err_and(RegistryError::is_interruption) {
            self.holds.leave_unfinished();
        }
        pulled
    }
}

/// A verified document.
struct Fetched {
    blob: StoredBlob,
    bytes: Vec<u8>,
}

/// The documents that a name led to, the first being what the name itself means.
struct Resolved {
    documents: Vec<Fetched>,
    manifest: Manifest,
}

impl Resolved {
    fn digest(&self) -> &Digest {
        &self.documents[0].blob.digest
    }

    fn manifest_digest(&self) -> &Digest {
        &self.documents[self.documents.len() - 1].blob.digest
    }
}

struct Puller<'p, 'a> {
    client: &'p Client<'p>,
    images: &'a ImageStore<'a>,
    reference: &'p Reference,
    options: &'p PullOptions,
    holds: &'p Arc<Holds<'a>>,
}

impl<'a> Puller<'_, 'a> {
    /// Follows the name through indexes to the manifest of one platform.
    async fn resolve(&self) -> Result<Resolved, RegistryError> {
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        let mut documents = Vec::new();
        let (mut fetched, mut announced) = named_document(self.client, self.reference).await?;
        for _ in 0..=INDEX_DEPTH_MAX {
            let document =
                Document::parse(&fetched.bytes, announced.as_deref()).map_err(|source| self.invalid(source))?;
            fetched.blob.media_type = media_type(&fetched.blob.media_type, &document);
            documents.push(fetched);
            let entries = match document {
                Document::Manifest(manifest) => return Ok(Resolved { documents, manifest }),
                Document::Index(entries) => entries,
            };
            let entry = select(&entries, &wanted).map_err(|source| self.invalid(source))?;
            fetched = self.document("manifests", entry, &ACCEPTED_MANIFESTS).await?;
            announced = Some(entry.media_type.clone()).filter(|text| !text.is_empty());
        }
        Err(self.invalid(ManifestError::Nesting))
    }

    fn invalid(&self, source: ManifestError) -> RegistryError {
        RegistryError::Manifest { reference: Box::new(self.reference.clone()), source: Box::new(source) }
    }

    /// A document that a descriptor leads to, from the store where it is there.
    async fn document(&self, kind: &str, entry: &Descriptor, accept: &[&str]) -> Result<Fetched, RegistryError> {
        let blob = StoredBlob::from(entry);
        let url = self.client.url(kind, entry.digest.as_str());
        if entry.size_bytes > DOCUMENT_BYTES_MAX {
            return Err(RegistryError::TooLong { url, limit_bytes: DOCUMENT_BYTES_MAX });
        }
        self.holds.hold(&[(HoldKind::Blob, &entry.digest)])?;
        if self.holds.is_stored(&entry.digest, entry.size_bytes)? {
            match self.images.content().read(&entry.digest, DOCUMENT_BYTES_MAX) {
                Ok(bytes) => return Ok(Fetched { blob, bytes }),
                // A damaged copy is replaced by a good one.
                Err(ContentError::WrongDigest { .. }) => {}
                Err(error) => return Err(ImageError::from(error).into()),
            }
        }
        let response = self.client.get(&url, &Wanted { accept, ..Wanted::default() }).await?;
        let bytes = read_limited(&url, response, entry.size_bytes).await?;
        if bytes.len() as u64 != entry.size_bytes {
            let (expected_bytes, received_bytes) = (entry.size_bytes, bytes.len() as u64);
            return Err(RegistryError::Truncated { url, received_bytes, expected_bytes, attempts: 1 });
        }
        verified(&url, &entry.digest, &bytes)?;
        Ok(Fetched { blob, bytes })
    }

    /// Stores the documents, reads the configuration and holds what the layers need.
    async fn image(&self, resolved: &Resolved, progress: &dyn Progress) -> Result<NewImage<'a>, RegistryError> {
        let config = self.document("blobs", &resolved.manifest.config, &[]).await?;
        let configuration = parse_configuration(&config.bytes).map_err(|source| self.invalid(source.into()))?;
        self.check_platform(&configuration, progress)?;
        let id = config.blob.digest.clone();
        let layers = match self.holds.existing_layers(&id)? {
            Some(layers) => layers,
            None => {
                let layers = resolved.manifest.layers(&configuration).map_err(|source| self.invalid(source))?;
                self.holds.hold_layers(&layers)?;
                layers
            }
        };
        let mut blobs = Vec::new();
        for document in resolved.documents.iter().chain([&config]) {
            let StoredBlob { digest, media_type, .. } = &document.blob;
            blobs.push(self.holds.keep_bytes(digest, &document.bytes, media_type)?);
        }
        blobs.extend(layers.iter().map(StoredBlob::from));
        Ok(NewImage {
            id,
            manifest_digest: Some(resolved.manifest_digest().clone()),
            pulled_digest: Some(resolved.digest().clone()),
            names: vec![self.name()],
            configuration,
            layers,
            blobs,
            holds: Arc::clone(self.holds),
        })
    }

    /// The name that the image gets: with a digest in it, the tag says nothing.
    fn name(&self) -> Reference {
        match &self.reference.digest {
            Some(digest) => self.reference.with_digest(digest.clone()),
            None => self.reference.clone(),
        }
    }

    /// An image for one platform says only in its configuration which one that is.
    fn check_platform(&self, configuration: &ImageConfiguration, progress: &dyn Progress) -> Result<(), RegistryError> {
        let (offered, host) = (platform_of(configuration), Platform::host());
        match &self.options.platform {
            Some(wanted) if !crate::manifest::runs(wanted, &offered) => {
                let (wanted, offered) = (wanted.clone(), vec![offered.to_string()]);
                Err(self.invalid(ManifestError::Platform { wanted, offered }))
            }
            None if !crate::manifest::runs(&host, &offered) => {
                progress.warning(&format!(
                    "The image's platform ({offered}) does not match this machine's ({host}) and no specific platform \
                     was requested"
                ));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn is_up_to_date(&self, image: &NewImage<'_>) -> Result<bool, RegistryError> {
        let known = self.images.resolve(&self.name().to_string())?;
        Ok(known.is_some_and(|known| known.id == image.id))
    }
}

/// What the reference itself means, and its Content-Type.
async fn named_document(
    client: &Client<'_>,
    reference: &Reference,
) -> Result<(Fetched, Option<String>), RegistryError> {
    let url = client.url("manifests", reference.target());
    let response = client.get(&url, &Wanted { accept: &ACCEPTED_MANIFESTS, ..Wanted::default() }).await?;
    let text = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let announced =
        text(CONTENT_TYPE.as_str()).map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
    let claimed = text("docker-content-digest").and_then(|value| Digest::parse(&value).ok());
    let bytes = read_limited(&url, response, DOCUMENT_BYTES_MAX).await?;
    let expected = reference.digest.clone().or(claimed);
    let digest = match &expected {
        Some(expected) => verified(&url, expected, &bytes)?,
        None => Digest::sha256_of(&bytes),
    };
    let media_type = announced.clone().unwrap_or_default();
    let blob = StoredBlob { digest, size_bytes: bytes.len() as u64, media_type };
    Ok((Fetched { blob, bytes }, announced))
}

/// The digest of some bytes, which must be the one expected.
fn verified(url: &str, expected: &Digest, bytes: &[u8]) -> Result<Digest, RegistryError> {
    let found = Hasher::digest_like(expected, bytes);
    match found == *expected {
        true => Ok(found),
        false => Err(RegistryError::WrongDigest { url: url.to_owned(), expected: expected.clone(), found }),
    }
}

/// A media type for the store where the server gave none of use.
fn media_type(announced: &str, document: &Document) -> String {
    use hull_oci::image::{OCI_INDEX, OCI_MANIFEST, is_index, is_manifest};
    match document {
        _ if is_index(announced) || is_manifest(announced) => announced.to_owned(),
        Document::Index(_) => OCI_INDEX.to_owned(),
        Document::Manifest(_) => OCI_MANIFEST.to_owned(),
    }
}
