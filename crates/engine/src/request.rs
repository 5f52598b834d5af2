//! What a user asks for, whatever door it came through.
//!
//! The command line, the Docker API and the CRI all build these types; nothing here has been checked
//! against an image, the kernel or the store yet. [`CreateContainer`] is stored as `request.json` in the
//! container's folder and is the only thing from which a start derives its OCI spec, so every field is
//! serialisable and every unit is in its name. Absent means "the image's or Hull's default", never "zero".

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use hull_network::Mac;
use hull_network::bandwidth::Bandwidth;
use hull_network::name_files::ExtraHost;
use hull_network::ports::PortRequest;
use hull_network::resolv_conf::Wanted;
use serde::{Deserialize, Serialize};

/// Version written into `request.json`; a reader refuses a newer one by name.
pub const REQUEST_VERSION: u32 = 1;

/// A request to create a container (`docker create`, `POST /containers/create`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreateContainer {
    /// Name without the leading slash; generated when absent.
    pub name: Option<String>,
    /// Image as the user wrote it: `hello`, `host`, a reference, a digest or an id prefix.
    pub image: String,
    /// `os/arch[/variant]` wanted when the image has several.
    pub platform: Option<String>,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// Arguments that replace the image's Cmd.
    pub command: Vec<String>,
    /// Replaces the image's Entrypoint (and drops its Cmd); an empty vector clears it.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value` pairs in order; a later one wins.
    pub env: Vec<String>,
    /// `user[:group]`, by name or id.
    pub user: Option<String>,
    /// Supplementary groups by name or id.
    pub group_add: Vec<String>,
    /// Working directory inside the container.
    pub workdir: Option<String>,
    /// Host name; the first 12 characters of the id when absent.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// Allocate a terminal (`-t`).
    pub tty: bool,
    /// Keep stdin open (`-i`).
    pub interactive: bool,
    /// Remove the container and its anonymous volumes when it ends (`--rm`).
    pub auto_remove: bool,
    /// Labels of the container (the image's are merged under them).
    pub labels: BTreeMap<String, String>,
    /// OCI annotations passed to the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Bind mounts, volumes and tmpfs mounts, in the order given.
    pub mounts: Vec<MountRequest>,
    /// Containers whose bind mounts and volumes it gets; a mount of its own at the same place comes before them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes_from: Vec<VolumesFrom>,
    /// Mount the root file system read-only.
    pub read_only: bool,
    /// Run Hull's own init as PID 1.
    pub init: bool,
    /// Signal that asks the container to stop: a name or a number.
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL; -1 waits for ever.
    pub stop_timeout_seconds: Option<i64>,
    /// Capabilities added to the default set, with or without `CAP_`; `ALL` for every one.
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default set; `ALL` for every one.
    pub cap_drop: Vec<String>,
    /// Everything allowed: all capabilities, all devices, no seccomp, no masks.
    pub privileged: bool,
    /// Seccomp choice.
    pub seccomp: SeccompChoice,
    /// Set `no_new_privs`.
    pub no_new_privileges: bool,
    /// -1000 to 1000 (proc(5) oom_score_adj).
    pub oom_score_adj: Option<i32>,
    /// Size of `/dev/shm` in bytes; 64 MiB when absent.
    pub shm_size_bytes: Option<u64>,
    /// PID namespace.
    pub pid: NamespaceChoice,
    /// IPC namespace.
    pub ipc: NamespaceChoice,
    /// UTS namespace.
    pub uts: NamespaceChoice,
    /// User namespace; `Host` means no user namespace of its own.
    pub userns: NamespaceChoice,
    /// Cgroup namespace.
    pub cgroupns: NamespaceChoice,
    /// Network.
    pub network: NamespaceChoice,
    /// The networks that it is in, the one of `network` first; none in other modes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkRequest>,
    /// Name servers, search domains and options in place of the host's.
    #[serde(skip_serializing_if = "Wanted::is_empty")]
    pub resolver: Wanted,
    /// Further names in /etc/hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<ExtraHost>,
    /// `name=value` kernel parameters (namespaced ones only).
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Host devices given to the container.
    pub devices: Vec<DeviceRequest>,
    /// Limits enforced by cgroups.
    pub resources: ResourceRequest,
    /// How much it may send and receive on each of its interfaces.
    #[serde(skip_serializing_if = "Bandwidth::is_default")]
    pub bandwidth: Bandwidth,
    /// OCI runtime program used instead of the built-in one.
    pub runtime: Option<String>,
    /// Ports that the container listens on, `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Ports that are published at the host's addresses.
    pub published_ports: Vec<PortRequest>,
    /// Whether every exposed port is published, at a free port of the host.
    pub publish_all: bool,
}

