//! Packets on a connection, each behind two bytes of length (RFC 1035 section 4.2.2; RFC 7766), without waiting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Length of a length.
const LENGTH_BYTES: usize = 2;
/// How much is received at a time.
const CHUNK_BYTES: usize = 4096;

/// One end of a connection, with what has been received and not been taken, and what is to be sent.
#[derive(Debug)]
pub struct PacketStream {
    socket: OwnedFd,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// The other end sends nothing more.
    ended: bool,
}

impl PacketStream {
    /// Of a socket that does not block.
    pub fn new(socket: OwnedFd) -> PacketStream {
        PacketStream { socket, incoming: Vec::new(), outgoing: Vec::new(), ended: false }
    }

    /// Takes what has arrived, at most so much of it as one packet can be.
    ///
    /// # Errors
    /// The connection's.
    pub fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; CHUNK_BYTES];
        while !self.ended && self.incoming.len() < LENGTH_BYTES + usize::from(u16::MAX) {
            match rustix::net::recv(&self.socket, &mut chunk, RecvFlags::empty()) {
                Ok((0, _)) => self.ended = true,
                Ok((length, _)) => self.incoming.extend_from_slice(&chunk[..length]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// The next packet that is there as a whole.
    pub fn next_packet(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes(*self.incoming.first_chunk()?));
        let packet = self.incoming.get(LENGTH_BYTES..LENGTH_BYTES + length)?.to_vec();
        self.incoming.drain(..LENGTH_BYTES + length);
        Some(packet)
    }

    /// Appends a packet to what is to be sent; one that is too long for its length is not one.
    pub fn push(&mut self, packet: &[u8]) {
        if let Ok(length) = u16::try_from(packet.len()) {
            self.outgoing.extend_from_slice(&length.to_be_bytes());
            self.outgoing.extend_from_slice(packet);
        }
    }

    /// Sends as much as is taken.
    ///
    /// # Errors
    /// The connection's.
    pub fn send(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match rustix::net::send(&self.socket, &self.outgoing, SendFlags::NOSIGNAL) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// How many bytes are to be sent.
    pub fn unsent_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether the other end sends nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

impl AsFd for PacketStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn packets_come_whole_however_they_are_cut() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = PacketStream::new(ours.into());
        let mut taken = Vec::new();
        for byte in [0u8, 3, b'a', b'b', b'c', 0, 0, 0, 1, b'd', 0, 9] {
            theirs.write_all(&[byte]).unwrap();
            stream.receive().unwrap();
            taken.extend(stream.next_packet());
        }
        assert_eq!(taken, [b"abc".to_vec(), Vec::new(), b"d".to_vec()]);
        assert!(!stream.has_ended());
        stream.push(b"answer");
        stream.push(&vec![0; 70_000]);
        stream.send().unwrap();
        assert_eq!(stream.unsent_bytes(), 0);
        let mut answer = [0; 8];
        theirs.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"\0\x06answer");
        drop(theirs);
        stream.receive().unwrap();
        assert!(stream.has_ended() && stream.next_packet().is_none());
        stream.push(b"too late");
        assert!(stream.send().is_err());
    }
}
