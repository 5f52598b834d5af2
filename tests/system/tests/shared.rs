//! Namespaces that are not a container's own: another container's, the machine's, and a private user namespace.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use hull_sys::namespace;
use system_tests::Hull;

fn link(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace").display().to_string()
}

#[test]
fn a_container_joins_anothers_namespaces() {
    let hull = Hull::with_busybox();
    let id = hull.ok(&["run", "-d", "--name", "first", "--ipc", "shareable", "busybox", "sleep", "1000"]);
    for (flag, kind) in [("--pid", "pid"), ("--ipc", "ipc"), ("--network", "net")] {
        let path = format!("/proc/self/ns/{kind}");
        let first = hull.ok(&["exec", &id, "readlink", &path]);
        for name in ["first", &id[..10]] {
            let choice = format!("{flag}=container:{name}");
            assert_eq!(hull.ok(&["run", "--rm", &choice, "busybox", "readlink", &path]), first, "{choice}");
        }
        assert_ne!(first, link(kind));
    }
    let seen = hull.inside(&["--pid", "container:first"], "ps -o args | grep -c '^sleep 1000'");
    assert_eq!(seen, "1", "the other's process");
    let said = hull.refused(125, &["run", "--rm", "--pid", "container:nosuch", "busybox", "true"]);
    assert!(said.contains("nosuch"), "{said}");
}

#[test]
fn a_container_that_does_not_run_has_nothing_to_join() {
    let hull = Hull::with_busybox();
    hull.ok(&["create", "--name", "first", "busybox", "true"]);
    for flag in ["--pid", "--network"] {
        let said = hull.refused(125, &["run", "--rm", flag, "container:first", "busybox", "true"]);
        assert!(said.contains("first") || said.contains("not running"), "{said}");
    }
    assert_eq!(hull.containers().len(), 1);
}

#[test]
fn a_container_uses_the_machines_namespaces_when_told() {
    let hull = Hull::with_busybox();
    for (flag, kind) in
        [("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--network", "net"), ("--cgroupns", "cgroup")]
    {
        let path = format!("/proc/self/ns/{kind}");
        assert_eq!(hull.ok(&["run", "--rm", flag, "host", "busybox", "readlink", &path]), link(kind), "{flag} host");
    }
    let own = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    assert_eq!(hull.inside(&["--uts", "host"], "hostname"), own.trim());
    hull.sh(&["--pid", "host"], &format!("test -d /proc/{}", std::process::id())).expect(0);
}

#[test]
fn the_cgroup_namespace_hides_where_the_container_is() {
    let hull = Hull::with_busybox();
    let private = hull.inside(&[], "cat /proc/self/cgroup");
    assert!(private.lines().all(|line| line.ends_with(":/")), "{private}");
    let host = hull.inside(&["--cgroupns", "host"], "cat /proc/self/cgroup");
    assert!(host.lines().any(|line| line.contains(&hull.roots().instance())), "{host}");
    if fs::exists("/sys/fs/cgroup/memory").expect("looking") {
        // cgroup v1 mounts show the container's own cgroups either way.
        let file = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        for choice in ["private", "host"] {
            let seen = hull.inside(&["--cgroupns", choice, "-m", "64m"], &format!("cat {file}"));
            assert_eq!(seen, (64 << 20).to_string(), "{choice}");
        }
    }
}

/// Not on the oldest kernel: the virtual machine's files are on a tmpfs, whose ids cannot be shifted before 6.3.
#[test]
fn root_of_a_private_user_namespace_is_nobody_outside() {
    let hull = Hull::with_busybox();
    let id = hull.ok(&["run", "-d", "--userns", "private", "busybox", "sleep", "1000"]);
    let map = fs::read_to_string(format!("/proc/{}/uid_map", hull.pid(&id))).expect("a map");
    let numbers: Vec<u64> = map.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    assert!(numbers[0] == 0 && numbers[1] >= 65536 && numbers[2] >= 65536, "{map}");
    let status = fs::read_to_string(format!("/proc/{}/status", hull.pid(&id))).expect("a status");
    assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}", numbers[1])), "{status}");
    assert_eq!(hull.ok(&["exec", &id, "id", "-u"]), "0");
    let inside = hull.ok(&["exec", &id, "readlink", "/proc/self/ns/user"]);
    assert_ne!(inside, link("user"));
    let owners = hull.ok(&["exec", &id, "stat", "-c", "%u", "/", "/etc/passwd", "/proc/1", "/dev/null"]);
    assert!(owners.lines().take(3).all(|owner| owner == "0"), "the image's files belong to root inside: {owners}");
    hull.ok(&["exec", &id, "sh", "-c", "touch /made && chown 1000 /made && test $(stat -c %u /made) = 1000"]);
}

