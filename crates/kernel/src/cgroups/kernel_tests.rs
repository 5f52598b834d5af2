//! Effects on the kernel that runs the tests, under cgroups of unique names that each test removes again.
//!
//! They need root and writable cgroups. On a machine with cgroup v1 they cover v1 and, where a v2 tree is mounted
//! beside it, what v2 does without controllers (freezing, killing, device filters); on a machine with v2 alone the same
//! tests cover v2. What needs v2 controllers is tested on files in a plain directory besides.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A parent cgroup of this test alone, and one cgroup in it; all gone afterwards.
struct Scratch {
    cgroup: Cgroup,
}

impl Scratch {
    fn new(layout: &Layout) -> Scratch {
        let scratch = Scratch { cgroup: layout.cgroup(&format!("{}/one", unique())).unwrap() };
        scratch.cgroup.create().unwrap();
        scratch
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let folder = self.cgroup.legacy_folder(controller).or_else(|| self.cgroup.unified_folder()).unwrap();
        fs::read_to_string(folder.join(file)).unwrap().trim().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let cleaned = self.cgroup.kill_all().and_then(|()| self.cgroup.remove_with_parent());
        if !thread::panicking() {
            cleaned.unwrap();
            assert!(!self.cgroup.parent().unwrap().exists());
        }
    }
}

