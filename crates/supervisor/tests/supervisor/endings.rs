//! How containers end, and what is recorded and told about it.

use std::fs;
use std::time::Duration;

use hull_supervisor::client::{Client, ClientError};
use hull_supervisor::log::Stream;
use hull_supervisor::protocol::{AttachFlags, Reply};
use hull_supervisor::record::{ExitRecord, LiveStatus};
use hull_supervisor::start;

use crate::bed::{Bed, collect, eventually, is_alive, start_with_client};

#[test]
fn exit_codes_and_signals_are_recorded() {
    for (script, code, signal) in
        [("exit 0", 0, None), ("exit 42", 42, None), ("kill -9 $$", 137, Some(9)), ("kill -TERM $$", 143, Some(15))]
    {
        let bed = Bed::start("", script);
        let exit = bed.exit();
        assert_eq!((exit.exit_code, exit.signal), (Some(code), signal), "{script}");
        assert!(!exit.oom_killed && exit.error.is_none() && exit.log_lines_dropped == 0);
        assert!(exit.started_at.unwrap() <= exit.finished_at);
        assert!(bed.cleaned().starts_with("lock kept: true\noom score: 0\n"));
    }
}

#[test]
fn live_state_is_there_when_the_starter_returns_and_marked_before_the_cleanup() {
    let bed = Bed::start("auto", "exec sleep 1000");
    let live = bed.live();
    assert_eq!(live.status, LiveStatus::Running);
    assert!(live.is_running() && live.auto_remove && !live.tty);
    assert_eq!(live.log.as_ref().unwrap().path, bed.log_path());
    let mut client = bed.client();
    client.expect_exit(0).unwrap();
    assert_eq!(client.exited(0, Duration::from_millis(1)).unwrap(), None);
    client.signal(0, 9).unwrap();
    assert_eq!(client.exited(0, Duration::MAX).unwrap().unwrap().exit_code, Some(137));
    assert!(!live.is_running());
    bed.cleaned();
}

#[test]
fn a_process_that_ended_before_it_was_handed_over_keeps_its_status() {
    for _ in 0..5 {
        let bed = Bed::start("late", "exit 7");
        assert_eq!(bed.exit().exit_code, Some(7));
        bed.cleaned();
    }
}

#[test]
fn an_old_exit_record_is_gone_while_the_container_runs() {
    let bed = Bed::new();
    ExitRecord::unknown(None, None).write(&bed.args.container_dir()).unwrap();
    assert!(bed.command("start", "", "exec sleep 1000").status().unwrap().success());
    assert_eq!(ExitRecord::read(&bed.args.container_dir()).unwrap(), None);
    bed.client().signal(0, 15).unwrap();
    assert_eq!(bed.exit().signal, Some(15));
    bed.cleaned();
}

#[test]
fn kills_for_want_of_memory_are_read_from_the_events_file() {
    let bed = Bed::new();
    fs::write(bed.args.container_dir().join("events"), "low 0\noom 1\noom_kill 1\n").unwrap();
    assert!(bed.command("start", "", "exec sleep 1000").status().unwrap().success());
    let mut client = bed.client();
    client.expect_exit(0).unwrap();
    client.signal(0, 9).unwrap();
    assert!(client.exited(0, Duration::MAX).unwrap().unwrap().oom_killed);
    assert!(bed.exit().oom_killed);
    bed.cleaned();
}

#[test]
fn a_failed_launch_is_told_with_its_code_and_text() {
    let (bed, mut client) = start_with_client("fail,client", "");
    let Err(ClientError::Refused { exit_code, text }) = client.started() else { panic!("started") };
    assert_eq!((exit_code, text.as_str()), (127, "no such program: é"));
    let exit = bed.exit();
    assert_eq!((exit.exit_code, exit.error.as_deref()), (Some(127), Some("no such program: é")));
    assert_eq!(exit.started_at, None);
    drop(client);
    bed.cleaned();
}

#[test]
fn a_worker_that_dies_or_lies_is_a_failed_launch() {
    for options in ["die,client", "badpid,client"] {
        let (bed, mut client) = start_with_client(options, "exec sleep 1000");
        let Err(ClientError::Refused { exit_code, .. }) = client.started() else { panic!("started") };
        assert_eq!(exit_code, 125);
        assert!(bed.exit().error.is_some());
        drop(client);
        bed.cleaned();
    }
}

