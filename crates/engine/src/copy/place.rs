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
use hull_sys::fs_ids::set_fs_ids;
use hull_sys::mount::{MOUNT_ATTR_RDONLY, MountAttributes};
use hull_sys::process::{CLONE_NEWNS, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use rustix::thread::{capabilities, set_capabilities};

use super::{CopyError, CopyReport};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::mount_point::MountKind;
use crate::record::ContainerRecord;
use crate::spec;

const READ_ONLY: MountAttributes = MountAttributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, userns_fd: 0 };

/// What a path leads to, as far as a copy cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    Link,
    Other,
}

/// The root of a container, and how far its ids are shifted on the host.
#[derive(Debug)]
pub(super) struct ContainerRoot {
    pub fd: OwnedFd,
    pub shift: u32,
}

/// One side of a copy.
#[derive(Debug)]
pub(super) struct Place {
    /// The container's root; none on the host.
    root: Option<OwnedFd>,
    /// The container's name, for messages.
    name: String,
    /// How far the host's ids of the container's files are above its own, with a user namespace.
    shift: u32,
}

impl Place {
    pub fn host() -> Place {
        Place { root: None, name: String::new(), shift: 0 }
    }

    pub fn container(root: ContainerRoot, name: &str) -> Place {
        Place { root: Some(root.fd), name: name.to_owned(), shift: root.shift }
    }

    /// How far the host's ids are above the place's own.
    pub fn shift(&self) -> u32 {
        self.shift
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
    /// Calls `action` with the root of a container, running or not. It runs on a thread of its own, which may take on
    /// the identity of the container's root or a mount namespace.
    pub(super) fn in_container(
        &self,
        name: &str,
        action: impl FnOnce(ContainerRoot) -> Result<CopyReport, CopyError> + Send,
    ) -> Result<CopyReport, EngineError> {
        let row = self.row(name)?;
        let record = self.record(&row.id)?;
        let state = self.state_of(&row)?;
        let pid = state.pid();
        let copied = std::thread::scope(|scope| {
            let copy = || -> Result<CopyReport, EngineError> {
                let root = match pid {
                    Some(pid) => self.running_root(pid, &record)?,
                    None => None,
                };
                let root = match root {
                    Some(root) => root,
                    None => ContainerRoot { fd: self.assemble(&record)?, shift: self.shift_of(&record)? },
                };
                Ok(action(root)?)
            };
            scope.spawn(copy).join()
        });
        copied.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The root that a running container's first process sees; `None` when it has ended meanwhile. With a user
    /// namespace this thread's files belong to the container's root from here on, since file systems of the namespace
    /// know no others; it keeps its capabilities.
    fn running_root(&self, pid: i32, record: &ContainerRecord) -> Result<Option<ContainerRoot>, EngineError> {
        let path = PathBuf::from(format!("/proc/{pid}/root"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(EngineError::path("open", &path)(errno.into())),
        };
        // If the container's process is alive after the opening, the root is its.
        if self.process(&record.id)?.is_none() {
            return Ok(None);
        }
        // Whoever lent the container its user namespace may be gone; the kernel still knows the map.
        let shift = match spec::has_user_namespace(&record.request) {
            true => outside_of_root(pid).map_err(EngineError::path("read the id map of", &path))?,
            false => 0,
        };
        if shift > 0 {
            become_owner(shift).map_err(EngineError::path("write below", &path))?;
        }
        Ok(Some(ContainerRoot { fd, shift }))
    }

    fn shift_of(&self, record: &ContainerRecord) -> Result<u32, EngineError> {
        Ok(self.id_map(record)?.map_or(0, |map| map.host_id))
    }

    /// Mounts a stopped container's root with its volumes in a new mount namespace of this thread.
    fn assemble(&self, record: &ContainerRecord) -> Result<OwnedFd, EngineError> {
        let place = self.roots().container(record.id.as_str());
        let failed = |source: io::Error| EngineError::Path { action: "mount on", path: place.clone(), source };
        let rootfs = self.container_rootfs(record)?;
        let has_user_namespace = spec::has_user_namespace(&record.request);
        let root = if has_user_namespace { rootfs.as_view() } else { rootfs }.mount_detached()?;
        unshare(CLONE_NEWNS).map_err(failed)?;
        mounts::set_propagation(c"/", true, Propagation::Private)?;
        let on = File::open(&place).map_err(failed)?;
        mounts::attach(root.as_fd(), on.as_fd(), &place.display().to_string())?;
        // Nobody could say here whom new files of a user namespace belong to: such a container is only looked at, and
        // where its volumes have no place yet they are left out.
        if has_user_namespace {
            return Ok(root);
        }
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

/// The host's id of user 0 in the user namespace of a process (user_namespaces(7), "uid_map").
fn outside_of_root(pid: i32) -> io::Result<u32> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    let line = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["0", outside, _] => outside.parse().ok(),
        _ => None,
    };
    map.lines().find_map(line).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Makes this thread's files belong to `id` while it keeps what root may do.
fn become_owner(id: u32) -> io::Result<()> {
    let held = capabilities(None)?;
    set_fs_ids(id, id)?;
    Ok(set_capabilities(None, held)?)
}
