//! Bridges and the pairs of interfaces that lead from them into containers, on the kernel.
//!
//! Everything can be done again: what is there already is left as it is, so that the step at which somebody was killed
//! does not matter and starts beside each other do not meet. A container's end goes with its network namespace and takes
//! the host's end along; nothing has to be removed after a container.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use hull_kernel::netlink::route::{Netlink, Peer};

use crate::network::{Endpoint, Mac, Network};

/// A network that was not made or joined.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The kernel has no bridges.
    #[error("network {network} needs a bridge, which this kernel does not have (module bridge)")]
    NoBridges {
        /// The network.
        network: String,
        /// Why.
        #[source]
        source: io::Error,
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
const FORWARDING: [(&str, bool); 2] =
    [("/proc/sys/net/ipv4/ip_forward", true), ("/proc/sys/net/ipv6/conf/all/forwarding", false)];

/// A setting of the kernel that was changed: its name in the words of sysctl(8), and the value it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedSetting {
    /// `net.ipv4.ip_forward`
    pub name: String,
    /// Before.
    pub previous: String,
}

/// Makes a network's bridge with the gateways' addresses, or what is missing of it. Returns its index.
///
/// # Errors
/// [`BridgeError`].
pub fn ensure(host: &Netlink, network: &Network) -> Result<u32, BridgeError> {
    let bridge = &network.bridge;
    let failed = |action: &str| {
        let action = format!("{action} {bridge}");
        move |source| BridgeError::Refused { action, network: network.name.clone(), source }
    };
    let index = match host.index(bridge).map_err(failed("looking for bridge"))? {
        Some(index) => index,
        None => {
            let gateway = network.subnets.first().map(|subnet| subnet.gateway);
            let mac = gateway.map_or(Mac([2, 0x42, 0, 0, 0, 1]), Mac::of);
            match host.make_bridge(bridge, mac.0, network.mtu) {
                Err(source) if source.raw_os_error() == Some(EOPNOTSUPP) => {
                    return Err(BridgeError::NoBridges { network: network.name.clone(), source });
                }
                result => unless_there(result).map_err(failed("making bridge"))?,
            }
            let gone = || failed("finding bridge")(io::ErrorKind::NotFound.into());
            host.index(bridge).map_err(failed("looking for bridge"))?.ok_or_else(gone)?
        }
    };
    for subnet in &network.subnets {
        let added = host.add_address(index, subnet.gateway, subnet.cidr.prefix);
        unless_there(added).map_err(failed("giving an address to bridge"))?;
    }
    host.set_up(index, true).map_err(failed("setting up bridge"))?;
    Ok(index)
}

/// Puts a container into a network: makes its interface in its namespace, with addresses and, unless the network is
/// internal or another one has them, the default routes.
///
/// The calling thread is in the namespace for a moment, so it must be the only one of its process.
///
/// # Errors
/// [`BridgeError`].
pub fn attach(
    host: &Netlink,
    bridge: u32,
    network: &Network,
    endpoint: &Endpoint,
    namespace: BorrowedFd<'_>,
    routes: bool,
) -> Result<(), BridgeError> {
    let failed = |action: &'static str| {
        move |source| {
            let action = format!("{action} {}", endpoint.interface);
            BridgeError::Refused { action, network: network.name.clone(), source }
        }
    };
    let peer = Peer { name: &endpoint.interface, mac: endpoint.mac.0, namespace };
    host.make_veth(&endpoint.host_interface, bridge, network.mtu, &peer).map_err(failed("making interface"))?;
    let port = host.index(&endpoint.host_interface).and_then(|index| index.ok_or(io::ErrorKind::NotFound.into()));
    port.and_then(|port| host.let_return(port)).map_err(failed("setting the bridge's port of interface"))?;
    let inside = Netlink::of(namespace).map_err(failed("entering the namespace for interface"))?;
    let index = inside.index(&endpoint.interface).and_then(|index| index.ok_or(io::ErrorKind::NotFound.into()));
    let index = index.map_err(failed("finding interface"))?;
    for address in [endpoint.ipv4, endpoint.ipv6].into_iter().flatten() {
        let added = inside.add_address(index, address.address, address.prefix);
        added.map_err(failed("giving an address to interface"))?;
    }
    inside.set_up(index, true).map_err(failed("setting up interface"))?;
    for gateway in gateways(network, endpoint).filter(|_| routes && !network.internal) {
        inside.add_default_route(gateway).map_err(failed("making the default route through interface"))?;
    }
    Ok(())
}

/// The gateways of the families that the container has an address of.
fn gateways<'a>(network: &'a Network, endpoint: &'a Endpoint) -> impl Iterator<Item = IpAddr> + 'a {
    let has = |v4: bool| if v4 { endpoint.ipv4.is_some() } else { endpoint.ipv6.is_some() };
    network.subnets.iter().map(|subnet| subnet.gateway).filter(move |gateway| has(gateway.is_ipv4()))
}

/// Lets this host's own packets from 127/8 go to a network's containers, for ports that are published there. The
/// firewall's rules have to be there first: they keep the network away from the host's loopback.
///
/// # Errors
/// The setting that cannot be written.
pub fn open_loopback(network: &Network) -> Result<(), BridgeError> {
    if network.subnet_v4().is_none() {
        return Ok(());
    }
    let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", network.bridge);
    fs::write(&path, "1").map_err(|source| BridgeError::Refused {
        action: format!("setting {path}"),
        network: network.name.clone(),
        source,
    })
}

/// Removes an interface of the host's; nothing when it is not there.
///
/// # Errors
/// The kernel's.
pub fn remove(host: &Netlink, interface: &str) -> io::Result<()> {
    match host.index(interface)? {
        Some(index) => host.remove_link(index),
        None => Ok(()),
    }
}

/// Lets the host pass packets on between its interfaces, which all but internal networks need. Tells what was changed.
///
/// # Errors
/// A setting that cannot be read or written.
pub fn forward(network: &Network) -> Result<Vec<ChangedSetting>, BridgeError> {
    let mut changed = Vec::new();
    for (path, v4) in FORWARDING {
        let has_family = if v4 { network.subnet_v4().is_some() } else { network.subnet_v6().is_some() };
        if network.internal || !has_family {
            continue;
        }
        let failed = |source| {
            let action = format!("setting {path} for the packets");
            BridgeError::Refused { action, network: network.name.clone(), source }
        };
        let value = fs::read_to_string(path).map_err(failed)?;
        if value.trim() != "1" {
            fs::write(path, "1").map_err(failed)?;
            let name = path.trim_start_matches("/proc/sys/").replace('/', ".");
            changed.push(ChangedSetting { name, previous: value.trim().to_owned() });
        }
    }
    Ok(changed)
}

fn unless_there(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}
