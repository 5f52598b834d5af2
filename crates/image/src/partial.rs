//! A blob on its way in over the network: written at any place, hashed in order, read by others while it grows.
//!
//! ```text
//! connections ──> write_at ─> temporary file ─> hashed without a gap up to here (`arrived_bytes`) ─> finish: verified
//!                                        └──> ArrivingBlob: reads up to there, waits for more
//! ```
//!
//! A reader sees bytes that are not verified yet. What it makes of them counts only when [`PartialBlob::finish`] has
//! found the digest right; if that fails, or the writer is dropped, its next read fails. Parts may come out of order
//! from several connections; what lies behind a gap is read back for its hash when the gap closes, so memory is
//! bounded whatever the size.
//!
//! An unfinished file of an earlier process is gone on with (see the header of [`crate::content`]). Its bytes up to the
//! first hole (`SEEK_HOLE`, lseek(2)) are taken, less what the last block could hold besides, and are hashed with the
//! rest; if the digest is wrong at the end, the caller begins again without them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use hull_oci::Digest;
use hull_store::Lease;
use rustix::fs::SeekFrom;

use crate::content::{Content, ContentError, Hasher, RESUMABLE_BYTES_MIN, SealedBlob, TemporaryFile, check, failed};

/// What is read back at once to be hashed.
const READ_BACK_BYTES: usize = 1 << 20;
/// Bytes before a hole that may be none of the blob's: more than a block of any file system.
const BLOCK_BYTES_MAX: u64 = 64 << 10;
/// From this size on a blob is synced by itself, while others still come; smaller ones wait for a joint sync.
const SYNC_ALONE_BYTES_MIN: u64 = 1 << 20;

/// How far a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// More will come.
    Coming,
    /// All is here and has the right digest.
    Verified,
    /// Nothing more will come.
    GivenUp,
}

#[derive(Debug)]
struct Shared {
    file: File,
    size_bytes: u64,
    /// How many bytes are there without a gap, and whether more will come.
    state: Mutex<(u64, Arrival)>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (u64, Arrival)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut (u64, Arrival))) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The writing end. Dropped, it tells the readers and leaves nothing, unless the next download is to go on with it.
#[derive(Debug)]
pub struct PartialBlob {
    content: Content,
    digest: Digest,
    /// Absent when its blob has been finished.
    temporary: Option<TemporaryFile>,
    hasher: Hasher,
    arrived_bytes: u64,
    /// Beginning and end of what lies behind a gap.
    ahead: BTreeMap<u64, u64>,
    resumed_bytes: u64,
    shared: Arc<Shared>,
}

impl PartialBlob {
    /// Goes on with the longest unfinished file of the blob, or begins a new one.
    ///
    /// # Errors
    /// [`ContentError::File`] when no temporary file can be made.
    pub fn resume(content: &Content, digest: &Digest, size_bytes: u64, lease: &Lease) -> Result<Self, ContentError> {
        let length = |path: &std::path::PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let mut unfinished = content.unfinished(digest);
        unfinished.sort_by_key(|path| std::cmp::Reverse(length(path)));
        for path in unfinished {
            let own = content.temporary_path_of(digest, lease);
            // Another process may have been quicker.
            if fs::rename(&path, &own).is_err() {
                continue;
            }
            let temporary = TemporaryFile { path: own, is_kept: false };
            let Ok(file) = File::options().read(true).write(true).open(&temporary.path) else { continue };
            let resumed_bytes = filled_bytes(&file, size_bytes);
            if resumed_bytes >= RESUMABLE_BYTES_MIN {
                return Ok(Self::over(content, digest, size_bytes, file, temporary, resumed_bytes));
            }
        }
        Self::create(content, digest, size_bytes, lease)
    }

    /// Begins a new file.
    ///
    /// # Errors
    /// [`ContentError::File`] when the temporary file cannot be made.
    pub fn create(content: &Content, digest: &Digest, size_bytes: u64, lease: &Lease) -> Result<Self, ContentError> {
        let (file, temporary) = content.create(content.temporary_path_of(digest, lease))?;
        Ok(Self::over(content, digest, size_bytes, file, temporary, 0))
    }

    fn over(
        content: &Content,
        digest: &Digest,
        size_bytes: u64,
        file: File,
        temporary: TemporaryFile,
        resumed_bytes: u64,
    ) -> Self {
        let state = Mutex::new((0, Arrival::Coming));
        let shared = Arc::new(Shared { file, size_bytes, state, changed: Condvar::new() });
        let ahead = if resumed_bytes > 0 { BTreeMap::from([(0, resumed_bytes)]) } else { BTreeMap::new() };
        let (content, digest, temporary) = (content.clone(), digest.clone(), Some(temporary));
        let hasher = Hasher::like(&digest);
        Self { content, digest, temporary, hasher, arrived_bytes: 0, ahead, resumed_bytes, shared }
    }

