//! The last steps of a child: limits, identity, streams, working directory, and the program itself (execve(2)).
//!
//! From [`close_inherited`] on only the three streams, what the process was told to keep from 3 on, and the conversation
//! with the parent are open; that socket has the number after them ([`Numbers`]) and is close-on-exec, so that its end
//! tells the parent that the program runs.

use std::convert::Infallible;
use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use hull_kernel::rlimits;
use hull_sys::memory::close_from;
use hull_sys::process::{self as sys, ExecVectors};
use hull_sys::signals;
use rustix::fs::{Access, FileType, Mode, OFlags, Stat, Uid, access, fchown, fstat, lstat, major, minor, open, stat};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{chdir, getcwd, getpid};

use super::{Credentials, Terminal, placement};
use crate::failure::{InitFailure, Step};
use crate::hooks::HookKind;
use crate::plan::ProcessPlan;
use crate::sync::{Message, Sync};

/// The descriptors of the last steps have fixed numbers, above those that the process keeps.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    /// The socket to the parent.
    pub(super) sync: RawFd,
    /// The program of Hull's init, or the socket at which a created container waits.
    init: RawFd,
    /// From here on numbers are in nobody's way.
    free: RawFd,
}

impl Numbers {
    pub(super) fn of(plan: &ProcessPlan) -> Numbers {
        let sync = 3 + plan.kept_fds;
        Numbers { sync, init: sync + 1, free: (sync + 2).max(10) }
    }
}

/// Becomes the program; returns only with what failed before the parent's descriptors were closed. What fails later
/// is reported through [`Numbers::sync`] from here.
pub(crate) fn execute(plan: ProcessPlan, terminal: Option<Terminal>, sync: &Sync) -> Result<Infallible, InitFailure> {
    set_limits(&plan)?;
    place_streams(&plan, terminal.as_ref())?;
    // Their descriptors are closed by number now; dropping the values would close the new owners of those numbers.
    let (plan, _terminal) = (ManuallyDrop::new(plan), ManuallyDrop::new(terminal));
    let numbers = Numbers::of(&plan);
    let init_program = close_inherited(plan.init_program.as_ref(), sync, numbers)?;
    end(finish(&plan, init_program), numbers)
}

/// As [`execute`], once somebody has called at the listening `socket` and said Start.
///
/// While it waits, the process holds nothing of its creator but its own streams: whoever waits for the end of a pipe
/// of the creator's must not wait for the container.
pub(super) fn execute_when_called(
    plan: ProcessPlan,
    terminal: Option<Terminal>,
    socket: OwnedFd,
    sync: &Sync,
) -> Result<Infallible, InitFailure> {
    // The creator will not hear of a program that cannot be executed, so that is looked at before.
    look_for(&plan.args, plan.search_path())?;
    set_limits(&plan)?;
    place_streams(&plan, terminal.as_ref())?;
    let (plan, _terminal) = (ManuallyDrop::new(plan), ManuallyDrop::new(terminal));
    let socket = ManuallyDrop::new(socket);
    let numbers = Numbers::of(&plan);
    close_inherited(Some(&*socket), sync, numbers)?;
    match wait_for_caller(numbers) {
        Ok(()) => end(finish(&plan, None), numbers),
        Err(failure) => end(failure, numbers),
    }
}

/// Tells the creator that all is ready, and puts the connection of whoever says Start in the place of its socket.
fn wait_for_caller(numbers: Numbers) -> Result<(), InitFailure> {
    let lost = |errno| InitFailure::new(Step::Start, "", errno);
    let own = |number| sys::inherited_fd(number).ok_or(lost(Errno::BADF));
    let (creator, socket) = (Sync::from_fd(own(numbers.sync)?), own(numbers.init)?);
    creator.send(&Message::Ready, None).map_err(lost)?;
    drop(creator);
    loop {
        let caller = rustix::io::retry_on_intr(|| accept_with(&socket, SocketFlags::CLOEXEC)).map_err(lost)?;
        let caller = Sync::from_fd(caller);
        // A caller that goes away without the word has changed its mind.
        if !matches!(caller.receive(), Ok(Some((Message::Start, _)))) {
            continue;
        }
        let failed = |error: std::io::Error| InitFailure::because(Step::Start, "", error);
        // From here the descriptors belong to their numbers.
        let (caller, _socket) = (ManuallyDrop::new(caller), ManuallyDrop::new(socket));
        sys::place_fd(caller.as_fd(), numbers.sync).map_err(failed)?;
        close_from(numbers.sync + 1).map_err(failed)?;
        return sys::cloexec_from(numbers.sync).map_err(failed);
    }
}

