//! The blobs of an image, fetched side by side, verified while they stream, delivered as each is done.
//!
//! ```text
//! lane 1 ─┐  chunks  ┌─ thread of a blob: write, hash ─> digest and size right ─> in the store ─> layer_ready
//! lane 2 ─┼─────────>┼─ ...
//! lane 3 ─┘          └─ ...
//! ```
//!
//! Three lanes on the one network thread each take the next blob that is missing; its bytes go through a bounded
//! channel to a thread of its own. A lane goes on to its next blob as soon as one is stored, while that one's thread
//! still unpacks. A transfer that breaks goes on at the byte where it broke. The first failure stops all lanes, and
//! every thread has ended before [`fetch`] returns.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use bytes::Bytes;
use hull_oci::Digest;
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::PullError;
use super::client::{Client, Wanted, next_part};
use super::transport::TransportError;
use crate::content::ContentError;
use crate::{Holds, ImageError, LayerDescriptor, LayerEvent, LayerSink, Progress};

/// Parts of a body that wait between the network and the disk, per blob.
const CHANNEL_PARTS: usize = 32;

/// A connection that brought this many bytes did not fail for nothing, and the count of attempts begins again.
const PROGRESS_BYTES: u64 = 1 << 20;

/// What travels to a blob's thread.
enum Part {
    Bytes(Bytes),
    /// All bytes have come; without this the thread throws its file away.
    End,
}

/// What fetching needs on its threads, borrowed for its duration.
pub(super) struct Fetch<'a> {
    pub holds: &'a Holds<'a>,
    pub layers: &'a [LayerDescriptor],
    pub sink: &'a dyn LayerSink,
    pub progress: &'a dyn Progress,
}

/// The state that lanes and threads share.
struct Shared {
    queue: Mutex<VecDeque<Vec<usize>>>,
    failed: AtomicBool,
    failure: Mutex<Option<PullError>>,
    threads: Arc<Semaphore>,
}

