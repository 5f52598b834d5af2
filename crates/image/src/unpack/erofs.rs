//! An image that a layer is put into ([`hull_kernel::erofs`]).
//!
//! The image's tree of names stands in for the file system: what is asked of it is answered with the same errors. All
//! deletions are links to one character device 0:0. What no entry describes (parents, deletions) belongs to root and has
//! the time 0, so that a layer always becomes the same image.

use std::fs::File;
use std::io::{self, Read};

use hull_kernel::erofs::{Attributes, Extent, FileKind, ImageWriter, NodeId};
use rustix::io::Errno;

use super::error::UnpackError;
use super::header::Entry;
use super::target::{Content, Fault, Found, Refusal, Target};

const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// The image.
pub(super) struct Erofs {
    writer: ImageWriter,
    /// What every deletion is.
    deletion: Option<NodeId>,
}

impl Erofs {
    /// Begins an image in an empty file.
    pub(super) fn new(file: File) -> Result<Self, UnpackError> {
        let writer = ImageWriter::new(file).map_err(|source| UnpackError::Folder { source })?;
        Ok(Self { writer, deletion: None })
    }

    /// `EEXIST` when a name is taken, before anything is written for it.
    fn check_free(&self, folder: NodeId, name: &[u8]) -> io::Result<()> {
        match self.writer.child(folder, name) {
            Some(_) => Err(Errno::EXIST.into()),
            None => Ok(()),
        }
    }

    fn directory(&mut self, folder: NodeId, name: &[u8], attributes: Attributes) -> io::Result<()> {
        self.check_free(folder, name)?;
        let directory = self.writer.directory(attributes)?;
        self.writer.link(folder, name, directory)
    }
}

impl Target for Erofs {
    type Folder = NodeId;
    type File = ();

