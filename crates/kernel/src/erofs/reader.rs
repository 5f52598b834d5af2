//! What has to be known of an image without mounting it: whose its root is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::format::{INODE_BYTES, INODE_SLOT_BYTES, MAGIC, SUPERBLOCK_OFFSET};

/// Owner and mode of an image's root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootAttributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Reads owner and mode of the root of an image that [`super::ImageWriter`] has made.
///
/// # Errors
/// pread(2)'s; `InvalidData` when it is no such image.
pub fn root_attributes(image: &File) -> io::Result<RootAttributes> {
    let mut superblock = [0; 16];
    image.read_exact_at(&mut superblock, SUPERBLOCK_OFFSET as u64)?;
    let mut inode = [0; INODE_BYTES];
    let root_nid = u16::from_le_bytes([superblock[14], superblock[15]]);
    image.read_exact_at(&mut inode, u64::from(root_nid) * INODE_SLOT_BYTES as u64)?;
    let word = |at: usize| u32::from_le_bytes([inode[at], inode[at + 1], inode[at + 2], inode[at + 3]]);
    let mode = word(4) & 0xffff;
    let is_extended = inode[0] & 1 == 1;
    if superblock[..4] != MAGIC.to_le_bytes() || !is_extended || mode & 0o170_000 != 0o040_000 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not an EROFS image"));
    }
    Ok(RootAttributes { mode: mode & 0o7777, uid: word(24), gid: word(28) })
}
