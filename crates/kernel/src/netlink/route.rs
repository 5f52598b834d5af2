//! Interfaces, addresses and routes of one network namespace (rtnetlink(7)).
//!
//! A [`Netlink`] is a conversation with the kernel: one request at a time, answered before the next. Its socket belongs
//! to the namespace in which it was made, wherever its thread goes later.
//!
//! A pair of virtual interfaces is made in place: the request is made on the host, and the container's end, described
//! in `VETH_INFO_PEER`, is in the container's namespace from the beginning (`IFLA_NET_NS_FD`). An interface that is
//! moved costs the kernel twenty times as much. Nothing made here outlasts the namespace in which one end of it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use hull_sys::process::{CLONE_NEWNET, setns};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth, IpVlanMode,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use serde::{Deserialize, Serialize};

/// Index of `lo` in every network namespace.
pub const LOOPBACK: u32 = 1;

/// A conversation with rtnetlink in one network namespace.
pub struct Netlink(Socket);

/// The container's end of a pair of interfaces, which is made with the host's.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its network namespace.
    pub namespace: BorrowedFd<'a>,
}

/// An interface on top of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// With a hardware address of its own.
    Macvlan(MacvlanMode),
    /// With the lower one's.
    Ipvlan(IpvlanMode),
}

/// How interfaces on top of the same one reach each other (ip-link(8)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// Directly.
    #[default]
    Bridge,
    /// By a switch outside that sends them back.
    Vepa,
    /// Not at all.
    Private,
    /// There is only one.
    Passthru,
}

impl From<MacvlanMode> for MacVlanMode {
    fn from(mode: MacvlanMode) -> MacVlanMode {
        match mode {
            MacvlanMode::Bridge => MacVlanMode::Bridge,
            MacvlanMode::Vepa => MacVlanMode::Vepa,
            MacvlanMode::Private => MacVlanMode::Private,
            MacvlanMode::Passthru => MacVlanMode::Passthrough,
        }
    }
}

/// Which packets interfaces on top of the same one see (ip-link(8)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// Those of their hardware address, also for everybody.
    #[default]
    L2,
    /// Those of their addresses.
    L3,
    /// Those of their addresses, through the host's firewall.
    L3s,
}

impl From<IpvlanMode> for IpVlanMode {
    fn from(mode: IpvlanMode) -> IpVlanMode {
        match mode {
            IpvlanMode::L2 => IpVlanMode::L2,
            IpvlanMode::L3 => IpVlanMode::L3,
            IpvlanMode::L3s => IpVlanMode::L3S,
        }
    }
}

