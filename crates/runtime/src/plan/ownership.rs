//! Who owns a container's cgroup (config-linux.md, "Cgroup ownership"): with cgroup v2, a cgroup namespace of its own and a
//! cgroup file system that it may write to, the user of the host that its program runs as. An init system in it, with a user
//! namespace or without, can then make cgroups of its own; what limits the container stays root's.

use std::path::Path;

use hull_oci::runtime::Mount;
use hull_sys::process::CLONE_NEWUSER;

use super::{IdMap, NamespacePlan};

/// The owner, unless it is root anyway.
pub(super) fn owner(mounts: &[Mount], uid: u32, namespaces: &NamespacePlan) -> Option<u32> {
    let joins_user = namespaces.join.iter().any(|(kind, _)| *kind == CLONE_NEWUSER);
    // Which users those are only the namespace that is joined knows.
    if !namespaces.create_cgroup || joins_user || !mounts.iter().any(is_writable_cgroup) {
        return None;
    }
    outside(uid, &namespaces.uid_map)
}

/// The user of the host that a user of the container is, unless that is root.
fn outside(uid: u32, map: &[IdMap]) -> Option<u32> {
    let owner = match map {
        [] => uid,
        map => {
            let line = map.iter().find(|line| uid.checked_sub(line.inside).is_some_and(|at| at < line.count))?;
            line.outside.checked_add(uid - line.inside)?
        }
    };
    Some(owner).filter(|owner| *owner != 0)
}

fn is_writable_cgroup(mount: &Mount) -> bool {
    let is_cgroup = matches!(mount.type_.as_deref(), Some("cgroup" | "cgroup2"));
    let access = mount.options.iter().rfind(|word| matches!(word.as_str(), "ro" | "rro" | "rw"));
    is_cgroup && mount.destination == Path::new("/sys/fs/cgroup") && access.is_none_or(|word| word == "rw")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_mapped_and_root_is_left_out() {
        let map = [IdMap { inside: 0, outside: 100_000, count: 1000 }, IdMap { inside: 2000, outside: 0, count: 1 }];
        assert_eq!(outside(0, &map), Some(100_000));
        assert_eq!(outside(7, &map), Some(100_007));
        assert_eq!(outside(1000, &map), None, "no such user in the container");
        assert_eq!(outside(2000, &map), None, "root has it already");
        assert_eq!((outside(1000, &[]), outside(0, &[])), (Some(1000), None));
    }

    #[test]
    fn only_a_cgroup_mount_that_can_be_written_counts() {
        let writable = |destination: &str, kind: &str, options: &[&str]| {
            is_writable_cgroup(&Mount {
                destination: destination.into(),
                type_: Some(kind.to_owned()),
                options: options.iter().map(|word| (*word).to_owned()).collect(),
                ..Mount::default()
            })
        };
        assert!(
            writable("/sys/fs/cgroup", "cgroup", &["nosuid"]) && writable("/sys/fs/cgroup", "cgroup2", &["ro", "rw"])
        );
        assert!(!writable("/sys/fs/cgroup", "cgroup", &["rw", "ro"]) && !writable("/sys", "cgroup", &[]));
        assert!(!writable("/sys/fs/cgroup", "tmpfs", &[]));
    }
}
