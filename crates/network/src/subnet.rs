//! Subnets and the addresses that are handed out of them; pure.
//!
//! A [`Subnet`] has a gateway, which is the host's address in it, and perhaps a smaller range that addresses are taken
//! from. Never handed out: the first address (the subnet's own, of which IPv6 makes the routers' anycast address, RFC
//! 4291 2.6.1), the gateway, and for IPv4 the last one (broadcast). [`free_pool`] finds a subnet that meets no other:
//! in the pools that the configuration gives, or docker's, which are the private networks of RFC 1918 from 172.17 on,
//! then 192.168; IPv6 ones are unique local addresses (RFC 4193) with a random prefix that the caller draws.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address and the length of its subnet's prefix, bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// An address; the first one where a whole subnet is meant.
    pub address: IpAddr,
    /// How many leading bits all addresses of the subnet share.
    pub prefix: u8,
}

/// Text that is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct CidrError(String);

impl Cidr {
    fn width(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// First and last address, as numbers.
    fn ends(self) -> (u128, u128) {
        let host_bits = Cidr::width(self.address) - self.prefix;
        let mask = 1_u128.checked_shl(host_bits.into()).map_or(u128::MAX, |size| size - 1);
        let number = number(self.address);
        (number & !mask, number | mask)
    }

    /// The subnet's first address with the same prefix.
    #[must_use]
    pub fn network(self) -> Cidr {
        Cidr { address: numbered(self.ends().0, self.address), ..self }
    }

    /// Whether an address belongs to the subnet.
    pub fn contains(self, address: IpAddr) -> bool {
        let (first, last) = self.ends();
        self.address.is_ipv4() == address.is_ipv4() && (first..=last).contains(&number(address))
    }

    /// Whether two subnets share addresses.
    pub fn overlaps(self, other: Cidr) -> bool {
        let ((first, last), (others_first, others_last)) = (self.ends(), other.ends());
        self.address.is_ipv4() == other.address.is_ipv4() && first <= others_last && others_first <= last
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address with a number, of the family of another.
fn numbered(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let read = || {
            let (address, prefix) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= Cidr::width(address))?;
            Some(Cidr { address, prefix })
        };
        read().ok_or_else(|| CidrError(text.to_owned()))
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Cidr, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

/// The addresses of one family of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The whole subnet; its address is the first.
    pub cidr: Cidr,
    /// The host's address in it.
    pub gateway: IpAddr,
    /// The part that addresses are taken from; all of it when absent.
    #[serde(default)]
    pub range: Option<Cidr>,
}

/// A subnet or an address that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Too small for a gateway and a container.
    #[error("subnet {0} has no room for containers")]
    Small(Cidr),
    /// A gateway or range that is elsewhere.
    #[error("no matching subnet for {what} {value}")]
    Outside {
        /// `gateway` or `range`.
        what: &'static str,
        /// As it was given.
        value: String,
    },
    /// An address of the host's, the subnet's own, or outside of it.
    #[error("address {address} cannot be given to a container of {subnet}")]
    NotForContainers {
        /// What was asked for.
        address: IpAddr,
        /// Of this subnet.
        subnet: Cidr,
    },
    /// Somebody has it.
    #[error("Address already in use: {0}")]
    InUse(IpAddr),
    /// No address is free.
    #[error("no available addresses in {0}")]
    Full(Cidr),
}

impl Subnet {
    /// A subnet whose gateway is its first host.
    pub fn of(cidr: Cidr) -> Subnet {
        let cidr = cidr.network();
        Subnet { cidr, gateway: numbered(cidr.ends().0 + 1, cidr.address), range: None }
    }

    /// A subnet as a user gives it.
    ///
    /// # Errors
    /// [`SubnetError::Small`], [`SubnetError::Outside`].
    pub fn new(cidr: Cidr, gateway: Option<IpAddr>, range: Option<Cidr>) -> Result<Subnet, SubnetError> {
        let cidr = cidr.network();
        if cidr.prefix + 2 > Cidr::width(cidr.address) {
            return Err(SubnetError::Small(cidr));
        }
        let outside = |what, value: String| SubnetError::Outside { what, value };
        if let Some(gateway) = gateway.filter(|gateway| !cidr.contains(*gateway)) {
            return Err(outside("gateway", gateway.to_string()));
        }
        if let Some(range) = range.filter(|range| !cidr.contains(range.address) || range.prefix < cidr.prefix) {
            return Err(outside("range", range.to_string()));
        }
        let of = Subnet::of(cidr);
        Ok(Subnet { gateway: gateway.unwrap_or(of.gateway), range, ..of })
    }

