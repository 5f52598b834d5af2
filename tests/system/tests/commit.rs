//! Containers told apart from their images: `diff`, `commit`, `export`, `history`.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};
use system_tests::tree::{Tree, differences, of_tar};
use system_tests::{Hull, wait_for};

/// Changes of every kind: in place, of metadata alone, new, deleted, a folder replaced, links, an attribute of overlay's.
const CHANGE: &str = "
    echo more >> /etc/passwd; chmod 600 /etc/group; rm /bin/wget; rm -r /home; mkdir /home; echo x > /home/own
    mkdir -p /srv/deep/er; echo content > /srv/deep/er/file; ln /srv/deep/er/file /srv/hard; ln -s file /srv/soft
    mkfifo /srv/fifo; chown 7:8 /srv/deep; chmod 1755 /srv/deep; touch -h -d '2001-02-03 04:05:06' /srv/soft /srv/deep/er/file
    cp /bin/busybox /srv/set; chmod 4711 /srv/set";
const TOLD: &str = "C /bin
D /bin/wget
C /etc/group
C /etc/passwd
C /home
A /home/own
A /srv
A /srv/deep
A /srv/deep/er
A /srv/deep/er/file
A /srv/fifo
A /srv/hard
A /srv/set
A /srv/soft";

fn exported(hull: &Hull, container: &str) -> Tree {
    let path = hull.file("exported.tar");
    hull.ok(&["export", "-o", &path, container]);
    of_tar(File::open(&path).expect("what was exported"))
}

/// Without what Hull makes for its mounts, which an image does not get, and the times of the folders that it is in.
fn own(mut tree: Tree) -> Tree {
    for made in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        tree.remove(Path::new(made));
    }
    tree
}

/// The tree of an image: what a container that never ran exports.
fn tree_of(hull: &Hull, image: &str) -> Tree {
    let id = hull.ok(&["create", image, "true"]);
    let tree = exported(hull, &id);
    hull.ok(&["rm", &id]);
    tree
}

#[test]
fn a_container_s_changes_are_told_and_kept_in_an_image() {
    let mut hull = Hull::with_busybox();
    hull.ok(&["run", "--name", "box", "busybox", "sh", "-c", CHANGE]);
    // The image has no /etc/hosts: making it changed the time of /etc, which the container did not.
    assert_eq!(hull.ok(&["diff", "box"]), TOLD);
    let id = hull.ok(&["commit", "-a", "an author", "-m", "a message", "-c", "CMD [\"true\"]", "box", "made:1"]);
    hull.keep_stored();
    assert_eq!(hull.inspect("made:1")["Id"], id.as_str());
    let differ = differences(&tree_of(&hull, "made:1"), &own(exported(&hull, "box")));
    assert_eq!(differ, Vec::<String>::new());
    assert_eq!(hull.ok(&["run", "--rm", "made:1", "cat", "/srv/hard"]), "content");
    assert_eq!(
        hull.ok(&["run", "--rm", "made:1", "sh", "-c", "stat -c '%a %u %h' /srv/deep /srv/set /srv/hard"]),
        "1755 7 3\n4711 0 1\n644 0 2"
    );
    hull.run(&["run", "--rm", "made:1", "ls", "/bin/wget"]).expect(1);
    let all = hull.inspect("made:1");
    let base = hull.inspect("busybox");
    let layers = |all: &Value| all["RootFS"]["Layers"].as_array().expect("layers").clone();
    assert_eq!(layers(&all)[..layers(&all).len() - 1], layers(&base)[..]);
    assert_eq!((&all["Author"], &all["Config"]["Cmd"]), (&json!("an author"), &json!(["true"])));
    let history = hull.ok(&["history", "--no-trunc", "--format", "{{.Comment}}|{{.CreatedBy}}", "made:1"]);
    assert!(history.lines().next().expect("a step").starts_with("a message|sh -c "), "{history}");
}

