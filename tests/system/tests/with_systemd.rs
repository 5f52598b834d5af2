//! Containers whose cgroup a real systemd makes: what it knows of them, and that it leaves their limits alone.
//!
//! These run in the virtual machine whose first program is systemd, and nowhere else. What is sent to systemd the tests
//! against the stand-in show (systemd.rs); here is what becomes of it.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use system_tests::{Bundle, Run, wait_for};

/// Runs `systemctl` and returns what it prints.
#[track_caller]
fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).output().expect("systemctl");
    Run::new(words, output).expect(0).text().to_owned()
}

/// Properties of a unit as `systemctl show` prints them.
#[track_caller]
fn show(unit: &str, names: &[&str]) -> BTreeMap<String, String> {
    let text = systemctl(&["show", "--property", &names.join(","), unit]);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Whether systemd has the unit at all.
fn is_loaded(unit: &str) -> bool {
    show(unit, &["LoadState"])["LoadState"] == "loaded"
}

/// A bundle and the name of its container's unit.
struct Container {
    bundle: Bundle,
    id: String,
    unit: String,
}

impl Container {
    fn new(script: &str, change: impl FnOnce(&mut Value)) -> Container {
        let bundle = Bundle::script(script, change);
        let id = bundle.id("real");
        bundle.configure(|config| config["linux"]["cgroupsPath"] = json!(format!("hulltest-real.slice:test:{id}")));
        let unit = format!("test-{id}.scope");
        Container { bundle, id, unit }
    }

    fn command(&self, words: &[&str]) -> Command {
        self.bundle.command(&[&["--systemd-cgroup"], words].concat())
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Run {
        Run::new(words, self.command(words).output().expect("runc"))
    }

    #[track_caller]
    fn start(&self) -> i32 {
        self.start_with(|_| {})
    }

    #[track_caller]
    fn start_with(&self, change: impl FnOnce(&mut Command)) -> i32 {
        let (pid_file, log) = (self.bundle.hull.file("pid"), self.bundle.hull.file("log"));
        let mut command = self.command(&["--log", &log, "run", "--detach", "--bundle", &self.bundle.folder]);
        command.args(["--pid-file", &pid_file, &self.id]).stdout(Stdio::null()).stderr(Stdio::null());
        change(&mut command);
        let status = command.status().expect("runc");
        assert!(status.success(), "{}", fs::read_to_string(log).unwrap_or_default());
        fs::read_to_string(pid_file).expect("the pid file").parse().expect("a number")
    }

    /// Where its cgroup is.
    fn path(&self) -> String {
        format!("/hulltest.slice/hulltest-real.slice/{}", self.unit)
    }

    #[track_caller]
    fn file(&self, name: &str) -> String {
        let path = format!("/sys/fs/cgroup{}/{name}", self.path());
        fs::read_to_string(&path).expect(&path).trim().to_owned()
    }

    fn delete(&self) {
        self.run(&["delete", "--force", &self.id]).expect(0);
        assert!(!is_loaded(&self.unit), "{} is still there", self.unit);
        assert!(!fs::exists(format!("/sys/fs/cgroup{}", self.path())).expect("looking"));
    }
}

fn limits(config: &mut Value) {
    config["annotations"] = json!({
        "org.systemd.property.TimeoutStopSec": "uint64 7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
    });
    config["linux"]["resources"] = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 67_108_864, "swap": 67_108_864, "reservation": 33_554_432},
        "cpu": {"shares": 512, "quota": 25_500, "period": 50_000, "cpus": "0"},
        "pids": {"limit": 32},
        "unified": {"memory.high": "50331648", "memory.oom.group": "1"},
    });
}

