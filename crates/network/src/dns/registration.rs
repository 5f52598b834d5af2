//! How a container's sockets come to the resolver of its network, and how there always is one.
//!
//! ```text
//! <state>/<container>/names.json     what the container's resolver has to know; written before its process exists
//! <state>/names/<network>.lock       held by the network's resolver for as long as it lives
//! <state>/names/<network>.sock       where it is told of containers
//!
//! start of a container    makes the sockets, keeps duplicates ─┐
//! its supervisor, when the resolver has died ──────────────────┼─► hull-resolver ROOT STATE CONTAINER
//! an adopter, which has no sockets ────────────────────────────┘     3 liveness  4 pidfd  5, 6 sockets, if any
//!                                                                     │
//!                           the lock is free: it is the resolver ◄────┤
//!                           else: hands everything over to the one that is, and ends
//! ```
//! The other end of `liveness` is the supervisor's. Nothing is written to it but a resolver's duplicates of the sockets for
//! who came without; that it ends is how a supervisor learns that the resolver has died, and it then starts another in the
//! same way. The sockets are open meanwhile, and what is asked waits in them. All who lose the race for the lock find its
//! winner. A container that comes into a network while it runs is begun with by the command that connects it, and its
//! supervisor goes the adopter's way. A resolver keeps sockets while the container's process lives, which it sees by the pidfd: also when the
//! supervisor is killed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use hull_kernel::seqpacket;
use hull_store::Roots;
use hull_sys::memory::close_from;
use hull_sys::process::{ExecVectors, inherited_fd, place_fd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::listener::{ListenError, NameSockets};
use super::resolver::{self, Member};

/// argv\[0\] of a resolver, and its name in the process list.
pub const RESOLVER_NAME: &str = "hull-resolver";
/// Descriptor numbers of a resolver's beginning.
const LIVENESS_FD: RawFd = 3;
const PROCESS_FD: RawFd = 4;
const UDP_FD: RawFd = 5;
const TCP_FD: RawFd = 6;
/// How long is waited before the lock and the socket are tried again.
const PAUSE: Duration = Duration::from_millis(5);
/// Answers to a registration.
pub(super) const TAKEN: u8 = 1;
pub(super) const SOCKETS_WANTED: u8 = 2;
/// What goes before the duplicates of sockets.
const DUPLICATES: u8 = 3;
/// Longest message.
pub(super) const MESSAGE_BYTES: usize = 256;

/// `names.json`: what the resolver has to know of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The network whose resolver answers, by its id.
    pub network: String,
    /// The container's own servers, asked from its network in place of the host's.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// Whether names without a dot are not asked of others.
    #[serde(default)]
    pub plain_names_stay: bool,
}

impl Settings {
    /// Name of the file in `<state>/<container>/`.
    pub const FILE: &'static str = "names.json";

    /// Writes them, at once: whoever reads them, also after a kill, finds all of them or what was there before.
    ///
    /// # Errors
    /// [`RegistrationError::File`].
    pub fn write(&self, state: &Path) -> Result<(), RegistrationError> {
        let path = state.join(Settings::FILE);
        let temporary = state.join(format!("{}.{}", Settings::FILE, std::process::id()));
        let written = serde_json::to_vec(self).map_err(io::Error::from).and_then(|text| fs::write(&temporary, text));
        let written = written.and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|source| RegistrationError::File { action: "write", path, source })
    }

    /// Reads them; none of a container without a resolver.
    ///
    /// # Errors
    /// [`RegistrationError::File`].
    pub fn read(state: &Path) -> Result<Option<Settings>, RegistrationError> {
        let path = state.join(Settings::FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result,
        };
        let read = text.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
        read.map(Some).map_err(|source| RegistrationError::File { action: "read", path, source })
    }
}

/// A container that did not come to a resolver.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// A file.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done to it.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The sockets.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A process or a connection between processes.
    #[error("cannot {0}")]
    Process(&'static str, #[source] io::Error),
}

/// Which container's resolver a process is to be, or to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The folders.
    pub roots: Roots,
    /// The container's id.
    pub container: String,
}

