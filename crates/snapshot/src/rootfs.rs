//! A root file system that is described, not mounted.
//!
//! Mounting it makes a detached mount: a descriptor that no mount table shows, to be attached in a container's mount
//! namespace, or read and written through openat(2). Layers that are images are mounted first, where all containers
//! share them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::overlay::{OverlayMount, overlay};
use hull_kernel::mounts::shifted::{folder_shifted, overlay_shifted};
use hull_kernel::mounts::{MOUNT_ATTR_RDONLY, MountAttributes, MountError, clone_tree, set_attributes};
use rustix::fs::CWD;

use crate::SnapshotId;
use crate::layer_mounts::{Held, LayerMounts};

/// What to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    tree: Tree,
    layers: Option<Layers>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    Overlay(OverlayMount),
    Folder { path: PathBuf, read_only: bool },
}

/// Images that the tree needs mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layers {
    mounts: LayerMounts,
    images: Vec<(SnapshotId, PathBuf)>,
}

impl Rootfs {
    /// A stack of directories.
    pub fn overlay(stack: OverlayMount) -> Rootfs {
        Rootfs { tree: Tree::Overlay(stack), layers: None }
    }

    /// A folder by itself.
    pub fn folder(path: PathBuf, read_only: bool) -> Rootfs {
        Rootfs { tree: Tree::Folder { path, read_only }, layers: None }
    }

    /// The same, whose directories are mounts of these images.
    pub(crate) fn mounting(self, mounts: LayerMounts, images: Vec<(SnapshotId, PathBuf)>) -> Rootfs {
        Rootfs { layers: Some(Layers { mounts, images }), ..self }
    }

    /// The same with other read-only directories below its top, the topmost first. What is no stack stays what it is.
    #[must_use]
    pub fn over(mut self, directories: Vec<PathBuf>) -> Rootfs {
        if let Tree::Overlay(stack) = &mut self.tree {
            stack.lowers = directories;
        }
        self
    }

    /// The same with or without syncing of its top: without, a power cut may destroy what the container wrote.
    #[must_use]
    pub fn volatile(mut self, volatile: bool) -> Rootfs {
        if let Tree::Overlay(stack) = &mut self.tree {
            stack.volatile = volatile;
        }
        self
    }

    /// The root file system to look at: its top among the read-only directories. With a user namespace the first mount
    /// that writes has to be the shifted one.
    #[must_use]
    pub fn as_view(mut self) -> Rootfs {
        match &mut self.tree {
            Tree::Folder { read_only, .. } => *read_only = true,
            Tree::Overlay(stack) => {
                let OverlayMount { lowers, upper, .. } = std::mem::take(stack);
                // Overlay refuses layers of which one holds another, and the machine's root holds every other folder.
                let is_inside = |own: &PathBuf| lowers.iter().any(|lower| own.starts_with(lower));
                let own = upper.map(|(upper, _)| upper).filter(|own| !is_inside(own));
                stack.lowers = own.into_iter().chain(lowers).collect();
            }
        }
        self
    }

    /// The layers alone, where there are any: unmounting a top would sync its file system.
    #[must_use]
    pub fn without_top(mut self) -> Rootfs {
        match &mut self.tree {
            Tree::Overlay(stack) if !stack.lowers.is_empty() => (stack.upper, stack.volatile) = (None, false),
            _ => {}
        }
        self
    }

    /// The folder that a container's own files are in, to be shown; none for what is only read.
    pub fn top(&self) -> Option<&Path> {
        match &self.tree {
            Tree::Overlay(stack) => stack.upper.as_ref().map(|(upper, _)| upper.as_path()),
            Tree::Folder { path, read_only: false } => Some(path),
            Tree::Folder { .. } => None,
        }
    }

    /// Mounts it, detached.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn mount_detached(&self) -> Result<OwnedFd, MountError> {
        let _held = self.hold_layers()?;
        match &self.tree {
            Tree::Overlay(stack) => overlay(stack),
            Tree::Folder { path, read_only } => {
                let mount = clone_tree(CWD, path, false)?;
                make_read_only(mount, *read_only, path)
            }
        }
    }

    /// Mounts it, detached, with every id shifted through the user namespace.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn mount_detached_in(&self, user_namespace: OwnedFd) -> Result<OwnedFd, MountError> {
        let _held = self.hold_layers()?;
        match &self.tree {
            Tree::Overlay(stack) => overlay_shifted(stack, user_namespace.as_fd()),
            Tree::Folder { path, read_only } => {
                make_read_only(folder_shifted(path, user_namespace.as_fd())?, *read_only, path)
            }
        }
    }

    fn hold_layers(&self) -> Result<Option<Held>, MountError> {
        self.layers.as_ref().map(|layers| layers.mounts.hold(&layers.images)).transpose()
    }
}

fn make_read_only(mount: OwnedFd, read_only: bool, path: &Path) -> Result<OwnedFd, MountError> {
    if read_only {
        let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        set_attributes(mount.as_fd(), false, &attributes, &path.display().to_string())?;
    }
    Ok(mount)
}
