//! What the kernel knows about a namespace behind a descriptor (ioctl_ns(2)).
//!
//! Every namespace belongs to the user namespace in which its maker had rights, and whoever has rights there has them
//! over it (user_namespaces(7), "Interaction of user namespaces and other types of namespaces").

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `_IO(0xb7, 0x1)`.
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// The user namespace that owns a namespace.
///
/// # Errors
/// ioctl_ns(2)'s: `EPERM` when it is not one that this process can see, `ENOTTY` when `namespace` is none.
pub fn owner(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument; the kernel only looks at the descriptor.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this new descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn this_process_namespaces_have_an_owner_and_a_file_has_none() {
        let namespace = File::open("/proc/self/ns/net").unwrap();
        let owner = File::from(super::owner(namespace.as_fd()).unwrap());
        assert_eq!(owner.metadata().unwrap().dev(), namespace.metadata().unwrap().dev());
        let file = File::open("/proc/self/status").unwrap();
        assert_eq!(super::owner(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
