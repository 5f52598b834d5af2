//! Compiling device rules to the eBPF program that guards a cgroup v2.
//!
//! The program gets `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }` (linux/bpf.h), the low half
//! of access_type being the kind of device and the high half the access asked for, and returns 1 to allow. It goes
//! through the rules backwards, keeping in r3 the access that no rule has decided yet: a matching allow rule takes its
//! access out and says yes once nothing is left, a matching deny rule that is about something left says no, and the
//! default decides at the end. That is "the last matching rule wins" for each access on its own, the same meaning as
//! [`super::devices`] gives cgroup v1. Rules for nothing (everything allowed) make no program.
//!
//! Registers: r1 context, r2 kind, r3 undecided access, r4 scratch. Numbers are loaded anew for each test: what the
//! verifier learns of a register from a test would otherwise follow every path through the rest of the program, and a
//! list of some hundred rules would exceed its bounds. So it sees few states however many rules there are.

use hull_sys::bpf::Instruction;
use hull_sys::bpf::code::{
    AND_IMMEDIATE, EXIT, JUMP_EQUAL, JUMP_UNEQUAL, LOAD_WORD, MOVE_IMMEDIATE, MOVE_REGISTER, SHIFT_RIGHT,
};

use super::devices::{DeviceKind, DeviceRule, allows_everything, effective};

/// linux/bpf.h: `BPF_DEVCG_DEV_BLOCK` and `BPF_DEVCG_DEV_CHAR`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// Offsets in the context.
const MAJOR: i16 = 4;
const MINOR: i16 = 8;

/// The program for these rules, or `None` when they refuse nothing.
pub(super) fn compile(rules: &[DeviceRule]) -> Option<Vec<Instruction>> {
    if allows_everything(rules) {
        return None;
    }
    let (default, rules) = effective(rules);
    let mut program = vec![
        Instruction::new(LOAD_WORD, 2, 1, 0, 0),
        Instruction::new(MOVE_REGISTER, 3, 2, 0, 0),
        Instruction::new(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        Instruction::new(SHIFT_RIGHT, 3, 0, 0, 16),
    ];
    for rule in rules.iter().rev() {
        program.extend(block(rule));
    }
    program.push(Instruction::new(MOVE_IMMEDIATE, 0, 0, 0, i32::from(default)));
    program.push(Instruction::new(EXIT, 0, 0, 0, 0));
    Some(program)
}

/// One rule: tests that jump behind the block when it does not match, then what it decides.
fn block(rule: &DeviceRule) -> Vec<Instruction> {
    let mut block = Vec::new();
    let mut tests = Vec::new();
    let mut test = |load: Option<i16>, register: u8, value: i32| {
        block.extend(load.map(|offset| Instruction::new(LOAD_WORD, register, 1, offset, 0)));
        tests.push(block.len());
        block.push(Instruction::new(JUMP_UNEQUAL, register, 0, 0, value));
    };
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Block => test(None, 2, BLOCK),
        DeviceKind::Char => test(None, 2, CHAR),
    }
    // Numbers fit: dev_t has 12 and 20 bits, and `DeviceRule::validate` has seen to it.
    if let Some(major) = rule.major {
        test(Some(MAJOR), 4, major as i32);
    }
    if let Some(minor) = rule.minor {
        test(Some(MINOR), 4, minor as i32);
    }
    let access = i32::from(rule.access.bits());
    if rule.allow {
        block.extend([
            Instruction::new(AND_IMMEDIATE, 3, 0, 0, !access & 7),
            Instruction::new(JUMP_UNEQUAL, 3, 0, 2, 0),
            Instruction::new(MOVE_IMMEDIATE, 0, 0, 0, 1),
            Instruction::new(EXIT, 0, 0, 0, 0),
        ]);
    } else {
        block.extend([
            Instruction::new(MOVE_REGISTER, 4, 3, 0, 0),
            Instruction::new(AND_IMMEDIATE, 4, 0, 0, access),
            Instruction::new(JUMP_EQUAL, 4, 0, 2, 0),
            Instruction::new(MOVE_IMMEDIATE, 0, 0, 0, 0),
            Instruction::new(EXIT, 0, 0, 0, 0),
        ]);
    }
    for position in tests {
        block[position].offset = (block.len() - position - 1) as i16;
    }
    block
}

#[cfg(test)]
mod tests {
    use super::super::devices::Access;
    use super::*;

