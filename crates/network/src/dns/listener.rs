//! The sockets by which a container reaches the resolver, in its own network namespace.
//!
//! They listen on free ports of 127.0.0.11, and a rule of a table of the namespace's own leads port 53 there, as docker
//! has it: so a container's program may have port 53 at every address for itself. The sockets belong to the namespace and
//! are held outside of it; nothing of them is the container's. The table goes with the namespace.
//!
//! Making them again replaces the table in one transaction.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hull_kernel::netlink::nftables::{Base, Condition, Expression, Field, Hook, NftablesError, Register, Transaction};
use hull_kernel::netlink::route::{LOOPBACK, Netlink};
use hull_sys::process::{CLONE_NEWNET, setns};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::resolv_conf::RESOLVER;

/// Where programs expect a name server.
pub const PORT: u16 = 53;
const TABLE: &str = "hull-names";
const CHAIN: &str = "output";
/// Of destination translation (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -100;
const IPV4: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Connections that wait while no resolver is there.
const BACKLOG: i32 = 128;

/// The sockets of one container. Their duplicates are the same sockets: whoever has one may answer.
#[derive(Debug)]
pub struct NameSockets {
    /// Datagrams.
    pub udp: OwnedFd,
    /// Listens for connections.
    pub tcp: OwnedFd,
}

/// Sockets that were not made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A namespace could not be entered.
    #[error("entering the network namespace {whose}")]
    Enter {
        /// The container's or the host's.
        whose: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket.
    #[error("listening on {RESOLVER} in the container")]
    Socket(#[source] io::Error),
    /// The rules.
    #[error("leading port 53 of {RESOLVER} in the container to the resolver")]
    Rules(#[from] NftablesError),
}

impl NameSockets {
    /// Makes them in a namespace that has none yet, where the calling thread is for a moment; it must be the only one of its process.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn open(namespace: BorrowedFd<'_>) -> Result<NameSockets, ListenError> {
        NameSockets::make(namespace, rules)
    }

    /// Makes them anew, when nobody holds those any more to which the namespace's table leads.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn open_again(namespace: BorrowedFd<'_>) -> Result<NameSockets, ListenError> {
        NameSockets::make(namespace, rules_anew)
    }

    fn make(namespace: BorrowedFd<'_>, rules: fn(&[(u8, u16)]) -> Transaction) -> Result<NameSockets, ListenError> {
        within(namespace, || {
            // An address that no interface has yet would be no source of answers: the kernel would choose another.
            let loopback = Netlink::here().and_then(|inside| inside.set_up(LOOPBACK, true));
            loopback.map_err(ListenError::Socket)?;
            let sockets = NameSockets {
                udp: bound(SocketType::DGRAM).map_err(ListenError::Socket)?,
                tcp: bound(SocketType::STREAM).map_err(ListenError::Socket)?,
            };
            rustix::net::listen(&sockets.tcp, BACKLOG).map_err(|errno| ListenError::Socket(errno.into()))?;
            let ports = [(UDP, &sockets.udp), (TCP, &sockets.tcp)];
            let ports = ports.map(|(protocol, socket)| port(socket).map(|port| (protocol, port)));
            rules(&ports.into_iter().collect::<io::Result<Vec<_>>>().map_err(ListenError::Socket)?).commit()?;
            Ok(sockets)
        })
    }

    /// Duplicates.
    ///
    /// # Errors
    /// fcntl(2)'s.
    pub fn try_clone(&self) -> io::Result<NameSockets> {
        Ok(NameSockets { udp: self.udp.try_clone()?, tcp: self.tcp.try_clone()? })
    }
}

