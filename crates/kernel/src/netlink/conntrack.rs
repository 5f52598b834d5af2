//! Forgets tracked connections, and has others pass unseen (ctnetlink; linux/netfilter/nfnetlink_conntrack.h).
//!
//! A translation is decided by a connection's first packet and kept while packets come. For UDP that may be for ever: a
//! client that has sent to a port before it was published, or still sends after it was withdrawn, has to be forgotten
//! for the new rules to be asked. A TCP connection some of whose packets went by another way has numbers that conntrack
//! does not expect; it is told not to look at them.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netfilter::{self, ACK, Answer, Attributes, Head, Netfilter, REQUEST};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const COUNT: u16 = 5;
const CHANGE: u16 = 0;
const AF_INET: u8 = 2;
const UDP: u8 = 17;
const TCP: u8 = 6;
/// `IP_CT_TCP_FLAG_BE_LIBERAL` (linux/netfilter/nf_conntrack_tcp.h).
const LIBERAL: u8 = 0x08;

/// One end that tracked connections had in their first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Address; `None` for every one of this host and others.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
}

/// Forgets the UDP connections whose first packet went to one of these, or that were translated to one of `inside`;
/// tells how many.
///
/// # Errors
/// The kernel's, other than that a connection has ended meanwhile.
pub fn forget_udp(destinations: &HashSet<Destination>, inside: &HashSet<Destination>) -> io::Result<usize> {
    let socket = Netfilter::open()?;
    let count = forget_udp_over(&socket, destinations, inside);
    // Often a removal from a table has just been before it.
    socket.close_without_waiting();
    count
}

fn forget_udp_over(
    socket: &Netfilter,
    destinations: &HashSet<Destination>,
    inside: &HashSet<Destination>,
) -> io::Result<usize> {
    // A list takes the kernel through a table that has room for every connection it may ever track: about 10 ms.
    if tracked(socket)? == Some(0) {
        return Ok(0);
    }
    let mut requests = Vec::new();
    let mut count = 0;
    for (family, attributes) in socket.list(SUBSYSTEM << 8 | GET, 0)? {
        let Some((original, first)) = end(&attributes, UDP, 1, 2) else { continue };
        let translated = end(&attributes, UDP, 2, 1);
        let wanted =
            [Destination { address: Some(first.0), port: first.1 }, Destination { address: None, port: first.1 }]
                .iter()
                .any(|destination| destinations.contains(destination))
                || translated
                    .is_some_and(|(_, (address, port))| inside.contains(&Destination { address: Some(address), port }));
        if wanted {
            count += 1;
            let mut request = Attributes::default();
            request.bytes(1 | 0x8000, original);
            // The id tells it from a connection with the same ends that begins meanwhile.
            if let Some(id) = netfilter::attribute(&attributes, 12) {
                request.bytes(12, id);
            }
            let head =
                Head { kind: SUBSYSTEM << 8 | DELETE, flags: REQUEST | ACK, sequence: count, family, resource: 0 };
            netfilter::append(&mut requests, &head, &request);
        }
    }
    carry_out(socket, &requests)?;
    Ok(count as usize)
}

/// How many connections are tracked, in this network namespace alone.
fn tracked(socket: &Netfilter) -> io::Result<Option<u32>> {
    let mut request = Vec::new();
    let head = Head { kind: SUBSYSTEM << 8 | COUNT, flags: REQUEST, sequence: 1, family: 0, resource: 0 };
    netfilter::append(&mut request, &head, &Attributes::default());
    for answer in socket.tell(&request)? {
        match answer {
            Answer::Verdict { result, .. } => result?,
            Answer::Thing { attributes, .. } => return Ok(netfilter::number(&attributes, 1)),
        }
    }
    Ok(None)
}

/// Lets pass whatever comes of the TCP connections that an address has with itself.
///
/// # Errors
/// The kernel's, other than that a connection has ended meanwhile.
pub fn be_liberal(address: Ipv4Addr) -> io::Result<()> {
    let socket = Netfilter::open()?;
    let address = IpAddr::V4(address);
    let mut requests = Vec::new();
    for (sequence, (family, attributes)) in (1..).zip(socket.list(SUBSYSTEM << 8 | GET, AF_INET)?) {
        // Both directions come from it: the client's, and the server's answers.
        let Some((original, (client, _))) = end(&attributes, TCP, 1, 1) else { continue };
        let Some((_, (server, _))) = end(&attributes, TCP, 2, 1) else { continue };
        if client != address || server != address {
            continue;
        }
        let mut request = Attributes::default();
        request.bytes(1 | 0x8000, original);
        request.nested(4, |protocol| {
            protocol.nested(1, |tcp| {
                // The flags, and which of them are meant, of each direction.
                tcp.bytes(4, &[LIBERAL, LIBERAL]).bytes(5, &[LIBERAL, LIBERAL]);
            });
        });
        let head = Head { kind: SUBSYSTEM << 8 | CHANGE, flags: REQUEST | ACK, sequence, family, resource: 0 };
        netfilter::append(&mut requests, &head, &request);
    }
    carry_out(&socket, &requests)
}

/// Makes requests about connections, any of which may have ended meanwhile.
fn carry_out(socket: &Netfilter, requests: &[u8]) -> io::Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    for answer in socket.tell(requests)? {
        match answer {
            Answer::Verdict { result: Err(error), .. } if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A direction's attributes and one of its ends, when it is of that protocol; `side` is 1 for the source, 2 for the
/// destination.
fn end(attributes: &[u8], wanted: u8, direction: u16, side: u16) -> Option<(&[u8], (IpAddr, u16))> {
    let tuple = netfilter::attribute(attributes, direction)?;
    let addresses = netfilter::attribute(tuple, 1)?;
    let protocol = netfilter::attribute(tuple, 2)?;
    if netfilter::attribute(protocol, 1)? != [wanted] {
        return None;
    }
    let port = u16::from_be_bytes(netfilter::attribute(protocol, 1 + side)?.try_into().ok()?);
    let four = netfilter::attribute(addresses, side).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let six = netfilter::attribute(addresses, side + 2).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let address = four.map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
    let address = address.or_else(|| six.map(|bytes| IpAddr::from(Ipv6Addr::from(bytes))))?;
    Some((tuple, (address, port)))
}
