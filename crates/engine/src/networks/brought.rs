//! Networks that the user brings as CNI plugin lists: found by name when none of Hull's has it.
//!
//! A place in one is a file in the container's folder, from before the first plugin runs (hull_network's cni). It is undone
//! where a run is cleaned up, and before the next start when that was not done, as after a boot; no database row speaks of
//! it. A place that its plugins do not delete is given up with a warning, since a container must not stay for ever because
//! a plugin has gone.

use std::path::{Path, PathBuf};

use hull_network::cni::{self, Attachment, Folders, PluginList, PortMapping};
use hull_network::name_files::{OwnName, own_names};
use hull_network::plan::{CniNames, CniPlan};
use hull_network::ports::{HostPort, PortRequest};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::NetworkError;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::inspect::NetworkInspect;
use crate::publish::port_requests;
use crate::record::ContainerRecord;
use crate::request::NetworkRequest;

/// The capability of plugins that publish ports.
const PORT_MAPPINGS: &str = "portMappings";

/// A wish for such a network, the interface for it, and its list.
pub(crate) type Brought = (NetworkRequest, String, PluginList);

impl Engine {
    pub(crate) fn cni_folders(&self) -> Result<&Folders, EngineError> {
        Ok(&self.configuration()?.cni)
    }

    /// The list of a name; a file that cannot be read counts when nothing before it has the name.
    pub(crate) fn cni_list(&self, name: &str) -> Result<Option<PluginList>, EngineError> {
        for list in cni::lists(&self.cni_folders()?.config_dir).map_err(NetworkError::from)? {
            let list = list.map_err(NetworkError::from)?;
            if list.name == name {
                return Ok(Some(list));
            }
        }
        Ok(None)
    }

    /// The lists that can be read, as docker's JSON has networks.
    pub(crate) fn cni_networks(&self) -> Result<Vec<NetworkInspect>, EngineError> {
        let lists = cni::lists(&self.cni_folders()?.config_dir).map_err(NetworkError::from)?;
        let inspect = |list: PluginList| {
            let id = hull_oci::Digest::sha256_of(list.name.as_bytes()).hex().to_owned();
            let plugins = list.plugins.iter().filter_map(|plugin| plugin.get("type")?.as_str()).collect::<Vec<_>>();
            let options = [("plugins", plugins.join(",")), ("cniVersion", list.version.clone())];
            let mut network = NetworkInspect::named(&list.name, "cni", id, Timestamp::UNIX_EPOCH);
            network.options = options.map(|(name, value)| (name.to_owned(), value)).into();
            network
        };
        Ok(lists.into_iter().flatten().map(inspect).collect())
    }

    /// What a start asks plugins for: places in the networks of these requests, each with its interface.
    pub(crate) fn cni_plan(
        &self,
        record: &ContainerRecord,
        asked: &[Brought],
        publishes: bool,
    ) -> Result<Option<CniPlan>, EngineError> {
        if asked.is_empty() {
            return Ok(None);
        }
        let ports = if publishes { port_mappings(&port_requests(record))? } else { Vec::new() };
        let attachment = |(asked, interface, list): &Brought| {
            Ok(Attachment {
                capabilities: capabilities(asked, &ports),
                list: list.clone(),
                plugin_dirs: self.cni_folders()?.plugin_dirs.clone(),
                container_id: record.id.to_string(),
                interface: interface.clone(),
                result: None,
            })
        };
        Ok(Some(CniPlan {
            attachments: asked.iter().map(attachment).collect::<Result<_, EngineError>>()?,
            names: self.cni_names(record),
        }))
    }

    /// Where it is noted what plugins say of a container's place.
    pub(crate) fn cni_names(&self, record: &ContainerRecord) -> CniNames {
        let hostname = self.hostname_of(record);
        let own = OwnName { hostname: &hostname, domainname: record.request.domainname.as_deref(), addresses: None };
        CniNames {
            folder: self.roots().container(record.id.as_str()),
            own: own_names(&own),
            servers: record.request.resolver.servers.is_empty(),
        }
    }

