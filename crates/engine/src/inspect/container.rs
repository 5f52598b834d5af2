//! A container in docker's JSON.

use std::collections::BTreeMap;

use hull_network::bandwidth::{BucketState, Shapers};
use hull_network::cni::{Attachment, Outcome};
use hull_network::network::DEFAULT_NETWORK;
use hull_network::port_list::{self, PortMap};
use hull_network::{Cidr, Endpoint, Network, Subnet};
use hull_supervisor::record::ExitRecord;
use jiff::Timestamp;
use serde::Serialize;

use super::{Empty, HostConfig};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::state::ContainerState;
use crate::list::network_names;
use crate::logs::LOG_FILE;
use crate::mount_point::{MountKind, MountPoint};
use crate::record::ContainerRecord;
use crate::spec::Effective;
use crate::status::timestamp;

/// What docker writes for a time that has not come.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Exit code of an end that nobody saw.
const UNKNOWN_CODE: i32 = -1;

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct ContainerInspect {
    pub id: String,
    pub created: String,
    pub path: String,
    pub args: Vec<String>,
    pub state: ContainerStateInspect,
    pub image: String,
    pub resolv_conf_path: String,
    pub hostname_path: String,
    pub hosts_path: String,
    pub log_path: String,
    pub name: String,
    pub restart_count: u32,
    pub driver: String,
    pub platform: String,
    pub mount_label: String,
    pub process_label: String,
    pub app_armor_profile: String,
    #[serde(rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    pub host_config: HostConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<u64>,
    pub mounts: Vec<MountInspect>,
    pub config: ContainerConfig,
    pub network_settings: NetworkSettings,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct ContainerStateInspect {
    pub status: String,
    pub running: bool,
    pub paused: bool,
    pub restarting: bool,
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    pub dead: bool,
    pub pid: i32,
    pub exit_code: i32,
    pub error: String,
    pub started_at: String,
    pub finished_at: String,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct MountInspect {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub source: String,
    pub destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    pub mode: String,
    #[serde(rename = "RW")]
    pub rw: bool,
    pub propagation: String,
}

/// What runs in the container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct ContainerConfig {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: Vec<String>,
    pub cmd: Option<Vec<String>>,
    pub image: String,
    pub volumes: Option<BTreeMap<String, Empty>>,
    pub working_dir: String,
    pub entrypoint: Option<Vec<String>>,
    pub on_build: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
}

/// The container's networks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct NetworkSettings {
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    pub sandbox_key: String,
    pub ports: PortMap,
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    pub gateway: String,
    pub mac_address: String,
    pub networks: BTreeMap<String, EndpointInspect>,
}

/// The container's place in one network.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct EndpointInspect {
    pub aliases: Option<Vec<String>>,
    pub mac_address: String,
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub gateway: String,
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u32,
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u32,
    /// Hull's own: what the kernel does about the interface; absent when it does nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rate: Option<ShapersInspect>,
}

/// What the kernel does about how much an interface carries.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ShapersInspect {
    /// Into the container.
    #[serde(rename = "In")]
    pub incoming: Option<ShaperInspect>,
    /// Out of the container.
    #[serde(rename = "Out")]
    pub outgoing: Option<ShaperInspect>,
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ShaperInspect {
    /// Bits per second.
    pub rate: u64,
    /// What went through.
    pub sent_bytes: u64,
    /// Packets for which there was no place to wait.
    pub dropped_packets: u64,
}

impl ShapersInspect {
    fn of(shapers: &Shapers) -> Option<ShapersInspect> {
        let one = |state: BucketState| ShaperInspect {
            rate: state.bytes_per_second * 8,
            sent_bytes: state.sent_bytes,
            dropped_packets: state.dropped_packets,
        };
        let found = ShapersInspect { incoming: shapers.incoming.map(one), outgoing: shapers.outgoing.map(one) };
        (found.incoming.is_some() || found.outgoing.is_some()).then_some(found)
    }
}

