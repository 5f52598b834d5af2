//! The OCI command line, flag by flag: what `runc` does with each of its commands, Hull under that name does too.
//!
//! What other programs give to the runtime (descriptors, sockets) is given here by a shell or by the test itself.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use system_tests::bundle::Bundle;
use system_tests::{Run, is_vm, wait_for};

/// A container that does nothing until it is told to end.
fn sleeper(change: impl FnOnce(&mut Value)) -> Bundle {
    Bundle::script("exec sleep 1000", change)
}

/// The runtime started by a shell that has done something to its own descriptors and environment.
fn through_shell(bundle: &Bundle, shell: &str, words: &[&str]) -> Run {
    let mut command = Command::new("sh");
    command.args(["-c", shell, &bundle.runc, "--root"]).arg(bundle.hull.files().join("runc-state")).args(words);
    Run::new(words, command.current_dir(bundle.hull.files()).stdin(Stdio::null()).output().expect("sh"))
}

/// The directories of a container's cgroup in all hierarchies.
fn cgroups(id: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        hierarchies.map(|hierarchy| hierarchy.join(id)).filter(|path| path.exists()).collect();
    found.extend([PathBuf::from("/sys/fs/cgroup").join(id)].into_iter().filter(|path| path.exists()));
    found
}

fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn descriptors_are_handed_to_the_program_and_to_nobody_else() {
    let bundle = Bundle::script("cat <&3; cat <&4; cat <&5 2>/dev/null; env | grep LISTEN; echo end", |_| {});
    for (name, text) in [("three", "first\n"), ("four", "second\n"), ("five", "third\n")] {
        bundle.hull.write(name, text);
    }
    let id = bundle.id("fds");
    let words = |flag| ["run", flag, "--bundle", &bundle.folder, &id];
    let open = "exec \"$0\" \"$@\" 3<three 4<four 5<five";
    let run = through_shell(&bundle, open, &words("--preserve-fds=2")).expect(0);
    assert_eq!(run.text(), "first\nsecond\nend");
    let listening = format!("LISTEN_PID=$$ LISTEN_FDS=1 {open}");
    let run = through_shell(&bundle, &listening, &words("--preserve-fds=1")).expect(0);
    assert_eq!(run.text(), "first\nsecond\nLISTEN_FDS=1\nLISTEN_PID=1\nend");
    let foreign = format!("LISTEN_PID=1 LISTEN_FDS=3 {open}");
    let run = through_shell(&bundle, &foreign, &words("--preserve-fds=1")).expect(0);
    assert_eq!(run.text(), "first\nend", "another process was meant");
    let run = through_shell(&bundle, open, &words("--preserve-fds=4")).expect(1);
    assert!(run.stderr.contains("unable to stat preserved-fd 3 (of 4)"), "{run:#?}");
}

#[test]
fn a_created_container_and_an_exec_keep_descriptors_too() {
    let bundle = Bundle::script("cat <&3; exec sleep 1000", |_| {});
    bundle.hull.write("three", "first\n");
    let id = bundle.id("fds-create");
    let output = bundle.hull.write("output", "");
    let shell = "exec \"$0\" \"$@\" 3<three >>output 2>&1";
    through_shell(&bundle, shell, &["create", "--preserve-fds", "1", "--bundle", &bundle.folder, &id]).expect(0);
    bundle.run(&["start", &id]).expect(0);
    wait_for("what it read", || (fs::read_to_string(&output).expect("output") == "first\n").then_some(()));
    let shell = "exec \"$0\" \"$@\" 3<three";
    let words = ["exec", "--preserve-fds", "1", &id, "sh", "-c", "cat <&3; ls /proc/self/fd"];
    let run = through_shell(&bundle, shell, &words).expect(0);
    // The last one is that of ls itself.
    assert_eq!(run.text(), "first\n0\n1\n2\n3\n4");
    bundle.delete(&id);
}

