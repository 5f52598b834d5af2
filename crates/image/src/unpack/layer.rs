//! The folder that a layer becomes: every entry put in its place beneath it.
//!
//! Symbolic links on the way to an entry are those that the layer itself has brought, and they are followed as if the
//! layer were the root of everything, as docker does (it unpacks in a chroot(2)). They are followed here, by name, until
//! the path has none; the kernel then opens it with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS` (openat2(2)), so that no
//! archive can lead outside whatever its links say.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use hull_kernel::tree::remove_tree;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fchmod, fchown, fsetxattr, fstat, ftruncate, futimens, linkat, lsetxattr, makedev, mkdirat,
    mknodat, openat, openat2, readlinkat, statat, symlinkat, unlinkat, utimensat,
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
/// How many parents stay open: an archive goes down into a folder and comes back.
const OPEN_PARENTS: usize = 8;
/// Symbolic links that are followed on the way to one entry; as many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Mode bits that making a file or folder does not set, or that a change of owner or a write takes away.
const SPECIAL_BITS: u32 = 0o7000;
/// A folder with this bit hands its group down, so it is set when everything is in it.
const SET_GROUP_ID: u32 = 0o2000;

/// The folder, and what has to wait until everything is in it.
pub(super) struct Layer<'a> {
    root: BorrowedFd<'a>,
    options: &'a UnpackOptions,
    /// The parents of the last entries: most entries of an archive follow their siblings.
    parents: Vec<(Vec<u8>, OwnedFd)>,
    /// Folders that get their times last, and their modes where these hand a group down.
    folders: Vec<(Vec<u8>, Time, Option<u32>)>,
    /// Mode bits that the kernel takes away from what is made, and the owner that it gets.
    umask: u32,
    owner: (u32, u32),
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

    fn refused(&self, reason: &'static str) -> UnpackError {
        UnpackError::Path { path: shown(&self.entry.path), reason }
    }

    fn failed<E: Into<io::Error>>(&self, action: &'static str) -> impl FnOnce(E) -> UnpackError {
        let path = shown(&self.entry.path);
        move |error| UnpackError::Write { path, action, source: error.into() }
    }
}

impl<'a> Layer<'a> {
    /// A folder to be filled. It must not hand its group down.
    pub(super) fn new(root: BorrowedFd<'a>, options: &'a UnpackOptions) -> Result<Self, UnpackError> {
        let failed = |source: io::Error| UnpackError::Folder { source };
        let mode = fstat(root).map_err(|errno| failed(errno.into()))?.st_mode & 0o7777;
        if mode & SET_GROUP_ID != 0 {
            fchmod(root, Mode::from_raw_mode(mode & !SET_GROUP_ID)).map_err(|errno| failed(errno.into()))?;
        }
        Ok(Self {
            root,
            options,
            parents: Vec::with_capacity(OPEN_PARENTS),
            folders: Vec::new(),
            umask: umask().map_err(failed)?,
            owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            buffer: vec![0; BUFFER_BYTES],
            bytes: 0,
        })
    }

    /// Puts one entry where it belongs, reading its content from the archive.
    pub(super) fn place<R: Read>(&mut self, entry: &Entry, content: &mut Headers<'_, R>) -> Result<(), UnpackError> {
        let mut place = Place { entry, path: self.normal(&entry.path, entry)? };
        check_attributes(entry)?;
        if place.path.is_empty() {
            return self.place_root(&place);
        }
        if is_bookkeeping_of_aufs(&place.path) {
            return Ok(());
        }
        let parent = self.open_parent(&mut place)?;
        self.place_in(parent.as_fd(), &place, content)?;
        if self.parents.len() == OPEN_PARENTS {
            self.parents.remove(0);
        }
        self.parents.push((place.parent().to_vec(), parent));
        Ok(())
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
        match place.entry.kind {
            0 | b'0' | b'7' | b'S' => self.file(parent, place, content),
            b'1' => self.hard_link(parent, place),
            b'2' => self.symbolic_link(parent, place),
            b'3' | b'4' | b'6' => self.node(parent, place),
            b'5' => self.folder(parent, place),
            kind => Err(UnpackError::Kind { path: shown(&place.entry.path), kind: char::from(kind) }),
        }
    }