    /// The lowest free address. `taken` are those of its containers.
    ///
    /// # Errors
    /// [`SubnetError::Full`].
    pub fn free(&self, taken: &[IpAddr]) -> Result<Cidr, SubnetError> {
        let mut taken: Vec<u128> = taken.iter().map(|address| number(*address)).collect();
        taken.sort_unstable();
        let (first, last) = self.range.unwrap_or(self.cidr).ends();
        // One of the first that are neither taken nor kept back is free, so this is at most three more than are taken.
        (first..=last)
            .filter(|candidate| taken.binary_search(candidate).is_err())
            .map(|candidate| numbered(candidate, self.cidr.address))
            .find(|address| self.is_for_containers(*address))
            .map(|address| Cidr { address, prefix: self.cidr.prefix })
            .ok_or(SubnetError::Full(self.cidr))
    }

    /// A given address, which nobody may have.
    ///
    /// # Errors
    /// [`SubnetError::NotForContainers`], [`SubnetError::InUse`].
    pub fn claim(&self, address: IpAddr, taken: &[IpAddr]) -> Result<Cidr, SubnetError> {
        if !self.cidr.contains(address) || !self.is_for_containers(address) {
            return Err(SubnetError::NotForContainers { address, subnet: self.cidr });
        }
        if taken.contains(&address) {
            return Err(SubnetError::InUse(address));
        }
        Ok(Cidr { address, prefix: self.cidr.prefix })
    }

    fn is_for_containers(&self, address: IpAddr) -> bool {
        let (first, last) = self.cidr.ends();
        let candidate = number(address);
        candidate != first && address != self.gateway && !(address.is_ipv4() && candidate == last)
    }
}

/// Where subnets are taken from that nobody asks for: all of one size in a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, try_from = "PoolText")]
pub struct Pool {
    base: Cidr,
    size: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolText {
    base: Cidr,
    size: u8,
}

impl TryFrom<PoolText> for Pool {
    type Error = String;

    fn try_from(text: PoolText) -> Result<Pool, String> {
        let PoolText { base, size } = text;
        if !base.address.is_ipv4() || size < base.prefix || size > 30 {
            return Err(format!("{base} has no IPv4 subnets for containers with a prefix of {size} bits"));
        }
        Ok(Pool { base: base.network(), size })
    }
}

impl Pool {
    /// Docker's.
    pub const DOCKERS: [Pool; 7] = [
        Pool::v4(172, 17, 16, 16),
        Pool::v4(172, 18, 16, 16),
        Pool::v4(172, 19, 16, 16),
        Pool::v4(172, 20, 14, 16),
        Pool::v4(172, 24, 14, 16),
        Pool::v4(172, 28, 14, 16),
        Pool::v4(192, 168, 16, 20),
    ];

    const fn v4(a: u8, b: u8, prefix: u8, size: u8) -> Pool {
        Pool { base: Cidr { address: IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), prefix }, size }
    }