impl Engine {
    /// Everything about a container. `size` also measures what it has written.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`]; files that cannot be read.
    pub fn inspect_container(&self, name: &str, size: bool) -> Result<ContainerInspect, EngineError> {
        let row = self.row(name)?;
        let state = self.state_of(&row)?;
        let record = self.record(&row.id)?;
        let effective = Effective::merge(&record.request, &record.image_config);
        let exit = self.exit_record(&row.id)?;
        let (size_rw, size_root_fs) = match size {
            true => {
                let (written, image) = self.sizes(&row.id, record.image.id.as_ref())?;
                (Some(written), Some(written + image))
            }
            false => (None, None),
        };
        let ports = match state.is_running() {
            true => port_list::port_map(&self.published_ports(&row.id)?, &effective.exposed_ports),
            false => PortMap::new(),
        };
        let args = effective.args();
        let folder = self.roots().container(row.id.as_str());
        let file = |name: &str| folder.join(name).display().to_string();
        Ok(ContainerInspect {
            id: row.id.to_string(),
            created: record.created.to_string(),
            path: args.first().cloned().unwrap_or_default(),
            args: args.into_iter().skip(1).collect(),
            state: state_of(&state, exit.as_ref()),
            image: record.image.id.as_ref().map(ToString::to_string).unwrap_or_default(),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: file(LOG_FILE),
            name: format!("/{}", row.name),
            restart_count: 0,
            driver: "overlay".to_owned(),
            platform: "linux".to_owned(),
            mount_label: String::new(),
            process_label: String::new(),
            app_armor_profile: String::new(),
            exec_ids: None,
            host_config: HostConfig::of(&record),
            size_rw,
            size_root_fs,
            mounts: record.mounts.iter().map(mount).collect(),
            config: config(&record, effective, self.hostname_of(&record)),
            network_settings: self.network_settings(&record, &state, ports)?,
        })
    }
}

fn state_of(state: &ContainerState, exit: Option<&ExitRecord>) -> ContainerStateInspect {
    let mut inspect = ContainerStateInspect {
        status: state.name().to_owned(),
        running: state.is_running(),
        paused: matches!(state, ContainerState::Paused { .. }),
        restarting: false,
        oom_killed: false,
        dead: matches!(state, ContainerState::Dead),
        pid: state.pid().unwrap_or(0),
        exit_code: 0,
        error: String::new(),
        started_at: NEVER.to_owned(),
        finished_at: NEVER.to_owned(),
    };
    match state {
        ContainerState::Running { started_at, .. } | ContainerState::Paused { started_at, .. } => {
            inspect.started_at = started_at.to_string();
        }
        ContainerState::Exited { status, started_at } => {
            let unknown = || "nobody saw how it ended, its exit code is unknown".to_owned();
            inspect.oom_killed = status.oom_killed;
            inspect.exit_code = status.code.unwrap_or(UNKNOWN_CODE);
            inspect.error = match (&status.error, status.code) {
                (Some(error), _) => error.clone(),
                (None, None) => unknown(),
                (None, Some(_)) => String::new(),
            };
            inspect.started_at = time_or_never(*started_at);
            inspect.finished_at = time_or_never(status.finished_at);
        }
        // A start that failed says why, as in docker.
        ContainerState::Created => {
            if let Some(exit) = exit {
                inspect.exit_code = exit.exit_code.unwrap_or(UNKNOWN_CODE);
                inspect.error = exit.error.clone().unwrap_or_default();
                inspect.finished_at = timestamp(exit.finished_at).to_string();
            }
        }
        _ => {}
    }
    inspect
}

