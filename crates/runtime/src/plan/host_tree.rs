//! A tree of the host that the container sees: cloned with its attributes set, and not attached yet.
//!
//! Whoever makes the container clones it in its own mount namespace. A user without rights there cannot: then the
//! container's first process clones it, in its new mount namespace and before anything of the host's is covered.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::{self, MountAttributes, MountError, Propagation};
use rustix::fs::CWD;
use rustix::io::Errno;

use super::PlanError;

/// What to clone, and how.
#[derive(Debug, Clone, Default)]
pub struct HostTree {
    /// Absolute path on the host.
    pub path: PathBuf,
    /// With what is mounted below it.
    pub recursive: bool,
    /// Goes on exchanging mounts with the host, instead of receiving them only.
    pub exchanging: bool,
    /// Attributes of every mount of the tree.
    pub whole: MountAttributes,
    /// Attributes of its topmost mount.
    pub top: MountAttributes,
}

impl HostTree {
    /// The file or tree at `path` as it is.
    pub(crate) fn plain(path: impl Into<PathBuf>, recursive: bool) -> HostTree {
        HostTree { path: path.into(), recursive, ..HostTree::default() }
    }

    /// Clones it. On most machines everything is shared, and a mount that the container made on a shared clone would
    /// appear on the host, so the clone receives what the host mounts below it later and gives nothing back. A path
    /// below `/proc/PID/root` is that process' own: it is cloned in its mount namespace.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub(crate) fn clone_detached(&self) -> Result<OwnedFd, MountError> {
        let tree = match of_process(&self.path) {
            Some((pid, inside)) => mounts::foreign::clone_tree_of_process(pid, &inside, self.recursive)?,
            None => mounts::clone_tree(CWD, self.path.as_path(), self.recursive)?,
        };
        let subject = || self.path.display().to_string();
        if !self.exchanging {
            let receiving = MountAttributes { propagation: Propagation::Slave as u64, ..MountAttributes::default() };
            mounts::set_attributes(tree.as_fd(), true, &receiving, &subject())?;
        }
        for (recursive, attributes) in [(true, &self.whole), (false, &self.top)] {
            if *attributes != MountAttributes::default() {
                mounts::set_attributes(tree.as_fd(), recursive, attributes, &subject())?;
            }
        }
        Ok(tree)
    }
}

fn of_process(path: &Path) -> Option<(i32, PathBuf)> {
    let mut components = path.strip_prefix("/proc").ok()?.components();
    let pid = components.next()?.as_os_str().to_str()?.parse().ok()?;
    let inside = components.as_path().strip_prefix("root").ok()?;
    Some((pid, Path::new("/").join(inside)))
}

/// A tree on its way into the container.
#[derive(Debug)]
pub enum Tree {
    /// Detached, with its attributes set.
    Cloned(OwnedFd),
    /// To be cloned by the container's first process.
    Later(HostTree),
    /// Attached.
    Used,
}

impl Tree {
    /// Clones `tree` now, or leaves it to the container's first process. `destination` names it in errors.
    pub(super) fn plan(tree: HostTree, later: bool, destination: &Path) -> Result<Tree, PlanError> {
        if later {
            return Ok(Tree::Later(tree));
        }
        let failed = |source| PlanError::MountSource { destination: destination.to_path_buf(), source };
        tree.clone_detached().map(Tree::Cloned).map_err(failed)
    }

    /// Clones what is still to be cloned.
    ///
    /// # Errors
    /// As [`HostTree::clone_detached`].
    pub(crate) fn complete(&mut self) -> Result<(), MountError> {
        if let Tree::Later(tree) = self {
            *self = Tree::Cloned(tree.clone_detached()?);
        }
        Ok(())
    }

    /// The clone, when there is one.
    pub(crate) fn cloned(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Tree::Cloned(tree) => Some(tree.as_fd()),
            _ => None,
        }
    }

    /// The clone, to be attached; there is only one.
    ///
    /// # Errors
    /// `EBADF` when it was taken, else as [`HostTree::clone_detached`].
    pub(crate) fn take(&mut self) -> Result<OwnedFd, MountError> {
        match std::mem::replace(self, Tree::Used) {
            Tree::Cloned(tree) => Ok(tree),
            Tree::Later(tree) => tree.clone_detached(),
            Tree::Used => Err(MountError::new("open_tree", "a tree that is in use", Errno::BADF)),
        }
    }
}
