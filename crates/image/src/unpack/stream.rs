//! The archive's bytes on their way from the reading thread to the placing one.
//!
//! Chunks travel through a bounded channel and come back empty, so a layer of any size takes [`CHUNKS`] of them. The
//! reading side hashes. When the placing side has come to the archive's end before the stream does, the rest is read
//! for its digest alone; when it has failed, reading stops.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use hull_oci::Digest;
use sha2::{Digest as _, Sha256};

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks in flight.
const CHUNKS: usize = 6;

struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
}

/// The reading end.
pub(super) struct Pump {
    full: Option<SyncSender<Chunk>>,
    empty: Receiver<Vec<u8>>,
}

/// The placing end.
pub(super) struct Source {
    full: Receiver<Chunk>,
    empty: Sender<Vec<u8>>,
    current: Chunk,
    position: usize,
}

/// Both ends, the chunks with the reading one.
pub(super) fn pipe() -> (Pump, Source) {
    let (full, chunks) = sync_channel(CHUNKS);
    let (empty, spare) = channel();
    for _ in 0..CHUNKS {
        // The other end is here.
        let _ = empty.send(vec![0; CHUNK_BYTES]);
    }
    let current = Chunk { bytes: Vec::new(), filled: 0 };
    (Pump { full: Some(full), empty: spare }, Source { full: chunks, empty, current, position: 0 })
}

impl Pump {
    /// Reads everything and returns its digest, or stops early when `has_failed` is set by the other side.
    pub(super) fn run(mut self, tar: &mut impl Read, has_failed: &AtomicBool) -> io::Result<Digest> {
        let mut hasher = Sha256::new();
        let mut own = None;
        while !has_failed.load(Ordering::Acquire) {
            let chunk = own.take().or_else(|| self.empty.recv().ok());
            // The other side has gone and taken the chunks along.
            let mut bytes = chunk.unwrap_or_else(|| vec![0; CHUNK_BYTES]);
            let filled = fill(tar, &mut bytes)?;
            if filled == 0 {
                break;
            }
            hasher.update(&bytes[..filled]);
            own = self.pass_on(Chunk { bytes, filled });
        }
        Ok(Digest::from_sha256(hasher.finalize().into()))
    }

    /// Sends a chunk; returns its memory when nobody wants it any more.
    fn pass_on(&mut self, chunk: Chunk) -> Option<Vec<u8>> {
        let Some(full) = &self.full else { return Some(chunk.bytes) };
        let refused = full.send(chunk).err()?;
        self.full = None;
        Some(refused.0.bytes)
    }
}

/// Fills the buffer unless the stream ends first.
fn fill(tar: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match tar.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.filled
            && !buffer.is_empty()
            && let Ok(next) = self.full.recv()
        {
            let done = std::mem::replace(&mut self.current, next);
            self.position = 0;
            if !done.bytes.is_empty() {
                // The other side may have read everything and gone.
                let _ = self.empty.send(done.bytes);
            }
        }
        let there = &self.current.bytes[self.position..self.current.filled];
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        self.position += length;
        Ok(length)
    }
}
