//! Images and snapshots together: what comes from a registry or an archive is unpacked, once, while the rest arrives.
//!
//! ```text
//! packed bytes, as they come ─> decompress ─> unpack into a prepared snapshot ─> diff id compared
//! all blobs verified ─> all layers: commit, one sync, one durable transaction ─> image and names durable
//! ```
//!
//! A layer is unpacked behind the bytes as they arrive, in threads of its own: one inflates, one hashes, one writes.
//!
//! An image is only reported as present when its layers are. A failure or a kill before that leaves prepared snapshots
//! under a dead lease, which the next sweep takes. Two processes that unpack the same layer do it twice; one is kept.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_image::compression::decompress_ahead;
use hull_image::registry::{self, NamedManifest, PullOptions, PushOptions, PushedImage, Referrer, pull, push};
use hull_image::unpack::{Destination, UnpackOptions, unpack_layer};
use hull_image::{
    Image, ImageError, ImageStore, LayerDescriptor, LayerEvent, LayerSink, NewImage, PackedLayer, Progress, Removal,
    Removed, SinkError, archive,
};
use hull_oci::{Digest, Platform, Reference};
use hull_snapshot::{Driver, Finished, Prepared, SnapshotId, Snapshots, Snapshotter, Space, forget_unused};
use hull_supervisor::record::LiveState;

use crate::configuration::Configuration;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::request::PullPolicy;
use crate::row;

/// How many layers are unpacked at once when their blobs are all here.
const UNPACK_THREADS: usize = 2;

/// A layer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob cannot be opened.
    #[error("cannot open layer {digest}")]
    Open {
        /// The blob.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// The archive is broken, hostile, or does not fit on the disk.
    #[error("cannot unpack layer {digest}")]
    Unpack {
        /// The blob.
        digest: Digest,
        /// Why.
        source: Box<hull_image::unpack::UnpackError>,
    },
    /// The configuration promises other content.
    #[error("layer {digest} unpacks to {found}, but the image's configuration says {expected}")]
    WrongContent {
        /// The blob.
        digest: Digest,
        /// diff id of the configuration.
        expected: Digest,
        /// diff id of what came.
        found: Digest,
    },
    /// No place for it.
    #[error("cannot keep layer {digest}")]
    Snapshot {
        /// The blob.
        digest: Digest,
        /// Why.
        source: Box<hull_snapshot::SnapshotError>,
    },
}

/// Takes arriving layers and unpacks each.
struct Unpacker<'a> {
    snapshots: &'a Snapshots<'a>,
    options: UnpackOptions,
    progress: &'a dyn Progress,
    finished: Mutex<Vec<Finished>>,
}

impl<'a> Unpacker<'a> {
    fn new(snapshots: &'a Snapshots<'a>, options: UnpackOptions, progress: &'a dyn Progress) -> Unpacker<'a> {
        Unpacker { snapshots, options, progress, finished: Mutex::new(Vec::new()) }
    }

    fn unpack(&self, layer: &LayerDescriptor, packed: impl Read + Send + 'static) -> Result<(), LayerError> {
        let failed = |source| LayerError::Snapshot { digest: layer.digest.clone(), source: Box::new(source) };
        // A mirror that broke off may have brought it before another place brings it again.
        let is_finished = self.finished().iter().any(|known| known.chain_id == layer.chain_id.as_str());
        if is_finished || self.snapshots.layer(layer.chain_id.as_str()).map_err(failed)?.is_some() {
            return Ok(());
        }
        self.progress.layer(&layer.digest, LayerEvent::Unpacking);
        let prepared = self.snapshots.prepare().map_err(failed)?;
        match fill(&prepared, layer, packed, &self.options) {
            Ok(size_bytes) => {
                let finished = Finished {
                    prepared,
                    chain_id: layer.chain_id.to_string(),
                    diff_id: layer.diff_id.to_string(),
                    size_bytes,
                };
                self.finished.lock().unwrap_or_else(PoisonError::into_inner).push(finished);
                Ok(())
            }
            Err(error) => {
                // The layer's own fault is what the user must hear; a folder that stays is swept.
                let _ = self.snapshots.abandon(prepared);
                Err(error)
            }
        }
    }

    /// Unpacks a layer whose blob is here.
    fn unpack_stored(&self, layer: &LayerDescriptor, blob: &Path) -> Result<(), LayerError> {
        let open = |source| LayerError::Open { digest: layer.digest.clone(), source };
        self.unpack(layer, File::open(blob).map_err(open)?)
    }

    fn finished(&self) -> MutexGuard<'_, Vec<Finished>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything unpacked permanent.
    fn commit(self) -> Result<(), EngineError> {
        let finished = self.finished.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.snapshots.commit(finished)?;
        Ok(())
    }

    /// Removes everything unpacked.
    fn abandon(self) {
        for finished in self.finished.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let _ = self.snapshots.abandon(finished.prepared);
        }
    }
}