/// Reports through [`Numbers::sync`] and exits.
fn end(failure: InitFailure, numbers: Numbers) -> ! {
    match sys::inherited_fd(numbers.sync) {
        Some(socket) => super::fail(&Sync::from_fd(socket), failure),
        None => sys::exit_now(i32::from(failure.exit_code())),
    }
}

fn set_limits(plan: &ProcessPlan) -> Result<(), InitFailure> {
    for (resource, soft, hard, name) in &plan.rlimits {
        rlimits::set(*resource, *soft, *hard)
            .map_err(|error| InitFailure::because(Step::Rlimit, name.as_str(), error))?;
    }
    placement::settle(&plan.placement)?;
    plan.labels.write().map_err(|error| InitFailure::because(Step::Label, "", error))
}

/// Identity, working directory, and the program; returns only with what failed.
fn finish(plan: &ProcessPlan, init_program: Option<RawFd>) -> InitFailure {
    // A directory that only the container's user may enter is entered after the change of user, one that only root
    // may enter before it.
    let entered = enter(&plan.cwd);
    if let Err(failure) = Credentials::of(plan).assume() {
        return failure;
    }
    if entered.is_err()
        && let Err(errno) = enter(&plan.cwd)
    {
        return InitFailure::new(Step::WorkingDirectory, plan.cwd.display().to_string(), errno);
    }
    signals::unblock_all();
    if let Some(hooks) = &plan.hooks
        && let Err(error) = hooks.run(HookKind::StartContainer, Some(getpid().as_raw_nonzero().get()))
    {
        return InitFailure::because(Step::Hook, "", error);
    }
    match init_program {
        Some(program) => crate::init_process::start(program, &plan.args, &plan.env),
        None => search_and_execute(&plan.args, &plan.env, plan.search_path()),
    }
}

/// Closes everything but the streams, what is kept, the socket (moved to [`Numbers::sync`]) and the program of Hull's
/// init or the socket to be called at, whose new number is returned.
fn close_inherited(
    init_program: Option<&OwnedFd>,
    sync: &Sync,
    numbers: Numbers,
) -> Result<Option<RawFd>, InitFailure> {
    let failed = |error: std::io::Error| InitFailure::because(Step::Streams, "", error);
    // Above the final numbers first, so that placing one cannot overwrite another.
    let socket = ManuallyDrop::new(sys::dup_above(sync.as_fd(), numbers.free).map_err(failed)?);
    let program = match init_program {
        Some(program) => Some(ManuallyDrop::new(sys::dup_above(program.as_fd(), numbers.free).map_err(failed)?)),
        None => None,
    };
    sys::place_fd(socket.as_fd(), numbers.sync).map_err(failed)?;
    let Some(program) = program else {
        close_from(numbers.sync + 1).map_err(failed)?;
        sys::cloexec_from(numbers.sync).map_err(failed)?;
        return Ok(None);
    };
    // Hull's init keeps the socket over its own exec and makes it close-on-exec itself.
    sys::place_fd(program.as_fd(), numbers.init).map_err(failed)?;
    close_from(numbers.init + 1).map_err(failed)?;
    sys::cloexec_from(numbers.init).map_err(failed)?;
    Ok(Some(numbers.init))
}

/// Changes the directory and makes sure that it is one inside this root (CVE-2024-21626).
fn enter(path: &Path) -> Result<(), Errno> {
    chdir(path)?;
    let here = getcwd(Vec::new())?;
    if here.to_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::NOENT) }
}

