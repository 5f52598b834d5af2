//! What a container is by default: its namespaces, capabilities, seccomp filter, /proc, /sys and /dev.

use std::fs;

use system_tests::{Hull, is_vm};

const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";

/// A field of /proc/self/status of the container's first process.
fn status(hull: &Hull, flags: &[&str], field: &str) -> String {
    let text = hull.ok(&[&["run", "--rm"], flags, &["busybox", "cat", "/proc/self/status"]].concat());
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    lines.next().unwrap_or_else(|| panic!("no {field} in\n{text}")).to_owned()
}

#[test]
fn all_namespaces_but_the_users_are_its_own_fallback() {
    let hull = Hull::with_busybox();
    for kind in ["pid", "net", "mnt", "uts", "ipc", "cgroup", "user"] {
        let path = format!("/proc/self/ns/{kind}");
        let own = fs::read_link(&path).expect("a namespace").display().to_string();
        let inside = hull.ok(&["run", "--rm", "busybox", "readlink", &path]);
        assert_eq!(inside == own, kind == "user", "{kind}: {inside} inside, {own} here");
    }
}

#[test]
fn it_has_dockers_fourteen_capabilities() {
    let hull = Hull::with_busybox();
    for (field, expected) in [
        ("CapEff", DEFAULT_CAPABILITIES),
        ("CapPrm", DEFAULT_CAPABILITIES),
        ("CapBnd", DEFAULT_CAPABILITIES),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        assert_eq!(status(&hull, &[], field), expected, "{field}");
    }
    assert_eq!(status(&hull, &["-u", "1000"], "CapEff"), "0000000000000000");
    assert_eq!(status(&hull, &["-u", "1000"], "CapBnd"), DEFAULT_CAPABILITIES);
}

#[test]
fn capabilities_are_added_and_dropped() {
    let hull = Hull::with_busybox();
    let net_raw = format!("{:016x}", 0xa804_25fb_u64 & !(1 << 13));
    assert_eq!(status(&hull, &["--cap-drop", "NET_RAW"], "CapEff"), net_raw);
    assert_eq!(status(&hull, &["--cap-drop", "ALL"], "CapBnd"), "0000000000000000");
    let only = ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_TIME"];
    assert_eq!(status(&hull, &only, "CapEff"), format!("{:016x}", 1_u64 << 25));
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("a number").trim().parse().expect("it");
    let all = u64::MAX >> (63 - last);
    let bounding = fs::read_to_string("/proc/self/status").expect("a status");
    let bounding = bounding.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).expect("a bounding set");
    let all = all & u64::from_str_radix(bounding, 16).expect("a mask");
    assert_eq!(status(&hull, &["--cap-add", "ALL"], "CapEff"), format!("{all:016x}"));
    let said = hull.refused(125, &["run", "--rm", "--cap-add", "NOSUCH", "busybox", "true"]);
    assert!(said.contains("NOSUCH"), "{said}");
}

#[test]
fn a_dropped_capability_is_missed() {
    let hull = Hull::with_busybox();
    hull.sh(&[], "chown 1000 /etc/passwd").expect(0);
    let run = hull.sh(&["--cap-drop", "chown"], "chown 1000 /etc/passwd").expect(1);
    assert!(run.stderr.contains("Operation not permitted"), "{run:#?}");
}

#[test]
fn a_seccomp_filter_is_there_and_refuses_fallback() {
    let hull = Hull::with_busybox();
    assert_eq!(status(&hull, &[], "Seccomp"), "2");
    assert_eq!(status(&hull, &[], "Seccomp_filters"), "1");
    let run = hull.sh(&[], "unshare -U true").expect(1);
    assert!(run.stderr.contains("Operation not permitted"), "{run:#?}");
    let free = ["--security-opt", "seccomp=unconfined"];
    assert_eq!(status(&hull, &free, "Seccomp"), "0");
    hull.sh(&free, "unshare -U true").expect(0);
    let run = hull.sh(&[], "mount -t tmpfs none /tmp").expect(1);
    assert!(run.stderr.contains("permission denied"), "{run:#?}");
}

#[test]
fn a_seccomp_profile_of_ones_own_is_used() {
    let hull = Hull::with_busybox();
    let profile = hull.write(
        "profile.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#,
    );
    let option = format!("seccomp={profile}");
    let run = hull.sh(&["--security-opt", &option], "touch /made && mkdir /folder").expect(1);
    assert!(run.stderr.contains("Permission denied"), "{run:#?}");
    let broken = hull.write("broken.json", "{");
    let said = hull.refused(125, &["run", "--rm", "--security-opt", &format!("seccomp={broken}"), "busybox", "true"]);
    assert!(said.contains(&broken), "{said}");
}

