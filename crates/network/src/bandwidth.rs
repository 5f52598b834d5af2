//! How much a container may send and receive: rates and sizes as tc(8) writes them, and the shapers that keep them.
//!
//! ```text
//! into the container     the host's end of its pair of interfaces sends by a token bucket
//! out of the container   what arrives at that end goes through an ifb, which sends by one (netlink/qdisc.rs)
//! ```
//! Both are outside the container, which cannot remove them whatever it may do to its own interfaces. Each of a
//! container's interfaces has the whole rate. Packets wait up to a tenth of a second for it; what comes then is
//! dropped, which is what TCP goes by. A rate is one of IP packets, headers included, Ethernet's not.
//!
//! The ifb is named after the host's end (`hi...` for `hv...`) and is made after it, so one without the other is what
//! a killed command has left: [`sweep`] removes it, as [`release`] does at the end of a run.
//!
//! Sizes are tc's as well: `k`, `m` and `g` are powers of 1024 there, while a rate's are powers of 1000.

use std::fmt;
use std::io;
use std::str::FromStr;

pub use hull_kernel::netlink::qdisc::BucketState;
use hull_kernel::netlink::qdisc::{Bucket, ETHERNET_HEADER_BYTES};
use hull_kernel::netlink::route::Netlink;
use serde::{Deserialize, Serialize};

use crate::network::{Endpoint, Network};

/// What an interface has when its network does not say, bytes.
const DEFAULT_MTU_BYTES: u32 = 1500;

/// A rate is kept up although a busy kernel comes to send only this often.
const BURST_MS: u64 = 40;
/// How long packets wait.
const QUEUE_MS: u64 = 100;
/// What waits at the slowest of rates, bytes.
const MINIMUM_QUEUE_BYTES: u64 = 32 * 1024;

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate {
    bits_per_second: u64,
}

/// What a container may send and receive on each of its interfaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bandwidth {
    /// Into the container (`--net-rate-in`); unlimited when absent.
    pub incoming: Option<Rate>,
    /// Out of the container (`--net-rate-out`); unlimited when absent.
    pub outgoing: Option<Rate>,
    /// What goes at once after a pause (`--net-burst`); what is sent in 40 ms when absent.
    pub burst_bytes: Option<u32>,
}

/// What is to be different: nothing where it is absent, no limit where it says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BandwidthChange {
    /// Into the container.
    pub incoming: Option<Option<Rate>>,
    /// Out of the container.
    pub outgoing: Option<Option<Rate>>,
    /// What goes at once.
    pub burst_bytes: Option<Option<u32>>,
}

/// Text that is no rate or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BandwidthParseError {
    /// Not a rate.
    #[error(
        "{0:?} is no rate: write a number and bit, kbit, mbit, gbit or tbit, or bps, kbps, ... for bytes, as in 20mbit"
    )]
    Rate(String),
    /// Less than a byte in a second, or more than can be said.
    #[error("the rate {0} is out of range: 8bit to 1000tbit")]
    RateRange(String),
    /// Not a size.
    #[error("{0:?} is no size: write a number and b, k, m or g, or kbit, mbit, gbit, as in 64k")]
    Size(String),
    /// Not one that a bucket can have.
    #[error("the size {0} is out of range: 1 byte to 4 GB")]
    SizeRange(String),
}

