//! Which namespaces are made, which are joined, and what that allows (namespaces(7)).
//!
//! The pid namespace is joined by the parent, because it takes effect for children only; every other one by the
//! child. Where a user namespace comes into it as well, a process in between joins all of them (see
//! [`crate::go_between`]). The cgroup namespace is made by the child after it has joined its cgroup, so that the cgroup
//! is its root. So is the time namespace, because clone3(2) would put the child into it at once, and then its clocks
//! stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_oci::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset};
use hull_sys::process as sys;

use super::PlanError;

/// One line of uid_map or gid_map (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Whose mounts the container sees and adds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountNamespace {
    /// Its own.
    New,
    /// Those of the namespace that it joins.
    Joined,
    /// The runtime's.
    Runtime,
}

/// Namespaces of the container.
#[derive(Debug)]
pub struct NamespacePlan {
    /// `CLONE_NEW*` flags for clone3, without the cgroup and the time namespace.
    pub create: i32,
    /// Make a cgroup namespace once the cgroup is joined.
    pub create_cgroup: bool,
    /// Make a time namespace, whose clocks are set before the child is in it.
    pub create_time: bool,
    /// Lines for timens_offsets (time_namespaces(7)); empty leaves the clocks alone.
    pub time_offsets: String,
    /// Namespaces to join, user first.
    pub join: Vec<(i32, OwnedFd)>,
    /// Pid namespace to join, which takes effect for children of whoever joins it.
    pub join_pid: Option<OwnedFd>,
    /// Uid map of a new user namespace.
    pub uid_map: Vec<IdMap>,
    /// Gid map of a new user namespace.
    pub gid_map: Vec<IdMap>,
    /// Which mount namespace the container has.
    pub mount: MountNamespace,
    /// Whether the container has a UTS namespace that is not the host's.
    pub has_uts: bool,
    /// Whether the container has an IPC namespace that is not the host's.
    pub has_ipc: bool,
    /// Whether the container has a network namespace that is not the host's.
    pub has_network: bool,
}

impl NamespacePlan {
    /// Whether a user namespace is made.
    pub fn creates_user(&self) -> bool {
        self.create & sys::CLONE_NEWUSER != 0
    }

    /// Whether the container has a cgroup namespace that is not the host's.
    pub fn has_cgroup(&self) -> bool {
        self.create_cgroup || self.join.iter().any(|(kind, _)| *kind == sys::CLONE_NEWCGROUP)
    }

    /// Whether the container lives in a user namespace that is not the host's.
    pub fn has_user(&self) -> bool {
        self.creates_user() || self.join.iter().any(|(kind, _)| *kind == sys::CLONE_NEWUSER)
    }

    /// The user namespace of somebody else that the container joins.
    pub(crate) fn joined_user(&self) -> Option<BorrowedFd<'_>> {
        self.join.iter().find(|(kind, _)| *kind == sys::CLONE_NEWUSER).map(|(_, fd)| fd.as_fd())
    }

    /// Whether namespaces can only be entered by a process between the creator and the child: what is made has to belong
    /// to a user namespace that is joined, and what is joined may belong to the host and not to the one that is made.
    pub(crate) fn needs_go_between(&self) -> bool {
        self.has_user() && (!self.join.is_empty() || self.join_pid.is_some())
    }

    /// Whether a network namespace is made, whose loopback interface is still down.
    pub fn creates_network(&self) -> bool {
        self.create & sys::CLONE_NEWNET != 0
    }
}

/// The clone flag of a namespace kind.
fn flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => sys::CLONE_NEWNS,
        LinuxNamespaceType::Pid => sys::CLONE_NEWPID,
        LinuxNamespaceType::Network => sys::CLONE_NEWNET,
        LinuxNamespaceType::Uts => sys::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => sys::CLONE_NEWIPC,
        LinuxNamespaceType::User => sys::CLONE_NEWUSER,
        LinuxNamespaceType::Cgroup => sys::CLONE_NEWCGROUP,
        LinuxNamespaceType::Time => sys::CLONE_NEWTIME,
    }
}

