//! A container's network that others share (`--network container:ID`), after its owner's end.
//!
//! Interfaces go with their namespace, and that goes with its last process. One that a sharer keeps would keep the
//! owner's addresses, which others are given then: so a sharer leaves its id in the owner's state folder before it opens
//! the namespace, and the owner's end takes the interfaces out of it. The sharer has its loopback left, as with docker.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use hull_kernel::netlink::route::Netlink;
use hull_network::interfaces;
use hull_network::plan::namespace_of;
use hull_supervisor::record::LiveState;

use super::NetworkError;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::prepare::MAXIMUM_LENDERS;
use crate::record::ContainerRecord;
use crate::request::NamespaceChoice;

/// In the owner's state folder: the ids of those that share its network, each on a line.
const SHARERS_FILE: &str = "network-sharers";

/// Others that have a container's network.
#[derive(Debug)]
pub(crate) struct Sharers {
    /// The first process of one that runs.
    pid: Option<i32>,
}

impl Sharers {
    /// The namespace, as long as somebody runs in it.
    pub(crate) fn namespace(&self) -> Option<PathBuf> {
        self.pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")))
    }
}

impl Engine {
    /// Notes that a container is about to open the network namespace of another.
    pub(crate) fn note_sharer(&self, sharer: &ContainerId, lender: &ContainerRecord) -> Result<(), EngineError> {
        let mut owner = lender.clone();
        // A circle of them has no owner.
        for _ in 0..MAXIMUM_LENDERS {
            let NamespaceChoice::Container(next) = &owner.request.network else { break };
            match self.row(next) {
                Ok(row) => owner = self.record(&row.id)?,
                // Ended and removed: its interfaces have gone.
                Err(EngineError::NoSuchContainer { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let path = self.state_dir(&owner.id).join(SHARERS_FILE);
        let file = OpenOptions::new().append(true).create(true).open(&path);
        match file.and_then(|mut file| writeln!(file, "{sharer}")) {
            // The owner has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(EngineError::path("write", &path)),
        }
    }

    /// Those that have joined the network of a container that has ended.
    pub(crate) fn sharers(&self, owner: &ContainerId) -> Result<Option<Sharers>, EngineError> {
        let path = self.state_dir(owner).join(SHARERS_FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(EngineError::path("read", &path))?,
        };
        for id in text.lines() {
            let live = LiveState::read(&self.roots().runtime_state(id))?;
            if let Some(live) = live.filter(LiveState::is_running) {
                return Ok(Some(Sharers { pid: Some(live.pid) }));
            }
        }
        Ok(Some(Sharers { pid: None }))
    }

    /// Takes the interfaces of a container that has ended out of the namespace that others have.
    pub(crate) fn take_interfaces(&self, owner: &ContainerId, sharers: &Sharers) -> Result<(), EngineError> {
        let host = Netlink::here().map_err(NetworkError::Socket)?;
        // Without one that runs the host's ends are removed all the same: somebody may have opened it and not started yet.
        let namespace = sharers.pid.and_then(|pid| namespace_of(pid).ok());
        for (network, endpoint) in self.places_of(owner)? {
            let namespace = namespace.as_ref().map(AsFd::as_fd);
            interfaces::leave(&host, &network, &endpoint, namespace).map_err(NetworkError::from)?;
        }
        Ok(())
    }
}
