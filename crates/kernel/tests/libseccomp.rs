//! The filter compiler against libseccomp's answers, which are stored so that the build needs no libseccomp.
//!
//! `seccomp/verdicts.txt` holds filters and the verdicts that libseccomp's programs for them gave on single calls;
//! `seccomp/generate-verdicts.py` made it and describes its format. Here the same filters go through our compiler and
//! every verdict must be the same.
#![forbid(unsafe_code)]

use hull_kernel::seccomp::{Action, Arch, Call, Comparison, Condition, Filter, Flags, Program, Rule, Syscall, compile};

const VERDICTS: &str = include_str!("seccomp/verdicts.txt");

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("{text:?} is not hexadecimal"))
}

fn arch(text: &str) -> Arch {
    match text {
        "x86_64" => Arch::X86_64,
        "x86" => Arch::X86,
        "x32" => Arch::X32,
        "aarch64" => Arch::Aarch64,
        "arm" => Arch::Arm,
        _ => panic!("unknown architecture {text:?}"),
    }
}

fn action(text: &str) -> Action {
    let (name, data) = text.split_once(':').unwrap_or((text, "0"));
    let data = hex(data) as u16;
    match name {
        "KillProcess" => Action::KillProcess,
        "KillThread" => Action::KillThread,
        "Trap" => Action::Trap,
        "Errno" => Action::Errno(data),
        "Trace" => Action::Trace(data),
        "Notify" => Action::Notify,
        "Log" => Action::Log,
        "Allow" => Action::Allow,
        _ => panic!("unknown action {text:?}"),
    }
}

fn condition(text: &str) -> Condition {
    let (argument, test) = text.split_at(1);
    let comparison = match test.split_once("==") {
        Some(("", value)) => Comparison::Equal(hex(value)),
        Some((mask, value)) => Comparison::MaskedEqual { mask: hex(&mask[1..]), value: hex(value) },
        None => match test.split_at(test.find(|c: char| c.is_ascii_hexdigit()).expect("a value")) {
            ("!=", value) => Comparison::NotEqual(hex(value)),
            ("<", value) => Comparison::Less(hex(value)),
            ("<=", value) => Comparison::LessOrEqual(hex(value)),
            (">=", value) => Comparison::GreaterOrEqual(hex(value)),
            (">", value) => Comparison::Greater(hex(value)),
            _ => panic!("unknown condition {text:?}"),
        },
    };
    Condition { argument: hex(argument) as u8, comparison }
}

fn rule(words: &[&str]) -> Rule {
    let call = |name| Syscall::named(name).unwrap_or_else(|| panic!("unknown call {name:?}"));
    Rule {
        action: action(words[0]),
        syscalls: words[1].split(',').map(call).collect(),
        conditions: words[2..].iter().map(|word| condition(word)).collect(),
    }
}

/// A filter of the file with its lines, and its expectations.
struct Case {
    filter: Filter,
    lines: Vec<&'static str>,
    expectations: Vec<&'static str>,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in VERDICTS.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "filter" => cases.push(Case {
                filter: Filter {
                    default: action(words[1]),
                    architectures: words[2].split(',').map(arch).collect(),
                    rules: Vec::new(),
                    flags: Flags::default(),
                },
                lines: vec![line],
                expectations: Vec::new(),
            }),
            "rule" => {
                let case = cases.last_mut().expect("after a filter");
                case.filter.rules.push(rule(&words[1..]));
                case.lines.push(line);
            }
            _ => cases.last_mut().expect("after a filter").expectations.push(line),
        }
    }
    cases
}

/// Compares one line with the program; the number of verdicts compared.
fn compare(program: &Program, lines: &[&str], line: &str) -> usize {
    let (question, answer) = line.split_once(" = ").expect("an answer");
    let words: Vec<&str> = question.split(' ').collect();
    let (numbers, values) = match words[0] {
        "range" => (hex(words[2])..=hex(words[3]), &[][..]),
        _ => (hex(words[2])..=hex(words[2]), &words[3..]),
    };
    let mut arguments = [0; 6];
    for (argument, value) in arguments.iter_mut().zip(values) {
        *argument = hex(value);
    }
    let expected = action(answer);
    for number in numbers.clone() {
        let call = Call { number: number as u32, arch: arch(words[1]).audit(), arguments };
        assert_eq!(program.verdict(&call), expected, "{line}, in\n{}", lines.join("\n"));
    }
    (numbers.end() - numbers.start() + 1) as usize
}

/// The file was made for an x86_64 machine.
#[test]
#[cfg(target_arch = "x86_64")]
fn verdicts_are_libseccomps() {
    let cases = cases();
    let mut compared = 0;
    for case in &cases {
        let program = compile(&case.filter).expect("small filters fit");
        compared += case.expectations.iter().map(|line| compare(&program, &case.lines, line)).sum::<usize>();
    }
    assert!(cases.len() > 40 && compared > 2500, "{} filters, {compared} verdicts", cases.len());
}
