//! The content store: blobs by digest, and nothing under a digest's name that does not have that digest.
//!
//! ```text
//! <root>/content/
//!   sha256/ab/abcd...      a blob, whole, verified and synced; never written again
//!   tmp/<lease>.<number>   a blob on its way; the lease says which process writes it
//! ```
//!
//! Write order: bytes to a temporary file while they are hashed, digest and size compared, fsync of the file, rename,
//! fsync of the folder. After a crash at any point a file under its digest's name is complete; temporary files of
//! dead processes are removed by [`Content::sweep`]. Several writers of one digest each have their own temporary
//! file and rename over each other's equal result. Which blobs are wanted is not known here but in the database.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hull_oci::Digest;
use hull_store::{Lease, Roots};
use sha2::Digest as _;

/// Numbers the temporary files of this process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

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

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContentError {
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

    /// Removes the temporary files of processes that are gone, and says how many there were.
    ///
    /// # Errors
    /// [`ContentError::File`] for the first file that could not be removed; the others are tried first.
    pub fn sweep(&self) -> Result<usize, ContentError> {
        let folder = self.temporary_folder();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed("list", &folder)(error)),
        };
        let (mut removed, mut first_error) = (0, None);
        for entry in entries {
            let path = entry.map_err(failed("list", &folder))?.path();
            if owner(&path).is_some_and(|lease| lease.is_alive()) {
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
}

/// Paths inside a folder; none when there is no folder.
fn list(folder: &Path) -> Result<Vec<PathBuf>, ContentError> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed("list", folder))?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("list", folder)(error)),
    }
}

/// Whose temporary file this is; absent when the name is not of our form, which no living process writes.
fn owner(path: &Path) -> Option<Lease> {
    let (lease, _number) = path.file_name()?.to_str()?.rsplit_once('.')?;
    lease.parse().ok()
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
    path: PathBuf,
    hasher: Hasher,
    size_bytes: u64,
    in_place: bool,
}

impl BlobWriter {
    fn create(content: Content, lease: &Lease, hasher: Hasher) -> Result<Self, ContentError> {
        let path = content.temporary_path(lease);
        let open = || File::options().write(true).create_new(true).mode(0o600).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&content.temporary_folder())?;
                open()
            }
            other => other,
        };
        let file = file.map_err(failed("create", &path))?;
        Ok(Self { content, file, path, hasher, size_bytes: 0, in_place: false })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`ContentError::File`], a full disk for example.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        self.file.write_all(bytes).map_err(failed("write", &self.path))?;
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
        self.file.sync_data().map_err(failed("sync", &self.path))?;
        let digest = self.hasher.clone().finish();
        Ok(SealedBlob { digest, size_bytes: self.size_bytes, writer: self })
    }

    /// Ends a blob that must have this digest and, where known, this size.
    ///
    /// # Errors
    /// [`ContentError::WrongSize`], [`ContentError::WrongDigest`], or a failed system call; nothing is left then.
    pub fn seal_as(self, expected: &Digest, expected_bytes: Option<u64>) -> Result<SealedBlob, ContentError> {
        if let Some(expected_bytes) = expected_bytes.filter(|bytes| *bytes != self.size_bytes) {
            let (digest, found_bytes) = (expected.clone(), self.size_bytes);
            return Err(ContentError::WrongSize { digest, expected_bytes, found_bytes });
        }
        let found = self.hasher.clone().finish();
        if found != *expected {
            return Err(ContentError::WrongDigest { expected: expected.clone(), found });
        }
        self.seal()
    }
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

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.in_place {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A complete, synced blob that waits for its name. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct SealedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    writer: BlobWriter,
}

impl SealedBlob {
    /// Gives the blob its name, durably.
    ///
    /// # Errors
    /// [`ContentError::File`] when renaming or syncing the folder fails.
    pub fn put_in_place(mut self) -> Result<(), ContentError> {
        let content = &self.writer.content;
        let (folder, target) = (content.folder_of(&self.digest), content.path(&self.digest));
        match fs::rename(&self.writer.path, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&folder)?;
                sync_folder(folder.parent().unwrap_or(&content.folder))?;
                fs::rename(&self.writer.path, &target).map_err(failed("rename to", &target))?;
            }
            other => other.map_err(failed("rename to", &target))?,
        }
        self.writer.in_place = true;
        sync_folder(&folder)
    }
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
}
