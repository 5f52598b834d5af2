//! A network and a container's place in it, as the store keeps them and as everything else here takes them.
//!
//! A [`Network`] is a bridge, or interfaces on top of one of the host's, with a subnet for each family of addresses; its
//! definition never changes once it is made. An [`Endpoint`] says which addresses a container has in it while it runs, and by which interface of the host it
//! is reached: it comes with a start or a `network connect` and goes with the end. Both are written as JSON beside the
//! columns by which they are found; fields are only ever added, with defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hull_kernel::netlink::route::{IpvlanMode, MacvlanMode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::subnet::{Cidr, Subnet};

/// Name of the network that containers are in unless they ask for another.
pub const DEFAULT_NETWORK: &str = "bridge";

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How it is made of interfaces.
    #[serde(flatten)]
    pub link: Link,
    /// At most one of each family.
    pub subnets: Vec<Subnet>,
    /// Largest packet, bytes; the kernel's default when absent.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Whether nothing of it reaches beyond it.
    #[serde(default)]
    pub internal: bool,
    /// Whether it has IPv6 addresses.
    #[serde(default)]
    pub ipv6: bool,
    /// Driver options, as they were written.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
}

/// How a network is made of interfaces: what docker calls its driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "lowercase")]
pub enum Link {
    /// A bridge of the host's and a pair of interfaces for each container.
    Bridge {
        /// Name of the bridge.
        bridge: String,
    },
    /// An interface with a hardware address of its own on top of one of the host's, for each container.
    Macvlan {
        /// The host's interface.
        parent: String,
        /// How they reach each other.
        mode: MacvlanMode,
    },
    /// An interface with the hardware address of one of the host's, for each container.
    Ipvlan {
        /// The host's interface.
        parent: String,
        /// Which packets they see.
        mode: IpvlanMode,
    },
}

impl Network {
    /// `bridge`, `macvlan`, `ipvlan`.
    pub fn driver(&self) -> &'static str {
        match self.link {
            Link::Bridge { .. } => "bridge",
            Link::Macvlan { .. } => "macvlan",
            Link::Ipvlan { .. } => "ipvlan",
        }
    }

    /// Name of its bridge, if it has one.
    pub fn bridge(&self) -> Option<&str> {
        match &self.link {
            Link::Bridge { bridge } => Some(bridge),
            Link::Macvlan { .. } | Link::Ipvlan { .. } => None,
        }
    }

    /// Whether its containers' ports can be published: it has a bridge, and is not closed.
    pub fn publishes(&self) -> bool {
        self.bridge().is_some() && !self.internal
    }

    /// Its subnet of IPv4 addresses.
    pub fn subnet_v4(&self) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.cidr.address.is_ipv4())
    }

    /// Its subnet of IPv6 addresses.
    pub fn subnet_v6(&self) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.cidr.address.is_ipv6())
    }

    /// Whether it is the one that containers are in by default.
    pub fn is_default(&self) -> bool {
        self.name == DEFAULT_NETWORK
    }
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The network's id.
    pub network_id: String,
    /// The container's id.
    pub container_id: String,
    /// The container's name.
    pub name: String,
    /// Further names by which the network's containers find it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its host name, when it has one that was asked for.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Its IPv4 address and the length of the subnet's prefix.
    pub ipv4: Option<Cidr>,
    /// Its IPv6 address and the length of the subnet's prefix.
    pub ipv6: Option<Cidr>,
    /// Its hardware address.
    pub mac: Mac,
    /// Name of the host's end, if there is one.
    #[serde(default)]
    pub host_interface: Option<String>,
    /// Name of the container's end.
    pub interface: String,
}

/// A hardware address of Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The one that belongs to an IPv4 address, as docker made them: whoever gets the address again also gets this, and
    /// nobody's neighbour table is wrong.
    pub fn of_v4(address: Ipv4Addr) -> Mac {
        let [a, b, c, d] = address.octets();
        Mac([0x02, 0x42, a, b, c, d])
    }

    /// The one that belongs to an IPv6 address, by its last 32 bits.
    pub fn of_v6(address: Ipv6Addr) -> Mac {
        let octets = address.octets();
        Mac([0x02, 0x43, octets[12], octets[13], octets[14], octets[15]])
    }

    /// The one that belongs to an address.
    pub fn of(address: IpAddr) -> Mac {
        match address {
            IpAddr::V4(address) => Mac::of_v4(address),
            IpAddr::V6(address) => Mac::of_v6(address),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, last] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{last:02x}")
    }
}

/// Text that is no hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a valid mac address")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Mac, MacError> {
        let wrong = || MacError(text.to_owned());
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        // The lowest bit of the first octet marks addresses of groups, which no interface has.
        if parts.next().is_some() || mac[0] & 1 == 1 { Err(wrong()) } else { Ok(Mac(mac)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Mac, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A network of IPv4 addresses with a bridge.
    pub(crate) fn network() -> Network {
        Network {
            id: "a".repeat(64),
            name: "web".to_owned(),
            link: Link::Bridge { bridge: "hull-aaaaaaaaaa".to_owned() },
            subnets: vec![Subnet::of("10.1.0.0/24".parse().unwrap())],
            mtu: None,
            internal: false,
            ipv6: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            created: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn hardware_addresses_belong_to_addresses() {
        assert_eq!(Mac::of("172.17.0.2".parse().unwrap()).to_string(), "02:42:ac:11:00:02");
        assert_eq!(Mac::of("fd00::1:2".parse().unwrap()).to_string(), "02:43:00:01:00:02");
        assert_eq!("92:d0:c6:0a:29:33".parse::<Mac>().unwrap().to_string(), "92:d0:c6:0a:29:33");
        for text in ["", "92:d0:c6:0a:29", "92:d0:c6:0a:29:33:1", "93:d0:c6:0a:29:33", "9:d0:c6:0a:29:33", "x"] {
            assert_eq!(text.parse::<Mac>().unwrap_err().to_string(), format!("{text} is not a valid mac address"));
        }
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let network = Network { mtu: Some(1400), internal: true, labels, ..network() };
        let text = serde_json::to_string(&network).unwrap();
        assert!(text.contains(r#""driver":"bridge","bridge":"hull-aaaaaaaaaa""#), "{text}");
        assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), network);
        assert_eq!(network.subnet_v4().unwrap().gateway.to_string(), "10.1.0.1");
        assert!(network.subnet_v6().is_none() && !network.is_default());
    }
}
