//! Memory of long-lived small processes: handing freed heap pages back, and closing inherited descriptors.
//!
//! A supervisor lives as long as its container and must not keep pages that one burst of output touched.

use std::io;
use std::os::fd::RawFd;

/// Returns the heap's free pages to the kernel (malloc_trim(3)).
pub fn trim() {
    #[cfg(target_env = "musl")]
    crate::allocator::trim();
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and only releases memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Closes every descriptor from `first` on (close_range(2)).
///
/// Call it once, at the start of a program, before anything in it owns a descriptor numbered `first` or above.
///
/// # Errors
/// close_range(2)'s.
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: by the contract above no value of this program owns one of the descriptors that are closed.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel give the stack its next pages in one step instead of one by one as they are reached: `bytes` of them,
/// below where the caller is (madvise(2), `MADV_POPULATE_WRITE`, since Linux 5.14). Where that fails they come one by one.
pub fn populate_stack(bytes: usize) {
    let here = 0_u8;
    let end = &raw const here as usize;
    populate(end.saturating_sub(bytes), end);
}

/// The same for the heap's next pages.
pub fn populate_heap(bytes: usize) {
    let block: Vec<u8> = Vec::with_capacity(bytes);
    let start = block.as_ptr() as usize;
    populate(start, start + bytes);
}

/// The whole pages between two addresses.
fn populate(start: usize, end: usize) {
    let page = rustix::param::page_size();
    let (start, end) = (start.next_multiple_of(page), end & !(page - 1));
    // SAFETY: pages that are there keep what they hold; where there is no mapping nothing happens.
    unsafe {
        libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_POPULATE_WRITE);
    }
}
