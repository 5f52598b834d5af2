//! `spec`: a config.json to start from, a shell on a terminal in a read-only root with its own namespaces.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use hull_oci::runtime::{
    Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxResources,
    Mount, OCI_VERSION, PosixRlimit, Process, Root, Spec,
};

use rustix::process::{getegid, geteuid};
use serde::Serialize;

use crate::error::Failure;

const KEPT_CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Destination, type, source and options of the usual mounts.
const MOUNTS: [(&str, &str, &str, &str); 7] = [
    ("/proc", "proc", "proc", ""),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
];

/// Writes config.json into a folder that has none.
///
/// # Errors
/// When there is one already, or it cannot be written.
pub fn write(bundle: &Path, rootless: bool) -> Result<(), Failure> {
    let path = bundle.join("config.json");
    let mut spec = template();
    if rootless {
        make_rootless(&mut spec, geteuid().as_raw(), getegid().as_raw());
    }
    let text = text(&spec)?;
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    match file.and_then(|mut file| file.write_all(&text)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(Failure::Arguments(format!("File {} exists. Remove it first", path.display())))
        }
        other => other.map_err(Failure::path("write", &path)),
    }
}

/// The document, indented by tabs as runc does it.
fn text(spec: &Spec) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    spec.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))?;
    text.push(b'\n');
    Ok(text)
}

/// Changes it into what a user without privileges can run: a user namespace with one id, the host's network and its
/// sysfs, no owners that cannot be mapped, and no limits.
fn make_rootless(spec: &mut Spec, uid: u32, gid: u32) {
    let one = |host_id| vec![LinuxIdMapping { container_id: 0, host_id, size: 1 }];
    for mount in &mut spec.mounts {
        if mount.destination == Path::new("/sys") {
            *mount = self::mount(("/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro"));
        } else {
            mount.options.retain(|option| !option.starts_with("uid=") && !option.starts_with("gid="));
        }
    }
    if let Some(linux) = &mut spec.linux {
        linux.namespaces.retain(|namespace| namespace.type_ != LinuxNamespaceType::Network);
        linux.namespaces.push(LinuxNamespace { type_: LinuxNamespaceType::User, path: None });
        linux.uid_mappings = one(uid);
        linux.gid_mappings = one(gid);
        linux.resources = None;
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn template() -> Spec {
    let namespace = |type_| LinuxNamespace { type_, path: None };
    use LinuxNamespaceType::{Cgroup, Ipc, Mount as Mnt, Network, Pid, Uts};
    Spec {
        oci_version: OCI_VERSION.to_owned(),
        process: Some(process()),
        root: Some(Root { path: "rootfs".into(), readonly: true }),
        hostname: Some("hull".to_owned()),
        mounts: MOUNTS.map(mount).to_vec(),
        linux: Some(Linux {
            namespaces: [Pid, Network, Ipc, Uts, Mnt, Cgroup].map(namespace).to_vec(),
            resources: Some(LinuxResources {
                devices: vec![LinuxDeviceCgroup {
                    allow: false,
                    access: Some("rwm".to_owned()),
                    ..LinuxDeviceCgroup::default()
                }],
                ..LinuxResources::default()
            }),
            masked_paths: strings(&MASKED),
            readonly_paths: strings(&READ_ONLY),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

fn process() -> Process {
    let kept = strings(&KEPT_CAPABILITIES);
    Process {
        terminal: true,
        args: strings(&["sh"]),
        env: strings(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"]),
        cwd: "/".into(),
        capabilities: Some(LinuxCapabilities {
            bounding: kept.clone(),
            effective: kept.clone(),
            permitted: kept,
            ..LinuxCapabilities::default()
        }),
        rlimits: vec![PosixRlimit { type_: "RLIMIT_NOFILE".to_owned(), hard: 1024, soft: 1024 }],
        no_new_privileges: true,
        ..Process::default()
    }
}

fn mount((destination, kind, source, options): (&str, &str, &str, &str)) -> Mount {
    Mount {
        destination: destination.into(),
        type_: Some(kind.to_owned()),
        source: Some(source.into()),
        options: options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect(),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_spec_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), false).unwrap();
        let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), template());
        let again = write(folder.path(), false).unwrap_err().to_string();
        assert!(again.ends_with("config.json exists. Remove it first"), "{again}");
    }

    #[test]
    fn golden() {
        insta::assert_snapshot!(String::from_utf8(text(&template()).unwrap()).unwrap());
    }

    #[test]
    fn golden_rootless() {
        let mut spec = template();
        make_rootless(&mut spec, 1000, 100);
        insta::assert_snapshot!(String::from_utf8(text(&spec).unwrap()).unwrap());
    }
}
