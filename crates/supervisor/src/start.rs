//! Starting a supervisor: the lock, the socket, and the hand-over of descriptors at fixed numbers.
//!
//! ```text
//! caller: lock(state_dir)  listen(state_dir)  channel()          all before the fork, so that nothing races
//!   fork X ─ exec_supervisor ──────────────► hull-supervisor --id ID --root ROOT --state STATE [--client]
//!   fork W ─ LaunchSender ── fd 3 ──────────►  3 launch channel   4 lock   5 listening socket   6 first client
//! ```
//!
//! Whoever finds the lock free although `state.json` says that a container was launched, holds an orphan: with the lock
//! in hand it may [`spawn_adopter`], or, when the process is gone, record the end itself. All descriptors made here are
//! close-on-exec. Paths are passed as they are, so they must be absolute.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hull_sys::process::{ExecVectors, dup_above, execve, place_fd};
use rustix::fs::FlockOperation;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::protocol::SOCKET_FILE;

/// argv\[0\] of a supervisor, and its name in the process list.
pub const SUPERVISOR_NAME: &str = "hull-supervisor";
/// argv\[0\] of the short-lived processes that a supervisor starts.
pub const WORKER_NAME: &str = "hull-worker";
/// Name of the lock file in `<state>/<id>/`.
pub const LOCK_FILE: &str = "lock";

/// Descriptor numbers of a supervisor.
pub(crate) const LAUNCH_FD: RawFd = 3;
pub(crate) const LOCK_FD: RawFd = 4;
pub(crate) const LISTENER_FD: RawFd = 5;
pub(crate) const CLIENT_FD: RawFd = 6;

/// This binary, whatever its path is now.
pub(crate) const SELF_EXE: &CStr = c"/proc/self/exe";

/// What failed while preparing or starting a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The lock file could not be opened or locked.
    #[error("cannot lock {path}: {source}", path = path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket could not be bound.
    #[error("cannot listen on {path}: {source}", path = path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket pair could not be made.
    #[error("cannot make a socket pair: {0}")]
    Channel(#[source] io::Error),
    /// The process could not be started.
    #[error("cannot start a supervisor: {0}")]
    Spawn(#[source] io::Error),
}

/// Takes the lock of a container; `None` when its supervisor (or another adopter) holds it.
///
/// The lock lives as long as any duplicate of the descriptor, also in other processes.
///
/// # Errors
/// [`StartError::Lock`], of the kind `NotFound` when the folder is being removed by somebody else.
pub fn lock(state_dir: &Path) -> Result<Option<OwnedFd>, StartError> {
    let path = state_dir.join(LOCK_FILE);
    let failed = |source| StartError::Lock { path: path.clone(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Removed between open and lock, it is a file that nobody sees.
        Ok(()) if !is_at(&file, &path) => Err(failed(io::ErrorKind::NotFound.into())),
        Ok(()) => Ok(Some(file.into())),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::stat(path)) {
        (Ok(held), Ok(seen)) => (held.st_dev, held.st_ino) == (seen.st_dev, seen.st_ino),
        _ => false,
    }
}

/// Binds the supervisor's socket in a container's folder and listens; a left-over socket is replaced.
///
/// Call it with the container's lock in hand.
///
/// # Errors
/// [`StartError::Listen`].
pub fn listen(state_dir: &Path) -> Result<OwnedFd, StartError> {
    bind(state_dir).map_err(|source| StartError::Listen { path: state_dir.join(SOCKET_FILE), source })
}

fn bind(state_dir: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(state_dir.join(SOCKET_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_dir, address) = socket_address(state_dir)?;
    let socket = seqpacket_socket()?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

pub(crate) fn seqpacket_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The socket's address by way of an open descriptor of its folder, because `sun_path` holds only 108 bytes.
pub(crate) fn socket_address(state_dir: &Path) -> io::Result<(fs::File, SocketAddrUnix)> {
    let dir = fs::File::open(state_dir)?;
    let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd());
    Ok((dir, SocketAddrUnix::new(path)?))
}

/// A connected pair of SOCK_SEQPACKET sockets: a launch channel, or a first client.
///
/// # Errors
/// [`StartError::Channel`].
pub fn channel() -> Result<(OwnedFd, OwnedFd), StartError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| StartError::Channel(errno.into()))
}

/// Which container a supervisor is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupervisorArgs {
    /// The container's id.
    pub id: String,
    /// The root folder (`/var/lib/hull`); absolute.
    pub root: PathBuf,
    /// The state folder (`/run/hull`); absolute.
    pub state: PathBuf,
}

