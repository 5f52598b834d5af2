//! `mounts` of config.json: what each option does in a container of the OCI command line.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};
use system_tests::{Bundle, is_vm};

fn add(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("mounts").push(mount);
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// Replaces the mount at a destination.
fn replace(config: &mut Value, destination: &str, mount: Value) {
    let mounts = config["mounts"].as_array_mut().expect("mounts");
    let place = mounts.iter_mut().find(|mount| mount["destination"] == destination).expect("a mount there");
    *place = mount;
}

/// A bundle with the mounts given, in which a script prints what is expected.
#[track_caller]
fn prints(script: &str, expected: &str, change: impl FnOnce(&mut Value)) {
    let run = Bundle::script(script, change).run_container("mount").expect(0);
    assert_eq!(run.text(), expected, "{run:#?}");
}

#[track_caller]
fn fails(said: &str, change: impl FnOnce(&mut Value)) {
    let run = Bundle::script("true", change).run_container("mount");
    assert!(run.code != 0 && run.stderr.contains(said), "{run:#?}");
}

#[test]
fn a_remount_changes_what_is_mounted() {
    let script = "touch /data/x || grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6; \
                  stat -f -c %b /small; ls /proc | grep -c '^1$'";
    prints(script, "ro,nosuid,relatime\n16\n1", |config| {
        add(
            config,
            json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        );
        add(config, bind("none", "/data", &["bind", "remount", "ro"]));
        add(config, json!({"destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}));
        add(
            config,
            json!({"destination": "/small", "type": "tmpfs", "source": "x", "options": ["remount", "size=64k"]}),
        );
    });
    fails("nothing is mounted there", |config| add(config, bind("none", "/etc", &["bind", "remount", "ro"])));
}

#[test]
fn a_mount_has_a_map_of_its_own() {
    let bundle = Bundle::script("stat -c %u:%g /data/file /plain/file; touch /data/made; echo $?", |_| {});
    let folder = bundle.hull.make_folder("owned");
    fs::write(format!("{folder}/file"), "").expect("a file");
    bundle.configure(|config| {
        config["root"]["readonly"] = json!(false);
        let mut mapped = bind(&folder, "/data", &["bind", "idmap"]);
        mapped["uidMappings"] = json!([{"containerID": 0, "hostID": 1234, "size": 10}]);
        mapped["gidMappings"] = json!([{"containerID": 0, "hostID": 4321, "size": 10}]);
        add(config, mapped);
        add(config, bind(&folder, "/plain", &["bind"]));
    });
    let run = bundle.run_container("idmap").expect(0);
    // Root of the host is nobody in the mount, and cannot make files there that would have no owner on disk.
    assert_eq!(run.stdout.lines().collect::<Vec<_>>(), ["1234:4321", "0:0", "1"], "{run:#?}");
}

#[test]
fn a_mount_without_a_map_has_that_of_the_containers_user_namespace() {
    let bundle = Bundle::script("stat -c %u:%g /data/file /own/file", |_| {});
    let folder = bundle.hull.make_folder("owned");
    fs::write(format!("{folder}/file"), "").expect("a file");
    for place in ["data", "own"] {
        bundle.hull.make_folder(&format!("bundle/rootfs/{place}"));
    }
    fs::set_permissions(&bundle.folder, fs::Permissions::from_mode(0o755)).expect("permissions");
    bundle.configure(|config| {
        with_user_namespace(config);
        add(config, bind(&folder, "/data", &["bind", "ridmap"]));
        let mut mapped = bind(&folder, "/own", &["bind"]);
        mapped["uidMappings"] = json!([{"containerID": 0, "hostID": 100_007, "size": 10}]);
        mapped["gidMappings"] = json!([{"containerID": 0, "hostID": 100_008, "size": 10}]);
        add(config, mapped);
    });
    assert_eq!(bundle.run_container("idmap").expect(0).text(), "0:0\n7:8");
}

fn with_user_namespace(config: &mut Value) {
    config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
    for kind in ["uidMappings", "gidMappings"] {
        config["linux"][kind] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    }
}

fn without(config: &mut Value, namespace: &str) {
    config["linux"]["namespaces"].as_array_mut().expect("namespaces").retain(|one| one["type"] != namespace);
}

#[test]
fn recursive_options_reach_what_is_below() {
    let bundle = Bundle::script("grep -e ' /data' /proc/self/mountinfo | cut -d' ' -f5,6", |_| {});
    let folder = bundle.hull.make_folder("tree");
    bundle.configure(|config| {
        fs::create_dir(format!("{folder}/below")).expect("a folder");
        add(config, bind(&folder, "/data", &["rbind", "rnosuid", "rnodev", "rnoexec", "rnosymfollow", "noatime"]));
        add(config, json!({"destination": "/data/below", "type": "tmpfs", "source": "tmpfs"}));
        add(config, bind("none", "/data", &["rbind", "remount", "rro", "rnodiratime"]));
    });
    let run = bundle.run_container("recursive").expect(0);
    let options = |line: &str| line.split([' ', ',']).map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = run.stdout.lines().map(options).collect();
    assert_eq!(lines.len(), 2, "{run:#?}");
    for word in ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"] {
        assert!(lines[0].iter().any(|option| option == word), "{word} in {run:#?}");
    }
    assert!(["ro", "nodiratime"].iter().all(|word| lines[1].iter().any(|option| option == word)), "{run:#?}");
    assert!(!lines[1].iter().any(|option| option == "nosuid"), "{run:#?}");
}

#[test]
fn links_are_not_followed_where_that_is_asked() {
    let bundle = Bundle::script("cat /data/file; cat /data/link || echo no; cat /other/link", |_| {});
    let folder = bundle.hull.make_folder("links");
    fs::write(format!("{folder}/file"), "text\n").expect("a file");
    symlink("file", format!("{folder}/link")).expect("a link");
    bundle.configure(|config| {
        add(config, bind(&folder, "/data", &["bind", "nosymfollow"]));
        add(config, bind(&folder, "/other", &["bind"]));
    });
    assert_eq!(bundle.run_container("links").expect(0).text(), "text\nno\ntext");
}

#[test]
fn a_tmpfs_takes_over_the_mode_and_on_wish_the_files() {
    let bundle = Bundle::script("stat -c %a /sticky /asked /new /full; cat /full/file; touch /full/x", |_| {});
    for (name, mode) in [("sticky", 0o1750), ("asked", 0o700), ("full", 0o711)] {
        let folder = bundle.hull.make_folder(&format!("bundle/rootfs/{name}"));
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("permissions");
    }
    fs::write(bundle.hull.file("bundle/rootfs/full/file"), "kept\n").expect("a file");
    bundle.configure(|config| {
        let tmpfs = |place: &str, options: &[&str]| {
            json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
        };
        add(config, tmpfs("/sticky", &[]));
        add(config, tmpfs("/asked", &["mode=755"]));
        config["root"]["readonly"] = json!(false);
        add(config, tmpfs("/new", &[]));
        add(config, tmpfs("/full", &["tmpcopyup", "ro"]));
    });
    let run = bundle.run_container("tmpfs").expect(1);
    assert_eq!(run.text(), "1750\n755\n1777\n711\nkept");
    assert!(run.stderr.to_lowercase().contains("read-only"), "{run:#?}");
}

#[test]
fn a_read_only_dev_has_its_nodes() {
    prints(
        "echo x > /dev/null && test -c /dev/zero && touch /dev/x; test -d /ro/below && touch /ro/y; echo $?",
        "1",
        |config| {
            let options = ["nosuid", "strictatime", "mode=755", "size=65536k", "ro"];
            replace(
                config,
                "/dev",
                json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": options}),
            );
            add(config, json!({"destination": "/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}));
            add(config, json!({"destination": "/ro/below", "type": "tmpfs", "source": "tmpfs"}));
            config["root"]["readonly"] = json!(false);
        },
    );
}

#[test]
fn propagations_are_given_in_their_order() {
    let bundle = Bundle::script("grep -e ' /[ab] ' /proc/self/mountinfo | cut -d' ' -f5,7,8", |_| {});
    let folder = bundle.hull.make_folder("tree");
    bundle.configure(|config| {
        add(config, bind(&folder, "/a", &["bind", "private", "shared"]));
        add(config, bind(&folder, "/b", &["bind", "shared", "private"]));
    });
    let run = bundle.run_container("propagation").expect(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines[0].starts_with("/a shared:") && lines[1].starts_with("/b - "), "{run:#?}");
}

#[test]
fn a_destination_is_read_from_the_root() {
    let script = "test -d /relative && test -d /b && test -f /file && grep -c -e ' /relative ' -e ' /b ' -e ' /file ' /proc/self/mountinfo";
    prints(script, "3", |config| {
        config["root"]["readonly"] = json!(false);
        for place in ["relative", "/missing/../b"] {
            add(config, json!({"destination": place, "type": "tmpfs", "source": "tmpfs"}));
        }
        let file = system_tests::hull().expect("HULL_BIN").display().to_string();
        add(config, bind(&file, "/file", &["bind"]));
    });
    fails("mounts[0].destination is not supported", |config| {
        config["mounts"] = json!([{"destination": "/x/..", "type": "tmpfs", "source": "tmpfs"}]);
    });
}

#[test]
fn procfs_takes_its_options() {
    let script = "ls /proc | grep -v '^[0-9]' | tr '\\n' ' '; cat /sys/../proc/1/comm; hostname";
    prints(script, "self thread-self sh\nbox", |config| {
        let options = ["nosuid", "noexec", "nodev", "subset=pid", "hidepid=ptraceable"];
        replace(config, "/proc", json!({"destination": "/proc", "type": "proc", "source": "proc", "options": options}));
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        config["hostname"] = json!("box");
    });
    fails("hidepid", |config| {
        let options = ["hidepid=nonsense"];
        replace(config, "/proc", json!({"destination": "/proc", "type": "proc", "source": "proc", "options": options}));
    });
}

#[test]
fn sysfs_without_a_network_namespace_is_the_hosts() {
    let script = "test -d /sys/class/net/lo && grep ' /sys ' /proc/self/mountinfo; touch /sys/x || echo no";
    let bundle = Bundle::script(script, |config| {
        with_user_namespace(config);
        without(config, "network");
    });
    fs::set_permissions(&bundle.folder, fs::Permissions::from_mode(0o755)).expect("permissions");
    let run = bundle.run_container("sysfs").expect(0);
    assert!(run.stdout.contains(" - sysfs ") && run.stdout.ends_with("\nno\n"), "{run:#?}");
}

#[test]
fn cgroups_without_a_namespace_are_the_containers_own() {
    let script = "echo $$; grep -x $$ /sys/fs/cgroup/pids/cgroup.procs 2>/dev/null; \
                  grep -c ' /sys/fs/cgroup' /proc/self/mountinfo; mkdir /sys/fs/cgroup/pids/x 2>/dev/null || echo no";
    let bundle = Bundle::script(script, |config| {
        without(config, "cgroup");
        without(config, "pid");
        let options = ["nosuid", "noexec", "nodev", "ro"];
        let cgroup = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options});
        config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["type"] != "cgroup");
        add(config, cgroup);
    });
    let run = bundle.run_container("cgroups").expect(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    match is_vm() {
        true => assert_eq!(lines[1..], ["1", "no"], "{run:#?}"),
        false => {
            assert_eq!(lines[0], lines[1], "the container alone is in its cgroup: {run:#?}");
            assert!(lines[2].parse::<u32>().expect("a number") > 3 && lines[3] == "no", "{run:#?}");
        }
    }
}

#[test]
fn version_two_is_mounted_beside_version_one() {
    let bundle = Bundle::script("cat /unified/cgroup.procs", |config| {
        add(config, json!({"destination": "/unified", "type": "cgroup2", "source": "cgroup", "options": ["ro"]}));
        config["root"]["readonly"] = json!(false);
        let spaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        spaces.retain(|one| one["type"] != "cgroup");
        spaces.push(json!({"type": "cgroup"}));
    });
    let run = bundle.run_container("cgroup2").expect(0);
    assert!(run.stdout.lines().next() == Some("1"), "{run:#?}");
}

#[test]
fn an_unmapped_group_of_terminals_is_named() {
    fails("gid=5000 is not mapped in the container's user namespace", |config| {
        with_user_namespace(config);
        let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5000"];
        let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options});
        replace(config, "/dev/pts", pts);
    });
}
