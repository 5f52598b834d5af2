//! CVE-2021-43784: a length that is too large for its field in what the runtime sends to its first process, so that the
//! rest of the data is read as something else, for instance as no user namespace at all.
//!
//! Hull sends nothing of the kind: its first process is a clone with the whole plan in memory. What is left are the
//! kernel's own limits, which are told as errors.

use std::fs;

use serde_json::{Value, json};
use system_tests::bundle::Bundle;

use super::in_root;

/// Id maps of more than 65535 bytes, whose first line alone would be harmless.
///
/// Seen to succeed with `write_id_map` writing as many bytes as a 16-bit length says.
#[test]
fn id_maps_longer_than_a_16_bit_length_are_not_cut() {
    let bundle = Bundle::script("touch /ran; cat /proc/self/uid_map", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.push(json!({"type": "user"}));
        let first = json!({"containerID": 0, "hostID": 100_000, "size": 1000});
        config["linux"]["gidMappings"] = json!([first]);
        // Each of the others is 32 bytes long as a line of the map.
        let others = (0..2048)
            .map(|n| json!({"containerID": 1_000_000_000 + n, "hostID": 1_000_000_000 + n, "size": 100_000_001}));
        config["linux"]["uidMappings"] = Value::Array([first].into_iter().chain(others).collect());
    });
    let run = bundle.run_container("maps");
    assert!(run.code != 0 && run.stderr.contains("uid_map"), "{run:#?}");
    assert!(!in_root(&bundle, "ran").exists(), "{run:#?}");
}

/// A name of 64 KiB and more in every place where a path is taken, and 64 MiB of them.
///
/// Seen to fail with `Places::present` taking a name that is too long for one that is not there.
#[test]
fn a_huge_spec_is_refused_or_works() {
    const MEBIBYTES: usize = 64;
    let long = |bytes: usize| "a/".repeat(bytes / 2);
    let bundle = Bundle::script("echo fine", |config| {
        config["annotations"] = json!({"long": long(1024 * 1024)});
    });
    assert_eq!(bundle.run_container("huge").expect(0).text(), "fine");
    let refused = |what: &str, change: &dyn Fn(&mut Value)| {
        let saved = fs::read(format!("{}/config.json", bundle.folder)).expect("config.json");
        bundle.configure(change);
        let run = bundle.run_container("huge");
        assert!(run.code != 0 && run.stdout.is_empty() && !run.stderr.is_empty(), "{what}: {}", run.code);
        assert!(run.stderr.len() < 1024 * 1024 && !run.stderr.contains("talking to"), "{what}: {:.2000}", run.stderr);
        fs::write(format!("{}/config.json", bundle.folder), saved).expect("config.json");
    };
    let path = format!("/{}", long(65536 + 8));
    refused("a namespace", &|config| config["linux"]["namespaces"][1]["path"] = json!(path));
    refused("a program", &|config| config["process"]["args"] = json!([path]));
    refused("a working directory", &|config| config["process"]["cwd"] = json!(path));
    refused("a mount's source", &|config| {
        config["mounts"][0] = json!({"destination": "/proc", "type": "bind", "source": path, "options": ["bind"]});
    });
    refused("a mount's destination", &|config| config["mounts"][3]["destination"] = json!(path));
    refused("a masked path", &|config| config["linux"]["maskedPaths"] = json!([path]));
    refused("sixty-four mebibytes of mounts", &|config| {
        let mount = json!({"destination": path, "type": "tmpfs", "source": "tmpfs"});
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.extend(std::iter::repeat_n(mount, MEBIBYTES * 1024 * 1024 / path.len()));
    });
}
