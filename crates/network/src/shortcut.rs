//! The shortcut of a container to itself.
//!
//! A container that uses one of its own published ports sends packets up to the host, where conntrack translates both of
//! their ends, and gets them back: twice through the bridge and the host's forwarding. That is needed to decide what is
//! translated to what, and not to do it. So the first packets of a connection go this way, with all rules that there are;
//! when conntrack calls it established, a program at the host's end of the pair of interfaces
//! (`BPF_PROG_TYPE_SCHED_CLS`, tc-bpf(8)) asks conntrack what it has decided, does it, and hands the packet back:
//!
//! ```text
//! container ──> pair ──> [ program ] ──> bridge, prerouting, forward, postrouting, bridge ──┐  first packets
//!     ^                       │                                                             │
//!     └────────── pair <──────┴────────────────── all others ───────────────────────────────┘
//! ```
//! Conntrack no longer sees such a connection's packets and would take later ones for another's; so it is told to let
//! them pass when a program goes while its container stays ([`close`]). There is a shortcut only for TCP over IPv4, and not
//! for containers with rates, whose shapers it would pass by. Where the kernel does not have what it takes (descriptions of
//! its types, conntrack's functions for programs: Linux 6.1 and later with `CONFIG_DEBUG_INFO_BTF`), packets go the long way.

mod program;
mod writer;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

use hull_kernel::btf::Btf;
use hull_kernel::netlink::conntrack;
use hull_kernel::netlink::route::Netlink;
use hull_sys::bpf;
use rustix::time::{ClockId, clock_getres};
use serde::{Deserialize, Serialize};

use program::{Kernel, Times, Tuple};

/// What tc(8) and bpftool show as the program's name.
const NAME: [u8; 16] = *b"hull_shortcut\0\0\0";
/// The module that conntrack is in where it is not built in.
const MODULE: &str = "nf_conntrack";
/// How long conntrack remembers an established connection without a packet, seconds.
const TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
/// How long one is remembered after its end, seconds: conntrack's own time for TIME_WAIT. Where established ones have not
/// even twice as long, the program could not tell them from those that have ended.
const ENDED_SECONDS: i32 = 120;

/// What programs have to know of the kernel that runs. To find it out takes some milliseconds, so that it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Requirements(Kernel);

/// The way between a container and the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortcut {
    /// The host's end of the pair.
    pub interface: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// The host's address in the network.
    pub gateway: Ipv4Addr,
    /// Published ports of the host are among these.
    pub ports: RangeInclusive<u16>,
}

impl Requirements {
    /// Looks through the kernel's types.
    ///
    /// # Errors
    /// `NotFound` when the kernel lacks something of it.
    pub fn look() -> io::Result<Requirements> {
        let btf = Btf::kernel()?;
        if let Some(kernel) = kernel(&btf, false) {
            return Ok(Requirements(kernel));
        }
        let found = kernel(&btf.with_module(MODULE)?, true);
        found.map(Requirements).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no functions of conntrack's"))
    }
}

fn kernel(btf: &Btf, in_module: bool) -> Option<Kernel> {
    let lookup = btf.function("bpf_skb_ct_lookup")?;
    let connection = btf.structure("nf_conn")?;
    let member = |path: &[&str]| btf.offset(connection, path);
    let tuple = |direction: &str| {
        let of = |end: &str, part: &str| member(&["tuplehash", direction, "tuple", end, part]);
        Some(Tuple {
            source: of("src", "u3")?,
            source_port: of("src", "u")?,
            destination: of("dst", "u3")?,
            destination_port: of("dst", "u")?,
        })
    };
    Some(Kernel {
        in_module,
        lookup,
        change_timeout: btf.function("bpf_ct_change_timeout")?,
        release: btf.function("bpf_ct_release")?,
        status: member(&["status"])?,
        timeout: member(&["timeout"])?,
        state: member(&["proto", "tcp", "state"])?,
        tuples: [tuple("0")?, tuple("1")?],
    })
}

/// Opens a container's shortcut, or has it be another; it goes with the interface. A container without one lacks nothing
/// but speed.
///
/// # Errors
/// The kernel's: `EINVAL` or `EACCES` when the requirements are another kernel's.
pub fn open(host: &Netlink, requirements: &Requirements, wanted: &Shortcut) -> io::Result<()> {
    let Some(times) = times()? else { return Ok(()) };
    let Requirements(kernel) = requirements;
    let module = if kernel.in_module { bpf::module_btf(MODULE)? } else { None };
    let instructions = program::write(kernel, wanted, &times);
    let loaded = bpf::load_classifier(NAME, &instructions, module.as_ref().map(AsFd::as_fd))?;
    let index = host.index(&wanted.interface)?.ok_or(io::ErrorKind::NotFound)?;
    host.classify(index, loaded.as_fd(), "hull_shortcut")
}

/// How long conntrack remembers; nothing where it forgets too soon.
fn times() -> io::Result<Option<Times>> {
    let seconds: i32 = fs::read_to_string(TIMEOUT)?.trim().parse().map_err(io::Error::other)?;
    if seconds < 2 * ENDED_SECONDS {
        return Ok(None);
    }
    // The coarse clocks move with the kernel's ticks (clock_getres(2)).
    let tick = clock_getres(ClockId::MonotonicCoarse);
    let ticks_per_second = 1_000_000_000 / i32::try_from(tick.tv_nsec.max(1)).map_err(io::Error::other)?;
    Ok(Some(Times {
        established_ms: seconds.saturating_mul(1000),
        ended_ms: ENDED_SECONDS * 1000,
        ended_ticks: (ENDED_SECONDS + 1).saturating_mul(ticks_per_second),
    }))
}

/// Has conntrack let pass what went by a shortcut that is no more.
///
/// # Errors
/// The kernel's.
pub fn close(address: Ipv4Addr) -> io::Result<()> {
    conntrack::be_liberal(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apart::apart;
    use crate::firewall::Firewall;

    fn wanted(interface: &str) -> Shortcut {
        Shortcut {
            interface: interface.to_owned(),
            address: Ipv4Addr::new(172, 20, 0, 2),
            gateway: Ipv4Addr::new(172, 20, 0, 1),
            ports: 8080..=8090,
        }
    }

    /// What the kernel has, with conntrack in it as a table makes it be.
    fn requirements() -> Requirements {
        Firewall::new("").ensure(&[], &[]).unwrap();
        Requirements::look().expect("this kernel has what it takes")
    }

    #[test]
    fn the_kernel_takes_the_program_and_another_in_its_place() {
        apart(|| {
            let requirements = requirements();
            let host = Netlink::here().unwrap();
            for _ in 0..2 {
                open(&host, &requirements, &wanted("lo")).unwrap();
            }
            let missing = open(&host, &requirements, &wanted("no-such")).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            // Kept as text, it is the same.
            let text = serde_json::to_string(&requirements).unwrap();
            assert_eq!(serde_json::from_str::<Requirements>(&text).unwrap(), requirements);
        });
    }

    #[test]
    fn requirements_of_another_kernel_are_refused() {
        apart(|| {
            let Requirements(mut kernel) = requirements();
            kernel.lookup = kernel.release;
            let host = Netlink::here().unwrap();
            open(&host, &Requirements(kernel), &wanted("lo")).unwrap_err();
        });
    }

    #[test]
    fn no_connection_is_needed_to_be_liberal() {
        apart(|| close(Ipv4Addr::new(172, 20, 0, 2)).unwrap());
    }
}
