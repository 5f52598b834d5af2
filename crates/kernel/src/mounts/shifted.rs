//! Overlays whose layers belong to other users than on disk (mount_setattr(2) `MOUNT_ATTR_IDMAP`, Linux 5.19).
//!
//! Overlay itself cannot be shifted, its layers can. It takes layers from attached mounts only (before Linux 6.15), so
//! id-mapped clones of them are attached to a tmpfs in a mount namespace that ends with the thread; the caller's mount
//! table does not change. Stored layers keep the ids of their images.
//!
//! The upper directory cannot be shifted with them: the kernel works in it as the user who mounted it, who is nobody in
//! the shifted mount, and would make the overlay read-only. So it holds the namespace's ids as the host counts them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chownat, fstat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::overlay::{OverlayMount, leave_mount_namespace, open_directory, overlay};
use super::{MOUNT_ATTR_IDMAP, MountAttributes, MountError, attach, clone_tree, set_attributes};

/// As [`overlay`], with the owners of the layers' files shifted through `user_namespace` (idmapped mounts, Linux 5.19):
/// what belongs to id 0 on disk belongs to the namespace's root in the mount. The upper directory is not shifted: it
/// holds the namespace's ids as the host counts them. One that has never been mounted gets the shifted owner of the
/// topmost layer.
///
/// # Errors
/// As [`overlay`]; `EINVAL` from mount_setattr(2) where a file system cannot shift ids.
pub fn overlay_shifted(stack: &OverlayMount, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    let shifted = || std::thread::scope(|scope| scope.spawn(|| shifted_elsewhere(stack, user_namespace)).join());
    match shifted() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A folder by itself, with the owners of its files shifted through `user_namespace`. Unlike an overlay's upper
/// directory it keeps the namespace's own ids on disk, also of what is written through the mount.
///
/// # Errors
/// open_tree(2)'s; `EINVAL` from mount_setattr(2) where the file system cannot shift ids.
pub fn folder_shifted(folder: &Path, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    shifted_clone(folder, user_namespace)
}

/// Overlay takes layers from attached mounts only (before Linux 6.15), so the shifted ones are attached to a tmpfs in
/// a mount namespace that ends with the thread.
fn shifted_elsewhere(stack: &OverlayMount, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    leave_mount_namespace()?;
    let Some(place) = stack.lowers.first() else { return overlay(stack) };
    // The root directory cannot be covered for its own process; nothing here needs /sys.
    let place = if place == Path::new("/") { &PathBuf::from("/sys") } else { place };
    let shifted_clone = |lower: &PathBuf| shifted_clone(lower, user_namespace);
    let mounts = stack.lowers.iter().map(shifted_clone).collect::<Result<Vec<_>, _>>()?;
    if let Some((upper, work)) = &stack.upper {
        own_as(mounts[0].as_fd(), upper, work)?;
    }
    let failed = |operation, errno| MountError::new(operation, format!("tmpfs on {}", place.display()), errno);
    mount("tmpfs", place, "tmpfs", MountFlags::empty(), None).map_err(|errno| failed("mount", errno))?;
    for (index, mount) in mounts.iter().enumerate() {
        let target = place.join(index.to_string());
        rustix::fs::mkdir(&target, Mode::from_raw_mode(0o700)).map_err(|errno| failed("mkdir", errno))?;
        let target = open_directory(&target)?;
        attach(mount.as_fd(), target.as_fd(), "shifted layer")?;
    }
    let lowers = (0..stack.lowers.len()).map(|index| place.join(index.to_string())).collect();
    overlay(&OverlayMount { lowers, ..stack.clone() })
}

/// Gives an upper directory that no overlay has used (its work directory is empty) the owner of a layer.
fn own_as(layer: BorrowedFd<'_>, upper: &Path, work: &Path) -> Result<(), MountError> {
    let failed = |operation, path: &Path| {
        let subject = path.display().to_string();
        move |errno| MountError::new(operation, subject, errno)
    };
    match rustix::fs::lstat(work.join("work")) {
        Err(Errno::NOENT) => {}
        result => return result.map(drop).map_err(failed("stat", work)),
    }
    let owner = fstat(layer).map_err(failed("stat", upper))?;
    let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
    chownat(CWD, upper, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("chown", upper))
}

fn shifted_clone(directory: &Path, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    let mount = clone_tree(CWD, directory, false)?;
    let userns_fd = u64::try_from(user_namespace.as_raw_fd()).unwrap_or_default();
    let attributes = MountAttributes { set: MOUNT_ATTR_IDMAP, userns_fd, ..MountAttributes::default() };
    set_attributes(mount.as_fd(), false, &attributes, &format!("{} (shifting ids)", directory.display()))?;
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;
    use std::process::{Child, Command};

    /// A process in a user namespace whose ids 0 to 999 are the host's from 100000.
    fn namespace() -> (Child, File) {
        let mut child = Command::new("unshare").args(["--user", "sleep", "60"]).spawn().unwrap();
        let path = format!("/proc/{}/ns/user", child.id());
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        while fs::read_link(&path).unwrap() == own {
            assert_eq!(child.try_wait().unwrap(), None, "unshare has ended");
            std::thread::yield_now();
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", child.id()), "0 100000 1000").unwrap();
        }
        let namespace = File::open(&path).unwrap();
        (child, namespace)
    }

    #[test]
    fn layers_belong_to_the_namespace_and_the_upper_can_be_written() {
        let folder = PathBuf::from(format!("/dev/shm/hull-shifted-{}", std::process::id()));
        let make = |name: &str| {
            fs::create_dir_all(folder.join(name)).unwrap();
            folder.join(name)
        };
        let lowers = vec![make("one"), make("two")];
        let (upper, work) = (make("upper/fs"), make("upper/work"));
        for name in ["one/file", "two/other"] {
            fs::write(folder.join(name), name).unwrap();
        }
        let (mut child, namespace) = namespace();
        let owner = |mount: &OwnedFd, name: &str| rustix::fs::statat(mount, name, AtFlags::empty()).unwrap().st_uid;
        let table = || fs::read_to_string("/proc/self/mountinfo").unwrap();
        let before = table();
        let stack = OverlayMount { lowers, upper: Some((upper.clone(), work)), volatile: false };
        let mount = overlay_shifted(&stack, namespace.as_fd()).unwrap();
        assert_eq!(table(), before);
        assert_eq!([".", "file", "other"].map(|name| owner(&mount, name)), [100_000; 3]);
        chownat(&mount, "file", None, Some(Gid::from_raw(100_001)), AtFlags::empty()).unwrap();
        let copied = fs::metadata(upper.join("file")).unwrap();
        assert_eq!((copied.uid(), copied.gid()), (100_000, 100_001));
        drop(mount);
        let view = OverlayMount { upper: None, ..stack };
        assert_eq!(owner(&overlay_shifted(&view, namespace.as_fd()).unwrap(), "other"), 100_000);
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
}
