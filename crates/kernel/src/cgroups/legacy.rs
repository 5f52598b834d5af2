//! Limits in the files of cgroup v1 (Documentation/admin-guide/cgroup-v1/).
//!
//! Each function takes the folder of the hierarchy that carries its controller. `fresh` says that the cgroup was just
//! made and nobody is in it, so that its present values need not be read. Where the kernel wants an order it is kept
//! here: a memory limit is never above the memory+swap limit, a burst never above its quota, an idle group has no
//! weight.

use rustix::io::Errno;

use super::folder::Folder;
use super::limits::{BlkioWeightDevice, Limits, invalid};
use super::{CgroupError, convert};

const MEMORY: &str = "memory.limit_in_bytes";
const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";
const CPU_PERIOD: &str = "cpu.cfs_period_us";
const CPU_QUOTA: &str = "cpu.cfs_quota_us";
const CPU_BURST: &str = "cpu.cfs_burst_us";

/// Memory, memory+swap, soft limit, swappiness, and whether the OOM killer may act.
pub(super) fn memory(folder: &Folder, limits: &Limits, fresh: bool) -> Result<(), CgroupError> {
    let limit = limits.memory_max_bytes.filter(|value| *value != 0);
    // Unlimited memory below limited memory+swap makes no sense, so the second follows the first unless told otherwise.
    let follows = limit == Some(-1) && !fresh && limits.memory_swap_total.is_none_or(|total| total == 0);
    let total = if follows { Some(-1) } else { limits.memory_swap_total.filter(|value| *value != 0) };
    match (limit, total) {
        (None, None) => {}
        (Some(limit), None) => memory_limit(folder, limit)?,
        (None, Some(total)) => memory_and_swap_limit(folder, total)?,
        (Some(limit), Some(total)) => {
            // Both must hold after each of the two writes. Fresh is unlimited, so memory goes down first.
            let swap_first = !fresh && (total == -1 || total as u64 >= folder.number(MEMORY)?);
            if swap_first {
                memory_and_swap_limit(folder, total)?;
                memory_limit(folder, limit)?;
            } else {
                memory_limit(folder, limit)?;
                memory_and_swap_limit(folder, total)?;
            }
        }
    }
    if let Some(reservation) = limits.memory_reservation.filter(|value| *value != 0) {
        folder.write("memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(swappiness) = limits.swappiness {
        folder.write("memory.swappiness", &swappiness.to_string())?;
    }
    match limits.oom_kill_disable {
        Some(true) => folder.write("memory.oom_control", "1"),
        Some(false) if !fresh => folder.write("memory.oom_control", "0"),
        _ => Ok(()),
    }
}

fn memory_limit(folder: &Folder, limit: i64) -> Result<(), CgroupError> {
    match folder.try_write(MEMORY, &limit.to_string()) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(CgroupError::LimitBelowUsage { limit, usage: folder.number("memory.usage_in_bytes")? }),
        // The message of docker update in this case: change the memory+swap limit too.
        Err(Errno::INVAL) => Err(invalid(
            "memory_max_bytes",
            limit,
            "it is above the memory+swap limit that is already set; set memory_swap_total as well",
        )),
        Err(errno) => Err(folder.write_error(MEMORY, &limit.to_string(), errno)),
    }
}

fn memory_and_swap_limit(folder: &Folder, total: i64) -> Result<(), CgroupError> {
    match folder.try_write(MEMORY_AND_SWAP, &total.to_string()) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) if total == -1 => Ok(()),
        Err(Errno::NOENT) => Err(CgroupError::NoSwapAccounting { path: folder.path().join(MEMORY_AND_SWAP) }),
        Err(Errno::BUSY) => {
            Err(CgroupError::LimitBelowUsage { limit: total, usage: folder.number("memory.memsw.usage_in_bytes")? })
        }
        Err(Errno::INVAL) => {
            Err(invalid("memory_swap_total", total, "it is below the memory limit that is already set"))
        }
        Err(errno) => Err(folder.write_error(MEMORY_AND_SWAP, &total.to_string(), errno)),
    }
}

