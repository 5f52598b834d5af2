//! Memory of long-lived small processes: handing freed heap pages back, and closing inherited descriptors.
//!
//! A supervisor lives as long as its container and must not keep pages that one burst of output touched.
//! Only glibc needs to be asked; musl returns large blocks by itself.

use std::io;
use std::os::fd::RawFd;

/// Returns the heap's free pages to the kernel (malloc_trim(3)); does nothing with a libc that lacks the call.
pub fn trim() {
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