#[test]
fn a_promise_to_clean_up_is_waited_for_and_replaced_when_broken() {
    let (bed, mut client) = start_with_client("client", "exit 3");
    client.cleanup_mine().unwrap();
    client.started().unwrap();
    collect(&mut client, |reply| matches!(reply, Reply::Exited(exited) if exited.exit_code == Some(3)));
    let supervisor = bed.live().supervisor_pid;
    assert!(is_alive(supervisor) && !bed.was_cleaned());
    // A second client is still answered.
    let mut second = bed.client();
    assert_eq!(second.wait(0).unwrap().exit_code, Some(3));
    let lock = client.begin_cleanup().unwrap().expect("the grant");
    assert!(second.begin_cleanup().unwrap().is_none());
    drop(second);
    client.cleanup_done().unwrap();
    eventually("the supervisor's end", || (!is_alive(supervisor)).then_some(()));
    assert!(!bed.was_cleaned());
    // The lock came with the grant, and holds without the supervisor.
    assert!(start::lock(&bed.args.state_dir()).unwrap().is_none());
    drop(lock);
    assert!(start::lock(&bed.args.state_dir()).unwrap().is_some());
    assert!(client.begin_cleanup().unwrap().is_none());

    for begin in [false, true] {
        let (bed, mut client) = start_with_client("client", "exit 3");
        client.cleanup_mine().unwrap();
        client.started().unwrap();
        collect(&mut client, |reply| matches!(reply, Reply::Exited(_)));
        let lock = if begin { client.begin_cleanup().unwrap() } else { None };
        assert_eq!(lock.is_some(), begin);
        assert!(!bed.was_cleaned());
        drop((client, lock));
        bed.cleaned();
    }
}

#[test]
fn a_client_that_has_promised_and_is_stuck_holds_nothing_up() {
    // It is told of the end, and does nothing.
    let (bed, mut client) = start_with_client("client", "exit 3");
    client.cleanup_mine().unwrap();
    assert!(bed.cleaned().starts_with("lock kept: true"));
    collect(&mut client, |reply| matches!(reply, Reply::Exited(exited) if exited.exit_code == Some(3)));
    assert!(client.begin_cleanup().unwrap().is_none());

    // It has not even read the output; it gets all of it, after the clean-up.
    let (bed, mut client) = start_with_client("client", "seq 1 45000");
    client.cleanup_mine().unwrap();
    assert_eq!(bed.exit().exit_code, Some(0));
    assert!(bed.cleaned().starts_with("lock kept: true"));
    assert!(client.begin_cleanup().unwrap().is_none());
    let (stdout, _) = collect(&mut client, |reply| matches!(reply, Reply::Exited(_)));
    let expected: String = (1..=45_000).map(|number| format!("{number}\n")).collect();
    assert!(stdout == expected.as_bytes(), "{}", stdout.len());
}

#[test]
fn a_full_disk_costs_log_lines_and_nothing_else() {
    let bed = Bed::new();
    std::os::unix::fs::symlink("/dev/full", bed.log_path()).unwrap();
    let mut child = bed.command("run", "", "seq 1 1000; exit 4").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut output = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut output).unwrap();
    assert_eq!((output.lines().count(), child.wait().unwrap().code()), (1000, Some(4)));
    let exit = bed.exit();
    assert_eq!((exit.exit_code, exit.log_lines_dropped), (Some(4), 1000));
    bed.cleaned();
}

#[test]
fn out_of_descriptors_clients_wait_until_others_leave() {
    let bed = Bed::start("", "exec sleep 1000");
    let pid = rustix::process::Pid::from_raw(bed.live().supervisor_pid).unwrap();
    let limit = rustix::process::Rlimit { current: Some(20), maximum: Some(20) };
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, limit).unwrap();
    let dir = bed.args.state_dir();
    let threads: Vec<_> = (0..40)
        .map(|_| {
            let dir = dir.clone();
            std::thread::spawn(move || Client::connect(&dir).unwrap().status().unwrap().sessions)
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 1);
    }
    bed.client().signal(0, 9).unwrap();
    bed.cleaned();
}

