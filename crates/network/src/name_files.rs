//! Texts of /etc/hosts, /etc/hostname and /etc/resolv.conf (hosts(5), hostname(5), resolv.conf(5)).
//!
//! They are written for every container, also one without a network: programs look up `localhost` and their own
//! name and expect an answer. A container that shares the host's network gets the host's hosts file, as docker
//! does it, since the host's names are then its own.

use std::fmt::Write;
use std::net::IpAddr;

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
    /// Addresses of the container; without one its own name leads to its loopback.
    pub addresses: &'a [IpAddr],
}

/// `/etc/hosts`: localhost and the container's own name.
pub fn hosts(own: &OwnName<'_>) -> String {
    let mut text = LOCAL_LINES.to_owned();
    let names = own_names(own);
    if own.addresses.is_empty() {
        let _ = writeln!(text, "127.0.0.1\t{names}");
    }
    for address in own.addresses {
        let _ = writeln!(text, "{address}\t{names}");
    }
    text
}

/// The fully qualified name first, then the short one, as hosts(5) wants it.
fn own_names(own: &OwnName<'_>) -> String {
    let full = match own.domainname {
        Some(domain) if !domain.is_empty() && !own.hostname.contains('.') => format!("{}.{domain}", own.hostname),
        _ => own.hostname.to_owned(),
    };
    match full.split_once('.') {
        Some((short, _)) if !short.is_empty() => format!("{full} {short}"),
        _ => full,
    }
}

/// `/etc/hosts` of a container on the host's network: the host's own file, bounded.
pub fn hosts_of_host(host_file: &[u8]) -> Vec<u8> {
    if host_file.is_empty() { LOCAL_LINES.as_bytes().to_vec() } else { bounded(host_file) }
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
        hosts(own).lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn own_name_leads_to_loopback_without_an_address() {
        let own = OwnName { hostname: "web", domainname: None, addresses: &[] };
        assert_eq!(last_line(&own), "127.0.0.1\tweb");
        assert!(hosts(&own).starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost"));
    }

    #[test]
    fn domain_gives_both_names() {
        let address = ["10.0.0.2".parse().unwrap()];
        let own = OwnName { hostname: "web", domainname: Some("example.org"), addresses: &address };
        assert_eq!(last_line(&own), "10.0.0.2\tweb.example.org web");
        let own = OwnName { hostname: "a.b.c", domainname: Some("ignored"), addresses: &address };
        assert_eq!(last_line(&own), "10.0.0.2\ta.b.c a");
    }

    #[test]
    fn copies_are_bounded_at_a_line() {
        let long = b"nameserver 192.0.2.1\n".repeat(COPY_LIMIT_BYTES);
        let copy = resolv_conf(&long);
        assert!(copy.len() <= COPY_LIMIT_BYTES && copy.ends_with(b"\n"));
        assert_eq!(resolv_conf(b"nameserver 192.0.2.1\n"), b"nameserver 192.0.2.1\n");
        assert_eq!(hosts_of_host(b""), LOCAL_LINES.as_bytes());
    }
}
