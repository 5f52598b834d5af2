//! A container's output, from the log that its supervisor writes.
//!
//! Reading needs no supervisor: lines come from the files, also while they are rotated, and also of a container that
//! has ended. Following ends when the container does.

use hull_supervisor::log::{LogReader, ReadOptions, Stream};
use jiff::Timestamp;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::status::{supervisor_timestamp, timestamp};

/// Name of the newest log file in the container's folder.
pub(crate) const LOG_FILE: &str = "log";

/// Which lines to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogsQuery {
    /// Wait for more until the container has ended.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail: Option<u64>,
    /// Only lines from this time on.
    pub since: Option<Timestamp>,
    /// Only lines up to this time.
    pub until: Option<Timestamp>,
}

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStreamKind {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line, or a part of one that is longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it was written to.
    pub stream: LogStreamKind,
    /// When it was read from the container.
    pub time: Timestamp,
    /// The text, with its newline when it had one.
    pub bytes: Vec<u8>,
}

/// The lines of a log; when following, `next` blocks until there is one.
#[derive(Debug)]
pub struct LogStream {
    reader: LogReader,
}

impl Engine {
    /// Opens a container's log.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`]; a log that cannot be read.
    pub fn logs(&self, name: &str, query: &LogsQuery) -> Result<LogStream, EngineError> {
        let id = self.resolve(name)?;
        let options = ReadOptions {
            tail: query.tail,
            since: query.since.map(supervisor_timestamp),
            until: query.until.map(supervisor_timestamp),
            follow: query.follow.then(|| self.state_dir(&id)),
            ..ReadOptions::default()
        };
        let path = self.roots().container(id.as_str()).join(LOG_FILE);
        Ok(LogStream { reader: LogReader::open(&path, options)? })
    }
}

impl Iterator for LogStream {
    type Item = Result<LogLine, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = match self.reader.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error.into())),
        };
        let stream = match entry.stream {
            Stream::Stdout => LogStreamKind::Stdout,
            Stream::Stderr => LogStreamKind::Stderr,
        };
        Some(Ok(LogLine { stream, time: timestamp(entry.time), bytes: entry.text.into_bytes() }))
    }
}
