//! A network in docker's JSON.

use std::collections::BTreeMap;

use hull_network::{Cidr, Endpoint, Network, Subnet};
use jiff::Timestamp;
use serde::Serialize;

/// A network as docker's JSON has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct NetworkInspect {
    pub name: String,
    pub id: String,
    pub created: String,
    pub scope: &'static str,
    pub driver: String,
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_from: ConfigFrom,
    pub config_only: bool,
    pub containers: BTreeMap<String, Member>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// Docker's address management.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct Ipam {
    pub driver: &'static str,
    pub options: BTreeMap<String, String>,
    pub config: Vec<IpamConfig>,
}

/// One subnet.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct IpamConfig {
    pub subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    pub gateway: String,
}

/// Swarm's.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct ConfigFrom {
    pub network: String,
}

/// A container in a network.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct Member {
    pub name: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub mac_address: String,
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}

impl NetworkInspect {
    pub(crate) fn of(network: &Network, members: &[Endpoint]) -> NetworkInspect {
        let config = |subnet: &Subnet| IpamConfig {
            subnet: subnet.cidr.to_string(),
            range: subnet.range.map(|range| range.to_string()),
            gateway: subnet.gateway.to_string(),
        };
        let text = |own: Option<Cidr>| own.map(|own| own.to_string()).unwrap_or_default();
        let member = |place: &Endpoint| Member {
            name: place.name.clone(),
            endpoint_id: place.id.clone(),
            mac_address: place.mac.to_string(),
            ipv4_address: text(place.ipv4),
            ipv6_address: text(place.ipv6),
        };
        let own = members.iter().filter(|place| place.network_id == network.id);
        NetworkInspect {
            enable_ipv4: network.subnet_v4().is_some(),
            enable_ipv6: network.subnet_v6().is_some(),
            ipam: Ipam { config: network.subnets.iter().map(config).collect(), ..Ipam::default() },
            internal: network.internal,
            containers: own.map(|place| (place.container_id.clone(), member(place))).collect(),
            options: network.options.clone(),
            labels: network.labels.clone(),
            ..NetworkInspect::named(&network.name, network.driver(), network.id.clone(), network.created)
        }
    }

    pub(crate) fn named(name: &str, driver: &str, id: String, created: Timestamp) -> NetworkInspect {
        NetworkInspect {
            name: name.to_owned(),
            id,
            created: created.to_string(),
            scope: "local",
            driver: driver.to_owned(),
            enable_ipv4: true,
            enable_ipv6: false,
            ipam: Ipam::default(),
            internal: false,
            attachable: false,
            ingress: false,
            config_from: ConfigFrom::default(),
            config_only: false,
            containers: BTreeMap::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// Docker's networks that are modes of `--network`: without a row, made when the default network was.
    pub(crate) fn modes(created: Timestamp) -> [NetworkInspect; 2] {
        let id = |digit: &str| digit.repeat(64);
        [
            NetworkInspect::named("host", "host", id("1"), created),
            NetworkInspect::named("none", "null", id("0"), created),
        ]
    }
}

impl Default for Ipam {
    fn default() -> Ipam {
        Ipam { driver: "default", options: BTreeMap::new(), config: Vec::new() }
    }
}