/// Rates that cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum BandwidthError {
    /// A bucket without a hole.
    #[error("--net-burst needs a rate: --net-rate, --net-rate-in or --net-rate-out")]
    BurstWithoutRate,
    /// A packet would never leave.
    #[error("--net-burst {burst_bytes} is less than one packet of {packet_bytes} bytes")]
    BurstTooSmall {
        /// What was asked for.
        burst_bytes: u32,
        /// Longest packet of the network.
        packet_bytes: u32,
    },
    /// The interface is the container's alone.
    #[error(
        "--net-rate: network {network} has the driver {driver}, whose interfaces have no end outside the container"
    )]
    NoHostEnd {
        /// The network.
        network: String,
        /// Its driver.
        driver: &'static str,
    },
    /// The interface is its plugins' alone.
    #[error("--net-rate: network {network} is made by CNI plugins, which limit it themselves (plugin bandwidth)")]
    Plugins {
        /// The network.
        network: String,
    },
    /// The kernel lacks something.
    #[error("this kernel cannot limit what a container {direction} (modules {modules})")]
    Unsupported {
        /// `sends` or `receives`.
        direction: &'static str,
        /// What is needed for it.
        modules: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No conversation with the kernel.
    #[error("opening a netlink socket")]
    Socket(#[source] io::Error),
    /// The kernel refused a step.
    #[error("{action} interface {interface}")]
    Refused {
        /// What was being done.
        action: &'static str,
        /// To which interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host's end is not there.
    #[error("there is no interface {0} on this host")]
    Missing(String),
}

/// What the kernel does about a container's interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shapers {
    /// Into the container.
    pub incoming: Option<BucketState>,
    /// Out of the container.
    pub outgoing: Option<BucketState>,
}

impl Rate {
    const LEAST: u64 = 8;
    const MOST: u64 = 1_000_000_000_000_000;

    /// In bits per second.
    pub fn bits_per_second(self) -> u64 {
        self.bits_per_second
    }

    fn bytes_per_second(self) -> u64 {
        self.bits_per_second / 8
    }

    fn bytes_in(self, milliseconds: u64) -> u64 {
        self.bytes_per_second() * milliseconds / 1000
    }
}

/// A rate, or none for `0`.
///
/// # Errors
/// [`BandwidthParseError`], which shows the text.
pub fn rate(text: &str) -> Result<Option<Rate>, BandwidthParseError> {
    const KIBI: f64 = 1024.0;
    let wrong = || BandwidthParseError::Rate(text.to_owned());
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let unit = unit.to_ascii_lowercase();
    let (prefix, bits) = match (unit.strip_suffix("bps"), unit.strip_suffix("bit")) {
        (Some(prefix), _) => (prefix, 8.0),
        (_, Some(prefix)) => (prefix, 1.0),
        _ if unit.is_empty() => ("", 1.0),
        _ => return Err(wrong()),
    };
    let factor = match prefix {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "ki" => KIBI,
        "mi" => KIBI.powi(2),
        "gi" => KIBI.powi(3),
        "ti" => KIBI.powi(4),
        _ => return Err(wrong()),
    };
    let bits_per_second = (number * bits * factor).round();
    match bits_per_second {
        0.0 if number == 0.0 => Ok(None),
        _ if bits_per_second < Rate::LEAST as f64 || bits_per_second > Rate::MOST as f64 => {
            Err(BandwidthParseError::RateRange(text.to_owned()))
        }
        _ => Ok(Some(Rate { bits_per_second: bits_per_second as u64 })),
    }
}

/// A size in bytes, or none for `0`.
///
/// # Errors
/// [`BandwidthParseError`], which shows the text.
pub fn size(text: &str) -> Result<Option<u32>, BandwidthParseError> {
    const KIBI: f64 = 1024.0;
    let (number, unit) = split(text).ok_or_else(|| BandwidthParseError::Size(text.to_owned()))?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => KIBI,
        "m" | "mb" => KIBI.powi(2),
        "g" | "gb" => KIBI.powi(3),
        "kbit" => KIBI / 8.0,
        "mbit" => KIBI.powi(2) / 8.0,
        "gbit" => KIBI.powi(3) / 8.0,
        _ => return Err(BandwidthParseError::Size(text.to_owned())),
    };
    let bytes = (number * factor).round();
    match bytes {
        0.0 if number == 0.0 => Ok(None),
        _ if bytes < 1.0 || bytes > f64::from(u32::MAX) => Err(BandwidthParseError::SizeRange(text.to_owned())),
        _ => Ok(Some(bytes as u32)),
    }
}

/// A number and what stands behind it.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

impl FromStr for Rate {
    type Err = BandwidthParseError;