    /// Bytes from the blob's beginning that need not come again.
    pub fn resumed_bytes(&self) -> u64 {
        self.resumed_bytes
    }

    /// A reading end, at the blob's first byte.
    pub fn reader(&self) -> ArrivingBlob {
        ArrivingBlob { shared: Arc::clone(&self.shared), position: 0 }
    }

    /// Takes what an earlier process left; the readers may have it from now on.
    ///
    /// # Errors
    /// [`ContentError::File`] when the file cannot be read.
    pub fn take_resumed(&mut self) -> Result<(), ContentError> {
        self.close_gaps()
    }

    /// Takes bytes that belong at a place of the blob, within its size.
    ///
    /// # Errors
    /// [`ContentError::File`], a full disk for example.
    pub fn write_at(&mut self, position: u64, bytes: &[u8]) -> Result<(), ContentError> {
        self.shared.file.write_all_at(bytes, position).map_err(self.file_failed("write"))?;
        let end = position + bytes.len() as u64;
        if position != self.arrived_bytes {
            let known = self.ahead.entry(position).or_insert(end);
            *known = end.max(*known);
            return Ok(());
        }
        self.hasher.update(bytes);
        self.arrive(end);
        self.close_gaps()
    }

    /// Hashes what is joined to the beginning now.
    fn close_gaps(&mut self) -> Result<(), ContentError> {
        let mut buffer = Vec::new();
        while let Some((_, end)) = self.next_ahead() {
            while self.arrived_bytes < end {
                let wanted = usize::try_from(end - self.arrived_bytes).unwrap_or(usize::MAX).min(READ_BACK_BYTES);
                buffer.resize(READ_BACK_BYTES, 0);
                let part = &mut buffer[..wanted];
                self.shared.file.read_exact_at(part, self.arrived_bytes).map_err(self.file_failed("read"))?;
                self.hasher.update(part);
                self.arrive(self.arrived_bytes + wanted as u64);
            }
        }
        Ok(())
    }

    /// The range behind a gap that the beginning has come to, if it has.
    fn next_ahead(&mut self) -> Option<(u64, u64)> {
        let (begin, _) = self.ahead.first_key_value()?;
        if *begin > self.arrived_bytes { None } else { self.ahead.pop_first() }
    }

    fn arrive(&mut self, arrived_bytes: u64) {
        self.arrived_bytes = arrived_bytes;
        self.shared.tell(|state| state.0 = arrived_bytes);
    }

    /// Ends the blob, which must be whole and have its digest now. A large one is synced.
    ///
    /// # Errors
    /// [`ContentError::WrongSize`], [`ContentError::WrongDigest`], or a failed system call; nothing is left then.
    pub fn finish(mut self) -> Result<SealedBlob, ContentError> {
        let found = std::mem::take(&mut self.hasher).finish();
        check(&self.digest, Some(self.shared.size_bytes), &found, self.arrived_bytes)?;
        let file = self.shared.file.try_clone().map_err(self.file_failed("open"))?;
        // A longer file of an earlier process may hold more than the blob.
        file.set_len(self.shared.size_bytes).map_err(self.file_failed("cut"))?;
        let temporary = self.temporary.take().expect("only finishing takes it");
        let (digest, size_bytes, content) = (found, self.arrived_bytes, self.content.clone());
        self.shared.tell(|state| state.1 = Arrival::Verified);
        let mut sealed = SealedBlob { digest, size_bytes, content, file, temporary, is_synced: false };
        if size_bytes >= SYNC_ALONE_BYTES_MIN {
            sealed.sync()?;
        }
        Ok(sealed)
    }

    /// Gives the blob up and leaves what has come for the next download, when it is worth it.
    pub fn leave(mut self) {
        if let Some(temporary) = &mut self.temporary {
            temporary.is_kept = self.arrived_bytes >= RESUMABLE_BYTES_MIN;
        }
    }

    fn file_failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> ContentError + use<> {
        let path = self.temporary.as_ref().map(|temporary| temporary.path.clone()).unwrap_or_default();
        failed(action, &path)
    }
}

impl Drop for PartialBlob {
    fn drop(&mut self) {
        self.shared.tell(|state| {
            if state.1 == Arrival::Coming {
                state.1 = Arrival::GivenUp;
            }
        });
    }
}

/// How much of the beginning of an unfinished file is surely filled.
fn filled_bytes(file: &File, size_bytes: u64) -> u64 {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let hole = rustix::fs::seek(file, SeekFrom::Hole(0)).unwrap_or(length).min(length);
    match hole < length {
        true => hole.saturating_sub(BLOCK_BYTES_MAX),
        false => length.min(size_bytes),
    }
}

/// The reading end of a blob on its way. It fails when the blob was given up or turned out to be another one.
#[derive(Debug, Clone)]
pub struct ArrivingBlob {
    shared: Arc<Shared>,
    position: u64,
}

