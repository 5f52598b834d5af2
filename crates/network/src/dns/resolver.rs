//! The resolver of a network: one process without threads, between its containers and the host's name servers.
//!
//! ```text
//! registered ── its sockets are watched ── a question ──► answered from the database
//!                                              └────────► an exchange with other servers ──► answered
//! its process ends ── everything of it is dropped; with the last container the resolver ends
//! ```
//! Nothing blocks but epoll, and the database for as long as somebody writes. What a container can make this process
//! keep is bounded, for each container and altogether: whoever asks too much is refused, and nobody else waits.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hull_kernel::seqpacket;
use hull_store::{Roots, Store};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::answer::{self, Failure, Transport, Verdict};
use super::directory::{Directory, DirectoryError};
use super::exchange::{Exchange, Progress, SOCKET_FLAGS, Surroundings};
use super::listener::{ListenError, NameSockets, within};
use super::registration::{
    MESSAGE_BYTES, Order, Place, RegistrationError, SOCKETS_WANTED, Settings, TAKEN, has_ended, send_duplicates,
};
use super::stream::PacketStream;
use super::upstream::{HostServers, MOST_SERVERS};
use crate::resolv_conf::RESOLVER;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Questions that others are asked at a time: of one container, and altogether. Each may have four sockets.
const EXCHANGES_EACH: usize = 128;
const EXCHANGES: usize = 1024;
/// Connections of clients at a time, of one container.
const CLIENTS_EACH: usize = 64;
/// What may wait to be sent to a client that does not read, in bytes.
const UNSENT_BYTES: usize = 256 << 10;
/// How long a client may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// Longest question that is read; a longer one is cut and thereby unreadable.
const QUESTION_BYTES: usize = 4096;
/// Packets taken of one socket before others have their turn.
const TURN_PACKETS: usize = 64;
const EVENTS: usize = 32;

/// A container's process, sockets and supervisor, as they are handed over.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) liveness: OwnedFd,
    pub(super) process: OwnedFd,
    pub(super) sockets: Option<NameSockets>,
}

/// A container whose questions are answered.
#[derive(Debug)]
struct Container {
    id: String,
    process: OwnedFd,
    sockets: NameSockets,
    settings: Settings,
    /// It is only held: that it is closed tells the supervisor of this process' end.
    _liveness: OwnedFd,
}

/// A connection of a client.
#[derive(Debug)]
struct Client {
    container: u32,
    stream: PacketStream,
    /// Questions that it waits for.
    waiting: usize,
    heard: Instant,
    room: bool,
}

/// Whom an answer goes to.
#[derive(Debug, Clone, Copy)]
enum Route {
    Datagram(SocketAddr),
    Stream(u32),
}

#[derive(Debug)]
struct Forwarded {
    container: u32,
    route: Route,
    exchange: Exchange,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Registrations,
    Registration(u32),
    Process(u32),
    Udp(u32),
    Tcp(u32),
    Client(u32),
    Exchange(u32),
}

impl Source {
    fn data(self) -> EventData {
        let (kind, key) = match self {
            Source::Registrations => (0, 0),
            Source::Registration(key) => (1, key),
            Source::Process(key) => (2, key),
            Source::Udp(key) => (3, key),
            Source::Tcp(key) => (4, key),
            Source::Client(key) => (5, key),
            Source::Exchange(key) => (6, key),
        };
        EventData::new_u64(kind << 32 | u64::from(key))
    }

    fn from_data(data: EventData) -> Source {
        let key = data.u64() as u32;
        match data.u64() >> 32 {
            0 => Source::Registrations,
            1 => Source::Registration(key),
            2 => Source::Process(key),
            3 => Source::Udp(key),
            4 => Source::Tcp(key),
            5 => Source::Client(key),
            _ => Source::Exchange(key),
        }
    }
}

/// Serves until the last container has ended.
pub(super) fn serve(order: &Order, place: Place, first: Member) -> Result<(), RegistrationError> {
    let failed = |what| move |source| RegistrationError::Process(what, source);
    raise_limit();
    let store = Store::open(&order.roots).map_err(io::Error::other).map_err(failed("open the database"))?;
    let listener = place.listen().map_err(failed("listen for containers"))?;
    let mut resolver = Resolver::new(order.roots.clone(), store, listener).map_err(failed("watch descriptors"))?;
    if let Err(error) = resolver.register(&order.container, first) {
        return Err(failed("take the container")(error));
    }
    while !resolver.is_done() {
        resolver.turn().map_err(failed("wait for questions"))?;
    }
    place.leave(&order.roots).map_err(failed("remove the files of the resolver"))
}

