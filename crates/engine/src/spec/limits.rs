//! Limits: memory, CPU, pids, ulimits and the OOM score, checked with docker's rules and messages.
//!
//! Values are checked when a container is created, against the machine as it then is, and again at every start.
//! The spec gets memory and swap in OCI meaning (swap is memory plus swap); `--cpus` becomes a quota over a period of
//! 100 ms, as docker does it.

use hull_kernel::rlimits;
use hull_oci::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, PosixRlimit};

use super::{Machine, SpecError};
use crate::request::{CreateContainer, ResourceRequest, Ulimit};

/// Least memory limit, bytes: below it a container cannot even be set up.
pub const MINIMUM_MEMORY_BYTES: u64 = 6 * 1024 * 1024;
/// Period of the CPU quota, microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;

const NANO: u64 = 1_000_000_000;
const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// Quotas below one millisecond are refused by the kernel.
const MINIMUM_QUOTA_US: i64 = 1_000;

/// Checks every limit of a request.
pub(crate) fn check(request: &CreateContainer, machine: &Machine) -> Result<(), SpecError> {
    check_memory(&request.resources)?;
    check_cpu(&request.resources, machine)?;
    rlimits(&request.ulimits)?;
    match request.oom_score_adj {
        Some(value) if !(-1000..=1000).contains(&value) => Err(SpecError::OomScore { value }),
        _ => Ok(()),
    }
}

