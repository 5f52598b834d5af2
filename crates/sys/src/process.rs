//! Processes: clone3(2), execveat(2), setns(2)-adjacent calls and per-process attributes that rustix lacks.
//!
//! [`clone3`] is fork with namespaces: the child gets a copy of the caller's memory, so it may use whatever the
//! parent prepared. It bypasses libc's fork hooks and is therefore refused in a process with threads. Nothing
//! here interprets a container; callers give kernel flags in the kernel's own words.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

pub use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, CLONE_PARENT,
};

use crate::signals;

/// Time namespace (time_namespaces(7)); shares its bit with the exit signal, so clone3(2) only.
pub const CLONE_NEWTIME: i32 = 0x80;

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// `struct clone_args`, version 2 (Linux 5.7), as linux/sched.h lays it out.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of [`clone3`] this process is.
#[derive(Debug)]
pub enum Cloned {
    /// The caller: the new process' id in the caller's pid namespace, and a pidfd (close-on-exec) for it.
    Parent {
        /// Process id.
        pid: i32,
        /// Process file descriptor.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// Creates a process as fork(2) does, with namespaces, a pidfd and optionally a cgroup to be born in.
///
/// `flags` takes `CLONE_NEW*` and `CLONE_PARENT` only. All signal handlers are reset in the child.
///
/// # Errors
/// `EINVAL` for other flags, `EDEADLK` when the caller has more than one thread, else clone3(2)'s.
pub fn clone3(flags: u64, into_cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    const NAMESPACES: u64 = (CLONE_NEWCGROUP
        | CLONE_NEWIPC
        | CLONE_NEWNET
        | CLONE_NEWNS
        | CLONE_NEWPID
        | CLONE_NEWUSER
        | CLONE_NEWUTS
        | CLONE_NEWTIME) as u32 as u64;
    if flags & !(NAMESPACES | CLONE_PARENT as u64) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    single_threaded()?;
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: &raw mut pidfd as u64,
        // With CLONE_PARENT the kernel demands zero and takes the caller's own exit signal.
        exit_signal: if flags & CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = into_cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: args is a live, fully initialised clone_args of the size given; neither CLONE_VM nor a stack is
    // set, so the child runs on its own copy of this stack, and the process has one thread (checked above), so
    // no lock of another thread is left held in the copy.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel stored a new descriptor in pidfd because CLONE_PIDFD was set and the call succeeded.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
    }
}

/// Which side of [`fork`] this process is.
#[derive(Debug)]
pub enum Forked {
    /// The caller, with the new process' id.
    Parent(i32),
    /// The new process.
    Child,
}

/// fork(2), for places where a seccomp filter refuses clone3(2), as docker's default one does.
///
/// # Errors
/// `EDEADLK` when the caller has more than one thread, else fork(2)'s.
pub fn fork() -> io::Result<Forked> {
    single_threaded()?;
    // SAFETY: the process has one thread (checked above), so no lock of another thread is left held in the copy.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Refuses to go on with more than one thread. A thread that was just joined is counted until the kernel has let go of
/// it, so a moment's patience is part of the check.
///
/// # Errors
/// `EDEADLK`.
pub(crate) fn single_threaded() -> io::Result<()> {
    const ATTEMPTS: u32 = 100;
    for _ in 0..ATTEMPTS {
        if thread_count()? <= 1 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(io::Error::from_raw_os_error(libc::EDEADLK))
}

/// Number of threads of this process: the link count of `/proc/self/task` less its own two, or 1 without /proc.
///
/// # Errors
/// None today; the result type leaves room for kernels that count differently.
fn thread_count() -> io::Result<u64> {
    match fs::metadata("/proc/self/task") {
        Ok(task) => Ok(task.nlink().saturating_sub(2).max(1)),
        Err(_) => Ok(1),
    }
}

/// Argument and environment vectors in the form execve(2) wants, built before the point of no return.
#[derive(Debug, Clone)]
pub struct ExecVectors {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
}

impl ExecVectors {
    /// Copies the strings.
    ///
    /// # Errors
    /// `EINVAL` when a string holds a NUL byte.
    pub fn new<A: AsRef<[u8]>, E: AsRef<[u8]>>(args: &[A], env: &[E]) -> io::Result<ExecVectors> {
        let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let args = args.iter().map(|a| CString::new(a.as_ref())).collect::<Result<_, _>>().map_err(invalid)?;
        let env = env.iter().map(|e| CString::new(e.as_ref())).collect::<Result<_, _>>().map_err(invalid)?;
        Ok(ExecVectors { args, env })
    }
}

pub(crate) fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Replaces the program of this process (execve(2)); returns only on failure.
pub fn execve(path: &CStr, vectors: &ExecVectors) -> io::Error {
    let (args, env) = (pointers(&vectors.args), pointers(&vectors.env));
    // SAFETY: path and every element are NUL-terminated strings that outlive the call, and both vectors end with NULL.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces the program of this process by the file behind a descriptor (execveat(2) with `AT_EMPTY_PATH`);
/// returns only on failure.
pub fn fexecve(program: BorrowedFd<'_>, vectors: &ExecVectors) -> io::Error {
    let (args, env) = (pointers(&vectors.args), pointers(&vectors.env));
    // SAFETY: the path is a static empty string, both vectors hold live NUL-terminated strings and end with NULL.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Moves the calling thread into new namespaces (unshare(2)); `CLONE_FILES` and the like are refused.
///
/// # Errors
/// `EINVAL` for other than namespace flags, else unshare(2)'s.
pub fn unshare(namespaces: i32) -> io::Result<()> {
    let allowed = CLONE_NEWCGROUP
        | CLONE_NEWIPC
        | CLONE_NEWNET
        | CLONE_NEWNS
        | CLONE_NEWPID
        | CLONE_NEWUSER
        | CLONE_NEWUTS
        | CLONE_NEWTIME;
    if namespaces & !allowed != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: only namespace flags are passed; descriptors and memory stay shared as they were.
    check(unsafe { libc::unshare(namespaces) })
}

/// Joins namespaces through a namespace file or a pidfd (setns(2)). With a pidfd, `namespaces` names several.
///
/// # Errors
/// setns(2)'s.
pub fn setns(fd: BorrowedFd<'_>, namespaces: i32) -> io::Result<()> {
    // SAFETY: setns takes no pointers.
    check(unsafe { libc::setns(fd.as_raw_fd(), namespaces) })
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2)).
///
/// # Errors
/// close_range(2)'s.
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: marking descriptors does not invalidate any that Rust code owns.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    check(result as i32)
}

/// Duplicates `fd` onto the descriptor number `number`, without close-on-exec, replacing what was there (dup2(2)).
///
/// When `fd` already has that number, only its close-on-exec flag is cleared. Meant for the last steps before an
/// exec: the caller must not hold `number` as an owned descriptor that it still uses.
///
/// # Errors
/// dup2(2)'s.
pub fn place_fd(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // SAFETY: F_SETFD takes an integer and touches only the descriptor's flags.
        return check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) });
    }
    // SAFETY: dup2 takes no pointers; the replacement of `number` is this function's documented effect.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) })
}

