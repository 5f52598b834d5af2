//! Limits as properties of a unit (systemd.resource-control(5), org.freedesktop.systemd1(5)), so that systemd knows them and
//! does not undo them when it writes a cgroup's files again.
//!
//! Not every limit has a property: what has none is written into the cgroup's files afterwards, as everything else is
//! once more. Names differ between cgroup v1 and v2, numbers too; the formulas are those of
//! [`convert`](super::super::convert). Which properties runc sends is in its docs/systemd.md; `IOWeight` is the one more here.

use zbus::wire::StructureBuilder;
use zbus::wire::signature::Signature;
use zbus::{Array, Variant};

use super::super::CgroupError;
use super::super::convert;
use super::super::devices::{self, Allowed, DeviceKind, DeviceRule};
use super::super::limits::{Limits, invalid};
use super::{SystemdError, UnitPlace, text};

/// "No limit" among systemd's numbers.
const INFINITY: u64 = u64::MAX;
/// The first systemd with CPUQuotaPeriodUSec, with AllowedCPUs, with `char-5` for a major number, with CPUWeight=0 for
/// "idle".
const VERSION_WITH_QUOTA_PERIOD: u32 = 242;
const VERSION_WITH_CPUSETS: u32 = 244;
const VERSION_WITH_DEVICE_NUMBERS: u32 = 240;
const VERSION_WITH_IDLE: u32 = 252;

/// A property of a unit and its value.
#[derive(Debug, PartialEq)]
pub struct Property {
    /// Name as systemd has it.
    pub name: String,
    /// Value, of the type that systemd wants.
    pub value: Variant<'static>,
}

impl Property {
    pub(super) fn new(name: &str, value: impl Into<Variant<'static>>) -> Property {
        Property { name: name.to_owned(), value: value.into() }
    }

    /// A property as an annotation gives it: the value in GVariant's text format. A name that ends in `Sec` is taken in
    /// seconds and sent as the `USec` that systemd has, as runc does.
    ///
    /// # Errors
    /// [`SystemdError::Property`], [`SystemdError::Text`].
    pub fn parse(name: &str, value: &str) -> Result<Property, SystemdError> {
        let bad = |reason| SystemdError::Property { name: name.to_owned(), reason };
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(bad("a name has at least three letters and nothing else"));
        }
        let value = text::parse(value)?;
        match name.strip_suffix("Sec") {
            Some(stem) if stem.ends_with(|c: char| c.is_ascii_lowercase()) => {
                let microseconds = seconds(&value).ok_or_else(|| bad("its value is no number of seconds"))?;
                Ok(Property::new(&format!("{stem}USec"), microseconds))
            }
            _ => Ok(Property { name: name.to_owned(), value }),
        }
    }
}

/// A number of seconds in microseconds.
fn seconds(value: &Variant<'_>) -> Option<u64> {
    const MICROSECONDS: u64 = 1_000_000;
    let whole = match value {
        Variant::U8(number) => u64::from(*number),
        Variant::U16(number) => u64::from(*number),
        Variant::U32(number) => u64::from(*number),
        Variant::U64(number) => *number,
        Variant::I16(number) => u64::try_from(*number).ok()?,
        Variant::I32(number) => u64::try_from(*number).ok()?,
        Variant::I64(number) => u64::try_from(*number).ok()?,
        Variant::F64(number) if *number >= 0.0 => return Some((number * MICROSECONDS as f64) as u64),
        _ => return None,
    };
    whole.checked_mul(MICROSECONDS)
}

/// What every unit has, whatever its limits: where it is, who is in it, that everything is counted.
pub(super) fn of_unit(place: &UnitPlace, pid: i32, is_legacy: bool) -> Vec<Property> {
    let mut properties = vec![Property::new("Description", format!("Hull container {}", place.name))];
    if place.unit.is_slice() {
        // A slice's own name says which slice it is in. systemd puts no process into one.
        properties.push(Property::new("Wants", vec![place.slice.clone()]));
    } else {
        properties.push(Property::new("Slice", place.slice.clone()));
        properties.push(Property::new("Delegate", true));
        properties.push(Property::new("PIDs", vec![pid as u32]));
    }
    let io = if is_legacy { "BlockIOAccounting" } else { "IOAccounting" };
    for name in ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"] {
        properties.push(Property::new(name, true));
    }
    properties.push(Property::new("DefaultDependencies", false));
    properties
}

