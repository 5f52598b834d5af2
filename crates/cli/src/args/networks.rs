//! The arguments of `hull network`, and the values of `--network`.
//!
//! `--network` is a mode, a network's name, or docker's list `name=NAME,alias=...,ip=...`, and may be given several times for
//! several networks. `--ip`, `--ip6`, `--mac-address` and `--network-alias` belong to the first one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::Args;
use hull_engine::request::{NamespaceChoice, NetworkRequest};
use hull_network::network::DEFAULT_NETWORK;
use hull_network::{Cidr, Mac};

use super::containers::filter;
use super::values::{self, NamespaceFlag};

/// One `--network`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFlag {
    /// The mode.
    pub choice: NamespaceChoice,
    /// What is asked of the place in the network, when it is one.
    pub place: NetworkRequest,
}

/// Reads a value of `--network`.
///
/// # Errors
/// With docker's words.
pub fn network(text: &str) -> Result<NetworkFlag, String> {
    if let Some(path) = text.strip_prefix("ns:") {
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(format!("{text:?} has no absolute path"));
        }
        return Ok(NetworkFlag { choice: NamespaceChoice::Path(path), place: NetworkRequest::default() });
    }
    let mut place = NetworkRequest::default();
    if !text.contains('=') {
        let choice = values::namespace(NamespaceFlag::Network, text)?;
        if let NamespaceChoice::Network(name) = &choice {
            place.network.clone_from(name);
        }
        return Ok(NetworkFlag { choice, place });
    }
    for field in text.split(',') {
        let (key, value) =
            field.split_once('=').ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        let wrong = |what: &dyn std::fmt::Display| format!("invalid value '{value}' for '{key}': {what}");
        match key {
            "name" => value.clone_into(&mut place.network),
            "alias" => place.aliases.push(value.to_owned()),
            "ip" => place.ipv4 = Some(value.parse().map_err(|error| wrong(&error))?),
            "ip6" => place.ipv6 = Some(value.parse().map_err(|error| wrong(&error))?),
            "mac-address" => place.mac = Some(value.parse().map_err(|error| wrong(&error))?),
            _ => return Err(format!("invalid field key {key}: known are name, alias, ip, ip6 and mac-address")),
        }
    }
    let choice = values::namespace(NamespaceFlag::Network, &place.network)?;
    match choice {
        NamespaceChoice::Network(_) => Ok(NetworkFlag { choice, place }),
        _ => Err(format!("{:?} is no network that a container has a place in", place.network)),
    }
}

/// The flags of `run` and `create` about networks.
#[derive(Debug, Default, Args)]
pub struct PlaceArgs {
    /// Network: its name, none, host, container:NAME, ns:PATH or private (loopback only); several for several networks
    #[arg(long, alias = "net", value_name = "NETWORK", value_parser = network)]
    pub network: Vec<NetworkFlag>,
    /// IPv4 address in the network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address in the network
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<Ipv6Addr>,
    /// Hardware address of the network's interface
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<Mac>,
    /// Further name in the network
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
}

impl PlaceArgs {
    /// The mode, and the networks with what is asked of them.
    ///
    /// # Errors
    /// Flags that do not go together.
    pub fn read(&self) -> Result<(NamespaceChoice, Vec<NetworkRequest>), String> {
        let own = NetworkRequest {
            network: DEFAULT_NETWORK.to_owned(),
            ipv4: self.ip,
            ipv6: self.ip6,
            mac: self.mac_address,
            aliases: self.network_alias.clone(),
        };
        let Some((first, rest)) = self.network.split_first() else {
            let places = own.option().map(|_| own).into_iter().collect();
            return Ok((NamespaceChoice::Default, places));
        };
        let is_network = |flag: &NetworkFlag| matches!(flag.choice, NamespaceChoice::Network(_));
        if !rest.is_empty() && !self.network.iter().all(is_network) {
            return Err("conflicting options: several networks, and a mode that is no network".to_owned());
        }
        let mut places: Vec<_> = self.network.iter().map(|flag| flag.place.clone()).collect();
        if let Some(option) = own.option() {
            if places[0].option().is_some() {
                return Err(format!("conflicting options: {option}, and wishes in --network"));
            }
            let network = places[0].network.clone();
            places[0] = NetworkRequest { network, ..own };
        }
        // Modes keep only what was wished, which the engine refuses by name.
        places.retain(|place| is_network(first) || place.option().is_some());
        Ok((first.choice.clone(), places))
    }
}

