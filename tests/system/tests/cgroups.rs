//! The cgroup that a container of the OCI command line is given: one at a nested path, and one that is handed to its user.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use system_tests::Bundle;
use system_tests::systemd::{all_hierarchies, unified};

fn folders(path: &str) -> Vec<PathBuf> {
    all_hierarchies().iter().map(|mount| mount.join(&path[1..])).collect()
}

fn at(path: &str) -> impl FnOnce(&mut Value) {
    move |config| config["linux"]["cgroupsPath"] = json!(path)
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
