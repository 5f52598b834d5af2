//! Containers whose cgroup systemd makes (`--systemd-cgroup`), against a stand-in that records every property.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use system_tests::systemd::{Mood, Systemd, all_hierarchies, remove_with_slices, unified};
use system_tests::{Bundle, Run, wait_for};

/// A bundle whose containers a stand-in makes the cgroups of, in a slice of their own.
struct Host {
    bundle: Bundle,
    systemd: Systemd,
    slice: String,
}

impl Host {
    fn new(change: impl FnOnce(&mut Value)) -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bundle = Bundle::script("sleep 1000", change);
        let systemd = Systemd::listen(&bundle.hull.files());
        let slice = format!("hulltest{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Host { bundle, systemd, slice }
    }

    /// Names the unit: `<slice>.slice:<prefix>:<name>` with this host's slice and what follows its name.
    fn place(&self, rest: &str) {
        self.bundle.configure(|config| config["linux"]["cgroupsPath"] = json!(format!("{}{rest}", self.slice)));
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.bundle.command(&[&["--systemd-cgroup"], words].concat());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.systemd.address());
        command
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Run {
        Run::new(words, self.command(words).output().expect("runc"))
    }

    #[track_caller]
    fn start(&self, id: &str) -> i32 {
        let pid_file = self.bundle.hull.file(&format!("{id}.pid"));
        let mut command =
            self.command(&["run", "--detach", "--bundle", &self.bundle.folder, "--pid-file", &pid_file, id]);
        let status = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
        assert!(status.expect("runc").success(), "run of {id}: {:#?}", self.systemd.calls());
        fs::read_to_string(&pid_file).expect("the pid file").parse().expect("a number")
    }

    /// The calls with what differs from test to test named: the slice, the container, its process.
    fn calls(&self, id: &str, pid: i32) -> String {
        let text = self.systemd.calls().join("\n");
        text.replace(&self.slice, "SLICE").replace(id, "ID").replace(&format!("uint32 {pid}]"), "uint32 PID]")
    }

    /// The cgroup's folders in every hierarchy, also where systemd makes none.
    fn folders(&self, path: &str) -> Vec<PathBuf> {
        all_hierarchies().iter().map(|mount| mount.join(path.trim_start_matches('/'))).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for mount in all_hierarchies() {
            for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&self.slice) {
                    remove_tree(&entry.path());
                }
            }
        }
    }
}

fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path());
    }
    fs::remove_dir(folder).ok();
}

/// Asserts that a process is in that cgroup in every hierarchy.
#[track_caller]
fn assert_in(pid: i32, path: &str) {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("/proc/PID/cgroup");
    assert!(text.lines().all(|line| line.ends_with(path)), "not everywhere in {path}:\n{text}");
}

fn limits(config: &mut Value) {
    config["annotations"] = json!({
        "org.systemd.property.TimeoutStopSec": "uint64 7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
    });
    config["linux"]["resources"] = json!({
        "devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ],
        "memory": {"limit": 67_108_864, "swap": 67_108_864, "reservation": 33_554_432},
        "cpu": {"shares": 512, "quota": 25_500, "period": 50_000, "cpus": "0"},
        "pids": {"limit": 32},
    });
    if unified() {
        config["linux"]["resources"]["unified"] = json!({"memory.high": "50331648"});
    } else {
        // Not every kernel counts swap with cgroup v1.
        config["linux"]["resources"]["memory"]["swap"] = json!(null);
    }
}

const EXPECTED_LEGACY: &str = "\
StartTransientUnit test-ID.scope replace
  Description = \"Hull container ID\"
  Slice = \"SLICE-a.slice\"
  Delegate = true
  PIDs = [uint32 PID]
  MemoryAccounting = true
  CPUAccounting = true
  BlockIOAccounting = true
  TasksAccounting = true
  DefaultDependencies = false
  CollectMode = \"inactive-or-failed\"
  TimeoutStopUSec = uint64 7000000
  DevicePolicy = \"strict\"
  DeviceAllow = @a(ss) []
  DeviceAllow = [DEVICES]
  MemoryLimit = uint64 67108864
  CPUShares = uint64 512
  CPUQuotaPeriodUSec = uint64 50000
  CPUQuotaPerSecUSec = uint64 510000
  TasksMax = uint64 32
  AllowedCPUs = [byte 0x01]";

