//! A folder that a layer is put into, as overlay wants its layers or with files for marks.
//!
//! Paths are opened with openat2(2) `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`, so that nothing leads outside even if
//! somebody else changes the folder meanwhile. A deletion is a character device 0:0, a folder that hides what is below
//! has the attribute `trusted.overlay.opaque`. Folders get their times last. As few calls as possible: what a file gets
//! right by being made is not set again.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use hull_kernel::mounts::overlay::opaque_attribute;
use hull_kernel::tree::{DELETION, OPAQUE, remove_tree};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat,
    chownat, fchmod, fchown, fsetxattr, fstat, ftruncate, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat,
    openat, openat2, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::error::{UnpackError, shown};
use super::header::{Entry, Time};
use super::target::{Content, Fault, Found, Refusal, Target};

/// Content is copied in pieces of this size.
const BUFFER_BYTES: usize = 256 * 1024;
/// Mode bits that making a file or folder does not set, or that a change of owner or a write takes away.
const SPECIAL_BITS: u32 = 0o7000;
/// A folder with this bit hands its group down, so it is set when everything is in it.
const SET_GROUP_ID: u32 = 0o2000;

/// What deletions become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    /// Overlay's own form.
    Overlays,
    /// Files named as in the archive, beside what the layer itself has of that name.
    Files,
}

/// The folder, and what has to wait until everything is in it.
pub(super) struct Folder<'a> {
    root: BorrowedFd<'a>,
    marks: Marks,
    /// Folders that get their times last, and their modes where these hand a group down.
    folders: Vec<(Vec<u8>, Time, Option<u32>)>,
    /// Mode bits that the kernel takes away from what is made, and the owner that it gets.
    umask: u32,
    owner: (u32, u32),
    buffer: Vec<u8>,
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

