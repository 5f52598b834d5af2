//! A container that tells when it is ready (sd_notify(3)): the socket that its program writes to.
//!
//! With a `NOTIFY_SOCKET` in the caller's environment, the container's folder gets a folder `notify` that is mounted into
//! the container at /run/notify, and the program finds the socket in it by its own `NOTIFY_SOCKET`, as with runc. The
//! caller of run or start listens there and passes the word on to whoever waits on the host.

use std::fs::{self, DirBuilder, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use hull_oci::runtime::{Mount, Spec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::{ContainerError, Containers, door};

const FOLDER: &str = "notify";
const SOCKET: &str = "notify.sock";
const INSIDE: &str = "/run/notify";

/// The variable that leads the program to the socket.
pub(super) fn variable() -> String {
    format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}")
}

/// Makes the folder and mounts it into the container.
pub(super) fn prepare(folder: &Path, spec: &Spec) -> Result<Spec, ContainerError> {
    let source = folder.join(FOLDER);
    DirBuilder::new().mode(0o755).create(&source).map_err(ContainerError::file("make", &source))?;
    let mut spec = spec.clone();
    spec.mounts.push(Mount {
        destination: INSIDE.into(),
        source: Some(source),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec(),
        ..Mount::default()
    });
    Ok(spec)
}

/// Makes the socket in a folder that was prepared.
pub(super) fn listen(folder: &Path) -> Result<OwnedFd, ContainerError> {
    let folder = folder.join(FOLDER);
    let make = || {
        let (_folder, address) = door::address(&folder, SOCKET)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &address)?;
        Ok(socket)
    };
    let path = folder.join(SOCKET);
    let socket = make().map_err(|errno: Errno| ContainerError::file("listen at", &path)(errno.into()))?;
    // Whoever the program runs as.
    fs::set_permissions(&path, Permissions::from_mode(0o777)).map_err(ContainerError::file("open to all", &path))?;
    Ok(socket)
}

impl Containers {
    /// Listens for the word of a created container's program that it is ready.
    ///
    /// # Errors
    /// When the container was not created with the socket, or somebody listens already.
    pub fn hear_readiness(&self, id: &str) -> Result<OwnedFd, ContainerError> {
        listen(&self.folder(id)?)
    }
}