fn time_or_never(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

fn mount(point: &MountPoint) -> MountInspect {
    let (kind, name, driver) = match &point.kind {
        MountKind::Bind { .. } => ("bind", None, None),
        MountKind::Volume { name, .. } => ("volume", Some(name.clone()), Some("local".to_owned())),
        MountKind::Tmpfs { .. } => ("tmpfs", None, None),
    };
    let default = if kind == "bind" { "rprivate" } else { "" };
    MountInspect {
        kind: kind.to_owned(),
        name,
        source: point.source.as_ref().map(|source| source.display().to_string()).unwrap_or_default(),
        destination: point.target.display().to_string(),
        driver,
        mode: if point.read_only { "ro" } else { "" }.to_owned(),
        rw: !point.read_only,
        propagation: point.propagation.clone().unwrap_or_else(|| default.to_owned()),
    }
}

fn config(record: &ContainerRecord, effective: Effective, hostname: String) -> ContainerConfig {
    let request = &record.request;
    let set =
        |names: Vec<String>| -> BTreeMap<String, Empty> { names.into_iter().map(|name| (name, Empty {})).collect() };
    let some = |words: Vec<String>| (!words.is_empty()).then_some(words);
    ContainerConfig {
        hostname,
        domainname: request.domainname.clone().unwrap_or_default(),
        user: effective.user,
        attach_stdin: request.interactive,
        attach_stdout: true,
        attach_stderr: true,
        exposed_ports: set(effective.exposed_ports),
        tty: request.tty,
        open_stdin: request.interactive,
        stdin_once: request.interactive,
        env: effective.env,
        cmd: some(effective.cmd),
        image: record.image.name.clone(),
        volumes: some(effective.volumes).map(set),
        working_dir: effective.working_dir,
        entrypoint: some(effective.entrypoint),
        on_build: None,
        labels: effective.labels,
        stop_signal: effective.stop_signal,
        stop_timeout: request.stop_timeout_seconds,
    }
}

impl Engine {
    fn network_settings(
        &self,
        record: &ContainerRecord,
        state: &ContainerState,
        ports: PortMap,
    ) -> Result<NetworkSettings, EngineError> {
        let sandbox_key = state.pid().map(|pid| format!("/proc/{pid}/ns/net")).unwrap_or_default();
        let places = self.places_of(&record.id)?;
        // What it is in when it runs, and what it will be in when it does not.
        let mut networks: BTreeMap<_, _> =
            network_names(&record.request).into_iter().map(|name| (name, EndpointInspect::default())).collect();
        for (network, endpoint) in &places {
            let net_rate = match &endpoint.host_interface {
                Some(interface) if state.is_running() => ShapersInspect::of(&self.shapers(interface)?),
                _ => None,
            };
            networks.insert(network.name.clone(), EndpointInspect { net_rate, ..endpoint_of(network, endpoint) });
        }
        for place in self.cni_places(&record.id)? {
            networks.insert(place.list.name.clone(), endpoint_of_plugins(&place));
        }
        // Docker repeats the default network's place above the list.
        let first = networks.get(DEFAULT_NETWORK).cloned().unwrap_or_default();
        Ok(NetworkSettings {
            sandbox_key,
            ports,
            ip_address: first.ip_address,
            gateway: first.gateway,
            mac_address: first.mac_address,
            networks,
            ..NetworkSettings::default()
        })
    }
}

fn endpoint_of_plugins(place: &Attachment) -> EndpointInspect {
    let Outcome { addresses, gateways, mac, .. } = place.outcome();
    let of = |v4: bool| addresses.iter().find(|own| own.address.is_ipv4() == v4);
    let gateway = |v4: bool| gateways.iter().find(|gateway| gateway.is_ipv4() == v4);
    let text = |own: Option<&Cidr>| own.map(|own| own.address.to_string()).unwrap_or_default();
    EndpointInspect {
        mac_address: mac.map(|mac| mac.to_string()).unwrap_or_default(),
        gateway: gateway(true).map(ToString::to_string).unwrap_or_default(),
        ip_address: text(of(true)),
        ip_prefix_len: of(true).map_or(0, |own| own.prefix.into()),
        ipv6_gateway: gateway(false).map(ToString::to_string).unwrap_or_default(),
        global_ipv6_address: text(of(false)),
        global_ipv6_prefix_len: of(false).map_or(0, |own| own.prefix.into()),
        net_rate: None,
        ..EndpointInspect::default()
    }
}

fn endpoint_of(network: &Network, endpoint: &Endpoint) -> EndpointInspect {
    let text = |own: Option<Cidr>| own.map(|own| own.address.to_string()).unwrap_or_default();
    let prefix = |own: Option<Cidr>| own.map_or(0, |own| own.prefix.into());
    let gateway = |subnet: Option<&Subnet>| {
        subnet.filter(|_| !network.internal).map(|subnet| subnet.gateway.to_string()).unwrap_or_default()
    };
    EndpointInspect {
        aliases: (!endpoint.aliases.is_empty()).then(|| endpoint.aliases.clone()),
        mac_address: endpoint.mac.to_string(),
        network_id: network.id.clone(),
        endpoint_id: endpoint.id.clone(),
        gateway: gateway(network.subnet_v4()),
        ip_address: text(endpoint.ipv4),
        ip_prefix_len: prefix(endpoint.ipv4),
        ipv6_gateway: gateway(network.subnet_v6()),
        global_ipv6_address: text(endpoint.ipv6),
        global_ipv6_prefix_len: prefix(endpoint.ipv6),
        net_rate: None,
    }
}
