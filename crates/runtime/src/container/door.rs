//! Where a created container waits: a listening Unix socket in its folder, and the caller's side of it.
//!
//! The start command connects, says Start, and hears like a creator what fails until the program runs. Paths go
//! through a descriptor of the folder, because an address holds 107 bytes and folders are often longer (unix(7)).

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};

use super::ContainerError;
use crate::sync::Sync;

const SOCKET: &str = "start.sock";

/// The address of a socket in `folder`, good as long as the descriptor that comes with it.
pub(super) fn address(folder: &Path, name: &str) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?;
    Ok((folder, address))
}

fn socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Makes the socket that the container's process will listen at.
pub(super) fn open(folder: &Path) -> Result<OwnedFd, ContainerError> {
    let make = || {
        let (_folder, address) = address(folder, SOCKET)?;
        let socket = socket()?;
        bind(&socket, &address)?;
        listen(&socket, 1)?;
        Ok(socket)
    };
    make().map_err(|errno: Errno| ContainerError::file("listen at", &folder.join(SOCKET))(errno.into()))
}

/// Whether the container still waits.
pub(super) fn is_open(folder: &Path) -> bool {
    folder.join(SOCKET).exists()
}

/// Connects to the waiting process and closes the door behind: of two callers one gets through.
pub(super) fn enter(folder: &Path) -> Result<Sync, ContainerError> {
    let path = folder.join(SOCKET);
    let call = || {
        let (_folder, address) = address(folder, SOCKET)?;
        let socket = socket()?;
        connect(&socket, &address)?;
        Ok(socket)
    };
    let caller = match call() {
        Err(Errno::NOENT) => return Err(ContainerError::NotCreated("an already running container")),
        Err(Errno::CONNREFUSED) => return Err(ContainerError::NotCreated("a container that has stopped")),
        other => other.map_err(|errno| ContainerError::file("connect to", &path)(errno.into()))?,
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(ContainerError::NotCreated("an already running container"))
        }
        other => other.map_err(ContainerError::file("remove", &path)).map(|()| Sync::from_fd(caller)),
    }
}
