//! The life of containers: create, start, stop, restart, pause, kill, remove, list, wait, and how they are named.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use system_tests::{Hull, wait_for};

#[test]
fn a_container_goes_from_created_to_running_to_exited_and_back_fallback() {
    let hull = Hull::with_busybox();
    let id = hull.ok(&["create", "--name", "one", "busybox", "sleep", "1000"]);
    assert_eq!((id.len(), hull.status("one").as_str()), (64, "created"));
    assert_eq!(hull.ok(&["ps", "-q"]), "");
    assert_eq!(hull.ok(&["start", "one"]), "one");
    assert_eq!(hull.status("one"), "running");
    assert_eq!(hull.ok(&["ps", "-q"]), id[..12]);
    let first = hull.pid("one");
    assert!(Path::new(&format!("/proc/{first}")).exists());
    assert_eq!(hull.ok(&["start", "one"]), "one", "starting what runs is no failure");
    assert_eq!(hull.pid("one"), first);
    hull.ok(&["restart", "-t", "0", "one"]);
    assert_ne!(hull.pid("one"), first);
    hull.ok(&["stop", "-t", "0", "one"]);
    let state = &hull.inspect("one")["State"];
    assert_eq!((state["Status"].as_str(), state["ExitCode"].as_i64()), (Some("exited"), Some(137)), "{state}");
    assert_eq!(hull.ok(&["stop", "one"]), "one", "stopping what does not run is no failure");
    hull.ok(&["rm", "one"]);
    hull.refused(1, &["inspect", "one"]);
}

#[test]
fn a_container_in_the_background_outlives_its_command() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "exec sleep 1000");
    let state = fs::read_to_string(hull.roots().runtime_state(&id).join("state.json")).expect("its state");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    let supervisor = state["supervisor_pid"].as_i64().expect("a supervisor");
    let stat = |pid: i64| fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields = |pid: i64| -> Vec<i64> {
        let stat = stat(pid);
        let rest = stat.rsplit(") ").next().expect("fields").split(' ').skip(1);
        rest.take(3).map(|field| field.parse().expect("a number")).collect()
    };
    assert_eq!(fields(i64::from(hull.pid(&id)))[0], supervisor, "the container's parent is its supervisor");
    assert_eq!(fields(supervisor)[2], supervisor, "which leads a session of its own");
    assert_ne!(fields(supervisor)[0], i64::from(std::process::id()));
}

#[test]
fn stop_asks_with_the_signal_that_was_chosen() {
    let hull = Hull::with_busybox();
    let script = "trap 'exit 5' USR1; trap 'exit 6' TERM; trap 'exit 7' HUP; echo ready; while :; do sleep 0.02; done";
    for (flags, stop, code) in [
        (&["--stop-signal", "USR1"][..], &["stop"][..], "5"),
        (&[], &["stop"], "6"),
        (&["--stop-signal", "USR1"], &["stop", "-s", "HUP"], "7"),
        (&[], &["kill", "-s", "10"], "5"),
        (&[], &["kill", "--signal", "SIGHUP"], "7"),
    ] {
        let id = hull.background(flags, script);
        hull.logged(&id, "ready");
        hull.ok(&[stop, &[&id]].concat());
        assert_eq!(hull.ok(&["wait", &id]), code, "{flags:?} {stop:?}");
    }
}

#[test]
fn stop_kills_what_does_not_listen() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["--stop-timeout", "0"], "trap '' TERM; echo ready; while :; do sleep 0.02; done");
    hull.logged(&id, "ready");
    hull.ok(&["stop", &id]);
    assert_eq!(hull.ok(&["wait", &id]), "137");
    assert_eq!(hull.inspect(&id)["State"]["OOMKilled"], false);
}

