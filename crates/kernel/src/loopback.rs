//! Brings the loopback interface of the current network namespace up, through one rtnetlink message.
//!
//! A new network namespace has `lo`, but down (network_namespaces(7)). rtnetlink(7): `RTM_NEWLINK` on interface
//! index 1 with `IFF_UP` in both flags and change mask; the kernel then adds 127.0.0.1/8 and ::1/128 itself.

use std::io;

use crate::netlink::route::{LOOPBACK, Netlink};

/// The loopback interface could not be brought up.
#[derive(Debug, thiserror::Error)]
#[error("bringing up the loopback interface: {0}")]
pub struct LoopbackError(#[from] pub io::Error);

/// Sets `lo` up in the calling thread's network namespace.
///
/// # Errors
/// The kernel's answer to the request, or a failure of the netlink socket.
pub fn set_up() -> Result<(), LoopbackError> {
    Ok(Netlink::here()?.set_up(LOOPBACK, true)?)
}
