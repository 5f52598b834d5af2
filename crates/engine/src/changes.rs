//! What a container changed of its image, found by looking at its top and at what is below it.
//!
//! ```text
//! Top::Difference   walk the top: overlay's marks say what is deleted and hidden (Documentation/filesystems/overlayfs)
//! Top::Whole        walk both trees side by side
//! ```
//!
//! A [`Visitor`] is told in the order of names, a folder before what it holds. Mount points that Hull makes in a
//! container's own files for its mounts (/proc, /etc/hosts and their like, see [`MADE`]) are not the container's: they
//! are passed over while nothing is in them and the image has none, as docker keeps its own in a layer that `diff` and
//! `commit` do not see. Nothing that is mounted in the container is looked at, because its top is read, not its view.
//! Both trees are walked by descriptor without following links; a running container may change the top meanwhile.

mod difference;
mod whole;

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hull_image::pack::{Ids, attributes};
use hull_oci::runtime::LinuxIdMapping;
use hull_snapshot::{Changes, Rootfs, SnapshotId, Snapshotter, Top};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::record::{Builtin, ContainerRecord, RecordError};

/// Where mounts of every container go, in places that an image need not have.
const MADE: [&str; 9] =
    ["proc", "sys", "dev", "dev/console", "dev/pts", "dev/shm", "etc/hosts", "etc/hostname", "etc/resolv.conf"];
/// The only folder that has to be made for one of them.
const MADE_FOLDER: &str = "etc";

/// What became of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The image does not have it.
    Added,
    /// The image has it otherwise.
    Changed,
    /// A folder that the image has too, equal in itself.
    Same,
}

/// A name in the top.
pub(crate) struct Found<'f> {
    pub parent: BorrowedFd<'f>,
    pub name: &'f OsStr,
    /// From the root, without a leading slash.
    pub path: &'f Path,
    pub state: State,
    pub is_directory: bool,
    /// Whether it hides what the image has below this name.
    pub is_opaque: bool,
}

/// Who is told of changes.
pub(crate) trait Visitor {
    /// A name in the top; folders that only lead to changes are told as well.
    fn found(&mut self, found: &Found<'_>) -> Result<(), ChangesError>;

    /// Everything in the folder that was found last, and not left yet, has been told.
    fn left(&mut self) {}

    /// A name that the image has and the container deleted.
    fn deleted(&mut self, path: &Path) -> Result<(), ChangesError>;
}

/// Why changes could not be found or told.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// A file of the container or its image.
    #[error("cannot {action} {} of the container", path.display())]
    File {
        /// Look at, open, list.
        action: &'static str,
        /// The path inside.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A layer's tar could not be written.
    #[error(transparent)]
    Pack(#[from] hull_image::pack::PackError),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> ChangesError {
    let path = Path::new("/").join(path);
    move |errno| ChangesError::File { action, path, source: errno.into() }
}

/// The two trees.
struct Trees<'v> {
    visitor: &'v mut dyn Visitor,
    ids: Ids,
}

impl Engine {
    /// Tells a visitor of everything that a container changed.
    pub(crate) fn tell_changes(
        &self,
        record: &ContainerRecord,
        ids: Ids,
        visitor: &mut dyn Visitor,
    ) -> Result<(), EngineError> {
        let Changes { top, below } = self.changes_of(record)?;
        let below = below.map(|below| below.mount_detached()).transpose()?;
        let (Top::Difference(path) | Top::Whole(path)) = &top;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            openat(CWD, path, flags, Mode::empty()).map_err(|errno| EngineError::path("open", path)(errno.into()))?;
        let below = below.map(|below| open_directory(below.as_fd(), OsStr::new("."))).transpose();
        let below = below.map_err(failed("open", Path::new("")))?;
        let mut trees = Trees { visitor, ids };
        match top {
            Top::Difference(_) => trees.difference(root.as_fd(), below.as_ref().map(AsFd::as_fd), Path::new(""))?,
            Top::Whole(_) => trees.whole(root.as_fd(), below.as_ref().map(AsFd::as_fd), Path::new(""))?,
        }
        Ok(())
    }

