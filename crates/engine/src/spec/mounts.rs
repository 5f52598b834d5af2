//! The mount list: the kernel's own file systems, the name files, then what was asked for, parents before children.
//!
//! A mount of the user's at the path of a default one replaces it (and one at `/dev` replaces everything below it),
//! as docker does it. Which paths of /proc and /sys are hidden or read-only is Docker's current list.

use std::path::{Component, Path, PathBuf};

use hull_oci::runtime::{LinuxIdMapping, Mount};

use super::{Machine, Resolved, SpecError};
use crate::mount_point::{MountKind, MountPoint};
use crate::request::{CreateContainer, NamespaceChoice};

/// Size of /dev/shm when nobody asks for another, bytes.
pub const DEFAULT_SHM_BYTES: u64 = 64 * 1024 * 1024;

const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Docker's list of covered paths, on any machine.
pub(crate) fn masked_paths_everywhere() -> Vec<String> {
    MASKED_PATHS.iter().map(|path| (*path).to_owned()).collect()
}

/// Paths that are covered; on machines whose CPUs report it, also each CPU's throttling counters.
pub(crate) fn masked_paths(machine: &Machine) -> Vec<String> {
    let mut paths = masked_paths_everywhere();
    if machine.thermal_throttle {
        paths.extend(machine.cpus.iter().map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle")));
    }
    paths
}

/// Paths that are made read-only.
pub(crate) fn readonly_paths() -> Vec<String> {
    READONLY_PATHS.iter().map(|path| (*path).to_owned()).collect()
}

/// Checks targets and propagations of a request.
pub(crate) fn check(request: &CreateContainer) -> Result<(), SpecError> {
    let mut targets: Vec<PathBuf> = Vec::new();
    for mount in &request.mounts {
        let target = clean_target(&mount.target)?;
        if targets.contains(&target) {
            return Err(SpecError::DuplicateMount { target });
        }
        targets.push(target);
        if let Some(propagation) = &mount.propagation
            && !PROPAGATIONS.contains(&propagation.as_str())
        {
            return Err(SpecError::Propagation { propagation: propagation.clone() });
        }
    }
    if request.shm_size_bytes.is_some_and(|bytes| bytes > i64::MAX as u64) {
        return Err(SpecError::ShmSize);
    }
    Ok(())
}

/// An absolute container path without `.`, `..` and repeated slashes; `/` itself cannot be a mount target.
pub(crate) fn clean_target(target: &Path) -> Result<PathBuf, SpecError> {
    let refused = |reason: &'static str| SpecError::MountTarget { target: target.to_owned(), reason };
    if !target.is_absolute() {
        return Err(refused("mount path must be absolute"));
    }
    let clean = clean_path(target);
    if clean == Path::new("/") { Err(refused("destination can't be '/'")) } else { Ok(clean) }
}

/// Resolves `.` and `..` by text, as a path inside a root has to be read.
pub(crate) fn clean_path(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// The `mounts` section.
pub(crate) fn mounts(request: &CreateContainer, resolved: &Resolved) -> Result<Vec<Mount>, SpecError> {
    let mut list = kernel_mounts(request, resolved);
    list.extend(name_files(request, resolved));
    let user: Vec<Mount> = resolved.mounts.iter().map(|point| user_mount(point, resolved)).collect();
    let replaced = |default: &Mount| {
        user.iter().any(|mount| {
            mount.destination == default.destination
                || (mount.destination == Path::new("/dev") && default.destination.starts_with("/dev"))
        })
    };
    list.retain(|default| !replaced(default));
    list.extend(user);
    list.sort_by_key(|mount| mount.destination.components().count());
    Ok(list)
}

fn kernel_mounts(request: &CreateContainer, resolved: &Resolved) -> Vec<Mount> {
    let guarded = if request.privileged { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", guarded]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", guarded]),
        // The queues of whatever IPC namespace the container is in.
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    list.extend(shm(request, resolved));
    list
}

/// /dev/shm: that of whoever shares the IPC namespace, none with `--ipc none`, else a tmpfs of its own.
fn shm(request: &CreateContainer, resolved: &Resolved) -> Option<Mount> {
    if let Some(source) = &resolved.shm_source {
        return Some(bind("/dev/shm", source.clone(), &["rbind", "rprivate"]));
    }
    if request.ipc == NamespaceChoice::None {
        return None;
    }
    let size = format!("size={}", request.shm_size_bytes.filter(|bytes| *bytes > 0).unwrap_or(DEFAULT_SHM_BYTES));
    Some(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]))
}

/// /etc/hosts, /etc/hostname and /etc/resolv.conf from the container's folder.
fn name_files(request: &CreateContainer, resolved: &Resolved) -> Vec<Mount> {
    let mut options = vec!["rbind", "rprivate"];
    if request.read_only {
        options.push("ro");
    }
    ["resolv.conf", "hostname", "hosts"]
        .map(|name| bind(&format!("/etc/{name}"), resolved.name_files.join(name), &options))
        .to_vec()
}

