//! Ports of the host, held by sockets for the moment between choosing them and noting that they are published.
//!
//! A program that listens on a port of the host does not notice a translation that takes its packets away, so a port is
//! bound before it is published: what is taken is refused, and who has it is said (/proc/net, /proc/PID/fd). No socket
//! listens, and none stays: from then on the note in the database is what keeps the port.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, ipproto, socket, sockopt};

use crate::ports::Protocol;

/// A port that could not be held.
#[derive(Debug, thiserror::Error)]
pub enum ReservationError {
    /// Some program of the host has it.
    #[error("port {port}/{protocol} on {address} is in use{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    Taken {
        /// Where.
        address: IpAddr,
        /// Which.
        port: u16,
        /// Of which protocol.
        protocol: Protocol,
        /// Name and number of the process, as far as it can be seen.
        holder: Option<String>,
    },
    /// The host does not have the address.
    #[error("the host has no address {0}")]
    NoSuchAddress(IpAddr),
    /// The kernel refused otherwise.
    #[error("holding port {port}/{protocol} on {address}")]
    Refused {
        /// Where.
        address: IpAddr,
        /// Which.
        port: u16,
        /// Of which protocol.
        protocol: Protocol,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A held port.
#[derive(Debug)]
pub struct Reservation {
    /// Which.
    pub port: u16,
    _socket: Option<OwnedFd>,
}

impl Reservation {
    /// Holds a port, with 0 any free one; `None` as address is every one of the family.
    ///
    /// # Errors
    /// [`ReservationError`].
    pub fn hold(
        host_address: Option<IpAddr>,
        is_ipv4: bool,
        port: u16,
        protocol: Protocol,
    ) -> Result<Reservation, ReservationError> {
        let any = if is_ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let address = host_address.unwrap_or(any);
        match bound(address, port, protocol) {
            Ok((port, socket)) => Ok(Reservation { port, _socket: Some(socket) }),
            // A kernel without SCTP has nobody who could have a port of it; a free one is taken where TCP has one.
            Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) if protocol == Protocol::Sctp => match port {
                0 => Reservation::hold(host_address, is_ipv4, 0, Protocol::Tcp),
                port => Ok(Reservation { port, _socket: None }),
            },
            Err(Errno::ADDRINUSE) => {
                Err(ReservationError::Taken { address, port, protocol, holder: holder(port, protocol) })
            }
            Err(Errno::ADDRNOTAVAIL) => Err(ReservationError::NoSuchAddress(address)),
            Err(errno) => Err(ReservationError::Refused { address, port, protocol, source: errno.into() }),
        }
    }
}

fn bound(address: IpAddr, port: u16, protocol: Protocol) -> Result<(u16, OwnedFd), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = socket(family, kind, Some(number))?;
    if protocol == Protocol::Tcp {
        // What has ended and only waits for stray packets does not have the port; what listens does.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if !address.is_ipv4() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(address, port))?;
    let own = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((own.port(), socket))
}

/// Name and number of a process that has a port.
fn holder(port: u16, protocol: Protocol) -> Option<String> {
    let files = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Sctp => return None,
    };
    let texts = files.iter().filter_map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok());
    let inodes: Vec<_> = texts.flat_map(|text| inodes_of(&text, port)).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    for process in processes.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())) {
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let mut targets = descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        if targets.any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {})", name.trim(), process.file_name().to_string_lossy()));
        }
    }
    None
}

/// Links of the sockets in /proc/net/{tcp,udp} that listen on a port, or are unconnected: `socket:[1234]`.
fn inodes_of(text: &str, port: u16) -> Vec<String> {
    let local = format!(":{port:04X}");
    let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let open = lines.filter(|fields| {
        let at = |index: usize| fields.get(index).copied().unwrap_or_default();
        // 0A listens (TCP), 07 is unconnected (UDP).
        at(1).ends_with(&local) && matches!(at(3), "0A" | "07")
    });
    open.filter_map(|fields| fields.get(9).map(|inode| format!("socket:[{inode}]"))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn loopback() -> Option<IpAddr> {
        Some(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    #[test]
    fn what_is_taken_is_refused_with_the_name_of_who_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = format!("(process {})", std::process::id());
        for host_address in [loopback(), None] {
            let error = Reservation::hold(host_address, true, port, Protocol::Tcp).unwrap_err().to_string();
            assert!(error.contains(&format!("port {port}/tcp on ")) && error.ends_with(&own), "{error}");
        }
        Reservation::hold(loopback(), true, port, Protocol::Udp).unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = receiver.local_addr().unwrap().port();
        let error = Reservation::hold(loopback(), true, port, Protocol::Udp).unwrap_err().to_string();
        assert!(error.ends_with(&own), "{error}");
        drop(receiver);
        assert_eq!(Reservation::hold(loopback(), true, port, Protocol::Udp).unwrap().port, port);
    }

    #[test]
    fn free_ports_differ_and_an_address_has_to_be_the_hosts() {
        let one = Reservation::hold(None, true, 0, Protocol::Udp).unwrap();
        let two = Reservation::hold(None, true, 0, Protocol::Udp).unwrap();
        assert!(one.port != two.port && one.port > 0);
        assert!(Reservation::hold(None, true, 0, Protocol::Sctp).unwrap().port > 0);
        let elsewhere = "192.0.2.254".parse().unwrap();
        let error = Reservation::hold(Some(elsewhere), true, 80, Protocol::Tcp).unwrap_err();
        assert!(matches!(error, ReservationError::NoSuchAddress(address) if address == elsewhere), "{error}");
    }
}