#[test]
fn a_container_tells_that_it_is_ready() {
    let bundle = Bundle::script("test -S \"$NOTIFY_SOCKET\" && exec sleep 1000", |_| {});
    let host = bundle.hull.file("host.sock");
    let manager = UnixDatagram::bind(&host).expect("a socket");
    let id = bundle.id("ready");
    let pid_file = bundle.hull.file("pid");
    let heard = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).expect("a word");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let socket = bundle.hull.files().join("runc-state").join(&id).join("notify/notify.sock");
    let tell = |text: &str| {
        let program = UnixDatagram::unbound().expect("a socket");
        wait_for("the container's socket", || program.send_to(text.as_bytes(), &socket).ok());
    };
    let spawn = |words: &[&str]| {
        let mut command = bundle.command(words);
        command.env("NOTIFY_SOCKET", &host).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runc")
    };
    let words = ["create", "--bundle", &bundle.folder, "--pid-file", &pid_file, &id];
    assert!(spawn(&words).wait().expect("runc").success());
    let pid = fs::read_to_string(&pid_file).expect("the pid file");
    let mut start = spawn(&["start", &id]);
    tell("STATUS=getting there");
    tell("STATUS=there\nREADY=1\n");
    assert_eq!(
        (heard(), heard(), heard()),
        ("READY=1\n".to_owned(), format!("MAINPID={pid}\n"), "BARRIER=1".to_owned())
    );
    assert!(start.wait().expect("runc").success());
    assert_eq!(bundle.status(&id), "running");
    bundle.delete(&id);

    let mut run = spawn(&["run", "--bundle", &bundle.folder, &id]);
    tell("READY=1");
    assert_eq!((heard(), heard()), ("READY=1\n".to_owned(), format!("MAINPID={}\n", run.id())), "run stays and waits");
    bundle.run(&["kill", &id, "KILL"]).expect(0);
    assert_eq!(run.wait().expect("runc").code(), Some(137));

    let mut start = spawn(&["run", "--detach", "--bundle", &bundle.folder, &id]);
    wait_for("its start", || (bundle.run(&["state", &id]).code == 0).then_some(()));
    bundle.run(&["kill", &id, "KILL"]).expect(0);
    assert!(start.wait().expect("runc").success(), "its end ends the waiting");
    bundle.delete(&id);
}

#[test]
fn an_exec_has_the_rights_that_it_is_given_and_no_others() {
    let bundle = sleeper(|config| config["process"]["capabilities"]["inheritable"] = json!([]));
    let id = bundle.id("exec");
    bundle.start_detached(&id);
    let status = |flags: &[&str], key: &str| {
        let run = bundle.run(&[&["exec"], flags, &[&id, "cat", "/proc/self/status"]].concat()).expect(0);
        let mut lines = run.stdout.lines().map(str::to_owned);
        lines.find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned())).expect(key)
    };
    let kept = u64::from_str_radix(&status(&[], "CapEff:"), 16).expect("hexadecimal");
    let chown = 1;
    assert_eq!(kept & chown, 0);
    for (key, expected) in [("CapBnd:", kept | chown), ("CapEff:", kept | chown), ("CapInh:", 0), ("CapAmb:", 0)] {
        let found = u64::from_str_radix(&status(&["--cap", "CAP_CHOWN"], key), 16).expect("hexadecimal");
        assert_eq!(found, expected, "{key} (CVE-2022-29162)");
    }
    assert_eq!(status(&[], "NoNewPrivs:"), "1", "as the container has it");
    assert_eq!(status(&["--no-new-privs=false"], "NoNewPrivs:"), "0");
    assert_eq!(status(&["--user", "5:7", "-g", "9"], "Uid:"), "5\t5\t5\t5");
    assert_eq!(status(&["--user", "5:7", "-g", "9"], "Groups:"), "9");
    for flag in ["--apparmor", "--process-label"] {
        // No machine has a profile of that name; one without labels says that.
        let run = bundle.run(&["exec", flag, "no-such-label", &id, "true"]).expect(255);
        assert!(run.stderr.contains("labelling the process") || run.stderr.contains("process."), "{run:#?}");
    }
    bundle.delete(&id);
}

