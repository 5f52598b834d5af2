//! Fixed-size little-endian fields in one message of a SOCK_SEQPACKET socket, sent by hull_kernel's seqpacket.
//!
//! Both channels of the supervisor (launch and client) use these: no length prefixes, because the socket keeps
//! message boundaries, and no text format, because the supervisor should touch as little memory as it can.

pub(crate) use hull_kernel::seqpacket::{receive, receive_with_descriptors, send, send_with_descriptors};

/// A message that ended too early or holds an impossible value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub &'static str);

/// Builds one message.
#[derive(Debug, Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    pub(crate) fn new(kind: u8) -> Encoder {
        let mut bytes = Vec::with_capacity(32);
        bytes.push(kind);
        Encoder(bytes)
    }

    pub(crate) fn u8(mut self, value: u8) -> Encoder {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(mut self, value: u16) -> Encoder {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Encoder {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn i32(mut self, value: i32) -> Encoder {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Encoder {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn i64(mut self, value: i64) -> Encoder {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Bytes that reach to the end of the message.
    pub(crate) fn rest(mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(bytes);
        self.0
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Takes one message apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Decoder<'a> {
        Decoder(message)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_le_bytes(self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn end<T>(self, value: T) -> Result<T, Malformed> {
        if self.0.is_empty() { Ok(value) } else { Err(Malformed("too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order_and_extra_bytes_are_refused() {
        let message = Encoder::new(9).u16(513).i32(-2).u64(u64::MAX).rest(b"tail");
        let mut decoder = Decoder::new(&message);
        assert_eq!(decoder.u8(), Ok(9));
        assert_eq!(decoder.u16(), Ok(513));
        assert_eq!(decoder.i32(), Ok(-2));
        assert_eq!(decoder.u64(), Ok(u64::MAX));
        assert_eq!(decoder.rest(), b"tail");
        assert!(decoder.end(()).is_err());
        assert_eq!(Decoder::new(&[1, 2]).u32(), Err(Malformed("too short")));
    }
}