fn unique() -> String {
    format!("/hull-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn here() -> Layout {
    Layout::detect().unwrap()
}

/// The machine's v2 tree as if there were nothing else, where one is mounted.
fn only_unified() -> Option<Layout> {
    here().unified().map(|hierarchy| Layout::unified_at(&hierarchy.mount))
}

/// The machine's v1 trees as if there were nothing else; `None` on a machine with v2 alone.
fn only_legacy() -> Option<Layout> {
    Some(here().without_unified()).filter(|layout| !layout.legacy().is_empty())
}

/// Starts a shell in a cgroup: a thread joins the v1 hierarchies and forks, and v2 is told the process id, since only
/// clone3(2) could do better and refuses a process with threads.
fn shell(cgroup: &Cgroup, script: &str) -> Child {
    let joiner = cgroup.joiner().unwrap();
    let mut command = Command::new("sh");
    // The line on stdin is the permission to begin, given once all cgroups are joined.
    command.arg("-c").arg(format!("read go; {script}")).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = thread::spawn(move || {
        joiner.join_self().unwrap();
        command.spawn().unwrap()
    })
    .join()
    .unwrap();
    if let Some(folder) = cgroup.unified_folder() {
        fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
    child
}

/// Waits for something that another process will do; the time is generous and only ends a broken test.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_process_joins_every_hierarchy() {
    let scratch = Scratch::new(&here());
    let mut child = shell(&scratch.cgroup, "exec sleep 1000");
    let text = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let inside = text.lines().filter(|line| line.ends_with(scratch.cgroup.path())).count();
    assert_eq!(inside, scratch.cgroup.places().count(), "{text}");
    let found = here().cgroup_of(Pid::from_child(&child)).unwrap();
    assert_eq!(found.path(), scratch.cgroup.path());
    assert_eq!(scratch.cgroup.processes().unwrap(), [Pid::from_child(&child)]);
    scratch.cgroup.kill_all().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(scratch.cgroup.processes().unwrap(), []);
}

#[test]
fn a_cgroup_comes_and_goes_with_its_parent() {
    let parent = unique();
    let one = here().cgroup(&format!("{parent}/one")).unwrap();
    let two = here().cgroup(&format!("{parent}/two")).unwrap();
    assert!(!one.exists());
    one.create().unwrap();
    two.create().unwrap();
    one.create().expect("an existing cgroup is taken over");
    one.remove_with_parent().unwrap();
    assert!(!one.exists() && two.exists());
    two.remove_with_parent().unwrap();
    assert!(!two.parent().unwrap().exists());
    two.remove_with_parent().expect("what is gone is gone");
    assert!(matches!(two.joiner(), Err(CgroupError::Open { .. })));
    assert!(two.parent().unwrap().parent().is_none());
}

#[test]
fn memory_is_limited_and_updated_in_the_kernels_order() {
    let scratch = Scratch::new(&here());
    let cgroup = &scratch.cgroup;
    let set = |max: i64, total| Limits { memory_max_bytes: Some(max), memory_swap_total: total, ..Limits::default() };
    let mib = 1 << 20;
    let now = || {
        let memory = cgroup.stats().unwrap().memory.unwrap();
        (memory.limit_bytes, memory.swap_limit_bytes)
    };
    if !here().can_limit_swap() {
        cgroup.apply(&set(64 * mib, None)).unwrap();
        assert!(matches!(cgroup.update(&set(64 * mib, Some(80 * mib))), Err(CgroupError::NoSwapAccounting { .. })));
        return;
    }
    cgroup.apply(&set(64 * mib, Some(96 * mib))).unwrap();
    assert_eq!(now(), (Some(64 << 20), Some(32 << 20)));
    // Both up, both down, and down past the other's old value.
    for (max, total) in [(128, 256), (32, 48), (200, 200), (16, 300), (16, 16)] {
        cgroup.update(&set(max * mib, Some(total * mib))).unwrap();
        assert_eq!(now(), (Some((max * mib) as u64), Some(((total - max) * mib) as u64)));
    }
    if cgroup.legacy_folder("memory").is_some() {
        let error = cgroup.update(&set(64 * mib, None)).unwrap_err();
        assert!(matches!(error, CgroupError::Invalid { field: "memory_max_bytes", .. }), "{error}");
    }
    cgroup.update(&set(-1, None)).unwrap();
    assert_eq!(now(), (None, None));
    let total_alone = Limits { memory_swap_total: Some(64 * mib), ..Limits::default() };
    let error = cgroup.update(&total_alone).unwrap_err();
    assert!(matches!(error, CgroupError::Invalid { field: "memory_swap_total", .. }), "{error}");
}

#[test]
fn a_limit_below_what_is_used_is_refused() {
    let scratch = Scratch::new(&here());
    let mut child = shell(&scratch.cgroup, "x=$(head -c 20000000 /dev/zero | tr '\\0' x); kill -STOP $$");
    eventually("the shell holds 20 MB and stops", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.contains(") T ")
    });
    let limits = Limits { memory_max_bytes: Some(4 << 20), memory_check_before_update: true, ..Limits::default() };
    let swapless = Limits { memory_swap_total: Some(4 << 20), ..limits.clone() };
    let outcome = scratch.cgroup.update(if here().can_limit_swap() { &swapless } else { &limits });
    assert!(matches!(outcome, Err(CgroupError::LimitBelowUsage { .. })), "{outcome:?}");
    scratch.cgroup.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn who_takes_too_much_memory_is_killed_alone_and_counted() {
    let scratch = Scratch::new(&here());
    let total = here().can_limit_swap().then_some(16 << 20);
    let limits = Limits { memory_max_bytes: Some(16 << 20), memory_swap_total: total, ..Limits::default() };
    scratch.cgroup.apply(&limits).unwrap();
    let count = || {
        let text = fs::read_to_string(scratch.cgroup.oom_events_path().unwrap()).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok()).unwrap()
    };
    assert_eq!(count(), 0);
    // tail keeps the whole of the one line without an end; the shell around it lives on and sees it killed. Nobody else
    // allocates meanwhile: the kernel takes a second victim when a charge fails while the first is still dying.
    let mut child = shell(&scratch.cgroup, "tail -n 1 /dev/zero; [ $? = 137 ]");
    assert!(child.wait().unwrap().success());
    assert_eq!(count(), 1);
    let memory = scratch.cgroup.stats().unwrap().memory.unwrap();
    assert_eq!(memory.oom_kills, 1);
    assert!(memory.peak_bytes.unwrap() <= 16 << 20);
}

