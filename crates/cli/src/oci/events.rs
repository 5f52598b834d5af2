//! `events`: what a container uses, again and again, and each time that it runs out of memory, as lines of JSON.
//!
//! The documents are runc's (its `types/events.go`), which node agents and engines read: v1's words for everything, zero
//! or absent what a cgroup version does not have. The lines end with the container.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hull_kernel::cgroups::stats::{IoStats, MemoryStats, Pressure};
use hull_kernel::cgroups::{OomWatch, Stats};
use hull_runtime::container::{ContainerError, Containers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::args::EventsArgs;
use super::report::{Gravity, Log, line};
use crate::args::moment;
use crate::commands::write_stdout;
use crate::error::Failure;

/// What v1's memory files say where there is no limit: the greatest number of whole pages.
const UNLIMITED_LEGACY: u64 = i64::MAX as u64 & !0xfff;

/// Prints events until the container has ended, or one and no more.
///
/// # Errors
/// A container that does not run, an interval that is none, and what cannot be read.
pub fn events(containers: &Containers, arguments: &EventsArgs, log: &Log) -> Result<(), Failure> {
    let interval = interval(&arguments.interval)?;
    let id = arguments.id.as_str();
    let (_, pidfd) = containers.first_process(id).map_err(|error| match error {
        ContainerError::NotRunning => Failure::Arguments(format!("container with id {id} is not running")),
        error => error.into(),
    })?;
    let cgroup = containers.cgroup_in_use(id)?;
    let is_unified = cgroup.legacy_folder("memory").is_none();
    if arguments.stats {
        return print(&json!({"type": "stats", "id": id, "data": document(&containers.stats(id)?, is_unified)}));
    }
    let mut watch = cgroup.watch_oom().map_err(ContainerError::Cgroup)?;
    let mut next = Instant::now() + interval;
    loop {
        let woken = await_something(&pidfd, watch.as_ref(), next).map_err(Failure::stream("wait"))?;
        if watch.as_mut().is_some_and(OomWatch::take) {
            print(&json!({"type": "oom", "id": id}))?;
        }
        match woken {
            Woken::Ended => return Ok(()),
            Woken::Memory => {}
            Woken::Time => {
                next += interval;
                match containers.stats(id) {
                    Ok(stats) => print(&json!({"type": "stats", "id": id, "data": document(&stats, is_unified)}))?,
                    Err(error) => log.tell(Gravity::Error, &line(&error.into())),
                }
            }
        }
    }
}

/// Go's durations; nothing below a nanosecond is one.
fn interval(text: &str) -> Result<Duration, Failure> {
    let invalid = || Failure::Arguments(format!("invalid value {text:?} for --interval: it is no duration"));
    let duration = moment::duration(if text == "0" { "0s" } else { text }).ok_or_else(invalid)?;
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(Failure::Arguments("duration interval must be greater than 0".to_owned())),
    }
}

fn print(event: &Value) -> Result<(), Failure> {
    write_stdout(format!("{event}\n").as_bytes())
}

/// What ended the sleep.
enum Woken {
    Ended,
    Memory,
    Time,
}

/// Sleeps until the process has ended, memory has run out, or it is `next`.
fn await_something(pidfd: &OwnedFd, watch: Option<&OomWatch>, next: Instant) -> io::Result<Woken> {
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let patience = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut ready = vec![PollFd::new(pidfd, PollFlags::IN)];
        ready.extend(watch.map(|watch| PollFd::new(watch, watch.poll_flags())));
        match poll(&mut ready, Some(&patience)) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(0) => return Ok(Woken::Time),
            Ok(_) if !ready[0].revents().is_empty() => return Ok(Woken::Ended),
            Ok(_) => return Ok(Woken::Memory),
        }
    }
}

