//! config.json: whatever it holds, it is read or refused, read again the same when written, and planned or refused.
//!
//! Planning opens sources and changes nothing; the bundle is an empty folder, and file systems are not asked for.
#![no_main]

use std::path::Path;

use hull_oci::runtime::Spec;
use hull_runtime::plan::{CgroupDriver, PlanOptions, RootSource, plan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = serde_json::from_slice::<Spec>(bytes) else { return };
    let text = serde_json::to_vec(&spec).expect("a spec that was read is written");
    let again: Spec = serde_json::from_slice(&text).expect("a spec that was written is read");
    assert_eq!(text, serde_json::to_vec(&again).expect("and written again"));
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
