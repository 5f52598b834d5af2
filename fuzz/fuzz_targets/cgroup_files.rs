//! The kernel's cgroup files, as newer kernels may write them: counters, limits, events and processes of both versions.
//!
//! The input is the content of the files below, with NULs between; a file without content is missing.
#![no_main]

use std::fs;
use std::path::Path;

use hull_kernel::cgroups::{Cgroup, Layout};
use libfuzzer_sys::fuzz_target;

const UNIFIED: [&str; 14] = [
    "cpu.stat", "memory.current", "memory.stat", "memory.events", "memory.max", "memory.swap.current", "pids.current",
    "pids.max", "io.stat", "cgroup.events", "cgroup.procs", "cgroup.controllers", "memory.pressure", "cgroup.freeze",
];
const LEGACY: [&str; 10] = [
    "memory.usage_in_bytes", "memory.limit_in_bytes", "memory.stat", "memory.oom_control", "memory.failcnt",
    "pids.current", "pids.max", "freezer.state", "cgroup.procs", "cpu.stat",
];

fn fill(folder: &Path, names: &[&str], bytes: &[u8]) {
    fs::create_dir_all(folder).expect("a folder");
    for (name, content) in names.iter().zip(bytes.split(|byte| *byte == 0)) {
        if !content.is_empty() {
            fs::write(folder.join(name), content).expect("a file");
        }
    }
}

fn look(cgroup: &Cgroup) {
    let errors = [
        cgroup.stats().err().map(|error| error.to_string()),
        cgroup.is_frozen().err().map(|error| error.to_string()),
        cgroup.processes().err().map(|error| error.to_string()),
    ];
    assert!(errors.iter().flatten().all(|error| !error.is_empty()));
}

fuzz_target!(|bytes: &[u8]| {
    let root = tempfile::tempdir().expect("a folder");
    let place = root.path();
    fill(&place.join("box"), &UNIFIED, bytes);
    look(&Layout::unified_at(place).cgroup("/box").expect("a path"));
    let mount = place.join("v1");
    fill(&mount.join("box"), &LEGACY, bytes);
    let controllers = "cpu,cpuacct,memory,pids,freezer";
    let line = format!("35 31 0:32 / {} rw - cgroup cgroup rw,{controllers}\n", mount.display());
    look(&Layout::from_mountinfo(&line).expect("one hierarchy").cgroup("/box").expect("a path"));
});
