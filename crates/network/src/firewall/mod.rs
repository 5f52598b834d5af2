//! Hull's one firewall table: masquerade, isolation, and published ports.
//!
//! The chains never change (rules.rs); networks and ports are elements of sets and maps, so that a thousand published
//! ports cost the packets of others one lookup. A change is one transaction. What the table holds can be rebuilt from the
//! store at any time ([`Firewall::ensure`]), which is also how it comes back after somebody has flushed all rules.
//!
//! The table is of the family `inet` and its name derives from the instance, so that several Hulls do not meet. No other
//! table is read for rules or written. That has a price: a packet that another table drops at the forward hook is gone,
//! whatever this one says. [`policy`] tells which tables do that by policy.

#[cfg(test)]
mod kernel_tests;
pub mod policy;
mod rules;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;

use hull_kernel::netlink::conntrack::{self, Destination};
use hull_kernel::netlink::nftables::{Element, NftablesError, Transaction, interface, table_names};

use crate::ports::{ContainerPort, Protocol};

/// Rules that were not set.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The table could not be changed.
    #[error(transparent)]
    Table(#[from] NftablesError),
    /// Tracked connections could not be forgotten.
    #[error("forgetting tracked connections of published ports")]
    Forget(#[source] io::Error),
}

impl FirewallError {
    /// Whether the table or a part of it is missing, which [`Firewall::ensure`] repairs.
    pub fn is_missing(&self) -> bool {
        matches!(self, FirewallError::Table(error) if error.errno() == Some(ENOENT))
    }
}

const ENOENT: i32 = 2;

/// What the firewall has to know of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Name of its bridge.
    pub bridge: String,
    /// Its subnets: any address of each, and the length of the prefix.
    pub subnets: Vec<(IpAddr, u8)>,
    /// Whether nothing of it reaches beyond it.
    pub internal: bool,
}

/// A port of a container that is reached at an address and port of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publication {
    /// tcp, udp or sctp.
    pub protocol: Protocol,
    /// The host's address; `None` for every one of the container's address's family.
    pub host_address: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub address: IpAddr,
    /// The container's port.
    pub port: u16,
    /// Whether other hosts reach it, and containers of other networks; this host and its own network always do.
    pub open: bool,
}

impl Publication {
    /// The container's end.
    pub fn inside(&self) -> ContainerPort {
        ContainerPort { port: self.port, protocol: self.protocol }
    }
}

/// The table of one Hull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    table: String,
}

impl Firewall {
    /// The one of an instance; the default instance has the empty name.
    pub fn new(instance: &str) -> Firewall {
        Firewall { table: if instance.is_empty() { "hull".to_owned() } else { format!("hull-{instance}") } }
    }

    /// Its table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Makes the table anew with these networks and ports, in one step that no packet falls through.
    ///
    /// # Errors
    /// The kernel's; the table is then as before.
    pub fn ensure(&self, segments: &[Segment], publications: &[Publication]) -> Result<(), FirewallError> {
        let mut transaction = Transaction::on(&self.table);
        // Adding first makes the deletion good whether it was there or not.
        transaction.add_table().delete_table().add_table();
        rules::add(&mut transaction);
        for segment in segments {
            each_element(segment, |set, elements| {
                transaction.add_elements(set, elements);
            });
        }
        published(publications, |set, elements| {
            transaction.add_elements(set, elements);
        });
        Ok(transaction.commit()?)
    }

    /// Whether the table is there.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn is_there(&self) -> Result<bool, FirewallError> {
        Ok(table_names()?.iter().any(|(family, name)| *family == "inet" && *name == self.table))
    }

    /// A network more.
    ///
    /// # Errors
    /// The kernel's; [`FirewallError::is_missing`] when the table is not there.
    pub fn add_network(&self, segment: &Segment) -> Result<(), FirewallError> {
        let mut transaction = Transaction::on(&self.table);
        each_element(segment, |set, elements| {
            transaction.add_elements(set, elements);
        });
        Ok(transaction.commit()?)
    }

    /// A network less; nothing when it or the table is not there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_network(&self, segment: &Segment) -> Result<(), FirewallError> {
        let mut transaction = Transaction::on(&self.table);
        each_element(segment, |set, elements| {
            transaction.add_elements(set, elements).delete_elements(set, elements);
        });
        gone(transaction.commit())
    }

    /// Publishes ports, and has the UDP traffic that was on its way to them decided again.
    ///
    /// # Errors
    /// The kernel's; [`FirewallError::is_missing`] when the table is not there.
    pub fn publish(&self, publications: &[Publication]) -> Result<(), FirewallError> {
        let mut transaction = Transaction::on(&self.table);
        published(publications, |set, elements| {
            transaction.add_elements(set, elements);
        });
        transaction.commit()?;
        forget(publications)
    }

    /// Withdraws ports, open or closed; nothing when they or the table are not there. UDP traffic to them ends.
    ///
    /// `reachable_still` are the container's other publications: one that leads to the same port keeps it reachable.
    ///
    /// # Errors
    /// The kernel's.
    pub fn withdraw(&self, publications: &[Publication], reachable_still: &[Publication]) -> Result<(), FirewallError> {
        let mut transaction = Transaction::on(&self.table);
        let either = publications.iter().flat_map(|one| [true, false].map(|open| Publication { open, ..*one }));
        published(&either.collect::<Vec<_>>(), |set, elements| {
            transaction.add_elements(set, elements).delete_elements(set, elements);
        });
        published(reachable_still, |set, elements| {
            transaction.add_elements(set, elements);
        });
        gone(transaction.commit())?;
        forget(publications)
    }

    /// Takes the table away.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self) -> Result<(), FirewallError> {
        let mut transaction = Transaction::on(&self.table);
        transaction.add_table().delete_table();
        Ok(transaction.commit()?)
    }
}

