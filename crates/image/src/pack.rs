//! Files become a tar: of a layer (OCI image specification, "Image Layer Filesystem Changeset") or of a whole root.
//!
//! A [`Packer`] writes one entry after the other as its caller walks a tree; it keeps nothing but the names of files
//! with several links. Files are reached through their open folder and never through a link, so a tree that its
//! container changes meanwhile cannot lead out of itself. A file whose size changes while it is read fills its entry
//! exactly: cut, or padded with zeros. Times keep their nanoseconds, extended attributes become pax records
//! (`SCHILY.xattr.`); overlay's own marks, and labels of this machine's security modules, stay behind. Sockets are left
//! out, as docker does it.
//!
//! On disk, the files of a container with a user namespace belong to the host's ids of its users. [`Ids`] gives them
//! back: owners, the ids in access control lists (acl(5)) and the root of file capabilities (capabilities(7)).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, lgetxattr, llistxattr, llistxattr_query, major, minor, openat,
    readlinkat, statat,
};
use rustix::io::Errno;
use tar::EntryType;

use crate::tar_entry::{END, TarEntry, padding};

/// Bytes handled at a time.
const PART_BYTES: usize = 256 << 10;
/// Longest value and longest list of names of extended attributes (xattr(7)).
const XATTR_BYTES: usize = 64 << 10;
/// Attributes that mean something on this machine only.
const OWN_ATTRIBUTES: [&[u8]; 7] = [
    b"trusted.overlay.",
    b"security.selinux",
    b"security.apparmor",
    b"security.SMACK64",
    b"security.ima",
    b"security.evm",
    b"security.sehash",
];
const CAPABILITY: &[u8] = b"security.capability";
const LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Names and values of extended attributes.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// How the ids on disk relate to those of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The host's id of user 0; 0 without a user namespace.
    pub first: u32,
    /// How many ids from there are the container's.
    pub count: u32,
}

impl Ids {
    /// Ids are what they are.
    pub const PLAIN: Ids = Ids { first: 0, count: u32::MAX };

    /// The image's id of one on disk. What is not of the container's range was never shifted: files of the layers.
    pub fn own(self, id: u32) -> u32 {
        id.checked_sub(self.first).filter(|id| *id < self.count).unwrap_or(id)
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackReport {
    /// Number of entries.
    pub entries: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
}

/// Why a tree could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of the tree.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Look at, open, read, list the attributes of.
        action: &'static str,
        /// The path inside the tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output does not take any more.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> PackError {
    let path = PathBuf::from(OsStr::from_bytes(path));
    move |errno| PackError::File { action, path, source: errno.into() }
}

/// A tar being written.
pub struct Packer<'w> {
    output: &'w mut dyn Write,
    ids: Ids,
    /// Where a file with several links was written first, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    report: PackReport,
}

