//! bpf(2), as far as Hull needs it: load a cgroup's device filter (`BPF_PROG_TYPE_CGROUP_DEVICE`), attach it to a cgroup
//! v2 directory, see what is attached, and take it off; load a classifier of packets (`BPF_PROG_TYPE_SCHED_CLS`), which
//! tc(8)'s filters attach, with the kernel's functions that it calls.
//!
//! A device filter is asked for every open and mknod of a device node by a process of the cgroup or of one below it;
//! all programs on the way up to the root must say yes. Programs are attached with `BPF_F_ALLOW_MULTI`, so that one
//! on a child adds to its parent's instead of hiding it. See bpf(2) and linux/bpf.h. Compiling rules to instructions is
//! done elsewhere (hull_kernel::cgroups); this file knows no rule.

pub mod code;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_PROG_QUERY: i32 = 16;
const BPF_BTF_GET_FD_BY_ID: i32 = 19;
const BPF_BTF_GET_NEXT_ID: i32 = 23;

const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// One eBPF instruction, laid out as `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation: class, size or source, and mode.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Jump distance in instructions, or offset of a memory access in bytes.
    pub offset: i16,
    /// Immediate operand.
    pub immediate: i32,
}

impl Instruction {
    /// An instruction with registers by their numbers.
    pub const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, registers: source << 4 | destination, offset, immediate }
    }
}

/// The attributes of `BPF_PROG_LOAD` up to `fd_array` (Linux 5.14).
#[repr(C, align(8))]
#[derive(Default)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    /// Types of the program's own and where its lines are from: none.
    descriptions: [u32; 12],
    fd_array: u64,
}

/// The attributes of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C, align(8))]
#[derive(Default)]
struct InfoAttributes {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_btf_info` (Linux 5.11).
#[repr(C, align(8))]
#[derive(Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

/// The attributes of `BPF_PROG_ATTACH` and `BPF_PROG_DETACH` up to `replace_bpf_fd` (Linux 5.6), padded by hand.
#[repr(C, align(8))]
#[derive(Default)]
struct AttachAttributes {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    reserved: u32,
}

/// The attributes of `BPF_PROG_QUERY` up to `prog_cnt`, padded by hand.
#[repr(C, align(8))]
#[derive(Default)]
struct QueryAttributes {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    reserved: u32,
}

/// The attributes of `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct IdAttributes {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is a live repr(C) value that starts like `union bpf_attr`'s member for `command`, without
    // uninitialised padding (made by Default from zeroes), and the kernel reads and writes no more than the size given.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), std::mem::size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Has the kernel check and load a device filter; the program lives as long as the descriptor or an attachment does.
///
/// # Errors
/// bpf(2)'s: `EPERM` without `CAP_BPF`/`CAP_SYS_ADMIN`, `EINVAL` or `EACCES` when the verifier refuses the program.
pub fn load_device_filter(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: *b"hull_devices\0\0\0\0",
        expected_attach_type: BPF_CGROUP_DEVICE,
        ..LoadAttributes::default()
    };
    load(attributes, instructions)
}

/// Has the kernel check and load a classifier of packets that calls functions of the kernel's (`BPF_PSEUDO_KFUNC_CALL`
/// with the function's number in the BTF of the kernel, or of `module` when the instruction's offset is 1). Such a program
/// has to be under a licence that goes with the kernel's; this one is under the GPL or the MIT licence.
///
/// # Errors
/// bpf(2)'s: `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`, `EINVAL` or `EACCES` when the verifier refuses the program.
pub fn load_classifier(
    name: [u8; 16],
    instructions: &[Instruction],
    module: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    // The first one is never asked for: an offset of 0 means the kernel itself.
    let descriptors = [0, module.map_or(0, |module| module.as_raw_fd())];
    let attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        prog_name: name,
        fd_array: if module.is_some() { descriptors.as_ptr() as u64 } else { 0 },
        ..LoadAttributes::default()
    };
    load(attributes, instructions)
}

fn load(attributes: LoadAttributes, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = LoadAttributes {
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        insns: instructions.as_ptr() as u64,
        ..attributes
    };
    owned(bpf(BPF_PROG_LOAD, &mut attributes)?)
}

/// Takes a descriptor that bpf(2) has returned.
fn owned(descriptor: i32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just returned this descriptor for us alone; it is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The BTF of a module of the kernel, by the module's name; nothing when it is built in or not loaded.
///
/// # Errors
/// bpf(2)'s: `EPERM` without `CAP_SYS_ADMIN`.
pub fn module_btf(name: &str) -> io::Result<Option<OwnedFd>> {
    let mut id = 0;
    loop {
        let mut next = IdAttributes { prog_id: id, ..IdAttributes::default() };
        match bpf(BPF_BTF_GET_NEXT_ID, &mut next) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            result => result?,
        };
        id = next.next_id;
        match bpf(BPF_BTF_GET_FD_BY_ID, &mut IdAttributes { prog_id: id, ..IdAttributes::default() }) {
            // It has gone meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => {
                let descriptor = owned(result?)?;
                if is_called(descriptor.as_fd(), name)? {
                    return Ok(Some(descriptor));
                }
            }
        }
    }
}

/// Whether a BTF is that of the kernel's part with this name.
fn is_called(btf: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let mut text = [0_u8; 64];
    let mut info = BtfInfo { name: text.as_mut_ptr() as u64, name_len: text.len() as u32, ..BtfInfo::default() };
    let mut attributes = InfoAttributes {
        bpf_fd: btf.as_raw_fd() as u32,
        info_len: std::mem::size_of::<BtfInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    // A program's own BTF has no name.
    let written = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(info.kernel_btf != 0 && written == name.as_bytes())
}

/// Attaches a device filter to a cgroup v2 directory, beside what is there or, with `replace`, atomically in the place
/// of an attached program.
///
/// # Errors
/// bpf(2)'s: `EINVAL` when the directory is no cgroup v2, `EPERM` when an ancestor forbids more than one program,
/// `ENOENT` when `replace` is not attached.
pub fn attach_device_filter(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if replace.is_some() { BPF_F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, |fd| fd.as_raw_fd() as u32),
        reserved: 0,
    };
    bpf(BPF_PROG_ATTACH, &mut attributes).map(drop)
}

/// The ids of the device filters attached to this cgroup itself (not to those above it), oldest first.
///
/// # Errors
/// bpf(2)'s.
pub fn attached_device_filters(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    let mut attributes = QueryAttributes {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..QueryAttributes::default()
    };
    // The kernel allows at most 64 programs on one cgroup (BPF_CGROUP_MAX_PROGS), so the buffer is always enough.
    bpf(BPF_PROG_QUERY, &mut attributes)?;
    ids.truncate(attributes.prog_cnt as usize);
    Ok(ids)
}

/// A descriptor for a loaded program, by its id.
///
/// # Errors
/// bpf(2)'s: `ENOENT` when it is gone.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut IdAttributes { prog_id: id, ..IdAttributes::default() })?)
}

/// Takes a device filter off a cgroup.
///
/// # Errors
/// bpf(2)'s: `ENOENT` when it is not attached.
pub fn detach_device_filter(cgroup: BorrowedFd<'_>, program: impl AsFd) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        ..AttachAttributes::default()
    };
    bpf(BPF_PROG_DETACH, &mut attributes).map(drop)
}
