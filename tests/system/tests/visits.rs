//! Visiting a running container: exec, attach, and copying files in and out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use system_tests::archive::Layer;
use system_tests::{Hull, Lines, wait_for};

#[test]
fn exec_runs_in_the_containers_world_fallback() {
    let hull = Hull::with_busybox();
    let id =
        hull.background(&["-e", "FROM=run", "-w", "/etc", "--hostname", "box"], "echo $$ > /made; exec sleep 1000");
    for kind in ["pid", "net", "mnt", "uts", "ipc", "cgroup", "user"] {
        let own = hull.ok(&["exec", &id, "readlink", &format!("/proc/self/ns/{kind}")]);
        assert_eq!(own, hull.ok(&["exec", &id, "readlink", &format!("/proc/1/ns/{kind}")]), "{kind}");
    }
    assert_eq!(hull.ok(&["exec", &id, "sh", "-c", "pwd; hostname; echo $FROM; cat /made"]), "/etc\nbox\nrun\n1");
    let status = hull.ok(&["exec", &id, "cat", "/proc/self/status"]);
    for line in ["CapEff:\t00000000a80425fb", "Seccomp:\t2", "NoNewPrivs:\t0"] {
        assert!(status.contains(line), "no {line} in\n{status}");
    }
    let cgroups = |pid: &str| hull.ok(&["exec", &id, "cat", &format!("/proc/{pid}/cgroup")]);
    assert_eq!(cgroups("self"), cgroups("1"));
}

#[test]
fn exec_has_its_own_user_place_and_variables() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["-e", "FROM=run"], "exec sleep 1000");
    let flags = ["exec", "-u", "user", "-w", "/tmp", "-e", "FROM=exec", "-e", "MORE=1"];
    let said = hull.ok(&[&flags[..], &[&id, "sh", "-c", "id -un; pwd; echo $FROM $MORE $HOME"]].concat());
    assert_eq!(said, "user\n/tmp\nexec 1 /home");
    let said = hull.run(&["exec", "-u", "nosuch", &id, "true"]);
    assert!(said.code != 0 && said.stderr.contains("nosuch"), "{said:#?}");
    let said = hull.ok(&["exec", "--privileged", &id, "grep", "CapEff", "/proc/self/status"]);
    assert_ne!(said, "CapEff:\t00000000a80425fb");
}

#[test]
fn exec_gives_the_exit_code() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["--name", "aa"], "exec sleep 1000");
    for code in [0, 1, 42, 255] {
        hull.run(&["exec", "aa", "sh", "-c", &format!("exit {code}")]).expect(code);
    }
    hull.run(&["exec", "aa", "sh", "-c", "kill -TERM $$"]).expect(143);
    hull.refused(127, &["exec", "aa", "nosuch"]);
    hull.refused(126, &["exec", "aa", "/etc/passwd"]);
    hull.refused(1, &["exec", "nosuch", "true"]);
    hull.ok(&["stop", "-t", "0", &id]);
    hull.refused(1, &["exec", "aa", "true"]);
}

#[test]
fn exec_passes_input_and_output() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "exec sleep 1000");
    let input: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    let output = hull.fed(&input, &["exec", "-i", &id, "sh", "-c", "cat; echo err >&2"]);
    assert!(output.stdout == input, "{} bytes came back", output.stdout.len());
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(hull.fed(b"x", &["exec", &id, "cat"]).stdout, b"");
}

#[test]
fn exec_in_the_background_goes_on() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "exec sleep 1000");
    hull.ok(&["exec", "-d", &id, "sh", "-c", "sleep 0.1; echo x > /made; exec sleep 2000"]);
    wait_for("the file", || (hull.run(&["exec", &id, "cat", "/made"]).text() == "x").then_some(()));
    hull.ok(&["stop", "-t", "0", &id]);
}

#[test]
fn attach_shows_output_and_ends_with_the_exit_code() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["-i"], "for i in 1 2; do read line; echo got $line; done; exit 9");
    let output = hull.fed(b"one\ntwo\n", &["attach", &id]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((said.as_str(), output.status.code()), ("got one\ngot two\n", Some(9)));
    hull.refused(1, &["attach", &id]);
}