impl SupervisorArgs {
    /// `<state>/<id>`.
    pub fn state_dir(&self) -> PathBuf {
        self.state.join(&self.id)
    }

    /// `<root>/containers/<id>`.
    pub fn container_dir(&self) -> PathBuf {
        self.root.join("containers").join(&self.id)
    }

    fn argv(&self, flag: Option<&'static str>) -> Vec<&OsStr> {
        let mut argv: Vec<&OsStr> = vec![
            SUPERVISOR_NAME.as_ref(),
            "--id".as_ref(),
            self.id.as_ref(),
            "--root".as_ref(),
            self.root.as_os_str(),
            "--state".as_ref(),
            self.state.as_os_str(),
        ];
        argv.extend(flag.map(OsStr::new));
        argv
    }
}

/// The descriptors that a new supervisor inherits.
#[derive(Debug)]
pub struct Handover {
    /// The supervisor's end of the launch channel.
    pub launch: OwnedFd,
    /// The container's lock, from [`lock`].
    pub lock: OwnedFd,
    /// The listening socket, from [`listen`].
    pub listener: OwnedFd,
    /// The supervisor's end of a first client's connection: attached to session 0, in the foreground.
    pub client: Option<OwnedFd>,
}

/// Turns this process into the supervisor; returns only when that failed.
///
/// The process must be single-threaded and have nothing left to do (a fresh fork): descriptors 3 to 6 are replaced.
pub fn exec_supervisor(args: &SupervisorArgs, handover: Handover) -> io::Error {
    match place_and_exec(args, &handover) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn place_and_exec(args: &SupervisorArgs, handover: &Handover) -> io::Result<std::convert::Infallible> {
    let flag = handover.client.as_ref().map(|_| "--client");
    let vectors = vectors(&args.argv(flag))?;
    let mut placed: Vec<(BorrowedFd<'_>, RawFd)> = vec![
        (handover.launch.as_fd(), LAUNCH_FD),
        (handover.lock.as_fd(), LOCK_FD),
        (handover.listener.as_fd(), LISTENER_FD),
    ];
    placed.extend(handover.client.as_ref().map(|client| (client.as_fd(), CLIENT_FD)));
    let moved: Vec<(OwnedFd, RawFd)> = placed
        .into_iter()
        .map(|(fd, number)| Ok((dup_above(fd, CLIENT_FD + 1)?, number)))
        .collect::<io::Result<_>>()?;
    for (fd, number) in &moved {
        place_fd(fd.as_fd(), *number)?;
    }
    Err(execve(SELF_EXE, &vectors))
}

/// Starts a supervisor for a container that runs without one; gives it the lock that the caller has taken.
///
/// Returns its process id. It is the caller's child until the caller ends; it takes no notice of that.
///
/// # Errors
/// [`StartError`].
pub fn spawn_adopter(args: &SupervisorArgs, lock: OwnedFd) -> Result<i32, StartError> {
    let listener = listen(&args.state_dir())?;
    let vectors = vectors(&args.argv(Some("--adopt"))).map_err(StartError::Spawn)?;
    let descriptors = [(lock.as_fd(), LOCK_FD), (listener.as_fd(), LISTENER_FD)];
    hull_sys::spawn::spawn(SELF_EXE, &vectors, &descriptors).map_err(StartError::Spawn)
}

/// Arguments, and the part of the environment that this binary's processes use. The rest is the user's and may be
/// large or secret: it must not stay in the memory of a process that lives for weeks.
pub(crate) fn vectors(args: &[&OsStr]) -> io::Result<ExecVectors> {
    let wanted = |name: &OsStr| {
        let name = name.as_bytes();
        matches!(name, b"PATH" | b"HOME" | b"RUST_BACKTRACE") || name.starts_with(b"HULL_") || name.starts_with(b"XDG_")
    };
    let env: Vec<OsString> = std::env::vars_os()
        .filter(|(name, _)| wanted(name))
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        })
        .collect();
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    let env: Vec<&[u8]> = env.iter().map(|variable| variable.as_bytes()).collect();
    ExecVectors::new(&args, &env)
}

