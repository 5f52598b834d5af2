//! From the specification's `linux.seccomp` to the kernel crate's neutral filter.
//!
//! The specification speaks libseccomp's language; every word that is not in it is refused by field. What runc does
//! beyond the specification is done here too, because profiles rely on it: names of calls that no architecture has are
//! passed over (the profile is newer than Hull, or made for another processor), absent `flags` mean
//! `SECCOMP_FILTER_FLAG_SPEC_ALLOW`, and a rule that has several conditions on one argument becomes one rule for each of
//! its conditions. Architectures without a number table are accepted and change nothing: no call of theirs can be made
//! on this processor. Nothing here touches the kernel.

use hull_kernel::seccomp::{Action, Arch, Comparison, Condition, Filter, Flags, Rule, Syscall};
use hull_oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

/// Error number of an errno or trace action that states none.
const EPERM: u16 = 1;
/// Greatest error number that the kernel hands on.
const ERRNO_MAX: u32 = 4095;
/// System calls have this many arguments.
const ARGUMENTS: u32 = 6;

/// Architectures that the specification knows and that no x86 or ARM machine can make calls of.
pub(crate) const FOREIGN_ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

/// Why `linux.seccomp` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompSpecError {
    /// A word that the specification does not know.
    #[error("linux.seccomp.{field}: unknown {what} \"{value}\"")]
    Unknown {
        /// Path of the field.
        field: String,
        /// `action`, `architecture`, `operator` or `flag`.
        what: &'static str,
        /// The word.
        value: String,
    },
    /// A value that cannot be honoured where it stands.
    #[error("linux.seccomp.{field}: {reason}")]
    Refused {
        /// Path of the field.
        field: String,
        /// Why.
        reason: String,
    },
}

/// The neutral filter for `linux.seccomp`.
///
/// # Errors
/// [`SeccompSpecError`] names the field.
pub fn filter(seccomp: &LinuxSeccomp) -> Result<Filter, SeccompSpecError> {
    let default = action("defaultAction", "defaultErrnoRet", &seccomp.default_action, seccomp.default_errno_ret)?;
    if default == Action::Notify {
        return Err(refused("defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action"));
    }
    let mut rules = Vec::with_capacity(seccomp.syscalls.len());
    for (index, syscall) in seccomp.syscalls.iter().enumerate() {
        add_rules(&format!("syscalls[{index}]"), syscall, &mut rules)?;
    }
    let notifies = rules.iter().any(|rule| rule.action == Action::Notify);
    check_listener(seccomp, notifies)?;
    Ok(Filter { default, architectures: architectures(seccomp)?, rules, flags: flags(seccomp, notifies)? })
}

fn check_listener(seccomp: &LinuxSeccomp, notifies: bool) -> Result<(), SeccompSpecError> {
    match seccomp.listener_path.as_deref().filter(|path| !path.as_os_str().is_empty()) {
        None if notifies => Err(refused("listenerPath", "is needed by a rule with SCMP_ACT_NOTIFY, but is not set")),
        None if seccomp.listener_metadata.as_deref().is_some_and(|data| !data.is_empty()) => {
            Err(refused("listenerMetadata", "must not be set without listenerPath"))
        }
        _ => Ok(()),
    }
}

fn architectures(seccomp: &LinuxSeccomp) -> Result<Vec<Arch>, SeccompSpecError> {
    let mut architectures = Vec::with_capacity(seccomp.architectures.len());
    for (index, name) in seccomp.architectures.iter().enumerate() {
        architectures.push(match name.as_str() {
            "SCMP_ARCH_X86_64" => Arch::X86_64,
            "SCMP_ARCH_X86" => Arch::X86,
            "SCMP_ARCH_X32" => Arch::X32,
            "SCMP_ARCH_AARCH64" => Arch::Aarch64,
            "SCMP_ARCH_ARM" => Arch::Arm,
            foreign if FOREIGN_ARCHITECTURES.contains(&foreign) => continue,
            _ => return Err(unknown(format!("architectures[{index}]"), "architecture", name)),
        });
    }
    Ok(architectures)
}

