//! When and where the program runs and gets its memory: `process.scheduler`, `process.ioPriority`,
//! `process.execCPUAffinity`, `linux.memoryPolicy` and `linux.personality`, in the kernel's values.
//!
//! What the kernel would refuse in any case is refused here by its field; what depends on the machine and the caller's
//! rights the kernel decides when the process sets it (sched_setattr(2), ioprio_set(2), set_mempolicy(2),
//! personality(2)). Affinity is for processes added by exec and never for a container's first (config.md, "Linux
//! Process").

use hull_oci::runtime::{CpuAffinity, Linux, LinuxIoPriority, LinuxMemoryPolicy, LinuxPersonality, Process, Scheduler};
use hull_sys::scheduling::{self as sys, SchedulingAttributes};
use rustix::thread::CpuSet;

use super::PlanError;

/// Everything of it, as the process sets it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    /// Policy and parameters.
    pub scheduling: Option<SchedulingAttributes>,
    /// I/O class and level.
    pub io_priority: Option<(u16, u16)>,
    /// Mode with flags, and nodes.
    pub memory_policy: Option<(i32, Vec<u64>)>,
    /// Execution domain.
    pub personality: Option<u32>,
}

/// Memory policies and their numbers (linux/mempolicy.h).
pub(crate) const MEMORY_MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

/// Flags that go with a memory policy's number.
pub(crate) const MEMORY_FLAGS: [(&str, i32); 3] =
    [("MPOL_F_NUMA_BALANCING", 1 << 13), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_STATIC_NODES", 1 << 15)];

const POLICIES: [(&str, u32); 6] = [
    ("SCHED_OTHER", sys::SCHED_OTHER),
    ("SCHED_FIFO", sys::SCHED_FIFO),
    ("SCHED_RR", sys::SCHED_RR),
    ("SCHED_BATCH", sys::SCHED_BATCH),
    ("SCHED_IDLE", sys::SCHED_IDLE),
    ("SCHED_DEADLINE", sys::SCHED_DEADLINE),
];

const SCHEDULER_FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", sys::SCHED_FLAG_RESET_ON_FORK),
    ("SCHED_FLAG_RECLAIM", sys::SCHED_FLAG_RECLAIM),
    ("SCHED_FLAG_DL_OVERRUN", sys::SCHED_FLAG_DL_OVERRUN),
    ("SCHED_FLAG_KEEP_POLICY", sys::SCHED_FLAG_KEEP_POLICY),
    ("SCHED_FLAG_KEEP_PARAMS", sys::SCHED_FLAG_KEEP_PARAMS),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", sys::SCHED_FLAG_UTIL_CLAMP_MIN),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", sys::SCHED_FLAG_UTIL_CLAMP_MAX),
];

const IO_CLASSES: [(&str, u16); 3] = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

/// Reads the fields.
///
/// # Errors
/// The field that is unknown or that no kernel takes.
pub(super) fn plan(process: &Process, linux: &Linux) -> Result<Placement, PlanError> {
    Ok(Placement {
        scheduling: process.scheduler.as_ref().map(scheduler).transpose()?,
        io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
        memory_policy: linux.memory_policy.as_ref().map(memory_policy).transpose()?,
        personality: linux.personality.as_ref().map(personality).transpose()?,
    })
}

fn named<T: Copy>(table: &[(&str, T)], field: &str, word: &str) -> Result<T, PlanError> {
    let found = table.iter().find(|(name, _)| *name == word);
    found.map(|(_, value)| *value).ok_or_else(|| PlanError::invalid(field, format!("unknown value {word:?}")))
}

