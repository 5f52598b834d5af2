//! The structures of an image as bytes, little-endian (erofs_fs.h).

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
/// Logarithm of [`BLOCK_BYTES`].
const BLOCK_BITS: u8 = 12;
/// Inodes begin at multiples of this.
pub(super) const INODE_SLOT_BYTES: usize = 32;
/// An extended inode without its attributes.
pub(super) const INODE_BYTES: usize = 64;
/// Where the superblock is.
pub(super) const SUPERBLOCK_OFFSET: usize = 1024;
pub(super) const SUPERBLOCK_BYTES: usize = 128;
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;
/// Where an inode keeps its link count.
pub(super) const LINKS_OFFSET: usize = 44;
/// A block that is a hole.
pub(super) const HOLE: u32 = u32::MAX;
/// A directory entry without its name.
pub(super) const DIRENT_BYTES: usize = 12;

const FEATURE_CHECKSUM: u32 = 1;
const FEATURE_MTIME: u32 = 2;
const FEATURE_CHUNKED_FILE: u32 = 4;

/// What an inode is, with the numbers that directory entries have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    Regular = 1,
    /// Directory.
    Directory = 2,
    /// Character device.
    CharacterDevice = 3,
    /// Block device.
    BlockDevice = 4,
    /// FIFO.
    Fifo = 5,
    /// Socket.
    Socket = 6,
    /// Symbolic link.
    Link = 7,
}

impl FileKind {
    /// The kind's bits of a mode (inode(7)).
    fn mode_bits(self) -> u16 {
        match self {
            FileKind::Regular => 0o100_000,
            FileKind::Directory => 0o040_000,
            FileKind::CharacterDevice => 0o020_000,
            FileKind::BlockDevice => 0o060_000,
            FileKind::Fifo => 0o010_000,
            FileKind::Socket => 0o140_000,
            FileKind::Link => 0o120_000,
        }
    }
}

/// How an inode's content is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// All of it in blocks from this one on.
    Plain(u32),
    /// Whole blocks from this one on, the rest behind the inode.
    Inline(u32),
    /// A map of chunks behind the inode; the logarithm of blocks in a chunk.
    Chunks(u8),
    /// A device and no content.
    Device(u32),
}

/// An inode as it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode {
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub size: u64,
    pub links: u32,
    /// What 32-bit programs see as its number.
    pub number: u32,
    pub layout: Layout,
    /// Bytes of its attributes, with their header.
    pub xattr_bytes: usize,
}

impl Inode {
    pub fn encode(&self) -> [u8; INODE_BYTES] {
        let (layout, union) = match self.layout {
            Layout::Plain(block) => (0, block),
            Layout::Inline(block) => (2, block),
            Layout::Chunks(bits) => (4, u32::from(bits)),
            Layout::Device(number) => (0, number),
        };
        // One for the header of 12 bytes, one for each 4 bytes after it.
        let xattr_count = if self.xattr_bytes == 0 { 0 } else { 1 + (self.xattr_bytes - 12) / 4 };
        let mut bytes = [0; INODE_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        // Bit 0: an extended inode.
        put(0, &(1_u16 | layout << 1).to_le_bytes());
        put(2, &(xattr_count as u16).to_le_bytes());
        put(4, &(self.kind.mode_bits() | self.mode & 0o7777).to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &union.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(24, &self.uid.to_le_bytes());
        put(28, &self.gid.to_le_bytes());
        put(32, &self.mtime.0.to_le_bytes());
        put(40, &self.mtime.1.to_le_bytes());
        put(LINKS_OFFSET, &self.links.to_le_bytes());
        bytes
    }
}

/// A device number as inodes have it (`new_encode_dev`); `None` when it is out of range.
pub(super) fn device_number(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// One directory entry without its name.
pub(super) fn dirent(nid: u64, name_offset: u16, kind: FileKind) -> [u8; DIRENT_BYTES] {
    let mut bytes = [0; DIRENT_BYTES];
    bytes[..8].copy_from_slice(&nid.to_le_bytes());
    bytes[8..10].copy_from_slice(&name_offset.to_le_bytes());
    bytes[10] = kind as u8;
    bytes
}

/// Writes the superblock into block 0, which must have everything else already: the checksum covers the block from the
/// superblock on.
pub(super) fn put_superblock(block: &mut [u8; BLOCK_BYTES], root_nid: u16, inodes: u64, blocks: u32, has_chunks: bool) {
    let superblock = &mut block[SUPERBLOCK_OFFSET..];
    superblock[..SUPERBLOCK_BYTES].fill(0);
    let incompatible = if has_chunks { FEATURE_CHUNKED_FILE } else { 0 };
    let mut put = |at: usize, field: &[u8]| superblock[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC.to_le_bytes());
    put(8, &(FEATURE_CHECKSUM | FEATURE_MTIME).to_le_bytes());
    put(12, &[BLOCK_BITS]);
    put(14, &root_nid.to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(80, &incompatible.to_le_bytes());
    let checksum = crc32c(superblock);
    superblock[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// CRC-32C (Castagnoli) from an initial value of all ones and not inverted at the end, as the kernel has it.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4, which inverts the result.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn device_numbers_are_spread_as_the_kernel_does() {
        for (major, minor, expected) in
            [(1, 3, Some(0x0103)), (259, 70_000, Some(0x1111_0370)), (4095, 0xf_ffff, Some(u32::MAX))]
        {
            assert_eq!(device_number(major, minor), expected);
        }
        assert_eq!((device_number(4096, 0), device_number(0, 1 << 20)), (None, None));
    }
}