fn flags(seccomp: &LinuxSeccomp, notifies: bool) -> Result<Flags, SeccompSpecError> {
    let Some(names) = &seccomp.flags else {
        return Ok(Flags { speculation_allowed: true, ..Flags::default() });
    };
    let mut flags = Flags::default();
    for (index, name) in names.iter().enumerate() {
        let field = || format!("flags[{index}]");
        match name.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => flags.all_threads = true,
            "SECCOMP_FILTER_FLAG_LOG" => flags.log = true,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => flags.speculation_allowed = true,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" if notifies => flags.wait_killable = true,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => {
                return Err(refused(field(), format!("{name} has no meaning without a rule with SCMP_ACT_NOTIFY")));
            }
            _ => return Err(unknown(field(), "flag", name)),
        }
    }
    Ok(flags)
}

/// Adds what one entry of `syscalls` says: one rule, or one for each condition.
fn add_rules(field: &str, syscall: &LinuxSyscall, rules: &mut Vec<Rule>) -> Result<(), SeccompSpecError> {
    let action = action(&format!("{field}.action"), &format!("{field}.errnoRet"), &syscall.action, syscall.errno_ret)?;
    if syscall.names.is_empty() {
        return Err(refused(format!("{field}.names"), "needs at least one system call"));
    }
    if let Some(index) = syscall.names.iter().position(String::is_empty) {
        return Err(refused(format!("{field}.names[{index}]"), "empty string is not a valid syscall"));
    }
    if action == Action::Notify && syscall.names.iter().any(|name| name == "write") {
        return Err(refused(format!("{field}.names"), "SCMP_ACT_NOTIFY cannot be used for the write syscall"));
    }
    let mut conditions = Vec::with_capacity(syscall.args.len());
    for (index, arg) in syscall.args.iter().enumerate() {
        conditions.push(condition(&format!("{field}.args[{index}]"), arg)?);
    }
    let syscalls: Vec<Syscall> = syscall.names.iter().filter_map(|name| Syscall::named(name)).collect();
    let is_repeated = |index: usize| {
        let argument = |condition: &Condition| condition.argument == conditions[index].argument;
        conditions[..index].iter().any(argument)
    };
    match (0..conditions.len()).any(is_repeated) {
        true => rules.extend(conditions.into_iter().map(|condition| Rule {
            syscalls: syscalls.clone(),
            action,
            conditions: vec![condition],
        })),
        false => rules.push(Rule { syscalls, action, conditions }),
    }
    Ok(())
}

fn condition(field: &str, arg: &LinuxSeccompArg) -> Result<Condition, SeccompSpecError> {
    if arg.index >= ARGUMENTS {
        return Err(refused(format!("{field}.index"), format!("{} is not an argument, they are 0 to 5", arg.index)));
    }
    let comparison = match arg.op.as_str() {
        "SCMP_CMP_NE" => Comparison::NotEqual(arg.value),
        "SCMP_CMP_LT" => Comparison::Less(arg.value),
        "SCMP_CMP_LE" => Comparison::LessOrEqual(arg.value),
        "SCMP_CMP_EQ" => Comparison::Equal(arg.value),
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual(arg.value),
        "SCMP_CMP_GT" => Comparison::Greater(arg.value),
        "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEqual { mask: arg.value, value: arg.value_two },
        _ => return Err(unknown(format!("{field}.op"), "operator", &arg.op)),
    };
    Ok(Condition { argument: arg.index as u8, comparison })
}

fn action(field: &str, errno_field: &str, name: &str, errno: Option<u32>) -> Result<Action, SeccompSpecError> {
    let action = match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_NOTIFY" => Action::Notify,
        "SCMP_ACT_ERRNO" => return Ok(Action::Errno(number(errno_field, errno, ERRNO_MAX)?)),
        "SCMP_ACT_TRACE" => return Ok(Action::Trace(number(errno_field, errno, u32::from(u16::MAX))?)),
        _ => return Err(unknown(field.to_owned(), "action", name)),
    };
    match errno {
        None => Ok(action),
        Some(_) => Err(refused(errno_field, format!("{name} takes no errno value"))),
    }
}

fn number(field: &str, stated: Option<u32>, most: u32) -> Result<u16, SeccompSpecError> {
    match stated {
        None => Ok(EPERM),
        Some(number) if number <= most => Ok(number as u16),
        Some(number) => Err(refused(field, format!("{number} is above {most}"))),
    }
}

fn unknown(field: String, what: &'static str, value: &str) -> SeccompSpecError {
    SeccompSpecError::Unknown { field, what, value: value.to_owned() }
}

