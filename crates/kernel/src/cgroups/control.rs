//! The processes of a cgroup as one: listing, freezing, killing.
//!
//! v2 reports in cgroup.events when a cgroup is frozen or empty, and poll(2) waits for it. v1 has no such file: its
//! freezer.state is read again after short pauses. Killing on v2 is one write to cgroup.kill. On v1 the processes are
//! frozen, so that none can fork away, killed through pidfds whose membership was seen after they were opened (so that
//! a reused process id is never hit), thawed, and waited for; this is repeated until none is left. Everything is bounded
//! in time.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::folder::Folder;
use super::{CgroupError, tree};

/// How long freezing and thawing may take. A process in an uninterruptible wait holds it up.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);

/// How long killed processes may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// All processes of a cgroup and of those below it, in the ids of the caller's pid namespace; those of no id there are
/// left out.
pub(super) fn processes(folder: &Path) -> Result<Vec<Pid>, CgroupError> {
    let mut found = Vec::new();
    for cgroup in tree::with_descendants(folder)? {
        let file = Folder::at(&cgroup);
        let list = match file.read("cgroup.procs") {
            Ok(list) => list,
            // A child cgroup was removed meanwhile.
            Err(_) if cgroup != folder && !cgroup.exists() => continue,
            Err(error) => return Err(error),
        };
        for line in list.lines() {
            let id: i32 = line
                .parse()
                .map_err(|_| CgroupError::Parse { path: cgroup.join("cgroup.procs"), content: line.to_owned() })?;
            found.extend(Pid::from_raw(id));
        }
    }
    Ok(found)
}

