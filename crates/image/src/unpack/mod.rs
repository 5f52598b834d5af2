//! A layer's tar becomes a folder of an overlay (OCI image specification, "Image Layer Filesystem Changeset").
//!
//! ```text
//! bytes ─> Hashed (diff id) ─> headers (ustar, GNU, PAX, sparse) ─> Layer: one folder, every path resolved beneath it
//! ```
//!
//! Parents are opened with openat2(2) `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, so no entry can leave the folder, whatever
//! links it brought along; `..` is refused. Deletions become what overlay understands: `.wh.NAME` a character device 0:0,
//! `.wh..wh..opq` the attribute `trusted.overlay.opaque`. A later entry replaces an earlier one of its name. Folders get
//! their times last. Nothing is synced here.

mod error;
mod header;
mod layer;
mod sparse;

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use hull_oci::Digest;
use sha2::{Digest as _, Sha256};

pub use crate::compression::decompress;
pub use error::UnpackError;

use header::Headers;
use layer::Layer;

/// What a layer may be at most. The defaults are far above any real image and stop what only wants to fill memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Number of entries.
    pub entries_max: u64,
    /// Length of a path in bytes (`PATH_MAX`).
    pub path_bytes_max: usize,
    /// Length of one extended header (PAX or GNU long name) in bytes.
    pub extension_bytes_max: u64,
    /// Bytes of file content written to disk; `None` for no limit but the disk's.
    pub content_bytes_max: Option<u64>,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self { entries_max: 10_000_000, path_bytes_max: 4096, extension_bytes_max: 1 << 20, content_bytes_max: None }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackReport {
    /// Digest of the tar stream, to its very end.
    pub diff_id: Digest,
    /// Bytes of file content written, holes left out.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
}

/// Unpacks the uncompressed tar `tar` into the empty folder `into`.
///
/// # Errors
/// See [`UnpackError`]: it names the entry. What was written until then stays for the caller to remove.
pub fn unpack_layer(
    tar: impl Read,
    into: BorrowedFd<'_>,
    options: &UnpackOptions,
) -> Result<UnpackReport, UnpackError> {
    let mut headers = Headers::new(Hashed::new(tar), options);
    let mut layer = Layer::new(into, options);
    let mut entries = 0;
    while let Some(entry) = headers.next()? {
        entries += 1;
        if entries > options.entries_max {
            return Err(UnpackError::TooManyEntries { limit: options.entries_max });
        }
        layer.place(&entry, &mut headers)?;
        headers.finish_entry()?;
    }
    let bytes = layer.finish()?;
    Ok(UnpackReport { diff_id: headers.into_stream().finish()?, bytes, entries })
}

/// A stream whose bytes are hashed as they pass.
struct Hashed<R> {
    stream: R,
    hasher: Sha256,
}

impl<R: Read> Hashed<R> {
    fn new(stream: R) -> Self {
        Self { stream, hasher: Sha256::new() }
    }

    /// Reads what is left and returns the digest of everything.
    fn finish(mut self) -> Result<Digest, UnpackError> {
        let mut rest = [0; 16 * 1024];
        while self.read(&mut rest).map_err(UnpackError::Read)? > 0 {}
        Ok(Digest::from_sha256(self.hasher.finalize().into()))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}