impl<'w> Packer<'w> {
    /// A tar of files whose owners are to be given back by `ids`.
    pub fn new(output: &'w mut dyn Write, ids: Ids) -> Packer<'w> {
        Packer { output, ids, links: HashMap::new(), buffer: vec![0; PART_BYTES], report: PackReport::default() }
    }

    /// Writes what `name` is in the folder `parent`, without what a folder holds, as `path`: relative, without a slash
    /// at its end. What vanished meanwhile is left out.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), PackError> {
        let path = path.as_os_str().as_bytes();
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(failed("look at", path))?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key).cloned() {
                let entry = TarEntry { link: first, ..self.described(&stat, EntryType::Link, path) };
                return self.head(&entry);
            }
            if kind != FileType::Socket {
                self.links.insert(key, path.to_vec());
            }
        }
        if kind == FileType::RegularFile {
            return self.file(parent, name, path);
        }
        let Some(kind) = entry_type(kind) else { return Ok(()) };
        let mut entry = self.described(&stat, kind, path);
        if kind == EntryType::Directory {
            entry.path.push(b'/');
        }
        if kind == EntryType::Symlink {
            entry.link = match readlinkat(parent, name, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                other => other.map_err(failed("read", path))?.into_bytes(),
            };
        }
        entry.xattrs = self.attributes(parent, name, path)?;
        self.head(&entry)
    }

    /// Writes that lower layers' `path` is deleted.
    ///
    /// # Errors
    /// [`PackError::Write`].
    pub fn deletion(&mut self, path: &Path) -> Result<(), PackError> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        self.mark(path.parent().unwrap_or(Path::new("")), &[b".wh.", name].concat())
    }

    /// Writes that a folder hides what lower layers have in it; after the folder and before what it holds.
    ///
    /// # Errors
    /// [`PackError::Write`].
    pub fn opaque(&mut self, folder: &Path) -> Result<(), PackError> {
        self.mark(folder, b".wh..wh..opq")
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// [`PackError::Write`].
    pub fn finish(self) -> Result<PackReport, PackError> {
        self.output.write_all(&END).and_then(|()| self.output.flush()).map_err(PackError::Write)?;
        Ok(self.report)
    }

    fn mark(&mut self, folder: &Path, name: &[u8]) -> Result<(), PackError> {
        let path = folder.join(OsStr::from_bytes(name));
        self.head(&TarEntry::new(EntryType::Regular, path.as_os_str().as_bytes(), 0, 0))
    }

    fn head(&mut self, entry: &TarEntry) -> Result<(), PackError> {
        self.report.entries += 1;
        self.output.write_all(&entry.blocks()).map_err(PackError::Write)
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<(), PackError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(failed("open", path))?,
        };
        let stat = fstat(&file).map_err(failed("look at", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let mut entry = self.described(&stat, EntryType::Regular, path);
        // A regular file's size is not negative.
        entry.size_bytes = stat.st_size.cast_unsigned();
        entry.xattrs = self.attributes(parent, name, path)?;
        self.head(&entry)?;
        let mut content = File::from(file).chain(io::repeat(0)).take(entry.size_bytes);
        loop {
            match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => self.output.write_all(&self.buffer[..count]).map_err(PackError::Write)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", path)(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
            }
        }
        self.report.content_bytes += entry.size_bytes;
        self.output.write_all(&vec![0; padding(entry.size_bytes)]).map_err(PackError::Write)
    }

    fn described(&self, stat: &Stat, kind: EntryType, path: &[u8]) -> TarEntry {
        let device = match kind {
            EntryType::Char | EntryType::Block => (major(stat.st_rdev), minor(stat.st_rdev)),
            _ => (0, 0),
        };
        TarEntry {
            uid: self.ids.own(stat.st_uid),
            gid: self.ids.own(stat.st_gid),
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            device,
            ..TarEntry::new(kind, path, stat.st_mode & 0o7777, 0)
        }
    }

    fn attributes(&self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<Attributes, PackError> {
        attributes(parent, name, self.ids).map_err(failed("read the attributes of", path))
    }
}

fn entry_type(kind: FileType) -> Option<EntryType> {
    match kind {
        FileType::Directory => Some(EntryType::Directory),
        FileType::Symlink => Some(EntryType::Symlink),
        FileType::CharacterDevice => Some(EntryType::Char),
        FileType::BlockDevice => Some(EntryType::Block),
        FileType::Fifo => Some(EntryType::Fifo),
        _ => None,
    }
}

/// The extended attributes of `name` in `parent` that belong to an image, sorted, with ids given back. None where the
/// file system has none, or the file vanished.
///
/// # Errors
/// What llistxattr(2) or lgetxattr(2) says.
pub fn attributes(parent: BorrowedFd<'_>, name: &OsStr, ids: Ids) -> Result<Attributes, Errno> {
    let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
    let path = OsStr::from_bytes(&path);
    // Most files have none, so the length is asked for first.
    let length = match llistxattr_query(path) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOENT) => return Ok(Vec::new()),
        Ok(length) => length,
        Err(errno) => return Err(errno),
    };
    let mut list = vec![0; length.max(XATTR_BYTES)];
    let length = llistxattr(path, &mut list)?;
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if OWN_ATTRIBUTES.iter().any(|own| name.starts_with(own)) {
            continue;
        }
        let mut value = vec![0; XATTR_BYTES];
        match lgetxattr(path, OsStr::from_bytes(name), &mut value) {
            // Removed meanwhile, or listed without being readable, as some file systems do.
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            other => value.truncate(other?),
        }
        found.push((name.to_vec(), given_back(name, value, ids)));
    }
    found.sort();
    Ok(found)
}

