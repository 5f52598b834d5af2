//! The runtime-spec types against documents: what is read is written back whole.
//!
//! `data/config.json` uses every Linux field of the specification 1.3 once, so a field that these types drop, rename or
//! narrow shows up as a difference. The specification's own example is read too where it is found beside the tree.
#![forbid(unsafe_code)]

use std::path::Path;

use hull_oci::runtime::{Features, LinuxNamespaceType, Process, Spec, State, Status};
use serde_json::{Value, json};

const CONFIG: &str = include_str!("data/config.json");

#[test]
fn every_field_survives_a_round_trip() {
    let document: Value = serde_json::from_str(CONFIG).expect("the test file is JSON");
    let spec: Spec = serde_json::from_str(CONFIG).expect("the test file is a config.json");
    assert_eq!(serde_json::to_value(&spec).expect("serialises"), document);
    let linux = spec.linux.expect("there is a linux section");
    assert_eq!(linux.namespaces[2].type_, LinuxNamespaceType::Network);
    assert_eq!(linux.seccomp.expect("seccomp").syscalls[0].args[0].value, u64::MAX);
    assert_eq!(spec.process.expect("process").exec_cpu_affinity.expect("affinity").final_.as_deref(), Some("1"));
}

#[test]
fn the_specifications_own_example_is_read() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/runtime-spec-schema/example-config.json");
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    let spec: Spec = serde_json::from_str(&text).expect("a config.json");
    // The example still has one field of an older specification, which is ignored as any unknown one.
    let resources = document["linux"]["resources"].as_object_mut().expect("resources");
    resources.remove("oomScoreAdj").expect("the example's stray field");
    assert_eq!(serde_json::to_value(spec).expect("serialises"), document);
}

#[test]
fn null_and_absent_lists_are_empty() {
    let json = r#"{"ociVersion":"1.0.2","mounts":null,"annotations":null,"process":{"cwd":"/","args":null,"env":null},
        "linux":{"namespaces":null,"sysctl":null,"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":null}},
        "unknownThing":{"a":1}}"#;
    let spec: Spec = serde_json::from_str(json).expect("readable");
    assert!(spec.mounts.is_empty() && spec.annotations.is_empty());
    let written = serde_json::to_value(spec).expect("serialises");
    let expected = json!({"ociVersion":"1.0.2", "process": {"cwd":"/", "user": {"uid":0,"gid":0}},
        "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}});
    assert_eq!(written, expected);
}

#[test]
fn the_shape_is_enforced() {
    for (json, part) in [
        (r#"{}"#, "ociVersion"),
        (r#"{"ociVersion":"1","process":{"args":["sh"]}}"#, "cwd"),
        (r#"{"ociVersion":"1","root":{"readonly":true}}"#, "path"),
        (r#"{"ociVersion":"1","mounts":[{"type":"proc"}]}"#, "destination"),
        (r#"{"ociVersion":"1","linux":{"namespaces":[{"type":"net"}]}}"#, "unknown variant `net`"),
        (r#"{"ociVersion":"1","linux":{"seccomp":{}}}"#, "defaultAction"),
        (r#"{"ociVersion":"1","process":{"cwd":"/","user":{"uid":-1}}}"#, "-1"),
        (r#"{"ociVersion":"1","process":{"cwd":"/","user":{"uid":4294967296}}}"#, "4294967296"),
        (r#"{"ociVersion":"1","linux":{"uidMappings":[{"containerID":0,"size":1}]}}"#, "hostID"),
        (r#"{"ociVersion":"1","process":{"cwd":"/","rlimits":[{"type":"RLIMIT_CPU","soft":1}]}}"#, "hard"),
        (r#"{"ociVersion":"1","hostname":7}"#, "hostname"),
    ] {
        let error = serde_json::from_str::<Spec>(json).expect_err(json).to_string();
        assert!(error.contains(part) || error.contains("invalid type"), "{json}: {error}");
    }
}

#[test]
fn state_and_features_are_written_as_clients_read_them() {
    let state = State {
        oci_version: "1.3.0".into(),
        id: "c1".into(),
        status: Status::Created,
        pid: Some(42),
        bundle: "/bundle".into(),
        annotations: [("k".to_owned(), "v".to_owned())].into(),
    };
    let document = json!({"ociVersion":"1.3.0","id":"c1","status":"created","pid":42,"bundle":"/bundle",
        "annotations":{"k":"v"}});
    assert_eq!(serde_json::to_value(&state).expect("serialises"), document);
    assert_eq!(serde_json::from_value::<State>(document).expect("readable"), state);

    let features = json!({"ociVersionMin":"1.0.0","ociVersionMax":"1.3.0","hooks":[],"mountOptions":["ro"],
        "potentiallyUnsafeConfigAnnotations":["x"],
        "linux":{"namespaces":["pid"],"cgroup":{"v1":true,"systemdUser":false},
        "seccomp":{"enabled":true,"knownFlags":[],"archs":["SCMP_ARCH_X86"]},"intelRdt":{"enabled":false},
        "memoryPolicy":{"modes":["MPOL_BIND"],"flags":[]},
        "mountExtensions":{"idmap":{"enabled":true}},"netDevices":{"enabled":true}}});
    let read: Features = serde_json::from_value(features.clone()).expect("readable");
    assert_eq!(serde_json::to_value(read).expect("serialises"), features);
}

#[test]
fn a_process_document_stands_alone() {
    let process: Process = serde_json::from_str(r#"{"cwd":"/","args":["id"],"user":{"gid":5}}"#).expect("readable");
    assert_eq!((process.user.uid, process.user.gid, process.terminal), (0, 5, false));
}
