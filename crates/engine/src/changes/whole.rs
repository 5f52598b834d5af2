//! Changes found by comparing a container's whole tree with its image's, side by side.
//!
//! Files of equal type, mode, owner, size, time and attributes are taken as equal, as docker does it where it has no
//! better way: reading every file of both would cost more than the copy itself did. A new link to a file that is equal
//! to the image's becomes a file of its own.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::Stat;

use super::{ChangesError, Found, Side, State, Trees, equal, failed, is_directory, look, names, open_directory};

impl Trees<'_> {
    /// Tells how a folder differs from the image's, where the image has it.
    pub(super) fn whole(
        &mut self,
        folder: BorrowedFd<'_>,
        below: Option<BorrowedFd<'_>>,
        path: &Path,
    ) -> Result<(), ChangesError> {
        let mut all = names(folder).map_err(failed("list", path))?;
        if let Some(below) = below {
            all.extend(names(below).map_err(failed("list", path))?);
            all.sort();
            all.dedup();
        }
        for name in all {
            let path = path.join(&name);
            let own = look(folder, &name).map_err(failed("look at", &path))?;
            let image = below.map(|below| look(below, &name)).transpose().map_err(failed("look at", &path))?.flatten();
            match (own, image) {
                (None, None) => {}
                (None, Some(_)) => self.visitor.deleted(&path)?,
                (Some(own), None) if self.is_made(folder, &name, &own, &path).map_err(failed("look at", &path))? => {}
                (Some(own), image) => self.pair(folder, below, &name, &path, &own, image.as_ref())?,
            }
        }
        Ok(())
    }

    fn pair(
        &mut self,
        parent: BorrowedFd<'_>,
        below: Option<BorrowedFd<'_>>,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
        image: Option<&Stat>,
    ) -> Result<(), ChangesError> {
        let is_folder = is_directory(stat);
        let inside = is_folder.then(|| open_directory(parent, name)).transpose().map_err(failed("open", path))?;
        let lower = match (below, image) {
            (Some(below), Some(image)) if is_folder && is_directory(image) => {
                Some(open_directory(below, name).map_err(failed("open", path))?)
            }
            _ => None,
        };
        let state = match (below, image) {
            (Some(below), Some(image)) => {
                let with_time = match (&inside, &lower) {
                    (Some(inside), Some(lower)) => {
                        !self.only_made_is_new(inside.as_fd(), lower.as_fd(), path).map_err(failed("look at", path))?
                    }
                    _ => true,
                };
                let sides = (Side { parent, name, stat }, Side { parent: below, name, stat: image });
                match equal(sides.0, sides.1, self.ids, with_time).map_err(failed("look at", path))? {
                    true => State::Same,
                    false => State::Changed,
                }
            }
            _ => State::Added,
        };
        if is_folder || state != State::Same {
            let found = Found { parent, name, path, state, is_directory: is_folder, is_opaque: false };
            self.visitor.found(&found)?;
        }
        if let Some(inside) = inside {
            self.whole(inside.as_fd(), lower.as_ref().map(AsFd::as_fd), path)?;
            self.visitor.left();
        }
        Ok(())
    }
}
