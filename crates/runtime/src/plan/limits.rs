//! `linux.cgroupsPath` and `linux.resources` in the kernel crate's neutral terms.
//!
//! Only shape and names change here; every formula between the two cgroup versions is in
//! [`hull_kernel::cgroups`]. What the kernel has dropped (`memory.kernel`) is refused by name.

use hull_kernel::cgroups::{
    Access, BlkioThrottle, BlkioWeightDevice, CgroupError, DeviceKind, DeviceRule, HugetlbLimit, Limits, RdmaLimit,
    ThrottleKind,
};
use hull_oci::runtime::{
    Linux, LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};

use super::{CgroupPlan, PlanError};

/// The cgroup and its limits; `path` overrides the spec's. Without any path the container stays in its caller's.
pub(crate) fn plan(linux: &Linux, path: Option<String>) -> Result<Option<CgroupPlan>, PlanError> {
    let path = match (path, linux.cgroups_path.as_deref()) {
        (Some(path), _) => path,
        (None, Some(path)) if path.starts_with('/') => path.to_owned(),
        (None, Some(path)) if !path.is_empty() => format!("/{path}"),
        (None, _) if linux.resources.is_none() => return Ok(None),
        (None, _) => return Err(PlanError::invalid("linux.cgroupsPath", "linux.resources needs it")),
    };
    let limits = checked_limits(linux)?;
    Ok(Some(CgroupPlan { path, limits, unit: None, owner: None, optional: false }))
}

/// The limits of a container that may have none, checked.
pub(super) fn checked_limits(linux: &Linux) -> Result<Limits, PlanError> {
    let limits = linux.resources.as_ref().map(limits).transpose()?.unwrap_or_default();
    limits
        .validate()
        .map_err(|error| PlanError::invalid(field_of(&error).unwrap_or("linux.resources"), error.to_string()))?;
    Ok(limits)
}

/// The field of config.json that a limit comes from which no kernel, or not this one, takes.
pub(crate) fn field_of(error: &CgroupError) -> Option<&'static str> {
    const FIELDS: [(&str, &str); 20] = [
        ("memory_max_bytes", "linux.resources.memory.limit"),
        ("memory_swap_total", "linux.resources.memory.swap"),
        ("memory_reservation", "linux.resources.memory.reservation"),
        ("swappiness", "linux.resources.memory.swappiness"),
        ("oom_kill_disable", "linux.resources.memory.disableOOMKiller"),
        ("cpu_shares", "linux.resources.cpu.shares"),
        ("cpu_quota_us", "linux.resources.cpu.quota"),
        ("cpu_period_us", "linux.resources.cpu.period"),
        ("cpu_burst_us", "linux.resources.cpu.burst"),
        ("cpu_idle", "linux.resources.cpu.idle"),
        ("cpu_realtime_runtime_us", "linux.resources.cpu.realtimeRuntime"),
        ("cpu_realtime_period_us", "linux.resources.cpu.realtimePeriod"),
        ("cpuset_cpus", "linux.resources.cpu.cpus"),
        ("cpuset_mems", "linux.resources.cpu.mems"),
        ("blkio_weight", "linux.resources.blockIO.weight"),
        ("blkio_leaf_weight", "linux.resources.blockIO.leafWeight"),
        ("hugetlb", "linux.resources.hugepageLimits"),
        ("net_cls_classid", "linux.resources.network.classID"),
        ("net_prio", "linux.resources.network.priorities"),
        ("unified", "linux.resources.unified"),
    ];
    let (CgroupError::Invalid { field, .. } | CgroupError::Unsupported { field, .. }) = error else { return None };
    FIELDS.iter().find(|(name, _)| name == field).map(|(_, path)| *path)
}

