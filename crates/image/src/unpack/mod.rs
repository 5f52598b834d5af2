//! A layer's tar becomes a folder or an image of an overlay (OCI image specification, "Image Layer Filesystem Changeset").
//!
//! ```text
//! calling thread:  bytes ─> Pump: chunks, hashed (diff id) ─┐ bounded channel
//! second thread:   headers (ustar, GNU, PAX, sparse)      <─┘ ─> Layer: decides ─> Target: a folder, or an EROFS image
//! ```
//!
//! No entry can leave the layer, whatever links it brought along; a `..` that would is refused. Deletions become what
//! overlay understands: `.wh.NAME` a character device 0:0, `.wh..wh..opq` the attribute `trusted.overlay.opaque`; only for
//! file systems that overlay does not work on they stay files. A later entry replaces an earlier one of its name. Both
//! targets hold the same tree afterwards. Nothing is synced here.

mod erofs;
mod error;
mod folder;
mod header;
mod layer;
mod sparse;
mod stream;
mod target;

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hull_oci::Digest;

pub use crate::compression::decompress;
pub use error::UnpackError;

use erofs::Erofs;
use folder::{Folder, Marks};
use header::Headers;
use layer::Layer;
use stream::Source;
use target::Target;

/// What a layer may be at most. The defaults are far above any real image and stop what only wants to fill memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Number of entries.
    pub entries_max: u64,
    /// Length of a path in bytes (`PATH_MAX`).
    pub path_bytes_max: usize,
    /// Length of one extended header (PAX or GNU long name) in bytes.
    pub extension_bytes_max: u64,
    /// Bytes of names and of folders' attributes, which are in memory until the layer is whole.
    pub kept_bytes_max: u64,
    /// Bytes of file content written to disk; `None` for no limit but the disk's.
    pub content_bytes_max: Option<u64>,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            entries_max: 10_000_000,
            path_bytes_max: 4096,
            extension_bytes_max: 1 << 20,
            kept_bytes_max: 1 << 30,
            content_bytes_max: None,
        }
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

/// What a layer is put into.
#[derive(Debug)]
pub enum Destination<'a> {
    /// An empty folder, which becomes a layer of an overlay.
    Folder(BorrowedFd<'a>),
    /// An empty folder on any file system: what is deleted is marked by files as in the archive
    /// ([`hull_kernel::tree::merge_layer`]).
    Plain(BorrowedFd<'a>),
    /// An empty file, open for reading and writing, which becomes an EROFS image.
    Image(File),
}

/// Unpacks the uncompressed tar `tar`.
///
/// # Errors
/// See [`UnpackError`]: it names the entry. What was written until then stays for the caller to remove.
pub fn unpack_layer(
    mut tar: impl Read,
    into: Destination<'_>,
    options: &UnpackOptions,
) -> Result<UnpackReport, UnpackError> {
    let has_failed = AtomicBool::new(false);
    let (pump, source) = stream::pipe();
    let (digest, placed) = thread::scope(|scope| {
        let place = || {
            let placed = match into {
                Destination::Folder(folder) => {
                    Folder::new(folder, Marks::Overlays).and_then(|target| place_all(source, target, options))
                }
                Destination::Plain(folder) => {
                    Folder::new(folder, Marks::Files).and_then(|target| place_all(source, target, options))
                }
                Destination::Image(file) => Erofs::new(file).and_then(|target| place_all(source, target, options)),
            };
            has_failed.store(placed.is_err(), Ordering::Release);
            placed
        };
        let spawned = thread::Builder::new().name("unpack".to_owned()).spawn_scoped(scope, place);
        let thread = spawned.map_err(|source| UnpackError::Folder { source })?;
        let digest = pump.run(&mut tar, &has_failed);
        let placed = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((digest, placed))
    })?;
    // A stream that broke off makes the other side fail too, with less to say.
    let diff_id = digest.map_err(UnpackError::Read)?;
    let (entries, bytes) = placed?;
    Ok(UnpackReport { diff_id, bytes, entries })
}

/// Puts everything in its place; returns the number of entries and the bytes of content.
fn place_all(source: Source, target: impl Target, options: &UnpackOptions) -> Result<(u64, u64), UnpackError> {
    let mut headers = Headers::new(source, options);
    let mut layer = Layer::new(target, options);
    let mut entries = 0;
    while let Some(entry) = headers.next()? {
        entries += 1;
        layer.place(&entry, &mut headers)?;
        headers.finish_entry()?;
    }
    Ok((entries, layer.finish()?))
}
