//! Flag values: sizes, numbers, truth values, ulimits, devices and the like, as docker reads them.
//!
//! Every function here is pure and gives its error as the words that follow `invalid argument "x" for "--flag"
//! flag:`, which are docker's where users know them. What needs the image, the kernel or the store (a user
//! name, a capability, a minimum size) is the engine's to judge.

use std::net::IpAddr;
use std::path::PathBuf;

use hull_network::name_files::{ExtraHost, ExtraHostError};
use hull_network::ports::{self, PortError, PortRequest};

use hull_engine::request::{DeviceRequest, NamespaceChoice, Ulimit};

/// Go's ParseBool.
pub fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A whole number, also a negative one.
pub fn integer(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number"))
}

/// A whole number from zero.
pub fn natural(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number from 0"))
}

/// A size with an optional unit: `64m`, `1.5g`, `512 KiB`, `1048576`; units are powers of 1024. In bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let split = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(invalid)?;
    let (number, suffix) = text.split_at(split + 1);
    let number: f64 = number.strip_suffix(' ').unwrap_or(number).parse().map_err(|_| invalid())?;
    if !number.is_finite() || number < 0.0 {
        return Err(invalid());
    }
    let bytes = number * unit(suffix).ok_or_else(|| format!("invalid suffix: '{suffix}'"))? as f64;
    if bytes >= i64::MAX as f64 {
        return Err(format!("invalid size: '{text}' is too large"));
    }
    Ok(bytes as u64)
}

fn unit(suffix: &str) -> Option<u64> {
    let lower = suffix.to_ascii_lowercase();
    let mut letters = lower.chars();
    let power = match letters.next() {
        None => return Some(1),
        Some('b') => return letters.next().is_none().then_some(1),
        Some(letter) => "kmgtp".find(letter)? as u32 + 1,
    };
    matches!(letters.as_str(), "" | "b" | "ib").then(|| 1 << (10 * power))
}

/// `--memory-swap`: a size, or -1 for no limit. In bytes.
pub fn swap_size(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    size(text).map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// `--cpus`: a decimal number of processors, in billionths of one.
pub fn nano_cpus(text: &str) -> Result<u64, String> {
    let unreadable = || format!("failed to parse {text} as a decimal number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return Err(unreadable());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| unreadable())? };
    let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| unreadable())?;
    whole.checked_mul(1_000_000_000).and_then(|whole| whole.checked_add(nanos)).ok_or_else(unreadable)
}

const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `--ulimit NAME=SOFT[:HARD]`.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let malformed = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(malformed)?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let limit = |value: &str| match value.parse::<i64>() {
        Ok(limit @ -1..) => Ok(limit),
        _ => Err(format!("{value:?} is not a limit: expected a whole number, or -1 for unlimited")),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (limit(soft)?, limit(hard)?),
        None => (limit(limits)?, limit(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// `--device HOST[:CONTAINER][:rwm]`.
pub fn device(text: &str) -> Result<DeviceRequest, String> {
    let is_access = |part: &str| {
        (1..=3).contains(&part.len()) && part.bytes().all(|b| b"rwm".contains(&b)) && no_letter_twice(part)
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, access) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, access] if is_access(access) => (*host, *host, *access),
        [host, container] => (*host, *container, "rwm"),
        [host, container, access] if is_access(access) => (*host, *container, *access),
        [_, _, access] => return Err(format!("bad mode specified: {access}")),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if !host.starts_with('/') && host.contains('=') {
        return Err(format!("CDI device {host} is not supported yet (CDI comes with a later release)"));
    }
    for path in [host, container] {
        if !path.starts_with('/') {
            return Err(format!("{path:?} is not an absolute path"));
        }
    }
    Ok(DeviceRequest {
        host_path: PathBuf::from(host),
        container_path: PathBuf::from(container),
        access: access.to_owned(),
    })
}

fn no_letter_twice(part: &str) -> bool {
    part.char_indices().all(|(index, letter)| !part[..index].contains(letter))
}

/// `NAME=value`, or a bare `NAME` when that is allowed. The name is checked, the text is kept as it is.
pub fn variable(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('=') {
        return Err(format!("invalid environment variable: {text}"));
    }
    Ok(text.to_owned())
}

/// A label: `NAME=value`, or a bare `NAME` whose value is empty.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.trim().is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    if name.contains(char::is_whitespace) {
        return Err(format!("invalid label '{text}': the name contains whitespace"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// `NAME=value`, both parts needed (`--annotation`).
pub fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("invalid annotation '{text}': expected NAME=VALUE")),
    }
}

/// `--sysctl NAME=value`. Which names are allowed is the engine's to say.
pub fn sysctl(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("sysctl '{text}' is not allowed: expected NAME=VALUE")),
    }
}

