//! Giving a whole tree to another user (fchownat(2)).
//!
//! A symbolic link is given away itself and never followed, and what is mounted below stays as it is. What belongs to the
//! user already is not touched, so that its change time and its set-user-ID bit stay. Folders are opened one after the
//! other by their paths below the top, so a tree whose paths are longer than `PATH_MAX` is an error.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, ResolveFlags, Uid, chownat, statat};
use rustix::io::Errno;

use super::{TreeError, as_path, open_directory, read_directory};

/// Makes `uid` and `gid` the owner of `top`, which may be opened with `O_PATH`, and of everything below it.
///
/// # Errors
/// The first entry that could not be given away; entries that vanish meanwhile are none.
pub fn own_tree(top: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), TreeError> {
    let failed = |operation, path: &Path, errno| TreeError::new(operation, path, errno);
    own(top, c"", AtFlags::EMPTY_PATH, uid, gid).map_err(|errno| failed("fchownat", Path::new(""), errno))?;
    let top_stat = statat(top, c"", AtFlags::EMPTY_PATH).map_err(|errno| failed("stat", Path::new(""), errno))?;
    if FileType::from_raw_mode(top_stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    let mut buffer = vec![MaybeUninit::uninit(); 32768];
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        let folder = match open_directory(top, &path, ResolveFlags::NO_XDEV) {
            Ok(folder) => folder,
            // Gone, replaced by something that was not there, or another mount.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            Err(errno) => return Err(failed("open", &path, errno)),
        };
        let read = read_directory(folder.as_fd(), &mut buffer, |name, kind| {
            if kind == FileType::Directory {
                match open_directory(folder.as_fd(), as_path(name), ResolveFlags::NO_XDEV) {
                    Ok(below) => {
                        own(below.as_fd(), c"", AtFlags::EMPTY_PATH, uid, gid)?;
                        folders.push(path.join(as_path(name)));
                        return Ok(());
                    }
                    Err(Errno::NOENT | Errno::XDEV) => return Ok(()),
                    Err(Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => return Err(errno),
                }
            }
            match own(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW, uid, gid) {
                Err(Errno::NOENT) => Ok(()),
                other => other,
            }
        });
        read.map_err(|errno| failed("fchownat", &path, errno))?;
    }
    Ok(())
}

fn own(folder: BorrowedFd<'_>, name: &CStr, flags: AtFlags, uid: u32, gid: u32) -> Result<(), Errno> {
    let found = statat(folder, name, flags)?;
    if (found.st_uid, found.st_gid) == (uid, gid) {
        return Ok(());
    }
    chownat(folder, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
}
