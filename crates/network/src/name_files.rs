//! Texts of /etc/hosts, /etc/hostname and /etc/resolv.conf (hosts(5), hostname(5), resolv.conf(5)).
//!
//! They are written for every container, also one without a network: programs look up `localhost` and their own
//! name and expect an answer. A container that shares the host's network gets the host's hosts file, as docker
//! does it, since the host's names are then its own.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest host file that is copied, in bytes; a larger one is cut at the last whole line.
pub const COPY_LIMIT_BYTES: usize = 64 * 1024;

const LOCAL_LINES: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// The names by which a container knows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnName<'a> {
    /// Host name, possibly with a domain (`web` or `web.example.org`).
    pub hostname: &'a str,
    /// NIS domain name, appended to a host name without a dot.
    pub domainname: Option<&'a str>,
    /// Addresses of the container; without one its own name leads to its loopback. None where they are not known yet.
    pub addresses: Option<&'a [IpAddr]>,
}

/// A name that a container is told besides (`--add-host`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// What it leads to.
    pub address: ExtraAddress,
}

/// Where a name leads that a container is told besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExtraAddress {
    /// This address.
    Address(IpAddr),
    /// The host, as the container reaches it (`host-gateway`).
    HostGateway,
}

impl fmt::Display for ExtraHost {
    /// As docker shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            ExtraAddress::Address(address) => write!(f, "{}:{address}", self.name),
            ExtraAddress::HostGateway => write!(f, "{}:host-gateway", self.name),
        }
    }
}

/// Text that is no extra host; the words are docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtraHostError {
    /// No name, or no address.
    #[error("bad format for add-host: {0:?}")]
    Form(String),
    /// Not an address.
    #[error("invalid IP address in add-host: {0:?}")]
    Address(String),
}

impl FromStr for ExtraHost {
    type Err = ExtraHostError;

    /// `NAME:ADDRESS`, `NAME=ADDRESS`; an IPv6 address may be in brackets; `host-gateway` for the host.
    fn from_str(text: &str) -> Result<ExtraHost, ExtraHostError> {
        let form = || ExtraHostError::Form(text.to_owned());
        let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(form)?;
        // A line of the file is words, so that a blank in a name would be two names, and a line break two lines.
        if name.is_empty()
            || name.contains(':')
            || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
        {
            return Err(form());
        }
        let name = name.to_owned();
        if address == "host-gateway" {
            return Ok(ExtraHost { name, address: ExtraAddress::HostGateway });
        }
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address = bare.parse().map_err(|_| ExtraHostError::Address(bare.to_owned()))?;
        Ok(ExtraHost { name, address: ExtraAddress::Address(address) })
    }
}

/// A name for which there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to derive the IP value for host-gateway: the container has no network that leads to the host")]
pub struct NoGateway;