#[test]
fn an_exec_goes_to_a_cgroup_below_the_containers() {
    let bundle = sleeper(|_| {});
    let id = bundle.id("sub");
    bundle.start_detached(&id);
    let place = |flags: &[&str]| bundle.run(&[&["exec"], flags, &[&id, "cat", "/proc/self/cgroup"]].concat());
    let run = place(&["--cgroup", "inner"]).expect(255);
    assert!(run.stderr.contains("exec failed: ") && run.stderr.contains("no such file or directory"), "{run:#?}");
    for cgroup in cgroups(&id) {
        fs::create_dir(cgroup.join("inner")).expect("a cgroup");
        // A cpuset of v1 that holds nothing can hold no process.
        if !cgroup.starts_with("/sys/fs/cgroup/cpuset") {
            continue;
        }
        for file in ["cpuset.cpus", "cpuset.mems"].map(|file| (cgroup.join(file), cgroup.join("inner").join(file))) {
            if let Ok(list) = fs::read_to_string(&file.0) {
                fs::write(&file.1, list).expect("a cpuset");
            }
        }
    }
    let lines = place(&["--cgroup", "/inner"]).expect(0).stdout;
    assert!(lines.lines().all(|line| line.ends_with("/inner")), "{lines}");
    let refused = |flags: &[&str]| place(flags).expect(255).stderr;
    assert!(refused(&["--cgroup", "../other"]).contains("not a sub cgroup path"));
    assert!(refused(&["--cgroup", "a", "--cgroup", "b"]).contains("missing <controller>: prefix"));
    assert!(refused(&["--cgroup", "bogus:inner"]).contains("unknown controller"));
    if lines.lines().count() > 1 {
        let lines = place(&["--cgroup", "memory:inner"]).expect(0).stdout;
        for line in lines.lines() {
            assert_eq!(line.contains(":memory:"), line.ends_with("/inner"), "{lines}");
        }
    }
    bundle.delete(&id);
}

