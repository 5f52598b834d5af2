//! Fields of config.json that the specification has and this runtime does not honour yet: each refused by name.

use hull_oci::runtime::{Linux, LinuxSeccomp, Process, Spec};

use super::PlanError;

/// Refuses the first field that asks for something this runtime does not do.
///
/// # Errors
/// [`PlanError::Unsupported`] with the field's path.
pub(super) fn refuse(spec: &Spec) -> Result<(), PlanError> {
    let asked =
        spec.process.iter().flat_map(process).chain(spec.linux.iter().flat_map(linux)).find(|(asked, _)| *asked);
    match asked {
        Some((_, field)) => Err(PlanError::unsupported(field, "")),
        None => Ok(()),
    }
}

/// As [`refuse`], for a process that joins a container.
///
/// # Errors
/// [`PlanError::Unsupported`] with the field's path.
pub(crate) fn refuse_process(joining: &Process) -> Result<(), PlanError> {
    match process(joining).into_iter().find(|(asked, _)| *asked) {
        Some((_, field)) => Err(PlanError::unsupported(field, "")),
        None => Ok(()),
    }
}

/// Refuses handing system calls to an agent, for whom there is no connection yet.
///
/// # Errors
/// [`PlanError::Unsupported`] with the field's path.
pub(super) fn refuse_notify(seccomp: &LinuxSeccomp) -> Result<(), PlanError> {
    const NOTIFY: &str = "SCMP_ACT_NOTIFY";
    if let Some(index) = seccomp.syscalls.iter().position(|rule| rule.action == NOTIFY) {
        return Err(PlanError::unsupported(format!("linux.seccomp.syscalls[{index}].action: {NOTIFY}"), ""));
    }
    if seccomp.listener_path.as_deref().is_some_and(|path| !path.as_os_str().is_empty()) {
        return Err(PlanError::unsupported("linux.seccomp.listenerPath", ""));
    }
    Ok(())
}

fn process(process: &Process) -> [(bool, &'static str); 5] {
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    [
        (set(&process.apparmor_profile), "process.apparmorProfile"),
        (set(&process.selinux_label), "process.selinuxLabel"),
        (process.scheduler.is_some(), "process.scheduler"),
        (process.io_priority.is_some(), "process.ioPriority"),
        (process.exec_cpu_affinity.is_some(), "process.execCPUAffinity"),
    ]
}

fn linux(linux: &Linux) -> [(bool, &'static str); 6] {
    [
        (linux.mount_label.as_deref().is_some_and(|label| !label.is_empty()), "linux.mountLabel"),
        (linux.intel_rdt.is_some(), "linux.intelRdt"),
        (linux.memory_policy.is_some(), "linux.memoryPolicy"),
        (linux.personality.is_some(), "linux.personality"),
        (!linux.time_offsets.is_empty(), "linux.timeOffsets"),
        (!linux.net_devices.is_empty(), "linux.netDevices"),
    ]
}