/// Lines of /etc/hosts for further names, with what leads to the host.
///
/// # Errors
/// [`NoGateway`] when one of them is to lead to the host and nothing does.
pub fn extra_lines(extra: &[ExtraHost], gateways: &[IpAddr]) -> Result<String, NoGateway> {
    let mut text = String::new();
    for ExtraHost { name, address } in extra {
        let addresses = match address {
            ExtraAddress::Address(address) => std::slice::from_ref(address),
            ExtraAddress::HostGateway if gateways.is_empty() => return Err(NoGateway),
            ExtraAddress::HostGateway => gateways,
        };
        for address in addresses {
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    Ok(text)
}

/// `/etc/hosts`: localhost, further lines, and the container's own name.
pub fn hosts(own: &OwnName<'_>, further: &str) -> String {
    let mut text = LOCAL_LINES.to_owned();
    text.push_str(further);
    let names = own_names(own);
    let addresses = match own.addresses {
        Some([]) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        addresses => addresses.unwrap_or_default(),
    };
    for address in addresses {
        let _ = writeln!(text, "{address}\t{names}");
    }
    text
}

/// The fully qualified name first, then the short one, as hosts(5) wants it.
pub fn own_names(own: &OwnName<'_>) -> String {
    let full = match own.domainname {
        Some(domain) if !domain.is_empty() && !own.hostname.contains('.') => format!("{}.{domain}", own.hostname),
        _ => own.hostname.to_owned(),
    };
    match full.split_once('.') {
        Some((short, _)) if !short.is_empty() => format!("{full} {short}"),
        _ => full,
    }
}

/// `/etc/hosts` of a container on the host's network: the host's own file, bounded, and further lines.
pub fn hosts_of_host(host_file: &[u8], further: &str) -> Vec<u8> {
    let mut text = if host_file.is_empty() { LOCAL_LINES.as_bytes().to_vec() } else { bounded(host_file) };
    if !further.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(further.as_bytes());
    text
}

/// `/etc/hostname`: the name and a newline.
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}

/// `/etc/resolv.conf`: the host's own file, bounded. An empty one is a resolver without servers.
pub fn resolv_conf(host_file: &[u8]) -> Vec<u8> {
    bounded(host_file)
}

fn bounded(text: &[u8]) -> Vec<u8> {
    if text.len() <= COPY_LIMIT_BYTES {
        return text.to_vec();
    }
    let cut = &text[..COPY_LIMIT_BYTES];
    let end = cut.iter().rposition(|b| *b == b'\n').map_or(COPY_LIMIT_BYTES, |at| at + 1);
    cut[..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_line(own: &OwnName<'_>) -> String {
        hosts(own, "").lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn own_name_leads_to_loopback_without_an_address() {
        let own = OwnName { hostname: "web", domainname: None, addresses: None };
        assert_eq!(last_line(&own), LOCAL_LINES.lines().last().unwrap());
        let own = OwnName { addresses: Some(&[]), ..own };
        assert_eq!(last_line(&own), "127.0.0.1\tweb");
        assert!(hosts(&own, "").starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost"));
        assert!(hosts(&own, "192.0.2.1\tdb\n").ends_with("\n192.0.2.1\tdb\n127.0.0.1\tweb\n"));
    }

    #[test]
    fn domain_gives_both_names() {
        let address = ["10.0.0.2".parse().unwrap()];
        let own = OwnName { hostname: "web", domainname: Some("example.org"), addresses: Some(&address) };
        assert_eq!(last_line(&own), "10.0.0.2\tweb.example.org web");
        let own = OwnName { hostname: "a.b.c", domainname: Some("ignored"), addresses: Some(&address) };
        assert_eq!(last_line(&own), "10.0.0.2\ta.b.c a");
    }

    #[test]
    fn further_names_in_every_form() {
        let read = |text: &str| text.parse::<ExtraHost>().map(|host| host.to_string());
        for (text, shown) in [
            ("db:10.0.0.1", "db:10.0.0.1"),
            ("db=10.0.0.1", "db:10.0.0.1"),
            ("db:2001:DB8::1", "db:2001:db8::1"),
            ("db=[2001:db8::1]", "db:2001:db8::1"),
            ("host.docker.internal:host-gateway", "host.docker.internal:host-gateway"),
        ] {
            assert_eq!(read(text), Ok(shown.to_owned()), "{text}");
        }
        for text in ["", "db", ":10.0.0.1", "a:b=10.0.0.1", "a b:10.0.0.1", "a\nb=10.0.0.1", "a#=10.0.0.1"] {
            assert_eq!(read(text), Err(ExtraHostError::Form(text.to_owned())), "{text:?}");
        }
        assert_eq!(read("db:10.0.0").unwrap_err().to_string(), "invalid IP address in add-host: \"10.0.0\"");
        assert!(read("db:").is_err());
    }

    #[test]
    fn the_gateway_is_an_address_of_each_family_or_an_error() {
        let extra = ["a:192.0.2.1", "host=host-gateway"].map(|text| text.parse().unwrap());
        let gateways = ["172.17.0.1", "fd00::1"].map(|text| text.parse().unwrap());
        assert_eq!(extra_lines(&extra, &gateways).unwrap(), "192.0.2.1\ta\n172.17.0.1\thost\nfd00::1\thost\n");
        assert_eq!(extra_lines(&extra, &[]), Err(NoGateway));
        assert_eq!(extra_lines(&extra[..1], &[]).unwrap(), "192.0.2.1\ta\n");
    }

    #[test]
    fn copies_are_bounded_at_a_line() {
        let long = b"nameserver 192.0.2.1\n".repeat(COPY_LIMIT_BYTES);
        let copy = resolv_conf(&long);
        assert!(copy.len() <= COPY_LIMIT_BYTES && copy.ends_with(b"\n"));
        assert_eq!(resolv_conf(b"nameserver 192.0.2.1\n"), b"nameserver 192.0.2.1\n");
        assert_eq!(hosts_of_host(b"", ""), LOCAL_LINES.as_bytes());
        assert_eq!(hosts_of_host(b"192.0.2.1 a", "192.0.2.2\tb\n"), b"192.0.2.1 a\n192.0.2.2\tb\n");
    }
}