/// What a supervisor has of the resolver.
#[derive(Debug)]
pub struct Held {
    /// The container's sockets; an adopter has none at first.
    pub sockets: Option<NameSockets>,
    /// Ends when the resolver does.
    pub liveness: OwnedFd,
}

impl Order {
    /// Makes a container's sockets and starts the way to the resolver, which nothing waits for. The calling process must
    /// have one thread.
    ///
    /// # Errors
    /// [`RegistrationError`].
    pub fn begin(&self, pid: i32) -> Result<Held, RegistrationError> {
        let failed = |what| move |source| RegistrationError::Process(what, source);
        let pid =
            Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound.into()).map_err(failed("name the container's process"))?;
        let process = pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .map_err(failed("hold the container's process"))?;
        let sockets = NameSockets::open(process.as_fd())?;
        let liveness = self.start(process.as_fd(), Some(&sockets)).map_err(failed("start the resolver of names"))?;
        Ok(Held { sockets: Some(sockets), liveness })
    }

    /// Starts a process that is the network's resolver or finds it. Returns this side's end of `liveness`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(&self, process: BorrowedFd<'_>, sockets: Option<&NameSockets>) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut descriptors = vec![(theirs.as_fd(), LIVENESS_FD), (process, PROCESS_FD)];
        if let Some(sockets) = sockets {
            descriptors.extend([(sockets.udp.as_fd(), UDP_FD), (sockets.tcp.as_fd(), TCP_FD)]);
        }
        hull_sys::spawn::spawn(c"/proc/self/exe", &self.vectors()?, &descriptors)?;
        Ok(ours)
    }

    fn vectors(&self) -> io::Result<ExecVectors> {
        let words: [&OsStr; 4] = [
            RESOLVER_NAME.as_ref(),
            self.roots.root.as_os_str(),
            self.roots.state.as_os_str(),
            self.container.as_ref(),
        ];
        ExecVectors::new(&words.map(OsStr::as_bytes), &[] as &[&[u8]])
    }

    fn parse(mut words: impl Iterator<Item = OsString>) -> Option<Order> {
        let mut folder = || words.next().map(PathBuf::from).filter(|folder| folder.is_absolute());
        let roots = Roots { root: folder()?, state: folder()? };
        let container = words.next()?.into_string().ok().filter(|id| is_id(id))?;
        words.next().is_none().then_some(Order { roots, container })
    }

    fn settings(&self) -> Result<Option<Settings>, RegistrationError> {
        Settings::read(&self.roots.runtime_state(&self.container))
    }
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The duplicates that a resolver sends to a supervisor that has no sockets; an error when it has died.
///
/// # Errors
/// `UnexpectedEof` for its end.
pub fn receive_duplicates(liveness: &OwnedFd) -> io::Result<Option<NameSockets>> {
    let mut kind = [0];
    let (length, descriptors) = seqpacket::receive_with_descriptors(liveness, &mut kind)?;
    match (length, kind, <[OwnedFd; 2]>::try_from(descriptors)) {
        (0, ..) => Err(io::ErrorKind::UnexpectedEof.into()),
        (_, [DUPLICATES], Ok([udp, tcp])) => Ok(Some(NameSockets { udp, tcp })),
        _ => Ok(None),
    }
}

pub(super) fn send_duplicates(liveness: &OwnedFd, sockets: &NameSockets) -> io::Result<()> {
    let descriptors = [sockets.udp.as_fd(), sockets.tcp.as_fd()];
    seqpacket::send_with_descriptors(liveness, &[DUPLICATES], &descriptors, SendFlags::DONTWAIT)
}

/// The program `hull-resolver`: `words` are the arguments after argv\[0\].
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(order) = Order::parse(words) else {
        eprintln!("hull-resolver: it is started by Hull itself");
        return ExitCode::from(125);
    };
    match inherited().and_then(|member| join(&order, member)) {
        Ok(()) => ExitCode::SUCCESS,
        // Standard error is /dev/null by now; the supervisor sees that `liveness` has ended.
        Err(_) => ExitCode::FAILURE,
    }
}

