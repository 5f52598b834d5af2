//! The two sides of a copy, and how a path is resolved on each.
//!
//! On the host a path is the user's own and means what it means to any program. In a container it belongs to the
//! container: it is resolved inside its root whatever its links say. Of a stopped container the root is mounted with
//! its volumes and bind mounts, in a mount namespace of the thread that copies.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::{self, Propagation, inside};
use hull_sys::mount::{MOUNT_ATTR_RDONLY, MountAttributes};
use hull_sys::process::{CLONE_NEWNS, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::{CopyError, CopyReport};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::mount_point::MountKind;
use crate::record::ContainerRecord;

const READ_ONLY: MountAttributes = MountAttributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, userns_fd: 0 };

/// What a path leads to, as far as a copy cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    Link,
    Other,
}

/// One side of a copy.
#[derive(Debug)]
pub(super) struct Place {
    /// The container's root; none on the host.
    root: Option<OwnedFd>,
    /// The container's name, for messages.
    name: String,
}

impl Place {
    pub fn host() -> Place {
        Place { root: None, name: String::new() }
    }

    pub fn container(root: OwnedFd, name: &str) -> Place {
        Place { root: Some(root), name: name.to_owned() }
    }

    pub fn missing(&self, path: &Path) -> CopyError {
        match self.root {
            Some(_) => CopyError::NotInContainer { name: self.name.clone(), path: path.to_owned() },
            None => CopyError::NotOnHost { path: path.to_owned() },
        }
    }

    /// Opens with these flags; close-on-exec is added.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        match &self.root {
            Some(root) => inside::open(root.as_fd(), path, flags),
            None => openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()),
        }
    }

    pub fn directory(&self, path: &Path) -> Result<OwnedFd, CopyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.open(path, flags).map_err(|errno| CopyError::file("open", path, errno))
    }

    /// What is there; `None` for nothing, also when a link leads to nothing.
    pub fn kind(&self, path: &Path, follow: bool) -> Result<Option<Kind>, CopyError> {
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        let fd = match self.open(path, flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(CopyError::file("look at", path, errno)),
        };
        let stat = statat(&fd, "", AtFlags::EMPTY_PATH).map_err(|errno| CopyError::file("look at", path, errno))?;
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        }))
    }

    /// The path without links, as the place itself names it.
    pub fn real_path(&self, path: &Path) -> Result<PathBuf, CopyError> {
        let failed = |source: io::Error| CopyError::file("look at", path, source);
        let link = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let fd = self.open(path, OFlags::PATH).map_err(|errno| failed(errno.into()))?;
        let real = link(&fd).map_err(failed)?;
        let Some(root) = &self.root else { return Ok(real) };
        // Both are seen through the same mounts, so the root's own path is a prefix.
        let root = link(root).map_err(failed)?;
        let below = real.strip_prefix(&root).map_err(|_| self.missing(path))?;
        Ok(Path::new("/").join(below))
    }
}

impl Engine {
    /// Calls `action` with the root of a container, running or not.
    pub(super) fn in_container(
        &self,
        name: &str,
        action: impl FnOnce(OwnedFd) -> Result<CopyReport, CopyError> + Send,
    ) -> Result<CopyReport, EngineError> {
        let row = self.row(name)?;
        let state = self.state_of(&row)?;
        if let Some(pid) = state.pid() {
            let path = PathBuf::from(format!("/proc/{pid}/root"));
            let root = openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| EngineError::path("open", &path)(errno.into()))?;
            // If the container's process is alive after the opening, the root is its.
            if self.process(&row.id)?.is_some() {
                return Ok(action(root)?);
            }
        }
        let record = self.record(&row.id)?;
        let copied = std::thread::scope(|scope| {
            scope.spawn(|| -> Result<CopyReport, EngineError> { Ok(action(self.assemble(&record)?)?) }).join()
        });
        copied.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Mounts a stopped container's root with its volumes in a new mount namespace of this thread.
    fn assemble(&self, record: &ContainerRecord) -> Result<OwnedFd, EngineError> {
        let place = self.roots().container(record.id.as_str());
        let failed = |source: io::Error| EngineError::Path { action: "mount on", path: place.clone(), source };
        let root = self.container_rootfs(record)?.mount_detached()?;
        unshare(CLONE_NEWNS).map_err(failed)?;
        mounts::set_propagation(c"/", true, Propagation::Private)?;
        let on = File::open(&place).map_err(failed)?;
        mounts::attach(root.as_fd(), on.as_fd(), &place.display().to_string())?;
        for point in &record.mounts {
            let (MountKind::Bind { .. } | MountKind::Volume { .. }, Some(source)) = (&point.kind, &point.source) else {
                continue;
            };
            let Ok(from) = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { continue };
            let tree = mounts::clone_tree(from.as_fd(), c"", true)?;
            let target = inside::mount_point(root.as_fd(), &point.target, from.as_fd())?;
            let shown = point.target.display().to_string();
            if point.read_only {
                mounts::set_attributes(tree.as_fd(), true, &READ_ONLY, &shown)?;
            }
            mounts::attach(tree.as_fd(), target.as_fd(), &shown)?;
        }
        if record.request.read_only {
            mounts::set_attributes(root.as_fd(), false, &READ_ONLY, "the container's root")?;
        }
        Ok(root)
    }
}