    /// A device node that a process wants something of.
    #[derive(Clone, Copy, Debug)]
    struct Wish {
        kind: i32,
        access: u8,
        major: u32,
        minor: u32,
    }

    /// Runs a program as the kernel would; panics on anything the verifier would refuse.
    fn run(program: &[Instruction], wish: Wish) -> bool {
        let context = [u32::from(wish.access) << 16 | wish.kind as u32, wish.major, wish.minor];
        let mut registers = [None::<u64>; 7];
        let mut at = 0;
        loop {
            let Instruction { code, registers: names, offset, immediate } = program[at];
            let (to, from) = ((names & 15) as usize, (names >> 4) as usize);
            let value = |register: usize| registers[register].expect("a register is written before it is read");
            at += 1;
            match code {
                LOAD_WORD => {
                    assert_eq!(from, 1, "only the context is read");
                    registers[to] = Some(context[offset as usize / 4].into());
                }
                MOVE_IMMEDIATE => registers[to] = Some(immediate as u64),
                MOVE_REGISTER => registers[to] = Some(value(from)),
                AND_IMMEDIATE => registers[to] = Some(value(to) & immediate as i64 as u64),
                SHIFT_RIGHT => registers[to] = Some(value(to) >> immediate),
                JUMP_EQUAL | JUMP_UNEQUAL => {
                    assert!(offset >= 0, "only forward");
                    if (value(to) == immediate as u64) == (code == JUMP_EQUAL) {
                        at += offset as usize;
                    }
                }
                EXIT => return value(0) == 1,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    /// The meaning in the words of the header of `devices.rs`, without any program.
    fn expected(rules: &[DeviceRule], wish: Wish) -> bool {
        [1u8, 2, 4].into_iter().filter(|bit| wish.access & bit != 0).all(|bit| {
            let matching = rules.iter().rev().find(|rule| {
                let kind = match rule.kind {
                    DeviceKind::All => true,
                    DeviceKind::Block => wish.kind == BLOCK,
                    DeviceKind::Char => wish.kind == CHAR,
                };
                kind && rule.major.is_none_or(|major| major == wish.major)
                    && rule.minor.is_none_or(|minor| minor == wish.minor)
                    && rule.access.bits() & bit != 0
            });
            matching.is_some_and(|rule| rule.allow)
        })
    }

    fn random(state: &mut u64, below: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % below
    }

    fn random_rule(state: &mut u64) -> DeviceRule {
        let words = ["r", "w", "m", "rw", "rm", "wm", "rwm"];
        let number = |state: &mut u64| match random(state, 3) {
            0 => None,
            value => Some(value as u32),
        };
        DeviceRule {
            allow: random(state, 2) == 0,
            kind: [DeviceKind::All, DeviceKind::Block, DeviceKind::Char][random(state, 3) as usize],
            major: number(state),
            minor: number(state),
            access: Access::parse(words[random(state, 7) as usize]).unwrap(),
        }
    }

    #[test]
    fn programs_mean_what_the_rules_say() {
        let mut state = 42;
        for _ in 0..2000 {
            let rules: Vec<_> = (0..random(&mut state, 6)).map(|_| random_rule(&mut state)).collect();
            let program = compile(&rules);
            for access in 1..8 {
                for kind in [BLOCK, CHAR] {
                    for (major, minor) in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3)] {
                        let wish = Wish { kind, access, major, minor };
                        let allowed = program.as_ref().is_none_or(|program| run(program, wish));
                        assert_eq!(allowed, expected(&rules, wish), "{rules:?} {wish:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_compiled_for_everything_allowed() {
        assert_eq!(compile(&[DeviceRule::everything(true)]), None);
        assert_eq!(compile(&[DeviceRule::everything(false), DeviceRule::everything(true)]), None);
        assert!(compile(&[]).is_some(), "an empty list that is asked for refuses everything");
    }

    #[test]
    fn access_of_no_kind_follows_the_device() {
        // access(2) with F_OK asks for nothing; the device must be named by an allow rule all the same, as on v1.
        let null = DeviceRule {
            allow: true,
            kind: DeviceKind::Char,
            major: Some(1),
            minor: Some(3),
            access: Access::parse("r").unwrap(),
        };
        let program = compile(&[DeviceRule::everything(false), null]).unwrap();
        assert!(run(&program, Wish { kind: CHAR, access: 0, major: 1, minor: 3 }));
        assert!(!run(&program, Wish { kind: CHAR, access: 0, major: 1, minor: 5 }));
    }
}
