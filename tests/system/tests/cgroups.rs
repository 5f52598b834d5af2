//! The cgroup that a container of the OCI command line is given: one that is in use, and one that is handed to its user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};
use system_tests::Bundle;
use system_tests::systemd::{all_hierarchies, unified};

/// A cgroup of somebody else, in every hierarchy, removed at the end.
struct Foreign {
    path: String,
    child: Option<Child>,
}

impl Foreign {
    fn new(name: &str) -> Foreign {
        let path = format!("/hull-foreign-{name}-{}", std::process::id());
        for folder in folders(&path) {
            fs::create_dir(&folder).expect("a cgroup");
            // A v1 cpuset takes no process before it has processors.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = fs::read_to_string(folder.join("..").join(file)).unwrap_or_default();
                if !unified() && !above.trim().is_empty() {
                    fs::write(folder.join(file), above).expect("the processors");
                }
            }
        }
        Foreign { path, child: None }
    }

    /// With a process in it.
    fn with_process(name: &str) -> Foreign {
        let mut foreign = Foreign::new(name);
        let child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        for folder in folders(&foreign.path) {
            fs::write(folder.join("cgroup.procs"), child.id().to_string()).expect("the process in its cgroup");
        }
        foreign.child = Some(child);
        foreign
    }

    fn freeze(&self, frozen: bool) {
        match unified() {
            true => fs::write(format!("/sys/fs/cgroup{}/cgroup.freeze", self.path), if frozen { "1" } else { "0" }),
            false => {
                let state = if frozen { "FROZEN" } else { "THAWED" };
                fs::write(format!("/sys/fs/cgroup/freezer{}/freezer.state", self.path), state)
            }
        }
        .expect("freezing");
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
        for folder in folders(&self.path) {
            fs::remove_dir(folder).ok();
        }
    }
}

fn folders(path: &str) -> Vec<PathBuf> {
    all_hierarchies().iter().map(|mount| mount.join(&path[1..])).collect()
}

fn at(path: &str) -> impl FnOnce(&mut Value) {
    move |config| config["linux"]["cgroupsPath"] = json!(path)
}

#[test]
fn a_cgroup_with_processes_is_refused_and_left_alone() {
    let mut foreign = Foreign::with_process("used");
    let bundle = Bundle::script("true", at(&foreign.path));
    let run = bundle.run_container("used").expect(1);
    assert!(run.stderr.contains("container's cgroup is not empty: 1 process(es) found"), "{run:#?}");
    let child = foreign.child.as_mut().expect("the process");
    assert!(child.try_wait().expect("waiting").is_none(), "the process was ended");
    let text = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).expect("/proc/PID/cgroup");
    assert!(text.lines().all(|line| line.ends_with(&foreign.path)), "{text}");
}

#[test]
fn a_frozen_cgroup_is_refused_and_an_empty_one_taken() {
    let foreign = Foreign::new("frozen");
    let bundle = Bundle::script("true", at(&foreign.path));
    foreign.freeze(true);
    let frozen = bundle.run_container("frozen");
    foreign.freeze(false);
    // An empty cgroup of v1 says FROZEN as one of v2 says frozen.
    let frozen = frozen.expect(1);
    assert!(frozen.stderr.contains("container's cgroup unexpectedly frozen"), "{frozen:#?}");
    bundle.run_container("frozen").expect(0);
}

#[test]
fn a_nested_path_is_made_and_taken_away_whole() {
    let top = format!("/hull-nested-{}", std::process::id());
    let bundle = Bundle::script("true", at(&format!("{top}/one")));
    bundle.run_container("nested").expect(0);
    for folder in folders(&top) {
        assert!(!folder.join("one").exists(), "{}", folder.display());
    }
    assert!(folders(&top).iter().all(|folder| !folder.exists()), "{top} is left");
}

#[test]
fn the_user_of_a_container_owns_its_cgroup_with_v2_alone() {
    let path = format!("/hull-owned-{}/one", std::process::id());
    let script = "cd /sys/fs/cgroup; [ ! -d pids ] || cd pids; \
                  if mkdir child 2>/dev/null; then echo made; rmdir child; else echo refused; fi; stat -c %u cgroup.procs";
    let bundle = Bundle::script(script, |config| {
        at(&path)(config);
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        for kind in ["user", "cgroup"] {
            if !namespaces.iter().any(|namespace| namespace["type"] == kind) {
                namespaces.push(json!({"type": kind}));
            }
        }
        for map in ["uidMappings", "gidMappings"] {
            config["linux"][map] = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
        }
        for mount in config["mounts"].as_array_mut().expect("mounts") {
            if mount["destination"] == "/sys/fs/cgroup" {
                mount["options"] = json!(["nosuid", "noexec", "nodev"]);
            }
        }
    });
    open_to_all(Path::new(&bundle.folder));
    let run = bundle.run_container("owned").expect(0);
    if unified() {
        assert_eq!(run.text(), "made\n0", "root of the container");
    } else {
        assert!(run.text().starts_with("refused"), "{run:#?}");
    }
}

/// Lets the container's root, which is nobody outside, through the folders above its root file system.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for part in folder.ancestors().take(3) {
        fs::set_permissions(part, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
}
