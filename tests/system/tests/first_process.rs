//! PID 1: what it is, and what Hull's own init does when it is that.

use system_tests::{Hull, wait_for};

#[test]
fn the_program_is_pid_1_of_a_session_of_its_own() {
    let hull = Hull::with_busybox();
    assert_eq!(hull.inside(&[], "echo $$ $PPID"), "1 0");
    // pid, ppid, process group, session
    let stat = hull.ok(&["run", "--rm", "busybox", "cat", "/proc/self/stat"]);
    let fields: Vec<&str> = stat.split(' ').collect();
    assert_eq!((fields[0], fields[3], fields[4], fields[5]), ("1", "0", "1", "1"), "{stat}");
}

#[test]
fn it_inherits_no_descriptors_and_no_signal_settings() {
    let hull = Hull::with_busybox();
    let listed = hull.ok(&["run", "--rm", "busybox", "ls", "/proc/self/fd"]);
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "3 is the listing's own");
    let status = hull.ok(&["run", "--rm", "busybox", "cat", "/proc/self/status"]);
    for line in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
        assert!(status.contains(line), "no {line} in\n{status}");
    }
}

#[test]
fn init_is_pid_1_and_the_program_its_child() {
    let hull = Hull::with_busybox();
    let text = hull.inside(&["--init"], "echo $PPID $$; cat /proc/1/comm; ls /proc/1/fd | wc -l");
    let lines: Vec<&str> = text.lines().collect();
    let pids: Vec<u32> = lines[0].split(' ').map(|pid| pid.parse().expect("a pid")).collect();
    assert!(pids[0] == 1 && pids[1] > 1, "{text}");
    assert_ne!(lines[1], "sh");
}

/// Makes five orphans in a running container and counts the zombies among its processes.
const ORPHANS: &str = "for i in 1 2 3 4 5; do sh -c 'true & exit 0'; done; sleep 0.05; \
                       cat /proc/[0-9]*/stat | grep -c ') Z 1 '";

#[test]
fn init_reaps_orphans_and_a_program_that_does_not_keeps_them() {
    let hull = Hull::with_busybox();
    let with = hull.ok(&["run", "-d", "--init", "busybox", "sleep", "1000"]);
    let without = hull.ok(&["run", "-d", "busybox", "sleep", "1000"]);
    let zombies = |id: &str| hull.run(&["exec", id, "sh", "-c", ORPHANS]).text().parse::<u32>().expect("a number");
    wait_for("orphans that nobody reaps", || (zombies(&without) > 0).then_some(()));
    wait_for("all orphans reaped", || (zombies(&with) == 0).then_some(()));
}

#[test]
fn init_forwards_signals_and_ends_as_the_program_ends() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["--init"], "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.02; done");
    hull.logged(&id, "ready");
    hull.ok(&["stop", &id]);
    assert_eq!(hull.ok(&["wait", &id]), "3");
    assert!(hull.logged(&id, "bye").contains("ready"));
}

#[test]
fn a_program_without_a_handler_is_deaf_as_pid_1_and_not_under_init() {
    let hull = Hull::with_busybox();
    let deaf = hull.ok(&["run", "-d", "busybox", "sleep", "1000"]);
    let hearing = hull.ok(&["run", "-d", "--init", "busybox", "sleep", "1000"]);
    for id in [&deaf, &hearing] {
        hull.ok(&["kill", "-s", "TERM", id]);
    }
    assert_eq!(hull.ok(&["wait", &hearing]), "143");
    assert_eq!(hull.status(&deaf), "running");
    hull.ok(&["stop", "-t", "0", &deaf]);
    assert_eq!(hull.ok(&["wait", &deaf]), "137");
}
