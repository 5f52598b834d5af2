//! What a layer is put into. [`super::layer::Layer`] decides, a target does.
//!
//! There are two: a folder ([`super::folder`]) and an image ([`super::erofs`]). Names are single components, and no
//! target follows a symbolic link.

use std::io::{self, Read};

use rustix::io::Errno;

use super::error::UnpackError;
use super::header::{Entry, Headers};

/// What there is at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Folder,
    Link,
    /// Overlay's mark for what lower layers have and this one has not.
    Deletion,
    Other,
}

/// What a target could not do.
#[derive(Debug)]
pub(super) struct Refusal {
    pub action: &'static str,
    pub source: io::Error,
}

impl Refusal {
    /// Names what was being done.
    pub fn of<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> Refusal {
        move |error| Refusal { action, source: error.into() }
    }

    /// Whether there is something of that name already.
    pub fn is_taken(&self) -> bool {
        self.source.raw_os_error() == Some(Errno::EXIST.raw_os_error())
    }
}

/// What went wrong with a file's content: the archive, or the target.
#[derive(Debug)]
pub(super) enum Fault {
    Archive(UnpackError),
    Target(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Target(refusal)
    }
}

impl From<io::Error> for Fault {
    fn from(source: io::Error) -> Fault {
        Fault::Target(Refusal { action: "write", source })
    }
}

/// The content of an entry, counted and limited.
pub(super) struct Content<'c, 'o, R> {
    pub headers: &'c mut Headers<'o, R>,
    /// Bytes of the whole layer.
    pub bytes: &'c mut u64,
    pub bytes_max: Option<u64>,
    pub entry: &'c Entry,
}

impl<R: Read> Content<'_, '_, R> {
    /// Reads more; 0 at the end.
    pub fn read(&mut self, room: &mut [u8]) -> Result<usize, Fault> {
        let length = self.headers.read_content(room).map_err(Fault::Archive)?;
        *self.bytes += length as u64;
        match self.bytes_max.filter(|limit| *self.bytes > *limit) {
            Some(limit) => {
                let path = super::error::shown(&self.entry.path);
                Err(Fault::Archive(UnpackError::Limit { path, what: "content", limit }))
            }
            None => Ok(length),
        }
    }
}

/// A file system in the making.
pub(super) trait Target {
    /// A folder that has been opened.
    type Folder;
    /// A file that has been begun.
    type File;

    /// Opens a folder by its path from the top; an empty path is the top itself. `ENOENT`, `ENOTDIR`, and `ELOOP` for a
    /// symbolic link on the way or at its end.
    fn open(&self, path: &[u8]) -> Result<Self::Folder, Errno>;

    /// Opens a folder in a folder.
    fn enter(&self, folder: &Self::Folder, name: &[u8]) -> Result<Self::Folder, Refusal>;

    /// What there is at a name.
    fn look(&self, folder: &Self::Folder, name: &[u8]) -> Result<Found, Refusal>;

    /// Where a symbolic link leads; `None` when there is none of that name.
    fn link_target(&self, folder: &Self::Folder, name: &[u8]) -> Result<Option<Vec<u8>>, Refusal>;

    /// Removes a name with everything below it.
    fn remove(&mut self, folder: &Self::Folder, name: &[u8]) -> Result<(), Refusal>;

    /// Gives the top folder an entry's attributes.
    fn change_top(&mut self, entry: &Entry) -> Result<(), Refusal>;

    /// Makes a folder that no entry has described.
    fn make_parent(&mut self, folder: &Self::Folder, name: &[u8]) -> Result<(), Refusal>;

    /// Makes a folder with an entry's attributes; `path` is its path from the top.
    fn make_folder(&mut self, folder: &Self::Folder, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), Refusal>;

    /// Gives a folder that is there an entry's attributes.
    fn change_folder(&mut self, folder: &Self::Folder, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), Refusal>;

    /// Hides what lower layers have in a folder.
    fn make_opaque(&mut self, folder: &Self::Folder) -> Result<(), Refusal>;

    /// Marks a name as deleted from lower layers.
    fn mark_deleted(&mut self, folder: &Self::Folder, name: &[u8]) -> Result<(), Refusal>;

    /// Takes a name for a file, before anything of its content is read.
    fn begin_file(&mut self, folder: &Self::Folder, name: &[u8], entry: &Entry) -> Result<Self::File, Refusal>;

    /// Gives a file its content and attributes.
    fn fill_file<R: Read>(
        &mut self,
        file: Self::File,
        folder: &Self::Folder,
        name: &[u8],
        content: &mut Content<'_, '_, R>,
    ) -> Result<(), Fault>;

    /// Gives what has a name another one.
    fn link(
        &mut self,
        from: &Self::Folder,
        from_name: &[u8],
        folder: &Self::Folder,
        name: &[u8],
    ) -> Result<(), Refusal>;

    /// Makes a symbolic link.
    fn symbolic_link(&mut self, folder: &Self::Folder, name: &[u8], entry: &Entry) -> Result<(), Refusal>;

    /// Makes a device or FIFO.
    fn node(&mut self, folder: &Self::Folder, name: &[u8], entry: &Entry) -> Result<(), Refusal>;

    /// Does what had to wait until everything is in its place.
    fn finish(self) -> Result<(), UnpackError>;
}
