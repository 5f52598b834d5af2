//! Changes read off an overlay's upper directory.
//!
//! A character device 0:0 is a deletion; a folder with `trusted.overlay.opaque` hides what the layers have in it. The
//! kernel marks new folders so too, where there is nothing to hide: those are just new. A file in the upper directory
//! that the image has as well is changed, whatever it holds, since something made the kernel copy it there.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Stat, lgetxattr};
use rustix::io::Errno;

use super::{ChangesError, Found, Side, State, Trees, equal, failed, is_directory, look, names, open_directory};

const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

impl Trees<'_> {
    /// Tells what a folder of the upper directory changes; `below` is the same folder of the image, where it has one.
    pub(super) fn difference(
        &mut self,
        folder: BorrowedFd<'_>,
        below: Option<BorrowedFd<'_>>,
        path: &Path,
    ) -> Result<(), ChangesError> {
        for name in names(folder).map_err(failed("list", path))? {
            let path = path.join(&name);
            let Some(stat) = look(folder, &name).map_err(failed("look at", &path))? else { continue };
            let image = below.map(|below| look(below, &name)).transpose().map_err(failed("look at", &path))?.flatten();
            match (is_deletion(&stat), &image) {
                (true, Some(_)) => self.visitor.deleted(&path)?,
                (true, None) => {}
                (false, None) if self.is_made(folder, &name, &stat, &path).map_err(failed("look at", &path))? => {}
                (false, image) => self.one(folder, below, &name, &path, &stat, image.as_ref())?,
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        parent: BorrowedFd<'_>,
        below: Option<BorrowedFd<'_>>,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
        image: Option<&Stat>,
    ) -> Result<(), ChangesError> {
        let file = |state| Found { parent, name, path, state, is_directory: false, is_opaque: false };
        let state = if image.is_some() { State::Changed } else { State::Added };
        if !is_directory(stat) {
            return self.visitor.found(&file(state));
        }
        let inside = open_directory(parent, name).map_err(failed("open", path))?;
        let folder_below = match (below, image) {
            (Some(below), Some(image)) if is_directory(image) => {
                Some(open_directory(below, name).map_err(failed("open", path))?)
            }
            _ => None,
        };
        let hides = folder_below.is_some() && is_opaque(parent, name).map_err(failed("look at", path))?;
        let state = match (below, image) {
            (Some(below), Some(image)) if folder_below.is_some() && !hides => {
                let (own, lower) = (inside.as_fd(), folder_below.as_ref().map_or(below, AsFd::as_fd));
                let with_time = !self.only_made_is_new(own, lower, path).map_err(failed("look at", path))?;
                let sides = (Side { parent, name, stat }, Side { parent: below, name, stat: image });
                match equal(sides.0, sides.1, self.ids, with_time).map_err(failed("look at", path))? {
                    true => State::Same,
                    false => State::Changed,
                }
            }
            _ => state,
        };
        self.visitor.found(&Found { is_directory: true, is_opaque: hides, ..file(state) })?;
        if let (true, Some(lower)) = (hides, &folder_below) {
            self.hidden(inside.as_fd(), lower.as_fd(), path)?;
        }
        self.difference(inside.as_fd(), folder_below.as_ref().map(AsFd::as_fd), path)?;
        self.visitor.left();
        Ok(())
    }

    /// What an opaque folder hides and does not have itself is deleted.
    fn hidden(&mut self, folder: BorrowedFd<'_>, below: BorrowedFd<'_>, path: &Path) -> Result<(), ChangesError> {
        for name in names(below).map_err(failed("list", path))? {
            let path = path.join(&name);
            if look(folder, &name).map_err(failed("look at", &path))?.is_none() {
                self.visitor.deleted(&path)?;
            }
        }
        Ok(())
    }
}

fn is_deletion(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
    let mut value = [0; 8];
    match lgetxattr(OsStr::from_bytes(&path), OPAQUE_ATTRIBUTE, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => Ok(false),
        // A longer value is not overlay's.
        Err(Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}