/// Duplicates `fd` to a new close-on-exec descriptor numbered at least `minimum` (fcntl(2) `F_DUPFD_CLOEXEC`).
///
/// # Errors
/// fcntl(2)'s.
pub fn dup_above(fd: BorrowedFd<'_>, minimum: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer.
    let new = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, minimum) };
    check(new)?;
    // SAFETY: the kernel has just returned this new descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Takes ownership of a descriptor that this process inherited at a fixed number; `None` when it is not open.
///
/// Call it once per number, at the start of a program, before anything else could have opened that number.
pub fn inherited_fd(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only queries.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and by the contract above nothing else in this program owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: F_SETFD takes an integer and touches only the descriptor's flags.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    Some(fd)
}

/// Whether a descriptor of that number is open.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD only queries, whatever the number is.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Lends a descriptor that is known by its number alone, because its owner was given up before an exec.
///
/// # Panics
/// For a negative number.
pub fn with_inherited<T>(number: RawFd, borrower: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    assert!(number >= 0, "a descriptor's number is not negative");
    // SAFETY: the number is not -1, and the borrow ends with the call; a number that is not open is an error of the
    // system calls it is used in and never memory that is not ours.
    borrower(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Gives every signal its default action and unblocks all of them (signal(7)), as a new program expects.
pub fn default_signals() {
    signals::restore_all_defaults();
    signals::unblock_all();
}

/// Starts a new anonymous session keyring (keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`), or one called `name`.
///
/// # Errors
/// keyctl(2)'s; `ENOSYS` on kernels without keys.
pub fn join_session_keyring(name: Option<&CStr>) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let name = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: name is NULL or a NUL-terminated string that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) };
    check(if result < 0 { -1 } else { 0 })
}

/// Exits at once, without destructors or exit handlers (_exit(2)): the way out of a forked child.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and runs no code of this program.
    unsafe { libc::_exit(code) }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
