//! Looking into a process that joins a container, and descriptors of the host that reach one.
//!
//! A process that the runtime adds is seen by those that are there already before it executes the container's program.
//! Hull's is not dumpable until then (`init::hide`), so the kernel refuses ptrace(2) and everything that asks for the
//! same right, and all of its descriptors but its streams are closed before a path of the container is used.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;
use system_tests::bundle::Bundle;
use system_tests::{Run, wait_for};

use super::{SECRET, host_folder, in_root, writable};

/// Looks at every process of the runtime that it sees, and says what it could reach.
const LOOK: &str = r#"
while [ ! -e /look ]; do sleep 0.01; done
for p in /proc/[0-9]*; do
  read comm < $p/comm
  case $comm in runc|hull*)
    echo "looked at $comm"
    ls -l $p/fd/ 2>&1 | grep -q -e '->' && echo reached fd
    ls $p/root/ > /dev/null 2>&1 && echo reached root
    ls $p/cwd/ > /dev/null 2>&1 && echo reached cwd
    readlink $p/exe > /dev/null && echo reached exe
    head -c 1 $p/environ > /dev/null 2>&1 && echo reached environ
    head -c 1 $p/maps 2>/dev/null | grep -q . && echo reached maps
    readlink $p/ns/mnt > /dev/null && echo reached ns
    dd if=$p/mem of=/dev/null bs=1 count=1 skip=4194304 2>/dev/null && echo reached mem
  esac
done > /seen.new
mv /seen.new /seen
exec sleep 1000
"#;

/// CVE-2016-9962: the first process of a container traces one that joins, and takes its descriptors over.
///
/// A hook in the container keeps the joining process, which has the container's rights by then, for as long as the
/// attack takes. The two containers share a pid namespace, as those of a pod do.
///
/// Seen to succeed with `init::hide` doing nothing.
#[test]
fn a_joining_process_cannot_be_looked_into() {
    let attacker = Bundle::script(LOOK, writable);
    let id = attacker.id("look");
    let pid = attacker.start_detached(&id);
    let joining = Bundle::script("true", |config| {
        writable(config);
        config["linux"]["namespaces"][0] = json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")});
        let wait = "touch /hooked; while [ ! -e /go ]; do sleep 0.01; done";
        config["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", wait]}]});
    });
    let words = ["run", "--bundle", &joining.folder, &joining.id("joining")];
    let mut child = joining.command(&words).stdout(Stdio::null()).spawn().expect("runc");
    wait_for("the joining process", || fs::exists(in_root(&joining, "hooked")).ok().filter(|it| *it));
    fs::write(in_root(&attacker, "look"), "").expect("a signal");
    let seen = wait_for("the attacker's look", || fs::read_to_string(in_root(&attacker, "seen")).ok());
    fs::write(in_root(&joining, "go"), "").expect("a signal");
    assert!(child.wait().expect("the end of runc").success());
    attacker.delete(&id);
    assert!(seen.contains("looked at runc"), "{seen}");
    assert!(!seen.contains("reached"), "{seen}");
}

/// CVE-2016-9962 again, by `exec`: while processes are added, a process of the container lists what descriptors it can
/// see of all of them, again and again. None is ever of the host.
///
/// Seen to succeed with `close_inherited` closing nothing.
#[test]
fn no_descriptor_of_the_host_is_ever_seen() {
    const ROUNDS: usize = 10;
    let script = "while :; do for p in /proc/[0-9]*; do ls -l $p/fd/ 2>/dev/null; done | grep -e '->' >> /links; \
                  touch /ready; done";
    let bundle = Bundle::script(script, writable);
    let host = host_folder(&bundle);
    let id = bundle.id("fds");
    bundle.start_detached(&id);
    wait_for("the listing", || fs::exists(in_root(&bundle, "ready")).ok().filter(|it| *it));
    for _ in 0..ROUNDS {
        leaking(&bundle, &host, &["exec", &id, "sleep", "0.1"]).expect(0);
    }
    bundle.delete(&id);
    let links = fs::read_to_string(in_root(&bundle, "links")).expect("links");
    let targets: Vec<&str> = links.lines().filter_map(|line| line.split(" -> ").nth(1)).collect();
    let own = |target: &str| {
        target.starts_with("pipe:") || target.starts_with("/proc/") || ["/dev/null", "/links"].contains(&target)
    };
    assert!(!targets.is_empty() && targets.iter().all(|target| own(target)), "{links}");
}

