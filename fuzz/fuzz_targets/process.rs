//! process.json, which exec reads: the same as for config.json, of the process alone.
#![no_main]

use std::path::Path;

use hull_oci::runtime::{Process, Spec};
use hull_runtime::plan::{CgroupDriver, PlanOptions, RootSource, plan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(process) = serde_json::from_slice::<Process>(bytes) else { return };
    let text = serde_json::to_vec(&process).expect("a process that was read is written");
    let again: Process = serde_json::from_slice(&text).expect("a process that was written is read");
    assert_eq!(text, serde_json::to_vec(&again).expect("and written again"));
    let mut spec: Spec = serde_json::from_str(include_str!("../seeds/config/minimal.json")).expect("the seed");
    spec.process = Some(process);
    let options = PlanOptions {
        root: RootSource::Spec,
        bundle: Path::new("/var/empty"),
        streams: None,
        init: false,
        cgroup_path: None,
        cgroup_driver: CgroupDriver::Files,
        filters: None,
        sibling: false,
    };
    if let Err(error) = plan(&spec, options) {
        assert!(!error.to_string().is_empty());
    }
});