    fn subnets(self) -> impl Iterator<Item = Cidr> {
        let (first, last) = self.base.ends();
        let step = 1_usize << (Cidr::width(self.base.address) - self.size);
        (first..=last).step_by(step).map(move |at| Cidr { address: numbered(at, self.base.address), prefix: self.size })
    }
}

/// The first subnet of the pools that meets none of `others`.
pub fn free_pool(pools: &[Pool], others: &[Cidr]) -> Option<Cidr> {
    pools.iter().flat_map(|pool| pool.subnets()).find(|pool| !others.iter().any(|other| other.overlaps(*pool)))
}

/// A subnet of unique local addresses of 64 bits, from 40 random bits of a global id and 16 of a subnet's (RFC 4193).
pub fn unique_local(random: [u8; 7]) -> Cidr {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..8].copy_from_slice(&random);
    Cidr { address: Ipv6Addr::from(octets).into(), prefix: 64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_read_and_compared() {
        assert_eq!(cidr("10.1.2.3/16").network().to_string(), "10.1.0.0/16");
        assert_eq!(cidr("fd00::5/64").network().to_string(), "fd00::/64");
        assert!(cidr("0.0.0.0/0").overlaps(cidr("10.0.0.0/8")) && cidr("::/0").overlaps(cidr("fd00::/64")));
        assert!(!cidr("10.1.0.0/16").overlaps(cidr("10.2.0.0/16")) && !cidr("10.0.0.0/8").overlaps(cidr("::/0")));
        for text in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_the_lowest_that_are_free() {
        let subnet = Subnet::of(cidr("10.1.2.0/29"));
        let mut taken = Vec::new();
        for last in 2..=6 {
            let free = subnet.free(&taken).unwrap();
            assert_eq!(free.to_string(), format!("10.1.2.{last}/29"));
            taken.push(free.address);
        }
        assert_eq!(subnet.free(&taken), Err(SubnetError::Full(subnet.cidr)));
        taken.retain(|address| address.to_string() != "10.1.2.4");
        assert_eq!(subnet.free(&taken).unwrap().address.to_string(), "10.1.2.4");
        let ranged = Subnet::new(subnet.cidr, None, Some(cidr("10.1.2.4/31"))).unwrap();
        assert_eq!(ranged.free(&[]).unwrap().address.to_string(), "10.1.2.4");
        assert_eq!(Subnet::of(cidr("fd00::/64")).free(&[]).unwrap().to_string(), "fd00::2/64");
    }

    #[test]
    fn given_addresses_must_be_containers_own() {
        let subnet = Subnet::of(cidr("10.1.2.0/24"));
        let claim = |text: &str, taken: &[IpAddr]| subnet.claim(text.parse().unwrap(), taken);
        assert_eq!(claim("10.1.2.9", &[]).unwrap().to_string(), "10.1.2.9/24");
        assert_eq!(claim("10.1.2.9", &["10.1.2.9".parse().unwrap()]), Err(SubnetError::InUse([10, 1, 2, 9].into())));
        for text in ["10.1.2.0", "10.1.2.1", "10.1.2.255", "10.1.3.2", "fd00::1"] {
            assert!(matches!(claim(text, &[]), Err(SubnetError::NotForContainers { .. })), "{text}");
        }
        assert!(Subnet::new(cidr("10.1.2.0/31"), None, None).is_err());
        assert!(Subnet::new(cidr("10.1.2.0/24"), Some("10.1.3.1".parse().unwrap()), None).is_err());
        assert!(Subnet::new(cidr("10.1.2.0/24"), None, Some(cidr("10.1.0.0/16"))).is_err());
    }

    #[test]
    fn pools_meet_no_route() {
        let free = |others: &[Cidr]| free_pool(&Pool::DOCKERS, others).map(|pool| pool.to_string());
        assert_eq!(free(&[]).unwrap(), "172.17.0.0/16");
        assert_eq!(free(&[cidr("172.17.5.0/24"), cidr("172.18.0.1/32")]).unwrap(), "172.19.0.0/16");
        assert_eq!(free(&[cidr("172.16.0.0/12")]).unwrap(), "192.168.0.0/20");
        assert_eq!(free(&[cidr("0.0.0.0/0")]), None);
        let pool = |text: &str| serde_json::from_str::<Pool>(text);
        let own = pool(r#"{"base": "10.9.8.0/23", "size": 24}"#).unwrap();
        assert_eq!(free_pool(&[own], &[cidr("10.9.8.0/30")]).unwrap().to_string(), "10.9.9.0/24");
        for text in [
            r#"{"base": "10.9.8.0/24", "size": 16}"#,
            r#"{"base": "10.9.8.0/24", "size": 31}"#,
            r#"{"base": "fd00::/64", "size": 64}"#,
        ] {
            assert!(pool(text).is_err(), "{text}");
        }
        assert_eq!(unique_local([1, 2, 3, 4, 5, 6, 7]).to_string(), "fd01:203:405:607::/64");
    }
}
