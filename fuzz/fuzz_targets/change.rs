//! The instructions of `--change`: they are carried out or refused with their own text, and what comes out is the
//! `config` object of an image that is read again.
//!
//! The input is one instruction a line.
#![no_main]

use hull_image::archive::apply_changes;
use hull_oci::image::ImageConfiguration;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|text: &str| {
    let changes: Vec<String> = text.lines().map(str::to_owned).collect();
    match apply_changes(serde_json::Map::new(), &changes) {
        Err(error) => assert!(changes.contains(&error.change)),
        Ok(config) => {
            let image = json!({
                "os": "linux", "architecture": "amd64", "config": config,
                "rootfs": {"type": "layers", "diff_ids": []},
            });
            serde_json::from_value::<ImageConfiguration>(image).expect("a configuration");
        }
    }
});