const EXPECTED_UNIFIED: &str = "\
StartTransientUnit test-ID.scope replace
  Description = \"Hull container ID\"
  Slice = \"SLICE-a.slice\"
  Delegate = true
  PIDs = [uint32 PID]
  MemoryAccounting = true
  CPUAccounting = true
  IOAccounting = true
  TasksAccounting = true
  DefaultDependencies = false
  CollectMode = \"inactive-or-failed\"
  TimeoutStopUSec = uint64 7000000
  DevicePolicy = \"strict\"
  DeviceAllow = @a(ss) []
  DeviceAllow = [DEVICES]
  MemoryMax = uint64 67108864
  MemoryLow = uint64 33554432
  MemorySwapMax = uint64 0
  CPUWeight = uint64 59
  CPUQuotaPeriodUSec = uint64 50000
  CPUQuotaPerSecUSec = uint64 510000
  TasksMax = uint64 32
  AllowedCPUs = [byte 0x01]
  MemoryHigh = uint64 50331648";

const EXPECTED_DEVICES: &str = "(\"/dev/char/10:229\", \"rw\"), (\"char-*\", \"m\"), (\"block-*\", \"m\"), \
    (\"/dev/char/1:3\", \"rwm\"), (\"/dev/char/1:5\", \"rwm\"), (\"/dev/char/1:7\", \"rwm\"), (\"/dev/char/1:8\", \"rwm\"), \
    (\"/dev/char/1:9\", \"rwm\"), (\"/dev/char/5:0\", \"rwm\"), (\"/dev/char/5:2\", \"rwm\"), (\"char-136\", \"rwm\")";

