//! What running sessions do: write, take input, end.
//!
//! Output goes to the log first and then to every attached client. At the end of a process its outputs are drained: all
//! that it wrote is in its FIFOs or terminal by then. Other processes may share them (`--pid host`), so draining stops
//! at [`DRAIN_BYTES`] even when they go on writing.

use std::os::fd::AsFd;

use hull_sys::pidfd_info;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::Supervisor;
use super::connection::Connection;
use super::session::{Read, Session};
use crate::log::Stream;
use crate::protocol::{Exited, MAX_DATA, Reply, STDERR, STDOUT};
use crate::record::{ProcessStat, process_stat};
use crate::timestamp::Timestamp;

/// Most bytes read from one output after its process has ended; far more than a FIFO holds (1 MiB by default).
const DRAIN_BYTES: usize = 16 * 1024 * 1024;
/// How many ended exec sessions are remembered for a late `Wait`.
const REMEMBERED: usize = 64;

impl Supervisor {
    /// A session has written something, or an output has ended.
    pub(super) fn take_output(&mut self, number: u32, stream: Stream) {
        let mut buffer = self.take_buffer();
        let mut result = Ok(());
        if let Some(session) = self.sessions.iter_mut().find(|session| session.number == number) {
            match session.read(stream, &mut buffer[..MAX_DATA]) {
                Read::Data(length) => distribute(session, &mut self.connections, stream, &buffer[..length]),
                Read::Nothing => {}
                Read::End => result = session.close_output(stream, &self.poller),
            }
        }
        self.buffer = buffer;
        self.note("stop watching an output", result);
    }

    /// Writes queued input to a session, and acknowledges it to the clients.
    pub(super) fn write_input(&mut self, number: u32) {
        let poller = &self.poller;
        let Some(session) = self.sessions.iter_mut().find(|session| session.number == number) else { return };
        match session.input.write(number, poller) {
            Ok(acknowledged) => {
                for (connection, bytes) in acknowledged {
                    if let Some(connection) = self.connection(connection) {
                        connection.acknowledge(bytes);
                    }
                }
            }
            Err(error) => self.note("watch an input", Err(error)),
        }
    }

    /// A session's process has ended.
    pub(super) fn take_end(&mut self, number: u32) {
        let Some(at) = self.sessions.iter().position(|session| session.number == number) else { return };
        let wait_status = match wait_status(&self.sessions[at]) {
            Reaped::Status(status) => Some(status),
            Reaped::Unknown => None,
            Reaped::NotYet => return,
        };
        let mut session = self.sessions.remove(at);
        self.drain(&mut session);
        if let Some(log) = &mut session.log {
            log.finish();
        }
        let mut exited = Exited {
            session: number,
            exit_code: wait_status.map(exit_code),
            signal: wait_status.and_then(terminating_signal),
            oom_killed: false,
            finished_at: Timestamp::now(),
        };
        if number == 0 {
            exited.oom_killed = self.oom_killed();
            self.begin_end(&session, &exited);
        }
        self.announce(exited);
    }

    fn drain(&mut self, session: &mut Session) {
        let mut buffer = self.take_buffer();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut drained = 0;
            while drained < DRAIN_BYTES {
                let Read::Data(length) = session.read(stream, &mut buffer[..MAX_DATA]) else { break };
                distribute(session, &mut self.connections, stream, &buffer[..length]);
                drained += length;
            }
        }
        self.buffer = buffer;
    }

    /// Tells everybody who follows the session or waits for it, and remembers it for those who ask later.
    pub(super) fn announce(&mut self, exited: Exited) {
        for connection in &mut self.connections {
            let waits = connection.waits_for.contains(&exited.session);
            if waits || connection.is_attached_to(exited.session) {
                connection.waits_for.retain(|session| *session != exited.session);
                connection.reply(&Reply::Exited(exited));
            }
        }
        if self.finished.len() >= REMEMBERED
            && let Some(oldest) = self.finished.iter().position(|finished| finished.session != 0)
        {
            self.finished.remove(oldest);
        }
        self.finished.push(exited);
    }
}

fn distribute(session: &mut Session, connections: &mut [Connection], stream: Stream, data: &[u8]) {
    if let Some(log) = &mut session.log {
        log.append(stream, data);
    }
    for connection in connections {
        let Some(attached) = connection.attached else { continue };
        let (kind, wanted) = match stream {
            Stream::Stdout => (STDOUT, attached.flags.stdout),
            Stream::Stderr => (STDERR, attached.flags.stderr),
        };
        if attached.session == session.number && wanted {
            connection.send(&[kind], data);
        }
    }
}

enum Reaped {
    Status(i32),
    /// It has ended, but nobody can say how.
    Unknown,
    /// The event came before the process could be reaped; there will be another.
    NotYet,
}

fn wait_status(session: &Session) -> Reaped {
    if let Some(status) = session.wait_status {
        return Reaped::Status(status);
    }
    match waitpid(Pid::from_raw(session.pid), WaitOptions::NOHANG) {
        Ok(Some((_, status))) => Reaped::Status(status.as_raw()),
        Ok(None) => Reaped::NotYet,
        // Not our child: an adopted process, whose parent has reaped it or is about to.
        Err(_) => status_of_adopted(session),
    }
}

/// The status of a process that is not our child: /proc shows it until the parent has reaped the process, and the kernel
/// (from 6.15) tells it afterwards; a pidfd hangs up at that moment.
fn status_of_adopted(session: &Session) -> Reaped {
    let stat = process_stat(session.pid).ok().filter(|stat| stat.start_time == session.start_time);
    if let Some(status) = stat.and_then(ProcessStat::zombie_status) {
        return Reaped::Status(status);
    }
    let two_seconds = Timespec { tv_sec: 2, tv_nsec: 0 };
    let mut polled = [PollFd::new(&session.pidfd, PollFlags::HUP)];
    // Older kernels give no hang-up: then this just takes its two seconds.
    let _reaped_or_late = rustix::event::poll(&mut polled, Some(&two_seconds));
    match pidfd_info::exit_status(session.pidfd.as_fd()) {
        Ok(Some(status)) => Reaped::Status(status),
        Ok(None) | Err(_) => Reaped::Unknown,
    }
}

/// Exit code as a shell gives it: the process's own, or 128 + n for signal n.
fn exit_code(wait_status: i32) -> i32 {
    match terminating_signal(wait_status) {
        Some(signal) => 128 + signal,
        None => wait_status >> 8 & 0xFF,
    }
}

/// wait(2): the low seven bits are the signal, or 0 for an ordinary end.
fn terminating_signal(wait_status: i32) -> Option<i32> {
    Some(wait_status & 0x7F).filter(|signal| *signal != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_become_shell_codes() {
        assert_eq!((exit_code(0), terminating_signal(0)), (0, None));
        assert_eq!((exit_code(7 << 8), terminating_signal(7 << 8)), (7, None));
        assert_eq!((exit_code(255 << 8), terminating_signal(255 << 8)), (255, None));
        assert_eq!((exit_code(9), terminating_signal(9)), (137, Some(9)));
        assert_eq!((exit_code(11 | 0x80), terminating_signal(11 | 0x80)), (139, Some(11)));
    }
}
