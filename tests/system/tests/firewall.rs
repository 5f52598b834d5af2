//! Hull's firewall table with real packets: who reaches what, and the ways around it that attackers try.
//!
//! ```text
//! remote 192.0.2.9 --- 192.0.2.1 host --- hull0 172.20.0.1 --- one 172.20.0.2, two 172.20.0.3
//!                                     |-- hull1 172.21.0.1 --- far 172.21.0.2
//!                                     `-- hull2 172.22.0.1 --- shut 172.22.0.2 (internal)
//! ```

use std::net::IpAddr;
use std::process::Command;

use hull_network::firewall::{Firewall, Publication, Segment};
use hull_network::ports::Protocol;
use system_tests::net::Net;
use system_tests::{is_vm, peers};

struct World {
    host: Net,
    remote: Net,
    one: Net,
    two: Net,
    far: Net,
    shut: Net,
}

fn segments() -> Vec<Segment> {
    let segment = |number: u8| Segment {
        bridge: format!("hull{number}"),
        subnets: vec![
            (IpAddr::from([172, 20 + number, 0, 1]), 24),
            (format!("fd00:{number}::1").parse().expect("an address"), 64),
        ],
        internal: number == 2,
    };
    (0..3).map(segment).collect()
}

impl World {
    fn new() -> World {
        let world = World {
            host: Net::new(),
            remote: Net::new(),
            one: Net::new(),
            two: Net::new(),
            far: Net::new(),
            shut: Net::new(),
        };
        let host = &world.host;
        host.set("ipv4/ip_forward", "1");
        host.set("ipv6/conf/all/forwarding", "1");
        host.wire("eth0", &world.remote, "eth0");
        host.ip("addr add 192.0.2.1/24 dev eth0; addr add 2001:db8::1/64 dev eth0");
        world.remote.ip("addr add 192.0.2.9/24 dev eth0; addr add 2001:db8::9/64 dev eth0");
        world.remote.ip("route add default via 192.0.2.1; route add default via 2001:db8::1");
        for number in 0..3 {
            host.bridge(&format!("hull{number}"));
            host.ip(&format!("addr add 172.2{number}.0.1/24 dev hull{number}"));
            host.ip(&format!("addr add fd00:{number}::1/64 dev hull{number}"));
            host.set(&format!("ipv4/conf/hull{number}/route_localnet"), "1");
        }
        for (net, number, last) in [(&world.one, 0, 2), (&world.two, 0, 3), (&world.far, 1, 2), (&world.shut, 2, 2)] {
            let own = format!("veth{number}{last}");
            host.plug(&own, &format!("hull{number}"), net, "eth0");
            net.ip(&format!("addr add 172.2{number}.0.{last}/24 dev eth0; route add default via 172.2{number}.0.1"));
            net.ip(&format!("addr add fd00:{number}::{last}/64 dev eth0; route add default via fd00:{number}::1"));
            net.serve("[::]:80");
        }
        world.remote.serve("[::]:80");
        world
    }

    fn ensure(&self, publications: &[Publication]) {
        self.host.within(|| Firewall::new("").ensure(&segments(), publications)).expect("the table");
    }
}

fn tcp(host_address: Option<&str>, host_port: u16, address: &str, open: bool) -> Publication {
    let parse = |text: &str| text.parse().expect("an address");
    let host_address = host_address.map(parse);
    Publication { protocol: Protocol::Tcp, host_address, host_port, address: parse(address), port: 80, open }
}

fn seen(address: &str) -> Option<String> {
    Some(address.to_owned())
}

