//! The heap of programs that are linked with musl.
//!
//! musl's own allocator maps and unmaps pages for every few objects: some thirty system calls of a short command, and the
//! page faults after them. Doug Lea's takes 64 kB at a time and keeps them. The C libraries in the program go on with
//! musl's.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::Dlmalloc;

static HEAP: Mutex<Dlmalloc> = Mutex::new(Dlmalloc::new());

/// What a program names as its `#[global_allocator]`.
pub struct Allocator;

fn heap() -> MutexGuard<'static, Dlmalloc> {
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

// Each of these is a call: link-time optimisation would put the whole of it wherever something is allocated.
// SAFETY: the heap is used under its lock, and its functions keep the contract for what they are given: blocks of the
// layout asked for, which come back with the same.
unsafe impl GlobalAlloc for Allocator {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: a layout has a size and an alignment that malloc takes.
        unsafe { heap().malloc(layout.size(), layout.align()) }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { heap().calloc(layout.size(), layout.align()) }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract the block is of this heap and has this layout.
        unsafe { heap().free(block, layout.size(), layout.align()) }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above, and the new size is one that a layout may have.
        unsafe { heap().realloc(block, layout.size(), layout.align(), new_size) }
    }
}

/// Returns what is free at the end of the heap to the kernel.
pub fn trim() {
    // SAFETY: only memory that is free is released.
    unsafe { heap().trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_grow_are_zeroed_and_come_back() {
        let layout = |size| Layout::from_size_align(size, 16).unwrap();
        // SAFETY: every block is used within its size, and given back with the layout that it has.
        unsafe {
            let first = Allocator.alloc(layout(100));
            first.write_bytes(7, 100);
            let grown = Allocator.realloc(first, layout(100), 1 << 20);
            assert!(std::slice::from_raw_parts(grown, 100).iter().all(|byte| *byte == 7));
            Allocator.dealloc(grown, layout(1 << 20));
            let zeroed = Allocator.alloc_zeroed(layout(100_000));
            assert!(std::slice::from_raw_parts(zeroed, 100_000).iter().all(|byte| *byte == 0));
            assert_eq!(zeroed as usize % 16, 0);
            Allocator.dealloc(zeroed, layout(100_000));
        }
        trim();
    }
}
