//! The agent of a filter with `SCMP_ACT_NOTIFY`: whom the runtime hands the notification descriptor
//! (config-linux.md, "The Container Process State"; seccomp_unotify(2)).
//!
//! ```text
//! child                              parent (who said Start)              agent
//!   | seccomp(2)                          |                                 |
//!   | --- Listener(number), by write(2) ->|  pidfd_getfd(2)                 |
//!   |                                     | --- state, descriptor --------> |
//!   | <-- Continue, by read(2) ---------- |                                 |
//! ```
//!
//! Between loading the filter and the agent's having the descriptor the child makes one system call, write(2), which a
//! filter must therefore not hand to the agent; whatever comes after it the agent answers.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use hull_oci::runtime::{ContainerProcessState, LinuxSeccomp, OCI_VERSION, SECCOMP_FD_NAME, State, Status};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

/// The agent could not be given the descriptor.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The descriptor could not be taken from the child.
    #[error("taking the seccomp notification descriptor from process {pid}")]
    Take {
        /// The child.
        pid: i32,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Nobody listens there.
    #[error("linux.seccomp.listenerPath: connecting to {path}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The agent did not take it.
    #[error("linux.seccomp.listenerPath: sending to {path}")]
    Send {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The child has a listener that nobody asked for.
    #[error("process {0} sent a seccomp notification descriptor that has no listenerPath")]
    Unwanted(i32),
}

/// Whom to give the descriptor, and what to say.
#[derive(Debug, Clone)]
pub struct Listener {
    path: PathBuf,
    metadata: Option<String>,
    state: State,
}

impl Listener {
    /// Of a filter that has a path for it; `state` is the container's, without the process.
    pub(crate) fn of(seccomp: &LinuxSeccomp, state: State) -> Option<Listener> {
        let path = seccomp.listener_path.clone().filter(|path| !path.as_os_str().is_empty())?;
        Some(Listener { path, metadata: seccomp.listener_metadata.clone(), state })
    }

    /// Gives the container its id, which a spec does not know.
    pub(crate) fn set_id(&mut self, id: &str) {
        self.state.id = id.to_owned();
    }

    /// Takes descriptor `number` from the process and sends it to the agent with the state. The connection is for this
    /// one message.
    ///
    /// # Errors
    /// See [`ListenerError`].
    pub(crate) fn deliver(&self, process: BorrowedFd<'_>, pid: i32, number: RawFd) -> Result<(), ListenerError> {
        let listener = pidfd_getfd(process, number, PidfdGetfdFlags::empty())
            .map_err(|source| ListenerError::Take { pid, source })?;
        let agent =
            connected(&self.path).map_err(|source| ListenerError::Connect { path: self.path.clone(), source })?;
        // A container that was created has its process, whose pid is known by now.
        let state = State { pid: self.state.pid.or(Some(pid)), ..self.state.clone() };
        let message = ContainerProcessState {
            oci_version: OCI_VERSION.to_owned(),
            fds: vec![SECCOMP_FD_NAME.to_owned()],
            pid,
            metadata: self.metadata.clone(),
            state,
        };
        let failed = |source| ListenerError::Send { path: self.path.clone(), source };
        let bytes = serde_json::to_vec(&message).map_err(|_| failed(Errno::INVAL))?;
        send_all(agent.as_fd(), &bytes, listener.as_fd()).map_err(failed)
    }
}

fn connected(path: &Path) -> Result<std::os::fd::OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &address)?;
    Ok(socket)
}

/// Sends everything, the descriptor with the first part.
fn send_all(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let mut sent = 0;
    while sent < bytes.len() {
        let part = [IoSlice::new(&bytes[sent..])];
        match sendmsg(socket, &part, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(count) => {
                sent += count;
                ancillary.clear();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// State of a container that is only planned; who knows its id sets it.
pub(crate) fn planned_state(bundle: &Path, annotations: &std::collections::BTreeMap<String, String>) -> State {
    State {
        oci_version: OCI_VERSION.to_owned(),
        id: String::new(),
        status: Status::Creating,
        pid: None,
        bundle: std::path::absolute(bundle).unwrap_or_else(|_| bundle.to_path_buf()),
        annotations: annotations.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read, Write};
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::net::UnixListener;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    fn listener(path: &Path) -> Listener {
        let seccomp = LinuxSeccomp {
            listener_path: Some(path.to_path_buf()),
            listener_metadata: Some("for the agent".to_owned()),
            ..LinuxSeccomp::default()
        };
        let mut listener = Listener::of(&seccomp, planned_state(Path::new("/bundle"), &Default::default())).unwrap();
        listener.set_id("box");
        listener
    }

    #[test]
    fn an_agent_gets_one_state_and_one_descriptor() {
        let name = format!("hull-agent-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let agent = UnixListener::bind(&path).unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        listener(&path).deliver(this.as_fd(), 4711, write.as_raw_fd()).unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(write);
        let (mut connection, _) = agent.accept().unwrap();
        let mut bytes = vec![0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut part = [IoSliceMut::new(&mut bytes)];
        let count = recvmsg(&connection, &mut part, &mut ancillary, RecvFlags::empty()).unwrap().bytes;
        let fds: Vec<OwnedFd> = ancillary
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        let state: ContainerProcessState = serde_json::from_slice(&bytes[..count]).unwrap();
        assert_eq!((state.pid, state.metadata.as_deref()), (4711, Some("for the agent")));
        assert_eq!((state.fds.as_slice(), fds.len()), (&["seccompFd".to_owned()][..], 1));
        assert_eq!((state.state.id.as_str(), state.state.pid), ("box", Some(4711)));
        assert_eq!(connection.read(&mut [0]).unwrap(), 0, "the connection is closed");
        std::fs::File::from(fds.into_iter().next().unwrap()).write_all(b"x").unwrap();
        assert_eq!(read.read(&mut [0]).unwrap(), 1, "it was the descriptor asked for");
    }

    #[test]
    fn an_agent_that_is_not_there_is_named() {
        let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let error = listener(Path::new("/nowhere/agent")).deliver(this.as_fd(), 1, 0).unwrap_err();
        assert_eq!(error.to_string(), "linux.seccomp.listenerPath: connecting to /nowhere/agent");
    }
}