    fn open(&self, path: &[u8]) -> Result<NodeId, Errno> {
        let components = path.split(|byte| *byte == b'/').filter(|component| !component.is_empty());
        let mut folder = self.writer.root();
        for name in components {
            folder = self.writer.child(folder, name).ok_or(Errno::NOENT)?;
            match self.writer.kind(folder) {
                FileKind::Directory => {}
                FileKind::Link => return Err(Errno::LOOP),
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(folder)
    }

    fn enter(&self, folder: &NodeId, name: &[u8]) -> Result<NodeId, Refusal> {
        self.writer.child(*folder, name).ok_or(Errno::NOENT).map_err(Refusal::of("open"))
    }

    fn look(&self, folder: &NodeId, name: &[u8]) -> Result<Found, Refusal> {
        let Some(node) = self.writer.child(*folder, name) else { return Ok(Found::Nothing) };
        Ok(match self.writer.kind(node) {
            FileKind::Directory => Found::Folder,
            FileKind::Link => Found::Link,
            _ if self.deletion == Some(node) => Found::Deletion,
            _ => Found::Other,
        })
    }

    fn link_target(&self, folder: &NodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        match self.writer.child(*folder, name) {
            Some(node) => self.writer.target(node).map_err(Refusal::of("follow a parent of")),
            None => Ok(None),
        }
    }

    fn remove(&mut self, folder: &NodeId, name: &[u8]) -> Result<(), Refusal> {
        self.writer.unlink(*folder, name);
        Ok(())
    }

    fn change_top(&mut self, entry: &Entry) -> Result<(), Refusal> {
        self.writer.change_directory(self.writer.root(), attributes(entry)).map_err(Refusal::of("change"))
    }

    fn make_parent(&mut self, folder: &NodeId, name: &[u8]) -> Result<(), Refusal> {
        let attributes = Attributes { mode: 0o755, ..Attributes::default() };
        self.directory(*folder, name, attributes).map_err(Refusal::of("make a parent of"))
    }

    fn make_folder(&mut self, folder: &NodeId, name: &[u8], _path: &[u8], entry: &Entry) -> Result<(), Refusal> {
        self.directory(*folder, name, attributes(entry)).map_err(Refusal::of("make"))
    }

    fn change_folder(&mut self, folder: &NodeId, name: &[u8], _path: &[u8], entry: &Entry) -> Result<(), Refusal> {
        let node = self.enter(folder, name)?;
        self.writer.change_directory(node, attributes(entry)).map_err(Refusal::of("change"))
    }

    fn make_opaque(&mut self, folder: &NodeId) -> Result<(), Refusal> {
        let mut mark = || -> io::Result<()> {
            let mut attributes = self.writer.directory_attributes(*folder)?.clone();
            attributes.xattrs = vec![(OPAQUE_ATTRIBUTE.to_owned(), b"y".to_vec())];
            self.writer.change_directory(*folder, attributes)
        };
        mark().map_err(Refusal::of("make opaque"))
    }

    fn mark_deleted(&mut self, folder: &NodeId, name: &[u8]) -> Result<(), Refusal> {
        let mut mark = || -> io::Result<()> {
            self.check_free(*folder, name)?;
            let deletion = match self.deletion {
                Some(deletion) => deletion,
                None => self.writer.special(&Attributes::default(), FileKind::CharacterDevice, (0, 0))?,
            };
            self.deletion = Some(deletion);
            self.writer.link(*folder, name, deletion)
        };
        mark().map_err(Refusal::of("mark as deleted"))
    }

    fn begin_file(&mut self, folder: &NodeId, name: &[u8], _entry: &Entry) -> Result<(), Refusal> {
        self.check_free(*folder, name).map_err(Refusal::of("make"))
    }

    fn fill_file<R: Read>(
        &mut self,
        (): (),
        folder: &NodeId,
        name: &[u8],
        content: &mut Content<'_, '_, R>,
    ) -> Result<(), Fault> {
        let entry = content.entry;
        let attributes = attributes(entry);
        let read = |room: &mut [u8]| content.read(room);
        let file = match &entry.extents {
            None => self.writer.file(&attributes, read)?,
            Some(extents) => {
                let extents = extents.iter().map(|part| Extent { offset: part.offset, length: part.length });
                self.writer.sparse_file(&attributes, entry.size, extents, read)?
            }
        };
        Ok(self.writer.link(*folder, name, file).map_err(Refusal::of("make"))?)
    }

    fn link(&mut self, from: &NodeId, from_name: &[u8], folder: &NodeId, name: &[u8]) -> Result<(), Refusal> {
        let node = self.enter(from, from_name)?;
        self.writer.link(*folder, name, node).map_err(Refusal::of("link"))
    }

    fn symbolic_link(&mut self, folder: &NodeId, name: &[u8], entry: &Entry) -> Result<(), Refusal> {
        let mut make = || -> io::Result<()> {
            self.check_free(*folder, name)?;
            let link = self.writer.symbolic_link(&attributes(entry), &entry.link)?;
            self.writer.link(*folder, name, link)
        };
        make().map_err(Refusal::of("make"))
    }

    fn node(&mut self, folder: &NodeId, name: &[u8], entry: &Entry) -> Result<(), Refusal> {
        let mut make = || -> io::Result<()> {
            self.check_free(*folder, name)?;
            let kind = match entry.kind {
                b'3' => FileKind::CharacterDevice,
                b'4' => FileKind::BlockDevice,
                _ => FileKind::Fifo,
            };
            let node = self.writer.special(&attributes(entry), kind, (entry.major, entry.minor))?;
            self.writer.link(*folder, name, node)
        };
        make().map_err(Refusal::of("make"))
    }

    fn finish(self) -> Result<(), UnpackError> {
        let finished = self.writer.finish().map(drop);
        finished.map_err(|source| UnpackError::Write { path: "/".to_owned(), action: "finish", source })
    }
}

fn attributes(entry: &Entry) -> Attributes {
    Attributes {
        mode: (entry.mode & 0o7777) as u16,
        uid: entry.uid,
        gid: entry.gid,
        mtime: (entry.mtime.0, u32::try_from(entry.mtime.1).unwrap_or(0)),
        xattrs: entry.xattrs.clone(),
    }
}
