//! Copy of a directory's contents, with all that a file system keeps about them.
//!
//! Owner, mode, times (nanoseconds), extended attributes (access control lists among them), hard links within the
//! tree, holes, devices, FIFOs and sockets are kept; the destination directory itself gets the source's attributes
//! too. Directories are worked off from a list, each opened anew from the roots, so depth costs no descriptors.
//! Times of directories are set last, in reverse order. An extended attribute that the destination cannot hold
//! (`ENOTSUP`) is counted; anything else that fails ends the copy.
//!
//! A layer with marks for what it hides is merged into what is below it in the same way: a file `.wh.NAME` removes NAME
//! there, a file `.wh..wh..opq` everything in its directory, and what is in the way of something else is replaced. The
//! marks, which are those of layers' archives, need no rights and no attributes of the file system, and are not copied.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, copy_file_range, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fstat, ftruncate, futimens,
    lgetxattr, linkat, llistxattr, lsetxattr, mkdirat, mknodat, openat, readlinkat, seek, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::{TreeError, as_path, open_directory, read_directory, remove_tree};

/// Bytes moved by one read and write where the kernel cannot copy by itself.
const CHUNK_BYTES: usize = 256 * 1024;
/// How the name of a file begins that marks the rest of its name as deleted.
pub const DELETION: &[u8] = b".wh.";
/// Name of a file that marks its directory as hiding what is below.
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Entries, the top directory not counted.
    pub entries: u64,
    /// Bytes of file contents without holes.
    pub bytes: u64,
    /// Extended attributes that the destination cannot hold.
    pub lost_xattrs: u64,
}