/// `--platform OS[/ARCH[/VARIANT]]`, kept as typed.
pub fn platform(text: &str) -> Result<String, String> {
    hull_oci::Platform::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// `--expose PORT[-PORT][/PROTOCOL]`, written out as `PORT/PROTOCOL` each.
pub fn exposed_ports(text: &str) -> Result<Vec<String>, String> {
    let ports = ports::expose(text).map_err(|error| match error {
        PortError::ContainerPort(_) => format!("invalid range format for --expose: {text}"),
        error => error.to_string(),
    })?;
    Ok(ports.iter().map(ToString::to_string).collect())
}

/// Reads a value of `-p`.
///
/// # Errors
/// With docker's words.
pub fn published_ports(text: &str) -> Result<Vec<PortRequest>, PortError> {
    ports::publish(text)
}

/// `--add-host NAME:ADDRESS`.
pub fn extra_host(text: &str) -> Result<ExtraHost, ExtraHostError> {
    text.parse()
}

/// `--dns ADDRESS`.
pub fn address(text: &str) -> Result<IpAddr, String> {
    text.trim().parse().map_err(|_| format!("IP address is not correctly formatted: {text}"))
}

/// `--dns-search DOMAIN`: letters, digits, `-` and `_` between dots, with at least one letter; or a single dot.
pub fn dns_search(text: &str) -> Result<String, String> {
    let domain = text.trim();
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let labels = domain.strip_suffix('.').unwrap_or(domain);
    let is_domain =
        labels.len() <= 253 && labels.split('.').all(is_label) && labels.contains(|c: char| c.is_ascii_alphabetic());
    if domain == "." || is_domain { Ok(domain.to_owned()) } else { Err(format!("{text} is not a valid domain")) }
}

/// `--dns-option OPTION`: one word of resolv.conf(5).
pub fn dns_option(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{text:?} is not an option of resolv.conf"));
    }
    Ok(text.to_owned())
}

/// The flags that choose a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceFlag {
    /// `--pid`.
    Pid,
    /// `--ipc`.
    Ipc,
    /// `--uts`.
    Uts,
    /// `--userns`.
    User,
    /// `--cgroupns`.
    Cgroup,
    /// `--network`.
    Network,
}

