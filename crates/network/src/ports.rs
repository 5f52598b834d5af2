//! Which ports of a container are published where, as `-p` and `--expose` say it.
//!
//! ```text
//! [[ADDRESS:][HOST_PORT[-LAST]]:]PORT[-LAST][/PROTOCOL]     docker's short form; an IPv6 address stands in brackets
//! target=PORT,published=HOST_PORT,protocol=PROTOCOL         and its long one
//! ```
//! As many host ports as container ports are paired in order; several for one container port are the choice to take a
//! free one from. No host port, or 0, is any free one. Source: docker's `run` reference, "Published ports".

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Protocol, PortError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(PortError::Protocol(text.to_owned())),
        }
    }
}

/// Text that names no ports; docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a protocol.
    #[error("invalid proto: {0}")]
    Protocol(String),
    /// Not an address.
    #[error("invalid IP address: {0}")]
    Address(String),
    /// Nothing where the container's port belongs.
    #[error("no port specified: {0}<empty>")]
    Empty(String),
    /// Not a port or range of the container.
    #[error("invalid containerPort: {0}")]
    ContainerPort(String),
    /// Not a port or range of the host.
    #[error("invalid hostPort: {0}")]
    HostPort(String),
    /// Ranges of different lengths.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's.
        container: String,
        /// The host's.
        host: String,
    },
    /// Not NAME=VALUE, or a name that there is not.
    #[error("invalid publish opts format (should be name=value but got '{0}')")]
    Option(String),
}

/// A port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerPort {
    /// The port, not 0.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// `80/tcp`.
impl fmt::Display for ContainerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl FromStr for ContainerPort {
    type Err = PortError;

    fn from_str(text: &str) -> Result<ContainerPort, PortError> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = protocol.parse()?;
        let port = one_port(port).filter(|port| *port > 0);
        Ok(ContainerPort { port: port.ok_or_else(|| PortError::ContainerPort(text.to_owned()))?, protocol })
    }
}

/// Which port of the host is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostPort {
    /// Any free one.
    Free,
    /// This one.
    Port(u16),
    /// A free one from the first to the last.
    Within(u16, u16),
}