#[test]
fn a_volume_under_a_private_user_namespace_is_writable() {
    let hull = Hull::with_busybox();
    let flags = ["--userns", "private", "-v", "/data", "--tmpfs", "/scratch"];
    let said =
        hull.inside(&flags, "echo x > /data/made && echo y > /scratch/made && stat -c %u /data/made /scratch/made");
    assert_eq!(said, "0\n0");
}

/// The namespace of a process, by the number that the kernel gives it.
fn number(pid: i32, kind: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).expect("a namespace").ino()
}

/// The user namespace that owns a namespace of a process.
fn owner(pid: i32, kind: &str) -> u64 {
    let file = File::open(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
    File::from(namespace::owner(file.as_fd()).expect("an owner")).metadata().expect("a namespace").ino()
}

#[test]
fn two_containers_share_a_user_namespace_that_owns_the_others_of_both() {
    let hull = Hull::with_busybox();
    let first = hull.ok(&["run", "-d", "--name", "first", "--userns", "private", "busybox", "sleep", "1000"]);
    let flags = ["--userns", "container:first", "--cap-add", "NET_ADMIN", "-v", "/data", "--init"];
    let second = hull.ok(&[&["run", "-d", "--name", "second"], &flags[..], &["busybox", "sleep", "1000"]].concat());
    let (one, other) = (hull.pid(&first), hull.pid(&second));
    let user = number(one, "user");
    assert_eq!(number(other, "user"), user);
    assert_eq!(
        fs::read_to_string(format!("/proc/{other}/uid_map")).expect("a map"),
        fs::read_to_string(format!("/proc/{one}/uid_map")).expect("a map")
    );
    for kind in ["net", "pid", "mnt", "uts", "ipc", "cgroup"] {
        assert_ne!(number(other, kind), number(one, kind), "{kind}");
        assert_eq!((owner(one, kind), owner(other, kind)), (user, user), "the owner of {kind}");
    }
    let script = "ip link add dummy7 type dummy 2>/dev/null; ip addr add 10.7.0.1/24 dev lo && touch /made /data/made \
        && chown 7:7 /made && stat -c %u /etc/passwd /made /data/made";
    assert_eq!(hull.ok(&["exec", &second, "sh", "-c", script]), "0\n7\n0");
    assert!(hull.ok(&["exec", &second, "cat", "/proc/1/cmdline"]).starts_with("hull-init"));
    assert_eq!(number(other, "user"), user);
    assert_eq!(hull.ok(&["exec", &second, "readlink", "/proc/self/ns/user"]), format!("user:[{user}]"));

    // A third one through the second, which keeps going when both are gone.
    let third = hull.ok(&["run", "-d", "--userns", "container:second", "busybox", "sleep", "1000"]);
    hull.ok(&["rm", "-f", "-v", "first", "second"]);
    assert_eq!(number(hull.pid(&third), "user"), user);
    let file = hull.write("file", "copied");
    hull.ok(&["cp", &file, &format!("{third}:/copied")]);
    assert_eq!(hull.ok(&["exec", &third, "stat", "-c", "%u", "/copied"]), "0");
    let said = hull.refused(125, &["run", "--rm", "--userns", "container:first", "busybox", "true"]);
    assert!(said.contains("first"), "{said}");
    hull.ok(&["run", "-d", "--name", "plain", "busybox", "sleep", "1000"]);
    let said = hull.refused(125, &["run", "--rm", "--userns", "container:plain", "busybox", "true"]);
    assert!(said.contains("plain has no user namespace"), "{said}");
}

#[test]
fn a_user_namespace_is_shared_together_with_others_of_its_lender() {
    let hull = Hull::with_busybox();
    let first = hull.ok(&["run", "-d", "--name", "first", "--userns", "private", "busybox", "sleep", "1000"]);
    let flags = ["--userns", "container:first", "--pid", "container:first", "--network", "container:first"];
    let script = "test -d /proc/1 && grep -l '^Name:.sleep' /proc/1/status; \
        for kind in pid net; do readlink /proc/self/ns/$kind; done";
    let said = hull.inside(&flags, script);
    let pid = hull.pid(&first);
    let expected = format!("/proc/1/status\npid:[{}]\nnet:[{}]", number(pid, "pid"), number(pid, "net"));
    assert_eq!(said, expected);
}
