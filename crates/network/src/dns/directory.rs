//! Who is called what in a container's networks.
//!
//! It is read from the database for one question and forgotten. The default network has no names, as with docker; it
//! only counts for whether a container reaches beyond the host.

use std::net::IpAddr;

use rusqlite::Connection;

use crate::network::{Endpoint, Network};

/// How many characters of an id are a name.
const SHORT_ID: usize = 12;

/// A directory that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The database's reason.
    #[error("reading the places in networks")]
    Query(#[from] rusqlite::Error),
    /// The opening of a view.
    #[error(transparent)]
    Store(#[from] hull_store::StoreError),
    /// A definition that cannot be read.
    #[error("the stored definition of a network or endpoint is damaged")]
    Damaged(#[from] serde_json::Error),
}

/// One network of whoever asks, with everybody who is in it.
#[derive(Debug, Clone)]
struct Neighbourhood {
    network: Network,
    endpoints: Vec<Endpoint>,
}

/// The networks of whoever asks.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    neighbourhoods: Vec<Neighbourhood>,
    /// Whether one of its networks leads beyond the host.
    leads_out: bool,
}

impl Directory {
    /// Reads a container's.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn read(db: &Connection, container_id: &str) -> Result<Directory, DirectoryError> {
        let mut networks = db.prepare_cached(
            "SELECT networks.definition FROM endpoints JOIN networks ON networks.id = endpoints.network_id
             WHERE container_id = ?1",
        )?;
        let mut places = db.prepare_cached("SELECT definition FROM endpoints WHERE network_id = ?1")?;
        let mut known = Vec::new();
        for text in networks.query_map([container_id], |row| row.get::<_, String>(0))? {
            let network: Network = serde_json::from_str(&text?)?;
            let mut endpoints = Vec::new();
            if !network.is_default() {
                for text in places.query_map([&network.id], |row| row.get::<_, String>(0))? {
                    endpoints.push(serde_json::from_str(&text?)?);
                }
            }
            known.push((network, endpoints));
        }
        Ok(Directory::of(known))
    }

    /// Of networks and who is in them.
    pub fn of(networks: Vec<(Network, Vec<Endpoint>)>) -> Directory {
        let leads_out = networks.iter().any(|(network, _)| !network.internal);
        let named = networks.into_iter().filter(|(network, _)| !network.is_default());
        let mut neighbourhoods: Vec<_> =
            named.map(|(network, endpoints)| Neighbourhood { network, endpoints }).collect();
        // Docker's order: what leads out first, then by name.
        neighbourhoods
            .sort_by(|a, b| (a.network.internal, &a.network.name).cmp(&(b.network.internal, &b.network.name)));
        Directory { neighbourhoods, leads_out }
    }

    /// Whether one of the networks leads beyond the host.
    pub fn leads_out(&self) -> bool {
        self.leads_out
    }

    /// Every address of a name, without the root's dot; none for a name that nobody has.
    ///
    /// Both parts of `NAME.NETWORK` may have dots, so each of them is tried as the border, after the name as a whole.
    pub fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = name.to_ascii_lowercase();
        if let Some(found) = self.neighbourhoods.iter().find_map(|place| place.addresses(&name)) {
            return Some(found);
        }
        let mut borders = name.rmatch_indices('.');
        borders.find_map(|(dot, _)| {
            let network =
                self.neighbourhoods.iter().find(|place| place.network.name.eq_ignore_ascii_case(&name[dot + 1..]));
            network.and_then(|place| place.addresses(&name[..dot]))
        })
    }

    /// The name of an address, followed by its network's.
    pub fn name(&self, address: IpAddr) -> Option<String> {
        self.neighbourhoods.iter().find_map(|place| {
            let has = |endpoint: &&Endpoint| addresses_of(endpoint).any(|own| own == address);
            let endpoint = place.endpoints.iter().find(has)?;
            Some(format!("{}.{}", endpoint.name, place.network.name))
        })
    }
}

impl Neighbourhood {
    /// The addresses of all who have a name in lower case; none when nobody has.
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut known = self.endpoints.iter().filter(|endpoint| is_called(endpoint, name)).peekable();
        known.peek()?;
        let mut all: Vec<IpAddr> = known.flat_map(addresses_of).collect();
        all.sort_unstable();
        Some(all)
    }
}

