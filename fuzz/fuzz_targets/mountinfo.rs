//! mountinfo, whose lines hold names that a container chose: the cgroup layout that it describes, and paths in it.
#![no_main]

use hull_kernel::cgroups::Layout;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(layout) = Layout::from_mountinfo(text) else { return };
    assert!(layout.unified().is_some() || !layout.legacy().is_empty());
    let cgroup = layout.cgroup("/box").expect("a path");
    assert_eq!(cgroup.path(), "/box");
    for path in ["/", "..", "/a/../b", ""] {
        assert!(layout.cgroup(path).is_err(), "{path}");
    }
});