#[test]
fn a_paused_container_does_nothing_until_it_is_unpaused() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "while :; do :; done");
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", hull.pid(&id))).expect("a process");
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(11)?.parse::<u64>().ok()).expect("ticks")
    };
    wait_for("some work", || (ticks() > 2).then_some(()));
    hull.ok(&["pause", &id]);
    assert_eq!(hull.status(&id), "paused");
    assert!(hull.ok(&["ps"]).contains("(Paused)"));
    let paused = ticks();
    for _ in 0..3 {
        hull.refused(1, &["exec", &id, "true"]);
    }
    assert_eq!(ticks(), paused, "a frozen process uses no processor");
    hull.refused(1, &["pause", &id]);
    hull.ok(&["unpause", &id]);
    wait_for("more work", || (ticks() > paused).then_some(()));
    hull.refused(1, &["unpause", &id]);
    hull.ok(&["pause", &id]);
    hull.ok(&["rm", "-f", &id]);
}

#[test]
fn a_running_container_is_removed_by_force_only() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["--name", "busy"], "exec sleep 1000");
    let said = hull.refused(1, &["rm", "busy"]);
    assert!(said.contains("busy") || said.contains(&id), "{said}");
    assert_eq!(hull.status("busy"), "running");
    hull.ok(&["rm", "-f", "busy"]);
    assert_eq!(hull.containers(), Vec::<String>::new());
    hull.refused(1, &["rm", "busy"]);
}

#[test]
fn commands_take_several_names_and_go_on_past_failures() {
    let hull = Hull::with_busybox();
    for name in ["aa", "bb", "cc"] {
        hull.ok(&["create", "--name", name, "--init", "busybox", "sleep", "1000"]);
    }
    assert_eq!(hull.ok(&["start", "aa", "bb", "cc"]), "aa\nbb\ncc");
    let run = hull.run(&["pause", "aa", "nosuch", "bb"]).expect(1);
    assert_eq!(run.text(), "aa\nbb");
    assert!(run.stderr.contains("nosuch"), "{run:#?}");
    assert_eq!(hull.ok(&["unpause", "aa", "bb"]), "aa\nbb");
    assert_eq!(hull.ok(&["kill", "-s", "TERM", "aa", "bb"]), "aa\nbb");
    assert_eq!(hull.ok(&["wait", "aa", "bb"]), "143\n143");
    assert_eq!(hull.ok(&["stop", "cc"]), "cc");
    assert_eq!(hull.ok(&["inspect", "--format", "{{.Name}}", "aa", "bb", "cc"]), "/aa\n/bb\n/cc");
    assert_eq!(hull.ok(&["rm", "aa", "bb", "cc"]), "aa\nbb\ncc");
}

#[test]
fn wait_waits_and_tells_the_exit_code() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "trap 'exit 42' TERM; echo ready; while :; do sleep 0.02; done");
    hull.logged(&id, "ready");
    let waiting = hull.spawn(&["wait", &id]);
    hull.ok(&["kill", "-s", "TERM", &id]);
    let output = waiting.wait_with_output().expect("its end");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "42");
    assert_eq!(hull.ok(&["wait", &id]), "42", "and again when it is over");
}

#[test]
fn an_id_may_be_shortened_while_it_is_the_only_one() {
    let hull = Hull::with_busybox();
    let mut by_first: HashMap<char, Vec<String>> = HashMap::new();
    // Of seventeen ids two begin alike.
    for _ in 0..17 {
        let id = hull.ok(&["create", "busybox", "true"]);
        by_first.entry(id.chars().next().expect("a digit")).or_default().push(id);
    }
    let alike = by_first.values().find(|ids| ids.len() > 1).expect("two ids that begin alike");
    let said = hull.refused(1, &["rm", &alike[0][..1]]);
    assert!(said.to_lowercase().contains("multiple") || said.to_lowercase().contains("ambiguous"), "{said}");
    assert_eq!(hull.containers().len(), 17);
    for id in by_first.values().flatten() {
        assert_eq!(hull.ok(&["inspect", "--format", "{{.Id}}", &id[..20]]), *id);
        hull.ok(&["rm", &id[..20]]);
    }
    let name = hull.ok(&["create", "--name", "abc", "busybox", "true"]);
    assert_eq!(hull.ok(&["inspect", "--format", "{{.Id}}", "/abc"]), name);
    hull.refused(1, &["inspect", "ab"]);
}