impl LayerSink for Unpacker<'_> {
    fn layer(&self, _index: usize, layer: &LayerDescriptor, packed: PackedLayer) -> Result<(), SinkError> {
        Ok(self.unpack(layer, packed)?)
    }
}

/// Unpacks one layer into its folder or image and compares its content; returns what it takes, in bytes.
fn fill(
    prepared: &Prepared,
    layer: &LayerDescriptor,
    packed: impl Read + Send + 'static,
    options: &UnpackOptions,
) -> Result<u64, LayerError> {
    let open = |source| LayerError::Open { digest: layer.digest.clone(), source };
    let unpack = |source| LayerError::Unpack { digest: layer.digest.clone(), source: Box::new(source) };
    let tar = decompress_ahead(packed).map_err(open)?;
    let opened = match &prepared.space {
        Space::Folder(folder) | Space::Plain(folder) => File::open(folder),
        // Programs in it have other users' rights: nobody else may mount it.
        Space::Image(image) => File::options().read(true).write(true).create_new(true).mode(0o600).open(image),
    };
    let opened = opened.map_err(open)?;
    let destination = match &prepared.space {
        Space::Folder(_) => Destination::Folder(opened.as_fd()),
        Space::Plain(_) => Destination::Plain(opened.as_fd()),
        Space::Image(_) => Destination::Image(opened.try_clone().map_err(open)?),
    };
    let report = unpack_layer(tar, destination, options).map_err(unpack)?;
    if report.diff_id != layer.diff_id {
        return Err(LayerError::WrongContent {
            digest: layer.digest.clone(),
            expected: layer.diff_id.clone(),
            found: report.diff_id,
        });
    }
    match &prepared.space {
        Space::Folder(_) | Space::Plain(_) => Ok(report.bytes),
        // st_blocks counts 512 bytes (stat(2)).
        Space::Image(_) => Ok(opened.metadata().map_err(open)?.blocks() * 512),
    }
}

