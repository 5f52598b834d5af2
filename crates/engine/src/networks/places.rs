//! The places that containers have in networks while they run.
//!
//! A place is a row: inserted by the start or by `network connect`, in one transaction with the choice of its address, so
//! that no address is given twice; deleted when the run is cleaned up, which the crash sweep does for killed commands. A
//! row of another boot is of a container that does not run, and is deleted by the next start. The kernel's part is
//! [`NetworkPlan`]'s, in the process that makes the container's.
//!
//! ```text
//! connect      row and request, in one transaction → interface → table → ports, if it had nowhere to publish them
//! disconnect   ports → request → interface → row → ports at another place; then the default route by another place
//! ```
//! A kill on the way leaves a row, which says truly where the interface is or was meant to be: `disconnect` goes through
//! with it, and so does the end of the run.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use hull_kernel::netlink::route::Netlink;
use hull_network::network::DEFAULT_NETWORK;
use hull_network::plan::namespace_of;
use hull_network::publishing::Inside;
use hull_network::settings::{self, ChangedSetting};
use hull_network::{Cidr, Endpoint, Mac, Network, NetworkPlan, PlanError, Subnet, bandwidth, interfaces};
use hull_store::{CHANGED_SETTING, Lease, StoreError, facts_with, remember};
use rusqlite::{Connection, Transaction, params};

use super::brought::{self, Brought};
use super::{NetworkError, all, find, resolve};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::{ContainerId, random_hex};
use crate::list::network_name;
use crate::record::ContainerRecord;
use crate::request::{CreateContainer, NamespaceChoice, NetworkRequest};