fn user_mount(point: &MountPoint, resolved: &Resolved) -> Mount {
    let mut mount = match &point.kind {
        MountKind::Bind { recursive, .. } if point.ownership.shift => {
            shifted(user_bind(point, *recursive), resolved.id_map)
        }
        MountKind::Bind { recursive, .. } => user_bind(point, *recursive),
        MountKind::Volume { .. } => shifted(user_bind(point, true), resolved.id_map),
        MountKind::Tmpfs { size_bytes, mode, options } => tmpfs(*size_bytes, *mode, options),
    };
    mount.destination.clone_from(&point.target);
    if point.read_only {
        let recursive = mount.options.iter().any(|option| option == "rbind");
        mount.options.push(if recursive { "rro" } else { "ro" }.to_owned());
    }
    mount
}

fn user_bind(point: &MountPoint, recursive: bool) -> Mount {
    let propagation = point.propagation.as_deref().unwrap_or("rprivate");
    let options = [if recursive { "rbind" } else { "bind" }, propagation];
    bind("", point.source.clone().unwrap_or_default(), &options)
}

/// A volume keeps the container's own ids on disk, so with a user namespace its mount is shifted, and so is that of a
/// bind mount of which this is asked.
fn shifted(mut mount: Mount, id_map: Option<LinuxIdMapping>) -> Mount {
    if let Some(map) = id_map {
        mount.uid_mappings = vec![map];
        mount.gid_mappings = vec![map];
        mount.options.push("idmap".to_owned());
    }
    mount
}

/// A tmpfs of the user's: docker's safe defaults, which the user's own options override.
fn tmpfs(size_bytes: Option<u64>, mode: Option<u32>, options: &[String]) -> Mount {
    const OPPOSITES: [(&str, &str); 3] = [("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev")];
    let mut all: Vec<String> = OPPOSITES
        .iter()
        .filter(|(_, opposite)| !options.iter().any(|option| option == opposite))
        .map(|(safe, _)| (*safe).to_owned())
        .collect();
    all.extend(options.iter().filter(|option| !all.contains(option)).cloned().collect::<Vec<_>>());
    all.extend(size_bytes.map(|bytes| format!("size={bytes}")));
    all.extend(mode.map(|mode| format!("mode={mode:o}")));
    Mount { type_: Some("tmpfs".to_owned()), source: Some(PathBuf::from("tmpfs")), options: all, ..Mount::default() }
}

/// Propagation that the root needs so that mounts below it can have the one they ask for.
pub(crate) fn rootfs_propagation(mounts: &[MountPoint]) -> Option<String> {
    let asked = |wanted: &str| {
        mounts.iter().filter_map(|m| m.propagation.as_deref()).any(|p| p.trim_start_matches('r') == wanted)
    };
    match () {
        () if asked("shared") => Some("shared".to_owned()),
        () if asked("slave") => Some("slave".to_owned()),
        () => None,
    }
}

fn mount(destination: &str, type_: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: PathBuf::from(destination),
        type_: Some(type_.to_owned()),
        source: Some(PathBuf::from(source)),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

fn bind(destination: &str, source: PathBuf, options: &[&str]) -> Mount {
    Mount { source: Some(source), ..mount(destination, "bind", "", options) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{MountRequest, MountSource};

    fn at(target: &str) -> MountRequest {
        let source = MountSource::Tmpfs { size_bytes: None, mode: None, options: Vec::new() };
        MountRequest {
            source,
            target: PathBuf::from(target),
            read_only: false,
            propagation: None,
            ownership: crate::request::Ownership::default(),
        }
    }

    fn checked(mounts: Vec<MountRequest>) -> String {
        let request = CreateContainer { mounts, ..CreateContainer::default() };
        check(&request).map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    #[test]
    fn targets() {
        assert_eq!(checked(vec![at("/a"), at("/b/../c")]), "ok");
        assert_eq!(checked(vec![at("/a/b"), at("/a/./b/")]), "Duplicate mount point: /a/b");
        assert!(checked(vec![at("a")]).contains("must be absolute"));
        assert!(checked(vec![at("/x/..")]).contains("destination can't be '/'"));
        assert_eq!(clean_path(Path::new("/../../etc//./x")), Path::new("/etc/x"));
    }

    #[test]
    fn own_options_replace_the_safe_defaults_of_a_tmpfs() {
        let mount = tmpfs(Some(4096), Some(0o1777), &["exec".into(), "uid=7".into(), "nosuid".into()]);
        assert_eq!(mount.options, ["nosuid", "nodev", "exec", "uid=7", "size=4096", "mode=1777"]);
    }

    #[test]
    fn unknown_propagation_is_refused() {
        let mut mount = at("/a");
        mount.propagation = Some("sideways".into());
        assert!(checked(vec![mount]).contains("sideways"));
    }
}