impl Engine {
    /// The images.
    pub fn image_store(&self) -> ImageStore<'_> {
        ImageStore::new(self.store(), self.roots())
    }

    /// The snapshots.
    pub(crate) fn snapshots(&self) -> Snapshots<'_> {
        let wanted = || match self.configuration() {
            Ok(configuration) => Ok(configuration.storage.driver.map(Driver::from)),
            Err(error) => Err(error.into()),
        };
        Snapshots::new(self.store(), self.roots(), Box::new(wanted))
    }

    /// The storage driver that keeps what is new.
    ///
    /// # Errors
    /// The configuration's; [`hull_snapshot::SnapshotError::Unusable`] for a driver that does not work here.
    pub fn storage_driver(&self) -> Result<Driver, EngineError> {
        Ok(self.snapshots().current()?)
    }

    /// Takes the shared mounts away of layers that no running container has; says how many there were. They are made
    /// again when a container needs them.
    ///
    /// # Errors
    /// The database's, and what could not be unmounted.
    pub fn release_layer_mounts(&self) -> Result<usize, EngineError> {
        let snapshots = self.snapshots();
        let mut used = HashSet::new();
        for row in self.store().read(row::all)? {
            let snapshot = row.snapshot_id.as_deref().and_then(SnapshotId::parse);
            if let Some(snapshot) = snapshot.filter(|_| self.process(&row.id).is_ok_and(|process| process.is_some())) {
                used.extend(snapshots.parents(&snapshot)?);
            }
        }
        Ok(snapshots.release_mounts(&used)?)
    }

    /// Every image, newest first.
    ///
    /// # Errors
    /// What the database or a configuration says.
    pub fn images(&self) -> Result<Vec<Image>, EngineError> {
        Ok(self.image_store().list()?)
    }

    /// Fetches an image and unpacks it. The flag says whether it was here already, unchanged.
    ///
    /// # Errors
    /// The registry's, a layer's, or the disk's; nothing of the image is left then.
    pub fn pull(
        &self,
        name: &str,
        platform: Option<&str>,
        all_platforms: bool,
        progress: &dyn Progress,
    ) -> Result<(Image, bool), EngineError> {
        let pulled = self.fetch(name, platform, all_platforms, progress, |images, image| images.add(image))?;
        self.relieve_by_itself();
        Ok(pulled)
    }

    /// Fetches, unpacks and adds an image.
    fn fetch(
        &self,
        name: &str,
        platform: Option<&str>,
        all_platforms: bool,
        progress: &dyn Progress,
        add: impl Fn(&ImageStore<'_>, &NewImage<'_>) -> Result<Image, ImageError>,
    ) -> Result<(Image, bool), EngineError> {
        let reference = Reference::parse(name)?;
        let platform = platform.map(Platform::parse).transpose()?;
        let images = self.image_store();
        let snapshots = self.snapshots();
        let unpacker = Unpacker::new(&snapshots, self.configuration()?.limits.unpacking(), progress);
        let options = PullOptions { platform, all_platforms, ..self.pull_options()? };
        match pull(&images, &reference, &options, &unpacker, progress) {
            Ok(pulled) => {
                unpacker.commit()?;
                Ok((add(&images, &pulled.image)?, pulled.up_to_date))
            }
            Err(error) => {
                unpacker.abandon();
                Err(error.into())
            }
        }
    }

    /// The image that a container is to be made from, pulled as the policy says, and whether it was.
    ///
    /// # Errors
    /// [`EngineError::NoSuchImage`] when it is not here and may not be pulled; else as [`Engine::pull`].
    pub fn find_or_pull(
        &self,
        name: &str,
        platform: Option<&str>,
        policy: PullPolicy,
        progress: &dyn Progress,
    ) -> Result<(Image, bool), EngineError> {
        if policy != PullPolicy::Always
            && let Some(image) = self.image_store().resolve(name)?
            && fits(&image, platform)?
            && self.image_store().use_again(&image.id)?
        {
            return Ok((image, false));
        }
        if policy == PullPolicy::Never {
            return Err(EngineError::NoSuchImage { name: name.to_owned() });
        }
        let (image, _) = self.fetch(name, platform, false, progress, |images, image| images.add_unasked(image))?;
        Ok((image, true))
    }

    /// The snapshots of an image's layers, lowest first, unpacking those that are only here as blobs.
    ///
    /// # Errors
    /// A layer that is damaged or does not fit on the disk.
    pub fn ensure_unpacked(&self, image: &Image) -> Result<Vec<SnapshotId>, EngineError> {
        let snapshots = self.snapshots();
        if let Some(all) = committed(&snapshots, &image.layers)? {
            return Ok(all);
        }
        let images = self.image_store();
        let unpacker = Unpacker::new(&snapshots, self.configuration()?.limits.unpacking(), &hull_image::NoProgress);
        unpack_all(&unpacker, &image.layers, |layer| images.content().path(&layer.digest))?;
        unpacker.commit()?;
        committed(&snapshots, &image.layers)?.ok_or_else(|| EngineError::NoSuchImage { name: image.id.to_string() })
    }

    /// Makes an image of one layer out of a root file system's tar.
    ///
    /// # Errors
    /// What is wrong with the archive or the options.
    pub fn import(
        &self,
        input: &mut dyn Read,
        options: &archive::ImportOptions,
        progress: &dyn Progress,
    ) -> Result<Image, EngineError> {
        let images = self.image_store();
        let image = archive::import(&images, input, options, progress)?;
        let image = self.admit(&images, &image, progress)?;
        self.relieve_by_itself();
        Ok(image)
    }

    /// Unpacks an image whose blobs are here and makes it present.
    pub(crate) fn admit(
        &self,
        images: &ImageStore<'_>,
        image: &NewImage<'_>,
        progress: &dyn Progress,
    ) -> Result<Image, EngineError> {
        for name in &image.names {
            self.configuration()?.trust.admit_unsigned(name)?;
        }
        let snapshots = self.snapshots();
        let unpacker = Unpacker::new(&snapshots, self.configuration()?.limits.unpacking(), progress);
        match unpack_all(&unpacker, &image.layers, |layer| image.blob_path(layer)) {
            Ok(()) => unpacker.commit()?,
            Err(error) => {
                unpacker.abandon();
                return Err(error);
            }
        }
        Ok(images.add(image)?)
    }

    /// Removes a name, or an image by id, and the layers that nothing needs any more.
    ///
    /// # Errors
    /// Docker's refusals, and what could not be removed.
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Removed, EngineError> {
        // Asked inside of the database's transaction, so the answer comes from the state folder alone.
        let is_running = |id: &str| {
            let live = LiveState::read(&self.roots().runtime_state(id));
            live.is_ok_and(|state| state.is_some_and(|state| state.is_running()))
        };
        let removed = self.image_store().remove(name, &Removal { force, is_running: &is_running })?;
        self.remove_unused_layers(&removed.unused_layers)?;
        Ok(removed)
    }

    /// How registries are reached and what is taken from them, as the configuration says.
    fn pull_options(&self) -> Result<PullOptions, EngineError> {
        let Configuration { registries, trust, .. } = self.configuration()?.clone();
        Ok(PullOptions { registries, trust, ..PullOptions::default() })
    }

    /// Every tag that the registry has of a reference's repository.
    ///
    /// # Errors
    /// The registry's.
    pub fn registry_tags(&self, repository: &Reference) -> Result<Vec<String>, EngineError> {
        Ok(registry::tags(repository, &self.pull_options()?)?)
    }

    /// The manifest or index that a name leads to: the one that is here, else the registry's.
    ///
    /// # Errors
    /// The registry's.
    pub fn manifest(&self, name: &Reference) -> Result<NamedManifest, EngineError> {
        let images = self.image_store();
        match images.stored_manifest(name)? {
            Some(found) => Ok(found),
            None => Ok(registry::manifest(name, &self.pull_options()?)?),
        }
    }

    /// What refers to an image on its registry, and the image's digest there.
    ///
    /// # Errors
    /// The registry's.
    pub fn referrers(&self, name: &Reference, kind: Option<&str>) -> Result<(Digest, Vec<Referrer>), EngineError> {
        Ok(registry::referrers(name, kind, &self.pull_options()?)?)
    }

    /// The image that has a name.
    ///
    /// # Errors
    /// [`EngineError::NotTagged`] when none has.
    pub fn tagged(&self, name: &Reference) -> Result<Image, EngineError> {
        let found = self.image_store().resolve(&name.to_string())?;
        found.ok_or_else(|| EngineError::NotTagged { name: name.familiar() })
    }

    /// Every tagged name of a reference's repository.
    ///
    /// # Errors
    /// [`EngineError::NotTagged`] when there is none.
    pub fn tags(&self, repository: &Reference) -> Result<Vec<Reference>, EngineError> {
        let name = repository.name();
        let all = self.image_store().list()?.into_iter().flat_map(|image| image.names);
        let mut tags: Vec<_> = all.filter(|tag| tag.digest.is_none() && tag.name() == name).collect();
        tags.sort();
        if tags.is_empty() {
            return Err(EngineError::NotTagged { name: repository.familiar_name() });
        }
        Ok(tags)
    }

    /// Brings an image to a registry under a name that it has here.
    ///
    /// # Errors
    /// [`EngineError::NotTagged`] when no image has the name; else what the registry says.
    pub fn push(&self, name: &Reference, progress: &dyn Progress) -> Result<PushedImage, EngineError> {
        let images = self.image_store();
        let image = self.tagged(name)?;
        let registries = self.configuration()?.registries.clone();
        let options = PushOptions { registries, ..PushOptions::default() };
        Ok(push(&images, &image, name, &options, progress)?)
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// No such image, or a bad name.
    pub fn tag(&self, source: &str, target: &str) -> Result<(), EngineError> {
        Ok(self.image_store().tag(source, &Reference::parse(target)?)?)
    }

    /// Removes the snapshots of layers that are still unused, and says how many there were.
    pub(crate) fn remove_unused_layers(&self, chain_ids: &[Digest]) -> Result<usize, EngineError> {
        let snapshots = self.snapshots();
        let chain_ids: Vec<&str> = chain_ids.iter().map(Digest::as_str).collect();
        let forgotten = forget_unused(self.store(), &chain_ids)?;
        for id in &forgotten {
            snapshots.remove(id)?;
        }
        Ok(forgotten.len())
    }
}

