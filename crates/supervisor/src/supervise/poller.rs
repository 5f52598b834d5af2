//! epoll(7) with named sources: what is ready is told by a [`Source`], not by a descriptor number.
//!
//! Level-triggered. A source that is not wanted for a while is removed, not masked, because epoll reports hang-ups of
//! masked descriptors too and the loop would spin. Sources carry numbers that are never reused, so an event for
//! something that has gone in the meantime finds nothing and is harmless.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::log::Stream;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The listening socket.
    Listener,
    /// SIGCHLD is pending.
    Children,
    /// The launch channel of a session.
    Launch(u32),
    /// The process of a session has ended.
    Process(u32),
    /// A session has written something.
    Output(u32, Stream),
    /// A session takes more input.
    Input(u32),
    /// The resolver of names has sent something, or died.
    Names,
    /// A client has sent something, takes more, or left.
    Connection(u32),
}

impl Source {
    fn data(self) -> EventData {
        let (kind, number) = match self {
            Source::Listener => (0, 0),
            Source::Children => (1, 0),
            Source::Launch(session) => (2, session),
            Source::Process(session) => (3, session),
            Source::Output(session, Stream::Stdout) => (4, session),
            Source::Output(session, Stream::Stderr) => (5, session),
            Source::Input(session) => (6, session),
            Source::Connection(connection) => (7, connection),
            Source::Names => (8, 0),
        };
        EventData::new_u64(kind << 32 | u64::from(number))
    }

    fn from_data(data: EventData) -> Source {
        let number = data.u64() as u32;
        match data.u64() >> 32 {
            0 => Source::Listener,
            1 => Source::Children,
            2 => Source::Launch(number),
            3 => Source::Process(number),
            4 => Source::Output(number, Stream::Stdout),
            5 => Source::Output(number, Stream::Stderr),
            6 => Source::Input(number),
            7 => Source::Connection(number),
            _ => Source::Names,
        }
    }
}

/// One thing that is ready.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readiness {
    pub(super) source: Source,
    /// It takes more.
    pub(super) writable: bool,
    /// It has something to read, or has ended.
    pub(super) readable: bool,
}

/// Events taken at once; few, because they live on the stack of a process that should touch little memory.
const BATCH: usize = 16;

#[derive(Debug)]
pub(super) struct Poller(OwnedFd);

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Watches for input (and the end).
    pub(super) fn watch(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, source.data(), EventFlags::IN)?)
    }

    /// Watches for room to write.
    pub(super) fn watch_room(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, source.data(), EventFlags::OUT)?)
    }

    /// Watches for input, and also for room to write when `room`; the descriptor must be watched already.
    pub(super) fn rewatch(&self, fd: impl AsFd, source: Source, room: bool) -> io::Result<()> {
        let flags = if room { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        Ok(epoll::modify(&self.0, fd, source.data(), flags)?)
    }

    pub(super) fn forget(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Waits until something is ready or `timeout` is over; appends what is ready to `ready`.
    pub(super) fn wait(&self, ready: &mut Vec<Readiness>, timeout: Option<Timespec>) -> io::Result<()> {
        let mut events = [MaybeUninit::<Event>::uninit(); BATCH];
        let events = match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        ready.extend(events.iter().map(|event| {
            let flags = event.flags;
            Readiness {
                source: Source::from_data(event.data),
                writable: flags.intersects(EventFlags::OUT | EventFlags::ERR),
                readable: flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR),
            }
        }));
        Ok(())
    }
}