/// `linux.resources` as [`Limits`].
///
/// # Errors
/// The field that is out of range or no longer exists in the kernel.
pub fn limits(resources: &LinuxResources) -> Result<Limits, PlanError> {
    let mut limits = Limits { unified: resources.unified.clone(), ..Limits::default() };
    for (index, rule) in resources.devices.iter().enumerate() {
        limits.devices.push(device_rule(index, rule)?);
    }
    if !limits.devices.is_empty() {
        limits.devices.extend(always_allowed());
    }
    if let Some(memory) = &resources.memory {
        set_memory(&mut limits, memory)?;
    }
    if let Some(cpu) = &resources.cpu {
        set_cpu(&mut limits, cpu);
    }
    limits.pids_max = resources.pids.as_ref().and_then(|pids| pids.limit);
    if let Some(io) = &resources.block_io {
        set_block_io(&mut limits, io)?;
    }
    for hugepages in &resources.hugepage_limits {
        limits.hugetlb.push(HugetlbLimit { page_size: hugepages.page_size.clone(), bytes: hugepages.limit });
    }
    if let Some(network) = &resources.network {
        limits.net_cls_classid = network.class_id;
        limits.net_prio = network.priorities.iter().map(|one| (one.name.clone(), one.priority)).collect();
    }
    for (device, rdma) in &resources.rdma {
        if rdma.hca_handles.is_none() && rdma.hca_objects.is_none() {
            let reason = "needs hcaHandles or hcaObjects";
            return Err(PlanError::invalid(format!("linux.resources.rdma.{device}"), reason));
        }
        let limit = RdmaLimit { hca_handles: rdma.hca_handles, hca_objects: rdma.hca_objects };
        limits.rdma.insert(device.clone(), limit);
    }
    Ok(limits)
}

/// What every container may use whatever its rules say, as in runc: making nodes, the standard nodes, its terminals.
fn always_allowed() -> impl Iterator<Item = DeviceRule> {
    let node = |minor| (DeviceKind::Char, Some(1), Some(minor), Access::ALL);
    [
        (DeviceKind::Char, None, None, Access::MKNOD),
        (DeviceKind::Block, None, None, Access::MKNOD),
        node(3),
        node(5),
        node(7),
        node(8),
        node(9),
        (DeviceKind::Char, Some(5), Some(0), Access::ALL),
        (DeviceKind::Char, Some(5), Some(2), Access::ALL),
        (DeviceKind::Char, Some(136), None, Access::ALL),
    ]
    .into_iter()
    .map(|(kind, major, minor, access)| DeviceRule { allow: true, kind, major, minor, access })
}

fn set_memory(limits: &mut Limits, memory: &LinuxMemory) -> Result<(), PlanError> {
    if memory.kernel.is_some_and(|bytes| bytes > 0) {
        return Err(PlanError::unsupported("linux.resources.memory.kernel", "the kernel dropped this limit in 5.4"));
    }
    if memory.kernel_tcp.is_some_and(|bytes| bytes > 0) {
        return Err(PlanError::unsupported("linux.resources.memory.kernelTCP", "the kernel dropped this limit"));
    }
    if memory.use_hierarchy == Some(false) {
        let reason = "memory is always counted with that of child cgroups";
        return Err(PlanError::unsupported("linux.resources.memory.useHierarchy: false", reason));
    }
    limits.memory_max_bytes = memory.limit;
    limits.memory_swap_total = memory.swap;
    limits.memory_reservation = memory.reservation;
    limits.swappiness = memory.swappiness;
    limits.oom_kill_disable = memory.disable_oom_killer.filter(|disable| *disable);
    limits.memory_check_before_update = memory.check_before_update.unwrap_or(false);
    Ok(())
}

fn set_cpu(limits: &mut Limits, cpu: &LinuxCpu) {
    limits.cpu_shares = cpu.shares;
    limits.cpu_quota_us = cpu.quota;
    limits.cpu_period_us = cpu.period;
    limits.cpu_burst_us = cpu.burst;
    limits.cpu_idle = cpu.idle;
    limits.cpu_realtime_runtime_us = cpu.realtime_runtime;
    limits.cpu_realtime_period_us = cpu.realtime_period;
    limits.cpuset_cpus = cpu.cpus.clone().filter(|list| !list.is_empty());
    limits.cpuset_mems = cpu.mems.clone().filter(|list| !list.is_empty());
}

fn set_block_io(limits: &mut Limits, io: &LinuxBlockIo) -> Result<(), PlanError> {
    limits.blkio_weight = io.weight;
    limits.blkio_leaf_weight = io.leaf_weight;
    for device in &io.weight_device {
        limits.blkio_weight_devices.push(BlkioWeightDevice {
            major: device_number("weightDevice", device.major)?,
            minor: device_number("weightDevice", device.minor)?,
            weight: device.weight,
            leaf_weight: device.leaf_weight,
        });
    }
    let throttles: [(&str, &[LinuxThrottleDevice], ThrottleKind); 4] = [
        ("throttleReadBpsDevice", &io.throttle_read_bps_device, ThrottleKind::ReadBytes),
        ("throttleWriteBpsDevice", &io.throttle_write_bps_device, ThrottleKind::WriteBytes),
        ("throttleReadIOPSDevice", &io.throttle_read_iops_device, ThrottleKind::ReadOperations),
        ("throttleWriteIOPSDevice", &io.throttle_write_iops_device, ThrottleKind::WriteOperations),
    ];
    for (field, devices, what) in throttles {
        for device in devices {
            let (major, minor) = (device_number(field, device.major)?, device_number(field, device.minor)?);
            limits.blkio_throttles.push(BlkioThrottle { major, minor, what, rate: device.rate });
        }
    }
    Ok(())
}

