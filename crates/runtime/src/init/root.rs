//! The container's root directory: put in place, and entered for good.
//!
//! In a mount namespace of the container's own the root mount is put over the child's own `/`, where the host's paths
//! stay reachable because a process' root directory cannot be covered for it, and pivot_root(2) then drops the host's
//! tree. Where the host's root is the initial ramfs, which cannot be left so, chroot(2) has to do: the host's procfs and
//! sysfs are taken away before, because the kernel lets a user namespace mount these anew wherever it finds them whole.
//! In a mount namespace that is shared with others the root is mounted on its own directory, and entered by chroot(2).

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::{self, MOUNT_ATTR_RDONLY, MountAttributes, Propagation, mount_table};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::filesystem::at;
use crate::failure::{InitFailure, Step};
use crate::own_program::ReadOnlyWay;
use crate::plan::{RootEntry, RootPlan};

/// Puts the root mount in its place. In a mount namespace of the container's own, that one is cut off from the host's.
pub(super) fn attach(root: &OwnedFd, entry: &RootEntry) -> Result<(), InitFailure> {
    let RootEntry::Share(place) = entry else {
        mounts::set_propagation(c"/", true, Propagation::Private).map_err(at(Step::Root))?;
        return mounts::attach_over_root(root.as_fd()).map_err(at(Step::Root));
    };
    let subject = place.display().to_string();
    let failed = |errno| InitFailure::new(Step::Root, subject.as_str(), errno);
    let on = open(place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    mounts::attach(root.as_fd(), on.as_fd(), &subject).map_err(at(Step::Root))?;
    // What is mounted in it is nobody else's concern, whatever its place does.
    let private = MountAttributes { propagation: Propagation::Private as u64, ..MountAttributes::default() };
    mounts::set_attributes(root.as_fd(), true, &private, &subject).map_err(at(Step::Root))
}

/// Makes `root` the root directory. What Hull's own program is reached by goes with the tree that is left.
pub(super) fn enter(root: OwnedFd, plan: &RootPlan, way: Option<ReadOnlyWay>) -> Result<(), InitFailure> {
    let failed = |call: &'static str| move |errno| InitFailure::new(Step::Pivot, call, errno);
    if plan.entry == RootEntry::Cover {
        hide_kernel_file_systems(&root)?;
    }
    fchdir(&root).map_err(failed("fchdir"))?;
    match plan.entry {
        // pivot_root(2), "pivot_root(".", ".")".
        RootEntry::Pivot => {
            if let Some(way) = way {
                way.leave_behind();
            }
            pivot_root(c".", c".").map_err(failed("pivot_root"))?;
            mounts::detach(c".").map_err(at(Step::Pivot))?;
        }
        RootEntry::Cover | RootEntry::Share(_) => chroot(c".").map_err(failed("chroot"))?,
    }
    chdir(c"/").map_err(failed("chdir"))?;
    if let Some((propagation, recursive)) = plan.propagation {
        mounts::set_propagation(c"/", recursive, propagation).map_err(at(Step::Pivot))?;
    }
    if plan.read_only {
        let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        mounts::set_attributes(root.as_fd(), false, &attributes, "/").map_err(at(Step::Pivot))?;
    }
    Ok(())
}

/// Takes away every whole procfs and sysfs that is not below `root`; what cannot be taken away is covered.
fn hide_kernel_file_systems(root: &OwnedFd) -> Result<(), InitFailure> {
    let lost = |errno| InitFailure::new(Step::Pivot, "/proc/self/mountinfo", errno);
    let own = statx(root, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(lost)?.stx_mnt_id;
    let table = mount_table::read().map_err(|error| InitFailure::mount(Step::Pivot, &error))?;
    let is_whole =
        |mount: &&mount_table::Mount| matches!(mount.kind.as_str(), "proc" | "sysfs") && mount.root == Path::new("/");
    let hidden: Vec<PathBuf> = table
        .mounts()
        .filter(is_whole)
        .filter(|mount| !table.is_below(mount.id, own))
        .map(|m| m.place.clone())
        .collect();
    for place in hidden {
        let failed = |errno| InitFailure::new(Step::Pivot, place.display().to_string(), errno);
        let path = CString::new(place.as_os_str().as_encoded_bytes()).map_err(|_| failed(Errno::INVAL))?;
        match unmount(path.as_c_str(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // It went along with what it was mounted on.
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::INVAL | Errno::PERM) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let cover = mounts::new_filesystem("tmpfs", Some("tmpfs"), &[], MOUNT_ATTR_RDONLY).map_err(at(Step::Pivot))?;
        let on =
            rustix::fs::openat(CWD, path.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        mounts::attach(cover.as_fd(), on.as_fd(), &place.display().to_string()).map_err(at(Step::Pivot))?;
    }
    Ok(())
}