/// Copies what is in `source` into `destination`, both directories, and the attributes of `source` itself.
///
/// # Errors
/// The first entry that cannot be copied; `EEXIST` when the destination has something else of that name.
pub fn copy_tree(source: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> Result<Copied, TreeError> {
    Copy::new(source, destination, false).run()
}

/// Puts a layer, `source`, over what is in `destination`, obeying the layer's marks.
///
/// # Errors
/// As [`copy_tree`].
pub fn merge_layer(source: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> Result<Copied, TreeError> {
    Copy::new(source, destination, true).run()
}

struct Copy<'a> {
    source: BorrowedFd<'a>,
    destination: BorrowedFd<'a>,
    /// Where a file with several links has been copied to, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
    times: Vec<(PathBuf, Timestamps)>,
    copied: Copied,
    /// Whether the source is a layer with marks, to be merged.
    is_layer: bool,
}

impl<'a> Copy<'a> {
    fn new(source: BorrowedFd<'a>, destination: BorrowedFd<'a>, is_layer: bool) -> Copy<'a> {
        let (linked, times, copied) = (HashMap::new(), Vec::new(), Copied::default());
        Copy { source, destination, linked, times, copied, is_layer }
    }

    fn run(mut self) -> Result<Copied, TreeError> {
        let mut directories = vec![PathBuf::new()];
        let mut buffer = vec![MaybeUninit::uninit(); 32768];
        while let Some(directory) = directories.pop() {
            self.directory(&directory, &mut buffer, &mut directories)?;
        }
        self.set_directory_times()?;
        Ok(self.copied)
    }

    fn directory(
        &mut self,
        path: &Path,
        buffer: &mut [MaybeUninit<u8>],
        directories: &mut Vec<PathBuf>,
    ) -> Result<(), TreeError> {
        let failed = |operation| move |errno| TreeError::new(operation, path, errno);
        let from = open_directory(self.source, path, ResolveFlags::empty()).map_err(failed("open"))?;
        let to = open_directory(self.destination, path, ResolveFlags::empty()).map_err(failed("open"))?;
        let stat = fstat(&from).map_err(failed("fstat"))?;
        if self.is_layer {
            forget_attributes(to.as_fd()).map_err(|(operation, errno)| failed(operation)(errno))?;
        }
        self.attributes_of_open(from.as_fd(), to.as_fd(), &stat)
            .map_err(|(operation, errno)| failed(operation)(errno))?;
        self.times.push((path.to_path_buf(), times_of(&stat)));
        let mut names: Vec<CString> = Vec::new();
        read_directory(from.as_fd(), buffer, |name, _| {
            names.push(name.to_owned());
            Ok(())
        })
        .map_err(failed("getdents"))?;
        if self.is_layer {
            obey_marks(to.as_fd(), &names, buffer)?;
            names.retain(|name| !name.to_bytes().starts_with(DELETION));
        }
        for name in names {
            let inner = path.join(as_path(&name));
            let is_directory = self
                .entry(from.as_fd(), to.as_fd(), &name, &inner)
                .map_err(|(operation, errno)| TreeError::new(operation, &inner, errno))?;
            self.copied.entries += 1;
            if is_directory {
                directories.push(inner);
            }
        }
        Ok(())
    }

    /// Copies one entry; a directory is only made, and said to be one.
    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<bool, Failure> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(at("stat"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.is_layer {
            make_room(to, name, kind)?;
        }
        if kind == FileType::Directory {
            return match mkdirat(to, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => Ok(true),
                Err(errno) => Err(("mkdir", errno)),
            };
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&key) {
                self.link(&first.clone(), to, name)?;
                return Ok(false);
            }
            self.linked.insert(key, path.to_path_buf());
        }
        match kind {
            FileType::RegularFile => self.file(from, to, name)?,
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new()).map_err(at("readlink"))?;
                symlinkat(&target, to, name).map_err(at("symlink"))?;
                self.attributes_by_name(from, to, name, &stat)?;
            }
            _ => {
                mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev).map_err(at("mknod"))?;
                self.attributes_by_name(from, to, name, &stat)?;
            }
        }
        Ok(false)
    }

    fn link(&self, first: &Path, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Failure> {
        let parent = first.parent().unwrap_or(Path::new(""));
        let parent = open_directory(self.destination, parent, ResolveFlags::empty()).map_err(at("open"))?;
        let old = first.file_name().unwrap_or_default();
        linkat(&parent, old, to, name, AtFlags::empty()).map_err(at("link"))
    }

    fn file(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Failure> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let input = openat(from, name, flags, Mode::empty()).map_err(at("open"))?;
        let stat = fstat(&input).map_err(at("fstat"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(("open", Errno::AGAIN));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let output = openat(to, name, flags, Mode::from_raw_mode(0o600)).map_err(at("create"))?;
        self.copied.bytes += copy_data(input.as_fd(), output.as_fd(), stat.st_size.cast_unsigned())?;
        self.attributes_of_open(input.as_fd(), output.as_fd(), &stat)?;
        futimens(&output, &times_of(&stat)).map_err(at("utimensat"))
    }

    /// Owner, mode and extended attributes of a file or directory; chown(2) clears bits and capabilities, so it is first.
    fn attributes_of_open(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Failure> {
        fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))).map_err(at("fchown"))?;
        fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(at("fchmod"))?;
        let names = whole(|buffer| flistxattr(from, buffer)).map_err(at("listxattr"))?;
        for name in xattr_names(&names) {
            let value = whole(|buffer| fgetxattr(from, name, buffer)).map_err(at("getxattr"))?;
            self.count_lost(rustix::fs::fsetxattr(to, name, &value, XattrFlags::empty()))?;
        }
        Ok(())
    }

    /// The same and the times, for what cannot be opened.
    fn attributes_by_name(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), Failure> {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(at("fchownat"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            chmodat(to, name, mode, AtFlags::empty()).map_err(at("fchmodat"))?;
        }
        let (source, target) = (descriptor_path(from, name), descriptor_path(to, name));
        let names = whole(|buffer| llistxattr(&source, buffer)).map_err(at("listxattr"))?;
        for attribute in xattr_names(&names) {
            let value = whole(|buffer| lgetxattr(&source, attribute, buffer)).map_err(at("getxattr"))?;
            self.count_lost(lsetxattr(&target, attribute, &value, XattrFlags::empty()))?;
        }
        utimensat(to, name, &times_of(stat), AtFlags::SYMLINK_NOFOLLOW).map_err(at("utimensat"))
    }

    fn count_lost(&mut self, result: Result<(), Errno>) -> Result<(), Failure> {
        match result {
            Err(Errno::OPNOTSUPP) => {
                self.copied.lost_xattrs += 1;
                Ok(())
            }
            result => result.map_err(at("setxattr")),
        }
    }

    fn set_directory_times(&self) -> Result<(), TreeError> {
        for (path, times) in self.times.iter().rev() {
            let failed = |operation| move |errno| TreeError::new(operation, path, errno);
            let directory = open_directory(self.destination, path, ResolveFlags::empty()).map_err(failed("open"))?;
            futimens(&directory, times).map_err(failed("utimensat"))?;
        }
        Ok(())
    }
}

/// The call and what it said.
type Failure = (&'static str, Errno);

fn at(operation: &'static str) -> impl Fn(Errno) -> Failure {
    move |errno| (operation, errno)
}

/// Removes what the marks among a layer's names hide in a directory.
fn obey_marks(to: BorrowedFd<'_>, names: &[CString], buffer: &mut [MaybeUninit<u8>]) -> Result<(), TreeError> {
    let mut hidden: Vec<CString> = Vec::new();
    if names.iter().any(|name| name.to_bytes() == OPAQUE) {
        let each = |name: &CStr, _| {
            hidden.push(name.to_owned());
            Ok(())
        };
        read_directory(to, buffer, each).map_err(|errno| TreeError::new("getdents", Path::new(""), errno))?;
    }
    let marked = names.iter().filter_map(|name| name.to_bytes().strip_prefix(DELETION));
    let hidden = hidden.iter().map(|name| name.to_bytes()).chain(marked);
    hidden.map(OsStr::from_bytes).try_for_each(|name| remove_tree(to, name))
}

/// Removes what is in the way of something of this kind; directories are joined.
fn make_room(to: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<(), Failure> {
    let below = match statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => FileType::from_raw_mode(other.map_err(at("stat"))?.st_mode),
    };
    match (kind, below) {
        (FileType::Directory, FileType::Directory) => Ok(()),
        _ => remove_tree(to, as_path(name).as_os_str()).map_err(|error| (error.operation, error.errno)),
    }
}

/// Removes a directory's extended attributes.
fn forget_attributes(directory: BorrowedFd<'_>) -> Result<(), Failure> {
    let names = whole(|buffer| flistxattr(directory, buffer)).map_err(at("listxattr"))?;
    for name in xattr_names(&names) {
        match fremovexattr(directory, name) {
            // Some belong to the file system, which has just given them to the new directory.
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(("removexattr", errno)),
        }
    }
    Ok(())
}

/// A path to `name` in an open directory, for calls that take no descriptor. It is not followed further.
fn descriptor_path(directory: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(as_path(name))
}

fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Reads an attribute or list whose size is unknown; what has none is empty.
fn whole(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    const SMALL: usize = 1024;
    /// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of linux/limits.h.
    const LARGEST: usize = 65536;
    let mut buffer = vec![0; SMALL];
    let length = match read(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LARGEST, 0);
            read(&mut buffer)
        }
        Err(Errno::OPNOTSUPP) => Ok(0),
        result => result,
    }?;
    buffer.truncate(length);
    Ok(buffer)
}

