//! What a request carries: nothing, a document, or a part of a file that is read as it is sent.
//!
//! A [`Content`] can be sent again, after a challenge or a redirect; a [`Payload`] is one sending of it. A file is read
//! in [`PART_BYTES`], so memory is bounded whatever its size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Bytes of a file that are read and sent at once.
const PART_BYTES: u64 = 128 << 10;

/// What a request carries.
#[derive(Debug, Clone, Default)]
pub(super) enum Content {
    /// No body.
    #[default]
    Nothing,
    /// A body in memory.
    Bytes(Bytes),
    /// A part of a file.
    File {
        file: Arc<File>,
        from_byte: u64,
        length_bytes: u64,
        /// How much of it has been given to the connection.
        sent_bytes: Arc<AtomicU64>,
    },
}

impl Content {
    fn length_bytes(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length_bytes, .. } => *length_bytes,
        }
    }

    /// How much has been sent, of a file.
    pub fn sent_bytes(&self) -> u64 {
        match self {
            Self::File { sent_bytes, .. } => sent_bytes.load(Ordering::Relaxed),
            Self::Nothing | Self::Bytes(_) => 0,
        }
    }
}

/// One sending of a content.
#[derive(Debug)]
pub(super) struct Payload {
    content: Content,
    position: u64,
}

impl From<Content> for Payload {
    fn from(content: Content) -> Self {
        Self { content, position: 0 }
    }
}

impl Payload {
    fn next(&mut self) -> io::Result<Bytes> {
        let left = self.content.length_bytes() - self.position;
        let part = match &self.content {
            Content::Nothing => Bytes::new(),
            Content::Bytes(bytes) => bytes.clone(),
            Content::File { file, from_byte, sent_bytes, .. } => {
                let mut part = vec![0; usize::try_from(left.min(PART_BYTES)).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut part, from_byte + self.position)?;
                sent_bytes.store(self.position + part.len() as u64, Ordering::Relaxed);
                part.into()
            }
        };
        self.position += part.len() as u64;
        Ok(part)
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let payload = self.get_mut();
        Poll::Ready((!payload.is_end_stream()).then(|| payload.next().map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.position == self.content.length_bytes()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.length_bytes() - self.position)
    }
}
