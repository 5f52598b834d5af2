//! The kernel's networking over netlink: interfaces, addresses and routes (rtnetlink), rules (nf_tables) and tracked
//! connections (ctnetlink).
//!
//! Everything here is one request and its answers on a socket of its own, in the calling thread's network namespace;
//! no program is executed. What the rules mean is decided above.

#[cfg(test)]
mod apart;
pub mod conntrack;
mod netfilter;
pub mod nftables;
pub mod qdisc;
pub mod route;
