//! The content store: blobs by digest, and nothing under a digest's name that does not have that digest.
//!
//! ```text
//! <root>/content/
//!   sha256/ab/abcd...      a blob, whole, verified and synced; never written again
//!   tmp/<lease>.<number>   a blob on its way; the lease says which process writes it
//!   tmp/<lease>.<number>.sha256-abcd...   the same over the network, where its digest is known from the start
//! ```
//!
//! Write order: bytes to a temporary file while they are hashed, digest and size compared, the file synced, rename,
//! fsync of the folder. [`place_all`] does it for many blobs with one sync of the file system in place of one for each
//! file: all bytes are on disk before the first rename. After a crash at any point a file under its digest's name is
//! complete. Several writers of one digest each have their own temporary file and rename over each other's equal
//! result. Which blobs are wanted is not known here but in the database.
//!
//! Temporary files of dead processes are removed by [`Content::sweep`], except that a file with a digest in its name
//! which has come to [`RESUMABLE_BYTES_MIN`] and was written to within [`RESUMABLE_AGE_MAX`] stays until the blob is
//! here: the next process that wants the blob renames the file to its own name (one of several gets it) and goes on
//! where it ended (`partial`). Nothing in it is believed: the whole blob is verified as any other.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hull_oci::Digest;
use hull_store::{Lease, Roots};
use sha2::Digest as _;

/// Numbers the temporary files of this process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// Least size of an unfinished file that is worth going on with.
pub const RESUMABLE_BYTES_MIN: u64 = 1 << 20;
/// How long an unfinished file is kept after it was last written to.
pub const RESUMABLE_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The folder of blobs.
#[derive(Debug, Clone)]
pub struct Content {
    folder: PathBuf,
}

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A system call on a file of the content store failed.
    #[error("cannot {action} {path}")]
    File {
        /// Open, write, sync, rename, remove.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The blob is not in the store.
    #[error("the blob {digest} is not in the content store ({path})")]
    Missing {
        /// What was asked for.
        digest: Digest,
        /// Where it would be.
        path: PathBuf,
    },
    /// The bytes are not what their name says.
    #[error("wrong digest: expected {expected}, the content has {found}")]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// There are more or fewer bytes than announced.
    #[error("wrong size of {digest}: expected {expected_bytes} bytes, the content has {found_bytes}")]
    WrongSize {
        /// What was asked for.
        digest: Digest,
        /// The announced size.
        expected_bytes: u64,
        /// The size found.
        found_bytes: u64,
    },
    /// A document that is read into memory is too large.
    #[error("the document {digest} has {size_bytes} bytes, more than the {limit_bytes} allowed")]
    TooLarge {
        /// What was asked for.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContentError + use<> {
    let path = path.to_path_buf();
    move |source| ContentError::File { action, path, source }
}

/// Hashes a stream with the algorithm of a digest.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// sha256.
    Sha256(sha2::Sha256),
    /// sha384.
    Sha384(sha2::Sha384),
    /// sha512.
    Sha512(sha2::Sha512),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::Sha256(sha2::Sha256::new())
    }
}

impl Hasher {
    /// A hasher whose result can be compared with this digest.
    pub fn like(digest: &Digest) -> Self {
        match digest.algorithm() {
            "sha512" => Self::Sha512(sha2::Sha512::new()),
            "sha384" => Self::Sha384(sha2::Sha384::new()),
            _ => Self::default(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Digest {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let text = match self {
            Self::Sha256(hasher) => return Digest::from_sha256(hasher.finalize().into()),
            Self::Sha384(hasher) => format!("sha384:{}", hex(&hasher.finalize())),
            Self::Sha512(hasher) => format!("sha512:{}", hex(&hasher.finalize())),
        };
        Digest::parse(&text).expect("a computed digest has its algorithm's length and digits")
    }

    /// The digest of some bytes, by the algorithm of another digest.
    pub fn digest_like(like: &Digest, bytes: &[u8]) -> Digest {
        let mut hasher = Self::like(like);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl Content {
    /// The content store of a Hull; nothing is touched.
    pub fn new(roots: &Roots) -> Self {
        Self { folder: roots.content() }
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder_of(digest).join(digest.hex())
    }

    fn folder_of(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.algorithm()).join(&digest.hex()[..2])
    }

    fn temporary_folder(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`ContentError::Missing`] when there is none.
    pub fn open(&self, digest: &Digest) -> Result<File, ContentError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ContentError::Missing { digest: digest.clone(), path })
            }
            Err(error) => Err(failed("open", &path)(error)),
        }
    }

