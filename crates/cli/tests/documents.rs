//! The documents: every file that one of them links to is there.
//!
//! Needs no root and no program.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

/// Targets of `[text](target)` that are paths, without their `#fragment`.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let paths = targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '<']));
    paths.filter_map(|target| target.split('#').next()).collect()
}

#[test]
fn links_are_found() {
    let text = "see [a](crates/a.rs), [b](https://x.y/z), [c](#c) and [`d`](d.md#part).";
    assert_eq!(links(text), ["crates/a.rs", "d.md"]);
}

#[test]
fn every_linked_file_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut missing = Vec::new();
    for name in ["ARCHITECTURE.md", "README.md", "README.ko.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let broken = links(&text).into_iter().filter(|target| !root.join(target).exists());
        missing.extend(broken.map(|target| format!("{name} links to {target}")));
        if name == "ARCHITECTURE.md" {
            assert!(links(&text).len() > 20, "{name} links to the files that it speaks of");
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
