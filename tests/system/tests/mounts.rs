//! The root file system and everything mounted into it: read-only roots, tmpfs, binds, volumes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use system_tests::archive::{Image, Layer};
use system_tests::{Hull, image};

/// The line of the container's mountinfo for a mount point.
#[track_caller]
fn mount_line(hull: &Hull, flags: &[&str], place: &str) -> String {
    let text = hull.inside(flags, "cat /proc/self/mountinfo");
    let found = text.lines().rfind(|line| line.split(' ').nth(4) == Some(place));
    found.unwrap_or_else(|| panic!("no mount on {place} in\n{text}")).to_owned()
}

#[test]
fn five_layers_show_the_topmost_of_everything_fallback() {
    let mut hull = Hull::new();
    hull.load(&image("five-layers.docker.tar"));
    let run = |script: &str| hull.ok(&["run", "--rm", "five-layers", "sh", "-c", script]);
    assert_eq!(run("cat /srv/top"), "layer 4");
    assert_eq!(run("ls /srv"), "layer1\nlayer2\nlayer3\nlayer4\nonly4\ntop");
    assert_eq!(run("cat /srv/layer*/data | wc -c"), (4 * 64 * 1024).to_string());
    assert_eq!(run("ls -a /srv | sed -n /wh/p"), "", "no whiteout shows");
}

#[test]
fn what_one_container_writes_no_other_sees_fallback() {
    let hull = Hull::with_busybox();
    assert_eq!(hull.inside(&[], "echo x > /made; rm /etc/group; cat /made; ls /etc/group 2>/dev/null | wc -l"), "x\n0");
    hull.sh(&[], "test ! -e /made && test -e /etc/group").expect(0);
    let id = hull.ok(&["create", "busybox", "sh", "-c", "echo line >> /made; wc -l < /made"]);
    for count in ["1", "2"] {
        assert_eq!(hull.ok(&["start", "-a", &id]), count, "a container keeps what it wrote");
    }
}

#[test]
fn a_read_only_root_is_that() {
    let hull = Hull::with_busybox();
    let run = hull.sh(&["--read-only"], "touch /x").expect(1);
    assert!(run.stderr.contains("Read-only file system"), "{run:#?}");
    let flags = ["--read-only", "--tmpfs", "/scratch", "-v", "/data"];
    hull.sh(&flags, "touch /scratch/x /data/x /dev/shm/x").expect(0);
}

#[test]
fn a_tmpfs_has_its_options() {
    let hull = Hull::with_busybox();
    let line = mount_line(&hull, &["--tmpfs", "/x"], "/x");
    assert!(line.contains("nosuid,nodev,noexec") && line.contains(" - tmpfs "), "{line}");
    let line = mount_line(&hull, &["--tmpfs", "/x:size=1m,mode=700,exec"], "/x");
    assert!(line.contains("size=1024k") && line.contains("mode=700") && !line.contains("noexec"), "{line}");
    let run = hull.sh(&["--tmpfs", "/x:size=1m"], "dd if=/dev/zero of=/x/file bs=1M count=2");
    assert!(run.code != 0 && run.stderr.contains("No space left"), "{run:#?}");
    let line = mount_line(&hull, &["--mount", "type=tmpfs,dst=/x,tmpfs-size=2m,tmpfs-mode=1770"], "/x");
    assert!(line.contains("size=2048k") && line.contains("mode=1770"), "{line}");
}

#[test]
fn a_bind_is_the_machines_own_folder() {
    let hull = Hull::with_busybox();
    let folder = hull.make_folder("shared");
    let bind = format!("{folder}:/shared");
    hull.sh(&["-v", &bind], "echo inside > /shared/made").expect(0);
    assert_eq!(fs::read_to_string(format!("{folder}/made")).expect("the file"), "inside\n");
    for flags in [["-v", &format!("{bind}:ro")], ["--mount", &format!("type=bind,src={folder},dst=/shared,ro")]] {
        let run = hull.sh(&flags, "cat /shared/made; touch /shared/other").expect(1);
        assert!(run.text() == "inside" && run.stderr.contains("Read-only file system"), "{run:#?}");
    }
    let file = hull.write("file", "of the machine");
    assert_eq!(hull.inside(&["-v", &format!("{file}:/etc/motd:ro")], "cat /etc/motd"), "of the machine");
}

#[test]
fn a_missing_bind_source_is_made_by_v_and_refused_by_mount() {
    let hull = Hull::with_busybox();
    let missing = hull.file("missing");
    let said =
        hull.refused(125, &["run", "--rm", "--mount", &format!("type=bind,src={missing},dst=/x"), "busybox", "true"]);
    assert!(said.contains(&missing), "{said}");
    assert!(!Path::new(&missing).exists());
    hull.sh(&["-v", &format!("{missing}:/x")], "touch /x/made").expect(0);
    assert!(Path::new(&missing).join("made").exists());
}

