//! Every formula between docker's and OCI's numbers (those of cgroup v1), the files of cgroup v2, and systemd's
//! properties, in one place.
//!
//! Sources: `crun.1.md`, section "CGROUP v2", and github.com/opencontainers/cgroups `utils.go`, which agree with each
//! other since crun 1.23 and runc 1.3.2; Documentation/admin-guide/cgroup-v2.rst for the ranges. All functions are
//! pure; what is out of range has been refused by `Limits::validate` before.

use super::CgroupError;
use super::limits::{ThrottleKind, invalid};

/// The word of cgroup v2 for "no limit".
pub const MAX: &str = "max";

/// cpu.shares (2..=262144, usually 1024) to cpu.weight (1..=10000, usually 100).
///
/// weight = ceil(10^((l² + 125·l)/612 - 7/34)) with l = log2(shares): a quadratic in log space that maps the least, the
/// usual and the greatest value of v1 to those of v2. This is the current formula; until 2025 runtimes used the line
/// 1 + (shares - 2)·9999/262142, which made 1024 shares a weight of 39.
/// <https://github.com/opencontainers/runc/pull/4785> (runc 1.3.2), <https://github.com/containers/crun/pull/1767>
/// (crun 1.23). Values outside of the range are drawn to its ends, as both do.
pub fn shares_to_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// blkio.weight (10..=1000) to io.weight (1..=10000), linearly: 1 + (weight - 10)·9999/990.
///
/// `crun.1.md`, "IO controller"; opencontainers/cgroups `ConvertBlkIOToIOWeightValue`. The file of the bfq scheduler
/// (`io.bfq.weight`) keeps v1's range and takes the number as it is.
pub fn blkio_weight_to_io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).max(10) - 10) * 9999 / 990
}

/// A signed limit to a v2 file: -1 (and anything below) becomes `max`.
pub fn limit_or_max(limit: i64) -> String {
    if limit < 0 { MAX.to_owned() } else { limit.to_string() }
}

/// The contents of memory.swap.max, which counts swap alone, from memory and total as docker and OCI give them.
///
/// `memory` is the limit that will hold beside it (`None`: unlimited). A total of -1 is unlimited swap. When memory is
/// set to -1 and the total not given, swap is unlimited too (opencontainers/cgroups `ConvertMemorySwapToCgroupV2Value`,
/// as v1 behaves). `None` leaves the file alone.
///
/// # Errors
/// [`CgroupError::Invalid`] when the total is below the memory limit, or there is no memory limit to subtract.
pub fn swap_max(memory: Option<i64>, total: Option<i64>) -> Result<Option<String>, CgroupError> {
    match (memory, total) {
        (Some(-1), None | Some(0)) => Ok(Some(MAX.to_owned())),
        (_, None | Some(0)) => Ok(None),
        (_, Some(-1)) => Ok(Some(MAX.to_owned())),
        (None | Some(-1 | 0), Some(total)) => {
            Err(invalid("memory_swap_total", total, "swap cannot be limited while memory is unlimited"))
        }
        (Some(memory), Some(total)) if total < memory => Err(invalid(
            "memory_swap_total",
            total,
            "it counts memory and swap together and must not be below the memory limit",
        )),
        (Some(memory), Some(total)) => Ok(Some((total - memory).to_string())),
    }
}

/// The contents of cpu.max, `$MAX $PERIOD`. `None` when neither is given.
///
/// `current` is what the file says now, for an update that gives only one half; the kernel's default is `max 100000`.
/// <https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files>
pub fn cpu_max(quota_us: Option<i64>, period_us: Option<u64>, current: Option<&str>) -> Option<String> {
    let quota = quota_us.filter(|quota| *quota != 0);
    let period = period_us.filter(|period| *period != 0);
    if quota.is_none() && period.is_none() {
        return None;
    }
    let mut words = current.unwrap_or("max 100000").split_ascii_whitespace();
    let (old_quota, old_period) = (words.next().unwrap_or(MAX), words.next().unwrap_or("100000"));
    let quota = quota.map_or_else(|| old_quota.to_owned(), limit_or_max);
    let period = period.map_or_else(|| old_period.to_owned(), |period| period.to_string());
    Some(format!("{quota} {period}"))
}

/// A quota in each period as systemd's CPUQuotaPerSecUSec: microseconds of processor time in each second, in whole
/// percents (10000), rounded up, since systemd computes in those.
///
/// opencontainers/cgroups `systemd/common.go` `addCPUQuota`; systemd.resource-control(5), "CPUQuota=".
pub fn quota_per_second(quota_us: u64, period_us: u64) -> u64 {
    let per_second = u128::from(quota_us) * 1_000_000 / u128::from(period_us.max(1));
    u64::try_from(per_second.div_ceil(10_000) * 10_000).unwrap_or(u64::MAX)
}

/// The quota that systemd makes of this one, in each period: what the cgroup's own file then says as well.
pub fn quota_in_whole_percents(quota_us: u64, period_us: u64) -> u64 {
    let quota = u128::from(quota_per_second(quota_us, period_us)) * u128::from(period_us) / 1_000_000;
    u64::try_from(quota).unwrap_or(u64::MAX)
}