fn scheduler(scheduler: &Scheduler) -> Result<SchedulingAttributes, PlanError> {
    const FIELD: &str = "process.scheduler";
    let refused = |part: &str, reason: &str| Err(PlanError::invalid(format!("{FIELD}.{part}"), reason));
    if scheduler.policy == "SCHED_ISO" {
        return Err(PlanError::unsupported(format!("{FIELD}.policy: SCHED_ISO"), "Linux reserves it and has none"));
    }
    let policy = named(&POLICIES, &format!("{FIELD}.policy"), &scheduler.policy)?;
    let mut flags = 0;
    for (index, flag) in scheduler.flags.iter().enumerate() {
        flags |= named(&SCHEDULER_FLAGS, &format!("{FIELD}.flags[{index}]"), flag)?;
    }
    let nice = scheduler.nice.unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return refused("nice", "is between -20 and 19");
    }
    let is_real_time = matches!(policy, sys::SCHED_FIFO | sys::SCHED_RR);
    let priority = scheduler.priority.unwrap_or(0);
    let priority = match u32::try_from(priority) {
        Ok(priority) if is_real_time && !(1..=99).contains(&priority) => {
            return refused("priority", "is between 1 and 99 with SCHED_FIFO and SCHED_RR");
        }
        Ok(priority) if is_real_time || priority == 0 => priority,
        _ => return refused("priority", "is for SCHED_FIFO and SCHED_RR"),
    };
    let times = [scheduler.runtime, scheduler.deadline, scheduler.period].map(|time| time.unwrap_or(0));
    check_deadline(policy, times)?;
    let [runtime_ns, deadline_ns, period_ns] = times;
    Ok(SchedulingAttributes {
        policy,
        flags,
        nice,
        priority,
        runtime_ns,
        deadline_ns,
        period_ns,
        ..SchedulingAttributes::default()
    })
}

/// What the kernel asks of the three times (sched(7), "SCHED_DEADLINE").
fn check_deadline(policy: u32, [runtime, deadline, period]: [u64; 3]) -> Result<(), PlanError> {
    /// A shorter runtime is below what the kernel measures.
    const RUNTIME_MIN_NS: u64 = 1024;
    let refused = |part: &str, reason: &str| Err(PlanError::invalid(format!("process.scheduler.{part}"), reason));
    if policy != sys::SCHED_DEADLINE {
        return match [("runtime", runtime), ("deadline", deadline), ("period", period)].iter().find(|(_, ns)| *ns != 0)
        {
            Some((part, _)) => refused(part, "is for SCHED_DEADLINE"),
            None => Ok(()),
        };
    }
    if runtime < RUNTIME_MIN_NS {
        return refused("runtime", "is at least 1024 nanoseconds with SCHED_DEADLINE");
    }
    if deadline < runtime {
        return refused("deadline", "must not be below the runtime");
    }
    if period != 0 && period < deadline {
        return refused("period", "must not be below the deadline");
    }
    Ok(())
}

fn io_priority(priority: &LinuxIoPriority) -> Result<(u16, u16), PlanError> {
    let class = named(&IO_CLASSES, "process.ioPriority.class", &priority.class)?;
    match u16::try_from(priority.priority) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(PlanError::invalid("process.ioPriority.priority", "is between 0 and 7")),
    }
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<(i32, Vec<u64>), PlanError> {
    const FIELD: &str = "linux.memoryPolicy";
    let word = policy.mode.as_deref().unwrap_or_default();
    let mode = named(&MEMORY_MODES, &format!("{FIELD}.mode"), word)?;
    let mut flags = 0;
    for (index, flag) in policy.flags.iter().enumerate() {
        flags |= named(&MEMORY_FLAGS, &format!("{FIELD}.flags[{index}]"), flag)?;
    }
    let nodes = numbers(&format!("{FIELD}.nodes"), policy.nodes.as_deref().unwrap_or_default())?;
    let refused = |part: &str, reason: String| Err(PlanError::invalid(format!("{FIELD}.{part}"), reason));
    match word {
        "MPOL_DEFAULT" | "MPOL_LOCAL" if !nodes.is_empty() => refused("nodes", format!("{word} takes none")),
        "MPOL_DEFAULT" | "MPOL_LOCAL" if flags != 0 => refused("flags", format!("{word} takes none")),
        "MPOL_BIND" | "MPOL_INTERLEAVE" | "MPOL_PREFERRED_MANY" | "MPOL_WEIGHTED_INTERLEAVE" if nodes.is_empty() => {
            refused("nodes", format!("{word} needs some"))
        }
        _ => Ok((mode | flags, mask(&nodes))),
    }
}

