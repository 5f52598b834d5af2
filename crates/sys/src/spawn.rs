//! A new process with another program, without copying this one's memory (posix_spawn(3)).
//!
//! libc makes it with `CLONE_VM | CLONE_VFORK`, so it is cheap for a large parent and allowed in one with
//! threads. The child starts with an empty signal mask, default signal actions, and only the descriptors named
//! here plus those of the parent that are not close-on-exec. It does not wait for the child to end.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::process::{ExecVectors, dup_above, pointers};

/// Starts `program` with the given vectors; each `(source, number)` pair becomes descriptor `number` of the child.
///
/// Returns the child's process id; the caller must reap it.
///
/// # Errors
/// posix_spawn(3)'s, with the errno of the failed execve(2) included, and fcntl(2)'s for the descriptors.
pub fn spawn(program: &CStr, vectors: &ExecVectors, descriptors: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<i32> {
    // Sources are first moved above every target, so that placing one never overwrites another that is still needed.
    let above = descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(3);
    let moved: Vec<(OwnedFd, RawFd)> = descriptors
        .iter()
        .map(|(source, number)| Ok((dup_above(*source, above)?, *number)))
        .collect::<io::Result<_>>()?;
    let mut actions = FileActions::new()?;
    for (source, number) in &moved {
        actions.add_dup2(source.as_raw_fd(), *number)?;
    }
    let attributes = Attributes::with_default_signals()?;
    let (args, env) = (pointers(&vectors.args), pointers(&vectors.env));
    let mut pid: libc::pid_t = 0;
    // SAFETY: program and all vector elements are NUL-terminated and live until the call returns, both vectors end
    // with NULL, and the actions and attributes were initialised by their constructors.
    let errno = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            args.as_ptr().cast(),
            env.as_ptr().cast(),
        )
    };
    returned(errno)?;
    Ok(pid)
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<FileActions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for writes of the type; init fills it.
        returned(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: init succeeded.
        Ok(FileActions(unsafe { actions.assume_init() }))
    }

    fn add_dup2(&mut self, source: RawFd, number: RawFd) -> io::Result<()> {
        // SAFETY: the actions object is initialised; the numbers are plain integers.
        returned(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, source, number) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised by new and destroyed only here.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn with_default_signals() -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for writes of the type; init fills it.
        returned(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: init succeeded.
        let mut attributes = Attributes(unsafe { attributes.assume_init() });
        let flags = (libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK) as libc::c_short;
        // SAFETY: both sets are initialised by sigfillset and sigemptyset before use; attributes is initialised.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            returned(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, &raw const set))?;
            libc::sigemptyset(&raw mut set);
            returned(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, &raw const set))?;
            returned(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised by the constructor and destroyed only here.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// The posix_spawn family returns the errno itself.
fn returned(errno: libc::c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_reach_their_numbers_even_when_they_cross() {
        let (mut first_read, first_write) = io::pipe().unwrap();
        let (mut second_read, second_write) = io::pipe().unwrap();
        let script = format!("echo one >&{0}; echo two >&{1}", second_write.as_raw_fd(), first_write.as_raw_fd());
        let vectors = ExecVectors::new(&["sh", "-c", &script], &["PATH=/usr/bin:/bin"]).unwrap();
        let crossed =
            [(first_write.as_fd(), second_write.as_raw_fd()), (second_write.as_fd(), first_write.as_raw_fd())];
        let pid = spawn(c"/bin/sh", &vectors, &crossed).unwrap();
        drop((first_write, second_write));
        let (mut first, mut second) = (String::new(), String::new());
        first_read.read_to_string(&mut first).unwrap();
        second_read.read_to_string(&mut second).unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("one\n", "two\n"));
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
    }

    #[test]
    fn a_missing_program_is_reported_to_the_caller() {
        let vectors = ExecVectors::new(&["x"], &[] as &[&str]).unwrap();
        let error = spawn(c"/nonexistent/program", &vectors, &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