#[test]
fn an_open_port_is_reached_from_everywhere_that_is_meant() {
    let world = World::new();
    world.ensure(&[
        tcp(None, 8080, "172.20.0.2", true),
        tcp(None, 8080, "fd00:0::2", true),
        tcp(Some("192.0.2.1"), 8082, "172.20.0.2", true),
        tcp(Some("127.0.0.1"), 8083, "172.20.0.2", false),
    ]);
    assert_eq!(world.remote.seen("192.0.2.1:8080"), seen("192.0.2.9"), "the source is kept");
    assert_eq!(world.remote.seen("[2001:db8::1]:8080"), seen("2001:db8::9"), "the source is kept");
    assert_eq!(world.remote.seen("192.0.2.1:8082"), seen("192.0.2.9"));
    assert_eq!(world.host.seen("127.0.0.1:8080"), seen("172.20.0.1"), "loopback comes from the gateway");
    assert_eq!(world.host.seen("192.0.2.1:8080"), seen("192.0.2.1"));
    assert_eq!(world.host.seen("172.21.0.1:8080"), seen("172.21.0.1"));
    assert_eq!(world.host.seen("[2001:db8::1]:8080"), seen("2001:db8::1"));
    assert_eq!(world.host.seen("[::1]:8080"), None, "the kernel cannot translate it");
    assert_eq!(world.one.seen("192.0.2.1:8080"), seen("172.20.0.1"), "hairpin comes from the gateway");
    assert_eq!(world.one.seen("[2001:db8::1]:8080"), seen("fd00::1"), "hairpin comes from the gateway");
    assert_eq!(world.two.seen("192.0.2.1:8080"), seen("172.20.0.1"));
    assert_eq!(world.far.seen("192.0.2.1:8080"), seen("172.21.0.2"), "published for everybody, another network too");
    assert_eq!(world.host.seen("127.0.0.1:8083"), seen("172.20.0.1"));
    assert_eq!(world.host.seen("192.0.2.1:8083"), None, "published on loopback alone");
    assert_eq!(world.remote.seen("192.0.2.1:8083"), None);
    assert_eq!(world.one.seen("192.0.2.9:8080"), None, "another host's port of the same number is no business of ours");
    assert_eq!(world.one.seen("192.0.2.9:80"), seen("192.0.2.1"), "outbound is masqueraded");
    assert_eq!(world.one.seen("[2001:db8::9]:80"), seen("2001:db8::1"), "outbound is masqueraded");
}

#[test]
fn a_closed_port_is_for_this_host_and_its_own_network() {
    let world = World::new();
    let closed = tcp(None, 8080, "172.20.0.2", false);
    world.ensure(&[closed]);
    assert_eq!(world.host.seen("127.0.0.1:8080"), seen("172.20.0.1"));
    assert_eq!(world.host.seen("192.0.2.1:8080"), seen("192.0.2.1"));
    assert_eq!(world.two.seen("192.0.2.1:8080"), seen("172.20.0.1"));
    assert_eq!(world.remote.seen("192.0.2.1:8080"), None);
    assert_eq!(world.far.seen("192.0.2.1:8080"), None);
    // One that is allowed opens itself and not the other that leads to the same place.
    let open = Publication { host_port: 9090, open: true, ..closed };
    let firewall = Firewall::new("");
    world.host.within(|| firewall.publish(&[open])).expect("publishing");
    assert_eq!(world.remote.seen("192.0.2.1:9090"), seen("192.0.2.9"));
    assert_eq!(world.remote.seen("192.0.2.1:8080"), None);
    // Withdrawn, the other one that is open keeps the port reachable.
    let again = Publication { host_port: 9091, ..open };
    world.host.within(|| firewall.publish(&[again])).expect("publishing");
    world.host.within(|| firewall.withdraw(&[open], &[closed, again])).expect("withdrawing");
    assert_eq!(world.remote.seen("192.0.2.1:9090"), None);
    assert_eq!(world.remote.seen("192.0.2.1:9091"), seen("192.0.2.9"));
    world.host.within(|| firewall.withdraw(&[again], &[closed])).expect("withdrawing");
    assert_eq!(world.remote.seen("192.0.2.1:9091"), None);
    assert_eq!(world.host.seen("127.0.0.1:8080"), seen("172.20.0.1"));
}

#[test]
fn networks_are_isolated() {
    let world = World::new();
    assert_eq!(world.remote.seen("172.20.0.2:80"), seen("192.0.2.9"), "a host without the table forwards everything");
    assert_eq!(world.far.seen("172.20.0.2:80"), seen("172.21.0.2"), "a host without the table forwards everything");
    world.ensure(&[tcp(None, 8080, "172.20.0.2", true)]);
    assert_eq!(world.one.seen("172.20.0.3:80"), seen("172.20.0.2"), "neighbours");
    assert_eq!(world.host.seen("172.20.0.3:80"), seen("172.20.0.1"));
    for (name, net) in [("remote", &world.remote), ("far", &world.far), ("shut", &world.shut)] {
        assert_eq!(net.seen("172.20.0.3:80"), None, "{name}");
        assert_eq!(net.seen("172.20.0.2:80"), None, "{name}: published, but not at the container's own address");
        assert_eq!(net.seen("[fd00:0::2]:80"), None, "{name}");
    }
    assert_eq!(world.shut.seen("192.0.2.9:80"), None, "internal");
    assert_eq!(world.shut.seen("192.0.2.1:8080"), None, "internal");
    assert_eq!(world.shut.seen("[2001:db8::9]:80"), None, "internal");
    assert_eq!(world.one.seen("172.22.0.2:80"), None, "internal");
    assert_eq!(world.host.seen("172.22.0.2:80"), seen("172.22.0.1"), "internal is not from the host");
}

