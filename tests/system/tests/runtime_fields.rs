//! Fields of `process` and `linux` in config.json that few containers use: each one is seen in the running program, in
//! the kernel's own words, or is refused by its name.

use std::fs;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use system_tests::{Bundle, Run, is_vm, wait_for};

/// Prints nice value, real-time priority, policy, I/O priority, memory policy of some mapping, and machine.
const PLACE: &str = "read -r line </proc/self/stat; set -- ${line##*)}; echo ${17} ${38} ${39}; ionice -p $$; \
    grep -o -m1 'bind:0' /proc/self/numa_maps; uname -m";

fn placed() -> impl FnOnce(&mut Value) {
    |config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
    }
}

fn expect_place(run: &Run) {
    let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[..2], ["5 0 3", "best-effort: prio 6"], "{run:#?}");
    assert!(lines[2].starts_with("bind"), "{run:#?}");
    assert_eq!(lines[3], machine, "{run:#?}");
}

#[test]
fn runtime_fields_scheduler_io_memory_and_personality_reach_the_program() {
    let bundle = Bundle::script(&PLACE.replace("bind:0", "bind=static:0"), placed());
    expect_place(&bundle.run_container("placed").expect(0));
    bundle.configure(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = bundle.id("placed-exec");
    bundle.start_detached(&id);
    expect_place(&bundle.run(&["exec", &id, "sh", "-c", &PLACE.replace("bind:0", "bind=static:0")]).expect(0));
    bundle.delete(&id);
}

#[test]
fn runtime_fields_real_time_and_deadline_policies_reach_the_program() {
    let run = |scheduler: Value| {
        let bundle = Bundle::new(|config| {
            config["process"]["args"] = json!(["cat", "/proc/self/stat"]);
            config["process"]["scheduler"] = scheduler;
        });
        bundle.run_container("real-time")
    };
    let field = |run: &Run, number: usize| run.text().split(' ').nth(number - 1).unwrap_or_default().to_owned();
    let times = json!({"policy": "SCHED_DEADLINE", "runtime": 2_000_000, "deadline": 20_000_000, "period": 40_000_000});
    assert_eq!(field(&run(times).expect(0), 41), "6");
    let fifo = run(json!({"policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}));
    // Where cgroups share real-time time, the one that the tests run in may have none to give.
    match fifo.code {
        0 => assert_eq!((field(&fifo, 40), field(&fifo, 41)), ("7".to_owned(), "1".to_owned())),
        _ => assert!(!is_vm() && fifo.stderr.contains("linux.resources.cpu.realtimeRuntime"), "{fifo:#?}"),
    }
}

#[test]
fn runtime_fields_a_node_that_is_not_there_is_refused_by_the_fields_name() {
    let bundle =
        Bundle::script("true", |config| config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "900"}));
    let run = bundle.run_container("nodes");
    assert!(run.code != 0 && run.stderr.contains("setting linux.memoryPolicy: invalid argument"), "{run:#?}");
}

const CLOCKS: &str = "readlink /proc/self/ns/time; cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets";

fn with_clocks(config: &mut Value) {
    config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "time"}));
    config["linux"]["timeOffsets"] =
        json!({"monotonic": {"secs": 7881, "nanosecs": 2_718_281}, "boottime": {"secs": 50_000_000}});
}

