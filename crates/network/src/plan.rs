//! What a start does to the kernel's network: decided before the container's process exists, done beside it.
//!
//! ```text
//! bridge, if missing       host   interface, addresses, up
//! pair of interfaces       host   its other end is in the container's namespace from the beginning
//! addresses, up, routes    container
//! rates, if it has any     host
//! elements of the table    host   the whole table when somebody has flushed it
//! shortcut to itself       host   if it publishes ports, and the kernel has what it takes
//! plugins of the user      cni/
//! ```
//! The container's program is not executed before all of it is done.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use hull_kernel::netlink::route::Netlink;

use crate::bandwidth::{self, Bandwidth, BandwidthError};
use crate::cni::{self, CniError, Outcome};
use crate::firewall::{Firewall, FirewallError, Segment};
use crate::interfaces::{self, InterfaceError};
use crate::network::{Endpoint, Network};
use crate::shortcut::{self, Requirements, Shortcut};

/// The networks of one start.
#[derive(Debug, Clone)]
pub struct NetworkPlan {
    /// Each network, and the container's place in it.
    pub attachments: Vec<(Network, Endpoint)>,
    /// Through which of them goes what belongs to no subnet.
    pub routes_at: Option<usize>,
    /// The instance's table.
    pub firewall: Firewall,
    /// All networks of the instance, for when the table is missing.
    pub networks: Vec<Network>,
    /// What the container may send and receive on each of its interfaces.
    pub bandwidth: Bandwidth,
    /// The container's way to its own published ports.
    pub shortcut: Option<(Requirements, Shortcut)>,
    /// Networks that the user's plugins make, after Hull's.
    pub cni: Option<CniPlan>,
}

/// The places of one start that plugins make.
#[derive(Debug, Clone)]
pub struct CniPlan {
    /// Each place; none has a result yet.
    pub attachments: Vec<cni::Attachment>,
    /// Where it is noted what they answer.
    pub names: CniNames,
}

/// The name files of a container with such places: what plugins answer is only known when the files are in use.
#[derive(Debug, Clone)]
pub struct CniNames {
    /// The container's folder.
    pub folder: PathBuf,
    /// The container's own names, as they stand in /etc/hosts.
    pub own: String,
    /// Whether it is to have the name servers that plugins tell of.
    pub servers: bool,
}

/// A network that a container is not in.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Interfaces, addresses, routes.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// Rules.
    #[error("setting the firewall's rules for network {network}")]
    Firewall {
        /// Of which network.
        network: String,
        /// Why.
        #[source]
        source: FirewallError,
    },
    /// A plugin's.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// A name file.
    #[error("writing {}", path.display())]
    NameFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Rates.
    #[error(transparent)]
    Bandwidth(#[from] BandwidthError),
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
    /// Puts a process' network namespace into the networks. The calling thread is in the namespace for moments.
    ///
    /// # Errors
    /// [`PlanError`]; what was made goes with the namespace.
    pub fn wire(&self, pid: i32) -> Result<(), PlanError> {
        if !self.attachments.is_empty() {
            self.wire_own(pid)?;
        }
        self.cni.as_ref().map_or(Ok(()), |plan| plan.wire(pid))
    }

    fn wire_own(&self, pid: i32) -> Result<(), PlanError> {
        let namespace = namespace_of(pid)?;
        let host = Netlink::here().map_err(PlanError::Socket)?;
        for (position, (network, endpoint)) in self.attachments.iter().enumerate() {
            interfaces::join(&host, network, endpoint, namespace.as_fd(), self.routes_at == Some(position))?;
            if !self.bandwidth.is_unlimited() {
                bandwidth::limit(&host, network, endpoint, &self.bandwidth)?;
            }
            self.admit(network)?;
            interfaces::open_loopback(network)?;
        }
        if let Some((requirements, wanted)) = &self.shortcut {
            // Without it packets go the long way.
            let _ = shortcut::open(&host, requirements, wanted);
        }
        Ok(())
    }

    /// The network's elements of the table.
    fn admit(&self, network: &Network) -> Result<(), PlanError> {
        let Some(segment) = Segment::of(network) else { return Ok(()) };
        let failed = |source| PlanError::Firewall { network: network.name.clone(), source };
        match self.firewall.add_network(&segment) {
            Err(error) if error.is_missing() => {
                let segments: Vec<Segment> = self.networks.iter().filter_map(Segment::of).collect();
                self.firewall.ensure(&segments, &[]).map_err(failed)
            }
            result => result.map_err(failed),
        }
    }
}

impl CniPlan {
    fn wire(&self, pid: i32) -> Result<(), PlanError> {
        let namespace = PathBuf::from(format!("/proc/{pid}/ns/net"));
        for attachment in &self.attachments {
            let outcome = attachment.clone().add(&namespace, &self.names.folder)?;
            self.names.add(&outcome)?;
        }
        Ok(())
    }
}

impl CniNames {
    /// Adds what plugins have told of a network.
    ///
    /// # Errors
    /// [`PlanError::NameFile`].
    pub fn add(&self, outcome: &Outcome) -> Result<(), PlanError> {
        let own = outcome.addresses.iter().map(|own| format!("{}\t{}\n", own.address, self.own));
        self.append("hosts", &own.collect::<String>())?;
        if !self.servers {
            return Ok(());
        }
        let servers = outcome.servers.iter().map(|server| format!("nameserver {server}\n"));
        self.append("resolv.conf", &servers.collect::<String>())
    }

    fn append(&self, name: &str, lines: &str) -> Result<(), PlanError> {
        let path = self.folder.join(name);
        let file = File::options().append(true).open(&path);
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(|source| PlanError::NameFile { path, source })
    }
}

impl Segment {
    /// What the firewall has to know of a network; nothing of one without a bridge.
    pub fn of(network: &Network) -> Option<Segment> {
        Some(Segment {
            bridge: network.bridge()?.to_owned(),
            subnets: network.subnets.iter().map(|subnet| (subnet.cidr.address, subnet.cidr.prefix)).collect(),
            internal: network.internal,
        })
    }
}

/// The network namespace of a process.
///
/// # Errors
/// [`PlanError::Namespace`].
pub fn namespace_of(pid: i32) -> Result<File, PlanError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    File::open(&path).map_err(|source| PlanError::Namespace { path, source })
}
