//! What a container leaves on disk: `state.json` while it lives, `exit.json` when it has ended.
//!
//! ```text
//! <state>/<id>/state.json            LiveState: written by the supervisor at launch, and again at the end
//! <root>/containers/<id>/exit.json   ExitRecord: removed at launch, written at the end, before anybody is told
//! ```
//!
//! Both are versioned, written to a temporary name and renamed, so a reader sees a whole file or none. Neither is
//! synced: after a power cut the boot id tells that a state file is stale. A recorded process is identified by its pid
//! and its start time together (proc(5), field 22 of stat), so a reused pid is never taken for the container.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::log::LogOptions;
use crate::timestamp::Timestamp;

/// Version written into both files; a reader refuses a newer one.
pub const RECORD_VERSION: u32 = 1;

/// What failed at a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be written or renamed into place.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not the JSON it should be.
    #[error("{path} is damaged: {source}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: serde_json::Error,
    },
    /// The file comes from a newer Hull.
    #[error("{path} has version {version}, this Hull knows up to {RECORD_VERSION}", path = path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The version found.
        version: u32,
    },
}

/// How far a container's life is, as its supervisor wrote it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LiveStatus {
    /// The first process was started and has not been reaped by the supervisor.
    Running,
    /// The first process has ended; `exit.json` says how.
    Exited,
}