/// The namespace that the program was in; its clocks are checked.
fn expect_clocks(run: &Run) -> String {
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_ne!(lines[0], fs::read_link("/proc/self/ns/time").expect("a link").display().to_string());
    assert!(lines[1].parse::<u64>().expect("seconds") >= 50_000_000, "{run:#?}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[2]), ["monotonic", "7881", "2718281"], "{run:#?}");
    assert_eq!(words(lines[3]), ["boottime", "50000000", "0"], "{run:#?}");
    lines[0].to_owned()
}

#[test]
fn runtime_fields_a_time_namespace_has_its_clocks_for_the_program_and_for_exec_and_can_be_joined() {
    let bundle = Bundle::script(CLOCKS, with_clocks);
    expect_clocks(&bundle.run_container("clocks").expect(0));
    bundle.configure(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = bundle.id("clocks-exec");
    let pid = bundle.start_detached(&id);
    let own = fs::read_link(format!("/proc/{pid}/ns/time")).expect("a link").display().to_string();
    assert_eq!(expect_clocks(&bundle.run(&["exec", &id, "sh", "-c", CLOCKS]).expect(0)), own);
    bundle.configure(|config| {
        config["process"]["args"] = json!(["sh", "-c", CLOCKS]);
        config["linux"].as_object_mut().expect("linux").remove("timeOffsets");
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.last_mut().expect("time")["path"] = json!(format!("/proc/{pid}/ns/time"));
    });
    assert_eq!(expect_clocks(&bundle.run_container("clocks-joined").expect(0)), own);
    bundle.delete(&id);
}

#[test]
fn runtime_fields_a_time_namespace_belongs_to_the_containers_user_namespace() {
    let bundle = Bundle::script(CLOCKS, |config| {
        with_clocks(config);
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    });
    let allowed = Command::new("chown").args(["-R", "100000:100000"]).arg(format!("{}/rootfs", bundle.folder)).status();
    assert!(allowed.expect("chown").success());
    for folder in bundle.hull.files().ancestors().take(3) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the test's own folders");
    }
    expect_clocks(&bundle.run_container("clocks-user").expect(0));
    bundle.configure(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = bundle.id("clocks-user-exec");
    bundle.start_detached(&id);
    expect_clocks(&bundle.run(&["exec", &id, "sh", "-c", CLOCKS]).expect(0));
    bundle.delete(&id);
}

#[test]
fn runtime_fields_an_added_process_has_its_own_processors() {
    let bundle = Bundle::new(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = bundle.id("affinity");
    bundle.start_detached(&id);
    let processors = |affinity: Value| {
        let process = json!({
            "cwd": "/", "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
            "env": ["PATH=/bin"], "execCPUAffinity": affinity,
        });
        let file = bundle.hull.write("process.json", &process.to_string());
        bundle.run(&["exec", "--process", &file, &id])
    };
    let plain = processors(json!({})).expect(0).stdout;
    assert!(processors(json!({"initial": "0", "final": "0"})).expect(0).text().ends_with("\t0"));
    assert_eq!(processors(json!({"initial": "0"})).expect(0).stdout, plain, "all that the container has");
    let run = processors(json!({"final": "1000"}));
    assert!(run.code != 0 && run.stderr.contains("process.execCPUAffinity.final: invalid argument"), "{run:#?}");
    bundle.delete(&id);
}

#[test]
fn runtime_fields_a_limit_above_the_hosts_names_itself_and_both_values() {
    let wanted = 1_u64 << 40;
    let bundle = Bundle::script("true", |config| {
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 16, "hard": wanted}]);
    });
    let run = bundle.run_container("rlimit");
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.expect("a limit");
    assert_ne!(run.code, 0);
    for part in ["RLIMIT_NOFILE", &wanted.to_string(), &own.to_string()] {
        assert!(run.stderr.contains(part), "no {part} in {run:#?}");
    }
}

#[test]
fn runtime_fields_interfaces_of_the_host_come_with_their_addresses() {
    let script = "ip -o link show in0 | grep -c '[<,]UP[,>]'; ip -o addr show dev in0 | grep -o '10.77.1.3/24'; \
        ip -o link | grep -c in1";
    let bundle = Bundle::script(script, |_| {});
    let busybox = format!("{}/rootfs/bin/busybox", bundle.folder);
    let ip = |words: &[&str]| Command::new(&busybox).arg("ip").args(words).output().expect("busybox");
    let made = ip(&["link", "add", "hulltest0", "type", "veth"]);
    assert!(made.status.success(), "{made:?}");
    assert!(ip(&["addr", "add", "10.77.1.3/24", "dev", "hulltest0"]).status.success());
    let count = || ip(&["-o", "link"]).stdout.iter().filter(|byte| **byte == b'\n').count();
    let before = count();

    bundle.configure(|config| config["linux"]["netDevices"] = json!({"hulltest0": {"name": "lo"}}));
    let run = bundle.run_container("device-taken");
    let words = "linux.netDevices.hulltest0: there is a network interface";
    assert!(run.code != 0 && run.stderr.contains(words), "{run:#?}");
    assert!(ip(&["link", "show", "hulltest0"]).status.success(), "it is still here");

    bundle.configure(|config| config["linux"]["netDevices"] = json!({"hulltest0": {"name": "in%d"}}));
    let run = bundle.run_container("device");
    assert_eq!(run.stdout, "1\n10.77.1.3/24\n0\n", "{run:#?}");
    // With the namespace of the container the pair has ended.
    wait_for("the end of both", || (count() + 2 == before).then_some(()));
}

#[test]
fn runtime_fields_limits_are_in_the_files_of_the_cgroup() {
    let controllers =
        if is_vm() { "/sys/fs/cgroup/cgroup.controllers" } else { "/sys/fs/cgroup/unified/cgroup.controllers" };
    let has_huge_pages = fs::read_to_string(controllers).is_ok_and(|text| text.contains("hugetlb"));
    assert!(has_huge_pages || !is_vm(), "the virtual machine has the controller");
    let bundle = Bundle::new(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        let mut memory = json!({"limit": 64 << 20, "reservation": 32 << 20, "checkBeforeUpdate": true});
        if !is_vm() {
            memory["swappiness"] = json!(7);
            memory["disableOOMKiller"] = json!(true);
        }
        config["linux"]["resources"]["memory"] = memory;
        config["linux"]["resources"]["cpu"] = json!({"quota": 20_000, "period": 50_000, "burst": 10_000});
        if has_huge_pages {
            config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
        }
        if is_vm() {
            config["linux"]["resources"]["unified"] = json!({"memory.high": "48M", "cgroup.max.depth": "3"});
        }
    });
    let id = bundle.id("limits");
    bundle.start_detached(&id);
    let legacy = [
        ("memory/{}/memory.limit_in_bytes", "67108864"),
        ("memory/{}/memory.soft_limit_in_bytes", "33554432"),
        ("memory/{}/memory.swappiness", "7"),
        ("memory/{}/memory.oom_control", "oom_kill_disable 1"),
        ("cpu/{}/cpu.cfs_quota_us", "20000"),
        ("cpu/{}/cpu.cfs_period_us", "50000"),
        ("cpu/{}/cpu.cfs_burst_us", "10000"),
        ("unified/{}/hugetlb.2MB.max", "4194304"),
        ("unified/{}/hugetlb.2MB.rsvd.max", "4194304"),
    ];
    let unified = [
        ("{}/memory.max", "67108864"),
        ("{}/memory.low", "33554432"),
        ("{}/memory.high", "50331648"),
        ("{}/cgroup.max.depth", "3"),
        ("{}/cpu.max", "20000 50000"),
        ("{}/cpu.max.burst", "10000"),
        ("{}/hugetlb.2MB.max", "4194304"),
        ("{}/hugetlb.2MB.rsvd.max", "4194304"),
    ];
    let files = if is_vm() { &unified[..] } else { &legacy[..] };
    for (file, value) in files.iter().filter(|(file, _)| has_huge_pages || !file.contains("hugetlb")) {
        let path = format!("/sys/fs/cgroup/{}", file.replace("{}", &id));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(text.lines().next(), Some(*value), "{path}");
    }
    bundle.delete(&id);
}

