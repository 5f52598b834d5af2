//! The lane itself: what every other test takes for granted about the place that it runs in.
//!
//! These run on every kernel.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use system_tests::{given, hull, is_vm};

#[test]
fn smoke_cgroups_are_mounted_as_the_lane_says() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let kinds: Vec<(&str, &str, &str)> = mounts.lines().filter_map(cgroup_mount).collect();
    ensure!(!kinds.is_empty(), "no cgroup hierarchy in\n{mounts}");
    for (root, place, _) in &kinds {
        ensure!(*root == "/", "{place} shows {root}, not the root of this place");
    }
    if is_vm() {
        ensure!(kinds.iter().all(|(_, _, kind)| *kind == "cgroup2"), "not only cgroup v2: {kinds:?}");
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control")?;
        for name in ["cpu", "memory", "pids", "io", "cpuset"] {
            ensure!(controllers.split_whitespace().any(|given| given == name), "{name} is not in {controllers}");
        }
    }
    Ok(())
}

/// Root, mount point and kind of a cgroup mount.
fn cgroup_mount(line: &str) -> Option<(&str, &str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    let kind = right.split(' ').next()?;
    kind.starts_with("cgroup").then_some((root, place, kind))
}

#[test]
fn smoke_a_cgroup_holds_a_process_and_goes_away() -> Result<()> {
    let unified = "/sys/fs/cgroup/cgroup.controllers";
    let parent = if fs::exists(unified)? { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
    let folder = std::path::Path::new(parent).join(format!("hull-smoke-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    fs::write(folder.join("pids.max"), "1")?;
    let mut child = Command::new("sleep").arg("100").spawn()?;
    let joined = fs::write(folder.join("cgroup.procs"), child.id().to_string());
    let inside = fs::read_to_string(folder.join("cgroup.procs"))?;
    child.kill()?;
    child.wait()?;
    fs::remove_dir(&folder)?;
    joined?;
    ensure!(inside.trim() == child.id().to_string(), "the cgroup holds {inside:?}");
    Ok(())
}

#[test]
fn smoke_the_machines_interfaces_are_not_there() -> Result<()> {
    let devices = fs::read_to_string("/proc/net/dev")?;
    let names: Vec<&str> = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    // Those of the Hulls of other tests come and go.
    let is_own = |name: &&str| *name == "lo" || name.starts_with("hull") || name.starts_with("hv");
    ensure!(names.contains(&"lo") && names.iter().all(is_own), "interfaces: {names:?}");
    std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(())
}

#[test]
fn smoke_the_program_is_static() -> Result<()> {
    const INTERPRETER: u32 = 3;
    let bytes = fs::read(hull()?)?;
    ensure!(bytes.starts_with(b"\x7fELF\x02"), "not a 64-bit ELF file");
    let offset = usize::try_from(u64::from_le_bytes(bytes[32..40].try_into()?))?;
    let size = usize::from(u16::from_le_bytes(bytes[54..56].try_into()?));
    let count = usize::from(u16::from_le_bytes(bytes[56..58].try_into()?));
    for header in bytes[offset..].chunks(size).take(count) {
        let kind = u32::from_le_bytes(header[..4].try_into()?);
        ensure!(kind != INTERPRETER, "it asks for a dynamic loader");
    }
    Ok(())
}

#[test]
fn smoke_images_and_the_test_folder_are_there() -> Result<()> {
    let images = given("HULL_TEST_IMAGES")?;
    for name in ["busybox.docker.tar", "busybox.oci.tar", "five-layers.docker.tar", "five-layers.oci.tar"] {
        ensure!(fs::metadata(images.join(name)).with_context(|| name.to_string())?.len() > 0, "{name} is empty");
    }
    ensure!(given("HULL_TEST_DIR")?.is_dir(), "HULL_TEST_DIR is not a folder");
    Ok(())
}