#[test]
fn a_pidfd_goes_to_whoever_listens() {
    let bundle = sleeper(|_| {});
    let id = bundle.id("pidfd");
    bundle.start_detached(&id);
    let path = bundle.hull.file("pidfd.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    bundle.run(&["exec", "--pidfd-socket", &path, &id, "true"]).expect(0);
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("a name");
    assert_eq!(text, "pidfd");
    bundle.delete(&id);
}

#[test]
fn a_create_that_was_cut_off_is_removed_whole() {
    let bundle = sleeper(|_| {});
    let id = bundle.id("cut");
    let pid = bundle.create(&id);
    let folder = bundle.hull.files().join("runc-state").join(&id);
    // Killed here, a create has made all but this.
    fs::remove_file(folder.join("state.json")).expect("state.json");
    let run = bundle.run(&["state", &id]).expect(1);
    assert!(run.stderr.contains("container does not exist"), "{run:#?}");
    bundle.run(&["delete", &id]).expect(1);
    assert!(is_alive(pid) && !cgroups(&id).is_empty());
    bundle.delete(&id);
    wait_for("the end of its process", || (!is_alive(pid)).then_some(()));
    assert!(cgroups(&id).is_empty() && !folder.exists());
    bundle.delete(&id);
}

#[test]
fn a_damaged_record_is_one_clear_error() {
    let bundle = sleeper(|_| {});
    let id = bundle.id("damaged");
    bundle.start_detached(&id);
    let path = bundle.hull.files().join("runc-state").join(&id).join("state.json");
    let whole = fs::read(&path).expect("state.json");
    for damaged in ["", "{", "[]", "{\"version\":2}"] {
        fs::write(&path, damaged).expect("state.json");
        for words in [&["state"][..], &["start"], &["kill"], &["delete"], &["delete", "--force"], &["pause"], &["ps"]] {
            let run = bundle.run(&[words, &[&id]].concat()).expect(1);
            assert_eq!(run.stderr.lines().count(), 1, "{run:#?}");
            assert!(run.stderr.contains("state.json is not valid"), "{run:#?}");
        }
    }
    fs::write(&path, whole).expect("state.json");
    bundle.delete(&id);
}

#[test]
fn kill_reaches_all_processes_where_it_must() {
    let script = "sleep 1000 & sleep 1000 & exec sleep 1000";
    let count = |bundle: &Bundle, id: &str| -> usize {
        let run = bundle.run(&["ps", "--format", "json", id]).expect(0);
        serde_json::from_str::<Option<Vec<i32>>>(&run.stdout).expect("JSON").unwrap_or_default().len()
    };
    // Without a pid namespace of its own, the end of one process is not the end of the others.
    let shared = Bundle::script(script, |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    let id = shared.id("shared");
    shared.start_detached(&id);
    wait_for("three processes", || (count(&shared, &id) == 3).then_some(()));
    shared.run(&["kill", &id, "KILL"]).expect(0);
    wait_for("no process", || (count(&shared, &id) == 0).then_some(()));
    shared.delete(&id);

    let own = Bundle::script("trap 'exit 3' TERM; sleep 1000 & sleep 1000 & wait; wait", |_| {});
    let id = own.id("own");
    own.start_detached(&id);
    wait_for("three processes", || (count(&own, &id) == 3).then_some(()));
    own.run(&["kill", "--all", &id, "0"]).expect(0);
    assert_eq!(count(&own, &id), 3);
    own.run(&["kill", "--all", &id, "TERM"]).expect(0);
    wait_for("no process", || (count(&own, &id) == 0).then_some(()));
    own.run(&["kill", "--all", &id, "KILL"]).expect(0);
    let run = own.run(&["kill", &id, "KILL"]).expect(1);
    assert!(run.stderr.contains("container not running"), "{run:#?}");
    own.delete(&id);
}

#[test]
fn ps_shows_the_machines_lines_about_the_container() {
    let bundle = sleeper(|_| {});
    let id = bundle.id("ps");
    let pid = bundle.start_detached(&id);
    // Its streams must not be those that the test reads to their end.
    bundle.run(&["exec", "--detach", &id, "sh", "-c", "exec sleep 2000 >/dev/null 2>&1"]).expect(0);
    wait_for("its program", || (bundle.run(&["ps", &id]).stdout.contains("sleep 2000")).then_some(()));
    let run = bundle.run(&["ps", &id]).expect(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines[0].contains("PID"), "{run:#?}");
    assert_eq!(lines.len(), 3, "{run:#?}");
    assert!(lines[1].contains("sleep 1000") && lines[2].contains("sleep 2000"), "{run:#?}");
    // busybox, which is what the virtual machine has, shows all processes anyway and knows no -e.
    let all = if is_vm() { "-o" } else { "-eo" };
    let run = bundle.run(&["ps", &id, all, "pid,args"]).expect(0);
    let line = run.stdout.lines().nth(1).expect("a line");
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), [&pid.to_string(), "sleep", "1000"]);
    let run = bundle.run(&["ps", &id, all, "args"]).expect(1);
    assert!(run.stderr.contains("couldn't find PID field in ps output"), "{run:#?}");
    bundle.delete(&id);
}

#[test]
fn failures_are_told_in_the_log_that_was_asked_for() {
    let bundle = Bundle::script("true", |config| config["process"]["args"] = json!(["nope"]));
    let id = bundle.id("log");
    let log = bundle.hull.file("log");
    let said = "runc run failed: unable to start container process: exec: \"nope\": executable file not found in $PATH";
    let run = bundle.run(&["--log", &log, "--log-format", "json", "run", "--bundle", &bundle.folder, &id]).expect(1);
    assert_eq!(run.stderr, format!("{said}\n"));
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).expect("the log")).expect("one line of JSON");
    assert_eq!((line["level"].as_str(), line["msg"].as_str()), (Some("error"), Some(said)));
    assert!(line["time"].is_string(), "{line}");
    let run = bundle.run(&["run", "--bundle", &bundle.folder, &id]).expect(1);
    let (time, message) = run.stderr.split_once(' ').expect("fields");
    assert!(time.starts_with("time=\"") && time.ends_with("Z\""), "{run:#?}");
    assert_eq!(message, format!("level=error msg={said:?}\n"));
    fs::remove_file(&log).expect("the log");
    bundle.run(&["--log", &log, "state", &id]).expect(1);
    assert!(fs::read_to_string(&log).expect("the log").ends_with(" level=error msg=\"container does not exist\"\n"));
    bundle.run(&["exec", &id, "true"]).expect(255);
    bundle.run(&["bogus"]).expect(3);
    fs::remove_file(&log).expect("the log");
    bundle.run(&["--log", &log, "--log-format=json", "state", "--bogus", &id]).expect(1);
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).expect("the log")).expect("one line of JSON");
    assert!(line["msg"].as_str().is_some_and(|text| text.contains("--bogus")), "{line}");
}

