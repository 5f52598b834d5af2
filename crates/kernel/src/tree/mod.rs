//! Whole directory trees: removed, copied and given away through descriptors (openat2(2), unlinkat(2), fchownat(2)).
//!
//! Nothing here follows a symbolic link or enters another mount: each directory is opened below its parent's
//! descriptor with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and, but for copies, `RESOLVE_NO_XDEV`. So a tree that
//! somebody else is changing meanwhile can make the work fail, but cannot lead it elsewhere. Paths in errors are
//! relative to the tree.

mod copy;
mod own;
mod remove;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, openat2, statat};
use rustix::io::Errno;

pub use copy::{Copied, DELETION, OPAQUE, copy_tree, merge_layer};
pub use own::own_tree;
pub use remove::remove_tree;

/// Why a tree could not be removed or copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {path}: {errno}{}", and_more(*more), path = path.display())]
pub struct TreeError {
    /// The call, as its man page calls it.
    pub operation: &'static str,
    /// What it was done to, relative to the tree; `.` is the tree itself.
    pub path: PathBuf,
    /// Why.
    pub errno: Errno,
    /// How many further failures there were (removal goes on past them).
    pub more: usize,
}

impl TreeError {
    fn new(operation: &'static str, path: &Path, errno: Errno) -> TreeError {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        TreeError { operation, path: path.to_path_buf(), errno, more: 0 }
    }
}

fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more)") }
}

/// How often a lookup is tried again that a rename elsewhere has disturbed (openat2(2), `EAGAIN`).
const ATTEMPTS: usize = 32;

/// Opens a directory below `dir` without following any link.
fn open_directory(dir: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 1..ATTEMPTS {
        match openat2(dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    openat2(dir, path, flags, Mode::empty(), resolve)
}

/// Names and types of what is in a directory; `buffer` is scratch space.
fn read_directory(
    dir: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
    mut each: impl FnMut(&CStr, FileType) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut entries = RawDir::new(dir, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
            kind => kind,
        };
        each(name, kind)?;
    }
    Ok(())
}

fn as_path(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

fn c_name(name: &OsStr) -> Result<CString, Errno> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}
