//! Brings the loopback interface of the current network namespace up, through one rtnetlink message.
//!
//! A new network namespace has `lo`, but down (network_namespaces(7)). rtnetlink(7): `RTM_NEWLINK` on interface
//! index 1 with `IFF_UP` in both flags and change mask; the kernel then adds 127.0.0.1/8 and ::1/128 itself.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// The loopback interface could not be brought up.
#[derive(Debug, thiserror::Error)]
#[error("bringing up the loopback interface: {0}")]
pub struct LoopbackError(#[from] pub io::Error);

/// Index of `lo` in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Sets `lo` up in the calling thread's network namespace.
///
/// # Errors
/// The kernel's answer to the request, or a failure of the netlink socket.
pub fn set_up() -> Result<(), LoopbackError> {
    let mut link = LinkMessage::default();
    link.header.index = LOOPBACK_INDEX;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.header.sequence_number = 1;
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);

    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io().into()),
        _ => Ok(()),
    }
}
