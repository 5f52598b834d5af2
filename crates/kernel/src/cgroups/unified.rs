//! Limits in the files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst), and switching controllers on.
//!
//! A controller works in a cgroup once every ancestor has it in its cgroup.subtree_control; those files are the only
//! ones outside of Hull's own cgroups that are ever written. A cgroup with processes of its own cannot pass controllers
//! on (the "no internal processes" rule), the root of all excepted.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_sys::bpf;
use rustix::fs::{Mode, OFlags, Uid, chown, open};
use rustix::io::Errno;

use super::devices::DeviceRule;
use super::filter;
use super::folder::Folder;
use super::layout::Hierarchy;
use super::legacy::write_hugetlb;
use super::limits::{BlkioWeightDevice, Limits, invalid};
use super::{CgroupError, convert};

/// The controllers that are switched on for a new cgroup where they exist, so that its use can be read later although
/// nothing is limited.
const USUAL: [&str; 8] = ["cpu", "cpuset", "io", "memory", "hugetlb", "pids", "rdma", "misc"];

/// Switches on what is missing of [`USUAL`] for the cgroup at `path`, as far as the machine allows. What could not be
/// switched on is reported by [`require`] when a limit needs it.
pub(super) fn enable_usual(hierarchy: &Hierarchy, path: &str) -> Result<(), CgroupError> {
    let available = Folder::at(&hierarchy.mount).read("cgroup.controllers")?;
    let present = Folder::at(hierarchy.folder(path)).read("cgroup.controllers")?;
    let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
    let missing: Vec<&str> = USUAL.into_iter().filter(|name| has(&available, name) && !has(&present, name)).collect();
    if missing.is_empty() {
        return settle(hierarchy, path, &present);
    }
    for ancestor in ancestors(hierarchy, path) {
        let folder = Folder::at(ancestor);
        let all: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
        // All at once is refused when one of them is; then each on its own. Failures come back in `require`.
        if folder.try_write("cgroup.subtree_control", &all.join(" ")).is_err() {
            for one in &all {
                let _reported_by_require = folder.try_write("cgroup.subtree_control", one);
            }
        }
    }
    Ok(())
}

/// Waits until the files of the controllers that cgroup.controllers names are there. It names them as soon as the parent
/// passes them on, while another process that has just switched them on may still be making the files; a write to the
/// parent's list, even of what is in it already, waits for that. The kernel makes files in the order of its controllers,
/// of which these three are the last.
fn settle(hierarchy: &Hierarchy, path: &str, present: &str) -> Result<(), CgroupError> {
    let last = [("misc", "misc.max"), ("rdma", "rdma.max"), ("pids", "pids.max")]
        .into_iter()
        .find(|(name, _)| present.split_ascii_whitespace().any(|word| word == *name));
    let (Some((name, file)), Some(parent)) = (last, ancestors(hierarchy, path).pop()) else { return Ok(()) };
    if hierarchy.folder(path).join(file).exists() {
        return Ok(());
    }
    Folder::at(parent).write("cgroup.subtree_control", &format!("+{name}"))
}

/// Makes sure that a controller works in the cgroup at `path`, or says why it cannot.
pub(super) fn require(hierarchy: &Hierarchy, path: &str, controller: &'static str) -> Result<(), CgroupError> {
    let works = |folder: &Path| -> Result<bool, CgroupError> {
        let list = Folder::at(folder).read("cgroup.controllers")?;
        Ok(list.split_ascii_whitespace().any(|word| word == controller))
    };
    if works(&hierarchy.folder(path))? {
        return Ok(());
    }
    if !works(&hierarchy.mount)? {
        return Err(CgroupError::NoController { controller });
    }
    for ancestor in ancestors(hierarchy, path) {
        let folder = Folder::at(ancestor);
        match folder.try_write("cgroup.subtree_control", &format!("+{controller}")) {
            Ok(()) => {}
            // Not supported: it has processes and passes on threaded controllers (cpu, pids), which it may.
            Err(Errno::BUSY | Errno::OPNOTSUPP) => {
                return Err(CgroupError::InternalProcesses { path: folder.path().to_owned(), controller });
            }
            Err(errno) => {
                return Err(CgroupError::EnableController {
                    path: folder.path().to_owned(),
                    controller,
                    source: errno.into(),
                });
            }
        }
    }
    Ok(())
}

/// The name of a controller that can be switched on, as the error messages want it.
pub(super) fn known_controller(name: &str) -> Option<&'static str> {
    USUAL.into_iter().find(|known| *known == name)
}

