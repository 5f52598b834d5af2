//! An image in the making.
//!
//! Content first, then its inode, then a name for it: [`ImageWriter::file`] and its like write an inode,
//! [`ImageWriter::link`] gives it a name, and so more than one. Directories are made, changed and looked into like those
//! of a file system, and written by [`ImageWriter::finish`].

use std::fs::File;
use std::io;

use rustix::io::Errno;

use super::attributes::{Attributes, encode_xattrs};
use super::directory;
use super::format::{
    BLOCK_BYTES, FileKind, HOLE, INODE_BYTES, INODE_SLOT_BYTES, Inode, LINKS_OFFSET, Layout, SUPERBLOCK_BYTES,
    SUPERBLOCK_OFFSET, device_number, put_superblock,
};
use super::output::Output;
use super::space::{OPEN_BLOCKS, Space, Spot};
use super::tree::{NodeId, ROOT, Tree};

/// The root's inode is behind the superblock, where its number fits in the 16 bits that there are for it.
const ROOT_OFFSET: usize = SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES;
/// Most chunks that a file with holes is divided into; their size follows from it.
const CHUNKS_MAX: u64 = 1 << 16;
/// Longest target of a symbolic link (`PATH_MAX` with its NUL).
const TARGET_BYTES_MAX: usize = 4095;
/// Longest name.
const NAME_BYTES_MAX: usize = 255;

/// A part of a file that has content; the rest are zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// Writes an image.
#[derive(Debug)]
pub struct ImageWriter {
    out: Output,
    space: Space,
    /// Content of the open blocks of inodes.
    open: Box<[[u8; BLOCK_BYTES]; OPEN_BLOCKS]>,
    tree: Tree,
    has_chunks: bool,
}

impl ImageWriter {
    /// Begins an image in an empty file that can be read and written.
    ///
    /// # Errors
    /// Those of writing.
    pub fn new(file: File) -> io::Result<ImageWriter> {
        let mut out = Output::new(file);
        out.skip_to(BLOCK_BYTES as u64)?;
        let open = Box::new([[0; BLOCK_BYTES]; OPEN_BLOCKS]);
        Ok(ImageWriter { out, space: Space::new(1), open, tree: Tree::new(), has_chunks: false })
    }

    /// The top directory.
    pub fn root(&self) -> NodeId {
        ROOT
    }

