//! Logs: docker's JSON lines on disk, bounded, and everything that `hull logs` shows of them.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use system_tests::{Hull, Lines, wait_for};

fn log_path(hull: &Hull, name: &str) -> PathBuf {
    hull.inspect(name)["LogPath"].as_str().expect("a path").into()
}

#[test]
fn logs_keep_streams_order_and_bytes() {
    let hull = Hull::with_busybox();
    let script = "for i in 1 2 3; do echo out $i; done; echo err >&2; printf 'caf\\303\\251 \"x\" \\\\ no newline'";
    hull.run(&["run", "--name", "aa", "busybox", "sh", "-c", script]).expect(0);
    let run = hull.run(&["logs", "aa"]).expect(0);
    assert_eq!(run.stdout, "out 1\nout 2\nout 3\ncafé \"x\" \\ no newline");
    assert_eq!(run.stderr, "err\n");
    let text = fs::read_to_string(log_path(&hull, "aa")).expect("the log");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!((lines[0]["log"].as_str(), lines[0]["stream"].as_str()), (Some("out 1\n"), Some("stdout")));
    let time = lines[0]["time"].as_str().expect("a time");
    assert!(time.len() >= 20 && time.ends_with('Z') && time.contains('T'), "{time}");
    assert!(lines.iter().any(|line| line["stream"] == "stderr" && line["log"] == "err\n"), "{text}");
}

#[test]
fn tail_since_and_timestamps_choose_and_mark() {
    let hull = Hull::with_busybox();
    hull.run(&["run", "--name", "aa", "busybox", "sh", "-c", "for i in 1 2 3 4; do echo $i; sleep 0.01; done"])
        .expect(0);
    let shown = |flags: &[&str]| hull.ok(&[&["logs"], flags, &["aa"]].concat()).replace('\n', " ");
    assert_eq!(shown(&[]), "1 2 3 4");
    assert_eq!(shown(&["--tail", "2"]), "3 4");
    assert_eq!(shown(&["-n", "0"]), "");
    assert_eq!(shown(&["--tail", "all"]), "1 2 3 4");
    let stamped = hull.ok(&["logs", "-t", "aa"]);
    let times: Vec<&str> = stamped.lines().map(|line| line.split(' ').next().expect("a time")).collect();
    assert!(times.is_sorted() && times.len() == 4, "{stamped}");
    assert_eq!(shown(&["--since", times[2]]), "3 4");
    assert_eq!(shown(&["--until", times[1]]), "1 2");
    assert_eq!(shown(&["--since", "1h"]), "1 2 3 4");
    assert_eq!(shown(&["--until", "1h"]), "");
    hull.refused(1, &["logs", "nosuch"]);
    hull.run(&["logs", "--since", "nonsense", "aa"]).expect(1);
}

#[test]
fn following_shows_each_line_as_it_comes_and_ends_with_the_container() {
    let hull = Hull::with_busybox();
    let folder = hull.make_folder("bell");
    let script = "echo before; for i in 1 2 3; do while [ ! -e /bell/$i ]; do sleep 0.02; done; echo $i; done";
    let id = hull.background(&["-v", &format!("{folder}:/bell")], script);
    hull.logged(&id, "before");
    let mut following = hull.spawn(&["logs", "-f", &id]);
    let mut lines = Lines::of(following.stdout.take().expect("a pipe"));
    assert_eq!(lines.next_line(), "before");
    for number in ["1", "2", "3"] {
        hull.write(&format!("bell/{number}"), "");
        assert_eq!(lines.next_line(), number);
    }
    let status = wait_for("the end of the follower", || following.try_wait().expect("a child"));
    assert!(status.success(), "{status}");
}

#[test]
fn each_start_adds_to_the_same_log() {
    let hull = Hull::with_busybox();
    let id = hull.ok(&["create", "busybox", "echo", "again"]);
    for count in 1..=3 {
        hull.ok(&["start", "-a", &id]);
        assert_eq!(hull.ok(&["logs", &id]).lines().count(), count);
    }
}

#[test]
fn a_long_line_comes_back_whole() {
    let hull = Hull::with_busybox();
    hull.run(&["run", "--name", "aa", "busybox", "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end"])
        .expect(0);
    let text = hull.ok(&["logs", "aa"]);
    let lengths: Vec<usize> = text.lines().map(str::len).collect();
    assert_eq!(lengths, [100_000, 3]);
}

#[test]
fn the_log_is_bounded_at_five_files_of_twenty_megabytes() {
    let hull = Hull::with_busybox();
    let script = "line=$(head -c 1000 /dev/zero | tr '\\0' x); yes $line | head -c 130000000; echo; echo the end";
    let id = hull.background(&["--name", "aa"], script);
    assert_eq!(hull.ok(&["wait", &id]), "0");
    let path = log_path(&hull, "aa");
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let entries = fs::read_dir(path.parent().expect("a folder")).expect("its folder").flatten();
    let logs: Vec<(String, u64)> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.metadata().expect("a file").len()))
        .filter(|(other, _)| other.starts_with(&name))
        .collect();
    assert!((2..=5).contains(&logs.len()), "{logs:?}");
    let largest = 20 * 1024 * 1024 + 64 * 1024;
    assert!(logs.iter().all(|(_, size)| *size <= largest), "{logs:?}");
    assert_eq!(hull.ok(&["logs", "--tail", "1", "aa"]), "the end");
}
