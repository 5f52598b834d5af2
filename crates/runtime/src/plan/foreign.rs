//! Documents that nobody checked: config.json and process.json with values where they do not belong.
//!
//! Two whole documents (the seeds of the fuzz targets) have some of their values replaced by strange ones; what comes out
//! is read or refused, written and read the same, and planned or refused with a reason. Planning changes nothing, and
//! the bundle is an empty folder.

use std::path::Path;

use hull_oci::runtime::{Process, Spec};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use super::{CgroupDriver, PlanOptions, RootSource, plan};

const SEEDS: [&str; 2] = [
    include_str!("../../../../fuzz/seeds/config/minimal.json"),
    include_str!("../../../../fuzz/seeds/config/full.json"),
];

/// Values of every kind that JSON has, at the edges of what fields hold.
fn strange() -> impl Strategy<Value = Value> {
    let plain = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!(""),
        json!("/"),
        json!("../.."),
        json!("a/../../b"),
        json!("\u{0}"),
        json!("x".repeat(5000)),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null]),
        json!({"": {}}),
        json!({"type": "mount"}),
        json!(["a", "b"]),
        json!(4_294_967_296_u64),
    ];
    proptest::sample::select(plain.to_vec())
}

/// Replaces the value that is number `place` in the document, counted in the order of its text, modulo their number.
fn replace(document: &mut Value, place: usize, with: Value) {
    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(items) => items.iter().map(count).sum(),
            Value::Object(fields) => fields.values().map(count).sum::<usize>(),
            _ => 0,
        }
    }
    fn find(value: &mut Value, mut place: usize) -> Option<&mut Value> {
        if place == 0 {
            return Some(value);
        }
        place -= 1;
        let inner: Vec<&mut Value> = match value {
            Value::Array(items) => items.iter_mut().collect(),
            Value::Object(fields) => fields.values_mut().collect(),
            _ => return None,
        };
        for value in inner {
            let size = count(value);
            if place < size {
                return find(value, place);
            }
            place -= size;
        }
        None
    }
    let place = place % count(document);
    if let Some(value) = find(document, place) {
        *value = with;
    }
}

fn planned(spec: &Spec) {
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
    if let Err(error) = plan(spec, options) {
        assert!(!error.to_string().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_document_makes_it_panic(
        seed in 0..SEEDS.len(),
        changes in proptest::collection::vec((any::<usize>(), strange()), 0..6),
    ) {
        let mut document: Value = serde_json::from_str(SEEDS[seed]).unwrap();
        for (place, with) in changes {
            replace(&mut document, place, with);
        }
        if let Ok(process) = serde_json::from_value::<Process>(document["process"].clone()) {
            let text = serde_json::to_string(&process).unwrap();
            let again: Process = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(text, serde_json::to_string(&again).unwrap());
        }
        if let Ok(spec) = serde_json::from_value::<Spec>(document) {
            let text = serde_json::to_string(&spec).unwrap();
            let again: Spec = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(text, serde_json::to_string(&again).unwrap());
            planned(&spec);
        }
    }
}

#[test]
fn the_seeds_are_documents() {
    for seed in SEEDS {
        assert!(serde_json::from_str::<Spec>(seed).unwrap().process.is_some());
    }
    let process = include_str!("../../../../fuzz/seeds/process/full.json");
    assert_eq!(serde_json::from_str::<Process>(process).unwrap().args.len(), 3);
}
