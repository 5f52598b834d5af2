//! resolv.conf(5): the host's, read, and a container's, written.
//!
//! The words and rules are those of glibc as docker applies them: the last `search` (or `domain`) counts, options add up,
//! unknown lines are kept. What is asked for with `--dns`, `--dns-search` and `--dns-option` takes the place of the host's
//! directive of the same kind. Which form a container gets depends on where it is asked from ([`Form`]):
//!
//! ```text
//! host or none     the host's own
//! bridge           the host's servers that are reached from another network namespace
//! user networks    Hull's resolver (dns), which asks the host's servers itself
//! ```
//! A server with a zone (`fe80::1%eth0`) is one of the host's links and is passed over.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// Where a container's own resolver listens, in its network namespace; docker's address.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// What is asked for instead of the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// Servers (`--dns`).
    pub servers: Vec<IpAddr>,
    /// Domains that are tried behind a short name (`--dns-search`); `.` alone for none.
    pub search: Vec<String>,
    /// Options (`--dns-option`).
    pub options: Vec<String>,
}

impl Wanted {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        *self == Wanted::default()
    }
}

/// How a container reaches its name servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As the host does, or not at all.
    Host,
    /// By itself, through its network.
    Network {
        /// Whether it has IPv6 there.
        ipv6: bool,
    },
    /// Through Hull's resolver.
    Resolver,
}

/// The content of a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Addresses of servers.
    pub servers: Vec<IpAddr>,
    /// Domains that are tried behind a short name.
    pub search: Vec<String>,
    /// Options such as `ndots:2`.
    pub options: Vec<String>,
    /// Other lines.
    pub other: Vec<String>,
}