    fn from_str(text: &str) -> Result<Rate, BandwidthParseError> {
        rate(text)?.ok_or_else(|| BandwidthParseError::RateRange(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    /// In the largest unit in which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000_000, "tbit"), (1_000_000_000, "gbit"), (1_000_000, "mbit"), (1000, "kbit")];
        let unit = units.into_iter().find(|(size, _)| self.bits_per_second.is_multiple_of(*size));
        let (size, name) = unit.unwrap_or((1, "bit"));
        write!(f, "{}{name}", self.bits_per_second / size)
    }
}

impl BandwidthChange {
    /// Whether nothing is to be different.
    pub fn is_empty(&self) -> bool {
        *self == BandwidthChange::default()
    }

    /// What there was, with the change.
    pub fn apply(&self, before: &Bandwidth) -> Bandwidth {
        Bandwidth {
            incoming: self.incoming.unwrap_or(before.incoming),
            outgoing: self.outgoing.unwrap_or(before.outgoing),
            burst_bytes: self.burst_bytes.unwrap_or(before.burst_bytes),
        }
    }
}

impl Bandwidth {
    /// Whether there is no limit.
    pub fn is_unlimited(&self) -> bool {
        self.incoming.is_none() && self.outgoing.is_none()
    }

    /// Whether nothing was asked.
    pub fn is_default(&self) -> bool {
        *self == Bandwidth::default()
    }

    /// Refuses what cannot be had in a network, or makes no sense there.
    ///
    /// # Errors
    /// [`BandwidthError::NoHostEnd`], [`BandwidthError::BurstWithoutRate`], [`BandwidthError::BurstTooSmall`].
    pub fn check(&self, network: &Network) -> Result<(), BandwidthError> {
        if !self.is_unlimited() && network.bridge().is_none() {
            return Err(BandwidthError::NoHostEnd { network: network.name.clone(), driver: network.driver() });
        }
        self.check_burst(network.mtu.unwrap_or(DEFAULT_MTU_BYTES))
    }

    fn check_burst(&self, mtu_bytes: u32) -> Result<(), BandwidthError> {
        let Some(burst_bytes) = self.burst_bytes else { return Ok(()) };
        let packet_bytes = mtu_bytes.saturating_add(ETHERNET_HEADER_BYTES);
        match () {
            () if self.is_unlimited() => Err(BandwidthError::BurstWithoutRate),
            () if burst_bytes < packet_bytes => Err(BandwidthError::BurstTooSmall { burst_bytes, packet_bytes }),
            () => Ok(()),
        }
    }

    fn bucket(&self, rate: Rate, mtu_bytes: u32) -> Bucket {
        let capped = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let packets = u64::from(mtu_bytes + ETHERNET_HEADER_BYTES) * 2;
        let burst_bytes = self.burst_bytes.unwrap_or_else(|| capped(rate.bytes_in(BURST_MS).max(packets)));
        let waiting = rate.bytes_in(QUEUE_MS).max(MINIMUM_QUEUE_BYTES).saturating_add(burst_bytes.into());
        Bucket { bytes_per_second: rate.bytes_per_second(), burst_bytes, queue_bytes: capped(waiting) }
    }
}

/// Has the kernel keep a container's rates in a network, or no rate any more. A rate that is changed loses no packet.
///
/// # Errors
/// [`BandwidthError`]; nothing is limited then that was not before.
pub fn limit(host: &Netlink, network: &Network, endpoint: &Endpoint, wanted: &Bandwidth) -> Result<(), BandwidthError> {
    wanted.check(network)?;
    let Some(interface) = &endpoint.host_interface else { return Ok(()) };
    limit_interface(host, interface, network.mtu.unwrap_or(DEFAULT_MTU_BYTES), wanted)
}

fn limit_interface(host: &Netlink, interface: &str, mtu_bytes: u32, wanted: &Bandwidth) -> Result<(), BandwidthError> {
    let index = host.index(interface).map_err(refused("looking for", interface))?;
    let index = index.ok_or_else(|| BandwidthError::Missing(interface.to_owned()))?;
    match wanted.incoming {
        Some(rate) => host.shape(index, &wanted.bucket(rate, mtu_bytes)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => {
                BandwidthError::Unsupported { direction: "receives", modules: "sch_tbf", source }
            }
            _ => refused("setting the rate of", interface)(source),
        }),
        None => host.unshape(index).map_err(refused("removing the rate of", interface)),
    }?;
    match wanted.outgoing {
        Some(rate) => limit_outgoing(host, interface, index, &wanted.bucket(rate, mtu_bytes)),
        None => {
            host.undivert(index).map_err(refused("removing the rate of what arrives at", interface))?;
            release(host, interface)
        }
    }
}

fn limit_outgoing(host: &Netlink, interface: &str, index: u32, bucket: &Bucket) -> Result<(), BandwidthError> {
    const MODULES: &str = "ifb, sch_tbf, sch_ingress, cls_u32 and act_mirred";
    let unsupported = |source| BandwidthError::Unsupported { direction: "sends", modules: MODULES, source };
    let shaper = shaper_name(interface);
    let known = host.index(&shaper).map_err(refused("looking for", &shaper))?;
    if let Some(known) = known {
        return host.shape(known, bucket).map_err(refused("setting the rate of", &shaper));
    }
    host.make_ifb(&shaper).map_err(|source| match source.kind() {
        io::ErrorKind::Unsupported => unsupported(source),
        _ => refused("making", &shaper)(source),
    })?;
    let made = host.index(&shaper).map_err(refused("looking for", &shaper))?;
    let made = made.ok_or_else(|| BandwidthError::Missing(shaper.clone()))?;
    let shaped = host.shape(made, bucket).and_then(|()| host.divert(index, made));
    shaped.map_err(|source| {
        // It is of no use, and the first failure is the one to tell.
        let _ = host.remove_link(made);
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::Unsupported => unsupported(source),
            _ => refused("setting the rate of what arrives at", interface)(source),
        }
    })
}

