//! `hull cp`: files between a container and the host, or a tar stream.
//!
//! ```text
//! source place ── pack ──> tar ──> extract ── destination place
//!                  ^ stdin            v stdout
//! ```
//!
//! Everything goes through one tar stream, so that the three kinds of ends need two programs, not nine. Paths inside a
//! container are resolved by the kernel inside its root (openat2(2)), as its own processes would see them: a running
//! container through its first process' root, a stopped one through its mounted root file system with its volumes, in
//! a mount namespace that ends with the copy. Docker's rules decide what a name means (a trailing slash, `/.`, existing
//! folders); without `-a` copies belong to root, with it to whom they belonged.

mod extract;
mod pack;
mod place;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::engine::Engine;
use crate::error::{EngineError, ErrorKind, kind_of};

use extract::{Extraction, Owners};
use pack::Packing;
use place::{Kind, Place};

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEnd {
    /// A path of the host.
    Host(PathBuf),
    /// A path inside a container.
    Container {
        /// The container.
        name: String,
        /// The path, relative to `/`.
        path: PathBuf,
    },
    /// A tar stream on stdin or stdout.
    Stream,
}

impl CopyEnd {
    /// Docker's reading: `-` is a stream, `name:path` a container unless it starts with `/` or `.`.
    pub fn parse(text: &str) -> CopyEnd {
        match text.split_once(':') {
            _ if text == "-" => CopyEnd::Stream,
            Some((name, path)) if !text.starts_with(['/', '.']) && !name.is_empty() => {
                CopyEnd::Container { name: name.to_owned(), path: PathBuf::from(path) }
            }
            _ => CopyEnd::Host(PathBuf::from(text)),
        }
    }
}

/// What to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRequest {
    /// Source.
    pub from: CopyEnd,
    /// Destination.
    pub to: CopyEnd,
    /// Keep owner and group (`-a`).
    pub archive: bool,
    /// Copy what a link points to when the source is one (`-L`).
    pub follow_link: bool,
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Bytes of file contents.
    pub bytes: u64,
}

/// Why nothing, or not everything, was copied.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the variants and their fields are")]
pub enum CopyError {
    #[error("copying between containers is not supported")]
    TwoContainers,
    #[error("must specify at least one container source or destination")]
    NoContainer,
    #[error("Could not find the file {} in container {name}", path.display())]
    NotInContainer { name: String, path: PathBuf },
    #[error("{} does not exist", path.display())]
    NotOnHost { path: PathBuf },
    #[error("cannot copy a directory to the file {}", path.display())]
    DirectoryToFile { path: PathBuf },
    #[error("{} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("the destination directory {} must exist", path.display())]
    NoDirectory { path: PathBuf },
    #[error("the copy would replace the directory {} by something else, or the other way round", path.display())]
    TypeMismatch { path: PathBuf },
    #[error("the archive has an entry outside its folder: {}", path.display())]
    Outside { path: PathBuf },
    #[error("the archive has an entry of an unknown kind: {}", path.display())]
    UnknownEntry { path: PathBuf },
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the tar stream is broken")]
    Stream(#[source] io::Error),
    #[error("{} is mounted read-only in the container", path.display())]
    ReadOnly { path: PathBuf },
}

impl CopyError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            CopyError::NotInContainer { .. } | CopyError::NotOnHost { .. } | CopyError::NoDirectory { .. } => {
                ErrorKind::NotFound
            }
            CopyError::File { source, .. } => kind_of(source),
            CopyError::Stream(_) => ErrorKind::Internal,
            CopyError::ReadOnly { .. } => ErrorKind::Permission,
            _ => ErrorKind::Invalid,
        }
    }

    fn file(action: &'static str, path: &Path, source: impl Into<io::Error>) -> CopyError {
        CopyError::File { action, path: path.to_owned(), source: source.into() }
    }
}

impl Engine {
    /// Copies files into or out of a container.
    ///
    /// # Errors
    /// [`EngineError::Copy`] and what finding the container can fail with.
    pub fn copy(
        &self,
        request: &CopyRequest,
        stdin: &mut (dyn Read + Send),
        stdout: &mut (dyn Write + Send),
    ) -> Result<CopyReport, EngineError> {
        let owners = if request.archive { Owners::Kept } else { Owners::Root };
        let follow = request.follow_link;
        match (&request.from, &request.to) {
            (CopyEnd::Container { .. }, CopyEnd::Container { .. }) => Err(CopyError::TwoContainers.into()),
            (CopyEnd::Container { name, path }, CopyEnd::Host(to)) => self.in_container(name, |root| {
                let source = Source::find(Place::container(root, name), path, follow)?;
                let target = Target::find(Place::host(), to, &source)?;
                transfer(&source, &target, owners)
            }),
            (CopyEnd::Container { name, path }, CopyEnd::Stream) => self.in_container(name, |root| {
                let source = Source::find(Place::container(root, name), path, follow)?;
                Packing::new(stdout).pack(&source, &source.name())
            }),
            (CopyEnd::Host(from), CopyEnd::Container { name, path }) => self.in_container(name, |root| {
                let source = Source::find(Place::host(), from, follow)?;
                let target = Target::find(Place::container(root, name), path, &source)?;
                transfer(&source, &target, owners)
            }),
            (CopyEnd::Stream, CopyEnd::Container { name, path }) => self.in_container(name, |root| {
                let folder = Target::folder(Place::container(root, name), path)?;
                Extraction::new(&folder, Owners::Kept).extract(stdin)
            }),
            _ => Err(CopyError::NoContainer.into()),
        }
    }
}