impl<'a> Folder<'a> {
    /// A folder to be filled. It must not hand its group down.
    pub(super) fn new(root: BorrowedFd<'a>, marks: Marks) -> Result<Self, UnpackError> {
        let failed = |source: io::Error| UnpackError::Folder { source };
        let mode = fstat(root).map_err(|errno| failed(errno.into()))?.st_mode & 0o7777;
        if mode & SET_GROUP_ID != 0 {
            fchmod(root, Mode::from_raw_mode(mode & !SET_GROUP_ID)).map_err(|errno| failed(errno.into()))?;
        }
        Ok(Self {
            root,
            marks,
            folders: Vec::new(),
            umask: umask().map_err(failed)?,
            owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Copies at most `length` bytes of the entry's content to `offset`.
    fn copy<R: Read>(
        &mut self,
        file: &OwnedFd,
        content: &mut Content<'_, '_, R>,
        mut offset: u64,
        mut length: u64,
    ) -> Result<(), Fault> {
        while length > 0 {
            let piece = self.buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let filled = content.read(&mut self.buffer[..piece])?;
            if filled == 0 {
                return Ok(());
            }
            let mut written = 0;
            while written < filled {
                let at = offset + written as u64;
                written += rustix::io::pwrite(file, &self.buffer[written..filled], at).map_err(Refusal::of("write"))?;
            }
            offset += filled as u64;
            length -= filled as u64;
        }
        Ok(())
    }

    /// Owner, mode and extended attributes of an open file, as far as making it has not set them. The mode comes after
    /// the owner, whose change drops set-user-ID bits, and capabilities come last.
    fn set_attributes(&self, file: &OwnedFd, entry: &Entry) -> Result<(), Refusal> {
        if (entry.uid, entry.gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchown(file, Some(uid), Some(gid)).map_err(Refusal::of("change the owner of"))?;
        }
        if entry.mode & (self.umask | SPECIAL_BITS) != 0 {
            fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(Refusal::of("change the mode of"))?;
        }
        set_attributes_of_open(file, entry)
    }

    /// The same by name, for what cannot be opened without side effects; times as well.
    fn set_named_attributes(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        has_mode: bool,
    ) -> Result<(), Refusal> {
        if (entry.uid, entry.gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(parent, os(name), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(Refusal::of("change the owner of"))?;
        }
        if has_mode && entry.mode & (self.umask | SPECIAL_BITS) != 0 {
            chmodat(parent, os(name), Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(Refusal::of("change the mode of"))?;
        }
        if !entry.xattrs.is_empty() {
            let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat();
            for (attribute, value) in &entry.xattrs {
                lsetxattr(os(&path), attribute.as_str(), value, XattrFlags::empty())
                    .map_err(Refusal::of("set an extended attribute of"))?;
            }
        }
        utimensat(parent, os(name), &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Refusal::of("set the time of"))
    }

    /// Attributes of a folder, as far as making it has not set them; the rest waits.
    fn describe_folder(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        entry: &Entry,
        is_new: bool,
    ) -> Result<(), Refusal> {
        let mode = entry.mode & !SET_GROUP_ID;
        if !is_new || (entry.uid, entry.gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(parent, os(name), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(Refusal::of("change the owner of"))?;
        }
        if !is_new || mode & (self.umask | 0o4000) != 0 {
            chmodat(parent, os(name), Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(Refusal::of("change the mode of"))?;
        }
        if !entry.xattrs.is_empty() {
            set_attributes_of_open(&self.enter(parent, name)?, entry)?;
        }
        let late = (entry.mode & SET_GROUP_ID != 0).then_some(entry.mode);
        self.folders.push((path.to_vec(), entry.mtime, late));
        Ok(())
    }
}

impl Target for Folder<'_> {
    type Folder = OwnedFd;
    type File = OwnedFd;

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        openat2(self.root, os(path), flags, Mode::empty(), resolve)
    }

    fn enter(&self, folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(folder, os(name), flags, Mode::empty()).map_err(Refusal::of("open"))
    }

    fn look(&self, folder: &OwnedFd, name: &[u8]) -> Result<Found, Refusal> {
        let stat = match statat(folder, os(name), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            other => other.map_err(Refusal::of("look at"))?,
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Folder,
            FileType::Symlink => Found::Link,
            FileType::CharacterDevice if stat.st_rdev == 0 => Found::Deletion,
            _ => Found::Other,
        })
    }

    fn link_target(&self, folder: &OwnedFd, name: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        match readlinkat(folder, os(name), Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(errno) => Err(Refusal::of("follow a parent of")(errno)),
        }
    }

    fn remove(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<(), Refusal> {
        use std::os::fd::AsFd;
        match unlinkat(folder, os(name), AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(_) => remove_tree(folder.as_fd(), os(name))
                .map_err(|error| Refusal { action: "replace", source: io::Error::other(error) }),
        }
    }

    fn change_top(&mut self, entry: &Entry) -> Result<(), Refusal> {
        let root = self.open(b"").map_err(Refusal::of("open"))?;
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fchown(&root, Some(uid), Some(gid)).map_err(Refusal::of("change the owner of"))?;
        set_attributes_of_open(&root, entry)?;
        self.folders.push((Vec::new(), entry.mtime, Some(entry.mode)));
        Ok(())
    }

    fn make_parent(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<(), Refusal> {
        let mode = Mode::from_raw_mode(0o755);
        mkdirat(folder, os(name), mode).map_err(Refusal::of("make a parent of"))?;
        match self.umask & 0o755 {
            0 => Ok(()),
            _ => chmodat(folder, os(name), mode, AtFlags::empty()).map_err(Refusal::of("make a parent of")),
        }
    }

    fn make_folder(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), Refusal> {
        let mode = Mode::from_raw_mode(entry.mode & !SET_GROUP_ID);
        mkdirat(folder, os(name), mode).map_err(Refusal::of("make"))?;
        self.describe_folder(folder, name, path, entry, true)
    }

    fn change_folder(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), Refusal> {
        self.describe_folder(folder, name, path, entry, false)
    }

    fn make_opaque(&mut self, folder: &OwnedFd) -> Result<(), Refusal> {
        match self.marks {
            Marks::Overlays => fsetxattr(folder, opaque_attribute(), b"y", XattrFlags::empty()),
            Marks::Files => make_mark(folder, OPAQUE),
        }
        .map_err(Refusal::of("make opaque"))
    }

    fn mark_deleted(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<(), Refusal> {
        match self.marks {
            Marks::Overlays => mknodat(folder, os(name), FileType::CharacterDevice, Mode::empty(), 0),
            Marks::Files => make_mark(folder, &[DELETION, name].concat()),
        }
        .map_err(Refusal::of("mark as deleted"))
    }

    fn begin_file(&mut self, folder: &OwnedFd, name: &[u8], entry: &Entry) -> Result<OwnedFd, Refusal> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & !SPECIAL_BITS);
        openat(folder, os(name), flags, mode).map_err(Refusal::of("make"))
    }

    fn fill_file<R: Read>(
        &mut self,
        file: OwnedFd,
        _folder: &OwnedFd,
        _name: &[u8],
        content: &mut Content<'_, '_, R>,
    ) -> Result<(), Fault> {
        let entry = content.entry;
        match &entry.extents {
            None => self.copy(&file, content, 0, u64::MAX)?,
            Some(extents) => {
                for extent in extents {
                    self.copy(&file, content, extent.offset, extent.length)?;
                }
                ftruncate(&file, entry.size).map_err(Refusal::of("set the size of"))?;
            }
        }
        self.set_attributes(&file, entry)?;
        Ok(futimens(&file, &times(entry.mtime)).map_err(Refusal::of("set the time of"))?)
    }

    fn link(&mut self, from: &OwnedFd, from_name: &[u8], folder: &OwnedFd, name: &[u8]) -> Result<(), Refusal> {
        linkat(from, os(from_name), folder, os(name), AtFlags::empty()).map_err(Refusal::of("link"))
    }

    fn symbolic_link(&mut self, folder: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), Refusal> {
        symlinkat(os(&entry.link), folder, os(name)).map_err(Refusal::of("make"))?;
        self.set_named_attributes(folder, name, entry, false)
    }

    fn node(&mut self, folder: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), Refusal> {
        let (kind, number) = match entry.kind {
            b'3' => (FileType::CharacterDevice, makedev(entry.major, entry.minor)),
            b'4' => (FileType::BlockDevice, makedev(entry.major, entry.minor)),
            _ => (FileType::Fifo, 0),
        };
        let mode = Mode::from_raw_mode(entry.mode);
        mknodat(folder, os(name), kind, mode, number).map_err(Refusal::of("make"))?;
        self.set_named_attributes(folder, name, entry, true)
    }

    /// Sets the times of folders, now that nothing changes them any more, and the modes that had to wait.
    fn finish(self) -> Result<(), UnpackError> {
        // In the archive's order, so that of several entries for one folder the last one counts.
        for (path, mtime, mode) in &self.folders {
            let failed =
                |errno: Errno| UnpackError::Write { path: shown(path), action: "finish", source: errno.into() };
            let folder = match self.open(path) {
                Ok(folder) => folder,
                // A later entry has replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            if let Some(mode) = mode {
                fchmod(&folder, Mode::from_raw_mode(*mode)).map_err(failed)?;
            }
            futimens(&folder, &times(*mtime)).map_err(failed)?;
        }
        Ok(())
    }
}

/// Makes a mark that is a file; one that is there already is as good.
fn make_mark(folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, os(name), flags, Mode::from_raw_mode(0o600)).map(drop)
}

fn set_attributes_of_open(file: &OwnedFd, entry: &Entry) -> Result<(), Refusal> {
    for (name, value) in &entry.xattrs {
        fsetxattr(file, name.as_str(), value, XattrFlags::empty())
            .map_err(Refusal::of("set an extended attribute of"))?;
    }
    Ok(())
}

/// The mode bits that are taken away from what this process makes. umask(2) tells them only by changing them, for all
/// threads at once.
fn umask() -> io::Result<u32> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Modification time alone; the access time stays what it is.
fn times((seconds, nanoseconds): Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    }
}
