//! Networks in the store, and the places that containers have in them while they run.
//!
//! A network's row is its definition, which never changes; `bridge` is made by the first start that needs it. A place is
//! a row too: inserted by the start, in one transaction with the choice of its address, so that no address is given
//! twice; deleted when the run is cleaned up, which the crash sweep does for killed commands. A row of another boot is
//! of a container that does not run, and is deleted by the next start. The kernel's part is [`NetworkPlan`]'s, in the
//! process that makes the container's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hull_kernel::netlink::route::Netlink;
use hull_network::bridge::ChangedSetting;
use hull_network::firewall::Firewall;
use hull_network::network::DEFAULT_NETWORK;
use hull_network::subnet::{self, SubnetError};
use hull_network::{Cidr, Driver, Endpoint, Mac, Network, NetworkPlan, Subnet};
use hull_store::{Lease, StoreError};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::engine::Engine;
use crate::error::{EngineError, ErrorKind};
use crate::id::{ContainerId, random_hex};
use crate::record::ContainerRecord;
use crate::request::{CreateContainer, NamespaceChoice};

/// What is wrong with a network, or with what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No network of that name or id.
    #[error("network {0} not found")]
    NotFound(String),
    /// Only user networks have it.
    #[error("{0} is supported on user defined networks only")]
    UserNetworksOnly(&'static str),
    /// The network has no addresses of the family.
    #[error("network {network} has no {family} subnet for address {address}")]
    NoSubnet {
        /// The network.
        network: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// What was asked for.
        address: IpAddr,
    },
    /// An address that cannot be had.
    #[error("network {network}")]
    Address {
        /// The network.
        network: String,
        /// Why.
        #[source]
        source: SubnetError,
    },
    /// Every pool meets a route of the host's or another network.
    #[error("no subnet of the address pools is free of the host's routes and of other networks")]
    NoPool,
    /// The routes could not be read.
    #[error("reading the host's routes")]
    Routes(#[source] std::io::Error),
    /// A definition in the store that cannot be read.
    #[error("the stored definition of a network or endpoint is damaged")]
    Damaged(#[source] serde_json::Error),
}

impl NetworkError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            NetworkError::NotFound(_) => ErrorKind::NotFound,
            NetworkError::Address { source: SubnetError::InUse(_), .. } => ErrorKind::Conflict,
            NetworkError::Address { source: SubnetError::Full(_), .. } | NetworkError::NoPool => ErrorKind::Exhausted,
            NetworkError::UserNetworksOnly(_) | NetworkError::NoSubnet { .. } | NetworkError::Address { .. } => {
                ErrorKind::Invalid
            }
            NetworkError::Routes(_) | NetworkError::Damaged(_) => ErrorKind::Internal,
        }
    }
}

/// Tells what a start has changed of the host's settings.
pub(crate) fn report(changed: &[ChangedSetting]) {
    for ChangedSetting { name, previous } in changed {
        tracing::info!("{name} was {previous} and is 1 now, so that networks reach beyond this host");
    }
}

/// Gives up a container's places.
pub(crate) fn release(tx: &Transaction<'_>, id: &ContainerId) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM endpoints WHERE container_id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

pub(crate) fn all(db: &Connection) -> Result<Vec<Network>, EngineError> {
    let mut statement = db.prepare_cached("SELECT definition FROM networks ORDER BY created_at")?;
    let texts = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    texts.iter().map(|text| Ok(serde_json::from_str(text).map_err(NetworkError::Damaged)?)).collect()
}

fn find<'a>(networks: &'a [Network], name: &str) -> Option<&'a Network> {
    networks.iter().find(|network| network.name == name || network.id == name)
}

