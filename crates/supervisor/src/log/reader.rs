//! Reading a log while it is written and rotated: `hull logs`.
//!
//! Files are read from the oldest to the newest. A file is known by its device and inode, not by its name: at its end
//! the reader looks under which name it is now, and goes on with the file that is one rotation younger. To follow, it
//! sleeps on inotify(7) (or, where that is exhausted, looks ten times a second) until the container has ended, which
//! `exit.json` beside the log tells. Lines that are no json are skipped and counted.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::json::Line;
use super::{Stream, rotated};
use crate::record::{ExitRecord, LiveState, LiveStatus};
use crate::timestamp::Timestamp;

/// What failed while reading a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file of the log could not be opened or read.
    #[error("cannot read the log {path}: {source}", path = path.display())]
    Read {
        /// The newest file of the log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One line of the log, or a part of a line longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it was written to.
    pub stream: Stream,
    /// When it was read by the supervisor.
    pub time: Timestamp,
    /// The text with its newline, if it had one.
    pub text: String,
}

/// What to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Only so many lines from the end, before any other choice; `None` for all.
    pub tail: Option<u64>,
    /// Only lines at or after this time.
    pub since: Option<Timestamp>,
    /// Only lines at or before this time; ends the reading there.
    pub until: Option<Timestamp>,
    /// Leave out stdout.
    pub without_stdout: bool,
    /// Leave out stderr.
    pub without_stderr: bool,
    /// Wait for new lines until the container has ended; the value is its folder below the state folder.
    pub follow: Option<PathBuf>,
}

/// The lines of a log; with `follow`, `next` blocks until there is one.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    options: ReadOptions,
    file: Option<File>,
    unread: Vec<u8>,
    taken: usize,
    watch: Option<OwnedFd>,
    ended: bool,
    skipped: u64,
}

const CHUNK: usize = 64 * 1024;

impl LogReader {
    /// Opens the log whose newest file is `path`. A log that does not exist is empty.
    ///
    /// # Errors
    /// [`LogError::Read`].
    pub fn open(path: &Path, options: ReadOptions) -> Result<LogReader, LogError> {
        let mut reader = LogReader {
            path: path.to_owned(),
            options,
            file: None,
            unread: Vec::new(),
            taken: 0,
            watch: None,
            ended: false,
            skipped: 0,
        };
        reader.start().map_err(|source| LogError::Read { path: path.to_owned(), source })?;
        Ok(reader)
    }

    /// Lines that were no json, so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Opens the file with the first wanted line, at that line. The watch is made before, so that no line is missed.
    fn start(&mut self) -> io::Result<()> {
        if self.options.follow.is_some() {
            self.watch = watch_folder(&self.path);
        }
        let Some(tail) = self.options.tail else {
            self.file = self.oldest()?;
            return Ok(());
        };
        let mut wanted = tail;
        for age in 0.. {
            let Some(file) = open_if_exists(&rotated(&self.path, age))? else { break };
            let (offset, found) = last_lines(&file, wanted)?;
            (&file).seek(SeekFrom::Start(offset))?;
            self.file = Some(file);
            wanted -= found;
            if wanted == 0 {
                break;
            }
        }
        Ok(())
    }

    fn oldest(&self) -> io::Result<Option<File>> {
        let mut oldest = None;
        for age in 0.. {
            match open_if_exists(&rotated(&self.path, age))? {
                Some(file) => oldest = Some(file),
                None => break,
            }
        }
        Ok(oldest)
    }

