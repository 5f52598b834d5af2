//! The content of a directory: blocks of entries followed by their names, sorted within and across blocks.

use super::format::{BLOCK_BYTES, DIRENT_BYTES, FileKind, dirent};

/// One name and the inode that it leads to.
pub(super) type Entry<'n> = (&'n [u8], u64, FileKind);

/// Splits sorted entries into those of each block.
pub(super) fn blocks<'e, 'n>(entries: &'e [Entry<'n>]) -> Vec<&'e [Entry<'n>]> {
    let (mut blocks, mut begin, mut used) = (Vec::new(), 0, 0);
    for (index, (name, ..)) in entries.iter().enumerate() {
        let length = DIRENT_BYTES + name.len();
        if used + length > BLOCK_BYTES {
            blocks.push(&entries[begin..index]);
            (begin, used) = (index, 0);
        }
        used += length;
    }
    blocks.push(&entries[begin..]);
    blocks
}

/// Bytes that a block's entries take.
pub(super) fn length(block: &[Entry<'_>]) -> usize {
    block.iter().map(|(name, ..)| DIRENT_BYTES + name.len()).sum()
}

/// A block's entries as bytes, without what pads the block.
pub(super) fn encode(block: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    let mut name_offset = block.len() * DIRENT_BYTES;
    for (name, nid, kind) in block {
        bytes.extend_from_slice(&dirent(*nid, name_offset as u16, *kind));
        name_offset += name.len();
    }
    block.iter().for_each(|(name, ..)| bytes.extend_from_slice(name));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_as_many_entries_as_fit() {
        let names: Vec<String> = (0..1000).map(|number| format!("name-{number:04}-{}", "x".repeat(90))).collect();
        let entries: Vec<Entry<'_>> = names.iter().map(|name| (name.as_bytes(), 1, FileKind::Regular)).collect();
        let blocks = blocks(&entries);
        assert_eq!(blocks.iter().map(|block| block.len()).sum::<usize>(), 1000);
        let one = DIRENT_BYTES + names[0].len();
        assert!(
            blocks[..blocks.len() - 1].iter().all(|block| (BLOCK_BYTES - one..=BLOCK_BYTES).contains(&length(block)))
        );
        assert_eq!(encode(blocks[0]).len(), length(blocks[0]));
    }
}