#[test]
fn systemd_hears_of_every_limit_and_the_files_say_the_same() {
    let host = Host::new(limits);
    let id = host.bundle.id("sd");
    host.place(&format!("-a.slice:test:{id}"));
    let pid = host.start(&id);
    let expected = if unified() { EXPECTED_UNIFIED } else { EXPECTED_LEGACY };
    assert_eq!(host.calls(&id, pid), expected.replace("DEVICES", EXPECTED_DEVICES));

    let path = format!("/{0}.slice/{0}-a.slice/test-{id}.scope", host.slice);
    assert_in(pid, &path);
    let file = |controller: &str, name: &str| {
        let mount = if unified() { "/sys/fs/cgroup".to_owned() } else { format!("/sys/fs/cgroup/{controller}") };
        fs::read_to_string(format!("{mount}{path}/{name}")).expect(name).trim().to_owned()
    };
    assert_eq!(file("pids", "pids.max"), "32");
    if unified() {
        assert_eq!(file("", "memory.max"), "67108864");
        assert_eq!(file("", "cpu.max"), "25500 50000");
        assert_eq!(file("", "cpu.weight"), "59");
        assert_eq!(file("", "memory.high"), "50331648");
    } else {
        assert_eq!(file("memory", "memory.limit_in_bytes"), "67108864");
        assert_eq!(file("memory", "memory.soft_limit_in_bytes"), "33554432");
        assert_eq!(file("cpu", "cpu.cfs_quota_us"), "25500");
        assert_eq!(file("cpu", "cpu.shares"), "512");
    }
    host.run(&["delete", "--force", &id]).expect(0);
    let after = host.calls(&id, pid);
    assert!(after.ends_with("\nStopUnit test-ID.scope replace\nResetFailedUnit test-ID.scope"), "{after}");
    let left: Vec<_> = host.folders(&path).into_iter().filter(|folder| folder.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_container_of_a_systemd_unit_lives_like_any_other() {
    let host = Host::new(|_| {});
    let id = host.bundle.id("sd");
    host.place(&format!(".slice:test:{id}"));
    let path = format!("/{}.slice/test-{id}.scope", host.slice);
    let pid = host.start(&id);
    let status = || host.bundle.status(&id);
    // Commands that need no systemd know the cgroup without one.
    host.bundle.run(&["pause", &id]).expect(0);
    assert_eq!(status(), "paused");
    host.bundle.run(&["resume", &id]).expect(0);
    assert_eq!(status(), "running");
    let other = host.bundle.hull.file("exec.pid");
    let mut exec = host.bundle.command(&["exec", "--detach", "--pid-file", &other, &id, "sleep", "1000"]);
    exec.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert!(exec.status().expect("runc").success());
    assert_in(pid, &path);
    assert_in(fs::read_to_string(other).expect("the pid file").parse().expect("a number"), &path);
    host.bundle.run(&["kill", &id, "KILL"]).expect(0);
    wait_for("the end", || (status() == "stopped").then_some(()));
    assert_eq!(host.systemd.units(), [format!("test-{id}.scope")]);
    host.run(&["delete", &id]).expect(0);
    assert!(host.systemd.units().is_empty());
}

#[test]
fn a_container_is_in_its_systemd_unit_before_its_namespaces_are_made() {
    // Its own cgroup namespace begins at the unit's cgroup: it was moved before the namespace was made.
    let host = Host::new(|config| {
        config["process"]["args"] = json!(["cat", "/proc/self/cgroup"]);
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        if !namespaces.iter().any(|namespace| namespace["type"] == "cgroup") {
            namespaces.push(json!({"type": "cgroup"}));
        }
    });
    let id = host.bundle.id("sd");
    host.place(&format!(".slice:test:{id}"));
    let run = host.run(&["run", "--bundle", &host.bundle.folder, &id]).expect(0);
    assert!(!run.stdout.is_empty() && run.stdout.lines().all(|line| line.ends_with(":/")), "{run:#?}");
    assert!(host.systemd.units().is_empty(), "{:?}", host.systemd.calls());
}

#[test]
fn a_name_that_ends_in_slice_makes_a_systemd_slice() {
    let host = Host::new(|_| {});
    let id = host.bundle.id("sd");
    host.place(&format!(".slice:ignored:{}-pod.slice", host.slice));
    let pid = host.start(&id);
    let calls = host.calls(&id, pid);
    assert!(calls.starts_with("StartTransientUnit SLICE-pod.slice replace\n"), "{calls}");
    assert!(calls.contains("\n  Wants = [\"SLICE.slice\"]\n"), "{calls}");
    assert!(!calls.contains("PIDs") && !calls.contains("Delegate"), "{calls}");
    assert_in(pid, &format!("/{0}.slice/{0}-pod.slice", host.slice));
    host.run(&["delete", "--force", &id]).expect(0);
    assert!(host.systemd.units().is_empty());
}

#[test]
fn without_a_path_the_systemd_unit_is_in_system_slice() {
    let host = Host::new(|_| {});
    let id = host.bundle.id("sd");
    let pid = host.start(&id);
    let path = format!("/system.slice/runc-{id}.scope");
    assert_in(pid, &path);
    host.run(&["delete", "--force", &id]).expect(0);
    for folder in host.folders(&path) {
        assert!(!folder.exists(), "{}", folder.display());
        // What systemd does not use has a system.slice only because of this test.
        remove_with_slices(&folder);
    }
}

#[test]
fn a_systemd_unit_that_has_failed_is_forgotten_first() {
    let host = Host::new(|_| {});
    let id = host.bundle.id("sd");
    host.place(&format!(".slice:test:{id}"));
    host.systemd.set_mood(Mood::Remembering);
    let pid = host.start(&id);
    let calls = host.calls(&id, pid);
    let methods: Vec<&str> = calls.lines().filter(|line| !line.starts_with(' ')).collect();
    let start = "StartTransientUnit test-ID.scope replace";
    assert_eq!(methods, [start, "ResetFailedUnit test-ID.scope", start]);
    host.run(&["delete", "--force", &id]).expect(0);
}

#[test]
fn what_systemd_refuses_is_told_and_nothing_is_left() {
    let host = Host::new(|_| {});
    let id = host.bundle.id("sd");
    host.place(&format!(".slice:test:{id}"));
    let path = format!("/{}.slice/test-{id}.scope", host.slice);
    for (mood, words) in [
        (Mood::Refusing("org.freedesktop.DBus.Error.AccessDenied", "Not for you."), "StartTransientUnit"),
        (Mood::Refusing("org.freedesktop.DBus.Error.AccessDenied", "Not for you."), "Not for you."),
        (Mood::Failing("canceled"), "ended with"),
    ] {
        host.systemd.set_mood(mood);
        let run = host.run(&["run", "--bundle", &host.bundle.folder, &id]).expect(1);
        assert!(run.stderr.contains(words), "{run:#?}");
        host.run(&["state", &id]).expect(1);
        assert!(host.folders(&path).iter().all(|folder| !folder.exists()));
    }
    assert!(host.systemd.units().is_empty());
}

#[test]
fn a_host_without_systemd_is_named_as_such() {
    let host = Host::new(|_| {});
    let id = host.bundle.id("sd");
    let socket = host.bundle.hull.file("nobody");
    let mut command = host.command(&["run", "--bundle", &host.bundle.folder, &id]);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={socket}"));
    let run = Run::new(&["run"], command.output().expect("runc")).expect(1);
    assert!(run.stderr.contains(&socket), "{run:#?}");
    if !Path::new("/run/systemd/system").exists() {
        assert!(run.stderr.contains("this host does not run systemd"), "{run:#?}");
    }
    host.run(&["state", &id]).expect(1);
}

#[test]
fn a_systemd_property_or_path_that_makes_no_sense_is_refused_by_name() {
    let host = Host::new(|config| {
        config["annotations"] = json!({"org.systemd.property.TasksMax": "uint64 many"});
    });
    let id = host.bundle.id("sd");
    let refused = |words: &str| {
        let run = host.run(&["run", "--bundle", &host.bundle.folder, &id]).expect(1);
        assert!(run.stderr.contains(words), "{run:#?}");
    };
    refused("org.systemd.property.TasksMax");
    host.bundle.configure(|config| {
        config["annotations"] = json!({});
        config["linux"]["cgroupsPath"] = json!("/a/path");
    });
    refused("linux.cgroupsPath");
    assert!(host.systemd.calls().is_empty());
}
