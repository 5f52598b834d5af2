//! Images as folders: an OCI layout, or containers-image's `dir:` transport.
//!
//! ```text
//! oci-layout, index.json, blobs/<algorithm>/<hex>     OCI image layout (image-spec, image-layout.md)
//! version, manifest.json, <hex>                       dir: (containers-image, directory transport)
//! ```
//!
//! Only files of these names are read, so a folder that is no layout costs nothing and gives nothing away. Every file
//! is opened below the folder without following links (openat2(2)); a link in it means what it would mean in an
//! archive: another file of the same layout, or a refusal.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_oci::Digest;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat, statat};
use rustix::io::Errno;

use super::layout::DIR_VERSION;
use super::oci::{INDEX, LAYOUT};
use super::spool::blob_name;
use super::tar_stream::beside;
use super::{ArchiveError, docker};

/// The file that says that a folder is one of `dir:`.
const VERSION: &str = "version";

/// What kind of folder it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FolderKind {
    Layout,
    Directory,
}

/// A folder that holds images.
pub(super) struct LayoutFolder {
    root: OwnedFd,
    path: PathBuf,
    kind: FolderKind,
}

/// One file of it under the name that it has in a layout.
pub(super) struct FolderFile {
    pub name: String,
    /// Where it is, for messages.
    pub path: PathBuf,
    pub content: FolderContent,
}

/// What is there.
pub(super) enum FolderContent {
    File(File),
    /// The name that a symbolic link leads to.
    Link(String),
}

impl LayoutFolder {
    /// Opens a folder and sees what it is.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let root = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open", path))?;
        let has = |name: &str| statat(&root, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let kind = if has(LAYOUT) && has(INDEX) {
            FolderKind::Layout
        } else if has(docker::MANIFEST) && is_directory_transport(root.as_fd()) {
            FolderKind::Directory
        } else {
            return Err(ArchiveError::NotALayout(path.to_owned()));
        };
        Ok(Self { root, path: path.to_owned(), kind })
    }

    pub fn kind(&self) -> FolderKind {
        self.kind
    }

    /// Every file that may matter, documents first, then blobs by their names.
    pub fn files(&self) -> Result<Vec<FolderFile>, ArchiveError> {
        let mut files = Vec::new();
        match self.kind {
            FolderKind::Layout => {
                files.push(self.file(LAYOUT, LAYOUT)?);
                files.push(self.file(INDEX, INDEX)?);
                for algorithm in ["sha256", "sha384", "sha512"] {
                    let folder = format!("blobs/{algorithm}");
                    for hex in self.names(&folder)? {
                        let name = format!("{folder}/{hex}");
                        if Digest::parse(&format!("{algorithm}:{hex}")).is_ok() {
                            files.push(self.file(&name, &name)?);
                        }
                    }
                }
            }
            FolderKind::Directory => {
                files.push(self.file(docker::MANIFEST, docker::MANIFEST)?);
                for hex in self.names(".")? {
                    if let Ok(digest) = Digest::parse(&format!("sha256:{hex}")) {
                        files.push(self.file(&hex, &blob_name(&digest))?);
                    }
                }
            }
        }
        Ok(files)
    }

    fn file(&self, path: &str, name: &str) -> Result<FolderFile, ArchiveError> {
        let shown = self.path.join(path);
        let content = match beneath(self.root.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file).map_err(failed("read", &shown))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(failed("read", &shown)(Errno::INVAL));
                }
                FolderContent::File(File::from(file))
            }
            Err(Errno::LOOP) => {
                let target = readlinkat(&self.root, path, Vec::new()).map_err(failed("read", &shown))?;
                FolderContent::Link(beside(name, target.to_bytes())?)
            }
            Err(errno) => return Err(failed("open", &shown)(errno)),
        };
        Ok(FolderFile { name: name.to_owned(), path: shown, content })
    }

    /// Names in a folder, sorted; none where there is no such folder.
    fn names(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let shown = self.path.join(folder);
        let opened = match beneath(self.root.as_fd(), folder, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            other => other.map_err(failed("open", &shown))?,
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&opened).map_err(failed("list", &shown))? {
            let entry = entry.map_err(failed("list", &shown))?;
            // Digests are ASCII; whatever is not UTF-8 is none.
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> ArchiveError {
    let path = path.to_owned();
    move |errno| ArchiveError::Folder { action, path, source: io::Error::from(errno) }
}

fn beneath(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn is_directory_transport(root: BorrowedFd<'_>) -> bool {
    let Ok(file) = beneath(root, VERSION, OFlags::RDONLY | OFlags::NONBLOCK) else { return false };
    let mut text = String::new();
    let read = File::from(file).take(64).read_to_string(&mut text);
    let name = DIR_VERSION.split(':').next().unwrap_or_default();
    read.is_ok() && text.starts_with(name)
}