/// The directories above the cgroup at `path`, from the mount down.
fn ancestors(hierarchy: &Hierarchy, path: &str) -> Vec<PathBuf> {
    let mut folders = vec![hierarchy.mount.clone()];
    let mut folder = hierarchy.mount.clone();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for part in parts.iter().take(parts.len().saturating_sub(1)) {
        folder.push(part);
        folders.push(folder.clone());
    }
    folders
}

/// Memory, swap and protection.
pub(super) fn memory(folder: &Folder, limits: &Limits, fresh: bool) -> Result<(), CgroupError> {
    if limits.swappiness.is_some() {
        return Err(only_v1("swappiness"));
    }
    if limits.oom_kill_disable == Some(true) {
        return Err(only_v1("oom_kill_disable"));
    }
    let limit = limits.memory_max_bytes.filter(|value| *value != 0);
    check_in_use(folder, limits)?;
    let beside = match (limit, limits.memory_swap_total) {
        (None, Some(total)) if total > 0 && !fresh => match folder.number("memory.max")? {
            u64::MAX => None,
            now => i64::try_from(now).ok(),
        },
        _ => limit,
    };
    // A new cgroup swaps without limit already.
    let swap = convert::swap_max(beside, limits.memory_swap_total)?.filter(|swap| !fresh || swap != convert::MAX);
    if let Some(swap) = swap {
        write_swap(folder, &swap)?;
    }
    if let Some(limit) = limit {
        folder.write("memory.max", &convert::limit_or_max(limit))?;
    }
    if let Some(reservation) = limits.memory_reservation.filter(|value| *value != 0) {
        folder.write("memory.low", &convert::limit_or_max(reservation))?;
    }
    Ok(())
}

/// Refuses a limit below what is used, where that was asked for: the kernel would kill instead.
pub(super) fn check_in_use(folder: &Folder, limits: &Limits) -> Result<(), CgroupError> {
    let limit = limits.memory_max_bytes.filter(|limit| *limit > 0 && limits.memory_check_before_update);
    let Some(limit) = limit else { return Ok(()) };
    match folder.number("memory.current")? {
        usage if limit as u64 <= usage => Err(CgroupError::LimitBelowUsage { limit, usage }),
        _ => Ok(()),
    }
}

/// A kernel without swap lets nobody swap, which is what "none" and "unlimited" ask for there; only a number needs
/// accounting.
fn write_swap(folder: &Folder, swap: &str) -> Result<(), CgroupError> {
    const FILE: &str = "memory.swap.max";
    match folder.try_write(FILE, swap) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) if swap == convert::MAX => Ok(()),
        Err(Errno::NOENT) if swap == "0" && !Path::new("/proc/swaps").exists() => Ok(()),
        Err(Errno::NOENT) => Err(CgroupError::NoSwapAccounting { path: folder.path().join(FILE) }),
        Err(errno) => Err(folder.write_error(FILE, swap, errno)),
    }
}

/// Weight, idle and bandwidth.
pub(super) fn cpu(folder: &Folder, limits: &Limits, fresh: bool) -> Result<(), CgroupError> {
    if limits.cpu_realtime_runtime_us.is_some_and(|value| value != 0) {
        return Err(only_v1("cpu_realtime_runtime_us"));
    }
    if limits.cpu_realtime_period_us.is_some_and(|value| value != 0) {
        return Err(only_v1("cpu_realtime_period_us"));
    }
    if limits.cpu_idle == Some(0) && !fresh {
        folder.write("cpu.idle", "0")?;
    }
    if let Some(shares) = limits.cpu_shares.filter(|shares| *shares != 0) {
        folder.write("cpu.weight", &convert::shares_to_weight(shares).to_string())?;
    }
    if limits.cpu_idle == Some(1) {
        folder.write("cpu.idle", "1")?;
    }
    let half = limits.cpu_quota_us.is_none_or(|quota| quota == 0) || limits.cpu_period_us.is_none_or(|p| p == 0);
    let current = if half && !fresh { Some(folder.read("cpu.max")?) } else { None };
    let max = convert::cpu_max(limits.cpu_quota_us, limits.cpu_period_us, current.as_deref());
    if limits.cpu_burst_us.is_some() && max.is_some() && !fresh {
        // An old burst may be above the new quota; the new one is written last.
        folder.write("cpu.max.burst", "0")?;
    }
    if let Some(max) = max {
        folder.write("cpu.max", &max)?;
    }
    match limits.cpu_burst_us {
        Some(burst) => folder.write("cpu.max.burst", &burst.to_string()),
        None => Ok(()),
    }
}

