//! What a cgroup has used and is using, in one form for both versions.
//!
//! Times are nanoseconds, sizes bytes. A part is `None` where its controller does not exist for the cgroup. Sources:
//! Documentation/admin-guide/cgroup-v1/{memory,cpuacct,blkio-controller,pids,hugetlb}.rst and cgroup-v2.rst; PSI in
//! Documentation/accounting/psi.rst.

use std::collections::BTreeMap;
use std::path::Path;

use super::folder::{Folder, parse_number};
use super::{Cgroup, CgroupError};

/// Everything that can be read of a cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory and swap.
    pub memory: Option<MemoryStats>,
    /// Tasks.
    pub pids: Option<PidsStats>,
    /// Block I/O by device; empty where nothing was done or counted.
    pub io: Vec<IoStats>,
    /// Huge pages by size.
    pub hugetlb: Vec<HugetlbStats>,
    /// Pressure stall information, v2 only.
    pub pressure: PressureStats,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All of it, in nanoseconds.
    pub usage_ns: u64,
    /// In user mode, in nanoseconds.
    pub user_ns: u64,
    /// In the kernel, in nanoseconds.
    pub system_ns: u64,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// Time that tasks were held back, in nanoseconds.
    pub throttled_ns: u64,
}

/// Memory and swap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes in use, page cache included.
    pub usage_bytes: u64,
    /// The most that was ever in use.
    pub peak_bytes: Option<u64>,
    /// The limit; `None` when unlimited.
    pub limit_bytes: Option<u64>,
    /// Page cache that can be dropped first; docker subtracts it from the usage.
    pub inactive_file_bytes: u64,
    /// Swap in use (swap alone); `None` where swap is not counted.
    pub swap_usage_bytes: Option<u64>,
    /// The limit of swap alone; `None` when unlimited or not counted.
    pub swap_limit_bytes: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// How often a limit was hit: on v1 the failcnt of memory and of memory+swap (newer kernels no longer
    /// count there), on v2 `max` of memory.events.
    pub limit_hits: u64,
    /// The lines of memory.stat, in this version's own words.
    pub detail: BTreeMap<String, u64>,
}

/// Tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// The limit; `None` when unlimited.
    pub limit: Option<u64>,
}

/// Block I/O of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Device major number.
    pub major: u32,
    /// Device minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Bytes discarded.
    pub discard_bytes: u64,
    /// Read operations.
    pub read_operations: u64,
    /// Write operations.
    pub write_operations: u64,
    /// Discard operations.
    pub discard_operations: u64,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugetlbStats {
    /// Page size as the kernel names it, `2MB`.
    pub page_size: String,
    /// Bytes in use.
    pub usage_bytes: u64,
    /// The most that was ever in use; v1 only.
    pub peak_bytes: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: u64,
}

/// Pressure stall information: how much time was lost waiting for a resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PressureStats {
    /// Waiting for a processor.
    pub cpu: Option<Pressure>,
    /// Waiting for memory.
    pub memory: Option<Pressure>,
    /// Waiting for block I/O.
    pub io: Option<Pressure>,
}

/// Pressure on one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Some tasks waited.
    pub some: PressureLine,
    /// All tasks that could have run waited.
    pub full: PressureLine,
}

/// Shares of time in percent over three windows, and the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PressureLine {
    /// Percent over ten seconds.
    pub avg10: f64,
    /// Percent over a minute.
    pub avg60: f64,
    /// Percent over five minutes.
    pub avg300: f64,
    /// Microseconds in all.
    pub total_us: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats, CgroupError> {
    let folder = |controller| cgroup.legacy_folder(controller).map(Folder::opened).transpose();
    let mut stats = Stats::default();
    if let Some(path) = cgroup.unified_folder() {
        read_unified(&Folder::opened(path)?, &mut stats)?;
    }
    if let Some(accounting) = folder("cpuacct")? {
        let bandwidth = folder("cpu")?.map(|folder| folder.try_read("cpu.stat")).transpose()?.flatten();
        stats.cpu = Some(legacy_cpu(&accounting, bandwidth.as_deref().unwrap_or(""))?);
    }
    if let Some(folder) = folder("memory")? {
        stats.memory = Some(legacy_memory(&folder)?);
    }
    if let Some(folder) = folder("pids")? {
        stats.pids =
            Some(PidsStats { current: folder.number("pids.current")?, limit: limit(folder.number("pids.max")?) });
    }
    if let Some(folder) = folder("blkio")? {
        stats.io = legacy_io(&folder)?;
    }
    if let Some(folder) = folder("hugetlb")? {
        stats.hugetlb = hugetlb(&folder, "usage_in_bytes")?;
    }
    Ok(stats)
}

