//! The built-in profile against docker's file, and the evaluation of files.
//!
//! Two profiles are compared by what they do: both are compiled, and every call number of every ABI is asked with the
//! argument values at which docker's rules turn. Docker's file lies beside the tree on development machines only, so the
//! built-in's verdicts are also held to a digest that was taken when the two were last seen to agree.

use std::fmt::Write;
use std::path::Path;

use hull_kernel::seccomp::{Action, Call, compile};
use hull_oci::Digest;

use super::*;

/// Of the verdicts for [`targets`], as [`verdicts`] writes them.
const VERDICTS: &str = "sha256:1ccc9cff55d10f948fa7331837b6f37bd333c457f36e8fd4df95f12f6cd1f7cb";

/// Docker's default set of capabilities.
const ORDINARY: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

fn capabilities(names: &[&str]) -> Capabilities {
    let mut set = Capabilities::default();
    for name in names {
        assert!(set.insert(name), "{name}");
    }
    set
}

/// No capability, docker's default, each that the profile looks at alone, and all.
fn capability_sets() -> Vec<Capabilities> {
    let single = [
        "BPF",
        "DAC_READ_SEARCH",
        "PERFMON",
        "SYSLOG",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
    ];
    let mut sets = vec![Capabilities::default(), capabilities(ORDINARY), Capabilities::ALL];
    sets.extend(single.map(|name| capabilities(&[name])));
    sets
}

fn targets() -> Vec<Target> {
    let both = [Arch::X86_64, Arch::Aarch64];
    let target = |architecture| move |capabilities| Target { capabilities, kernel: (6, 1), architecture };
    both.into_iter().flat_map(|architecture| capability_sets().into_iter().map(target(architecture))).collect()
}

/// One line for every ABI of the target and every number, with a verdict for every argument value.
fn verdicts(target: &Target, seccomp: &LinuxSeccomp) -> String {
    let filter = hull_runtime::seccomp::filter(seccomp).expect("every word is known");
    let program = compile(&filter).expect("it fits");
    let turns = [0, 1, 8, 37, 38, 39, 40, 41, 0x2_0000, 0x2_0008, 0xffff_ffff, 0x1000_0000, 0x0200_0000, 1 << 32];
    let mut text = String::new();
    let is_arm = |arch| matches!(arch, Arch::Aarch64 | Arch::Arm);
    for arch in Arch::ALL.into_iter().filter(|arch| is_arm(*arch) == is_arm(target.architecture)) {
        let bit = if arch == Arch::X32 { 0x4000_0000 } else { 0 };
        for number in (0..640).chain(0xf_0000..0xf_0008) {
            let verdict = |value| {
                let call = Call { number: number | bit, arch: arch.audit(), arguments: [value, 0, 0, 0, 0, 0] };
                program.verdict(&call)
            };
            let of_turns = turns.map(verdict);
            match of_turns.iter().all(|one| *one == of_turns[0]) {
                true => writeln!(text, "{arch:?} {number} {:?}", of_turns[0]),
                false => writeln!(text, "{arch:?} {number} {of_turns:?}"),
            }
            .expect("a String takes everything");
        }
    }
    text
}

#[test]
fn the_builtin_profile_is_dockers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/docker-seccomp-default.json");
    let Ok(json) = std::fs::read_to_string(path) else { return };
    let docker = parse_profile(&json).expect("docker's profile is valid");
    for target in targets() {
        let theirs = evaluate(&docker, &target).expect("it has rules");
        let ours = builtin(&target);
        for (ours, theirs) in verdicts(&target, &ours).lines().zip(verdicts(&target, &theirs).lines()) {
            assert_eq!(ours, theirs, "{target:?}");
        }
    }
}

#[test]
fn the_builtin_profile_does_what_it_did() {
    let all: String = targets().iter().map(|target| verdicts(target, &builtin(target))).collect();
    assert_eq!(Digest::sha256_of(all.as_bytes()).as_str(), VERDICTS);
}

#[test]
fn the_builtin_profile_names_only_known_calls_once() {
    for architecture in [Arch::X86_64, Arch::Aarch64] {
        let seccomp = builtin(&Target { capabilities: capabilities(ORDINARY), kernel: (6, 1), architecture });
        let mut names = seccomp.syscalls[0].names.clone();
        for name in &names {
            assert!(hull_kernel::seccomp::Syscall::named(name).is_some(), "{name}");
        }
        names.sort();
        assert!(names.is_sorted_by(|left, right| left < right));
    }
}