impl ArrivingBlob {
    /// Waits for the blob's end, and says whether it was verified.
    pub fn is_verified(&self) -> bool {
        let mut state = self.shared.lock();
        while state.1 == Arrival::Coming {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.1 == Arrival::Verified
    }

    /// Waits until there is something to read; returns how far it goes, the blob's size at its end.
    fn wait(&self) -> io::Result<u64> {
        let mut state = self.shared.lock();
        loop {
            match *state {
                (_, Arrival::GivenUp) => return Err(io::Error::other("the blob did not arrive")),
                (arrived_bytes, _) if arrived_bytes > self.position => return Ok(arrived_bytes),
                (arrived_bytes, _) if arrived_bytes == self.shared.size_bytes => return Ok(arrived_bytes),
                _ => state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Read for ArrivingBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = usize::try_from(self.wait()? - self.position).unwrap_or(usize::MAX);
        let wanted = there.min(buffer.len());
        let count = self.shared.file.read_at(&mut buffer[..wanted], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use hull_store::Roots;

    use super::*;

    fn store() -> (tempfile::TempDir, Content, Lease) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let content = Content::new(&Roots::new(folder.path(), folder.path()));
        (folder, content, Lease::current().expect("/proc"))
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index / 7 % 251) as u8).collect()
    }

    #[test]
    fn a_reader_follows_parts_in_any_order() {
        let (_folder, content, lease) = store();
        let whole = bytes(3 << 20);
        let digest = Digest::sha256_of(&whole);
        let mut blob = PartialBlob::create(&content, &digest, whole.len() as u64, &lease).expect("makes");
        let mut reader = blob.reader();
        let read = std::thread::scope(|scope| {
            let read = scope.spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).expect("arrives");
                assert!(reader.is_verified());
                all
            });
            for part in [2, 0, 1, 5, 4, 3] {
                let at = part << 19;
                blob.write_at(at as u64, &whole[at..at + (1 << 19)]).expect("writes");
            }
            blob.finish().expect("whole").put_in_place().expect("renames");
            read.join().expect("no panic")
        });
        assert!(read == whole);
        assert_eq!(content.size_bytes(&digest).expect("looks"), Some(whole.len() as u64));
    }

    #[test]
    fn readers_hear_of_the_end() {
        let (_folder, content, lease) = store();
        let digest = Digest::sha256_of(b"right");
        let mut blob = PartialBlob::create(&content, &digest, 5, &lease).expect("makes");
        let (mut reader, mut buffer) = (blob.reader(), [0; 9]);
        blob.write_at(0, b"wrong").expect("writes");
        assert_eq!(reader.read(&mut buffer).expect("there"), 5, "what came is read before it is verified");
        assert!(matches!(blob.finish(), Err(ContentError::WrongDigest { .. })));
        assert!(!reader.is_verified() && reader.read(&mut buffer).is_err());
        let blob = PartialBlob::create(&content, &digest, 5, &lease).expect("makes");
        let mut reader = blob.reader();
        drop(blob);
        assert!(reader.read(&mut buffer).is_err());
        assert!(content.digests().expect("lists").is_empty());
    }

    #[test]
    fn an_unfinished_file_is_gone_on_with_once() {
        let (_folder, content, lease) = store();
        let dead = Lease { start_time: lease.start_time + 1, ..lease.clone() };
        let whole = bytes(5 << 20);
        let (digest, size_bytes) = (Digest::sha256_of(&whole), whole.len() as u64);
        let mut blob = PartialBlob::create(&content, &digest, size_bytes, &dead).expect("makes");
        blob.write_at(0, &whole[..2 << 20]).expect("writes");
        blob.write_at(4 << 20, &whole[4 << 20..]).expect("writes");
        blob.leave();
        let mut blob = PartialBlob::resume(&content, &digest, size_bytes, &lease).expect("claims");
        let resumed = usize::try_from(blob.resumed_bytes()).expect("small");
        assert!((1 << 20..=2 << 20).contains(&resumed), "{resumed}");
        let other = PartialBlob::resume(&content, &digest, size_bytes, &lease).expect("makes");
        assert_eq!(other.resumed_bytes(), 0, "the file is somebody's");
        blob.take_resumed().expect("reads");
        blob.write_at(resumed as u64, &whole[resumed..]).expect("writes");
        blob.finish().expect("whole").put_in_place().expect("renames");
        assert!(content.read(&digest, size_bytes).expect("reads") == whole);
    }

    #[test]
    fn what_is_too_short_to_go_on_with_goes() {
        let (folder, content, lease) = store();
        let digest = Digest::sha256_of(b"x");
        let mut blob = PartialBlob::create(&content, &digest, 1 << 30, &lease).expect("makes");
        blob.write_at(0, b"x").expect("writes");
        blob.leave();
        assert_eq!(std::fs::read_dir(folder.path().join("content/tmp")).expect("lists").count(), 0);
    }
}
