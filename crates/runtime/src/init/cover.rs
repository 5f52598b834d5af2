//! Masked and read-only paths (config-linux, "Masked Paths", "Readonly Paths").
//!
//! A masked file is covered by the host's null device, a masked directory by an empty read-only tmpfs. Each cover is
//! one mount: attached at the first place, cloned from there for the others. A path that is not there needs nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::{
    self, FilesystemOption, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MountAttributes,
    inside,
};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use super::filesystem::PROC;
use crate::failure::{InitFailure, Step};
use crate::plan::Tree;

/// A mount used at several places.
struct Cover {
    mount: OwnedFd,
    attached: bool,
}

impl Cover {
    fn new(mount: OwnedFd) -> Cover {
        Cover { mount, attached: false }
    }

    fn put_on(&mut self, target: &OwnedFd, subject: &str) -> Result<(), InitFailure> {
        let failed = |error| InitFailure::mount(Step::Mask, &error);
        if !self.attached {
            self.attached = true;
            return mounts::attach(self.mount.as_fd(), target.as_fd(), subject).map_err(failed);
        }
        let copy = mounts::clone_tree(self.mount.as_fd(), c"", false).map_err(failed)?;
        mounts::attach(copy.as_fd(), target.as_fd(), subject).map_err(failed)
    }
}

/// Where paths are looked for.
pub(super) struct Places<'a> {
    /// The root.
    pub root: &'a OwnedFd,
    /// The procfs that was mounted at /proc. What is below /proc is reached through it, so that it is covered there
    /// even when somebody who shares the root file system has put something else in the path's way (CVE-2019-19921).
    pub proc: Option<&'a OwnedFd>,
}

impl Places<'_> {
    /// Opens a path; `None` when it is not there.
    fn present(&self, path: &Path, step: Step) -> Result<Option<OwnedFd>, InitFailure> {
        let below_proc = self.proc.zip(path.strip_prefix(PROC).ok());
        let (root, path_there) = below_proc.unwrap_or((self.root, path));
        match inside::open_path(root.as_fd(), path_there) {
            Ok(target) => Ok(Some(target)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(InitFailure::new(step, path.display().to_string(), errno)),
        }
    }
}

/// Hides `paths`.
pub(super) fn mask(
    places: &Places<'_>,
    paths: &[PathBuf],
    null: Option<Tree>,
    label: Option<&FilesystemOption>,
) -> Result<(), InitFailure> {
    let null = null.map(|mut null| null.take()).transpose();
    let mut null = null.map_err(|error| InitFailure::mount(Step::Mask, &error))?.map(Cover::new);
    let mut empty = None;
    for path in paths {
        let Some(target) = places.present(path, Step::Mask)? else { continue };
        let subject = path.display().to_string();
        let stat = fstat(&target).map_err(|errno| InitFailure::new(Step::Mask, subject.as_str(), errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let empty: &mut Cover = match &mut empty {
                Some(cover) => cover,
                None => empty.insert(Cover::new(empty_directory(label)?)),
            };
            empty.put_on(&target, &subject)?;
        } else if let Some(null) = &mut null {
            null.put_on(&target, &subject)?;
        }
    }
    Ok(())
}

fn empty_directory(label: Option<&FilesystemOption>) -> Result<OwnedFd, InitFailure> {
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    let mut options = vec![FilesystemOption::parse("nr_inodes=1"), FilesystemOption::parse("mode=755")];
    options.extend(label.cloned());
    mounts::new_filesystem("tmpfs", Some("tmpfs"), &options, attributes)
        .map_err(|error| InitFailure::mount(Step::Mask, &error))
}

/// Makes `paths` read-only by a read-only mount of each onto itself.
pub(super) fn make_read_only(places: &Places<'_>, paths: &[PathBuf]) -> Result<(), InitFailure> {
    let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    for path in paths {
        let Some(target) = places.present(path, Step::ReadOnly)? else { continue };
        let subject = path.display().to_string();
        let failed = |error| InitFailure::mount(Step::ReadOnly, &error);
        let copy = mounts::clone_tree(target.as_fd(), c"", true).map_err(failed)?;
        mounts::set_attributes(copy.as_fd(), true, &attributes, &subject).map_err(failed)?;
        mounts::attach(copy.as_fd(), target.as_fd(), &subject).map_err(failed)?;
    }
    Ok(())
}
