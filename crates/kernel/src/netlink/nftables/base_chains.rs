//! Which base chains every table has: what decides over a packet besides a table of one's own.
//!
//! Only hook, priority and policy are read. Rules are not: what a rule set as a whole lets through cannot be told
//! from single rules. Chains of the old iptables (not of iptables-nft) are not tables of nf_tables and are not seen here.

use super::super::netfilter::{self, Netfilter};
use super::{Hook, NftablesError, SUBSYSTEM};

const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;

/// What happens to packets that reach a base chain's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They go on.
    Accept,
    /// They are gone.
    Drop,
}

/// A chain with a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it sees packets.
    pub hook: Hook,
    /// Its place among the chains of the same hook.
    pub priority: i32,
    /// What happens at its end.
    pub policy: Policy,
}

/// Every base chain on IP packets in the calling thread's network namespace.
///
/// # Errors
/// When the kernel does not tell.
pub fn base_chains() -> Result<Vec<BaseChain>, NftablesError> {
    let socket = Netfilter::open().map_err(NftablesError::Socket)?;
    let chains = socket.list(SUBSYSTEM << 8 | GET_CHAIN, 0).map_err(NftablesError::Socket)?;
    Ok(chains.iter().filter_map(|(family, attributes)| base_chain(*family, attributes)).collect())
}

/// Family and name of every table.
///
/// # Errors
/// When the kernel does not tell.
pub fn table_names() -> Result<Vec<(&'static str, String)>, NftablesError> {
    let socket = Netfilter::open().map_err(NftablesError::Socket)?;
    let tables = socket.list(SUBSYSTEM << 8 | GET_TABLE, 0).map_err(NftablesError::Socket)?;
    let named =
        tables.iter().filter_map(|(number, attributes)| Some((family(*number)?, netfilter::text(attributes, 1)?)));
    Ok(named.collect())
}

fn family(number: u8) -> Option<&'static str> {
    match number {
        1 => Some("inet"),
        2 => Some("ip"),
        10 => Some("ip6"),
        _ => None,
    }
}

fn base_chain(number: u8, attributes: &[u8]) -> Option<BaseChain> {
    let hook = netfilter::attribute(attributes, 4)?;
    Some(BaseChain {
        family: family(number)?,
        table: netfilter::text(attributes, 1)?,
        name: netfilter::text(attributes, 3)?,
        hook: match netfilter::number(hook, 1)? {
            0 => Hook::Prerouting,
            1 => Hook::Input,
            2 => Hook::Forward,
            3 => Hook::Output,
            4 => Hook::Postrouting,
            _ => return None,
        },
        priority: netfilter::number(hook, 2)? as i32,
        policy: if netfilter::number(attributes, 5) == Some(0) { Policy::Drop } else { Policy::Accept },
    })
}
