//! Overlays whose files belong to other users than on disk, through a user namespace (mount_setattr(2) `MOUNT_ATTR_IDMAP`).
//!
//! Overlay itself cannot be shifted, its layers can: in a mount namespace that ends with the thread, an id-mapped clone of
//! each layer is mounted over the layer's own folder, and the overlay is then made of the same paths. The upper and the
//! work directory must be on one mount, so their parent folder is shifted as one. The caller's mount table does not
//! change. Stored layers keep the ids of their images.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;

use super::overlay::{OverlayMount, leave_mount_namespace, overlay};
use super::{MOUNT_ATTR_IDMAP, MountAttributes, MountError, attach, clone_tree, set_attributes};

/// Makes an overlay whose ids are shifted through `user_namespace`, and returns it as a detached mount.
///
/// # Errors
/// The layer or step that the kernel refused; `EINVAL` for a stack on the root directory itself, which cannot be covered.
pub fn overlay_shifted(stack: &OverlayMount, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    let made = std::thread::scope(|scope| scope.spawn(|| make(stack, user_namespace)).join());
    match made {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn make(stack: &OverlayMount, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    leave_mount_namespace()?;
    for lower in &stack.lowers {
        cover(lower, user_namespace)?;
    }
    if let Some((upper, work)) = &stack.upper {
        match (upper.parent(), work.parent()) {
            (Some(folder), Some(other)) if folder == other => cover(folder, user_namespace)?,
            _ => return Err(MountError::new("overlay", "upper and work directory are not siblings", Errno::INVAL)),
        }
    }
    overlay(stack)
}

/// Mounts an id-mapped clone of a folder over it.
fn cover(folder: &Path, user_namespace: BorrowedFd<'_>) -> Result<(), MountError> {
    let subject = folder.display().to_string();
    if folder == Path::new("/") {
        return Err(MountError::new("shifting ids of", subject, Errno::INVAL));
    }
    let clone = clone_tree(CWD, folder, false)?;
    let attributes = MountAttributes {
        set: MOUNT_ATTR_IDMAP,
        userns_fd: user_namespace.as_raw_fd() as u64,
        ..MountAttributes::default()
    };
    set_attributes(clone.as_fd(), false, &attributes, &subject)?;
    let place = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| MountError::new("open", subject.as_str(), errno))?;
    attach(clone.as_fd(), place.as_fd(), &subject)
}