#[test]
fn a_submount_comes_along_and_propagation_is_as_asked() {
    let hull = Hull::with_busybox();
    let folder = hull.make_folder("shared");
    let line = mount_line(&hull, &["-v", &format!("{folder}:/x")], "/x");
    assert!(!line.contains("shared:") && !line.contains("master:"), "private by default: {line}");
    let line = mount_line(&hull, &["-v", "/proc:/x:ro"], "/x");
    assert!(line.contains(" - proc "), "{line}");
    let said = hull.run(&["run", "--rm", "-v", &format!("{folder}:/x:bogus"), "busybox", "true"]).expect(125).stderr;
    assert!(said.contains("bogus"), "{said}");
}

/// An image may not lead a mount out of the container's root with links.
#[test]
fn a_link_in_the_image_does_not_lead_a_mount_outside() {
    let mut hull = Hull::new();
    let outside = hull.make_folder("outside");
    let layer = Layer::new().symlink("evil", &outside).symlink("dots", &format!("../../../../../..{outside}"));
    let archive = hull.files().join("evil.tar");
    Image::new("evil", json!({"Cmd": ["sh"]})).layer(layer).write(&archive);
    hull.load(&archive);
    let source = hull.make_folder("source");
    hull.write("source/word", "hello");
    for link in ["evil", "dots"] {
        let bind = format!("{source}:/{link}/made");
        let text = hull.ok(&["run", "--rm", "-v", &bind, "evil", "cat", &format!("{outside}/made/word")]);
        assert_eq!(text, "hello");
        hull.ok(&["run", "--rm", "-w", &format!("/{link}/work"), "evil", "true"]);
        hull.ok(&["run", "--rm", "-v", &format!("/{link}/volume"), "evil", "true"]);
    }
    assert_eq!(fs::read_dir(&outside).expect("the folder").count(), 0, "nothing was made outside");
}

#[test]
fn a_named_volume_is_filled_from_the_image_and_lasts() {
    let mut hull = Hull::with_busybox();
    let listed = hull.inside(&["-v", "settings:/etc"], "cat /etc/group | wc -l; echo mine > /etc/own");
    assert_eq!(listed, "3");
    assert_eq!(hull.inside(&["-v", "settings:/x"], "cat /x/own; cat /x/group | wc -l"), "mine\n3");
    let run = hull.sh(&["-v", "settings:/x:ro"], "touch /x/y").expect(1);
    assert!(run.stderr.contains("Read-only file system"), "{run:#?}");
    let other = ["--mount", "type=volume,src=empty,dst=/etc/init.d,volume-nocopy"];
    assert_eq!(hull.inside(&other, "ls -A /etc/init.d"), "");
    for name in ["settings", "empty"] {
        assert!(hull.roots().volumes().join(name).exists(), "{name} outlives its containers");
    }
    hull.keep_stored();
}

#[test]
fn an_anonymous_volume_is_filled_and_goes_with_rm() {
    let hull = Hull::with_busybox();
    let volumes = || fs::read_dir(hull.roots().volumes()).map_or(0, Iterator::count);
    assert_eq!(hull.inside(&["-v", "/etc"], "cat /etc/group | wc -l"), "3");
    assert_eq!(volumes(), 0);
    let id = hull.ok(&["run", "-d", "-v", "/etc", "busybox", "sleep", "1000"]);
    assert_eq!(volumes(), 1);
    let mount = &hull.inspect(&id)["Mounts"][0];
    assert_eq!((mount["Type"].as_str(), mount["Destination"].as_str()), (Some("volume"), Some("/etc")), "{mount}");
    assert!(Path::new(mount["Source"].as_str().expect("a path")).join("group").exists(), "{mount}");
    hull.ok(&["rm", "-f", "-v", &id]);
    assert_eq!(volumes(), 0);
}

#[test]
fn an_images_volumes_are_anonymous_ones() {
    let mut hull = Hull::new();
    let archive = hull.files().join("data.tar");
    let layer = Layer::new().folder("data", 0o750, 1000).file("data/seed", b"from the image");
    Image::new("data", json!({"Cmd": ["cat", "/data/seed"], "Volumes": {"/data": {}}})).layer(layer).write(&archive);
    hull.load(&archive);
    assert_eq!(hull.ok(&["run", "--rm", "data"]), "from the image");
    let stat = hull.ok(&["run", "--rm", "data", "stat", "-c", "%u:%g %a", "/data"]);
    assert_eq!(stat, "1000:1000 750", "the folder's owner and mode come along");
    let line = hull.ok(&["run", "--rm", "data", "grep", " /data ", "/proc/self/mountinfo"]);
    assert!(line.contains("/volumes/") || line.contains("_data"), "{line}");
    let folder = hull.make_folder("own");
    let said = hull.ok(&["run", "--rm", "-v", &format!("{folder}:/data"), "data", "ls", "-A", "/data"]);
    assert_eq!(said, "", "a bind takes the volume's place");
}

