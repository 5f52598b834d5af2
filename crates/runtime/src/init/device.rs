//! What belongs into /dev besides file systems: nodes, links, and the place of the console.
//!
//! A /dev that is a bind mount of the host's is left as it is, as runc does.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::{self, inside};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, mknodat, symlinkat, unlinkat};
use rustix::io::Errno;
use rustix::process::umask;

use crate::failure::{InitFailure, Step};
use crate::plan::{DevicePlan, HostTree, InitPlan, MountAction};

/// Links of every /dev (config-linux, "Dev symbolic links"), and the container's own terminal multiplexer.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Whether /dev was populated and can hold a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Console {
    /// /dev is the container's own.
    Possible,
    /// /dev is the host's.
    Foreign,
}

/// Fills /dev.
pub(super) fn populate(root: &OwnedFd, plan: &mut InitPlan) -> Result<Console, InitFailure> {
    let foreign = |mount: &crate::plan::MountPlan| {
        mount.destination == Path::new("/dev") && matches!(mount.action, MountAction::Tree(_))
    };
    if plan.mounts.iter().any(foreign) {
        return Ok(Console::Foreign);
    }
    let dev = inside::make_directory(root.as_fd(), Path::new("/dev"), Mode::from_raw_mode(0o755))
        .map_err(|error| InitFailure::mount(Step::Device, &error))?;
    // A mode that is right from the start needs no second look at the name, which may be in a volume of others.
    let former = umask(Mode::empty());
    for device in &mut plan.devices {
        match &mut device.bind {
            Some(host) => {
                let host = host.take().map_err(|error| InitFailure::mount(Step::Device, &error))?;
                bind(root, &device.path, &host)?;
            }
            None => make(root, &dev, device)?,
        }
    }
    umask(former);
    for (target, name) in LINKS {
        // An image without a /dev mount of its own may bring these links along.
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(InitFailure::new(Step::Device, format!("/dev/{name}"), errno)),
        }
    }
    Ok(Console::Possible)
}

fn make(root: &OwnedFd, dev: &OwnedFd, device: &DevicePlan) -> Result<(), InitFailure> {
    let failed = |errno| InitFailure::new(Step::Device, device.path.display().to_string(), errno);
    let name = device.path.file_name().ok_or(failed(Errno::INVAL))?;
    let opened;
    let parent = match device.path.parent() {
        Some(parent) if parent == Path::new("/dev") => dev,
        parent => {
            let parent = parent.map_or(PathBuf::from("/"), Path::to_path_buf);
            opened = inside::make_directory(root.as_fd(), &parent, Mode::from_raw_mode(0o755))
                .map_err(|error| InitFailure::mount(Step::Device, &error))?;
            &opened
        }
    };
    let mode = Mode::from_raw_mode(device.mode);
    match mknodat(parent, name, device.kind, mode, device.number) {
        // In a user namespace that is not the container's: the runtime's own.
        Err(Errno::PERM) if device.kind != FileType::Fifo => {
            let host = HostTree::plain(&device.path, false).clone_detached();
            return bind(root, &device.path, &host.map_err(|error| InitFailure::mount(Step::Device, &error))?);
        }
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::empty()).map_err(failed)?;
            mknodat(parent, name, device.kind, mode, device.number).map_err(failed)?;
        }
        other => other.map_err(failed)?,
    }
    if device.uid != 0 || device.gid != 0 {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    }
    Ok(())
}

fn bind(root: &OwnedFd, path: &Path, host: &OwnedFd) -> Result<(), InitFailure> {
    let failed = |error| InitFailure::mount(Step::Device, &error);
    let target = inside::make_file(root.as_fd(), path).map_err(failed)?;
    mounts::attach(host.as_fd(), target.as_fd(), &path.display().to_string()).map_err(failed)
}

/// The empty file at /dev/console, on a path without links, that the terminal is mounted on (CVE-2025-52565).
pub(super) fn console_place(root: &OwnedFd) -> Result<OwnedFd, InitFailure> {
    let failed = |errno| InitFailure::new(Step::Terminal, "/dev/console", errno);
    let dev = inside::make_directory(root.as_fd(), Path::new("/dev"), Mode::from_raw_mode(0o755))
        .map_err(|error| InitFailure::mount(Step::Terminal, &error))?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat(&dev, "console", flags | OFlags::EXCL, Mode::from_raw_mode(0o620)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let place = rustix::fs::openat(&dev, "console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed)?;
    let stat = rustix::fs::fstat(&place).map_err(failed)?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Symlink => Err(failed(Errno::LOOP)),
        _ => Ok(place),
    }
}