/// Weights and rates of block I/O. `io.bfq.weight` is the BFQ scheduler's, `io.weight` the cost model's; each is
/// written where it exists, since which of them acts depends on each disk's scheduler.
pub(super) fn io(folder: &Folder, limits: &Limits) -> Result<(), CgroupError> {
    if let Some(weight) = limits.blkio_weight.filter(|weight| *weight != 0) {
        write_weights(folder, &weight.to_string(), &format!("default {}", convert::blkio_weight_to_io_weight(weight)))?;
    }
    for BlkioWeightDevice { major, minor, weight, .. } in &limits.blkio_weight_devices {
        if let Some(weight) = weight.filter(|weight| *weight != 0) {
            let cost = convert::blkio_weight_to_io_weight(weight);
            write_weights(folder, &format!("{major}:{minor} {weight}"), &format!("{major}:{minor} {cost}"))?;
        }
    }
    for throttle in &limits.blkio_throttles {
        let (_, key) = convert::throttle_names(throttle.what);
        let rate = if throttle.rate == 0 { convert::MAX.to_owned() } else { throttle.rate.to_string() };
        folder.write("io.max", &format!("{}:{} {key}={rate}", throttle.major, throttle.minor))?;
    }
    Ok(())
}

fn write_weights(folder: &Folder, bfq: &str, cost: &str) -> Result<(), CgroupError> {
    let mut written = false;
    for (file, value) in [("io.bfq.weight", bfq), ("io.weight", cost)] {
        match folder.try_write(file, value) {
            Ok(()) => written = true,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(folder.write_error(file, value, errno)),
        }
    }
    if written {
        return Ok(());
    }
    Err(CgroupError::Unsupported { field: "blkio_weight", reason: "this kernel has no I/O scheduler with weights" })
}

/// Huge pages.
pub(super) fn hugetlb(folder: &Folder, limits: &Limits) -> Result<(), CgroupError> {
    write_hugetlb(folder, limits, "max")
}

/// Raw files, as they are.
pub(super) fn raw(folder: &Folder, file: &str, value: &str) -> Result<(), CgroupError> {
    match folder.try_write(file, value) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) => Err(invalid("unified", file, "this kernel has no such cgroup file here")),
        Err(errno) => Err(folder.write_error(file, value, errno)),
    }
}

/// Makes the cgroup's device filter the one for `rules`: attached if there was none, replaced in one step if there was
/// one, taken off if everything is allowed.
pub(super) fn devices(folder: &Path, rules: &[DeviceRule], fresh: bool) -> Result<(), CgroupError> {
    let program = filter::compile(rules);
    if fresh && program.is_none() {
        return Ok(());
    }
    let failed = |action| move |source| CgroupError::DeviceFilter { action, path: folder.to_owned(), source };
    let cgroup = open_directory(folder)?;
    let ids = if fresh { Vec::new() } else { bpf::attached_device_filters(cgroup.as_fd()).map_err(failed("query"))? };
    let old: Vec<OwnedFd> =
        ids.into_iter().map(bpf::program_by_id).collect::<Result<_, _>>().map_err(failed("open"))?;
    let Some(program) = program else {
        return old.iter().try_for_each(|old| bpf::detach_device_filter(cgroup.as_fd(), old)).map_err(failed("detach"));
    };
    let program = bpf::load_device_filter(&program).map_err(failed("load"))?;
    match old.as_slice() {
        [] => bpf::attach_device_filter(cgroup.as_fd(), program.as_fd(), None).map_err(failed("attach")),
        [old] => {
            bpf::attach_device_filter(cgroup.as_fd(), program.as_fd(), Some(old.as_fd())).map_err(failed("replace"))
        }
        // Every program must say yes, so the new one first and then the old ones off.
        several => {
            bpf::attach_device_filter(cgroup.as_fd(), program.as_fd(), None).map_err(failed("attach"))?;
            several.iter().try_for_each(|old| bpf::detach_device_filter(cgroup.as_fd(), old)).map_err(failed("detach"))
        }
    }
}

/// Gives a cgroup's directory and its delegatable files to a user; which these are the kernel says.
pub(super) fn delegate(folder: &Path, uid: u32) -> Result<(), CgroupError> {
    let usual = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";
    let files = std::fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| usual.to_owned());
    let directory = std::iter::once(folder.to_owned());
    for path in directory.chain(files.lines().filter(|name| !name.is_empty()).map(|name| folder.join(name))) {
        match chown(&path, Some(Uid::from_raw(uid)), None) {
            // The list is of all files that some kernel configuration could have.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(CgroupError::Delegate { path, uid, source: errno.into() }),
        }
    }
    Ok(())
}

/// The cgroup's directory, as `CLONE_INTO_CGROUP` and bpf(2) want it.
pub(super) fn open_directory(folder: &Path) -> Result<OwnedFd, CgroupError> {
    open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| CgroupError::Open { path: folder.to_owned(), source: errno.into() })
}

fn only_v1(field: &'static str) -> CgroupError {
    CgroupError::Unsupported { field, reason: "cgroup v2 has no such setting" }
}