#[test]
fn a_container_may_mount_on_a_file_and_below_a_mount() {
    let hull = Hull::with_busybox();
    let file = hull.write("hosts", "1.2.3.4 five");
    let flags = ["--tmpfs", "/a", "-v", &format!("{file}:/a/b/hosts"), "-v", &format!("{file}:/etc/hosts")];
    assert_eq!(hull.inside(&flags, "cat /a/b/hosts /etc/hosts"), "1.2.3.4 five1.2.3.4 five");
}

#[test]
fn files_are_given_to_the_containers_user() {
    let hull = Hull::with_busybox();
    let folder = hull.make_folder("mine");
    hull.write("mine/file", "");
    let outside = hull.write("outside", "");
    std::os::unix::fs::symlink(&outside, format!("{folder}/link")).expect("a link");
    let bind = format!("{folder}:/mine:U");
    let owners = "stat -c %u:%g /mine /mine/file && touch /mine/made";
    assert_eq!(hull.inside(&["-u", "1234:2345", "-v", &bind], owners), "1234:2345\n1234:2345");
    let owner = |path: &str| fs::symlink_metadata(path).map(|found| found.uid()).expect("a file");
    assert_eq!((owner(&format!("{folder}/link")), owner(&outside)), (1234, 0), "a link, and not where it leads");
    // In a user namespace the ids on disk are the shifted ones, unless the mount shifts them.
    let shifted = ["--userns", "private", "-u", "7:8", "-v"];
    assert_eq!(hull.inside(&[&shifted[..], &[&bind]].concat(), owners), "7:8\n7:8");
    assert!(owner(&folder) > 65535, "{}", owner(&folder));
    let idmap = format!("{folder}:/mine:U,idmap");
    assert_eq!(hull.inside(&[&shifted[..], &[&idmap]].concat(), owners), "7:8\n7:8");
    assert_eq!((owner(&folder), owner(&format!("{folder}/made"))), (7, 7));
    let volume = ["-u", "9", "--mount", "type=volume,src=kept,dst=/mine,U=true"];
    assert_eq!(hull.inside(&volume, "touch /mine/x && stat -c %u /mine"), "9");
    for system in ["/", "/etc", "/usr/../etc"] {
        let said = hull.refused(125, &["create", "-v", &format!("{system}:/mine:U"), "busybox", "true"]);
        assert!(said.contains("changing the owner of /"), "{said}");
    }
    assert_eq!(hull.ok(&["ps", "-aq"]), "");
    hull.ok(&["volume", "rm", "kept"]);
}

#[test]
fn one_container_gets_the_volumes_of_another() {
    let hull = Hull::with_busybox();
    let folder = hull.make_folder("shared");
    let bind = format!("{folder}:/shared");
    hull.ok(&["run", "--name", "lender", "-v", "/data", "-v", &bind, "--tmpfs", "/t", "busybox", "touch", "/data/x"]);
    assert_eq!(
        hull.inside(&["--volumes-from", "lender"], "touch /shared/y; ls /data; test -e /t || echo none"),
        "x\nnone"
    );
    assert!(Path::new(&folder).join("y").exists());
    let run = hull.sh(&["--volumes-from", "lender:ro"], "ls /data; touch /data/z").expect(1);
    assert!(run.text() == "x" && run.stderr.contains("Read-only file system"), "{run:#?}");
    assert_eq!(hull.inside(&["--volumes-from", "lender", "-v", "other:/data"], "ls /data; ls /shared"), "y");
    let id = hull.ok(&["create", "--volumes-from", "lender:ro", "busybox", "ls", "/data"]);
    assert_eq!(hull.inspect(&id)["HostConfig"]["VolumesFrom"], json!(["lender:ro"]));
    hull.ok(&["rm", "-v", "lender"]);
    assert_eq!(hull.ok(&["start", "-a", &id]), "x", "a volume stays while a container has it");
    hull.ok(&["rm", "-v", &id]);
    assert_eq!(hull.ok(&["volume", "ls", "-q"]), "other");
    assert!(hull.refused(125, &["create", "--volumes-from", "nobody", "busybox"]).contains("nobody"));
    hull.refused(125, &["create", "--volumes-from", "nobody:zz", "busybox"]);
    hull.ok(&["volume", "rm", "other"]);
}