/// Shares, idle, real-time and CFS bandwidth.
pub(super) fn cpu(folder: &Folder, limits: &Limits, fresh: bool) -> Result<(), CgroupError> {
    if limits.cpu_idle == Some(0) && !fresh {
        folder.write("cpu.idle", "0")?;
    }
    if let Some(shares) = limits.cpu_shares.filter(|shares| *shares != 0) {
        // The kernel would silently draw the number into its range.
        if !(2..=262_144).contains(&shares) {
            return Err(invalid("cpu_shares", shares, "it is between 2 and 262144"));
        }
        folder.write("cpu.shares", &shares.to_string())?;
    }
    if limits.cpu_idle == Some(1) {
        folder.write("cpu.idle", "1")?;
    }
    if let Some(period) = limits.cpu_realtime_period_us.filter(|period| *period != 0) {
        folder.write("cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = limits.cpu_realtime_runtime_us.filter(|runtime| *runtime != 0) {
        folder.write("cpu.rt_runtime_us", &runtime.to_string())?;
    }
    bandwidth(folder, limits, fresh)
}

fn bandwidth(folder: &Folder, limits: &Limits, fresh: bool) -> Result<(), CgroupError> {
    let quota = limits.cpu_quota_us.filter(|quota| *quota != 0).map(|quota| quota.max(-1).to_string());
    let period = limits.cpu_period_us.filter(|period| *period != 0).map(|period| period.to_string());
    if limits.cpu_burst_us.is_some() && quota.is_some() && !fresh {
        // An old burst may be above the new quota; the new one is written last.
        folder.write(CPU_BURST, "0")?;
    }
    match (&period, &quota) {
        (None, None) => {}
        (Some(period), None) => folder.write(CPU_PERIOD, period)?,
        (None, Some(quota)) => folder.write(CPU_QUOTA, quota)?,
        (Some(period), Some(quota)) => match folder.try_write(CPU_PERIOD, period) {
            Ok(()) => folder.write(CPU_QUOTA, quota)?,
            // The old quota in the new period may be more than the parent has.
            Err(Errno::INVAL) => {
                folder.write(CPU_QUOTA, quota)?;
                folder.write(CPU_PERIOD, period)?;
            }
            Err(errno) => return Err(folder.write_error(CPU_PERIOD, period, errno)),
        },
    }
    match limits.cpu_burst_us {
        Some(burst) => folder.write(CPU_BURST, &burst.to_string()),
        None => Ok(()),
    }
}

/// Processors and memory nodes.
pub(super) fn cpuset(folder: &Folder, limits: &Limits) -> Result<(), CgroupError> {
    for (file, list) in [("cpuset.cpus", &limits.cpuset_cpus), ("cpuset.mems", &limits.cpuset_mems)] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            folder.write(file, list)?;
        }
    }
    Ok(())
}

/// Number of tasks; the file is the same in v2.
pub(super) fn pids(folder: &Folder, limit: i64) -> Result<(), CgroupError> {
    folder.write("pids.max", &convert::pids_max(limit))
}

/// Weights and rates of block I/O. The weight belongs to the scheduler: `blkio.weight` was CFQ's, `blkio.bfq.weight` is
/// BFQ's.
pub(super) fn blkio(folder: &Folder, limits: &Limits) -> Result<(), CgroupError> {
    if let Some(weight) = limits.blkio_weight.filter(|weight| *weight != 0) {
        write_weight(folder, ["blkio.weight", "blkio.bfq.weight"], &weight.to_string())?;
    }
    for BlkioWeightDevice { major, minor, weight, .. } in &limits.blkio_weight_devices {
        if let Some(weight) = weight.filter(|weight| *weight != 0) {
            let files = ["blkio.weight_device", "blkio.bfq.weight_device"];
            write_weight(folder, files, &format!("{major}:{minor} {weight}"))?;
        }
    }
    for throttle in &limits.blkio_throttles {
        let (file, _) = convert::throttle_names(throttle.what);
        folder.write(file, &format!("{}:{} {}", throttle.major, throttle.minor, throttle.rate))?;
    }
    Ok(())
}

fn write_weight(folder: &Folder, files: [&'static str; 2], value: &str) -> Result<(), CgroupError> {
    for file in files {
        match folder.try_write(file, value) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(folder.write_error(file, value, errno)),
        }
    }
    Err(CgroupError::Unsupported { field: "blkio_weight", reason: "this kernel has no I/O scheduler with weights" })
}

/// Huge pages; the second file limits their reservation (Linux 5.7) and is written where there is one.
pub(super) fn hugetlb(folder: &Folder, limits: &Limits) -> Result<(), CgroupError> {
    write_hugetlb(folder, limits, "limit_in_bytes")
}

/// `hugetlb.<size>.<what>` and `hugetlb.<size>.rsvd.<what>`, where `what` is the only difference between v1 and v2.
pub(super) fn write_hugetlb(folder: &Folder, limits: &Limits, what: &str) -> Result<(), CgroupError> {
    for limit in &limits.hugetlb {
        let (file, value) = (format!("hugetlb.{}.{what}", limit.page_size), limit.bytes.to_string());
        match folder.try_write(&file, &value) {
            Ok(()) => {}
            Err(Errno::NOENT) => {
                return Err(invalid("hugetlb", &limit.page_size, "this kernel has no huge pages of that size"));
            }
            Err(errno) => return Err(folder.write_error(&file, &value, errno)),
        }
        let file = format!("hugetlb.{}.rsvd.{what}", limit.page_size);
        match folder.try_write(&file, &value) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(folder.write_error(&file, &value, errno)),
        }
    }
    Ok(())
}

/// RDMA objects; the file is the same in v2.
pub(super) fn rdma(folder: &Folder, limits: &Limits) -> Result<(), CgroupError> {
    for (device, limit) in &limits.rdma {
        let mut line = device.clone();
        for (name, count) in [("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects)] {
            if let Some(count) = count {
                line.push_str(&format!(" {name}={count}"));
            }
        }
        folder.write("rdma.max", &line)?;
    }
    Ok(())
}

/// The class of the group's packets.
pub(super) fn net_cls(folder: &Folder, class: u32) -> Result<(), CgroupError> {
    folder.write("net_cls.classid", &class.to_string())
}

/// The priority of the group's packets on each interface.
pub(super) fn net_prio(folder: &Folder, limits: &Limits) -> Result<(), CgroupError> {
    for (interface, priority) in &limits.net_prio {
        folder.write("net_prio.ifpriomap", &format!("{interface} {priority}"))?;
    }
    Ok(())
}
