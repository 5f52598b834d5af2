//! The flags of `hull run` and `hull create`, as typed, and their meaning as a request.
//!
//! [`ContainerArgs`] is what both have in common. [`ContainerArgs::request`] is the whole conversion: it
//! looks at nothing but the arguments and the [`Surroundings`] (environment, files named by flags), so that
//! tables of command lines can be tested against the requests they mean.

use std::net::IpAddr;
use std::path::Path;

use clap::Args;
use hull_engine::request::{
    CreateContainer, DeviceRequest, MountRequest, NamespaceChoice, PullPolicy, ResourceRequest, SeccompChoice, Ulimit,
    VolumesFrom,
};

use hull_network::bandwidth::Bandwidth;
use hull_network::name_files::ExtraHost;
use hull_network::ports::PortRequest;
use hull_network::resolv_conf::Wanted;

use super::bandwidth::BandwidthArgs;
use super::env::{self, FileError};
use super::networks::PlaceArgs;
use super::surroundings::Surroundings;
use super::values::{self, NamespaceFlag, namespace};
use super::{RawMounts, mounts};

/// `hull run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that detach from the container
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Pass received signals on to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false", value_parser = values::truth)]
    pub sig_proxy: bool,
    /// What `create` has as well.
    #[command(flatten)]
    pub container: ContainerArgs,
}

