//! `create` and `run`: a bundle becomes a process, and the caller gets what it asked for of it.
//!
//! A container with a terminal needs someone who holds the other end: the receiver at `--console-socket`, or `run` in
//! the foreground itself. When handing out fails, the container is removed again.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hull_kernel::terminal;
use hull_oci::runtime::{ConsoleSize, Process, Spec};
use hull_runtime::container::{ContainerError, Containers, CreateRequest, New};
use hull_runtime::plan::Streams;
use hull_sys::signals;

use super::args::{BundleArgs, RunBundleArgs};
use super::foreground::{self, Foreground};
use super::inherited::Inherited;
use super::readiness::{self, Readiness};
use super::report::Log;
use super::{remove, sockets};
use crate::error::Failure;

/// Who holds the master of the container's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// There is no terminal.
    None,
    /// The receiver at `--console-socket`.
    Socket,
    /// This process.
    Foreground,
}

/// `create`.
///
/// # Errors
/// See [`Failure`]; nothing is left behind.
pub fn create(containers: &Containers, arguments: &BundleArgs) -> Result<(), Failure> {
    let inherited = Inherited::of_container(arguments.preserve_fds)?;
    let spec = Containers::read_spec(&arguments.bundle)?;
    let holder = holder_of(&spec, arguments, false)?;
    make(containers, &spec, arguments, holder, Kind { inherited, wait_for_start: true }).map(drop)
}