/// Gives up all places of a container.
pub(crate) fn release(tx: &Transaction<'_>, id: &ContainerId) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM endpoints WHERE container_id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

/// Gives up one place.
fn give_up(tx: &Transaction<'_>, endpoint: &Endpoint) -> Result<(), StoreError> {
    tx.execute("DELETE FROM endpoints WHERE id = ?1", [&endpoint.id])?;
    Ok(())
}

/// The places of the containers of a network, or of all.
pub(crate) fn in_network(db: &Connection, network_id: Option<&str>) -> Result<Vec<Endpoint>, EngineError> {
    let mut statement = db.prepare_cached(
        "SELECT definition FROM endpoints WHERE ?1 IS NULL OR network_id = ?1 ORDER BY network_id, container_id",
    )?;
    let texts = statement.query_map([network_id], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    texts.iter().map(|text| Ok(serde_json::from_str(text).map_err(NetworkError::Damaged)?)).collect()
}

/// A container's networks and its places in them, in the order of their interfaces.
fn of_container(db: &Connection, id: &ContainerId) -> Result<Vec<(Network, Endpoint)>, EngineError> {
    let mut statement = db.prepare_cached(
        "SELECT networks.definition, endpoints.definition FROM endpoints
         JOIN networks ON networks.id = endpoints.network_id WHERE container_id = ?1",
    )?;
    let rows = statement.query_map([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows = rows.collect::<Result<Vec<(String, String)>, _>>()?;
    let read = |(network, endpoint): &(String, String)| {
        let network: Network = serde_json::from_str(network)?;
        Ok((network, serde_json::from_str::<Endpoint>(endpoint)?))
    };
    let mut places = rows.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(NetworkError::Damaged)?;
    places.sort_by_key(|(_, place)| (place.interface.len(), place.interface.clone()));
    Ok(places)
}

/// The addresses of one family that a network's containers have.
fn taken(tx: &Transaction<'_>, network: &Network, column: &str) -> Result<Vec<IpAddr>, EngineError> {
    let query = format!("SELECT {column} FROM endpoints WHERE network_id = ?1 AND {column} IS NOT NULL");
    let mut statement = tx.prepare_cached(&query)?;
    let texts = statement.query_map([&network.id], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

/// The address asked for, or a free one among those that are not taken; none when the network has no subnet of the family.
fn choose(
    network: &Network,
    subnet: Option<&Subnet>,
    asked: Option<IpAddr>,
    taken: &[IpAddr],
) -> Result<Option<Cidr>, NetworkError> {
    let chosen = match (subnet, asked) {
        (None, None) => return Ok(None),
        (None, Some(address)) => {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(NetworkError::NoSubnet { network: network.name.clone(), family, address });
        }
        (Some(subnet), Some(address)) => subnet.claim(address, taken),
        (Some(subnet), None) => subnet.free(taken),
    };
    chosen.map(Some).map_err(|source| NetworkError::Address { network: network.name.clone(), source })
}

/// `eth0`, `eth1`, ...: the first that none of a container's places has.
fn free_interface(places: &[(Network, Endpoint)]) -> String {
    let is_free = |name: &String| places.iter().all(|(_, place)| place.interface != *name);
    (0..).map(|number| format!("eth{number}")).find(is_free).unwrap_or_default()
}

/// The place through which goes what belongs to no subnet.
fn routed(places: &[(Network, Endpoint)]) -> Option<usize> {
    places.iter().position(|(network, _)| !network.internal)
}

/// The place from which ports are published.
pub(crate) fn publishing(places: &[(Network, Endpoint)]) -> Option<&(Network, Endpoint)> {
    places.iter().find(|(network, _)| network.publishes())
}

/// The addresses that ports are published to.
pub(crate) fn inside(endpoint: &Endpoint) -> Inside {
    let mut inside = Inside::default();
    for own in [endpoint.ipv4, endpoint.ipv6].into_iter().flatten() {
        match own.address {
            IpAddr::V4(address) => inside.ipv4 = Some(address),
            IpAddr::V6(address) => inside.ipv6 = Some(address),
        }
    }
    inside
}

/// Refuses a file that is no network namespace: the kernel's name for one begins with its type (namespaces(7)).
fn check_namespace(path: &Path) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Namespace { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed)?;
    match name.to_string_lossy().starts_with("net:[") {
        true => Ok(()),
        false => Err(NetworkError::NoNamespace(path.to_owned())),
    }
}

/// Where a container is in a network: by itself, not in the host's or another's namespace.
fn may_connect(record: &ContainerRecord) -> Result<(), NetworkError> {
    match record.request.network {
        NamespaceChoice::Network(_) => Ok(()),
        _ => Err(NetworkError::CannotConnect),
    }
}

/// A wish for a network of Hull's, and the interface for it.
type Own<'a> = (&'a NetworkRequest, String);

impl Engine {
    /// Puts a container that asks for nothing into the default network, and refuses networks that are not there, and what
    /// they do not give.
    pub(crate) fn check_networks(&self, request: &mut CreateContainer) -> Result<(), EngineError> {
        if request.network == NamespaceChoice::Default {
            request.network = NamespaceChoice::Network(DEFAULT_NETWORK.to_owned());
        }
        if let NamespaceChoice::Path(path) = &request.network {
            check_namespace(path)?;
        }
        let NamespaceChoice::Network(mode) = &request.network else {
            let option = request.networks.first().and_then(NetworkRequest::option);
            let mode = network_name(&request.network);
            return option.map_or(Ok(()), |option| Err(NetworkError::NoPlace { option, mode }.into()));
        };
        if request.networks.is_empty() {
            request.networks.push(NetworkRequest::of(mode));
        }
        let known = self.made_networks()?;
        let mut names: Vec<String> = Vec::new();
        for asked in &mut request.networks {
            let name = self.check_wish(&known, asked)?;
            if names.contains(&name) {
                let container = request.name.clone().unwrap_or_default();
                return Err(NetworkError::Connected { container, network: name }.into());
            }
            asked.network.clone_from(&name);
            names.push(name);
        }
        request.network = NamespaceChoice::Network(names.swap_remove(0));
        Ok(())
    }

    /// The name of the network, Hull's or else the user's, that a wish is for.
    fn check_wish(&self, known: &[Network], asked: &NetworkRequest) -> Result<String, EngineError> {
        match resolve(known, &asked.network) {
            Ok(network) => {
                check_place(network, asked)?;
                Ok(network.name.clone())
            }
            Err(NetworkError::NotFound(name)) if name == DEFAULT_NETWORK => {
                check_default_place(asked)?;
                Ok(name)
            }
            Err(missing @ NetworkError::NotFound(_)) => {
                let list = self.cni_list(&asked.network)?.ok_or(missing)?;
                brought::check_place(&list, asked)?;
                Ok(list.name)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a container that is about to start its places in its networks.
    pub(crate) fn plan_network(&self, record: &ContainerRecord) -> Result<NetworkPlan, EngineError> {
        let firewall = self.firewall();
        let bandwidth = record.request.bandwidth;
        let nothing = NetworkPlan {
            attachments: Vec::new(),
            routes_at: None,
            firewall,
            networks: Vec::new(),
            shortcut: None,
            cni: None,
            bandwidth,
        };
        self.release_cni(&record.id, None)?;
        match &record.request.network {
            NamespaceChoice::Network(_) => {}
            NamespaceChoice::Path(path) => return Ok(check_namespace(path).map(|()| nothing)?),
            _ => return Ok(nothing),
        }
        let lease = Lease::current()?;
        let (_, _, boot) = lease.columns();
        // The host is asked before the transaction, which waits for nobody.
        self.default_network()?;
        let (own, brought) = self.divided(&record.request.networks)?;
        let mut plan = self.store().write(|tx| {
            tx.prepare_cached("DELETE FROM endpoints WHERE boot_id <> ?1")?.execute([boot])?;
            release(tx, &record.id)?;
            let networks = all(tx)?;
            let mut attachments = Vec::new();
            for (asked, interface) in own {
                let network = resolve(&networks, &asked.network)?;
                attachments.push((network.clone(), place(tx, network, record, asked, interface, boot)?));
            }
            Ok::<_, EngineError>(NetworkPlan { routes_at: routed(&attachments), attachments, networks, ..nothing })
        })?;
        // Hull's own publish ports where there are both.
        plan.cni = self.cni_plan(record, &brought, publishing(&plan.attachments).is_none())?;
        for (network, _) in &plan.attachments {
            self.forward(network)?;
        }
        Ok(plan)
    }

    /// The networks of Hull's and those that the user brings among some, with the interfaces that are for each.
    fn divided<'a>(&self, wanted: &'a [NetworkRequest]) -> Result<(Vec<Own<'a>>, Vec<Brought>), EngineError> {
        let known = self.store().read(all)?;
        let (mut own, mut brought) = (Vec::new(), Vec::new());
        for (number, asked) in wanted.iter().enumerate() {
            let interface = format!("eth{number}");
            match find(&known, &asked.network) {
                Some(_) => own.push((asked, interface)),
                None => {
                    let missing = || NetworkError::NotFound(asked.network.clone());
                    brought.push((asked.clone(), interface, self.cni_list(&asked.network)?.ok_or_else(missing)?));
                }
            }
        }
        Ok((own, brought))
    }

    /// Has the host pass on a network's packets, and tells of what had to be changed for it.
    pub(super) fn forward(&self, network: &Network) -> Result<(), EngineError> {
        for ChangedSetting { name, previous, value } in settings::forward(network).map_err(NetworkError::from)? {
            tracing::warn!("{name} was {previous} and is {value} now, so that networks reach beyond this host");
            let key = format!("{CHANGED_SETTING}{name}");
            self.store().write(|tx| Ok::<_, StoreError>(remember(tx, &key, &previous)?))?;
        }
        Ok(())
    }

    /// Settings of the kernel that were changed for networks, and the value that each had before it last was.
    ///
    /// # Errors
    /// The database's.
    pub fn changed_settings(&self) -> Result<Vec<(String, String)>, EngineError> {
        self.store().read(|db| Ok(facts_with(db, CHANGED_SETTING).map_err(StoreError::from)?))
    }

    /// A container's networks and its places in them, in the order of their interfaces; none when it does not run.
    pub(crate) fn places_of(&self, id: &ContainerId) -> Result<Vec<(Network, Endpoint)>, EngineError> {
        self.store().read(|db| of_container(db, id))
    }

    /// Connects a container to a network: at once when it runs, else from its next start on.
    ///
    /// # Errors
    /// [`NetworkError`]; the container is not in the network then.
    pub fn connect(&self, container: &str, asked: NetworkRequest) -> Result<(), EngineError> {
        let row = self.row(container)?;
        let pid = self.state_of(&row)?.pid();
        let network = self.own_network(&asked.network)?;
        check_place(&network, &asked)?;
        let asked = NetworkRequest { network: network.name.clone(), ..asked };
        let lease = Lease::current()?;
        let (_, _, boot) = lease.columns();
        let (before, endpoint) = self.store().write(|tx| {
            let mut record = self.record(&row.id)?;
            let before = of_container(tx, &row.id)?;
            may_connect(&record)?;
            let is_it = |one: &NetworkRequest| one.network == network.name;
            if record.request.networks.iter().any(is_it) || before.iter().any(|(one, _)| one.id == network.id) {
                let (container, network) = (record.name.clone(), network.name.clone());
                return Err(NetworkError::Connected { container, network }.into());
            }
            // It may have begun to be removed since it was found.
            find(&all(tx)?, &network.id).ok_or_else(|| NetworkError::NotFound(network.name.clone()))?;
            let interface = free_interface(&before);
            let place = pid.map(|_| place(tx, &network, &record, &asked, interface, boot)).transpose()?;
            record.request.networks.push(asked.clone());
            record.write(&self.roots().container(row.id.as_str()))?;
            Ok::<_, EngineError>((before, place))
        })?;
        let (Some(pid), Some(endpoint)) = (pid, endpoint) else { return Ok(()) };
        self.join_now(&row.id, pid, &network, &endpoint, before).inspect_err(|_| {
            if let Err(error) = self.disconnect(&asked.network, container, true) {
                tracing::warn!(%container, %error, "undoing a connection that failed");
            }
        })
    }

    /// A network of Hull's, which containers join and leave while they run.
    fn own_network(&self, name: &str) -> Result<Network, EngineError> {
        match resolve(&self.networks()?, name) {
            Ok(network) => Ok(network.clone()),
            Err(NetworkError::NotFound(_)) if self.cni_list(name)?.is_some() => {
                Err(NetworkError::CniLive(name.to_owned()).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The kernel's part of connecting a running container.
    fn join_now(
        &self,
        id: &ContainerId,
        pid: i32,
        network: &Network,
        endpoint: &Endpoint,
        mut places: Vec<(Network, Endpoint)>,
    ) -> Result<(), EngineError> {
        self.forward(network)?;
        let had_routes = routed(&places).is_some();
        let had_ports = publishing(&places).is_some();
        let record = self.record(id)?;
        let plan = NetworkPlan {
            attachments: vec![(network.clone(), endpoint.clone())],
            routes_at: (!had_routes).then_some(0),
            firewall: self.firewall(),
            networks: self.store().read(all)?,
            shortcut: None,
            cni: None,
            bandwidth: record.request.bandwidth,
        };
        // The wiring would make a table without the ports that are published.
        if !plan.firewall.is_there()? {
            self.restore_firewall()?;
        }
        plan.wire(pid).map_err(NetworkError::from)?;
        places.push((network.clone(), endpoint.clone()));
        self.give_names(&record, pid, &places)?;
        self.rewrite_name_files(&record, &places)?;
        match publishing(&places) {
            Some((_, place)) if !had_ports => self.publish_now(&record, inside(place)),
            _ => Ok(()),
        }
    }

    /// Takes a container out of a network, at once when it runs. With `force` what the kernel refuses is passed over.
    ///
    /// # Errors
    /// [`NetworkError::NotConnected`]; the kernel's and the firewall's.
    pub fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<(), EngineError> {
        let row = self.row(container)?;
        let pid = self.state_of(&row)?.pid();
        let network = self.own_network(network)?;
        let mut places = self.places_of(&row.id)?;
        let position = places.iter().position(|(one, _)| one.id == network.id);
        let gone = position.map(|position| places.remove(position).1);
        if let Some(endpoint) = &gone {
            self.withdraw_from(&row.id, inside(endpoint))?;
        }
        let record = self.record(&row.id)?;
        may_connect(&record)?;
        self.change_request(&row.id, |request| {
            let before = request.networks.len();
            request.networks.retain(|one| one.network != network.name);
            if before == request.networks.len() && gone.is_none() {
                let (container, network) = (record.name.clone(), network.name.clone());
                return Err(NetworkError::NotConnected { container, network }.into());
            }
            Ok(())
        })?;
        let Some(endpoint) = gone else { return Ok(()) };
        match pid.map_or(Ok(()), |pid| leave_now(pid, &network, &endpoint, &places)) {
            Err(error) if !force => return Err(error.into()),
            _ => {}
        }
        self.store().write(|tx| give_up(tx, &endpoint))?;
        if pid.is_none() {
            return Ok(());
        }
        self.rewrite_name_files(&record, &places)?;
        match publishing(&places) {
            Some((_, place)) if self.published_ports(&row.id)?.is_empty() => self.publish_now(&record, inside(place)),
            _ => Ok(()),
        }
    }
}

/// The kernel's part of disconnecting a running container: what belongs to no subnet goes by another place then.
fn leave_now(
    pid: i32,
    network: &Network,
    endpoint: &Endpoint,
    others: &[(Network, Endpoint)],
) -> Result<(), NetworkError> {
    let namespace = namespace_of(pid)?;
    let host = Netlink::here().map_err(NetworkError::Socket)?;
    interfaces::leave(&host, network, endpoint, Some(namespace.as_fd()))?;
    if let Some(interface) = &endpoint.host_interface {
        bandwidth::release(&host, interface).map_err(PlanError::from)?;
    }
    match routed(others) {
        Some(next) => Ok(interfaces::route_through(&others[next].0, &others[next].1, namespace.as_fd())?),
        None => Ok(()),
    }
}

/// Refuses what a network does not give, and addresses that nobody can have there.
fn check_place(network: &Network, asked: &NetworkRequest) -> Result<(), NetworkError> {
    if network.is_default() {
        return check_default_place(asked);
    }
    if let Some(address) = asked.ipv4 {
        choose(network, network.subnet_v4(), Some(address.into()), &[])?;
    }
    if let Some(address) = asked.ipv6 {
        choose(network, network.subnet_v6(), Some(address.into()), &[])?;
    }
    Ok(())
}

/// Refuses what the default network does not give.
fn check_default_place(asked: &NetworkRequest) -> Result<(), NetworkError> {
    match () {
        () if asked.ipv4.is_some() || asked.ipv6.is_some() => {
            Err(NetworkError::UserNetworksOnly("user specified IP address"))
        }
        () if !asked.aliases.is_empty() => Err(NetworkError::UserNetworksOnly("network-scoped alias")),
        () => Ok(()),
    }
}

/// Inserts a container's place in a network.
fn place(
    tx: &Transaction<'_>,
    network: &Network,
    record: &ContainerRecord,
    asked: &NetworkRequest,
    interface: String,
    boot: &str,
) -> Result<Endpoint, EngineError> {
    let taken = |column| taken(tx, network, column);
    let ipv4 = choose(network, network.subnet_v4(), asked.ipv4.map(IpAddr::V4), &taken("ipv4")?)?;
    let ipv6 = choose(network, network.subnet_v6(), asked.ipv6.map(IpAddr::V6), &taken("ipv6")?)?;
    let id = random_hex(32).map_err(EngineError::Random)?;
    let derived = ipv4.or(ipv6).map(|own| Mac::of(own.address));
    let endpoint = Endpoint {
        network_id: network.id.clone(),
        container_id: record.id.to_string(),
        name: record.name.clone(),
        aliases: asked.aliases.clone(),
        hostname: record.request.hostname.clone(),
        ipv4,
        ipv6,
        mac: asked.mac.or(derived).unwrap_or(Mac([2, 0x42, 0, 0, 0, 2])),
        host_interface: network.bridge().map(|_| format!("hv{}", &id[..12])),
        interface,
        id,
    };
    let definition = serde_json::to_string(&endpoint).map_err(NetworkError::Damaged)?;
    let text = |own: Option<Cidr>| own.map(|own| own.address.to_string());
    tx.prepare_cached(
        "INSERT INTO endpoints (id, network_id, container_id, ipv4, ipv6, boot_id, definition)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        endpoint.id,
        endpoint.network_id,
        endpoint.container_id,
        text(ipv4),
        text(ipv6),
        boot,
        definition
    ])?;
    Ok(endpoint)
}
