//! Making and removing cgroup directories while others do the same.
//!
//! An instance's parent cgroup is made by whoever comes first and removed by whoever leaves last, so a parent may vanish
//! between two steps: mkdir(2) then says ENOENT, or ENODEV when the removal is under way, and is tried again from the
//! top. rmdir(2) refuses with EBUSY as long as there are processes or child cgroups, which makes "remove if unused" one
//! atomic step.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdir, open, openat, rmdir, unlinkat};
use rustix::io::Errno;

use super::CgroupError;
use super::folder::Folder;

/// How often a path is made anew because a peer removed a part of it. Each round means that a peer finished a removal,
/// so this is reached only when something else is wrong.
const ROUNDS: u32 = 1000;

/// How long a cgroup may stay busy after its last process was seen to end.
pub(super) const REMOVAL_PATIENCE: Duration = Duration::from_secs(2);

/// Makes `mount/path` with all that is missing above it; what is there already is left as it is. `prepare` is run on
/// each ancestor that this call made, before anything is made in it. Says whether there was one.
pub(super) fn make(
    mount: &Path,
    path: &str,
    prepare: &dyn Fn(&Path) -> Result<(), CgroupError>,
) -> Result<bool, CgroupError> {
    let mode = Mode::from_raw_mode(0o755);
    let whole = mount.join(path.trim_start_matches('/'));
    let mut made_ancestor = false;
    for _ in 0..ROUNDS {
        match mkdir(&whole, mode) {
            Ok(()) | Err(Errno::EXIST) => return Ok(made_ancestor),
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => return Err(CgroupError::Make { path: whole, source: errno.into() }),
        }
        let mut folder = mount.to_owned();
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                break;
            }
            folder.push(part);
            match mkdir(&folder, mode) {
                Ok(()) => {
                    made_ancestor = true;
                    match prepare(&folder) {
                        Err(error) if !is_gone(&error) => return Err(error),
                        _ => {}
                    }
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT | Errno::NODEV) => break,
                Err(errno) => return Err(CgroupError::Make { path: folder, source: errno.into() }),
            }
        }
    }
    Err(CgroupError::Make { path: whole, source: Errno::NOENT.into() })
}

/// Whether an error says that the cgroup was removed meanwhile.
pub(super) fn is_gone(error: &CgroupError) -> bool {
    matches!(error.errno(), Some(errno) if errno == Errno::NOENT.raw_os_error() || errno == Errno::NODEV.raw_os_error())
}

/// On v1 an ancestor that was just made passes its processors and memory nodes on to all made below it from then on,
/// without a write for each (cpuset(7), "clone_children").
pub(super) fn prepare_cpuset(mount: &Path, folder: &Path) -> Result<(), CgroupError> {
    Folder::at(folder).write("cgroup.clone_children", "1")?;
    fill_cpuset(mount, folder)
}

/// A v1 cpuset without processors or memory nodes takes no process; it gets its parent's, after the parent has.
pub(super) fn fill_cpuset(mount: &Path, folder: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fill(mount, folder, file)?;
    }
    Ok(())
}

/// One file of them; what it has now.
fn fill(mount: &Path, folder: &Path, file: &str) -> Result<String, CgroupError> {
    let here = Folder::at(folder);
    let own = here.read(file)?.trim().to_owned();
    let parent = folder.parent().filter(|_| own.is_empty() && folder != mount);
    let Some(parent) = parent else { return Ok(own) };
    let value = fill(mount, parent, file)?;
    here.write(file, &value)?;
    Ok(value)
}

/// Removes a cgroup and those below it. One that is not there counts as removed. What stays busy is tried again until
/// the deadline, since a killed process leaves its cgroup a moment after its death is reported.
pub(super) fn remove(folder: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let mut pause = Duration::from_micros(200);
    loop {
        match rmdir(folder) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(CgroupError::Remove { path: folder.to_owned(), source: errno.into() }),
        }
        let progress = match remove_children(folder) {
            Ok(removed) => removed,
            Err(Errno::BUSY) => false,
            Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            Err(errno) => return Err(CgroupError::Remove { path: folder.to_owned(), source: errno.into() }),
        };
        if Instant::now() > deadline {
            return Err(CgroupError::Remove { path: folder.to_owned(), source: Errno::BUSY.into() });
        }
        if progress {
            continue;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Removes a cgroup that has neither processes nor child cgroups; says whether it is gone now.
pub(super) fn remove_if_unused(folder: &Path) -> Result<bool, CgroupError> {
    match rmdir(folder) {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(true),
        Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(CgroupError::Remove { path: folder.to_owned(), source: errno.into() }),
    }
}

/// Removes all cgroups below, deepest first, walking with one descriptor: a container can nest its cgroups deeper than
/// a path is long or a process has descriptors. Says whether there was anything to remove.
fn remove_children(folder: &Path) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut here = open(folder, flags, Mode::empty())?;
    let (mut depth, mut removed) = (0u64, false);
    loop {
        let Some(child) = first_child(here.as_fd())? else {
            if depth == 0 {
                return Ok(removed);
            }
            here = openat(&here, "..", flags, Mode::empty())?;
            depth -= 1;
            continue;
        };
        match unlinkat(&here, &child, AtFlags::REMOVEDIR) {
            Ok(()) => removed = true,
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(Errno::BUSY) => {
                let below: OwnedFd = openat(&here, &child, flags, Mode::empty())?;
                if first_child(below.as_fd())?.is_none() {
                    // Busy without children: processes.
                    return Err(Errno::BUSY);
                }
                here = below;
                depth += 1;
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// The first directory in a cgroup directory.
fn first_child(folder: BorrowedFd<'_>) -> Result<Option<CString>, Errno> {
    // A cgroup directory's link count is two and one for each child cgroup.
    if rustix::fs::fstat(folder)?.st_nlink == 2 {
        return Ok(None);
    }
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// All cgroups from `folder` down, itself first.
pub(super) fn with_descendants(folder: &Path) -> Result<Vec<std::path::PathBuf>, CgroupError> {
    let failed = |path: &Path, source| CgroupError::Open { path: path.to_owned(), source };
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let current = found[next].clone();
        next += 1;
        let links = match rustix::fs::stat(&current) {
            Ok(stat) => stat.st_nlink,
            Err(Errno::NOENT | Errno::NODEV) if next > 1 => continue,
            Err(errno) => return Err(failed(&current, errno.into())),
        };
        if links == 2 {
            continue;
        }
        let entries = std::fs::read_dir(&current).map_err(|source| failed(&current, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| failed(&current, source))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}