/// What `hull run` and `hull create` have in common.
#[derive(Debug, Args)]
pub struct ContainerArgs {
    /// Add a name to /etc/hosts: NAME:ADDRESS, or NAME:host-gateway for the host
    #[arg(long, value_name = "HOST", value_parser = values::extra_host)]
    pub add_host: Vec<ExtraHost>,
    /// Add an annotation, passed to the OCI runtime
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::annotation)]
    pub annotation: Vec<(String, String)>,
    /// Add a Linux capability (ALL for every one)
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop a Linux capability (ALL for every one)
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Cgroup namespace: private or host
    #[arg(long, value_name = "MODE", value_parser = |text: &str| namespace(NamespaceFlag::Cgroup, text))]
    pub cgroupns: Option<NamespaceChoice>,
    /// Write the container's id to this file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<String>,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, value_name = "WEIGHT", value_parser = values::natural)]
    pub cpu_shares: Option<u64>,
    /// Number of CPUs, such as 0.5
    #[arg(long, value_name = "DECIMAL", value_parser = values::nano_cpus)]
    pub cpus: Option<u64>,
    /// CPUs in which to run, such as 0-3 or 0,1
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Add a host device: HOST[:CONTAINER][:rwm]
    #[arg(long, value_name = "DEVICE", value_parser = values::device)]
    pub device: Vec<DeviceRequest>,
    /// Name server to ask instead of the host's
    #[arg(long, value_name = "ADDRESS", value_parser = values::address)]
    pub dns: Vec<IpAddr>,
    /// Option of resolv.conf instead of the host's, such as ndots:1
    #[arg(long, alias = "dns-opt", value_name = "OPTION", value_parser = values::dns_option)]
    pub dns_option: Vec<String>,
    /// Search domain instead of the host's; . for none
    #[arg(long, value_name = "DOMAIN", value_parser = values::dns_search)]
    pub dns_search: Vec<String>,
    /// NIS domain name
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,
    /// Replace the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Set a variable, or pass on one of this process
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = values::variable)]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<String>,
    /// Note a port that the container listens on
    #[arg(long, value_name = "PORT", value_parser = values::exposed_ports)]
    pub expose: Vec<Vec<String>>,
    /// Add a supplementary group, by name or id
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Run Hull's init as PID 1: it forwards signals and reaps processes
    #[arg(long)]
    pub init: bool,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// IPC namespace: private, shareable, host, none or container:NAME
    #[arg(long, value_name = "MODE", value_parser = |text: &str| namespace(NamespaceFlag::Ipc, text))]
    pub ipc: Option<NamespaceChoice>,
    /// Set a label
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = values::label)]
    pub label: Vec<(String, String)>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<String>,
    /// Memory limit
    #[arg(short, long, value_name = "SIZE", value_parser = values::size)]
    pub memory: Option<u64>,
    /// Memory that the container keeps under pressure
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub memory_reservation: Option<u64>,
    /// Limit of memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "SIZE", value_parser = values::swap_size)]
    pub memory_swap: Option<i64>,
    /// Add a mount: type=bind|volume|tmpfs,src=...,dst=...
    #[arg(long, value_name = "MOUNT")]
    pub mount: Vec<String>,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Rates.
    #[command(flatten)]
    pub bandwidth: BandwidthArgs,
    /// Networks.
    #[command(flatten)]
    pub places: PlaceArgs,
    /// How readily the kernel kills the process when memory ends (-1000 to 1000)
    #[arg(long, value_name = "NUMBER", value_parser = values::integer)]
    pub oom_score_adj: Option<i64>,
    /// PID namespace: private, host or container:NAME
    #[arg(long, value_name = "MODE", value_parser = |text: &str| namespace(NamespaceFlag::Pid, text))]
    pub pid: Option<NamespaceChoice>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", value_parser = values::integer)]
    pub pids_limit: Option<i64>,
    /// Platform of the image: OS[/ARCH[/VARIANT]]
    #[arg(long, value_name = "PLATFORM", value_parser = values::platform)]
    pub platform: Option<String>,
    /// Give the container every capability and device
    #[arg(long)]
    pub privileged: bool,
    /// When to pull the image: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing", value_parser = pull_policy)]
    pub pull: PullPolicy,
    /// Publish a port: [[ADDRESS:][HOST_PORT]:]PORT[/PROTOCOL]
    #[arg(short, long, value_name = "PORT", value_parser = values::published_ports)]
    pub publish: Vec<Vec<PortRequest>>,
    /// Publish all exposed ports at free ports of the host
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Show nothing while pulling
    #[arg(short, long)]
    pub quiet: bool,
    /// Mount the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Remove the container and its anonymous volumes when it ends
    #[arg(long)]
    pub rm: bool,
    /// OCI runtime program to use instead of the built-in one
    #[arg(long, value_name = "PATH")]
    pub runtime: Option<String>,
    /// Security option: seccomp=FILE|unconfined, no-new-privileges
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub shm_size: Option<u64>,
    /// Signal that asks the container to stop
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds from that signal to SIGKILL; -1 for ever
    #[arg(long, value_name = "SECONDS", value_parser = values::integer)]
    pub stop_timeout: Option<i64>,
    /// Set a namespaced kernel parameter
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::sysctl)]
    pub sysctl: Vec<(String, String)>,
    /// Mount a tmpfs: TARGET[:OPTION,...]
    #[arg(long, value_name = "MOUNT")]
    pub tmpfs: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT", value_parser = values::ulimit)]
    pub ulimit: Vec<Ulimit>,
    /// User, by name or id: USER[:GROUP]
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// User namespace: host or private
    #[arg(long, value_name = "MODE", value_parser = |text: &str| namespace(NamespaceFlag::User, text))]
    pub userns: Option<NamespaceChoice>,
    /// UTS namespace: private or host
    #[arg(long, value_name = "MODE", value_parser = |text: &str| namespace(NamespaceFlag::Uts, text))]
    pub uts: Option<NamespaceChoice>,
    /// Add a bind mount or a volume: [SOURCE:]TARGET[:OPTION,...]
    #[arg(short, long, value_name = "VOLUME")]
    pub volume: Vec<String>,
    /// Mount the bind mounts and volumes of another container: CONTAINER[:ro|rw]
    #[arg(long, value_name = "CONTAINER", value_parser = mounts::volumes_from)]
    pub volumes_from: Vec<VolumesFrom>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The image, and the command with its arguments
    #[arg(value_name = "IMAGE", required = true, num_args = 1.., trailing_var_arg = true, hide = true)]
    pub image_and_command: Vec<String>,
}

