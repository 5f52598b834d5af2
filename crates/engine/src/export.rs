//! `hull export`: the files of a container as one tar.
//!
//! The layers and the container's own changes as one tree, without anything that is mounted in the container, in the
//! order of names, a folder before what is in it; the root itself has no entry, as docker has it. The tree is looked at
//! through a read-only mount of its own, so a running container goes on; what it changes meanwhile is in the archive or
//! not, file by file.

use std::ffi::{CString, OsStr};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hull_image::pack::{PackError, PackReport, Packer};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Writes all files of a container.
    ///
    /// # Errors
    /// No such container; a file that cannot be read; what the output says.
    pub fn export(&self, name: &str, output: &mut dyn Write) -> Result<PackReport, EngineError> {
        let record = self.record(&self.row(name)?.id)?;
        let root = self.container_rootfs(&record)?.as_view().mount_detached()?;
        let mut packer = Packer::new(output, self.ids_of(&record)?);
        pack_folder(&mut packer, root.as_fd(), OsStr::new("."), Path::new(""))?;
        Ok(packer.finish()?)
    }
}

/// Writes what is in the folder `name` of `parent`.
fn pack_folder(packer: &mut Packer<'_>, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), PackError> {
    let failed = |errno: Errno| PackError::File { action: "read", path: path.to_owned(), source: errno.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match openat(parent, name, flags, Mode::empty()) {
        // It vanished, or something else has its name now.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let mut names: Vec<CString> = Vec::new();
    for entry in Dir::read_from(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    for name in names {
        let name = OsStr::from_bytes(name.to_bytes());
        let path = path.join(name);
        packer.entry(folder.as_fd(), name, &path)?;
        let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
            pack_folder(packer, folder.as_fd(), name, &path)?;
        }
    }
    Ok(())
}
