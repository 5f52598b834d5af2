//! What is done to the network beside a container's process before its program runs.
//!
//! Interfaces, addresses and rules first, then the sockets by which it asks for names. The way of those to the resolver is
//! not waited for: what is asked before the resolver has them waits in them.

use hull_network::dns::registration::{Held, Order, RegistrationError};
use hull_network::{NetworkPlan, PlanError};

/// The network of one start.
#[derive(Debug, Clone)]
pub(crate) struct Wiring {
    /// Networks.
    pub(crate) network: NetworkPlan,
    /// Names, for a container whose resolv.conf leads to Hull's resolver.
    pub(crate) names: Option<Order>,
}

/// A container without its network.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// Networks.
    #[error(transparent)]
    Network(#[from] PlanError),
    /// Names.
    #[error(transparent)]
    Names(#[from] RegistrationError),
}

impl Wiring {
    /// Does it for the network namespace of a process. The calling process must have one thread.
    ///
    /// # Errors
    /// [`WiringError`]; what was made goes with the process.
    pub(crate) fn wire(&self, pid: i32) -> Result<Option<Held>, WiringError> {
        self.network.wire(pid)?;
        Ok(self.names.as_ref().map(|names| names.begin(pid)).transpose()?)
    }
}
