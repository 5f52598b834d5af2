//! The archive's entries, put where they can be looked up when the manifest is known.
//!
//! Every file goes into the content store while it passes, since in a docker-archive the manifest may come last and a
//! layer may be called anything; what turns out not to be needed is collected when the holds are let go. Files under
//! `blobs/<algorithm>/` must have the digest in their name. Links are followed when something is looked up, so their
//! order does not matter either.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use hull_oci::Digest;

use super::ArchiveError;
use super::folder::{FolderContent, FolderFile, LayoutFolder};
use super::tar_stream::{Entry, Kind, TarStream};
use crate::compression::Compression;
use crate::content::ContentError;
use crate::{DOCUMENT_BYTES_MAX, Holds, LayerEvent, Progress, StoredBlob};

/// The names of docker before 1.10.
pub(super) const REPOSITORIES: &str = "repositories";
/// Bytes handled at a time.
const PART_BYTES: usize = 128 << 10;
/// Smaller files are there before a display of them could be seen.
const SHOWN_BYTES_MIN: u64 = 64 << 10;
/// How many files and links an archive of images may have, and bytes in their names.
const ENTRIES_MAX: usize = 100_000;
const NAMES_BYTES_MAX: usize = 16 << 20;
/// How many links may lead from one to the next.
const LINKS_MAX: usize = 16;

/// A file of the archive, in the content store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spooled {
    pub digest: Digest,
    pub size_bytes: u64,
    pub compression: Compression,
}

/// All files of an archive, by name.
pub(super) struct Spool<'s, 'a> {
    holds: &'s Holds<'a>,
    progress: &'s dyn Progress,
    files: HashMap<String, Spooled>,
    links: HashMap<String, String>,
    /// Files that docker writes for versions before 1.10 and nobody reads here.
    legacy: HashSet<String>,
    entries: usize,
    names_bytes: usize,
}

impl<'s, 'a> Spool<'s, 'a> {
    fn new(holds: &'s Holds<'a>, progress: &'s dyn Progress) -> Self {
        let (files, links, legacy) = (HashMap::new(), HashMap::new(), HashSet::new());
        Self { holds, progress, files, links, legacy, entries: 0, names_bytes: 0 }
    }

    /// Counts an entry, of which the names are kept in memory.
    fn count(&mut self, name: &str, target: &str) -> Result<(), ArchiveError> {
        self.entries += 1;
        self.names_bytes += name.len() + target.len();
        match self.entries > ENTRIES_MAX || self.names_bytes > NAMES_BYTES_MAX {
            true => Err(ArchiveError::TooManyEntries { entries_max: ENTRIES_MAX, names_bytes_max: NAMES_BYTES_MAX }),
            false => Ok(()),
        }
    }

    /// Reads an archive to its end.
    pub fn read(
        input: impl Read,
        holds: &'s Holds<'a>,
        limit_bytes: Option<u64>,
        progress: &'s dyn Progress,
    ) -> Result<Self, ArchiveError> {
        let mut spool = Self::new(holds, progress);
        let mut stream = TarStream::new(input, limit_bytes);
        while let Some(entry) = stream.next()? {
            match &entry.kind {
                Kind::Link(target) => spool.count(&entry.name, target)?,
                Kind::File => spool.count(&entry.name, "")?,
                Kind::Other => continue,
            }
            match &entry.kind {
                Kind::File if is_legacy(&entry.name) => _ = spool.legacy.insert(entry.name),
                Kind::File => spool.file(&mut stream, &entry)?,
                Kind::Link(target) => _ = spool.links.insert(entry.name, target.clone()),
                Kind::Other => {}
            }
        }
        stream.finish()?;
        Ok(spool)
    }