#[test]
fn the_unit_has_the_limits_and_a_reload_changes_nothing() {
    let container = Container::new("sleep 1000", limits);
    let pid = container.start();
    let names = [
        "Slice",
        "Delegate",
        "ControlGroup",
        "MemoryMax",
        "MemoryLow",
        "MemoryHigh",
        "MemorySwapMax",
        "CPUWeight",
        "CPUQuotaPerSecUSec",
        "CPUQuotaPeriodUSec",
        "TasksMax",
        "AllowedCPUs",
        "DevicePolicy",
        "CollectMode",
        "TimeoutStopUSec",
        "OOMPolicy",
        "Transient",
        "ActiveState",
    ];
    let expected = [
        ("Slice", "hulltest-real.slice"),
        ("Delegate", "yes"),
        ("ControlGroup", &container.path()),
        ("MemoryMax", "67108864"),
        ("MemoryLow", "33554432"),
        ("MemoryHigh", "50331648"),
        ("MemorySwapMax", "0"),
        ("CPUWeight", "59"),
        ("CPUQuotaPerSecUSec", "510ms"),
        ("CPUQuotaPeriodUSec", "50ms"),
        ("TasksMax", "32"),
        ("AllowedCPUs", "0"),
        ("DevicePolicy", "strict"),
        ("CollectMode", "inactive-or-failed"),
        ("TimeoutStopUSec", "7s"),
        ("Transient", "yes"),
        ("ActiveState", "active"),
    ];
    let known = show(&container.unit, &names);
    for (name, value) in expected {
        assert_eq!(known.get(name).map(String::as_str), Some(value), "{name} in {known:#?}");
    }
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("/proc/PID/cgroup");
    assert_eq!(cgroup.trim(), format!("0::{}", container.path()));
    let check = || {
        for (file, value) in [
            ("memory.max", "67108864"),
            ("memory.low", "33554432"),
            ("memory.high", "50331648"),
            ("memory.oom.group", "1"),
            ("cpu.weight", "59"),
            ("cpu.max", "25500 50000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "32"),
        ] {
            assert_eq!(container.file(file), value, "{file}");
        }
    };
    check();
    systemctl(&["daemon-reload"]);
    check();
    container.delete();
}

#[test]
fn an_update_is_systemds_too() {
    let container = Container::new("sleep 1000", limits);
    container.start();
    let resources =
        r#"{"memory": {"limit": 134217728, "swap": 134217728}, "pids": {"limit": 64}, "cpu": {"quota": 10000}}"#;
    let file = container.bundle.hull.write("resources.json", resources);
    container.run(&["update", "--resources", &file, &container.id]).expect(0);
    let known = show(&container.unit, &["MemoryMax", "TasksMax", "CPUQuotaPerSecUSec"]);
    assert_eq!(known["MemoryMax"], "134217728");
    assert_eq!(known["TasksMax"], "64");
    // Of the period that the container has.
    assert_eq!(known["CPUQuotaPerSecUSec"], "200ms");
    systemctl(&["daemon-reload"]);
    assert_eq!(container.file("memory.max"), "134217728");
    assert_eq!(container.file("pids.max"), "64");
    assert_eq!(container.file("cpu.max"), "10000 50000");
    container.delete();
}

#[test]
fn the_container_lives_like_any_other() {
    let container = Container::new("sleep 1000", |_| {});
    container.start();
    let status = || container.bundle.status(&container.id);
    container.run(&["pause", &container.id]).expect(0);
    assert_eq!(status(), "paused");
    container.run(&["resume", &container.id]).expect(0);
    let run = container.run(&["exec", &container.id, "cat", "/proc/self/cgroup"]).expect(0);
    assert!(run.stdout.trim().ends_with(":/") || run.stdout.trim().ends_with(&container.path()), "{run:#?}");
    container.run(&["kill", &container.id, "KILL"]).expect(0);
    wait_for("the end", || (status() == "stopped").then_some(()));
    // The last process has gone, and with it the scope.
    wait_for("the unit's end", || (!is_loaded(&container.unit)).then_some(()));
    container.run(&["delete", &container.id]).expect(0);
}

#[test]
fn stopping_the_unit_stops_the_container() {
    let container = Container::new("sleep 1000", |_| {});
    container.start();
    systemctl(&["kill", "--signal", "KILL", &container.unit]);
    wait_for("the end", || (container.bundle.status(&container.id) == "stopped").then_some(()));
    container.run(&["delete", &container.id]).expect(0);
    container.run(&["state", &container.id]).expect(1);
}

#[test]
fn a_unit_that_has_failed_goes_with_its_container() {
    let container = Container::new("trap '' TERM; sleep 1000", |config| {
        config["annotations"] = json!({
            "org.systemd.property.RuntimeMaxSec": "1",
            "org.systemd.property.TimeoutStopSec": "1",
        });
    });
    container.start();
    wait_for("the end", || (container.bundle.status(&container.id) == "stopped").then_some(()));
    wait_for("the failure", || (show(&container.unit, &["ActiveState"])["ActiveState"] == "failed").then_some(()));
    container.run(&["delete", &container.id]).expect(0);
    assert!(!is_loaded(&container.unit));
}

#[test]
fn devices_stay_refused_when_systemd_reloads() {
    // A node of a disk that no rule allows: made, but not opened.
    let script = "mknod /dev/disk b 254 0 && echo made > /out/made; while :; do \
                  if dd if=/dev/disk of=/dev/null count=1 2>/dev/null; then echo read > /out/read; fi; \
                  echo tried >> /out/tried; sleep 0.2; done";
    let container = Container::new(script, |config| {
        config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("capabilities").push(json!("CAP_MKNOD"));
        }
        config["root"]["readonly"] = json!(false);
    });
    let out = container.bundle.hull.make_folder("out");
    container.bundle.configure(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/out", "source": out, "type": "bind", "options": ["bind", "rw"]}));
    });
    container.start();
    let tried = || fs::read_to_string(format!("{out}/tried")).unwrap_or_default().lines().count();
    wait_for("the first tries", || (tried() > 1).then_some(()));
    assert!(fs::exists(format!("{out}/made")).expect("looking"));
    systemctl(&["daemon-reload"]);
    let now = tried();
    wait_for("more tries", || (tried() > now + 1).then_some(()));
    assert!(!fs::exists(format!("{out}/read")).expect("looking"), "the disk was read");
    container.delete();
}

