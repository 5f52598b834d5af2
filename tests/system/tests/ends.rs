//! How a command ends: exit codes, streams, and signals in the foreground.

use rustix::process::{Pid, Signal, kill_process};
use system_tests::{Hull, Lines, wait_for};

/// Sends a signal by its number.
fn send(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // Real-time signals have no names.
    let sent = match Signal::from_named_raw(signal) {
        Some(signal) => kill_process(pid, signal).is_ok(),
        None => {
            let words = [format!("-{signal}"), pid.as_raw_nonzero().to_string()];
            std::process::Command::new("kill").args(words).status().is_ok_and(|status| status.success())
        }
    };
    assert!(sent, "signal {signal}");
}

#[test]
fn the_exit_code_is_the_programs_own_fallback() {
    let hull = Hull::with_busybox();
    for code in [0, 1, 7, 125, 255] {
        hull.sh(&[], &format!("exit {code}")).expect(code);
    }
    hull.sh(&["--init"], "exit 9").expect(9);
    hull.sh(&["-i"], "exit 11").expect(11);
}

#[test]
fn death_by_a_signal_is_128_and_its_number() {
    let hull = Hull::with_busybox();
    hull.sh(&["--init"], "kill -TERM $$").expect(143);
    hull.sh(&["--init"], "kill -KILL $$").expect(137);
    hull.sh(&["--init"], "kill -SEGV $$").expect(139);
    let id = hull.background(&[], "exec sleep 1000");
    hull.ok(&["kill", &id]);
    assert_eq!(hull.ok(&["wait", &id]), "137");
}

#[test]
fn programs_that_cannot_be_executed_are_126_and_missing_ones_127_fallback() {
    let hull = Hull::with_busybox();
    for (code, program) in [(127, "nosuch"), (127, "/no/such"), (126, "/etc/passwd"), (126, "/etc")] {
        let said = hull.refused(code, &["run", "--rm", "busybox", program]);
        assert!(said.contains(program), "{said} names {program}");
    }
    assert_eq!(hull.containers(), Vec::<String>::new());
    assert_eq!(hull.leftovers(), Vec::<String>::new());
}

#[test]
fn a_create_command_gives_its_codes_when_started_attached() {
    let hull = Hull::with_busybox();
    let id = hull.ok(&["create", "busybox", "sh", "-c", "echo out; echo err >&2; exit 5"]);
    for _ in 0..2 {
        let run = hull.run(&["start", "-a", &id]).expect(5);
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("out\n", "err\n"));
    }
}

#[test]
fn streams_stay_apart_and_carry_every_byte() {
    let hull = Hull::with_busybox();
    let run = hull.sh(&[], "echo out; echo err >&2").expect(0);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("out\n", "err\n"));
    let input: Vec<u8> = (0..1_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = hull.fed(&input, &["run", "--rm", "-i", "busybox", "cat"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
}

#[test]
fn without_i_there_is_nothing_to_read() {
    let hull = Hull::with_busybox();
    let output = hull.fed(b"input", &["run", "--rm", "busybox", "cat"]);
    assert!(output.status.success());
    assert_eq!(output.stdout, b"");
}

#[test]
fn every_signal_is_forwarded_in_the_foreground() {
    let hull = Hull::with_busybox();
    // Not these: KILL and STOP cannot be caught, PIPE, CHLD, TTIN, TTOU and URG tell the command about its own pipes,
    // children, terminal and sockets, 32 and 33 are libc's.
    let own = [9, 13, 17, 19, 21, 22, 23, 32, 33];
    let signals: Vec<i32> = (1..=64).filter(|signal| !own.contains(signal)).collect();
    let traps: String = signals.iter().map(|signal| format!("trap 'echo got {signal}' {signal}; ")).collect();
    let script = format!("{traps} trap 'exit 3' 9; echo ready; while :; do sleep 0.02; done");
    let mut child = hull.spawn(&["run", "--rm", "--name", "target", "busybox", "sh", "-c", &script]);
    let mut lines = Lines::of(child.stdout.take().expect("a pipe"));
    assert_eq!(lines.next_line(), "ready");
    for signal in signals {
        send(child.id(), signal);
        assert_eq!(lines.next_line(), format!("got {signal}"));
    }
    hull.ok(&["kill", "target"]);
    assert_eq!(child.wait().expect("its end").code(), Some(137));
}

#[test]
fn without_sig_proxy_a_signal_ends_only_the_command() {
    let hull = Hull::with_busybox();
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done";
    let words = ["run", "--sig-proxy=false", "--name", "target", "busybox", "sh", "-c", script];
    let mut child = hull.spawn(&words);
    assert_eq!(Lines::of(child.stdout.take().expect("a pipe")).next_line(), "ready");
    send(child.id(), 15);
    wait_for("the end of the command", || child.try_wait().expect("a child"));
    assert_eq!(hull.status("target"), "running");
}

#[test]
fn output_that_nobody_reads_ends_the_command_and_not_the_container() {
    let hull = Hull::with_busybox();
    let mut child =
        hull.spawn(&["run", "--name", "target", "busybox", "sh", "-c", "while :; do echo x; sleep 0.02; done"]);
    drop(child.stdout.take());
    let status = wait_for("the end of the command", || child.try_wait().expect("a child"));
    assert!(!status.success(), "{status}");
    assert_eq!(hull.status("target"), "running");
}
