//! A tar stream to files below one folder.
//!
//! The stream may be anybody's. Names are taken apart here: an absolute one is relative to the folder, one with `..` is
//! refused. Folders on the way are opened one by one below the folder's descriptor and never through a link, so no entry
//! leads another one out. An existing file is replaced, or written over where it is a mount point; a folder is never
//! replaced by something else nor the other way round. Times of folders are set at the end, when nothing is put into
//! them any more.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat, chownat, fchmod, fchown,
    futimens, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::{CopyError, CopyReport, Target};

/// Whom copies belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    /// Root, as docker's copies.
    Root,
    /// Whom the stream says.
    Kept,
}

/// An extraction into a folder.
pub(super) struct Extraction<'a> {
    target: &'a Target,
    owners: Owners,
    folders: Vec<(PathBuf, Timestamps)>,
    report: CopyReport,
}

/// Where an entry goes: the open folder, and the name in it (`.` for the target folder itself).
struct Spot {
    folder: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl<'a> Extraction<'a> {
    pub fn new(target: &'a Target, owners: Owners) -> Extraction<'a> {
        Extraction { target, owners, folders: Vec::new(), report: CopyReport::default() }
    }

    /// Extracts the whole stream.
    pub fn extract(mut self, input: &mut dyn Read) -> Result<CopyReport, CopyError> {
        let mut archive = Archive::new(input);
        for entry in archive.entries().map_err(CopyError::Stream)? {
            self.entry(entry.map_err(CopyError::Stream)?)?;
        }
        // What follows the end marker is read, so that whoever writes it does not see a closed pipe.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(CopyError::Stream)?;
        for (path, times) in std::mem::take(&mut self.folders).into_iter().rev() {
            let spot = self.spot(&path)?;
            utimensat(&spot.folder, &spot.name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(at("change", &spot))?;
        }
        Ok(self.report)
    }

    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), CopyError> {
        let path = relative(&entry.path().map_err(CopyError::Stream)?)?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let spot = self.spot(&path)?;
        if kind.is_dir() {
            return self.directory(&spot, &entry);
        }
        if spot.name == "." {
            return Err(self.mismatch(&path));
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(&spot, &mut entry),
            EntryType::Symlink => self.link(&spot, &entry),
            EntryType::Link => self.hard_link(&spot, &entry),
            EntryType::Char | EntryType::Block | EntryType::Fifo => self.node(&spot, &entry),
            _ => Err(CopyError::UnknownEntry { path }),
        }
    }

    /// Opens the folder that an entry goes into, making what is missing.
    fn spot(&self, path: &Path) -> Result<Spot, CopyError> {
        let shown = self.target.path.join(path);
        let failed = |errno: Errno| CopyError::file("open", &shown, errno);
        let mut folder = self.target.folder.try_clone().map_err(|source| CopyError::file("open", &shown, source))?;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let name = component.as_os_str();
            if components.peek().is_none() {
                return Ok(Spot { folder, name: name.to_owned(), path: shown });
            }
            folder = match open_folder(folder.as_fd(), name) {
                Err(Errno::NOENT) => {
                    mkdirat(&folder, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
                    open_folder(folder.as_fd(), name)
                }
                opened => opened,
            }
            .map_err(failed)?;
        }
        Ok(Spot { folder, name: OsString::from("."), path: shown })
    }

    fn mismatch(&self, path: &Path) -> CopyError {
        CopyError::TypeMismatch { path: self.target.path.join(path) }
    }

    /// What is there already.
    fn existing(&self, spot: &Spot) -> Result<Option<FileType>, CopyError> {
        match statat(&spot.folder, &spot.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(at("look at", spot)(errno)),
        }
    }

    /// Removes a file that is in the way; `false` when it is a mount point and stays.
    fn clear(&self, spot: &Spot) -> Result<bool, CopyError> {
        match self.existing(spot)? {
            None => Ok(true),
            Some(FileType::Directory) => Err(CopyError::TypeMismatch { path: spot.path.clone() }),
            Some(_) => match unlinkat(&spot.folder, &spot.name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(true),
                Err(Errno::BUSY) => Ok(false),
                Err(errno) => Err(at("replace", spot)(errno)),
            },
        }
    }

    fn directory(&mut self, spot: &Spot, entry: &Entry<'_, impl Read>) -> Result<(), CopyError> {
        match self.existing(spot)? {
            Some(FileType::Directory) if spot.name == "." => return Ok(()),
            Some(FileType::Directory) => {}
            Some(_) => return Err(CopyError::TypeMismatch { path: spot.path.clone() }),
            None => mkdirat(&spot.folder, &spot.name, Mode::from_raw_mode(0o700)).map_err(at("make", spot))?,
        }
        let folder = open_folder(spot.folder.as_fd(), &spot.name).map_err(at("open", spot))?;
        let (uid, gid) = self.owner(entry)?;
        fchown(&folder, Some(uid), Some(gid)).map_err(at("change", spot))?;
        fchmod(&folder, mode(entry)?).map_err(at("change", spot))?;
        let path = relative(&entry.path().map_err(CopyError::Stream)?)?;
        self.folders.push((path, times(entry)?));
        Ok(())
    }

    fn file(&mut self, spot: &Spot, entry: &mut Entry<'_, impl Read>) -> Result<(), CopyError> {
        let fresh = self.clear(spot)?;
        let how = if fresh { OFlags::CREATE | OFlags::EXCL } else { OFlags::TRUNC | OFlags::NONBLOCK };
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | how;
        let mut file: File =
            openat(&spot.folder, &spot.name, flags, Mode::from_raw_mode(0o600)).map_err(at("make", spot))?.into();
        self.report.bytes +=
            io::copy(entry, &mut file).map_err(|source| CopyError::file("write", &spot.path, source))?;
        if fresh {
            let (uid, gid) = self.owner(entry)?;
            fchown(&file, Some(uid), Some(gid)).map_err(at("change", spot))?;
            fchmod(&file, mode(entry)?).map_err(at("change", spot))?;
        }
        futimens(&file, &times(entry)?).map_err(at("change", spot))
    }

    fn link(&self, spot: &Spot, entry: &Entry<'_, impl Read>) -> Result<(), CopyError> {
        let target = entry.link_name().map_err(CopyError::Stream)?.unwrap_or_default();
        if !self.clear(spot)? {
            return Err(at("replace", spot)(Errno::BUSY));
        }
        symlinkat(target.as_ref(), &spot.folder, &spot.name).map_err(at("make", spot))?;
        let (uid, gid) = self.owner(entry)?;
        chownat(&spot.folder, &spot.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at("change", spot))?;
        utimensat(&spot.folder, &spot.name, &times(entry)?, AtFlags::SYMLINK_NOFOLLOW).map_err(at("change", spot))
    }

    /// A second name for a file of this stream.
    fn hard_link(&self, spot: &Spot, entry: &Entry<'_, impl Read>) -> Result<(), CopyError> {
        let first = entry.link_name().map_err(CopyError::Stream)?.unwrap_or_default();
        let first = self.spot(&relative(&first)?)?;
        if !self.clear(spot)? {
            return Err(at("replace", spot)(Errno::BUSY));
        }
        linkat(&first.folder, &first.name, &spot.folder, &spot.name, AtFlags::empty()).map_err(at("link", spot))
    }

    fn node(&self, spot: &Spot, entry: &Entry<'_, impl Read>) -> Result<(), CopyError> {
        let header = entry.header();
        let kind = match header.entry_type() {
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let number = |field: io::Result<Option<u32>>| field.ok().flatten().unwrap_or(0);
        let device = makedev(number(header.device_major()), number(header.device_minor()));
        if !self.clear(spot)? {
            return Err(at("replace", spot)(Errno::BUSY));
        }
        mknodat(&spot.folder, &spot.name, kind, Mode::from_raw_mode(0o600), device).map_err(at("make", spot))?;
        let (uid, gid) = self.owner(entry)?;
        chownat(&spot.folder, &spot.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at("change", spot))?;
        chmodat(&spot.folder, &spot.name, mode(entry)?, AtFlags::empty()).map_err(at("change", spot))
    }

    fn owner(&self, entry: &Entry<'_, impl Read>) -> Result<(Uid, Gid), CopyError> {
        let shift = self.target.shift;
        if self.owners == Owners::Root {
            return Ok((Uid::from_raw(shift), Gid::from_raw(shift)));
        }
        let header = entry.header();
        let id = |id: io::Result<u64>| {
            let id = id.map_err(CopyError::Stream)?;
            let host = u32::try_from(id).ok().and_then(|id| id.checked_add(shift));
            host.ok_or_else(|| CopyError::Stream(io::Error::other(format!("{id} is no user or group id"))))
        };
        Ok((Uid::from_raw(id(header.uid())?), Gid::from_raw(id(header.gid())?)))
    }
}

/// For `map_err`: what failed at a spot.
fn at(action: &'static str, spot: &Spot) -> impl FnOnce(Errno) -> CopyError {
    let path = spot.path.clone();
    move |errno| match errno {
        Errno::ROFS => CopyError::ReadOnly { path },
        errno => CopyError::File { action, path, source: errno.into() },
    }
}

fn open_folder(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// A name in the stream as a path below the folder.
pub(super) fn relative(name: &Path) -> Result<PathBuf, CopyError> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(CopyError::Outside { path: name.to_owned() }),
        }
    }
    Ok(path)
}

fn mode(entry: &Entry<'_, impl Read>) -> Result<Mode, CopyError> {
    Ok(Mode::from_raw_mode(entry.header().mode().map_err(CopyError::Stream)? & 0o7777))
}

fn times(entry: &Entry<'_, impl Read>) -> Result<Timestamps, CopyError> {
    let seconds = entry.header().mtime().map_err(CopyError::Stream)?;
    let modified = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
    Ok(Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modified })
}
