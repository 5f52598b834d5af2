//! The blobs of an image, fetched side by side, verified and unpacked while they stream.
//!
//! ```text
//! lane 1 ─┐  parts  ┌─ storing thread of a blob: write, hash ─> digest and size right ─> kept
//! lane 2 ─┼────────>┤                 │ the file as it grows
//! lane 3 ─┘         └─ delivering thread: LayerSink (unpacks) ─> its end counts when the blob is verified
//! ```
//!
//! Three lanes on the one network thread each take the next blob that is missing; its bytes go through a bounded
//! channel to a thread of its own, and a second one unpacks behind it. A lane goes on to its next blob as soon as one
//! is verified, while that one is still unpacked. How the bytes come is in [`super::transfer`]. What an earlier process
//! left of a blob is gone on with; if the whole is wrong then, the blob is fetched once more from its beginning. The
//! first failure stops all lanes, and every thread has ended before [`fetch`] returns.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use hull_oci::Digest;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::RegistryError;
use super::client::Client;
use super::transfer::{Part, Transfer};
use crate::content::ContentError;
use crate::{ArrivingBlob, Holds, ImageError, LayerDescriptor, LayerEvent, LayerSink, PartialBlob, Progress};

/// Parts of a body that wait between the network and the disk, per blob.
const CHANNEL_PARTS: usize = 32;
/// Connections of all blobs together, beyond one for each lane.
const EXTRA_CONNECTIONS_MAX: usize = 3;

/// What fetching needs on its threads, borrowed for its duration.
pub(super) struct Fetch<'a> {
    pub holds: &'a Holds<'a>,
    pub layers: &'a [LayerDescriptor],
    /// How many of the layers go to the sink; the rest is only stored.
    pub unpacked: usize,
    pub sink: &'a dyn LayerSink,
    pub progress: &'a dyn Progress,
}

/// The state that lanes and threads share.
pub(super) struct Shared {
    queue: Mutex<VecDeque<Vec<usize>>>,
    failed: AtomicBool,
    failure: Mutex<Option<RegistryError>>,
    threads: Arc<Semaphore>,
    /// Connections that a blob may have besides its first.
    pub extra_connections: Semaphore,
}

impl Shared {
    fn fail(&self, error: RegistryError) {
        self.failed.store(true, Ordering::Release);
        if !matches!(error, RegistryError::Stopped) {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// An error when everything is to stop.
    pub fn check(&self) -> Result<(), RegistryError> {
        if self.failed.load(Ordering::Acquire) { Err(RegistryError::Stopped) } else { Ok(()) }
    }
}

/// One of the transfers that go on side by side; it stays on the network thread.
#[derive(Clone, Copy)]
struct Lane<'env> {
    client: &'env Client<'env>,
    fetch: &'env Fetch<'env>,
    shared: &'env Shared,
}

/// Brings every layer's blob into the store and to the sink.
pub(super) fn fetch(runtime: &Runtime, client: &Client<'_>, fetch: &Fetch<'_>) -> Result<(), RegistryError> {
    let parallel = std::thread::available_parallelism().map_or(2, usize::from);
    let shared = Shared {
        queue: Mutex::new(positions_of_blobs(fetch.layers)),
        failed: AtomicBool::new(false),
        failure: Mutex::default(),
        threads: Arc::new(Semaphore::new(parallel + 3)),
        extra_connections: Semaphore::new(EXTRA_CONNECTIONS_MAX),
    };
    std::thread::scope(|scope| {
        runtime.block_on(async {
            let lane = Lane { client, fetch, shared: &shared };
            let run = || async {
                if let Err(error) = lane.run(scope).await {
                    shared.fail(error);
                }
            };
            tokio::join!(run(), run(), run());
        });
    });
    match shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// The positions of each distinct blob, lowest layer first.
fn positions_of_blobs(layers: &[LayerDescriptor]) -> VecDeque<Vec<usize>> {
    let mut positions: HashMap<&Digest, Vec<usize>> = HashMap::new();
    for (position, layer) in layers.iter().enumerate() {
        positions.entry(&layer.digest).or_default().push(position);
    }
    let mut blobs: Vec<Vec<usize>> = positions.into_values().collect();
    blobs.sort_unstable();
    blobs.into()
}

impl<'env> Lane<'env> {
    async fn run<'scope>(self, scope: &'scope Scope<'scope, 'env>) -> Result<(), RegistryError> {
        let Self { fetch, shared, .. } = self;
        loop {
            shared.check()?;
            let next = shared.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(positions) = next else { return Ok(()) };
            let layer = &fetch.layers[positions[0]];
            if fetch.holds.is_stored(&layer.digest, layer.size_bytes)? {
                let permit = self.permit().await?;
                fetch.progress.layer(&layer.digest, LayerEvent::Exists);
                spawn(scope, move || keep(shared, permit, || deliver_stored(fetch, shared, &positions)))?;
                continue;
            }
            let partial = fetch.holds.partial(&layer.digest, layer.size_bytes, true)?;
            let is_resumed = partial.resumed_bytes() > 0;
            match self.download(scope, positions.clone(), partial).await {
                Err(RegistryError::WrongDigest { .. }) if is_resumed => {
                    let partial = fetch.holds.partial(&layer.digest, layer.size_bytes, false)?;
                    self.download(scope, positions, partial).await?;
                }
                other => other?,
            }
        }
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, RegistryError> {
        Arc::clone(&self.shared.threads).acquire_owned().await.map_err(|_| RegistryError::Stopped)
    }

    /// Streams a blob to its threads and returns when the blob is verified.
    async fn download<'scope>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        positions: Vec<usize>,
        partial: PartialBlob,
    ) -> Result<(), RegistryError> {
        let Self { fetch, shared, .. } = self;
        let permit = self.permit().await?;
        let layer = &fetch.layers[positions[0]];
        let url = self.client.url("blobs", layer.digest.as_str());
        let (parts, received) = mpsc::channel(CHANNEL_PARTS);
        let (stored, is_stored) = oneshot::channel();
        let (reader, resumed_bytes, thread_url) = (partial.reader(), partial.resumed_bytes(), url.clone());
        fetch.progress.layer(&layer.digest, LayerEvent::Pulling);
        spawn(scope, move || keep(shared, permit, || deliver_arriving(fetch, shared, &positions, &reader)))?;
        spawn(scope, move || {
            // A lane that is gone needs no answer.
            let _ = stored.send(store(fetch, layer, partial, received, &thread_url));
        })?;
        let transfer = Transfer::new(self.client, layer, &url, parts, shared, fetch.progress);
        let transferred = transfer.run(resumed_bytes).await;
        let stored = is_stored.await.unwrap_or(Err(RegistryError::Stopped));
        match (transferred, stored) {
            // The transfer ends because the thread has, whose error says why.
            (Err(RegistryError::Stopped) | Ok(()), stored) => stored,
            (Err(error), _) => Err(error),
        }
    }
}

fn spawn<'scope>(scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) -> Result<(), RegistryError> {
    std::thread::Builder::new().name("layer".to_owned()).spawn_scoped(scope, work).map_err(RegistryError::Start)?;
    Ok(())
}

