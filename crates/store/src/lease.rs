//! Leases: who is working on something, in a form that cannot be mistaken for a later process.
//!
//! A lease is a process id together with the process's start time (field 22 of proc_pid_stat(5), in clock ticks
//! since boot) and the boot id (/proc/sys/kernel/random/boot_id). It is alive while exactly that process runs;
//! a zombie is dead. When the answer cannot be found out, the lease counts as alive, so that nothing in use is
//! ever collected. A lease is stored as three columns or as the text `pid.start.boot`.

use std::fmt;
use std::io;
use std::str::FromStr;

/// A process that holds something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Process id, as Hull's own pid namespace sees it.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Boot id, 36 characters.
    pub boot_id: String,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// A file under /proc could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file under /proc does not have the form the kernel documents.
    #[error("{path} has an unexpected form")]
    Form {
        /// The file.
        path: String,
    },
    /// A text is not `pid.start.boot`.
    #[error("\"{text}\" is not a lease (pid.start.boot)")]
    Text {
        /// The text as given.
        text: String,
    },
}

impl Lease {
    /// The lease of the calling process.
    ///
    /// # Errors
    /// [`LeaseError`] when /proc is not mounted or unreadable.
    pub fn current() -> Result<Self, LeaseError> {
        Self::of(std::process::id())
    }

    /// The lease of a process that runs now.
    ///
    /// # Errors
    /// [`LeaseError::Read`] when there is no such process.
    pub fn of(pid: u32) -> Result<Self, LeaseError> {
        let (start_time, _) = stat(pid)?;
        Ok(Self { pid, start_time, boot_id: boot_id()? })
    }

    /// A lease from its three columns; absent when the row is not leased.
    pub fn from_columns(pid: Option<i64>, start: Option<i64>, boot: Option<String>) -> Option<Self> {
        let (pid, start_time) = (u32::try_from(pid?).ok()?, u64::try_from(start?).ok()?);
        Some(Self { pid, start_time, boot_id: boot? })
    }

    /// The three columns, in the order `lease_pid, lease_start, lease_boot`.
    pub fn columns(&self) -> (i64, i64, &str) {
        // Start times in ticks fit 63 bits for longer than any machine runs.
        (i64::from(self.pid), i64::try_from(self.start_time).unwrap_or(i64::MAX), &self.boot_id)
    }

    /// Whether exactly this process still runs.
    pub fn is_alive(&self) -> bool {
        match boot_id() {
            Ok(boot) if boot != self.boot_id => return false,
            _ => {}
        }
        match stat(self.pid) {
            Ok((start_time, state)) => start_time == self.start_time && !matches!(state, b'Z' | b'X'),
            Err(LeaseError::Read { source, .. }) => {
                !(source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(ESRCH))
            }
            Err(_) => true,
        }
    }
}

/// The error number of a read from /proc whose process went away in between.
const ESRCH: i32 = 3;

impl fmt::Display for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.pid, self.start_time, self.boot_id)
    }
}

impl FromStr for Lease {
    type Err = LeaseError;
    fn from_str(text: &str) -> Result<Self, LeaseError> {
        let mut parts = text.splitn(3, '.');
        let parsed = (|| {
            let (pid, start_time) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let boot_id = parts.next().filter(|boot| !boot.is_empty())?.to_owned();
            Some(Self { pid, start_time, boot_id })
        })();
        parsed.ok_or_else(|| LeaseError::Text { text: text.to_owned() })
    }
}

fn read(path: &str) -> Result<String, LeaseError> {
    std::fs::read_to_string(path).map_err(|source| LeaseError::Read { path: path.to_owned(), source })
}

fn boot_id() -> Result<String, LeaseError> {
    Ok(read("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

/// Start time and state letter of a process.
fn stat(pid: u32) -> Result<(u64, u8), LeaseError> {
    let path = format!("/proc/{pid}/stat");
    let raw = std::fs::read(&path).map_err(|source| LeaseError::Read { path: path.clone(), source })?;
    let text = String::from_utf8_lossy(&raw);
    parse_stat(&text).ok_or(LeaseError::Form { path })
}

/// Fields 3 and 22. The name in field 2 may hold spaces and parentheses, so fields are counted from its last `)`.
fn parse_stat(text: &str) -> Option<(u64, u8)> {
    let after_name = &text[text.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((start_time, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_round_trips() {
        let lease = Lease::current().expect("/proc is mounted");
        assert!(lease.is_alive());
        assert_eq!(lease.to_string().parse::<Lease>().expect("own text"), lease);
        let (pid, start, boot) = lease.columns();
        assert_eq!(Lease::from_columns(Some(pid), Some(start), Some(boot.to_owned())), Some(lease));
        assert_eq!(Lease::from_columns(None, None, None), None);
    }

    #[test]
    fn another_start_or_boot_is_dead() {
        let lease = Lease::current().expect("/proc is mounted");
        assert!(!Lease { start_time: lease.start_time + 1, ..lease.clone() }.is_alive());
        assert!(!Lease { boot_id: "another".to_owned(), ..lease.clone() }.is_alive());
        assert!(!Lease { pid: u32::MAX, ..lease }.is_alive());
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().expect("sleep starts");
        let lease = Lease::of(child.id()).expect("child runs");
        assert!(lease.is_alive());
        child.kill().expect("own child");
        while stat(child.id()).expect("not reaped yet").1 != b'Z' {
            std::thread::yield_now();
        }
        assert!(!lease.is_alive());
        child.wait().expect("own child");
        assert!(!lease.is_alive());
    }

    #[test]
    fn names_with_parentheses_do_not_shift_fields() {
        let line = "7 (a) (b c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(line), Some((4711, b'S')));
        assert_eq!(parse_stat("7 (short) S 1"), None);
    }

    #[test]
    fn refuses_other_texts() {
        for text in ["", "1", "1.2", "1.2.", "x.2.boot", "1.y.boot"] {
            assert!(text.parse::<Lease>().is_err(), "{text}");
        }
    }
}
