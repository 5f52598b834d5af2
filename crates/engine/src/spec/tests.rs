//! Golden files: requests on one side, the whole OCI spec on the other.
//!
//! The system call filter has tests of its own; here only its default action and number of rules are shown.

use std::path::PathBuf;

use hull_oci::runtime::{LinuxDevice, LinuxNamespaceType};
use serde_json::{Value, json};

use super::*;
use crate::mount_point::MountKind;
use crate::request::{ResourceRequest, Ulimit};

fn resolved() -> Resolved {
    Resolved {
        id: ContainerId::parse(&"0123456789abcdef".repeat(4)).unwrap(),
        rootfs: "/run/hull/ID/rootfs".into(),
        hostname: "0123456789ab".into(),
        identity: Identity { uid: 0, gid: 0, additional_gids: vec![0, 4], home: "/root".into() },
        namespaces: BTreeMap::new(),
        id_map: None,
        mounts: Vec::new(),
        name_files: "/var/lib/hull/containers/ID".into(),
        shm_source: None,
        cgroup_path: "/hull/ID".into(),
        devices: Vec::new(),
        machine: Machine::example(),
    }
}

fn image() -> ImageConfig {
    ImageConfig {
        env: vec!["PATH=/usr/bin:/bin".into(), "LANG=C".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["serve".into()],
        working_dir: "/srv".into(),
        ..ImageConfig::default()
    }
}

/// config.json with the filter shortened.
fn golden(request: &CreateContainer, image: &ImageConfig, resolved: &Resolved) -> Value {
    let spec = derive(request, image, resolved).unwrap();
    let mut json = serde_json::to_value(spec).unwrap();
    if let Some(seccomp) = json.pointer_mut("/linux/seccomp") {
        let rules = seccomp["syscalls"].as_array().map_or(0, Vec::len);
        *seccomp = json!({ "defaultAction": seccomp["defaultAction"], "has rules": rules > 0 });
    }
    json
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `hull run IMAGE`
#[test]
fn defaults() {
    insta::assert_json_snapshot!(golden(&CreateContainer::default(), &image(), &resolved()));
}

/// `hull run -it --init -e A=1 -w /tmp/../work -u 7 --cap-drop ALL --cap-add net_admin --read-only -m 64m --cpus 0.5 ...`
#[test]
fn limits_and_process() {
    let request = CreateContainer {
        command: words("sh -c true"),
        entrypoint: Some(Vec::new()),
        env: words("A=1 LANG=ko_KR.UTF-8"),
        workdir: Some("/tmp/../work".into()),
        domainname: Some("example.org".into()),
        tty: true,
        interactive: true,
        init: true,
        read_only: true,
        cap_add: words("net_admin"),
        cap_drop: words("ALL"),
        seccomp: SeccompChoice::Unconfined,
        no_new_privileges: true,
        oom_score_adj: Some(-500),
        shm_size_bytes: Some(1 << 20),
        sysctls: [("net.core.somaxconn".to_owned(), "256".to_owned())].into(),
        annotations: [("org.example".to_owned(), "x".to_owned())].into(),
        ulimits: vec![Ulimit { name: "nofile".into(), soft: 1024, hard: -1 }],
        resources: ResourceRequest {
            memory_bytes: Some(64 << 20),
            memory_reservation_bytes: Some(32 << 20),
            nano_cpus: Some(500_000_000),
            cpu_shares: Some(512),
            cpuset_cpus: Some("0-1".into()),
            pids_limit: Some(64),
            ..ResourceRequest::default()
        },
        ..CreateContainer::default()
    };
    let identity = Identity { uid: 7, gid: 8, additional_gids: vec![9], home: "/home/seven".into() };
    insta::assert_json_snapshot!(golden(&request, &image(), &Resolved { identity, ..resolved() }));
}

/// `hull run --privileged --device /dev/fuse IMAGE`
#[test]
fn privileged() {
    let request = CreateContainer { privileged: true, ..CreateContainer::default() };
    let device = LinuxDevice {
        path: "/dev/fuse".into(),
        type_: "c".into(),
        major: Some(10),
        minor: Some(229),
        file_mode: Some(0o666),
        uid: Some(0),
        gid: Some(0),
    };
    let devices = vec![DeviceGrant { device, access: "rwm".into() }];
    insta::assert_json_snapshot!(golden(&request, &image(), &Resolved { devices, ..resolved() }));
}

/// `hull run --userns private --pid container:x --network container:x --uts host -v ... --mount ... --tmpfs ... IMAGE`
#[test]
fn namespaces_and_mounts() {
    let of_x = || NamespaceChoice::Container("x".into());
    let request = CreateContainer {
        userns: NamespaceChoice::Private,
        pid: of_x(),
        network: of_x(),
        uts: NamespaceChoice::Host,
        ..CreateContainer::default()
    };
    let point = |kind, source: Option<&str>, target: &str| MountPoint {
        kind,
        source: source.map(PathBuf::from),
        target: target.into(),
        read_only: false,
        propagation: None,
        ownership: crate::request::Ownership::default(),
    };
    let bind = MountKind::Bind { recursive: true, create: false };
    let volume = MountKind::Volume { name: "data".into(), anonymous: false };
    let tmpfs = MountKind::Tmpfs { size_bytes: Some(4096), mode: Some(0o700), options: words("exec") };
    let mounts = vec![
        MountPoint {
            read_only: true,
            propagation: Some("rslave".into()),
            ..point(bind.clone(), Some("/srv"), "/deep/er/path")
        },
        point(volume, Some("/var/lib/hull/volumes/data/_data"), "/data"),
        point(bind, Some("/etc/hosts"), "/etc/hosts"),
        point(tmpfs, None, "/dev/shm"),
    ];
    let resolved = resolved();
    let namespaces = [
        (LinuxNamespaceType::Pid, PathBuf::from("/proc/42/ns/pid")),
        (LinuxNamespaceType::Network, PathBuf::from("/proc/42/ns/net")),
    ];
    let id_map = Some(id_map(&resolved.id));
    let resolved = Resolved { namespaces: namespaces.into(), id_map, mounts, ..resolved };
    insta::assert_json_snapshot!(golden(&request, &image(), &resolved));
}

#[test]
fn what_can_never_start_is_refused() {
    let refused = |change: &dyn Fn(&mut CreateContainer)| {
        let mut request = CreateContainer { command: words("true"), ..CreateContainer::default() };
        change(&mut request);
        derive(&request, &ImageConfig::default(), &resolved()).map_or_else(|e| e.to_string(), |_| "accepted".to_owned())
    };
    assert_eq!(refused(&|_| {}), "accepted");
    assert_eq!(refused(&|r| r.command.clear()), "no command specified");
    assert_eq!(
        refused(&|r| r.workdir = Some("srv".into())),
        "the working directory 'srv' is invalid, it needs to be an absolute path"
    );
    assert!(refused(&|r| r.env = words("=x")).starts_with("invalid environment variable"));
    assert!(refused(&|r| r.hostname = Some("a b".into())).starts_with("invalid host name"));
    assert!(refused(&|r| r.hostname = Some("x".repeat(65))).starts_with("invalid host name"));
    assert_eq!(refused(&|r| r.stop_signal = Some("NOPE".into())), "invalid signal: NOPE");
    assert!(refused(&|r| r.oom_score_adj = Some(1001)).contains("[-1000, 1000]"));
    assert!(refused(&|r| r.pid = NamespaceChoice::Container("x".into())).contains("container x was not found"));
    assert!(refused(&|r| r.seccomp = SeccompChoice::Profile("{".into())).contains("seccomp"));
}
