//! Sets and maps (`NFTA_SET_*`), keyed by one field or several in a row.
//!
//! Each field of a key takes whole registers of 4 bytes, the rest zeroes. A set of ranges over several fields has the
//! upper ends as a second key in each element, and the fields' lengths in its description.

use super::super::netfilter::Attributes;

const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const CONCATENATION: u32 = 0x80;
/// What nft keeps with a set to list its keys: type 0 (order of bytes), length 4, 1 (the host's).
const KEY_IN_HOST_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];

/// A part of a key or value; its number is nft's, by which a listing names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Ipv4 = 7,
    /// An IPv6 address.
    Ipv6 = 8,
    /// tcp, udp, sctp.
    Protocol = 12,
    /// A port.
    Port = 13,
    /// An interface's name.
    Interface = 41,
}

impl Field {
    /// Its length, without what fills up the register.
    fn length_bytes(self) -> usize {
        match self {
            Field::Ipv4 => 4,
            Field::Ipv6 | Field::Interface => 16,
            Field::Protocol => 1,
            Field::Port => 2,
        }
    }
}

/// A set's or map's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// Its name in the table.
    pub name: &'static str,
    /// What an element is found by.
    pub key: &'static [Field],
    /// What it leads to; empty in a set that is no map.
    pub value: &'static [Field],
    /// Whether elements are ranges.
    pub ranges: bool,
}

impl Set {
    pub(super) fn encode(&self, id: u32, attributes: &mut Attributes) {
        let mut flags = 0;
        if self.ranges {
            flags |= INTERVAL;
        }
        if self.ranges && self.key.len() > 1 {
            flags |= CONCATENATION;
        }
        if !self.value.is_empty() {
            flags |= MAP;
        }
        attributes.text(2, self.name).number(3, flags);
        attributes.number(4, data_type(self.key)).number(5, length_bytes(self.key));
        if !self.value.is_empty() {
            attributes.number(6, data_type(self.value)).number(7, length_bytes(self.value));
        }
        attributes.number(10, id);
        if self.key == [Field::Interface] {
            attributes.bytes(13, &KEY_IN_HOST_ORDER);
        }
        if flags & CONCATENATION != 0 {
            attributes.nested(9, |description| {
                description.nested(2, |fields| {
                    for field in self.key {
                        let length = field.length_bytes().next_multiple_of(4) as u32;
                        fields.nested(1, |one| {
                            one.number(1, length);
                        });
                    }
                });
            });
        }
    }
}

/// nft's number for fields in a row: six bits for each.
fn data_type(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |all, field| all << 6 | *field as u32)
}

fn length_bytes(fields: &[Field]) -> u32 {
    match fields {
        // A key of one field is as long as the field.
        [field] => field.length_bytes() as u32,
        _ => fields.iter().map(|field| field.length_bytes().next_multiple_of(4) as u32).sum(),
    }
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    key: Vec<u8>,
    /// Last one of a range.
    key_end: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl Element {
    /// One of a set, its key's fields one by one.
    pub fn new(key: &[&[u8]]) -> Element {
        Element { key: joined(key), key_end: None, value: None }
    }

    /// One of a set of ranges, with the last key that belongs to it.
    #[must_use]
    pub fn up_to(self, key_end: &[&[u8]]) -> Element {
        Element { key_end: Some(joined(key_end)), ..self }
    }

    /// One of a map.
    #[must_use]
    pub fn leading_to(self, value: &[&[u8]]) -> Element {
        Element { value: Some(joined(value)), ..self }
    }

    pub(super) fn encode(&self, attributes: &mut Attributes) {
        let parts = [(1, Some(&self.key)), (10, self.key_end.as_ref()), (2, self.value.as_ref())];
        for (kind, part) in parts {
            if let Some(part) = part {
                attributes.nested(kind, |data| {
                    data.bytes(1, part);
                });
            }
        }
    }
}

fn joined(fields: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::new();
    for field in fields {
        joined.extend_from_slice(field);
        joined.resize(joined.len().next_multiple_of(4), 0);
    }
    joined
}

/// An interface's name as a field: 16 bytes, the rest zeroes.
pub fn interface(name: &str) -> [u8; 16] {
    let mut field = [0; 16];
    let length = name.len().min(field.len() - 1);
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    field
}