/// Runs the runtime with descriptors 7 and 9 open on a folder, as a careless shim does.
#[track_caller]
fn leaking(bundle: &Bundle, folder: &str, words: &[&str]) -> Run {
    let plain = bundle.command(words);
    let mut command = Command::new("sh");
    command.args(["-c", r#"folder=$1; shift; exec "$@" 7<"$folder" 9<"$folder""#, "sh", folder]);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(bundle.hull.files()).stdin(Stdio::null());
    Run::new(words, command.output().expect("sh"))
}

/// CVE-2024-21626, first part: the runtime has descriptors of the host's folders, and `/proc/self/fd/N` as the working
/// directory leads through one of them to the host's files.
///
/// Hull closes everything before it enters the directory, makes it only where no magic link leads, and then asks where
/// it is. The folder here is left open by whoever calls the runtime.
///
/// Seen to succeed, the descriptors being in the program's sight, with `close_inherited` closing nothing; what follows
/// from that is in the second part.
#[test]
fn the_working_directory_does_not_lead_out() {
    let bundle = Bundle::script("for up in . .. ../.. ../../..; do cat $up/secret; done; ls -l /proc/self/fd/", |_| {});
    let host = host_folder(&bundle);
    fs::create_dir_all(format!("{host}/a/b")).expect("folders");
    let run = leaking(&bundle, &format!("{host}/a/b"), &["run", "--bundle", &bundle.folder, &bundle.id("leak")]);
    assert!(run.stdout.contains("total") && !run.stdout.contains("host"), "{run:#?}");
    for number in 3..30 {
        let cwd = format!("/proc/self/fd/{number}");
        bundle.configure(|config| config["process"]["cwd"] = json!(cwd));
        let run = leaking(&bundle, &format!("{host}/a/b"), &["run", "--bundle", &bundle.folder, &bundle.id("leak")]);
        assert!(run.code != 0 && !run.stdout.contains(SECRET), "{cwd}: {run:#?}");
    }
}

/// CVE-2024-21626, second part: the same by `exec`, its path a link that the container has made, and the program
/// itself at the end of a path through a descriptor.
///
/// Seen to succeed with `close_inherited` closing nothing and `enter` not asking where it is.
#[test]
fn the_working_directory_of_an_exec_does_not_lead_out() {
    let links = "for n in $(seq 3 40); do ln -s /proc/self/fd/$n /$n; done; touch /ready; exec sleep 1000";
    let bundle = Bundle::script(links, writable);
    let host = host_folder(&bundle);
    let id = bundle.id("leak");
    bundle.start_detached(&id);
    wait_for("the links", || fs::exists(in_root(&bundle, "ready")).ok().filter(|it| *it));
    for number in 3..40 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/{number}")] {
            let run = leaking(&bundle, &host, &["exec", "--cwd", &cwd, &id, "cat", "secret", "../secret"]);
            assert!(run.code != 0 && !run.stdout.contains(SECRET), "{cwd}: {run:#?}");
        }
    }
    let program = "/proc/self/fd/7/../../../../../../../../../../bin/ls";
    let run = leaking(&bundle, &host, &["exec", &id, program, "-l", "/proc/self/fd/"]);
    assert!(run.code != 0, "{run:#?}");
    let run = leaking(&bundle, &host, &["exec", &id, "ls", "-l", "/proc/self/fd/"]).expect(0);
    assert!(!run.stdout.contains("host"), "{run:#?}");
    bundle.delete(&id);
}
