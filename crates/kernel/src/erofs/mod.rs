//! EROFS images: one file that is a read-only file system (Linux fs/erofs/erofs_fs.h, Documentation/filesystems/erofs.rst).
//!
//! ```text
//! block 0      1024 bytes of nothing, superblock (128), root directory's inode
//! then, as it comes:
//!   data       whole blocks of files; directories' blocks last
//!   metadata   blocks of inodes, each with its extended attributes and, where it fits, the file's last part
//! ```
//!
//! [`ImageWriter`] makes one in a single pass: data goes out as it arrives, an inode follows it into a metadata block
//! that was given its place before, and only names and inode numbers stay in memory until the directories are written
//! at the end, followed by link counts and the superblock. Nothing is compressed; blocks are 4 KiB; inodes are the
//! extended ones of 64 bytes, none crosses a block. The metadata area begins at block 0, so that an inode number is its
//! byte offset / 32. What is all zeroes is not written but left as a hole of the image file. Equal input gives an equal
//! image. How images are mounted is [`crate::mounts::image`].

mod attributes;
mod directory;
mod format;
mod output;
mod reader;
mod space;
mod tree;
mod writer;

pub use attributes::Attributes;
pub use format::{BLOCK_BYTES, FileKind};
pub use reader::{RootAttributes, root_attributes};
pub use tree::NodeId;
pub use writer::{Extent, ImageWriter};
