//! Networks in the store.
//!
//! A network's row is its definition, which never changes; its bridge is made by the first start that needs it. The row of
//! one that is being removed is leased by who does it (networks/definitions.rs), and is nobody's network any more.
//! Containers' places in networks are networks/places.rs, and what is left of them for sharers networks/sharing.rs.

pub(crate) mod brought;
pub(crate) mod definitions;
pub(crate) mod places;
pub(crate) mod sharing;

use std::net::IpAddr;
use std::path::PathBuf;

use hull_network::cni::CniError;
use hull_network::firewall::{Firewall, FirewallError};
use hull_network::interfaces::InterfaceError;
use hull_network::plan::PlanError;
use hull_network::ports::ContainerPort;
use hull_network::settings::SettingError;
use hull_network::subnet::SubnetError;
use hull_network::{Cidr, Network};
use rusqlite::{Connection, Transaction, params};

use crate::engine::Engine;
use crate::error::{EngineError, ErrorKind};

/// What is wrong with a network, or with what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No network of that name or id.
    #[error("network {0} not found")]
    NotFound(String),
    /// Several networks' ids begin so.
    #[error("network id {prefix} is ambiguous: {count} networks have it")]
    Ambiguous {
        /// As it was given.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// The name is taken.
    #[error("network with name {0} already exists")]
    Exists(String),
    /// A name that no network can have.
    #[error("{0:?} is no name for a network: only [a-zA-Z0-9][a-zA-Z0-9_.-]* is")]
    Name(String),
    /// Docker's and Hull's own networks.
    #[error("{0} is a pre-defined network and cannot be {1}")]
    Predefined(String, &'static str),
    /// Containers are in it.
    #[error("network {network} has active endpoints (containers {})", containers.join(", "))]
    InUse {
        /// The network.
        network: String,
        /// Their names.
        containers: Vec<String>,
    },
    /// An option that the driver does not have.
    #[error("network option {option} is not supported by the driver {driver}{hint}")]
    Option {
        /// As it was given.
        option: String,
        /// The network's driver.
        driver: String,
        /// What is.
        hint: &'static str,
    },
    /// A value that an option cannot have.
    #[error("invalid value {value:?} for network option {option}")]
    OptionValue {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
    /// No such driver.
    #[error("network driver {0} is not supported: bridge, macvlan and ipvlan are")]
    Driver(String),
    /// Parts that do not belong together.
    #[error("{0}")]
    Definition(String),
    /// A subnet that meets another network's.
    #[error("subnet {subnet} overlaps with {other} of network {network}")]
    Overlap {
        /// What was asked for.
        subnet: Cidr,
        /// The other one.
        other: Cidr,
        /// Whose.
        network: String,
    },
    /// What `ns:` names.
    #[error("{} is no network namespace", .0.display())]
    NoNamespace(PathBuf),
    /// The file that `ns:` names.
    #[error("opening network namespace {}", path.display())]
    Namespace {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Only user networks have it.
    #[error("{0} is supported on user defined networks only")]
    UserNetworksOnly(&'static str),
    /// An option of a place in a network, and a container that has none.
    #[error("conflicting options: {option} and the network mode {mode}")]
    NoPlace {
        /// The option.
        option: &'static str,
        /// The container's mode.
        mode: String,
    },
    /// A container that lives in another's or the host's network, or in none.
    #[error(
        "container sharing network namespace with another container or host, or in private (none) mode, cannot be connected to any other network"
    )]
    CannotConnect,
    /// It is in the network.
    #[error("endpoint with name {container} already exists in network {network}")]
    Connected {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// It is not in the network.
    #[error("container {container} is not connected to network {network}")]
    NotConnected {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
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
    /// The network namespace could not be locked.
    #[error("locking the network namespace to choose a subnet")]
    Lock(#[source] std::io::Error),
    /// No conversation with the kernel.
    #[error("opening a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The kernel.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The kernel.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The firewall.
    #[error("removing the rules of network {network}")]
    Firewall {
        /// Which.
        network: String,
        /// Why.
        #[source]
        source: FirewallError,
    },
    /// A plugin list or a plugin.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// A CNI network of a container that runs.
    #[error("network {0} is made of CNI plugins: containers are put into it when they start")]
    CniLive(String),
    /// A port for a plugin that has to be told its number.
    #[error("port {0} has no number on the host, which CNI plugins need")]
    CniPort(ContainerPort),
    /// A setting of the kernel.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A definition in the store that cannot be read.
    #[error("the stored definition of a network or endpoint is damaged")]
    Damaged(#[source] serde_json::Error),
}

impl NetworkError {
    /// Whether another container has what was asked for.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, NetworkError::Address { source: SubnetError::InUse(_) | SubnetError::Full(_), .. })
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            NetworkError::NotFound(_) | NetworkError::NotConnected { .. } => ErrorKind::NotFound,
            NetworkError::Address { source: SubnetError::InUse(_), .. }
            | NetworkError::Exists(_)
            | NetworkError::Connected { .. }
            | NetworkError::InUse { .. }
            | NetworkError::Overlap { .. } => ErrorKind::Conflict,
            NetworkError::Address { source: SubnetError::Full(_), .. } | NetworkError::NoPool => ErrorKind::Exhausted,
            NetworkError::Ambiguous { .. }
            | NetworkError::Name(_)
            | NetworkError::Predefined(..)
            | NetworkError::Option { .. }
            | NetworkError::OptionValue { .. }
            | NetworkError::Driver(_)
            | NetworkError::Definition(_)
            | NetworkError::NoNamespace(_)
            | NetworkError::Namespace { .. }
            | NetworkError::UserNetworksOnly(_)
            | NetworkError::CniLive(_)
            | NetworkError::CniPort(_)
            | NetworkError::NoPlace { .. }
            | NetworkError::CannotConnect
            | NetworkError::NoSubnet { .. }
            | NetworkError::Address { .. } => ErrorKind::Invalid,
            NetworkError::Routes(_)
            | NetworkError::Lock(_)
            | NetworkError::Socket(_)
            | NetworkError::Plan(_)
            | NetworkError::Interface(_)
            | NetworkError::Firewall { .. }
            | NetworkError::Setting(_)
            | NetworkError::Cni(_)
            | NetworkError::Damaged(_) => ErrorKind::Internal,
        }
    }
}

/// All networks that nobody is removing, the oldest first.
pub(crate) fn all(db: &Connection) -> Result<Vec<Network>, EngineError> {
    let mut statement =
        db.prepare_cached("SELECT definition FROM networks WHERE lease_pid IS NULL ORDER BY created_at")?;
    let texts = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    texts.iter().map(|text| Ok(serde_json::from_str(text).map_err(NetworkError::Damaged)?)).collect()
}

/// The network that a name or id means, if it is one of these.
pub(crate) fn find<'a>(networks: &'a [Network], name: &str) -> Option<&'a Network> {
    networks.iter().find(|network| network.name == name || network.id == name)
}

/// The network that a name, an id or an unambiguous beginning of one means.
pub(crate) fn resolve<'a>(networks: &'a [Network], name: &str) -> Result<&'a Network, NetworkError> {
    if let Some(network) = find(networks, name) {
        return Ok(network);
    }
    let mut by_prefix = networks.iter().filter(|network| !name.is_empty() && network.id.starts_with(name));
    match (by_prefix.next(), by_prefix.count()) {
        (Some(network), 0) => Ok(network),
        (Some(_), others) => Err(NetworkError::Ambiguous { prefix: name.to_owned(), count: others + 1 }),
        (None, _) => Err(NetworkError::NotFound(name.to_owned())),
    }
}

pub(crate) fn insert(tx: &Transaction<'_>, network: &Network) -> Result<(), EngineError> {
    let definition = serde_json::to_string(network).map_err(NetworkError::Damaged)?;
    let created = i64::try_from(network.created.as_nanosecond()).unwrap_or(i64::MAX);
    // Networks without a bridge have the name of the bridge that they might have had, which nobody else has.
    let bridge = network.bridge().map_or_else(|| definitions::bridge_name(&network.id), str::to_owned);
    tx.prepare_cached("INSERT INTO networks (id, name, bridge, created_at, definition) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![network.id, network.name, bridge, created, definition])?;
    Ok(())
}

impl Engine {
    /// The firewall's table of this instance.
    pub(crate) fn firewall(&self) -> Firewall {
        let instance = self.roots().instance();
        Firewall::new(instance.strip_prefix("hull-").unwrap_or_default())
    }
}
