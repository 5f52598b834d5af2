//! The chains of Hull's table, which are the same for any networks and ports.
//!
//! ```text
//! arriving   raw          from a bridge: nothing of or for 127/8, and only the network's own sources
//!            prerouting   for this host: open ports for everybody, closed ones for Hull's bridges
//! own        output       for this host: every port, also on 127.0.0.1; the kernel cannot translate ::1
//! passing    forward      one's own network (hairpin), then nothing from internal networks,
//!                         then open ports, then nothing to bridges; the rest passes
//! leaving    postrouting  own traffic from 127/8 and hairpin: from the gateway's address;
//!                         beyond the bridges: from the host's address
//! ```
//! Order is what makes it safe. 127/8 is looked at before connections are tracked, so the answers of a connection to
//! 127.0.0.1 are not meant: on the wire these go to the gateway. A port that is closed is translated when it is
//! reached from a bridge, since only after that is it known whether that was the container's own network; from another
//! one it then is not among the reachable ones and ends at the drop. An open port is reachable by its translation
//! alone: packets straight to the container's address end there too.

use hull_kernel::netlink::nftables::{
    Base, Condition, Expression, Field, Hook, KeyField, Register, Set, Transaction, Verdict,
};

use Condition::{Is, IsNot};
use Expression::{Compare, Do, InSet, Load, Map, Mask, Masquerade, TranslateDestination};
use Verdict::{Accept, Drop, Jump, Return};

const FAMILY_4: u8 = 2;
const FAMILY_6: u8 = 10;
const LOOPBACK_NET: u8 = 127;
const LOOPBACK_6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ROUTE_LOCAL: u32 = 2;
const INVALID: u32 = 1;
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const DESTINATION_TRANSLATED: u32 = 1 << 5;

const PRIORITY_RAW: i32 = -300;
const PRIORITY_DESTINATION: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE: i32 = 100;

const fn set(name: &'static str, key: &'static [KeyField]) -> Set {
    Set { name, key, value: &[], ranges: false }
}

const fn map(name: &'static str, key: &'static [KeyField], value: &'static [KeyField]) -> Set {
    Set { name, key, value, ranges: false }
}

use KeyField::{Interface, Ipv4, Ipv6, Port, Protocol};

/// Hull's bridges.
pub(super) const BRIDGES: Set = set("bridges", &[Interface]);
/// Those of internal networks.
pub(super) const INTERNAL: Set = set("internal", &[Interface]);
/// Each bridge with itself, since rules cannot compare two names.
pub(super) const SAME: Set = set("same", &[Interface, Interface]);
/// Which sources a bridge has.
pub(super) const SOURCES_4: Set = Set { ranges: true, ..set("sources4", &[Interface, Ipv4]) };
/// Which sources a bridge has.
pub(super) const SOURCES_6: Set = Set { ranges: true, ..set("sources6", &[Interface, Ipv6]) };
/// Containers' ports that others reach.
pub(super) const REACHABLE_4: Set = set("reachable4", &[Ipv4, Protocol, Port]);
const REACHABLE_6: Set = set("reachable6", &[Ipv6, Protocol, Port]);

/// Where a published port is an element.
pub(super) struct Maps {
    /// By any of the host's addresses.
    pub(super) any: Set,
    /// By one of them.
    pub(super) at: Set,
    /// When it is open.
    pub(super) reachable: Set,
}

/// The ones for open or closed ports of a family.
pub(super) const fn maps(open: bool, is_ipv4: bool) -> Maps {
    const ANY: &[KeyField] = &[Protocol, Port];
    const AT_4: &[KeyField] = &[Ipv4, Protocol, Port];
    const AT_6: &[KeyField] = &[Ipv6, Protocol, Port];
    const TO_4: &[KeyField] = &[Ipv4, Port];
    const TO_6: &[KeyField] = &[Ipv6, Port];
    let (any, at) = match (open, is_ipv4) {
        (true, true) => (map("open4", ANY, TO_4), map("open4at", AT_4, TO_4)),
        (true, false) => (map("open6", ANY, TO_6), map("open6at", AT_6, TO_6)),
        (false, true) => (map("closed4", ANY, TO_4), map("closed4at", AT_4, TO_4)),
        (false, false) => (map("closed6", ANY, TO_6), map("closed6at", AT_6, TO_6)),
    };
    Maps { any, at, reachable: if is_ipv4 { REACHABLE_4 } else { REACHABLE_6 } }
}

