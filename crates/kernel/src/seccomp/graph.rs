//! A decision graph over `struct seccomp_data`, and its layout as classic BPF.
//!
//! Nodes are made children first and equal nodes are one node, so a graph has no cycles and a node's id is greater than
//! its children's. Classic BPF jumps only forward and a test reaches at most 255 instructions, so [`Graph::emit`] writes
//! from the end: nodes in order of id, each test after both its children are placed. Where a child is out of reach, a
//! return is repeated and anything else gets an unconditional jump nearby, which later tests use too.
//!
//! A test needs its word in the accumulator. It is preceded by a load, which a test of the same word skips.

use std::collections::HashMap;

use hull_sys::seccomp::{Instruction, PROGRAM_LENGTH_MAX};

use super::SeccompError;

/// Load a word of `struct seccomp_data`.
pub(super) const LOAD: u16 = 0x20;
/// Keep the accumulator's bits that are in the operand.
pub(super) const AND: u16 = 0x54;
/// Skip as many instructions as the operand says.
pub(super) const JUMP: u16 = 0x05;
/// Test for equality.
pub(super) const JUMP_EQUAL: u16 = 0x15;
/// Test for greater than.
pub(super) const JUMP_GREATER: u16 = 0x25;
/// Test for greater than or equal.
pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
/// Test for any common bit.
pub(super) const JUMP_ANY_BIT: u16 = 0x45;
/// End with the operand as verdict.
pub(super) const RETURN: u16 = 0x06;

/// A 32-bit word of `struct seccomp_data`, by offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Word(pub(super) u8);

impl Word {
    /// The call number.
    pub(super) const NUMBER: Self = Self(0);
    /// The architecture.
    pub(super) const ARCH: Self = Self(4);

    /// Low half of an argument (all architectures here are little-endian).
    pub(super) const fn low(argument: u8) -> Self {
        Self(16 + 8 * argument)
    }

    /// High half of an argument.
    pub(super) const fn high(argument: u8) -> Self {
        Self(20 + 8 * argument)
    }
}

/// How a word is compared with an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

impl Test {
    fn code(self) -> u16 {
        match self {
            Self::Equal => JUMP_EQUAL,
            Self::Greater => JUMP_GREATER,
            Self::GreaterOrEqual => JUMP_GREATER_OR_EQUAL,
            Self::AnyBit => JUMP_ANY_BIT,
        }
    }

    fn holds(self, word: u32, operand: u32) -> bool {
        match self {
            Self::Equal => word == operand,
            Self::Greater => word > operand,
            Self::GreaterOrEqual => word >= operand,
            Self::AnyBit => word & operand != 0,
        }
    }
}

/// A node of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    Return(u32),
    Test { word: Word, test: Test, operand: u32, yes: NodeId, no: NodeId },
    Masked { word: Word, mask: u32, operand: u32, yes: NodeId, no: NodeId },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    known: HashMap<Node, NodeId>,
    /// The few returns there are, found without hashing: every call asks for one.
    returns: Vec<(u32, NodeId)>,
}

impl Graph {
    pub(super) fn returns(&mut self, value: u32) -> NodeId {
        if let Some((_, id)) = self.returns.iter().find(|(known, _)| *known == value) {
            return *id;
        }
        let id = self.node(Node::Return(value));
        self.returns.push((value, id));
        id
    }

    pub(super) fn test(&mut self, word: Word, test: Test, operand: u32, yes: NodeId, no: NodeId) -> NodeId {
        if yes == no {
            return yes;
        }
        self.node(Node::Test { word, test, operand, yes, no })
    }

    /// `word & mask == operand`; bits of the operand outside the mask do not count.
    pub(super) fn masked(&mut self, word: Word, mask: u32, operand: u32, yes: NodeId, no: NodeId) -> NodeId {
        let operand = operand & mask;
        match mask {
            0 => yes,
            u32::MAX => self.test(word, Test::Equal, operand, yes, no),
            _ if operand == 0 => self.test(word, Test::AnyBit, mask, no, yes),
            _ if mask.is_power_of_two() => self.test(word, Test::AnyBit, mask, yes, no),
            _ if yes == no => yes,
            _ => self.node(Node::Masked { word, mask, operand, yes, no }),
        }
    }

    /// Where a node leads when it is known whether `word == value`; the node itself when that decides nothing.
    pub(super) fn knowing(&self, mut node: NodeId, word: Word, value: u32, is_equal: bool) -> NodeId {
        while let Node::Test { word: tested, test, operand, yes, no } = self.nodes[node.0 as usize] {
            let decided = if tested != word {
                None
            } else if is_equal {
                Some(test.holds(value, operand))
            } else {
                (test == Test::Equal && operand == value).then_some(false)
            };
            node = match decided {
                Some(true) => yes,
                Some(false) => no,
                None => return node,
            };
        }
        node
    }

    /// Fails when the graph can no longer fit into a program, to stop early on absurd input.
    pub(super) fn check_size(&self) -> Result<(), SeccompError> {
        // Some nodes are left behind by `knowing`, at most a few for each that stays.
        if self.nodes.len() > 4 * PROGRAM_LENGTH_MAX { Err(too_long()) } else { Ok(()) }
    }

