//! Hull in the place of runc under Debian's dockerd, containerd and podman: what their users do with a container, and
//! that nothing of it is left. And Hull with a real criu. Not in the virtual machine, where these programs are not.
//!
//! Each test has a place of its own (see `place`); the daemons and all of their files end with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use system_tests::bundle::Bundle;
use system_tests::place::{Place, Tool};
use system_tests::{Run, hull, image, is_vm, leftovers, peers, wait_for};

/// A shell that says when it is ready, and ends with 4 when it is asked to.
const PATIENT: &str = "trap 'exit 4' TERM; trap 'echo heard' USR1; echo ready; while :; do sleep 0.02; done";
/// The image by the name that containerd imports it under.
const IMAGE: &str = "docker.io/library/busybox:latest";

/// A place, and Hull by the name that makes it a runtime; none in the virtual machine.
fn place(cgroups: &[&str]) -> Option<(Place, String)> {
    let Some(scripts) = peers() else {
        assert!(is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
        return None;
    };
    let place = Place::new(scripts, cgroups);
    let runtime = place.files().join("hull-runc");
    symlink(hull().expect("HULL_BIN"), &runtime).expect("a link");
    Some((place, runtime.display().to_string()))
}

/// The value of a cgroup file of a container, in whichever hierarchy has it.
fn cgroup_value(cgroup: &str, file: &str) -> String {
    let all = leftovers::hierarchies();
    let found: Vec<PathBuf> =
        all.iter().map(|root| root.join(cgroup).join(file)).filter(|path| path.exists()).collect();
    let path = found.first().unwrap_or_else(|| panic!("no {file} in {cgroup}"));
    fs::read_to_string(path).expect("a cgroup file").trim().to_owned()
}

/// Whether the kernel says that the container's processes are frozen.
fn is_frozen(cgroup: &str) -> bool {
    cgroup_value(cgroup, "freezer.state") == "FROZEN" || cgroup_value(cgroup, "cgroup.freeze") == "1"
}

#[test]
fn dockerd_has_hull_for_its_runtime() {
    let Some((place, runtime)) = place(&["docker"]) else { return };
    let settings = peers().expect("the peers").join("../etc/daemon.json").display().to_string();
    let added = format!("hull={runtime}");
    let words = ["--data-root", "/run/hull-peers/docker", "--add-runtime", &added, "--default-runtime", "hull"];
    let mut daemon = place.start("dockerd", &[&["--config-file", &settings], &words[..]].concat());
    let docker = place.tool("docker", &[]);
    daemon.wait_until_up(&docker, &["version"]);
    docker.ok(&["load", "-q", "-i", &image("busybox.docker.tar").display().to_string()]);
    docker_runs(&docker);
    docker_limits(&docker);
    docker_joins(&docker);
    docker_adds_processes(&docker);
    docker_changes_what_runs(&docker);
    docker_ends_and_starts_again(&docker);
    docker_tells_why_it_ended(&docker);
    place.expect_empty(&["dockerd", "containerd"], &["/run/docker/runtime-runc/moby", "/run/hull-oci"]);
    daemon.end(&place);
}

fn docker_runs(docker: &Tool<'_>) {
    let inside = |flags: &[&str], words: &[&str]| docker.ok(&[&["run", "--rm"], flags, &["busybox"], words].concat());
    assert_eq!(inside(&["-h", "greeter"], &["sh", "-c", "echo $$ $(hostname)"]), "1 greeter");
    assert_eq!(docker.answer("a word", &["run", "--rm", "-i", "busybox", "cat"]), "a word");
    docker.refused(7, &["run", "--rm", "busybox", "sh", "-c", "echo said >&2; exit 7"], "said");
    docker.refused(127, &["run", "--rm", "busybox", "nope"], "exec: \"nope\": executable file not found in $PATH");
    docker.refused(127, &["run", "--rm", "busybox", "/no/such"], "no such file or directory");
    docker.refused(126, &["run", "--rm", "busybox", "/etc/passwd"], "exec: \"/etc/passwd\": permission denied");
    docker.refused(126, &["run", "--rm", "busybox", "/etc"], "permission denied");
    assert_eq!(inside(&["--init"], &["cat", "/proc/1/comm"]), "docker-init");
    assert_eq!(inside(&[], &["grep", "Seccomp:", "/proc/self/status"]), "Seccomp:\t2");
    let open = ["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"];
    let status = inside(&open, &["grep", "-e", "Seccomp:", "-e", "NoNewPrivs", "/proc/self/status"]);
    assert_eq!(status, "NoNewPrivs:\t1\nSeccomp:\t0");
    let created = docker.ok(&[
        "create",
        "--name",
        "made",
        "-e",
        "ONE=1",
        "-w",
        "/srv/new",
        "busybox",
        "sh",
        "-c",
        "pwd; echo $ONE",
    ]);
    assert_eq!(docker.ok(&["start", "-a", &created]), "/srv/new\n1");
    assert_eq!(docker.ok(&["logs", "made"]), "/srv/new\n1");
    docker.ok(&["rm", "made"]);
    let mut terminal = docker.terminal(&["run", "--rm", "-it", "busybox", "sh"]);
    terminal.shown("# ");
    terminal.type_in("tty; test -t 0 -a -t 1 && echo yes$((1+1)); ls /dev/console\n");
    terminal.shown("/dev/pts/0\r\nyes2\r\n/dev/console\r\n");
    terminal.resize(50, 132);
    terminal.type_in("while test \"$(stty size)\" != '50 132'; do sleep 0.02; done; echo resized$((1+1))\n");
    terminal.shown("resized2");
    terminal.type_in("exit 3\n");
    assert_eq!(terminal.code(), 3);
}

fn docker_limits(docker: &Tool<'_>) {
    let flags = [
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--pids-limit",
        "50",
        "--cpuset-cpus",
        "0",
        "--ulimit",
        "nofile=64:128",
        "--oom-score-adj",
        "100",
        "--sysctl",
        "kernel.msgmax=4096",
        "--shm-size",
        "8m",
        "-u",
        "1000:50",
        "--group-add",
        "7",
        "--read-only",
        "--tmpfs",
        "/scratch",
        "--cap-add",
        "NET_RAW",
    ];
    let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.shares \
                  pids/pids.max cpuset/cpuset.cpus; ulimit -n; cat /proc/self/oom_score_adj \
                  /proc/sys/kernel/msgmax; df -k /dev/shm | tail -n 1 | cut -c 1-40 | tr -s ' ' | cut -d ' ' -f 2; \
                  id -u; id -G; touch /x 2>/dev/null || echo read-only; mount | grep -c ' /scratch '";
    let said = docker.ok(&[&["run", "--rm"], &flags[..], &["busybox", "sh", "-c", script]].concat());
    let expected = "67108864\n50000\n512\n50\n0\n64\n100\n4096\n8192\n1000\n50 7\nread-only\n1";
    assert_eq!(said, expected);
    docker.run(&["run", "--name", "greedy", "-m", "32m", "busybox", "tail", "/dev/zero"]).expect(137);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "greedy"]), "true 137");
    docker.ok(&["rm", "greedy"]);
}

