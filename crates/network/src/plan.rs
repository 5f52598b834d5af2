//! What a start does to the kernel's network: decided before the container's process exists, done beside it.
//!
//! ```text
//! bridge, if missing       host   interface, addresses, up
//! pair of interfaces       host   its other end is in the container's namespace from the beginning
//! addresses, up, routes    container
//! elements of the table    host   the whole table when somebody has flushed it
//! forwarding               host   when it was off
//! ```
//! The container's program is not executed before all of it is done.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use hull_kernel::netlink::route::Netlink;

use crate::bridge::{self, BridgeError, ChangedSetting};
use crate::firewall::{Firewall, FirewallError, Segment};
use crate::network::{Endpoint, Network};

/// The networks of one start.
#[derive(Debug, Clone)]
pub struct NetworkPlan {
    /// Each network, and the container's place in it; the first one has the default routes.
    pub attachments: Vec<(Network, Endpoint)>,
    /// The instance's table.
    pub firewall: Firewall,
    /// All networks of the instance, for when the table is missing.
    pub networks: Vec<Network>,
}

/// A network that a container is not in.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Interfaces, addresses, routes.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// Rules.
    #[error("setting the firewall's rules for network {network}")]
    Firewall {
        /// Of which network.
        network: String,
        /// Why.
        #[source]
        source: FirewallError,
    },
    /// No conversation with the kernel.
    #[error("opening a netlink socket")]
    Socket(#[source] io::Error),
    /// The namespace could not be opened.
    #[error("opening {path}")]
    Namespace {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl NetworkPlan {
    /// Puts the process' network namespace into the networks. Tells what was changed of the host's settings.
    ///
    /// The calling thread must be the only one of its process.
    ///
    /// # Errors
    /// [`PlanError`]; what was made goes with the namespace.
    pub fn wire(&self, pid: i32) -> Result<Vec<ChangedSetting>, PlanError> {
        let mut changed = Vec::new();
        if self.attachments.is_empty() {
            return Ok(changed);
        }
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let namespace = File::open(&path).map_err(|source| PlanError::Namespace { path, source })?;
        let host = Netlink::here().map_err(PlanError::Socket)?;
        for (position, (network, endpoint)) in self.attachments.iter().enumerate() {
            let bridge = bridge::ensure(&host, network)?;
            bridge::attach(&host, bridge, network, endpoint, namespace.as_fd(), position == 0)?;
            self.admit(network)?;
            bridge::open_loopback(network)?;
            changed.extend(bridge::forward(network)?);
        }
        Ok(changed)
    }

    /// The network's elements of the table.
    fn admit(&self, network: &Network) -> Result<(), PlanError> {
        let failed = |source| PlanError::Firewall { network: network.name.clone(), source };
        match self.firewall.add_network(&Segment::from(network)) {
            Err(error) if error.is_missing() => {
                let segments: Vec<Segment> = self.networks.iter().map(Segment::from).collect();
                self.firewall.ensure(&segments, &[]).map_err(failed)
            }
            result => result.map_err(failed),
        }
    }
}

impl From<&Network> for Segment {
    fn from(network: &Network) -> Segment {
        Segment {
            bridge: network.bridge.clone(),
            subnets: network.subnets.iter().map(|subnet| (subnet.cidr.address, subnet.cidr.prefix)).collect(),
            internal: network.internal,
        }
    }
}
