//! Publishing a container's ports: at its start, at its end, and while it runs.
//!
//! What is published is decided when the container has its addresses: ports of the host are chosen and held, noted in
//! the database ([`hull_network::claims`]), then put into the firewall's table. At the end it goes the other way round, so
//! that the table never leads to a container whose port is another's already. Rows that a kill left are taken away with
//! the rest of the run (cleanup.rs) or after a boot.

use std::net::IpAddr;
use std::path::Path;

use hull_network::NetworkPlan;
use hull_network::claims::{self, Chosen, ClaimError, Taken};
use hull_network::firewall::policy::{self, HostPolicy};
use hull_network::firewall::{Publication, Segment};
use hull_network::ports::{ContainerPort, HostPort, PortRequest};
use hull_network::publishing::{Inside, Reach};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::list::{network_name, network_names};
use crate::networks::{self, brought, places};
use crate::record::ContainerRecord;
use crate::request::{CreateContainer, NamespaceChoice};
use crate::spec::Effective;

/// How often free ports are chosen again that another container was given meanwhile.
const ATTEMPTS: usize = 8;

/// Who reaches a published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The port.
    pub publication: Publication,
    /// Who.
    pub reach: Reach,
}

impl Engine {
    /// What the host's own firewall says now.
    pub(crate) fn host_policy(&self) -> Result<HostPolicy, EngineError> {
        policy::read(Path::new("/etc")).map_err(EngineError::HostFirewall)
    }

    /// Refuses ports of a container that has no network to publish them from.
    pub(crate) fn check_ports(&self, request: &CreateContainer) -> Result<(), EngineError> {
        let has_network = matches!(request.network, NamespaceChoice::Network(_));
        match has_network || (request.published_ports.is_empty() && !request.publish_all) {
            true => Ok(()),
            false => Err(EngineError::NothingToPublish { mode: network_name(&request.network) }),
        }
    }

    /// Publishes what a container that is about to start wants published, and brings the firewall's table back when it is
    /// missing, so that the other containers' ports come back as well.
    pub(crate) fn publish_at_start(&self, record: &ContainerRecord, plan: &NetworkPlan) -> Result<(), EngineError> {
        let requests = port_requests(record);
        if plan.attachments.is_empty() && plan.cni.is_none() {
            return self.check_ports(&record.request);
        }
        if !self.firewall().is_there()? {
            self.restore_firewall()?;
        }
        match places::publishing(&plan.attachments) {
            Some((_, place)) => self.publish_ports(&record.id, &requests, places::inside(place)),
            None if requests.is_empty() || plan.cni.as_ref().is_some_and(brought::publishes) => Ok(()),
            None => Err(EngineError::NothingToPublish { mode: network_names(&record.request).join(", ") }),
        }
    }

    /// Publishes ports of a container that has its addresses.
    ///
    /// # Errors
    /// A port that is taken, by name; nothing is published then.
    pub(crate) fn publish_ports(
        &self,
        id: &ContainerId,
        requests: &[PortRequest],
        inside: Inside,
    ) -> Result<(), EngineError> {
        if requests.is_empty() {
            return Ok(());
        }
        let mut publications = self.claim_ports(id, requests, inside)?;
        let policy = self.host_policy()?;
        self.decide_reach(&mut publications, &policy)?;
        let published = match self.firewall().publish(&publications) {
            Err(error) if error.is_missing() => self.restore_firewall(),
            result => result.map_err(EngineError::from),
        };
        published.inspect_err(|_| {
            let released = self.store().write(|tx| claims::release_some(tx, id.as_str(), &publications));
            if let Err(error) = released {
                tracing::warn!(%id, %error, "releasing ports that were not published");
            }
        })
    }

    /// Publishes what a container that runs wants published, now that it has a place for it.
    pub(crate) fn publish_now(&self, record: &ContainerRecord, inside: Inside) -> Result<(), EngineError> {
        self.publish_ports(&record.id, &port_requests(record), inside)?;
        self.open_shortcut(record)
    }