    /// Size in bytes of a blob; absent when there is none.
    ///
    /// # Errors
    /// [`ContentError::File`] when the file cannot be looked at.
    pub fn size_bytes(&self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("look at", &path)(error)),
        }
    }

    /// Reads a small blob into memory and checks its digest.
    ///
    /// # Errors
    /// [`ContentError`]: missing, larger than the limit, or not what its name says.
    pub fn read(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, ContentError> {
        let mut bytes = Vec::new();
        let path = self.path(digest);
        self.open(digest)?.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        if bytes.len() as u64 > limit_bytes {
            let size_bytes = self.size_bytes(digest)?.unwrap_or_default();
            return Err(ContentError::TooLarge { digest: digest.clone(), size_bytes, limit_bytes });
        }
        let found = Hasher::digest_like(digest, &bytes);
        if found != *digest {
            return Err(ContentError::WrongDigest { expected: digest.clone(), found });
        }
        Ok(bytes)
    }

    /// Begins a blob whose digest is known already; the hash is of its algorithm.
    ///
    /// # Errors
    /// [`ContentError::File`] when the temporary file cannot be made.
    pub fn writer_of(&self, digest: &Digest, lease: &Lease) -> Result<BlobWriter, ContentError> {
        BlobWriter::create(self.clone(), lease, Hasher::like(digest))
    }

    /// Begins a blob whose digest will be known at its end (sha256).
    ///
    /// # Errors
    /// [`ContentError::File`] when the temporary file cannot be made.
    pub fn writer(&self, lease: &Lease) -> Result<BlobWriter, ContentError> {
        BlobWriter::create(self.clone(), lease, Hasher::default())
    }

    /// Takes a blob out of the store by renaming it to a temporary file, which is quick enough for a transaction;
    /// dropping the result removes the file. Absent when there is no such blob.
    ///
    /// # Errors
    /// [`ContentError::File`] when renaming fails.
    pub fn take_out(&self, digest: &Digest, lease: &Lease) -> Result<Option<Discarded>, ContentError> {
        let path = self.path(digest);
        let aside = self.temporary_path(lease);
        match fs::rename(&path, &aside) {
            Ok(()) => Ok(Some(Discarded(aside))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("remove", &path)(error)),
        }
    }

    /// Removes the temporary files of processes that are gone, and says how many there were. What the next download
    /// of its blob can go on with stays for [`RESUMABLE_AGE_MAX`].
    ///
    /// # Errors
    /// [`ContentError::File`] for the first file that could not be removed; the others are tried first.
    pub fn sweep(&self) -> Result<usize, ContentError> {
        self.remove_dead(true)
    }

    /// As [`Content::sweep`], and nothing stays for the next download.
    ///
    /// # Errors
    /// As [`Content::sweep`].
    pub fn sweep_unfinished(&self) -> Result<usize, ContentError> {
        self.remove_dead(false)
    }

    /// The unfinished files of a blob that nobody works on any more.
    pub(crate) fn unfinished(&self, digest: &Digest) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.temporary_folder()).into_iter().flatten().flatten();
        let dead = |path: &PathBuf| {
            let name = TemporaryName::of(path);
            name.digest.as_ref() == Some(digest) && name.owner.is_none_or(|lease| !lease.is_alive())
        };
        entries.map(|entry| entry.path()).filter(dead).collect()
    }

    fn is_resumable(&self, path: &Path, digest: &Digest) -> bool {
        let Ok(metadata) = fs::metadata(path) else { return false };
        let age = metadata.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        metadata.len() >= RESUMABLE_BYTES_MIN && age <= RESUMABLE_AGE_MAX && !self.path(digest).exists()
    }

    fn remove_dead(&self, keeps_unfinished: bool) -> Result<usize, ContentError> {
        let folder = self.temporary_folder();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed("list", &folder)(error)),
        };
        let (mut removed, mut first_error) = (0, None);
        for entry in entries {
            let path = entry.map_err(failed("list", &folder))?.path();
            let name = TemporaryName::of(&path);
            if name.owner.is_some_and(|lease| lease.is_alive())
                || keeps_unfinished && name.digest.is_some_and(|digest| self.is_resumable(&path, &digest))
            {
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => first_error = first_error.or(Some(failed("remove", &path)(error))),
            }
        }
        first_error.map_or(Ok(removed), Err)
    }

    /// The digests of all files under their digest's name.
    ///
    /// # Errors
    /// [`ContentError::File`] when a folder cannot be listed.
    pub fn digests(&self) -> Result<Vec<Digest>, ContentError> {
        let mut digests = Vec::new();
        for algorithm in ["sha256", "sha384", "sha512"] {
            for folder in list(&self.folder.join(algorithm))? {
                for file in list(&folder)? {
                    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    digests.extend(Digest::parse(&format!("{algorithm}:{name}")));
                }
            }
        }
        Ok(digests)
    }

    fn temporary_path(&self, lease: &Lease) -> PathBuf {
        let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
        self.temporary_folder().join(format!("{lease}.{number}"))
    }

    /// A name for a blob that comes over the network.
    pub(crate) fn temporary_path_of(&self, digest: &Digest, lease: &Lease) -> PathBuf {
        let mut name = self.temporary_path(lease).into_os_string();
        name.push(format!(".{}-{}", digest.algorithm(), digest.hex()));
        name.into()
    }

    /// Makes a temporary file that is read and written.
    pub(crate) fn create(&self, path: PathBuf) -> Result<(File, TemporaryFile), ContentError> {
        let open = || File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&self.temporary_folder())?;
                open()
            }
            other => other,
        };
        let file = file.map_err(failed("create", &path))?;
        Ok((file, TemporaryFile { path, is_kept: false }))
    }
}