    /// What a name in a directory leads to.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.tree.child(directory, name)
    }

    /// What a node is.
    pub fn kind(&self, node: NodeId) -> FileKind {
        self.tree.kind(node)
    }

    /// Gives a node a name, or another one.
    ///
    /// # Errors
    /// `EEXIST`, `ENAMETOOLONG`, `ENOTDIR`.
    pub fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) -> io::Result<()> {
        match () {
            () if name.len() > NAME_BYTES_MAX => Err(Errno::NAMETOOLONG.into()),
            () if self.kind(directory) != FileKind::Directory => Err(Errno::NOTDIR.into()),
            () if self.tree.link(directory, name, node) => Ok(()),
            () => Err(Errno::EXIST.into()),
        }
    }

    /// Takes a name away, with everything below it.
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        self.tree.unlink(directory, name);
    }

    /// A new directory without a name.
    ///
    /// # Errors
    /// setxattr(2)'s for its attributes.
    pub fn directory(&mut self, attributes: Attributes) -> io::Result<NodeId> {
        encode_xattrs(&attributes.xattrs, true)?;
        Ok(self.tree.add_directory(attributes))
    }

    /// Changes a directory; extended attributes that are not mentioned stay.
    ///
    /// # Errors
    /// setxattr(2)'s; `ENOTDIR`.
    pub fn change_directory(&mut self, node: NodeId, attributes: Attributes) -> io::Result<()> {
        let room = if node == ROOT { BLOCK_BYTES - ROOT_OFFSET } else { BLOCK_BYTES };
        let Some(directory) = self.tree.directory_mut(node) else { return Err(Errno::NOTDIR.into()) };
        let mut xattrs = directory.attributes.xattrs.clone();
        for (name, value) in attributes.xattrs {
            xattrs.retain(|(earlier, _)| *earlier != name);
            xattrs.push((name, value));
        }
        if INODE_BYTES + encode_xattrs(&xattrs, true)?.len() > room {
            return Err(Errno::NOSPC.into());
        }
        directory.attributes = Attributes { xattrs, ..attributes };
        Ok(())
    }

    /// Attributes of a directory as they are now.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn directory_attributes(&self, node: NodeId) -> io::Result<&Attributes> {
        let directory = self.tree.directory(node).ok_or(Errno::NOTDIR)?;
        Ok(&directory.attributes)
    }

    /// A regular file whose content is what `read` gives until it gives nothing.
    ///
    /// # Errors
    /// `read`'s, and those of writing.
    pub fn file<E: From<io::Error>>(
        &mut self,
        attributes: &Attributes,
        mut read: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<NodeId, E> {
        let xattrs = encode_xattrs(&attributes.xattrs, true)?;
        let mut size = 0;
        loop {
            let room = self.out.room()?;
            match read(room)? {
                0 => break,
                length => {
                    self.out.advance(length);
                    size += length as u64;
                }
            }
        }
        Ok(self.finish_content(FileKind::Regular, attributes, &xattrs, size)?)
    }

    /// The inode of content that has been appended: its last part goes behind the inode where it fits.
    fn finish_content(
        &mut self,
        kind: FileKind,
        attributes: &Attributes,
        xattrs: &[u8],
        size: u64,
    ) -> io::Result<NodeId> {
        let rest = (size % BLOCK_BYTES as u64) as usize;
        let is_inline = rest > 0 && INODE_BYTES + xattrs.len() + rest <= BLOCK_BYTES;
        let tail = if is_inline { self.out.take_back(rest) } else { Vec::new() };
        self.out.pad()?;
        let whole = size - tail.len() as u64;
        let first = self.space.take(whole.div_ceil(BLOCK_BYTES as u64));
        // A file without blocks has no first one.
        let first = if whole == 0 { HOLE } else { block_number(first)? };
        let layout = if is_inline { Layout::Inline(first) } else { Layout::Plain(first) };
        self.inode(kind, attributes, layout, size, xattrs, &tail)
    }

    /// A regular file of `size` bytes with holes: `read` gives the content of the extents, which ascend, end within the
    /// file, and do not overlap.
    ///
    /// # Errors
    /// `read`'s, and those of writing; `EFBIG` when the image would become larger than 16 TiB.
    pub fn sparse_file<E: From<io::Error>>(
        &mut self,
        attributes: &Attributes,
        size: u64,
        extents: impl IntoIterator<Item = Extent>,
        mut read: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<NodeId, E> {
        let xattrs = encode_xattrs(&attributes.xattrs, true)?;
        let block = BLOCK_BYTES as u64;
        let Some(bits) = (0..=31_u8).find(|bits| size.div_ceil(block << bits) <= CHUNKS_MAX) else {
            return Err(io::Error::from(Errno::FBIG).into());
        };
        let chunk_bytes = block << bits;
        let mut chunks = vec![HOLE; size.div_ceil(chunk_bytes) as usize];
        for Extent { mut offset, length } in extents {
            let end = offset + length;
            while offset < end {
                let (index, inside) = (offset / chunk_bytes, offset % chunk_bytes);
                let chunk = &mut chunks[index as usize];
                if *chunk == HOLE {
                    let taken = chunk_bytes.min(size - index * chunk_bytes).div_ceil(block);
                    let first = self.space.take(taken);
                    block_number(self.space.next())?;
                    *chunk = block_number(first)?;
                }
                let piece = (chunk_bytes - inside).min(end - offset);
                self.out.skip_to(u64::from(*chunk) * block + inside)?;
                self.copy(piece, &mut read)?;
                offset += piece;
            }
        }
        self.out.skip_to(self.space.next() * block)?;
        self.has_chunks = true;
        let map: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.to_le_bytes()).collect();
        Ok(self.inode(FileKind::Regular, attributes, Layout::Chunks(bits), size, &xattrs, &map)?)
    }

    /// Appends `length` bytes, or fewer when there are no more.
    fn copy<E: From<io::Error>>(
        &mut self,
        mut length: u64,
        read: &mut impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        while length > 0 {
            let room = self.out.room()?;
            let wanted = room.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let filled = read(&mut room[..wanted])?;
            if filled == 0 {
                break;
            }
            self.out.advance(filled);
            length -= filled as u64;
        }
        Ok(())
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// symlink(2)'s and setxattr(2)'s.
    pub fn symbolic_link(&mut self, attributes: &Attributes, target: &[u8]) -> io::Result<NodeId> {
        match target.len() {
            0 => return Err(Errno::NOENT.into()),
            length if length > TARGET_BYTES_MAX => return Err(Errno::NAMETOOLONG.into()),
            _ => {}
        }
        let attributes = Attributes { mode: 0o777, ..attributes.clone() };
        let xattrs = encode_xattrs(&attributes.xattrs, false)?;
        self.out.append(target)?;
        self.finish_content(FileKind::Link, &attributes, &xattrs, target.len() as u64)
    }

    /// A device, FIFO or socket.
    ///
    /// # Errors
    /// setxattr(2)'s; `EINVAL` for a device number that no device has.
    pub fn special(
        &mut self,
        attributes: &Attributes,
        kind: FileKind,
        (major, minor): (u32, u32),
    ) -> io::Result<NodeId> {
        let xattrs = encode_xattrs(&attributes.xattrs, false)?;
        let number = match kind {
            FileKind::CharacterDevice | FileKind::BlockDevice => device_number(major, minor).ok_or(Errno::INVAL)?,
            _ => 0,
        };
        self.inode(kind, attributes, Layout::Device(number), 0, &xattrs, &[])
    }

    /// Where a symbolic link leads; `None` when the node is something else.
    ///
    /// # Errors
    /// Those of reading.
    pub fn target(&self, node: NodeId) -> io::Result<Option<Vec<u8>>> {
        if self.kind(node) != FileKind::Link {
            return Ok(None);
        }
        let place = self.tree.nid(node) * INODE_SLOT_BYTES as u64;
        let mut inode = [0; INODE_BYTES];
        self.get(place, &mut inode)?;
        let word = |at: usize| u32::from_le_bytes([inode[at], inode[at + 1], inode[at + 2], inode[at + 3]]);
        let (layout, xattr_count) = (inode[0] >> 1, word(0) >> 16);
        let mut target = vec![0; word(8) as usize];
        let position = match layout {
            0 => u64::from(word(16)) * BLOCK_BYTES as u64,
            _ if xattr_count == 0 => place + INODE_BYTES as u64,
            _ => place + INODE_BYTES as u64 + 12 + u64::from(xattr_count - 1) * 4,
        };
        self.get(position, &mut target)?;
        Ok(Some(target))
    }

    /// Reads what has been written, from an open block where it is in one.
    fn get(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (block, offset) = (position / BLOCK_BYTES as u64, (position % BLOCK_BYTES as u64) as usize);
        match self.space.open().find(|(_, open)| *open == block) {
            Some((slot, _)) => {
                bytes.copy_from_slice(&self.open[slot][offset..offset + bytes.len()]);
                Ok(())
            }
            None => self.out.get(position, bytes),
        }
    }

    /// Writes an inode with what follows it, and knows it from now on.
    fn inode(
        &mut self,
        kind: FileKind,
        attributes: &Attributes,
        layout: Layout,
        size: u64,
        xattrs: &[u8],
        rest: &[u8],
    ) -> io::Result<NodeId> {
        let number = self.tree.inodes() + 1;
        let inode = inode_of(kind, attributes, layout, size, xattrs.len(), number);
        let parts = [&inode.encode()[..], xattrs, rest];
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let nid = if length <= BLOCK_BYTES {
            let spot = self.place(length)?;
            self.fill(&spot, &parts);
            spot.nid()
        } else {
            // Only the map of a file with holes is that long.
            let first = self.space.take(length.div_ceil(BLOCK_BYTES) as u64);
            parts.iter().try_for_each(|part| self.out.append(part))?;
            self.out.pad()?;
            first * (BLOCK_BYTES / INODE_SLOT_BYTES) as u64
        };
        Ok(self.tree.add_written(nid, kind))
    }

    /// Takes a place for an inode, writing the block that is closed for it.
    fn place(&mut self, length: usize) -> io::Result<Spot> {
        let spot = self.space.place(length);
        if let Some(closed) = spot.opened {
            if let Some(block) = closed {
                self.out.put(block * BLOCK_BYTES as u64, &self.open[spot.slot])?;
            }
            self.open[spot.slot].fill(0);
            self.out.skip_to((spot.block + 1) * BLOCK_BYTES as u64)?;
        }
        Ok(spot)
    }

    fn fill(&mut self, spot: &Spot, parts: &[&[u8]]) {
        let mut offset = spot.offset;
        for part in parts {
            self.open[spot.slot][offset..offset + part.len()].copy_from_slice(part);
            offset += part.len();
        }
    }

    /// Writes the directories and everything that had to wait for the end; returns the file.
    ///
    /// # Errors
    /// Those of writing; `EFBIG` when the image is larger than 16 TiB.
    pub fn finish(mut self) -> io::Result<File> {
        let order = self.tree.reachable();
        self.give_places(&order)?;
        let mut first_block = [0; BLOCK_BYTES];
        for id in &order {
            self.write_directory(*id, &mut first_block)?;
        }
        let open: Vec<(usize, u64)> = self.space.open().collect();
        for (slot, block) in open {
            self.out.put(block * BLOCK_BYTES as u64, &self.open[slot])?;
        }
        self.out.finish()?;
        for (nid, links) in self.tree.several_links() {
            self.out.put(nid * INODE_SLOT_BYTES as u64 + LINKS_OFFSET as u64, &links.to_le_bytes())?;
        }
        let root_nid = (ROOT_OFFSET / INODE_SLOT_BYTES) as u16;
        let (inodes, blocks) = (u64::from(self.tree.inodes()), block_number(self.space.next())?);
        put_superblock(&mut first_block, root_nid, inodes, blocks, self.has_chunks);
        self.out.put(0, &first_block)?;
        Ok(self.out.into_file())
    }

    /// Numbers all directories' inodes, with a copy of what will give them their places when they are written.
    fn give_places(&mut self, order: &[NodeId]) -> io::Result<()> {
        let mut space = self.space.clone();
        for id in order {
            let shape = self.shape(*id)?;
            space.take(shape.blocks);
            let nid = match *id {
                ROOT => (ROOT_OFFSET / INODE_SLOT_BYTES) as u64,
                _ => space.place(shape.inode_bytes()).nid(),
            };
            if let Some(directory) = self.tree.directory_mut(*id) {
                directory.nid = nid;
            }
        }
        Ok(())
    }

    fn shape(&self, id: NodeId) -> io::Result<Shape> {
        let directory = self.tree.directory(id).ok_or(Errno::NOTDIR)?;
        let xattr_bytes = encode_xattrs(&directory.attributes.xattrs, true)?.len();
        let entries = self.tree.entries(directory);
        let blocks = directory::blocks(&entries);
        let last = blocks.last().map_or(0, |block| directory::length(block));
        let room = if id == ROOT { BLOCK_BYTES - ROOT_OFFSET } else { BLOCK_BYTES };
        let is_inline = INODE_BYTES + xattr_bytes + last <= room;
        let whole = blocks.len() as u64 - 1;
        Ok(Shape {
            size: whole * BLOCK_BYTES as u64 + last as u64,
            blocks: if is_inline { whole } else { whole + 1 },
            xattr_bytes,
            tail_bytes: if is_inline { last } else { 0 },
        })
    }

    fn write_directory(&mut self, id: NodeId, first_block: &mut [u8; BLOCK_BYTES]) -> io::Result<()> {
        let shape = self.shape(id)?;
        let first = self.space.take(shape.blocks);
        let directory = self.tree.directory(id).ok_or(Errno::NOTDIR)?;
        let entries = self.tree.entries(directory);
        let mut tail = Vec::new();
        for (index, block) in directory::blocks(&entries).into_iter().enumerate() {
            let bytes = directory::encode(block);
            if (index as u64) < shape.blocks {
                self.out.append(&bytes)?;
                self.out.pad()?;
            } else {
                tail = bytes;
            }
        }
        let first = if shape.blocks == 0 { HOLE } else { block_number(first)? };
        let layout = if shape.tail_bytes > 0 { Layout::Inline(first) } else { Layout::Plain(first) };
        let xattrs = encode_xattrs(&directory.attributes.xattrs, true)?;
        let number = id.number();
        let mut inode = inode_of(FileKind::Directory, &directory.attributes, layout, shape.size, xattrs.len(), number);
        inode.links = self.tree.directory_links(directory);
        let inode = inode.encode();
        if id == ROOT {
            let all = [&inode[..], &xattrs, &tail].concat();
            first_block[ROOT_OFFSET..ROOT_OFFSET + all.len()].copy_from_slice(&all);
            return Ok(());
        }
        let spot = self.place(shape.inode_bytes())?;
        self.fill(&spot, &[&inode, &xattrs, &tail]);
        Ok(())
    }
}

/// How much room a directory takes.
struct Shape {
    size: u64,
    /// Blocks of its own.
    blocks: u64,
    xattr_bytes: usize,
    /// Bytes behind the inode.
    tail_bytes: usize,
}

impl Shape {
    fn inode_bytes(&self) -> usize {
        INODE_BYTES + self.xattr_bytes + self.tail_bytes
    }
}

fn inode_of(
    kind: FileKind,
    attributes: &Attributes,
    layout: Layout,
    size: u64,
    xattr_bytes: usize,
    number: u32,
) -> Inode {
    let Attributes { mode, uid, gid, mtime, .. } = *attributes;
    Inode { kind, mode, uid, gid, mtime, size, links: 1, number, layout, xattr_bytes }
}

/// Blocks have numbers of 32 bits, the last of which means a hole.
fn block_number(block: u64) -> io::Result<u32> {
    u32::try_from(block).ok().filter(|block| *block != HOLE).ok_or_else(|| Errno::FBIG.into())
}