/// An attribute's value with the image's ids in it.
fn given_back(name: &[u8], mut value: Vec<u8>, ids: Ids) -> Vec<u8> {
    if ids.first == 0 {
        return value;
    }
    if name == CAPABILITY {
        return plain_capability(value, ids);
    }
    if LISTS.contains(&name) {
        // struct posix_acl_xattr_header: a version; then entries of tag, permissions and id (linux/posix_acl_xattr.h).
        for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
            let tag = u16::from_le_bytes([entry[0], entry[1]]);
            // ACL_USER and ACL_GROUP; the others have no id.
            if matches!(tag, 0x02 | 0x08) {
                let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                entry[4..8].copy_from_slice(&ids.own(id).to_le_bytes());
            }
        }
    }
    value
}

/// File capabilities of revision 3 name the root of the user namespace that set them; in the image that root is 0, and
/// the capabilities are of revision 2 (struct vfs_ns_cap_data, linux/capability.h).
fn plain_capability(mut value: Vec<u8>, ids: Ids) -> Vec<u8> {
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    const REVISION_MASK: u32 = 0xff00_0000;
    let word = |at: usize| value.get(at..at + 4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    if let (Some(magic), Some(root), 24) = (word(0), word(20), value.len())
        && magic & REVISION_MASK == REVISION_3
        && root == ids.first
    {
        value.truncate(20);
        value[..4].copy_from_slice(&((magic & !REVISION_MASK) | REVISION_2).to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIFTED: Ids = Ids { first: 100_000, count: 65_536 };

    #[test]
    fn ids_are_given_back() {
        for (id, own) in
            [(100_000, 0), (101_000, 1000), (165_535, 65_535), (165_536, 165_536), (0, 0), (99_999, 99_999)]
        {
            assert_eq!(SHIFTED.own(id), own);
        }
        assert_eq!(Ids::PLAIN.own(3_000_000), 3_000_000);
    }

    #[test]
    fn capabilities_lose_their_namespace() {
        let revision_3 = [&0x0300_0001_u32.to_le_bytes()[..], &[7; 16], &100_000_u32.to_le_bytes()].concat();
        let revision_2 = [&0x0200_0001_u32.to_le_bytes()[..], &[7; 16]].concat();
        assert_eq!(given_back(CAPABILITY, revision_3.clone(), SHIFTED), revision_2);
        assert_eq!(given_back(CAPABILITY, revision_2.clone(), SHIFTED), revision_2);
        assert_eq!(given_back(CAPABILITY, revision_3.clone(), Ids::PLAIN), revision_3);
        assert_eq!(given_back(CAPABILITY, vec![1, 2], SHIFTED), [1, 2], "nonsense stays what it is");
    }

    #[test]
    fn lists_name_the_image_s_users() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &6_u16.to_le_bytes(), &id.to_le_bytes()].concat();
        let list = |user: u32| [&2_u32.to_le_bytes()[..], &entry(1, u32::MAX), &entry(2, user)].concat();
        assert_eq!(given_back(LISTS[0], list(101_000), SHIFTED), list(1000));
        assert_eq!(given_back(b"user.x", list(101_000), SHIFTED), list(101_000));
    }
}
