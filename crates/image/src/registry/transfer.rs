//! How the bytes of one blob come: over one connection, or over several in ranges (RFC 9110, 14).
//!
//! A blob of at least [`SPLIT_BYTES_MIN`] is asked for in ranges of [`RANGE_BYTES`], lowest first. When the first answer
//! is a partial one (206), up to [`CONNECTIONS_MAX`] connections take the next range each; a server that sends the whole
//! blob instead is read to its end on the one connection. A connection that breaks is made again and goes on at the
//! byte where it broke, with growing pauses while nothing comes; one that brought [`PROGRESS_BYTES`] did not fail for
//! nothing, and the count begins again.

use std::cell::Cell;

use bytes::Bytes;
use hull_oci::Digest;
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};
use tokio::sync::{mpsc, watch};

use super::client::{Client, Wanted, next_part};
use super::fetch::Shared;
use super::transport::TransportError;
use super::{RegistryError, with_causes};
use crate::{LayerDescriptor, LayerEvent, Progress};

/// Blobs from this size on come in ranges, where the server can.
const SPLIT_BYTES_MIN: u64 = 16 << 20;
/// What is asked for at once; a multiple of every file system's block.
const RANGE_BYTES: u64 = 8 << 20;
/// Connections for one blob.
const CONNECTIONS_MAX: usize = 3;
/// What a connection must bring to count as a good one.
const PROGRESS_BYTES: u64 = 1 << 20;

/// What travels to a blob's thread.
pub(super) enum Part {
    /// Bytes and where in the blob they belong.
    Bytes {
        /// The first one's place.
        position: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// All bytes have come; without this the thread gives the blob up.
    End,
}

/// The network's half of one blob.
pub(super) struct Transfer<'t> {
    client: &'t Client<'t>,
    layer: &'t LayerDescriptor,
    url: &'t str,
    parts: mpsc::Sender<Part>,
    shared: &'t Shared,
    progress: &'t dyn Progress,
    /// The first byte that nobody has asked for yet.
    next_byte: Cell<u64>,
    /// Bytes that are here, wherever in the blob they belong.
    received_bytes: Cell<u64>,
    /// Whether the server answers with ranges, once that is known.
    gives_ranges: watch::Sender<Option<bool>>,
}

/// A range of the blob on its way.
struct Range {
    position: u64,
    end: u64,
    /// Whether the server is asked for this range and not for all from `position` on.
    is_asked_for: bool,
}

impl<'t> Transfer<'t> {
    /// Nothing has been asked for yet.
    pub fn new(
        client: &'t Client<'t>,
        layer: &'t LayerDescriptor,
        url: &'t str,
        parts: mpsc::Sender<Part>,
        shared: &'t Shared,
        progress: &'t dyn Progress,
    ) -> Self {
        let (next_byte, received_bytes) = (Cell::new(0), Cell::new(0));
        Self {
            client,
            layer,
            url,
            parts,
            shared,
            progress,
            next_byte,
            received_bytes,
            gives_ranges: watch::Sender::default(),
        }
    }

    /// Brings all bytes from `from_byte` on, and then the end, into the channel.
    pub async fn run(self, from_byte: u64) -> Result<(), RegistryError> {
        self.next_byte.set(from_byte);
        self.received_bytes.set(from_byte);
        let size_bytes = self.layer.size_bytes;
        if size_bytes - from_byte >= SPLIT_BYTES_MIN {
            tokio::try_join!(self.first_connection(), self.extra_connection(), self.extra_connection())?;
        } else if from_byte < size_bytes || size_bytes == 0 {
            self.range(Range { position: from_byte, end: size_bytes, is_asked_for: false }).await?;
        }
        // The thread has ended already when it failed; its error is the one reported.
        self.parts.send(Part::End).await.map_err(|_| RegistryError::Stopped)
    }

    async fn first_connection(&self) -> Result<(), RegistryError> {
        while let Some(range) = self.claim() {
            self.range(range).await?;
        }
        // Whoever still waits need not any more.
        self.tell_ranges(false);
        Ok(())
    }

    async fn extra_connection(&self) -> Result<(), RegistryError> {
        const { assert!(CONNECTIONS_MAX == 3) };
        let mut known = self.gives_ranges.subscribe();
        let gives_ranges = known.wait_for(Option::is_some).await.is_ok_and(|known| *known == Some(true));
        let Ok(_permit) = self.shared.extra_connections.try_acquire() else { return Ok(()) };
        while gives_ranges && let Some(range) = self.claim() {
            self.range(range).await?;
        }
        Ok(())
    }