/// What a cgroup in use says now, for an update that gives only one half of two.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// The memory limit; `None` when unlimited or not asked for.
    pub memory_max: Option<i64>,
    /// Quota and period, as in cpu.max.
    pub cpu_max: Option<String>,
}

/// The limits that have properties.
pub(super) fn of_limits(
    limits: &Limits,
    version: u32,
    is_legacy: bool,
    present: &Present,
) -> Result<Vec<Property>, CgroupError> {
    let mut properties = of_devices(&limits.devices, version);
    if is_legacy {
        of_legacy(limits, &mut properties);
    } else {
        of_unified(limits, version, present, &mut properties)?;
    }
    of_quota(limits, version, present, &mut properties);
    if let Some(limit) = limits.pids_max {
        properties.push(Property::new("TasksMax", number_or_infinity(&convert::pids_max(limit))));
    }
    if version >= VERSION_WITH_CPUSETS {
        for (name, field, list) in [
            ("AllowedCPUs", "cpuset_cpus", &limits.cpuset_cpus),
            ("AllowedMemoryNodes", "cpuset_mems", &limits.cpuset_mems),
        ] {
            if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
                properties.push(of_list(name, field, list)?);
            }
        }
    }
    if !is_legacy {
        of_unified_files(limits, version, &mut properties)?;
    }
    Ok(properties)
}

fn of_legacy(limits: &Limits, properties: &mut Vec<Property>) {
    if let Some(limit) = limits.memory_max_bytes.filter(|limit| *limit != 0) {
        properties.push(Property::new("MemoryLimit", limit as u64));
    }
    if let Some(shares) = limits.cpu_shares.filter(|shares| *shares != 0) {
        properties.push(Property::new("CPUShares", shares));
    }
    if let Some(weight) = limits.blkio_weight.filter(|weight| *weight != 0) {
        properties.push(Property::new("BlockIOWeight", u64::from(weight)));
    }
}

fn of_unified(
    limits: &Limits,
    version: u32,
    present: &Present,
    properties: &mut Vec<Property>,
) -> Result<(), CgroupError> {
    let memory = limits.memory_max_bytes.filter(|limit| *limit != 0);
    if let Some(limit) = memory {
        properties.push(Property::new("MemoryMax", limit as u64));
    }
    if let Some(reservation) = limits.memory_reservation.filter(|reservation| *reservation != 0) {
        properties.push(Property::new("MemoryLow", reservation as u64));
    }
    if let Some(swap) = convert::swap_max(memory.or(present.memory_max), limits.memory_swap_total)? {
        properties.push(Property::new("MemorySwapMax", number_or_infinity(&swap)));
    }
    if limits.cpu_idle == Some(1) && version >= VERSION_WITH_IDLE {
        properties.push(Property::new("CPUWeight", 0_u64));
    } else if let Some(shares) = limits.cpu_shares.filter(|shares| *shares != 0) {
        properties.push(Property::new("CPUWeight", convert::shares_to_weight(shares)));
    }
    if let Some(weight) = limits.blkio_weight.filter(|weight| *weight != 0) {
        properties.push(Property::new("IOWeight", convert::blkio_weight_to_io_weight(weight)));
    }
    Ok(())
}

fn of_quota(limits: &Limits, version: u32, present: &Present, properties: &mut Vec<Property>) {
    let line = convert::cpu_max(limits.cpu_quota_us, limits.cpu_period_us, present.cpu_max.as_deref());
    if let Some(line) = line {
        push_quota(&line, limits.cpu_period_us.is_some_and(|period| period != 0), version, properties);
    }
}

/// `QUOTA PERIOD` as systemd's time per second and, where it was asked for, period.
fn push_quota(line: &str, with_period: bool, version: u32, properties: &mut Vec<Property>) {
    let (quota, period) = line.split_once(' ').unwrap_or((line, "100000"));
    let period: u64 = period.parse().unwrap_or(100_000);
    if with_period && version >= VERSION_WITH_QUOTA_PERIOD {
        properties.push(Property::new("CPUQuotaPeriodUSec", period));
    }
    let per_second = quota.parse().map_or(INFINITY, |quota: u64| convert::quota_per_second(quota, period));
    properties.push(Property::new("CPUQuotaPerSecUSec", per_second));
}

