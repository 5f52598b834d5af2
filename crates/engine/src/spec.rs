//! From a request and an image's configuration to the OCI runtime spec: pure, and tested by golden files.
//!
//! [`check`] refuses a request that can never start, when the container is created; [`fn@derive`] builds config.json
//! afresh at every start. Neither reads anything: what depends on the machine, on the image's files or on other
//! containers comes in through [`Machine`] and [`Resolved`]. The parts are in `spec/`, each a topic of docker's
//! documentation; merging the image's wishes is [`Effective`].

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use hull_oci::image::ImageConfig;
use hull_oci::runtime::{
    Linux, LinuxIdMapping, LinuxNamespaceType, LinuxResources, OCI_VERSION, Process, Root, Spec, User,
};

use crate::id::ContainerId;
use crate::identity::Identity;
pub use crate::machine::Machine;
use crate::mount_point::MountPoint;
use crate::request::{CreateContainer, NamespaceChoice, SeccompChoice};
use crate::signal::{Signal, SignalError};

pub(crate) mod capabilities;
mod devices;
mod effective;
pub(crate) mod limits;
mod mounts;
mod namespaces;
mod seccomp;

pub use devices::{DeviceGrant, gather as gather_devices};
pub use effective::{DEFAULT_PATH, Effective};
pub(crate) use limits::parse_cpuset;
pub use limits::{CPU_PERIOD_US, MINIMUM_MEMORY_BYTES};
pub use mounts::DEFAULT_SHM_BYTES;
pub(crate) use mounts::{clean_path, clean_target, masked_paths_everywhere, readonly_paths};
pub use namespaces::{ID_RANGE_SIZE, id_map};
pub(crate) use namespaces::{choices, has_user_namespace};

/// Longest host name that the kernel takes (`__NEW_UTS_LEN`).
const MAX_HOSTNAME: usize = 64;

/// What a start has found out for the spec: everything that is neither in the request nor in the image.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The container.
    pub id: ContainerId,
    /// Where the root file system is said to be; informative.
    pub rootfs: PathBuf,
    /// Host name inside.
    pub hostname: String,
    /// Who the process is.
    pub identity: Identity,
    /// Namespace files for the `container:ID` choices.
    pub namespaces: BTreeMap<LinuxNamespaceType, PathBuf>,
    /// Ids of the user namespace, when the container has one of its own.
    pub id_map: Option<LinuxIdMapping>,
    /// Mounts with their sources.
    pub mounts: Vec<MountPoint>,
    /// Folder of hosts, hostname and resolv.conf.
    pub name_files: PathBuf,
    /// /dev/shm of the host or of another container, when its IPC namespace is shared.
    pub shm_source: Option<PathBuf>,
    /// Path of the cgroup, from each hierarchy's root.
    pub cgroup_path: String,
    /// Devices beyond the standard ones.
    pub devices: Vec<DeviceGrant>,
    /// The machine.
    pub machine: Machine,
}