/// Adds sets and chains to a table that has neither.
pub(super) fn add(table: &mut Transaction) {
    for set in [BRIDGES, INTERNAL, SAME, SOURCES_4, SOURCES_6, REACHABLE_4, REACHABLE_6] {
        table.add_set(&set);
    }
    for (open, is_ipv4) in [(true, true), (true, false), (false, true), (false, false)] {
        let Maps { any, at, .. } = maps(open, is_ipv4);
        table.add_set(&any).add_set(&at);
    }
    raw(table);
    translations(table, "open", true);
    translations(table, "closed", false);
    prerouting(table);
    output(table);
    postrouting(table);
    forward(table);
}

fn base(kind: &'static str, hook: Hook, priority: i32) -> Option<Base> {
    Some(Base { kind, hook, priority })
}

fn raw(table: &mut Transaction) {
    table.add_chain("raw", base("filter", Hook::Prerouting, PRIORITY_RAW));
    // Every packet comes here: what is asked first is asked once.
    table.add_rule("raw", &rule([&by_bridge(Field::InterfaceIn, IsNot), &[Do(Accept)]]));
    for field in [Field::SourceNet4, Field::DestinationNet4] {
        table.add_rule("raw", &rule([&family(FAMILY_4), &is(field, &[LOOPBACK_NET]), &[Do(Drop)]]));
    }
    let foreign = own_source(Field::InterfaceIn, Field::Source4, SOURCES_4, IsNot);
    table.add_rule("raw", &rule([&family(FAMILY_4), &foreign, &[Do(Drop)]]));
    // An address that is being looked for has none yet, and neighbours speak with link-local ones.
    table.add_rule("raw", &rule([&family(FAMILY_6), &link_local_source(), &[Do(Accept)]]));
    table.add_rule("raw", &rule([&family(FAMILY_6), &is(Field::Source6, &[0; 16]), &[Do(Accept)]]));
    let foreign = own_source(Field::InterfaceIn, Field::Source6, SOURCES_6, IsNot);
    table.add_rule("raw", &rule([&family(FAMILY_6), &foreign, &[Do(Drop)]]));
}

/// A chain that translates what is published; it is jumped to with packets for this host.
fn translations(table: &mut Transaction, chain: &'static str, open: bool) {
    table.add_chain(chain, None);
    let port = [Load(Field::Protocol, Register(0)), Load(Field::DestinationPort, Register(1))];
    let families = [(FAMILY_4, Field::Destination4, 1), (FAMILY_6, Field::Destination6, 4)];
    for (family_number, destination, words) in families {
        let Maps { any, at, .. } = maps(open, family_number == FAMILY_4);
        let translate = |map: Set| {
            let (address, port) = (Register(0), Register(words));
            [Map(Register(0), map.name, Register(0)), TranslateDestination { family: family_number, address, port }]
        };
        let key = [
            Load(destination, Register(0)),
            Load(Field::Protocol, Register(words)),
            Load(Field::DestinationPort, Register(words + 1)),
        ];
        table.add_rule(chain, &rule([&family(family_number), &key, &translate(at)]));
        table.add_rule(chain, &rule([&family(family_number), &port, &translate(any)]));
    }
}

fn prerouting(table: &mut Transaction) {
    table.add_chain("prerouting", base("nat", Hook::Prerouting, PRIORITY_DESTINATION));
    // From outside, 127/8 is for the kernel to refuse, which it does by the destination before any translation.
    let loopback = is(Field::DestinationNet4, &[LOOPBACK_NET]);
    table.add_rule("prerouting", &rule([&family(FAMILY_4), &loopback, &[Do(Return)]]));
    table.add_rule("prerouting", &rule([&for_others(), &[Do(Return)]]));
    table.add_rule("prerouting", &[Do(Jump("open"))]);
    table.add_rule("prerouting", &rule([&arriving_by_bridge(), &[Do(Jump("closed"))]]));
}

fn output(table: &mut Transaction) {
    table.add_chain("output", base("nat", Hook::Output, PRIORITY_DESTINATION));
    table.add_rule("output", &rule([&family(FAMILY_6), &is(Field::Destination6, &LOOPBACK_6), &[Do(Return)]]));
    table.add_rule("output", &rule([&for_others(), &[Do(Return)]]));
    table.add_rule("output", &[Do(Jump("open"))]);
    table.add_rule("output", &[Do(Jump("closed"))]);
}