impl Netlink {
    /// In the calling thread's namespace.
    ///
    /// # Errors
    /// The socket's.
    pub fn here() -> io::Result<Netlink> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink(socket))
    }

    /// In another namespace, where the calling thread is for a moment.
    ///
    /// # Errors
    /// When the namespace cannot be entered; the socket's.
    pub fn of(namespace: BorrowedFd<'_>) -> io::Result<Netlink> {
        within(namespace, Netlink::here)
    }

    /// Index of the interface with a name.
    ///
    /// # Errors
    /// The kernel's.
    pub fn index(&self, name: &str) -> io::Result<Option<u32>> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.get(RouteNetlinkMessage::GetLink(link)) {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(link.header.index)),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Names of the interfaces that are in a bridge.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ports(&self, bridge: u32) -> io::Result<Vec<String>> {
        let answers = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let name = |answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else { return None };
            let is_in = link.attributes.contains(&LinkAttribute::Controller(bridge));
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) if is_in => Some(name),
                _ => None,
            })
        };
        Ok(answers.into_iter().filter_map(name).collect())
    }

    /// Makes a bridge, down and without addresses.
    ///
    /// # Errors
    /// The kernel's: `EEXIST` when the name is taken, `EOPNOTSUPP` when it has no bridges.
    pub fn make_bridge(&self, name: &str, mac: [u8; 6], mtu: Option<u32>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        // Of its own, so that it does not change with the interfaces that come and go.
        link.attributes.push(LinkAttribute::Address(mac.to_vec()));
        link.attributes.extend(mtu.map(LinkAttribute::Mtu));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.make(RouteNetlinkMessage::NewLink(link))
    }

    /// Makes a pair of interfaces: the host's end, up and in a bridge if there is one, and the container's.
    ///
    /// # Errors
    /// The kernel's; neither end exists then.
    pub fn make_veth(&self, name: &str, bridge: Option<u32>, mtu: Option<u32>, peer: &Peer<'_>) -> io::Result<()> {
        let mut inside = LinkMessage::default();
        inside.attributes.push(LinkAttribute::IfName(peer.name.to_owned()));
        inside.attributes.push(LinkAttribute::Address(peer.mac.to_vec()));
        inside.attributes.push(LinkAttribute::NetNsFd(peer.namespace.as_raw_fd()));
        inside.attributes.extend(mtu.map(LinkAttribute::Mtu));
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.extend(bridge.map(LinkAttribute::Controller));
        link.attributes.extend(mtu.map(LinkAttribute::Mtu));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside))),
        ]));
        self.make(RouteNetlinkMessage::NewLink(link))
    }

    /// Makes an interface on top of one of this namespace's, in another namespace from the beginning.
    ///
    /// # Errors
    /// The kernel's: `EOPNOTSUPP` when it has no such interfaces.
    pub fn make_upper(&self, parent: u32, kind: Upper, mtu: Option<u32>, peer: &Peer<'_>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(peer.name.to_owned()));
        link.attributes.push(LinkAttribute::Link(parent));
        link.attributes.push(LinkAttribute::NetNsFd(peer.namespace.as_raw_fd()));
        link.attributes.extend(mtu.map(LinkAttribute::Mtu));
        let (kind, data) = match kind {
            Upper::Macvlan(mode) => {
                link.attributes.push(LinkAttribute::Address(peer.mac.to_vec()));
                (InfoKind::MacVlan, InfoData::MacVlan(vec![InfoMacVlan::Mode(mode.into())]))
            }
            Upper::Ipvlan(mode) => (InfoKind::IpVlan, InfoData::IpVlan(vec![InfoIpVlan::Mode(mode.into())])),
        };
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
        self.make(RouteNetlinkMessage::NewLink(link))
    }

    /// Lets a bridge send packets back through the port by which they came (bridge(8), hairpin): where br_netfilter
    /// has the firewall see frames, a container reaches its own published port only so.
    ///
    /// # Errors
    /// The kernel's.
    pub fn let_return(&self, port: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = port;
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]));
        self.tell(RouteNetlinkMessage::NewLink(link), 0)
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_link(&self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.tell(RouteNetlinkMessage::DelLink(link), 0)
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.change_mask = LinkFlags::Up;
        link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.tell(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives an interface an address with the length of its subnet's prefix. An IPv6 address is good at once: whoever
    /// gives it knows that nobody else has it.
    ///
    /// # Errors
    /// The kernel's: `EEXIST` when it has the address.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        match address {
            IpAddr::V4(address) => {
                message.attributes.push(AddressAttribute::Broadcast(broadcast(address, prefix)));
            }
            IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
        }
        self.make(RouteNetlinkMessage::NewAddress(message))
    }

    /// Sends what belongs to no subnet through a gateway.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_default_route(&self, gateway: IpAddr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(gateway),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        self.make(RouteNetlinkMessage::NewRoute(message))
    }

    /// Where the routes of all tables lead, the default ones left out: an address and the length of the prefix.
    ///
    /// # Errors
    /// The kernel's.
    pub fn destinations(&self) -> io::Result<Vec<(IpAddr, u8)>> {
        let answers = self.ask(RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(answers.into_iter().filter_map(destination).collect())
    }

    fn make(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.tell(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sends a request and hears whether it was carried out.
    pub(crate) fn tell(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.hear(false).map(drop)
    }

    /// Sends a request for one thing and hears it.
    fn get(&self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST)?;
        Ok(self.hear(true)?.pop())
    }

    /// Sends a request for everything and hears all of it.
    pub(crate) fn ask(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.hear(false)
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = 1;
        message.finalize();
        let mut request = vec![0; message.buffer_len()];
        message.serialize(&mut request);
        self.0.send(&request, 0).map(drop)
    }

    /// Answers up to the one that ends them, or only the first.
    fn hear(&self, only_first: bool) -> io::Result<Vec<RouteNetlinkMessage>> {
        const ALIGNMENT: usize = 4;
        let mut heard = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(heard),
                    NetlinkPayload::InnerMessage(inner) => heard.push(inner),
                    _ => {}
                }
                let length = (message.header.length as usize).next_multiple_of(ALIGNMENT).max(ALIGNMENT);
                rest = rest.get(length..).unwrap_or_default();
            }
            if only_first && !heard.is_empty() {
                return Ok(heard);
            }
        }
    }
}

