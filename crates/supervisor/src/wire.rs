//! Fixed-size little-endian fields in one message of a SOCK_SEQPACKET socket, and the sending of such messages.
//!
//! Both channels of the supervisor (launch and client) use these: no length prefixes, because the socket keeps
//! message boundaries, and no text format, because the supervisor should touch as little memory as it can.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

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

/// Sends one message made of `parts`; never raises SIGPIPE.
///
/// # Errors
/// sendmsg(2)'s; `EAGAIN` when the socket is full and either it or `flags` says not to wait.
pub(crate) fn send(socket: impl AsFd, parts: &[&[u8]], flags: SendFlags) -> io::Result<()> {
    let slices = [
        IoSlice::new(parts.first().copied().unwrap_or_default()),
        IoSlice::new(parts.get(1).copied().unwrap_or_default()),
    ];
    let mut nothing = SendAncillaryBuffer::default();
    retry(|| rustix::net::sendmsg(&socket, &slices, &mut nothing, flags | SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message into `buffer` and returns its length; 0 is the end of the connection.
///
/// A peer that closed without having read everything is reported by the kernel once, as a reset, ahead of what it had
/// sent before (unix(7)): that report is passed over, because its last messages matter.
///
/// # Errors
/// recv(2)'s, and `EMSGSIZE` for a message longer than the buffer.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let mut receive = || retry(|| rustix::net::recv(&socket, &mut *buffer, flags | RecvFlags::TRUNC));
    let (received, length) = match receive() {
        Err(rustix::io::Errno::CONNRESET) => receive(),
        other => other,
    }?;
    if length > received { Err(rustix::io::Errno::MSGSIZE.into()) } else { Ok(received) }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Space for the descriptors of one message: eight of them are 48 bytes, `CMSG_SPACE(8 * sizeof(int))`.
const CONTROL_SIZE: usize = 128;

/// Sends one message together with descriptors (unix(7) `SCM_RIGHTS`).
///
/// # Errors
/// sendmsg(2)'s.
pub(crate) fn send_with_descriptors(
    socket: impl AsFd,
    message: &[u8],
    descriptors: &[std::os::fd::BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::<u8>::uninit(); CONTROL_SIZE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(rustix::io::Errno::TOOBIG.into());
    }
    let parts = [IoSlice::new(message)];
    retry(|| rustix::net::sendmsg(&socket, &parts, &mut control, flags | SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message and its descriptors (close-on-exec); length 0 is the end of the connection. Resets are passed
/// over as in [`receive`].
///
/// # Errors
/// recvmsg(2)'s, and `EMSGSIZE` when the message or its descriptors did not fit.
pub(crate) fn receive_with_descriptors(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::<u8>::uninit(); CONTROL_SIZE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let mut receive = || retry(|| rustix::net::recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC));
    let received = match receive() {
        Err(rustix::io::Errno::CONNRESET) => receive(),
        other => other,
    }?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(rustix::io::Errno::MSGSIZE.into());
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

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

    #[test]
    fn a_message_larger_than_the_buffer_is_an_error_and_a_closed_peer_is_zero() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        send(&theirs, &[b"abc", b"def"], SendFlags::empty()).unwrap();
        send(&theirs, &[b"abcdef"], SendFlags::empty()).unwrap();
        let mut buffer = [0; 6];
        assert_eq!(receive(&ours, &mut buffer, RecvFlags::empty()).unwrap(), 6);
        assert_eq!(&buffer, b"abcdef");
        assert!(receive(&ours, &mut buffer[..3], RecvFlags::empty()).is_err());
        send(&ours, &[b"never read"], SendFlags::empty()).unwrap();
        send(&theirs, &[b"last"], SendFlags::empty()).unwrap();
        drop(theirs);
        assert_eq!(receive(&ours, &mut buffer, RecvFlags::empty()).unwrap(), 4);
        assert_eq!(receive(&ours, &mut buffer, RecvFlags::empty()).unwrap(), 0);
    }
}
