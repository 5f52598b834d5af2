//! Namespaces of config.json: the runtime's, joined by path, and roots entered without pivot_root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use system_tests::{Bundle, Run, wait_for};

/// A process in namespaces of its own; it ends with the test.
struct Holder(Child);

impl Holder {
    fn new(flags: &[&str], kind: &str) -> Holder {
        let words = [&["unshare"], flags, &["sleep", "1000"]].concat();
        let child = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().expect("unshare");
        let holder = Holder(child);
        wait_for("its namespaces", || {
            (number(&holder.path(kind)) != number(&format!("/proc/self/ns/{kind}"))).then_some(())
        });
        holder
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn number(path: &str) -> u64 {
    fs::metadata(path).expect("a namespace").ino()
}

fn namespaces(config: &mut Value) -> &mut Vec<Value> {
    config["linux"]["namespaces"].as_array_mut().expect("namespaces")
}

/// Replaces a namespace by one at a path.
fn join(config: &mut Value, kind: &str, path: &str) {
    namespaces(config).retain(|one| one["type"] != kind);
    namespaces(config).push(json!({"type": kind, "path": path}));
}

#[test]
fn without_namespaces_a_container_has_the_runtimes() {
    let script = "for kind in mnt pid net uts; do readlink /proc/self/ns/$kind; done; ls -d /bin; touch /made";
    let bundle = Bundle::script(script, |config| {
        namespaces(config).clear();
        config.as_object_mut().expect("an object").remove("hostname");
        config["root"]["readonly"] = json!(false);
    });
    let run = bundle.run_container("none").expect(0);
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace").display().to_string();
    let expected: Vec<String> = ["mnt", "pid", "net", "uts"].map(own).into_iter().chain(["/bin".to_owned()]).collect();
    assert_eq!(run.stdout.lines().collect::<Vec<_>>(), expected, "{run:#?}");
    assert!(fs::exists(bundle.hull.file("bundle/rootfs/made")).expect("looking"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&bundle.folder), "its mounts are gone with it: {mounts}");

    bundle.configure(|config| config["process"]["args"] = json!(["/no/such/program"]));
    assert_ne!(bundle.run_container("none").code, 0);
    let id = bundle.id("none");
    bundle.configure(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    bundle.create(&id);
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(mounts().contains(&format!("{}/rootfs/proc", bundle.folder)), "{}", mounts());
    bundle.delete(&id);
    assert!(!mounts().contains(&bundle.folder), "{}", mounts());
}

#[test]
fn a_mount_namespace_is_joined_by_path() {
    let holder = Holder::new(&["-m"], "mnt");
    let bundle = Bundle::script("readlink /proc/self/ns/mnt; test -d /proc/1 && touch /made", |config| {
        join(config, "mount", &holder.path("mnt"));
        config["root"]["readonly"] = json!(false);
    });
    let run = bundle.run_container("joined").expect(0);
    assert_eq!(run.text(), format!("mnt:[{}]", number(&holder.path("mnt"))));
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&bundle.folder), "nothing is mounted outside it: {mounts}");
    let theirs = fs::read_to_string(format!("/proc/{}/mountinfo", holder.0.id())).expect("mounts");
    assert!(theirs.contains(&format!("{}/rootfs", bundle.folder)), "{theirs}");
    let root = fs::read_dir(format!("/proc/{}/root", holder.0.id())).expect("its root").count();
    assert_eq!(root, fs::read_dir("/").expect("the root").count(), "the root of its other processes stays");
}

#[test]
fn what_belongs_to_the_host_is_joined_beside_a_new_user_namespace() {
    let holder = Holder::new(&["-n", "-u"], "net");
    let bundle = Bundle::script("readlink /proc/self/ns/net; id -u; cat /proc/self/uid_map", |config| {
        join(config, "network", &holder.path("net"));
        namespaces(config).push(json!({"type": "user"}));
        for kind in ["uidMappings", "gidMappings"] {
            config["linux"][kind] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        }
        config["mounts"]
            .as_array_mut()
            .expect("mounts")
            .retain(|mount| mount["type"] != "sysfs" && mount["type"] != "cgroup");
    });
    fs::set_permissions(&bundle.folder, fs::Permissions::from_mode(0o755)).expect("permissions");
    let run = bundle.run_container("net").expect(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[..2], [&format!("net:[{}]", number(&holder.path("net"))), "0"], "{run:#?}");
    assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
}

#[test]
fn maps_beside_a_joined_user_namespace_have_to_be_its_own() {
    let holder = Holder::new(&["-U"], "user");
    let pid = holder.0.id();
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), "0 100000 1000").expect("a map");
    }
    let bundle = Bundle::script("readlink /proc/self/ns/user; ip addr add 10.9.0.1/24 dev lo; echo $?", |config| {
        join(config, "user", &holder.path("user"));
        for kind in ["uidMappings", "gidMappings"] {
            config["linux"][kind] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        }
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_NET_ADMIN"]);
        }
    });
    fs::set_permissions(&bundle.folder, fs::Permissions::from_mode(0o755)).expect("permissions");
    let run = bundle.run_container("maps").expect(0);
    assert_eq!(run.text(), format!("user:[{}]\n0", number(&holder.path("user"))), "{run:#?}");
    bundle.configure(|config| config["linux"]["gidMappings"][0]["hostID"] = json!(100_001));
    let run = bundle.run_container("maps");
    assert!(run.code != 0 && run.stderr.contains("not those of the user namespace that is joined"), "{run:#?}");
}

