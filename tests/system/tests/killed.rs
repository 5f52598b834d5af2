//! Commands of the OCI runtime killed in the middle: whatever they leave, `state` tells the truth of it and
//! `delete --force` removes it whole.
//!
//! On the machine strace (unpacked, never installed) kills the command as it enters its n-th call of each system call
//! that has an effect, for every n that one whole run has: SIGKILL at a syscall entry keeps that call from being made, so
//! the points lie before, between and after all effects. In the virtual machine, which has no strace, the command is
//! killed after growing parts of the time that a whole one takes.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::bundle::Bundle;
use system_tests::{Run, leftovers, peers};

/// System calls that only look, or only concern the memory of the process that makes them.
const WITHOUT_EFFECT: [&str; 34] = [
    "access",
    "arch_prctl",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "execve",
    "fcntl",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getrandom",
    "gettid",
    "getuid",
    "ioctl",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "poll",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "statx",
];
/// The same by their beginnings.
const WITHOUT_EFFECT_BEGINNINGS: [&str; 4] = ["rt_sig", "set_", "sched_get", "sigaltstack"];
/// At how many moments a command is killed where there is no strace.
const MOMENTS: u32 = 24;

/// When a command is killed.
#[derive(Debug)]
enum Cut {
    /// As it enters this call of a system call.
    At(String, usize),
    /// After this time.
    After(Duration),
}

/// The moments at which to kill a command whose whole run `words` is.
fn cuts(bundle: &Bundle, words: &[&str]) -> Vec<Cut> {
    if strace(bundle).is_none() {
        let began = Instant::now();
        quiet(bundle.command(words));
        let whole = began.elapsed();
        return (0..MOMENTS).map(|moment| Cut::After(whole * moment / MOMENTS)).collect();
    }
    let log = bundle.hull.file("strace");
    quiet(traced(bundle, &["-o", &log], words));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for line in fs::read_to_string(&log).expect("strace's log").lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        let looks = WITHOUT_EFFECT.contains(&name)
            || WITHOUT_EFFECT_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
        if !looks && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let count = counts.entry(name.to_owned()).or_default();
            *count += 1;
            found.push(Cut::At(name.to_owned(), *count));
        }
    }
    found
}

fn strace(bundle: &Bundle) -> Option<Command> {
    let strace = peers()?.join("strace");
    let mut command = Command::new(strace);
    command.current_dir(bundle.hull.files());
    Some(command)
}

/// The runtime under strace.
fn traced(bundle: &Bundle, options: &[&str], words: &[&str]) -> Command {
    let mut command = strace(bundle).expect("strace among the peers");
    command.arg("-qq").args(options).arg(&bundle.runc).arg("--root").arg(bundle.hull.files().join("runc-state"));
    command.args(words);
    command
}

/// To its end, with streams that nobody reads; a created container keeps them.
fn quiet(mut command: Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("a command").success()
}

/// Runs a command and kills it.
fn run_cut(bundle: &Bundle, words: &[&str], cut: &Cut) {
    match cut {
        Cut::At(name, count) => {
            let inject = format!("inject={name}:signal=KILL:when={count}");
            let trace = format!("trace={name}");
            quiet(traced(bundle, &["-o", "/dev/null", "-e", &trace, "-e", &inject], words));
        }
        Cut::After(time) => {
            let mut command = bundle.command(words);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().expect("runc");
            std::thread::sleep(*time);
            child.kill().expect("killing it");
            child.wait().expect("its end");
        }
    }
}

/// What `state` says; nothing when there is no such container.
#[track_caller]
fn told(bundle: &Bundle, id: &str, cut: &Cut) -> Option<Value> {
    let run: Run = bundle.run(&["state", id]);
    if run.code == 0 {
        return Some(serde_json::from_str(&run.stdout).expect("JSON"));
    }
    assert!(run.stderr.contains("container does not exist"), "{cut:?}: {run:#?}");
    None
}

/// What is there of a container: its cgroups, its processes, its folder.
fn remains(bundle: &Bundle, id: &str) -> Vec<String> {
    let mut found: Vec<String> = leftovers::hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(id))
        .filter(|path| path.exists())
        .map(|path| format!("cgroup {}", path.display()))
        .collect();
    found.extend(leftovers::processes(&bundle.hull.files()));
    let folder = bundle.hull.files().join("runc-state").join(id);
    found.extend(folder.exists().then(|| format!("folder {}", folder.display())));
    found
}