/// The one line of a file of a container's cgroup, v1's or v2's.
fn limit(id: &str, controller: &str, legacy: &str, unified: &str) -> String {
    let place = format!("/sys/fs/cgroup/{controller}/{id}/{legacy}");
    let text = fs::read_to_string(&place).or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{id}/{unified}")));
    text.unwrap_or_else(|error| panic!("neither {place} nor {unified}: {error}")).trim().to_owned()
}

fn memory(id: &str) -> String {
    limit(id, "memory", "memory.limit_in_bytes", "memory.max")
}

#[test]
fn limits_are_changed_by_flags_and_by_a_document() {
    let bundle =
        sleeper(|config| config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20}));
    let id = bundle.id("update");
    bundle.start_detached(&id);
    let update = |flags: &[&str]| bundle.run(&[&["update"], flags, &[&id]].concat());
    let pids = || limit(&id, "pids", "pids.max", "pids.max");
    let weight = || limit(&id, "cpu", "cpu.shares", "cpu.weight");
    update(&["--pids-limit", "77", "--cpu-share", "2048", "--cpu-quota", "20000", "--cpu-period", "50000"]).expect(0);
    assert_eq!(pids(), "77");
    let quota = limit(&id, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "20000" || quota == "20000 50000", "{quota}");
    let heavier = weight();
    assert!(heavier == "2048" || heavier.parse::<u32>().is_ok_and(|weight| weight > 100), "{heavier}");
    // Up and down past the old memory+swap limit: the kernel wants another order each way.
    update(&["--memory", "128m", "--memory-swap", "256m"]).expect(0);
    assert_eq!(memory(&id), (128 << 20).to_string());
    update(&["--memory", "32m", "--memory-swap", "48m"]).expect(0);
    assert_eq!(memory(&id), (32 << 20).to_string());
    let document =
        bundle.hull.write("resources.json", &json!({"memory": {"limit": -1}, "pids": {"limit": -1}}).to_string());
    update(&["--resources", &document, "--pids-limit", "5"]).expect(0);
    let unlimited = memory(&id);
    assert!(unlimited == "max" || unlimited.parse::<u64>().is_ok_and(|bytes| bytes > 1 << 60), "{unlimited}");
    assert_eq!((pids(), weight()), ("max".to_owned(), heavier), "what the document does not name stays");
    let shell = "exec \"$0\" \"$@\" <input";
    bundle.hull.write("input", &json!({"pids": {"limit": 66}, "devices": [{"allow": false}]}).to_string());
    through_shell(&bundle, shell, &["update", "-r", "-", &id]).expect(0);
    assert_eq!(pids(), "66");
    bundle.run(&["exec", &id, "sh", "-c", "echo >/dev/null"]).expect(0);

    let run = update(&["--kernel-memory", "1g"]).expect(0);
    assert!(run.stderr.contains("level=warning msg=\"Setting --kernel-memory is ignored"), "{run:#?}");
    let refused = |flags: &[&str]| update(flags).expect(1).stderr;
    assert!(refused(&["--cpu-quota", "much"]).contains("invalid value for cpu-quota"));
    assert!(refused(&["--l3-cache-schema", "L3:0=f"]).contains("schema"));
    assert!(refused(&["--memory", "64m", "--memory-swap", "32m"]).contains("memory_swap_total"));
    assert_eq!(pids(), "66");
    bundle.run(&["kill", &id, "KILL"]).expect(0);
    wait_for("its end", || (bundle.status(&id) == "stopped").then_some(()));
    assert!(refused(&["--pids-limit", "5"]).contains("container not running"));
    bundle.delete(&id);
}

