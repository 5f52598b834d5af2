//! Several Hulls on one machine, Hull as an OCI runtime, other runtimes under Hull, and the programs around it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;
use system_tests::terminal::Terminal;
use system_tests::{Bundle, Hull, is_vm, peers, wait_for};

#[test]
fn two_hulls_do_not_know_each_other() {
    let (one, two) = (Hull::with_busybox(), Hull::with_busybox());
    assert_ne!(one.roots().instance(), two.roots().instance());
    let first = one.background(&["--name", "same"], "exec sleep 1000");
    let second = two.background(&["--name", "same"], "exec sleep 1000");
    assert_eq!((one.containers(), two.containers()), (vec![first.clone()], vec![second.clone()]));
    two.refused(1, &["inspect", &first]);
    two.ok(&["rm", "-f", "same"]);
    assert_eq!(one.status("same"), "running");
    assert!(one.cgroup(&first, "pids").exists());
    assert_eq!(one.ok(&["exec", "same", "echo", "alive"]), "alive");
    let by_flags = one.roots();
    let words = [
        "--root",
        by_flags.root.to_str().expect("text"),
        "--state",
        by_flags.state.to_str().expect("text"),
        "ps",
        "-q",
    ];
    assert_eq!(two.ok(&words), first[..12], "flags go before the environment");
}

#[test]
fn as_runc_it_runs_a_bundle() {
    let bundle =
        Bundle::new(|config| config["process"]["args"] = json!(["sh", "-c", "echo $$ in $(hostname); exit 6"]));
    let id = bundle.id("run");
    let run = bundle.run(&["run", "--bundle", &bundle.folder, &id]).expect(6);
    assert!(run.stdout.starts_with("1 in "), "{run:#?}");
    bundle.run(&["state", &id]).expect(1);
}