    fn tell_ranges(&self, gives_ranges: bool) {
        self.gives_ranges.send_if_modified(|known| known.is_none() && known.replace(gives_ranges).is_none());
    }

    fn claim(&self) -> Option<Range> {
        let position = self.next_byte.get();
        let end = (position + RANGE_BYTES).min(self.layer.size_bytes);
        self.next_byte.set(end);
        (position < end).then_some(Range { position, end, is_asked_for: true })
    }

    /// A range, across broken connections.
    async fn range(&self, mut range: Range) -> Result<(), RegistryError> {
        let (mut poor_attempts, mut attempts) = (0, 0);
        loop {
            let before = range.position;
            let end = self.range_once(&mut range).await?;
            if range.position == range.end {
                return Ok(());
            }
            attempts += 1;
            poor_attempts = if range.position - before >= PROGRESS_BYTES { 0 } else { poor_attempts + 1 };
            if poor_attempts >= self.client.attempts() {
                let (url, received_bytes) = (self.url.to_owned(), self.received_bytes.get());
                let expected_bytes = self.layer.size_bytes;
                return Err(RegistryError::Truncated { url, received_bytes, expected_bytes, attempts });
            }
            let cause =
                end.map_or_else(|| format!("ended after {} bytes", range.position), |error| with_causes(&error));
            self.progress.layer(&self.layer.digest, LayerEvent::Retrying { attempt: attempts + 1, cause });
            self.client.pause(poor_attempts.max(1), None).await;
        }
    }

    /// One connection's share of a range. It ends when the body does, or with the error that ended it early.
    async fn range_once(&self, range: &mut Range) -> Result<Option<TransportError>, RegistryError> {
        let to_byte = Some(range.end).filter(|_| range.is_asked_for);
        let wanted = Wanted { from_byte: range.position, to_byte, ..Wanted::default() };
        let response =
            self.client.get(self.url, &wanted).await.map_err(|error| not_found(error, &self.layer.digest))?;
        let partial = first_byte(&response);
        let begins_at = partial.filter(|first| *first <= range.position).unwrap_or(0);
        self.learn(partial.is_some(), range);
        let body_end = if partial.is_some() { range.end } else { self.layer.size_bytes };
        if let Some(announced) =
            header_number(&response, &CONTENT_LENGTH).filter(|length| begins_at.saturating_add(*length) != body_end)
        {
            return Err(self.wrong_size(begins_at.saturating_add(announced)));
        }
        // A server that ignores the range begins again: what is here already is passed over.
        let mut to_skip = range.position - begins_at;
        let mut body = response.into_body();
        loop {
            let mut part = match next_part(self.url, &mut body).await {
                Ok(Some(part)) => part,
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            };
            self.shared.check()?;
            let skipped = to_skip.min(part.len() as u64);
            to_skip -= skipped;
            part = part.slice(usize::try_from(skipped).unwrap_or(part.len())..);
            let left = range.end - range.position;
            if part.len() as u64 > left && body_end == range.end {
                return Err(self.wrong_size(range.position + part.len() as u64));
            }
            part.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            self.pass_on(range, part).await?;
            // With more than was asked for on its way, the connection is given up.
            if range.position == range.end && body_end != range.end {
                return Ok(None);
            }
        }
    }

    /// What the first answer to a range tells: the first connection takes everything where there are no ranges.
    fn learn(&self, is_partial: bool, range: &mut Range) {
        if !range.is_asked_for || self.gives_ranges.borrow().is_some() {
            return;
        }
        if !is_partial {
            self.next_byte.set(self.layer.size_bytes);
            range.end = self.layer.size_bytes;
            range.is_asked_for = false;
        }
        self.tell_ranges(is_partial);
    }

    async fn pass_on(&self, range: &mut Range, bytes: Bytes) -> Result<(), RegistryError> {
        let position = range.position;
        range.position += bytes.len() as u64;
        let done_bytes = self.received_bytes.get() + bytes.len() as u64;
        self.received_bytes.set(done_bytes);
        self.parts.send(Part::Bytes { position, bytes }).await.map_err(|_| RegistryError::Stopped)?;
        let event = LayerEvent::Downloading { done_bytes, total_bytes: self.layer.size_bytes };
        self.progress.layer(&self.layer.digest, event);
        Ok(())
    }

    fn wrong_size(&self, found_bytes: u64) -> RegistryError {
        RegistryError::WrongSize { url: self.url.to_owned(), expected_bytes: self.layer.size_bytes, found_bytes }
    }
}

fn not_found(error: RegistryError, digest: &Digest) -> RegistryError {
    match error {
        RegistryError::Status { url, status: 404, message } => {
            RegistryError::BlobNotFound { url, digest: digest.clone(), message }
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