#[test]
fn attach_without_stdin_only_watches() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "trap 'exit 8' TERM; while :; do echo tick; sleep 0.02; done");
    let mut child = hull.spawn(&["attach", "--no-stdin", "--sig-proxy=false", &id]);
    assert_eq!(Lines::of(child.stdout.take().expect("a pipe")).next_line(), "tick");
    hull.ok(&["kill", "-s", "TERM", &id]);
    let status = wait_for("the end of attach", || child.try_wait().expect("a child"));
    assert!(status.code() == Some(8) || status.code() == Some(141), "{status}");
}

#[test]
fn files_are_copied_in_and_out() {
    let hull = Hull::with_busybox();
    let id = hull.background(
        &["--name", "aa"],
        "mkdir -p /tree/deep; echo x > /tree/deep/file; ln -s deep /tree/link; exec sleep 1000",
    );
    wait_for("the tree", || (hull.run(&["exec", &id, "test", "-L", "/tree/link"]).code == 0).then_some(()));
    let out = hull.file("out");
    hull.ok(&["cp", "aa:/tree", &out]);
    assert_eq!(fs::read_to_string(format!("{out}/deep/file")).expect("the copy"), "x\n");
    assert_eq!(fs::read_link(format!("{out}/link")).expect("a link"), Path::new("deep"));
    let file = hull.write("file", "from outside");
    hull.ok(&["cp", &file, "aa:/etc/"]);
    hull.ok(&["cp", &file, "aa:/etc/other"]);
    assert_eq!(hull.ok(&["exec", "aa", "cat", "/etc/file", "/etc/other"]), "from outsidefrom outside");
    hull.ok(&["cp", &format!("{out}/."), "aa:/tmp"]);
    assert_eq!(hull.ok(&["exec", "aa", "cat", "/tmp/deep/file"]), "x");
    for words in [
        ["cp", "aa:/nosuch", &out],
        ["cp", "/nosuch", "aa:/"],
        ["cp", &file, "aa:/no/such/folder/"],
        ["cp", "nosuch:/x", &out],
    ] {
        hull.refused(1, &words);
    }
}

#[test]
fn files_are_copied_as_tar_and_with_their_owner() {
    let hull = Hull::with_busybox();
    hull.ok(&["create", "--name", "aa", "busybox", "cat", "/in/word"]);
    let tar = Layer::new().folder("in", 0o755, 7).file("in/word", b"by tar").bytes();
    let output = hull.fed(&tar, &["cp", "-", "aa:/"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(hull.ok(&["start", "-a", "aa"]), "by tar");
    let output = hull.command(&["cp", "aa:/in", "-"]).output().expect("hull");
    let mut archive = tar::Archive::new(&output.stdout[..]);
    let names: Vec<String> = archive
        .entries()
        .expect("a tar")
        .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
        .collect();
    assert!(names.iter().any(|name| name.trim_end_matches('/') == "in/word"), "{names:?}");
    let out = hull.file("out");
    hull.ok(&["cp", "-a", "aa:/in", &out]);
    assert_eq!(fs::metadata(&out).expect("the copy").uid(), 7);
}

#[test]
fn copying_does_not_follow_links_out_of_the_container() {
    let hull = Hull::with_busybox();
    let outside = hull.make_folder("outside");
    let id =
        hull.background(&[], &format!("ln -s {outside} /evil; ln -s /../../../../etc/shadow /shadow; exec sleep 1000"));
    wait_for("the links", || (hull.run(&["exec", &id, "test", "-L", "/shadow"]).code == 0).then_some(()));
    let file = hull.write("file", "word");
    let run = hull.run(&["cp", &file, &format!("{id}:/evil/made")]);
    assert_ne!(run.code, 0, "there is no such folder inside: {run:#?}");
    hull.run(&["cp", "-L", &format!("{id}:/shadow"), &hull.file("stolen")]).expect(1);
    let tar = Layer::new().file("evil/made", b"x").file("../../../made", b"x").bytes();
    hull.fed(&tar, &["cp", "-", &format!("{id}:/")]);
    assert_eq!(fs::read_dir(&outside).expect("the folder").count(), 0);
}
