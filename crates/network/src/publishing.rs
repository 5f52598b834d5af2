//! Where a port that is asked for is published, and for whom.
//!
//! A port without an address is published at every one of the host's, for each family that the container has an address
//! of; `0.0.0.0` and `::` mean one family. What is published on loopback is for this host alone. Everything else is open
//! to other hosts unless the host's own firewall is closed ([`HostPolicy`]); then only what the configuration allows is.
//!
//! The kernel translates no packet to `::1`, so a port there is refused. At `localhost` programs try 127.0.0.1 as well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use crate::firewall::Publication;
use crate::firewall::policy::HostPolicy;
use crate::ports::{self, HostPort, PortError, PortRequest, Protocol};

/// A port that cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// `::1`.
    #[error("port {port}/{protocol} cannot be published on ::1: the kernel translates nothing there; use 127.0.0.1")]
    Loopback6 {
        /// The container's port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// An address of a family that the container has none of.
    #[error("port {port}/{protocol} cannot be published on {host_address}: the container has no {family} address")]
    NoAddress {
        /// The container's port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The host's address.
        host_address: String,
        /// IPv4 or IPv6.
        family: &'static str,
    },
}

/// A container's addresses on the network that its ports are published from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inside {
    /// IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6.
    pub ipv6: Option<Ipv6Addr>,
}

/// A place at which a request is to be published: the host's address (`None` for every one of the family) and the
/// container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The host's address.
    pub host_address: Option<IpAddr>,
    /// The container's address.
    pub address: IpAddr,
}

/// The places of a request: one, or one for each family.
///
/// # Errors
/// [`PublishError`].
pub fn places(request: &PortRequest, inside: Inside) -> Result<Vec<Place>, PublishError> {
    let (port, protocol) = (request.port, request.protocol);
    let four = inside.ipv4.map(IpAddr::V4);
    let six = inside.ipv6.map(IpAddr::V6);
    if request.host_address == Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) {
        return Err(PublishError::Loopback6 { port, protocol });
    }
    let wanted = match request.host_address {
        None => {
            let both = [four, six].into_iter().flatten();
            let both: Vec<_> = both.map(|address| Place { host_address: None, address }).collect();
            if !both.is_empty() {
                return Ok(both);
            }
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), four)
        }
        Some(host) => (host, if host.is_ipv4() { four } else { six }),
    };
    let (host, address) = wanted;
    let family = if host.is_ipv4() { "IPv4" } else { "IPv6" };
    let address = address.ok_or(PublishError::NoAddress { port, protocol, host_address: host.to_string(), family })?;
    Ok(vec![Place { host_address: Some(host).filter(|host| !host.is_unspecified()), address }])
}

/// Which ports are open although the host's firewall is closed: `[publish] allow` in the configuration file.
///
/// ```text
/// "all"                             everything that is published
/// [ADDRESS:]PORT[-LAST][/PROTOCOL]  these host ports; without a protocol, of each
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Allowed(Vec<AllowedPorts>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AllowedPorts {
    All,
    Range { address: Option<IpAddr>, first: u16, last: u16, protocol: Option<Protocol> },
}

impl TryFrom<Vec<String>> for Allowed {
    type Error = PortError;

    fn try_from(texts: Vec<String>) -> Result<Allowed, PortError> {
        texts.iter().map(|text| allowed_ports(text)).collect::<Result<_, _>>().map(Allowed)
    }
}

fn allowed_ports(text: &str) -> Result<AllowedPorts, PortError> {
    if text == "all" {
        return Ok(AllowedPorts::All);
    }
    let invalid = || PortError::HostPort(text.to_owned());
    if text.contains('=') || text.starts_with(':') {
        return Err(invalid());
    }
    // The words of -p, with the host's ports in the container's place.
    let host = match text.rsplit_once(':') {
        Some((address, ports)) => format!("{address}::{ports}"),
        None => text.to_owned(),
    };
    let requests = ports::publish(&host).map_err(|error| match error {
        PortError::ContainerPort(_) | PortError::Empty(_) => invalid(),
        error => error,
    })?;
    let (Some(first), Some(last)) = (requests.first(), requests.last()) else { return Err(invalid()) };
    if first.host_port != HostPort::Free {
        return Err(invalid());
    }
    let protocol = text.contains('/').then_some(first.protocol);
    Ok(AllowedPorts::Range { address: first.host_address, first: first.port, last: last.port, protocol })
}

impl Allowed {
    /// Whether a port is one of these.
    pub fn allows(&self, publication: &Publication) -> bool {
        self.0.iter().any(|allowed| match *allowed {
            AllowedPorts::All => true,
            AllowedPorts::Range { address, first, last, protocol } => {
                (first..=last).contains(&publication.host_port)
                    && protocol.is_none_or(|protocol| protocol == publication.protocol)
                    && address.is_none_or(|address| publication.host_address == Some(address))
            }
        })
    }
}

/// Who reaches a published port, besides this host and the container's own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everybody.
    Open,
    /// Nobody: it is published on loopback.
    Loopback,
    /// Everybody: the configuration allows it, although the host's firewall is closed.
    Allowed,
    /// Nobody: the host's firewall is closed.
    Closed,
}