/// Paths inside a folder; none when there is no folder.
fn list(folder: &Path) -> Result<Vec<PathBuf>, ContentError> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed("list", folder))?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("list", folder)(error)),
    }
}

/// What the name of a temporary file says.
#[derive(Debug, Default)]
struct TemporaryName {
    /// Who writes it; absent when the name is not of our form, which no living process writes.
    owner: Option<Lease>,
    /// The blob that it is to become, where that is known.
    digest: Option<Digest>,
}

impl TemporaryName {
    fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (rest, digest) = match name.rsplit_once('.') {
            Some((rest, last)) => match last.split_once('-') {
                Some((algorithm, hex)) => (rest, Digest::parse(&format!("{algorithm}:{hex}")).ok()),
                None => (name, None),
            },
            None => (name, None),
        };
        let lease = rest.rsplit_once('.').map_or("", |(lease, _number)| lease);
        Self { owner: lease.parse().ok(), digest }
    }
}

/// A file below `tmp/` that goes when this is dropped, unless it got another name or is to be gone on with.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    pub path: PathBuf,
    pub is_kept: bool,
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A blob that left the store; its file goes when this is dropped.
#[derive(Debug)]
pub struct Discarded(PathBuf);

impl Drop for Discarded {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A blob being written. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    content: Content,
    file: File,
    temporary: TemporaryFile,
    hasher: Hasher,
    size_bytes: u64,
}

