//! One mount for each layer that is an image, shared by all containers.
//!
//! ```text
//! <state>/layers/          a private mount of itself, so that nothing mounted in it appears elsewhere
//!   <snapshot id>/         the layer
//! ```
//!
//! Whoever needs layers holds the lock (flock(2) on the driver's folder) while it looks whether they are mounted (a statx(2) each) and makes an overlay of
//! them: shared when all are there, else alone while it mounts the missing ones, so that two containers that start at once
//! mount a layer once. The overlay then has the layer for itself: the kernel keeps it for as long as a container
//! runs, whatever becomes of the mount here.
//!
//! So nothing here has to be counted for a running container's sake, and an end of a container does nothing here,
//! which would cost it a wait for all processors. A mount stays until its layer is removed, until somebody who knows
//! what runs releases the unused ones, or until a sweep finds it without a layer. After a power cut or in another mount
//! namespace there are no mounts, and they are made again.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hull_kernel::mounts::image::mount_image;
use hull_kernel::mounts::{self, MountError, Propagation};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxAttributes, StatxFlags, flock, open, statx};
use rustix::io::Errno;

use crate::SnapshotId;

/// The mounts of one Hull's layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerMounts {
    folder: PathBuf,
    lock: PathBuf,
}

/// While this is held no layer is unmounted.
#[derive(Debug)]
pub struct Held {
    _lock: File,
}

fn failed<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> MountError {
    let subject = path.display().to_string();
    move |error| MountError::new(operation, subject, Errno::from_io_error(&error.into()).unwrap_or(Errno::IO))
}

impl LayerMounts {
    /// Those below `folder`; the lock is on the driver's folder.
    pub(crate) fn new(folder: PathBuf, driver_folder: &Path) -> LayerMounts {
        LayerMounts { folder, lock: driver_folder.to_path_buf() }
    }

    /// Where a layer is mounted.
    pub(crate) fn place(&self, id: &SnapshotId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    /// Sees to it that layers are mounted, and stay so while the result is held.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn hold(&self, images: &[(SnapshotId, PathBuf)]) -> Result<Held, MountError> {
        let shared = self.lock(FlockOperation::LockShared)?;
        if self.all_mounted(images)? {
            return Ok(shared);
        }
        drop(shared);
        let alone = self.lock(FlockOperation::LockExclusive)?;
        self.make_folder()?;
        for (id, image) in images {
            let place = self.place(id);
            if is_mount(&place)? {
                continue;
            }
            make_private(&place)?;
            let mount = mount_image(image)?;
            let target = open(&place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed("open", &place))?;
            mounts::attach(mount.as_fd(), target.as_fd(), &place.display().to_string())?;
        }
        Ok(alone)
    }

    fn all_mounted(&self, images: &[(SnapshotId, PathBuf)]) -> Result<bool, MountError> {
        for (id, _) in images {
            if !is_mount(&self.place(id))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn lock(&self, operation: FlockOperation) -> Result<Held, MountError> {
        let file = File::open(&self.lock).map_err(failed("open", &self.lock))?;
        flock(&file, operation).map_err(failed("flock", &self.lock))?;
        Ok(Held { _lock: file })
    }

    /// The folder, as a mount that tells no other one of what happens in it.
    fn make_folder(&self) -> Result<(), MountError> {
        make_private(&self.folder)?;
        if is_mount(&self.folder)? {
            return Ok(());
        }
        let itself = mounts::clone_tree(CWD, &self.folder, false)?;
        let target = open(&self.folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open", &self.folder))?;
        mounts::attach(itself.as_fd(), target.as_fd(), &self.folder.display().to_string())?;
        mounts::set_propagation(&c_path(&self.folder)?, false, Propagation::Private)
    }

    /// Layers that are mounted, or were.
    ///
    /// # Errors
    /// readdir(3)'s.
    pub(crate) fn mounted(&self) -> Result<Vec<SnapshotId>, MountError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed("read", &self.folder))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed("read", &self.folder))?.file_name();
            ids.extend(name.to_str().and_then(SnapshotId::parse));
        }
        Ok(ids)
    }

    /// Takes a layer's mount away; containers that run on it keep it. With the last one the folder goes too.
    ///
    /// # Errors
    /// umount2(2)'s and rmdir(2)'s.
    pub(crate) fn unmount(&self, id: &SnapshotId) -> Result<(), MountError> {
        let place = self.place(id);
        if !place.exists() {
            return Ok(());
        }
        let _alone = self.lock(FlockOperation::LockExclusive)?;
        detach(&place)?;
        match self.mounted()?.as_slice() {
            [] => detach(&self.folder),
            _ => Ok(()),
        }
    }

    /// Takes the mounts away of all layers but these; says how many there were.
    ///
    /// # Errors
    /// As [`LayerMounts::unmount`].
    pub(crate) fn release(&self, used: &HashSet<SnapshotId>) -> Result<usize, MountError> {
        let unused: Vec<SnapshotId> = self.mounted()?.into_iter().filter(|id| !used.contains(id)).collect();
        unused.iter().try_for_each(|id| self.unmount(id))?;
        Ok(unused.len())
    }
}

/// Whether something is mounted at a path; what is not there is no mount.
fn is_mount(path: &Path) -> Result<bool, MountError> {
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed("statx", path)(errno)),
    }
}

/// Images hold programs that get other users' rights: nobody but root comes near them outside of a container.
fn make_private(path: &Path) -> Result<(), MountError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("mkdir", path))
}

/// Takes away what is mounted at a path, and the empty folder below it.
fn detach(path: &Path) -> Result<(), MountError> {
    while is_mount(path)? {
        mounts::detach(&c_path(path)?)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("rmdir", path)(error)),
        _ => Ok(()),
    }
}

fn c_path(path: &Path) -> Result<CString, MountError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| MountError::new("open", path.to_string_lossy(), Errno::INVAL))
}