/// `state` tells the truth, and `delete --force` leaves nothing.
#[track_caller]
fn settle(bundle: &Bundle, id: &str, cut: &Cut) -> String {
    let state = told(bundle, id, cut);
    let word = state.as_ref().map_or("missing", |state| state["status"].as_str().expect("a status")).to_owned();
    let pid = state.as_ref().and_then(|state| state["pid"].as_i64()).filter(|pid| *pid > 0);
    match word.as_str() {
        "created" | "running" => {
            let pid = pid.unwrap_or_else(|| panic!("{cut:?}: {word} without a process"));
            if !fs::exists(format!("/proc/{pid}")).expect("looking") {
                // A delete that was killed has killed it; it ended since, and then that is what is told.
                let now = told(bundle, id, cut).expect("its folder is there");
                assert_eq!(now["status"], "stopped", "{cut:?}: {word}, but {pid} is gone");
            }
        }
        "stopped" => assert_eq!(pid, None, "{cut:?}"),
        "missing" => {}
        other => panic!("{cut:?}: {other}"),
    }
    let run = bundle.run(&["delete", "--force", id]);
    assert_eq!(run.code, 0, "{cut:?}, {word}: {run:#?}");
    let left = leftovers::settled(|| remains(bundle, id));
    assert!(left.is_empty(), "{cut:?}, {word}: left {left:#?}");
    assert_eq!(told(bundle, id, cut), None, "{cut:?}");
    word
}

fn sleeper() -> Bundle {
    Bundle::script("exec sleep 1000", |_| {})
}

/// Kills a command at each of its moments, each time on what `prepare` has made, and returns how often each state was
/// found.
fn each(bundle: &Bundle, words: impl Fn(&str) -> Vec<String>, prepare: impl Fn(&str)) -> BTreeMap<String, usize> {
    let named = |id: &str| words(id);
    let whole = bundle.id("whole");
    prepare(&whole);
    let all = named(&whole);
    let cuts = cuts(bundle, &all.iter().map(String::as_str).collect::<Vec<_>>());
    settle(bundle, &whole, &Cut::After(Duration::ZERO));
    assert!(cuts.len() >= 10, "only {cuts:?}");
    let mut states = BTreeMap::new();
    for cut in &cuts {
        let id = bundle.id("cut");
        prepare(&id);
        let words = named(&id);
        run_cut(bundle, &words.iter().map(String::as_str).collect::<Vec<_>>(), cut);
        *states.entry(settle(bundle, &id, cut)).or_default() += 1;
    }
    println!("{} moments: {states:?}", cuts.len());
    states
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn created(bundle: &Bundle, id: &str) {
    bundle.create(id);
}

fn running(bundle: &Bundle, id: &str) {
    bundle.create(id);
    bundle.run(&["start", id]).expect(0);
}

#[test]
fn a_killed_create_leaves_what_can_be_deleted() {
    let bundle = sleeper();
    let states = each(&bundle, |id| owned(&["create", "--bundle", &bundle.folder, id]), |_| {});
    assert!(states.contains_key("missing"), "{states:?}");
}

#[test]
fn a_killed_start_leaves_a_container_that_is_created_or_runs() {
    let bundle = sleeper();
    let states = each(&bundle, |id| owned(&["start", id]), |id| created(&bundle, id));
    assert!(!states.contains_key("missing"), "{states:?}");
}

#[test]
fn a_killed_exec_leaves_the_container_running() {
    let bundle = sleeper();
    let exec = |id: &str| owned(&["exec", "--detach", id, "sleep", "1000"]);
    let states = each(&bundle, exec, |id| running(&bundle, id));
    assert_eq!(states.keys().collect::<Vec<_>>(), ["running"], "{states:?}");
}

#[test]
fn a_killed_delete_can_be_done_again() {
    let bundle = sleeper();
    let states = each(&bundle, |id| owned(&["delete", "--force", id]), |id| running(&bundle, id));
    assert!(states.contains_key("running") && states.contains_key("missing"), "{states:?}");
}

#[test]
fn a_create_whose_container_dies_at_once_removes_it_itself() {
    let bundle = sleeper();
    if strace(&bundle).is_none() {
        return;
    }
    for name in ["move_mount", "pivot_root"] {
        let (id, cut) = (bundle.id("child"), Cut::At(name.to_owned(), 1));
        let (inject, trace) = (format!("inject={name}:signal=KILL:when=1"), format!("trace={name}"));
        let words = ["create", "--bundle", &bundle.folder, &id];
        let went_well = quiet(traced(&bundle, &["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject], &words));
        assert!(!went_well, "{name}: it was created");
        assert_eq!(told(&bundle, &id, &cut), None, "{name}");
        let left = leftovers::settled(|| remains(&bundle, &id));
        assert!(left.is_empty(), "{name}: left {left:#?}");
    }
}