fn docker_joins(docker: &Tool<'_>) {
    docker.ok(&["run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sleep", "1000"]);
    for (flag, kind) in [("--pid", "pid"), ("--ipc", "ipc"), ("--network", "net")] {
        let path = format!("/proc/self/ns/{kind}");
        let donor = docker.ok(&["exec", "donor", "readlink", &path]);
        let joined = docker.ok(&["run", "--rm", flag, "container:donor", "busybox", "readlink", &path]);
        assert_eq!(joined, donor, "{flag}");
    }
    docker.ok(&["rm", "-f", "donor"]);
}

fn docker_adds_processes(docker: &Tool<'_>) {
    docker.ok(&["run", "-d", "--name", "host", "-e", "ONE=1", "busybox", "sleep", "1000"]);
    assert_eq!(
        docker.ok(&["exec", "-e", "TWO=2", "host", "sh", "-c", "echo $ONE $TWO; ls /proc | grep -c '^1$'"]),
        "1 2\n1"
    );
    assert_eq!(docker.answer("a word", &["exec", "-i", "host", "cat"]), "a word");
    assert_eq!(
        docker.ok(&["exec", "-u", "1000:50", "-w", "/tmp", "host", "sh", "-c", "id -u; id -g; pwd"]),
        "1000\n50\n/tmp"
    );
    docker.refused(9, &["exec", "host", "sh", "-c", "exit 9"], "");
    docker.refused(126, &["exec", "host", "nope"], "exec: \"nope\": executable file not found in $PATH");
    docker.refused(126, &["exec", "host", "/etc/passwd"], "permission denied");
    let mut terminal = docker.terminal(&["exec", "-it", "host", "sh"]);
    terminal.shown("# ");
    terminal.type_in("tty; stty size; exit 5\n");
    terminal.shown("/dev/pts/0\r\n24 80\r\n");
    assert_eq!(terminal.code(), 5);
    docker.ok(&["exec", "-d", "host", "touch", "/tmp/detached"]);
    docker.says("/tmp/detached", &["exec", "host", "ls", "/tmp/detached"]);
    docker.ok(&["rm", "-f", "host"]);
    let healthy = ["run", "-d", "--name", "well", "--health-cmd", "true", "--health-interval", "100ms"];
    docker.ok(&[&healthy[..], &["busybox", "sleep", "1000"]].concat());
    docker.says("healthy", &["inspect", "-f", "{{.State.Health.Status}}", "well"]);
    docker.ok(&["rm", "-f", "well"]);
}