/// A container that has taken 127.0.0.1 off its loopback asks the host for it.
#[test]
fn the_hosts_loopback_is_out_of_a_containers_reach() {
    let world = World::new();
    world.host.serve("127.0.0.1:7070");
    world.one.ip("addr del 127.0.0.1/8 dev lo; route add 127.0.0.1/32 via 172.20.0.1");
    world.one.set("ipv4/conf/all/route_localnet", "1");
    assert_eq!(world.one.seen("127.0.0.1:7070"), seen("172.20.0.2"), "without the table the attack works");
    world.ensure(&[tcp(Some("127.0.0.1"), 8083, "172.20.0.3", false)]);
    assert_eq!(world.one.seen("127.0.0.1:7070"), None);
    assert_eq!(world.one.seen("127.0.0.1:8083"), None);
    assert_eq!(world.host.seen("127.0.0.1:8083"), seen("172.20.0.1"));
    // From the neighbour host, where a translation before routing would get past the kernel's own refusal.
    world.remote.ip("addr del 127.0.0.1/8 dev lo; route add 127.0.0.1/32 via 192.0.2.1");
    world.remote.set("ipv4/conf/all/route_localnet", "1");
    assert_eq!(world.remote.seen("127.0.0.1:8083"), None);
    assert_eq!(world.remote.seen("127.0.0.1:7070"), None);
}

#[test]
fn a_source_that_is_not_the_networks_is_dropped() {
    let world = World::new();
    let net = &world.one;
    net.ip("addr add 172.21.0.77/32 dev eth0; addr add 192.0.2.77/32 dev eth0; addr add 172.20.0.77/32 dev eth0");
    net.ip("addr add fd00:1::77/128 dev eth0");
    world.host.set("ipv4/conf/all/rp_filter", "0");
    world.host.set("ipv4/conf/hull0/rp_filter", "0");
    let arrives = |source: &str, at: &str| world.one.datagram(source, &world.host, at);
    assert!(arrives("192.0.2.77:0", "172.20.0.1:7000"), "without the table it arrives");
    assert!(arrives("[fd00:1::77]:0", "[fd00:0::1]:7000"), "without the table it arrives");
    world.ensure(&[]);
    for source in ["192.0.2.77:0", "172.21.0.77:0"] {
        assert!(!arrives(source, "172.20.0.1:7000"), "{source}");
    }
    assert!(!arrives("[fd00:1::77]:0", "[fd00:0::1]:7000"));
    for (source, at) in [
        ("172.20.0.2:0", "172.20.0.1:7000"),
        ("172.20.0.77:0", "172.20.0.1:7000"),
        ("[fd00:0::2]:0", "[fd00:0::1]:7000"),
    ] {
        assert!(arrives(source, at), "{source}");
    }
}

/// The listing by Debian's nft, which shows that others can read what Hull has made.
#[test]
fn another_program_lists_the_table() {
    let Some(nft) = peers().map(|scripts| scripts.join("nft")) else {
        assert!(is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
        return;
    };
    let world = World::new();
    world.ensure(&[
        tcp(None, 8080, "172.20.0.2", true),
        tcp(Some("192.0.2.1"), 8081, "172.20.0.3", false),
        tcp(None, 8080, "fd00:0::2", true),
    ]);
    let list = || world.host.within(|| Command::new(&nft).args(["list", "ruleset"]).output()).expect("nft");
    let listing = String::from_utf8(list().stdout).expect("text");
    assert_eq!(listing, include_str!("firewall.nft"));
    let flush = world.host.within(|| Command::new(&nft).args(["flush", "ruleset"]).status()).expect("nft");
    assert!(flush.success() && list().stdout.is_empty());
    world.ensure(&[tcp(None, 8080, "172.20.0.2", true)]);
    assert_eq!(world.remote.seen("192.0.2.1:8080"), seen("192.0.2.9"));
}
