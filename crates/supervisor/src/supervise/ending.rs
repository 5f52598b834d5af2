//! The end of a container: record, report, then clean-up.
//!
//! ```text
//! session 0 ended ─► exit.json, state.json ─► Exited to all ─► other sessions killed and reported
//!   ─► a client is cleaning up (CleanupBegin)  wait for CleanupDone ─► exit
//!                                              it left without ─────► exec hull-worker cleanup
//!   ─► a client has promised (CleanupMine)     wait for CleanupBegin, PROMISE_SECONDS at most
//!   ─► nobody                                  ─────────────────────► exec hull-worker cleanup
//! ```
//!
//! Foreground clients get all of their output, however long that takes, but the clean-up does not wait for them: then
//! the worker is a child, and the supervisor just stays until they have read. All else has [`GRACE_SECONDS`].
//! Whoever cleans up holds the lock: the supervisor, the worker, or the client, which gets it with the grant.

use std::os::fd::AsFd;
use std::process::ExitCode;

use hull_sys::process::ExecVectors;
use rustix::io::Errno;

use super::connection::{CleanupPromise, Connection};
use super::process::{exec_self, spawn_self};
use super::session::Session;
use super::{Supervisor, monotonic_seconds};
use crate::launch::LaunchFailed;
use crate::protocol::Exited;
use crate::record::{ExitRecord, LiveState, LiveStatus, RECORD_VERSION};
use crate::start::{LOCK_FD, WORKER_NAME, vectors};
use crate::timestamp::Timestamp;

/// How long remaining sessions may take to die, and clients that are not in the foreground to read.
const GRACE_SECONDS: i64 = 10;
/// How long a client that has promised to clean up may take to begin: it may be stuck behind its own output.
const PROMISE_SECONDS: i64 = 3;

/// The container has ended, or never started.
#[derive(Debug)]
pub(super) struct Ending {
    since: i64,
}

impl Ending {
    fn new() -> Ending {
        Ending { since: monotonic_seconds() }
    }

    fn is_over(&self, seconds: i64) -> bool {
        monotonic_seconds() >= self.since + seconds
    }

    /// Seconds until the next deadline; `None` once all are over.
    pub(super) fn seconds_left(&self) -> Option<i64> {
        let passed = monotonic_seconds() - self.since;
        [PROMISE_SECONDS, GRACE_SECONDS].into_iter().map(|deadline| deadline - passed).find(|left| *left > 0)
    }
}

/// What the process does after its loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A client has cleaned up.
    Quit,
    /// Become the worker that cleans up.
    CleanUp,
}

impl Supervisor {
    /// Session 0 has ended: puts it on record, and ends what is left in the container.
    pub(super) fn begin_end(&mut self, session: &Session, exited: &Exited) {
        let unknown = exited.exit_code.is_none().then(|| "the supervisor was killed; the exit code is unknown".into());
        let record = ExitRecord {
            version: RECORD_VERSION,
            exit_code: exited.exit_code,
            signal: exited.signal,
            oom_killed: exited.oom_killed,
            started_at: Some(session.started_at),
            finished_at: exited.finished_at,
            error: self.trouble.take().or(unknown),
            log_lines_dropped: session.log.as_ref().map_or(0, |log| log.dropped()),
        };
        self.record_end(&record);
        for session in &self.sessions {
            // It fails when the process has ended with the pid namespace, which is the usual case.
            let _ended = hull_sys::signals::send_to_pidfd(session.pidfd.as_fd(), 9);
        }
        self.names = None;
        self.ending = Some(Ending::new());
    }

    /// Session 0 could not be started.
    pub(super) fn begin_failed_end(&mut self, failed: &LaunchFailed) {
        let finished_at = Timestamp::now();
        let record = ExitRecord {
            exit_code: Some(failed.exit_code),
            finished_at,
            ..ExitRecord::unknown(None, Some(failed.message.clone()))
        };
        self.record_end(&record);
        self.finished.push(Exited {
            session: 0,
            exit_code: Some(failed.exit_code),
            signal: None,
            oom_killed: false,
            finished_at,
        });
        self.names = None;
        self.ending = Some(Ending::new());
    }