/// Docker's text in `HostPort`: empty for any free one.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPort::Free => Ok(()),
            HostPort::Port(port) => write!(f, "{port}"),
            HostPort::Within(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// One container port that is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// At which address of the host; `None` for all.
    pub host_address: Option<IpAddr>,
    /// At which port of the host.
    pub host_port: HostPort,
    /// The container's port.
    pub port: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

impl PortRequest {
    /// The container's end.
    pub fn inside(&self) -> ContainerPort {
        ContainerPort { port: self.port, protocol: self.protocol }
    }
}

/// Reads a value of `-p`.
///
/// # Errors
/// [`PortError`].
pub fn publish(text: &str) -> Result<Vec<PortRequest>, PortError> {
    if text.contains('=') {
        return publish(&short_form(text)?);
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.parse()?;
    let (before, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (address, host) = before.rsplit_once(':').unwrap_or(("", before));
    if container.is_empty() {
        return Err(PortError::Empty(text.to_owned()));
    }
    let containers = range(container).filter(|(first, _)| *first > 0);
    let (first, last) = containers.ok_or_else(|| PortError::ContainerPort(container.to_owned()))?;
    let host_address = address_of(address, ports)?;
    let request = |host_port, port| PortRequest { host_address, host_port, port, protocol };
    let hosts = if host.is_empty() { Some((0, 0)) } else { range(host) };
    let (host_first, host_last) = hosts.ok_or_else(|| PortError::HostPort(host.to_owned()))?;
    if host_last == 0 {
        return Ok((first..=last).map(|port| request(HostPort::Free, port)).collect());
    }
    if host_first == 0 {
        return Err(PortError::HostPort(host.to_owned()));
    }
    if last - first == host_last - host_first {
        let paired = (first..=last).zip(host_first..=host_last);
        return Ok(paired.map(|(port, host_port)| request(HostPort::Port(host_port), port)).collect());
    }
    if first == last {
        return Ok(vec![request(HostPort::Within(host_first, host_last), first)]);
    }
    Err(PortError::Ranges { container: container.to_owned(), host: host.to_owned() })
}

/// Reads a value of `--expose`: a port or a range, and a protocol.
///
/// # Errors
/// [`PortError`].
pub fn expose(text: &str) -> Result<Vec<ContainerPort>, PortError> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.parse()?;
    let (first, last) =
        range(ports).filter(|(first, _)| *first > 0).ok_or_else(|| PortError::ContainerPort(ports.to_owned()))?;
    Ok((first..=last).map(|port| ContainerPort { port, protocol }).collect())
}

/// The long form in the words of the short one.
fn short_form(text: &str) -> Result<String, PortError> {
    let (mut target, mut published, mut protocol) = ("", "", "tcp");
    for option in text.split(',') {
        match option.split_once('=') {
            Some(("target", value)) => target = value,
            Some(("published", value)) => published = value,
            Some(("protocol", value)) => protocol = value,
            _ => return Err(PortError::Option(option.to_owned())),
        }
    }
    if [target, published, protocol].iter().any(|value| value.contains(['=', '/', ':'])) {
        return Err(PortError::Option(text.to_owned()));
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

fn address_of(text: &str, ports: &str) -> Result<Option<IpAddr>, PortError> {
    if text.is_empty() {
        // A colon with nothing before it is docker's way to give no address; more of them are none.
        return if ports.starts_with("::") { Err(PortError::Address(ports.to_owned())) } else { Ok(None) };
    }
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    inner.unwrap_or(text).parse().map(Some).map_err(|_| PortError::Address(text.to_owned()))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (one_port(first)?, one_port(last)?);
    (first <= last).then_some((first, last))
}

/// Digits alone: no sign, no spaces.
fn one_port(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match publish(text) {
            Ok(requests) => {
                let one = |request: &PortRequest| {
                    let address = request.host_address.map(|address| format!("{address} ")).unwrap_or_default();
                    format!("{address}{}->{}/{}", request.host_port, request.port, request.protocol)
                };
                requests.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_form_of_publishing() {
        for (text, meaning) in [
            ("80", "->80/tcp"),
            ("8080:80", "8080->80/tcp"),
            ("8080:80/UDP", "8080->80/udp"),
            ("7000:9/sctp", "7000->9/sctp"),
            (":80", "->80/tcp"),
            ("0:80", "->80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080->80/tcp"),
            ("127.0.0.1::80", "127.0.0.1 ->80/tcp"),
            ("0.0.0.0:8080:80", "0.0.0.0 8080->80/tcp"),
            ("[::1]:8080:80", "::1 8080->80/tcp"),
            ("[fd00::2]::80/udp", "fd00::2 ->80/udp"),
            ("::1:8080:80", "::1 8080->80/tcp"),
            ("80-82", "->80/tcp, ->81/tcp, ->82/tcp"),
            ("90-91:80-81", "90->80/tcp, 91->81/tcp"),
            ("9000-9010:80", "9000-9010->80/tcp"),
            ("10.0.0.1:9000-9001:80-81/udp", "10.0.0.1 9000->80/udp, 10.0.0.1 9001->81/udp"),
            ("published=8080,target=80", "8080->80/tcp"),
            ("target=53,protocol=udp", "->53/udp"),
        ] {
            assert_eq!(read(text), meaning, "{text}");
        }
    }

    #[test]
    fn what_names_no_ports_is_refused_in_words() {
        for (text, problem) in [
            ("", "no port specified: <empty>"),
            ("8080:", "no port specified: 8080:<empty>"),
            ("80/icmp", "invalid proto: icmp"),
            ("80/", "invalid proto: "),
            ("x", "invalid containerPort: x"),
            ("0", "invalid containerPort: 0"),
            ("70000", "invalid containerPort: 70000"),
            ("+80", "invalid containerPort: +80"),
            ("81-80", "invalid containerPort: 81-80"),
            ("y:80", "invalid hostPort: y"),
            ("0-5:80", "invalid hostPort: 0-5"),
            ("host:8080:80", "invalid IP address: host"),
            ("1.2.3:8080:80", "invalid IP address: 1.2.3"),
            ("90-99:80-81", "invalid ranges specified for container and host Ports: 80-81 and 90-99"),
            ("mode=host,target=80", "invalid publish opts format (should be name=value but got 'mode=host')"),
            ("target=80,x", "invalid publish opts format (should be name=value but got 'x')"),
            ("published=1", "no port specified: 1:/tcp<empty>"),
        ] {
            assert_eq!(read(text), problem, "{text}");
        }
    }

    #[test]
    fn exposed_ports_are_ports_or_ranges() {
        let ports =
            |text| expose(text).map(|ports| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        assert_eq!(ports("80").unwrap(), "80/tcp");
        assert_eq!(ports("5-7/udp").unwrap(), "5/udp 6/udp 7/udp");
        for text in ["", "0", "7-5", "80/x", "1:2"] {
            assert!(expose(text).is_err(), "{text}");
        }
        assert_eq!("53/udp".parse::<ContainerPort>().unwrap().to_string(), "53/udp");
        assert!("0/udp".parse::<ContainerPort>().is_err() && "5-6".parse::<ContainerPort>().is_err());
    }
}
