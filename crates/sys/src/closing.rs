//! Files whose last close(2) waits for something, closed by the kernel's own threads instead: io_uring(7).
//!
//! A ring holds references of the files that are registered with it (io_uring_register(2), `IORING_REGISTER_FILES`). When
//! the ring itself is closed, a worker of the kernel takes it apart and gives them up; nobody waits for that one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `IORING_REGISTER_FILES`.
const REGISTER_FILES: libc::c_uint = 2;
/// Size of `struct io_uring_params`, in 32-bit words; none of them asks for anything.
const PARAMETER_WORDS: usize = 30;

/// Has the kernel hold a file for a moment, so that it is the kernel that closes it last and the caller's own close does
/// not wait.
///
/// # Errors
/// io_uring_setup(2)'s and io_uring_register(2)'s, such as `EPERM` and `ENOSYS` where rings are not allowed: the file is
/// then the caller's alone, as before.
pub fn by_kernel(file: impl AsFd) -> io::Result<()> {
    let mut parameters = [0_u32; PARAMETER_WORDS];
    // SAFETY: the second argument is a struct io_uring_params that lives until the call returns.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    let ring = RawFd::try_from(ring).ok().filter(|ring| *ring >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    let ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let files = [file.as_fd().as_raw_fd()];
    // SAFETY: the third argument is an array of as many descriptors as the fourth says, and lives until the call returns.
    let registered =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_FILES, files.as_ptr(), 1) };
    if registered < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_is_closed_in_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        by_kernel(&writer).unwrap();
        drop(writer);
        // The end of the pipe comes with the last close of the writer, whoever does it.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
