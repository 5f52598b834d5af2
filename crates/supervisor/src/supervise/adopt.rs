//! Taking over a container whose supervisor was killed: `hull-supervisor --adopt`.
//!
//! The container has lost nothing but its reader: its FIFOs are reopened, its process is found by pid and start time and
//! held by a pidfd. What cannot be had back: a terminal and an open stdin (their other ends died with the supervisor),
//! sessions that were exec'd; when the process ended meanwhile, what it wrote after the supervisor's death (a FIFO forgets
//! when nobody has it open); and then, or when the kernel keeps no exit status, the exit code.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Supervisor;
use super::session::Session;
use crate::log::{LogWriter, Stream};
use crate::protocol::{Exited, MAX_DATA};
use crate::record::{ExitRecord, LiveState, LiveStatus, process_stat};
use crate::timestamp::Timestamp;

impl Supervisor {
    /// Finds the container of this state folder, running or not.
    pub(super) fn adopt(&mut self) {
        let live = match LiveState::read(&self.args.state_dir()) {
            Ok(Some(live)) if live.status == LiveStatus::Running => live,
            // It had ended, and was on record; only the clean-up is missing.
            Ok(Some(_)) => return self.end_at_once(),
            Ok(None) => return self.end_unseen(None, "the start was interrupted"),
            Err(error) => return self.end_unseen(None, &error.to_string()),
        };
        match self.adopt_running(&live) {
            Ok(Some(session)) => self.sessions.push(session),
            Ok(None) => {
                self.drain_unseen(&live);
                self.end_unseen(Some(live.started_at), "the supervisor was killed, and the container ended unseen");
            }
            Err(error) => self.end_unseen(Some(live.started_at), &format!("cannot adopt the container: {error}")),
        }
    }

    fn adopt_running(&mut self, live: &LiveState) -> io::Result<Option<Session>> {
        let Some(pidfd) = open_process(live)? else { return Ok(None) };
        let process = pidfd.try_clone()?;
        let mut outputs = self.reopen_outputs(live)?.into_iter();
        let outputs = [outputs.next(), outputs.next()];
        let log = live.log.clone().map(LogWriter::new);
        let session = Session::adopted(live, pidfd, outputs, log, &self.poller)?;
        let supervisor_pid = rustix::process::getpid().as_raw_nonzero().get();
        let live = LiveState { supervisor_pid, ..live.clone() };
        live.write(&self.args.state_dir()).map_err(io::Error::other)?;
        self.oom_events = live.oom_events.as_ref().and_then(|path| std::fs::File::open(path).ok()).map(Into::into);
        self.live = Some(live);
        self.find_names(process);
        Ok(Some(session))
    }

    /// The FIFOs `stdout` and `stderr` in the state folder; none for a container with a terminal.
    fn reopen_outputs(&self, live: &LiveState) -> io::Result<Vec<OwnedFd>> {
        if live.tty {
            return Ok(Vec::new());
        }
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let open = |name: &str| {
            let path = self.args.state_dir().join(name);
            OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(path).map(OwnedFd::from)
        };
        ["stdout", "stderr"].into_iter().map(open).collect()
    }

    /// Logs what is left in the FIFOs of a container that has ended, if other processes of it still have them open.
    fn drain_unseen(&mut self, live: &LiveState) {
        let (Some(options), Ok(outputs)) = (&live.log, self.reopen_outputs(live)) else { return };
        let mut log = LogWriter::new(options.clone());
        let mut buffer = self.take_buffer();
        for (output, stream) in outputs.iter().zip([Stream::Stdout, Stream::Stderr]) {
            while let Ok(length @ 1..) = rustix::io::read(output, &mut buffer[..MAX_DATA]) {
                log.append(stream, &buffer[..length]);
            }
        }
        self.buffer = buffer;
        log.finish();
    }

    /// Records an end that nobody saw, unless the killed supervisor had recorded it.
    fn end_unseen(&mut self, started_at: Option<Timestamp>, error: &str) {
        let recorded = ExitRecord::read(&self.args.container_dir()).ok().flatten();
        let record = recorded.unwrap_or_else(|| ExitRecord::unknown(started_at, Some(error.to_owned())));
        self.record_end(&record);
        self.announce(Exited {
            session: 0,
            exit_code: record.exit_code,
            signal: record.signal,
            oom_killed: record.oom_killed,
            finished_at: record.finished_at,
        });
        self.end_at_once();
    }
}

/// A pidfd for the recorded process; `None` when it has gone. The start time is compared while the pidfd is held, so
/// the pid cannot have been given to another process in between.
fn open_process(live: &LiveState) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(live.pid) else { return Ok(None) };
    if crate::record::boot_id()? != live.boot_id {
        return Ok(None);
    }
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let same = process_stat(live.pid).is_ok_and(|stat| stat.start_time == live.pid_start_time);
    Ok(same.then_some(pidfd))
}