/// Reads the value of a flag that chooses a namespace.
///
/// # Errors
/// With docker's words for a mode that the flag does not have; a network that comes later is refused by name.
pub fn namespace(flag: NamespaceFlag, text: &str) -> Result<NamespaceChoice, String> {
    use NamespaceFlag::{Cgroup, Ipc, Network, Pid, User, Uts};
    if let Some(container) = text.strip_prefix("container:") {
        return match (flag, container) {
            (_, "") => Err(format!("invalid mode {text:?}: the container's name is missing")),
            (Cgroup, _) => Err("invalid CGROUP mode".to_owned()),
            _ => Ok(NamespaceChoice::Container(container.to_owned())),
        };
    }
    match (flag, text) {
        (_, "") | (Network, "default") => Ok(NamespaceChoice::Default),
        (_, "host") => Ok(NamespaceChoice::Host),
        (_, "private") | (Ipc, "shareable") => Ok(NamespaceChoice::Private),
        (Network | Ipc, "none") => Ok(NamespaceChoice::None),
        (Network, _) => Ok(NamespaceChoice::Network(text.to_owned())),
        (Pid, _) => Err("invalid PID mode".to_owned()),
        (Ipc, _) => Err("invalid IPC mode".to_owned()),
        (Uts, _) => Err("invalid UTS mode".to_owned()),
        (User, _) => Err("invalid USER mode".to_owned()),
        (Cgroup, _) => Err("invalid CGROUP mode".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32K", 32 << 10),
            ("32kb", 32 << 10),
            ("32Kib", 32 << 10),
            ("64m", 64 << 20),
            ("1g", 1 << 30),
            ("1.5g", 3 << 29),
            ("0.5k", 512),
            ("32 mb", 32 << 20),
            ("2T", 2 << 40),
            ("1p", 1 << 50),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "abc", "-1", "-2m", "1x", "1kk", "1kbb", "1 2k", "m", "1bb", "9999999p", "1.2.3m", "inf"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(size("abc").unwrap_err(), "invalid size: 'abc'");
        assert_eq!(size("3q").unwrap_err(), "invalid suffix: 'q'");
        assert_eq!(swap_size("-1"), Ok(-1));
        assert_eq!(swap_size("1k"), Ok(1024));
        assert!(swap_size("-2").is_err());
    }

    #[test]
    fn processors() {
        for (text, nanos) in
            [("1", 1_000_000_000), ("0.5", 500_000_000), (".25", 250_000_000), ("1.", 1_000_000_000), ("0", 0)]
        {
            assert_eq!(nano_cpus(text), Ok(nanos), "{text}");
        }
        assert_eq!(nano_cpus("0.000000001"), Ok(1));
        assert_eq!(nano_cpus("1.50000000000000"), Ok(1_500_000_000));
        assert_eq!(nano_cpus("0.0000000001").unwrap_err(), "value is too precise");
        for text in ["", ".", "abc", "-1", "1e3", "1,5", "99999999999999999999"] {
            assert!(nano_cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ulimits() {
        assert_eq!(ulimit("nofile=1024:2048"), Ok(Ulimit { name: "nofile".into(), soft: 1024, hard: 2048 }));
        assert_eq!(ulimit("core=0"), Ok(Ulimit { name: "core".into(), soft: 0, hard: 0 }));
        assert_eq!(ulimit("memlock=-1:-1"), Ok(Ulimit { name: "memlock".into(), soft: -1, hard: -1 }));
        assert_eq!(ulimit("foo").unwrap_err(), "invalid ulimit argument: foo");
        assert_eq!(ulimit("as=1").unwrap_err(), "invalid ulimit type: as");
        assert_eq!(
            ulimit("nofile=2:1").unwrap_err(),
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1"
        );
        assert!(ulimit("nofile=-1:5").is_err());
        assert!(ulimit("nofile=x").is_err());
        assert!(ulimit("nofile=1:2:3").is_err());
        assert!(ulimit("nofile=-2").is_err());
    }

    #[test]
    fn devices() {
        let parsed = |text: &str| {
            device(text).map(|d| (d.host_path.display().to_string(), d.container_path.display().to_string(), d.access))
        };
        let expect = |a: &str, b: &str, c: &str| Ok((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(parsed("/dev/fuse"), expect("/dev/fuse", "/dev/fuse", "rwm"));
        assert_eq!(parsed("/dev/fuse:r"), expect("/dev/fuse", "/dev/fuse", "r"));
        assert_eq!(parsed("/dev/fuse:/dev/x"), expect("/dev/fuse", "/dev/x", "rwm"));
        assert_eq!(parsed("/dev/fuse:/dev/x:rw"), expect("/dev/fuse", "/dev/x", "rw"));
        for text in ["/a:/b:q", "/a:/b:rr", "/a:/b:r:x", "dev/x", "/dev/a:b", "vendor.com/gpu=all", "/a:/b:"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_values() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a"), Ok(("a".into(), String::new())));
        assert_eq!(label("=a").unwrap_err(), "invalid label '=a': empty name");
        assert_eq!(variable("=x").unwrap_err(), "invalid environment variable: =x");
        assert_eq!(variable("A"), Ok("A".to_owned()));
        assert!(annotation("foo").is_err());
        assert!(sysctl("net.ipv4.ip_forward").is_err());
        assert!(truth("yes").is_err());
        assert_eq!(truth("False"), Ok(false));
        assert_eq!(exposed_ports("80"), Ok(vec!["80/tcp".to_owned()]));
        assert_eq!(exposed_ports("5-6/UDP"), Ok(vec!["5/udp".to_owned(), "6/udp".to_owned()]));
        for text in ["", "0", "6-5", "80/foo", "x", "70000"] {
            assert!(exposed_ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn name_servers_and_domains() {
        assert_eq!(address(" 2001:db8::1"), Ok("2001:db8::1".parse().unwrap()));
        assert_eq!(address("1.2.3").unwrap_err(), "IP address is not correctly formatted: 1.2.3");
        for domain in [".", "example.org", "a", "x.y.", "_tcp.example", "1a.2"] {
            assert_eq!(dns_search(domain), Ok(domain.to_owned()));
        }
        for domain in ["", "..", "a..b", "-a.b", "a b", "1.2.3.4", "a/b", "a\nnameserver 1"] {
            assert_eq!(dns_search(domain).unwrap_err(), format!("{domain} is not a valid domain"));
        }
        assert_eq!(dns_option("ndots:1"), Ok("ndots:1".to_owned()));
        assert!(dns_option("a b").is_err() && dns_option("").is_err() && dns_option("a\nb").is_err());
    }

    #[test]
    fn namespaces() {
        use NamespaceFlag::*;
        assert_eq!(namespace(Pid, "host"), Ok(NamespaceChoice::Host));
        assert_eq!(namespace(Pid, ""), Ok(NamespaceChoice::Default));
        assert_eq!(namespace(Pid, "container:web"), Ok(NamespaceChoice::Container("web".into())));
        assert_eq!(namespace(Ipc, "shareable"), Ok(NamespaceChoice::Private));
        assert_eq!(namespace(Network, "none"), Ok(NamespaceChoice::None));
        assert_eq!(namespace(Pid, "foo").unwrap_err(), "invalid PID mode");
        assert_eq!(namespace(Uts, "none").unwrap_err(), "invalid UTS mode");
        assert_eq!(namespace(Network, "bridge"), Ok(NamespaceChoice::Network("bridge".into())));
        assert!(namespace(Network, "container:").is_err());
        assert!(namespace(Cgroup, "container:x").is_err());
    }
}
