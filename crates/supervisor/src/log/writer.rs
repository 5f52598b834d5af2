//! The supervisor's side of the log: bytes in, whole json lines out, files rotated.
//!
//! Invariants: the file never holds half a line of ours (a failed write is cut off again), a file never exceeds
//! `max_bytes` unless a single line does, and no failure reaches the container: lines that cannot be written are
//! counted and dropped, and the next one is tried afresh.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::{LogOptions, Stream, json, rotated};
use crate::timestamp::Timestamp;

/// Longest text of one line in bytes, as in docker's copier.
const MAX_TEXT: usize = 16 * 1024;
/// The formatted lines are written out when they exceed this many bytes.
const FLUSH_BYTES: usize = 64 * 1024;

/// Appends a container's output to its log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    options: LogOptions,
    file: Option<File>,
    size: u64,
    formatted: Vec<u8>,
    unfinished: [Unfinished; 2],
    dropped: u64,
}

/// The beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
struct Unfinished {
    text: Vec<u8>,
    /// Time of the first part, when the line was so long that parts of it have been written.
    split_since: Option<Timestamp>,
}

impl LogWriter {
    /// Opens the log for appending. A file that cannot be opened is tried again with every line.
    pub(crate) fn new(options: LogOptions) -> LogWriter {
        let mut writer = LogWriter {
            options,
            file: None,
            size: 0,
            formatted: Vec::new(),
            unfinished: Default::default(),
            dropped: 0,
        };
        // A failure shows again, and is counted, with the first line.
        let _tried_again = writer.open();
        writer
    }