impl Shared {
    fn fail(&self, error: PullError) {
        self.failed.store(true, Ordering::Release);
        if !matches!(error, PullError::Stopped) {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    fn check(&self) -> Result<(), PullError> {
        if self.failed.load(Ordering::Acquire) { Err(PullError::Stopped) } else { Ok(()) }
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
pub(super) fn fetch(runtime: &Runtime, client: &Client<'_>, fetch: &Fetch<'_>) -> Result<(), PullError> {
    let parallel = std::thread::available_parallelism().map_or(2, usize::from);
    let shared = Shared {
        queue: Mutex::new(positions_of_blobs(fetch.layers)),
        failed: AtomicBool::new(false),
        failure: Mutex::default(),
        threads: Arc::new(Semaphore::new(parallel + 3)),
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
    async fn run<'scope>(self, scope: &'scope Scope<'scope, 'env>) -> Result<(), PullError> {
        let Self { fetch, shared, .. } = self;
        loop {
            shared.check()?;
            let next = shared.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(positions) = next else { return Ok(()) };
            let layer = &fetch.layers[positions[0]];
            let permit = Arc::clone(&shared.threads).acquire_owned().await.map_err(|_| PullError::Stopped)?;
            if fetch.holds.is_stored(&layer.digest, layer.size_bytes)? {
                fetch.progress.layer(&layer.digest, LayerEvent::Exists);
                spawn(scope, move || keep(shared, permit, || deliver(fetch, shared, &positions)))?;
            } else {
                self.download(scope, positions, permit).await?;
            }
        }
    }

    /// Streams a blob to a thread and returns when the blob is stored.
    async fn download<'scope>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        positions: Vec<usize>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), PullError> {
        let Self { fetch, shared, .. } = self;
        let layer = &fetch.layers[positions[0]];
        let url = self.client.url("blobs", layer.digest.as_str());
        let (parts, received) = mpsc::channel(CHANNEL_PARTS);
        let (stored, is_stored) = oneshot::channel();
        let thread_url = url.clone();
        spawn(scope, move || {
            keep(shared, permit, || {
                if !store(fetch, layer, received, &thread_url)? {
                    return Ok(());
                }
                // A lane that is gone needs no answer.
                let _ = stored.send(());
                deliver(fetch, shared, &positions)
            });
        })?;
        self.transfer(layer, &url, &parts).await?;
        // The thread has ended already when it failed; its error is the one reported.
        parts.send(Part::End).await.map_err(|_| PullError::Stopped)?;
        is_stored.await.map_err(|_| PullError::Stopped)
    }

    /// The network's half: all bytes into the channel, across broken connections.
    async fn transfer(&self, layer: &LayerDescriptor, url: &str, parts: &mpsc::Sender<Part>) -> Result<(), PullError> {
        self.fetch.progress.layer(&layer.digest, LayerEvent::Pulling);
        let (mut poor_attempts, mut attempts, mut received) = (0, 0, 0);
        loop {
            let before = received;
            let end = self.transfer_once(layer, url, parts, &mut received).await?;
            if received == layer.size_bytes {
                return Ok(());
            }
            attempts += 1;
            poor_attempts = if received - before >= PROGRESS_BYTES { 0 } else { poor_attempts + 1 };
            if poor_attempts >= self.client.attempts() {
                let (url, expected_bytes) = (url.to_owned(), layer.size_bytes);
                return Err(PullError::Truncated { url, received_bytes: received, expected_bytes, attempts });
            }
            let cause = end.map_or_else(|| format!("ended after {received} bytes"), |error| with_causes(&error));
            self.fetch.progress.layer(&layer.digest, LayerEvent::Retrying { attempt: attempts + 1, cause });
            self.client.pause(poor_attempts.max(1), None).await;
        }
    }

    /// One connection's share of a transfer. It ends when the body does, or with the error that ended it early.
    async fn transfer_once(
        &self,
        layer: &LayerDescriptor,
        url: &str,
        parts: &mpsc::Sender<Part>,
        received: &mut u64,
    ) -> Result<Option<TransportError>, PullError> {
        let wanted = Wanted { from_byte: *received, ..Wanted::default() };
        let response = self.client.get(url, wanted).await.map_err(|error| not_found(error, &layer.digest))?;
        let wrong_size =
            |found_bytes| PullError::WrongSize { url: url.to_owned(), expected_bytes: layer.size_bytes, found_bytes };
        let begins_at = first_byte(&response).filter(|first| *first <= *received).unwrap_or(0);
        if let Some(announced) =
            header_number(&response, &CONTENT_LENGTH).filter(|n| begins_at.saturating_add(*n) != layer.size_bytes)
        {
            return Err(wrong_size(begins_at.saturating_add(announced)));
        }
        // A server that ignores the range begins again: what is here already is passed over.
        let mut to_skip = *received - begins_at;
        let mut body = response.into_body();
        loop {
            let mut part = match next_part(url, &mut body).await {
                Ok(Some(part)) => part,
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            };
            self.shared.check()?;
            let skipped = to_skip.min(part.len() as u64);
            to_skip -= skipped;
            part = part.slice(usize::try_from(skipped).unwrap_or(part.len())..);
            if *received + part.len() as u64 > layer.size_bytes {
                return Err(wrong_size(*received + part.len() as u64));
            }
            *received += part.len() as u64;
            parts.send(Part::Bytes(part)).await.map_err(|_| PullError::Stopped)?;
            let event = LayerEvent::Downloading { done_bytes: *received, total_bytes: layer.size_bytes };
            self.fetch.progress.layer(&layer.digest, event);
        }
    }
}

fn spawn<'scope>(scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) -> Result<(), PullError> {
    std::thread::Builder::new().name("layer".to_owned()).spawn_scoped(scope, work).map_err(PullError::Start)?;
    Ok(())
}

/// Runs the work of a thread, keeping its error and giving its permit back at the end.
fn keep(shared: &Shared, permit: OwnedSemaphorePermit, work: impl FnOnce() -> Result<(), PullError>) {
    if let Err(error) = work() {
        shared.fail(error);
    }
    drop(permit);
}

/// Gives a stored blob to the sink, for each position it has.
fn deliver(fetch: &Fetch<'_>, shared: &Shared, positions: &[usize]) -> Result<(), PullError> {
    for index in positions {
        shared.check()?;
        let layer = &fetch.layers[*index];
        let failed = |source| PullError::Layer { digest: layer.digest.clone(), source };
        fetch.sink.layer_ready(*index, layer, &fetch.holds.path(&layer.digest)).map_err(failed)?;
    }
    Ok(())
}

/// The thread's half: false when the transfer was given up.
fn store(
    fetch: &Fetch<'_>,
    layer: &LayerDescriptor,
    mut parts: mpsc::Receiver<Part>,
    url: &str,
) -> Result<bool, PullError> {
    let mut writer = fetch.holds.writer_of(&layer.digest)?;
    loop {
        match parts.blocking_recv() {
            Some(Part::Bytes(bytes)) => writer.append(&bytes)?,
            Some(Part::End) => break,
            None => return Ok(false),
        }
    }
    fetch.progress.layer(&layer.digest, LayerEvent::Verifying);
    let sealed = writer.seal_as(&layer.digest, Some(layer.size_bytes)).map_err(|error| at(url, error))?;
    fetch.holds.admit(sealed, &layer.media_type)?;
    fetch.progress.layer(&layer.digest, LayerEvent::Downloaded);
    Ok(true)
}

/// An error of verification, with the address that the bytes came from.
pub(super) fn at(url: &str, error: ContentError) -> PullError {
    let url = url.to_owned();
    match error {
        ContentError::WrongDigest { expected, found } => PullError::WrongDigest { url, expected, found },
        ContentError::WrongSize { expected_bytes, found_bytes, .. } => {
            PullError::WrongSize { url, expected_bytes, found_bytes }
        }
        other => ImageError::from(other).into(),
    }
}

/// An error and what it came from, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn not_found(error: PullError, digest: &Digest) -> PullError {
    match error {
        PullError::Status { url, status: 404, message } => {
            PullError::BlobNotFound { url, digest: digest.clone(), message }
        }
        other => other,
    }
}

/// Where a partial answer begins: `Content-Range: bytes 5-9/10`.
fn first_byte<B>(response: &hyper::Response<B>) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn header_number<B>(response: &hyper::Response<B>, name: &hyper::header::HeaderName) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.trim().parse().ok()
}
