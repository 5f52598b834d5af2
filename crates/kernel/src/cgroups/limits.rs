//! What a group of processes may use, in the meaning of cgroup v2, whichever version carries it out.
//!
//! `None`, an empty list or an empty map leaves the kernel's setting alone. The units and special values are docker's
//! and the OCI runtime specification's (config-linux.md, "Control groups"), since those are what every door is handed:
//! -1 is "unlimited" where the type is signed, and 0 means "leave alone" for memory, shares, quota, period and weights.
//! [`Limits::validate`] finds what no kernel would take, before anything is touched; what depends on the present state
//! of a cgroup is found while writing.

use std::collections::BTreeMap;

use super::devices::DeviceRule;
use super::{CgroupError, convert};

/// Limits for one cgroup. `Default` limits nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Memory in bytes; -1 unlimited, 0 leave alone.
    pub memory_max_bytes: Option<i64>,
    /// Memory and swap together in bytes, as docker's `--memory-swap`; -1 unlimited swap, 0 leave alone. Docker's
    /// default of twice the memory is the caller's to fill in, and only where [`super::Layout::can_limit_swap`].
    pub memory_swap_total: Option<i64>,
    /// Memory in bytes that is protected from (v2) or spared first in (v1) reclaim; -1 all, 0 leave alone.
    pub memory_reservation: Option<i64>,
    /// Tendency to swap, 0 to 100; cgroup v1 only.
    pub swappiness: Option<u64>,
    /// Let processes wait instead of being killed when memory is used up; cgroup v1 only.
    pub oom_kill_disable: Option<bool>,
    /// Refuse a memory limit below what is used now, where the kernel itself would kill instead (v2).
    pub memory_check_before_update: bool,
    /// Relative processor weight, 2 to 262144, 1024 being the usual; 0 leave alone.
    pub cpu_shares: Option<u64>,
    /// Processor time in microseconds per period; negative unlimited, 0 leave alone.
    pub cpu_quota_us: Option<i64>,
    /// Period of the quota in microseconds, 1000 to 1000000 (default 100000); 0 leave alone.
    pub cpu_period_us: Option<u64>,
    /// Unused quota in microseconds that may be saved up, at most the quota.
    pub cpu_burst_us: Option<u64>,
    /// 1 to run only when nobody else wants the processor (SCHED_IDLE for the group), 0 for normal.
    pub cpu_idle: Option<i64>,
    /// Real-time processor time in microseconds per period; cgroup v1 only.
    pub cpu_realtime_runtime_us: Option<i64>,
    /// Real-time period in microseconds; cgroup v1 only.
    pub cpu_realtime_period_us: Option<u64>,
    /// Processors, as a list `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list.
    pub cpuset_mems: Option<String>,
    /// Number of tasks; negative unlimited. 0 is written as 1, which forbids the same (one task, no fork) and lets
    /// that one task be born inside with `CLONE_INTO_CGROUP`.
    pub pids_max: Option<i64>,
    /// Relative weight of block I/O, 10 to 1000; 0 leave alone.
    pub blkio_weight: Option<u16>,
    /// Weight of the group's own tasks against its child groups; only kernels with the CFQ scheduler (before 5.0) had
    /// it, so it is refused.
    pub blkio_leaf_weight: Option<u16>,
    /// Weights for single devices.
    pub blkio_weight_devices: Vec<BlkioWeightDevice>,
    /// Rates for single devices.
    pub blkio_throttles: Vec<BlkioThrottle>,
    /// Huge pages.
    pub hugetlb: Vec<HugetlbLimit>,
    /// RDMA objects by device name.
    pub rdma: BTreeMap<String, RdmaLimit>,
    /// Class identifier for the group's network packets; cgroup v1 only.
    pub net_cls_classid: Option<u32>,
    /// Priority of the group's packets by interface name; cgroup v1 only.
    pub net_prio: Vec<(String, u32)>,
    /// Access to device nodes, the last matching rule winning and nothing matching being refused. Empty: not
    /// controlled at all.
    pub devices: Vec<DeviceRule>,
    /// Files of cgroup v2 and what to write into them, last of all.
    pub unified: BTreeMap<String, String>,
}

/// Weight of block I/O on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkioWeightDevice {
    /// Device major number.
    pub major: u32,
    /// Device minor number.
    pub minor: u32,
    /// 10 to 1000.
    pub weight: Option<u16>,
    /// As [`Limits::blkio_leaf_weight`]: refused.
    pub leaf_weight: Option<u16>,
}

/// A rate for block I/O on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkioThrottle {
    /// Device major number.
    pub major: u32,
    /// Device minor number.
    pub minor: u32,
    /// What is counted.
    pub what: ThrottleKind,
    /// Bytes or operations per second; 0 unlimited.
    pub rate: u64,
}