fn postrouting(table: &mut Transaction) {
    table.add_chain("postrouting", base("nat", Hook::Postrouting, PRIORITY_SOURCE));
    let to_bridge = by_bridge(Field::InterfaceOut, Is);
    let loopback = is(Field::SourceNet4, &[LOOPBACK_NET]);
    table.add_rule("postrouting", &rule([&to_bridge, &family(FAMILY_4), &loopback, &[Masquerade]]));
    let versions = [(FAMILY_4, Field::Source4, SOURCES_4), (FAMILY_6, Field::Source6, SOURCES_6)];
    for (number, source, sources) in versions {
        let hairpin = own_source(Field::InterfaceOut, source, sources, Is);
        table.add_rule("postrouting", &rule([&translated(), &family(number), &hairpin, &[Masquerade]]));
    }
    for (number, source, sources) in versions {
        let away = by_bridge(Field::InterfaceOut, IsNot);
        let own = own_source(Field::InterfaceIn, source, sources, Is);
        table.add_rule("postrouting", &rule([&away, &family(number), &own, &[Masquerade]]));
    }
}

fn forward(table: &mut Transaction) {
    table.add_chain("forward", base("filter", Hook::Forward, PRIORITY_FILTER));
    // Nearly every packet ends at the first rule, which looks nothing up.
    table.add_rule("forward", &rule([&bits(Field::ConnectionState, ESTABLISHED_OR_RELATED), &[Do(Accept)]]));
    let invalid = bits(Field::ConnectionState, INVALID);
    table.add_rule("forward", &rule([&invalid, &arriving_by_bridge(), &[Do(Drop)]]));
    let both = [Load(Field::InterfaceIn, Register(0)), Load(Field::InterfaceOut, Register(4))];
    table.add_rule("forward", &rule([&both, &[InSet(Register(0), SAME.name, Is), Do(Accept)]]));
    table.add_rule("forward", &rule([&by_set(Field::InterfaceIn, INTERNAL, Is), &[Do(Drop)]]));
    let versions = [(FAMILY_4, Field::Destination4, REACHABLE_4, 1), (FAMILY_6, Field::Destination6, REACHABLE_6, 4)];
    for (number, destination, reachable, words) in versions {
        let key = [
            Load(destination, Register(0)),
            Load(Field::Protocol, Register(words)),
            Load(Field::DestinationPort, Register(words + 1)),
            InSet(Register(0), reachable.name, Is),
        ];
        table.add_rule("forward", &rule([&translated(), &family(number), &key, &[Do(Accept)]]));
    }
    table.add_rule("forward", &rule([&by_bridge(Field::InterfaceOut, Is), &[Do(Drop)]]));
}

/// Parts, one after the other.
fn rule<const N: usize>(parts: [&[Expression]; N]) -> Vec<Expression> {
    parts.concat()
}

fn family(number: u8) -> [Expression; 2] {
    [Load(Field::Family, Register(0)), Compare(Register(0), Is, vec![number])]
}

fn is(field: Field, value: &[u8]) -> [Expression; 2] {
    [Load(field, Register(0)), Compare(Register(0), Is, value.to_vec())]
}

/// Any of some bits is set.
fn bits(field: Field, mask: u32) -> [Expression; 3] {
    let mask = mask.to_ne_bytes().to_vec();
    [Load(field, Register(0)), Mask(Register(0), mask), Compare(Register(0), IsNot, vec![0; 4])]
}

fn translated() -> [Expression; 3] {
    bits(Field::ConnectionStatus, DESTINATION_TRANSLATED)
}

/// fe80::/10.
fn link_local_source() -> [Expression; 3] {
    let of = |first: u8, second: u8| {
        let mut bytes = vec![0; 16];
        (bytes[0], bytes[1]) = (first, second);
        bytes
    };
    [Load(Field::Source6, Register(0)), Mask(Register(0), of(0xff, 0xc0)), Compare(Register(0), Is, of(0xfe, 0x80))]
}

/// Not for this host.
fn for_others() -> [Expression; 2] {
    [Load(Field::DestinationType, Register(0)), Compare(Register(0), IsNot, ROUTE_LOCAL.to_ne_bytes().to_vec())]
}

fn by_set(interface: Field, set: Set, condition: Condition) -> [Expression; 2] {
    [Load(interface, Register(0)), InSet(Register(0), set.name, condition)]
}

fn by_bridge(interface: Field, condition: Condition) -> [Expression; 2] {
    by_set(interface, BRIDGES, condition)
}

fn arriving_by_bridge() -> [Expression; 2] {
    by_bridge(Field::InterfaceIn, Is)
}

/// The source is one of the interface's network.
fn own_source(interface: Field, source: Field, sources: Set, condition: Condition) -> [Expression; 3] {
    [Load(interface, Register(0)), Load(source, Register(4)), InSet(Register(0), sources.name, condition)]
}