/// Does something in another network namespace, and comes back. The calling thread must be the only one of its process.
///
/// # Errors
/// [`ListenError::Enter`], and what is being done.
pub fn within<T>(namespace: BorrowedFd<'_>, act: impl FnOnce() -> Result<T, ListenError>) -> Result<T, ListenError> {
    let entering = |whose| move |source| ListenError::Enter { whose, source };
    let home = std::fs::File::open("/proc/self/ns/net").map_err(entering("of this process"))?;
    setns(namespace, CLONE_NEWNET).map_err(entering("of the container"))?;
    let result = act();
    setns(home.as_fd(), CLONE_NEWNET).map_err(entering("of this process"))?;
    result
}

fn bound(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(RESOLVER, 0))?;
    Ok(socket)
}

fn port(socket: &OwnedFd) -> io::Result<u16> {
    let address: SocketAddr = rustix::net::getsockname(socket)?.try_into()?;
    Ok(address.port())
}

/// The table.
fn rules(ports: &[(u8, u16)]) -> Transaction {
    let mut changes = Transaction::on(TABLE);
    add_rules(&mut changes, ports);
    changes
}

/// The table, whether it was there or not. To remove one costs the kernel a grace period, which a start does not wait for.
fn rules_anew(ports: &[(u8, u16)]) -> Transaction {
    let mut changes = Transaction::on(TABLE);
    changes.add_table().delete_table();
    add_rules(&mut changes, ports);
    changes
}

fn add_rules(changes: &mut Transaction, ports: &[(u8, u16)]) {
    changes.add_table();
    changes.add_chain(CHAIN, Some(Base { kind: "nat", hook: Hook::Output, priority: PRIORITY }));
    for &(protocol, port) in ports {
        changes.add_rule(CHAIN, &redirect(protocol, port));
    }
}

fn redirect(protocol: u8, port: u16) -> [Expression; 11] {
    use Expression::{Compare, Load, TranslateDestination, Value};
    let (field, address, to) = (Register(0), Register(4), Register(8));
    let is = |wanted: &[u8]| Compare(field, Condition::Is, wanted.to_vec());
    [
        Load(Field::Family, field),
        is(&[IPV4]),
        Load(Field::Destination4, field),
        is(&Ipv4Addr::octets(&RESOLVER)),
        Load(Field::Protocol, field),
        is(&[protocol]),
        Load(Field::DestinationPort, field),
        is(&PORT.to_be_bytes()),
        Value(address, RESOLVER.octets().to_vec()),
        Value(to, port.to_be_bytes().to_vec()),
        TranslateDestination { family: IPV4, address, port: to },
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    use super::*;
    use crate::apart::apart;

    /// In a namespace of the thread's own; `open` is not used, since setns(2) of the process' other threads is not asked.
    #[test]
    fn port_53_leads_to_the_sockets_and_stays_free() {
        apart(|| {
            Netlink::here().unwrap().set_up(LOOPBACK, true).unwrap();
            let make = |rules: fn(&[(u8, u16)]) -> Transaction| {
                let sockets =
                    NameSockets { udp: bound(SocketType::DGRAM).unwrap(), tcp: bound(SocketType::STREAM).unwrap() };
                rustix::net::listen(&sockets.tcp, BACKLOG).unwrap();
                rules(&[(UDP, port(&sockets.udp).unwrap()), (TCP, port(&sockets.tcp).unwrap())]).commit().unwrap();
                sockets
            };
            drop(make(rules));
            let NameSockets { udp, tcp } = make(rules_anew);
            let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
            udp.set_nonblocking(false).unwrap();
            tcp.set_nonblocking(false).unwrap();
            let _own = (UdpSocket::bind("0.0.0.0:53").unwrap(), TcpListener::bind("0.0.0.0:53").unwrap());
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect("127.0.0.11:53").unwrap();
            for socket in [&client, &udp] {
                socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            }
            client.send(b"asked").unwrap();
            let mut heard = [0; 8];
            let (length, whence) = udp.recv_from(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"asked");
            udp.send_to(b"said", whence).unwrap();
            let length = client.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"said");
            let stream = TcpStream::connect("127.0.0.11:53").unwrap();
            assert_eq!(tcp.accept().unwrap().1, stream.local_addr().unwrap());
        });
    }
}