/// What was given to this process, which then leaves everything else of its starter's.
fn inherited() -> Result<Member, RegistrationError> {
    let failed = |source| RegistrationError::Process("take over what the resolver was given", source);
    let missing = || failed(io::ErrorKind::NotFound.into());
    let liveness = inherited_fd(LIVENESS_FD).ok_or_else(missing)?;
    let process = inherited_fd(PROCESS_FD).ok_or_else(missing)?;
    let sockets = inherited_fd(UDP_FD).zip(inherited_fd(TCP_FD)).map(|(udp, tcp)| NameSockets { udp, tcp });
    close_from(if sockets.is_some() { TCP_FD + 1 } else { UDP_FD }).map_err(failed)?;
    leave_the_starter().map_err(failed)?;
    Ok(Member { liveness, process, sockets })
}

fn leave_the_starter() -> io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for number in 0..3 {
        place_fd(null.as_fd(), number)?;
    }
    // It fails only for a process that leads its group already, and then there is nothing to leave.
    let _leader_already = rustix::process::setsid();
    rustix::process::chdir("/")?;
    rustix::process::umask(Mode::empty());
    rustix::thread::set_name(&std::ffi::CString::new(RESOLVER_NAME).map_err(io::Error::other)?)?;
    Ok(())
}

/// Becomes the resolver of a container's network, or hands the container over to it.
fn join(order: &Order, mut member: Member) -> Result<(), RegistrationError> {
    let Some(settings) = order.settings()? else { return Ok(()) };
    if !is_id(&settings.network) {
        return Ok(());
    }
    while !has_ended(&member.process) {
        let folder = open_folder(&order.roots)?;
        if let Some(lock) = lock(&folder, &settings.network)? {
            let place = Place { folder, network: settings.network, _lock: lock };
            make_sockets(&mut member)?;
            return resolver::serve(order, place, member);
        }
        match hand_over(&folder, order, &settings.network, &member) {
            Ok(TAKEN) => return Ok(()),
            Ok(SOCKETS_WANTED) => make_sockets(&mut member)?,
            // It is not listening yet, or not any more.
            _ => wait(&member.process),
        }
    }
    Ok(())
}

/// New sockets for a container whose sockets nobody has any more, with duplicates for its supervisor.
fn make_sockets(member: &mut Member) -> Result<(), RegistrationError> {
    if member.sockets.is_none() {
        let sockets = NameSockets::open_again(member.process.as_fd())?;
        let told = send_duplicates(&member.liveness, &sockets);
        told.map_err(|source| RegistrationError::Process("give the supervisor its sockets", source))?;
        member.sockets = Some(sockets);
    }
    Ok(())
}

fn hand_over(folder: &File, order: &Order, network: &str, member: &Member) -> io::Result<u8> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &address(folder, network)?)?;
    let mut descriptors = vec![member.process.as_fd(), member.liveness.as_fd()];
    if let Some(sockets) = &member.sockets {
        descriptors.extend([sockets.udp.as_fd(), sockets.tcp.as_fd()]);
    }
    seqpacket::send_with_descriptors(&socket, order.container.as_bytes(), &descriptors, SendFlags::empty())?;
    let mut answer = [0];
    match seqpacket::receive(&socket, &mut answer, RecvFlags::empty())? {
        1 => Ok(answer[0]),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Whether a process has ended.
pub(super) fn has_ended(process: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(process, PollFlags::IN)];
    poll(&mut watched, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

fn wait(process: &OwnedFd) {
    let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(PAUSE.subsec_nanos()) };
    // However it ends, everything is looked at again.
    let _ready = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&pause));
}

/// A resolver's place among the others'.
#[derive(Debug)]
pub(super) struct Place {
    folder: File,
    network: String,
    _lock: OwnedFd,
}

