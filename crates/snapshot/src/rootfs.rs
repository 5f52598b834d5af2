//! A root file system that is described, not mounted.
//!
//! Mounting it makes a detached mount: a descriptor that no mount table shows, to be attached in a container's mount
//! namespace, or read and written through openat(2).

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use hull_kernel::mounts::MountError;
use hull_kernel::mounts::overlay::{OverlayMount, overlay};
use hull_kernel::mounts::shifted::overlay_shifted;

/// What to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    stack: OverlayMount,
}

impl Rootfs {
    /// A stack of directories.
    pub fn overlay(stack: OverlayMount) -> Rootfs {
        Rootfs { stack }
    }

    /// The same with other read-only directories below its top, the topmost first.
    #[must_use]
    pub fn over(mut self, lowers: Vec<PathBuf>) -> Rootfs {
        self.stack.lowers = lowers;
        self
    }

    /// The same with or without syncing of its top: without, a power cut may destroy what the container wrote.
    #[must_use]
    pub fn volatile(mut self, volatile: bool) -> Rootfs {
        self.stack.volatile = volatile;
        self
    }

    /// The stack, for showing it.
    pub fn stack(&self) -> &OverlayMount {
        &self.stack
    }

    /// Mounts it, detached.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn mount_detached(&self) -> Result<OwnedFd, MountError> {
        overlay(&self.stack)
    }

    /// Mounts it, detached, with every id shifted through the user namespace.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn mount_detached_in(&self, user_namespace: OwnedFd) -> Result<OwnedFd, MountError> {
        overlay_shifted(&self.stack, user_namespace.as_fd())
    }
}