    /// Undoes a container's places, when its run is over. Without a namespace plugins delete what they keep elsewhere.
    pub(crate) fn release_cni(&self, id: &ContainerId, namespace: Option<&Path>) -> Result<(), EngineError> {
        let folder = self.roots().container(id.as_str());
        for attachment in Attachment::in_folder(&folder).map_err(NetworkError::from)? {
            if let Err(error) = attachment.delete(namespace, &folder) {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(%id, network = attachment.list.name, error, "a CNI plugin does not delete its place");
            }
        }
        Ok(())
    }

    /// A container's places, by interface.
    pub(crate) fn cni_places(&self, id: &ContainerId) -> Result<Vec<Attachment>, EngineError> {
        Ok(Attachment::in_folder(&self.roots().container(id.as_str())).map_err(NetworkError::from)?)
    }

    /// Asks plugins whether running containers are well in their networks, and has them collect what no container has.
    ///
    /// # Errors
    /// The first plugin that says no.
    pub(crate) fn check_cni(&self) -> Result<(), EngineError> {
        let mut alive = Vec::new();
        for row in self.store().read(crate::row::all)? {
            let places = self.cni_places(&row.id)?;
            if let (false, Some(pid)) = (places.is_empty(), self.state_of(&row)?.pid()) {
                let namespace = PathBuf::from(format!("/proc/{pid}/ns/net"));
                for place in &places {
                    place.check(&namespace).map_err(NetworkError::from)?;
                }
                alive.extend(places);
            }
        }
        for list in cni::lists(&self.cni_folders()?.config_dir).map_err(NetworkError::from)?.into_iter().flatten() {
            cni::collect(&list, &self.cni_folders()?.plugin_dirs, &alive).map_err(NetworkError::from)?;
        }
        Ok(())
    }
}

/// Whether plugins publish the ports.
pub(crate) fn publishes(plan: &CniPlan) -> bool {
    plan.attachments.iter().any(|attachment| attachment.list.has_capability(PORT_MAPPINGS))
}

/// Ports with numbers, as plugins want them.
fn port_mappings(requests: &[PortRequest]) -> Result<Vec<PortMapping>, NetworkError> {
    let mapping = |request: &PortRequest| match request.host_port {
        HostPort::Port(host_port) => Ok(PortMapping {
            host_port,
            container_port: request.port,
            protocol: request.protocol,
            host_ip: request.host_address,
        }),
        HostPort::Free | HostPort::Within(..) => Err(NetworkError::CniPort(request.inside())),
    };
    requests.iter().map(mapping).collect()
}

/// What a request asks for, by capability.
fn capabilities(asked: &NetworkRequest, ports: &[PortMapping]) -> Map<String, Value> {
    let mut capabilities = Map::new();
    let addresses: Vec<Value> = asked
        .ipv4
        .iter()
        .map(|address| address.to_string().into())
        .chain(asked.ipv6.iter().map(|address| address.to_string().into()))
        .collect();
    let mut add = |name: &str, value: Value| capabilities.insert(name.to_owned(), value);
    if !addresses.is_empty() {
        add("ips", addresses.into());
    }
    if let Some(mac) = asked.mac {
        add("mac", mac.to_string().into());
    }
    if !asked.aliases.is_empty() {
        add("aliases", asked.aliases.clone().into());
    }
    if !ports.is_empty() {
        add(PORT_MAPPINGS, serde_json::to_value(ports).unwrap_or_default());
    }
    capabilities
}

/// Refuses wishes that no plugin of a list takes.
pub(crate) fn check_place(list: &PluginList, asked: &NetworkRequest) -> Result<(), NetworkError> {
    for capability in capabilities(asked, &[]).keys() {
        if !list.has_capability(capability) {
            let (option, driver) = (capability.clone(), format!("of CNI list {}", list.name));
            return Err(NetworkError::Option { option, driver, hint: ": no plugin of it has the capability" });
        }
    }
    Ok(())
}