/// Reads `linux.namespaces` and the id maps.
pub(super) fn plan(linux: &Linux) -> Result<NamespacePlan, PlanError> {
    let mut seen = BTreeSet::new();
    let mut create = 0;
    let mut join = Vec::new();
    let mut join_pid = None;
    for (index, namespace) in linux.namespaces.iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        if !seen.insert(namespace.type_) {
            return Err(PlanError::invalid(field, format!("{} is listed twice", namespace.type_)));
        }
        match &namespace.path {
            None => create |= flag(namespace.type_),
            Some(path) => {
                let fd = open_namespace(&format!("{field}.path"), path)?;
                match namespace.type_ {
                    LinuxNamespaceType::Pid => join_pid = Some(fd),
                    kind => join.push((flag(kind), fd)),
                }
            }
        }
    }
    let mount = match create & sys::CLONE_NEWNS != 0 {
        true => MountNamespace::New,
        false if seen.contains(&LinuxNamespaceType::Mount) => MountNamespace::Joined,
        false => MountNamespace::Runtime,
    };
    join.sort_by_key(|(kind, _)| *kind != sys::CLONE_NEWUSER);
    let has = |kind| seen.contains(&kind);
    let plan = NamespacePlan {
        create: create & !(sys::CLONE_NEWCGROUP | sys::CLONE_NEWTIME),
        create_cgroup: create & sys::CLONE_NEWCGROUP != 0,
        create_time: create & sys::CLONE_NEWTIME != 0,
        time_offsets: time_offsets(&linux.time_offsets, create & sys::CLONE_NEWTIME != 0)?,
        join,
        join_pid,
        uid_map: id_maps("linux.uidMappings", &linux.uid_mappings)?,
        gid_map: id_maps("linux.gidMappings", &linux.gid_mappings)?,
        mount,
        has_uts: has(LinuxNamespaceType::Uts),
        has_ipc: has(LinuxNamespaceType::Ipc),
        has_network: has(LinuxNamespaceType::Network),
    };
    check_maps(&plan)?;
    Ok(plan)
}

fn check_maps(plan: &NamespacePlan) -> Result<(), PlanError> {
    for (field, map) in [("linux.uidMappings", &plan.uid_map), ("linux.gidMappings", &plan.gid_map)] {
        match (plan.creates_user(), map.is_empty()) {
            (true, true) => return Err(PlanError::invalid(field, "a new user namespace needs it")),
            // With one that is joined they are compared with what it has, as its engines give both.
            (false, false) if !plan.has_user() => return Err(PlanError::invalid(field, "needs a new user namespace")),
            _ => {}
        }
    }
    if plan.has_user() && plan.mount == MountNamespace::Runtime {
        let why = "a container with a user namespace needs a mount namespace that belongs to it";
        return Err(PlanError::unsupported("linux.namespaces", why));
    }
    Ok(())
}

/// The lines that set the clocks of a new time namespace.
fn time_offsets(offsets: &BTreeMap<String, LinuxTimeOffset>, has_own: bool) -> Result<String, PlanError> {
    const NANOSECONDS: u32 = 1_000_000_000;
    let mut lines = String::new();
    for (clock, offset) in offsets {
        let field = format!("linux.timeOffsets.{clock}");
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(PlanError::invalid(field, "is not a clock that a time namespace has"));
        }
        if !has_own {
            return Err(PlanError::invalid(field, "needs a new time namespace"));
        }
        if offset.nanosecs >= NANOSECONDS {
            return Err(PlanError::invalid(format!("{field}.nanosecs"), format!("is below {NANOSECONDS}")));
        }
        lines += &format!("{clock} {} {}\n", offset.secs, offset.nanosecs);
    }
    Ok(lines)
}

fn id_maps(field: &str, mappings: &[LinuxIdMapping]) -> Result<Vec<IdMap>, PlanError> {
    let one = |(index, mapping): (usize, &LinuxIdMapping)| match mapping.size {
        0 => Err(PlanError::invalid(format!("{field}[{index}].size"), "must not be zero")),
        count => Ok(IdMap { inside: mapping.container_id, outside: mapping.host_id, count }),
    };
    mappings.iter().enumerate().map(one).collect()
}

/// Opens a namespace file.
fn open_namespace(field: &str, path: &Path) -> Result<OwnedFd, PlanError> {
    match File::open(path) {
        Ok(file) => Ok(file.into()),
        Err(source) => Err(PlanError::Open { field: field.to_owned(), path: path.to_path_buf(), source }),
    }
}

/// Turns `linux.sysctl` into paths below /proc/sys, refusing what belongs to the host (namespaces(7), sysctl lists
/// of each namespace).
pub(super) fn sysctls(
    sysctls: &BTreeMap<String, String>,
    namespaces: &NamespacePlan,
) -> Result<Vec<(PathBuf, String)>, PlanError> {
    let mut planned = Vec::new();
    for (name, value) in sysctls {
        let field = format!("linux.sysctl.{name}");
        // Both `net.ipv4.ip_forward` and `net/ipv4/ip_forward` are in use; a slash form may hold dots in names.
        let path = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(PlanError::invalid(field, "is not a kernel parameter's name"));
        }
        let allowed = match namespace_of(&path) {
            Some(LinuxNamespaceType::Ipc) => namespaces.has_ipc,
            Some(LinuxNamespaceType::Network) => namespaces.has_network,
            Some(LinuxNamespaceType::Uts) => namespaces.has_uts,
            _ => return Err(PlanError::invalid(field, "is not in a separate kernel namespace")),
        };
        if !allowed {
            return Err(PlanError::invalid(field, "belongs to a namespace that this container shares with the host"));
        }
        planned.push((PathBuf::from(path), value.clone()));
    }
    Ok(planned)
}