fn device_number(field: &str, number: i64) -> Result<u32, PlanError> {
    u32::try_from(number).map_err(|_| {
        PlanError::invalid(format!("linux.resources.blockIO.{field}"), format!("{number} is no device number"))
    })
}

fn device_rule(index: usize, rule: &LinuxDeviceCgroup) -> Result<DeviceRule, PlanError> {
    let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
    let kind = match rule.type_.as_deref() {
        None | Some("" | "a") => DeviceKind::All,
        Some("c") => DeviceKind::Char,
        Some("b") => DeviceKind::Block,
        Some(other) => return Err(PlanError::invalid(field("type"), format!("unknown device type {other:?}"))),
    };
    let number = |name: &str, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| PlanError::invalid(field(name), format!("{number} is no device number"))),
    };
    let access = match rule.access.as_deref() {
        None | Some("") => Access::ALL,
        Some(word) => Access::parse(word)
            .ok_or_else(|| PlanError::invalid(field("access"), format!("{word:?} is not made of r, w and m")))?,
    };
    Ok(DeviceRule {
        allow: rule.allow,
        kind,
        major: number("major", rule.major)?,
        minor: number("minor", rule.minor)?,
        access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_rule_with_wildcards_is_read() {
        let rule = LinuxDeviceCgroup {
            allow: true,
            type_: Some("c".to_owned()),
            major: Some(-1),
            minor: None,
            access: Some("m".to_owned()),
        };
        let planned = device_rule(0, &rule).unwrap();
        assert_eq!((planned.kind, planned.major, planned.access), (DeviceKind::Char, None, Access::MKNOD));
        let bad = LinuxDeviceCgroup { access: Some("x".to_owned()), ..rule };
        assert!(device_rule(4, &bad).unwrap_err().to_string().contains("linux.resources.devices[4].access"));
    }

    #[test]
    fn a_limit_that_the_kernel_dropped_is_refused_by_name() {
        let memory = LinuxMemory { kernel: Some(1 << 20), ..LinuxMemory::default() };
        let resources = LinuxResources { memory: Some(memory), ..LinuxResources::default() };
        assert!(limits(&resources).unwrap_err().to_string().contains("linux.resources.memory.kernel is not supported"));
    }

    #[test]
    fn what_no_kernel_takes_is_refused_by_its_field() {
        for (resources, reason) in [
            (r#"{"memory":{"swappiness":101}}"#, "linux.resources.memory.swappiness: swappiness cannot be \"101\""),
            (r#"{"memory":{"useHierarchy":false}}"#, "linux.resources.memory.useHierarchy: false is not supported"),
            (r#"{"memory":{"limit":9,"swap":3}}"#, "linux.resources.memory.swap: "),
            (r#"{"cpu":{"quota":2000,"burst":3000}}"#, "linux.resources.cpu.burst: "),
            (r#"{"cpu":{"idle":2}}"#, "linux.resources.cpu.idle: "),
            (r#"{"hugepageLimits":[{"pageSize":"big","limit":1}]}"#, "linux.resources.hugepageLimits: "),
            (r#"{"rdma":{"mlx5_1":{}}}"#, "linux.resources.rdma.mlx5_1: needs hcaHandles"),
            (r#"{"unified":{"cgroup.procs":"1"}}"#, "linux.resources.unified: "),
        ] {
            let linux = Linux { resources: Some(serde_json::from_str(resources).unwrap()), ..Linux::default() };
            let error = plan(&linux, Some("/x".to_owned())).map(drop).unwrap_err().to_string();
            assert!(error.contains(reason), "{resources}: {error}");
        }
    }

    #[test]
    fn resources_without_a_path_are_refused_and_none_need_none() {
        assert!(plan(&Linux::default(), None).unwrap().is_none());
        let linux = Linux { resources: Some(LinuxResources::default()), ..Linux::default() };
        assert!(plan(&linux, None).is_err());
        assert_eq!(plan(&linux, Some("/hull/x".to_owned())).unwrap().unwrap().path, "/hull/x");
    }
}
