//! The interfaces that lead into containers, on the kernel: bridges with pairs, or ones on top of the host's.
//!
//! ```text
//! bridge     hull0 ── hv1234… ║ eth0      a pair for each container, in place (netlink/route.rs)
//! macvlan    parent ───────── ║ eth0      an own hardware address; the host itself is not reached
//! ipvlan     parent ───────── ║ eth0      the parent's hardware address
//! ```
//! Everything can be done again: what is there already is left as it is, so that the step at which somebody was killed
//! does not matter and starts beside each other do not meet. A container's end goes with its network namespace and takes
//! the host's end along; nothing has to be removed after a container.
//!
//! No router advertisement counts on a bridge or in a container: they could come from any container of the network
//! (CVE-2020-13401, CVE-2020-10749). An interface without IPv6 addresses does not speak IPv6.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use hull_kernel::netlink::route::{Netlink, Peer, Upper, within};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::network::{Endpoint, Link, Mac, Network};

/// A network that was not made, joined or left.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The kernel has no such interfaces.
    #[error(
        "this kernel has no {driver} interfaces (module {driver}), which network {network} is made of; a container with --network host or none needs none"
    )]
    NoSuchKind {
        /// The network.
        network: String,
        /// The kernel's word for it, also the module's name.
        driver: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host has no such interface.
    #[error("network {network}: there is no interface {parent} on this host")]
    NoParent {
        /// The network.
        network: String,
        /// The interface.
        parent: String,
    },
    /// The kernel refused a step.
    #[error("{action} of network {network}")]
    Refused {
        /// What was being done to what.
        action: String,
        /// Of which network.
        network: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

const EOPNOTSUPP: i32 = 95;
/// How long others may choose a subnet and make its bridge, which takes milliseconds.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
/// How long is waited before the lock is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Makes a failed step's error.
fn failed(action: &str, interface: &str, network: &Network) -> impl FnOnce(io::Error) -> InterfaceError {
    let (action, network, driver) = (format!("{action} {interface}"), network.name.clone(), network.driver());
    move |source| match source.raw_os_error() {
        Some(EOPNOTSUPP) => InterfaceError::NoSuchKind { network, driver, source },
        _ => InterfaceError::Refused { action, network, source },
    }
}

/// Keeps the other Hulls of the calling thread's network namespace from choosing subnets while the file is open: a lock
/// (flock(2)) on the namespace itself (namespaces(7)). Any user may lock a namespace and must not keep others from having
/// networks, so that the lock is waited for only so long.
///
/// # Errors
/// When the namespace cannot be opened or locked.
pub fn lock_subnets() -> io::Result<File> {
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let end = Instant::now() + LOCK_LIMIT;
    loop {
        match flock(&namespace, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(LOCK_PAUSE),
            Ok(()) | Err(Errno::WOULDBLOCK) => return Ok(namespace),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Makes what the host has of a network while no container is in it: its bridge, with the gateways' addresses.
///
/// # Errors
/// [`InterfaceError`].
pub fn prepare(host: &Netlink, network: &Network) -> Result<(), InterfaceError> {
    match &network.link {
        Link::Bridge { bridge } => ensure_bridge(host, bridge, network).map(drop),
        Link::Macvlan { .. } | Link::Ipvlan { .. } => Ok(()),
    }
}

/// Puts a container into a network: makes its interface in its namespace, with addresses and, when `routes` says so and
/// the network is not internal, the default routes.
///
/// The calling thread is in the namespace for a moment.
///
/// # Errors
/// [`InterfaceError`].
pub fn join(
    host: &Netlink,
    network: &Network,
    endpoint: &Endpoint,
    namespace: BorrowedFd<'_>,
    routes: bool,
) -> Result<(), InterfaceError> {
    let peer = Peer { name: &endpoint.interface, mac: endpoint.mac.0, namespace };
    match &network.link {
        Link::Bridge { bridge } => plug(host, bridge, network, endpoint, &peer)?,
        Link::Macvlan { parent, mode } => stack(host, parent, Upper::Macvlan(*mode), network, &peer)?,
        Link::Ipvlan { parent, mode } => stack(host, parent, Upper::Ipvlan(*mode), network, &peer)?,
    }
    let done = within(namespace, || Ok(set_up(network, endpoint, routes)));
    done.map_err(failed("entering the namespace for", &endpoint.interface, network))?
}

/// The container's interface gets its addresses and routes; the calling thread is in its namespace.
fn set_up(network: &Network, endpoint: &Endpoint, routes: bool) -> Result<(), InterfaceError> {
    let name = &endpoint.interface;
    let failed = |action| failed(action, name, network);
    let inside = Netlink::here().map_err(failed("asking for"))?;
    let index = inside.index(name).and_then(|index| index.ok_or(io::ErrorKind::NotFound.into()));
    let index = index.map_err(failed("finding"))?;
    let setting = if endpoint.ipv6.is_some() { ("accept_ra", "0") } else { ("disable_ipv6", "1") };
    set_ipv6(name, setting).map_err(failed("keeping IPv6 from"))?;
    for address in [endpoint.ipv4, endpoint.ipv6].into_iter().flatten() {
        inside.add_address(index, address.address, address.prefix).map_err(failed("giving an address to"))?;
    }
    inside.set_up(index, true).map_err(failed("setting up"))?;
    for gateway in gateways(network, endpoint).filter(|_| routes) {
        inside.add_default_route(gateway).map_err(failed("making the default route through"))?;
    }
    Ok(())
}

/// Sends what belongs to no subnet through a network that a running container is in already.
///
/// # Errors
/// [`InterfaceError`].
pub fn route_through(network: &Network, endpoint: &Endpoint, namespace: BorrowedFd<'_>) -> Result<(), InterfaceError> {
    let failed = |action| failed(action, &endpoint.interface, network);
    let inside = Netlink::of(namespace).map_err(failed("entering the namespace for"))?;
    for gateway in gateways(network, endpoint) {
        unless_there(inside.add_default_route(gateway)).map_err(failed("making the default route through"))?;
    }
    Ok(())
}

/// Takes a container out of a network; nothing when it is not in it. Without a namespace it has ended, and what is not
/// on the host has gone.
///
/// # Errors
/// [`InterfaceError`].
pub fn leave(
    host: &Netlink,
    network: &Network,
    endpoint: &Endpoint,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<(), InterfaceError> {
    let (name, removed) = match (&endpoint.host_interface, namespace) {
        (Some(name), _) => (name, remove(host, name)),
        (None, Some(namespace)) => {
            let name = &endpoint.interface;
            (name, Netlink::of(namespace).and_then(|inside| remove(&inside, name)))
        }
        (None, None) => return Ok(()),
    };
    removed.map_err(failed("removing", name, network))
}

/// A pair of interfaces, the host's end in the bridge.
fn plug(
    host: &Netlink,
    bridge: &str,
    network: &Network,
    endpoint: &Endpoint,
    peer: &Peer<'_>,
) -> Result<(), InterfaceError> {
    let controller = ensure_bridge(host, bridge, network)?;
    let name = endpoint.host_interface.as_deref().unwrap_or_default();
    host.make_veth(name, Some(controller), network.mtu, peer).map_err(failed("making", name, network))?;
    let port = host.index(name).and_then(|index| index.ok_or(io::ErrorKind::NotFound.into()));
    port.and_then(|port| host.let_return(port)).map_err(failed("setting the bridge's port", name, network))
}

/// An interface on top of one of the host's.
fn stack(host: &Netlink, parent: &str, kind: Upper, network: &Network, peer: &Peer<'_>) -> Result<(), InterfaceError> {
    let index = host.index(parent).map_err(failed("looking for", parent, network))?;
    let no_parent = || InterfaceError::NoParent { network: network.name.clone(), parent: parent.to_owned() };
    let index = index.ok_or_else(no_parent)?;
    host.make_upper(index, kind, network.mtu, peer).map_err(failed("making an interface on", parent, network))
}

/// Makes a network's bridge with the gateways' addresses, or what is missing of it. Returns its index.
fn ensure_bridge(host: &Netlink, bridge: &str, network: &Network) -> Result<u32, InterfaceError> {
    let failed = |action| failed(action, bridge, network);
    let index = match host.index(bridge).map_err(failed("looking for bridge"))? {
        Some(index) => index,
        None => {
            let gateway = network.subnets.first().map(|subnet| subnet.gateway);
            let mac = gateway.map_or(Mac([2, 0x42, 0, 0, 0, 1]), Mac::of);
            unless_there(host.make_bridge(bridge, mac.0, network.mtu)).map_err(failed("making bridge"))?;
            let gone = || failed("finding bridge")(io::ErrorKind::NotFound.into());
            host.index(bridge).map_err(failed("looking for bridge"))?.ok_or_else(gone)?
        }
    };
    set_ipv6(bridge, ("accept_ra", "0")).map_err(failed("keeping router advertisements from bridge"))?;
    for subnet in &network.subnets {
        let added = host.add_address(index, subnet.gateway, subnet.cidr.prefix);
        unless_there(added).map_err(failed("giving an address to bridge"))?;
    }
    host.set_up(index, true).map_err(failed("setting up bridge"))?;
    Ok(index)
}

/// Lets this host's own packets from 127/8 go to a network's containers, for ports that are published there. The
/// firewall's rules have to be there first: they keep the network away from the host's loopback.
///
/// # Errors
/// The setting that cannot be written.
pub fn open_loopback(network: &Network) -> Result<(), InterfaceError> {
    let Some(bridge) = network.bridge().filter(|_| network.subnet_v4().is_some()) else { return Ok(()) };
    let path = format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet");
    fs::write(&path, "1").map_err(failed("setting", &path, network))
}

/// Writes a setting of an interface of the calling thread's namespace; nothing where the kernel has no IPv6.
fn set_ipv6(interface: &str, (setting, value): (&str, &str)) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/{setting}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The gateways of the families that the container has an address of, unless nothing leaves the network.
fn gateways<'a>(network: &'a Network, endpoint: &'a Endpoint) -> impl Iterator<Item = IpAddr> + 'a {
    let has = |v4: bool| if v4 { endpoint.ipv4.is_some() } else { endpoint.ipv6.is_some() };
    let gateways = network.subnets.iter().map(|subnet| subnet.gateway);
    gateways.filter(move |gateway| !network.internal && has(gateway.is_ipv4()))
}

/// Removes an interface of a namespace; nothing when it is not there.
///
/// # Errors
/// The kernel's.
pub fn remove(namespace: &Netlink, interface: &str) -> io::Result<()> {
    match namespace.index(interface)? {
        Some(index) => namespace.remove_link(index),
        None => Ok(()),
    }
}

fn unless_there(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}
