//! The compiler against the definition: every program is interpreted and compared with a naive reading of its rules.
//!
//! The naive reading below is written from the rules in the module header alone and shares no code with the compiler.
//! Programs are also loaded into the kernel by the system tests; here only the interpreter runs them.

use proptest::prelude::*;

use super::compile::compile_for;
use super::*;

/// What the rules say about a call, the slow way.
fn naive(filter: &Filter, native: Arch, call: &Call) -> Action {
    let named = |arch: Arch| arch == native || filter.architectures.contains(&arch);
    let x32 = call.arch == Arch::X86_64.audit() && call.number >= X32_BIT;
    let abi = match Arch::ALL.into_iter().filter(|arch| *arch != Arch::X32).find(|arch| arch.audit() == call.arch) {
        Some(arch) if !named(arch) => return FOREIGN_ARCHITECTURE,
        Some(Arch::X86_64) if x32 && !named(Arch::X32) && call.number == u32::MAX => return filter.default,
        Some(Arch::X86_64) if x32 && !named(Arch::X32) => return FOREIGN_ARCHITECTURE,
        Some(Arch::X86_64) if x32 => Arch::X32,
        Some(arch) => arch,
        None => return FOREIGN_ARCHITECTURE,
    };
    let mut conditional = None;
    let mut highest = 0;
    for rule in &filter.rules {
        for syscall in &rule.syscalls {
            let direct = syscall.number(abi).map(|number| (number, rule.conditions.clone()));
            let carried = if abi == Arch::X86 { naive_carried(syscall.name(), rule) } else { None };
            for (number, conditions) in direct.into_iter().chain(carried) {
                highest = highest.max(number);
                if number != call.number || rule.action == filter.default {
                    continue;
                }
                let trivial = |condition: &Condition| match condition.comparison {
                    Comparison::MaskedEqual { mask, .. } => width(abi, mask) == 0,
                    _ => false,
                };
                if conditions.iter().all(trivial) {
                    return rule_without_conditions(filter, abi, call.number);
                }
                if conditional.is_none() && conditions.iter().all(|condition| naive_holds(abi, condition, call)) {
                    conditional = Some(rule.action);
                }
            }
        }
    }
    let newer = call.number > highest && highest != 0;
    match filter.default {
        _ if conditional.is_some() => conditional.expect("just asked"),
        Action::Allow | Action::Log | Action::Trace(_) => filter.default,
        _ if newer => Action::Errno(38),
        default => default,
    }
}

/// The first rule that decides a number without looking at arguments.
fn rule_without_conditions(filter: &Filter, abi: Arch, number: u32) -> Action {
    for rule in &filter.rules {
        for syscall in &rule.syscalls {
            let direct = syscall.number(abi).map(|number| (number, rule.conditions.clone()));
            let carried = if abi == Arch::X86 { naive_carried(syscall.name(), rule) } else { None };
            for (own, conditions) in direct.into_iter().chain(carried) {
                let all_trivial = conditions.iter().all(|condition| {
                    matches!(condition.comparison, Comparison::MaskedEqual { mask, .. } if width(abi, mask) == 0)
                });
                if own == number && rule.action != filter.default && all_trivial {
                    return rule.action;
                }
            }
        }
    }
    unreachable!("asked only when there is one")
}

fn naive_carried(name: &str, rule: &Rule) -> Option<(u32, Vec<Condition>)> {
    let (number, comparison) = match name {
        "socket" => (102, Comparison::Equal(1)),
        "accept" => (102, Comparison::Equal(5)),
        "send" => (102, Comparison::Equal(9)),
        "semop" => (117, Comparison::MaskedEqual { mask: 0xffff, value: 1 }),
        "shmget" => (117, Comparison::MaskedEqual { mask: 0xffff, value: 23 }),
        _ => return None,
    };
    let mut conditions = vec![Condition { argument: 0, comparison }];
    conditions.extend(rule.conditions.iter().filter(|condition| condition.argument != 0));
    Some((number, conditions))
}

fn width(abi: Arch, value: u64) -> u64 {
    if matches!(abi, Arch::X86 | Arch::X32 | Arch::Arm) { value & 0xffff_ffff } else { value }
}