/// Freezes a v1 cgroup and everything below it.
pub(super) fn freeze_legacy(folder: &Path) -> Result<(), CgroupError> {
    let freezer = Folder::opened(folder)?;
    let started = Instant::now();
    let mut pause = Duration::from_micros(20);
    loop {
        // Written again each time: a process that was being moved in meanwhile is only then asked to freeze.
        freezer.write("freezer.state", "FROZEN")?;
        if freezer.read("freezer.state")?.trim() == "FROZEN" {
            return Ok(());
        }
        if started.elapsed() > FREEZE_PATIENCE {
            freezer.write("freezer.state", "THAWED")?;
            return Err(CgroupError::FreezeTimeout { path: folder.to_owned() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Thaws a v1 cgroup; it stays frozen when one above it is.
pub(super) fn thaw_legacy(folder: &Path) -> Result<(), CgroupError> {
    Folder::at(folder).write("freezer.state", "THAWED")
}

/// Whether all processes of a v1 cgroup are frozen now.
pub(super) fn is_frozen_legacy(folder: &Path) -> Result<bool, CgroupError> {
    Ok(Folder::at(folder).read("freezer.state")?.trim() == "FROZEN")
}

/// Freezes or thaws a v2 cgroup and waits until it has happened.
pub(super) fn set_frozen_unified(folder: &Path, frozen: bool) -> Result<(), CgroupError> {
    let cgroup = Folder::opened(folder)?;
    let value = if frozen { "1" } else { "0" };
    cgroup.write("cgroup.freeze", value)?;
    if wait_for_event(folder, "frozen", value, FREEZE_PATIENCE)? {
        return Ok(());
    }
    if frozen {
        cgroup.write("cgroup.freeze", "0")?;
    }
    Err(CgroupError::FreezeTimeout { path: folder.to_owned() })
}

/// Whether all processes of a v2 cgroup are frozen now.
pub(super) fn is_frozen_unified(folder: &Path) -> Result<bool, CgroupError> {
    Ok(event(&Folder::at(folder).read("cgroup.events")?, "frozen") == Some("1"))
}

/// The value of a key in cgroup.events or a file like it.
fn event<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
}

/// Waits until a key of cgroup.events has this value; false when the time is up. A cgroup that is removed meanwhile has
/// no processes left to wait for.
fn wait_for_event(folder: &Path, key: &str, value: &str, patience: Duration) -> Result<bool, CgroupError> {
    let path = folder.join("cgroup.events");
    let failed = |errno: Errno| CgroupError::Read { path: path.clone(), source: errno.into() };
    let events = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let deadline = Instant::now() + patience;
    let mut buffer = [0u8; 256];
    loop {
        let count = match rustix::io::pread(&events, &mut buffer, 0) {
            Ok(count) => count,
            Err(Errno::NODEV) => return Ok(true),
            Err(errno) => return Err(failed(errno)),
        };
        if event(&String::from_utf8_lossy(&buffer[..count]), key) == Some(value) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        wait(&mut [PollFd::new(&events, PollFlags::PRI)], left).map_err(failed)?;
    }
}

fn wait(files: &mut [PollFd<'_>], patience: Duration) -> Result<(), Errno> {
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    match poll(files, Some(&patience)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Kills everything in a v2 cgroup and below it, and waits until it is empty.
pub(super) fn kill_unified(folder: &Path) -> Result<(), CgroupError> {
    kill_unified_at_once(folder)?;
    wait_until_empty_unified(folder)
}

/// Sends SIGKILL to everything in a v2 cgroup and below it, also to what is just being forked.
pub(super) fn kill_unified_at_once(folder: &Path) -> Result<(), CgroupError> {
    Folder::at(folder).write("cgroup.kill", "1")
}

/// Waits until a v2 cgroup has no living process.
pub(super) fn wait_until_empty_unified(folder: &Path) -> Result<(), CgroupError> {
    if wait_for_event(folder, "populated", "0", KILL_PATIENCE)? {
        return Ok(());
    }
    Err(CgroupError::StillPopulated { path: folder.to_owned(), processes: ids(&processes(folder)?) })
}

/// Kills everything in a v1 cgroup and below it, and waits until it is empty. `members` is the folder whose processes
/// count, `freezer` the folder of the freezer hierarchy, where there is one.
pub(super) fn kill_legacy(members: &Path, freezer: Option<&Path>) -> Result<(), CgroupError> {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        let left = processes(members)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(CgroupError::StillPopulated { path: members.to_owned(), processes: ids(&left) });
        }
        // Not waited for: whoever is on its way into the freezer cannot fork a running child any more.
        if let Some(freezer) = freezer {
            Folder::at(freezer).write("freezer.state", "FROZEN")?;
        }
        let killed = kill_members(members);
        if let Some(freezer) = freezer {
            thaw_legacy(freezer)?;
        }
        wait_for_ends(&killed?, Duration::from_millis(200))?;
    }
}

fn kill_members(members: &Path) -> Result<Vec<OwnedFd>, CgroupError> {
    let mut opened = Vec::new();
    for pid in processes(members)? {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => opened.push((pid, pidfd)),
            Err(Errno::SRCH) => {}
            // No more descriptors: the others have their turn in the next round.
            Err(Errno::MFILE | Errno::NFILE) if !opened.is_empty() => break,
            Err(errno) => return Err(CgroupError::Kill { pid: pid.as_raw_nonzero().get(), source: errno.into() }),
        }
    }
    let still: HashSet<Pid> = processes(members)?.into_iter().collect();
    opened.retain(|(pid, _)| still.contains(pid));
    for (pid, pidfd) in &opened {
        match pidfd_send_signal(pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(CgroupError::Kill { pid: pid.as_raw_nonzero().get(), source: errno.into() }),
        }
    }
    Ok(opened.into_iter().map(|(_, pidfd)| pidfd).collect())
}

/// Waits until all these processes have ended, or the time is up.
fn wait_for_ends(pidfds: &[OwnedFd], patience: Duration) -> Result<(), CgroupError> {
    let deadline = Instant::now() + patience;
    for pidfd in pidfds {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        wait(&mut [PollFd::new(pidfd, PollFlags::IN)], left)
            .map_err(|errno| CgroupError::Wait { source: errno.into() })?;
    }
    Ok(())
}

fn ids(processes: &[Pid]) -> Vec<i32> {
    processes.iter().map(|pid| pid.as_raw_nonzero().get()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_by_whole_key() {
        let text = "populated 1\nfrozen 0\n";
        assert_eq!(event(text, "populated"), Some("1"));
        assert_eq!(event(text, "frozen"), Some("0"));
        assert_eq!(event(text, "froze"), None);
        assert_eq!(event("", "frozen"), None);
    }
}
