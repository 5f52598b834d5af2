//! Which container has which port of the host: rows of `published_ports`, and how new ones are chosen.
//!
//! ```text
//! choose        ports of the host, each held by a socket (reservation.rs); no transaction is open
//! note          in one transaction: none of them is another container's, and now they are this one's
//! (sockets)     closed; from here on the rows keep the ports
//! publish       elements in the firewall's table
//! ```
//! A kill after `note` leaves rows without elements: the next start of the container, its end and its removal take them
//! away. Two ports meet when protocol, number and family are the same and the addresses are, or one of them is every one.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_store::StoreError;
use rusqlite::{Connection, Row, params};

use crate::firewall::Publication;
use crate::ports::{HostPort, PortRequest, Protocol};
use crate::publishing::{Inside, Place, PublishError, places};
use crate::reservation::{Reservation, ReservationError};

/// Ports that a container does not get.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The request cannot be met at all.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A program of the host has the port.
    #[error(transparent)]
    Reservation(#[from] ReservationError),
    /// Another container has the port.
    #[error("port {host_port}/{protocol} on {host_address} is published by container {container}")]
    Published {
        /// Where.
        host_address: IpAddr,
        /// Which.
        host_port: u16,
        /// Of which protocol.
        protocol: Protocol,
        /// Name of the container that has it.
        container: String,
    },
    /// All ports of a range are taken.
    #[error("all ports from {first} to {last}/{protocol} are taken")]
    RangeTaken {
        /// First one.
        first: u16,
        /// Last one.
        last: u16,
        /// Of which protocol.
        protocol: Protocol,
    },
    /// No free port was found.
    #[error("no free port for {port}/{protocol} was found")]
    NoneFree {
        /// The container's port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ClaimError {
    /// Whether another container has what was asked for.
    pub fn is_taken(&self) -> bool {
        matches!(self, ClaimError::Published { .. } | ClaimError::RangeTaken { .. } | ClaimError::NoneFree { .. })
    }
}

impl From<rusqlite::Error> for ClaimError {
    fn from(error: rusqlite::Error) -> ClaimError {
        ClaimError::Store(error.into())
    }
}

/// How often a free port is looked for.
const ATTEMPTS: usize = 32;

/// Ports of the host that are noted as some container's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken(HashSet<(Protocol, u16, bool, Option<IpAddr>)>);

impl Taken {
    /// All that are noted.
    ///
    /// # Errors
    /// The database's.
    pub fn read(db: &Connection) -> Result<Taken, StoreError> {
        let keys = all(db)?.into_iter().map(|(_, one)| key(&one));
        Ok(Taken(keys.collect()))
    }

    fn meets(&self, protocol: Protocol, host_port: u16, place: &Place) -> bool {
        let is_ipv4 = place.address.is_ipv4();
        match place.host_address {
            None => self.0.iter().any(|one| (one.0, one.1, one.2) == (protocol, host_port, is_ipv4)),
            Some(address) => {
                [None, Some(address)].iter().any(|address| self.0.contains(&(protocol, host_port, is_ipv4, *address)))
            }
        }
    }
}

fn key(one: &Publication) -> (Protocol, u16, bool, Option<IpAddr>) {
    (one.protocol, one.host_port, one.address.is_ipv4(), one.host_address)
}

/// Chosen ports, held until this is dropped.
#[derive(Debug, Default)]
pub struct Chosen {
    /// What is to be published; none of it is open yet.
    pub publications: Vec<Publication>,
    held: Vec<Reservation>,
}

impl Chosen {
    /// Finds a port of the host for each request, the same one for both families.
    ///
    /// # Errors
    /// [`ClaimError`] for the first request that cannot be met; one by its number that another container has is found
    /// only by [`note`], which knows whose it is.
    pub fn choose(requests: &[PortRequest], inside: Inside, taken: &Taken) -> Result<Chosen, ClaimError> {
        let mut chosen = Chosen::default();
        for request in requests {
            let places = places(request, inside)?;
            chosen.add(request, &places, taken)?;
        }
        Ok(chosen)
    }

    fn add(&mut self, request: &PortRequest, places: &[Place], taken: &Taken) -> Result<(), ClaimError> {
        let (port, protocol) = (request.port, request.protocol);
        match request.host_port {
            HostPort::Port(host_port) => self.take(request, places, host_port, &Taken::default()).map(drop),
            HostPort::Within(first, last) => {
                for host_port in first..=last {
                    match self.take(request, places, host_port, taken) {
                        Ok(true) => return Ok(()),
                        Ok(false) | Err(ClaimError::Reservation(ReservationError::Taken { .. })) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(ClaimError::RangeTaken { first, last, protocol })
            }
            HostPort::Free => {
                for _ in 0..ATTEMPTS {
                    match self.take(request, places, 0, taken) {
                        Ok(true) => return Ok(()),
                        Ok(false) | Err(ClaimError::Reservation(ReservationError::Taken { .. })) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(ClaimError::NoneFree { port, protocol })
            }
        }
    }

    /// Holds one port at all places; false when another container has it.
    fn take(
        &mut self,
        request: &PortRequest,
        places: &[Place],
        host_port: u16,
        taken: &Taken,
    ) -> Result<bool, ClaimError> {
        let mut host_port = host_port;
        let mut held = Vec::new();
        for place in places {
            let reservation =
                Reservation::hold(place.host_address, place.address.is_ipv4(), host_port, request.protocol)?;
            // The first place has chosen for the others.
            host_port = reservation.port;
            held.push(reservation);
        }
        if places.iter().any(|place| taken.meets(request.protocol, host_port, place)) {
            return Ok(false);
        }
        self.held.extend(held);
        self.publications.extend(places.iter().map(|place| Publication {
            protocol: request.protocol,
            host_address: place.host_address,
            host_port,
            address: place.address,
            port: request.port,
            open: false,
        }));
        Ok(true)
    }
}

/// Notes ports as a container's.
///
/// # Errors
/// [`ClaimError::Published`] for the first that is another one's; the transaction is then to be given up.
pub fn note(tx: &Connection, container_id: &str, publications: &[Publication]) -> Result<(), ClaimError> {
    let mut others = tx.prepare_cached(
        "SELECT p.host_address, c.name FROM published_ports p JOIN containers c ON c.id = p.container_id
         WHERE p.protocol = ?1 AND p.host_port = ?2",
    )?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO published_ports (protocol, host_port, host_address, container_id, address, port)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for one in publications {
        let protocol = one.protocol.to_string();
        let host_address = written(one);
        let mut rows = others.query(params![protocol, one.host_port])?;
        while let Some(row) = rows.next()? {
            let Ok(address) = row.get::<_, String>(0)?.parse::<IpAddr>() else { continue };
            let same_family = address.is_ipv4() == host_address.is_ipv4();
            if same_family && (address == host_address || address.is_unspecified() || host_address.is_unspecified()) {
                let (host_port, protocol) = (one.host_port, one.protocol);
                return Err(ClaimError::Published { host_address, host_port, protocol, container: row.get(1)? });
            }
        }
        let address = one.address.to_string();
        insert.execute(params![protocol, one.host_port, host_address.to_string(), container_id, address, one.port])?;
    }
    Ok(())
}

/// The host's address as it is written, which also is what a user sees.
pub fn written(publication: &Publication) -> IpAddr {
    publication.host_address.unwrap_or(match publication.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    })
}

/// All ports that are noted, with their containers' ids, by container, port and protocol.
///
/// # Errors
/// The database's.
pub fn all(db: &Connection) -> Result<Vec<(String, Publication)>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT container_id, protocol, host_address, host_port, address, port FROM published_ports
         ORDER BY container_id, port, protocol, host_port, host_address",
    )?;
    let rows = statement.query_map([], read)?.collect::<Result<Vec<_>, _>>()?;
    Ok(rows.into_iter().flatten().collect())
}

/// Those of one container.
///
/// # Errors
/// The database's.
pub fn of_container(db: &Connection, container_id: &str) -> Result<Vec<Publication>, StoreError> {
    Ok(all(db)?.into_iter().filter(|(id, _)| id == container_id).map(|(_, one)| one).collect())
}

/// Takes a container's notes away.
///
/// # Errors
/// The database's.
pub fn release(tx: &Connection, container_id: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM published_ports WHERE container_id = ?1", [container_id])?;
    Ok(())
}

/// Takes the notes of containers away that have no place in a network any more: their run is over.
///
/// # Errors
/// The database's.
pub fn release_ended(tx: &Connection) -> Result<(), StoreError> {
    tx.execute("DELETE FROM published_ports WHERE container_id NOT IN (SELECT container_id FROM endpoints)", [])?;
    Ok(())
}

/// Takes some of a container's notes away.
///
/// # Errors
/// The database's.
pub fn release_some(tx: &Connection, container_id: &str, publications: &[Publication]) -> Result<(), StoreError> {
    let mut delete = tx.prepare_cached(
        "DELETE FROM published_ports
         WHERE container_id = ?1 AND protocol = ?2 AND host_port = ?3 AND host_address = ?4",
    )?;
    for one in publications {
        delete.execute(params![container_id, one.protocol.to_string(), one.host_port, written(one).to_string()])?;
    }
    Ok(())
}

/// `None` for a row that nobody of this version has written.
fn read(row: &Row<'_>) -> rusqlite::Result<Option<(String, Publication)>> {
    let text = |index| row.get::<_, String>(index);
    let (id, host_port, port) = (text(0)?, row.get(3)?, row.get(5)?);
    let (protocol, host_address, address) = (text(1)?.parse(), text(2)?.parse::<IpAddr>(), text(4)?.parse());
    let (Ok(protocol), Ok(host_address), Ok(address)) = (protocol, host_address, address) else { return Ok(None) };
    let host_address = Some(host_address).filter(|address| !address.is_unspecified());
    Ok(Some((id, Publication { protocol, host_address, host_port, address, port, open: false })))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use hull_store::{Roots, Store};

    use super::*;
    use crate::ports;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Roots::new(folder.path().join("root"), folder.path().join("state"))).unwrap();
        let made = store.write(|tx| {
            for (id, name) in [("a", "web"), ("b", "db")] {
                tx.execute(
                    "INSERT INTO containers (id, name, created_at, auto_remove) VALUES (?1, ?2, 0, 0)",
                    [id, name],
                )?;
            }
            Ok::<_, StoreError>(())
        });
        made.unwrap();
        (folder, store)
    }

    fn inside() -> Inside {
        Inside { ipv4: Some(Ipv4Addr::new(10, 0, 0, 2)), ipv6: None }
    }

    fn chosen(text: &str, taken: &Taken) -> Result<Chosen, ClaimError> {
        Chosen::choose(&ports::publish(text).unwrap(), inside(), taken)
    }

    /// A port that nothing of this machine has now.
    fn free() -> u16 {
        Reservation::hold(None, true, 0, Protocol::Tcp).unwrap().port
    }

    #[test]
    fn a_port_is_one_containers_until_it_is_released() {
        let (_folder, store) = store();
        let port = free();
        let note = |id: &str, text: &str| {
            let chosen = chosen(text, &Taken::default())?;
            store.write(|tx| note(tx, id, &chosen.publications))
        };
        note("a", &format!("127.0.0.1:{port}:80")).unwrap();
        let error = note("b", &format!("{port}:80")).unwrap_err().to_string();
        assert_eq!(error, format!("port {port}/tcp on 0.0.0.0 is published by container web"));
        assert!(note("b", &format!("127.0.0.1:{port}:81")).is_err());
        note("b", &format!("{port}:80/udp")).unwrap();
        note("b", &format!("127.0.0.2:{port}:80")).unwrap();
        let of = |id: &str| store.read(|db| of_container(db, id)).unwrap();
        assert_eq!((of("a").len(), of("b").len()), (1, 2));
        assert_eq!(of("a")[0].host_address, Some("127.0.0.1".parse().unwrap()));
        let one = of("b")[0];
        store.write(|tx| release_some(tx, "b", &[one])).unwrap();
        assert_eq!(of("b").len(), 1);
        store.write(|tx| release(tx, "b")).unwrap();
        assert_eq!((of("a").len(), of("b").len()), (1, 0));
    }

    #[test]
    fn nothing_stays_of_a_claim_that_fails() {
        let (_folder, store) = store();
        let (one, two) = (free(), free());
        let claim = |id: &str, ports: [u16; 2]| {
            let chosen = Chosen::choose(
                &ports.map(|port| ports::publish(&format!("{port}:80")).unwrap()[0]),
                inside(),
                &Taken::default(),
            )?;
            store.write(|tx| note(tx, id, &chosen.publications))
        };
        claim("a", [one, one]).unwrap_err();
        claim("a", [one, two]).unwrap();
        claim("b", [free(), two]).unwrap_err();
        assert_eq!(store.read(all).unwrap().len(), 2);
    }

    #[test]
    fn free_ports_and_ranges_pass_over_what_is_taken() {
        let (_folder, store) = store();
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let range = chosen(&format!("{port}-{}:80", port.saturating_add(20)), &Taken::default()).unwrap();
        assert!(range.publications[0].host_port > port);
        let error = chosen(&format!("{port}:80"), &Taken::default()).unwrap_err().to_string();
        assert!(error.contains("is in use by"), "{error}");
        let host_port = range.publications[0].host_port;
        store.write(|tx| note(tx, "a", &range.publications)).unwrap();
        drop(range);
        let taken = store.read(Taken::read).unwrap();
        let within = |last: u16| format!("127.0.0.1:{host_port}-{last}:80");
        let error = chosen(&format!("{host_port}-{host_port}:80-80"), &taken).map(drop);
        error.expect("a range of one is that port, and whose it is is known later");
        let next = chosen(&within(host_port.saturating_add(20)), &taken).unwrap();
        assert_ne!(next.publications[0].host_port, host_port, "every address is this one too");
        assert!(chosen("80", &taken).unwrap().publications[0].host_port > 0);
    }

    #[test]
    fn both_families_get_one_port() {
        let both = Inside { ipv6: Some("fd00::2".parse().unwrap()), ..inside() };
        let chosen = Chosen::choose(&ports::publish("80").unwrap(), both, &Taken::default()).unwrap();
        let [four, six] = &chosen.publications[..] else { panic!("{chosen:?}") };
        assert_eq!(four.host_port, six.host_port);
        assert_eq!((written(four).to_string(), written(six).to_string()), ("0.0.0.0".into(), "::".into()));
    }
}
