//! One cgroup directory of one hierarchy, and reading and writing its files.
//!
//! A cgroup file takes a whole value in one write(2) and never a file position, so there is nothing to buffer. A
//! folder that will be used for several files is opened once ([`Folder::opened`]) and its files are then looked up from
//! there. Errors carry the file's path, the value and the errno; a file that is not there is told apart where its
//! absence means something (a kernel without the feature).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open, openat};
use rustix::io::Errno;

use super::CgroupError;

/// A cgroup directory, opened or not.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    fd: Option<OwnedFd>,
}

impl Folder {
    pub(super) fn at(path: impl Into<PathBuf>) -> Folder {
        Folder { path: path.into(), fd: None }
    }

    /// The same folder with a descriptor of its own.
    pub(super) fn opened(path: impl Into<PathBuf>) -> Result<Folder, CgroupError> {
        let path = path.into();
        let fd = open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| CgroupError::Open { path: path.clone(), source: errno.into() })?;
        Ok(Folder { path, fd: Some(fd) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of the folder; `NOENT` stays an errno for the caller to judge.
    fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match &self.fd {
            Some(fd) => openat(fd, file, flags, Mode::empty()),
            None => openat(CWD, self.path.join(file), flags, Mode::empty()),
        }
    }

    /// A file opened for writing, for several values in a row.
    pub(super) fn writer(&self, file: &str) -> Result<Writer, CgroupError> {
        let path = self.path.join(file);
        match self.open_file(file, OFlags::WRONLY) {
            Ok(fd) => Ok(Writer { path, fd }),
            Err(errno) => Err(CgroupError::Open { path, source: errno.into() }),
        }
    }

    /// Writes one value.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        match self.try_write(file, value) {
            Ok(()) => Ok(()),
            Err(errno) => Err(self.write_error(file, value, errno)),
        }
    }

    /// Writes one value, leaving the judgement of a failure (of open or write) to the caller.
    pub(super) fn try_write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let fd = self.open_file(file, OFlags::WRONLY)?;
        write_whole(fd.as_fd(), value)
    }

    pub(super) fn write_error(&self, file: &str, value: &str, errno: Errno) -> CgroupError {
        CgroupError::Write { path: self.path.join(file), value: value.to_owned(), source: errno.into() }
    }

    /// The text of a file, `None` when the kernel has no such file here.
    pub(super) fn try_read(&self, file: &str) -> Result<Option<String>, CgroupError> {
        let failed = |errno: Errno| CgroupError::Read { path: self.path.join(file), source: errno.into() };
        let fd = match self.open_file(file, OFlags::RDONLY) {
            Ok(fd) => fd,
            // Not every file can be read although it is there: EOPNOTSUPP says that the feature is off (psi=0).
            Err(Errno::NOENT | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        match read_whole(fd.as_fd()) {
            Ok(text) => Ok(Some(text)),
            Err(Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The text of a file that must be there.
    pub(super) fn read(&self, file: &str) -> Result<String, CgroupError> {
        self.try_read(file)?
            .ok_or_else(|| CgroupError::Read { path: self.path.join(file), source: Errno::NOENT.into() })
    }

    /// A file with a single number, or the word `max`, which becomes `u64::MAX`; `None` when there is no such file.
    pub(super) fn try_number(&self, file: &str) -> Result<Option<u64>, CgroupError> {
        let Some(text) = self.try_read(file)? else { return Ok(None) };
        parse_number(&text).map(Some).ok_or_else(|| CgroupError::Parse { path: self.path.join(file), content: text })
    }

    pub(super) fn number(&self, file: &str) -> Result<u64, CgroupError> {
        self.try_number(file)?
            .ok_or_else(|| CgroupError::Read { path: self.path.join(file), source: Errno::NOENT.into() })
    }
}

/// A cgroup file opened for writing.
pub(super) struct Writer {
    path: PathBuf,
    fd: OwnedFd,
}

impl Writer {
    pub(super) fn write(&self, value: &str) -> Result<(), CgroupError> {
        write_whole(self.fd.as_fd(), value).map_err(|errno| CgroupError::Write {
            path: self.path.clone(),
            value: value.to_owned(),
            source: errno.into(),
        })
    }
}

/// A number as cgroup files write it; `max` and v1's "almost 2^63" stay what they are.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

/// Lowering a memory limit reclaims first and may be interrupted by a signal, hence the loop.
fn write_whole(fd: BorrowedFd<'_>, value: &str) -> Result<(), Errno> {
    loop {
        match rustix::io::write(fd, value.as_bytes()) {
            Ok(count) if count == value.len() => return Ok(()),
            Ok(_) => return Err(Errno::IO),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Reads a cgroup file. The kernel fills a page with whole records, so what leaves half of a page free is the end (no
/// record of a cgroup file with several is anywhere near as long), and no further read(2) is needed to be told so.
fn read_whole(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut text: Vec<u8> = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        match rustix::io::read(fd, &mut chunk) {
            Ok(count) => {
                text.extend_from_slice(&chunk[..count]);
                if count < chunk.len() / 2 {
                    return String::from_utf8(text).map_err(|_| Errno::ILSEQ);
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