fn refused(field: impl Into<String>, reason: impl Into<String>) -> SeccompSpecError {
    SeccompSpecError::Refused { field: field.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Filter, SeccompSpecError> {
        filter(&serde_json::from_str(json).expect("has the shape of linux.seccomp"))
    }

    #[test]
    fn words_are_translated() {
        let filter = read(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
                "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X32","SCMP_ARCH_MIPS"],
                "flags":["SECCOMP_FILTER_FLAG_LOG"],
                "syscalls":[{"names":["read","not_yet_invented"],"action":"SCMP_ACT_ALLOW"},
                    {"names":["clone"],"action":"SCMP_ACT_TRACE","errnoRet":9,"args":[
                        {"index":0,"value":3,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"},
                        {"index":5,"value":7,"op":"SCMP_CMP_GE"}]}]}"#,
        )
        .expect("valid");
        let call = |name| Syscall::named(name).expect(name);
        let masked = Comparison::MaskedEqual { mask: 3, value: 1 };
        let rules = [
            Rule { syscalls: vec![call("read")], action: Action::Allow, conditions: vec![] },
            Rule {
                syscalls: vec![call("clone")],
                action: Action::Trace(9),
                conditions: vec![
                    Condition { argument: 0, comparison: masked },
                    Condition { argument: 5, comparison: Comparison::GreaterOrEqual(7) },
                ],
            },
        ];
        assert_eq!(filter.default, Action::Errno(38));
        assert_eq!(filter.architectures, [Arch::X86_64, Arch::X32]);
        assert_eq!(filter.rules, rules);
        assert_eq!(filter.flags, Flags { log: true, ..Flags::default() });
    }

    #[test]
    fn absent_values_are_runcs() {
        let filter = read(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#).expect("valid");
        assert_eq!(filter.default, Action::Errno(1));
        assert!(filter.flags.speculation_allowed);
        let filter = read(r#"{"defaultAction":"SCMP_ACT_TRACE","flags":[]}"#).expect("valid");
        assert_eq!((filter.default, filter.flags), (Action::Trace(1), Flags::default()));
    }

    #[test]
    fn conditions_on_one_argument_become_rules() {
        let filter = read(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":5,"op":"SCMP_CMP_EQ"},
                {"index":0,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#,
        )
        .expect("valid");
        assert_eq!(filter.rules.iter().map(|rule| rule.conditions.len()).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn what_is_unknown_or_impossible_is_refused_by_field() {
        let rule = |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{rule}]}}"#);
        let arg = |arg: &str| rule(&format!(r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{arg}]}}"#));
        let table = [
            (r#"{"defaultAction":"ALLOW"}"#.into(), "defaultAction: unknown action \"ALLOW\""),
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.into(), "defaultAction: SCMP_ACT_NOTIFY cannot be used"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1}"#.into(),
                "defaultErrnoRet: SCMP_ACT_ALLOW takes",
            ),
            (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#.into(), "defaultErrnoRet: 4096 is above"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["X"]}"#.into(), "architectures[0]: unknown arch"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}"#.into(), "flags[0]: unknown flag \"X\""),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#.into(),
                "flags[0]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV has no meaning",
            ),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}"#.into(), "listenerMetadata: must not"),
            (rule(r#"{"names":["read"],"action":"SCMP_ACT_NOTIFY"}"#), "listenerPath: is needed"),
            (rule(r#"{"names":["write"],"action":"SCMP_ACT_NOTIFY"}"#), "syscalls[0].names: SCMP_ACT_NOTIFY cannot"),
            (rule(r#"{"names":[],"action":"SCMP_ACT_ALLOW"}"#), "syscalls[0].names: needs"),
            (rule(r#"{"names":["read",""],"action":"SCMP_ACT_ALLOW"}"#), "syscalls[0].names[1]: empty string"),
            (rule(r#"{"names":["read"],"action":"X"}"#), "syscalls[0].action: unknown action \"X\""),
            (
                rule(r#"{"names":["read"],"action":"SCMP_ACT_KILL","errnoRet":1}"#),
                "syscalls[0].errnoRet: SCMP_ACT_KILL",
            ),
            (arg(r#"{"index":6,"value":0,"op":"SCMP_CMP_EQ"}"#), "syscalls[0].args[0].index: 6 is not"),
            (arg(r#"{"index":0,"value":0,"op":"EQ"}"#), "syscalls[0].args[0].op: unknown operator \"EQ\""),
        ];
        for (json, reason) in table {
            let error = read(&json).expect_err(&json).to_string();
            assert!(error.starts_with("linux.seccomp.") && error.contains(reason), "{json}: {error}");
        }
    }
}
