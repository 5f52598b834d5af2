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

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

use hull_kernel::btf::Btf;
use hull_kernel::netlink::conntrack;
use hull_kernel::netlink::route::Netlink;
use hull_sys::bpf;
use serde::{Deserialize, Serialize};

use program::{Kernel, Tuple};

/// What tc(8) and bpftool show as the program's name.
const NAME: [u8; 16] = *b"hull_shortcut\0\0\0";
/// The module that conntrack is in where it is not built in.
const MODULE: &str = "nf_conntrack";
/// How long an established connection is remembered without a packet, seconds.
const TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
/// A host that forgets connections sooner has few to spare; there the program could not tell those that have ended.
const SHORTEST_TIMEOUT_SECONDS: u32 = 3600;

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
    let member = |path: &[&str]| btf.offset("nf_conn", path);
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
        lookup: btf.function("bpf_skb_ct_lookup")?,
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
    let seconds: u32 = fs::read_to_string(TIMEOUT)?.trim().parse().map_err(io::Error::other)?;
    if seconds < SHORTEST_TIMEOUT_SECONDS {
        return Ok(());
    }
    let Requirements(kernel) = requirements;
    let module = if kernel.in_module { bpf::module_btf(MODULE)? } else { None };
    let timeout_ms = i32::try_from(seconds).unwrap_or(i32::MAX).saturating_mul(1000);
    let instructions = program::write(kernel, wanted, timeout_ms);
    let loaded = bpf::load_classifier(NAME, &instructions, module.as_ref().map(AsFd::as_fd))?;
    let index = host.index(&wanted.interface)?.ok_or(io::ErrorKind::NotFound)?;
    host.classify(index, loaded.as_fd(), "hull_shortcut")
}

/// Has conntrack let pass what went by a shortcut that is no more.
///
/// # Errors
/// The kernel's.
pub fn close(address: Ipv4Addr) -> io::Result<()> {
    conntrack::be_liberal(address)
}
