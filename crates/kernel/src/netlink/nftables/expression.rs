//! What a rule is made of (`NFTA_EXPR_*`): loads into registers, comparisons, lookups, and what is done with the packet.
//!
//! Expressions run in order; a comparison that does not hold ends the rule. Registers are 16 of 4 bytes, of which longer
//! values take several in a row. A field that a packet does not have (a port in an ICMP message that is cut short) ends
//! the rule as well.

use super::super::netfilter::Attributes;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const VERDICT_REGISTER: u32 = 0;
/// `NFT_REG32_00`.
const FIRST_REGISTER: u32 = 8;

/// One of the 16 registers, by its number from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    fn number(self) -> u32 {
        // Whole registers of 16 bytes have numbers of their own, by which nft's listings know them.
        if self.0.is_multiple_of(4) { u32::from(self.0) / 4 + 1 } else { FIRST_REGISTER + u32::from(self.0) }
    }
}

/// Something of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, one byte.
    Family,
    /// tcp, udp and so on, one byte.
    Protocol,
    /// Name of the interface it came by, 16 bytes; empty for what this host sends.
    InterfaceIn,
    /// Name of the interface it leaves by, 16 bytes.
    InterfaceOut,
    /// Source address of an IPv4 packet.
    Source4,
    /// Source address of an IPv6 packet.
    Source6,
    /// Destination address of an IPv4 packet.
    Destination4,
    /// Destination address of an IPv6 packet.
    Destination6,
    /// First byte of an IPv4 packet's source address.
    SourceNet4,
    /// First byte of an IPv4 packet's destination address.
    DestinationNet4,
    /// Destination port of tcp, udp or sctp.
    DestinationPort,
    /// Bits of the tracked connection's state: 1 invalid, 2 established, 4 related.
    ConnectionState,
    /// Bits of the tracked connection's status: 0x20 when its destination was translated.
    ConnectionStatus,
    /// Type of the route to the destination: 2 when it is this host. 4 bytes.
    DestinationType,
}

/// What happens to a packet at a rule's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is gone.
    Drop,
    /// This table has nothing against it at this hook.
    Accept,
    /// The chain is left.
    Return,
    /// Another chain comes first.
    Jump(&'static str),
}

/// How a lookup or comparison has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Equal, or an element.
    Is,
    /// Not.
    IsNot,
}

/// A part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads a field.
    Load(Field, Register),
    /// Loads a value.
    Value(Register, Vec<u8>),
    /// Keeps some of a register's bits.
    Mask(Register, Vec<u8>),
    /// Compares.
    Compare(Register, Condition, Vec<u8>),
    /// Looks a key up in a set.
    InSet(Register, &'static str, Condition),
    /// Looks a key up in a map and loads what it leads to.
    Map(Register, &'static str, Register),
    /// Gives the packet a destination: family, address, port.
    TranslateDestination {
        /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
        family: u8,
        /// Where the address is.
        address: Register,
        /// Where the port is.
        port: Register,
    },
    /// Gives the packet the source address of the interface it leaves by.
    Masquerade,
    /// Ends the rule.
    Do(Verdict),
}

impl Expression {
    pub(super) fn encode(&self, attributes: &mut Attributes) {
        match self {
            Expression::Load(field, register) => load(*field, register.number(), attributes),
            Expression::Value(register, wanted) => named(attributes, "immediate", |data| {
                data.number(1, register.number()).nested(2, |value| bytes(value, wanted));
            }),
            Expression::Mask(register, mask) => named(attributes, "bitwise", |data| {
                data.number(1, register.number()).number(2, register.number()).number(3, mask.len() as u32);
                data.nested(4, |value| bytes(value, mask)).nested(5, |value| bytes(value, &vec![0; mask.len()]));
            }),
            Expression::Compare(register, condition, wanted) => named(attributes, "cmp", |data| {
                data.number(1, register.number()).number(2, *condition as u32);
                data.nested(3, |value| bytes(value, wanted));
            }),
            Expression::InSet(register, set, condition) => named(attributes, "lookup", |data| {
                data.text(1, set).number(2, register.number()).number(5, *condition as u32);
            }),
            Expression::Map(register, map, into) => named(attributes, "lookup", |data| {
                data.text(1, map).number(2, register.number()).number(3, into.number());
            }),
            Expression::TranslateDestination { family, address, port } => named(attributes, "nat", |data| {
                let (address, port) = (address.number(), port.number());
                data.number(1, 1).number(2, u32::from(*family));
                data.number(3, address).number(4, address).number(5, port).number(6, port);
            }),
            Expression::Masquerade => named(attributes, "masq", |_| {}),
            Expression::Do(verdict) => named(attributes, "immediate", |data| {
                data.number(1, VERDICT_REGISTER).nested(2, |value| {
                    value.nested(2, |inner| encode(*verdict, inner));
                });
            }),
        }
    }
}

fn named(attributes: &mut Attributes, name: &str, data: impl FnOnce(&mut Attributes)) {
    attributes.text(1, name).nested(2, data);
}

fn bytes(value: &mut Attributes, wanted: &[u8]) {
    value.bytes(1, wanted);
}

fn encode(verdict: Verdict, attributes: &mut Attributes) {
    let code: i32 = match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Jump(_) => -3,
        Verdict::Return => -5,
    };
    attributes.number(1, code as u32);
    if let Verdict::Jump(chain) = verdict {
        attributes.text(2, chain);
    }
}

fn load(field: Field, register: u32, attributes: &mut Attributes) {
    let payload = |attributes: &mut Attributes, base, offset, length| {
        named(attributes, "payload", |data| {
            data.number(1, register).number(2, base).number(3, offset).number(4, length);
        });
    };
    let keyed = |attributes: &mut Attributes, name, key| {
        named(attributes, name, |data| {
            data.number(1, register).number(2, key);
        });
    };
    match field {
        Field::InterfaceIn => meta(attributes, register, 6),
        Field::InterfaceOut => meta(attributes, register, 7),
        Field::Family => meta(attributes, register, 15),
        Field::Protocol => meta(attributes, register, 16),
        Field::ConnectionState => keyed(attributes, "ct", 0),
        Field::ConnectionStatus => keyed(attributes, "ct", 2),
        Field::Source4 => payload(attributes, NETWORK_HEADER, 12, 4),
        Field::Destination4 => payload(attributes, NETWORK_HEADER, 16, 4),
        Field::Source6 => payload(attributes, NETWORK_HEADER, 8, 16),
        Field::Destination6 => payload(attributes, NETWORK_HEADER, 24, 16),
        Field::SourceNet4 => payload(attributes, NETWORK_HEADER, 12, 1),
        Field::DestinationNet4 => payload(attributes, NETWORK_HEADER, 16, 1),
        Field::DestinationPort => payload(attributes, TRANSPORT_HEADER, 2, 2),
        Field::DestinationType => named(attributes, "fib", |data| {
            data.number(1, register).number(2, 3).number(3, 2);
        }),
    }
}

fn meta(attributes: &mut Attributes, register: u32, key: u32) {
    named(attributes, "meta", |data| {
        data.number(1, register).number(2, key);
    });
}