fn is_called(endpoint: &Endpoint, name: &str) -> bool {
    let own = [endpoint.name.as_str(), endpoint.container_id.get(..SHORT_ID).unwrap_or_default()];
    let further = endpoint.aliases.iter().chain(&endpoint.hostname).map(String::as_str);
    own.into_iter().chain(further).any(|known| !known.is_empty() && known.eq_ignore_ascii_case(name))
}

fn addresses_of(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    [endpoint.ipv4, endpoint.ipv6].into_iter().flatten().map(|own| own.address)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::network::{Link, Mac};
    use crate::subnet::Subnet;

    pub(crate) fn network(name: &str, subnets: &[&str], internal: bool) -> Network {
        Network {
            id: format!("{name:0<64}"),
            name: name.to_owned(),
            link: Link::Bridge { bridge: format!("br-{name}") },
            subnets: subnets.iter().map(|cidr| Subnet::of(cidr.parse().unwrap())).collect(),
            mtu: None,
            internal,
            ipv6: false,
            options: Default::default(),
            labels: Default::default(),
            created: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    pub(crate) fn endpoint(network: &Network, id: &str, name: &str, aliases: &[&str], addresses: &[&str]) -> Endpoint {
        let mut own =
            addresses.iter().map(|address| crate::subnet::Cidr { address: address.parse().unwrap(), prefix: 24 });
        Endpoint {
            id: "e".repeat(64),
            network_id: network.id.clone(),
            container_id: format!("{id:0<64}"),
            name: name.to_owned(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            hostname: Some(format!("host-{name}")),
            ipv4: own.next(),
            ipv6: own.next(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            host_interface: None,
            interface: "eth0".to_owned(),
        }
    }

    /// Two networks: `front` with web and two called `pool`, and the internal `a.back` with `db` and `x.y`.
    pub(crate) fn directory() -> Directory {
        let front = network("front", &["10.1.0.0/24", "fd00::/64"], false);
        let back = network("a.back", &["10.2.0.0/24"], true);
        let in_front = vec![
            endpoint(&front, "abc", "web", &["WWW"], &["10.1.0.2", "fd00::2"]),
            endpoint(&front, "bcd", "one", &["pool"], &["10.1.0.3", "fd00::3"]),
            endpoint(&front, "cde", "two", &["pool"], &["10.1.0.4"]),
        ];
        let in_back = vec![
            endpoint(&back, "abc", "web", &[], &["10.2.0.2"]),
            endpoint(&back, "def", "db", &["x.y"], &["10.2.0.3"]),
        ];
        let default = network("bridge", &["172.17.0.0/16"], false);
        let elsewhere = vec![endpoint(&default, "fff", "hidden", &[], &["172.17.0.2"])];
        Directory::of(vec![(back, in_back), (default, elsewhere), (front, in_front)])
    }

    #[test]
    fn every_kind_of_name_leads_to_addresses() {
        let directory = directory();
        let found = |name: &str| {
            directory.addresses(name).map(|all| all.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(" "))
        };
        for (name, expected) in [
            ("web", "10.1.0.2 fd00::2"),
            ("WEB", "10.1.0.2 fd00::2"),
            ("www", "10.1.0.2 fd00::2"),
            ("host-web", "10.1.0.2 fd00::2"),
            ("abc000000000", "10.1.0.2 fd00::2"),
            ("pool", "10.1.0.3 10.1.0.4 fd00::3"),
            ("web.front", "10.1.0.2 fd00::2"),
            ("web.a.back", "10.2.0.2"),
            ("x.y", "10.2.0.3"),
            ("x.y.A.Back", "10.2.0.3"),
        ] {
            assert_eq!(found(name).as_deref(), Some(expected), "{name}");
        }
        for name in ["", ".", "nobody", "hidden", "hidden.bridge", "web.back", "web.", ".front", "abc", "web.front.x"] {
            assert_eq!(found(name), None, "{name}");
        }
        let name = |address: &str| directory.name(address.parse().unwrap());
        assert_eq!(name("10.2.0.2").as_deref(), Some("web.a.back"));
        assert_eq!(name("fd00::3").as_deref(), Some("one.front"));
        assert_eq!((name("10.1.0.1"), name("172.17.0.2")), (None, None));
    }

    #[test]
    fn only_internal_networks_lead_nowhere() {
        assert!(directory().leads_out());
        assert!(!Directory::default().leads_out());
        let inner = network("inner", &["10.1.0.0/24"], true);
        assert!(!Directory::of(vec![(inner, Vec::new())]).leads_out());
    }
}