/// Removes what does not go with a container's interface by itself; nothing when it is not there.
///
/// # Errors
/// The kernel's.
pub fn release(host: &Netlink, interface: &str) -> Result<(), BandwidthError> {
    let shaper = shaper_name(interface);
    let Some(index) = host.index(&shaper).map_err(refused("looking for", &shaper))? else { return Ok(()) };
    remove(host, &shaper, index)
}

/// Removes the shapers of interfaces that are no more, whoever made them; returns how many.
///
/// # Errors
/// The kernel's.
pub fn sweep(host: &Netlink) -> Result<usize, BandwidthError> {
    let names = host.names().map_err(refused("listing every", ""))?;
    let mut swept = 0;
    for shaper in names.iter().filter(|name| is_abandoned(name, &names)) {
        if let Some(index) = host.index(shaper).map_err(refused("looking for", shaper))? {
            remove(host, shaper, index)?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// What the kernel does about an interface.
///
/// # Errors
/// The kernel's.
pub fn shapers(host: &Netlink, interface: &str) -> Result<Shapers, BandwidthError> {
    let bucket = |name: &str| match host.index(name).map_err(refused("looking for", name))? {
        Some(index) => host.bucket(index).map_err(refused("reading the rate of", name)),
        None => Ok(None),
    };
    Ok(Shapers { incoming: bucket(interface)?, outgoing: bucket(&shaper_name(interface))? })
}

const ENODEV: i32 = 19;
const HOST_END: &str = "hv";
const SHAPER: &str = "hi";

fn remove(host: &Netlink, shaper: &str, index: u32) -> Result<(), BandwidthError> {
    match host.remove_link(index) {
        // Somebody else was faster.
        Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(()),
        result => result.map_err(refused("removing", shaper)),
    }
}

fn shaper_name(interface: &str) -> String {
    format!("{SHAPER}{}", interface.strip_prefix(HOST_END).unwrap_or(interface))
}

/// Whether a name is a shaper's whose interface is not among these.
fn is_abandoned(name: &str, names: &[String]) -> bool {
    const DIGITS: usize = 12;
    let Some(digits) = name.strip_prefix(SHAPER) else { return false };
    let is_shaper = digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_shaper && !names.iter().any(|other| other.strip_prefix(HOST_END) == Some(digits))
}

fn refused<'a>(action: &'static str, interface: &'a str) -> impl Fn(io::Error) -> BandwidthError + Copy + 'a {
    move |source| BandwidthError::Refused { action, interface: interface.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apart::apart;

    #[test]
    fn rates_are_read_as_tc_reads_them() {
        let bits = |text: &str| rate(text).unwrap().map(Rate::bits_per_second);
        for (text, expected) in [
            ("20mbit", 20_000_000),
            ("1gbit", 1_000_000_000),
            ("2500kbit", 2_500_000),
            ("1.5Mbit", 1_500_000),
            ("1mbps", 8_000_000),
            ("1MiBps", 8 * 1024 * 1024),
            ("1kibit", 1024),
            ("1000", 1000),
            ("9bit", 9),
            ("100bps", 800),
            ("1tbit", 1_000_000_000_000),
        ] {
            assert_eq!(bits(text), Some(expected), "{text}");
        }
        for text in ["0", "0mbit", "0.0"] {
            assert_eq!(bits(text), None, "{text}");
        }
        for text in [
            "",
            "mbit",
            "20m",
            "20 mbit",
            "-1mbit",
            "1e3bit",
            "20mb",
            "1.2.3mbit",
            "20%",
            "1iit",
            "1ibit",
            "1kiibit",
            "inf",
            "1xbit",
        ] {
            assert_eq!(rate(text), Err(BandwidthParseError::Rate(text.to_owned())), "{text}");
        }
        for text in ["1bit", "0.1kbit", "1001tbit", "99999999999999999999999999"] {
            let expected = (text != "0.1kbit").then(|| BandwidthParseError::RateRange(text.to_owned()));
            assert_eq!(rate(text).err(), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_tc_reads_them() {
        for (text, expected) in [("64k", 65_536), ("64kb", 65_536), ("1600", 1600), ("10b", 10), ("80kbit", 10_240)] {
            assert_eq!(size(text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(size("0"), Ok(None));
        for text in ["", "k", "64kib", "-1", "64 k"] {
            assert_eq!(size(text), Err(BandwidthParseError::Size(text.to_owned())), "{text}");
        }
        assert_eq!(size("4gb"), Err(BandwidthParseError::SizeRange("4gb".to_owned())));
    }

    #[test]
    fn rates_are_shown_in_the_largest_unit() {
        for text in ["20mbit", "1gbit", "2500kbit", "9bit", "3tbit"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert!("0".parse::<Rate>().is_err());
    }

    #[test]
    fn buckets_hold_what_is_sent_between_two_looks_and_never_less_than_packets() {
        let bucket = |text: &str, burst_bytes| {
            let bandwidth = Bandwidth { burst_bytes, ..Bandwidth::default() };
            bandwidth.bucket(text.parse().unwrap(), 1500)
        };
        let expected = Bucket { bytes_per_second: 2_500_000, burst_bytes: 100_000, queue_bytes: 350_000 };
        assert_eq!(bucket("20mbit", None), expected);
        assert_eq!(bucket("100kbit", None).burst_bytes, 3028);
        assert_eq!(bucket("100kbit", None).queue_bytes, 32 * 1024 + 3028);
        assert_eq!(bucket("20mbit", Some(9000)).burst_bytes, 9000);
        assert_eq!(bucket("900tbit", None).queue_bytes, u32::MAX);
    }

    #[test]
    fn bursts_that_make_no_sense_are_refused() {
        let rate = Some("1mbit".parse().unwrap());
        let check = |bandwidth: Bandwidth| bandwidth.check_burst(1500).map_err(|error| error.to_string());
        let alone = Bandwidth { burst_bytes: Some(9000), ..Bandwidth::default() };
        assert!(check(alone).unwrap_err().starts_with("--net-burst needs a rate"));
        let small = Bandwidth { incoming: rate, burst_bytes: Some(1513), ..Bandwidth::default() };
        assert_eq!(check(small).unwrap_err(), "--net-burst 1513 is less than one packet of 1514 bytes");
        assert_eq!(check(Bandwidth { outgoing: rate, burst_bytes: Some(1514), ..Bandwidth::default() }), Ok(()));
    }

    #[test]
    fn only_shapers_without_their_interface_are_abandoned() {
        let names = ["hi0123456789ab", "hv0123456789ab", "hiaaaaaaaaaaaa", "hi", "hiking", "lo"].map(str::to_owned);
        let abandoned: Vec<_> = names.iter().filter(|name| is_abandoned(name, &names)).collect();
        assert_eq!(abandoned, ["hiaaaaaaaaaaaa"]);
    }

    #[test]
    fn both_directions_are_limited_changed_and_freed_again() {
        apart(|| {
            let host = Netlink::here().unwrap();
            let end = "hv0123456789ab";
            // Any interface will do.
            host.make_ifb(end).unwrap();
            let rates =
                |state: Shapers| [state.incoming, state.outgoing].map(|one| one.map(|one| one.bytes_per_second));
            let set = |incoming: &str, outgoing: &str| {
                let wanted = Bandwidth {
                    incoming: rate(incoming).unwrap(),
                    outgoing: rate(outgoing).unwrap(),
                    ..Bandwidth::default()
                };
                limit_interface(&host, end, DEFAULT_MTU_BYTES, &wanted).unwrap();
                rates(shapers(&host, end).unwrap())
            };
            assert_eq!(set("8mbit", "16mbit"), [Some(1_000_000), Some(2_000_000)]);
            assert_eq!(set("16mbit", "8mbit"), [Some(2_000_000), Some(1_000_000)]);
            assert_eq!(set("0", "8mbit"), [None, Some(1_000_000)]);
            assert_eq!(sweep(&host).unwrap(), 0);
            assert_eq!(set("0", "0"), [None, None]);
            assert!(!host.names().unwrap().contains(&"hi0123456789ab".to_owned()));
            set("0", "8mbit");
            host.remove_link(host.index(end).unwrap().unwrap()).unwrap();
            assert_eq!(sweep(&host).unwrap(), 1);
            assert!(!host.names().unwrap().contains(&"hi0123456789ab".to_owned()));
            let error = limit_interface(&host, end, DEFAULT_MTU_BYTES, &Bandwidth::default()).unwrap_err();
            assert_eq!(error.to_string(), "there is no interface hv0123456789ab on this host");
        });
    }
}
