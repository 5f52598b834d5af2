//! The folder that a layer becomes: every entry put in its place beneath it.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use hull_kernel::tree::remove_tree;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat,
    chownat, fchmod, fchown, fsetxattr, ftruncate, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat,
    openat2, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::UnpackOptions;
use super::error::{UnpackError, shown};
use super::header::{Entry, Headers, Time};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Content is copied in pieces of this size.
const BUFFER_BYTES: usize = 256 * 1024;

/// The folder, and what has to wait until everything is in it.
pub(super) struct Layer<'a> {
    root: BorrowedFd<'a>,
    options: &'a UnpackOptions,
    /// The parent of the last entry: most entries of an archive follow their siblings.
    parent: Option<(Vec<u8>, OwnedFd)>,
    folder_times: Vec<(Vec<u8>, Time)>,
    buffer: Vec<u8>,
    bytes: u64,
}

/// An entry's name in its parent; empty for the root itself.
struct Place<'e> {
    entry: &'e Entry,
    /// Plain components, joined by single slashes.
    path: Vec<u8>,
}

impl Place<'_> {
    fn name(&self) -> &OsStr {
        let start = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&self.path[start..])
    }

    fn parent(&self) -> &[u8] {
        &self.path[..self.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
    }

    fn failed<E: Into<io::Error>>(&self, action: &'static str) -> impl FnOnce(E) -> UnpackError {
        let path = shown(&self.entry.path);
        move |error| UnpackError::Write { path, action, source: error.into() }
    }
}