#[test]
fn the_builtin_program_is_short() {
    let seccomp = builtin(&Target::here(capabilities(ORDINARY), (6, 1)));
    let length = |architectures: &[&str]| {
        let architectures = architectures.iter().map(|name| (*name).to_owned()).collect();
        let seccomp = LinuxSeccomp { architectures, ..seccomp.clone() };
        let filter = hull_runtime::seccomp::filter(&seccomp).expect("every word is known");
        compile(&filter).expect("it fits").instructions().len()
    };
    assert!(length(&[]) <= 80, "{} instructions for one ABI", length(&[]));
    let all = length(&["SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    assert!(all <= 240, "{all} instructions for three ABIs");
}

#[test]
fn conditions_are_decided_for_the_target() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","flags":["SECCOMP_FILTER_FLAG_LOG"],
        "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
                   {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":null}],
        "syscalls":[
            {"name":"read","action":"SCMP_ACT_ALLOW","comment":"c","args":null,"includes":{},"excludes":null},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN","CAP_CHOWN"]}},
            {"names":["umount2"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN","CAP_CHOWN"]}},
            {"names":["write"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["arm64"]}},
            {"names":["open"],"action":"SCMP_ACT_ALLOW","excludes":{"arches":["arm64"]}},
            {"names":["close"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"5.10"}},
            {"names":["dup"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"5.10"}}]}"#;
    let profile = parse_profile(json).expect("valid");
    let names = |names: &[&str], kernel, architecture| {
        let target = Target { capabilities: capabilities(names), kernel, architecture };
        let seccomp = evaluate(&profile, &target).expect("it has rules");
        let calls: Vec<String> = seccomp.syscalls.into_iter().flat_map(|rule| rule.names).collect();
        (calls.join(" "), seccomp.architectures.join(" "))
    };
    let both = ["SYS_ADMIN", "CHOWN"];
    assert_eq!(
        names(&both, (5, 10), Arch::X86_64),
        ("read mount open close".into(), "SCMP_ARCH_X86_64 SCMP_ARCH_X86".into())
    );
    assert_eq!(names(&both[..1], (5, 9), Arch::Aarch64), ("read write dup".into(), "SCMP_ARCH_AARCH64".into()));
    assert_eq!(names(&[], (6, 0), Arch::X86_64).0, "read umount2 open close");
    let seccomp = evaluate(&profile, &Target::here(capabilities(&[]), (6, 0))).expect("it has rules");
    assert_eq!(seccomp.flags, Some(vec!["SECCOMP_FILTER_FLAG_LOG".to_owned()]));
}

#[test]
fn an_empty_profile_is_no_filter() {
    let target = Target::here(capabilities(&[]), (6, 1));
    assert_eq!(evaluate(&parse_profile("{}").expect("valid"), &target), None);
    let allow = evaluate(&parse_profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).expect("valid"), &target);
    assert_eq!(allow.expect("a filter").default_action, ALLOW);
}

#[test]
fn bad_profiles_are_refused_with_the_reason() {
    let rule = |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
    let table = [
        ("nonsense".to_owned(), "expected"),
        ("[]".to_owned(), "invalid"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":7}"#.to_owned(), "invalid type"),
        (r#"{"defaultAction":"SCMP_ACT_SING"}"#.to_owned(), "unknown action \"SCMP_ACT_SING\""),
        (r#"{"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#.to_owned(), "unknown action \"\""),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
                "archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#
                .to_owned(),
            "both 'architectures' and 'archMap'",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"VAX"}]}"#.to_owned(),
            "unknown architecture \"VAX\"",
        ),
        (rule(r#"{"name":"a","names":["b"],"action":"SCMP_ACT_KILL"}"#), "both 'name' and 'names'"),
        (rule(r#"{"names":["b"]}"#), "action"),
        (
            rule(r#"{"names":["b"],"action":"SCMP_ACT_KILL","includes":{"minKernel":"six"}}"#),
            "syscalls[0]: minKernel \"six\"",
        ),
        (rule(r#"{"names":["b"],"action":"SCMP_ACT_X","includes":{"arches":["s390"]}}"#), "syscalls[0].action"),
    ];
    for (json, reason) in table {
        let error = parse_profile(&json).expect_err(&json);
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let text = format!("{error}: {cause}");
        assert!(text.contains(reason), "{json}: {text}");
    }
}

#[test]
fn an_unknown_call_answers_eperm_and_a_new_one_enosys() {
    let seccomp = builtin(&Target::here(capabilities(ORDINARY), (6, 1)));
    let program = compile(&hull_runtime::seccomp::filter(&seccomp).expect("known words")).expect("it fits");
    let verdict = |number| program.verdict(&Call { number, arch: Arch::native().audit(), ..Call::default() });
    let number = |name| hull_kernel::seccomp::Syscall::named(name).and_then(|call| call.number(Arch::native()));
    assert_eq!(verdict(number("keyctl").expect("exists")), Action::Errno(1));
    assert_eq!(verdict(number("clone3").expect("exists")), Action::Errno(38));
    assert_eq!(verdict(600), Action::Errno(38));
}
