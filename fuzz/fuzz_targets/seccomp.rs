//! The seccomp compiler against a slow reading of the same rules, on the two 64-bit architectures.
//!
//! The input is a profile as config.json has it. For every call that its rules name, with arguments on both sides of
//! every value that they compare with, the program must answer what the rules say (see hull_kernel::seccomp).
#![no_main]

use std::collections::BTreeSet;

use hull_kernel::seccomp::{Action, Arch, Call, Comparison, Condition, Filter, Program, compile};
use hull_oci::runtime::LinuxSeccomp;
use hull_runtime::seccomp;
use libfuzzer_sys::fuzz_target;

/// Calls tried for one number at most.
const TRIES: usize = 64;

fn holds(condition: &Condition, arguments: &[u64; 6]) -> bool {
    let argument = arguments[usize::from(condition.argument)];
    match condition.comparison {
        Comparison::NotEqual(value) => argument != value,
        Comparison::Less(value) => argument < value,
        Comparison::LessOrEqual(value) => argument <= value,
        Comparison::Equal(value) => argument == value,
        Comparison::GreaterOrEqual(value) => argument >= value,
        Comparison::Greater(value) => argument > value,
        Comparison::MaskedEqual { mask, value } => argument & mask == value & mask,
    }
}

/// A comparison that looks at no bit is no condition.
fn looks(condition: &Condition) -> bool {
    !matches!(condition.comparison, Comparison::MaskedEqual { mask: 0, .. })
}

/// What the rules say, one after the other.
fn said(filter: &Filter, arch: Arch, number: u32, arguments: &[u64; 6]) -> Action {
    let of_number = || {
        filter.rules.iter().filter(|rule| {
            rule.action != filter.default && rule.syscalls.iter().any(|call| call.number(arch) == Some(number))
        })
    };
    let plain = of_number().find(|rule| !rule.conditions.iter().any(looks));
    let conditional = || of_number().find(|rule| rule.conditions.iter().all(|condition| holds(condition, arguments)));
    plain.or_else(conditional).map_or(filter.default, |rule| rule.action)
}

/// Values on both sides of everything that is compared.
fn values(filter: &Filter) -> Vec<u64> {
    let mut found = BTreeSet::from([0, u64::MAX]);
    for condition in filter.rules.iter().flat_map(|rule| &rule.conditions) {
        let value = match condition.comparison {
            Comparison::NotEqual(value)
            | Comparison::Less(value)
            | Comparison::LessOrEqual(value)
            | Comparison::Equal(value)
            | Comparison::GreaterOrEqual(value)
            | Comparison::Greater(value) => value,
            Comparison::MaskedEqual { mask, value } => {
                found.insert(value & mask);
                value
            }
        };
        found.extend([value, value.wrapping_add(1), value.wrapping_sub(1)]);
    }
    found.into_iter().take(TRIES).collect()
}

fn compare(filter: &Filter, program: &Program, arch: Arch) {
    let numbers: BTreeSet<u32> =
        filter.rules.iter().flat_map(|rule| &rule.syscalls).filter_map(|call| call.number(arch)).collect();
    for number in numbers {
        for value in values(filter) {
            let mut call = Call { number, arch: arch.audit(), ..Call::default() };
            call.arguments = [value; 6];
            assert_eq!(
                program.verdict(&call),
                said(filter, arch, number, &call.arguments),
                "{arch:?} {number} {value:#x} in {filter:?}"
            );
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) else { return };
    let Ok(filter) = seccomp::filter(&profile) else { return };
    let Ok(program) = compile(&filter) else { return };
    let stored = Program::from_bytes(&program.to_bytes()).expect("what was stored is read");
    assert_eq!(stored.instructions(), program.instructions());
    for arch in [Arch::X86_64, Arch::Aarch64] {
        if arch == Arch::native() || filter.architectures.contains(&arch) {
            compare(&filter, &program, arch);
        }
    }
});
