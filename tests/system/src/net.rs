//! Network namespaces of a test's own, wired with veth pairs, and what is sent through them from threads inside.
//!
//! A namespace lasts as long as its descriptor; nothing of it is seen by other tests or the machine. Links are made
//! over netlink, addresses and routes by `ip`, which busybox has as well.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use hull_kernel::netlink::route::{Netlink, Peer};
use hull_sys::process::{CLONE_NEWNET, setns, unshare};

/// How long a packet that is let through may take; one that is dropped takes as long.
const PATIENCE: Duration = Duration::from_millis(700);

/// A network namespace.
pub struct Net {
    namespace: File,
}

impl Default for Net {
    fn default() -> Net {
        Net::new()
    }
}

impl Net {
    /// One with a loopback that is up.
    pub fn new() -> Net {
        let made = thread::spawn(|| {
            unshare(CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("its descriptor")
        });
        let net = Net { namespace: made.join().expect("a namespace") };
        net.ip("link set lo up");
        // Addresses are usable at once, without asking whether somebody has them.
        for whose in ["all", "default"] {
            net.set(&format!("ipv6/conf/{whose}/accept_dad"), "0");
        }
        net
    }

    /// The one of a process.
    pub fn of(pid: i32) -> Net {
        Net { namespace: File::open(format!("/proc/{pid}/ns/net")).expect("its namespace") }
    }

    /// Does something on a thread in the namespace.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.namespace.as_fd(), CLONE_NEWNET).expect("entering the namespace");
                act()
            });
            inside.join().expect("what was done inside")
        })
    }

    /// `ip` with these words, `;` between several commands.
    pub fn ip(&self, commands: &str) {
        for command in commands.split(';').map(str::trim).filter(|command| !command.is_empty()) {
            let words: Vec<_> = command.split_whitespace().collect();
            let run = self.within(|| Command::new("ip").args(&words).output().expect("ip"));
            assert!(run.status.success(), "ip {command}: {}", String::from_utf8_lossy(&run.stderr));
        }
    }

    /// Sets a kernel parameter below /proc/sys/net.
    pub fn set(&self, parameter: &str, value: &str) {
        self.within(|| fs::write(format!("/proc/sys/net/{parameter}"), value)).expect(parameter);
    }

    /// A veth pair: `own` here, `name` in `other`, both up.
    pub fn wire(&self, own: &str, other: &Net, name: &str) {
        self.pair(own, None, other, name);
    }

    /// The same with `own` in a bridge, which sends what returns to the container back through the same port, as a kernel
    /// with br_netfilter wants it.
    pub fn plug(&self, own: &str, bridge: &str, other: &Net, name: &str) {
        self.pair(own, Some(bridge), other, name);
    }

    fn pair(&self, own: &str, bridge: Option<&str>, other: &Net, name: &str) {
        let made = self.within(|| {
            let here = Netlink::here()?;
            let bridge = bridge.map(|bridge| here.index(bridge)).transpose()?.flatten();
            let number = |text: &str| text.bytes().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte));
            let mac = [2, 0, 0, number(own), number(name), std::os::fd::AsRawFd::as_raw_fd(&other.namespace) as u8];
            here.make_veth(own, bridge, None, &Peer { name, mac, namespace: other.namespace.as_fd() })?;
            let index = here.index(own)?.unwrap_or_default();
            if bridge.is_some() { here.let_return(index) } else { Ok(()) }
        });
        made.unwrap_or_else(|error| panic!("the pair of {own} and {name}: {error}"));
        other.ip(&format!("link set {name} up"));
    }

    /// A bridge that is up.
    pub fn bridge(&self, name: &str) {
        let made = self.within(|| {
            let here = Netlink::here()?;
            here.make_bridge(name, [2, 0, 0, 0, 1, name.bytes().last().unwrap_or_default()], None)?;
            here.set_up(here.index(name)?.unwrap_or_default(), true)
        });
        made.unwrap_or_else(|error| panic!("the bridge {name}: {error}"));
    }

    /// Answers each TCP connection with the client's address, until the test ends.
    pub fn serve(&self, at: &str) {
        let listener = self.within(|| TcpListener::bind(at)).expect(at);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                if let Ok(peer) = stream.peer_addr() {
                    let _ = write!(stream, "{}", plain(peer.ip()));
                }
            }
        });
    }

    /// As which address a server of [`Net::serve`] sees a client here; `None` when it is not reached.
    pub fn seen(&self, at: &str) -> Option<String> {
        let at: SocketAddr = at.parse().expect(at);
        self.within(|| {
            let mut stream = TcpStream::connect_timeout(&at, PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            let mut seen = String::new();
            stream.read_to_string(&mut seen).ok()?;
            (!seen.is_empty()).then_some(seen)
        })
    }

    /// Whether a datagram from `source` arrives at a socket that is bound to `at` in `host`.
    pub fn datagram(&self, source: &str, host: &Net, at: &str) -> bool {
        let receiver = host.within(|| UdpSocket::bind(at)).expect(at);
        receiver.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let sent = self.within(|| UdpSocket::bind(source).and_then(|sender| sender.send_to(b"x", at)));
        sent.expect("sending") == 1 && receiver.recv(&mut [0; 8]).is_ok()
    }
}

fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
