//! One question that others are asked: the servers in their order, until one answers.
//!
//! ```text
//! ask the first ── 2 s without an answer ──► ask the next as well, and so on around ── 8 s ──► nobody answered
//!       └─ refused, SERVFAIL, REFUSED ─────► ask the next at once ── all have ────────────────► nobody answered
//! ```
//! The packet goes out as it came, EDNS and all, with a number of our own from a port of its own, and the answer comes
//! back to the client as it is. A server that is slow is still listened to while others are asked. What came over a
//! connection is asked over one, so that an answer that was too long for a datagram arrives.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::answer::{self, Heard, Question, Transport};
use super::listener::PORT;
use super::stream::PacketStream;

/// How long a server is waited for before another one is asked too.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a question is kept altogether; clients give up after 5 to 10 seconds and ask again.
const LIFETIME: Duration = Duration::from_secs(8);

/// A question on its way.
#[derive(Debug)]
pub struct Exchange {
    question: Question,
    packet: Vec<u8>,
    transport: Transport,
    servers: Vec<IpAddr>,
    attempts: Vec<Attempt>,
    /// How many have been made.
    made: usize,
    /// How many have failed for good.
    failed: usize,
    begun: Instant,
    /// When the next server is asked.
    due: Instant,
}

/// A server that was asked and may still answer.
#[derive(Debug)]
struct Attempt {
    number: u16,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Datagrams(OwnedFd),
    Stream(PacketStream),
}

/// What has become of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing yet.
    Waiting,
    /// This is the answer, with the client's number.
    Answered(Vec<u8>),
    /// Nobody has one.
    Failed,
}

/// Where sockets are made and watched for a question.
pub trait Surroundings {
    /// A socket that does not block, in the network from which the servers are reached.
    ///
    /// # Errors
    /// The kernel's.
    fn socket(&mut self, family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd>;

    /// Watches it for input, and for room when `room`.
    ///
    /// # Errors
    /// The kernel's.
    fn watch(&mut self, socket: BorrowedFd<'_>, room: bool) -> io::Result<()>;

    /// Watches one that was watched already.
    ///
    /// # Errors
    /// The kernel's.
    fn rewatch(&mut self, socket: BorrowedFd<'_>, room: bool) -> io::Result<()>;
}

/// Flags of every socket here.
pub const SOCKET_FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Exchange {
    /// Begins; [`Exchange::advance`] asks the first server.
    pub fn new(question: Question, packet: Vec<u8>, transport: Transport, servers: Vec<IpAddr>) -> Exchange {
        let now = Instant::now();
        let (attempts, made, failed) = (Vec::new(), 0, 0);
        Exchange { question, packet, transport, servers, attempts, made, failed, begun: now, due: now }
    }

    /// The question as it came.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// When [`Exchange::advance`] is to be called, if nothing arrives before.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Takes what has arrived, and asks the next server when it is time or the ones before have failed.
    pub fn advance(&mut self, around: &mut dyn Surroundings, now: Instant) -> Progress {
        if let Some(answer) = self.listen(around) {
            return Progress::Answered(answer);
        }
        while self.failed < self.servers.len() && now < self.begun + LIFETIME {
            if !self.attempts.is_empty() && now < self.due {
                return Progress::Waiting;
            }
            self.ask_next(around, now);
        }
        Progress::Failed
    }

    fn ask_next(&mut self, around: &mut dyn Surroundings, now: Instant) {
        let server = self.servers[self.made % self.servers.len()];
        self.made += 1;
        self.due = (now + PATIENCE).min(self.begun + LIFETIME);
        match self.ask(SocketAddr::new(server, PORT), around) {
            Ok(attempt) => self.attempts.push(attempt),
            Err(_) => self.failed += 1,
        }
    }

    fn ask(&self, server: SocketAddr, around: &mut dyn Surroundings) -> io::Result<Attempt> {
        let number = random_number()?;
        let mut packet = self.packet.clone();
        answer::renumber(&mut packet, number);
        let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        match self.transport {
            Transport::Udp => {
                let socket = around.socket(family, SocketType::DGRAM)?;
                rustix::net::connect(&socket, &server)?;
                rustix::net::send(&socket, &packet, SendFlags::NOSIGNAL)?;
                around.watch(socket.as_fd(), false)?;
                Ok(Attempt { number, link: Link::Datagrams(socket) })
            }
            Transport::Tcp => {
                let socket = around.socket(family, SocketType::STREAM)?;
                match rustix::net::connect(&socket, &server) {
                    Ok(()) | Err(Errno::INPROGRESS) => {}
                    Err(errno) => return Err(errno.into()),
                }
                around.watch(socket.as_fd(), true)?;
                let mut stream = PacketStream::new(socket);
                stream.push(&packet);
                Ok(Attempt { number, link: Link::Stream(stream) })
            }
        }
    }

    /// The answer, if it has arrived. Attempts that have failed are given up.
    fn listen(&mut self, around: &mut dyn Surroundings) -> Option<Vec<u8>> {
        let client = answer::number(&self.packet);
        let mut still = Vec::new();
        for mut attempt in std::mem::take(&mut self.attempts) {
            match attempt.hear(&self.question, around) {
                Ok(Some(mut packet)) => {
                    answer::renumber(&mut packet, client);
                    return Some(packet);
                }
                Ok(None) => still.push(attempt),
                Err(_) => self.failed += 1,
            }
        }
        self.attempts = still;
        None
    }
}

impl Attempt {
    /// The answer, nothing yet, or an error when none is to be expected any more.
    fn hear(&mut self, question: &Question, around: &mut dyn Surroundings) -> io::Result<Option<Vec<u8>>> {
        let failure = || io::Error::from(io::ErrorKind::InvalidData);
        match &mut self.link {
            Link::Datagrams(socket) => {
                let mut packet = vec![0; usize::from(u16::MAX)];
                loop {
                    let length = match rustix::net::recv(&*socket, &mut packet, RecvFlags::empty()) {
                        Ok((length, _)) => length,
                        Err(Errno::AGAIN) => return Ok(None),
                        Err(Errno::INTR) => continue,
                        Err(errno) => return Err(errno.into()),
                    };
                    match question.judge(&packet[..length], self.number) {
                        Heard::Answer => return Ok(Some(packet[..length].to_vec())),
                        Heard::Failure => return Err(failure()),
                        Heard::Noise => {}
                    }
                }
            }
            Link::Stream(stream) => {
                let was_sending = stream.unsent_bytes() > 0;
                match stream.send() {
                    Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => return Ok(None),
                    result => result?,
                }
                if was_sending && stream.unsent_bytes() == 0 {
                    around.rewatch(stream.as_fd(), false)?;
                }
                stream.receive()?;
                match stream.next_packet() {
                    Some(packet) if question.judge(&packet, self.number) == Heard::Answer => Ok(Some(packet)),
                    None if !stream.has_ended() => Ok(None),
                    _ => Err(failure()),
                }
            }
        }
    }
}

fn random_number() -> io::Result<u16> {
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}