    /// Makes something new at the entry's place. What an earlier entry of the archive left there is removed first.
    fn make<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        place: &Place<'_>,
        action: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EXIST) => {
                self.make_room(parent, place)?;
                make()
            }
            result => result,
        }
        .map_err(place.failed(action))
    }

    fn make_room(&mut self, parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
        // One of the open parents may be in what is removed.
        self.parents.clear();
        remove_tree(parent, place.name()).map_err(|error| place.failed("replace")(io::Error::other(error)))
    }

    /// Sets the times of folders, now that nothing changes them any more, and the modes that had to wait; returns the
    /// bytes of content.
    pub(super) fn finish(self) -> Result<u64, UnpackError> {
        // In the archive's order, so that of several entries for one folder the last one counts.
        for (path, mtime, mode) in &self.folders {
            let failed =
                |errno: Errno| UnpackError::Write { path: shown(path), action: "finish", source: errno.into() };
            let folder = match open_beneath(self.root, path) {
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
        Ok(self.bytes)
    }

    /// A path without leading slashes and dots; one whose `..` leads out of the layer is refused.
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
                b".." if normal.is_empty() => return refused("it leads out of the layer"),
                b".." => normal.truncate(normal.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
                component => append(&mut normal, component),
            }
        }
        Ok(normal)
    }

    fn place_root(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        if place.entry.kind != b'5' {
            return Err(place.refused("it names the layer itself"));
        }
        let root = openat(self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(place.failed("open"))?;
        let entry = place.entry;
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fchown(&root, Some(uid), Some(gid)).map_err(place.failed("change the owner of"))?;
        set_attributes_of_open(&root, place)?;
        self.folders.push((Vec::new(), entry.mtime, Some(entry.mode)));
        Ok(())
    }

    /// Opens the parent, making folders that the archive did not mention. Links on the way are followed, and the place
    /// is then the one that they lead to.
    fn open_parent(&mut self, place: &mut Place<'_>) -> Result<OwnedFd, UnpackError> {
        for _ in 0..2 {
            let wanted = place.parent();
            if let Some(index) = self.parents.iter().position(|(path, _)| path == wanted) {
                return Ok(self.parents.remove(index).1);
            }
            match open_beneath(self.root, wanted) {
                Ok(parent) => return Ok(parent),
                Err(Errno::NOENT | Errno::NOTDIR) => return self.make_parents(place),
                Err(Errno::LOOP) => place.path = self.followed(place)?,
                Err(errno) => return Err(place.failed("open the parent of")(errno)),
            }
        }
        Err(place.refused("one of its parents is a symbolic link"))
    }

    /// The path of a place without symbolic links on the way to it. What is not there yet is no link.
    fn followed(&self, place: &Place<'_>) -> Result<Vec<u8>, UnpackError> {
        let components =
            |path: &[u8]| -> Vec<Vec<u8>> { path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect() };
        let mut rest = VecDeque::from(components(place.parent()));
        let (mut done, mut links) = (Vec::new(), 0);
        while let Some(component) = rest.pop_front() {
            match component.as_slice() {
                b"" | b"." => {}
                b".." => done.truncate(done.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
                name => match link_beneath(self.root, &done, name).map_err(place.failed("follow a parent of"))? {
                    None => append(&mut done, name),
                    Some(_) if links == LINKS_MAX => return Err(place.refused("too many symbolic links lead to it")),
                    Some(target) => {
                        links += 1;
                        if target.starts_with(b"/") {
                            done.clear();
                        }
                        components(&target).into_iter().rev().for_each(|component| rest.push_front(component));
                    }
                },
            }
            if done.len() > self.options.path_bytes_max {
                return Err(place.refused("the path is too long"));
            }
        }
        append(&mut done, place.name().as_bytes());
        Ok(done)
    }

    fn make_parents(&self, place: &Place<'_>) -> Result<OwnedFd, UnpackError> {
        let wanted = place.parent();
        let ends = wanted.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([wanted.len()]) {
            let path = &wanted[..end];
            let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let above = open_beneath(self.root, &path[..start.saturating_sub(1)])
                .map_err(place.failed("open the parent of"))?;
            self.make_parent(above.as_fd(), OsStr::from_bytes(&path[start..]), place)?;
        }
        open_beneath(self.root, wanted).map_err(place.failed("open the parent of"))
    }

    /// Makes one folder unless it is there; the mark of a deletion gives way to a folder that hides what is below.
    fn make_parent(&self, above: BorrowedFd<'_>, name: &OsStr, place: &Place<'_>) -> Result<(), UnpackError> {
        let failed = || place.failed("make a parent of");
        let mode = Mode::from_raw_mode(0o755);
        match mkdirat(above, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = statat(above, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed())?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => return Ok(()),
                    FileType::Symlink => return Err(place.refused("one of its parents is a symbolic link")),
                    _ if is_deletion(&stat) => {
                        unlinkat(above, name, AtFlags::empty()).map_err(failed())?;
                        mkdirat(above, name, mode).map_err(failed())?;
                        make_opaque(above, name, place)?;
                    }
                    _ => return Err(place.refused("one of its parents is no folder")),
                }
            }
            Err(errno) => return Err(failed()(errno)),
        }
        match self.umask & 0o755 {
            0 => Ok(()),
            _ => chmodat(above, name, mode, AtFlags::empty()).map_err(failed()),
        }
    }

    fn file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        place: &Place<'_>,
        content: &mut Headers<'_, R>,
    ) -> Result<(), UnpackError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(place.entry.mode & !SPECIAL_BITS);
        let file = self.make(parent, place, "make", || openat(parent, place.name(), flags, mode))?;
        match &place.entry.extents {
            None => self.copy(&file, place, content, 0, u64::MAX)?,
            Some(extents) => {
                for extent in extents {
                    self.copy(&file, place, content, extent.offset, extent.length)?;
                }
                ftruncate(&file, place.entry.size).map_err(place.failed("set the size of"))?;
            }
        }
        self.set_attributes(&file, place)?;
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

    fn hard_link(&mut self, parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
        let entry = place.entry;
        let failed = |errno: Errno| UnpackError::HardLink {
            path: shown(&entry.path),
            target: shown(&entry.link),
            source: errno.into(),
        };
        let mut target = Place { entry, path: self.normal(&entry.link, entry)? };
        let above = match open_beneath(self.root, target.parent()) {
            Err(Errno::LOOP) => {
                target.path = self.followed(&target)?;
                open_beneath(self.root, target.parent())
            }
            other => other,
        }
        .map_err(failed)?;
        let stat = statat(&above, target.name(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Err(failed(Errno::ISDIR)),
            _ if is_deletion(&stat) => return Err(failed(Errno::NOENT)),
            _ if target.path == place.path => return Err(place.refused("it is a hard link to itself")),
            _ => {}
        }
        self.make(parent, place, "link", || linkat(&above, target.name(), parent, place.name(), AtFlags::empty()))
    }

    fn symbolic_link(&mut self, parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
        let target = OsStr::from_bytes(&place.entry.link);
        self.make(parent, place, "make", || symlinkat(target, parent, place.name()))?;
        self.set_named_attributes(parent, place, false)
    }

    fn node(&mut self, parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
        let entry = place.entry;
        let (kind, number) = match entry.kind {
            b'3' => (FileType::CharacterDevice, makedev(entry.major, entry.minor)),
            b'4' => (FileType::BlockDevice, makedev(entry.major, entry.minor)),
            _ => (FileType::Fifo, 0),
        };
        if kind == FileType::CharacterDevice && number == 0 {
            return Err(place.refused("device 0:0 is overlay's own mark"));
        }
        let mode = Mode::from_raw_mode(entry.mode);
        self.make(parent, place, "make", || mknodat(parent, place.name(), kind, mode, number))?;
        self.set_named_attributes(parent, place, true)
    }

    fn folder(&mut self, parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
        let (entry, name) = (place.entry, place.name());
        let mode = entry.mode & !SET_GROUP_ID;
        let is_new = match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) => true,
            Err(Errno::EXIST) => self.make_room_for_folder(parent, place)?,
            Err(errno) => return Err(place.failed("make")(errno)),
        };
        if !is_new || (entry.uid, entry.gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(place.failed("change the owner of"))?;
        }
        if !is_new || mode & (self.umask | 0o4000) != 0 {
            chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(place.failed("change the mode of"))?;
        }
        if !entry.xattrs.is_empty() {
            set_attributes_of_open(&open_folder(parent, name).map_err(place.failed("open"))?, place)?;
        }
        let late = (entry.mode & SET_GROUP_ID != 0).then_some(entry.mode);
        self.folders.push((place.path.clone(), entry.mtime, late));
        Ok(())
    }

    /// A folder stays, anything else gives way to one; a deletion to one that hides what is below it. Says whether the
    /// folder is new.
    fn make_room_for_folder(&mut self, parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<bool, UnpackError> {
        let name = place.name();
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(place.failed("look at"))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(false);
        }
        self.make_room(parent, place)?;
        mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(place.failed("make"))?;
        if is_deletion(&stat) {
            make_opaque(parent, name, place)?;
        }
        // Its mode is still to be set.
        Ok(false)
    }

    /// Owner, mode and extended attributes of an open file, as far as making it has not set them. The mode comes after
    /// the owner, whose change drops set-user-ID bits, and capabilities come last.
    fn set_attributes(&self, file: &OwnedFd, place: &Place<'_>) -> Result<(), UnpackError> {
        let entry = place.entry;
        if (entry.uid, entry.gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchown(file, Some(uid), Some(gid)).map_err(place.failed("change the owner of"))?;
        }
        if entry.mode & (self.umask | SPECIAL_BITS) != 0 {
            fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(place.failed("change the mode of"))?;
        }
        set_attributes_of_open(file, place)
    }

    /// The same by name, for what cannot be opened without side effects; times as well.
    fn set_named_attributes(
        &self,
        parent: BorrowedFd<'_>,
        place: &Place<'_>,
        has_mode: bool,
    ) -> Result<(), UnpackError> {
        let (entry, name) = (place.entry, place.name());
        if (entry.uid, entry.gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(place.failed("change the owner of"))?;
        }
        if has_mode && entry.mode & (self.umask | SPECIAL_BITS) != 0 {
            chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(place.failed("change the mode of"))?;
        }
        if !entry.xattrs.is_empty() {
            let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
            for (attribute, value) in &entry.xattrs {
                lsetxattr(OsStr::from_bytes(&path), attribute.as_str(), value, XattrFlags::empty())
                    .map_err(place.failed("set an extended attribute of"))?;
            }
        }
        utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(place.failed("set the time of"))
    }
}