/// Why arguments that parse one by one are no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A value whose reading needs the surroundings.
    #[error("invalid argument {value:?} for \"{flag}\" flag: {problem}")]
    Value {
        /// The flag, as the help shows it.
        flag: &'static str,
        /// The value as typed.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// Flags that do not go together.
    #[error("{0}")]
    Conflict(String),
    /// A file of variables or labels.
    #[error(transparent)]
    File(#[from] FileError),
    /// The seccomp profile cannot be read.
    #[error("opening seccomp profile ({path}) failed")]
    SeccompRead {
        /// As typed.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The seccomp profile is not JSON.
    #[error("the seccomp profile {path} is not JSON")]
    SeccompSyntax {
        /// As typed.
        path: String,
        /// Cause.
        source: serde_json::Error,
    },
    /// Not a security option.
    #[error("Invalid --security-opt: {0:?}")]
    SecurityOption(String),
    /// A security option of a later release.
    #[error("--security-opt {0} is not supported yet (it comes with a later release)")]
    SecurityOptionLater(String),
}

fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    match text {
        "missing" | "" => Ok(PullPolicy::Missing),
        "always" => Ok(PullPolicy::Always),
        "never" => Ok(PullPolicy::Never),
        _ => Err(format!("invalid pull option: '{text}': must be one of \"always\", \"missing\" or \"never\"")),
    }
}

impl ContainerArgs {
    /// The image as typed.
    pub fn image(&self) -> &str {
        self.image_and_command.first().map(String::as_str).unwrap_or_default()
    }

    /// What the arguments ask for.
    ///
    /// # Errors
    /// When a value does not hold in these surroundings, or a file that a flag names cannot be used.
    pub fn request(&self, around: &dyn Surroundings) -> Result<CreateContainer, RequestError> {
        let security = SecurityOptions::read(&self.security_opt, around)?;
        let (network, networks) = self.places.read().map_err(RequestError::Conflict)?;
        let namespace = |choice: &Option<NamespaceChoice>| choice.clone().unwrap_or_default();
        Ok(CreateContainer {
            name: self.name.clone(),
            image: self.image().to_owned(),
            platform: self.platform.clone(),
            pull: self.pull,
            command: self.image_and_command.iter().skip(1).cloned().collect(),
            entrypoint: self.entrypoint.as_ref().map(|program| entrypoint(program)),
            env: env::variables(&self.env_file, &self.env, around)?,
            user: self.user.clone(),
            group_add: self.group_add.clone(),
            workdir: self.workdir.clone(),
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            tty: self.tty,
            interactive: self.interactive,
            auto_remove: self.rm,
            labels: env::labels(&self.label_file, &self.label, around)?.into_iter().collect(),
            annotations: self.annotation.iter().cloned().collect(),
            mounts: self.mounts(around)?,
            volumes_from: self.volumes_from.clone(),
            read_only: self.read_only,
            init: self.init,
            stop_signal: self.stop_signal.clone(),
            stop_timeout_seconds: self.stop_timeout,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            privileged: self.privileged,
            seccomp: security.seccomp,
            no_new_privileges: security.no_new_privileges,
            oom_score_adj: self.oom_score_adj()?,
            shm_size_bytes: self.shm_size.filter(|size| *size > 0),
            pid: namespace(&self.pid),
            ipc: namespace(&self.ipc),
            uts: namespace(&self.uts),
            userns: namespace(&self.userns),
            cgroupns: namespace(&self.cgroupns),
            network,
            networks,
            resolver: Wanted {
                servers: self.dns.clone(),
                search: self.dns_search.clone(),
                options: self.dns_option.clone(),
            },
            extra_hosts: self.add_host.clone(),
            sysctls: self.sysctl.iter().cloned().collect(),
            ulimits: self.ulimit.clone(),
            devices: self.device.clone(),
            resources: self.resources(),
            bandwidth: self.bandwidth.change().apply(&Bandwidth::default()),
            runtime: self.runtime.clone(),
            exposed_ports: self.expose.concat(),
            published_ports: self.publish.concat(),
            publish_all: self.publish_all,
        })
    }

    fn resources(&self) -> ResourceRequest {
        ResourceRequest {
            memory_bytes: self.memory.filter(|size| *size > 0),
            memory_swap_bytes: self.memory_swap.filter(|size| *size != 0),
            memory_reservation_bytes: self.memory_reservation.filter(|size| *size > 0),
            nano_cpus: self.cpus.filter(|nanos| *nanos > 0),
            cpu_shares: self.cpu_shares.filter(|weight| *weight > 0),
            cpuset_cpus: self.cpuset_cpus.clone().filter(|list| !list.is_empty()),
            pids_limit: self.pids_limit.filter(|limit| *limit != 0),
        }
    }

    fn oom_score_adj(&self) -> Result<Option<i32>, RequestError> {
        let Some(score) = self.oom_score_adj else { return Ok(None) };
        match i32::try_from(score) {
            Ok(score @ -1000..=1000) => Ok(Some(score)),
            _ => Err(RequestError::Value {
                flag: "--oom-score-adj",
                value: score.to_string(),
                problem: "out of range: -1000 to 1000".to_owned(),
            }),
        }
    }

    /// All mounts: `-v` first, then `--mount`, then `--tmpfs`.
    fn mounts(&self, around: &dyn Surroundings) -> Result<Vec<MountRequest>, RequestError> {
        let mut all = Vec::new();
        let kinds: [RawMounts<'_>; 3] = [
            ("-v, --volume", &self.volume, &|text| mounts::volume(text, around)),
            ("--mount", &self.mount, &|text| mounts::mount(text, around)),
            ("--tmpfs", &self.tmpfs, &mounts::tmpfs),
        ];
        for (flag, values, read) in kinds {
            for value in values {
                all.push(read(value).map_err(|problem| RequestError::Value { flag, value: value.clone(), problem })?);
            }
        }
        Ok(all)
    }
}

/// The empty string takes the image's entrypoint away.
fn entrypoint(program: &str) -> Vec<String> {
    if program.is_empty() { Vec::new() } else { vec![program.to_owned()] }
}

#[derive(Default)]
struct SecurityOptions {
    seccomp: SeccompChoice,
    no_new_privileges: bool,
}

impl SecurityOptions {
    fn read(options: &[String], around: &dyn Surroundings) -> Result<SecurityOptions, RequestError> {
        let mut security = SecurityOptions::default();
        for option in options {
            let (name, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
                Some((name, value)) => (name, Some(value)),
                None => (option.as_str(), None),
            };
            let invalid = || RequestError::SecurityOption(option.clone());
            match (name, value) {
                ("seccomp", Some("unconfined")) => security.seccomp = SeccompChoice::Unconfined,
                ("seccomp", Some("builtin")) => security.seccomp = SeccompChoice::Default,
                ("seccomp", Some(path)) if !path.is_empty() => security.seccomp = profile(path, around)?,
                ("no-new-privileges", None) => security.no_new_privileges = true,
                ("no-new-privileges", Some(value)) => {
                    security.no_new_privileges = values::truth(value).map_err(|_| invalid())?;
                }
                // Neither is at work in a container of Hull, so there is nothing to turn off.
                ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
                ("apparmor" | "label" | "systempaths" | "writable-cgroups" | "proc-opts", Some(_)) => {
                    return Err(RequestError::SecurityOptionLater(option.clone()));
                }
                _ => return Err(invalid()),
            }
        }
        Ok(security)
    }
}

fn profile(path: &str, around: &dyn Surroundings) -> Result<SeccompChoice, RequestError> {
    let text =
        around.read(Path::new(path)).map_err(|source| RequestError::SeccompRead { path: path.to_owned(), source })?;
    serde_json::from_str::<serde::de::IgnoredAny>(&text)
        .map_err(|source| RequestError::SeccompSyntax { path: path.to_owned(), source })?;
    Ok(SeccompChoice::Profile(text))
}