/// As many descriptors as this process may have.
fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it there are fewer exchanges at a time, and what cannot be asked is answered with a failure.
    let _as_before = setrlimit(Resource::Nofile, limit);
}

struct Resolver {
    roots: Roots,
    store: Store,
    poller: OwnedFd,
    listener: OwnedFd,
    registrations: BTreeMap<u32, OwnedFd>,
    containers: BTreeMap<u32, Container>,
    clients: BTreeMap<u32, Client>,
    forwarded: BTreeMap<u32, Forwarded>,
    host: HostServers,
    next_key: u32,
    turns: usize,
}

impl Resolver {
    fn new(roots: Roots, store: Store, listener: OwnedFd) -> io::Result<Resolver> {
        let poller = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&poller, &listener, Source::Registrations.data(), EventFlags::IN)?;
        Ok(Resolver {
            roots,
            store,
            poller,
            listener,
            registrations: BTreeMap::new(),
            containers: BTreeMap::new(),
            clients: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            host: HostServers::of(RESOLV_CONF),
            next_key: 0,
            turns: 0,
        })
    }

    fn is_done(&self) -> bool {
        self.containers.is_empty() && self.registrations.is_empty()
    }

    fn key(&mut self) -> u32 {
        self.next_key += 1;
        self.next_key
    }

    fn watch(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        Ok(epoll::add(&self.poller, fd, source.data(), EventFlags::IN)?)
    }

    /// Waits for something, and does what is to be done.
    fn turn(&mut self) -> io::Result<()> {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let timeout = self.timeout();
        let ready: Vec<Event> = match epoll::wait(&self.poller, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events.to_vec(),
            Err(Errno::INTR) => Vec::new(),
            Err(errno) => return Err(errno.into()),
        };
        for event in ready {
            match Source::from_data(event.data) {
                Source::Registrations => self.accept_registration(),
                Source::Registration(key) => self.take_registration(key),
                Source::Process(key) => self.drop_container(key),
                Source::Udp(key) => self.take_datagrams(key),
                Source::Tcp(key) => self.accept_client(key),
                Source::Client(key) => self.take_client(key, event.flags),
                Source::Exchange(key) => self.advance(key),
            }
        }
        self.take_time();
        Ok(())
    }

    fn timeout(&self) -> Option<Timespec> {
        let exchanges = self.forwarded.values().map(|forwarded| forwarded.exchange.due());
        let clients = self.clients.values().map(|client| client.heard + IDLE);
        let next = exchanges.chain(clients).min()?;
        // A millisecond more, so that it is certainly over.
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) })
    }

    /// What is due without anything having arrived.
    fn take_time(&mut self) {
        let now = Instant::now();
        let due: Vec<u32> =
            self.forwarded.iter().filter(|(_, own)| own.exchange.due() <= now).map(|(key, _)| *key).collect();
        due.into_iter().for_each(|key| self.advance(key));
        self.clients.retain(|_, client| client.waiting > 0 || client.heard + IDLE > now);
    }

    fn accept_registration(&mut self) {
        if let Ok(socket) = rustix::net::accept_with(&self.listener, SOCKET_FLAGS) {
            let key = self.key();
            if self.watch(&socket, Source::Registration(key)).is_ok() {
                self.registrations.insert(key, socket);
            }
        }
    }

    /// A container is handed over, with or without its sockets. Who gets no answer tries again.
    fn take_registration(&mut self, key: u32) {
        let Some(socket) = self.registrations.remove(&key) else { return };
        let mut message = [0; MESSAGE_BYTES];
        let Ok((length, descriptors)) = seqpacket::receive_with_descriptors(&socket, &mut message) else { return };
        let mut descriptors = descriptors.into_iter();
        let Ok(id) = str::from_utf8(&message[..length]) else { return };
        let (Some(process), Some(liveness)) = (descriptors.next(), descriptors.next()) else { return };
        let sockets = descriptors.next().zip(descriptors.next()).map(|(udp, tcp)| NameSockets { udp, tcp });
        let answer = match self.register(id, Member { liveness, process, sockets }) {
            Ok(answer) => answer,
            Err(_) => return,
        };
        // Who asked may be gone.
        let _gone = seqpacket::send(&socket, &[&[answer]], SendFlags::DONTWAIT);
    }

    fn register(&mut self, id: &str, member: Member) -> io::Result<u8> {
        let known = self.containers.iter().find(|(_, container)| container.id == id).map(|(key, _)| *key);
        let known = known.and_then(|key| self.containers.get(&key)).filter(|container| !has_ended(&container.process));
        let sockets = match (member.sockets, known) {
            (Some(sockets), _) => sockets,
            (None, None) => return Ok(SOCKETS_WANTED),
            (None, Some(container)) => {
                send_duplicates(&member.liveness, &container.sockets)?;
                container.sockets.try_clone()?
            }
        };
        let state = self.roots.runtime_state(id);
        let settings = Settings::read(&state).map_err(io::Error::other)?.ok_or(io::ErrorKind::NotFound)?;
        self.forget(id);
        let key = self.key();
        let (process, _liveness) = (member.process, member.liveness);
        let container = Container { id: id.to_owned(), process, sockets, settings, _liveness };
        let watched = self.watch_container(key, &container);
        self.containers.insert(key, container);
        if watched.is_err() {
            self.drop_container(key);
        }
        watched.map(|()| TAKEN)
    }

    fn watch_container(&self, key: u32, container: &Container) -> io::Result<()> {
        self.watch(&container.process, Source::Process(key))?;
        self.watch(&container.sockets.udp, Source::Udp(key))?;
        self.watch(&container.sockets.tcp, Source::Tcp(key))
    }

    /// Drops what was held of a container before. Its sockets may live on elsewhere and have to be unwatched by name.
    fn forget(&mut self, id: &str) {
        let keys: Vec<u32> =
            self.containers.iter().filter(|(_, container)| container.id == id).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.drop_container(key));
    }

    fn drop_container(&mut self, key: u32) {
        let Some(container) = self.containers.remove(&key) else { return };
        for socket in [&container.sockets.udp, &container.sockets.tcp, &container.process] {
            // The supervisor may hold them too, so that closing alone would leave them watched.
            let _not_watched = epoll::delete(&self.poller, socket);
        }
        self.clients.retain(|_, client| client.container != key);
        self.forwarded.retain(|_, forwarded| forwarded.container != key);
    }

    fn take_datagrams(&mut self, key: u32) {
        let mut packet = [0; QUESTION_BYTES];
        for _ in 0..TURN_PACKETS {
            let Some(container) = self.containers.get(&key) else { return };
            let (length, whence) = match rustix::net::recvfrom(&container.sockets.udp, &mut packet, RecvFlags::empty())
            {
                Ok((length, _, Some(whence))) => (length, whence),
                Ok(_) | Err(Errno::INTR) => continue,
                // EAGAIN, or the report that an earlier answer did not arrive.
                Err(_) => return,
            };
            if let Ok(whence) = SocketAddr::try_from(whence) {
                self.take_question(key, &packet[..length], Route::Datagram(whence));
            }
        }
    }

    fn accept_client(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        let Ok(socket) = rustix::net::accept_with(&container.sockets.tcp, SOCKET_FLAGS) else { return };
        let others = self.clients.values().filter(|client| client.container == key).count();
        let client = self.key();
        if others < CLIENTS_EACH && self.watch(&socket, Source::Client(client)).is_ok() {
            let stream = PacketStream::new(socket);
            let connected = Client { container: key, stream, waiting: 0, heard: Instant::now(), room: false };
            self.clients.insert(client, connected);
        }
    }

    fn take_client(&mut self, key: u32, flags: EventFlags) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        client.heard = Instant::now();
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        if broken || client.stream.receive().is_err() {
            self.clients.remove(&key);
            return;
        }
        let container = client.container;
        while let Some(packet) = self.clients.get_mut(&key).and_then(|client| client.stream.next_packet()) {
            self.take_question(container, &packet, Route::Stream(key));
        }
        self.settle_client(key);
    }

    /// Sends what is to be sent, and watches for what is still of interest. Who asks nothing more and has all is let go.
    fn settle_client(&mut self, key: u32) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let sent = client.stream.send();
        let (unsent, ended) = (client.stream.unsent_bytes(), client.stream.has_ended());
        if sent.is_err() || unsent > UNSENT_BYTES || (ended && unsent == 0 && client.waiting == 0) {
            self.clients.remove(&key);
            return;
        }
        client.room = unsent > 0;
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !ended);
        flags.set(EventFlags::OUT, client.room);
        if epoll::modify(&self.poller, &client.stream, Source::Client(key).data(), flags).is_err() {
            self.clients.remove(&key);
        }
    }

    fn take_question(&mut self, key: u32, packet: &[u8], route: Route) {
        let transport = if matches!(route, Route::Datagram(_)) { Transport::Udp } else { Transport::Tcp };
        let Some(container) = self.containers.get(&key) else { return };
        self.turns = self.turns.wrapping_add(1);
        let read = self.store.read(|db| Directory::read(db, &container.id));
        let Ok(directory): Result<Directory, DirectoryError> = read else {
            return self.reply(key, route, &answer::failure(packet, Failure::Server));
        };
        let plain_names_stay = container.settings.plain_names_stay;
        match answer::consider(packet, transport, &directory, plain_names_stay, self.turns) {
            Verdict::Ignore => {}
            Verdict::Reply(reply) => self.reply(key, route, &reply),
            Verdict::Forward(question) => {
                let servers = self.servers(key, &directory);
                let own = self.forwarded.values().filter(|forwarded| forwarded.container == key).count();
                if servers.is_empty() {
                    return self.reply(key, route, &answer::failure(packet, Failure::Server));
                }
                if own >= EXCHANGES_EACH || self.forwarded.len() >= EXCHANGES {
                    return self.reply(key, route, &answer::failure(packet, Failure::Refused));
                }
                let exchange = Exchange::new(question, packet.to_vec(), transport, servers);
                if let Route::Stream(client) = route {
                    self.clients.entry(client).and_modify(|client| client.waiting += 1);
                }
                let number = self.key();
                self.forwarded.insert(number, Forwarded { container: key, route, exchange });
                self.advance(number);
            }
        }
    }

    /// Whom to ask for a container. Its own servers are asked from its network and may be in it; the host's are not asked
    /// for who has no network that leads out.
    fn servers(&mut self, key: u32, directory: &Directory) -> Vec<IpAddr> {
        let own = self.containers.get(&key).map(|container| container.settings.servers.as_slice()).unwrap_or_default();
        match own {
            [] if directory.leads_out() => self.host.current().to_vec(),
            [] => Vec::new(),
            // The resolver itself is none of them.
            own => own.iter().filter(|server| **server != IpAddr::V4(RESOLVER)).take(MOST_SERVERS).copied().collect(),
        }
    }

    fn advance(&mut self, key: u32) {
        let Some(forwarded) = self.forwarded.get_mut(&key) else { return };
        let container = self.containers.get(&forwarded.container);
        let network = container.filter(|container| !container.settings.servers.is_empty());
        let network = network.map(|container| container.process.as_fd());
        let mut around = Around { poller: &self.poller, key, network };
        let reply = match forwarded.exchange.advance(&mut around, Instant::now()) {
            Progress::Waiting => return,
            Progress::Answered(reply) => reply,
            Progress::Failed => answer::failure(forwarded.exchange.packet(), Failure::Server),
        };
        let Some(Forwarded { container, route, .. }) = self.forwarded.remove(&key) else { return };
        if let Route::Stream(client) = route {
            self.clients.entry(client).and_modify(|client| client.waiting -= 1);
        }
        self.reply(container, route, &reply);
    }

    fn reply(&mut self, container: u32, route: Route, packet: &[u8]) {
        match route {
            Route::Datagram(whom) => {
                if let Some(container) = self.containers.get(&container) {
                    // Who asked may be gone, or have no room: then it asks again.
                    let _gone = rustix::net::sendto(&container.sockets.udp, packet, SendFlags::NOSIGNAL, &whom);
                }
            }
            Route::Stream(key) => {
                if let Some(client) = self.clients.get_mut(&key) {
                    client.stream.push(packet);
                    self.settle_client(key);
                }
            }
        }
    }
}

