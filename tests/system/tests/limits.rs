//! Limits that bite, read from the kernel's own counters: memory, processor, processes, and the process's own limits.

use std::fs;
use std::path::Path;

use system_tests::{Hull, wait_for};

/// The value in one of the container's cgroup files.
fn value(folder: &Path, names: &[&str]) -> String {
    let path = names.iter().map(|name| folder.join(name)).find(|path| path.exists());
    let path = path.unwrap_or_else(|| panic!("none of {names:?} in {}", folder.display()));
    fs::read_to_string(path).expect("a cgroup file").trim().to_owned()
}

fn is_v2(folder: &Path) -> bool {
    folder.join("cgroup.controllers").exists()
}

#[test]
fn a_container_over_its_memory_limit_is_killed_alone() {
    let hull = Hull::with_busybox();
    let other = hull.ok(&["run", "-d", "-m", "64m", "--name", "other", "busybox", "sleep", "1000"]);
    let run = hull.run(&["run", "--name", "greedy", "-m", "64m", "busybox", "tail", "/dev/zero"]);
    assert_eq!(run.code, 137, "{run:#?}");
    let state = &hull.inspect("greedy")["State"];
    assert_eq!(state["OOMKilled"], true, "{state}");
    assert_eq!((state["ExitCode"].as_i64(), state["Status"].as_str()), (Some(137), Some("exited")), "{state}");
    assert_eq!(hull.status("other"), "running");
    assert_eq!(hull.inspect("other")["State"]["OOMKilled"], false);
    let folder = hull.cgroup(&other, "memory");
    let (file, key) = if is_v2(&folder) { ("memory.events", "oom_kill ") } else { ("memory.oom_control", "oom_kill ") };
    assert_eq!(hull.counter(&folder, file, key), 0);
    assert_eq!(value(&folder, &["memory.max", "memory.limit_in_bytes"]), (64 << 20).to_string());
    hull.sh(&["-m", "64m"], "head -c 16m /dev/zero > /dev/shm/x").expect(0);
}

#[test]
fn a_child_killed_for_memory_is_told_as_well() {
    let hull = Hull::with_busybox();
    hull.run(&["run", "--name", "parent", "-m", "32m", "busybox", "sh", "-c", "tail /dev/zero; exit 4"]).expect(4);
    assert_eq!(hull.inspect("parent")["State"]["OOMKilled"], true);
}

#[test]
fn half_a_processor_is_half_a_processor() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["--cpus", "0.5"], "while :; do :; done");
    let folder = hull.cgroup(&id, "cpu");
    let usage = || match is_v2(&folder) {
        true => hull.counter(&folder, "cpu.stat", "usage_usec "),
        false => hull.counter(&hull.cgroup(&id, "cpuacct"), "cpuacct.usage", "") / 1000,
    };
    let periods = || hull.counter(&folder, "cpu.stat", "nr_periods ");
    let used = wait_for("twenty periods", || {
        // Usage is read first: what is used after that counts for periods that are counted after that.
        let used = usage();
        (periods() >= 20).then_some(used)
    });
    let allowed = (periods() + 1) * 50_000;
    assert!(used <= allowed * 105 / 100, "{used} us of {allowed} us");
    assert!(used >= 10 * 50_000 / 2, "{used} us: the container works");
    assert!(hull.counter(&folder, "cpu.stat", "nr_throttled ") > 0);
    let quota = value(&folder, &["cpu.max", "cpu.cfs_quota_us"]);
    assert!(quota == "50000 100000" || quota == "50000", "{quota}");
}

