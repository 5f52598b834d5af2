//! The programs of the suite that do not pass, and why no runtime can make them pass there.
//!
//! The lane fails when a program that is listed passes, so the list stays true; only what hangs on a race may do either.
//! Each reason was seen to hold for runc and crun as well, except where it says what those do otherwise.

use Expected::{Either, Fail};

/// Where the suite runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Machine,
    /// In the virtual machine with cgroup v2 only.
    Guest,
}

/// What is known of a program before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It passes.
    Pass,
    /// It does not, for this reason.
    Fail(&'static str),
    /// It may, for this reason.
    Either(&'static str),
}

/// In both places.
const EVERYWHERE: [(&str, Expected); 15] = [
    (
        "linux_mount_label",
        Fail(
            "the machine has no SELinux: Hull refuses the label by name, as runc does; crun passes because it ignores it",
        ),
    ),
    (
        "delete",
        Fail("it wants no created container to be deleted; runc's command line does that, and its callers rely on it"),
    ),
    ("hooks", Fail("it compares with lines that its own hooks do not write (post-start1 for post-start1 called)")),
    ("linux_process_apparmor_profile", Fail("the kernel has no AppArmor")),
    (
        "linux_cgroups_relative_blkio",
        Fail("it wants leaf weights and /dev/sda; the kernel dropped leaf weights in 5.0"),
    ),
    ("misc_props", Fail("two of its containers run /runtimetest, which it does not put into their bundle")),
    (
        "mounts",
        Fail(
            "it takes the order of mountinfo for the order of mounting; since Linux 6.8 that is the order in which mounts \
              were made, and Hull opens the sources of bind mounts before the container's process exists. runc and crun pass",
        ),
    ),
    ("killsig", Either("it waits a moment for what the signal does, which a busy machine misses")),
    ("pidfile", Either("it must kill `true` while it runs: the program and the next command race")),
    ("poststart", Either("the program and the hook race to write to one file; crun was seen to win")),
    (
        "poststart_fail",
        Fail(
            "it wants a failed poststart hook to be passed over; the specification lets start fail now (runtime.md, Lifecycle)",
        ),
    ),
    (
        "prestart",
        Fail("it wants prestart hooks at start, as config.md says; runtime.md and every runtime have them at create"),
    ),
    (
        "process_rlimits",
        Fail("its inner program is written in Go, which raises its own soft RLIMIT_NOFILE before it looks"),
    ),
    ("start", Fail("it wants start to succeed, and says that it must fail, for a container without a process")),
    ("linux_cgroups_blkio", Fail("it wants leaf weights and /dev/sda; the kernel dropped leaf weights in 5.0")),
];

/// With cgroup v1 beside v2, as this machine has them, and without CAP_SYS_RESOURCE.
const MACHINE: [(&str, Expected); 7] = [
    ("linux_cgroups_hugetlb", Fail("the machine has no hugetlb hierarchy")),
    ("linux_cgroups_relative_hugetlb", Fail("the machine has no hugetlb hierarchy")),
    (
        "linux_cgroups_memory",
        Fail("the kernel dropped memory.kmem.limit_in_bytes in 5.16; Hull refuses it at create, runc and crun go on"),
    ),
    (
        "linux_cgroups_relative_memory",
        Fail("the kernel dropped memory.kmem.limit_in_bytes in 5.16; Hull refuses it at create, runc and crun go on"),
    ),
    ("linux_cgroups_network", Fail("the machine has no net_cls and net_prio hierarchies")),
    ("linux_cgroups_relative_network", Fail("the machine has no net_cls and net_prio hierarchies")),
    ("process_capabilities", Fail("the machine has no CAP_SYS_RESOURCE to give")),
];

/// With cgroup v2 only.
const GUEST: [(&str, Expected); 2] = [
    ("delete_only_create_resources", Fail("it looks for the pids hierarchy of cgroup v1")),
    ("delete_resources", Fail("it looks for the pids hierarchy of cgroup v1")),
];

/// Whether a program can run there at all: those about cgroups read files that only cgroup v1 has.
pub fn fits(program: &str, place: Place) -> bool {
    place == Place::Machine || !program.starts_with("linux_cgroups_")
}

/// What is expected of a program.
pub fn of(program: &str, place: Place) -> Expected {
    let own: &[(&str, Expected)] = match place {
        Place::Machine => &MACHINE,
        Place::Guest => &GUEST,
    };
    let listed = EVERYWHERE.iter().chain(own).find(|(name, _)| *name == program);
    listed.map_or(Expected::Pass, |(_, expected)| *expected)
}