#[test]
fn the_number_of_tasks_is_held() {
    let scratch = Scratch::new(&here());
    scratch.cgroup.apply(&Limits { pids_max: Some(8), ..Limits::default() }).unwrap();
    let mut child = shell(&scratch.cgroup, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; wait");
    eventually("the limit is hit", || scratch.read("pids", "pids.events").strip_prefix("max ") != Some("0"));
    let pids = scratch.cgroup.stats().unwrap().pids.unwrap();
    assert_eq!(pids.limit, Some(8));
    assert!(pids.current <= 8 && scratch.cgroup.processes().unwrap().len() <= 8);
    scratch.cgroup.update(&Limits { pids_max: Some(-1), ..Limits::default() }).unwrap();
    assert_eq!(scratch.cgroup.stats().unwrap().pids.unwrap().limit, None);
    scratch.cgroup.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn processor_time_is_limited_and_updated() {
    let scratch = Scratch::new(&here());
    let quota = |quota, period, burst| Limits {
        cpu_quota_us: quota,
        cpu_period_us: period,
        cpu_burst_us: burst,
        ..Limits::default()
    };
    scratch.cgroup.apply(&quota(Some(50_000), Some(100_000), Some(10_000))).unwrap();
    // Less quota than the old burst; then the period alone.
    scratch.cgroup.update(&quota(Some(5000), None, Some(1000))).unwrap();
    scratch.cgroup.update(&quota(None, Some(20_000), None)).unwrap();
    let weight = Limits { cpu_shares: Some(512), ..Limits::default() };
    scratch.cgroup.update(&weight).unwrap();
    if scratch.cgroup.legacy_folder("cpu").is_some() {
        assert_eq!(scratch.read("cpu", "cpu.cfs_quota_us"), "5000");
        assert_eq!(scratch.read("cpu", "cpu.cfs_period_us"), "20000");
        assert_eq!(scratch.read("cpu", "cpu.cfs_burst_us"), "1000");
        assert_eq!(scratch.read("cpu", "cpu.shares"), "512");
        let error = scratch.cgroup.update(&Limits { cpu_shares: Some(1), ..Limits::default() }).unwrap_err();
        assert!(matches!(error, CgroupError::Invalid { field: "cpu_shares", .. }));
    } else {
        assert_eq!(scratch.read("cpu", "cpu.max"), "5000 20000");
        assert_eq!(scratch.read("cpu", "cpu.max.burst"), "1000");
        assert_eq!(scratch.read("cpu", "cpu.weight"), "59");
    }
    scratch.cgroup.update(&Limits { cpu_idle: Some(1), ..Limits::default() }).unwrap();
    assert_eq!(scratch.read("cpu", "cpu.idle"), "1");
    scratch.cgroup.update(&Limits { cpu_idle: Some(0), ..weight }).unwrap();
    assert_eq!(scratch.read("cpu", "cpu.idle"), "0");
    let mut child = shell(&scratch.cgroup, "while :; do :; done");
    eventually("the quota bites", || scratch.cgroup.stats().unwrap().cpu.unwrap().throttled_ns > 0);
    let cpu = scratch.cgroup.stats().unwrap().cpu.unwrap();
    assert!(cpu.usage_ns > 0 && cpu.periods >= cpu.throttled_periods && cpu.throttled_periods > 0);
    scratch.cgroup.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn cpusets_come_from_the_parent_until_set() {
    let scratch = Scratch::new(&here());
    if let Some(folder) = scratch.cgroup.legacy_folder("cpuset") {
        let root = folder.ancestors().nth(2).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let above = fs::read_to_string(root.join(file)).unwrap();
            assert_eq!(scratch.read("cpuset", file), above.trim());
        }
        // A cgroup that somebody else made without processors is filled too.
        let foreign = folder.join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("cgroup.clone_children"), "0").unwrap();
        let below = scratch.cgroup.child("foreign").unwrap().child("below").unwrap();
        below.create().unwrap();
        let cpus = fs::read_to_string(below.legacy_folder("cpuset").unwrap().join("cpuset.cpus")).unwrap();
        assert!(!cpus.trim().is_empty());
    }
    let limits = Limits { cpuset_cpus: Some("0".into()), cpuset_mems: Some("0".into()), ..Limits::default() };
    scratch.cgroup.child("set").unwrap().create().unwrap();
    let below = scratch.cgroup.child("set").unwrap();
    below.apply(&limits).unwrap();
    let folder = below.legacy_folder("cpuset").or_else(|| below.unified_folder()).unwrap();
    assert_eq!(fs::read_to_string(folder.join("cpuset.cpus")).unwrap().trim(), "0");
    let error = below.update(&Limits { cpuset_cpus: Some("4000".into()), ..Limits::default() }).unwrap_err();
    assert!(error.to_string().contains("4000") && error.to_string().contains("cpuset.cpus"), "{error}");
}

fn device(allow: bool, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind: DeviceKind::Char, major, minor, access: Access::parse(access).unwrap() }
}