#[test]
fn as_runc_it_creates_starts_kills_and_deletes() {
    let bundle = Bundle::new(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = bundle.id("life");
    let pid = bundle.create(&id);
    assert_eq!(bundle.status(&id), "created");
    bundle.run(&["start", &id]).expect(0);
    assert_eq!(bundle.status(&id), "running");
    let words = fs::read(format!("/proc/{pid}/cmdline")).expect("a process");
    assert!(words.starts_with(b"sleep\0"), "{words:?}");
    assert_ne!(bundle.run(&["start", &id]).code, 0);
    assert_ne!(bundle.run(&["delete", &id]).code, 0, "it runs");
    bundle.run(&["kill", &id, "KILL"]).expect(0);
    wait_for("its end", || (bundle.status(&id) == "stopped").then_some(()));
    bundle.run(&["delete", &id]).expect(0);
    bundle.run(&["state", &id]).expect(1);
}

/// A program that notes what it is told and passes it on to a runtime.
fn noting(hull: &Hull, runtime: &Path) -> String {
    let text = format!("#!/bin/sh\necho \"$*\" >> {}\nexec {} \"$@\"\n", hull.file("told"), runtime.display());
    let script = hull.write("noting", &text);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("making it executable");
    script
}

/// Debian's runc, where the peers are, and Hull by that name, in place of the built-in runtime.
#[test]
fn another_runtime_runs_a_container() {
    let hull = Hull::with_busybox();
    let own = hull.files().join("runc");
    symlink(system_tests::hull().expect("HULL_BIN"), &own).expect("a link");
    let peer = peers().map(|scripts| scripts.join("runc"));
    assert!(peer.is_some() || is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
    for runtime in peer.into_iter().chain([own]) {
        assert!(runtime.exists(), "no {}", runtime.display());
        run_by_another(&hull, &noting(&hull, &runtime));
    }
}

fn run_by_another(hull: &Hull, runtime: &str) {
    let flags = ["--runtime", runtime, "-e", "ONE=1", "-m", "64m"];
    hull.sh(&flags, "exit 7").expect(7);
    assert_eq!(hull.inside(&flags, "echo $$ $ONE"), "1 1");
    for (command, code) in [("nope", 127), ("/etc/passwd", 126)] {
        let said = hull.refused(code, &["run", "--rm", "--runtime", runtime, "busybox", command]);
        assert!(said.contains(command), "{said}");
    }
    let id = hull.background(&flags, "trap 'exit 4' TERM; echo ready; while :; do sleep 0.02; done");
    hull.logged(&id, "ready");
    fs::write(hull.file("told"), "").expect("forgetting what it was told");
    assert_eq!(
        hull.ok(&["exec", "-e", "TWO=2", &id, "sh", "-c", "echo $ONE $TWO; hostname"]),
        format!("1 2\n{}", &id[..12])
    );
    let told = fs::read_to_string(hull.file("told")).expect("what it was told");
    assert!(told.contains(" exec --detach ") && told.ends_with(&format!(" {id}\n")), "{told}");
    assert_eq!(
        hull.ok(&["exec", "-u", "user:staff", "-w", "/tmp", &id, "sh", "-c", "id -u; id -g; pwd"]),
        "1000\n50\n/tmp"
    );
    let fed = hull.fed(b"a word", &["exec", "-i", &id, "cat"]);
    assert_eq!((fed.stdout.as_slice(), fed.status.code()), (&b"a word"[..], Some(0)));
    assert_eq!(hull.run(&["exec", &id, "sh", "-c", "exit 9"]).code, 9);
    hull.refused(127, &["exec", &id, "nope"]);
    hull.refused(126, &["exec", &id, "/etc/passwd"]);
    hull.ok(&["stop", &id]);
    assert_eq!(hull.ok(&["wait", &id]), "4");
    hull.ok(&["rm", &id]);
}

#[test]
fn another_runtime_makes_a_terminal() {
    let hull = Hull::with_busybox();
    let own = hull.files().join("runc");
    symlink(system_tests::hull().expect("HULL_BIN"), &own).expect("a link");
    for runtime in peers().map(|scripts| scripts.join("runc")).into_iter().chain([own]) {
        let runtime = runtime.display().to_string();
        let flags = ["run", "--rm", "-it", "--name", "box", "--runtime", &runtime, "busybox", "sh"];
        let mut terminal = Terminal::start(&hull, &flags);
        terminal.shown("# ");
        terminal.type_in("tty; test -t 0 -a -t 1 && echo yes$((1+1)); ls /dev/console\n");
        terminal.shown("/dev/pts/0\r\nyes2\r\n/dev/console\r\n");
        terminal.resize(50, 132);
        terminal.type_in("while test \"$(stty size)\" != '50 132'; do sleep 0.02; done; echo resized$((1+1))\n");
        terminal.shown("resized2");
        let mut added = Terminal::start(&hull, &["exec", "-it", "box", "sh"]);
        added.shown("# ");
        added.type_in("tty; exit 5\n");
        added.shown("/dev/pts/1\r\n");
        assert_eq!(added.code(), 5);
        terminal.type_in("exit 3\n");
        assert_eq!(terminal.code(), 3);
    }
}

#[test]
fn completions_and_man_pages_are_made() {
    let hull = Hull::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = hull.ok(&["completion", shell]);
        assert!(script.contains("hull") && script.contains("--read-only") | script.contains("read-only"), "{shell}");
    }
    hull.refused(1, &["completion"]);
    let folder = hull.file("man");
    hull.ok(&["man", &folder]);
    let pages: Vec<String> = fs::read_dir(&folder)
        .expect("the folder")
        .map(|page| page.expect("a page").file_name().to_string_lossy().into_owned())
        .collect();
    for page in ["hull.1", "hull-run.1", "hull-ps.1"] {
        assert!(pages.iter().any(|name| name == page), "no {page} in {pages:?}");
    }
    let text = fs::read_to_string(format!("{folder}/hull-run.1")).expect("a page");
    assert!(text.contains(".TH") && text.contains("read"), "{text}");
}

#[test]
fn help_tells_of_every_command_and_of_host() {
    let hull = Hull::new();
    let all = hull.ok(&["--help"]);
    for word in [
        "run",
        "create",
        "start",
        "stop",
        "restart",
        "pause",
        "unpause",
        "kill",
        "rm",
        "ps",
        "logs",
        "exec",
        "attach",
        "cp",
        "inspect",
        "wait",
        "pull",
        "images",
        "rmi",
        "import",
        "load",
        "tag",
        "completion",
        "man",
    ] {
        assert!(all.lines().any(|line| line.trim_start().starts_with(&format!("{word} "))), "no {word} in\n{all}");
        hull.ok(&[word, "--help"]);
    }
    assert!(hull.ok(&["run", "--help"]).contains("may read"), "host's reach is said plainly");
    assert!(hull.ok(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
    assert!(hull.ok(&["version"]).contains(env!("CARGO_PKG_VERSION")));
}
