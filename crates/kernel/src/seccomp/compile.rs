//! From a [`Filter`] to a [`Program`]: one tree of call numbers per architecture, under one dispatch.
//!
//! For each `seccomp_data.arch` value the number space 0..2^32 is cut into ranges of equal verdict, where a verdict is a
//! node of the graph: a return, or a chain of argument tests. Neighbours with the same verdict merge, which is what makes
//! the program short: docker's profile has some three hundred allowed calls in some sixty ranges. x86_64 and x32 share
//! one number space.

use hull_sys::seccomp as sys;

use super::graph::{Graph, NodeId, Test, Word};
use super::multiplex::carrier_of;
use super::{
    Action, Arch, Comparison, Condition, FOREIGN_ARCHITECTURE, Filter, Program, Rule, SeccompError, Syscall, X32_BIT,
};

/// ENOSYS on every architecture here.
const NO_SYSTEM_CALL: Action = Action::Errno(38);

/// Compiles a filter for the machine this program runs on.
///
/// # Errors
/// [`SeccompError`] when the program would be too long, or a condition names an argument that does not exist.
pub fn compile(filter: &Filter) -> Result<Program, SeccompError> {
    compile_for(filter, Arch::native())
}

/// As [`compile()`], for a machine whose native architecture is given.
pub(super) fn compile_for(filter: &Filter, native: Arch) -> Result<Program, SeccompError> {
    check_arguments(filter)?;
    let mut architectures = vec![native];
    for arch in &filter.architectures {
        if !architectures.contains(arch) {
            architectures.push(*arch);
        }
    }
    let mut graph = Graph::default();
    let mut root = graph.returns(FOREIGN_ARCHITECTURE.to_return());
    // Built from the last test to the first, so that the native architecture is asked for first.
    for arch in architectures.iter().rev() {
        // x32 lives in x86_64's number space, and x86_64 is native wherever x32 can occur.
        if *arch == Arch::X32 {
            continue;
        }
        let has_x32 = *arch == Arch::X86_64 && architectures.contains(&Arch::X32);
        let ranges = NumberSpace { filter, arch: *arch, has_x32 }.ranges(&mut graph)?;
        let tree = tree(&mut graph, &ranges);
        root = graph.test(Word::ARCH, Test::Equal, arch.audit(), tree, root);
    }
    Ok(Program::new(graph.emit(root)?, kernel_flags(filter)))
}

fn check_arguments(filter: &Filter) -> Result<(), SeccompError> {
    for rule in &filter.rules {
        let (Some(syscall), Some(condition)) =
            (rule.syscalls.first(), rule.conditions.iter().find(|condition| condition.argument > 5))
        else {
            continue;
        };
        return Err(SeccompError::Argument { syscall: syscall.name(), argument: condition.argument });
    }
    Ok(())
}

fn kernel_flags(filter: &Filter) -> u32 {
    let notifies = filter.default == Action::Notify || filter.rules.iter().any(|rule| rule.action == Action::Notify);
    let flags = filter.flags;
    let listener_and_threads = notifies && flags.all_threads;
    [
        (flags.all_threads, sys::FLAG_TSYNC),
        (flags.log, sys::FLAG_LOG),
        (flags.speculation_allowed, sys::FLAG_SPEC_ALLOW),
        (notifies, sys::FLAG_NEW_LISTENER),
        (listener_and_threads, sys::FLAG_TSYNC_ESRCH),
        (notifies && flags.wait_killable, sys::FLAG_WAIT_KILLABLE_RECV),
    ]
    .into_iter()
    .filter_map(|(is_set, bit)| is_set.then_some(bit))
    .sum()
}

/// First number of a range and the verdict on all its numbers; the range ends before the next one's start.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u32,
    verdict: NodeId,
}

/// The call numbers of one `seccomp_data.arch` value.
struct NumberSpace<'a> {
    filter: &'a Filter,
    arch: Arch,
    has_x32: bool,
}

/// A rule as it applies to one number.
struct Applied<'a> {
    number: u32,
    rule: &'a Rule,
    /// What takes the place of conditions on argument 0.
    carried: Option<Condition>,
}