/// A network, and what a container asks of its place in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkRequest {
    /// The network, by name.
    pub network: String,
    /// Its IPv4 address (`--ip`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address (`--ip6`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Its hardware address (`--mac-address`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Further names (`--network-alias`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

impl NetworkRequest {
    /// A network without any wishes.
    pub fn of(network: &str) -> NetworkRequest {
        NetworkRequest { network: network.to_owned(), ..NetworkRequest::default() }
    }

    /// The first wish, by its option's name.
    pub fn option(&self) -> Option<&'static str> {
        match () {
            () if self.ipv4.is_some() => Some("--ip"),
            () if self.ipv6.is_some() => Some("--ip6"),
            () if self.mac.is_some() => Some("--mac-address"),
            () if !self.aliases.is_empty() => Some("--network-alias"),
            () => None,
        }
    }
}

/// When the registry is asked (`--pull`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// Only when the image is not here.
    #[default]
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Whose namespace the container uses (`--pid`, `--ipc`, `--uts`, `--userns`, `--cgroupns`, `--network`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceChoice {
    /// Hull's default for this namespace: private, except userns, which is the host's.
    #[default]
    Default,
    /// One of its own.
    Private,
    /// The host's.
    Host,
    /// Its own with nothing in it (network only).
    None,
    /// That of another container, by name or id.
    Container(String),
    /// Its own with an interface in a network, by name or id (network only).
    Network(String),
    /// The one that this file leads to (network only).
    Path(PathBuf),
}

/// Seccomp choice (`--security-opt seccomp=...`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompChoice {
    /// Docker's default profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// A profile in docker's JSON format: its text, read when the request was made.
    Profile(String),
}

/// A mount (`-v`, `--mount`, `--tmpfs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// Kind and source.
    pub source: MountSource,
    /// Absolute path inside the container.
    pub target: PathBuf,
    /// Read-only.
    pub read_only: bool,
    /// Mount propagation: private, rprivate, slave, rslave, shared or rshared.
    pub propagation: Option<String>,
    /// Whose its files are to be.
    #[serde(default, skip_serializing_if = "Ownership::is_default")]
    pub ownership: Ownership,
}

/// Whose the files of a bind mount or volume are to be; podman's `:U` and `:idmap`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// Give them to the container's user at every start.
    pub chown: bool,
    /// Shift their ids by the container's user namespace, as every volume's are.
    pub shift: bool,
}

impl Ownership {
    pub(crate) fn is_default(&self) -> bool {
        *self == Ownership::default()
    }
}

/// A container whose bind mounts and volumes another one gets (`--volumes-from`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesFrom {
    /// Its name or id.
    pub container: String,
    /// All of them read-only; otherwise each as that container has it.
    pub read_only: bool,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A host path. `create` makes a missing directory (docker's `-v`; `--mount` refuses instead).
    Bind {
        /// Absolute host path.
        path: PathBuf,
        /// Make the directory when it is missing.
        create: bool,
        /// Also mount what is mounted below the path (`rbind`).
        recursive: bool,
    },
    /// A volume; anonymous when it has no name.
    Volume {
        /// Volume name.
        name: Option<String>,
        /// Fill a new, empty volume from the image's content at the target.
        copy_up: bool,
    },
    /// A tmpfs.
    Tmpfs {
        /// Size limit in bytes.
        size_bytes: Option<u64>,
        /// Permission bits, such as 0o1777.
        mode: Option<u32>,
        /// Further mount options as typed (`noexec`, `nosuid`, `uid=...`).
        options: Vec<String>,
    },
}

/// One resource limit (`--ulimit nofile=1024:2048`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, lower case.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

/// A host device (`--device HOST[:CONTAINER[:rwm]]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Path on the host.
    pub host_path: PathBuf,
    /// Path inside.
    pub container_path: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub access: String,
}

/// Limits as docker names them. Zero is written as absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceRequest {
    /// `--memory`, bytes.
    pub memory_bytes: Option<u64>,
    /// `--memory-swap`: memory plus swap in bytes; -1 is unlimited swap.
    pub memory_swap_bytes: Option<i64>,
    /// `--memory-reservation`, bytes.
    pub memory_reservation_bytes: Option<u64>,
    /// `--cpus` in billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// `--cpu-shares`, relative weight, 1024 is one share.
    pub cpu_shares: Option<u64>,
    /// `--cpuset-cpus`, list format of cpuset(7).
    pub cpuset_cpus: Option<String>,
    /// `--pids-limit`; -1 is unlimited.
    pub pids_limit: Option<i64>,
}