impl BlobWriter {
    fn create(content: Content, lease: &Lease, hasher: Hasher) -> Result<Self, ContentError> {
        let (file, temporary) = content.create(content.temporary_path(lease))?;
        Ok(Self { content, file, temporary, hasher, size_bytes: 0 })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`ContentError::File`], a full disk for example.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        self.file.write_all(bytes).map_err(failed("write", &self.temporary.path))?;
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Ends the blob: its digest is known and its bytes are on disk, but it has not got its name yet.
    ///
    /// # Errors
    /// [`ContentError::File`] when syncing fails.
    pub fn seal(self) -> Result<SealedBlob, ContentError> {
        let mut sealed = self.sealed();
        sealed.sync()?;
        Ok(sealed)
    }

    /// Ends a blob that must have this digest and, where known, this size. Its bytes are on disk.
    ///
    /// # Errors
    /// [`ContentError::WrongSize`], [`ContentError::WrongDigest`], or a failed system call; nothing is left then.
    pub fn seal_as(self, expected: &Digest, expected_bytes: Option<u64>) -> Result<SealedBlob, ContentError> {
        let mut sealed = self.seal_unsynced_as(expected, expected_bytes)?;
        sealed.sync()?;
        Ok(sealed)
    }

    /// As [`BlobWriter::seal_as`], but the bytes may still be in memory alone, for [`place_all`] to sync.
    ///
    /// # Errors
    /// [`ContentError::WrongSize`], [`ContentError::WrongDigest`]; nothing is left then.
    pub fn seal_unsynced_as(self, expected: &Digest, expected_bytes: Option<u64>) -> Result<SealedBlob, ContentError> {
        let sealed = self.sealed();
        check(expected, expected_bytes, &sealed.digest, sealed.size_bytes)?;
        Ok(sealed)
    }

    fn sealed(self) -> SealedBlob {
        let Self { content, file, temporary, hasher, size_bytes } = self;
        SealedBlob { digest: hasher.finish(), size_bytes, content, file, temporary, is_synced: false }
    }
}

/// Compares what a blob is with what it is to be.
pub(crate) fn check(
    expected: &Digest,
    expected_bytes: Option<u64>,
    found: &Digest,
    found_bytes: u64,
) -> Result<(), ContentError> {
    if let Some(expected_bytes) = expected_bytes.filter(|bytes| *bytes != found_bytes) {
        return Err(ContentError::WrongSize { digest: expected.clone(), expected_bytes, found_bytes });
    }
    if found != expected {
        return Err(ContentError::WrongDigest { expected: expected.clone(), found: found.clone() });
    }
    Ok(())
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A complete, verified blob that waits for its name. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct SealedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    pub(crate) content: Content,
    pub(crate) file: File,
    pub(crate) temporary: TemporaryFile,
    pub(crate) is_synced: bool,
}

impl SealedBlob {
    /// Has its bytes on disk.
    ///
    /// # Errors
    /// [`ContentError::File`].
    pub fn sync(&mut self) -> Result<(), ContentError> {
        if !self.is_synced {
            self.file.sync_data().map_err(failed("sync", &self.temporary.path))?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// Gives the blob its name, durably.
    ///
    /// # Errors
    /// [`ContentError::File`] when syncing, renaming or syncing the folder fails.
    pub fn put_in_place(mut self) -> Result<(), ContentError> {
        self.sync()?;
        sync_folder(&self.rename()?)
    }

    /// Gives the blob its name; returns the folder that is to be synced.
    fn rename(mut self) -> Result<PathBuf, ContentError> {
        debug_assert!(self.is_synced, "bytes come before the name");
        let content = &self.content;
        let (folder, target) = (content.folder_of(&self.digest), content.path(&self.digest));
        match fs::rename(&self.temporary.path, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&folder)?;
                sync_folder(folder.parent().unwrap_or(&content.folder))?;
                fs::rename(&self.temporary.path, &target).map_err(failed("rename to", &target))?;
            }
            other => other.map_err(failed("rename to", &target))?,
        }
        self.temporary.is_kept = true;
        Ok(folder)
    }

    /// Lets the next download of the blob go on with the file, if it comes to nothing now.
    pub(crate) fn keep_unfinished(&mut self) {
        self.temporary.is_kept = TemporaryName::of(&self.temporary.path).digest.is_some();
    }
}

