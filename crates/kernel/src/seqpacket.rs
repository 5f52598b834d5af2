//! Messages between processes of this machine, with descriptors (unix(7): `SOCK_SEQPACKET`, `SCM_RIGHTS`).
//!
//! The socket keeps message boundaries, so a message needs no length. Nothing here raises SIGPIPE, and a descriptor that
//! arrives is close-on-exec. What the bytes mean is the business of whoever sends them.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Sends one message made of `parts`; never raises SIGPIPE.
///
/// # Errors
/// sendmsg(2)'s; `EAGAIN` when the socket is full and either it or `flags` says not to wait.
pub fn send(socket: impl AsFd, parts: &[&[u8]], flags: SendFlags) -> io::Result<()> {
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
pub fn receive(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
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
pub fn send_with_descriptors(
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
pub fn receive_with_descriptors(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
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