impl Place {
    /// Listens for containers; a left-over socket is replaced.
    pub(super) fn listen(&self) -> io::Result<OwnedFd> {
        self.remove(".sock")?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &address(&self.folder, &self.network)?)?;
        rustix::net::listen(&socket, 128)?;
        Ok(socket)
    }

    /// Removes the files, the lock last: whoever comes after finds a free place. The folder goes with the last of them.
    pub(super) fn leave(&self, roots: &Roots) -> io::Result<()> {
        self.remove(".sock")?;
        self.remove(".lock")?;
        match fs::remove_dir(folder_of(roots)) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    fn remove(&self, suffix: &str) -> io::Result<()> {
        let name = format!("{}{suffix}", self.network);
        match rustix::fs::unlinkat(&self.folder, name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn folder_of(roots: &Roots) -> PathBuf {
    roots.state.join("names")
}

fn open_folder(roots: &Roots) -> Result<File, RegistrationError> {
    let path = folder_of(roots);
    let made = DirBuilder::new().mode(0o700).create(&path);
    let made = made.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) });
    made.and_then(|()| File::open(&path)).map_err(|source| RegistrationError::File { action: "open", path, source })
}

/// The network's lock, unless a resolver has it.
fn lock(folder: &File, network: &str) -> Result<Option<OwnedFd>, RegistrationError> {
    let name = format!("{network}.lock");
    let failed = |errno: rustix::io::Errno| RegistrationError::File {
        action: "lock",
        path: PathBuf::from(&name),
        source: errno.into(),
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, &name, flags, Mode::from_raw_mode(0o600)) {
        // The folder has been removed meanwhile: by who left it last, and there is a new one to be made.
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        result => result.map_err(failed)?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        result => result.map_err(failed)?,
    }
    // A lock on a file that was removed while it was being opened is a lock on nothing.
    let held = rustix::fs::fstat(&file).map_err(failed)?;
    match rustix::fs::statat(folder, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(seen) if (seen.st_dev, seen.st_ino) == (held.st_dev, held.st_ino) => Ok(Some(file)),
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

/// The socket's address by way of its folder's descriptor, because `sun_path` holds only 108 bytes.
fn address(folder: &File, network: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{network}.sock", folder.as_raw_fd()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_its_own_parser() {
        let order = Order { roots: Roots { root: "/r".into(), state: "/s".into() }, container: "abc".to_owned() };
        let parse = |words: &[&str]| Order::parse(words.iter().map(OsString::from));
        assert_eq!(parse(&["/r", "/s", "abc"]), Some(order.clone()));
        for words in [&["r", "/s", "abc"][..], &["/r", "/s", "../x"], &["/r", "/s"], &["/r", "/s", "abc", "d"]] {
            assert_eq!(parse(words), None, "{words:?}");
        }
        assert!(order.vectors().is_ok());
    }

    #[test]
    fn a_place_is_one_resolvers_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let roots = Roots { root: folder.path().join("r"), state: folder.path().to_owned() };
        let opened = open_folder(&roots).unwrap();
        let held = lock(&opened, "n1").unwrap().unwrap();
        assert!(lock(&opened, "n1").unwrap().is_none());
        let other = lock(&opened, "n2").unwrap().unwrap();
        let place = |network: &str, lock| Place {
            folder: open_folder(&roots).unwrap(),
            network: network.to_owned(),
            _lock: lock,
        };
        let (first, second) = (place("n1", held), place("n2", other));
        drop((first.listen().unwrap(), first.listen().unwrap()));
        first.leave(&roots).unwrap();
        assert!(folder_of(&roots).exists());
        second.leave(&roots).unwrap();
        assert!(!folder_of(&roots).exists());
        // The folder that was opened before is gone.
        assert!(lock(&opened, "n1").unwrap().is_none());
    }

    #[test]
    fn settings_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Settings::read(folder.path()).unwrap(), None);
        let settings =
            Settings { network: "n".to_owned(), servers: vec!["192.0.2.1".parse().unwrap()], plain_names_stay: true };
        settings.write(folder.path()).unwrap();
        assert_eq!(Settings::read(folder.path()).unwrap(), Some(settings));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left of writing");
        fs::write(folder.path().join(Settings::FILE), "{").unwrap();
        assert!(Settings::read(folder.path()).is_err());
    }
}