impl ResolvConf {
    /// Reads one. Lines that say nothing are passed over.
    pub fn parse(text: &[u8]) -> ResolvConf {
        let mut conf = ResolvConf::default();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split_whitespace();
            let Some(directive) = words.next().filter(|word| !word.starts_with(['#', ';'])) else { continue };
            let words: Vec<String> = words.map(str::to_owned).collect();
            match directive {
                "nameserver" => conf.servers.extend(words.first().and_then(|word| word.parse::<IpAddr>().ok())),
                "search" | "domain" if !words.is_empty() => conf.search = words,
                "options" => conf.options.extend(words),
                "search" | "domain" => {}
                _ => conf.other.push(line.to_owned()),
            }
        }
        conf
    }

    /// The value of an option, the last one's.
    pub fn option(&self, name: &str) -> Option<&str> {
        let parts = self.options.iter().rev().map(|option| option.split_once(':').unwrap_or((option, "")));
        parts.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The number of dots from which on a name is looked up as it is, if one that can be read is set.
    pub fn ndots(&self) -> Option<u32> {
        self.option("ndots").and_then(|value| value.parse().ok())
    }

    /// A container's.
    #[must_use]
    pub fn for_container(mut self, wanted: &Wanted, form: Form) -> ResolvConf {
        if !wanted.search.is_empty() {
            self.search = wanted.search.iter().filter(|domain| *domain != ".").cloned().collect();
        }
        if !wanted.options.is_empty() {
            self.options.clone_from(&wanted.options);
        }
        match form {
            Form::Resolver => {
                self.servers = vec![IpAddr::V4(RESOLVER)];
                // A container's name has no dot and yet is to be asked for as it is, before any domain is tried.
                if self.ndots().is_none() {
                    self.options.retain(|option| option.split(':').next() != Some("ndots"));
                    self.options.push("ndots:0".to_owned());
                }
            }
            _ if !wanted.servers.is_empty() => self.servers.clone_from(&wanted.servers),
            Form::Network { ipv6 } => self.servers.retain(|server| is_beyond(*server, ipv6)),
            Form::Host => {}
        }
        self
    }

    /// Whether there are servers, of which none can be asked from a network namespace other than the host's.
    pub fn is_of_host_alone(&self, ipv6: bool) -> bool {
        !self.servers.is_empty() && !self.servers.iter().any(|server| is_beyond(*server, ipv6))
    }

    /// The file's text, with a first line that says where it comes from.
    pub fn text(&self) -> String {
        let mut text = "# Written by Hull at the container's start.\n".to_owned();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        for (directive, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                let _ = writeln!(text, "{directive} {}", words.join(" "));
            }
        }
        for line in &self.other {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

fn is_beyond(server: IpAddr, ipv6: bool) -> bool {
    !server.is_loopback() && !server.is_unspecified() && (server.is_ipv4() || ipv6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# made by dhcp\n; another\nnameserver 127.0.0.53\nnameserver 192.0.2.1 \n\
        nameserver 2001:db8::1\nnameserver nonsense\nnameserver fe80::1%eth0\nnameserver\ndomain old.example\n\
        search a.example b.example\nsearch\noptions edns0 ndots:2\noptions trust-ad\nsortlist 192.0.2.0\n\n";

    fn host() -> ResolvConf {
        ResolvConf::parse(HOST.as_bytes())
    }

    fn lines(conf: &ResolvConf) -> Vec<String> {
        conf.text().lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_read_is_written_again() {
        let conf = host();
        assert_eq!((conf.option("ndots"), conf.option("edns0"), conf.option("debug")), (Some("2"), Some(""), None));
        assert_eq!(
            lines(&conf.clone().for_container(&Wanted::default(), Form::Host)),
            [
                "nameserver 127.0.0.53",
                "nameserver 192.0.2.1",
                "nameserver 2001:db8::1",
                "search a.example b.example",
                "options edns0 ndots:2 trust-ad",
                "sortlist 192.0.2.0"
            ]
        );
        assert_eq!(ResolvConf::parse(conf.text().as_bytes()), conf);
        assert_eq!(
            ResolvConf::parse(b"\xff\xfe\n\0"),
            ResolvConf::parse(ResolvConf::parse(b"\xff\xfe\n\0").text().as_bytes())
        );
    }

    #[test]
    fn only_servers_beyond_the_host_are_left() {
        let servers = |ipv6| host().for_container(&Wanted::default(), Form::Network { ipv6 }).servers;
        assert_eq!(servers(false), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(servers(true).len(), 2);
        let local = ResolvConf::parse(b"nameserver 127.0.0.53\nnameserver ::1\nnameserver 2001:db8::1");
        assert!(local.is_of_host_alone(false) && !local.is_of_host_alone(true));
        assert!(!ResolvConf::default().is_of_host_alone(false) && !host().is_of_host_alone(false));
    }

    #[test]
    fn what_is_wanted_takes_the_place_of_the_hosts() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let wanted = Wanted {
            servers: vec!["127.0.0.1".parse().unwrap(), "9.9.9.9".parse().unwrap()],
            search: words("c.example"),
            options: words("timeout:1"),
        };
        for form in [Form::Host, Form::Network { ipv6: false }] {
            let conf = host().for_container(&wanted, form);
            assert_eq!(
                lines(&conf)[..4],
                ["nameserver 127.0.0.1", "nameserver 9.9.9.9", "search c.example", "options timeout:1"]
            );
        }
        let none = Wanted { search: words("."), ..Wanted::default() };
        assert!(host().for_container(&none, Form::Host).search.is_empty());
    }

    #[test]
    fn the_resolver_alone_and_names_without_dots_as_they_are() {
        let resolver = |text: &str, wanted: &[&str]| {
            let wanted =
                Wanted { options: wanted.iter().map(|word| (*word).to_owned()).collect(), ..Wanted::default() };
            let conf = ResolvConf::parse(text.as_bytes()).for_container(&wanted, Form::Resolver);
            assert_eq!(conf.servers, [IpAddr::V4(RESOLVER)]);
            conf.options.join(" ")
        };
        assert_eq!(resolver("", &[]), "ndots:0");
        assert_eq!(resolver(HOST, &[]), "edns0 ndots:2 trust-ad");
        assert_eq!(resolver("options ndots:x edns0", &[]), "edns0 ndots:0");
        assert_eq!(resolver(HOST, &["ndots:5"]), "ndots:5");
        assert_eq!(resolver(HOST, &["rotate"]), "rotate ndots:0");
    }
}