fn naive_holds(abi: Arch, condition: &Condition, call: &Call) -> bool {
    let argument = width(abi, call.arguments[usize::from(condition.argument)]);
    match condition.comparison {
        Comparison::NotEqual(value) => argument != width(abi, value),
        Comparison::Less(value) => argument < width(abi, value),
        Comparison::LessOrEqual(value) => argument <= width(abi, value),
        Comparison::Equal(value) => argument == width(abi, value),
        Comparison::GreaterOrEqual(value) => argument >= width(abi, value),
        Comparison::Greater(value) => argument > width(abi, value),
        Comparison::MaskedEqual { mask, value } => argument & width(abi, mask) == width(abi, value) & width(abi, mask),
    }
}

fn call_of(name: &str) -> Syscall {
    Syscall::named(name).expect(name)
}

fn rule(names: &[&str], action: Action, conditions: &[(u8, Comparison)]) -> Rule {
    Rule {
        syscalls: names.iter().map(|name| call_of(name)).collect(),
        action,
        conditions: conditions.iter().map(|&(argument, comparison)| Condition { argument, comparison }).collect(),
    }
}

fn filter(default: Action, architectures: &[Arch], rules: Vec<Rule>) -> Filter {
    Filter { default, architectures: architectures.to_vec(), rules, flags: Flags::default() }
}

fn at(arch: Arch, number: u32, arguments: &[u64]) -> Call {
    let mut call = Call { number, arch: arch.audit(), ..Call::default() };
    call.arguments[..arguments.len()].copy_from_slice(arguments);
    call
}

const ERRNO: Action = Action::Errno(1);

#[test]
fn the_number_table_is_sorted_and_right() {
    assert!(SYSCALLS.is_sorted_by_key(|(name, _)| *name));
    let numbers = |name| Arch::ALL.map(|arch| call_of(name).number(arch));
    assert_eq!(numbers("read"), [Some(0), Some(3), Some(X32_BIT), Some(63), Some(3)]);
    assert_eq!(numbers("execve"), [Some(59), Some(11), Some(X32_BIT | 520), Some(221), Some(11)]);
    assert_eq!(numbers("clone3"), [Some(435), Some(435), Some(X32_BIT | 435), Some(435), Some(435)]);
    assert_eq!(numbers("set_tls"), [None, None, None, None, Some(0xf0005)]);
    assert_eq!(Syscall::named("no_such_call"), None);
    assert!(Syscall::all().all(|call| Syscall::named(call.name()) == Some(call)));
}

#[test]
fn actions_and_return_values_correspond() {
    use Action::*;
    for action in [KillProcess, KillThread, Trap, Errno(0), Errno(4095), Trace(7), Notify, Log, Allow] {
        assert_eq!(Action::from_return(action.to_return()), action);
    }
}

#[test]
fn foreign_architectures_and_tracers_skip() {
    let only_native = filter(Action::Allow, &[], vec![rule(&["read"], ERRNO, &[])]);
    let program = compile_for(&only_native, Arch::X86_64).expect("compiles");
    let read = |arch: Arch| program.verdict(&at(arch, call_of("read").number(arch).expect("has it"), &[]));
    assert_eq!(read(Arch::X86_64), ERRNO);
    for arch in [Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm] {
        assert_eq!(read(arch), Action::KillThread, "{arch:?}");
    }
    assert_eq!(program.verdict(&at(Arch::X86_64, u32::MAX, &[])), Action::Allow);
    assert_eq!(program.verdict(&at(Arch::X86_64, u32::MAX - 1, &[])), Action::KillThread);

    let all = compile_for(&filter(Action::Allow, &[Arch::X32, Arch::X86], only_native.rules.clone()), Arch::X86_64)
        .expect("compiles");
    for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
        let number = call_of("read").number(arch).expect("has it");
        assert_eq!(all.verdict(&at(arch, number, &[])), ERRNO, "{arch:?}");
        assert_eq!(all.verdict(&at(arch, number + 1, &[])), Action::Allow, "{arch:?}");
    }
}

#[test]
fn newer_calls_answer_enosys() {
    let table = [
        (ERRNO, Action::Errno(38)),
        (Action::KillProcess, Action::Errno(38)),
        (Action::Trap, Action::Errno(38)),
        (Action::Errno(38), Action::Errno(38)),
        (Action::Log, Action::Log),
        (Action::Trace(3), Action::Trace(3)),
    ];
    for (default, newer) in table {
        let filter = filter(default, &[Arch::X86, Arch::X32], vec![rule(&["read", "clone3"], Action::Allow, &[])]);
        let program = compile_for(&filter, Arch::X86_64).expect("compiles");
        for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
            let last = call_of("clone3").number(arch).expect("has it");
            let verdict = |number| program.verdict(&at(arch, number, &[]));
            assert_eq!(verdict(last - 1), default);
            assert_eq!(verdict(last), Action::Allow);
            assert_eq!(verdict(last + 1), newer);
            assert_eq!(verdict(0x3fff_ffff | last & X32_BIT), newer);
        }
        assert_eq!(program.verdict(&at(Arch::Aarch64, 9999, &[])), FOREIGN_ARCHITECTURE);
    }
}