    /// Lines that could not be written.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Logs what a process wrote.
    pub(crate) fn append(&mut self, stream: Stream, data: &[u8]) {
        let now = Timestamp::now();
        let mut unfinished = std::mem::take(&mut self.unfinished[stream as usize]);
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            match piece.split_last() {
                Some((b'\n', text)) => {
                    let text = self.split(stream, &mut unfinished, text, now);
                    let time = unfinished.split_since.take().unwrap_or(now);
                    if unfinished.text.is_empty() {
                        self.line(stream, text, true, time);
                    } else {
                        unfinished.text.extend_from_slice(text);
                        self.line(stream, &unfinished.text, true, time);
                        unfinished.text.clear();
                    }
                }
                _ => {
                    let text = self.split(stream, &mut unfinished, piece, now);
                    unfinished.text.extend_from_slice(text);
                }
            }
        }
        self.unfinished[stream as usize] = unfinished;
        self.flush();
    }

    /// Writes full parts of a line that is too long, and returns what is left of `text` (less than one part together
    /// with the unfinished text). A part never ends inside a character.
    fn split<'t>(
        &mut self,
        stream: Stream,
        unfinished: &mut Unfinished,
        mut text: &'t [u8],
        now: Timestamp,
    ) -> &'t [u8] {
        while unfinished.text.len() + text.len() >= MAX_TEXT {
            let (head, rest) = text.split_at(MAX_TEXT.saturating_sub(unfinished.text.len()));
            text = rest;
            unfinished.text.extend_from_slice(head);
            let end = unfinished.text.len() - incomplete_character(&unfinished.text);
            let time = *unfinished.split_since.get_or_insert(now);
            let part = std::mem::take(&mut unfinished.text);
            self.line(stream, &part[..end], false, time);
            unfinished.text.extend_from_slice(&part[end..]);
        }
        text
    }

    /// Writes the lines that never got a newline; the end of the output.
    pub(crate) fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let unfinished = std::mem::take(&mut self.unfinished[stream as usize]);
            if !unfinished.text.is_empty() {
                self.line(stream, &unfinished.text, false, unfinished.split_since.unwrap_or_else(Timestamp::now));
            }
        }
        self.flush();
        self.release();
    }

    /// Gives the buffers' memory back; unfinished lines stay.
    pub(crate) fn release(&mut self) {
        self.formatted = Vec::new();
        for unfinished in &mut self.unfinished {
            unfinished.text.shrink_to_fit();
        }
    }

    fn line(&mut self, stream: Stream, text: &[u8], ended: bool, time: Timestamp) {
        let before = self.formatted.len();
        json::append_line(&mut self.formatted, stream, text, ended, time);
        let total = self.size + self.formatted.len() as u64;
        if self.options.max_bytes > 0 && total > self.options.max_bytes && self.size + before as u64 > 0 {
            let line = self.formatted.split_off(before);
            self.flush();
            if let Err(error) = self.rotate() {
                self.drop_lines(&line, &error);
                return;
            }
            self.formatted = line;
        }
        if self.formatted.len() > FLUSH_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.formatted.is_empty() {
            return;
        }
        let mut lines = std::mem::take(&mut self.formatted);
        match self.write(&lines) {
            Ok(()) => self.size += lines.len() as u64,
            Err(error) => self.drop_lines(&lines, &error),
        }
        lines.clear();
        self.formatted = lines;
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.open()?;
        }
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        file.write_all(lines)
    }

    /// Counts the lines, and cuts off what a failed write may have left of them.
    fn drop_lines(&mut self, lines: &[u8], error: &io::Error) {
        self.dropped += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        let cut = self.file.as_ref().map_or(Ok(()), |file| file.set_len(self.size));
        if cut.is_err() || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
            // The file itself may be beyond use: a fresh open also repairs a torn last line.
            self.file = None;
        }
    }

    fn open(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(&self.options.path)?;
        self.size = file.metadata()?.len();
        if self.size > 0 {
            let mut last = [0];
            file.read_exact_at(&mut last, self.size - 1)?;
            if last != *b"\n" {
                (&file).write_all(b"\n")?;
                self.size += 1;
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// Renames the files one step further, oldest first so that none is lost on the way, and starts a new one.
    fn rotate(&mut self) -> io::Result<()> {
        if self.options.max_files <= 1 {
            if let Some(file) = &self.file {
                file.set_len(0)?;
            }
            self.size = 0;
            return Ok(());
        }
        for age in (0..self.options.max_files - 1).rev() {
            match fs::rename(rotated(&self.options.path, age), rotated(&self.options.path, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = None;
        self.open()
    }
}

/// Number of bytes at the end of `text` that begin a UTF-8 character without completing it (0 to 3).
fn incomplete_character(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let byte = text[text.len() - back];
        let length = match byte {
            0x80..0xC0 => continue,
            0xC0..0xE0 => 2,
            0xE0..0xF0 => 3,
            0xF0.. => 4,
            _ => 1,
        };
        return if length > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{LogReader, ReadOptions};
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("hull-log-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn texts(path: &std::path::Path) -> Vec<String> {
        LogReader::open(path, ReadOptions::default()).unwrap().map(|entry| entry.unwrap().text).collect()
    }

    #[test]
    fn lines_are_joined_over_writes_and_the_last_one_may_lack_its_newline() {
        let dir = folder("join");
        let path = dir.join("log");
        let mut writer = LogWriter::new(LogOptions::new(path.clone()));
        writer.append(Stream::Stdout, b"one\ntw");
        writer.append(Stream::Stderr, b"err\n");
        writer.append(Stream::Stdout, b"o\n\nrest");
        assert_eq!(texts(&path), ["one\n", "err\n", "two\n", "\n"]);
        writer.finish();
        assert_eq!(texts(&path), ["one\n", "err\n", "two\n", "\n", "rest"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        let dir = folder("split");
        let path = dir.join("log");
        let mut writer = LogWriter::new(LogOptions::new(path.clone()));
        let text = format!("a{}\n", "é".repeat(20_000));
        for piece in text.as_bytes().chunks(7_001) {
            writer.append(Stream::Stdout, piece);
        }
        writer.append(Stream::Stdout, &[b'x'; MAX_TEXT]);
        writer.append(Stream::Stdout, b"\n");
        writer.finish();
        let parts = texts(&path);
        assert_eq!(parts[..3].concat(), text);
        assert_eq!(parts.iter().map(String::len).collect::<Vec<_>>(), [16_383, 16_384, 7_235, 16_384, 1]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn files_are_rotated_and_bounded() {
        let dir = folder("rotate");
        let path = dir.join("log");
        let options = LogOptions { path: path.clone(), max_bytes: 1_000, max_files: 3 };
        let mut writer = LogWriter::new(options);
        for number in 0..100 {
            writer.append(Stream::Stdout, format!("line {number}\n").as_bytes());
        }
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        for name in names {
            assert!(fs::metadata(dir.join(name)).unwrap().len() <= 1_000);
        }
        let kept = texts(&path);
        assert_eq!(kept.last().unwrap(), "line 99\n");
        assert!(kept.windows(2).all(|pair| pair[0] != pair[1]) && kept.len() > 24);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_later_ones_are_kept() {
        let dir = folder("dropped");
        let path = dir.join("sub").join("log");
        let mut writer = LogWriter::new(LogOptions::new(path.clone()));
        writer.append(Stream::Stdout, b"a\nb\n");
        assert_eq!(writer.dropped(), 2);
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(&path, "torn").unwrap();
        writer.append(Stream::Stdout, b"c\n");
        assert_eq!((writer.dropped(), texts(&path)), (2, vec!["c\n".to_owned()]));
        fs::remove_dir_all(dir).unwrap();
    }
}
