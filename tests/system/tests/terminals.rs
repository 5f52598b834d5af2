//! Terminals: raw mode and its way back, sizes, detaching, and what the container sees of its terminal.

use rustix::process::{Pid, Signal, kill_process};
use system_tests::terminal::Terminal;
use system_tests::{Hull, wait_for};

#[test]
fn a_terminal_is_a_real_one_and_is_given_back_fallback() {
    let hull = Hull::with_busybox();
    let mut terminal = Terminal::start(&hull, &["run", "--rm", "-it", "busybox", "sh"]);
    let before = terminal.first_settings().to_owned();
    terminal.shown("# ");
    assert!(terminal.is_raw());
    terminal.type_in("tty; test -t 0 -a -t 1 -a -t 2 && echo yes$((1+1)); ls /dev/console; echo $TERM; stty size\n");
    terminal.shown("/dev/pts/0\r\nyes2\r\n/dev/console\r\nxterm\r\n24 80\r\n");
    terminal.type_in("exit 7\n");
    assert_eq!(terminal.code(), 7);
    assert_eq!(terminal.settings(), before);
    assert!(!terminal.is_raw());
}

#[test]
fn a_program_begins_on_a_terminal_of_the_windows_size() {
    let hull = Hull::with_busybox();
    hull.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    hull.ok(&["create", "-it", "--name", "again", "busybox", "stty", "size"]);
    // Programs that look once, at their very beginning.
    let run = ["run", "--rm", "-it", "busybox", "stty", "size"];
    for words in [&run[..], &["start", "-ai", "again"], &["exec", "-it", "box", "stty", "size"]] {
        for _ in 0..5 {
            let mut terminal = Terminal::start(&hull, words);
            assert_eq!(terminal.shown("\n"), "24 80\r\n", "{words:?}");
            assert_eq!(terminal.code(), 0);
        }
    }
}

#[test]
fn the_size_follows_the_window() {
    let hull = Hull::with_busybox();
    let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.02; done";
    let mut terminal = Terminal::start(&hull, &["run", "--rm", "-it", "--name", "box", "busybox", "sh", "-c", script]);
    terminal.shown("24 80");
    for (rows, columns) in [(50, 132), (10, 20)] {
        terminal.resize(rows, columns);
        terminal.shown(&format!("{rows} {columns}"));
    }
    hull.ok(&["kill", "box"]);
    assert_eq!(terminal.code(), 137);
    assert!(!terminal.is_raw());
}

#[test]
fn keys_reach_the_container_and_not_the_command() {
    let hull = Hull::with_busybox();
    let mut terminal = Terminal::start(
        &hull,
        &[
            "run",
            "--rm",
            "-it",
            "busybox",
            "sh",
            "-c",
            "trap 'echo int; exit 4' INT; echo ready; while :; do sleep 0.02; done",
        ],
    );
    terminal.shown("ready");
    terminal.type_in("\x03");
    terminal.shown("int");
    assert_eq!(terminal.code(), 4);
}

#[test]
fn detaching_leaves_the_container_running() {
    let hull = Hull::with_busybox();
    let mut terminal = Terminal::start(&hull, &["run", "-it", "--name", "box", "busybox", "sh"]);
    let before = terminal.first_settings().to_owned();
    terminal.shown("# ");
    terminal.type_in("echo first$((1+1))\n");
    terminal.shown("first2");
    terminal.type_in("\x10\x11");
    assert_eq!(terminal.code(), 0);
    assert_eq!(terminal.settings(), before);
    assert_eq!(hull.status("box"), "running");
    let mut again = Terminal::start(&hull, &["attach", "box"]);
    again.type_in("echo second$((1+1))\n");
    again.shown("second2");
    again.type_in("exit 5\n");
    assert_eq!(again.code(), 5);
    assert!(!again.is_raw());
    let log = hull.ok(&["logs", "box"]);
    assert!(log.contains("first2") && log.contains("second2"), "{log}");
}

#[test]
fn detach_keys_may_be_others() {
    let hull = Hull::with_busybox();
    let words = ["run", "-it", "--name", "box", "--detach-keys", "ctrl-x,x", "busybox", "cat"];
    let mut terminal = Terminal::start(&hull, &words);
    wait_for("raw mode", || terminal.is_raw().then_some(()));
    // A begun sequence that does not go on is the container's.
    terminal.type_in("a\x10\x11b\n");
    terminal.shown("b");
    terminal.type_in("\x18x");
    assert_eq!(terminal.code(), 0);
    assert_eq!(hull.status("box"), "running");
    hull.refused(1, &["attach", "--detach-keys", "nonsense", "box"]);
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "exec sleep 1000");
    let mut terminal = Terminal::start(&hull, &["exec", "-it", &id, "sh"]);
    let before = terminal.first_settings().to_owned();
    terminal.shown("# ");
    terminal.type_in("tty; stty size; exit 6\n");
    terminal.shown("/dev/pts/0\r\n24 80");
    assert_eq!(terminal.code(), 6);
    assert_eq!(terminal.settings(), before);
    let mut terminal = Terminal::start(&hull, &["exec", "-it", &id, "cat"]);
    wait_for("raw mode", || terminal.is_raw().then_some(()));
    terminal.type_in("\x10\x11");
    terminal.code();
    assert!(!terminal.is_raw());
    assert_eq!(hull.status(&id), "running");
}

#[test]
fn the_terminal_is_given_back_when_the_container_is_removed_or_not_started() {
    let hull = Hull::with_busybox();
    let mut terminal = Terminal::start(&hull, &["run", "-it", "--name", "box", "busybox", "cat"]);
    wait_for("raw mode", || terminal.is_raw().then_some(()));
    hull.ok(&["rm", "-f", "box"]);
    assert_ne!(terminal.code(), 0);
    assert!(!terminal.is_raw());
    let mut terminal = Terminal::start(&hull, &["run", "--rm", "-it", "busybox", "nosuch"]);
    assert_eq!(terminal.code(), 127);
    terminal.shown("nosuch");
    assert!(!terminal.is_raw());
}

#[test]
fn the_terminal_is_given_back_when_a_signal_ends_the_command() {
    let hull = Hull::with_busybox();
    let words = ["run", "-it", "--sig-proxy=false", "--name", "box", "busybox", "cat"];
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut terminal = Terminal::start(&hull, &words);
        let before = terminal.first_settings().to_owned();
        wait_for("raw mode", || terminal.is_raw().then_some(()));
        let pid = Pid::from_raw(terminal.pid()).expect("a process id");
        kill_process(pid, signal).expect("a signal");
        assert_eq!(terminal.code(), 128 + signal.as_raw());
        assert_eq!(terminal.settings(), before);
        assert_eq!(hull.status("box"), "running");
        hull.ok(&["rm", "-f", "box"]);
    }
}

#[test]
fn t_without_a_terminal_is_refused_and_fine_in_the_background() {
    let hull = Hull::with_busybox();
    let said = hull.refused(125, &["run", "--rm", "-it", "busybox", "true"]);
    assert!(said.contains("TTY"), "{said}");
    assert_eq!(hull.containers(), Vec::<String>::new());
    let id = hull.background(&["-t"], "tty; stty size; exec sleep 1000");
    assert!(hull.logged(&id, "/dev/pts/0").contains("/dev/pts/0"));
}