#[test]
fn a_rule_without_conditions_decides_and_the_first_condition_wins() {
    let equal = |value| (0, Comparison::Equal(value));
    let rules = vec![
        rule(&["personality", "socket"], Action::Allow, &[equal(5)]),
        rule(&["personality"], ERRNO, &[]),
        rule(&["personality"], Action::Log, &[]),
        rule(&["socket"], Action::Log, &[(0, Comparison::Less(10))]),
        rule(&["socket"], Action::Trap, &[equal(11)]),
        // The default's own action says nothing, so the rule after it counts.
        rule(&["clone"], Action::KillProcess, &[]),
        rule(&["clone"], Action::Allow, &[]),
    ];
    let program = compile(&filter(Action::KillProcess, &[], rules)).expect("compiles");
    let verdict = |name: &str, argument| {
        program.verdict(&at(Arch::native(), call_of(name).number(Arch::native()).expect("has it"), &[argument]))
    };
    assert_eq!(verdict("personality", 5), ERRNO);
    assert_eq!(
        [5, 6, 11, 12].map(|value| verdict("socket", value)),
        [Action::Allow, Action::Log, Action::Trap, Action::KillProcess]
    );
    assert_eq!(verdict("clone", 0), Action::Allow);
}

#[test]
fn i386_multiplexers_are_covered() {
    let rules = vec![
        rule(&["socket"], ERRNO, &[]),
        rule(&["semop"], Action::Trap, &[]),
        rule(&["connect"], Action::Log, &[(0, Comparison::Equal(77)), (2, Comparison::Equal(9))]),
    ];
    let program = compile(&filter(Action::Allow, &[Arch::X86], rules)).expect("compiles");
    let socketcall = |arguments: &[u64]| program.verdict(&at(Arch::X86, 102, arguments));
    let ipc = |operation| program.verdict(&at(Arch::X86, 117, &[operation]));
    assert_eq!(socketcall(&[1]), ERRNO);
    assert_eq!(socketcall(&[2]), Action::Allow);
    assert_eq!(socketcall(&[3, 0, 9]), Action::Log);
    assert_eq!(socketcall(&[3, 0, 8]), Action::Allow);
    assert_eq!((ipc(1), ipc(0x1_0001), ipc(2)), (Action::Trap, Action::Trap, Action::Allow));
    assert_eq!(program.verdict(&at(Arch::X86, 359, &[])), ERRNO);
}

#[test]
fn a_long_program_is_refused_and_a_just_fitting_one_is_not() {
    let equals = |count: u64| {
        let rules = (0..count).map(|value| rule(&["prctl"], Action::Allow, &[(1, Comparison::Equal(value * 3))]));
        compile(&filter(ERRNO, &[], rules.collect()))
    };
    let program = equals(4000).expect("fits");
    let prctl = call_of("prctl").number(Arch::native()).expect("has it");
    for value in [0, 1, 3, 2999, 3000, 11_996, 11_997, 11_998, 12_000, 1 << 32] {
        let expected = if value % 3 == 0 && value < 12_000 { Action::Allow } else { ERRNO };
        assert_eq!(program.verdict(&at(Arch::native(), prctl, &[9, value])), expected, "{value}");
    }
    assert_eq!(equals(5000), Err(SeccompError::TooLong { limit: 4096 }));
    assert_eq!(equals(200_000), Err(SeccompError::TooLong { limit: 4096 }));
}

#[test]
fn arguments_end_at_five() {
    let wrong = filter(ERRNO, &[], vec![rule(&["read"], Action::Allow, &[(6, Comparison::Equal(0))])]);
    assert_eq!(compile(&wrong), Err(SeccompError::Argument { syscall: "read", argument: 6 }));
}

#[test]
fn kernel_flags_follow_the_filter() {
    let flags = |default, flags| compile(&Filter { flags, ..filter(default, &[], vec![]) }).expect("compiles").flags();
    assert_eq!(flags(ERRNO, Flags::default()), 0);
    let all = Flags { all_threads: true, log: true, speculation_allowed: true, wait_killable: true };
    assert_eq!(flags(ERRNO, all), 0b000_111);
    assert_eq!(flags(Action::Notify, all), 0b111_111);
}