/// What a [`BlkioThrottle`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThrottleKind {
    /// Bytes read per second.
    ReadBytes,
    /// Bytes written per second.
    WriteBytes,
    /// Read operations per second.
    ReadOperations,
    /// Write operations per second.
    WriteOperations,
}

/// A limit on huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugetlbLimit {
    /// Page size as the kernel names it in its files, such as `2MB`, `1GB`, `64KB`.
    pub page_size: String,
    /// Bytes.
    pub bytes: u64,
}

/// A limit on the objects of one RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaLimit {
    /// Number of handles.
    pub hca_handles: Option<u32>,
    /// Number of objects.
    pub hca_objects: Option<u32>,
}

impl Limits {
    /// Whether there is a limit on anything but devices, which a user namespace keeps from being made anyway.
    pub fn limit_more_than_devices(&self) -> bool {
        Limits { devices: Vec::new(), ..self.clone() } != Limits::default()
    }

    /// Checks everything that can be judged without a kernel.
    ///
    /// # Errors
    /// [`CgroupError::Invalid`] with the name of the field, [`CgroupError::DeviceRule`].
    pub fn validate(&self) -> Result<(), CgroupError> {
        self.validate_memory()?;
        self.validate_cpu()?;
        self.validate_io()?;
        for limit in &self.hugetlb {
            let digits = limit.page_size.trim_end_matches(['K', 'M', 'G', 'B']);
            if digits.is_empty() || digits == limit.page_size || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(invalid("hugetlb", &limit.page_size, "a page size looks like 2MB or 1GB"));
            }
        }
        for name in self.rdma.keys().chain(self.net_prio.iter().map(|(name, _)| name)) {
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(invalid("rdma or net_prio", name, "a device name is one word"));
            }
        }
        for rule in &self.devices {
            rule.validate()?;
        }
        for key in self.unified.keys() {
            if key.is_empty() || key.contains('/') || !key.contains('.') {
                return Err(invalid("unified", key, "a key is the name of a cgroup file, such as memory.high"));
            }
            if matches!(key.as_str(), "cgroup.procs" | "cgroup.threads") {
                return Err(invalid("unified", key, "this file moves processes and limits nothing"));
            }
        }
        Ok(())
    }

    fn validate_memory(&self) -> Result<(), CgroupError> {
        for (field, value) in [
            ("memory_max_bytes", self.memory_max_bytes),
            ("memory_swap_total", self.memory_swap_total),
            ("memory_reservation", self.memory_reservation),
        ] {
            if let Some(value) = value.filter(|value| *value < -1) {
                return Err(invalid(field, value, "it is a number of bytes, or -1 for unlimited"));
            }
        }
        let total = self.memory_swap_total.unwrap_or(0);
        match self.memory_max_bytes {
            Some(-1) if total > 0 => {
                return Err(invalid("memory_swap_total", total, "swap cannot be limited while memory is unlimited"));
            }
            Some(memory) if total > 0 && total < memory => {
                return Err(invalid(
                    "memory_swap_total",
                    total,
                    "it counts memory and swap together and must not be below the memory limit",
                ));
            }
            _ => {}
        }
        match self.swappiness {
            Some(value) if value > 100 => Err(invalid("swappiness", value, "it is between 0 and 100")),
            _ => Ok(()),
        }
    }

    fn validate_cpu(&self) -> Result<(), CgroupError> {
        if let Some(period) = self.cpu_period_us.filter(|period| *period != 0 && !(1000..=1_000_000).contains(period)) {
            return Err(invalid("cpu_period_us", period, "it is between 1000 and 1000000 microseconds"));
        }
        if let Some(quota) = self.cpu_quota_us.filter(|quota| (1..1000).contains(quota)) {
            return Err(invalid("cpu_quota_us", quota, "it is at least 1000 microseconds"));
        }
        if let (Some(burst), Some(quota)) = (self.cpu_burst_us, self.cpu_quota_us)
            && quota > 0
            && burst > quota as u64
        {
            return Err(invalid("cpu_burst_us", burst, "it is at most the quota"));
        }
        if let Some(idle) = self.cpu_idle.filter(|idle| !matches!(idle, 0 | 1)) {
            return Err(invalid("cpu_idle", idle, "it is 0 or 1"));
        }
        for (field, list) in [("cpuset_cpus", &self.cpuset_cpus), ("cpuset_mems", &self.cpuset_mems)] {
            if let Some(list) = list
                && !list.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b',' | b':' | b'/'))
            {
                return Err(invalid(field, list, "it is a list of numbers and ranges, such as 0-2,7"));
            }
        }
        Ok(())
    }

    fn validate_io(&self) -> Result<(), CgroupError> {
        let weights = self.blkio_weight_devices.iter().filter_map(|device| device.weight).chain(self.blkio_weight);
        for weight in weights {
            if weight != 0 && !(10..=1000).contains(&weight) {
                return Err(invalid("blkio_weight", weight, "it is between 10 and 1000"));
            }
        }
        let leaf = self.blkio_leaf_weight.filter(|weight| *weight != 0);
        match leaf.or_else(|| self.blkio_weight_devices.iter().find_map(|device| device.leaf_weight)) {
            Some(weight) => Err(invalid("blkio_leaf_weight", weight, "no supported kernel has leaf weights")),
            None => Ok(()),
        }
    }

    /// Makes the quota what systemd will make of it, so that the cgroup's files say the same. `present` is the cgroup's
    /// cpu.max, where the limits give no period.
    pub(super) fn round_quota(&mut self, present: Option<&str>) {
        let Some(quota) = self.cpu_quota_us.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota != 0)
        else {
            return;
        };
        let present = present.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok());
        let period = self.cpu_period_us.filter(|period| *period != 0).or(present).unwrap_or(100_000);
        self.cpu_quota_us = i64::try_from(convert::quota_in_whole_percents(quota, period)).ok();
    }

    pub(super) fn wants_memory(&self) -> bool {
        self.memory_max_bytes.is_some_and(|v| v != 0)
            || self.memory_swap_total.is_some_and(|v| v != 0)
            || self.memory_reservation.is_some_and(|v| v != 0)
            || self.swappiness.is_some()
            || self.oom_kill_disable.is_some()
    }

    pub(super) fn wants_cpu(&self) -> bool {
        self.cpu_shares.is_some_and(|v| v != 0)
            || self.cpu_quota_us.is_some_and(|v| v != 0)
            || self.cpu_period_us.is_some_and(|v| v != 0)
            || self.cpu_burst_us.is_some()
            || self.cpu_idle.is_some()
            || self.cpu_realtime_runtime_us.is_some_and(|v| v != 0)
            || self.cpu_realtime_period_us.is_some_and(|v| v != 0)
    }

    pub(super) fn wants_cpuset(&self) -> bool {
        self.cpuset_cpus.as_ref().is_some_and(|v| !v.is_empty())
            || self.cpuset_mems.as_ref().is_some_and(|v| !v.is_empty())
    }

    pub(super) fn wants_io(&self) -> bool {
        self.blkio_weight.is_some_and(|v| v != 0)
            || !self.blkio_weight_devices.is_empty()
            || !self.blkio_throttles.is_empty()
    }
}

