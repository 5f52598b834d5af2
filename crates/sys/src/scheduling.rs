//! When and where a thread runs and gets its memory: sched_setattr(2), ioprio_set(2), set_mempolicy(2), personality(2).
//!
//! All of it holds for the calling thread, is handed on by fork(2) and kept by execve(2). Values are the kernel's own;
//! which words mean what is decided above.

use std::io;
use std::mem::size_of;

/// Do not hand the policy on to children.
pub const SCHED_FLAG_RESET_ON_FORK: u64 = 0x01;
/// SCHED_DEADLINE: use what others leave.
pub const SCHED_FLAG_RECLAIM: u64 = 0x02;
/// SCHED_DEADLINE: send SIGXCPU on an overrun.
pub const SCHED_FLAG_DL_OVERRUN: u64 = 0x04;
/// Keep the policy that there is.
pub const SCHED_FLAG_KEEP_POLICY: u64 = 0x08;
/// Keep the parameters that there are.
pub const SCHED_FLAG_KEEP_PARAMS: u64 = 0x10;
/// Set the lowest utilization.
pub const SCHED_FLAG_UTIL_CLAMP_MIN: u64 = 0x20;
/// Set the highest utilization.
pub const SCHED_FLAG_UTIL_CLAMP_MAX: u64 = 0x40;

/// Policies of linux/sched.h.
pub const SCHED_OTHER: u32 = 0;
/// First in, first out.
pub const SCHED_FIFO: u32 = 1;
/// Round robin.
pub const SCHED_RR: u32 = 2;
/// For what needs no answer soon.
pub const SCHED_BATCH: u32 = 3;
/// Only when nothing else runs.
pub const SCHED_IDLE: u32 = 5;
/// Earliest deadline first.
pub const SCHED_DEADLINE: u32 = 6;

/// What sched_setattr(2) sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulingAttributes {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value of the policies that have one, -20 to 19.
    pub nice: i32,
    /// Static priority of the real-time policies, 1 to 99.
    pub priority: u32,
    /// SCHED_DEADLINE: nanoseconds of work in a period.
    pub runtime_ns: u64,
    /// SCHED_DEADLINE: nanoseconds after which it must be done.
    pub deadline_ns: u64,
    /// SCHED_DEADLINE: nanoseconds of a period.
    pub period_ns: u64,
    /// Lowest utilization, 0 to 1024.
    pub utilization_min: u32,
    /// Highest utilization, 0 to 1024.
    pub utilization_max: u32,
}

/// `struct sched_attr`, version 1 (Linux 5.3), as linux/sched/types.h lays it out.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
    utilization_min: u32,
    utilization_max: u32,
}

const _: () = assert!(size_of::<SchedAttr>() == 56);

impl Default for SchedulingAttributes {
    /// SCHED_OTHER with nice 0, and utilization as the kernel has it.
    fn default() -> Self {
        SchedulingAttributes {
            policy: SCHED_OTHER,
            flags: 0,
            nice: 0,
            priority: 0,
            runtime_ns: 0,
            deadline_ns: 0,
            period_ns: 0,
            utilization_min: 0,
            utilization_max: 1024,
        }
    }
}

/// Sets policy and parameters of the calling thread (sched_setattr(2)).
///
/// # Errors
/// sched_setattr(2)'s: `EPERM` without CAP_SYS_NICE for what is above the caller's, `EBUSY` when no processor time is
/// left for a deadline, `EOPNOTSUPP` for utilization on a kernel without it.
pub fn set_scheduling(attributes: &SchedulingAttributes) -> io::Result<()> {
    let SchedulingAttributes { policy, flags, nice, priority, .. } = *attributes;
    let SchedulingAttributes { runtime_ns, deadline_ns, period_ns, utilization_min, utilization_max, .. } = *attributes;
    let raw = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy,
        flags,
        nice,
        priority,
        runtime_ns,
        deadline_ns,
        period_ns,
        utilization_min,
        utilization_max,
    };
    // SAFETY: the kernel reads as many bytes as the size field says, the size of `raw`, which lives until the call returns.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) })
}

/// Sets the I/O priority of the calling process' group (ioprio_set(2) with `IOPRIO_WHO_PGRP`).
///
/// # Errors
/// ioprio_set(2)'s: `EPERM` for the real-time class without CAP_SYS_ADMIN and CAP_SYS_NICE.
pub fn set_io_priority(class: u16, level: u16) -> io::Result<()> {
    const IOPRIO_WHO_PGRP: libc::c_int = 2;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = libc::c_int::from(class) << IOPRIO_CLASS_SHIFT | libc::c_int::from(level);
    // SAFETY: ioprio_set takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PGRP, 0, value) })
}

/// Sets the memory policy of the calling thread (set_mempolicy(2)): `mode` with its flags, and a set of nodes, bit `n`
/// of word `n / 64` being node `n`.
///
/// # Errors
/// set_mempolicy(2)'s: `EINVAL` for nodes that are not there or allowed, `ENOSYS` without CONFIG_NUMA.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    // The kernel reads one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the kernel reads `bits - 1` bits through the pointer, which is as much as the slice holds; without nodes
    // it is told zero bits and reads nothing.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })
}

/// Sets the execution domain of the calling thread (personality(2)).
///
/// # Errors
/// personality(2)'s.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: personality takes no pointers.
    check(i64::from(unsafe { libc::personality(libc::c_ulong::from(domain)) }))
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_what_is_usual_and_refuses_nonsense() {
        let apart = std::thread::spawn(|| {
            let batch = SchedulingAttributes { policy: SCHED_BATCH, nice: 3, ..Default::default() };
            set_scheduling(&batch).expect("SCHED_BATCH is for everybody");
            let nonsense = SchedulingAttributes { policy: 77, ..batch };
            assert_eq!(set_scheduling(&nonsense).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            assert_eq!(set_memory_policy(77, &[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            set_memory_policy(2, &[1]).expect("node 0 is there");
        });
        apart.join().expect("no assertion failed");
        assert_eq!(set_io_priority(7, 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