fn check_memory(resources: &ResourceRequest) -> Result<(), SpecError> {
    let memory = resources.memory_bytes.unwrap_or(0);
    let reservation = resources.memory_reservation_bytes.unwrap_or(0);
    let refused = |message: &'static str| Err(SpecError::Memory { message });
    if memory > 0 && memory < MINIMUM_MEMORY_BYTES {
        return refused("Minimum memory limit allowed is 6MB");
    }
    if memory > i64::MAX as u64 || reservation > i64::MAX as u64 {
        return refused("the memory limit is larger than any machine's memory");
    }
    match resources.memory_swap_bytes {
        Some(swap) if swap > 0 && memory == 0 => {
            return refused("You should always set the Memory limit when using Memoryswap limit, see usage");
        }
        Some(swap) if swap > 0 && (swap as u64) < memory => {
            return refused("Minimum memoryswap limit should be larger than memory limit, see usage");
        }
        Some(swap) if swap < -1 => return refused("the memory-swap limit must be a size or -1"),
        _ => {}
    }
    if reservation > 0 && reservation < MINIMUM_MEMORY_BYTES {
        return refused("Minimum memory reservation allowed is 6MB");
    }
    if memory > 0 && reservation > memory {
        return refused("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    Ok(())
}

fn check_cpu(resources: &ResourceRequest, machine: &Machine) -> Result<(), SpecError> {
    if let Some(nano) = resources.nano_cpus
        && (nano < NANO / 100 || nano > machine.cpus.len() as u64 * NANO)
    {
        return Err(SpecError::CpuCount { available: machine.cpus.len() });
    }
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0)
        && !CPU_SHARES.contains(&shares)
    {
        return Err(SpecError::CpuShares { shares, least: *CPU_SHARES.start(), most: *CPU_SHARES.end() });
    }
    if let Some(text) = resources.cpuset_cpus.as_deref().filter(|text| !text.is_empty()) {
        let wanted = parse_cpuset(text).ok_or_else(|| SpecError::CpusetSyntax { text: text.to_owned() })?;
        if wanted.iter().any(|cpu| !machine.cpus.contains(cpu)) {
            let available = format_cpuset(&machine.cpus);
            return Err(SpecError::CpusetUnavailable { text: text.to_owned(), available });
        }
    }
    Ok(())
}

/// The `resources` section, devices aside.
pub(crate) fn resources(request: &ResourceRequest) -> LinuxResources {
    LinuxResources { memory: memory(request), cpu: cpu(request), pids: pids(request), ..LinuxResources::default() }
}

fn memory(request: &ResourceRequest) -> Option<LinuxMemory> {
    let limit = positive(request.memory_bytes);
    let reservation = positive(request.memory_reservation_bytes);
    let swap = memory_and_swap(request.memory_bytes, request.memory_swap_bytes);
    let any = limit.is_some() || reservation.is_some() || swap.is_some();
    any.then(|| LinuxMemory { limit, reservation, swap, ..LinuxMemory::default() })
}

/// Memory and swap together, bytes: what was asked for, or docker's default, as much swap again as memory.
pub(crate) fn memory_and_swap(memory_bytes: Option<u64>, memory_swap_bytes: Option<i64>) -> Option<i64> {
    match (memory_swap_bytes, positive(memory_bytes)) {
        (Some(-1), _) => Some(-1),
        (Some(swap), _) if swap > 0 => Some(swap),
        (_, Some(limit)) => Some(limit.saturating_mul(2)),
        _ => None,
    }
}

fn cpu(request: &ResourceRequest) -> Option<LinuxCpu> {
    let quota = request.nano_cpus.map(|nano| quota_us(nano, CPU_PERIOD_US));
    let period = quota.map(|_| CPU_PERIOD_US);
    let shares = request.cpu_shares.filter(|shares| *shares > 0);
    let cpus = request.cpuset_cpus.clone().filter(|cpus| !cpus.is_empty());
    let any = quota.is_some() || shares.is_some() || cpus.is_some();
    any.then(|| LinuxCpu { quota, period, shares, cpus, ..LinuxCpu::default() })
}

fn pids(request: &ResourceRequest) -> Option<LinuxPids> {
    match request.pids_limit {
        None | Some(0) => None,
        Some(limit) => Some(LinuxPids { limit: Some(limit.max(-1)) }),
    }
}

/// Quota in microseconds of `nano_cpus` billionths of a CPU over `period_us`.
fn quota_us(nano_cpus: u64, period_us: u64) -> i64 {
    let quota = u128::from(nano_cpus) * u128::from(period_us) / u128::from(NANO);
    i64::try_from(quota).unwrap_or(i64::MAX).max(MINIMUM_QUOTA_US)
}

fn positive(bytes: Option<u64>) -> Option<i64> {
    bytes.filter(|bytes| *bytes > 0).and_then(|bytes| i64::try_from(bytes).ok())
}

/// Ulimits in the runtime spec's form; a name may occur once.
pub(crate) fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<PosixRlimit>, SpecError> {
    let mut limits: Vec<PosixRlimit> = Vec::new();
    for ulimit in ulimits {
        let Ulimit { name, soft, hard } = ulimit;
        if rlimits::resource(name).is_none() {
            return Err(SpecError::UlimitName { name: name.clone() });
        }
        if *soft < -1 || *hard < -1 {
            return Err(SpecError::UlimitValue { name: name.clone(), value: *soft.min(hard) });
        }
        if *hard != -1 && (*soft == -1 || soft > hard) {
            return Err(SpecError::UlimitOrder { name: name.clone(), soft: *soft, hard: *hard });
        }
        let bits = |value: i64| if value == -1 { rlimits::UNLIMITED } else { value as u64 };
        let limit = PosixRlimit {
            type_: format!("RLIMIT_{}", name.to_ascii_uppercase()),
            soft: bits(*soft),
            hard: bits(*hard),
        };
        limits.retain(|have| have.type_ != limit.type_);
        limits.push(limit);
    }
    Ok(limits)
}

/// A list like `0-3,7` in ascending order; `None` when it is not one.
pub(crate) fn parse_cpuset(text: &str) -> Option<Vec<u32>> {
    const LARGEST_CPU: u32 = 8191;
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last > LARGEST_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

fn format_cpuset(cpus: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let texts = parts.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn checked(resources: ResourceRequest) -> String {
        let request = CreateContainer { resources, ..CreateContainer::default() };
        match check(&request, &Machine::example()) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    fn memory_case(memory: u64, swap: Option<i64>, reservation: Option<u64>) -> String {
        checked(ResourceRequest {
            memory_bytes: (memory > 0).then_some(memory),
            memory_swap_bytes: swap,
            memory_reservation_bytes: reservation,
            ..ResourceRequest::default()
        })
    }

    #[test]
    fn memory_rules() {
        assert_eq!(memory_case(6 * MIB, None, None), "ok");
        assert_eq!(memory_case(6 * MIB - 1, None, None), "Minimum memory limit allowed is 6MB");
        assert_eq!(memory_case(64 * MIB, Some(-1), Some(32 * MIB)), "ok");
        assert!(memory_case(64 * MIB, Some(63), None).starts_with("Minimum memoryswap limit"));
        assert!(memory_case(0, Some(64), None).starts_with("You should always set the Memory limit"));
        assert!(memory_case(64 * MIB, None, Some(65 * MIB)).starts_with("Minimum memory limit can not be less"));
        assert_eq!(memory_case(0, None, Some(1)), "Minimum memory reservation allowed is 6MB");
    }

    #[test]
    fn cpu_rules() {
        let cpus = |nano| checked(ResourceRequest { nano_cpus: Some(nano), ..ResourceRequest::default() });
        let range = "Range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available";
        assert_eq!(cpus(NANO * 4), "ok");
        assert_eq!(cpus(NANO * 4 + 1), range);
        assert_eq!(cpus(NANO / 1000), range);
        let set =
            |text: &str| checked(ResourceRequest { cpuset_cpus: Some(text.into()), ..ResourceRequest::default() });
        assert_eq!(set("0-1,3"), "ok");
        assert_eq!(set("0-4"), "Requested CPUs are not available - requested 0-4, available: 0-3");
        assert_eq!(set("3-0"), "Invalid value 3-0 for cpuset cpus");
        assert_eq!(set("0-9999999"), "Invalid value 0-9999999 for cpuset cpus");
    }

    #[test]
    fn quotas() {
        for (nano, quota) in [(NANO / 2, 50_000), (NANO / 100, 1_000), (NANO * 3, 300_000), (NANO / 3, 33_333)] {
            assert_eq!(quota_us(nano, CPU_PERIOD_US), quota);
        }
    }

    #[test]
    fn swap_defaults_to_as_much_again() {
        let request = ResourceRequest { memory_bytes: Some(64 * MIB), ..ResourceRequest::default() };
        assert_eq!(memory(&request).unwrap().swap, Some(128 * MIB as i64));
    }

    #[test]
    fn ulimit_rules() {
        let limit = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
        let limits = rlimits(&[limit("nofile", 1, 2), limit("core", -1, -1), limit("nofile", 3, 4)]).unwrap();
        assert_eq!(limits.len(), 2);
        assert_eq!((limits[0].type_.as_str(), limits[0].soft), ("RLIMIT_CORE", u64::MAX));
        assert!(
            rlimits(&[limit("nofile", 3, 2)]).unwrap_err().to_string().contains("less than or equal to hard limit")
        );
        assert!(rlimits(&[limit("nofile", -1, 2)]).is_err());
        assert_eq!(rlimits(&[limit("fish", 1, 2)]).unwrap_err().to_string(), "invalid ulimit type: fish");
    }

    #[test]
    fn cpusets_are_written_back() {
        assert_eq!(format_cpuset(&parse_cpuset("3,0-1,1").unwrap()), "0-1,3");
        assert_eq!(parse_cpuset(""), None);
    }
}