pub(super) fn invalid(field: &'static str, value: impl ToString, reason: &'static str) -> CgroupError {
    CgroupError::Invalid { field, value: value.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(limits: Limits) -> Option<&'static str> {
        match limits.validate() {
            Ok(()) => None,
            Err(CgroupError::Invalid { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn every_refusal_names_its_field() {
        let memory = |max, total| Limits { memory_max_bytes: max, memory_swap_total: total, ..Limits::default() };
        assert_eq!(field(memory(Some(100), Some(99))), Some("memory_swap_total"));
        assert_eq!(field(memory(Some(-1), Some(99))), Some("memory_swap_total"));
        assert_eq!(field(memory(Some(-2), None)), Some("memory_max_bytes"));
        assert_eq!(field(memory(Some(100), Some(100))), None);
        assert_eq!(field(memory(Some(100), Some(-1))), None);
        assert_eq!(field(memory(None, Some(100))), None, "an update may change the total alone");
        let quota = |quota, period| Limits { cpu_quota_us: quota, cpu_period_us: period, ..Limits::default() };
        assert_eq!(field(quota(Some(999), None)), Some("cpu_quota_us"));
        assert_eq!(field(quota(Some(-1), Some(999))), Some("cpu_period_us"));
        assert_eq!(field(quota(Some(0), Some(0))), None);
        let burst = Limits { cpu_burst_us: Some(2001), ..quota(Some(2000), None) };
        assert_eq!(field(burst), Some("cpu_burst_us"));
        assert_eq!(field(Limits { cpu_idle: Some(2), ..Limits::default() }), Some("cpu_idle"));
        assert_eq!(field(Limits { swappiness: Some(101), ..Limits::default() }), Some("swappiness"));
        assert_eq!(field(Limits { blkio_weight: Some(9), ..Limits::default() }), Some("blkio_weight"));
        assert_eq!(field(Limits { blkio_leaf_weight: Some(10), ..Limits::default() }), Some("blkio_leaf_weight"));
        assert_eq!(field(Limits { cpuset_cpus: Some("0 1".into()), ..Limits::default() }), Some("cpuset_cpus"));
        for key in ["", "../cgroup.procs", "cgroup.procs", "plain"] {
            let limits = Limits { unified: [(key.to_owned(), "1".to_owned())].into(), ..Limits::default() };
            assert_eq!(field(limits), Some("unified"), "{key:?}");
        }
        for size in ["", "MB", "2", "x2MB", "../2MB"] {
            let hugetlb = vec![HugetlbLimit { page_size: size.into(), bytes: 0 }];
            assert_eq!(field(Limits { hugetlb, ..Limits::default() }), Some("hugetlb"), "{size:?}");
        }
    }
}