/// Sockets of one exchange.
struct Around<'a> {
    poller: &'a OwnedFd,
    key: u32,
    /// The process in whose network the servers are; none for the host's.
    network: Option<BorrowedFd<'a>>,
}

impl Around<'_> {
    fn flags(room: bool) -> EventFlags {
        if room { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN }
    }
}

impl Surroundings for Around<'_> {
    fn socket(&mut self, family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
        let make = || rustix::net::socket_with(family, kind, SOCKET_FLAGS, None).map_err(io::Error::from);
        match self.network {
            None => make(),
            Some(network) => within(network, || make().map_err(ListenError::Socket)).map_err(|error| match error {
                // A process that is not in the host's network any more must not go on: its supervisors start another.
                ListenError::Enter { whose: "of this process", .. } => std::process::abort(),
                error => io::Error::other(error),
            }),
        }
    }

    fn watch(&mut self, socket: BorrowedFd<'_>, room: bool) -> io::Result<()> {
        Ok(epoll::add(self.poller, socket, Source::Exchange(self.key).data(), Self::flags(room))?)
    }

    fn rewatch(&mut self, socket: BorrowedFd<'_>, room: bool) -> io::Result<()> {
        Ok(epoll::modify(self.poller, socket, Source::Exchange(self.key).data(), Self::flags(room))?)
    }
}
