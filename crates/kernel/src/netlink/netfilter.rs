//! Messages of `NETLINK_NETFILTER` and the conversation over one socket (netlink(7); linux/netfilter/nfnetlink.h).
//!
//! ```text
//! nlmsghdr   length, type = subsystem << 8 | message, flags, sequence, port      16 bytes, host order
//! nfgenmsg   family, version 0, resource (network order)                          4 bytes
//! attribute* length, type, value padded to 4; numbers inside are in network order
//! ```
//! The kernel works on a request within sendmsg, so that every answer is queued when that returns: nothing is waited for.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::set_socket_send_buffer_size_force;

pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const HEADER_BYTES: usize = 16;
const GENERAL_BYTES: usize = 4;
const ATTRIBUTE_BYTES: usize = 4;
const NESTED: u16 = 0x8000;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Attributes, one after the other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(&((value.len() + ATTRIBUTE_BYTES) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text with its end.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut ended = value.as_bytes().to_vec();
        ended.push(0);
        self.bytes(kind, &ended)
    }

    pub(super) fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes)) -> &mut Self {
        let mut attributes = Attributes::default();
        inner(&mut attributes);
        self.bytes(kind | NESTED, &attributes.0)
    }
}

/// Appends a message to a request.
pub(super) fn append(request: &mut Vec<u8>, head: &Head, attributes: &Attributes) {
    let length = HEADER_BYTES + GENERAL_BYTES + attributes.0.len();
    request.extend_from_slice(&(length as u32).to_ne_bytes());
    request.extend_from_slice(&head.kind.to_ne_bytes());
    request.extend_from_slice(&head.flags.to_ne_bytes());
    request.extend_from_slice(&head.sequence.to_ne_bytes());
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.push(head.family);
    request.push(0);
    request.extend_from_slice(&head.resource.to_be_bytes());
    request.extend_from_slice(&attributes.0);
}

/// What stands before a message's attributes.
pub(super) struct Head {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) family: u8,
    pub(super) resource: u16,
}

/// One answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// To the request of this sequence number: carried out, or why not.
    Verdict { sequence: u32, result: io::Result<()> },
    /// One thing of a list.
    Thing { family: u8, attributes: Vec<u8> },
}

/// A socket in the calling thread's network namespace.
pub(super) struct Netfilter(Socket);

impl Netfilter {
    pub(super) fn open() -> io::Result<Netfilter> {
        let socket = Socket::new(NETLINK_NETFILTER)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Netfilter(socket))
    }

    /// Closes the socket without waiting for what was removed from tables. The kernel takes that apart after a grace period
    /// (about 10 ms), and whoever closes a socket of this kind waits for it, because the kernel then looks for tables that
    /// belonged to the socket.
    pub(super) fn close_without_waiting(self) {
        // Where rings are not allowed it is closed as any file is.
        let _ = hull_sys::closing::by_kernel(&self.0);
    }

    /// Sends requests as one datagram and gives every answer to them.
    pub(super) fn tell(&self, requests: &[u8]) -> io::Result<Vec<Answer>> {
        // A datagram has to fit into the send buffer; the default is 208 KiB.
        set_socket_send_buffer_size_force(self.0.as_fd(), requests.len() + (64 << 10))?;
        self.0.send(requests, 0)?;
        let mut answers = Vec::new();
        loop {
            match self.0.recv_from_full() {
                Ok((datagram, _)) => read(&datagram, &mut answers)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(answers),
                Err(error) => return Err(error),
            }
        }
    }

    /// Everything that a list request names, as family and attributes.
    pub(super) fn list(&self, kind: u16, family: u8) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let mut request = Vec::new();
        let head = Head { kind, flags: REQUEST | DUMP, sequence: 1, family, resource: 0 };
        append(&mut request, &head, &Attributes::default());
        let mut things = Vec::new();
        for answer in self.tell(&request)? {
            match answer {
                Answer::Verdict { result, .. } => result?,
                Answer::Thing { family, attributes } => things.push((family, attributes)),
            }
        }
        Ok(things)
    }
}

fn read(datagram: &[u8], answers: &mut Vec<Answer>) -> io::Result<()> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a netlink message that ends too early");
    let mut rest = datagram;
    while !rest.is_empty() {
        let head = rest.get(..HEADER_BYTES).ok_or_else(short)?;
        let length = u32_at(head, 0) as usize;
        let body = rest.get(HEADER_BYTES..length).ok_or_else(short)?;
        match u16::from_ne_bytes([head[4], head[5]]) {
            ERROR | DONE => {
                let code = body.get(..4).map_or(0, |code| u32_at(code, 0) as i32);
                let result = if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) };
                answers.push(Answer::Verdict { sequence: u32_at(head, 8), result });
            }
            _ => answers.push(Answer::Thing {
                family: *body.first().ok_or_else(short)?,
                attributes: body.get(GENERAL_BYTES..).ok_or_else(short)?.to_vec(),
            }),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The value of the first attribute of this type.
pub(super) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    while let Some(head) = rest.get(..ATTRIBUTE_BYTES) {
        let length = u16::from_ne_bytes([head[0], head[1]]) as usize;
        let value = rest.get(ATTRIBUTE_BYTES..length)?;
        if u16::from_ne_bytes([head[2], head[3]]) & !NESTED & !0x4000 == kind {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// A number in network order.
pub(super) fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    attribute(attributes, kind)?.try_into().ok().map(u32::from_be_bytes)
}

/// A text without its end.
pub(super) fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(attributes, kind)?;
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    Some(String::from_utf8_lossy(&value[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let mut attributes = Attributes::default();
        attributes.text(1, "hull").nested(2, |inner| {
            inner.number(3, 7).bytes(4, &[9]);
        });
        assert_eq!(attributes.0[..12], [9, 0, 1, 0, b'h', b'u', b'l', b'l', 0, 0, 0, 0]);
        assert_eq!(text(&attributes.0, 1).as_deref(), Some("hull"));
        let inner = attribute(&attributes.0, 2).unwrap();
        assert_eq!((number(inner, 3), attribute(inner, 4)), (Some(7), Some(&[9][..])));
        assert_eq!(attribute(inner, 5), None);
        assert_eq!(attribute(&[200, 0, 1, 0, 1], 1), None, "longer than what is there");
    }

    #[test]
    fn an_answer_that_ends_early_is_an_error() {
        let mut answers = Vec::new();
        assert!(read(&[1, 2, 3], &mut answers).is_err());
        let mut lying = vec![0; HEADER_BYTES];
        lying[0] = 200;
        assert!(read(&lying, &mut answers).is_err());
        let mut empty = vec![0; HEADER_BYTES];
        empty[0] = HEADER_BYTES as u8;
        assert!(read(&empty, &mut answers).is_err() && answers.is_empty());
    }
}
