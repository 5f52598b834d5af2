//! When and where the program runs and gets its memory, set by the process itself before it loses the right to.

use std::io;

use hull_sys::scheduling::{self as sys, SchedulingAttributes};
use rustix::io::Errno;

use crate::failure::{InitFailure, Step};
use crate::plan::Placement;

/// Sets what is asked for; without a wish nothing is called.
///
/// # Errors
/// The field, and what the kernel says.
pub(super) fn settle(placement: &Placement) -> Result<(), InitFailure> {
    if let Some((class, level)) = placement.io_priority {
        sys::set_io_priority(class, level).map_err(refused("process.ioPriority"))?;
    }
    if let Some((mode, nodes)) = &placement.memory_policy {
        sys::set_memory_policy(*mode, nodes).map_err(refused("linux.memoryPolicy"))?;
    }
    if let Some(domain) = placement.personality {
        sys::set_personality(domain).map_err(refused("linux.personality"))?;
    }
    match &placement.scheduling {
        Some(scheduling) => sys::set_scheduling(scheduling).map_err(|error| scheduling_refused(scheduling, error)),
        None => Ok(()),
    }
}

/// Without the right and without real-time time in its cgroup the kernel says the same.
fn scheduling_refused(scheduling: &SchedulingAttributes, error: io::Error) -> InitFailure {
    let is_real_time = matches!(scheduling.policy, sys::SCHED_FIFO | sys::SCHED_RR);
    let failure = refused("process.scheduler")(error);
    match failure.errno == Errno::PERM.raw_os_error() && is_real_time {
        true => InitFailure {
            detail:
                "a real-time policy needs CAP_SYS_NICE, and linux.resources.cpu.realtimeRuntime where cgroups share \
                     real-time time"
                    .to_owned(),
            ..failure
        },
        false => failure,
    }
}

pub(crate) fn refused(field: &'static str) -> impl Fn(io::Error) -> InitFailure {
    move |error| match Errno::from_io_error(&error) {
        Some(errno) => InitFailure::new(Step::Placement, field, errno),
        None => InitFailure::because(Step::Placement, field, error),
    }
}