fn personality(personality: &LinuxPersonality) -> Result<u32, PlanError> {
    /// PER_LINUX and PER_LINUX32 of linux/personality.h.
    const DOMAINS: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];
    if let Some(flag) = personality.flags.first() {
        return Err(PlanError::unsupported(format!("linux.personality.flags: {flag}"), "the specification has none"));
    }
    named(&DOMAINS, "linux.personality.domain", personality.domain.as_deref().unwrap_or_default())
}

/// Processors of a process that is added to a container: before it is in the container's cgroup, and then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Affinity {
    pub initial: Option<CpuSet>,
    /// All that the cgroup allows, when the field is left out.
    pub last: CpuSet,
}

impl Affinity {
    /// Reads `process.execCPUAffinity`; `None` when it asks for nothing.
    ///
    /// # Errors
    /// The field that is no list of processors.
    pub(crate) fn plan(affinity: Option<&CpuAffinity>) -> Result<Option<Affinity>, PlanError> {
        let Some(affinity) = affinity else { return Ok(None) };
        let set = |part: &str, list: &Option<String>| {
            let numbers = numbers(&format!("process.execCPUAffinity.{part}"), list.as_deref().unwrap_or_default())?;
            Ok((!numbers.is_empty()).then(|| cpu_set(numbers)))
        };
        let (initial, last) = (set("initial", &affinity.initial)?, set("final", &affinity.final_)?);
        if initial.is_none() && last.is_none() {
            return Ok(None);
        }
        Ok(Some(Affinity { initial, last: last.unwrap_or_else(|| cpu_set(0..CpuSet::MAX_CPU)) }))
    }
}

fn cpu_set(numbers: impl IntoIterator<Item = usize>) -> CpuSet {
    let mut set = CpuSet::new();
    numbers.into_iter().for_each(|number| set.set(number));
    set
}

/// The numbers of a list such as `0-3, 7`.
fn numbers(field: &str, list: &str) -> Result<Vec<usize>, PlanError> {
    /// Most processors and nodes that a set of the kernel's has here.
    const MOST: usize = CpuSet::MAX_CPU;
    let refused = |part: &str| PlanError::invalid(field, format!("{part:?} is no number or range of numbers"));
    let mut all = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| refused(part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(refused(part));
        }
        if last >= MOST {
            return Err(PlanError::invalid(field, format!("{last} is not below {MOST}")));
        }
        all.extend(first..=last);
    }
    Ok(all)
}