fn read_unified(folder: &Folder, stats: &mut Stats) -> Result<(), CgroupError> {
    // cpu.stat counts time in every v2 cgroup, controller or not; beside v1 that is only what was born inside.
    if let Some(text) = folder.try_read("cpu.stat")? {
        stats.cpu = Some(unified_cpu(&text));
    }
    if let Some(usage_bytes) = folder.try_number("memory.current")? {
        stats.memory = Some(unified_memory(folder, usage_bytes)?);
    }
    if let Some(current) = folder.try_number("pids.current")? {
        stats.pids = Some(PidsStats { current, limit: limit(folder.number("pids.max")?) });
    }
    if let Some(text) = folder.try_read("io.stat")? {
        stats.io = unified_io(&text);
    }
    stats.hugetlb = hugetlb(folder, "current")?;
    for (file, place) in [
        ("cpu.pressure", &mut stats.pressure.cpu),
        ("memory.pressure", &mut stats.pressure.memory),
        ("io.pressure", &mut stats.pressure.io),
    ] {
        *place = folder.try_read(file)?.map(|text| pressure(&text));
    }
    Ok(())
}

/// Both versions' words for "no limit": v1 writes the greatest number of pages that fits, in bytes.
fn limit(value: u64) -> Option<u64> {
    Some(value).filter(|value| *value < i64::MAX as u64 - 0xffff)
}

/// Lines of a key and a number.
fn flat(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(key, value)| Some((key.to_owned(), parse_number(value)?))).collect()
}

fn value(map: &BTreeMap<String, u64>, key: &str) -> u64 {
    map.get(key).copied().unwrap_or(0)
}

fn legacy_cpu(accounting: &Folder, bandwidth: &str) -> Result<CpuStats, CgroupError> {
    let bandwidth = flat(bandwidth);
    Ok(CpuStats {
        usage_ns: accounting.number("cpuacct.usage")?,
        user_ns: accounting.number("cpuacct.usage_user")?,
        system_ns: accounting.number("cpuacct.usage_sys")?,
        periods: value(&bandwidth, "nr_periods"),
        throttled_periods: value(&bandwidth, "nr_throttled"),
        throttled_ns: value(&bandwidth, "throttled_time"),
    })
}

fn unified_cpu(text: &str) -> CpuStats {
    let lines = flat(text);
    CpuStats {
        usage_ns: value(&lines, "usage_usec").saturating_mul(1000),
        user_ns: value(&lines, "user_usec").saturating_mul(1000),
        system_ns: value(&lines, "system_usec").saturating_mul(1000),
        periods: value(&lines, "nr_periods"),
        throttled_periods: value(&lines, "nr_throttled"),
        throttled_ns: value(&lines, "throttled_usec").saturating_mul(1000),
    }
}

fn legacy_memory(folder: &Folder) -> Result<MemoryStats, CgroupError> {
    let usage_bytes = folder.number("memory.usage_in_bytes")?;
    let limit_bytes = limit(folder.number("memory.limit_in_bytes")?);
    let detail = flat(&folder.read("memory.stat")?);
    let total = folder.try_number("memory.memsw.usage_in_bytes")?;
    let total_limit = folder.try_number("memory.memsw.limit_in_bytes")?.and_then(limit);
    Ok(MemoryStats {
        usage_bytes,
        peak_bytes: folder.try_number("memory.max_usage_in_bytes")?,
        limit_bytes,
        inactive_file_bytes: value(&detail, "total_inactive_file"),
        // Read one after the other, so the difference may be off by what happened in between, but not below zero.
        swap_usage_bytes: total.map(|total| total.saturating_sub(usage_bytes)),
        swap_limit_bytes: total_limit.zip(limit_bytes).map(|(total, memory)| total.saturating_sub(memory)),
        oom_kills: value(&flat(&folder.read("memory.oom_control")?), "oom_kill"),
        limit_hits: folder
            .number("memory.failcnt")?
            .saturating_add(folder.try_number("memory.memsw.failcnt")?.unwrap_or(0)),
        detail,
    })
}