    /// Ports of the host, noted as the container's.
    fn claim_ports(
        &self,
        id: &ContainerId,
        requests: &[PortRequest],
        inside: Inside,
    ) -> Result<Vec<Publication>, EngineError> {
        let is_fixed = requests.iter().all(|request| matches!(request.host_port, HostPort::Port(_)));
        for attempt in 1.. {
            let taken = self.store().read(Taken::read)?;
            let chosen = Chosen::choose(requests, inside, &taken)?;
            match self.store().write(|tx| {
                claims::release_ended(tx)?;
                claims::note(tx, id.as_str(), &chosen.publications)
            }) {
                Ok(()) => return Ok(chosen.publications),
                Err(ClaimError::Published { .. }) if !is_fixed && attempt < ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the last attempt returns")
    }

    fn decide_reach(&self, publications: &mut [Publication], policy: &HostPolicy) -> Result<(), EngineError> {
        let allowed = &self.configuration()?.publish.allow;
        for publication in publications {
            publication.open = Reach::of(publication, policy, allowed).is_open();
        }
        Ok(())
    }

    /// Withdraws all ports of a container.
    ///
    /// # Errors
    /// The firewall's and the database's.
    pub(crate) fn withdraw_ports(&self, id: &ContainerId) -> Result<(), EngineError> {
        let publications = self.published_ports(id)?;
        if publications.is_empty() {
            return Ok(());
        }
        self.firewall().withdraw(&publications, &[])?;
        Ok(self.store().write(|tx| claims::release(tx, id.as_str()))?)
    }

    /// Publishes more ports of a container, at once when it runs, and at its next starts.
    ///
    /// # Errors
    /// A port that is taken, by name; nothing is published then.
    pub fn add_ports(&self, name: &str, requests: &[PortRequest]) -> Result<(), EngineError> {
        let row = self.row(name)?;
        let record = self.record(&row.id)?;
        let nothing = || EngineError::NothingToPublish { mode: network_names(&record.request).join(", ") };
        if !matches!(record.request.network, NamespaceChoice::Network(_)) {
            return Err(nothing());
        }
        if self.state_of(&row)?.is_running() {
            let places = self.places_of(&row.id)?;
            let (_, place) = places::publishing(&places).ok_or_else(nothing)?;
            self.publish_ports(&row.id, requests, places::inside(place))?;
            self.open_shortcut(&record)?;
        }
        self.change_request(&row.id, |request| {
            request.published_ports.extend(requests.iter().copied());
            Ok(())
        })
    }

    /// Withdraws ports of a container, at once when it runs, and at its next starts.
    ///
    /// # Errors
    /// A port that is not published, by name; nothing is withdrawn then.
    pub fn remove_ports(&self, name: &str, ports: &[ContainerPort]) -> Result<(), EngineError> {
        let row = self.row(name)?;
        let record = self.record(&row.id)?;
        let (withdrawn, left): (Vec<_>, Vec<_>) =
            self.published_ports(&row.id)?.into_iter().partition(|one| ports.contains(&one.inside()));
        for port in ports {
            let is_it = |asked: &PortRequest| asked.inside() == *port;
            if !withdrawn.iter().any(|one| one.inside() == *port) && !record.request.published_ports.iter().any(is_it) {
                return Err(EngineError::NotPublished { port: port.to_string(), name: record.name });
            }
        }
        self.withdraw_some(&row.id, &withdrawn, &left)?;
        self.change_request(&row.id, |request| {
            request.published_ports.retain(|asked| !ports.contains(&asked.inside()));
            Ok(())
        })
    }

    /// Withdraws the ports of a container that lead to some of its addresses.
    pub(crate) fn withdraw_from(&self, id: &ContainerId, inside: Inside) -> Result<(), EngineError> {
        let is_inside = |one: &Publication| match one.address {
            IpAddr::V4(address) => inside.ipv4 == Some(address),
            IpAddr::V6(address) => inside.ipv6 == Some(address),
        };
        let (withdrawn, left): (Vec<_>, Vec<_>) = self.published_ports(id)?.into_iter().partition(is_inside);
        self.withdraw_some(id, &withdrawn, &left)
    }

    /// Withdraws some ports of a container that has others left.
    fn withdraw_some(
        &self,
        id: &ContainerId,
        withdrawn: &[Publication],
        left: &[Publication],
    ) -> Result<(), EngineError> {
        if withdrawn.is_empty() {
            return Ok(());
        }
        let mut left = left.to_vec();
        self.decide_reach(&mut left, &self.host_policy()?)?;
        self.firewall().withdraw(withdrawn, &left)?;
        Ok(self.store().write(|tx| claims::release_some(tx, id.as_str(), withdrawn))?)
    }

    /// Makes the firewall's table anew from what the store knows, and tells of other tables that no rule of Hull's can open.
    pub(crate) fn restore_firewall(&self) -> Result<(), EngineError> {
        let policy = self.host_policy()?;
        for closed in &policy.forward {
            tracing::warn!("{closed}: networks reach other hosts, and others them, only where its own rules let them");
        }
        let mut publications = self.store().read(claims::all)?.into_iter().map(|(_, one)| one).collect::<Vec<_>>();
        self.decide_reach(&mut publications, &policy)?;
        let segments: Vec<_> = self.store().read(networks::all)?.iter().filter_map(Segment::of).collect();
        Ok(self.firewall().ensure(&segments, &publications)?)
    }

    /// The published ports of a container, by port; none when it does not run.
    ///
    /// # Errors
    /// No such container; the database's.
    pub fn ports(&self, name: &str) -> Result<Vec<Publication>, EngineError> {
        let row = self.row(name)?;
        match self.state_of(&row)?.is_running() {
            true => self.published_ports(&row.id),
            false => Ok(Vec::new()),
        }
    }

    /// The ports that are noted as the container's, also those of a run that was not cleaned up.
    pub(crate) fn published_ports(&self, id: &ContainerId) -> Result<Vec<Publication>, EngineError> {
        Ok(self.store().read(|db| claims::of_container(db, id.as_str()))?)
    }

    /// Who reaches each published port of a container, and what the host's firewall says.
    ///
    /// # Errors
    /// No such container; the kernel's and the database's.
    pub fn port_reach(&self, name: &str) -> Result<(Vec<Reached>, HostPolicy), EngineError> {
        let publications = self.ports(name)?;
        let policy = self.host_policy()?;
        let allowed = &self.configuration()?.publish.allow;
        let reached = publications
            .into_iter()
            .map(|publication| Reached { reach: Reach::of(&publication, &policy, allowed), publication });
        Ok((reached.collect(), policy))
    }
}

/// What a container wants published: what was asked for, and with `-P` what is exposed besides.
pub(crate) fn port_requests(record: &ContainerRecord) -> Vec<PortRequest> {
    let request = &record.request;
    let mut requests = request.published_ports.clone();
    if request.publish_all {
        let exposed = Effective::merge(request, &record.image_config).exposed_ports;
        for ContainerPort { port, protocol } in exposed.iter().filter_map(|port| port.parse().ok()) {
            let is_asked_for = |asked: &PortRequest| (asked.port, asked.protocol) == (port, protocol);
            if !requests.iter().any(is_asked_for) {
                requests.push(PortRequest { host_address: None, host_port: HostPort::Free, port, protocol });
            }
        }
    }
    requests
}
