//! What the host's own firewall says, as far as Hull reads it: policies, and whether ufw or firewalld is active.
//!
//! Publishing a port must not open what the administrator has closed. A host whose input hook ends in drop, in any
//! table, or which has one of the two front ends running, is taken as closed: published ports are then reached from the
//! host itself only, until the configuration file allows them. Other rules are not interpreted.
//!
//! ufw and iptables-nft keep their chains in nf_tables, where their policies are seen as any other. Chains of the old
//! iptables are not listed by nf_tables; that ufw is active is therefore also read from its settings.

use std::fmt;
use std::fs;
use std::path::Path;

use hull_kernel::netlink::nftables::{self, Hook, NftablesError, Policy};

/// A reason why ports are closed to other hosts, or packets do not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// A base chain whose policy is drop: `ip filter INPUT`.
    Chain(String),
    /// ufw is enabled.
    Ufw,
    /// firewalld has its table.
    Firewalld,
}

/// As a user reads it.
impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Chain(name) => write!(f, "the chain {name} has policy drop"),
            Closed::Ufw => f.write_str("ufw is active"),
            Closed::Firewalld => f.write_str("firewalld is active"),
        }
    }
}

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Why ports are closed to other hosts; empty when they are open.
    pub input: Vec<Closed>,
    /// What drops passing packets by policy, Hull's included: no rule of another table can let them through.
    pub forward: Vec<Closed>,
}

/// Reads the tables of the calling thread's network namespace and ufw's settings below `etc`.
///
/// # Errors
/// When the kernel does not list its chains.
pub fn read(etc: &Path) -> Result<HostPolicy, NftablesError> {
    let mut seen = HostPolicy::default();
    for chain in nftables::base_chains()?.into_iter().filter(|chain| chain.policy == Policy::Drop) {
        let closed = Closed::Chain(format!("{} {} {}", chain.family, chain.table, chain.name));
        match chain.hook {
            Hook::Input => seen.input.push(closed),
            Hook::Forward => seen.forward.push(closed),
            Hook::Prerouting | Hook::Output | Hook::Postrouting => {}
        }
    }
    if nftables::table_names()?.iter().any(|(_, name)| name == "firewalld") {
        seen.input.push(Closed::Firewalld);
    }
    if fs::read_to_string(etc.join("ufw/ufw.conf")).is_ok_and(|text| is_enabled(&text)) {
        seen.input.push(Closed::Ufw);
    }
    Ok(seen)
}

/// `ENABLED=yes` in ufw.conf, in any case and quotes, the last one counting.
fn is_enabled(text: &str) -> bool {
    let mut values = text.lines().filter_map(|line| line.trim().split_once('='));
    let last = values.rfind(|(name, _)| name.trim().eq_ignore_ascii_case("enabled"));
    last.is_some_and(|(_, value)| value.trim().trim_matches(['"', '\'']).eq_ignore_ascii_case("yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ufw_says_whether_it_is_enabled() {
        assert!(is_enabled("# x\nENABLED=yes\nLOGLEVEL=low\n"));
        assert!(is_enabled("enabled = \"YES\""));
        assert!(!is_enabled("ENABLED=yes\nENABLED=no\n"));
        assert!(!is_enabled("#ENABLED=yes\n") && !is_enabled(""));
    }
}