#[test]
fn equal_changes_are_equal_images() {
    let mut hull = Hull::with_busybox();
    let mut ids = Vec::new();
    for (name, flags) in [("one", &[][..]), ("two", &[]), ("three", &["--userns", "private"])] {
        // Times are set, also of folders, since the test is about everything else.
        let script = format!("{CHANGE}; find /etc /home /bin /srv -xdev | xargs touch -h -d '2001-02-03 04:05:06'");
        let script = script.replace("mkfifo", "chmod 755 /etc; mkfifo");
        hull.ok(&[&["run", "--name", name], flags, &["busybox", "sh", "-c", &script]].concat());
        let mut command = hull.command(&["commit", "-c", "CMD sh", "-c", "ENTRYPOINT []", name]);
        let output = command.env("SOURCE_DATE_EPOCH", "1700000000").output().expect("hull");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ids.push(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        hull.keep_stored();
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[0], ids[2], "owners of a user namespace are given back");
    assert!(hull.ok(&["history", "--human=false", &ids[0]]).contains("2023-11-14T22:13:20Z"));
}

#[test]
fn a_running_container_is_frozen_meanwhile_and_goes_on() {
    let mut hull = Hull::with_busybox();
    let id = hull.background(
        &["-v", "vol:/data", "--tmpfs", "/scratch"],
        "echo x > /data/in; echo x > /scratch/in; echo y > /own; exec sleep 1000",
    );
    wait_for("the file", || hull.ok(&["diff", &id]).contains("A /own").then_some(()));
    let told = hull.ok(&["diff", &id]);
    assert!(told.lines().all(|line| !line.contains("/in") && !line.contains("hosts")), "{told}");
    for flags in [&[][..], &["--no-pause"], &["--pause=false"]] {
        hull.ok(&[&["commit"], flags, &[&id, "kept"]].concat());
        hull.keep_stored();
        assert_eq!(hull.status(&id), "running", "{flags:?}");
    }
    assert_eq!(
        hull.ok(&["run", "--rm", "kept", "sh", "-c", "cat /own; ls /data /scratch | wc -l"]).lines().next(),
        Some("y")
    );
    hull.ok(&["pause", &id]);
    hull.ok(&["commit", &id, "kept"]);
    hull.keep_stored();
    assert_eq!(hull.status(&id), "paused", "one that was paused stays so");
    hull.ok(&["unpause", &id]);
    let tree = exported(&hull, &id);
    assert!(tree.contains_key(Path::new("own")) && !tree.contains_key(Path::new("data/in")));
}

#[test]
fn nothing_changed_is_no_layer() {
    let mut hull = Hull::with_busybox();
    hull.ok(&["run", "--name", "box", "busybox", "true"]);
    assert_eq!(hull.ok(&["diff", "box"]), "");
    hull.ok(&["commit", "-c", "LABEL a=b", "box", "same"]);
    hull.keep_stored();
    let (same, base) = (hull.inspect("same"), hull.inspect("busybox"));
    assert_eq!(same["RootFS"], base["RootFS"]);
    assert_eq!(same["Config"]["Labels"]["a"], "b");
    assert_eq!(same["Config"]["Cmd"], json!(["true"]), "what the container ran");
}

#[test]
fn what_cannot_be_committed_is_refused_by_name() {
    let hull = Hull::with_busybox();
    hull.ok(&["create", "--name", "box", "busybox"]);
    hull.ok(&["create", "--name", "builtin", "hello"]);
    assert!(hull.refused(1, &["commit", "builtin"]).contains("built-in image hello"));
    assert!(hull.refused(1, &["commit", "-c", "RUN true", "box"]).contains("RUN"));
    hull.refused(1, &["commit", "box", "BAD NAME"]);
    hull.refused(1, &["commit", "nosuch"]);
    hull.refused(1, &["diff", "nosuch"]);
    hull.refused(1, &["export", "-o", &hull.file("x"), "nosuch"]);
    assert!(!Path::new(&hull.file("x")).exists(), "nothing is left");
    assert_eq!(hull.ok(&["images", "-q"]).lines().count(), 1);
}