impl NumberSpace<'_> {
    fn ranges(&self, graph: &mut Graph) -> Result<Vec<Range>, SeccompError> {
        let default = graph.returns(self.filter.default.to_return());
        let mut ranges = Ranges(vec![Range { start: 0, verdict: default }]);
        self.add_calls(graph, self.arch, default, &mut ranges)?;
        if self.arch == Arch::X86_64 {
            ranges.set_from(X32_BIT, default);
            if self.has_x32 {
                self.add_calls(graph, Arch::X32, default, &mut ranges)?;
            } else {
                ranges.set_from(X32_BIT, graph.returns(FOREIGN_ARCHITECTURE.to_return()));
                // -1 is how a tracer skips a call: it is no architecture's.
                ranges.set_from(u32::MAX, default);
            }
        }
        Ok(ranges.0)
    }

    /// Adds every call of one ABI, and what lies above the last one named.
    fn add_calls(
        &self,
        graph: &mut Graph,
        abi: Arch,
        default: NodeId,
        ranges: &mut Ranges,
    ) -> Result<(), SeccompError> {
        let mut applied = self.applied(abi);
        applied.sort_by_key(|one| one.number);
        for group in applied.chunk_by(|left, right| left.number == right.number) {
            let verdict = self.verdict(graph, abi, default, group);
            graph.check_size()?;
            ranges.set_one(group[0].number, verdict, default);
        }
        let answers_newer = !self.filter.default.lets_unknown_calls_through() && self.filter.default != NO_SYSTEM_CALL;
        let last = applied.last().map(|one| one.number).filter(|number| *number != 0);
        if let (Some(last), true) = (last, answers_newer) {
            ranges.set_from(last + 1, graph.returns(NO_SYSTEM_CALL.to_return()));
        }
        Ok(())
    }

    /// Every rule with every number it applies to, in the order of the rules.
    fn applied(&self, abi: Arch) -> Vec<Applied<'_>> {
        let mut applied = Vec::with_capacity(512);
        for rule in &self.filter.rules {
            for syscall in &rule.syscalls {
                if let Some(number) = syscall.number(abi) {
                    applied.push(Applied { number, rule, carried: None });
                }
                if abi == Arch::X86 {
                    applied.extend(self.carried(*syscall, rule));
                }
            }
        }
        applied
    }

    fn carried<'a>(&self, syscall: Syscall, rule: &'a Rule) -> Option<Applied<'a>> {
        let (number, condition) = carrier_of(syscall.name())?;
        Some(Applied { number, rule, carried: Some(condition) })
    }

    /// The verdict on one number: see the rules in [`super`].
    fn verdict(&self, graph: &mut Graph, abi: Arch, default: NodeId, group: &[Applied<'_>]) -> NodeId {
        let counts = |one: &&Applied<'_>| one.rule.action != self.filter.default;
        let decides_alone = |one: &&Applied<'_>| conditions(one, abi).next().is_none();
        if let Some(one) = group.iter().filter(counts).find(decides_alone) {
            return graph.returns(one.rule.action.to_return());
        }
        let mut otherwise = default;
        for one in group.iter().filter(counts).rev() {
            let action = graph.returns(one.rule.action.to_return());
            otherwise = rule_tests(graph, abi, one, action, otherwise);
        }
        otherwise
    }
}

/// The conditions of a rule that can fail, as one number sees them.
fn conditions<'a>(one: &'a Applied<'_>, abi: Arch) -> impl DoubleEndedIterator<Item = Condition> + 'a {
    let own = one.rule.conditions.iter().copied();
    let visible = own.filter(|condition| one.carried.is_none() || condition.argument != 0);
    one.carried.into_iter().chain(visible).filter(move |condition| match condition.comparison {
        Comparison::MaskedEqual { mask, .. } if abi.is_32_bit() => mask as u32 != 0,
        Comparison::MaskedEqual { mask, .. } => mask != 0,
        _ => true,
    })
}

/// Tests of all conditions of one rule: to `action` when they hold, else on to `otherwise`.
fn rule_tests(graph: &mut Graph, abi: Arch, one: &Applied<'_>, action: NodeId, otherwise: NodeId) -> NodeId {
    let mut next = action;
    for condition in conditions(one, abi).rev() {
        next = condition_tests(graph, abi, condition, next, otherwise);
    }
    next
}