/// Gives all of the blobs their names, durably, with one sync of the file system for those that are not synced yet.
///
/// # Errors
/// [`ContentError::File`]; those that have no name by then leave nothing.
pub fn place_all(mut blobs: Vec<SealedBlob>) -> Result<(), ContentError> {
    make_missing(&blobs)?;
    let mut unsynced = blobs.iter_mut().filter(|blob| !blob.is_synced);
    match (unsynced.next(), unsynced.next()) {
        (Some(only), None) => only.sync()?,
        (Some(first), Some(_)) => {
            rustix::fs::syncfs(&first.file).map_err(|errno| failed("sync", &first.temporary.path)(errno.into()))?;
            blobs.iter_mut().for_each(|blob| blob.is_synced = true);
        }
        _ => {}
    }
    let folders: BTreeSet<PathBuf> = blobs.into_iter().map(SealedBlob::rename).collect::<Result<_, _>>()?;
    folders.iter().try_for_each(|folder| sync_folder(folder))
}

/// Makes the folders that blobs are to go to, durably, with one sync for all new ones of an algorithm.
fn make_missing(blobs: &[SealedBlob]) -> Result<(), ContentError> {
    let folders: BTreeSet<PathBuf> = blobs.iter().map(|blob| blob.content.folder_of(&blob.digest)).collect();
    let mut parents = BTreeSet::new();
    for folder in folders.iter().filter(|folder| !folder.exists()) {
        make_folder(folder)?;
        parents.extend(folder.parent());
    }
    parents.into_iter().try_for_each(sync_folder)
}

fn make_folder(folder: &Path) -> Result<(), ContentError> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(failed("make", folder))
}

