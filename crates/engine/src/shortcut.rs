//! The shortcut of a container to its own published ports ([`hull_network::shortcut`]): which containers have one.
//!
//! A start opens it with the container's interfaces; ports that are published later open it then, for connections to any
//! port, because one that was published before may still be in use. Rates close it, and their removal opens it again.
//! `[network] shortcut = false` is for those who want to see every packet.

use std::net::IpAddr;

use hull_kernel::netlink::route::Netlink;
use hull_network::firewall::Publication;
use hull_network::ports::Protocol;
use hull_network::shortcut::{self, Requirements, Shortcut};
use hull_network::{Endpoint, Network};
use hull_store::{Lease, SHORTCUT_REQUIREMENTS, fact, remember};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::networks::places;
use crate::record::ContainerRecord;

impl Engine {
    /// The shortcut for a container in these places, if it publishes ports that can have one.
    pub(crate) fn shortcut(
        &self,
        record: &ContainerRecord,
        attached: &[(Network, Endpoint)],
    ) -> Result<Option<(Requirements, Shortcut)>, EngineError> {
        let published = self.published_ports(&record.id)?;
        let is_taken = |one: &&Publication| one.protocol == Protocol::Tcp && one.address.is_ipv4();
        let ports = || published.iter().filter(is_taken).map(|one| one.host_port);
        let (Some(first), Some(last)) = (ports().min(), ports().max()) else { return Ok(None) };
        let Some((network, endpoint)) = places::publishing(attached) else { return Ok(None) };
        let gateway = network.subnet_v4().map(|subnet| subnet.gateway);
        let address = places::inside(endpoint).ipv4;
        let (Some(IpAddr::V4(gateway)), Some(address)) = (gateway, address) else { return Ok(None) };
        let Some(interface) = endpoint.host_interface.clone() else { return Ok(None) };
        if !record.request.bandwidth.is_unlimited() || !self.configuration()?.network.shortcut {
            return Ok(None);
        }
        let wanted = Shortcut { interface, address, gateway, ports: first..=last };
        Ok(self.shortcut_requirements()?.map(|requirements| (requirements, wanted)))
    }

    /// Opens the shortcut of a container that runs and now publishes ports, or whose rates were removed.
    pub(crate) fn open_shortcut(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        let id = &record.id;
        let Some((requirements, wanted)) = self.shortcut(record, &self.places_of(id)?)? else { return Ok(()) };
        let wanted = Shortcut { ports: 1..=u16::MAX, ..wanted };
        if let Err(error) = Netlink::here().and_then(|host| shortcut::open(&host, &requirements, &wanted)) {
            tracing::debug!(%id, %error, "no shortcut");
        }
        Ok(())
    }

    /// Has the connections that a container has with itself go on without the shortcut, which rates have taken away.
    pub(crate) fn close_shortcut(&self, id: &ContainerId) -> Result<(), EngineError> {
        for (_, endpoint) in self.places_of(id)? {
            let Some(address) = places::inside(&endpoint).ipv4 else { continue };
            if let Err(error) = shortcut::close(address) {
                tracing::warn!(%id, %error, "connections of the container with its own published ports may end");
            }
        }
        Ok(())
    }

    /// What was found out about the kernel since the machine was started, or is now; nothing when it lacks something.
    fn shortcut_requirements(&self) -> Result<Option<Requirements>, EngineError> {
        let lease = Lease::current()?;
        let (_, _, boot) = lease.columns();
        let known = self.store().read(|db| Ok::<_, EngineError>(fact(db, SHORTCUT_REQUIREMENTS)?))?;
        if let Some(text) = known.as_deref().and_then(|text| text.strip_prefix(boot)) {
            return Ok(serde_json::from_str(text).unwrap_or_default());
        }
        let found = Requirements::look().inspect_err(|error| tracing::debug!(%error, "no shortcuts")).ok();
        let text = serde_json::to_string(&found).unwrap_or_default();
        self.store()
            .write(|tx| Ok::<_, EngineError>(remember(tx, SHORTCUT_REQUIREMENTS, &format!("{boot}{text}"))?))?;
        Ok(found)
    }
}