fn condition_tests(graph: &mut Graph, abi: Arch, condition: Condition, yes: NodeId, no: NodeId) -> NodeId {
    let argument = condition.argument;
    let (comparison, yes, no) = match condition.comparison {
        Comparison::NotEqual(value) => (Comparison::Equal(value), no, yes),
        Comparison::Less(value) => (Comparison::GreaterOrEqual(value), no, yes),
        Comparison::LessOrEqual(value) => (Comparison::Greater(value), no, yes),
        other => (other, yes, no),
    };
    let (test, value) = match comparison {
        Comparison::Greater(value) => (Test::Greater, value),
        Comparison::GreaterOrEqual(value) => (Test::GreaterOrEqual, value),
        Comparison::MaskedEqual { mask, value } => return masked_tests(graph, abi, argument, mask, value, yes, no),
        Comparison::Equal(value)
        | Comparison::NotEqual(value)
        | Comparison::Less(value)
        | Comparison::LessOrEqual(value) => (Test::Equal, value),
    };
    let (high, low) = ((value >> 32) as u32, value as u32);
    let (high_word, low_word) = (Word::high(argument), Word::low(argument));
    if abi.is_32_bit() {
        return ordered(graph, low_word, test, low, yes, no);
    }
    // With an equal upper half the lower one decides; what follows there may rely on it.
    let equal_yes = graph.knowing(yes, high_word, high, true);
    let equal_no = graph.knowing(no, high_word, high, true);
    let equal = ordered(graph, low_word, test, low, equal_yes, equal_no);
    let unequal_no = graph.knowing(no, high_word, high, false);
    let unequal = match (test, high) {
        (Test::Equal, _) | (_, u32::MAX) => unequal_no,
        (_, 0) => graph.knowing(yes, high_word, high, false),
        (_, _) => graph.test(high_word, Test::Greater, high, yes, no),
    };
    graph.test(high_word, Test::Equal, high, equal, unequal)
}

/// A test of one word, with what it shows made use of.
fn ordered(graph: &mut Graph, word: Word, test: Test, operand: u32, yes: NodeId, no: NodeId) -> NodeId {
    if test != Test::Equal {
        return match (test, operand) {
            (Test::GreaterOrEqual, 0) => yes,
            (Test::Greater, u32::MAX) => no,
            _ => graph.test(word, test, operand, yes, no),
        };
    }
    let yes = graph.knowing(yes, word, operand, true);
    let no = graph.knowing(no, word, operand, false);
    graph.test(word, Test::Equal, operand, yes, no)
}

fn masked_tests(graph: &mut Graph, abi: Arch, argument: u8, mask: u64, value: u64, yes: NodeId, no: NodeId) -> NodeId {
    let low = graph.masked(Word::low(argument), mask as u32, value as u32, yes, no);
    if abi.is_32_bit() {
        return low;
    }
    graph.masked(Word::high(argument), (mask >> 32) as u32, (value >> 32) as u32, low, no)
}

/// Ranges in the making, in ascending order.
struct Ranges(Vec<Range>);

impl Ranges {
    /// From a number to the end of the space; at or above the last start.
    fn set_from(&mut self, start: u32, verdict: NodeId) {
        if self.0.last().is_some_and(|range| range.start == start) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|range| range.verdict != verdict) {
            self.0.push(Range { start, verdict });
        }
    }

    /// One number, with `after` following it; at or above the last start.
    fn set_one(&mut self, number: u32, verdict: NodeId, after: NodeId) {
        self.set_from(number, verdict);
        if number != u32::MAX {
            self.set_from(number + 1, after);
        }
    }
}

/// A balanced tree over ranges. Short runs in which one number stands out are told by equality, which takes one test
/// where two would be needed by order; the tree then only has to find the run.
fn tree(graph: &mut Graph, ranges: &[Range]) -> NodeId {
    let mut runs = Vec::with_capacity(ranges.len());
    let mut at = 0;
    while at < ranges.len() {
        let length = [5, 3].into_iter().find(|length| is_run(&ranges[at..], *length)).unwrap_or(1);
        runs.push(&ranges[at..at + length]);
        at += length;
    }
    tree_of_runs(graph, &runs)
}

/// Whether `length` ranges are one verdict with single numbers standing out.
fn is_run(ranges: &[Range], length: usize) -> bool {
    let Some(run) = ranges.get(..length) else { return false };
    let same = run.iter().step_by(2).all(|range| range.verdict == run[0].verdict);
    let single = (1..length).step_by(2).all(|index| run[index + 1].start - run[index].start == 1);
    same && single
}

fn tree_of_runs(graph: &mut Graph, runs: &[&[Range]]) -> NodeId {
    match runs {
        [run] => {
            let rest = run[0].verdict;
            run.iter()
                .skip(1)
                .step_by(2)
                .rev()
                .fold(rest, |rest, range| graph.test(Word::NUMBER, Test::Equal, range.start, range.verdict, rest))
        }
        _ => {
            let (left, right) = runs.split_at(runs.len() / 2);
            let start = right[0][0].start;
            let left = tree_of_runs(graph, left);
            let right = tree_of_runs(graph, right);
            graph.test(Word::NUMBER, Test::GreaterOrEqual, start, right, left)
        }
    }
}
