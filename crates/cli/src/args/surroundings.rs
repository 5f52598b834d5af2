//! What a command line's meaning may depend on besides itself: environment, current folder, files it names.
//!
//! Conversions from arguments to requests read the world only through this trait, so that tables of tests can
//! give them a world of their own.

use std::io;
use std::path::{Path, PathBuf};

/// The world around a command line.
pub trait Surroundings {
    /// An environment variable, when it is set and is UTF-8.
    fn variable(&self, name: &str) -> Option<String>;

    /// The text of a file.
    ///
    /// # Errors
    /// Those of reading it; `InvalidData` when it is not UTF-8.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// The current folder.
    ///
    /// # Errors
    /// Those of getcwd(2).
    fn current_folder(&self) -> io::Result<PathBuf>;

    /// Whether SELinux is at work on this machine.
    fn selinux(&self) -> bool;
}

/// This process's own.
pub struct Process;

impl Surroundings for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn current_folder(&self) -> io::Result<PathBuf> {
        std::env::current_dir()
    }

    fn selinux(&self) -> bool {
        Path::new("/sys/fs/selinux/enforce").exists()
    }
}