impl Reach {
    /// Who reaches this one.
    pub fn of(publication: &Publication, policy: &HostPolicy, allowed: &Allowed) -> Reach {
        match publication.host_address {
            Some(address) if address.is_loopback() => Reach::Loopback,
            _ if policy.input.is_empty() => Reach::Open,
            _ if allowed.allows(publication) => Reach::Allowed,
            _ => Reach::Closed,
        }
    }

    /// Whether other hosts do.
    pub fn is_open(self) -> bool {
        matches!(self, Reach::Open | Reach::Allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::policy::Closed;

    fn request(text: &str) -> PortRequest {
        ports::publish(text).unwrap()[0]
    }

    fn shown(text: &str, inside: Inside) -> String {
        match places(&request(text), inside) {
            Ok(places) => {
                let one = |place: &Place| match place.host_address {
                    Some(host) => format!("{host}->{}", place.address),
                    None => format!("*->{}", place.address),
                };
                places.iter().map(one).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_request_has_a_place_for_each_family() {
        let four = Inside { ipv4: Some(Ipv4Addr::new(10, 0, 0, 2)), ipv6: None };
        let both = Inside { ipv6: Some("fd00::2".parse().unwrap()), ..four };
        assert_eq!(shown("80", four), "*->10.0.0.2");
        assert_eq!(shown("80", both), "*->10.0.0.2 *->fd00::2");
        assert_eq!(shown("0.0.0.0:80:80", both), "*->10.0.0.2");
        assert_eq!(shown("[::]:80:80", both), "*->fd00::2");
        assert_eq!(shown("127.0.0.1:80:80", both), "127.0.0.1->10.0.0.2");
        assert!(shown("[::1]:80:80", both).contains("cannot be published on ::1"));
        assert!(shown("[fd00::9]:80:80", four).ends_with("the container has no IPv6 address"));
        assert!(shown("80", Inside::default()).ends_with("the container has no IPv4 address"));
    }

    fn publication(host_address: Option<&str>, host_port: u16, protocol: Protocol) -> Publication {
        let address = "10.0.0.2".parse().unwrap();
        let host_address = host_address.map(|host| host.parse().unwrap());
        Publication { protocol, host_address, host_port, address, port: 80, open: false }
    }

    fn allowed(texts: &[&str]) -> Result<Allowed, PortError> {
        Allowed::try_from(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_allowed_is_named() {
        let list = allowed(&["8080", "9000-9002/udp", "192.0.2.1:443/tcp"]).unwrap();
        for (host, port, protocol, expected) in [
            (None, 8080, Protocol::Tcp, true),
            (Some("192.0.2.7"), 8080, Protocol::Udp, true),
            (None, 8081, Protocol::Tcp, false),
            (None, 9001, Protocol::Udp, true),
            (None, 9001, Protocol::Tcp, false),
            (None, 9003, Protocol::Udp, false),
            (Some("192.0.2.1"), 443, Protocol::Tcp, true),
            (None, 443, Protocol::Tcp, false),
        ] {
            assert_eq!(list.allows(&publication(host, port, protocol)), expected, "{host:?} {port}");
        }
        assert!(allowed(&["all"]).unwrap().allows(&publication(None, 1, Protocol::Sctp)));
        for text in ["", "x", "80:90:100", "80/icmp", "host:80", "0", ":80", "8080:80", "target=80"] {
            assert!(allowed(&[text]).is_err(), "{text}");
        }
    }

    #[test]
    fn a_closed_host_keeps_ports_closed_that_nobody_allows() {
        let open = HostPolicy::default();
        let closed = HostPolicy { input: vec![Closed::Ufw], ..HostPolicy::default() };
        let list = allowed(&["8080"]).unwrap();
        let reach = |host, port, policy| Reach::of(&publication(host, port, Protocol::Tcp), policy, &list);
        assert_eq!(reach(None, 80, &open), Reach::Open);
        assert_eq!(reach(None, 80, &closed), Reach::Closed);
        assert_eq!(reach(None, 8080, &closed), Reach::Allowed);
        assert_eq!(reach(Some("127.0.0.1"), 8080, &open), Reach::Loopback);
        assert_eq!(reach(Some("127.0.0.1"), 8080, &closed), Reach::Loopback, "allowing does not open loopback");
    }
}