#[test]
fn the_system_bus_leads_to_the_same_systemd() {
    let container = Container::new("sleep 1000", limits);
    container.start_with(|command| {
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/dbus/system_bus_socket");
    });
    assert_eq!(show(&container.unit, &["MemoryMax"])["MemoryMax"], "67108864");
    let mut command = container.command(&["delete", "--force", &container.id]);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/dbus/system_bus_socket");
    Run::new(&["delete"], command.output().expect("runc")).expect(0);
    assert!(!is_loaded(&container.unit));
}

#[test]
fn a_slice_can_be_a_container() {
    let bundle = Bundle::script("sleep 1000", |config| {
        config["linux"]["cgroupsPath"] = json!("hulltest.slice::hulltest-pod.slice");
    });
    let container = Container { id: bundle.id("real"), unit: "hulltest-pod.slice".to_owned(), bundle };
    let pid = container.start();
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("/proc/PID/cgroup");
    assert_eq!(cgroup.trim(), "0::/hulltest.slice/hulltest-pod.slice");
    container.run(&["delete", "--force", &container.id]).expect(0);
    wait_for("the slice's end", || {
        (!fs::exists("/sys/fs/cgroup/hulltest.slice/hulltest-pod.slice").expect("looking")).then_some(())
    });
}

#[test]
fn what_systemd_refuses_is_told_in_its_words() {
    let container = Container::new("sleep 1000", |config| {
        config["annotations"] = json!({"org.systemd.property.NoSuchThing": "true"});
    });
    let run = container.run(&["run", "--bundle", &container.bundle.folder, &container.id]).expect(1);
    assert!(run.stderr.contains("NoSuchThing"), "{run:#?}");
    assert!(!is_loaded(&container.unit));
}
