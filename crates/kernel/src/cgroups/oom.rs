//! Being told when a cgroup runs out of memory.
//!
//! v1 writes to an eventfd that was registered through cgroup.event_control (cgroup-v1/memory.rst, "OOM Control"); v2
//! makes memory.events ready for poll(2) when one of its counters has changed (cgroup-v2.rst), of which the one of
//! killed processes is looked at. v1 tells before it kills, and also when the cgroup is removed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::folder::Folder;
use super::{Cgroup, CgroupError};

/// A cgroup whose memory is watched.
#[derive(Debug)]
pub struct OomWatch {
    /// What becomes ready: the eventfd, or memory.events.
    ready: OwnedFd,
    is_eventfd: bool,
    counter: PathBuf,
    seen: u64,
}

impl Cgroup {
    /// Watches for processes killed for want of memory. `None` without a memory controller.
    ///
    /// # Errors
    /// [`CgroupError::Open`], [`CgroupError::Read`] and [`CgroupError::Write`].
    pub fn watch_oom(&self) -> Result<Option<OomWatch>, CgroupError> {
        let Some(counter) = self.oom_events_path() else { return Ok(None) };
        let failed = |errno: Errno| CgroupError::Open { path: counter.clone(), source: errno.into() };
        let file = open(&counter, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let Some(folder) = self.legacy_folder("memory") else {
            let mut watch = OomWatch { ready: file, is_eventfd: false, counter, seen: 0 };
            // What was before the watch.
            watch.take();
            return Ok(Some(watch));
        };
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let line = format!("{} {}", ready.as_raw_fd(), file.as_raw_fd());
        Folder::at(folder).write("cgroup.event_control", &line)?;
        Ok(Some(OomWatch { ready, is_eventfd: true, counter, seen: 0 }))
    }
}

impl OomWatch {
    /// What to wait for with poll(2).
    pub fn poll_flags(&self) -> PollFlags {
        if self.is_eventfd { PollFlags::IN } else { PollFlags::PRI }
    }

    /// Whether memory has run out since the last time.
    pub fn take(&mut self) -> bool {
        if self.is_eventfd {
            return rustix::io::read(&self.ready, &mut [0; 8]).is_ok() && self.counter.exists();
        }
        // Read through the very descriptor that is polled, which is ready again only after that.
        let mut text = [0; 512];
        let length = rustix::io::pread(&self.ready, &mut text, 0).unwrap_or(0);
        let now = count(&String::from_utf8_lossy(&text[..length])).unwrap_or(self.seen);
        now > std::mem::replace(&mut self.seen, now)
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// The line `oom_kill N`.
fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}
