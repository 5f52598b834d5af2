//! Containers that outlive their supervisor, and the supervisor that takes them over.

use std::fs;
use std::io::Write;
use std::time::Duration;

use hull_supervisor::client::{Client, ClientError};
use hull_supervisor::log::Stream;
use hull_supervisor::protocol::{AttachFlags, Reply};
use hull_supervisor::record::LiveStatus;
use hull_supervisor::start;

use crate::bed::{Bed, TESTBED, collect, eventually, is_alive, kill};

/// The library starts `/proc/self/exe`, which is this test: so the testbed is started here with the same descriptors.
fn adopt(bed: &Bed) -> std::process::Child {
    let lock = eventually("the lock", || start::lock(&bed.args.state_dir()).unwrap());
    drop(lock);
    std::process::Command::new(TESTBED)
        .args(["adopt", &bed.args.id])
        .arg(&bed.args.root)
        .arg(&bed.args.state)
        .spawn()
        .unwrap()
}

/// Kernels from 6.15 tell the exit status of a process to those who are not its parent.
fn kernel_tells_exit_codes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15)
}

#[test]
fn a_container_goes_on_without_its_supervisor_and_the_adopter_sees_its_end() {
    let bed = Bed::start("", "echo one; exec sleep 1000");
    eventually("the first line", || (bed.logged(Stream::Stdout) == "one\n").then_some(()));
    let pid = bed.live().pid;
    bed.kill_supervisor();
    assert!(is_alive(pid) && bed.live().is_running());
    assert!(matches!(Client::connect(&bed.args.state_dir()), Err(ClientError::NoSupervisor { .. })));
    let mut adopter = adopt(&bed);
    let mut client = eventually("the adopter", || Client::connect(&bed.args.state_dir()).ok());
    assert_eq!(client.status().unwrap().pid, Some(pid));
    let flags = AttachFlags { stdout: true, ..AttachFlags::default() };
    let mut exec = bed.client();
    exec.exec(&bed.exec_file("", "echo here; exit 8"), Some(flags)).unwrap();
    let (stdout, _) = collect(&mut exec, |reply| matches!(reply, Reply::Exited(exited) if exited.exit_code == Some(8)));
    assert_eq!(stdout, b"here\n");
    client.expect_exit(0).unwrap();
    client.signal(0, 15).unwrap();
    let exited = client.exited(0, Duration::MAX).unwrap().unwrap();
    let record = bed.exit();
    if kernel_tells_exit_codes() {
        assert_eq!((exited.exit_code, exited.signal), (Some(143), Some(15)));
        assert_eq!((record.exit_code, record.signal), (Some(143), Some(15)));
    } else {
        assert_eq!((exited.exit_code, record.exit_code), (None, None));
        assert!(record.error.is_some());
    }
    bed.cleaned();
    adopter.wait().unwrap();
}

#[test]
fn what_was_written_while_nobody_listened_is_logged_by_the_adopter() {
    let bed = Bed::new();
    let go = bed.base.join("go");
    let script = format!(
        "while [ ! -e {0} ]; do sleep 0.01; done; echo unseen; echo e >&2; touch {0}ne; exec sleep 1000",
        go.display()
    );
    assert!(bed.command("start", "", &script).status().unwrap().success());
    bed.kill_supervisor();
    fs::write(&go, "").unwrap();
    eventually("the script", || bed.base.join("gone").exists().then_some(()));
    assert_eq!(bed.logged(Stream::Stdout), "");
    let mut adopter = adopt(&bed);
    eventually("the line", || (bed.logged(Stream::Stdout) == "unseen\n").then_some(()));
    eventually("the other line", || (bed.logged(Stream::Stderr) == "e\n").then_some(()));
    eventually("the adopter", || Client::connect(&bed.args.state_dir()).ok()).signal(0, 9).unwrap();
    bed.cleaned();
    adopter.wait().unwrap();
}

#[test]
fn a_container_that_ended_unseen_is_logged_and_recorded_as_unknown() {
    let bed = Bed::start("", "exec sleep 1000");
    let live = bed.live();
    bed.kill_supervisor();
    // Another process that still has the FIFO open: when the last one closes it, the kernel forgets what is in it.
    let mut fifo = fs::OpenOptions::new().read(true).write(true).open(bed.args.state_dir().join("stdout")).unwrap();
    fifo.write_all(b"last words\n").unwrap();
    kill(live.pid);
    let process = std::path::PathBuf::from(format!("/proc/{}", live.pid));
    eventually("the end, and its new parent's wait", || (!process.exists()).then_some(()));
    let mut adopter = adopt(&bed);
    let record = bed.exit();
    assert_eq!((record.exit_code, record.started_at), (None, Some(live.started_at)));
    assert!(record.error.unwrap().contains("unseen"));
    assert_eq!(bed.logged(Stream::Stdout), "last words\n");
    bed.cleaned();
    adopter.wait().unwrap();
}

#[test]
fn an_end_that_was_recorded_is_not_recorded_again() {
    let bed = Bed::start("", "exec sleep 1000");
    let mut keeper = bed.client();
    keeper.cleanup_mine().unwrap();
    keeper.expect_exit(0).unwrap();
    keeper.signal(0, 9).unwrap();
    keeper.exited(0, Duration::MAX).unwrap();
    let (live, record) = (bed.live(), bed.exit());
    assert_eq!(live.status, LiveStatus::Exited);
    kill(live.supervisor_pid);
    eventually("the supervisor's death", || (!is_alive(live.supervisor_pid)).then_some(()));
    let mut adopter = adopt(&bed);
    bed.cleaned();
    assert_eq!(bed.exit(), record);
    adopter.wait().unwrap();
}

#[test]
fn a_second_supervisor_cannot_be_had_while_the_first_lives() {
    let bed = Bed::start("", "exec sleep 1000");
    assert!(start::lock(&bed.args.state_dir()).unwrap().is_none());
    bed.client().signal(0, 9).unwrap();
    bed.cleaned();
}