impl<'a> Layer<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, options: &'a UnpackOptions) -> Self {
        Self { root, options, parent: None, folder_times: Vec::new(), buffer: vec![0; BUFFER_BYTES], bytes: 0 }
    }

    /// Puts one entry where it belongs, reading its content from the archive.
    pub(super) fn place<R: Read>(&mut self, entry: &Entry, content: &mut Headers<'_, R>) -> Result<(), UnpackError> {
        let place = Place { entry, path: self.normal(&entry.path, entry)? };
        check_attributes(entry)?;
        if place.path.is_empty() {
            return self.place_root(&place);
        }
        let parent = self.open_parent(&place)?;
        let result = self.place_in(parent.as_fd(), &place, content);
        self.parent = Some((place.parent().to_vec(), parent));
        result
    }

    fn place_in<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        place: &Place<'_>,
        content: &mut Headers<'_, R>,
    ) -> Result<(), UnpackError> {
        let name = place.name().as_bytes();
        if name.starts_with(WHITEOUT) {
            return whiteout(parent, place);
        }
        let was_whiteout = make_room(parent, place)?;
        match place.entry.kind {
            0 | b'0' | b'7' | b'S' => self.file(parent, place, content),
            b'1' => self.hard_link(parent, place),
            b'2' => symbolic_link(parent, place),
            b'3' | b'4' | b'6' => node(parent, place),
            b'5' => self.folder(parent, place, was_whiteout),
            kind => Err(UnpackError::Kind { path: shown(&place.entry.path), kind: char::from(kind) }),
        }
    }

    /// Sets the times of folders, now that nothing changes them any more; returns the bytes of content.
    pub(super) fn finish(self) -> Result<u64, UnpackError> {
        for (path, mtime) in self.folder_times.iter().rev() {
            let failed =
                |errno: Errno| UnpackError::Write { path: shown(path), action: "set the time", source: errno.into() };
            match open_beneath(self.root, path) {
                Ok(folder) => futimens(&folder, &times(*mtime)).map_err(failed)?,
                // A later entry has replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(self.bytes)
    }

    /// A path without leading slashes and single dots; `..` is refused.
    fn normal(&self, path: &[u8], entry: &Entry) -> Result<Vec<u8>, UnpackError> {
        let refused = |reason| Err(UnpackError::Path { path: shown(&entry.path), reason });
        if path.len() > self.options.path_bytes_max {
            return refused("the path is too long");
        }
        if path.contains(&0) {
            return refused("the path holds a NUL byte");
        }
        let mut normal = Vec::with_capacity(path.len());
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return refused("it leads out of the layer"),
                component => {
                    if !normal.is_empty() {
                        normal.push(b'/');
                    }
                    normal.extend_from_slice(component);
                }
            }
        }
        Ok(normal)
    }

    fn place_root(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        if place.entry.kind != b'5' {
            return Err(UnpackError::Path { path: shown(&place.entry.path), reason: "it names the layer itself" });
        }
        let root = openat(self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(place.failed("open"))?;
        set_attributes(&root, place)?;
        self.folder_times.push((Vec::new(), place.entry.mtime));
        Ok(())
    }

    /// Opens the parent, making folders that the archive did not mention.
    fn open_parent(&mut self, place: &Place<'_>) -> Result<OwnedFd, UnpackError> {
        let wanted = place.parent();
        if let Some((path, parent)) = self.parent.take()
            && path == wanted
        {
            return Ok(parent);
        }
        match open_beneath(self.root, wanted) {
            Ok(parent) => Ok(parent),
            Err(Errno::NOENT) => self.make_parents(place),
            Err(Errno::LOOP) => Err(UnpackError::Path {
                path: shown(&place.entry.path),
                reason: "one of its parents is a symbolic link",
            }),
            Err(Errno::NOTDIR) => {
                Err(UnpackError::Path { path: shown(&place.entry.path), reason: "one of its parents is no folder" })
            }
            Err(errno) => Err(place.failed("open the parent of")(errno)),
        }
    }

    fn make_parents(&self, place: &Place<'_>) -> Result<OwnedFd, UnpackError> {
        let wanted = place.parent();
        let ends = wanted.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([wanted.len()]) {
            let (path, mode) = (&wanted[..end], Mode::from_raw_mode(0o755));
            let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let above = open_beneath(self.root, &path[..start.saturating_sub(1)]).map_err(|errno| match errno {
                Errno::LOOP => UnpackError::Path {
                    path: shown(&place.entry.path),
                    reason: "one of its parents is a symbolic link",
                },
                errno => place.failed("open the parent of")(errno),
            })?;
            match mkdirat(&above, OsStr::from_bytes(&path[start..]), mode) {
                Ok(()) => chmodat(&above, OsStr::from_bytes(&path[start..]), mode, AtFlags::empty())
                    .map_err(place.failed("make a parent of"))?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(place.failed("make a parent of")(errno)),
            }
        }
        open_beneath(self.root, wanted).map_err(place.failed("open the parent of"))
    }

    fn file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        place: &Place<'_>,
        content: &mut Headers<'_, R>,
    ) -> Result<(), UnpackError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, place.name(), flags, Mode::from_raw_mode(0o600)).map_err(place.failed("make"))?;
        match &place.entry.extents {
            None => self.copy(&file, place, content, 0, u64::MAX)?,
            Some(extents) => {
                for extent in extents {
                    self.copy(&file, place, content, extent.offset, extent.length)?;
                }
                ftruncate(&file, place.entry.size).map_err(place.failed("set the size of"))?;
            }
        }
        set_attributes(&file, place)?;
        futimens(&file, &times(place.entry.mtime)).map_err(place.failed("set the time of"))
    }

    /// Copies at most `length` bytes of the entry's content to `offset`.
    fn copy<R: Read>(
        &mut self,
        file: &OwnedFd,
        place: &Place<'_>,
        content: &mut Headers<'_, R>,
        mut offset: u64,
        mut length: u64,
    ) -> Result<(), UnpackError> {
        while length > 0 {
            let piece = self.buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let filled = content.read_content(&mut self.buffer[..piece])?;
            if filled == 0 {
                return Ok(());
            }
            self.bytes += filled as u64;
            if let Some(limit) = self.options.content_bytes_max.filter(|limit| self.bytes > *limit) {
                return Err(UnpackError::Limit { path: shown(&place.entry.path), what: "content", limit });
            }
            let mut written = 0;
            while written < filled {
                let at = offset + written as u64;
                written +=
                    rustix::io::pwrite(file, &self.buffer[written..filled], at).map_err(place.failed("write"))?;
            }
            offset += filled as u64;
            length -= filled as u64;
        }
        Ok(())
    }

    fn hard_link(&self, parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
        let target = Place { entry: place.entry, path: self.normal(&place.entry.link, place.entry)? };
        let above = match open_beneath(self.root, target.parent()) {
            Err(Errno::LOOP) => {
                return Err(UnpackError::Path {
                    path: shown(&place.entry.path),
                    reason: "a parent of what it links to is a symbolic link",
                });
            }
            other => other.map_err(place.failed("find what is linked to by"))?,
        };
        linkat(&above, target.name(), parent, place.name(), AtFlags::empty()).map_err(place.failed("link"))
    }

    fn folder(&mut self, parent: BorrowedFd<'_>, place: &Place<'_>, opaque: bool) -> Result<(), UnpackError> {
        match mkdirat(parent, place.name(), Mode::from_raw_mode(0o700)) {
            // make_room leaves a folder where a folder belongs.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(place.failed("make")(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(parent, place.name(), flags, Mode::empty()).map_err(place.failed("open"))?;
        set_attributes(&folder, place)?;
        if opaque {
            fsetxattr(&folder, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty()).map_err(place.failed("make opaque"))?;
        }
        self.folder_times.push((place.path.clone(), place.entry.mtime));
        Ok(())
    }
}