/// The supervisor's own reading of its command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    pub(crate) args: SupervisorArgs,
    pub(crate) client: bool,
    pub(crate) adopt: bool,
}

impl CommandLine {
    /// Parses the arguments after argv\[0\]; the text of a failure names the argument.
    pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<CommandLine, String> {
        let (mut id, mut root, mut state) = (None, None, None);
        let (mut client, mut adopt) = (false, false);
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--client") => client = true,
                Some("--adopt") => adopt = true,
                Some("--id") => id = args.next(),
                Some("--root") => root = args.next(),
                Some("--state") => state = args.next(),
                _ => return Err(format!("unknown argument {arg:?}")),
            }
        }
        let id =
            id.and_then(|id| id.into_string().ok()).filter(|id| is_plain_name(id)).ok_or("--id is missing or bad")?;
        let folder = |name: &str, value: Option<OsString>| {
            let folder = PathBuf::from(value.ok_or(format!("{name} is missing"))?);
            if folder.is_absolute() { Ok(folder) } else { Err(format!("{name} is not absolute")) }
        };
        let args = SupervisorArgs { id, root: folder("--root", root)?, state: folder("--state", state)? };
        Ok(CommandLine { args, client, adopt })
    }
}

fn is_plain_name(id: &str) -> bool {
    !id.is_empty() && !id.starts_with('.') && !id.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> SupervisorArgs {
        SupervisorArgs { id: "abc".into(), root: "/r".into(), state: "/s".into() }
    }

    #[test]
    fn the_command_line_survives_its_own_parser() {
        let parse = |argv: Vec<&OsStr>| CommandLine::parse(argv.into_iter().skip(1).map(OsStr::to_owned));
        let plain = parse(args().argv(None)).unwrap();
        assert_eq!(plain, CommandLine { args: args(), client: false, adopt: false });
        assert!(parse(args().argv(Some("--client"))).unwrap().client);
        assert!(parse(args().argv(Some("--adopt"))).unwrap().adopt);
        let bad_id = SupervisorArgs { id: "../x".into(), ..args() };
        assert!(parse(bad_id.argv(None)).is_err());
        let relative = SupervisorArgs { root: "r".into(), ..args() };
        assert_eq!(parse(relative.argv(None)), Err("--root is not absolute".into()));
        assert!(parse(args().argv(Some("--else"))).is_err());
    }

    #[test]
    fn the_lock_is_exclusive_and_the_socket_may_be_deep() {
        let base = std::env::temp_dir().join(format!("hull-start-{}", std::process::id()));
        let dir = base.join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&dir).unwrap();
        let held = lock(&dir).unwrap().unwrap();
        assert!(lock(&dir).unwrap().is_none());
        drop(held);
        assert!(lock(&dir).unwrap().is_some());
        let _first = listen(&dir).unwrap();
        let _second = listen(&dir).unwrap();
        assert!(dir.join(SOCKET_FILE).exists());
        fs::remove_dir_all(base).unwrap();
    }
}