    fn node(&mut self, node: Node) -> NodeId {
        let next = NodeId(self.nodes.len() as u32);
        let id = *self.known.entry(node).or_insert(next);
        if id == next {
            self.nodes.push(node);
        }
        id
    }

    /// The program that starts at `root`.
    pub(super) fn emit(&self, root: NodeId) -> Result<Vec<Instruction>, SeccompError> {
        let uses = self.uses(root);
        let mut layout = Layout::new(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate().take(root.0 as usize + 1) {
            if uses[index].is_reached {
                self.place(&mut layout, NodeId(index as u32), *node, uses[index]);
            }
            if layout.backwards.len() > PROGRAM_LENGTH_MAX {
                return Err(too_long());
            }
        }
        layout.backwards.reverse();
        Ok(layout.backwards)
    }

    fn place(&self, layout: &mut Layout, id: NodeId, node: Node, used: Use) {
        match node {
            Node::Return(value) => {
                let at = layout.push(instruction(RETURN, value));
                layout.set_both(id, at);
            }
            Node::Test { word, test, operand, yes, no } => {
                let at = self.place_jump(layout, test.code(), operand, Some(word), yes, no);
                layout.set_both(id, at);
                if used.needs_load {
                    layout.loaded[id.0 as usize] = layout.push(instruction(LOAD, u32::from(word.0)));
                }
            }
            Node::Masked { word, mask, operand, yes, no } => {
                self.place_jump(layout, JUMP_EQUAL, operand, None, yes, no);
                layout.push(instruction(AND, mask));
                let at = layout.push(instruction(LOAD, u32::from(word.0)));
                layout.set_both(id, at);
            }
        }
    }

    /// Places a conditional jump, with what it needs to reach both targets; `word` is what the accumulator holds.
    fn place_jump(
        &self,
        layout: &mut Layout,
        code: u16,
        operand: u32,
        word: Option<Word>,
        yes: NodeId,
        no: NodeId,
    ) -> u32 {
        self.bring_near(layout, yes, word);
        self.bring_near(layout, no, word);
        let here = layout.backwards.len() as u32;
        let skip = |target: NodeId| (here - layout.entry(target, self.is_test_of(target, word)) - 1) as u8;
        let jump = Instruction { code, jump_true: skip(yes), jump_false: skip(no), operand };
        layout.push(jump)
    }

    /// Repeats a return, or adds a jump, when the target would be out of reach of a test placed now.
    fn bring_near(&self, layout: &mut Layout, target: NodeId, word: Option<Word>) {
        let skips_load = self.is_test_of(target, word);
        let entry = layout.entry(target, skips_load);
        let here = layout.backwards.len() as u32;
        // One more may be added for the other target.
        if here - entry < 255 {
            return;
        }
        match self.nodes[target.0 as usize] {
            Node::Return(value) => {
                let at = layout.push(instruction(RETURN, value));
                layout.set_both(target, at);
            }
            _ => {
                let at = layout.push(instruction(JUMP, here - entry - 1));
                let entries = if skips_load { &mut layout.plain } else { &mut layout.loaded };
                entries[target.0 as usize] = at;
            }
        }
    }

    /// Whether a node tests the word that is already in the accumulator.
    fn is_test_of(&self, node: NodeId, held: Option<Word>) -> bool {
        matches!(self.nodes[node.0 as usize], Node::Test { word, .. } if held == Some(word))
    }

    fn uses(&self, root: NodeId) -> Vec<Use> {
        let mut uses = vec![Use::default(); self.nodes.len()];
        uses[root.0 as usize] = Use { is_reached: true, needs_load: true };
        for index in (0..=root.0 as usize).rev() {
            let (held, yes, no) = match self.nodes[index] {
                _ if !uses[index].is_reached => continue,
                Node::Return(_) => continue,
                Node::Test { word, yes, no, .. } => (Some(word), yes, no),
                Node::Masked { yes, no, .. } => (None, yes, no),
            };
            for child in [yes, no] {
                let has_word = self.is_test_of(child, held);
                let child = &mut uses[child.0 as usize];
                child.is_reached = true;
                child.needs_load |= !has_word;
            }
        }
        uses
    }
}

/// How the rest of the program uses a node.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    is_reached: bool,
    needs_load: bool,
}

/// Instructions written so far, last one first, and where nodes can be entered (as indexes into that order).
struct Layout {
    backwards: Vec<Instruction>,
    plain: Vec<u32>,
    loaded: Vec<u32>,
}

impl Layout {
    fn new(nodes: usize) -> Self {
        Self { backwards: Vec::with_capacity(512), plain: vec![0; nodes], loaded: vec![0; nodes] }
    }

    fn push(&mut self, instruction: Instruction) -> u32 {
        self.backwards.push(instruction);
        self.backwards.len() as u32 - 1
    }

    fn set_both(&mut self, node: NodeId, at: u32) {
        self.plain[node.0 as usize] = at;
        self.loaded[node.0 as usize] = at;
    }

    fn entry(&self, node: NodeId, skips_load: bool) -> u32 {
        if skips_load { self.plain[node.0 as usize] } else { self.loaded[node.0 as usize] }
    }
}

fn instruction(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

fn too_long() -> SeccompError {
    SeccompError::TooLong { limit: PROGRAM_LENGTH_MAX }
}
