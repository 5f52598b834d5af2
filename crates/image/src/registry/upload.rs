//! One blob on its way to a registry (distribution-spec 1.1, "Push").
//!
//! ```text
//! HEAD blob ── is there ─> Known
//!     └─ POST ?mount=&from= (when another repository of the registry is known to have it) ── 201 ─> Mounted
//!            └─ 202: a session ── small: PUT, whole ──────────────────────────────────> 201
//!                               └ large: PATCH a chunk, again and again, PUT to end ─> 201
//! ```
//!
//! When a connection breaks in a chunk the registry is asked how far it came, and the next chunk begins there; one that
//! cannot say gets a new session from the blob's beginning. A registry that does not mount gives a session, as if it had
//! not been asked.

use std::fs::File;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hull_oci::Digest;
use hyper::body::Incoming;
use hyper::header::{LOCATION, RANGE};
use hyper::{Method, Response, StatusCode};

use super::RegistryError;
use super::challenge::percent_encode;
use super::client::{Client, Wanted, next_address, parse_url};
use super::payload::Content;
use crate::{LayerEvent, Progress};

/// How often progress is told of.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
const OCTET_STREAM: &str = "application/octet-stream";

/// A blob to be pushed.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub digest: Digest,
    pub size_bytes: u64,
    /// Under which digest progress speaks of it: a layer's diff id, as docker does; absent for a configuration.
    pub shown: Option<Digest>,
    /// Other repositories of the registry that have it.
    pub sources: Vec<String>,
}

/// The upload of one blob.
pub(super) struct Upload<'u> {
    pub client: &'u Client<'u>,
    pub progress: &'u dyn Progress,
    pub blob: &'u Outgoing,
    pub file: Arc<File>,
    /// Blobs up to this size go whole, larger ones in chunks of it.
    pub chunk_bytes: u64,
}

/// Where a session goes on.
struct Session {
    url: String,
    position: u64,
    chunk_bytes: u64,
}