/// What is copied.
#[derive(Debug)]
pub(crate) struct Source {
    place: Place,
    path: PathBuf,
    is_directory: bool,
    /// Only what is in the directory: its path ends in `/.`.
    contents: bool,
}

impl Source {
    /// A link is followed when that was asked for or when its path says that it is a directory.
    fn find(place: Place, path: &Path, follow_link: bool) -> Result<Source, CopyError> {
        let text = path.as_os_str().as_encoded_bytes();
        let contents = text == b"." || text.ends_with(b"/.");
        let follow = follow_link || contents || text.ends_with(b"/");
        match place.kind(path, follow)? {
            None => Err(place.missing(path)),
            Some(Kind::Directory) => Ok(Source { place, path: path.to_owned(), is_directory: true, contents }),
            Some(_) if contents || text.ends_with(b"/") => Err(CopyError::NotADirectory { path: path.to_owned() }),
            Some(Kind::Link) => Ok(Source { place, path: path.to_owned(), is_directory: false, contents }),
            Some(Kind::Other) => {
                let path = if follow { place.real_path(path)? } else { path.to_owned() };
                Ok(Source { place, path, is_directory: false, contents })
            }
        }
    }

    /// Its own name, empty for the contents of a directory and for the root.
    fn name(&self) -> OsString {
        let last = self.path.file_name().map(OsStr::to_owned).unwrap_or_default();
        if self.contents { OsString::new() } else { last }
    }
}

/// Where a copy goes: a folder that exists, and the name in it; an empty name is the folder itself.
#[derive(Debug)]
pub(crate) struct Target {
    /// How far the host's ids are above those of the place.
    shift: u32,
    folder: OwnedFd,
    path: PathBuf,
    name: OsString,
}

impl Target {
    /// Docker's table: into an existing directory under the source's name (or, with `/.`, its contents); over an
    /// existing file; or under a new name in a directory that exists.
    fn find(place: Place, path: &Path, source: &Source) -> Result<Target, CopyError> {
        let wants_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        match place.kind(path, true)? {
            Some(Kind::Directory) => Target::open(&place, path.to_owned(), source.name()),
            Some(_) if source.is_directory => Err(CopyError::DirectoryToFile { path: path.to_owned() }),
            Some(_) if wants_directory => Err(CopyError::NotADirectory { path: path.to_owned() }),
            Some(_) => {
                let real = place.real_path(path)?;
                Target::named(&place, &real)
            }
            None if wants_directory && !source.is_directory => Err(CopyError::NoDirectory { path: path.to_owned() }),
            None => Target::named(&place, path),
        }
    }

    fn named(place: &Place, path: &Path) -> Result<Target, CopyError> {
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return Err(CopyError::NotADirectory { path: path.to_owned() });
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        match place.kind(&parent, true)? {
            Some(Kind::Directory) => Target::open(place, parent, name),
            Some(_) => Err(CopyError::NotADirectory { path: parent }),
            None => Err(CopyError::NoDirectory { path: parent }),
        }
    }

    /// The folder that a stream is unpacked into.
    fn folder(place: Place, path: &Path) -> Result<Target, CopyError> {
        match place.kind(path, true)? {
            Some(Kind::Directory) => Target::open(&place, path.to_owned(), OsString::new()),
            Some(_) => Err(CopyError::NotADirectory { path: path.to_owned() }),
            None => Err(place.missing(path)),
        }
    }

    fn open(place: &Place, path: PathBuf, name: OsString) -> Result<Target, CopyError> {
        Ok(Target { shift: place.shift(), folder: place.directory(&path)?, path, name })
    }
}

/// Packs in one thread and extracts in this one.
fn transfer(source: &Source, target: &Target, owners: Owners) -> Result<CopyReport, CopyError> {
    let (reader, mut writer) = io::pipe().map_err(CopyError::Stream)?;
    std::thread::scope(|scope| {
        let packer = scope.spawn(move || {
            let packed = Packing::new(&mut writer).pack(source, &target.name);
            drop(writer);
            packed
        });
        let extracted = Extraction::new(target, owners).extract(&mut { reader });
        let packed = packer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (packed, extracted) {
            // The reader gave up and said why.
            (Err(CopyError::Stream(_)), Err(error)) => Err(error),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(report)) => Ok(report),
        }
    })
}

#[cfg(test)]
mod tests;
