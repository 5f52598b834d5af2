//! `HostConfig`: how a container uses its host, as it was asked for.

use std::collections::BTreeMap;

use hull_network::bandwidth::Rate;
use hull_network::port_list::{self, PortBinding};
use serde::Serialize;

use crate::record::ContainerRecord;
use crate::request::{CreateContainer, MountRequest, MountSource, NamespaceChoice, SeccompChoice, VolumesFrom};
use crate::spec::{DEFAULT_SHM_BYTES, limits};

/// Docker's `HostConfig`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct HostConfig {
    pub binds: Option<Vec<String>>,
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    pub log_config: LogConfig,
    pub network_mode: String,
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    pub volume_driver: String,
    pub volumes_from: Option<Vec<String>>,
    pub console_size: [u32; 2],
    pub cap_add: Option<Vec<String>>,
    pub cap_drop: Option<Vec<String>>,
    pub cgroupns_mode: String,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    pub extra_hosts: Option<Vec<String>>,
    pub group_add: Option<Vec<String>>,
    pub ipc_mode: String,
    pub cgroup: String,
    pub links: Option<Vec<String>>,
    pub oom_score_adj: i32,
    pub pid_mode: String,
    pub privileged: bool,
    pub publish_all_ports: bool,
    pub readonly_rootfs: bool,
    pub security_opt: Option<Vec<String>>,
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    pub userns_mode: String,
    pub shm_size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<HostMount>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub runtime: String,
    pub isolation: String,
    pub cpu_shares: u64,
    pub memory: u64,
    pub nano_cpus: u64,
    pub cgroup_parent: String,
    pub blkio_weight: u16,
    pub cpu_period: u64,
    pub cpu_quota: i64,
    pub cpu_realtime_period: u64,
    pub cpu_realtime_runtime: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub devices: Vec<DeviceMapping>,
    pub device_cgroup_rules: Option<Vec<String>>,
    pub memory_reservation: u64,
    pub memory_swap: i64,
    pub memory_swappiness: Option<u64>,
    pub oom_kill_disable: Option<bool>,
    pub pids_limit: Option<i64>,
    /// Hull's own: bits per second into the container on each of its interfaces, 0 for no limit.
    pub net_rate_in: u64,
    /// Hull's own: bits per second out of it.
    pub net_rate_out: u64,
    /// Hull's own: bytes that go at once; 0 when that follows from the rate.
    pub net_burst: u32,
    pub ulimits: Vec<UlimitInspect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
}

/// Where the output is logged.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct LogConfig {
    #[serde(rename = "Type")]
    pub kind: String,
    pub config: BTreeMap<String, String>,
}

/// When a container is started again.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct RestartPolicy {
    pub name: String,
    pub maximum_retry_count: u32,
}

/// A device that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct DeviceMapping {
    pub path_on_host: String,
    pub path_in_container: String,
    pub cgroup_permissions: String,
}

/// A resource limit that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct UlimitInspect {
    pub name: String,
    pub hard: i64,
    pub soft: i64,
}

/// A mount that was asked for in the long form.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct HostMount {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    pub target: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