/// The statistics as runc words them.
fn document(stats: &Stats, is_unified: bool) -> Value {
    let pids = stats.pids.clone().unwrap_or_default();
    let hugetlb: BTreeMap<&str, Value> = stats
        .hugetlb
        .iter()
        .map(|pages| {
            let sizes = present(&[("usage", pages.usage_bytes), ("max", pages.peak_bytes.unwrap_or(0))]);
            (pages.page_size.as_str(), with(sizes, &[("failcnt", pages.limit_hits.into())]))
        })
        .collect();
    json!({
        "cpu": cpu(stats),
        "memory": memory(stats, is_unified),
        "pids": present(&[("current", pids.current), ("limit", pids.limit.unwrap_or(0))]),
        "blkio": block_io(stats, is_unified),
        "hugetlb": hugetlb,
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn cpu(stats: &Stats) -> Value {
    let cpu = stats.cpu.clone().unwrap_or_default();
    let usage = present(&[("total", cpu.usage_ns)]);
    let throttling = present(&[
        ("periods", cpu.periods),
        ("throttledPeriods", cpu.throttled_periods),
        ("throttledTime", cpu.throttled_ns),
    ]);
    let usage = with(usage, &[("kernel", cpu.system_ns.into()), ("user", cpu.user_ns.into())]);
    with_pressure(json!({"usage": usage, "throttling": throttling}), stats.pressure.cpu.as_ref())
}

fn memory(stats: &Stats, is_unified: bool) -> Value {
    let memory = stats.memory.clone().unwrap_or_default();
    let unlimited = if is_unified { u64::MAX } else { UNLIMITED_LEGACY };
    let entry = |limit: Option<u64>, usage: u64, max: u64, hits: u64| {
        let sizes = present(&[("usage", usage), ("max", max)]);
        with(sizes, &[("limit", limit.unwrap_or(unlimited).into()), ("failcnt", hits.into())])
    };
    let nothing = || json!({"limit": 0, "failcnt": 0});
    // Memory and swap together, on v2 too.
    let swap = memory.swap_usage_bytes.map(|swap| {
        let limit = memory.limit_bytes.zip(memory.swap_limit_bytes).map(|(memory, swap)| memory.saturating_add(swap));
        entry(limit, memory.usage_bytes.saturating_add(swap), 0, 0)
    });
    let cache =
        present(&[("cache", memory.detail.get(if is_unified { "file" } else { "cache" }).copied().unwrap_or(0))]);
    let rest = [
        ("usage", entry(memory.limit_bytes, memory.usage_bytes, memory.peak_bytes.unwrap_or(0), memory.limit_hits)),
        ("swap", swap.unwrap_or_else(nothing)),
        ("kernel", nothing()),
        ("kernelTCP", nothing()),
        ("raw", json!(memory.detail)),
        ("event_count", events_of(&memory, is_unified)),
    ];
    with_pressure(with(cache, &rest), stats.pressure.memory.as_ref())
}

/// The counters of memory.events, which v1 does not have.
fn events_of(memory: &MemoryStats, is_unified: bool) -> Value {
    match is_unified {
        true => present(&[("max", memory.limit_hits), ("oom_kill", memory.oom_kills)]),
        false => json!({}),
    }
}

fn block_io(stats: &Stats, is_unified: bool) -> Value {
    let entries = |read: fn(&IoStats) -> [u64; 3]| -> Vec<Value> {
        let of_device = |device: &IoStats| {
            let [reads, writes, discards] = read(device);
            let all = [
                ("Read", reads),
                ("Write", writes),
                ("Discard", discards),
                ("Total", reads.saturating_add(writes).saturating_add(discards)),
            ];
            let shown = if is_unified { 2 } else { 4 };
            let entry = |(word, value): &(&str, u64)| {
                let numbers = [("major", device.major.into()), ("minor", device.minor.into()), ("value", *value)];
                with(present(&numbers), &[("op", json!(word))])
            };
            all.iter().take(shown).map(entry).collect::<Vec<_>>()
        };
        stats.io.iter().flat_map(of_device).collect()
    };
    let lists = [
        ("ioServiceBytesRecursive", entries(|io| [io.read_bytes, io.write_bytes, io.discard_bytes])),
        ("ioServicedRecursive", entries(|io| [io.read_operations, io.write_operations, io.discard_operations])),
    ];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(key, list)| (key.to_owned(), json!(list)));
    with_pressure(Value::Object(lists.collect()), stats.pressure.io.as_ref())
}

/// An object of the numbers that are not 0, as Go's `omitempty` leaves them.
fn present(numbers: &[(&str, u64)]) -> Value {
    let shown =
        numbers.iter().filter(|(_, number)| *number != 0).map(|(key, number)| ((*key).to_owned(), json!(number)));
    Value::Object(shown.collect())
}

/// An object with more keys.
fn with(mut object: Value, more: &[(&str, Value)]) -> Value {
    for (key, value) in more {
        object[*key] = value.clone();
    }
    object
}

fn with_pressure(object: Value, pressure: Option<&Pressure>) -> Value {
    let Some(pressure) = pressure else { return object };
    let [some, full] = [pressure.some, pressure.full]
        .map(|line| json!({"avg10": line.avg10, "avg60": line.avg60, "avg300": line.avg300, "total": line.total_us}));
    with(object, &[("psi", json!({"some": some, "full": full}))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_kernel::cgroups::stats::{CpuStats, PidsStats, PressureLine, PressureStats};

    fn stats() -> Stats {
        let memory = MemoryStats {
            usage_bytes: 1000,
            peak_bytes: Some(2000),
            limit_bytes: Some(4096),
            swap_usage_bytes: Some(10),
            swap_limit_bytes: Some(100),
            oom_kills: 2,
            limit_hits: 3,
            detail: BTreeMap::from([("cache".to_owned(), 7), ("file".to_owned(), 8)]),
            ..MemoryStats::default()
        };
        Stats {
            cpu: Some(CpuStats {
                usage_ns: 30,
                user_ns: 20,
                system_ns: 10,
                throttled_periods: 4,
                ..CpuStats::default()
            }),
            memory: Some(memory),
            pids: Some(PidsStats { current: 5, limit: None }),
            io: vec![IoStats { major: 8, read_bytes: 6, write_operations: 1, ..IoStats::default() }],
            ..Stats::default()
        }
    }

    #[test]
    fn the_document_has_the_words_of_v1() {
        let document = document(&stats(), false);
        assert_eq!(document["cpu"]["usage"], json!({"total": 30, "kernel": 10, "user": 20}));
        assert_eq!(document["cpu"]["throttling"], json!({"throttledPeriods": 4}));
        assert_eq!(document["memory"]["cache"], 7);
        assert_eq!(document["memory"]["usage"], json!({"limit": 4096, "usage": 1000, "max": 2000, "failcnt": 3}));
        assert_eq!(document["memory"]["swap"], json!({"limit": 4196, "usage": 1010, "failcnt": 0}));
        assert_eq!(document["memory"]["event_count"], json!({}));
        assert_eq!(document["pids"], json!({"current": 5}));
        let bytes = document["blkio"]["ioServiceBytesRecursive"].as_array().unwrap();
        assert_eq!((bytes.len(), &bytes[0]), (4, &json!({"major": 8, "op": "Read", "value": 6})));
        assert_eq!((&document["hugetlb"], &document["network_interfaces"]), (&json!({}), &Value::Null));
    }

    #[test]
    fn on_v2_there_is_pressure_and_no_discards() {
        let line = PressureLine { avg10: 1.5, total_us: 9, ..PressureLine::default() };
        let cpu = Some(Pressure { some: line, ..Pressure::default() });
        let mut stats = Stats { pressure: PressureStats { cpu, ..PressureStats::default() }, ..stats() };
        stats.memory.as_mut().unwrap().limit_bytes = None;
        let document = document(&stats, true);
        assert_eq!(document["cpu"]["psi"]["some"], json!({"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 9}));
        assert_eq!(
            (&document["memory"]["cache"], &document["memory"]["usage"]["limit"]),
            (&json!(8), &json!(u64::MAX))
        );
        assert_eq!(document["memory"]["event_count"], json!({"max": 3, "oom_kill": 2}));
        assert_eq!(document["blkio"]["ioServicedRecursive"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn an_interval_is_a_duration_above_zero() {
        assert_eq!(interval("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(interval("50ms").unwrap(), Duration::from_millis(50));
        for text in ["0", "0s", "-1s"] {
            assert!(interval(text).unwrap_err().to_string().contains("greater than 0"), "{text}");
        }
        assert!(interval("soon").is_err());
    }
}