fn unified_memory(folder: &Folder, usage_bytes: u64) -> Result<MemoryStats, CgroupError> {
    let detail = flat(&folder.read("memory.stat")?);
    let events = flat(&folder.read("memory.events")?);
    Ok(MemoryStats {
        usage_bytes,
        peak_bytes: folder.try_number("memory.peak")?,
        limit_bytes: limit(folder.number("memory.max")?),
        inactive_file_bytes: value(&detail, "inactive_file"),
        swap_usage_bytes: folder.try_number("memory.swap.current")?,
        swap_limit_bytes: folder.try_number("memory.swap.max")?.and_then(limit),
        oom_kills: value(&events, "oom_kill"),
        limit_hits: value(&events, "max"),
        detail,
    })
}

/// The throttling layer counts for every scheduler; BFQ's own files only for its own devices.
fn legacy_io(folder: &Folder) -> Result<Vec<IoStats>, CgroupError> {
    let mut found = BTreeMap::new();
    for (file, bytes) in [("io_service_bytes", true), ("io_serviced", false)] {
        let mut text = folder.try_read(&format!("blkio.throttle.{file}_recursive"))?;
        if text.is_none() {
            text = folder.try_read(&format!("blkio.throttle.{file}"))?;
        }
        add_legacy_io(&mut found, text.as_deref().unwrap_or(""), bytes);
    }
    Ok(found.into_values().collect())
}

/// Lines such as `8:0 Read 4096`.
fn add_legacy_io(found: &mut BTreeMap<(u32, u32), IoStats>, text: &str, bytes: bool) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(device), Some(what), Some(count)) = (words.next(), words.next(), words.next()) else { continue };
        let (Some((major, minor)), Ok(count)) = (device_number(device), count.parse()) else { continue };
        let stats = found.entry((major, minor)).or_insert_with(|| IoStats { major, minor, ..IoStats::default() });
        match (what, bytes) {
            ("Read", true) => stats.read_bytes = count,
            ("Write", true) => stats.write_bytes = count,
            ("Discard", true) => stats.discard_bytes = count,
            ("Read", false) => stats.read_operations = count,
            ("Write", false) => stats.write_operations = count,
            ("Discard", false) => stats.discard_operations = count,
            _ => {}
        }
    }
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn unified_io(text: &str) -> Vec<IoStats> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some((major, minor)) = words.next().and_then(device_number) else { continue };
        let mut stats = IoStats { major, minor, ..IoStats::default() };
        for (key, count) in words.filter_map(|word| word.split_once('=')) {
            let count = count.parse().unwrap_or(0);
            match key {
                "rbytes" => stats.read_bytes = count,
                "wbytes" => stats.write_bytes = count,
                "dbytes" => stats.discard_bytes = count,
                "rios" => stats.read_operations = count,
                "wios" => stats.write_operations = count,
                "dios" => stats.discard_operations = count,
                _ => {}
            }
        }
        found.push(stats);
    }
    found
}

fn device_number(word: &str) -> Option<(u32, u32)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Both versions name their files `hugetlb.<size>.<what>`; the sizes are those of /sys/kernel/mm/hugepages.
fn hugetlb(folder: &Folder, what: &str) -> Result<Vec<HugetlbStats>, CgroupError> {
    let mut found = Vec::new();
    for page_size in page_sizes(Path::new("/sys/kernel/mm/hugepages")) {
        let Some(usage_bytes) = folder.try_number(&format!("hugetlb.{page_size}.{what}"))? else { continue };
        let events = folder.try_read(&format!("hugetlb.{page_size}.events"))?;
        let failures = folder.try_number(&format!("hugetlb.{page_size}.failcnt"))?;
        found.push(HugetlbStats {
            usage_bytes,
            peak_bytes: folder.try_number(&format!("hugetlb.{page_size}.max_usage_in_bytes"))?,
            limit_hits: failures.unwrap_or_else(|| value(&flat(events.as_deref().unwrap_or("")), "max")),
            page_size,
        });
    }
    Ok(found)
}

