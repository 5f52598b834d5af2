//! Removal of a directory tree.
//!
//! Depth first, with one open descriptor per level. A tree may be deeper than there are descriptors: whatever lies
//! deeper than [`OPEN_LEVELS`] is renamed into the top directory and removed from there. What cannot be removed
//! does not stop the rest; the first failure is reported with the number of others.

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, RenameFlags, ResolveFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use super::{TreeError, as_path, c_name, open_directory, read_directory};

/// How many directories are open at once.
const OPEN_LEVELS: usize = 64;
/// How often a directory is read again into which somebody puts new files meanwhile.
const RESCANS: usize = 8;

/// Removes `name` below `parent`, whatever it is, with everything in it. That it is not there is no error.
///
/// # Errors
/// The first entry that could not be removed. `EXDEV` or `EBUSY` is a mount point, which is never entered.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), TreeError> {
    let failed = |operation, errno| TreeError::new(operation, Path::new(name), errno);
    let name = c_name(name).map_err(|errno| failed("unlink", errno))?;
    match unlinkat(parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(failed("unlink", errno)),
    }
    let mut removal =
        Removal { parent, levels: Vec::new(), moved: 0, failure: None, buffer: vec![MaybeUninit::uninit(); 32768] };
    removal.enter(name);
    while let Some(level) = removal.levels.last_mut() {
        match level.subdirectories.pop() {
            Some(subdirectory) => removal.enter(subdirectory),
            None => removal.leave(),
        }
    }
    removal.failure.map_or(Ok(()), Err)
}

/// One open directory on the way down.
struct Level {
    fd: OwnedFd,
    name: CString,
    subdirectories: Vec<CString>,
    scans: usize,
}

struct Removal<'a> {
    parent: BorrowedFd<'a>,
    levels: Vec<Level>,
    /// How many directories have been renamed into the top one.
    moved: u64,
    failure: Option<TreeError>,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Removal<'_> {
    fn path(&self, name: &CStr) -> PathBuf {
        self.levels.iter().map(|level| as_path(&level.name)).chain([as_path(name)]).collect()
    }

    fn fail(&mut self, operation: &'static str, name: &CStr, errno: Errno) {
        match &mut self.failure {
            Some(first) => first.more += 1,
            None => self.failure = Some(TreeError::new(operation, &self.path(name), errno)),
        }
    }

    /// Opens a subdirectory of the deepest level (or moves it up) and empties it of all but directories.
    fn enter(&mut self, name: CString) {
        if self.levels.len() >= OPEN_LEVELS {
            return self.move_to_top(name);
        }
        let parent = self.levels.last().map_or(self.parent, |level| level.fd.as_fd());
        match open_directory(parent, as_path(&name), ResolveFlags::NO_XDEV) {
            Ok(fd) => {
                self.levels.push(Level { fd, name, subdirectories: Vec::new(), scans: 0 });
                self.scan();
            }
            Err(Errno::NOENT) => {}
            Err(errno) => self.fail("open", &name, errno),
        }
    }

    fn scan(&mut self) {
        let Some(level) = self.levels.last_mut() else { return };
        level.scans += 1;
        let mut refused = Vec::new();
        let (fd, subdirectories) = (level.fd.as_fd(), &mut level.subdirectories);
        let read = read_directory(fd, &mut self.buffer, |name, kind| {
            if kind == FileType::Directory {
                subdirectories.push(name.to_owned());
                return Ok(());
            }
            match unlinkat(fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => subdirectories.push(name.to_owned()),
                Err(errno) => refused.push((name.to_owned(), errno)),
            }
            Ok(())
        });
        for (name, errno) in refused {
            self.fail("unlink", &name, errno);
        }
        if let Err(errno) = read {
            self.fail("getdents", c".", errno);
        }
    }

    /// Removes the deepest level, which should be empty now.
    fn leave(&mut self) {
        let Some(level) = self.levels.pop() else { return };
        let parent = self.levels.last().map_or(self.parent, |level| level.fd.as_fd());
        match unlinkat(parent, &level.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            // What is still in it has been reported.
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.failure.is_some() => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.scans < RESCANS => self.rescan(level),
            Err(errno) => self.fail("rmdir", &level.name, errno),
        }
    }

    fn rescan(&mut self, level: Level) {
        let rewound = rustix::fs::seek(&level.fd, rustix::fs::SeekFrom::Start(0));
        match rewound {
            Ok(_) => {
                self.levels.push(level);
                self.scan();
            }
            Err(errno) => self.fail("lseek", &level.name, errno),
        }
    }

    fn move_to_top(&mut self, name: CString) {
        let (Some(top), Some(deepest)) = (self.levels.first(), self.levels.last()) else { return };
        let result = loop {
            let new = format!(".hull-removed-{}", self.moved);
            self.moved += 1;
            match renameat_with(&deepest.fd, &name, &top.fd, &*new, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                result => break result.and_then(|()| c_name(OsStr::new(&new))),
            }
        };
        match result {
            Ok(new) => self.levels[0].subdirectories.push(new),
            Err(Errno::NOENT) => {}
            Err(errno) => self.fail("rename", &name, errno),
        }
    }
}