/// Runs on v1, on v2 and on the mixed layout: null may be used, zero only read after an update, then everything.
fn devices_follow_the_rules(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let holds = |script: &str| shell(&scratch.cgroup, script).wait().unwrap().success();
    let limits = |devices| Limits { devices, ..Limits::default() };
    scratch.cgroup.apply(&limits(vec![DeviceRule::everything(true)])).unwrap();
    assert!(holds("head -c1 /dev/zero >/dev/null"));
    let null = [DeviceRule::everything(false), device(true, Some(1), Some(3), "rw"), device(true, None, None, "m")];
    scratch.cgroup.update(&limits(null.to_vec())).unwrap();
    assert!(holds("echo x >/dev/null && ! head -c1 /dev/zero"));
    let mut zero = null.to_vec();
    zero.push(device(true, Some(1), Some(5), "r"));
    scratch.cgroup.update(&limits(zero.clone())).unwrap();
    assert!(holds("head -c1 /dev/zero >/dev/null && ! echo x >/dev/zero"));
    zero.push(device(false, Some(1), Some(5), "r"));
    scratch.cgroup.update(&limits(zero)).unwrap();
    assert!(holds("echo x >/dev/null && ! head -c1 /dev/zero"));
    // Everything but one device.
    let but_zero = vec![DeviceRule::everything(true), device(false, Some(1), Some(5), "rwm")];
    scratch.cgroup.update(&limits(but_zero)).unwrap();
    assert!(holds("head -c1 /dev/urandom >/dev/null && ! head -c1 /dev/zero"));
    scratch.cgroup.update(&limits(vec![DeviceRule::everything(true)])).unwrap();
    assert!(holds("head -c1 /dev/zero >/dev/null && echo x >/dev/zero"));
}

#[test]
fn devices_follow_the_rules_here() {
    devices_follow_the_rules(&here());
}

#[test]
fn devices_follow_the_rules_on_v2() {
    let Some(layout) = only_unified() else { return };
    devices_follow_the_rules(&layout);
    // Nothing is attached when nothing is refused, one program otherwise, however often it is changed.
    let scratch = Scratch::new(&layout);
    let attached = || {
        let directory = unified::open_directory(scratch.cgroup.unified_folder().unwrap()).unwrap();
        hull_sys::bpf::attached_device_filters(directory.as_fd()).unwrap().len()
    };
    let everything = Limits { devices: vec![DeviceRule::everything(true)], ..Limits::default() };
    let nothing = Limits { devices: vec![DeviceRule::everything(false)], ..Limits::default() };
    scratch.cgroup.apply(&everything).unwrap();
    assert_eq!(attached(), 0);
    for _ in 0..3 {
        scratch.cgroup.update(&nothing).unwrap();
        assert_eq!(attached(), 1);
    }
    scratch.cgroup.update(&everything).unwrap();
    assert_eq!(attached(), 0);
    // The greatest list that docker's users write is far below the verifier's bounds; a thousand rules load too.
    let many = (0..1000).map(|minor| device(minor % 2 == 0, Some(200), Some(minor), "rw")).collect();
    scratch.cgroup.update(&Limits { devices: many, ..Limits::default() }).unwrap();
    assert_eq!(attached(), 1);
}