/// `state.json`: a container that has been launched since the machine was booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveState {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// What the supervisor knew last. It may have died: see [`LiveState::is_running`].
    pub status: LiveStatus,
    /// First process of the container, in the supervisor's pid namespace.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot.
    pub pid_start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` at launch.
    pub boot_id: String,
    /// When the process was started.
    pub started_at: Timestamp,
    /// The container has a terminal.
    pub tty: bool,
    /// Remove the container when it ends.
    pub auto_remove: bool,
    /// The supervisor that wrote this.
    pub supervisor_pid: i32,
    /// Where the output is logged.
    pub log: Option<LogOptions>,
    /// File with a line `oom_kill N` that counts the kills of this container's memory cgroup.
    pub oom_events: Option<PathBuf>,
}

impl LiveState {
    /// Name of the file in `<state>/<id>/`.
    pub const FILE: &'static str = "state.json";

    /// Reads the state from a container's folder below the state folder; `None` when it was not launched.
    ///
    /// # Errors
    /// [`RecordError`] when the file exists and cannot be understood.
    pub fn read(dir: &Path) -> Result<Option<LiveState>, RecordError> {
        read(&dir.join(LiveState::FILE), |state: &LiveState| state.version)
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), RecordError> {
        write(dir, LiveState::FILE, self)
    }

    /// True when the recorded process still exists, is that very process, and has not ended.
    pub fn is_running(&self) -> bool {
        self.status == LiveStatus::Running
            && boot_id().is_ok_and(|boot_id| boot_id == self.boot_id)
            && process_stat(self.pid).is_ok_and(|stat| stat.start_time == self.pid_start_time && !stat.has_ended())
    }
}

/// `exit.json`: how a container's first process ended, or why it never started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Exit code, 128 + n for signal n; `None` when nobody could know it (the supervisor was killed, and the
    /// kernel keeps no exit status).
    pub exit_code: Option<i32>,
    /// Signal that ended the process.
    pub signal: Option<i32>,
    /// The kernel killed at least one process of the container for want of memory.
    pub oom_killed: bool,
    /// When the process was started; `None` when it never was.
    pub started_at: Option<Timestamp>,
    /// When its end was seen.
    pub finished_at: Timestamp,
    /// Why it could not start, or what else went wrong.
    pub error: Option<String>,
    /// Lines of output that could not be logged (full disk); they still reached attached clients.
    #[serde(default)]
    pub log_lines_dropped: u64,
}

impl ExitRecord {
    /// Name of the file in `<root>/containers/<id>/`.
    pub const FILE: &'static str = "exit.json";

    /// Reads the record from a container's folder below the root; `None` when it has not ended since its last start.
    ///
    /// # Errors
    /// [`RecordError`] when the file exists and cannot be understood.
    pub fn read(dir: &Path) -> Result<Option<ExitRecord>, RecordError> {
        read(&dir.join(ExitRecord::FILE), |record: &ExitRecord| record.version)
    }

    /// Writes the record; only the holder of the container's lock may.
    ///
    /// # Errors
    /// [`RecordError::Write`].
    pub fn write(&self, dir: &Path) -> Result<(), RecordError> {
        write(dir, ExitRecord::FILE, self)
    }

    /// The record of a container that ended unseen: exit code unknown.
    pub fn unknown(started_at: Option<Timestamp>, error: Option<String>) -> ExitRecord {
        ExitRecord {
            version: RECORD_VERSION,
            exit_code: None,
            signal: None,
            oom_killed: false,
            started_at,
            finished_at: Timestamp::now(),
            error,
            log_lines_dropped: 0,
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path, version: impl Fn(&T) -> u32) -> Result<Option<T>, RecordError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(RecordError::Read { path: path.to_owned(), source }),
    };
    let value: T =
        serde_json::from_slice(&text).map_err(|source| RecordError::Damaged { path: path.to_owned(), source })?;
    match version(&value) {
        version if version > RECORD_VERSION => Err(RecordError::TooNew { path: path.to_owned(), version }),
        _ => Ok(Some(value)),
    }
}

fn write<T: Serialize>(dir: &Path, name: &str, value: &T) -> Result<(), RecordError> {
    let path = dir.join(name);
    let temporary = dir.join(format!("{name}.new"));
    let text =
        serde_json::to_vec(value).map_err(|error| RecordError::Write { path: path.clone(), source: error.into() })?;
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|source| RecordError::Write { path, source })
}

/// The random id of this boot of the machine.
///
/// # Errors
/// read(2)'s of `/proc/sys/kernel/random/boot_id`.
pub fn boot_id() -> io::Result<String> {
    let mut text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// Three fields of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    state: u8,
    pub(crate) start_time: u64,
    wait_status: i32,
}

impl ProcessStat {
    fn has_ended(self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Wait status of a process that has ended and has not been reaped; only shown to who may trace it (root may).
    pub(crate) fn zombie_status(self) -> Option<i32> {
        (self.state == b'Z').then_some(self.wait_status)
    }
}

/// State, start time and exit status of a process (proc(5)).
///
/// # Errors
/// read(2)'s, and `InvalidData` for a line that is not as documented.
pub(crate) fn process_stat(pid: i32) -> io::Result<ProcessStat> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat")))
}

/// The process name, field 2, may hold blanks and parentheses: the fields are counted from the last `)`.
fn parse_stat(text: &[u8]) -> Option<ProcessStat> {
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 2;
    let mut fields = text.get(after_name..)?.split(|byte| *byte == b' ');
    let state = *fields.next()?.first()?;
    let start_time = str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
    let wait_status = str::from_utf8(fields.nth(29)?).ok()?.trim_end().parse().ok()?;
    Some(ProcessStat { state, start_time, wait_status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_hostile_name() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let text = format!("77 (a) b (c) S {}", fields.join(" "));
        assert_eq!(parse_stat(text.as_bytes()), Some(ProcessStat { state: b'S', start_time: 22, wait_status: 52 }));
        assert_eq!(parse_stat(b"77 (a) S 1 2"), None);
    }

    #[test]
    fn our_own_process_is_recognised_and_another_start_time_is_not() {
        let pid = std::process::id() as i32;
        let mut state = LiveState {
            version: RECORD_VERSION,
            status: LiveStatus::Running,
            pid,
            pid_start_time: process_stat(pid).unwrap().start_time,
            boot_id: boot_id().unwrap(),
            started_at: Timestamp::now(),
            tty: false,
            auto_remove: false,
            supervisor_pid: 1,
            log: None,
            oom_events: None,
        };
        assert!(state.is_running());
        state.pid_start_time += 1;
        assert!(!state.is_running());
    }

    #[test]
    fn records_come_back_and_newer_or_damaged_ones_are_refused() {
        let dir = std::env::temp_dir().join(format!("hull-record-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(ExitRecord::read(&dir).unwrap(), None);
        let mut record = ExitRecord::unknown(Some(Timestamp::now()), Some("why".into()));
        record.write(&dir).unwrap();
        assert_eq!(ExitRecord::read(&dir).unwrap(), Some(record.clone()));
        record.version = RECORD_VERSION + 1;
        record.write(&dir).unwrap();
        assert!(matches!(ExitRecord::read(&dir), Err(RecordError::TooNew { version: 2, .. })));
        fs::write(dir.join(ExitRecord::FILE), "{").unwrap();
        assert!(matches!(ExitRecord::read(&dir), Err(RecordError::Damaged { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }
}