/// Whether an image that is here is of the platform asked for.
fn fits(image: &Image, platform: Option<&str>) -> Result<bool, EngineError> {
    match platform {
        Some(platform) => Ok(Platform::parse(platform)?.matches(&image.platform())),
        None => Ok(true),
    }
}

/// The snapshots of all layers, or `None` when one is missing.
fn committed(snapshots: &Snapshots<'_>, layers: &[LayerDescriptor]) -> Result<Option<Vec<SnapshotId>>, EngineError> {
    let mut all = Vec::with_capacity(layers.len());
    for layer in layers {
        match snapshots.layer(layer.chain_id.as_str())? {
            Some(id) => all.push(id),
            None => return Ok(None),
        }
    }
    Ok(Some(all))
}

/// Unpacks layers whose blobs are all here, a few at a time; the first failure ends it.
fn unpack_all(
    unpacker: &Unpacker<'_>,
    layers: &[LayerDescriptor],
    blob: impl Fn(&LayerDescriptor) -> std::path::PathBuf + Sync,
) -> Result<(), EngineError> {
    let queue = Mutex::new(layers.iter());
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..UNPACK_THREADS.min(layers.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner);
                    let Some(layer) = next.filter(|_| failed().is_none()) else { return };
                    match unpacker.unpack_stored(layer, &blob(layer)) {
                        Ok(()) => unpacker.progress.layer(&layer.digest, LayerEvent::Done),
                        Err(error) => drop(failed().get_or_insert(error)),
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