#[test]
fn a_root_is_entered_without_pivot_root() {
    let script = "echo $$; grep -c ' / / ' /proc/self/mountinfo; cd ..; ls -d bin; cat /proc/self/mountinfo";
    let bundle = Bundle::script(script, |_| {});
    let id = bundle.id("nopivot");
    let run = bundle.run(&["run", "--no-pivot", "--bundle", &bundle.folder, &id]).expect(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!((lines[0], lines[2]), ("1", "bin"), "{run:#?}");
    // Seen from outside, the host's procfs is not in its mount namespace any more.
    bundle.configure(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = bundle.id("nopivot");
    let pid_file = bundle.hull.file("pid");
    let words = ["run", "--detach", "--no-pivot", "--pid-file", &pid_file, "--bundle", &bundle.folder, &id];
    let status = bundle.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runc");
    assert!(status.success());
    let pid = fs::read_to_string(&pid_file).expect("a pid");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
    assert_eq!(mounts.matches(" - proc ").count(), lines.iter().filter(|line| line.contains(" - proc ")).count());
    bundle.delete(&id);
    bundle.configure(|config| config["linux"]["rootfsPropagation"] = json!("private"));
    let run = bundle.run(&["run", "--no-pivot", "--bundle", &bundle.folder, &bundle.id("nopivot")]);
    assert!(run.code != 0 && run.stderr.contains("not safe without pivot_root"), "{run:#?}");
}

/// A user of the host without rights, and the bundle that `spec --rootless` writes for it.
const USER: u32 = 12_345;

fn rootless(script: &str) -> Bundle {
    let bundle = Bundle::script(script, |_| {});
    let files = bundle.hull.files();
    for folder in [files.parent().expect("a folder"), &files] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    fs::remove_file(format!("{}/config.json", bundle.folder)).expect("config.json");
    let run = Command::new("chown").args(["-R", &format!("{USER}:{USER}"), &bundle.folder]).status();
    assert!(run.expect("chown").success());
    bundle.hull.make_folder("run");
    std::os::unix::fs::chown(bundle.hull.file("run"), Some(USER), Some(USER)).expect("chown");
    let run = as_user(&bundle, &["spec", "--rootless", "--bundle", &bundle.folder]);
    assert_eq!(run.code, 0, "{run:#?}");
    bundle.configure(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["root"]["readonly"] = json!(false);
    });
    bundle
}

/// Hull as that user, with a state folder of the user's own.
fn as_user(bundle: &Bundle, words: &[&str]) -> Run {
    Run::new(words, user_command(bundle, words).output().expect("runc"))
}

fn user_command(bundle: &Bundle, words: &[&str]) -> Command {
    let mut command = Command::new(&bundle.runc);
    command.args(words).uid(USER).gid(USER).current_dir(&bundle.folder).stdin(Stdio::null());
    command.env("XDG_RUNTIME_DIR", bundle.hull.file("run"));
    command
}

#[test]
fn a_user_without_rights_runs_a_container() {
    let bundle = rootless(
        "id -u; cat /proc/self/setgroups; touch /made; stat -c %u /made; test -c /dev/null && echo x > /dev/null && hostname",
    );
    let id = bundle.id("rootless");
    let run = as_user(&bundle, &["run", "--bundle", &bundle.folder, &id]);
    assert_eq!((run.code, run.text()), (0, "0\ndeny\n0\nhull"), "{run:#?}");
    assert_eq!(fs::metadata(format!("{}/rootfs/made", bundle.folder)).expect("a file").uid(), USER);

    bundle.configure(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let mut detached = user_command(&bundle, &["run", "--detach", "--bundle", &bundle.folder, &id]);
    // Streams that nobody reads, so that nobody waits for their end.
    assert!(detached.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runc").success());
    assert!(fs::exists(bundle.hull.file("run/hull-oci")).expect("looking"), "the user's own state folder");
    let run = as_user(&bundle, &["exec", &id, "sh", "-c", "id -u; cat /proc/1/comm"]);
    assert_eq!((run.code, run.text()), (0, "0\nsleep"), "{run:#?}");
    let run = as_user(&bundle, &["delete", "--force", &id]);
    assert_eq!(run.code, 0, "{run:#?}");
}

#[test]
fn what_a_user_has_no_rights_for_is_refused_with_the_reason() {
    let bundle = rootless("true");
    let refused = |change: &dyn Fn(&mut Value), said: &str| {
        let before = fs::read(format!("{}/config.json", bundle.folder)).expect("config.json");
        bundle.configure(change);
        let run = as_user(&bundle, &["run", "--bundle", &bundle.folder, &bundle.id("refused")]);
        assert!(run.code != 0 && run.stderr.contains(said), "{said}: {run:#?}");
        fs::write(format!("{}/config.json", bundle.folder), before).expect("config.json");
    };
    refused(&|config| config["linux"]["resources"] = json!({"pids": {"limit": 10}}), "delegated to this user");
    refused(&|config| config["linux"]["cgroupsPath"] = json!("/hull-test-rootless"), "preparing cgroup");
    refused(&|config| config["process"]["user"]["additionalGids"] = json!([7]), "denies setgroups");
    let more = |config: &mut Value| config["linux"]["uidMappings"][0]["size"] = json!(2);
    refused(&more, "newuidmap");
}