impl HostConfig {
    pub(super) fn of(record: &ContainerRecord) -> HostConfig {
        let request = &record.request;
        let resources = &request.resources;
        let (binds, mounts) = mounts(request);
        HostConfig {
            binds: some(binds),
            volumes_from: some(request.volumes_from.iter().map(volumes_from).collect()),
            log_config: LogConfig {
                kind: "json-file".to_owned(),
                config: [("max-file", "5"), ("max-size", "20m")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            },
            network_mode: crate::list::network_name(&request.network),
            restart_policy: RestartPolicy { name: "no".to_owned(), maximum_retry_count: 0 },
            port_bindings: port_list::requested(&request.published_ports),
            publish_all_ports: request.publish_all,
            auto_remove: request.auto_remove,
            cap_add: some(request.cap_add.clone()),
            cap_drop: some(request.cap_drop.clone()),
            dns: request.resolver.servers.iter().map(ToString::to_string).collect(),
            dns_options: request.resolver.options.clone(),
            dns_search: request.resolver.search.clone(),
            extra_hosts: some(request.extra_hosts.iter().map(ToString::to_string).collect()),
            cgroupns_mode: mode(&request.cgroupns, "private"),
            group_add: some(request.group_add.clone()),
            ipc_mode: mode(&request.ipc, "private"),
            oom_score_adj: request.oom_score_adj.unwrap_or(0),
            pid_mode: mode(&request.pid, ""),
            privileged: request.privileged,
            readonly_rootfs: request.read_only,
            security_opt: some(security_options(request)),
            uts_mode: mode(&request.uts, ""),
            userns_mode: mode(&request.userns, ""),
            shm_size: request.shm_size_bytes.unwrap_or(DEFAULT_SHM_BYTES),
            sysctls: request.sysctls.clone(),
            mounts,
            annotations: request.annotations.clone(),
            runtime: request.runtime.clone().unwrap_or_else(|| "hull".to_owned()),
            cpu_shares: resources.cpu_shares.unwrap_or(0),
            memory: resources.memory_bytes.unwrap_or(0),
            nano_cpus: resources.nano_cpus.unwrap_or(0),
            cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
            memory_reservation: resources.memory_reservation_bytes.unwrap_or(0),
            memory_swap: limits::memory_and_swap(resources.memory_bytes, resources.memory_swap_bytes).unwrap_or(0),
            pids_limit: resources.pids_limit,
            net_rate_in: bits_per_second(request.bandwidth.incoming),
            net_rate_out: bits_per_second(request.bandwidth.outgoing),
            net_burst: request.bandwidth.burst_bytes.unwrap_or(0),
            devices: devices(request),
            ulimits: ulimits(request),
            init: request.init.then_some(true),
            masked_paths: (!request.privileged).then(crate::spec::masked_paths_everywhere),
            readonly_paths: (!request.privileged).then(crate::spec::readonly_paths),
            ..HostConfig::default()
        }
    }
}

fn bits_per_second(rate: Option<Rate>) -> u64 {
    rate.map_or(0, Rate::bits_per_second)
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn mode(choice: &NamespaceChoice, default: &str) -> String {
    match choice {
        NamespaceChoice::Default => default.to_owned(),
        NamespaceChoice::Private => "private".to_owned(),
        NamespaceChoice::Host => "host".to_owned(),
        NamespaceChoice::None => "none".to_owned(),
        NamespaceChoice::Container(name) => format!("container:{name}"),
        NamespaceChoice::Network(name) => name.clone(),
        NamespaceChoice::Path(path) => format!("ns:{}", path.display()),
    }
}

fn security_options(request: &CreateContainer) -> Vec<String> {
    let seccomp = match &request.seccomp {
        SeccompChoice::Default => None,
        SeccompChoice::Unconfined => Some("seccomp=unconfined".to_owned()),
        SeccompChoice::Profile(text) => Some(format!("seccomp={text}")),
    };
    let no_new_privileges = request.no_new_privileges.then(|| "no-new-privileges".to_owned());
    seccomp.into_iter().chain(no_new_privileges).collect()
}

fn volumes_from(lender: &VolumesFrom) -> String {
    format!("{}{}", lender.container, if lender.read_only { ":ro" } else { "" })
}

/// The options of a short form, with their colon.
fn suffix(mount: &MountRequest) -> String {
    let options = [(mount.read_only, "ro"), (mount.ownership.chown, "U"), (mount.ownership.shift, "idmap")];
    let set: Vec<&str> = options.into_iter().filter(|(is_set, _)| *is_set).map(|(_, option)| option).collect();
    if set.is_empty() { String::new() } else { format!(":{}", set.join(",")) }
}

/// Short forms (`source:target[:ro]`) and long forms.
fn mounts(request: &CreateContainer) -> (Vec<String>, Vec<HostMount>) {
    let (mut binds, mut mounts) = (Vec::new(), Vec::new());
    for mount in &request.mounts {
        let target = mount.target.display();
        let suffix = suffix(mount);
        let long = |kind: &str, source: String| HostMount {
            kind: kind.to_owned(),
            source,
            target: target.to_string(),
            read_only: mount.read_only,
        };
        match &mount.source {
            MountSource::Bind { path, create: true, .. } => binds.push(format!("{}:{target}{suffix}", path.display())),
            MountSource::Bind { path, .. } => mounts.push(long("bind", path.display().to_string())),
            MountSource::Volume { name: Some(name), .. } => binds.push(format!("{name}:{target}{suffix}")),
            MountSource::Volume { name: None, .. } => mounts.push(long("volume", String::new())),
            MountSource::Tmpfs { .. } => mounts.push(long("tmpfs", String::new())),
        }
    }
    (binds, mounts)
}

fn devices(request: &CreateContainer) -> Vec<DeviceMapping> {
    let mapping = |device: &crate::request::DeviceRequest| DeviceMapping {
        path_on_host: device.host_path.display().to_string(),
        path_in_container: device.container_path.display().to_string(),
        cgroup_permissions: device.access.clone(),
    };
    request.devices.iter().map(mapping).collect()
}

fn ulimits(request: &CreateContainer) -> Vec<UlimitInspect> {
    let limit = |ulimit: &crate::request::Ulimit| UlimitInspect {
        name: ulimit.name.clone(),
        hard: ulimit.hard,
        soft: ulimit.soft,
    };
    request.ulimits.iter().map(limit).collect()
}
