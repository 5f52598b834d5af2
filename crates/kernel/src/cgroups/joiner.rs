//! How a process gets into a cgroup without the milliseconds that a write of its id into cgroup.procs takes.
//!
//! The parent opens, before it clones, what the child needs. On v1 the child, with one thread, writes `0` ("myself")
//! into each hierarchy's `tasks`, which moves one thread and needs no lock over all of them. On v2 it is born inside
//! with `CLONE_INTO_CGROUP`. On the mixed layout both.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The descriptors with which a process gets into a cgroup, opened by its parent.
#[derive(Debug)]
pub struct Joiner {
    /// The `tasks` file of every v1 hierarchy.
    pub(super) tasks: Vec<(PathBuf, OwnedFd)>,
    /// The v2 directory.
    pub(super) directory: Option<OwnedFd>,
}

impl Joiner {
    /// Moves the calling thread into the cgroup of every v1 hierarchy; does nothing on v2 alone. Meant for a
    /// single-threaded child after clone(2): it allocates nothing and takes no lock.
    ///
    /// # Errors
    /// The errno of the write and which file it was.
    pub fn join_self(&self) -> Result<(), JoinError> {
        for (position, (_, file)) in self.tasks.iter().enumerate() {
            if let Err(errno) = rustix::io::write(file, b"0") {
                return Err(JoinError { position, errno: errno.raw_os_error() });
            }
        }
        Ok(())
    }

    /// The v2 directory for `CLONE_INTO_CGROUP`, where v2 is mounted.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// The v1 `tasks` files in the order in which [`Joiner::join_self`] writes them; [`JoinError::position`] is an
    /// index into them.
    pub fn task_files(&self) -> impl Iterator<Item = (&Path, BorrowedFd<'_>)> {
        self.tasks.iter().map(|(path, file)| (path.as_path(), file.as_fd()))
    }
}

/// A cgroup that a process could not get into. Small and without allocation, so that a child can report it as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinError {
    /// Which of [`Joiner::task_files`].
    pub position: usize,
    /// Why.
    pub errno: i32,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = io::Error::from_raw_os_error(self.errno);
        write!(f, "cannot join the cgroup of hierarchy {}: {reason}", self.position)
    }
}

impl std::error::Error for JoinError {}