/// `network create`.
#[derive(Debug, Args)]
pub struct CreateNetworkArgs {
    /// How it is made of interfaces: bridge, macvlan or ipvlan
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    pub driver: String,
    /// Gateway of a subnet
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Vec<IpAddr>,
    /// Keep its traffic within it
    #[arg(long)]
    pub internal: bool,
    /// Part of a subnet that addresses are taken from
    #[arg(long, value_name = "CIDR")]
    pub ip_range: Vec<Cidr>,
    /// Give it IPv6 addresses as well
    #[arg(long)]
    pub ipv6: bool,
    /// Label: KEY[=VALUE]
    #[arg(long, value_name = "LABEL", value_parser = values::label)]
    pub label: Vec<(String, String)>,
    /// Driver option: KEY=VALUE
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::label)]
    pub opt: Vec<(String, String)>,
    /// Subnet, one for IPv4 and one for IPv6
    #[arg(long, value_name = "CIDR")]
    pub subnet: Vec<Cidr>,
    /// Name
    #[arg(value_name = "NETWORK", hide = true)]
    pub name: String,
}

/// `network ls`.
#[derive(Debug, Args)]
pub struct ListNetworksArgs {
    /// Show only what matches: dangling, driver, id, label, name, scope, type
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<String>,
    /// Format: table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show ids whole
    #[arg(long)]
    pub no_trunc: bool,
    /// Show only ids
    #[arg(short, long)]
    pub quiet: bool,
}

/// `network inspect`.
#[derive(Debug, Args)]
pub struct InspectNetworksArgs {
    /// Format: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Names or ids
    #[arg(value_name = "NETWORK", hide = true, required = true)]
    pub names: Vec<String>,
}

/// `network rm`.
#[derive(Debug, Args)]
pub struct RemoveNetworksArgs {
    /// Say nothing of networks that are not there
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(value_name = "NETWORK", hide = true, required = true)]
    pub names: Vec<String>,
}

/// `network connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// Further name in the network
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<Ipv6Addr>,
    /// Network
    #[arg(value_name = "NETWORK", hide = true)]
    pub network: String,
    /// Container
    #[arg(value_name = "CONTAINER", hide = true)]
    pub container: String,
}

/// `network disconnect`.
#[derive(Debug, Args)]
pub struct DisconnectArgs {
    /// Also when the kernel refuses to take the interface away
    #[arg(short, long)]
    pub force: bool,
    /// Network
    #[arg(value_name = "NETWORK", hide = true)]
    pub network: String,
    /// Container
    #[arg(value_name = "CONTAINER", hide = true)]
    pub container: String,
}

/// `network reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str], ip: Option<&str>) -> Result<String, String> {
        let network = flags.iter().map(|flag| network(flag)).collect::<Result<_, _>>()?;
        let ip = ip.map(|ip| ip.parse().unwrap());
        let (choice, places) = PlaceArgs { network, ip, ..PlaceArgs::default() }.read()?;
        let places: Vec<_> = places.iter().map(|place| serde_json::to_string(place).unwrap()).collect();
        Ok(format!("{} {}", serde_json::to_string(&choice).unwrap(), places.join(" ")))
    }

    #[test]
    fn every_form_of_a_network() {
        for (flags, ip, expected) in [
            (&[][..], None, r#""default" "#),
            (&[][..], Some("10.0.0.2"), r#""default" {"network":"bridge","ipv4":"10.0.0.2"}"#),
            (&["host"][..], None, r#""host" "#),
            (&["host"][..], Some("10.0.0.2"), r#""host" {"network":"","ipv4":"10.0.0.2"}"#),
            (&["web"][..], Some("10.0.0.2"), r#"{"network":"web"} {"network":"web","ipv4":"10.0.0.2"}"#),
            (&["web", "db"][..], None, r#"{"network":"web"} {"network":"web"} {"network":"db"}"#),
            (
                &["name=web,alias=a,alias=b,ip=10.0.0.3,mac-address=02:42:00:00:00:09"][..],
                None,
                r#"{"network":"web"} {"network":"web","ipv4":"10.0.0.3","mac":"02:42:00:00:00:09","aliases":["a","b"]}"#,
            ),
            (&["ns:/run/netns/x"][..], None, r#"{"path":"/run/netns/x"} "#),
        ] {
            assert_eq!(read(flags, ip).as_deref(), Ok(expected), "{flags:?}");
        }
        for flags in
            [&["host", "web"][..], &["ns:x"], &["name=host"], &["name=web,color=red"], &["name=web,ip=x"], &["alias=a"]]
        {
            assert!(read(flags, None).is_err(), "{flags:?}");
        }
        assert!(read(&["name=web,alias=a"], Some("10.0.0.2")).unwrap_err().contains("conflicting options: --ip"));
    }
}
