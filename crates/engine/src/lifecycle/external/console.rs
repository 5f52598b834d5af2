//! The socket at which another OCI runtime hands over the terminal that it has made (`--console-socket`).
//!
//! The runtime connects, sends one message with the terminal's master (unix(7), SCM_RIGHTS), and goes on. Its command has
//! ended before anybody looks here, and what it has sent waits in the socket: so nothing here ever waits.
//!
//! `sun_path` holds 108 bytes, fewer than a state folder's path may have: both sides go by way of a descriptor of the
//! folder in this process, which for the runtime is `/proc/<pid>/fd/<number>`.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use hull_kernel::terminal::is_terminal;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// A bound socket; its file goes when it is dropped.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    folder: File,
    name: String,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Binds `name` in `folder`.
    ///
    /// # Errors
    /// Those of the folder and of bind(2).
    pub(super) fn bind(folder: &Path, name: String) -> io::Result<ConsoleSocket> {
        match fs::remove_file(folder.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let folder = File::open(folder)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?;
        listener.set_nonblocking(true)?;
        Ok(ConsoleSocket { folder, name, listener })
    }

    /// Where a process that this one starts finds it.
    pub(super) fn path(&self) -> PathBuf {
        let own = rustix::process::getpid();
        PathBuf::from(format!("/proc/{own}/fd/{}/{}", self.folder.as_raw_fd(), self.name))
    }

    /// Takes the terminal that was sent.
    ///
    /// # Errors
    /// When none was, or when it is none.
    pub(super) fn receive(&self) -> io::Result<OwnedFd> {
        let (socket, _) = self.listener.accept()?;
        let mut byte = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let master = descriptors.flatten().next().ok_or(io::ErrorKind::UnexpectedEof)?;
        if is_terminal(&master) { Ok(master) } else { Err(rustix::io::Errno::NOTTY.into()) }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // The folder goes with the container; a socket that stays in it until then hurts nobody.
        let _ = fs::remove_file(format!("/proc/self/fd/{}/{}", self.folder.as_raw_fd(), self.name));
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use rustix::pty::{OpenptFlags, openpt};

    use super::*;

    fn send(path: &Path, fd: impl AsFd) {
        let socket = UnixStream::connect(path).unwrap();
        let descriptors = [fd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&socket, &[IoSlice::new(b"/dev/ptmx")], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    #[test]
    fn a_terminal_arrives_however_long_the_folders_path_is() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(120));
        fs::create_dir(&deep).unwrap();
        let socket = ConsoleSocket::bind(&deep, "console.sock".to_owned()).unwrap();
        assert!(socket.receive().is_err(), "nothing was sent");
        send(&socket.path(), openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
        assert!(is_terminal(socket.receive().unwrap()));
        send(&socket.path(), File::open("/dev/null").unwrap());
        assert!(socket.receive().is_err(), "not a terminal");
        drop(socket);
        assert!(!deep.join("console.sock").exists());
    }
}