/// `start`.
///
/// # Errors
/// See [`Failure`].
pub fn start(containers: &Containers, id: &str) -> Result<(), Failure> {
    if !readiness::is_awaited() {
        return Ok(containers.start(id)?);
    }
    let readiness = Readiness::new(containers.hear_readiness(id)?)?;
    containers.start(id)?;
    match containers.first_process(id) {
        Ok((pid, pidfd)) => readiness.pass_on(pidfd.as_fd(), pid),
        // It has ended already.
        Err(ContainerError::NotRunning) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `run`; gives the exit code of the container's process, 0 when detached.
///
/// # Errors
/// See [`Failure`].
pub fn run(containers: &Containers, arguments: &RunBundleArgs, log: &Log) -> Result<u8, Failure> {
    let inherited = Inherited::of_container(arguments.bundle.preserve_fds)?;
    let kind = Kind { inherited, wait_for_start: false };
    let mut spec = Containers::read_spec(&arguments.bundle.bundle)?;
    let holder = holder_of(&spec, &arguments.bundle, !arguments.detach)?;
    if arguments.detach {
        let mut new = make(containers, &spec, &arguments.bundle, holder, kind)?;
        if let Some(inside) = new.readiness.take() {
            Readiness::new(inside)?.pass_on(new.pidfd.as_fd(), new.pid)?;
        }
        return Ok(0);
    }
    if let (Holder::Foreground, Some(process)) = (holder, &mut spec.process) {
        take_window_size(process);
    }
    // Blocked before the process exists, so that none is lost between its birth and the first wait.
    let _blocked = signals::block(&foreground::signals());
    let mut foreground = Foreground::prepare(!arguments.no_subreaper)?;
    let new = make(containers, &spec, &arguments.bundle, holder, kind)?;
    foreground.readiness = new.readiness.map(Readiness::new).transpose()?;
    let master = if holder == Holder::Foreground { new.terminal } else { None };
    let code = foreground.wait(new.pid, new.pidfd.as_fd(), master.as_ref());
    if !arguments.keep {
        remove(containers, &arguments.bundle.id, true, log)?;
    }
    code
}

/// A terminal and a holder for it go together.
///
/// # Errors
/// When one is there without the other.
pub(super) fn holder(has_terminal: bool, socket: Option<&Path>, foreground: bool) -> Result<Holder, Failure> {
    let refused = |text: &str| Err(Failure::Arguments(text.to_owned()));
    match (has_terminal, socket, foreground) {
        (false, None, _) => Ok(Holder::None),
        (true, Some(_), false) => Ok(Holder::Socket),
        (true, None, true) => Ok(Holder::Foreground),
        (true, None, false) => refused("cannot allocate tty if the runtime will detach without setting console socket"),
        (true, Some(_), true) | (false, Some(_), _) => {
            refused("cannot use console socket if the runtime will not detach or allocate tty")
        }
    }
}

/// The holder of a container's terminal.
fn holder_of(spec: &Spec, arguments: &BundleArgs, foreground: bool) -> Result<Holder, Failure> {
    let has_terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    holder(has_terminal, arguments.console_socket.as_deref(), foreground)
}

/// What create and run do differently.
#[derive(Clone, Copy)]
struct Kind {
    inherited: Inherited,
    wait_for_start: bool,
}

/// Makes the container and hands out what was asked for: pid file, terminal, pidfd.
fn make(
    containers: &Containers,
    spec: &Spec,
    arguments: &BundleArgs,
    holder: Holder,
    kind: Kind,
) -> Result<New, Failure> {
    let streams = match holder {
        Holder::None => Some(own_streams().map_err(Failure::stream("share the streams"))?),
        _ => None,
    };
    let request = CreateRequest {
        id: &arguments.id,
        bundle: &arguments.bundle,
        streams,
        wait_for_start: kind.wait_for_start,
        new_keyring: !arguments.no_new_keyring,
        no_pivot: arguments.no_pivot,
        kept_fds: kind.inherited.count(),
        env: kind.inherited.variables(),
        tells_readiness: readiness::is_awaited(),
    };
    let new = containers.create(spec, request)?;
    if let Err(failure) = hand_out(arguments, &new) {
        if let Err(error) = containers.delete(&arguments.id, true) {
            tracing::warn!(id = arguments.id, %error, "cannot remove the container again");
        }
        return Err(failure);
    }
    Ok(new)
}

pub(super) fn own_streams() -> io::Result<Streams> {
    let own = |fd: std::os::fd::BorrowedFd<'_>| -> io::Result<OwnedFd> { fd.try_clone_to_owned() };
    Ok(Streams {
        stdin: own(io::stdin().as_fd())?,
        stdout: own(io::stdout().as_fd())?,
        stderr: own(io::stderr().as_fd())?,
    })
}

/// A terminal in the foreground begins with the size of the caller's, unless the process has its own.
pub(super) fn take_window_size(process: &mut Process) {
    if let (None, Ok(size)) = (&process.console_size, terminal::window_size(io::stdin())) {
        process.console_size = Some(ConsoleSize { height: size.rows.into(), width: size.columns.into() });
    }
}

fn hand_out(arguments: &BundleArgs, new: &New) -> Result<(), Failure> {
    if let (Some(path), Some(terminal)) = (&arguments.console_socket, &new.terminal) {
        sockets::send(path, b"/dev/ptmx", terminal.as_fd()).map_err(Failure::path("send the terminal to", path))?;
    }
    if let Some(path) = &arguments.pidfd_socket {
        sockets::send(path, b"pidfd", new.pidfd.as_fd()).map_err(Failure::path("send the pidfd to", path))?;
    }
    match &arguments.pid_file {
        Some(path) => write_pid_file(path, new.pid).map_err(Failure::path("write", path)),
        None => Ok(()),
    }
}

/// Written under another name first, so that whoever waits for the file never reads half a number.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    let temporary = path.with_file_name(hidden);
    fs::write(&temporary, pid.to_string())?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_exactly_one_holder() {
        let of = |terminal, socket: Option<&str>, foreground| holder(terminal, socket.map(Path::new), foreground).ok();
        assert_eq!(of(false, None, true), Some(Holder::None));
        assert_eq!(of(true, None, true), Some(Holder::Foreground));
        assert_eq!(of(true, Some("/s"), false), Some(Holder::Socket));
        assert_eq!(of(true, None, false), None);
        assert_eq!(of(true, Some("/s"), true), None);
        assert_eq!(of(false, Some("/s"), false), None);
    }

    #[test]
    fn a_pid_file_holds_the_number_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        write_pid_file(&path, 4711).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