impl Upload<'_> {
    /// Has the registry hold the blob.
    pub async fn run(&self) -> Result<(), RegistryError> {
        if self.is_there().await? {
            self.tell(LayerEvent::Known);
            return Ok(());
        }
        let mut session = None;
        for from in &self.blob.sources {
            match self.mount(from).await? {
                None => {
                    self.tell(LayerEvent::Mounted { from: from.clone() });
                    return Ok(());
                }
                Some(other) => session = Some(other),
            }
        }
        let mut attempt = 1;
        loop {
            let sent = match session.take() {
                Some(session) => self.send(session).await,
                None => match self.begin("").await {
                    Ok(session) => self.send(session).await,
                    Err(error) => Err(error),
                },
            };
            match sent {
                Err(error) if error.is_transient() && attempt < self.client.attempts() => {
                    let cause = error.to_string();
                    attempt += 1;
                    self.tell(LayerEvent::Retrying { attempt, cause });
                    self.client.pause(attempt - 1, None).await;
                }
                other => {
                    other?;
                    self.tell(LayerEvent::Pushed);
                    return Ok(());
                }
            }
        }
    }

    fn tell(&self, event: LayerEvent) {
        if let Some(shown) = &self.blob.shown {
            self.progress.layer(shown, event);
        }
    }

    async fn is_there(&self) -> Result<bool, RegistryError> {
        let url = self.client.url("blobs", self.blob.digest.as_str());
        let wanted = Wanted { method: Method::HEAD, ..Wanted::default() };
        match self.client.get(&url, &wanted).await {
            Ok(_) => Ok(true),
            Err(RegistryError::Status { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks the registry to take the blob from another repository. Absent when it has, else a session.
    async fn mount(&self, from: &str) -> Result<Option<Session>, RegistryError> {
        let mut query = String::from("?mount=");
        percent_encode(self.blob.digest.as_str(), &mut query);
        query.push_str("&from=");
        percent_encode(from, &mut query);
        match self.begin(&query).await {
            Ok(session) => Ok(Some(session).filter(|session| session.position < self.blob.size_bytes)),
            // Whoever may not read there, or is not understood, uploads.
            Err(RegistryError::Denied { .. } | RegistryError::Status { .. }) => self.begin("").await.map(Some),
            Err(error) => Err(error),
        }
    }

    /// Begins a session; with a mount that was granted, one that is at its end.
    async fn begin(&self, query: &str) -> Result<Session, RegistryError> {
        let url = format!("{}{query}", self.client.url("blobs", "uploads/"));
        let response = self.client.once(&url, &Wanted { method: Method::POST, ..Wanted::default() }).await?;
        let position = if response.status() == StatusCode::CREATED { self.blob.size_bytes } else { 0 };
        let number = |name: &str| response.headers().get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        let chunk_bytes = self.chunk_bytes.max(number("oci-chunk-min-length").unwrap_or(0)).max(1);
        match position {
            0 => Ok(Session { url: next_url(&url, &response)?, position, chunk_bytes }),
            _ => Ok(Session { url, position, chunk_bytes }),
        }
    }

    /// Sends everything to a session.
    async fn send(&self, mut session: Session) -> Result<(), RegistryError> {
        let size_bytes = self.blob.size_bytes;
        if size_bytes <= session.chunk_bytes {
            return self.end(&session, self.part(0, size_bytes)).await;
        }
        // Only what nobody has sent before counts as getting on: a registry may forget again and again.
        let (mut poor_attempts, mut furthest) = (0, 0);
        while session.position < size_bytes {
            let end = (session.position + session.chunk_bytes).min(size_bytes);
            match self.chunk(&mut session, end).await {
                Ok(()) if session.position > furthest => (poor_attempts, furthest) = (0, session.position),
                Ok(()) => {}
                Err(error) if error.is_transient() && poor_attempts + 1 < self.client.attempts() => {
                    poor_attempts += 1;
                    self.tell(LayerEvent::Retrying { attempt: poor_attempts + 1, cause: error.to_string() });
                    self.client.pause(poor_attempts, None).await;
                    if self.ask(&mut session).await.is_err() {
                        session = self.begin("").await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.end(&session, Content::Nothing).await
    }

    fn part(&self, from_byte: u64, length_bytes: u64) -> Content {
        Content::File { file: Arc::clone(&self.file), from_byte, length_bytes, sent_bytes: Arc::new(AtomicU64::new(0)) }
    }

    /// Sends one chunk; the session says where to go on.
    async fn chunk(&self, session: &mut Session, end: u64) -> Result<(), RegistryError> {
        let content = self.part(session.position, end - session.position);
        let content_range = Some((session.position, end - 1));
        let wanted =
            Wanted { method: Method::PATCH, content_type: OCTET_STREAM, content_range, content, ..Wanted::default() };
        let response =
            self.reporting(session.position, &wanted.content, self.client.once(&session.url, &wanted)).await?;
        let position = last_byte(&response).map_or(end, |last| last.saturating_add(1));
        if position <= session.position || position > end {
            let reason = format!("after the bytes {}-{} it says that it has {position}", session.position, end - 1);
            return Err(RegistryError::Upload { url: session.url.clone(), reason });
        }
        *session = Session { url: next_url(&session.url, &response)?, position, ..*session };
        Ok(())
    }

    /// Asks how far a session came.
    async fn ask(&self, session: &mut Session) -> Result<(), RegistryError> {
        let response = self.client.once(&session.url, &Wanted::default()).await?;
        let position = last_byte(&response).map_or(0, |last| last.saturating_add(1));
        if position > self.blob.size_bytes {
            let reason = format!("it says that it has {position} of {} bytes", self.blob.size_bytes);
            return Err(RegistryError::Upload { url: session.url.clone(), reason });
        }
        *session = Session { url: next_url(&session.url, &response)?, position, ..*session };
        Ok(())
    }

    /// Ends a session with the last of its bytes and the digest of all.
    async fn end(&self, session: &Session, content: Content) -> Result<(), RegistryError> {
        let mut url = session.url.clone();
        url.push_str(if url.contains('?') { "&digest=" } else { "?digest=" });
        percent_encode(self.blob.digest.as_str(), &mut url);
        let wanted = Wanted { method: Method::PUT, content_type: OCTET_STREAM, content, ..Wanted::default() };
        self.reporting(session.position, &wanted.content, self.client.once(&url, &wanted)).await?;
        Ok(())
    }

    /// Tells of what has been sent while a request is under way.
    async fn reporting<T>(&self, before: u64, content: &Content, request: impl Future<Output = T>) -> T {
        let mut request = pin!(request);
        loop {
            let done = tokio::time::timeout(REPORT_INTERVAL, &mut request).await;
            let done_bytes = (before + content.sent_bytes()).min(self.blob.size_bytes);
            self.tell(LayerEvent::Uploading { done_bytes, total_bytes: self.blob.size_bytes });
            if let Ok(done) = done {
                return done;
            }
        }
    }
}

/// Where the registry wants the next request of a session.
fn next_url(url: &str, response: &Response<Incoming>) -> Result<String, RegistryError> {
    let failed = |reason: &str| RegistryError::Upload { url: url.to_owned(), reason: reason.to_owned() };
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| failed("its answer has no Location"))?;
    Ok(next_address(&parse_url(url)?, location)?.to_string())
}

/// The last byte that a session has: `Range: 0-9`.
fn last_byte(response: &Response<Incoming>) -> Option<u64> {
    let range = response.headers().get(RANGE)?.to_str().ok()?;
    let last: u64 = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?.1.trim().parse().ok()?;
    // Registries say 0-0 for a session without a byte.
    (last > 0).then_some(last)
}
