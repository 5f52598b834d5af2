//! Where blocks and inodes go.
//!
//! Blocks are given out in ascending order. Inodes share blocks: a few are open at a time, an inode goes into the one
//! that it fills best, and when it fits in none, the fullest is closed for a new one. Deciding is apart from writing, so
//! that a copy of this can tell where everything will be before it is written.

use super::format::{BLOCK_BYTES, INODE_SLOT_BYTES};

/// How many blocks of inodes are open at once.
pub(super) const OPEN_BLOCKS: usize = 4;

/// A block of inodes that has room.
#[derive(Debug, Clone, Copy)]
struct Open {
    block: u64,
    used: usize,
}

/// What is taken and what is open.
#[derive(Debug, Clone)]
pub(super) struct Space {
    next: u64,
    open: [Option<Open>; OPEN_BLOCKS],
}

/// A place for an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// Which of the open blocks.
    pub slot: usize,
    /// Number of that block.
    pub block: u64,
    /// Where in it.
    pub offset: usize,
    /// Set when the block has just been opened: the one that was closed for it, if there was one.
    pub opened: Option<Option<u64>>,
}

impl Spot {
    /// Number of an inode that stands here.
    pub fn nid(&self) -> u64 {
        (self.block * BLOCK_BYTES as u64 + self.offset as u64) / INODE_SLOT_BYTES as u64
    }
}

impl Space {
    /// Everything from block `next` on is free.
    pub fn new(next: u64) -> Space {
        Space { next, open: [None; OPEN_BLOCKS] }
    }

    /// The first block that nobody has.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes blocks in a row and returns the first one's number.
    pub fn take(&mut self, blocks: u64) -> u64 {
        let first = self.next;
        self.next += blocks;
        first
    }

    /// A place for `length` bytes, at most a block.
    pub fn place(&mut self, length: usize) -> Spot {
        let left = |open: &Option<Open>| open.map_or(0, |open| BLOCK_BYTES - open.used);
        let fitting = (0..OPEN_BLOCKS).filter(|slot| left(&self.open[*slot]) >= length);
        if let Some(slot) = fitting.min_by_key(|slot| left(&self.open[*slot]))
            && let Some(open) = &mut self.open[slot]
        {
            let spot = Spot { slot, block: open.block, offset: open.used, opened: None };
            open.used = (open.used + length).next_multiple_of(INODE_SLOT_BYTES);
            return spot;
        }
        let slot = (0..OPEN_BLOCKS).min_by_key(|slot| left(&self.open[*slot])).unwrap_or(0);
        let block = self.take(1);
        let used = length.next_multiple_of(INODE_SLOT_BYTES);
        let closed = self.open[slot].replace(Open { block, used });
        Spot { slot, block, offset: 0, opened: Some(closed.map(|open| open.block)) }
    }

    /// Numbers of the open blocks, by slot.
    pub fn open(&self) -> impl Iterator<Item = (usize, u64)> {
        self.open.iter().enumerate().filter_map(|(slot, open)| open.map(|open| (slot, open.block)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_goes_where_it_fills_best() {
        let mut space = Space::new(1);
        let large = space.place(4000);
        assert_eq!((large.block, large.offset, large.opened), (1, 0, Some(None)));
        let half = space.place(2000);
        assert_eq!((half.block, half.opened), (2, Some(None)));
        let small = space.place(90);
        assert_eq!((small.block, small.offset), (1, 4000), "the block with the least room that suffices");
        let next = space.place(100);
        assert_eq!((next.block, next.offset, next.nid()), (2, 2016, (2 * 4096 + 2016) / 32));
        assert_eq!(space.take(3), 3);
        let after = space.place(3000);
        assert_eq!((after.block, after.opened), (6, Some(Some(1))), "the fullest gives way");
        assert_eq!([4000, 4000].map(|length| space.place(length).block), [7, 8]);
        assert_eq!(space.open().map(|(_, block)| block).collect::<Vec<_>>(), [6, 2, 7, 8]);
    }
}
