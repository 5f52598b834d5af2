//! How much containers may send and receive: accepted, changed while they run, shown, and taken away after them.
//!
//! Rates belong to the request; the shapers that keep them ([`hull_network::bandwidth`]) are found by a container's
//! places in networks. A start makes them with the interfaces. A shaper of what a container sends does not go with its
//! interface: the end of the run removes it before the place is given up, and a start that makes shapers first removes
//! those that nobody's interface needs any more.

use hull_kernel::netlink::route::Netlink;
use hull_network::bandwidth::{self, Bandwidth, BandwidthError, Shapers};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::list::network_name;
use crate::networks::{self, NetworkError};
use crate::request::{CreateContainer, NamespaceChoice};

fn host() -> Result<Netlink, EngineError> {
    Netlink::here().map_err(|source| BandwidthError::Socket(source).into())
}

impl Engine {
    /// Refuses rates of a container that has no interface for them, and bursts that make no sense.
    pub(crate) fn check_bandwidth(&self, request: &CreateContainer) -> Result<(), EngineError> {
        let wanted = &request.bandwidth;
        if wanted.is_default() {
            return Ok(());
        }
        if !matches!(request.network, NamespaceChoice::Network(_)) {
            return Err(EngineError::NothingToLimit { mode: network_name(&request.network) });
        }
        let networks = self.networks()?;
        for asked in &request.networks {
            match networks::resolve(&networks, &asked.network) {
                Ok(network) => wanted.check(network)?,
                Err(NetworkError::NotFound(network)) if self.cni_list(&network)?.is_some() => {
                    return Err(BandwidthError::Plugins { network }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Removes shapers that killed commands have left, whoever's they were.
    pub(crate) fn sweep_shapers(&self) -> Result<(), EngineError> {
        let swept = bandwidth::sweep(&host()?)?;
        if swept > 0 {
            tracing::info!("{swept} shapers of interfaces that are no more were removed");
        }
        Ok(())
    }

    /// Has the rates of a running container be these, and no longer those before.
    pub(crate) fn limit_bandwidth(
        &self,
        id: &ContainerId,
        before: &Bandwidth,
        wanted: &Bandwidth,
    ) -> Result<(), EngineError> {
        let host = host()?;
        for (network, endpoint) in self.places_of(id)? {
            bandwidth::limit(&host, &network, &endpoint, wanted)?;
        }
        match (before.is_unlimited(), wanted.is_unlimited()) {
            (true, false) => self.close_shortcut(id),
            (_, true) => {
                let mut record = self.record(id)?;
                record.request.bandwidth = *wanted;
                self.open_shortcut(&record)
            }
            (false, false) => Ok(()),
        }
    }

    /// What the kernel does about a running container's interface.
    pub(crate) fn shapers(&self, interface: &str) -> Result<Shapers, EngineError> {
        Ok(bandwidth::shapers(&host()?, interface)?)
    }

    /// Removes what has shaped a container's interfaces.
    pub(crate) fn release_shapers(&self, id: &ContainerId) -> Result<(), EngineError> {
        let places = self.places_of(id)?;
        let mut ends = places.iter().filter_map(|(_, endpoint)| endpoint.host_interface.as_deref()).peekable();
        if ends.peek().is_none() {
            return Ok(());
        }
        let host = host()?;
        ends.try_for_each(|interface| Ok(bandwidth::release(&host, interface)?))
    }
}
