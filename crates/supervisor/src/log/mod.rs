//! A container's log: docker's json lines, rotated and bounded, written by the supervisor and read by anybody.
//!
//! ```text
//! <root>/containers/<id>/log      newest lines, appended
//! <root>/containers/<id>/log.1    the file before it ... up to log.<max_files - 1>, the oldest
//! ```
//!
//! One line is `{"log":"text\n","stream":"stdout","time":"2006-01-02T15:04:05.999999999Z"}`. A text of more than 16 KiB
//! without a newline is split; only the last part of it ends with `\n`. Bytes that are no UTF-8 become U+FFFD, as in
//! docker. The writer only ever appends whole lines and renames whole files, so that a reader can follow without a lock.

mod json;
mod reader;
mod writer;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use reader::{LogEntry, LogError, LogReader, ReadOptions};
pub(crate) use writer::LogWriter;

/// Where and how much to log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// The newest file; older ones get `.1`, `.2` ... appended.
    pub path: PathBuf,
    /// Size in bytes that a file does not exceed; 0 means no bound.
    pub max_bytes: u64,
    /// Number of files, the newest included; at least 1.
    pub max_files: u32,
}

impl LogOptions {
    /// Hull's default: five files of 20 MB.
    pub fn new(path: PathBuf) -> LogOptions {
        LogOptions { path, max_bytes: 20_000_000, max_files: 5 }
    }
}

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output, or everything that a terminal shows.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As it stands in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Path of the file that is `age` rotations old.
fn rotated(path: &Path, age: u32) -> PathBuf {
    match age {
        0 => path.to_owned(),
        _ => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{age}"));
            name.into()
        }
    }
}
