//! Networks made, listed and removed by themselves.
//!
//! ```text
//! create    lock of the namespace → row → bridge            the next start makes a bridge that is missing
//! remove    lease, if nobody is in it → table → bridge → row
//! ```
//! A network with a lease is nobody's network any more; whoever finds a dead one goes through with the removal. The
//! default network is made by the first command that looks at networks and by the first start, not by a container that
//! is only created. Docker's `host` and `none` have no row: they are listed, and that is all.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hull_kernel::netlink::route::Netlink;
use hull_network::firewall::Segment;
use hull_network::network::DEFAULT_NETWORK;
use hull_network::subnet::{self, Pool};
use hull_network::{Cidr, Link, Network, Subnet, interfaces};
use hull_store::{Lease, StoreError};
use jiff::Timestamp;
use rusqlite::{Connection, Transaction, params};
use serde::de::DeserializeOwned;

use super::{NetworkError, all, find, insert, places, resolve};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::{fill_random, random_hex};
use crate::inspect::NetworkInspect;
use crate::names::is_plain;
use crate::prune::{PruneFilter, Pruned};

/// Names that are no user's networks: modes of `--network`, and Hull's own.
const RESERVED: [&str; 6] = [DEFAULT_NETWORK, "host", "none", "default", "private", "container"];
/// How often a subnet is chosen again that another network was given meanwhile.
const ATTEMPTS: usize = 8;
/// Smallest and largest packets that IPv4 and the kernel's interfaces have, bytes.
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;
/// Longest name of an interface (`IFNAMSIZ` without the zero).
const INTERFACE_LENGTH: usize = 15;

/// A network that is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// bridge (the default), macvlan or ipvlan.
    pub driver: Option<String>,
    /// At most one of each family; chosen when there is none.
    pub subnets: Vec<Cidr>,
    /// Gateways, each in one of the subnets.
    pub gateways: Vec<IpAddr>,
    /// Parts of the subnets that addresses are taken from.
    pub ranges: Vec<Cidr>,
    /// Whether it has IPv6 addresses, also without a subnet of them.
    pub ipv6: bool,
    /// Whether nothing of it reaches beyond it.
    pub internal: bool,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// The name of a network's bridge, unless it is given one.
pub(crate) fn bridge_name(id: &str) -> String {
    format!("hull-{}", &id[..10])
}

impl Engine {
    /// All networks, the default one among them; removals that were interrupted are gone through with first.
    pub(crate) fn networks(&self) -> Result<Vec<Network>, EngineError> {
        let known = self.made_networks()?;
        if find(&known, DEFAULT_NETWORK).is_some() {
            return Ok(known);
        }
        self.default_network()?;
        self.store().read(all)
    }

    /// All networks, as [`networks`](Self::networks), but without the default one when nothing has needed it yet.
    pub(crate) fn made_networks(&self) -> Result<Vec<Network>, EngineError> {
        self.sweep_networks()?;
        self.store().read(all)
    }