fn mask(numbers: &[usize]) -> Vec<u64> {
    let words = numbers.iter().max().map_or(0, |most| most / 64 + 1);
    let mut mask = vec![0; words];
    for number in numbers {
        mask[number / 64] |= 1 << (number % 64);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(process: &str, linux: &str) -> Result<Placement, PlanError> {
        let process: Process = serde_json::from_str(&format!(r#"{{"cwd":"/"{process}}}"#)).unwrap();
        plan(&process, &serde_json::from_str(linux).unwrap())
    }

    #[test]
    fn words_become_the_kernels_values() {
        let scheduler = r#","scheduler":{"policy":"SCHED_DEADLINE","runtime":2000,"deadline":4000,"period":8000,
            "flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_RECLAIM"]},
            "ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":4}"#;
        let linux = r#"{"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0, 2-3,65","flags":["MPOL_F_STATIC_NODES"]},
            "personality":{"domain":"LINUX32"}}"#;
        let placement = read(scheduler, linux).unwrap();
        let scheduling = placement.scheduling.unwrap();
        assert_eq!((scheduling.policy, scheduling.flags), (6, 3));
        assert_eq!((scheduling.runtime_ns, scheduling.deadline_ns, scheduling.period_ns), (2000, 4000, 8000));
        assert_eq!(placement.io_priority, Some((3, 4)));
        assert_eq!(placement.memory_policy, Some((2 | 1 << 15, vec![0b1101, 0b10])));
        assert_eq!(placement.personality, Some(8));
        let fifo = read(r#","scheduler":{"policy":"SCHED_FIFO","priority":9}"#, "{}").unwrap().scheduling.unwrap();
        assert_eq!((fifo.policy, fifo.priority, fifo.utilization_max), (1, 9, 1024));
        assert_eq!(read("", "{}").unwrap(), Placement::default());
    }

    #[test]
    fn what_no_kernel_takes_is_refused_by_its_field() {
        let scheduler = |fields: &str| (format!(r#","scheduler":{{{fields}}}"#), "{}".to_owned());
        let memory = |fields: &str| (String::new(), format!(r#"{{"memoryPolicy":{{{fields}}}}}"#));
        let personality = |fields: &str| (String::new(), format!(r#"{{"personality":{{{fields}}}}}"#));
        let io = |fields: &str| (format!(r#","ioPriority":{{{fields}}}"#), "{}".to_owned());
        let table = [
            (scheduler(r#""policy":"SCHED_FAIR""#), "process.scheduler.policy: unknown value \"SCHED_FAIR\""),
            (scheduler(r#""policy":"SCHED_ISO""#), "process.scheduler.policy: SCHED_ISO is not supported: Linux"),
            (scheduler(r#""policy":"SCHED_OTHER","nice":20"#), "process.scheduler.nice: is between"),
            (scheduler(r#""policy":"SCHED_OTHER","priority":1"#), "process.scheduler.priority: is for SCHED_FIFO"),
            (scheduler(r#""policy":"SCHED_RR""#), "process.scheduler.priority: is between 1 and 99"),
            (scheduler(r#""policy":"SCHED_RR","priority":-1"#), "process.scheduler.priority: is for"),
            (scheduler(r#""policy":"SCHED_BATCH","period":5"#), "process.scheduler.period: is for SCHED_DEADLINE"),
            (scheduler(r#""policy":"SCHED_DEADLINE""#), "process.scheduler.runtime: is at least"),
            (scheduler(r#""policy":"SCHED_IDLE","flags":["X"]"#), "process.scheduler.flags[0]: unknown value"),
            (io(r#""class":"IOPRIO_CLASS_BE","priority":8"#), "process.ioPriority.priority: is between 0 and 7"),
            (io(r#""class":"BE""#), "process.ioPriority.class: unknown value \"BE\""),
            (memory(""), "linux.memoryPolicy.mode: unknown value \"\""),
            (memory(r#""mode":"MPOL_BIND""#), "linux.memoryPolicy.nodes: MPOL_BIND needs some"),
            (memory(r#""mode":"MPOL_LOCAL","nodes":"0""#), "linux.memoryPolicy.nodes: MPOL_LOCAL takes none"),
            (memory(r#""mode":"MPOL_BIND","nodes":"3-1""#), "linux.memoryPolicy.nodes: \"3-1\" is no number"),
            (memory(r#""mode":"MPOL_BIND","nodes":"4096""#), "linux.memoryPolicy.nodes: 4096 is not below"),
            (personality(r#""domain":"BSD""#), "linux.personality.domain: unknown value \"BSD\""),
            (personality(r#""domain":"LINUX","flags":["X"]"#), "linux.personality.flags: X is not supported"),
        ];
        for ((process, linux), reason) in table {
            let error = read(&process, &linux).unwrap_err().to_string();
            assert!(error.starts_with("config.json: ") && error.contains(reason), "{process} {linux}: {error}");
        }
    }

    #[test]
    fn affinity_that_names_no_processor_asks_for_nothing() {
        let read = |initial: Option<&str>, last: Option<&str>| {
            let list = |list: Option<&str>| list.map(str::to_owned);
            Affinity::plan(Some(&CpuAffinity { initial: list(initial), final_: list(last) }))
        };
        assert_eq!(read(None, Some(" ")).unwrap(), None);
        let both = read(Some("0"), Some("1, 3-4")).unwrap().unwrap();
        assert_eq!((both.initial.unwrap().count(), both.last.count()), (1, 3));
        assert!(both.last.is_set(4) && !both.last.is_set(2));
        assert_eq!(read(Some("0"), None).unwrap().unwrap().last.count() as usize, CpuSet::MAX_CPU);
        assert!(read(Some("a"), None).unwrap_err().to_string().contains("process.execCPUAffinity.initial"));
    }
}