    /// Writes `exit.json`, then marks `state.json`: a reader that sees the mark finds the record.
    pub(super) fn record_end(&mut self, record: &ExitRecord) {
        // The folder is gone when the container was removed by force; clients are told in any case.
        let written = record.write(&self.args.container_dir());
        let marked = self
            .live
            .take()
            .map_or(Ok(()), |live| LiveState { status: LiveStatus::Exited, ..live }.write(&self.args.state_dir()));
        for result in [written, marked] {
            self.note("record the end", result.map_err(std::io::Error::other));
        }
    }

    /// Nothing was left to supervise from the beginning (see `adopt`).
    pub(super) fn end_at_once(&mut self) {
        self.names = None;
        self.ending = Some(Ending::new());
    }

    /// The memory cgroup has killed at least one process of the container.
    pub(super) fn oom_killed(&self) -> bool {
        let Some(events) = &self.oom_events else { return false };
        let mut text = [0; 512];
        loop {
            match rustix::io::pread(events, &mut text, 0) {
                Ok(length) => return oom_kills(&text[..length]) > 0,
                Err(Errno::INTR) => {}
                // The cgroup is gone, and what it counted with it.
                Err(_) => return false,
            }
        }
    }

    /// What to do when the loop is over; `None` while it is not.
    pub(super) fn outcome(&mut self) -> Option<Outcome> {
        let ending = self.ending.as_ref()?;
        let (promise_over, grace_over) = (ending.is_over(PROMISE_SECONDS), ending.is_over(GRACE_SECONDS));
        let busy = !(self.sessions.is_empty() && self.launches.is_empty());
        let has = |promise: CleanupPromise| self.connections.iter().any(|connection| connection.cleanup == promise);
        let awaited = has(CleanupPromise::Begun) || (has(CleanupPromise::Made) && !promise_over);
        if (busy && !grace_over) || (awaited && !self.cleanup_settled) {
            return None;
        }
        let unsent = |connection: &Connection| connection.has_backlog() && (!grace_over || connection.is_foreground());
        if self.connections.iter().any(unsent) {
            self.settle_cleanup();
            return None;
        }
        Some(if self.cleanup_settled { Outcome::Quit } else { Outcome::CleanUp })
    }

    /// Has the clean-up done by a child, and lets the lock go, while clients still read.
    fn settle_cleanup(&mut self) {
        if !std::mem::replace(&mut self.cleanup_settled, true)
            && let Some(lock) = &self.lock
        {
            let spawned = self
                .cleanup_vectors()
                .and_then(|arguments| spawn_self(&arguments, &[(lock.as_fd(), LOCK_FD)], &self.oom_score).map(drop));
            self.note("start the clean-up", spawned);
        }
        self.lock = None;
    }

    /// Becomes the worker that cleans up; returns only when that failed. What is left then is found by the next command,
    /// because the lock is free.
    pub(super) fn exec_cleanup(self) -> ExitCode {
        if let (Some(lock), Ok(arguments)) = (&self.lock, self.cleanup_vectors()) {
            let _failed = exec_self(&arguments, lock.as_fd(), &self.oom_score);
        }
        ExitCode::from(125)
    }

    fn cleanup_vectors(&self) -> std::io::Result<ExecVectors> {
        vectors(&[
            WORKER_NAME.as_ref(),
            "cleanup".as_ref(),
            self.args.root.as_os_str(),
            self.args.state.as_os_str(),
            self.args.id.as_ref(),
        ])
    }
}

/// The number in the line `oom_kill N` (of memory.events, or of memory.oom_control); 0 without one.
fn oom_kills(text: &[u8]) -> u64 {
    let number = |line: &[u8]| str::from_utf8(line.strip_prefix(b"oom_kill ")?).ok()?.trim_end().parse().ok();
    text.split(|byte| *byte == b'\n').find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kills_are_counted_in_both_formats() {
        assert_eq!(oom_kills(b"low 0\nhigh 3\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(oom_kills(b"oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(oom_kills(b"oom_kill_disable 1\n"), 0);
    }
}