    /// The top of a container and what is below it; below a built-in image's is what stands in for its layers.
    pub(crate) fn changes_of(&self, record: &ContainerRecord) -> Result<Changes, EngineError> {
        let damaged = || RecordError::Snapshot { id: record.id.clone(), snapshot: record.snapshot.clone() };
        let snapshot = SnapshotId::parse(&record.snapshot).ok_or_else(damaged)?;
        let changes = self.snapshots().changes(&snapshot)?;
        let layer = match record.image.builtin {
            None => return Ok(changes),
            Some(Builtin::Hello) => self.hello_layer()?,
            Some(Builtin::Host) => PathBuf::from("/"),
        };
        let stack = hull_kernel::mounts::overlay::OverlayMount { lowers: vec![layer], ..Default::default() };
        Ok(Changes { below: Some(Rootfs::overlay(stack)), ..changes })
    }

    /// How the ids of a container's files on disk relate to its own.
    pub(crate) fn ids_of(&self, record: &ContainerRecord) -> Result<Ids, EngineError> {
        let map = self.id_map(record)?;
        Ok(map.map_or(Ids::PLAIN, |LinuxIdMapping { host_id, size, .. }| Ids { first: host_id, count: size }))
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// What a name is; none where there is nothing.
fn look(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The names in a folder, sorted.
fn names(folder: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names: Vec<CString> = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names.into_iter().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()).collect())
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// One side of a comparison.
#[derive(Clone, Copy)]
struct Side<'s> {
    parent: BorrowedFd<'s>,
    name: &'s OsStr,
    stat: &'s Stat,
}

/// Whether two files are equal in all that an image keeps, contents of equal size and time taken as equal; of folders,
/// the time counts only when `with_time` says so.
fn equal(top: Side<'_>, below: Side<'_>, ids: Ids, with_time: bool) -> Result<bool, Errno> {
    let (own, image) = (top.stat, below.stat);
    let kind = FileType::from_raw_mode(own.st_mode);
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let same = own.st_mode == image.st_mode
        && (ids.own(own.st_uid), ids.own(own.st_gid)) == (ids.own(image.st_uid), ids.own(image.st_gid))
        && (!with_time || (own.st_mtime, own.st_mtime_nsec) == (image.st_mtime, image.st_mtime_nsec))
        && (kind != FileType::RegularFile || own.st_size == image.st_size)
        && (!is_device || own.st_rdev == image.st_rdev);
    if !same {
        return Ok(false);
    }
    if kind == FileType::Symlink {
        let target = |side: Side<'_>| readlinkat(side.parent, side.name, Vec::new());
        if target(top)? != target(below)? {
            return Ok(false);
        }
    }
    Ok(attributes(top.parent, top.name, ids)? == attributes(below.parent, below.name, ids)?)
}

impl Trees<'_> {
    /// Whether a name that the image does not have is an empty mount point of Hull's own making, or the folder that was
    /// made for some.
    fn is_made(&self, parent: BorrowedFd<'_>, name: &OsStr, stat: &Stat, path: &Path) -> Result<bool, Errno> {
        if !is_directory(stat) {
            return Ok(stat.st_size == 0 && MADE.iter().any(|made| Path::new(made) == path));
        }
        let is_place = MADE.iter().any(|made| Path::new(made) == path);
        if !is_place && path != Path::new(MADE_FOLDER) {
            return Ok(false);
        }
        let folder = open_directory(parent, name)?;
        let inside = names(folder.as_fd())?;
        Ok((is_place && inside.is_empty()) || (!inside.is_empty() && self.are_made(folder.as_fd(), &inside, path)?))
    }

    /// Whether all of these names in a folder, which the image does not have, are of Hull's making.
    fn are_made(&self, folder: BorrowedFd<'_>, names: &[OsString], path: &Path) -> Result<bool, Errno> {
        for name in names {
            match look(folder, name)? {
                Some(stat) if self.is_made(folder, name, &stat, &path.join(name))? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether all that is new in a folder is of Hull's making, and something is: then the folder's time says nothing
    /// about the container.
    fn only_made_is_new(&self, folder: BorrowedFd<'_>, below: BorrowedFd<'_>, path: &Path) -> Result<bool, Errno> {
        let mut new = Vec::new();
        for name in names(folder)? {
            if look(below, &name)?.is_none() {
                new.push(name);
            }
        }
        Ok(!new.is_empty() && self.are_made(folder, &new, path)?)
    }
}