    /// The next wanted entry; `None` at the end.
    fn next_entry(&mut self) -> io::Result<Option<LogEntry>> {
        while let Some(entry) = self.next_line()? {
            if self.options.until.is_some_and(|until| entry.time > until) {
                self.ended = true;
                return Ok(None);
            }
            let wanted = self.options.since.is_none_or(|since| entry.time >= since)
                && match entry.stream {
                    Stream::Stdout => !self.options.without_stdout,
                    Stream::Stderr => !self.options.without_stderr,
                };
            if wanted {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn next_line(&mut self) -> io::Result<Option<LogEntry>> {
        loop {
            let unread = &self.unread[self.taken..];
            if let Some(length) = unread.iter().position(|byte| *byte == b'\n') {
                let entry = parse(&unread[..length]);
                self.taken += length + 1;
                match entry {
                    Some(entry) => return Ok(Some(entry)),
                    None => self.skipped += 1,
                }
            } else if !self.more()? {
                return Ok(None);
            }
        }
    }

    /// Reads on, in the same file or the next, waiting if asked to; false at the end of everything.
    fn more(&mut self) -> io::Result<bool> {
        loop {
            // Looked at before reading: whatever was logged before the end is then read.
            let last_look = self.has_ended();
            if self.fill()? || self.younger_file()? {
                return Ok(true);
            }
            if last_look {
                return Ok(false);
            }
            self.wait();
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let Some(file) = self.file.as_mut() else { return Ok(false) };
        self.unread.drain(..self.taken);
        self.taken = 0;
        Ok(file.take(CHUNK as u64).read_to_end(&mut self.unread)? > 0)
    }

    /// Moves on to the file after the current one, when there is one and the current one is read to its end.
    fn younger_file(&mut self) -> io::Result<bool> {
        let Some(current) = &self.file else {
            self.file = self.oldest()?;
            return Ok(self.file.is_some());
        };
        let identity = identity(&current.metadata()?);
        let next = loop {
            let Some(age) = self.age_of(identity)? else { break self.oldest()? };
            if age == 0 {
                return Ok(false);
            }
            let candidate = open_if_exists(&rotated(&self.path, age - 1))?;
            // A rotation in between would have put a younger file under that name.
            if self.age_of(identity)? == Some(age) {
                break candidate;
            }
        };
        // It was renamed after we reached its end: the writer may have added lines before that.
        if self.fill()? {
            return Ok(true);
        }
        if next.is_some() {
            self.unread.clear();
            self.file = next;
        }
        Ok(self.file.is_some())
    }

    /// How many rotations old the file is; `None` when it was rotated away. Files only grow older, so going up never
    /// misses one.
    fn age_of(&self, wanted: (u64, u64)) -> io::Result<Option<u32>> {
        for age in 0.. {
            match fs::metadata(rotated(&self.path, age)) {
                Ok(metadata) if identity(&metadata) == wanted => return Ok(Some(age)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && age > 0 => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// True when nothing will be added any more (or nothing is to be waited for).
    fn has_ended(&self) -> bool {
        let Some(state_dir) = &self.options.follow else { return true };
        if self.path.with_file_name(ExitRecord::FILE).exists() {
            return true;
        }
        match LiveState::read(state_dir) {
            Ok(Some(state)) => {
                state.status == LiveStatus::Exited || !(state.is_running() || is_supervisor(state.supervisor_pid))
            }
            Ok(None) | Err(_) => true,
        }
    }

    fn wait(&self) {
        let slow = Timespec { tv_sec: 1, tv_nsec: 0 };
        let fast = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match &self.watch {
            Some(watch) => {
                let mut polled = [PollFd::new(watch, PollFlags::IN)];
                // An interrupted or failed poll only means that we look again earlier.
                let _woken = rustix::event::poll(&mut polled, Some(&slow));
                let mut events = [0; 1024];
                while rustix::io::read(watch, &mut events).is_ok_and(|length| length > 0) {}
            }
            None => {
                let _woken = rustix::event::poll(&mut [], Some(&fast));
            }
        }
    }
}

impl Iterator for LogReader {
    type Item = Result<LogEntry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.next_entry() {
            Ok(Some(entry)) => Some(Ok(entry)),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(source) => {
                self.ended = true;
                Some(Err(LogError::Read { path: self.path.clone(), source }))
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<LogEntry> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let stream = match line.stream.as_ref() {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    Some(LogEntry { stream, time: line.time, text: line.log.into_owned() })
}

/// Watches the log's folder for lines, rotations and the exit record; `None` where inotify is used up.
fn watch_folder(path: &Path) -> Option<OwnedFd> {
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
    let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    inotify::add_watch(&watch, path.parent()?, events).ok()?;
    Some(watch)
}

fn is_supervisor(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"hull-supervisor\n")
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn open_if_exists(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Offset of the last `wanted` lines of a file, and how many there are when the file has fewer.
fn last_lines(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
    let mut end = file.metadata()?.len();
    if wanted == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    let mut block = vec![0; CHUNK];
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let block = &mut block[..(end - start) as usize];
        file.read_exact_at(block, start)?;
        for (at, byte) in block.iter().enumerate().rev() {
            if *byte == b'\n' {
                if found == wanted {
                    return Ok((start + at as u64 + 1, found));
                }
                found += 1;
            }
        }
        end = start;
    }
    Ok((0, found))
}

#[cfg(test)]
mod tests {
    use super::super::{LogOptions, LogWriter};
    use super::*;

    #[test]
    fn tail_since_until_and_streams_choose_lines_over_rotated_files() {
        let dir = std::env::temp_dir().join(format!("hull-log-choose-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("log");
        let mut writer = LogWriter::new(LogOptions { path: path.clone(), max_bytes: 400, max_files: 20 });
        for number in 0..20 {
            let stream = if number % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
            writer.append(stream, format!("{number}\n").as_bytes());
        }
        assert!(rotated(&path, 3).exists());
        let read = |options: ReadOptions| -> Vec<LogEntry> {
            LogReader::open(&path, options).unwrap().map(Result::unwrap).collect()
        };
        let texts = |entries: Vec<LogEntry>| entries.into_iter().map(|entry| entry.text).collect::<String>();

        let all = read(ReadOptions::default());
        assert_eq!(all.len(), 20);
        assert_eq!(texts(read(ReadOptions { tail: Some(3), ..Default::default() })), "17\n18\n19\n");
        assert_eq!(read(ReadOptions { tail: Some(0), ..Default::default() }), []);
        assert_eq!(read(ReadOptions { tail: Some(100), ..Default::default() }).len(), 20);
        let without_stderr = ReadOptions { tail: Some(4), without_stderr: true, ..Default::default() };
        assert_eq!(texts(read(without_stderr)), "16\n18\n");
        let middle = ReadOptions { since: Some(all[5].time), until: Some(all[7].time), ..Default::default() };
        let chosen = read(middle);
        assert!(chosen.iter().any(|entry| entry.text == "6\n"));
        assert!(chosen.iter().all(|entry| entry.time >= all[5].time && entry.time <= all[7].time));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn damaged_lines_are_skipped_and_a_missing_log_is_empty() {
        let dir = std::env::temp_dir().join(format!("hull-log-damaged-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("log");
        assert_eq!(LogReader::open(&path, ReadOptions::default()).unwrap().count(), 0);
        let good = r#"{"log":"a\n","stream":"stdout","attrs":{"x":"y"},"time":"2020-01-01T00:00:00Z"}"#;
        fs::write(&path, format!("garbage\n{good}\n{{\"log\":\n{good}")).unwrap();
        let mut reader = LogReader::open(&path, ReadOptions::default()).unwrap();
        assert_eq!(reader.by_ref().map(|entry| entry.unwrap().text).collect::<Vec<_>>(), ["a\n"]);
        assert_eq!(reader.skipped(), 2);
        fs::remove_dir_all(dir).unwrap();
    }
}