#[test]
fn no_new_privileges_as_asked() {
    let hull = Hull::with_busybox();
    assert_eq!(status(&hull, &[], "NoNewPrivs"), "0");
    assert_eq!(status(&hull, &["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
}

#[test]
fn paths_are_masked() {
    let hull = Hull::with_busybox();
    let masked = ["kcore", "keys", "timer_list", "latency_stats", "sched_debug", "interrupts"];
    for path in masked.map(|name| format!("/proc/{name}")).iter().filter(|path| fs::exists(path).unwrap_or(false)) {
        assert_eq!(hull.inside(&[], &format!("head -c 100 {path} | wc -c")), "0", "{path}");
        assert_eq!(hull.inside(&[], &format!("stat -c %t:%T {path}")), "1:3", "{path} is /dev/null");
    }
    for path in ["/proc/acpi", "/proc/scsi", "/sys/firmware"].iter().filter(|path| fs::exists(path).unwrap_or(false)) {
        assert_eq!(hull.inside(&[], &format!("ls -A {path} | wc -l")), "0", "{path}");
    }
}

#[test]
fn paths_are_read_only() {
    let hull = Hull::with_busybox();
    for path in
        ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run", "/proc/irq/default_smp_affinity"]
    {
        if fs::exists(path).unwrap_or(false) {
            let run = hull.sh(&[], &format!(": >> {path}"));
            assert!(run.code != 0 && run.stderr.contains("Read-only file system"), "{path}: {run:#?}");
        }
    }
    let run = hull
        .sh(&[], "find /sys/fs/cgroup -maxdepth 1 -type d -exec mkdir {}/x ';'; test ! -e /sys/fs/cgroup/x")
        .expect(0);
    assert!(run.stderr.lines().count() > 0, "{run:#?}");
    assert!(run.stderr.lines().all(|line| line.contains("Read-only file system")), "{run:#?}");
}

#[test]
fn dev_has_the_standard_nodes_and_no_other() {
    let hull = Hull::with_busybox();
    let listed = hull.inside(&[], "ls -A /dev | sort");
    let standard = [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert_eq!(listed.lines().collect::<Vec<_>>(), standard);
    let numbers = hull.inside(&[], "cd /dev; stat -c '%n %t:%T %a' full null random tty urandom zero");
    let expected = ["full 1:7 666", "null 1:3 666", "random 1:8 666", "tty 5:0 666", "urandom 1:9 666", "zero 1:5 666"];
    assert_eq!(numbers.lines().collect::<Vec<_>>(), expected);
    assert_eq!(
        hull.inside(&[], "for link in fd stdin ptmx; do readlink /dev/$link; done"),
        "/proc/self/fd\n/proc/self/fd/0\npts/ptmx"
    );
    assert_eq!(hull.inside(&[], "ls /dev/pts"), "ptmx");
}

#[test]
fn a_device_node_that_it_makes_opens_only_when_it_may() {
    let hull = Hull::with_busybox();
    let disk = fs::read_dir("/sys/block").expect("disks").flatten().map(|entry| entry.path());
    let disk = disk.filter_map(|path| fs::read_to_string(path.join("dev")).ok()).next().expect("a disk");
    let (major, minor) = disk.trim().split_once(':').expect("numbers");
    let script = format!("mknod /zero c 1 5 && head -c 3 /zero | wc -c; mknod /disk b {major} {minor} && : < /disk");
    let run = hull.sh(&[], &script);
    assert_eq!(run.text(), "3", "{run:#?}");
    assert!(run.code != 0 && run.stderr.contains("Operation not permitted"), "{run:#?}");
}

#[test]
fn there_is_only_a_loopback_without_a_network_and_it_is_up() {
    let hull = Hull::with_busybox();
    for flags in [&["--network", "private"][..], &["--network", "none"]] {
        assert_eq!(hull.inside(flags, "ls /sys/class/net; cat /sys/class/net/lo/flags"), "lo\n0x9", "{flags:?}");
    }
}

#[test]
fn the_machines_mounts_do_not_change() {
    let hull = Hull::with_busybox();
    let mounts = || -> Vec<String> {
        let text = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        text.lines().filter(|line| line.contains("overlay")).map(str::to_owned).collect()
    };
    let before = mounts();
    let id = hull.background(&["-v", "/data", "--tmpfs", "/x"], "exec sleep 1000");
    assert_eq!(mounts(), before);
    assert!(hull.leftovers().iter().all(|left| !left.starts_with("mount ")));
    let inside = hull.ok(&["exec", &id, "cat", "/proc/self/mountinfo"]);
    let is_copy = system_tests::hull::storage_driver().as_deref() == Some("copy");
    let root = if is_copy { "/fs / " } else { " / / " };
    let is_root = |line: &str| line.contains(root) && (is_copy || line.contains(" - overlay "));
    assert!(inside.lines().any(is_root), "{inside}");
}

/// Only in the virtual machine: a privileged container could do anything to this one.
#[test]
fn privileged_may_do_everything() {
    if !is_vm() {
        return;
    }
    let hull = Hull::with_busybox();
    assert_eq!(status(&hull, &["--privileged"], "Seccomp"), "0");
    let own = fs::read_to_string("/proc/self/status").expect("a status");
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("capabilities");
    assert_eq!(status(&hull, &["--privileged"], "CapEff"), own);
    hull.sh(&["--privileged"], "mount -t tmpfs none /tmp && umount /tmp").expect(0);
    hull.sh(&["--privileged"], "test -b /dev/vda && head -c 1 /dev/vda | wc -c").expect(0);
    hull.sh(&["--privileged"], "echo 0 > /proc/sys/vm/panic_on_oom").expect(0);
}