#[test]
fn a_name_is_taken_until_its_container_is_gone() {
    let hull = Hull::with_busybox();
    let first = hull.ok(&["create", "--name", "one", "busybox", "true"]);
    let said = hull.refused(125, &["run", "--name", "one", "busybox", "true"]);
    assert!(said.contains("one") && said.contains(&first), "{said}");
    assert_eq!(hull.containers(), [first]);
    hull.ok(&["rm", "one"]);
    hull.ok(&["create", "--name", "one", "busybox", "true"]);
    for bad in ["-x", "a b", "é", "x"] {
        let said = hull.refused(125, &["create", &format!("--name={bad}"), "busybox", "true"]);
        assert!(said.contains(bad), "{said}");
    }
}

#[test]
fn ps_lists_filters_and_formats() {
    let hull = Hull::with_busybox();
    let one = hull.background(&["--name", "one", "--label", "kind=first"], "exec sleep 1000");
    hull.run(&["run", "--name", "two", "--label", "kind=second", "busybox", "sh", "-c", "exit 3"]).expect(3);
    let names = |flags: &[&str]| hull.ok(&[&["ps", "--format", "{{.Names}}"], flags].concat()).replace('\n', " ");
    assert_eq!(names(&[]), "one");
    assert_eq!(names(&["-a"]), "two one");
    assert_eq!(names(&["-l"]), "two");
    assert_eq!(names(&["-n", "1"]), "two");
    for (filter, expected) in [
        ("name=on", "one"),
        ("label=kind", "two one"),
        ("label=kind=second", "two"),
        ("status=exited", "two"),
        ("exited=3", "two"),
        ("exited=0", ""),
        ("ancestor=busybox", "two one"),
        ("before=two", "one"),
        ("since=one", "two"),
    ] {
        assert_eq!(names(&["-a", "--filter", filter]), expected, "{filter}");
    }
    assert_eq!(names(&["-a", "--filter", &format!("id={}", &one[..8])]), "one");
    hull.run(&["ps", "--filter", "nosuch=1"]).expect(1);
    let table = hull.ok(&["ps", "-a", "--no-trunc"]);
    let head = table.lines().next().expect("a head");
    assert_eq!(
        head.split_whitespace().collect::<Vec<_>>(),
        ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    );
    assert!(table.contains("Exited (3)") && table.contains("Up ") && table.contains(&one), "{table}");
    let line = hull.ok(&["ps", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((value["Names"].as_str(), value["State"].as_str()), (Some("one"), Some("running")), "{value}");
    let labels = hull.ok(&["ps", "--format", "{{.ID}} {{.Image}} {{.Label \"kind\"}} {{.State}}"]);
    assert_eq!(labels, format!("{} busybox first running", &one[..12]));
}

#[test]
fn the_id_goes_into_the_cid_file() {
    let hull = Hull::with_busybox();
    let file = hull.file("cid");
    let id = hull.ok(&["create", "--cidfile", &file, "busybox", "true"]);
    assert_eq!(fs::read_to_string(&file).expect("the file"), id);
    let said = hull.refused(125, &["run", "--rm", "--cidfile", &file, "busybox", "true"]);
    assert!(said.contains(&file), "{said}");
    assert_eq!(hull.containers().len(), 1);
    let other = hull.file("other");
    hull.refused(125, &["run", "--rm", "--cidfile", &other, "nosuch/image:1", "true", "--pull=never"]);
    assert!(!Path::new(&other).exists(), "no file for a container that never was");
}

#[test]
fn rm_takes_everything_with_it() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["--rm", "-v", "/data", "--init"], "echo x > /made; sleep 1000 & wait");
    hull.ok(&["stop", "-t", "0", &id]);
    wait_for("nothing left", || hull.leftovers().is_empty().then_some(()));
    assert_eq!(hull.containers(), Vec::<String>::new());
    hull.run(&["run", "--rm", "busybox", "sh", "-c", "exit 4"]).expect(4);
    assert_eq!(hull.leftovers(), Vec::<String>::new(), "at the moment when run ends");
}