#[test]
fn stored_programs_are_read_back_or_refused() {
    let program = compile(&filter(ERRNO, &[Arch::X86], vec![rule(&["read"], Action::Allow, &[])])).expect("compiles");
    let bytes = program.to_bytes();
    assert_eq!(Program::from_bytes(&bytes).as_ref(), Ok(&program));
    for length in 0..bytes.len() {
        assert!(Program::from_bytes(&bytes[..length]).is_err());
    }
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 0x10;
        assert!(Program::from_bytes(&damaged).is_err(), "byte {index}");
    }
    // Programs that no damage makes but that would not end are refused as well.
    let one = |code, jump_true, operand| Instruction { code, jump_true, jump_false: 0, operand };
    for (instructions, reason) in [
        (vec![], "verdict"),
        (vec![one(0x20, 0, 0)], "verdict"),
        (vec![one(0x20, 0, 64), one(6, 0, 0)], "not there"),
        (vec![one(0x20, 0, 2), one(6, 0, 0)], "not there"),
        (vec![one(5, 0, 1), one(6, 0, 0)], "past its end"),
        (vec![one(0x15, 1, 1), one(6, 0, 0)], "past its end"),
        (vec![one(0x16, 0, 0), one(6, 0, 0)], "unknown"),
    ] {
        let error = Program::from_bytes(&Program::new(instructions, 0).to_bytes()).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// A filter holds for the thread that loads it, so the kernel itself can be asked without a second process.
#[test]
fn the_kernel_takes_and_obeys_a_program() {
    let mut rules = vec![rule(&["getpgid"], Action::Errno(77), &[]), rule(&["getsid"], Action::Trap, &[])];
    rules.push(rule(&["getpriority"], Action::Errno(78), &[(0, Comparison::Equal(0)), (1, Comparison::Greater(5))]));
    // Enough to need long jumps.
    rules.extend((0..400).map(|value| rule(&["add_key"], Action::Log, &[(2, Comparison::Equal(value << 20))])));
    let flags = Flags { log: true, speculation_allowed: true, ..Flags::default() };
    let filter = Filter { flags, ..filter(Action::Allow, &[Arch::X86, Arch::X32], rules) };
    let program = compile(&filter).expect("compiles");
    let answers = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true)?;
        assert!(program.load()?.is_none(), "nothing notifies");
        let group = rustix::process::getpgid(None).map_err(|error| error.raw_os_error());
        let of = |pid| rustix::process::getpriority_process(pid).map_err(|error| error.raw_os_error());
        std::io::Result::Ok((group, of(None).is_ok(), of(rustix::process::Pid::from_raw(6))))
    });
    let (group, own, other) = answers.join().expect("not killed").expect("loads");
    assert_eq!((group, own, other), (Err(77), true, Err(78)));
}

#[test]
fn a_notifying_program_gives_a_descriptor() {
    let program = compile(&filter(Action::Allow, &[], vec![rule(&["getsid"], Action::Notify, &[])])).expect("compiles");
    let listener = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true)?;
        program.load()
    });
    let listener = listener.join().expect("not killed").expect("loads").expect("there is a listener");
    let flags = rustix::io::fcntl_getfd(&listener).expect("is open");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        1 => Just(Action::KillProcess),
        1 => Just(Action::KillThread),
        1 => Just(Action::Trap),
        1 => Just(Action::Notify),
        1 => Just(Action::Log),
        4 => Just(Action::Allow),
        4 => (0_u16..3).prop_map(Action::Errno),
        1 => (0_u16..3).prop_map(Action::Trace),
    ]
}

