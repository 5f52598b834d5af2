//! Namespaces and kernel parameters: what each choice becomes, and which choices exclude each other.
//!
//! A mount namespace is always the container's own. Of the others, `host` leaves the namespace out, `container:ID`
//! names that container's namespace file (found by the engine, never here), everything else is a new one. Kernel
//! parameters are allowed only where a namespace of the container's own bounds them, as docker does it.

use std::collections::BTreeMap;

use hull_oci::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType};

use super::{Resolved, SpecError};
use crate::request::{CreateContainer, NamespaceChoice};

/// First host id of the range that containers with a user namespace are given ranges from, and the first beyond it
/// (systemd's "container UID ranges", UIDS-GIDS.md), so that no user of the host has one of these ids.
const ID_RANGES: std::ops::Range<u32> = 0x0008_0000..0x7000_0000;
/// Ids per container.
pub const ID_RANGE_SIZE: u32 = 0x1_0000;

const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The choices of a request by namespace type, without the mount namespace.
pub(crate) fn choices(request: &CreateContainer) -> [(LinuxNamespaceType, &'static str, &NamespaceChoice); 6] {
    [
        (LinuxNamespaceType::User, "userns", &request.userns),
        (LinuxNamespaceType::Pid, "pid", &request.pid),
        (LinuxNamespaceType::Network, "network", &request.network),
        (LinuxNamespaceType::Ipc, "ipc", &request.ipc),
        (LinuxNamespaceType::Uts, "uts", &request.uts),
        (LinuxNamespaceType::Cgroup, "cgroupns", &request.cgroupns),
    ]
}

/// Whether the container has a user namespace other than the host's.
pub(crate) fn has_user_namespace(request: &CreateContainer) -> bool {
    !matches!(request.userns, NamespaceChoice::Default | NamespaceChoice::Host)
}

/// Refuses combinations that docker refuses.
pub(crate) fn check(request: &CreateContainer) -> Result<(), SpecError> {
    for (kind, option, choice) in choices(request) {
        let takes_none = matches!(kind, LinuxNamespaceType::Network | LinuxNamespaceType::Ipc);
        if *choice == NamespaceChoice::None && !takes_none {
            return Err(SpecError::NamespaceMode { option, mode: "none".to_owned() });
        }
    }
    let conflict = |message: &'static str| Err(SpecError::Conflict { message });
    if request.hostname.is_some() && matches!(request.uts, NamespaceChoice::Host | NamespaceChoice::Container(_)) {
        return conflict("conflicting options: hostname and the UTS mode");
    }
    if request.hostname.is_some() && matches!(request.network, NamespaceChoice::Container(_)) {
        return conflict("conflicting options: hostname and the network mode");
    }
    if has_user_namespace(request) {
        match () {
            () if request.privileged => {
                return conflict("privileged mode is incompatible with user namespaces; use --userns=host with it");
            }
            () if request.network == NamespaceChoice::Host => {
                return conflict("cannot share the host's network namespace when user namespaces are enabled");
            }
            () if request.pid == NamespaceChoice::Host => {
                return conflict("cannot share the host PID namespace when user namespaces are enabled");
            }
            () if request.ipc == NamespaceChoice::Host => {
                return conflict("cannot share the host IPC namespace when user namespaces are enabled");
            }
            () => {}
        }
    }
    check_sysctls(request)
}

fn check_sysctls(request: &CreateContainer) -> Result<(), SpecError> {
    for name in request.sysctls.keys() {
        let well_formed = name.split(['.', '/']).all(|part| !part.is_empty())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/@:".contains(&b));
        let refused = |reason: &'static str| Err(SpecError::Sysctl { name: name.clone(), reason });
        let network = name.starts_with("net.");
        let ipc = IPC_SYSCTLS.contains(&name.as_str()) || name.starts_with("fs.mqueue.");
        if !well_formed || !(network || ipc) {
            return refused("is not allowed");
        }
        if network && request.network == NamespaceChoice::Host {
            return refused("is not allowed in the host's network namespace");
        }
        if ipc && request.ipc == NamespaceChoice::Host {
            return refused("is not allowed in the host's IPC namespace");
        }
    }
    Ok(())
}

/// The `namespaces` section.
pub(crate) fn namespaces(request: &CreateContainer, resolved: &Resolved) -> Result<Vec<LinuxNamespace>, SpecError> {
    let mut list = vec![LinuxNamespace { type_: LinuxNamespaceType::Mount, path: None }];
    for (type_, option, choice) in choices(request) {
        let path = match choice {
            NamespaceChoice::Host => continue,
            NamespaceChoice::Default if type_ == LinuxNamespaceType::User => continue,
            NamespaceChoice::Default
            | NamespaceChoice::Private
            | NamespaceChoice::None
            | NamespaceChoice::Network(_) => None,
            NamespaceChoice::Path(path) => Some(path.clone()),
            NamespaceChoice::Container(name) => Some(
                resolved
                    .namespaces
                    .get(&type_)
                    .cloned()
                    .ok_or_else(|| SpecError::NamespaceUnresolved { option, name: name.clone() })?,
            ),
        };
        list.push(LinuxNamespace { type_, path });
    }
    Ok(list)
}

/// Kernel parameters: docker's defaults for a network namespace of the container's own, then the request's.
pub(crate) fn sysctls(request: &CreateContainer) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    if !matches!(request.network, NamespaceChoice::Host | NamespaceChoice::Container(_)) {
        values.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        if !has_user_namespace(request) {
            values.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        }
    }
    values.extend(request.sysctls.clone());
    values
}