/// Puts the terminal or the three streams at 0, 1 and 2, owned by the container's user.
pub(crate) fn place_streams(plan: &ProcessPlan, terminal: Option<&Terminal>) -> Result<(), InitFailure> {
    let failed = |error: std::io::Error| InitFailure::because(Step::Streams, "", error);
    let streams: [&OwnedFd; 3] = match (terminal, &plan.streams) {
        (Some(terminal), _) => [terminal.slave(); 3],
        (None, Some(streams)) => [&streams.stdin, &streams.stdout, &streams.stderr],
        (None, None) => return Err(InitFailure::new(Step::Streams, "", Errno::BADF)),
    };
    let null = if streams.iter().any(|stream| is_null(stream.as_fd())) { open_null() } else { None };
    let mut copies = Vec::with_capacity(streams.len());
    for stream in streams {
        let stream = null.as_ref().filter(|_| is_null(stream.as_fd())).unwrap_or(stream);
        if plan.uid != 0 {
            give_to(stream.as_fd(), plan.uid);
        }
        copies.push(sys::dup_above(stream.as_fd(), Numbers::of(plan).free).map_err(failed)?);
    }
    for (number, copy) in copies.iter().enumerate() {
        sys::place_fd(copy.as_fd(), number as RawFd).map_err(failed)?;
    }
    Ok(())
}

/// The container's own null device, in the place of the host's: a stream that is of no mount in here could be neither
/// reopened nor written down by criu. None where there is no such device.
fn open_null() -> Option<OwnedFd> {
    let path = c"/dev/null";
    if !lstat(path).is_ok_and(|stat| is_null_device(&stat)) {
        return None;
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).ok().filter(|null| is_null(null.as_fd()))
}

fn is_null(stream: BorrowedFd<'_>) -> bool {
    fstat(stream).is_ok_and(|stat| is_null_device(&stat))
}

fn is_null_device(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
}

/// Lets the user reopen a stream through /dev/stdout. The null device and what cannot change owner stay as they are.
fn give_to(stream: BorrowedFd<'_>, uid: u32) {
    let Ok(stat) = fstat(stream) else { return };
    if !is_null_device(&stat) && stat.st_uid != uid {
        let _ = fchown(stream, Some(Uid::from_raw(uid)), None);
    }
}

/// Whether `args[0]` can be found and executed, as [`search_and_execute`] will look for it; what would fail if not.
fn look_for(args: &[String], search_path: &str) -> Result<(), InitFailure> {
    let Some(name) = args.first() else { return Err(InitFailure::new(Step::Exec, "", Errno::NOENT)) };
    let check = |path: &str| {
        access(path, Access::EXEC_OK)?;
        let kind = FileType::from_raw_mode(stat(path)?.st_mode);
        if kind == FileType::RegularFile { Ok(()) } else { Err(Errno::ACCESS) }
    };
    let mut found = Err(Errno::NOENT);
    if name.contains('/') {
        found = check(name);
    } else {
        for directory in search_path.split(':') {
            match check(&format!("{directory}/{name}")) {
                Ok(()) => return Ok(()),
                Err(Errno::ACCESS) => found = Err(Errno::ACCESS),
                Err(_) => {}
            }
        }
    }
    found.map_err(|errno| InitFailure::new(Step::Exec, name.as_str(), errno))
}

/// Executes `args[0]`, looked for in `search_path` when it has no slash, as execvp(3) does; returns what failed.
pub(crate) fn search_and_execute(args: &[String], env: &[String], search_path: &str) -> InitFailure {
    let Some(name) = args.first() else { return InitFailure::new(Step::Exec, "", Errno::NOENT) };
    let failed = |errno| InitFailure::new(Step::Exec, name.as_str(), errno);
    let Ok(vectors) = ExecVectors::new(args, env) else { return failed(Errno::INVAL) };
    // What Hull's own processes ignore (SIGPIPE) would be ignored by the program too.
    signals::restore_all_defaults();
    let attempt = |path: String| match CString::new(path) {
        Ok(path) => Errno::from_io_error(&sys::execve(&path, &vectors)).unwrap_or(Errno::NOENT),
        Err(_) => Errno::INVAL,
    };
    if name.contains('/') {
        return failed(attempt(name.clone()));
    }
    let mut reason = Errno::NOENT;
    for directory in search_path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        match attempt(format!("{directory}/{name}")) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => reason = Errno::ACCESS,
            errno => return failed(errno),
        }
    }
    failed(reason)
}