#[test]
fn runtime_fields_an_idle_group_is_idle_and_limits_of_the_other_version_are_refused_by_their_names() {
    let bundle = Bundle::new(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["linux"]["resources"]["cpu"] = json!({"idle": 1});
    });
    let id = bundle.id("idle");
    bundle.start_detached(&id);
    let folder = if is_vm() { "" } else { "/cpu" };
    let idle = fs::read_to_string(format!("/sys/fs/cgroup{folder}/{id}/cpu.idle")).expect("cpu.idle");
    bundle.delete(&id);
    assert_eq!(idle, "1\n");
    let refused = |resources: Value, words: &str| {
        bundle.configure(|config| config["linux"]["resources"] = resources);
        let run = bundle.run_container("refused");
        assert!(run.code != 0 && run.stderr.contains(words), "{run:#?}");
    };
    if is_vm() {
        refused(json!({"memory": {"swappiness": 7}}), "linux.resources.memory.swappiness: ");
        refused(json!({"memory": {"disableOOMKiller": true}}), "linux.resources.memory.disableOOMKiller: ");
        refused(json!({"network": {"classID": 1}}), "linux.resources.network.classID: ");
        refused(
            json!({"network": {"priorities": [{"name": "lo", "priority": 1}]}}),
            "linux.resources.network.priorities: ",
        );
    } else {
        refused(json!({"unified": {"memory.high": "48M"}}), "linux.resources.unified: ");
        refused(json!({"network": {"classID": 1}}), "the cgroup controller net_cls is not available");
    }
    refused(
        json!({"rdma": {"hull0": {"hcaHandles": 1}}}),
        if is_vm() { "rdma" } else { "the cgroup controller rdma is" },
    );
}