fn sync_folder(folder: &Path) -> Result<(), ContentError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(failed("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Content, Lease) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let content = Content::new(&Roots::new(folder.path(), folder.path()));
        (folder, content, Lease::current().expect("/proc"))
    }

    fn files(folder: &Path) -> usize {
        list(&folder.join("content/tmp")).expect("lists").len()
    }

    fn put(content: &Content, lease: &Lease, bytes: &[u8]) -> Digest {
        let mut writer = content.writer(lease).expect("makes");
        writer.write_all(bytes).expect("writes");
        let sealed = writer.seal().expect("seals");
        let digest = sealed.digest.clone();
        sealed.put_in_place().expect("renames");
        digest
    }

    #[test]
    fn what_is_written_is_read() {
        let (folder, content, lease) = store();
        let digest = put(&content, &lease, b"hello");
        assert_eq!(digest, Digest::sha256_of(b"hello"));
        assert_eq!(content.read(&digest, 5).expect("reads"), b"hello");
        assert_eq!(content.size_bytes(&digest).expect("looks"), Some(5));
        assert_eq!(content.path(&digest).parent().expect("folder").file_name().expect("name"), &digest.hex()[..2]);
        assert!(matches!(content.read(&digest, 4), Err(ContentError::TooLarge { size_bytes: 5, .. })));
        assert_eq!(content.digests().expect("lists"), std::slice::from_ref(&digest));
        assert_eq!(put(&content, &lease, b"hello"), digest, "again is fine");
        drop(content.take_out(&digest, &lease).expect("renames"));
        assert_eq!(content.size_bytes(&digest).expect("looks"), None);
        assert!(matches!(content.open(&digest), Err(ContentError::Missing { .. })));
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn a_wrong_digest_or_size_leaves_nothing() {
        let (folder, content, lease) = store();
        let other = Digest::sha256_of(b"other");
        let mut writer = content.writer_of(&other, &lease).expect("makes");
        writer.append(b"hello").expect("writes");
        assert!(matches!(writer.seal_as(&other, Some(6)), Err(ContentError::WrongSize { found_bytes: 5, .. })));
        let mut writer = content.writer_of(&other, &lease).expect("makes");
        writer.append(b"hello").expect("writes");
        assert!(matches!(writer.seal_as(&other, Some(5)), Err(ContentError::WrongDigest { .. })));
        assert_eq!((files(folder.path()), content.digests().expect("lists").len()), (0, 0));
    }

    #[test]
    fn longer_algorithms_have_their_folder() {
        let (_folder, content, lease) = store();
        for algorithm in ["sha384", "sha512"] {
            let digits = if algorithm == "sha384" { 96 } else { 128 };
            let like = Digest::parse(&format!("{algorithm}:{}", "0".repeat(digits))).expect("valid");
            let expected = Hasher::digest_like(&like, b"x");
            let mut writer = content.writer_of(&expected, &lease).expect("makes");
            writer.append(b"x").expect("writes");
            writer.seal_as(&expected, Some(1)).expect("matches").put_in_place().expect("renames");
            assert_eq!(content.read(&expected, 1).expect("reads"), b"x");
            assert!(content.path(&expected).to_string_lossy().contains(algorithm));
        }
    }

    #[test]
    fn a_changed_file_is_noticed_when_read() {
        let (_folder, content, lease) = store();
        let digest = put(&content, &lease, b"hello");
        fs::write(content.path(&digest), b"jello").expect("writes");
        assert!(matches!(content.read(&digest, 5), Err(ContentError::WrongDigest { .. })));
    }

    #[test]
    fn writers_of_one_digest_do_not_meet() {
        let (folder, content, lease) = store();
        let bytes = vec![7; 100_000];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| put(&content, &lease, &bytes));
            }
        });
        assert_eq!(content.digests().expect("lists").len(), 1);
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn sweep_takes_what_the_dead_left() {
        let (folder, content, lease) = store();
        let living = content.writer(&lease).expect("makes");
        let dead = Lease { start_time: lease.start_time + 1, ..lease.clone() };
        let left = content.writer(&dead).expect("makes");
        std::mem::forget(left);
        fs::write(folder.path().join("content/tmp/strange"), b"").expect("writes");
        assert_eq!(content.sweep().expect("sweeps"), 2);
        assert_eq!(files(folder.path()), 1);
        drop(living);
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn sweep_keeps_what_a_download_can_go_on_with() {
        let (folder, content, lease) = store();
        let dead = Lease { start_time: lease.start_time + 1, ..lease.clone() };
        let unfinished = |name: &str, size_bytes: u64| {
            let path = content.temporary_path_of(&Digest::sha256_of(name.as_bytes()), &dead);
            let (file, mut temporary) = content.create(path).expect("makes");
            temporary.is_kept = true;
            file.set_len(size_bytes).expect("grows");
            file
        };
        unfinished("young", RESUMABLE_BYTES_MIN);
        unfinished("short", RESUMABLE_BYTES_MIN - 1);
        let old = std::time::SystemTime::now() - RESUMABLE_AGE_MAX - Duration::from_secs(60);
        unfinished("old", RESUMABLE_BYTES_MIN).set_modified(old).expect("sets");
        unfinished("here", RESUMABLE_BYTES_MIN);
        assert_eq!(content.unfinished(&Digest::sha256_of(b"old")).len(), 1);
        put(&content, &lease, b"here");
        assert_eq!(content.sweep().expect("sweeps"), 3);
        assert_eq!(content.unfinished(&Digest::sha256_of(b"young")).len(), 1);
        assert_eq!(content.sweep_unfinished().expect("sweeps"), 1);
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn many_blobs_get_their_names_at_once() {
        let (folder, content, lease) = store();
        let blobs = ["a", "b", "c", "a"].map(|text| {
            let mut writer = content.writer(&lease).expect("makes");
            writer.append(text.as_bytes()).expect("writes");
            writer.seal_unsynced_as(&Digest::sha256_of(text.as_bytes()), Some(1)).expect("matches")
        });
        place_all(blobs.into()).expect("places");
        assert_eq!((content.digests().expect("lists").len(), files(folder.path())), (3, 0));
    }
}
