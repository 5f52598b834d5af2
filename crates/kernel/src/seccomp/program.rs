//! A compiled filter: loading it, storing it, and asking it.
//!
//! The stored form is `HSEC`, [`STORED_VERSION`], the kernel flags, the number of instructions (each a little-endian
//! u32), the instructions (code u16, two jumps u8, operand u32, little-endian), and an FNV-1a hash (u64) of all before
//! it. The version grows whenever the compiler's output for the same filter changes, so a cache keyed by the profile's
//! digest never serves an older compiler's program. Reading checks everything the kernel would, and more.

use std::io;
use std::os::fd::OwnedFd;

use hull_sys::seccomp::{FLAG_NEW_LISTENER, Instruction, PROGRAM_LENGTH_MAX, set_filter};

use super::graph::{AND, JUMP, JUMP_ANY_BIT, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD, RETURN};
use super::{Action, SeccompError};

/// Version of the stored form and of the compiler.
pub const STORED_VERSION: u32 = 1;
const MAGIC: &[u8; 4] = b"HSEC";
const HEADER_LENGTH: usize = 16;
const HASH_LENGTH: usize = 8;
/// Size of `struct seccomp_data`.
const DATA_LENGTH: u32 = 64;

/// A filter ready for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    flags: u32,
}

/// A system call as a filter sees it (`struct seccomp_data`, without the instruction pointer).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Call {
    /// The number, x32's with its bit.
    pub number: u32,
    /// `AUDIT_ARCH_*`, see [`super::Arch::audit`].
    pub arch: u32,
    /// Arguments.
    pub arguments: [u64; 6],
}

impl Call {
    /// The 32-bit word at a byte offset; 0 where the instruction pointer would be.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            _ => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        }
    }
}

impl Program {
    /// A program of the compiler's.
    pub(super) fn new(instructions: Vec<Instruction>, flags: u32) -> Self {
        Self { instructions, flags }
    }

    /// The BPF instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// `SECCOMP_FILTER_FLAG_*` bits that go with it.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Whether some call is handed to the holder of the notification descriptor.
    pub fn notifies(&self) -> bool {
        self.flags & FLAG_NEW_LISTENER != 0
    }

    /// Adds the filter to the calling thread, for good. Makes no allocation.
    ///
    /// Gives the notification descriptor when the filter notifies.
    ///
    /// # Errors
    /// seccomp(2)'s: `EACCES` without CAP_SYS_ADMIN and no_new_privs, `EBUSY` when a listener exists already, `EINVAL`
    /// when the kernel lacks a flag.
    pub fn load(&self) -> io::Result<Option<OwnedFd>> {
        set_filter(self.flags, &self.instructions)
    }

    /// What the kernel would do with a call: the program, interpreted.
    pub fn verdict(&self, call: &Call) -> Action {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let Instruction { code, jump_true, jump_false, operand } = self.instructions[at];
            at += 1;
            let holds = match code {
                LOAD => {
                    accumulator = call.word(operand);
                    continue;
                }
                AND => {
                    accumulator &= operand;
                    continue;
                }
                JUMP => {
                    at += operand as usize;
                    continue;
                }
                RETURN => return Action::from_return(operand),
                JUMP_EQUAL => accumulator == operand,
                JUMP_GREATER => accumulator > operand,
                JUMP_GREATER_OR_EQUAL => accumulator >= operand,
                _ => accumulator & operand != 0,
            };
            at += usize::from(if holds { jump_true } else { jump_false });
        }
    }

    /// The stored form, for a cache.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LENGTH + 8 * self.instructions.len() + HASH_LENGTH);
        bytes.extend_from_slice(MAGIC);
        for number in [STORED_VERSION, self.flags, self.instructions.len() as u32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for instruction in &self.instructions {
            bytes.extend_from_slice(&instruction.code.to_le_bytes());
            bytes.extend_from_slice(&[instruction.jump_true, instruction.jump_false]);
            bytes.extend_from_slice(&instruction.operand.to_le_bytes());
        }
        bytes.extend_from_slice(&hash(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`SeccompError::Stored`] for anything that [`Program::to_bytes`] of this version does not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SeccompError> {
        let stored = |reason| SeccompError::Stored { reason };
        let Some((content, stated_hash)) = bytes.split_last_chunk::<HASH_LENGTH>() else {
            return Err(stored("it is too short"));
        };
        let Some((header, body)) = content.split_at_checked(HEADER_LENGTH) else {
            return Err(stored("it is too short"));
        };
        let (magic, numbers) = header.split_at(MAGIC.len());
        let number = |index: usize| read_u32(&numbers[4 * index..]);
        if magic != MAGIC {
            return Err(stored("it is something else"));
        }
        if number(0) != STORED_VERSION {
            return Err(stored("it is of another version"));
        }
        if hash(content) != u64::from_le_bytes(*stated_hash) {
            return Err(stored("its content is damaged"));
        }
        if body.len() != 8 * number(2) as usize || number(2) as usize > PROGRAM_LENGTH_MAX {
            return Err(stored("its length is not what it says"));
        }
        let instructions: Vec<Instruction> = body.chunks_exact(8).map(read_instruction).collect();
        check(&instructions).map_err(stored)?;
        Ok(Self { instructions, flags: number(1) })
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn read_instruction(bytes: &[u8]) -> Instruction {
    Instruction {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        jump_true: bytes[2],
        jump_false: bytes[3],
        operand: read_u32(&bytes[4..]),
    }
}

/// Whether every path ends in a return and stays inside: what makes [`Program::verdict`] end.
fn check(instructions: &[Instruction]) -> Result<(), &'static str> {
    let mut ends = false;
    for (index, instruction) in instructions.iter().enumerate() {
        let left = instructions.len() - index - 1;
        let reach = usize::from(instruction.jump_true.max(instruction.jump_false));
        ends = instruction.code == RETURN;
        match instruction.code {
            RETURN | AND => {}
            LOAD if instruction.operand.is_multiple_of(4) && instruction.operand < DATA_LENGTH => {}
            LOAD => return Err("it loads what is not there"),
            JUMP if (instruction.operand as usize) < left => {}
            JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_OR_EQUAL | JUMP_ANY_BIT if reach < left => {}
            JUMP | JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_OR_EQUAL | JUMP_ANY_BIT => {
                return Err("it jumps past its end");
            }
            _ => return Err("it has an unknown instruction"),
        }
    }
    if ends { Ok(()) } else { Err("it does not end in a verdict") }
}

/// FNV-1a, 64 bits: against damage, not against malice.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
