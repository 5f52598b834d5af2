//! Files to a tar stream.
//!
//! Directories are walked by descriptor without following links, so a tree that its container changes meanwhile cannot
//! lead out of it. A file that changes its size while it is read fills its entry exactly: cut, or padded with zeros.
//! Names of 100 bytes and more become GNU long names. Sockets are left out, as docker does it.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, major, minor, openat, readlinkat, statat};
use tar::{Builder, EntryType, Header};

use super::{CopyError, CopyReport, Source};
use crate::spec::ID_RANGE_SIZE;

/// A tar stream being written.
pub(super) struct Packing<'a> {
    tar: Builder<&'a mut (dyn Write + Send)>,
    /// Where a file with several links was written first, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
    /// How far the host's ids are above those of the place that is packed.
    shift: u32,
    report: CopyReport,
}

impl<'a> Packing<'a> {
    pub fn new(out: &'a mut (dyn Write + Send)) -> Packing<'a> {
        Packing { tar: Builder::new(out), linked: HashMap::new(), shift: 0, report: CopyReport::default() }
    }

    /// Writes the source under the name given (empty: a directory's contents under `./`) and ends the stream.
    pub fn pack(mut self, source: &Source, name: &OsStr) -> Result<CopyReport, CopyError> {
        self.shift = source.place.shift();
        let name = if name.is_empty() { Path::new(".") } else { Path::new(name) };
        if source.is_directory {
            let folder = source.place.directory(&source.path)?;
            self.directory(folder.as_fd(), name)?;
        } else {
            let (parent, last) = split(&source.path);
            let parent = source.place.directory(&parent)?;
            self.entry(parent.as_fd(), &last, name)?;
        }
        self.tar.into_inner().and_then(|out| out.flush()).map_err(CopyError::Stream)?;
        Ok(self.report)
    }

    /// Writes a directory and everything in it.
    fn directory(&mut self, folder: BorrowedFd<'_>, name: &Path) -> Result<(), CopyError> {
        let failed = |errno: rustix::io::Errno| CopyError::file("read", name, errno);
        let stat = statat(folder, "", AtFlags::EMPTY_PATH).map_err(failed)?;
        self.append(self.header(&stat, EntryType::Directory), name, io::empty())?;
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        for entry in names {
            let entry = OsStr::from_bytes(entry.to_bytes());
            self.entry(folder, entry, &name.join(entry))?;
        }
        Ok(())
    }

    /// Writes what `last` is in `parent`; what vanished meanwhile is left out.
    fn entry(&mut self, parent: BorrowedFd<'_>, last: &OsStr, name: &Path) -> Result<(), CopyError> {
        let failed = |errno: rustix::io::Errno| CopyError::file("read", name, errno);
        let stat = match statat(parent, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&key).cloned() {
                return self.append_link(self.header(&stat, EntryType::Link), name, &first);
            }
            self.linked.insert(key, name.to_owned());
        }
        match kind {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                self.directory(open(parent, last, flags).map_err(failed)?.as_fd(), name)
            }
            FileType::RegularFile => {
                let file = open(parent, last, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK).map_err(failed)?;
                self.file(file, name)
            }
            FileType::Symlink => {
                let target = readlinkat(parent, last, Vec::new()).map_err(failed)?;
                let target = OsStr::from_bytes(target.to_bytes());
                self.append_link(self.header(&stat, EntryType::Symlink), name, Path::new(target))
            }
            FileType::CharacterDevice => self.append(self.header(&stat, EntryType::Char), name, io::empty()),
            FileType::BlockDevice => self.append(self.header(&stat, EntryType::Block), name, io::empty()),
            FileType::Fifo => self.append(self.header(&stat, EntryType::Fifo), name, io::empty()),
            _ => Ok(()),
        }
    }

    fn file(&mut self, file: OwnedFd, name: &Path) -> Result<(), CopyError> {
        let failed = |errno: rustix::io::Errno| CopyError::file("read", name, errno);
        let stat = statat(&file, "", AtFlags::EMPTY_PATH).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let mut header = self.header(&stat, EntryType::Regular);
        let size = stat.st_size as u64;
        header.set_size(size);
        self.report.bytes += size;
        self.append(header, name, File::from(file).chain(io::repeat(0)).take(size))
    }

    fn header(&self, stat: &Stat, kind: EntryType) -> Header {
        // Files of the image's layers and of bind mounts are not shifted while nothing runs.
        let own = |id: u32| u64::from(id.checked_sub(self.shift).filter(|id| *id < ID_RANGE_SIZE).unwrap_or(id));
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(own(stat.st_uid));
        header.set_gid(own(stat.st_gid));
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            // A GNU header has the fields; numbers that do not fit are those of no device.
            let _ = header.set_device_major(major(stat.st_rdev)).and(header.set_device_minor(minor(stat.st_rdev)));
        }
        header
    }

    fn append(&mut self, mut header: Header, name: &Path, content: impl Read) -> Result<(), CopyError> {
        let name = if header.entry_type().is_dir() { with_slash(name) } else { name.to_owned() };
        self.tar.append_data(&mut header, &name, content).map_err(CopyError::Stream)
    }

    fn append_link(&mut self, mut header: Header, name: &Path, target: &Path) -> Result<(), CopyError> {
        self.tar.append_link(&mut header, name, target).map_err(CopyError::Stream)
    }
}

fn open(parent: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, rustix::io::Errno> {
    openat(parent, name, flags | OFlags::CLOEXEC, Mode::empty())
}

fn with_slash(name: &Path) -> PathBuf {
    let mut text = name.as_os_str().to_owned();
    text.push("/");
    PathBuf::from(text)
}

/// Folder and last name of a path that does not end in a slash.
fn split(path: &Path) -> (PathBuf, OsString) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (parent.to_owned(), path.file_name().map(OsStr::to_owned).unwrap_or_default())
}
