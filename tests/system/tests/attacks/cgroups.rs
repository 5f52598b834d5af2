//! The cgroup tree that a container sees.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use system_tests::bundle::Bundle;

/// CVE-2023-25809: without a cgroup namespace the host's tree is bind mounted, and with a user namespace that mount
/// lost its `ro`, so that root of a rootless container could write to the cgroups of its user.
///
/// Hull clones the tree and makes every mount of the clone read-only before it is attached anywhere. Root of the
/// container is root of the host here, so nothing but the mount refuses.
///
/// Seen to succeed with `plan::mounts::cgroup` not setting the attributes of the tree.
#[test]
fn the_hosts_cgroups_are_read_only_without_a_cgroup_namespace() {
    const SCRIPT: &str = "for folder in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $folder/hull-attack; \
                          echo 0 > $folder/cgroup.procs; done; echo done";
    let with_user = |config: &mut Value| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.push(json!({"type": "user"}));
        for map in ["uidMappings", "gidMappings"] {
            config["linux"][map] = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        }
    };
    for user in [false, true] {
        let bundle = Bundle::script(SCRIPT, |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != "cgroup");
            if user {
                with_user(config);
            }
        });
        let run = bundle.run_container("cgroup").expect(0);
        let made: Vec<_> =
            fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path()).collect();
        let made =
            made.iter().map(|path| path.join("hull-attack")).chain([Path::new("/sys/fs/cgroup/hull-attack").into()]);
        let made: Vec<_> = made.filter(|path| path.exists()).collect();
        for path in &made {
            fs::remove_dir(path).expect("removing what the attack made");
        }
        assert!(made.is_empty(), "{made:?}");
        let refused = run.stderr.lines().filter(|line| line.contains("Read-only file system")).count();
        assert!(refused >= 2 && run.text() == "done", "{run:#?}");
    }
}