/// Where AppArmor is: in a policy namespace made for this, whose one profile confines nothing and has a name of its own.
#[test]
fn runtime_fields_a_program_runs_under_its_apparmor_profile() {
    const NAMESPACES: &str = "/sys/kernel/security/apparmor/policy/namespaces";
    if !has_apparmor() {
        return;
    }
    let mounts = !fs::exists(NAMESPACES).expect("looking");
    if mounts {
        let words = ["-t", "securityfs", "securityfs", "/sys/kernel/security"];
        assert!(Command::new("mount").args(words).status().expect("mount").success());
    }
    let name = format!("hulltest{}", std::process::id());
    let namespace = format!("{NAMESPACES}/{name}");
    fs::create_dir(&namespace).expect("a policy namespace");
    let bundle = Bundle::new(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["process"]["apparmorProfile"] = json!(format!(":{name}:unconfined"));
    });
    let current = |pid: i32| fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).expect("a profile");
    let id = bundle.id("apparmor");
    let pid = bundle.start_detached(&id);
    let pid_file = bundle.hull.file("exec.pid");
    let mut exec = bundle.command(&["exec", "--detach", "--pid-file", &pid_file, &id, "sleep", "1000"]);
    assert!(exec.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runc").success());
    let added = fs::read_to_string(pid_file).expect("a pid").parse().expect("a number");
    let found = [current(pid), current(added)];
    bundle.delete(&id);
    bundle.configure(|config| config["process"]["apparmorProfile"] = json!("hull-no-such-profile"));
    let run = bundle.run_container("apparmor-missing");
    fs::remove_dir(&namespace).expect("the policy namespace");
    if mounts {
        assert!(Command::new("umount").arg("/sys/kernel/security").status().expect("umount").success());
    }
    assert!(found.iter().all(|profile| profile.contains(&name)), "{found:?}");
    for words in ["labelling the process: write", "hull-no-such-profile", "/proc/self/attr/apparmor/exec"] {
        assert!(run.code != 0 && run.stderr.contains(words), "{run:#?}");
    }
}

fn has_apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|answer| answer.starts_with(b"Y"))
}