/// Runs the work of a thread, keeping its error and giving its permit back at the end.
fn keep(shared: &Shared, permit: OwnedSemaphorePermit, work: impl FnOnce() -> Result<(), RegistryError>) {
    if let Err(error) = work() {
        shared.fail(error);
    }
    drop(permit);
}

/// Gives a stored blob to the sink, for each position it has.
fn deliver_stored(fetch: &Fetch<'_>, shared: &Shared, positions: &[usize]) -> Result<(), RegistryError> {
    for index in positions.iter().filter(|index| **index < fetch.unpacked) {
        shared.check()?;
        let layer = &fetch.layers[*index];
        let packed = Box::new(fetch.holds.open(&layer.digest)?);
        let failed = |source| RegistryError::Layer { digest: layer.digest.clone(), source };
        fetch.sink.layer(*index, layer, packed).map_err(failed)?;
        fetch.progress.layer(&layer.digest, LayerEvent::Done);
    }
    Ok(())
}

/// Gives a blob to the sink while it arrives, for each position it has. What the sink makes of bytes that turn out to be
/// wrong is of no interest, nor is its error.
fn deliver_arriving(
    fetch: &Fetch<'_>,
    shared: &Shared,
    positions: &[usize],
    arriving: &ArrivingBlob,
) -> Result<(), RegistryError> {
    for index in positions.iter().filter(|index| **index < fetch.unpacked) {
        shared.check()?;
        let layer = &fetch.layers[*index];
        let taken = fetch.sink.layer(*index, layer, Box::new(arriving.clone()));
        if !arriving.is_verified() {
            return Ok(());
        }
        taken.map_err(|source| RegistryError::Layer { digest: layer.digest.clone(), source })?;
        fetch.progress.layer(&layer.digest, LayerEvent::Done);
    }
    Ok(())
}

/// The storing thread's work, which ends with the blob verified and kept.
fn store(
    fetch: &Fetch<'_>,
    layer: &LayerDescriptor,
    mut partial: PartialBlob,
    mut parts: mpsc::Receiver<Part>,
    url: &str,
) -> Result<(), RegistryError> {
    partial.take_resumed()?;
    loop {
        match parts.blocking_recv() {
            Some(Part::Bytes { position, bytes }) => partial.write_at(position, &bytes)?,
            Some(Part::End) => break,
            None => {
                partial.leave();
                return Err(RegistryError::Stopped);
            }
        }
    }
    fetch.progress.layer(&layer.digest, LayerEvent::Verifying);
    let sealed = partial.finish().map_err(|error| at(url, error))?;
    fetch.holds.keep(sealed, &layer.media_type)?;
    fetch.progress.layer(&layer.digest, LayerEvent::Downloaded);
    Ok(())
}

/// An error of verification, with the address that the bytes came from.
pub(super) fn at(url: &str, error: ContentError) -> RegistryError {
    let url = url.to_owned();
    match error {
        ContentError::WrongDigest { expected, found } => RegistryError::WrongDigest { url, expected, found },
        ContentError::WrongSize { expected_bytes, found_bytes, .. } => {
            RegistryError::WrongSize { url, expected_bytes, found_bytes }
        }
        other => ImageError::from(other).into(),
    }
}