#[test]
fn clients_may_wait_ask_and_signal_from_several_connections() {
    let bed = Bed::start("", "trap 'exit 9' USR1; echo trapped; while :; do sleep 0.01; done");
    eventually("the trap", || (bed.logged(Stream::Stdout) == "trapped\n").then_some(()));
    let (mut first, mut second) = (bed.client(), bed.client());
    let status = first.status().unwrap();
    assert_eq!((status.pid, status.sessions, status.clients), (Some(bed.live().pid), 1, 2));
    assert!(matches!(first.signal(0, 0), Err(ClientError::Refused { exit_code: 0, .. })));
    assert!(matches!(first.signal(5, 9), Err(ClientError::Refused { exit_code: 0, .. })));
    assert!(matches!(first.wait(5), Err(ClientError::Refused { .. })));
    let flags = AttachFlags { stdout: true, ..AttachFlags::default() };
    assert!(matches!(first.attach(5, flags), Err(ClientError::Refused { .. })));
    second.expect_exit(0).unwrap();
    second.status().unwrap();
    first.signal(0, 10).unwrap();
    assert_eq!(second.exited(0, Duration::MAX).unwrap().unwrap().exit_code, Some(9));
    bed.cleaned();
    assert!(matches!(Client::connect(&bed.args.state_dir()), Err(ClientError::NoSupervisor { .. })));
}

#[test]
fn every_child_is_reaped_workers_and_orphans_of_the_container_included() {
    // The shell leaves an orphan, which becomes the supervisor's child and ends.
    let bed = Bed::start("", "(sleep 0.05 & exec true); (trap '' HUP; sleep 0.1 &) ; exec sleep 1000");
    let live = bed.live();
    let children = format!("/proc/{0}/task/{0}/children", live.supervisor_pid);
    eventually("the orphans' end", || {
        let left = fs::read_to_string(&children).unwrap();
        (left.trim() == live.pid.to_string()).then_some(())
    });
    bed.client().signal(0, 9).unwrap();
    bed.cleaned();
}

#[test]
fn signals_sent_before_the_launch_are_delivered_after_it() {
    let (bed, mut client) = start_with_client("wait,client", "exec sleep 1000");
    client.signal(0, 15).unwrap();
    bed.touch("go");
    client.started().unwrap();
    collect(&mut client, |reply| matches!(reply, Reply::Exited(exited) if exited.signal == Some(15)));
    drop(client);
    bed.cleaned();
}

#[test]
fn the_supervisor_is_detached_from_its_starter_and_ignores_what_a_terminal_sends() {
    let bed = Bed::start("", "exec sleep 1000");
    let pid = bed.live().supervisor_pid;
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(link("cwd"), std::path::Path::new("/"));
    for number in 0..3 {
        assert_eq!(link(&format!("fd/{number}")), std::path::Path::new("/dev/null"));
    }
    assert_eq!(crate::bed::comm(pid), "hull-supervisor");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, pid);
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    // Lowering it takes CAP_SYS_RESOURCE, bit 24, which a machine may withhold even from root.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may_lower = u64::from_str_radix(effective, 16).unwrap() & 1 << 24 != 0;
    assert_eq!(score, if may_lower { "-999\n" } else { "0\n" });
    for signal in [rustix::process::Signal::HUP, rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
    bed.client().signal(0, 9).unwrap();
    assert_eq!(bed.exit().exit_code, Some(137));
    bed.cleaned();
}

#[test]
fn a_peer_that_breaks_the_protocol_is_dropped_and_the_container_goes_on() {
    let bed = Bed::start("", "exec sleep 1000");
    let mut client = bed.client();
    client.send(&hull_supervisor::protocol::Request::Stdin(b"not attached")).unwrap();
    let frame = client.receive().unwrap();
    assert!(matches!(Reply::decode(&frame), Ok(Reply::Dropped { .. })));
    assert!(matches!(client.receive(), Err(ClientError::Ended)));
    assert_eq!(bed.client().status().unwrap().clients, 1);
    bed.client().signal(0, 9).unwrap();
    bed.cleaned();
}

#[test]
fn output_survives_a_log_that_cannot_be_written_and_the_loss_is_counted() {
    let bed = Bed::new();
    // A folder in the log's place: opening it for writing fails.
    fs::create_dir_all(bed.log_path()).unwrap();
    assert!(bed.command("start", "", "echo one; echo two; exit 4").status().unwrap().success());
    let exit = bed.exit();
    assert_eq!((exit.exit_code, exit.log_lines_dropped), (Some(4), 2));
    bed.cleaned();
}
