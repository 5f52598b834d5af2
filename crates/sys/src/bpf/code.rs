//! Operation codes of eBPF instructions, composed as in linux/bpf_common.h and linux/bpf.h.
//!
//! Arithmetic is on 64 bits, and tests compare 64, unless the name says otherwise. `_IMMEDIATE` has its operand in the
//! instruction, `_REGISTER` in the source register; tests have it in the instruction.

/// `BPF_LDX | BPF_MEM | BPF_W`
pub const LOAD_WORD: u8 = 0x61;
/// `BPF_LDX | BPF_MEM | BPF_H`
pub const LOAD_HALF: u8 = 0x69;
/// `BPF_LDX | BPF_MEM | BPF_B`
pub const LOAD_BYTE: u8 = 0x71;
/// `BPF_LDX | BPF_MEM | BPF_DW`
pub const LOAD_DOUBLE: u8 = 0x79;
/// `BPF_ST | BPF_MEM | BPF_W`
pub const STORE_WORD_IMMEDIATE: u8 = 0x62;
/// `BPF_STX | BPF_MEM | BPF_W`
pub const STORE_WORD: u8 = 0x63;
/// `BPF_STX | BPF_MEM | BPF_H`
pub const STORE_HALF: u8 = 0x6b;
/// `BPF_ALU64 | BPF_MOV | BPF_K`
pub const MOVE_IMMEDIATE: u8 = 0xb7;
/// `BPF_ALU64 | BPF_MOV | BPF_X`
pub const MOVE_REGISTER: u8 = 0xbf;
/// `BPF_ALU64 | BPF_ADD | BPF_K`
pub const ADD_IMMEDIATE: u8 = 0x07;
/// `BPF_ALU | BPF_SUB | BPF_X`
pub const SUBTRACT_REGISTER_32: u8 = 0x1c;
/// `BPF_ALU64 | BPF_AND | BPF_K`
pub const AND_IMMEDIATE: u8 = 0x57;
/// `BPF_ALU64 | BPF_RSH | BPF_K`
pub const SHIFT_RIGHT: u8 = 0x77;
/// `BPF_ALU | BPF_END | BPF_TO_BE`, the immediate operand being the width in bits.
pub const TO_BIG_ENDIAN: u8 = 0xdc;
/// `BPF_JMP | BPF_JA`
pub const JUMP: u8 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`
pub const JUMP_EQUAL: u8 = 0x15;
/// `BPF_JMP | BPF_JNE | BPF_K`
pub const JUMP_UNEQUAL: u8 = 0x55;
/// `BPF_JMP | BPF_JGT | BPF_X`
pub const JUMP_GREATER_REGISTER: u8 = 0x2d;
/// `BPF_JMP32 | BPF_JEQ | BPF_K`
pub const JUMP_EQUAL_32: u8 = 0x16;
/// `BPF_JMP32 | BPF_JNE | BPF_K`
pub const JUMP_UNEQUAL_32: u8 = 0x56;
/// `BPF_JMP32 | BPF_JLT | BPF_K`, unsigned.
pub const JUMP_LESS_32: u8 = 0xa6;
/// `BPF_JMP32 | BPF_JGT | BPF_K`, unsigned.
pub const JUMP_GREATER_32: u8 = 0x26;
/// `BPF_JMP | BPF_CALL`; the source register says of what.
pub const CALL: u8 = 0x85;
/// `BPF_JMP | BPF_EXIT`
pub const EXIT: u8 = 0x95;

/// Source register of a call of one of the kernel's functions (`BPF_PSEUDO_KFUNC_CALL`); a helper's is 0.
pub const KERNEL_FUNCTION: u8 = 2;