fn freezing_stops_everything(layout: &Layout) {
    let scratch = Scratch::new(layout);
    scratch.cgroup.freeze().expect("an empty cgroup freezes");
    scratch.cgroup.thaw().unwrap();
    let mut child = shell(&scratch.cgroup, "while :; do :; done");
    let used = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split(' ').collect();
        fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
    };
    eventually("the loop runs", || used() > 0);
    assert!(!scratch.cgroup.is_frozen().unwrap());
    scratch.cgroup.freeze().unwrap();
    assert!(scratch.cgroup.is_frozen().unwrap());
    let frozen = used();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(used(), frozen);
    scratch.cgroup.thaw().unwrap();
    eventually("it is thawed", || !scratch.cgroup.is_frozen().unwrap());
    eventually("the loop goes on", || used() > frozen);
    scratch.cgroup.freeze().unwrap();
    scratch.cgroup.kill_all().expect("frozen processes are killed too");
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn freezing_stops_everything_here() {
    freezing_stops_everything(&here());
}

#[test]
fn freezing_stops_everything_on_v2() {
    only_unified().iter().for_each(freezing_stops_everything);
}

#[test]
fn freezing_stops_everything_on_v1() {
    only_legacy().iter().for_each(freezing_stops_everything);
}

fn killing_reaches_who_forks_all_the_time(layout: &Layout) {
    let scratch = Scratch::new(layout);
    if scratch.cgroup.legacy_folder("pids").is_some() {
        scratch.cgroup.apply(&Limits { pids_max: Some(200), ..Limits::default() }).unwrap();
    }
    // New processes all the time, bounded in number, should the killing fail.
    let mut child = shell(
        &scratch.cgroup,
        "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); (sleep 0.01; :) & [ $((n % 20)) = 0 ] && wait; done",
    );
    eventually("it forks", || scratch.cgroup.processes().unwrap().len() > 3);
    scratch.cgroup.kill_all().unwrap();
    assert_eq!(scratch.cgroup.processes().unwrap(), []);
    child.wait().unwrap();
}

#[test]
fn killing_reaches_who_forks_all_the_time_here() {
    killing_reaches_who_forks_all_the_time(&here());
}

#[test]
fn killing_reaches_who_forks_all_the_time_on_v1() {
    only_legacy().iter().for_each(killing_reaches_who_forks_all_the_time);
}

#[test]
fn killing_reaches_who_forks_all_the_time_on_v2() {
    only_unified().iter().for_each(killing_reaches_who_forks_all_the_time);
}