#[test]
fn a_fork_bomb_is_held() {
    let hull = Hull::with_busybox();
    let id = hull.ok(&["run", "-d", "--init", "--pids-limit", "64", "busybox", "sleep", "1000"]);
    let folder = hull.cgroup(&id, "pids");
    assert_eq!(value(&folder, &["pids.max"]), "64");
    let (current, refused) =
        (|| hull.counter(&folder, "pids.current", ""), || hull.counter(&folder, "pids.events", "max "));
    hull.ok(&["exec", "-d", &id, "sh", "-c", "bomb() { bomb | bomb & }; bomb"]);
    wait_for("forks that were refused", || {
        assert!(current() <= 64, "{} processes", current());
        (refused() > 0).then_some(())
    });
    // A shell that cannot fork gives up; sleepers stay, until there is no place for one more.
    wait_for("a full container", || {
        hull.run(&["exec", "-d", &id, "sh", "-c", "while :; do sleep 1000 & done"]);
        // On cgroup v1 the kernel lets one that joins from outside in, and holds it to the limit from then on.
        assert!(current() <= 65, "{} processes", current());
        (current() > 60).then_some(())
    });
    assert_eq!(hull.status(&id), "running");
    hull.ok(&["rm", "-f", &id]);
}

#[test]
fn shares_reservations_and_processors_reach_the_kernel() {
    let hull = Hull::with_busybox();
    let flags = ["--cpu-shares", "512", "--memory-reservation", "16m", "-m", "32m", "--cpuset-cpus", "0"];
    let id = hull.background(&flags, "exec sleep 1000");
    let shares = value(&hull.cgroup(&id, "cpu"), &["cpu.weight", "cpu.shares"]);
    assert!(["512", "20", "59"].contains(&shares.as_str()), "{shares}");
    let low = value(&hull.cgroup(&id, "memory"), &["memory.low", "memory.soft_limit_in_bytes"]);
    assert_eq!(low, (16 << 20).to_string());
    let status = hull.ok(&["exec", &id, "grep", "Cpus_allowed_list", "/proc/1/status"]);
    assert_eq!(status, "Cpus_allowed_list:\t0");
}

#[test]
fn the_process_has_its_own_limits() {
    let hull = Hull::with_busybox();
    assert_eq!(hull.inside(&["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn"), "100\n200");
    assert_eq!(hull.inside(&["--ulimit", "core=0"], "ulimit -c"), "0");
    assert_eq!(hull.inside(&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj"), "500");
    for (flag, value) in [("--ulimit", "nosuch=1"), ("--ulimit", "nofile=2:1"), ("--oom-score-adj", "1001")] {
        hull.refused(125, &["run", "--rm", flag, value, "busybox", "true"]);
    }
}

#[test]
fn shared_memory_has_its_size() {
    let hull = Hull::with_busybox();
    assert!(hull.inside(&[], "grep /dev/shm /proc/mounts").contains("size=65536k"));
    assert!(hull.inside(&["--shm-size", "4m"], "grep /dev/shm /proc/mounts").contains("size=4096k"));
}

#[test]
fn kernel_parameters_are_set_in_its_own_namespaces_only() {
    let hull = Hull::with_busybox();
    let own = fs::read_to_string("/proc/sys/kernel/msgmax").expect("a number");
    let flags = ["--sysctl", "net.ipv4.ip_unprivileged_port_start=77", "--sysctl", "kernel.msgmax=4321"];
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    assert_eq!(hull.inside(&flags, script), "77\n4321");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").expect("a number"), own);
    for name in ["kernel.panic=1", "vm.swappiness=1"] {
        let said = hull.refused(125, &["run", "--rm", "--sysctl", name, "busybox", "true"]);
        assert!(said.contains(name.split('=').next().expect("a name")), "{said}");
    }
}

#[test]
fn a_device_is_given_as_asked() {
    let hull = Hull::with_busybox();
    let disks = fs::read_dir("/sys/block").expect("disks").flatten();
    let disk = disks.map(|entry| Path::new("/dev").join(entry.file_name())).find(|path| path.exists()).expect("a disk");
    let flag = format!("{}:/dev/given:r", disk.display());
    let run = hull.sh(&["--device", &flag], "test -b /dev/given && : < /dev/given && echo read; : >> /dev/given");
    assert!(run.text() == "read" && run.code != 0, "{run:#?}");
    assert!(run.stderr.contains("Operation not permitted"), "{run:#?}");
    let said = hull.refused(125, &["run", "--rm", "--device", "/dev/nosuch", "busybox", "true"]);
    assert!(said.contains("/dev/nosuch"), "{said}");
}