/// Opens a folder beneath the root; an empty path is the root.
fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve)
}

/// Where the symbolic link `name` in the folder `above` beneath the root points to; none when it is something else, or
/// not there.
fn link_beneath(root: BorrowedFd<'_>, above: &[u8], name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let above = match open_beneath(root, above) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other?,
    };
    match readlinkat(&above, OsStr::from_bytes(name), Vec::new()) {
        Ok(target) => Ok(Some(target.into_bytes())),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn append(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

fn check_attributes(entry: &Entry) -> Result<(), UnpackError> {
    let own = |name: &str| name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.");
    match entry.xattrs.iter().find(|(name, _)| own(name)) {
        Some((name, _)) => Err(UnpackError::ForbiddenAttribute { path: shown(&entry.path), name: name.clone() }),
        None => Ok(()),
    }
}

/// Whether it is overlay's mark for what lower layers have and this one has not.
fn is_deletion(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// aufs, which wrote the first docker layers, kept files of its own in the top folder.
fn is_bookkeeping_of_aufs(path: &[u8]) -> bool {
    path.starts_with(b".wh..wh.") && path != OPAQUE
}

fn open_folder(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn make_opaque(parent: BorrowedFd<'_>, name: &OsStr, place: &Place<'_>) -> Result<(), UnpackError> {
    let folder = open_folder(parent, name).map_err(place.failed("open"))?;
    fsetxattr(&folder, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty()).map_err(place.failed("make opaque"))
}

fn set_attributes_of_open(file: &OwnedFd, place: &Place<'_>) -> Result<(), UnpackError> {
    for (name, value) in &place.entry.xattrs {
        fsetxattr(file, name.as_str(), value, XattrFlags::empty())
            .map_err(place.failed("set an extended attribute of"))?;
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

/// A deletion: of one name, or of everything below the parent.
fn whiteout(parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
    let name = place.name().as_bytes();
    if name == OPAQUE {
        return fsetxattr(parent, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
            .map_err(place.failed("make opaque the parent of"));
    }
    let deleted = OsStr::from_bytes(&name[WHITEOUT.len()..]);
    if matches!(deleted.as_bytes(), b"" | b"." | b"..") || deleted.as_bytes().starts_with(WHITEOUT) {
        return Err(place.refused("it deletes no name"));
    }
    match mknodat(parent, deleted, FileType::CharacterDevice, Mode::empty(), 0) {
        Ok(()) => Ok(()),
        // This layer has that name too: what it brings stays, and a folder hides what was below it.
        Err(Errno::EXIST) => {
            let stat = statat(parent, deleted, AtFlags::SYMLINK_NOFOLLOW).map_err(place.failed("look at"))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => make_opaque(parent, deleted, place),
                _ => Ok(()),
            }
        }
        Err(errno) => Err(place.failed("mark as deleted")(errno)),
    }
}

/// Modification time alone; the access time stays what it is.
fn times((seconds, nanoseconds): Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    }
}