    /// Reads an OCI layout, or a folder of the `dir:` transport, whose blobs are kept under the names of a layout.
    pub fn read_folder(
        folder: &LayoutFolder,
        holds: &'s Holds<'a>,
        limit_bytes: Option<u64>,
        progress: &'s dyn Progress,
    ) -> Result<Self, ArchiveError> {
        let mut spool = Self::new(holds, progress);
        let mut left_bytes = limit_bytes;
        for FolderFile { name, path, content } in folder.files()? {
            spool.count(&name, "")?;
            match content {
                FolderContent::Link(target) => _ = spool.links.insert(name, target),
                FolderContent::File(mut file) => {
                    let unreadable = |source| ArchiveError::Folder { action: "read", path: path.clone(), source };
                    let size_bytes = file.metadata().map_err(unreadable)?.len();
                    left_bytes = match (left_bytes, limit_bytes) {
                        (Some(left), Some(limit_bytes)) => {
                            Some(left.checked_sub(size_bytes).ok_or(ArchiveError::TooLarge { limit_bytes })?)
                        }
                        _ => None,
                    };
                    let mut part = vec![0; PART_BYTES];
                    spool.store(&name, size_bytes, |take| {
                        loop {
                            match file.read(&mut part) {
                                Ok(0) => return Ok(()),
                                Ok(count) => take(&part[..count])?,
                                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                                Err(error) => return Err(unreadable(error)),
                            }
                        }
                    })?;
                }
            }
        }
        Ok(spool)
    }

    fn file(&mut self, stream: &mut TarStream<impl Read>, entry: &Entry) -> Result<(), ArchiveError> {
        self.store(&entry.name, entry.size_bytes, |take| stream.body(take))
    }

    /// Puts one file into the content store; `body` hands its bytes on.
    fn store(
        &mut self,
        name: &str,
        size_bytes: u64,
        body: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), ArchiveError>) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let named = digest_in(name);
        let mut writer = match &named {
            Some(digest) => self.holds.writer_of(digest)?,
            None => self.holds.writer()?,
        };
        let mut start = Vec::new();
        body(&mut |part| {
            if start.len() < 8 {
                start.extend(part.iter().take(8));
            }
            writer.append(part)?;
            // What has no digest in its name cannot be told by it yet.
            if let Some(digest) = named.as_ref().filter(|_| size_bytes > SHOWN_BYTES_MIN) {
                let event = LayerEvent::Loading { done_bytes: writer.size_bytes(), total_bytes: size_bytes };
                self.progress.layer(digest, event);
            }
            Ok(())
        })?;
        let sealed = match &named {
            Some(digest) => writer.seal_as(digest, Some(size_bytes)),
            None => writer.seal(),
        };
        let sealed = sealed.map_err(|error| match error {
            ContentError::WrongDigest { found, .. } => ArchiveError::WrongDigest { entry: name.to_owned(), found },
            other => other.into(),
        })?;
        let StoredBlob { digest, size_bytes, .. } = self.holds.admit(sealed, "")?;
        let spooled = Spooled { digest, size_bytes, compression: Compression::of(&start) };
        match self.files.insert(name.to_owned(), spooled.clone()) {
            Some(earlier) if earlier != spooled => Err(ArchiveError::Duplicate { entry: name.to_owned() }),
            _ => Ok(()),
        }
    }

    /// Whether there is such a file, or a link to one.
    pub fn find(&self, name: &str) -> Option<&Spooled> {
        let mut name = name;
        for _ in 0..LINKS_MAX {
            match (self.files.get(name), self.links.get(name)) {
                (Some(file), _) => return Some(file),
                (None, Some(target)) => name = target,
                (None, None) => return None,
            }
        }
        None
    }

    /// A file that something else names.
    pub fn named(&self, name: &str, named_by: &str) -> Result<&Spooled, ArchiveError> {
        let missing = || ArchiveError::Missing { entry: name.to_owned(), named_by: named_by.to_owned() };
        self.find(name).ok_or_else(missing)
    }

    /// The content of a document.
    pub fn document(&self, name: &str, file: &Spooled) -> Result<Vec<u8>, ArchiveError> {
        if file.size_bytes > DOCUMENT_BYTES_MAX {
            return Err(ArchiveError::TooLong { entry: name.to_owned(), limit_bytes: DOCUMENT_BYTES_MAX });
        }
        Ok(self.holds.read(&file.digest, DOCUMENT_BYTES_MAX)?)
    }

    /// Whether anything is there that only docker before 1.10 wrote.
    pub fn looks_legacy(&self) -> bool {
        self.legacy.contains(REPOSITORIES)
    }
}

/// `repositories`, and `VERSION` and `json` beside each layer.
fn is_legacy(name: &str) -> bool {
    let in_folder = |file: &str| name.strip_suffix(file).is_some_and(|folder| folder.ends_with('/'));
    name == REPOSITORIES || in_folder("VERSION") || in_folder("json")
}

/// The digest that an entry of an OCI layout has in its name: `blobs/sha256/<hex>`.
fn digest_in(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

/// Where a blob is in an OCI layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