#[test]
fn runtime_fields_what_the_machine_has_no_use_for_is_refused_by_its_name() {
    let mounted = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").contains(" - resctrl ");
    let selinux = fs::exists("/sys/fs/selinux/enforce").expect("looking");
    let label = "system_u:system_r:container_t:s0:c1,c2";
    let table = [
        ("/process/apparmorProfile", json!("hull-test"), has_apparmor(), "AppArmor is not enabled on this machine"),
        ("/process/selinuxLabel", json!(label), selinux, "SELinux is not enabled on this machine"),
        ("/linux/mountLabel", json!(label), selinux, "SELinux is not enabled on this machine"),
        ("/linux/intelRdt", json!({"closID": "hull-test"}), mounted, "no resctrl file system is mounted"),
    ];
    let bundle = Bundle::script("true", |_| {});
    for (field, value, has_it, reason) in table {
        let (section, name) = field[1..].split_once('/').expect("a field of a section");
        bundle.configure(|config| config[section][name] = value);
        let run = bundle.run_container("refused");
        let words = format!("config.json: {section}.{name} is not supported: {reason}");
        assert!(has_it || run.code != 0 && run.stderr.contains(&words), "{run:#?}");
        bundle.configure(|config| config[section][name] = if name == "intelRdt" { Value::Null } else { json!("") });
        bundle.run_container("empty").expect(0);
    }
}

/// A filter that asks the agent at `path` about mkdir, and says `errno` to chmod.
fn asking(config: &mut Value, path: &str, no_new_privileges: bool) {
    config["process"]["noNewPrivileges"] = json!(no_new_privileges);
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "to whom it may concern",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    });
}

#[test]
fn runtime_fields_an_agent_answers_a_notified_call_of_the_program_and_of_exec() {
    for no_new_privileges in [true, false] {
        let script = "mkdir /answered; echo $?; test -e /answered; echo $?";
        let bundle = Bundle::script(script, |_| {});
        let agent = agent::Agent::listen(&bundle.hull.file("agent.sock"));
        bundle.configure(|config| asking(config, &agent.path, no_new_privileges));
        let run = bundle.run_container("notified").expect(0);
        assert_eq!(run.stdout, "0\n1\n", "the agent said that it was made, and nothing was: {run:#?}");
        let told = agent.told();
        assert_eq!(told["fds"], json!(["seccompFd"]));
        assert_eq!(told["metadata"], "to whom it may concern");
        assert_eq!(told["ociVersion"], told["state"]["ociVersion"]);
        assert_eq!(told["state"]["bundle"].as_str(), Some(bundle.folder.as_str()));
        assert!(told["state"]["id"].as_str().expect("an id").starts_with("hull-test-notified-"));
        assert!(told["pid"].as_i64().expect("a pid") > 1 && told["pid"] == told["state"]["pid"]);

        bundle.configure(|config| config["process"]["args"] = json!(["sleep", "1000"]));
        let id = bundle.id("notified-exec");
        let pid = bundle.create(&id);
        bundle.run(&["start", &id]).expect(0);
        assert_eq!(agent.told()["pid"], pid, "of a container that was created before");
        let run = bundle.run(&["exec", &id, "sh", "-c", script]).expect(0);
        assert_eq!(run.stdout, "0\n1\n", "{run:#?}");
        let told = agent.told();
        assert!(told["state"]["status"] == "running" && told["pid"] != told["state"]["pid"], "{told}");
        bundle.delete(&id);
    }
}

#[test]
fn runtime_fields_without_an_agent_there_is_no_container() {
    let bundle = Bundle::script("true", |config| asking(config, "/nowhere/agent.sock", true));
    let run = bundle.run_container("no-agent");
    assert!(run.code != 0 && run.stderr.contains("listenerPath: connecting to /nowhere/agent.sock"), "{run:#?}");
    bundle.configure(|config| {
        config["linux"]["seccomp"]["syscalls"][0]["names"] = json!(["write"]);
    });
    let run = bundle.run_container("no-agent");
    assert!(run.code != 0 && run.stderr.contains("SCMP_ACT_NOTIFY cannot be used for the write syscall"), "{run:#?}");
}