#[test]
fn a_memory_limit_below_what_is_used_is_not_set() {
    let script = "head -c 20971520 /dev/zero >/dev/shm/file; echo ready >&2; exec sleep 1000";
    let bundle = Bundle::script(script, |config| config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20}));
    let id = bundle.id("below");
    bundle.start_detached(&id);
    let document = |bytes: u64| {
        let document = json!({"memory": {"limit": bytes, "swap": bytes, "checkBeforeUpdate": true}});
        let path = bundle.hull.write("resources.json", &document.to_string());
        bundle.run(&["update", "-r", &path, &id])
    };
    let used = || -> u64 {
        let text = limit(&id, "memory", "memory.usage_in_bytes", "memory.current");
        text.parse().expect("a number")
    };
    wait_for("its file", || (used() > 20 << 20).then_some(()));
    if fs::read_to_string("/proc/swaps").expect("swaps").lines().count() == 1 {
        let run = document(4 << 20).expect(1);
        assert!(run.stderr.contains("memory"), "{run:#?}");
        assert_eq!(memory(&id), (64 << 20).to_string());
        assert_eq!(bundle.status(&id), "running");
    }
    document(48 << 20).expect(0);
    assert_eq!(memory(&id), (48 << 20).to_string());
    bundle.delete(&id);
}

#[test]
fn events_tell_of_use_and_of_memory_that_ran_out() {
    let bundle = sleeper(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 24 << 20, "swap": 24 << 20});
        config["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    let id = bundle.id("events");
    bundle.start_detached(&id);
    let run = bundle.run(&["events", "--stats", &id]).expect(0);
    let event: Value = serde_json::from_str(&run.stdout).expect("one line of JSON");
    assert_eq!((event["type"].as_str(), event["id"].as_str()), (Some("stats"), Some(id.as_str())));
    let data = &event["data"];
    assert_eq!((&data["pids"]["limit"], &data["memory"]["usage"]["limit"]), (&json!(50), &json!(24 << 20)), "{data}");
    let is_positive = |value: &Value| value.as_u64().is_some_and(|value| value > 0);
    assert!(is_positive(&data["cpu"]["usage"]["total"]) && is_positive(&data["memory"]["usage"]["usage"]), "{data}");
    assert!(is_positive(&data["pids"]["current"]) && data["memory"]["raw"].is_object(), "{data}");

    let lines = bundle.hull.file("lines");
    let mut command = bundle.command(&["events", "--interval", "20ms", &id]);
    let mut watching = command.stdout(fs::File::create(&lines).expect("a file")).spawn().expect("runc");
    let seen = |kind: &str| {
        wait_for(kind, || {
            let text = fs::read_to_string(&lines).expect("the lines");
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            let mut events = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            events.find(|event| event["type"] == kind)
        })
    };
    seen("stats");
    // Somebody in there is killed, and it is not the first process, which uses next to nothing.
    bundle.run(&["exec", &id, "sh", "-c", "head -c 100000000 /dev/zero | tail >/dev/null"]);
    assert_eq!(seen("oom"), json!({"type": "oom", "id": id}));
    assert_eq!(bundle.status(&id), "running");
    bundle.run(&["kill", &id, "KILL"]).expect(0);
    assert!(watching.wait().expect("runc").success(), "the lines end with the container");
    let run = bundle.run(&["events", "--stats", &id]).expect(1);
    assert!(run.stderr.contains("is not running"), "{run:#?}");
    let run = bundle.run(&["events", "--interval", "0s", &id]).expect(1);
    assert!(run.stderr.contains("duration interval must be greater than 0"), "{run:#?}");
    bundle.delete(&id);
}

/// A program called criu that writes down what it is told, and does the part of it that others see.
const STAND_IN: &str = r#"#!/bin/sh
here=$(dirname "$0")
for word; do echo "$word"; done > "$here/$1.words"
cat /proc/self/cgroup > "$here/$1.cgroup"
case $1 in
check)
    test ! -e "$here/unable" || { echo "Error (kerndat.c:1): no such kernel" >&2; exit 1; } ;;