fn xattr_names(list: &[u8]) -> impl Iterator<Item = &OsStr> {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(OsStr::from_bytes)
}

/// Copies the parts of a file that are not holes and gives it its size; says how many bytes these parts have.
fn copy_data(input: BorrowedFd<'_>, output: BorrowedFd<'_>, size: u64) -> Result<u64, Failure> {
    ftruncate(output, size).map_err(at("ftruncate"))?;
    let (mut offset, mut bytes) = (0, 0);
    while offset < size {
        let start = match seek(input, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // Without the notion of holes, the rest is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(errno) => return Err(("lseek", errno)),
        };
        let end = match seek(input, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(errno) => return Err(("lseek", errno)),
        };
        copy_range(input, output, start, end)?;
        bytes += end.saturating_sub(start);
        offset = end;
    }
    Ok(bytes)
}

fn copy_range(input: BorrowedFd<'_>, output: BorrowedFd<'_>, start: u64, end: u64) -> Result<(), Failure> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(input, Some(&mut from), output, Some(&mut to), length) {
            // The file has become shorter meanwhile.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(input, output, from, end);
            }
            Err(errno) => return Err(("copy_file_range", errno)),
        }
    }
    Ok(())
}

fn copy_by_hand(input: BorrowedFd<'_>, output: BorrowedFd<'_>, start: u64, end: u64) -> Result<(), Failure> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = start;
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let length = match rustix::io::pread(input, &mut buffer[..wanted], offset) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(("read", errno)),
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match rustix::io::pwrite(output, rest, offset) {
                Ok(written) => {
                    rest = &rest[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(("write", errno)),
            }
        }
    }
    Ok(())
}
