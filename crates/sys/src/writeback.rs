//! Bytes on their way to the disk before anybody waits for them: sync_file_range(2), which rustix lacks.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `SYNC_FILE_RANGE_WRITE`: begin writing what is not being written yet.
const BEGIN: libc::c_uint = 2;

/// Has the kernel begin to write a part of a file, and does not wait: a sync later finds less to do. It promises
/// nothing by itself.
///
/// # Errors
/// sync_file_range(2)'s.
pub fn begin(file: &File, from: u64, length: u64) -> io::Result<()> {
    let (from, length) = (from.cast_signed(), length.cast_signed());
    // SAFETY: the call takes numbers only.
    match unsafe { libc::syscall(libc::SYS_sync_file_range, file.as_raw_fd(), from, length, BEGIN) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_takes_it_and_a_pipe_does_not() {
        let path = std::env::temp_dir().join(format!("hull-writeback-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        begin(&file, 0, 100_000).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        assert!(begin(&File::from(std::os::fd::OwnedFd::from(reader)), 0, 1).is_err());
    }
}
