//! Several Hulls on one machine, Hull as an OCI runtime, other runtimes under Hull, and the programs around it.

use std::fs;

use serde_json::json;
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

/// Only where the peers are: Debian's runc in place of the built-in runtime.
#[test]
fn another_runtime_runs_a_container() {
    let Some(scripts) = peers() else {
        assert!(is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
        return;
    };
    let hull = Hull::with_busybox();
    let runc = scripts.join("runc").display().to_string();
    assert!(fs::exists(&runc).expect("looking"), "no {runc}");
    let flags = ["--runtime", &runc, "-e", "ONE=1", "-m", "64m"];
    hull.sh(&flags, "exit 7").expect(7);
    assert_eq!(hull.inside(&flags, "echo $$ $ONE"), "1 1");
    let id = hull.background(&flags, "trap 'exit 4' TERM; echo ready; while :; do sleep 0.02; done");
    hull.logged(&id, "ready");
    assert_eq!(hull.ok(&["exec", &id, "echo", "inside"]), "inside");
    hull.ok(&["stop", &id]);
    assert_eq!(hull.ok(&["wait", &id]), "4");
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
