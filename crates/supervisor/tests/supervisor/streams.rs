//! Output and input: complete, in order, bounded.

use std::fs;

use hull_supervisor::client::Client;
use hull_supervisor::log::{LogReader, ReadOptions, Stream};
use hull_supervisor::protocol::{AttachFlags, Reply, Request, STDIN_WINDOW};

use crate::bed::{Bed, collect, eventually, start_with_client};

const ALL: AttachFlags = AttachFlags { stdin: false, stdout: true, stderr: true, foreground: true };

fn is_exited(reply: &Reply<'_>) -> bool {
    matches!(reply, Reply::Exited(_))
}

#[test]
fn ten_megabytes_arrive_in_order_at_the_client_and_in_the_log() {
    let (bed, mut client) = start_with_client("client", "seq 1 1500000");
    let (stdout, stderr) = collect(&mut client, is_exited);
    let expected: String = (1..=1_500_000).map(|number| format!("{number}\n")).collect();
    assert!(expected.len() > 10_000_000);
    assert!(stdout == expected.as_bytes() && stderr.is_empty());
    // 1.5 million json lines are more than the five files hold: the newest lines are there, without a gap.
    let logged = bed.logged(Stream::Stdout);
    assert!(expected.ends_with(&logged) && logged.len() > 1_000_000);
    drop(client);
    bed.cleaned();
}

#[test]
fn the_log_is_rotated_and_followed_without_a_gap() {
    let bed = Bed::start("smalllog", "for i in $(seq 1 100); do seq $((i * 100 - 99)) $((i * 100)); sleep 0.01; done");
    let options = ReadOptions { follow: Some(bed.args.state_dir()), ..ReadOptions::default() };
    let followed: String =
        LogReader::open(&bed.log_path(), options).unwrap().map(|entry| entry.unwrap().text).collect();
    let expected: String = (1..=10_000).map(|number| format!("{number}\n")).collect();
    assert!(expected.ends_with(&followed) && followed.starts_with("1\n"), "{}", followed.len());
    let files: Vec<_> = (0..6)
        .map(|age| bed.log_path().with_file_name(if age == 0 { "log".into() } else { format!("log.{age}") }))
        .collect();
    assert!(files[..5].iter().all(|file| fs::metadata(file).unwrap().len() <= 100_000) && !files[5].exists());
    bed.cleaned();
}

#[test]
fn both_streams_are_logged_with_their_names_and_kept_apart() {
    let (bed, mut client) = start_with_client("client", "echo out; echo err >&2; printf last; printf '\\377<x>' >&2");
    let (stdout, stderr) = collect(&mut client, is_exited);
    assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"out\nlast"[..], &b"err\n\xff<x>"[..]));
    assert_eq!(bed.logged(Stream::Stdout), "out\nlast");
    assert_eq!(bed.logged(Stream::Stderr), "err\n\u{fffd}<x>");
    drop(client);
    bed.cleaned();
}

#[test]
fn output_written_before_anybody_attached_is_in_the_log_and_not_in_the_attached_stream() {
    let bed = Bed::start("", "echo before; exec sleep 1000");
    eventually("the first line", || (bed.logged(Stream::Stdout) == "before\n").then_some(()));
    let mut client = bed.client();
    client.attach(0, ALL).unwrap();
    client.signal(0, 9).unwrap();
    let (stdout, _) = collect(&mut client, is_exited);
    assert_eq!(stdout, b"");
    drop(client);
    bed.cleaned();
}

#[test]
fn a_slow_foreground_client_slows_the_container_and_loses_nothing() {
    let (bed, mut client) = start_with_client("client", "seq 1 300000; echo done >&2");
    client.started().unwrap();
    // Nobody reads: the writer must come to a halt with most of its output unwritten.
    eventually("a standstill", || {
        let before = fs::metadata(bed.log_path()).ok()?.len();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let after = fs::metadata(bed.log_path()).ok()?.len();
        (before == after && before > 0).then_some(())
    });
    assert!(bed.live().is_running());
    let (stdout, stderr) = collect(&mut client, is_exited);
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(stdout == expected.as_bytes());
    assert_eq!(stderr, b"done\n");
    drop(client);
    bed.cleaned();
}

#[test]
fn a_slow_onlooker_is_dropped_with_a_message_and_does_not_slow_anybody() {
    let bed = Bed::start("stdin", "read go; seq 1 500000; read end");
    let mut slow = bed.client();
    slow.attach(0, AttachFlags { foreground: false, ..ALL }).unwrap();
    let mut fast = bed.client();
    fast.attach(0, AttachFlags { stdin: true, ..ALL }).unwrap();
    fast.send(&Request::Stdin(b"go\n")).unwrap();
    let mut seen = Vec::new();
    collect(&mut fast, |reply| {
        if let Reply::Stdout(data) = reply {
            seen.extend_from_slice(data);
        }
        seen.ends_with(b"\n500000\n")
    });
    let mut dropped = false;
    let (stdout, _) = collect(&mut slow, |reply| {
        dropped = matches!(reply, Reply::Dropped { .. });
        dropped
    });
    let expected: String = (1..=500_000).map(|number| format!("{number}\n")).collect();
    assert!(dropped && expected.as_bytes().starts_with(&stdout) && stdout.len() < expected.len());
    fast.send(&Request::Stdin(b"end\n")).unwrap();
    collect(&mut fast, is_exited);
    drop((fast, slow));
    bed.cleaned();
}

