//! Writing eBPF instructions one after the other, with jumps to labels that come later.

use hull_sys::bpf::Instruction;
use hull_sys::bpf::code::{ADD_IMMEDIATE, CALL, EXIT, KERNEL_FUNCTION, MOVE_IMMEDIATE, MOVE_REGISTER};

/// The frame pointer: the stack's end.
const STACK: u8 = 10;

/// A program that is being written; `L` names places in it.
#[derive(Debug)]
pub(super) struct Writer<L> {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, L)>,
    labels: Vec<(L, usize)>,
}

impl<L: PartialEq> Writer<L> {
    pub(super) fn new() -> Writer<L> {
        Writer { instructions: Vec::new(), jumps: Vec::new(), labels: Vec::new() }
    }

    pub(super) fn put(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction::new(code, destination, source, offset, immediate));
    }

    /// Loads from where a register points to.
    pub(super) fn load(&mut self, code: u8, destination: u8, source: u8, offset: i16) {
        self.put(code, destination, source, offset, 0);
    }

    /// Stores on the stack.
    pub(super) fn store(&mut self, code: u8, place: i16, source: u8) {
        self.put(code, STACK, source, place, 0);
    }

    /// Stores a number on the stack.
    pub(super) fn store_immediate(&mut self, code: u8, place: i16, value: i32) {
        self.put(code, STACK, 0, place, value);
    }

    /// Loads from the stack.
    pub(super) fn load_back(&mut self, code: u8, destination: u8, place: i16) {
        self.load(code, destination, STACK, place);
    }

    pub(super) fn set(&mut self, register: u8, value: i32) {
        self.put(MOVE_IMMEDIATE, register, 0, 0, value);
    }

    pub(super) fn copy(&mut self, destination: u8, source: u8) {
        self.put(MOVE_REGISTER, destination, source, 0, 0);
    }

    pub(super) fn add(&mut self, register: u8, value: i32) {
        self.put(ADD_IMMEDIATE, register, 0, 0, value);
    }

    /// The address of something on the stack.
    pub(super) fn address(&mut self, register: u8, place: i16) {
        self.copy(register, STACK);
        self.add(register, place.into());
    }

    /// Compares a register with a number, and goes to a label that comes later or on.
    pub(super) fn jump(&mut self, code: u8, register: u8, value: i32, label: L) {
        self.jumps.push((self.instructions.len(), label));
        self.put(code, register, 0, 0, value);
    }

    /// Compares two registers, and goes to a label that comes later or on.
    pub(super) fn jump_by_register(&mut self, code: u8, register: u8, other: u8, label: L) {
        self.jumps.push((self.instructions.len(), label));
        self.put(code, register, other, 0, 0);
    }

    /// What comes next is called so.
    pub(super) fn label(&mut self, label: L) {
        self.labels.push((label, self.instructions.len()));
    }

    /// Calls a helper (`enum bpf_func_id`).
    pub(super) fn help(&mut self, helper: i32) {
        self.put(CALL, 0, 0, 0, helper);
    }

    /// Calls a function of the kernel's, or of the module's that the program is loaded with.
    pub(super) fn call(&mut self, function: u32, in_module: bool) {
        // Numbers of types are below BTF_MAX_TYPE, 2^20.
        self.put(CALL, 0, KERNEL_FUNCTION, i16::from(in_module), function as i32);
    }

    /// Ends the program with a value.
    pub(super) fn end(&mut self, value: i32) {
        self.set(0, value);
        self.exit();
    }

    /// Ends the program with what the last call returned.
    pub(super) fn exit(&mut self) {
        self.put(EXIT, 0, 0, 0, 0);
    }

    /// The program; a label that jumps lead to and that was forgotten would make the kernel refuse it.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        for (place, label) in self.jumps {
            let target = self.labels.iter().find(|(one, _)| *one == label).map(|(_, target)| *target);
            // Backwards, to the jump itself, is a loop without an end.
            let distance = target.map_or(-1, |target| target as i64 - place as i64 - 1);
            self.instructions[place].offset = i16::try_from(distance).unwrap_or(-1);
        }
        self.instructions
    }
}