/// Files of cgroup v2 that have a property of the same meaning; the others are only written.
fn of_unified_files(limits: &Limits, version: u32, properties: &mut Vec<Property>) -> Result<(), CgroupError> {
    for (file, value) in &limits.unified {
        let value = value.trim();
        let number = || match value {
            convert::MAX => Ok(INFINITY),
            digits => digits.parse().map_err(|_| invalid("unified", format!("{file}={digits}"), "it is no number")),
        };
        let is_idle = limits.unified.get("cpu.idle").is_some_and(|idle| idle.trim() == "1");
        let name = match file.as_str() {
            "cpu.idle" if is_idle && version >= VERSION_WITH_IDLE => {
                properties.push(Property::new("CPUWeight", 0_u64));
                continue;
            }
            "cpu.weight" if !is_idle => "CPUWeight",
            "cpu.max" => {
                push_quota(value, true, version, properties);
                continue;
            }
            "cpuset.cpus" if version >= VERSION_WITH_CPUSETS => {
                properties.push(of_list("AllowedCPUs", "unified", value)?);
                continue;
            }
            "cpuset.mems" if version >= VERSION_WITH_CPUSETS => {
                properties.push(of_list("AllowedMemoryNodes", "unified", value)?);
                continue;
            }
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "memory.oom.group" => {
                properties.push(Property::new("OOMPolicy", if value == "1" { "kill" } else { "continue" }.to_owned()));
                continue;
            }
            _ => continue,
        };
        properties.push(Property::new(name, number()?));
    }
    Ok(())
}

fn of_list(name: &str, field: &'static str, list: &str) -> Result<Property, CgroupError> {
    let bits = convert::list_to_bits(list)
        .ok_or_else(|| invalid(field, list, "it is a list of numbers and ranges, such as 0-2,7"))?;
    Ok(Property::new(name, bits))
}

fn number_or_infinity(word: &str) -> u64 {
    word.parse().unwrap_or(INFINITY)
}

/// systemd knows lists of what is allowed. A list of what is refused is left to the cgroup's own filter: `auto` with an
/// empty list is how systemd keeps its hands off.
fn of_devices(rules: &[DeviceRule], version: u32) -> Vec<Property> {
    if rules.is_empty() {
        return Vec::new();
    }
    let empty = || Property { name: "DeviceAllow".to_owned(), value: Variant::Array(no_devices()) };
    let allowed = match devices::allow_list(rules) {
        Some(allowed) => allowed,
        None => return vec![Property::new("DevicePolicy", "auto".to_owned()), empty()],
    };
    let mut list = no_devices();
    for device in allowed {
        let Some(path) = device_path(&device, version) else { continue };
        let entry = StructureBuilder::new().add_field(path).add_field(device.access.to_string()).build();
        if let Ok(entry) = entry {
            // Both fields are strings, as the list wants them.
            let _fits = list.append(Variant::Structure(entry));
        }
    }
    let allow = Property { name: "DeviceAllow".to_owned(), value: Variant::Array(list) };
    vec![Property::new("DevicePolicy", "strict".to_owned()), empty(), allow]
}

fn no_devices() -> Array<'static> {
    Array::new(&Signature::structure([Signature::Str, Signature::Str]))
}

/// How systemd names devices: a node by its numbers, all of a major number, all of a kind. Other wildcards it has not;
/// the cgroup's own filter has them.
fn device_path(device: &Allowed, version: u32) -> Option<String> {
    let (prefix, folder) = match device.kind {
        DeviceKind::Block => ("block", "/dev/block"),
        DeviceKind::Char => ("char", "/dev/char"),
        DeviceKind::All => return None,
    };
    match (device.major, device.minor) {
        (Some(major), Some(minor)) => Some(format!("{folder}/{major}:{minor}")),
        (Some(major), None) if version >= VERSION_WITH_DEVICE_NUMBERS => Some(format!("{prefix}-{major}")),
        (None, None) => Some(format!("{prefix}-*")),
        _ => None,
    }
}