/// Sends everything within the window, `sent` bytes of which are under way, then closes; returns what came on stdout and
/// how many bytes were acknowledged.
fn feed(client: &mut Client, mut sent: usize, mut data: &[u8]) -> (Vec<u8>, usize) {
    let (mut acknowledged, mut stdout) = (0, Vec::new());
    loop {
        while !data.is_empty() && sent - acknowledged + 10_000 <= STDIN_WINDOW {
            let (piece, rest) = data.split_at(data.len().min(10_000));
            client.send(&Request::Stdin(piece)).unwrap();
            sent += piece.len();
            data = rest;
            if data.is_empty() {
                client.send(&Request::StdinClose).unwrap();
            }
        }
        let frame = client.receive().unwrap();
        match Reply::decode(&frame).unwrap() {
            Reply::Stdout(data) => stdout.extend_from_slice(data),
            Reply::StdinAck { bytes } => acknowledged += bytes as usize,
            Reply::Exited(exited) => {
                assert_eq!(exited.exit_code, Some(0));
                return (stdout, acknowledged);
            }
            _ => {}
        }
    }
}

#[test]
fn stdin_reaches_the_process_completely_and_its_end_closes_it() {
    let (bed, mut client) = start_with_client("client,stdin,once,wait", "cat");
    let data: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    // The first frames are sent before the process exists.
    client.send(&Request::Stdin(&data[..20_000])).unwrap();
    bed.touch("go");
    let (stdout, acknowledged) = feed(&mut client, 20_000, &data[20_000..]);
    assert!(stdout == data);
    assert_eq!(acknowledged, data.len());
    drop(client);
    bed.cleaned();
}

#[test]
fn a_process_that_reads_no_stdin_is_fed_until_the_window_is_full_and_still_gets_signals() {
    let (bed, mut client) = start_with_client("client,stdin,once", "exec sleep 1000");
    client.started().unwrap();
    for _ in 0..4 {
        client.send(&Request::Stdin(&[b'x'; 16 * 1024])).unwrap();
    }
    client.signal(0, 15).unwrap();
    collect(&mut client, |reply| matches!(reply, Reply::Exited(exited) if exited.signal == Some(15)));
    drop(client);
    bed.cleaned();
}

#[test]
fn stdin_of_a_process_that_has_closed_it_is_thrown_away_and_acknowledged() {
    let (bed, mut client) = start_with_client("client,stdin,once", "exec <&-; echo closed; sleep 0.3");
    collect(&mut client, |reply| matches!(reply, Reply::Stdout(_)));
    let (_, acknowledged) = feed(&mut client, 0, &[b'x'; 500_000]);
    // What was still in the pipe when the process ended was taken, too.
    assert!(acknowledged > 0);
    drop(client);
    bed.cleaned();
}

#[test]
fn a_client_that_leaves_closes_a_once_only_stdin_and_leaves_another_open() {
    let (bed, client) = start_with_client("client,stdin,once", "cat; echo end of input");
    eventually("the launch", || bed.args.state_dir().join("state.json").exists().then_some(()));
    drop(client);
    assert_eq!(bed.exit().exit_code, Some(0));
    assert_eq!(bed.logged(Stream::Stdout), "end of input\n");
    bed.cleaned();

    let bed = Bed::start("stdin", "read line; echo got $line");
    let mut first = bed.client();
    first.attach(0, AttachFlags { stdin: true, ..ALL }).unwrap();
    first.send(&Request::StdinClose).unwrap();
    first.status().unwrap();
    drop(first);
    let mut second = bed.client();
    second.attach(0, AttachFlags { stdin: true, ..ALL }).unwrap();
    second.send(&Request::Stdin(b"this\n")).unwrap();
    let (stdout, _) = collect(&mut second, is_exited);
    assert_eq!(stdout, b"got this\n");
    drop(second);
    bed.cleaned();
}

#[test]
fn a_terminal_echoes_has_a_size_and_ends_with_its_process() {
    // The size and the program come on two ways; the program waits until it sees the size.
    let script = "until stty size | grep -q '^33'; do :; done; stty size; read line; echo \"got $line\"";
    let (bed, mut client) = start_with_client("client,tty,stdin,wait", script);
    client.resize(33, 101).unwrap();
    bed.touch("go");
    client.started().unwrap();
    let mut seen = Vec::new();
    collect(&mut client, |reply| {
        if let Reply::Stdout(data) = reply {
            seen.extend_from_slice(data);
        }
        seen.windows(8).any(|window| window == b"33 101\r\n")
    });
    client.send(&Request::StdinClose).unwrap();
    client.send(&Request::Stdin(b"hi\r")).unwrap();
    let (stdout, _) = collect(&mut client, is_exited);
    assert_eq!(stdout, b"hi\r\ngot hi\r\n");
    drop(client);
    bed.cleaned();
}