/// Does something with the calling thread in another network namespace: sockets that are made and settings that are
/// written there are that namespace's.
///
/// # Errors
/// When the namespace cannot be entered or left; what `inside` says.
pub fn within<T>(namespace: BorrowedFd<'_>, inside: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = std::fs::File::open("/proc/thread-self/ns/net")?;
    setns(namespace, CLONE_NEWNET)?;
    let result = inside();
    setns(own.as_fd(), CLONE_NEWNET)?;
    result
}

const ENODEV: i32 = 19;

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The last address of a subnet.
fn broadcast(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() | hosts)
}

/// Where a route leads, unless it is a default one or one for groups.
fn destination(answer: RouteNetlinkMessage) -> Option<(IpAddr, u8)> {
    let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
    let prefix = route.header.destination_prefix_length;
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let unspecified = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    (prefix > 0 && !unspecified.contains(&address) && !address.is_multicast()).then_some((address, prefix))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::UdpSocket;

    use hull_sys::process::unshare;

    use super::super::apart::apart;
    use super::*;

    /// The calling thread's namespace. `/proc/self` is the first thread's.
    fn own_namespace() -> File {
        File::open("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn last_addresses_of_subnets() {
        assert_eq!(broadcast(Ipv4Addr::new(172, 17, 3, 4), 16), Ipv4Addr::new(172, 17, 255, 255));
        assert_eq!(broadcast(Ipv4Addr::new(10, 0, 0, 1), 32), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(broadcast(Ipv4Addr::new(10, 0, 0, 1), 0), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn a_pair_made_in_place_carries_packets_to_the_bridge() {
        apart(|| {
            let host = Netlink::here().unwrap();
            host.set_up(LOOPBACK, true).unwrap();
            host.make_bridge("br0", [2, 0, 0, 0, 0, 1], Some(1400)).unwrap();
            let taken = host.make_bridge("br0", [2, 0, 0, 0, 0, 1], None).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
            let bridge = host.index("br0").unwrap().unwrap();
            host.set_up(bridge, true).unwrap();
            host.add_address(bridge, [10, 9, 0, 1].into(), 24).unwrap();
            assert!(host.destinations().unwrap().contains(&([10, 9, 0, 0].into(), 24)));
            let outside = own_namespace();
            let server = UdpSocket::bind("10.9.0.1:9").unwrap();

            unshare(CLONE_NEWNET).unwrap();
            let namespace = own_namespace();
            let inside = Netlink::here().unwrap();
            let peer = Peer { name: "eth0", mac: [2, 0x42, 10, 9, 0, 2], namespace: namespace.as_fd() };
            host.make_veth("v0", Some(bridge), Some(1400), &peer).unwrap();
            let eth0 = inside.index("eth0").unwrap().unwrap();
            inside.add_address(eth0, [10, 9, 0, 2].into(), 24).unwrap();
            inside.add_address(eth0, "fd09::2".parse().unwrap(), 64).unwrap();
            inside.set_up(eth0, true).unwrap();
            inside.add_default_route([10, 9, 0, 1].into()).unwrap();
            inside.add_default_route("fd09::1".parse().unwrap()).unwrap();
            let client = UdpSocket::bind("10.9.0.2:0").unwrap();
            client.send_to(b"hello", "10.9.0.1:9").unwrap();
            let mut buffer = [0; 16];
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.ip()), (&b"hello"[..], [10, 9, 0, 2].into()));

            setns(outside.as_fd(), CLONE_NEWNET).unwrap();
            host.remove_link(host.index("v0").unwrap().unwrap()).unwrap();
            assert_eq!(inside.index("eth0").unwrap(), None, "both ends go together");
        });
    }
}