/// Which namespace a kernel parameter belongs to (ipc_namespaces(7), network_namespaces(7), uts_namespaces(7)).
fn namespace_of(path: &str) -> Option<LinuxNamespaceType> {
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        return Some(LinuxNamespaceType::Ipc);
    }
    if path.starts_with("net/") {
        return Some(LinuxNamespaceType::Network);
    }
    matches!(path, "kernel/domainname" | "kernel/hostname").then_some(LinuxNamespaceType::Uts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_oci::runtime::LinuxNamespace;

    fn linux(kinds: &[LinuxNamespaceType]) -> Linux {
        let namespaces = kinds.iter().map(|kind| LinuxNamespace { type_: *kind, path: None }).collect();
        Linux { namespaces, ..Linux::default() }
    }

    #[test]
    fn a_namespace_listed_twice_is_refused_by_its_field() {
        let kinds = [LinuxNamespaceType::Mount, LinuxNamespaceType::Pid, LinuxNamespaceType::Pid];
        let error = plan(&linux(&kinds)).unwrap_err();
        assert_eq!(error.to_string(), "config.json: linux.namespaces[2]: pid is listed twice");
    }

    #[test]
    fn a_user_namespace_needs_maps_and_maps_need_a_user_namespace() {
        assert!(plan(&linux(&[LinuxNamespaceType::Mount, LinuxNamespaceType::User])).is_err());
        let mut mapped = linux(&[LinuxNamespaceType::Mount]);
        mapped.uid_mappings = vec![LinuxIdMapping { container_id: 0, host_id: 100_000, size: 1 }];
        assert!(plan(&mapped).is_err());
        mapped.namespaces = linux(&[LinuxNamespaceType::User]).namespaces;
        mapped.gid_mappings = mapped.uid_mappings.clone();
        let error = plan(&mapped).unwrap_err().to_string();
        assert!(error.contains("needs a mount namespace that belongs to it"), "{error}");
    }

    #[test]
    fn a_mount_namespace_is_new_joined_or_the_runtimes() {
        let mut spec = linux(&[LinuxNamespaceType::Mount]);
        assert_eq!(plan(&spec).unwrap().mount, MountNamespace::New);
        spec.namespaces[0].path = Some("/proc/self/ns/mnt".into());
        assert_eq!(plan(&spec).unwrap().mount, MountNamespace::Joined);
        assert_eq!(plan(&linux(&[])).unwrap().mount, MountNamespace::Runtime);
    }

    #[test]
    fn clocks_are_set_in_a_new_time_namespace_only() {
        let offset = |secs, nanosecs| LinuxTimeOffset { secs, nanosecs };
        let mut linux = linux(&[LinuxNamespaceType::Mount, LinuxNamespaceType::Time]);
        linux.time_offsets = [("boottime", offset(-3, 5)), ("monotonic", offset(7, 0))]
            .map(|(clock, offset)| (clock.to_owned(), offset))
            .into();
        let planned = plan(&linux).unwrap();
        assert_eq!((planned.create, planned.create_time), (sys::CLONE_NEWNS, true));
        assert_eq!(planned.time_offsets, "boottime -3 5\nmonotonic 7 0\n");
        linux.time_offsets.insert("boottime".to_owned(), offset(0, 1_000_000_000));
        assert!(plan(&linux).unwrap_err().to_string().contains("linux.timeOffsets.boottime.nanosecs: is below"));
        linux.time_offsets = [("realtime".to_owned(), offset(1, 0))].into();
        assert!(plan(&linux).unwrap_err().to_string().contains("linux.timeOffsets.realtime: is not a clock"));
        linux.time_offsets = [("monotonic".to_owned(), offset(1, 0))].into();
        linux.namespaces[1].path = Some("/proc/self/ns/time".into());
        assert!(plan(&linux).unwrap_err().to_string().contains("linux.timeOffsets.monotonic: needs a new"));
    }

    #[test]
    fn a_sysctl_of_the_host_is_refused() {
        let namespaces = plan(&linux(&[LinuxNamespaceType::Mount, LinuxNamespaceType::Network])).unwrap();
        let ask = |name: &str| sysctls(&BTreeMap::from([(name.to_owned(), "1".to_owned())]), &namespaces);
        assert!(ask("net.ipv4.ip_forward").is_ok());
        assert!(ask("net/ipv4/conf/eth0.1/forwarding").is_ok());
        for refused in ["kernel.core_pattern", "kernel.shmmax", "vm.swappiness", "net..ipv4", "net/../kernel/panic"] {
            assert!(ask(refused).is_err(), "{refused}");
        }
    }
}