/// The sizes of huge pages as cgroup files name them, from directories such as `hugepages-2048kB`.
fn page_sizes(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut sizes: Vec<u64> =
        names.filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()).collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size_name).collect()
}

/// hugetlb_cgroup names a size by the greatest unit that it reaches.
fn page_size_name(kilobytes: u64) -> String {
    match kilobytes {
        0x10_0000.. => format!("{}GB", kilobytes >> 20),
        0x400.. => format!("{}MB", kilobytes >> 10),
        _ => format!("{kilobytes}KB"),
    }
}

/// Lines such as `some avg10=0.00 avg60=0.12 avg300=0.00 total=1234`.
fn pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let place = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for (key, number) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => place.avg10 = number.parse().unwrap_or(0.0),
                "avg60" => place.avg60 = number.parse().unwrap_or(0.0),
                "avg300" => place.avg300 = number.parse().unwrap_or(0.0),
                "total" => place.total_us = number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    pressure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_v2_files() {
        let cpu =
            unified_cpu("usage_usec 15\nuser_usec 10\nsystem_usec 5\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n");
        let expected = CpuStats {
            usage_ns: 15_000,
            user_ns: 10_000,
            system_ns: 5000,
            periods: 4,
            throttled_periods: 3,
            throttled_ns: 2000,
        };
        assert_eq!(cpu, expected);
        let io = unified_io("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:0\nnonsense\n");
        assert_eq!((io.len(), io[0].major, io[0].minor), (2, 8, 16));
        let first = &io[0];
        assert_eq!((first.read_bytes, first.write_bytes, first.discard_bytes), (1, 2, 5));
        assert_eq!((first.read_operations, first.write_operations, first.discard_operations), (3, 4, 6));
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let pressure = pressure(text);
        assert_eq!((pressure.some.avg10, pressure.some.total_us, pressure.full.total_us), (1.5, 77, 3));
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_never_panics(text in "([a-z]{0,4}[ =:]?[0-9]{0,24}[ \n]?){0,20}") {
            unified_cpu(&format!("usage_usec {text}"));
            unified_io(&text);
            pressure(&format!("some {text}"));
            add_legacy_io(&mut BTreeMap::new(), &text, true);
        }
    }

    #[test]
    fn reads_v1_block_io() {
        let mut found = BTreeMap::new();
        add_legacy_io(
            &mut found,
            "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Total 12288\nTotal 12288\n",
            true,
        );
        add_legacy_io(&mut found, "254:0 Read 1\n254:0 Write 2\n254:0 Discard 3\n", false);
        let stats = &found[&(254, 0)];
        assert_eq!(found.len(), 1);
        assert_eq!((stats.read_bytes, stats.write_bytes), (4096, 8192));
        assert_eq!((stats.read_operations, stats.write_operations, stats.discard_operations), (1, 2, 3));
    }

    #[test]
    fn unlimited_has_several_spellings() {
        assert_eq!(limit(u64::MAX), None);
        assert_eq!(limit(9_223_372_036_854_771_712), None, "4 kB pages");
        assert_eq!(limit(9_223_372_036_854_710_272), None, "64 kB pages");
        assert_eq!(limit(64 << 20), Some(64 << 20));
        assert_eq!(limit(0), Some(0));
    }

    #[test]
    fn page_sizes_are_named_as_the_kernel_does() {
        let names: Vec<_> = [64, 2048, 32_768, 1_048_576].into_iter().map(page_size_name).collect();
        assert_eq!(names, ["64KB", "2MB", "32MB", "1GB"]);
    }
}