    /// Makes the default network when there is none.
    pub(crate) fn default_network(&self) -> Result<(), EngineError> {
        let known = self.store().read(all)?;
        if find(&known, DEFAULT_NETWORK).is_some() {
            return Ok(());
        }
        let wanted = NewNetwork { name: DEFAULT_NETWORK.to_owned(), ..NewNetwork::default() };
        match self.insert_network(&wanted, Some(self.default_bridge())) {
            Err(EngineError::Network(NetworkError::Exists(_))) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Name of the bridge of the default network.
    fn default_bridge(&self) -> String {
        match self.roots().instance().strip_prefix("hull-") {
            Some(hash) => format!("hull0-{hash}"),
            None => "hull0".to_owned(),
        }
    }

    /// Makes a network; its id.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn create_network(&self, wanted: &NewNetwork) -> Result<String, EngineError> {
        if RESERVED.contains(&wanted.name.as_str()) {
            return Err(NetworkError::Predefined(wanted.name.clone(), "created").into());
        }
        if !is_plain(&wanted.name) {
            return Err(NetworkError::Name(wanted.name.clone()).into());
        }
        self.networks()?;
        self.insert_network(wanted, None)
    }

    /// Chooses, and shows what it has chosen to others before they choose: by a row to this Hull's, by the bridge and its
    /// route to other Hulls of the network namespace.
    fn insert_network(&self, wanted: &NewNetwork, bridge: Option<String>) -> Result<String, EngineError> {
        let _others_wait = interfaces::lock_subnets().map_err(NetworkError::Lock)?;
        let network = self.insert_chosen(wanted, bridge)?;
        let host = Netlink::here().map_err(NetworkError::Socket)?;
        if let Err(error) = interfaces::prepare(&host, &network) {
            tracing::debug!(%error, "the bridge is left to the first start");
        }
        Ok(network.id)
    }

    fn insert_chosen(&self, wanted: &NewNetwork, bridge: Option<String>) -> Result<Network, EngineError> {
        for attempt in 1.. {
            let network = self.defined(wanted, bridge.clone())?;
            let inserted = self.store().write(|tx| {
                if is_taken(tx, &network.name)? {
                    return Err(NetworkError::Exists(network.name.clone()).into());
                }
                refuse_overlaps(&network, &all(tx)?)?;
                insert(tx, &network)
            });
            match inserted {
                Err(EngineError::Network(NetworkError::Overlap { .. }))
                    if wanted.subnets.is_empty() && attempt < ATTEMPTS => {}
                result => return result.map(|()| network),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The definition of a network, with what was not asked for chosen.
    fn defined(&self, wanted: &NewNetwork, bridge: Option<String>) -> Result<Network, EngineError> {
        let id = random_hex(32).map_err(EngineError::Random)?;
        let mut options = Options::of(wanted);
        let host = Netlink::here().map_err(NetworkError::Socket)?;
        let link = match options.driver {
            "bridge" => Link::Bridge { bridge: options.bridge(&host)?.or(bridge).unwrap_or_else(|| bridge_name(&id)) },
            "macvlan" => Link::Macvlan { parent: options.parent(&host)?, mode: options.mode("macvlan_mode")? },
            "ipvlan" => Link::Ipvlan { parent: options.parent(&host)?, mode: options.mode("ipvlan_mode")? },
            other => return Err(NetworkError::Driver(other.to_owned()).into()),
        };
        let mtu = options.mtu()?;
        options.end()?;
        let subnets = self.subnets(wanted, &host)?;
        Ok(Network {
            id,
            name: wanted.name.clone(),
            link,
            ipv6: subnets.iter().any(|subnet| subnet.cidr.address.is_ipv6()),
            subnets,
            mtu,
            internal: wanted.internal,
            options: wanted.options.clone(),
            labels: wanted.labels.clone(),
            created: Timestamp::now(),
        })
    }

    /// The subnets asked for with their gateways and ranges, and those that have to be chosen.
    fn subnets(&self, wanted: &NewNetwork, host: &Netlink) -> Result<Vec<Subnet>, EngineError> {
        let mut cidrs = wanted.subnets.clone();
        let has = |cidrs: &[Cidr], v4: bool| cidrs.iter().filter(|cidr| cidr.address.is_ipv4() == v4).count();
        if has(&cidrs, true) > 1 || has(&cidrs, false) > 1 {
            let words = "a network has at most one subnet of each family";
            return Err(NetworkError::Definition(words.to_owned()).into());
        }
        if has(&cidrs, true) == 0 {
            cidrs.insert(0, self.free_subnet(host)?);
        }
        if wanted.ipv6 && has(&cidrs, false) == 0 {
            let mut random = [0; 7];
            fill_random(&mut random).map_err(EngineError::Random)?;
            cidrs.push(subnet::unique_local(random));
        }
        Ok(with_gateways(&cidrs, &wanted.gateways, &wanted.ranges)?)
    }

    /// A subnet of the pools that meets no route of the host's and no network.
    fn free_subnet(&self, host: &Netlink) -> Result<Cidr, EngineError> {
        let routes = host.destinations().map_err(NetworkError::Routes)?;
        let mut avoided: Vec<Cidr> = routes.into_iter().map(|(address, prefix)| Cidr { address, prefix }).collect();
        let networks = self.store().read(all)?;
        avoided.extend(networks.iter().flat_map(|network| &network.subnets).map(|subnet| subnet.cidr));
        let configured = &self.configuration()?.network.pools;
        let pools = if configured.is_empty() { &Pool::DOCKERS[..] } else { configured };
        Ok(subnet::free_pool(pools, &avoided).ok_or(NetworkError::NoPool)?)
    }

    /// Every network, by name.
    ///
    /// # Errors
    /// The database's.
    pub fn list_networks(&self) -> Result<Vec<NetworkInspect>, EngineError> {
        self.recover()?;
        let networks = self.networks()?;
        let members = self.store().read(|db| places::in_network(db, None))?;
        let mut list: Vec<_> = networks.iter().map(|network| NetworkInspect::of(network, &members)).collect();
        let created = find(&networks, DEFAULT_NETWORK).map_or(Timestamp::UNIX_EPOCH, |network| network.created);
        list.extend(NetworkInspect::modes(created));
        // Hull's own network is meant where two have a name.
        let brought = self.cni_networks()?;
        let is_hidden = |name: &str| list.iter().any(|own| own.name == name);
        let brought: Vec<_> = brought.into_iter().filter(|one| !is_hidden(&one.name)).collect();
        list.extend(brought);
        list.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(list)
    }

    /// One network, by name, id or an unambiguous beginning of one.
    ///
    /// # Errors
    /// [`NetworkError::NotFound`].
    pub fn inspect_network(&self, name: &str) -> Result<NetworkInspect, EngineError> {
        self.recover()?;
        let networks = self.networks()?;
        let created = find(&networks, DEFAULT_NETWORK).map_or(Timestamp::UNIX_EPOCH, |network| network.created);
        if let Some(mode) = NetworkInspect::modes(created).into_iter().find(|one| one.name == name || one.id == name) {
            return Ok(mode);
        }
        let network = match resolve(&networks, name) {
            Ok(network) => network,
            Err(error) => {
                let brought = self.cni_networks()?.into_iter().find(|one| one.name == name || one.id == name);
                return brought.ok_or(error.into());
            }
        };
        let members = self.store().read(|db| places::in_network(db, Some(&network.id)))?;
        Ok(NetworkInspect::of(network, &members))
    }

    /// Removes a network that no running container is in.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        if RESERVED.contains(&name) {
            return Err(NetworkError::Predefined(name.to_owned(), "removed").into());
        }
        self.recover()?;
        let network = resolve(&self.made_networks()?, name)?.clone();
        if network.is_default() {
            return Err(NetworkError::Predefined(network.name, "removed").into());
        }
        let lease = Lease::current()?;
        self.store().write(|tx| {
            let (_, _, boot) = lease.columns();
            tx.prepare_cached("DELETE FROM endpoints WHERE boot_id <> ?1")?.execute([boot])?;
            let containers: Vec<_> =
                places::in_network(tx, Some(&network.id))?.into_iter().map(|place| place.name).collect();
            if !containers.is_empty() {
                return Err(NetworkError::InUse { network: network.name.clone(), containers }.into());
            }
            Ok::<_, EngineError>(claim(tx, &network.id, &lease)?)
        })?;
        self.remove_claimed_network(&network)
    }

    /// Removes what the kernel has of a network that this process has leased, then its row.
    fn remove_claimed_network(&self, network: &Network) -> Result<(), EngineError> {
        if let (Some(bridge), Some(segment)) = (network.bridge(), Segment::of(network)) {
            let named = || network.name.clone();
            let rules = self.firewall().remove_network(&segment);
            rules.map_err(|source| NetworkError::Firewall { network: named(), source })?;
            let host = Netlink::here().map_err(NetworkError::Socket)?;
            interfaces::remove(&host, bridge).map_err(|source| {
                let action = format!("removing bridge {bridge}");
                NetworkError::from(interfaces::InterfaceError::Refused { action, network: named(), source })
            })?;
        }
        Ok(self.store().write(|tx| forget(tx, &network.id))?)
    }

    /// Removes networks whose removers have died; how many.
    pub(crate) fn sweep_networks(&self) -> Result<usize, EngineError> {
        if !self.store().read(has_leased)? {
            return Ok(0);
        }
        let lease = Lease::current()?;
        let abandoned = self.store().write(|tx| claim_abandoned(tx, &lease))?;
        for network in &abandoned {
            self.remove_claimed_network(network)?;
        }
        Ok(abandoned.len())
    }

    /// Removes every network of users' that no running container is in.
    ///
    /// # Errors
    /// A network that cannot be removed.
    pub fn prune_networks(&self, filter: &PruneFilter) -> Result<Pruned, EngineError> {
        let mut pruned = Pruned::default();
        for network in self.made_networks()? {
            if network.is_default() || !filter.takes(network.created, &network.labels) {
                continue;
            }
            match self.remove_network(&network.id) {
                Ok(()) => pruned.removed.push(network.name),
                Err(EngineError::Network(NetworkError::InUse { .. } | NetworkError::NotFound(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    /// Brings back what the host's firewall has lost of Hull's, and has it follow the host's policy as it is now.
    ///
    /// # Errors
    /// The firewall's, a setting's.
    pub fn reload_networks(&self) -> Result<(), EngineError> {
        self.restore_firewall()?;
        self.check_cni()?;
        for network in self.networks_in_use()? {
            self.forward(&network)?;
            interfaces::open_loopback(&network).map_err(NetworkError::from)?;
        }
        Ok(())
    }

    /// The networks that running containers are in.
    fn networks_in_use(&self) -> Result<Vec<Network>, EngineError> {
        let places = self.store().read(|db| places::in_network(db, None))?;
        let mut networks = self.made_networks()?;
        networks.retain(|network| places.iter().any(|place| place.network_id == network.id));
        Ok(networks)
    }
}

/// Subnets with the gateways and ranges that lie in them.
fn with_gateways(cidrs: &[Cidr], gateways: &[IpAddr], ranges: &[Cidr]) -> Result<Vec<Subnet>, NetworkError> {
    let words = |error: subnet::SubnetError| NetworkError::Definition(error.to_string());
    let nowhere = |what, value: String| words(subnet::SubnetError::Outside { what, value });
    let mut gateways = gateways.to_vec();
    let mut ranges = ranges.to_vec();
    let mut subnets = Vec::new();
    for cidr in cidrs {
        let network = cidr.network();
        let gateway = gateways.iter().position(|gateway| network.contains(*gateway));
        let range = ranges.iter().position(|range| network.contains(range.address));
        let gateway = gateway.map(|position| gateways.swap_remove(position));
        let range = range.map(|position| ranges.swap_remove(position));
        subnets.push(Subnet::new(network, gateway, range).map_err(words)?);
    }
    match (gateways.first(), ranges.first()) {
        (Some(gateway), _) => Err(nowhere("gateway", gateway.to_string())),
        (_, Some(range)) => Err(nowhere("range", range.to_string())),
        _ => Ok(subnets),
    }
}

fn refuse_overlaps(network: &Network, others: &[Network]) -> Result<(), NetworkError> {
    for other in others {
        for (subnet, others) in network.subnets.iter().flat_map(|one| other.subnets.iter().map(move |two| (one, two))) {
            if subnet.cidr.overlaps(others.cidr) {
                let network = other.name.clone();
                return Err(NetworkError::Overlap { subnet: subnet.cidr, other: others.cidr, network });
            }
        }
    }
    Ok(())
}

/// Driver options, taken out one by one: what is left at the end is nobody's.
struct Options<'a> {
    driver: &'a str,
    internal: bool,
    left: BTreeMap<&'a str, &'a str>,
}

impl<'a> Options<'a> {
    fn of(wanted: &'a NewNetwork) -> Options<'a> {
        let left = wanted.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Options { driver: wanted.driver.as_deref().unwrap_or("bridge"), internal: wanted.internal, left }
    }

    fn bridge(&mut self, host: &Netlink) -> Result<Option<String>, NetworkError> {
        for (option, only) in [
            ("com.docker.network.bridge.enable_icc", "true"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
            ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
            ("com.docker.network.container_iface_prefix", "eth"),
        ] {
            if let Some(value) = self.left.remove(option).filter(|value| *value != only) {
                return Err(wrong(option, value));
            }
        }
        let option = "com.docker.network.bridge.name";
        let Some(name) = self.left.remove(option) else { return Ok(None) };
        let is_good = is_interface_name(name) && host.index(name).map_err(NetworkError::Routes)?.is_none();
        if is_good { Ok(Some(name.to_owned())) } else { Err(wrong(option, name)) }
    }

    /// The interface of the host's below the containers'.
    fn parent(&mut self, host: &Netlink) -> Result<String, NetworkError> {
        let driver = self.driver;
        if self.internal {
            let words = format!("the driver {driver} has no internal networks: what is below it is the host's network");
            return Err(NetworkError::Definition(words));
        }
        let Some(name) = self.left.remove("parent") else {
            return Err(NetworkError::Definition(format!("the driver {driver} needs -o parent=INTERFACE")));
        };
        match host.index(name).map_err(NetworkError::Routes)? {
            Some(_) => Ok(name.to_owned()),
            None => Err(wrong("parent", name)),
        }
    }

    fn mode<T: Default + DeserializeOwned>(&mut self, option: &str) -> Result<T, NetworkError> {
        let Some(value) = self.left.remove(option) else { return Ok(T::default()) };
        serde_json::from_value(value.into()).map_err(|_| wrong(option, value))
    }

    fn mtu(&mut self) -> Result<Option<u32>, NetworkError> {
        let mut mtu = None;
        for option in ["com.docker.network.driver.mtu", "mtu"] {
            if let Some(value) = self.left.remove(option) {
                mtu = Some(value.parse().ok().filter(|mtu| MTU.contains(mtu)).ok_or_else(|| wrong(option, value))?);
            }
        }
        Ok(mtu)
    }

    fn end(self) -> Result<(), NetworkError> {
        let hint = match self.driver {
            "bridge" => ": com.docker.network.bridge.name and com.docker.network.driver.mtu are",
            "macvlan" => ": parent, macvlan_mode and mtu are",
            _ => ": parent, ipvlan_mode and mtu are",
        };
        match self.left.into_keys().next() {
            Some(option) => {
                Err(NetworkError::Option { option: option.to_owned(), driver: self.driver.to_owned(), hint })
            }
            None => Ok(()),
        }
    }
}

fn wrong(option: &str, value: &str) -> NetworkError {
    NetworkError::OptionValue { option: option.to_owned(), value: value.to_owned() }
}

/// A name that the kernel gives interfaces (dev_valid_name in net/core/dev.c).
fn is_interface_name(name: &str) -> bool {
    let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    (1..=INTERFACE_LENGTH).contains(&name.len()) && name != "." && name != ".." && !name.contains(is_bad)
}

fn is_taken(db: &Connection, name: &str) -> Result<bool, StoreError> {
    let query = "SELECT EXISTS (SELECT 1 FROM networks WHERE name = ?1)";
    Ok(db.prepare_cached(query)?.query_row([name], |row| row.get(0))?)
}

fn has_leased(db: &Connection) -> Result<bool, StoreError> {
    let query = "SELECT EXISTS (SELECT 1 FROM networks WHERE lease_pid IS NOT NULL)";
    Ok(db.prepare_cached(query)?.query_row([], |row| row.get(0))?)
}

/// Leases a network for its removal.
fn claim(tx: &Transaction<'_>, id: &str, lease: &Lease) -> Result<(), StoreError> {
    let (pid, start, boot) = lease.columns();
    let statement = "UPDATE networks SET lease_pid = ?2, lease_start = ?3, lease_boot = ?4 WHERE id = ?1";
    tx.execute(statement, params![id, pid, start, boot])?;
    Ok(())
}

/// Leases the networks whose removers have died.
fn claim_abandoned(tx: &Transaction<'_>, own: &Lease) -> Result<Vec<Network>, EngineError> {
    let query = "SELECT definition, lease_pid, lease_start, lease_boot FROM networks WHERE lease_pid IS NOT NULL";
    let mut statement = tx.prepare_cached(query)?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, Lease::from_columns(row.get(1)?, row.get(2)?, row.get(3)?)))
    })?;
    let mut abandoned = Vec::new();
    for row in rows {
        let (definition, lease) = row?;
        if lease.is_some_and(|lease| !lease.is_alive()) {
            let network: Network = serde_json::from_str(&definition).map_err(NetworkError::Damaged)?;
            claim(tx, &network.id, own)?;
            abandoned.push(network);
        }
    }
    Ok(abandoned)
}

fn forget(tx: &Transaction<'_>, id: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM networks WHERE id = ?1", [id])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn gateways_and_ranges_go_to_their_subnets() {
        let cidrs = [cidr("10.1.0.0/16"), cidr("fd00::/64")];
        let gateways = ["fd00::9".parse().unwrap(), "10.1.2.3".parse().unwrap()];
        let [four, six] = &with_gateways(&cidrs, &gateways, &[cidr("10.1.5.0/24")]).unwrap()[..] else { panic!() };
        assert_eq!((four.gateway.to_string(), six.gateway.to_string()), ("10.1.2.3".into(), "fd00::9".into()));
        assert_eq!((four.range, six.range), (Some(cidr("10.1.5.0/24")), None));
        let refused = |gateways: &[IpAddr], ranges: &[Cidr]| with_gateways(&cidrs, gateways, ranges).unwrap_err();
        let said = refused(&["10.2.0.1".parse().unwrap()], &[]).to_string();
        assert_eq!(said, "no matching subnet for gateway 10.2.0.1");
        assert_eq!(refused(&[], &[cidr("10.2.0.0/24")]).to_string(), "no matching subnet for range 10.2.0.0/24");
    }

    #[test]
    fn options_that_nobody_takes_are_refused() {
        let wanted = |driver: &str, option: &str, value: &str| NewNetwork {
            driver: Some(driver.to_owned()),
            options: [(option.to_owned(), value.to_owned())].into(),
            ..NewNetwork::default()
        };
        let mtu = |value: &str| Options::of(&wanted("bridge", "mtu", value)).mtu().map_err(|error| error.to_string());
        assert_eq!(mtu("1400"), Ok(Some(1400)));
        for value in ["", "x", "67", "65536", "-1"] {
            assert_eq!(mtu(value).unwrap_err(), format!("invalid value {value:?} for network option mtu"));
        }
        let said = Options::of(&wanted("macvlan", "color", "red")).end().unwrap_err().to_string();
        assert!(said.starts_with("network option color is not supported by the driver macvlan: parent"), "{said}");
        for name in ["", "a/b", "a b", "a:b", "..", "sixteen-letters-"] {
            assert!(!is_interface_name(name), "{name}");
        }
        assert!(is_interface_name("fifteen-letters"));
    }
}