fn docker_changes_what_runs(docker: &Tool<'_>) {
    let script = "sleep 1000 & wait";
    let id = docker.ok(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script]);
    let cgroup = format!("docker/{id}");
    docker.says("sleep 1000", &["top", "box", "-o", "pid,args"]);
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{json .}}", "box"]);
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["PIDs"], "2", "{stats}");
    assert!(!stats["MemUsage"].as_str().expect("text").starts_with("0B"), "{stats}");
    docker.ok(&["pause", "box"]);
    assert!(is_frozen(&cgroup));
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.Status}}", "box"]), "paused");
    docker.ok(&["unpause", "box"]);
    assert!(!is_frozen(&cgroup));
    docker.ok(&["update", "-m", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--pids-limit", "40", "box"]);
    let now = |file: &str| cgroup_value(&cgroup, file);
    assert_eq!(now("memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(now("memory.memsw.limit_in_bytes"), (96 << 20).to_string());
    assert_eq!((now("cpu.cfs_quota_us"), now("pids.max")), ("50000".to_owned(), "40".to_owned()));
    docker.ok(&["update", "-m", "128m", "--memory-swap", "256m", "--cpu-shares", "256", "box"]);
    assert_eq!((now("memory.limit_in_bytes"), now("cpu.shares")), ((128 << 20).to_string(), "256".to_owned()));
    docker.ok(&["rm", "-f", "box"]);
}

fn docker_ends_and_starts_again(docker: &Tool<'_>) {
    let state = |format: &str| docker.ok(&["inspect", "-f", format, "box"]);
    docker.ok(&["run", "-d", "--name", "box", "busybox", "sh", "-c", PATIENT]);
    docker.says("ready", &["logs", "box"]);
    docker.ok(&["kill", "-s", "USR1", "box"]);
    docker.says("heard", &["logs", "box"]);
    let first = state("{{.State.Pid}}");
    docker.ok(&["restart", "box"]);
    assert_ne!(state("{{.State.Pid}}"), first);
    docker.says("ready\nheard\nready", &["logs", "box"]);
    docker.ok(&["stop", "box"]);
    assert_eq!(state("{{.State.Status}} {{.State.ExitCode}}"), "exited 4");
    docker.ok(&["start", "box"]);
    docker.ok(&["kill", "box"]);
    assert_eq!(docker.ok(&["wait", "box"]), "137");
    docker.ok(&["rm", "box"]);
    let again = ["run", "-d", "--name", "again", "--restart", "on-failure:2", "busybox", "sh", "-c", "exit 3"];
    docker.ok(&again);
    docker.says("2 exited 3", &["inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "again"]);
    docker.ok(&["rm", "again"]);
}

/// What `docker events` has of the deaths so far.
fn docker_tells_why_it_ended(docker: &Tool<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs_f64().to_string();
    let format = "{{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}";
    let died = docker.ok(&["events", "--since", "0", "--until", &now, "--filter", "event=die", "--format", format]);
    for death in ["greedy 137", "box 4", "box 137", "again 3", "made 0"] {
        assert!(died.lines().any(|line| line == death), "no {death:?} in {died}");
    }
}

#[test]
fn containerd_has_hull_for_its_runtime() {
    let Some((place, runtime)) = place(&["hull-ctr"]) else { return };
    let settings = place.files().join("containerd.toml");
    let text = "version = 2\nroot = \"/run/hull-peers/containerd\"\nstate = \"/run/containerd\"\n\
                disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"/run/containerd/containerd.sock\"\n";
    fs::write(&settings, text).expect("settings");
    let mut daemon = place.start("containerd", &["--config", &settings.display().to_string()]);
    let ctr = place.tool("ctr", &["--address", "/run/containerd/containerd.sock", "--namespace", "hull-ctr"]);
    daemon.wait_until_up(&ctr, &["version"]);
    ctr.ok(&["images", "import", &image("busybox.oci.tar").display().to_string()]);
    ctr_runs(&ctr, &runtime);
    ctr_tasks(&ctr, &runtime);
    place.expect_empty(&["containerd"], &["/run/containerd/runc/hull-ctr", "/run/hull-oci"]);
    daemon.end(&place);
}

fn ctr_runs(ctr: &Tool<'_>, runtime: &str) {
    let words = |flags: &[&'static str], rest: &[&'static str]| -> Vec<&'static str> {
        [flags, &[IMAGE, "once"], rest].concat()
    };
    let run = |flags: &[&'static str], rest: &[&'static str]| {
        ctr.run(&[&["run", "--rm", "--runc-binary", runtime], &words(flags, rest)[..]].concat())
    };
    // What a program prints that ends before ctr has opened the pipe for it, ctr loses: it is run again then.
    let inside = |flags: &[&'static str], rest: &[&'static str]| {
        let mut said = (0..20).map(|_| run(flags, rest).expect(0).text().to_owned());
        said.find(|said| !said.is_empty()).unwrap_or_default()
    };
    assert_eq!(inside(&[], &["sh", "-c", "echo $$"]), "1");
    assert_eq!(ctr.answer("a word", &["run", "--rm", "--runc-binary", runtime, IMAGE, "once", "cat"]), "a word");
    run(&[], &["sh", "-c", "exit 5"]).expect(5);
    let missing = run(&[], &["nope"]).expect(1);
    assert!(missing.stderr.contains("exec: \"nope\": executable file not found in $PATH"), "{missing:#?}");
    let limited = ["--memory-limit", "33554432", "--cpus", "0.5", "--seccomp", "--read-only", "--cwd", "/tmp"];
    let script = "cat /proc/self/cgroup | grep memory: | cut -d : -f 3; grep Seccomp: /proc/self/status; pwd; touch x 2>/dev/null || echo ro";
    assert_eq!(inside(&limited, &["sh", "-c", script]), "/hull-ctr/once\nSeccomp:\t2\n/tmp\nro");
    assert_eq!(
        inside(&["--mount", "type=bind,src=/proc/sys/kernel,dst=/seen,options=rbind:ro"], &["cat", "/seen/ostype"]),
        "Linux"
    );
    let mapped = ["--uidmap", "0:100000:1000", "--gidmap", "0:100000:1000", "--remap-labels"];
    assert_eq!(inside(&mapped, &["sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map"]), "0\n 0 100000 1000");
    let mut terminal = ctr.terminal(&["run", "--rm", "-t", "--runc-binary", runtime, IMAGE, "once", "sh"]);
    terminal.shown("# ");
    terminal.type_in("tty; exit 3\n");
    terminal.shown("/dev/pts/0");
    assert_eq!(terminal.code(), 3);
}

fn ctr_tasks(ctr: &Tool<'_>, runtime: &str) {
    ctr.ok(&["run", "-d", "--runc-binary", runtime, "--memory-limit", "67108864", IMAGE, "box", "sh", "-c", PATIENT]);
    let cgroup = "hull-ctr/box";
    assert_eq!(cgroup_value(cgroup, "memory.limit_in_bytes"), (64 << 20).to_string());
    ctr.says("RUNNING", &["task", "ls"]);
    ctr.refused(3, &["task", "exec", "--exec-id", "one", "box", "sh", "-c", "echo said; sleep 1; exit 3"], "said");
    let words = [
        "task",
        "exec",
        "--exec-id",
        "two",
        "--user",
        "1000",
        "--cwd",
        "/tmp",
        "box",
        "sh",
        "-c",
        "id -u; pwd; sleep 1",
    ];
    assert_eq!(ctr.ok(&words), "1000\n/tmp");
    ctr.refused(1, &["task", "exec", "--exec-id", "three", "box", "nope"], "executable file not found in $PATH");
    let mut terminal = ctr.terminal(&["task", "exec", "--exec-id", "four", "-t", "box", "sh"]);
    terminal.shown("# ");
    terminal.type_in("tty; exit 6\n");
    terminal.shown("/dev/pts/0");
    assert_eq!(terminal.code(), 6);
    let metrics = ctr.ok(&["task", "metrics", "box"]);
    assert!(metrics.contains("memory.limit_in_bytes    67108864") && metrics.contains("pids.current"), "{metrics}");
    assert_eq!(ctr.ok(&["task", "ps", "box"]).split_whitespace().next(), Some("PID"));
    ctr.ok(&["task", "pause", "box"]);
    assert!(is_frozen(cgroup));
    ctr.says("PAUSED", &["task", "ls"]);
    ctr.ok(&["task", "resume", "box"]);
    assert!(!is_frozen(cgroup));
    ctr.ok(&["task", "kill", "-s", "SIGTERM", "box"]);
    ctr.says("STOPPED", &["task", "ls"]);
    let ended = ctr.run(&["task", "delete", "box"]).expect(0);
    assert!(ended.stderr.contains("code 4"), "{ended:#?}");
    ctr.ok(&["task", "start", "-d", "box"]);
    ctr.ok(&["task", "kill", "-s", "SIGKILL", "--all", "box"]);
    ctr.says("STOPPED", &["task", "ls"]);
    let ended = ctr.run(&["task", "delete", "box"]).expect(0);
    assert!(ended.stderr.contains("code 137"), "{ended:#?}");
    ctr.ok(&["container", "delete", "box"]);
}

#[test]
fn podman_has_hull_for_its_runtime() {
    let Some((place, runtime)) = place(&["libpod_parent", "libpod_parent/conmon"]) else { return };
    place.run("/bin/sh", &["-c", "echo containers:100000:1000000 | tee /etc/subuid > /etc/subgid"]).expect(0);
    let podman = place.tool("podman", &["--runtime", &runtime]);
    podman.ok(&["load", "-q", "-i", &image("busybox.docker.tar").display().to_string()]);
    podman_runs(&podman);
    podman_keeps(&podman, &runtime);
    podman_shares_in_pods(&podman);
    place.expect_empty(&[], &["/run/hull-oci"]);
}

fn podman_runs(podman: &Tool<'_>) {
    let plain = ["run", "--rm", "--network", "none"];
    let inside = |flags: &[&str], words: &[&str]| podman.ok(&[&plain[..], flags, &["busybox"], words].concat());
    let refused = |code, words: &[&str], said| podman.refused(code, &[&plain[..], &["busybox"], words].concat(), said);
    assert_eq!(inside(&["-h", "greeter"], &["sh", "-c", "echo $$ $(hostname)"]), "1 greeter");
    assert_eq!(podman.answer("a word", &[&plain[..], &["-i", "busybox", "cat"]].concat()), "a word");
    refused(7, &["sh", "-c", "exit 7"], "");
    refused(127, &["nope"], "executable file not found in $PATH");
    refused(126, &["/etc/passwd"], "permission denied");
    assert_eq!(inside(&["--init"], &["cat", "/proc/1/comm"]), "podman-init");
    let limits =
        ["-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "-u", "1000:50", "--read-only", "--tmpfs", "/scratch"];
    let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max; id -u; id -g; \
                  touch /x 2>/dev/null || echo ro; grep Seccomp: /proc/self/status";
    assert_eq!(inside(&limits, &["sh", "-c", script]), "67108864\n50000\n50\n1000\n50\nro\nSeccomp:\t2");
    let map = ["sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map; touch /made && stat -c %u /made"];
    let mapped = inside(&["--uidmap", "0:200000:5000", "--gidmap", "0:200000:5000"], &map);
    assert_eq!(mapped, "0\n 0 200000 5000\n0");
    assert!(inside(&["--userns", "auto:size=3000"], &map).starts_with("0\n 0 100000 3000\n"));
    let mut terminal = podman.terminal(&[&plain[..], &["-it", "busybox", "sh"]].concat());
    terminal.shown("# ");
    terminal.type_in("tty; exit 3\n");
    terminal.shown("/dev/pts/0");
    assert_eq!(terminal.code(), 3);
}

fn podman_keeps(podman: &Tool<'_>, runtime: &str) {
    let state = |format: &str| podman.ok(&["inspect", "-f", format, "box"]);
    let id = podman.ok(&["run", "-d", "--network", "none", "--name", "box", "busybox", "sh", "-c", PATIENT]);
    let cgroup = format!("libpod_parent/libpod-{id}");
    assert_eq!(state("{{.OCIRuntime}}"), runtime);
    podman.says("ready", &["logs", "box"]);
    assert_eq!(
        podman.ok(&["exec", "-u", "1000", "-w", "/tmp", "-e", "A=1", "box", "sh", "-c", "id -u; pwd; echo $A"]),
        "1000\n/tmp\n1"
    );
    podman.refused(3, &["exec", "box", "sh", "-c", "exit 3"], "");
    podman.refused(127, &["exec", "box", "nope"], "executable file not found in $PATH");
    let mut terminal = podman.terminal(&["exec", "-it", "box", "sh"]);
    terminal.shown("# ");
    terminal.type_in("tty; exit 6\n");
    terminal.shown("/dev/pts/0");
    assert_eq!(terminal.code(), 6);
    let stats = podman.ok(&["stats", "--no-stream", "--format", "{{.MemUsageBytes}} {{.PIDS}}", "box"]);
    assert!(!stats.starts_with("0B") && !stats.ends_with(" 0"), "{stats}");
    assert!(podman.ok(&["top", "box", "pid", "comm"]).lines().any(|line| line.split_whitespace().eq(["1", "sh"])));
    podman.ok(&["pause", "box"]);
    assert!(is_frozen(&cgroup));
    podman.ok(&["unpause", "box"]);
    assert!(!is_frozen(&cgroup));
    podman.ok(&["update", "-m", "64m", "--cpus", "0.5", "box"]);
    assert_eq!(cgroup_value(&cgroup, "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(cgroup_value(&cgroup, "cpu.cfs_quota_us"), "50000");
    podman.ok(&["kill", "-s", "USR1", "box"]);
    podman.says("heard", &["logs", "box"]);
    podman.ok(&["stop", "box"]);
    assert_eq!(state("{{.State.Status}} {{.State.ExitCode}}"), "exited 4");
    podman.ok(&["start", "box"]);
    podman.ok(&["restart", "-t", "0", "box"]);
    podman.ok(&["kill", "box"]);
    assert_eq!(podman.ok(&["wait", "box"]), "137");
    podman.ok(&["rm", "box"]);
}

fn podman_shares_in_pods(podman: &Tool<'_>) {
    podman.ok(&["pod", "create", "--name", "pod", "--network", "none", "--share", "ipc,net,uts,pid"]);
    podman.ok(&["run", "-d", "--pod", "pod", "--name", "one", "busybox", "sleep", "1000"]);
    let script = "for kind in net ipc uts pid mnt; do readlink /proc/self/ns/$kind; done";
    let one = podman.ok(&["exec", "one", "sh", "-c", script]);
    let two = podman.ok(&["run", "--rm", "--pod", "pod", "busybox", "sh", "-c", script]);
    let (one, two): (Vec<&str>, Vec<&str>) = (one.lines().collect(), two.lines().collect());
    assert_eq!((one.len(), &one[..4]), (5, &two[..4]));
    assert_ne!(one[4], two[4]);
    podman.ok(&["pod", "kill", "pod"]);
    podman.ok(&["pod", "rm", "-f", "-t", "0", "pod"]);
}

/// It counts in a file, and says in another that it began.
const COUNTING: &str = "echo begun >> /begun; n=0; while :; do n=$((n+1)); echo $n > /count; sleep 0.05; done";

#[test]
fn criu_writes_a_container_down_and_brings_it_back() {
    let Some(scripts) = peers() else {
        assert!(is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
        return;
    };
    let bundle = Bundle::script(COUNTING, |config| {
        config["root"]["readonly"] = json!(false);
        config["linux"]["resources"]["pids"] = json!({"limit": 44});
    });
    let file = |name: &str| fs::read_to_string(format!("{}/rootfs/{name}", bundle.folder)).unwrap_or_default();
    let count = || file("count").trim().parse::<u64>().unwrap_or_default();
    let path = format!("{}:{}", scripts.display(), std::env::var("PATH").expect("PATH"));
    let run = |words: &[&str]| {
        let mut command = bundle.command(words);
        command.env("PATH", &path).stdout(Stdio::null()).stderr(Stdio::piped());
        Run::new(words, command.output().expect("runc")).expect(0)
    };
    let id = bundle.id("criu-real");
    let images = bundle.hull.make_folder("images");
    let pid = bundle.start_detached(&id);
    wait_for("its counting", || (count() > 3).then_some(()));

    run(&["checkpoint", "--image-path", &images, "--leave-running", &id]);
    let counted = count();
    wait_for("it to count on", || (count() > counted).then_some(()));
    run(&["checkpoint", "--image-path", &images, &id]);
    bundle.run(&["state", &id]).expect(1);
    assert!(!PathBuf::from(format!("/proc/{pid}/root/count")).exists(), "it is gone");
    let counted = count();

    let log = bundle.hull.file("restore.log");
    let mut restore =
        bundle.command(&["restore", "--detach", "--bundle", &bundle.folder, "--image-path", &images, &id]);
    restore.env("PATH", &path).stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a log"));
    assert!(restore.status().expect("runc").success(), "{}", fs::read_to_string(&log).expect("the log"));
    wait_for("it to count on", || (count() > counted).then_some(()));
    assert_eq!(file("begun"), "begun\n", "it goes on where it was");
    assert_eq!(bundle.status(&id), "running");
    let inside = bundle.run(&["exec", &id, "cat", "/proc/1/cmdline"]).expect(0);
    assert!(inside.stdout.contains("echo begun"), "{inside:#?}");
    assert_eq!(cgroup_value(&id, "pids.max"), "44");
    bundle.run(&["delete", "--force", &id]).expect(0);
}