/// Maps ids 0 to 65535 of the container to a range of the host that depends on the container's id alone.
///
/// Two containers may share a range when their ids collide (one in 28 000), as all of docker's remapped ones do.
pub fn id_map(id: &crate::id::ContainerId) -> LinuxIdMapping {
    let ranges = (ID_RANGES.end - ID_RANGES.start) / ID_RANGE_SIZE;
    let hash = u32::from_str_radix(&id.as_str()[..8], 16).unwrap_or_default();
    LinuxIdMapping { container_id: 0, host_id: ID_RANGES.start + (hash % ranges) * ID_RANGE_SIZE, size: ID_RANGE_SIZE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ContainerId;

    fn checked(change: impl FnOnce(&mut CreateContainer)) -> String {
        let mut request = CreateContainer::default();
        change(&mut request);
        check(&request).map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    #[test]
    fn sysctls_need_a_namespace_of_their_own() {
        let with = |name: &str, request: &mut CreateContainer| {
            request.sysctls.insert(name.to_owned(), "1".to_owned());
        };
        assert_eq!(checked(|r| with("net.core.somaxconn", r)), "ok");
        assert_eq!(checked(|r| with("kernel.shmmax", r)), "ok");
        assert_eq!(checked(|r| with("kernel.panic", r)), "sysctl 'kernel.panic' is not allowed");
        assert_eq!(checked(|r| with("net./../kernel.panic", r)), "sysctl 'net./../kernel.panic' is not allowed");
        let host = checked(|r| {
            with("net.core.somaxconn", r);
            r.network = NamespaceChoice::Host;
        });
        assert_eq!(host, "sysctl 'net.core.somaxconn' is not allowed in the host's network namespace");
    }

    #[test]
    fn contradictions() {
        let hostname = |r: &mut CreateContainer| r.hostname = Some("x".into());
        assert_eq!(
            checked(|r| {
                hostname(r);
                r.uts = NamespaceChoice::Host;
            }),
            "conflicting options: hostname and the UTS mode"
        );
        assert!(checked(|r| r.pid = NamespaceChoice::None).contains("--pid"));
        let private = |r: &mut CreateContainer| r.userns = NamespaceChoice::Private;
        assert!(
            checked(|r| {
                private(r);
                r.privileged = true;
            })
            .contains("privileged")
        );
        assert_eq!(checked(private), "ok");
    }

    #[test]
    fn id_ranges_stay_in_bounds() {
        for text in ["0".repeat(64), "f".repeat(64)] {
            let map = id_map(&ContainerId::parse(&text).unwrap());
            assert!(map.host_id >= ID_RANGES.start && map.host_id + map.size <= ID_RANGES.end, "{map:?}");
            assert_eq!(map.host_id % ID_RANGE_SIZE, 0);
        }
    }
}