/// Why a request has no spec. Messages are docker's where docker has one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the variants and their fields are")]
pub enum SpecError {
    #[error("no command specified")]
    NoCommand,
    #[error("invalid {option}: unknown capability: \"{name}\"")]
    UnknownCapability { option: &'static str, name: String },
    #[error("cannot give {name}: this process does not have it itself")]
    CapabilityNotHeld { name: String },
    #[error("{message}")]
    Memory { message: &'static str },
    #[error("Range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available")]
    CpuCount { available: usize },
    #[error("invalid cpu-shares {shares}: the value must be from {least} to {most}")]
    CpuShares { shares: u64, least: u64, most: u64 },
    #[error("Invalid value {text} for cpuset cpus")]
    CpusetSyntax { text: String },
    #[error("Requested CPUs are not available - requested {text}, available: {available}")]
    CpusetUnavailable { text: String, available: String },
    #[error("invalid ulimit type: {name}")]
    UlimitName { name: String },
    #[error("invalid value {value} for ulimit {name}")]
    UlimitValue { name: String, value: i64 },
    #[error("ulimit {name}: soft limit must be less than or equal to hard limit: {soft} > {hard}")]
    UlimitOrder { name: String, soft: i64, hard: i64 },
    #[error("Invalid value {value}, range for oom score adj is [-1000, 1000]")]
    OomScore { value: i32 },
    #[error("SHM size is too large")]
    ShmSize,
    #[error("{message}")]
    Conflict { message: &'static str },
    #[error("--{option} does not know the mode {mode}")]
    NamespaceMode { option: &'static str, mode: String },
    #[error("--{option}: the namespace of container {name} was not found")]
    NamespaceUnresolved { option: &'static str, name: String },
    #[error("sysctl '{name}' {reason}")]
    Sysctl { name: String, reason: &'static str },
    #[error("invalid mount target {target:?}: {reason}")]
    MountTarget { target: PathBuf, reason: &'static str },
    #[error("Duplicate mount point: {}", target.display())]
    DuplicateMount { target: PathBuf },
    #[error("invalid propagation mode: {propagation}")]
    Propagation { propagation: String },
    #[error("invalid device mode: {access}")]
    DeviceAccess { access: String },
    #[error("device path {path:?} inside the container is not absolute")]
    DevicePath { path: PathBuf },
    #[error("error gathering device information while adding custom device {path:?}")]
    Device { path: PathBuf, source: io::Error },
    #[error("the working directory '{workdir}' is invalid, it needs to be an absolute path")]
    Workdir { workdir: String },
    #[error(
        "invalid host name {name:?}: 1 to {MAX_HOSTNAME} letters, digits, dots, hyphens and underscores are allowed"
    )]
    Hostname { name: String },
    #[error("invalid environment variable: {variable:?}")]
    Variable { variable: String },
    #[error(transparent)]
    Signal(#[from] SignalError),
    #[error(transparent)]
    Seccomp(#[from] crate::seccomp_profile::ProfileError),
}

/// Refuses what can never start on this machine. `image` is the configuration of the image that was found.
///
/// # Errors
/// See [`SpecError`].
pub fn check(request: &CreateContainer, image: &ImageConfig, machine: &Machine) -> Result<(), SpecError> {
    let effective = Effective::merge(request, image);
    check_process(request, &effective)?;
    let kept = capabilities::keep(request, machine.capabilities)?;
    limits::check(request, machine)?;
    namespaces::check(request)?;
    mounts::check(request)?;
    devices::check(request)?;
    if matches!(request.seccomp, SeccompChoice::Profile(_)) {
        seccomp::filter(request, kept, machine)?;
    }
    Ok(())
}

fn check_process(request: &CreateContainer, effective: &Effective) -> Result<(), SpecError> {
    if effective.args().is_empty() {
        return Err(SpecError::NoCommand);
    }
    if !effective.working_dir.is_empty() && !effective.working_dir.starts_with('/') {
        return Err(SpecError::Workdir { workdir: effective.working_dir.clone() });
    }
    let has_name = |v: &String| !v.is_empty() && !v.starts_with('=') && !v.contains('\0');
    if let Some(variable) = effective.env.iter().find(|v| !has_name(v)) {
        return Err(SpecError::Variable { variable: variable.clone() });
    }
    for name in [&request.hostname, &request.domainname].into_iter().flatten() {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || name.len() > MAX_HOSTNAME || !name.bytes().all(allowed) {
            return Err(SpecError::Hostname { name: name.clone() });
        }
    }
    stop_signal(effective)?;
    Ok(())
}

/// The signal that asks the container to stop: the request's, the image's, or SIGTERM.
///
/// # Errors
/// When it is no signal.
pub fn stop_signal(effective: &Effective) -> Result<Signal, SpecError> {
    Ok(effective.stop_signal.as_deref().map_or(Ok(Signal::TERM), str::parse)?)
}

/// Builds config.json for one start.
///
/// # Errors
/// See [`SpecError`]; everything that [`check`] refuses is refused here too.
pub fn derive(request: &CreateContainer, image: &ImageConfig, resolved: &Resolved) -> Result<Spec, SpecError> {
    check(request, image, &resolved.machine)?;
    let own_uts = request.uts != NamespaceChoice::Host && !matches!(request.uts, NamespaceChoice::Container(_));
    Ok(Spec {
        oci_version: OCI_VERSION.to_owned(),
        process: Some(process(request, &Effective::merge(request, image), resolved)?),
        root: Some(Root { path: resolved.rootfs.clone(), readonly: request.read_only }),
        hostname: own_uts.then(|| resolved.hostname.clone()),
        domainname: request.domainname.clone().filter(|_| own_uts),
        mounts: mounts::mounts(request, resolved)?,
        hooks: None,
        annotations: request.annotations.clone(),
        linux: Some(linux(request, resolved)?),
    })
}

fn process(request: &CreateContainer, effective: &Effective, resolved: &Resolved) -> Result<Process, SpecError> {
    let identity = &resolved.identity;
    let workdir = if effective.working_dir.is_empty() { "/" } else { &effective.working_dir };
    Ok(Process {
        terminal: request.tty,
        user: User {
            uid: identity.uid,
            gid: identity.gid,
            additional_gids: identity.additional_gids.clone(),
            ..User::default()
        },
        args: effective.args(),
        env: effective.process_env(&resolved.hostname, request.tty, &identity.home),
        cwd: clean_path(workdir.as_ref()),
        capabilities: Some(capabilities::sets(capabilities::keep(request, resolved.machine.capabilities)?)),
        rlimits: limits::rlimits(&request.ulimits)?,
        no_new_privileges: request.no_new_privileges,
        oom_score_adj: request.oom_score_adj,
        ..Process::default()
    })
}

fn linux(request: &CreateContainer, resolved: &Resolved) -> Result<Linux, SpecError> {
    let kept = capabilities::keep(request, resolved.machine.capabilities)?;
    let masked = !request.privileged;
    // A namespace that is joined has its maps already.
    let own_map = resolved.id_map.filter(|_| request.userns == NamespaceChoice::Private);
    let id_mappings: Vec<LinuxIdMapping> = own_map.into_iter().collect();
    Ok(Linux {
        uid_mappings: id_mappings.clone(),
        gid_mappings: id_mappings,
        sysctl: namespaces::sysctls(request),
        resources: Some(LinuxResources {
            devices: devices::cgroup_rules(request, &resolved.devices),
            ..limits::resources(&request.resources)
        }),
        cgroups_path: Some(resolved.cgroup_path.clone()),
        namespaces: namespaces::namespaces(request, resolved)?,
        devices: resolved.devices.iter().map(|grant| grant.device.clone()).collect(),
        seccomp: seccomp::filter(request, kept, &resolved.machine)?,
        rootfs_propagation: mounts::rootfs_propagation(&resolved.mounts),
        masked_paths: if masked { mounts::masked_paths(&resolved.machine) } else { Vec::new() },
        readonly_paths: if masked { mounts::readonly_paths() } else { Vec::new() },
        ..Linux::default()
    })
}

#[cfg(test)]
mod tests;