/// Values around which comparisons break: word borders and neighbours.
fn any_value() -> impl Strategy<Value = u64> {
    let words = prop_oneof![Just(0_u32), Just(1), Just(2), Just(0x8000_0000), Just(u32::MAX - 1), Just(u32::MAX)];
    prop_oneof![
        4 => (words.clone(), words).prop_map(|(high, low)| u64::from(high) << 32 | u64::from(low)),
        4 => 0_u64..6,
        1 => any::<u64>(),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let comparison = prop_oneof![
        any_value().prop_map(Comparison::NotEqual),
        any_value().prop_map(Comparison::Less),
        any_value().prop_map(Comparison::LessOrEqual),
        any_value().prop_map(Comparison::Equal),
        any_value().prop_map(Comparison::GreaterOrEqual),
        any_value().prop_map(Comparison::Greater),
        (any_value(), any_value()).prop_map(|(mask, value)| Comparison::MaskedEqual { mask, value }),
    ];
    (0_u8..3, comparison).prop_map(|(argument, comparison)| Condition { argument, comparison })
}

const NAMES: [&str; 16] = [
    "read",
    "write",
    "open",
    "close",
    "socket",
    "accept",
    "send",
    "semop",
    "shmget",
    "socketcall",
    "ipc",
    "execve",
    "personality",
    "clone3",
    "set_tls",
    "statmount",
];

fn any_rule() -> impl Strategy<Value = Rule> {
    let names = proptest::collection::vec(proptest::sample::select(&NAMES[..]), 1..5);
    let conditions = prop_oneof![2 => Just(0..1_usize), 3 => Just(1..4)];
    let conditions = conditions.prop_flat_map(|count| proptest::collection::vec(any_condition(), count));
    (names, any_action(), conditions).prop_map(|(names, action, conditions)| Rule {
        syscalls: names.into_iter().map(call_of).collect(),
        action,
        conditions,
    })
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let architectures = proptest::collection::vec(proptest::sample::select(&Arch::ALL[..]), 0..4);
    (any_action(), architectures, proptest::collection::vec(any_rule(), 0..9))
        .prop_map(|(default, architectures, rules)| Filter { default, architectures, rules, flags: Flags::default() })
}

fn any_call() -> impl Strategy<Value = Call> {
    let named = (proptest::sample::select(&NAMES[..]), proptest::sample::select(&Arch::ALL[..]), 0_u32..3)
        .prop_map(|(name, arch, step)| (arch.audit(), call_of(name).number(arch).unwrap_or(7).wrapping_add(step)));
    let wild = (proptest::sample::select(&Arch::ALL[..]), any::<u32>(), any::<bool>())
        .prop_map(|(arch, number, end)| (arch.audit(), if end { u32::MAX - number % 2 } else { number }));
    let place = prop_oneof![8 => named, 1 => wild];
    (place, proptest::array::uniform6(any_value())).prop_map(|((arch, number), arguments)| Call {
        number,
        arch,
        arguments,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn programs_do_what_the_rules_say(
        filter in any_filter(),
        calls in proptest::collection::vec(any_call(), 40),
        native in proptest::sample::select(&[Arch::X86_64, Arch::Aarch64][..]),
    ) {
        // x32 without x86_64 is no machine's set of architectures.
        prop_assume!(native == Arch::X86_64 || !filter.architectures.contains(&Arch::X32));
        let program = compile_for(&filter, native).expect("small filters fit");
        let stored = Program::from_bytes(&program.to_bytes()).expect("compiled programs are well formed");
        for call in &calls {
            prop_assert_eq!(stored.verdict(call), naive(&filter, native, call), "{:?}", call);
        }
    }

    #[test]
    fn large_filters_jump_right(
        actions in proptest::collection::vec(any_action(), 7),
        conditions in proptest::collection::vec(any_condition(), 11),
        step in 1_usize..13,
        calls in proptest::collection::vec((0_usize..484, proptest::sample::select(&Arch::ALL[..]),
            proptest::array::uniform6(any_value())), 60),
    ) {
        let rules = Syscall::all().enumerate().map(|(index, syscall)| Rule {
            syscalls: vec![syscall],
            action: actions[index * step % 7],
            conditions: if index % 3 == 0 { vec![conditions[index * step % 11]] } else { vec![] },
        });
        let filter = filter(ERRNO, &[Arch::X86], rules.collect());
        let program = compile_for(&filter, Arch::X86_64).expect("fits");
        prop_assert!(Program::from_bytes(&program.to_bytes()).is_ok());
        for (index, arch, arguments) in calls {
            let syscall = Syscall::all().nth(index).expect("in range");
            let Some(number) = syscall.number(arch) else { continue };
            // Of the calls inside i386's multiplexers the naive reading knows only a few.
            if arch == Arch::X86 && (number == 102 || number == 117) {
                continue;
            }
            let call = Call { number, arch: arch.audit(), arguments };
            let expected = naive(&filter, Arch::X86_64, &call);
            prop_assert_eq!(program.verdict(&call), expected, "{} {:?}", syscall.name(), call);
        }
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Program::from_bytes(&bytes).is_err());
    }
}