/// A list of processors or memory nodes, `0-2,7`, as the bits that systemd's AllowedCPUs wants: number n is bit n % 8 of
/// byte n / 8. `None` for what is no such list, or an empty one.
///
/// systemd `cpu_set_from_dbus`; opencontainers/cgroups `systemd/cpuset.go`.
pub fn list_to_bits(list: &str) -> Option<Vec<u8>> {
    /// More than any kernel has (`NR_CPUS` is at most 8192).
    const HIGHEST: usize = 65_535;
    let mut bits: Vec<u8> = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > HIGHEST {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        for number in first..=last {
            bits[number / 8] |= 1 << (number % 8);
        }
    }
    Some(bits).filter(|bits| !bits.is_empty())
}

/// The contents of pids.max. 0 becomes 1, see [`super::Limits::pids_max`].
///
/// runtime-spec 1.3 config-linux.md "PIDs": -1 is unlimited; <https://github.com/opencontainers/runc/pull/4949>.
pub fn pids_max(limit: i64) -> String {
    if limit == 0 { "1".to_owned() } else { limit_or_max(limit) }
}

/// The file of the v1 blkio controller for a rate, and the key in io.max of v2.
pub fn throttle_names(what: ThrottleKind) -> (&'static str, &'static str) {
    match what {
        ThrottleKind::ReadBytes => ("blkio.throttle.read_bps_device", "rbps"),
        ThrottleKind::WriteBytes => ("blkio.throttle.write_bps_device", "wbps"),
        ThrottleKind::ReadOperations => ("blkio.throttle.read_iops_device", "riops"),
        ThrottleKind::WriteOperations => ("blkio.throttle.write_iops_device", "wiops"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_to_weights() {
        // (shares, weight): the ends and the default with their neighbours, and values worked out to fifty digits.
        let table = [
            (0, 1),
            (1, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (128, 21),
            (256, 35),
            (512, 59),
            (1023, 100),
            (1024, 100),
            (1025, 101),
            (2048, 174),
            (131_072, 5478),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ];
        for (shares, weight) in table {
            assert_eq!(shares_to_weight(shares), weight, "{shares} shares");
        }
        assert!((2..262_144).step_by(97).all(|s| shares_to_weight(s) <= shares_to_weight(s + 97)), "monotonic");
    }

    #[test]
    fn block_weights_map_linearly() {
        for (weight, expected) in [(10, 1), (11, 11), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(blkio_weight_to_io_weight(weight), expected, "weight {weight}");
        }
    }

    #[test]
    fn swap_is_the_total_less_the_memory() {
        let max = Some(MAX.to_owned());
        let table = [
            (None, None, None),
            (Some(100), None, None),
            (Some(100), Some(0), None),
            (Some(100), Some(100), Some("0".to_owned())),
            (Some(100), Some(250), Some("150".to_owned())),
            (Some(100), Some(-1), max.clone()),
            (None, Some(-1), max.clone()),
            (Some(-1), None, max.clone()),
            (Some(-1), Some(-1), max),
        ];
        for (memory, total, expected) in table {
            assert_eq!(swap_max(memory, total).unwrap(), expected, "{memory:?} {total:?}");
        }
        for (memory, total) in [(Some(100), 99), (None, 100), (Some(-1), 100), (Some(0), 100)] {
            let error = swap_max(memory, Some(total)).unwrap_err();
            assert!(matches!(error, CgroupError::Invalid { field: "memory_swap_total", .. }), "{memory:?} {total}");
        }
    }

    #[test]
    fn quota_and_period_make_one_line() {
        let table = [
            (None, None, None, None),
            (Some(0), Some(0), None, None),
            (Some(50_000), Some(100_000), None, Some("50000 100000")),
            (Some(50_000), None, None, Some("50000 100000")),
            (Some(-1), None, None, Some("max 100000")),
            (None, Some(20_000), None, Some("max 20000")),
            (None, Some(20_000), Some("7000 100000\n"), Some("7000 20000")),
            (Some(9000), None, Some("7000 50000\n"), Some("9000 50000")),
        ];
        for (quota, period, current, expected) in table {
            assert_eq!(cpu_max(quota, period, current).as_deref(), expected, "{quota:?} {period:?} {current:?}");
        }
    }

    #[test]
    fn quotas_become_whole_percents_of_a_second() {
        // (quota, period, per second, quota again)
        let table = [
            (50_000, 100_000, 500_000, 50_000),
            (5000, 100_000, 50_000, 5000),
            (5001, 100_000, 60_000, 6000),
            (1000, 1_000_000, 10_000, 10_000),
            (150_000, 50_000, 3_000_000, 150_000),
            (1, 3, 340_000, 1),
        ];
        for (quota, period, per_second, again) in table {
            assert_eq!(quota_per_second(quota, period), per_second, "{quota} in {period}");
            assert_eq!(quota_in_whole_percents(quota, period), again, "{quota} in {period}");
        }
        assert_eq!(quota_per_second(u64::MAX, 1000), u64::MAX);
    }

    #[test]
    fn lists_become_bits() {
        let table = [
            ("0", Some(vec![1])),
            ("0-2,7", Some(vec![0b1000_0111])),
            ("8", Some(vec![0, 1])),
            (" 1 , 3-5,", Some(vec![0b0011_1010])),
            ("15-17", Some(vec![0, 0b1000_0000, 0b11])),
            ("", None),
            (",", None),
            ("3-1", None),
            ("x", None),
            ("0-99999999999", None),
        ];
        for (list, bits) in table {
            assert_eq!(list_to_bits(list), bits, "{list:?}");
        }
    }

    #[test]
    fn pids_never_become_zero() {
        for (limit, expected) in [(-1, "max"), (-7, "max"), (0, "1"), (1, "1"), (64, "64")] {
            assert_eq!(pids_max(limit), expected);
        }
    }
}