/// Opens a folder beneath the root; an empty path is the root.
fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve)
}

fn check_attributes(entry: &Entry) -> Result<(), UnpackError> {
    let own = |name: &str| name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.");
    match entry.xattrs.iter().find(|(name, _)| own(name)) {
        Some((name, _)) => Err(UnpackError::ForbiddenAttribute { path: shown(&entry.path), name: name.clone() }),
        None => Ok(()),
    }
}

/// Removes what an earlier entry of the archive left at this place, unless a folder meets a folder. Says whether it was
/// the mark of a deletion: a folder there must then hide what is below it.
fn make_room(parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<bool, UnpackError> {
    let stat = match statat(parent, place.name(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        other => other.map_err(place.failed("look at"))?,
    };
    let present = FileType::from_raw_mode(stat.st_mode);
    if present == FileType::Directory && place.entry.kind == b'5' {
        return Ok(false);
    }
    remove_tree(parent, place.name()).map_err(|error| place.failed("replace")(io::Error::other(error)))?;
    Ok(present == FileType::CharacterDevice && stat.st_rdev == 0)
}

/// A deletion: of one name, or of everything below the parent.
fn whiteout(parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
    let name = place.name().as_bytes();
    if name == OPAQUE {
        return fsetxattr(parent, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
            .map_err(place.failed("make opaque the parent of"));
    }
    if name.starts_with(b".wh..wh.") {
        // Bookkeeping of aufs, which wrote the first docker layers.
        return Ok(());
    }
    let deleted = OsStr::from_bytes(&name[WHITEOUT.len()..]);
    if matches!(deleted.as_bytes(), b"" | b"." | b"..") {
        return Err(UnpackError::Path { path: shown(&place.entry.path), reason: "it deletes no name" });
    }
    match mknodat(parent, deleted, FileType::CharacterDevice, Mode::empty(), 0) {
        Ok(()) => Ok(()),
        // This layer has that name too: what it brings stays, and a folder hides what was below it.
        Err(Errno::EXIST) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(parent, deleted, flags, Mode::empty()) {
                Ok(folder) => {
                    fsetxattr(&folder, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty()).map_err(place.failed("make opaque"))
                }
                Err(_) => Ok(()),
            }
        }
        Err(errno) => Err(place.failed("mark as deleted")(errno)),
    }
}

fn symbolic_link(parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
    symlinkat(OsStr::from_bytes(&place.entry.link), parent, place.name()).map_err(place.failed("make"))?;
    set_named_attributes(parent, place, false)
}

fn node(parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
    let (kind, number) = match place.entry.kind {
        b'3' => (FileType::CharacterDevice, makedev(place.entry.major, place.entry.minor)),
        b'4' => (FileType::BlockDevice, makedev(place.entry.major, place.entry.minor)),
        _ => (FileType::Fifo, 0),
    };
    if kind == FileType::CharacterDevice && number == 0 {
        return Err(UnpackError::Path { path: shown(&place.entry.path), reason: "device 0:0 is overlay's own mark" });
    }
    mknodat(parent, place.name(), kind, Mode::from_raw_mode(0o600), number).map_err(place.failed("make"))?;
    set_named_attributes(parent, place, true)
}

/// Owner, mode and extended attributes of an open file or folder. The mode comes after the owner, whose change drops
/// set-user-ID bits.
fn set_attributes(file: &OwnedFd, place: &Place<'_>) -> Result<(), UnpackError> {
    let entry = place.entry;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    if (entry.uid, entry.gid) != (0, 0) || entry.kind == b'5' {
        fchown(file, Some(uid), Some(gid)).map_err(place.failed("change the owner of"))?;
    }
    fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(place.failed("change the mode of"))?;
    for (name, value) in &entry.xattrs {
        fsetxattr(file, name.as_str(), value, XattrFlags::empty())
            .map_err(place.failed("set an extended attribute of"))?;
    }
    Ok(())
}

/// The same by name, for what cannot be opened without side effects; times as well.
fn set_named_attributes(parent: BorrowedFd<'_>, place: &Place<'_>, has_mode: bool) -> Result<(), UnpackError> {
    let (entry, name) = (place.entry, place.name());
    if (entry.uid, entry.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(place.failed("change the owner of"))?;
    }
    if has_mode {
        chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(place.failed("change the mode of"))?;
    }
    let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
    for (attribute, value) in &entry.xattrs {
        lsetxattr(OsStr::from_bytes(&path), attribute.as_str(), value, XattrFlags::empty())
            .map_err(place.failed("set an extended attribute of"))?;
    }
    utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(place.failed("set the time of"))
}

/// Modification time alone; the access time stays what it is.
fn times((seconds, nanoseconds): Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    }
}