#[test]
fn a_process_in_v1_alone_is_killed_too() {
    let Some(layout) = only_legacy() else { return };
    let scratch = Scratch::new(&here());
    let same = layout.cgroup(scratch.cgroup.path()).unwrap();
    let mut child = shell(&same, "exec sleep 1000");
    scratch.cgroup.kill_all().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn nested_cgroups_are_removed_however_deep() {
    let scratch = Scratch::new(&here());
    let folder = scratch.cgroup.legacy_folder("pids").or_else(|| scratch.cgroup.unified_folder()).unwrap();
    // Longer than a path may be, made from inside as a container would.
    let name = "n".repeat(200);
    let (flags, mode) = (OFlags::RDONLY | OFlags::DIRECTORY, Mode::from_raw_mode(0o755));
    let mut inside = open(folder, flags, Mode::empty()).unwrap();
    for _ in 0..40 {
        rustix::fs::mkdirat(&inside, "other", mode).unwrap();
        rustix::fs::mkdirat(&inside, name.as_str(), mode).unwrap();
        inside = rustix::fs::openat(&inside, name.as_str(), flags, Mode::empty()).unwrap();
    }
    drop(inside);
    scratch.cgroup.remove().unwrap();
    assert!(!folder.exists());
}

#[test]
fn a_cgroup_with_processes_is_not_removed() {
    let scratch = Scratch::new(&here());
    let mut child = shell(&scratch.cgroup, "exec sleep 1000");
    let error = scratch.cgroup.remove().unwrap_err();
    assert!(error.to_string().contains(scratch.cgroup.path()), "{error}");
    assert!(!scratch.cgroup.parent().unwrap().remove_if_unused().unwrap());
    scratch.cgroup.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn fifty_at_once_share_a_parent_that_comes_and_goes() {
    let (parent, layout) = (unique(), Arc::new(here()));
    let threads: Vec<_> = (0..50)
        .map(|number| {
            let (parent, layout) = (parent.clone(), Arc::clone(&layout));
            thread::spawn(move || {
                for round in 0..10 {
                    let cgroup = layout.cgroup(&format!("{parent}/{number}-{round}")).unwrap();
                    cgroup.create().unwrap();
                    cgroup.apply(&Limits { pids_max: Some(7), ..Limits::default() }).unwrap();
                    cgroup.joiner().unwrap();
                    cgroup.remove_with_parent().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(!layout.cgroup(&parent).unwrap().exists());
}

#[test]
fn what_this_machine_lacks_is_refused_by_name() {
    let scratch = Scratch::new(&here());
    let refusal = |limits: Limits| scratch.cgroup.apply(&limits).unwrap_err().to_string();
    let foreign = |file: &str| Limits { unified: [(file.to_owned(), "1".to_owned())].into(), ..Limits::default() };
    assert!(refusal(foreign("nothing.max")).contains("nothing.max"));
    if let Some(layout) = only_legacy() {
        let scratch = Scratch::new(&layout);
        let error = scratch.cgroup.apply(&foreign("memory.high")).unwrap_err();
        assert!(error.to_string().contains("unified"), "{error}");
    }
    if here().legacy_with("memory").is_some() {
        assert!(refusal(foreign("memory.high")).contains("memory.high"));
    }
    if here().legacy_with("net_cls").is_none() {
        let text = refusal(Limits { net_cls_classid: Some(1), ..Limits::default() });
        assert!(text.contains("net_cls"), "{text}");
    }
    let hugetlb = vec![HugetlbLimit { page_size: "3MB".into(), bytes: 0 }];
    let text = refusal(Limits { hugetlb, ..Limits::default() });
    assert!(text.contains("hugetlb") || text.contains("3MB"), "{text}");
}

/// A directory with the files of a v2 cgroup that has every controller.
struct Fake {
    folder: PathBuf,
    cgroup: Cgroup,
}

impl Fake {
    fn new(files: &[(&str, &str)]) -> Fake {
        let mount = std::env::temp_dir().join(unique().trim_start_matches('/'));
        let folder = mount.join("hull/x");
        fs::create_dir_all(&folder).unwrap();
        fs::write(mount.join("cgroup.controllers"), "cpu cpuset io memory pids hugetlb rdma").unwrap();
        fs::write(folder.join("cgroup.controllers"), "cpu cpuset io memory pids hugetlb rdma").unwrap();
        for (file, content) in files {
            fs::write(folder.join(file), content).unwrap();
        }
        let cgroup = Layout::unified_at(mount).cgroup("/hull/x").unwrap();
        Fake { folder, cgroup }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        fs::remove_dir_all(self.folder.ancestors().nth(2).unwrap()).unwrap();
    }
}

#[test]
fn v2_files_get_what_the_limits_mean() {
    let names = [
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "cpu.weight",
        "cpu.max",
        "cpu.max.burst",
        "cpuset.cpus",
        "cpuset.mems",
        "pids.max",
        "io.weight",
        "io.bfq.weight",
        "hugetlb.2MB.max",
        "rdma.max",
        "memory.high",
    ];
    let fake = Fake::new(&names.map(|name| (name, "")));
    fs::write(fake.folder.join("io.max"), "").unwrap();
    let limits = Limits {
        memory_max_bytes: Some(100 << 20),
        memory_swap_total: Some(150 << 20),
        memory_reservation: Some(50 << 20),
        cpu_shares: Some(2048),
        cpu_quota_us: Some(150_000),
        cpu_burst_us: Some(3000),
        cpuset_cpus: Some("0-1".into()),
        cpuset_mems: Some("0".into()),
        pids_max: Some(0),
        blkio_weight: Some(500),
        blkio_throttles: vec![BlkioThrottle { major: 8, minor: 0, what: ThrottleKind::ReadBytes, rate: 1000 }],
        hugetlb: vec![HugetlbLimit { page_size: "2MB".into(), bytes: 4 << 20 }],
        rdma: [("mlx5_0".to_owned(), RdmaLimit { hca_handles: Some(2), hca_objects: None })].into(),
        unified: [("memory.high".to_owned(), "90M".to_owned())].into(),
        ..Limits::default()
    };
    fake.cgroup.apply(&limits).unwrap();
    for (file, content) in [
        ("memory.max", "104857600"),
        ("memory.swap.max", "52428800"),
        ("memory.low", "52428800"),
        ("cpu.weight", "174"),
        ("cpu.max", "150000 100000"),
        ("cpu.max.burst", "3000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "1"),
        ("io.weight", "default 4950"),
        ("io.bfq.weight", "500"),
        ("io.max", "8:0 rbps=1000"),
        ("hugetlb.2MB.max", "4194304"),
        ("rdma.max", "mlx5_0 hca_handle=2"),
        ("memory.high", "90M"),
    ] {
        assert_eq!(fake.read(file), content, "{file}");
    }
}

#[test]
fn v2_refuses_what_only_v1_had() {
    let fake = Fake::new(&[("memory.current", "1000"), ("memory.max", "max"), ("cpu.max", "max 100000")]);
    let field = |limits: Limits| match fake.cgroup.apply(&limits).unwrap_err() {
        CgroupError::Unsupported { field, .. } | CgroupError::Invalid { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(Limits { swappiness: Some(0), ..Limits::default() }), "swappiness");
    assert_eq!(field(Limits { oom_kill_disable: Some(true), ..Limits::default() }), "oom_kill_disable");
    assert_eq!(field(Limits { net_cls_classid: Some(1), ..Limits::default() }), "net_cls_classid");
    assert_eq!(field(Limits { net_prio: vec![("lo".into(), 1)], ..Limits::default() }), "net_prio");
    assert_eq!(field(Limits { cpu_realtime_runtime_us: Some(1), ..Limits::default() }), "cpu_realtime_runtime_us");
    let swap = Limits { memory_max_bytes: Some(1), memory_swap_total: Some(2), ..Limits::default() };
    assert!(matches!(fake.cgroup.apply(&swap), Err(CgroupError::NoSwapAccounting { .. })));
    let check = Limits { memory_max_bytes: Some(999), memory_check_before_update: true, ..Limits::default() };
    let error = fake.cgroup.update(&check).unwrap_err();
    assert!(matches!(error, CgroupError::LimitBelowUsage { limit: 999, usage: 1000 }), "{error}");
}

#[test]
fn v2_statistics_are_read_whole() {
    let fake = Fake::new(&[
        ("cpu.stat", "usage_usec 3\nuser_usec 2\nsystem_usec 1\n"),
        ("memory.current", "5000\n"),
        ("memory.max", "max\n"),
        ("memory.peak", "6000\n"),
        ("memory.stat", "anon 1\ninactive_file 40\n"),
        ("memory.events", "low 0\nmax 3\noom 2\noom_kill 2\n"),
        ("memory.swap.current", "7\n"),
        ("memory.swap.max", "9\n"),
        ("memory.pressure", "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n"),
        ("pids.current", "4\n"),
        ("pids.max", "max\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n"),
    ]);
    let stats = fake.cgroup.stats().unwrap();
    assert_eq!(stats.cpu.unwrap().usage_ns, 3000);
    let memory = stats.memory.unwrap();
    assert_eq!((memory.usage_bytes, memory.peak_bytes, memory.limit_bytes), (5000, Some(6000), None));
    assert_eq!((memory.swap_usage_bytes, memory.swap_limit_bytes), (Some(7), Some(9)));
    assert_eq!((memory.inactive_file_bytes, memory.oom_kills, memory.limit_hits), (40, 2, 3));
    assert_eq!(stats.pids.unwrap(), stats::PidsStats { current: 4, limit: None });
    assert_eq!(stats.io[0].write_operations, 4);
    assert_eq!(stats.pressure.memory.unwrap().some.total_us, 5);
    assert_eq!(fake.cgroup.oom_events_path().unwrap(), fake.folder.join("memory.events"));
}

#[test]
fn a_v2_controller_that_cannot_be_had_is_named() {
    let fake = Fake::new(&[]);
    fs::write(fake.folder.join("cgroup.controllers"), "memory").unwrap();
    // The mount has cpu and would pass it on; its parent has processes, which a directory cannot imitate, so here the
    // missing file stands for a refusal.
    let error = fake.cgroup.apply(&Limits { cpu_shares: Some(2), ..Limits::default() }).unwrap_err();
    assert!(matches!(error, CgroupError::EnableController { controller: "cpu", .. }), "{error}");
    fs::write(fake.folder.ancestors().nth(2).unwrap().join("cgroup.controllers"), "memory").unwrap();
    let error = fake.cgroup.apply(&Limits { cpu_shares: Some(2), ..Limits::default() }).unwrap_err();
    assert!(matches!(error, CgroupError::NoController { controller: "cpu" }), "{error}");
}

#[test]
fn processes_of_its_own_keep_a_v2_cgroup_from_passing_a_controller_on() {
    let Some(layout) = only_unified() else { return };
    let scratch = Scratch::new(&layout);
    let folder = scratch.cgroup.unified_folder().unwrap();
    let available = fs::read_to_string(folder.join("cgroup.controllers")).unwrap();
    // Threaded controllers may be passed on; hugetlb and memory may not.
    let Some(controller) = ["hugetlb", "memory", "io"].into_iter().find(|name| available.contains(name)) else {
        return;
    };
    let mut child = shell(&scratch.cgroup, "exec sleep 1000");
    let below = scratch.cgroup.child("below").unwrap();
    below.create().expect("making it is possible, limiting it is not");
    let error = unified::require(&layout.unified().unwrap().clone(), below.path(), controller).unwrap_err();
    assert!(matches!(error, CgroupError::InternalProcesses { .. }), "{error}");
    assert!(error.to_string().contains(scratch.cgroup.path()), "{error}");
    scratch.cgroup.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_v2_cgroup_is_handed_to_a_user() {
    use std::os::unix::fs::MetadataExt;
    let Some(layout) = only_unified() else { return };
    let scratch = Scratch::new(&layout);
    scratch.cgroup.delegate(4242).unwrap();
    let folder = scratch.cgroup.unified_folder().unwrap();
    let owner = |name: &str| fs::metadata(folder.join(name)).unwrap().uid();
    assert_eq!([owner(""), owner("cgroup.procs"), owner("cgroup.subtree_control")], [4242; 3]);
    assert_eq!([owner("cgroup.freeze"), owner("cgroup.max.depth")], [0; 2]);
}