dump)
    test ! -e "$here/broken" || { echo "(0.1) Error (dump.c:7): no luck" > "$7/dump.log"; exit 1; }
    case "$*" in *--leave-running*) ;; *) kill -9 "$3" ;; esac ;;
restore)
    ls "$3" > "$here/restore.root"
    sh -c 'test -e /dev/null && sleep 1000; exit 5' &
    echo $! > "$5" ;;
esac
"#;

/// A folder with the stand-in, and a PATH that begins with it.
fn criu(bundle: &Bundle) -> (PathBuf, String) {
    let folder = PathBuf::from(bundle.hull.make_folder("criu"));
    let program = bundle.hull.write("criu/criu", STAND_IN);
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a program");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").expect("PATH"));
    (folder, path)
}

#[test]
fn without_criu_it_says_so() {
    let bundle = sleeper(|_| {});
    let id = bundle.id("no-criu");
    bundle.start_detached(&id);
    for words in [&["checkpoint", &id][..], &["restore", "--bundle", &bundle.folder, "another"]] {
        let output = bundle.command(words).env("PATH", "/nowhere").output().expect("runc");
        let run = Run::new(words, output).expect(1);
        let said = "exec: \\\"criu\\\": executable file not found in $PATH";
        assert!(run.stderr.contains(said) && run.stderr.contains("criu(8)"), "{run:#?}");
    }
    assert_eq!(bundle.status(&id), "running");
    bundle.run(&["state", "another"]).expect(1);
    bundle.delete(&id);
    let created = bundle.id("not-running");
    bundle.create(&created);
    let run = bundle.run(&["checkpoint", &created]).expect(1);
    assert!(run.stderr.contains("Container cannot be checkpointed in created state"), "{run:#?}");
    bundle.delete(&created);
}

#[test]
fn criu_is_told_what_of_a_container_is_external() {
    let bundle = sleeper(|_| {});
    let outside = bundle.hull.write("outside", "");
    bundle.configure(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/etc/outside", "source": outside, "options": ["bind", "ro"]}));
        config["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/acpi"]);
    });
    let (folder, path) = criu(&bundle);
    let run = |words: &[&str]| Run::new(words, bundle.command(words).env("PATH", &path).output().expect("runc"));
    let words_of = |command: &str| fs::read_to_string(folder.join(format!("{command}.words"))).expect("its words");
    let id = bundle.id("criu");
    let pid = bundle.start_detached(&id);
    let images = bundle.hull.file("images");
    let common = ["--image-path", &images, "--file-locks", "--tcp-established", "--leave-running"];
    run(&[&["checkpoint"], &common[..], &[&id]].concat()).expect(0);
    assert!(is_alive(pid) && bundle.status(&id) == "running");
    let words = words_of("dump");
    let rootfs = format!("{}/rootfs", bundle.folder);
    let expected = format!(
        "dump\n--tree\n{pid}\n--root\n{rootfs}\n--images-dir\n{images}\n--log-file\ndump.log\n-v4\n--empty-ns\nnet\n\
         --manage-cgroups=soft\n--tcp-established\n--file-locks\n--leave-running\n\
         --external\nmnt[/etc/outside]:/etc/outside\n"
    );
    assert!(words.starts_with(&expected), "{words}\nis not\n{expected}");
    assert_eq!(words.contains("mnt[/proc/keys]:/dev/null"), fs::exists("/proc/keys").expect("looking"), "{words}");
    assert!(!words.contains("/proc/acpi"), "a masked folder is the container's own: {words}");
    assert!(words.contains("--freeze-cgroup\n/sys/fs/cgroup/") && words.contains(&id), "{words}");

    run(&["checkpoint", "--image-path", &images, "--pre-dump", &id]).expect(0);
    assert!(words_of("pre-dump").starts_with("pre-dump\n") && is_alive(pid));
    fs::write(folder.join("broken"), "").expect("a file");
    let failed = run(&["checkpoint", "--image-path", &images, &id]).expect(1);
    assert!(failed.stderr.contains("criu dump failed: (0.1) Error (dump.c:7): no luck (log file: "), "{failed:#?}");
    fs::write(folder.join("unable"), "").expect("a file");
    let failed = run(&["checkpoint", "--image-path", &images, &id]).expect(1);
    assert!(failed.stderr.contains("criu cannot run on this machine (criu check: Error (kerndat.c:1)"), "{failed:#?}");
    assert_eq!(bundle.status(&id), "running");
    fs::remove_file(folder.join("broken")).expect("a file");
    run(&["checkpoint", "--image-path", &images, &id]).expect(0);
    wait_for("the end of what was written away", || (!is_alive(pid)).then_some(()));
    bundle.run(&["state", &id]).expect(1);
    let names: Vec<String> =
        serde_json::from_slice(&fs::read(format!("{images}/descriptors.json")).expect("descriptors")).expect("JSON");
    assert_eq!(names, ["/dev/null"; 3]);
}