/// What is not there need not be taken away.
fn gone(result: Result<(), NftablesError>) -> Result<(), FirewallError> {
    match result {
        Err(error) if error.errno() == Some(ENOENT) => Ok(()),
        result => Ok(result?),
    }
}

fn forget(publications: &[Publication]) -> Result<(), FirewallError> {
    let udp = || publications.iter().filter(|publication| publication.protocol == Protocol::Udp);
    if udp().next().is_none() {
        return Ok(());
    }
    let outside: HashSet<_> = udp().map(|one| Destination { address: one.host_address, port: one.host_port }).collect();
    let inside = udp().map(|one| Destination { address: Some(one.address), port: one.port }).collect();
    conntrack::forget_udp(&outside, &inside).map(drop).map_err(FirewallError::Forget)
}

/// A network's elements, set by set.
fn each_element(segment: &Segment, mut each: impl FnMut(&'static str, &[Element])) {
    let bridge = interface(&segment.bridge);
    each(rules::BRIDGES.name, &[Element::new(&[&bridge])]);
    each(rules::SAME.name, &[Element::new(&[&bridge, &bridge])]);
    if segment.internal {
        each(rules::INTERNAL.name, &[Element::new(&[&bridge])]);
    }
    for (address, prefix) in &segment.subnets {
        let (first, last) = ends(*address, *prefix);
        let set = if address.is_ipv4() { rules::SOURCES_4.name } else { rules::SOURCES_6.name };
        each(set, &[Element::new(&[&bridge, &first]).up_to(&[&bridge, &last])]);
    }
}

/// First and last address of a subnet.
fn ends(address: IpAddr, prefix: u8) -> (Vec<u8>, Vec<u8>) {
    let mut first = octets(address);
    let mut last = first.clone();
    for (at, (first, last)) in first.iter_mut().zip(&mut last).enumerate() {
        let kept = usize::from(prefix).saturating_sub(at * 8).min(8);
        let mask = (0xff00_u16 >> kept) as u8;
        *first &= mask;
        *last |= !mask;
    }
    (first, last)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Elements of published ports, gathered by set so that each set is one change.
fn published(publications: &[Publication], mut each: impl FnMut(&'static str, &[Element])) {
    let mut gathered: BTreeMap<&'static str, BTreeSet<Element>> = BTreeMap::new();
    let mut gather = |set, element| {
        gathered.entry(set).or_default().insert(element);
    };
    for publication in publications {
        let protocol = [publication.protocol.number()];
        let (host_port, port) = (publication.host_port.to_be_bytes(), publication.port.to_be_bytes());
        let address = octets(publication.address);
        let maps = rules::maps(publication.open, publication.address.is_ipv4());
        let (map, element) = match publication.host_address.map(octets) {
            Some(host) => (maps.at, Element::new(&[&host, &protocol, &host_port])),
            None => (maps.any, Element::new(&[&protocol, &host_port])),
        };
        gather(map.name, element.leading_to(&[&address, &port]));
        if publication.open {
            gather(maps.reachable.name, Element::new(&[&address, &protocol, &port]));
        }
    }
    for (set, elements) in gathered {
        each(set, &elements.into_iter().collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_its_ends() {
        let ends = |text: &str, prefix| ends(text.parse().unwrap(), prefix);
        assert_eq!(ends("172.20.3.1", 16), (vec![172, 20, 0, 0], vec![172, 20, 255, 255]));
        assert_eq!(ends("10.1.2.130", 25), (vec![10, 1, 2, 128], vec![10, 1, 2, 255]));
        assert_eq!(ends("10.1.2.3", 32), (vec![10, 1, 2, 3], vec![10, 1, 2, 3]));
        let (first, last) = ends("fd00::1", 64);
        assert_eq!((first[7], first[15], last[7], last[15]), (0, 0, 0, 255));
    }
}
