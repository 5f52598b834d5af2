//! Published ports as a user sees them: docker's `PORTS` column and its JSON.
//!
//! ```text
//! 0.0.0.0:8000-8001->80-81/tcp, [::]:8000-8001->80-81/tcp, 443/tcp
//! ```
//! Neighbours become a range when both of their ports follow each other; exposed ports that are not published stand alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::claims::written;
use crate::firewall::Publication;
use crate::ports::{ContainerPort, PortRequest, Protocol};

/// One place of the host in docker's JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortBinding {
    /// Address; empty when none was asked for.
    pub host_ip: String,
    /// Port; empty for any free one.
    pub host_port: String,
}

/// Docker's `NetworkSettings.Ports`: each port of the container with its places, null when it is only exposed.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// The places of published ports, and the exposed ones without.
pub fn port_map(publications: &[Publication], exposed: &[String]) -> PortMap {
    let mut map: PortMap = exposed.iter().map(|port| (port.clone(), None)).collect();
    for one in publications {
        let port = one.inside().to_string();
        let binding = PortBinding { host_ip: written(one).to_string(), host_port: one.host_port.to_string() };
        map.entry(port).or_default().get_or_insert_default().push(binding);
    }
    map
}

/// Docker's `HostConfig.PortBindings`: what was asked for.
pub fn requested(requests: &[PortRequest]) -> BTreeMap<String, Vec<PortBinding>> {
    let mut map: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for request in requests {
        let port = ContainerPort { port: request.port, protocol: request.protocol }.to_string();
        let host_ip = request.host_address.map(|address| address.to_string()).unwrap_or_default();
        map.entry(port).or_default().push(PortBinding { host_ip, host_port: request.host_port.to_string() });
    }
    map
}

/// `0.0.0.0:8080`, `[::]:8080`.
pub fn host_end(publication: &Publication) -> String {
    SocketAddr::new(written(publication), publication.host_port).to_string()
}

/// A run of neighbours.
struct Run {
    place: Option<(IpAddr, u16)>,
    first: u16,
    last: u16,
    protocol: Protocol,
}

impl Run {
    fn takes(&self, place: Option<(IpAddr, u16)>, port: u16, protocol: Protocol) -> bool {
        let follows = self.protocol == protocol && self.last.checked_add(1) == Some(port);
        follows
            && match (self.place, place) {
                (None, None) => true,
                (Some((own, first)), Some((address, host_port))) => {
                    own == address && host_port.checked_sub(first) == Some(port - self.first)
                }
                _ => false,
            }
    }
}

/// `80-81`, or `80` when it is one.
fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// The `PORTS` column.
pub fn column(publications: &[Publication], exposed: &[String]) -> String {
    let published = publications.iter().map(|one| (Some((written(one), one.host_port)), one.port, one.protocol));
    let is_published =
        |port: &ContainerPort| publications.iter().any(|one| (one.port, one.protocol) == (port.port, port.protocol));
    let alone = exposed.iter().filter_map(|port| port.parse::<ContainerPort>().ok());
    let alone = alone.filter(|port| !is_published(port)).map(|port| (None, port.port, port.protocol));
    let mut all: Vec<_> = published.chain(alone).collect();
    all.sort_by_key(|(place, port, protocol)| {
        (place.is_none(), place.map(|(address, _)| address), *protocol, *port, place.map(|(_, host)| host))
    });
    let mut runs: Vec<Run> = Vec::new();
    for (place, port, protocol) in all {
        match runs.iter_mut().find(|run| run.takes(place, port, protocol)) {
            Some(run) => run.last = port,
            None => runs.push(Run { place, first: port, last: port, protocol }),
        }
    }
    let text = runs.iter().map(|run| {
        let inside = format!("{}/{}", range(run.first, run.last), run.protocol);
        match run.place {
            None => inside,
            Some((address, first)) => {
                let outside = range(first, first + (run.last - run.first));
                let address = if address.is_ipv4() { address.to_string() } else { format!("[{address}]") };
                format!("{address}:{outside}->{inside}")
            }
        }
    });
    text.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(host: &str, host_port: u16, port: u16, protocol: Protocol) -> Publication {
        let host: IpAddr = host.parse().unwrap();
        let address = if host.is_ipv4() { "10.0.0.2" } else { "fd00::2" }.parse().unwrap();
        let host_address = Some(host).filter(|host| !host.is_unspecified());
        Publication { protocol, host_address, host_port, address, port, open: true }
    }

    #[test]
    fn the_column_is_dockers() {
        let exposed: Vec<_> = ["80/tcp", "443/tcp", "444/tcp", "53/udp"].map(str::to_owned).into();
        let all = [
            one("0.0.0.0", 8081, 81, Protocol::Tcp),
            one("0.0.0.0", 8080, 80, Protocol::Tcp),
            one("::", 8080, 80, Protocol::Tcp),
            one("127.0.0.1", 5353, 53, Protocol::Udp),
            one("0.0.0.0", 9000, 82, Protocol::Tcp),
        ];
        assert_eq!(
            column(&all, &exposed),
            "0.0.0.0:8080-8081->80-81/tcp, 0.0.0.0:9000->82/tcp, 127.0.0.1:5353->53/udp, [::]:8080->80/tcp, 443-444/tcp"
        );
        assert_eq!((column(&[], &[]).as_str(), column(&[], &exposed[..1]).as_str()), ("", "80/tcp"));
        assert_eq!(host_end(&all[2]), "[::]:8080");
    }

    #[test]
    fn the_json_is_dockers() {
        let all = [one("0.0.0.0", 8080, 80, Protocol::Tcp), one("127.0.0.1", 9000, 80, Protocol::Tcp)];
        let map = port_map(&all, &["443/tcp".to_owned()]);
        assert_eq!(
            serde_json::to_string(&map).unwrap(),
            r#"{"443/tcp":null,"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"127.0.0.1","HostPort":"9000"}]}"#
        );
        let requests = [crate::ports::publish("127.0.0.1::80").unwrap(), crate::ports::publish("81").unwrap()].concat();
        assert_eq!(
            serde_json::to_string(&requested(&requests)).unwrap(),
            r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":""}],"81/tcp":[{"HostIp":"","HostPort":""}]}"#
        );
    }
}