#[test]
fn a_restored_container_is_one_like_any_other() {
    let bundle = sleeper(|config| config["linux"]["resources"]["pids"] = json!({"limit": 44}));
    let (folder, path) = criu(&bundle);
    let images = bundle.hull.make_folder("images");
    fs::write(format!("{images}/descriptors.json"), r#"["/dev/null","pipe:[11]","pipe:[12]"]"#).expect("descriptors");
    let id = bundle.id("restored");
    let pid_file = bundle.hull.file("pid");
    let restore = |flags: &[&str]| {
        let common = ["restore", "--bundle", &bundle.folder, "--image-path", &images, "--pid-file", &pid_file];
        let mut command = bundle.command(&[&common[..], flags, &[&id]].concat());
        command.env("PATH", &path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runc")
    };
    assert!(restore(&["--detach", "--shell-job"]).wait().expect("runc").success());
    assert_eq!(bundle.status(&id), "running");
    let pid = fs::read_to_string(&pid_file).expect("the pid file");
    let words = fs::read_to_string(folder.join("restore.words")).expect("its words");
    let state = bundle.hull.files().join("runc-state").join(&id);
    let root = state.join("criu-root").display().to_string();
    let begins =
        format!("restore\n--root\n{root}\n--pidfile\n{}\n--restore-detached\n", state.join("criu.pid").display());
    assert!(words.starts_with(&begins), "{words}");
    for word in ["--restore-sibling", "--shell-job", "fd[1]:pipe:[11]", "fd[2]:pipe:[12]", "mnt[/dev/null]:/dev/null"] {
        assert!(words.lines().any(|line| line == word), "{word} is not in {words}");
    }
    assert!(!words.contains("fd[0]") && words.contains(&format!("--cgroup-root\n:/{id}\n")), "{words}");
    // criu had the root file system as a mount that nobody else saw, and ran in the container's cgroup.
    assert!(fs::read_to_string(folder.join("restore.root")).expect("the root").contains("bin"));
    assert!(!fs::read_to_string("/proc/self/mounts").expect("mounts").contains("criu-root"));
    let cgroup = fs::read_to_string(folder.join("restore.cgroup")).expect("its cgroup");
    assert!(cgroup.lines().all(|line| line.ends_with(&id)), "{cgroup}");
    assert_eq!(limit(&id, "pids", "pids.max", "pids.max"), "44");
    assert!(bundle.run(&["ps", "--format", "json", &id]).expect(0).stdout.contains(&pid));
    assert!(!restore(&["--detach"]).wait().expect("runc").success(), "the id is taken");
    bundle.run(&["kill", &id, "KILL"]).expect(0);
    wait_for("its end", || (bundle.status(&id) == "stopped").then_some(()));
    bundle.delete(&id);

    let mut foreground = restore(&[]);
    wait_for("its start", || (bundle.run(&["state", &id]).code == 0).then_some(()));
    bundle.run(&["kill", &id, "TERM"]).expect(0);
    assert_eq!(foreground.wait().expect("runc").code(), Some(128 + 15));
    bundle.run(&["state", &id]).expect(1);
    assert!(cgroups(&id).is_empty());

    fs::remove_file(format!("{images}/descriptors.json")).expect("descriptors");
    assert!(!restore(&["--detach"]).wait().expect("runc").success());
    assert!(cgroups(&id).is_empty() && !state.exists(), "a restore that fails leaves nothing");
}