fn insert(tx: &Transaction<'_>, network: &Network) -> Result<(), EngineError> {
    let definition = serde_json::to_string(network).map_err(NetworkError::Damaged)?;
    let created = i64::try_from(network.created.as_nanosecond()).unwrap_or(i64::MAX);
    tx.prepare_cached("INSERT INTO networks (id, name, bridge, created_at, definition) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![network.id, network.name, network.bridge, created, definition])?;
    Ok(())
}

/// The addresses of one family that a network's containers have.
fn taken(tx: &Transaction<'_>, network: &Network, column: &str) -> Result<Vec<IpAddr>, EngineError> {
    let query = format!("SELECT {column} FROM endpoints WHERE network_id = ?1 AND {column} IS NOT NULL");
    let mut statement = tx.prepare_cached(&query)?;
    let texts = statement.query_map([&network.id], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

/// The address asked for, or a free one; none when the network has no subnet of the family.
fn choose(
    tx: &Transaction<'_>,
    network: &Network,
    subnet: Option<&Subnet>,
    asked: Option<IpAddr>,
    column: &'static str,
) -> Result<Option<Cidr>, EngineError> {
    let Some(subnet) = subnet else {
        let family = if column == "ipv4" { "IPv4" } else { "IPv6" };
        let refused = |address| NetworkError::NoSubnet { network: network.name.clone(), family, address };
        return asked.map_or(Ok(None), |address| Err(refused(address).into()));
    };
    let taken = taken(tx, network, column)?;
    let chosen = asked.map_or_else(|| subnet.free(&taken), |address| subnet.claim(address, &taken));
    chosen.map(Some).map_err(|source| NetworkError::Address { network: network.name.clone(), source }.into())
}

impl Engine {
    /// The firewall's table of this instance.
    pub(crate) fn firewall(&self) -> Firewall {
        let instance = self.roots().instance();
        Firewall::new(instance.strip_prefix("hull-").unwrap_or_default())
    }

    /// Name of the bridge of the default network.
    fn default_bridge(&self) -> String {
        match self.roots().instance().strip_prefix("hull-") {
            Some(hash) => format!("hull0-{hash}"),
            None => "hull0".to_owned(),
        }
    }

    /// Refuses a network that is not there, and what it does not give.
    pub(crate) fn check_network(&self, request: &CreateContainer) -> Result<(), EngineError> {
        let NamespaceChoice::Network(name) = &request.network else { return Ok(()) };
        let networks = self.store().read(all)?;
        if name != DEFAULT_NETWORK && find(&networks, name).is_none() {
            return Err(NetworkError::NotFound(name.clone()).into());
        }
        let asked = &request.endpoint;
        match () {
            () if name != DEFAULT_NETWORK => Ok(()),
            () if asked.ipv4.is_some() || asked.ipv6.is_some() => {
                Err(NetworkError::UserNetworksOnly("user specified IP address").into())
            }
            () if !asked.aliases.is_empty() => Err(NetworkError::UserNetworksOnly("network-scoped alias").into()),
            () => Ok(()),
        }
    }

    /// The default network, not in the store yet.
    fn default_network(&self, others: &[Network]) -> Result<Network, EngineError> {
        let routes = Netlink::here().and_then(|host| host.destinations()).map_err(NetworkError::Routes)?;
        let mut avoided: Vec<Cidr> = routes.into_iter().map(|(address, prefix)| Cidr { address, prefix }).collect();
        avoided.extend(others.iter().flat_map(|network| &network.subnets).map(|subnet| subnet.cidr));
        let pool = subnet::free_pool(&avoided).ok_or(NetworkError::NoPool)?;
        Ok(Network {
            id: random_hex(32).map_err(EngineError::Random)?,
            name: DEFAULT_NETWORK.to_owned(),
            driver: Driver::Bridge,
            bridge: self.default_bridge(),
            subnets: vec![Subnet::of(pool)],
            mtu: None,
            internal: false,
            ipv6: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            created: Timestamp::now(),
        })
    }

    /// Gives a container that is about to start its place in its network.
    pub(crate) fn plan_network(&self, record: &ContainerRecord) -> Result<NetworkPlan, EngineError> {
        let nothing = NetworkPlan { attachments: Vec::new(), firewall: self.firewall(), networks: Vec::new() };
        let NamespaceChoice::Network(name) = &record.request.network else { return Ok(nothing) };
        let known = self.store().read(all)?;
        // The host is asked before the transaction, which waits for nobody.
        let missing = match find(&known, name) {
            None if name == DEFAULT_NETWORK => Some(self.default_network(&known)?),
            _ => None,
        };
        let lease = Lease::current()?;
        let (_, _, boot) = lease.columns();
        self.store().write(|tx| {
            tx.prepare_cached("DELETE FROM endpoints WHERE boot_id <> ?1")?.execute([boot])?;
            release(tx, &record.id)?;
            let mut networks = all(tx)?;
            if let Some(missing) = missing.filter(|missing| find(&networks, &missing.name).is_none()) {
                insert(tx, &missing)?;
                networks.push(missing);
            }
            let network = find(&networks, name).ok_or_else(|| NetworkError::NotFound(name.clone()))?.clone();
            let endpoint = self.place(tx, &network, record, boot)?;
            Ok(NetworkPlan { attachments: vec![(network, endpoint)], networks, ..nothing })
        })
    }

    /// Inserts a container's place in a network.
    fn place(
        &self,
        tx: &Transaction<'_>,
        network: &Network,
        record: &ContainerRecord,
        boot: &str,
    ) -> Result<Endpoint, EngineError> {
        let asked = &record.request.endpoint;
        let ipv4 = choose(tx, network, network.subnet_v4(), asked.ipv4.map(IpAddr::V4), "ipv4")?;
        let ipv6 = choose(tx, network, network.subnet_v6(), asked.ipv6.map(IpAddr::V6), "ipv6")?;
        let id = random_hex(32).map_err(EngineError::Random)?;
        let derived = ipv4.or(ipv6).map(|own| Mac::of(own.address));
        let endpoint = Endpoint {
            network_id: network.id.clone(),
            container_id: record.id.to_string(),
            name: record.name.clone(),
            aliases: asked.aliases.clone(),
            ipv4,
            ipv6,
            mac: asked.mac.or(derived).unwrap_or(Mac([2, 0x42, 0, 0, 0, 2])),
            host_interface: format!("hv{}", &id[..12]),
            interface: "eth0".to_owned(),
            id,
        };
        let definition = serde_json::to_string(&endpoint).map_err(NetworkError::Damaged)?;
        let text = |own: Option<Cidr>| own.map(|own| own.address.to_string());
        tx.prepare_cached(
            "INSERT INTO endpoints (id, network_id, container_id, ipv4, ipv6, boot_id, definition)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            endpoint.id,
            endpoint.network_id,
            endpoint.container_id,
            text(ipv4),
            text(ipv6),
            boot,
            definition
        ])?;
        Ok(endpoint)
    }

    /// A running container's place and its network.
    pub(crate) fn place_of(&self, id: &ContainerId) -> Result<Option<(Network, Endpoint)>, EngineError> {
        self.store().read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT networks.definition, endpoints.definition FROM endpoints
                 JOIN networks ON networks.id = endpoints.network_id WHERE container_id = ?1",
            )?;
            let texts =
                statement.query_row([id.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
            let Some((network, endpoint)) = texts.optional()? else { return Ok(None) };
            let network = serde_json::from_str(&network).map_err(NetworkError::Damaged)?;
            Ok(Some((network, serde_json::from_str(&endpoint).map_err(NetworkError::Damaged)?)))
        })
    }
}
