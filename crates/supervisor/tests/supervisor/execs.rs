//! Further processes in a running container.

use std::time::Duration;

use hull_supervisor::client::{Client, ClientError};
use hull_supervisor::log::Stream;
use hull_supervisor::protocol::{AttachFlags, Reply, Request};

use crate::bed::{Bed, collect, eventually};

const ALL: AttachFlags = AttachFlags { stdin: true, stdout: true, stderr: true, foreground: true };

fn end(bed: &Bed) {
    bed.client().signal(0, 9).unwrap();
    bed.cleaned();
}

fn code_of(client: &mut Client) -> (Vec<u8>, Vec<u8>, Option<i32>) {
    let mut code = None;
    let (stdout, stderr) = collect(client, |reply| match reply {
        Reply::Exited(exited) => {
            code = exited.exit_code;
            true
        }
        _ => false,
    });
    (stdout, stderr, code)
}

#[test]
fn an_attached_exec_has_its_own_streams_and_code_and_is_not_logged() {
    let bed = Bed::start("", "exec sleep 1000");
    let mut client = bed.client();
    let file = bed.exec_file("stdin,once", "cat; echo err >&2; exit 5");
    let started = client.exec(&file, Some(ALL)).unwrap();
    assert_eq!(started.session, 1);
    client.send(&Request::Stdin(b"through")).unwrap();
    client.send(&Request::StdinClose).unwrap();
    assert_eq!(code_of(&mut client), (b"through".to_vec(), b"err\n".to_vec(), Some(5)));
    assert_eq!(bed.logged(Stream::Stdout), "");
    // It is remembered for those who ask late, also on another connection.
    assert_eq!(bed.client().wait(1).unwrap().exit_code, Some(5));
    assert!(bed.live().is_running());
    end(&bed);
}

#[test]
fn a_failed_exec_gives_the_workers_code_and_text_and_the_container_goes_on() {
    let bed = Bed::start("", "exec sleep 1000");
    let mut client = bed.client();
    for (options, code) in [("fail", 127), ("die", 125)] {
        let file = bed.exec_file(options, "true");
        let Err(ClientError::Refused { exit_code, text }) = client.exec(&file, None) else { panic!("started") };
        assert_eq!(exit_code, code);
        assert!(options == "die" || text == "no such program: é", "{text}");
    }
    let missing = client.exec(&bed.base.join("missing"), Some(ALL));
    assert!(matches!(missing, Err(ClientError::Refused { exit_code: 125, .. })));
    assert_eq!(client.status().unwrap().sessions, 1);
    end(&bed);
}

#[test]
fn detached_execs_run_without_a_client_and_can_be_waited_for_and_signalled() {
    let bed = Bed::start("", "exec sleep 1000");
    let mut client = bed.client();
    let mark = bed.base.join("mark");
    let script = format!("trap 'exit 6' TERM; echo trapped > {}; while :; do sleep 0.01; done", mark.display());
    let started = client.exec(&bed.exec_file("", &script), None).unwrap();
    drop(client);
    eventually("the trap", || mark.exists().then_some(()));
    let mut client = bed.client();
    assert_eq!(client.status().unwrap().sessions, 2);
    client.expect_exit(started.session).unwrap();
    client.signal(started.session, 15).unwrap();
    assert_eq!(client.exited(started.session, Duration::MAX).unwrap().unwrap().exit_code, Some(6));
    end(&bed);
}

#[test]
fn several_execs_at_once_keep_their_sessions_apart() {
    let bed = Bed::start("", "exec sleep 1000");
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = |number: u32| {
            let bed = &bed;
            scope.spawn(move || {
                let mut client = bed.client();
                let file = bed.exec_file("", &format!("echo {number}; exit {number}"));
                client.exec(&file, Some(ALL)).unwrap();
                code_of(&mut client)
            })
        };
        let threads: Vec<_> = (1..=12).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (number, (stdout, _, code)) in (1..).zip(results) {
        assert_eq!((String::from_utf8(stdout).unwrap(), code), (format!("{number}\n"), Some(number)));
    }
    assert_eq!(bed.client().status().unwrap().sessions, 1);
    end(&bed);
}

#[test]
fn execs_that_are_left_when_the_container_ends_are_ended_and_reported() {
    let bed = Bed::start("", "exec sleep 1000");
    let mut client = bed.client();
    client.exec(&bed.exec_file("", "exec sleep 1000"), Some(ALL)).unwrap();
    bed.client().signal(0, 9).unwrap();
    assert_eq!(code_of(&mut client).2, Some(137));
    drop(client);
    bed.cleaned();
}

#[test]
fn a_client_that_leaves_before_its_exec_runs_does_not_hold_it_up() {
    let bed = Bed::start("", "exec sleep 1000");
    let mark = bed.base.join("mark");
    let file = bed.exec_file("wait,stdin,once", &format!("cat; echo done > {}", mark.display()));
    let mut client = bed.client();
    client.send(&Request::Exec { file: &file, attach: Some(ALL) }).unwrap();
    client.send(&Request::Status).unwrap();
    drop(client);
    let mut other = bed.client();
    eventually("the client's end", || (other.status().unwrap().clients == 1).then_some(()));
    bed.touch("go");
    eventually("the exec's end", || mark.exists().then_some(()));
    end(&bed);
}

#[test]
fn an_exec_with_a_terminal_is_resized_by_its_own_client() {
    let bed = Bed::start("", "exec sleep 1000");
    let mut client = bed.client();
    client.exec(&bed.exec_file("tty,stdin", "read x; stty size"), Some(ALL)).unwrap();
    client.resize(12, 34).unwrap();
    client.send(&Request::Stdin(b"\r")).unwrap();
    let (stdout, _, code) = code_of(&mut client);
    assert_eq!((stdout.as_slice(), code), (&b"\r\n12 34\r\n"[..], Some(0)));
    end(&bed);
}

#[test]
fn no_exec_in_a_container_that_has_ended() {
    let bed = Bed::start("", "exec sleep 1000");
    let mut keeper = bed.client();
    keeper.cleanup_mine().unwrap();
    keeper.expect_exit(0).unwrap();
    keeper.signal(0, 9).unwrap();
    keeper.exited(0, Duration::MAX).unwrap();
    let refused = bed.client().exec(&bed.exec_file("", "true"), None);
    assert!(matches!(refused, Err(ClientError::Refused { exit_code: 125, .. })));
    drop(keeper);
    bed.cleaned();
}