#[test]
fn runtime_fields_the_roots_propagation_is_what_was_asked_for() {
    // Of the mount of the root: its optional fields (proc_pid_mountinfo(5)).
    let script = "while read -r a b c d e f g h; do [ $e = / ] && echo \"$g $h\"; done </proc/self/mountinfo; true";
    let bundle = Bundle::script(script, |_| {});
    let rootfs = format!("{}/rootfs", bundle.folder);
    let mount = |words: &[&str]| assert!(Command::new("mount").args(words).status().expect("mount").success());
    mount(&["--bind", &rootfs, &rootfs]);
    mount(&["--make-shared", &rootfs]);
    let root = |word: &str| {
        bundle.configure(|config| config["linux"]["rootfsPropagation"] = json!(word));
        bundle.run_container("propagation").expect(0).text().split(" - ").next().unwrap_or_default().to_owned()
    };
    let found = ["private", "slave", "shared", "unbindable"].map(|word| (word, root(word)));
    assert!(Command::new("umount").arg(&rootfs).status().expect("umount").success());
    for (word, fields) in found {
        let has = |tag: &str| fields.split(' ').any(|field| field.starts_with(tag));
        let seen = (has("shared:"), has("master:"), has("unbindable"));
        match word {
            "private" => assert_eq!(seen, (false, false, false), "{fields}"),
            "slave" => assert_eq!(seen, (false, true, false), "{fields}"),
            "shared" => assert!(seen.0, "{fields}"),
            _ => assert_eq!(seen, (false, false, true), "{fields}"),
        }
    }
}

/// An agent for one filter after the other, which says to every notified call that it succeeded (seccomp_unotify(2)).
mod agent {
    use super::*;
    use std::io::IoSliceMut;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::mpsc::{Receiver, channel};

    use hull_sys::seccomp::{answer_notification, receive_notification};
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    pub struct Agent {
        pub path: String,
        states: Receiver<Value>,
    }

    impl Agent {
        pub fn listen(path: &str) -> Agent {
            let socket = UnixListener::bind(path).expect("a socket");
            let (sender, states) = channel();
            std::thread::spawn(move || {
                for connection in socket.incoming() {
                    let (state, listener) = receive(&connection.expect("a connection"));
                    std::thread::spawn(move || answer(&listener));
                    if sender.send(state).is_err() {
                        return;
                    }
                }
            });
            Agent { path: path.to_owned(), states }
        }

        /// What the next caller said.
        pub fn told(&self) -> Value {
            self.states.recv_timeout(system_tests::patience()).expect("somebody calls")
        }
    }

    fn receive(connection: &UnixStream) -> (Value, OwnedFd) {
        let (mut all, mut listener) = (Vec::new(), None);
        loop {
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut part = [IoSliceMut::new(&mut bytes)];
            let count = recvmsg(connection, &mut part, &mut ancillary, RecvFlags::CMSG_CLOEXEC).expect("a part").bytes;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                    listener = listener.or(fds.next());
                }
            }
            if count == 0 {
                break;
            }
            all.extend_from_slice(&bytes[..count]);
        }
        (serde_json::from_slice(&all).expect("JSON"), listener.expect("a descriptor"))
    }

    /// Until nobody is left under the filter.
    fn answer(listener: &OwnedFd) {
        let gone = |error: std::io::Error| assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "a caller is gone");
        loop {
            let mut waiting = [PollFd::new(listener, PollFlags::IN)];
            poll(&mut waiting, None).expect("poll");
            if !waiting[0].revents().contains(PollFlags::IN) {
                return;
            }
            match receive_notification(listener.as_fd()) {
                Ok(call) => answer_notification(listener.as_fd(), call.id, 0, 0).unwrap_or_else(gone),
                Err(error) => gone(error),
            }
        }
    }
}

#[test]
fn a_stream_to_nowhere_is_the_containers_own_null_device() {
    // A device of the host's mount could be neither reopened nor written down by criu.
    let device = "stat -L -c %d /proc/self/fd/0 /dev/null | sort -u | wc -l; stat -L -c %t:%T /proc/self/fd/0";
    let bundle = Bundle::script(device, |_| {});
    assert_eq!(bundle.run_container("null").expect(0).stdout, "1\n1:3\n");
    let sleeper = Bundle::script("sleep 1000", |_| {});
    let id = sleeper.id("null-exec");
    sleeper.start_detached(&id);
    assert_eq!(sleeper.run(&["exec", &id, "sh", "-c", device]).expect(0).stdout, "1\n1:3\n");
    sleeper.delete(&id);
}
