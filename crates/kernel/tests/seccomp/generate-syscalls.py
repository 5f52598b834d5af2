#!/usr/bin/env python3
"""Writes src/seccomp/syscalls.rs from the kernel's own headers; run by hand when the table is to grow.

Sources of the numbers, all on a Debian machine with linux-libc-dev and the libc crate unpacked by cargo:
  x86_64, i386, x32   /usr/include/x86_64-linux-gnu/asm/unistd_{64,32,x32}.h
  aarch64             /usr/include/asm-generic/unistd.h, preprocessed with arm64's __ARCH_WANT_* selection
  arm (EABI)          the SYS_* constants of the libc crate, plus the three private calls of asm/unistd.h
Calls newer than those headers have one number on every architecture (since Linux 5.1) and are listed in NEWER,
from arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl of the kernel.

Usage: generate-syscalls.py LIBC_CRATE_DIR > ../../src/seccomp/syscalls.rs
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ARCHES = ["x86_64", "i386", "x32", "aarch64", "arm"]
X32_BIT = 0x40000000
ASM = Path("/usr/include/x86_64-linux-gnu")

NEWER = {
    "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455,
    "futex_requeue": 456, "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460,
    "lsm_list_modules": 461, "mseal": 462, "setxattrat": 463, "getxattrat": 464, "listxattrat": 465,
    "removexattrat": 466, "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469,
}
X86_64_ONLY = {"uretprobe": 335, "uprobe": 336}
ARM_PRIVATE = {"breakpoint": 0xF0001, "cacheflush": 0xF0002, "usr26": 0xF0003, "usr32": 0xF0004, "set_tls": 0xF0005,
               "get_tls": 0xF0006}
# Number 341 of arm has two names; the other two are newer than the libc crate's list.
ARM_ALIASES = {"sync_file_range2": 341, "io_pgetevents": 399, "migrate_pages": 400}
# Calls that exist only inside i386's socketcall(2) and ipc(2), without a number of their own anywhere we have a table.
MULTIPLEXED = ["send", "recv", "semop", "semtimedop", "accept"]
# Uniform numbers whose call the architecture leaves out.
ABSENT = [("arm", "memfd_secret"), ("x32", "map_shadow_stack")]
# In unistd.h of newer kernels only as a marker, or never callable.
IGNORED = {"syscalls", "arch_specific_syscall"}


def defines(text):
    found = {}
    for name, value in re.findall(r"^#define __NR_(\w+) (.+)$", text, re.M):
        value = value.strip()
        value = value.replace("__X32_SYSCALL_BIT", str(X32_BIT))
        if re.fullmatch(r"[\d\s()+]+", value):
            found[name] = eval(value) & ~X32_BIT
        elif value.startswith("__NR"):
            found[name] = value
    return found


def header(name):
    return defines((ASM / "asm" / name).read_text())


def aarch64():
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source.c"
        wants = ["RENAMEAT", "NEW_STAT", "SET_GET_RLIMIT", "TIME32_SYSCALLS", "SYS_CLONE3", "MEMFD_SECRET"]
        source.write_text("".join(f"#define __ARCH_WANT_{want}\n" for want in wants)
                          + "#define __ARCH_WANT_SYS_CLONE3\n#include <asm-generic/unistd.h>\n")
        text = subprocess.run(["gcc", "-E", "-dM", f"-I{ASM}", str(source)], check=True, capture_output=True,
                              text=True).stdout
    direct = defines(text)
    aliases = dict(re.findall(r"^#define __NR_(\w+) __NR3264_(\w+)$", text, re.M))
    numbers = dict(re.findall(r"^#define __NR3264_(\w+) (\d+)$", text, re.M))
    result = {name: number for name, number in direct.items() if isinstance(number, int)}
    result.update({name: int(numbers[wide]) for name, wide in aliases.items()})
    return result


def arm(crate):
    text = (Path(crate) / "src/unix/linux_like/linux/gnu/b32/arm/mod.rs").read_text()
    found = {name: int(number) for name, number in re.findall(r"SYS_(\w+): c_long = (\d+);", text)}
    return {**found, **ARM_ALIASES, **ARM_PRIVATE}


def main():
    tables = {
        "x86_64": {**header("unistd_64.h"), **X86_64_ONLY},
        "i386": header("unistd_32.h"),
        "x32": header("unistd_x32.h"),
        "aarch64": aarch64(),
        "arm": arm(sys.argv[1]),
    }
    # The calls with 64-bit time, which the libc crate lacks for arm, came to all 32-bit architectures at once.
    tables["arm"].update({name: number for name, number in tables["i386"].items() if 403 <= number <= 423})
    for table in tables.values():
        for name, number in NEWER.items():
            assert table.get(name, number) == number, name
            table[name] = number
    for arch, name in ABSENT:
        del tables[arch][name]
    names = sorted({name for table in tables.values() for name in table} | set(MULTIPLEXED))
    print(HEADER)
    for name in names:
        if name in IGNORED:
            continue
        numbers = [tables[arch].get(name) for arch in ARCHES]
        cells = ", ".join("NONE" if number is None else str(number) for number in numbers)
        print(f'    ("{name}", [{cells}]),')
    print("];")


HEADER = '''//! System call names and their numbers on every architecture that a filter may name.
//!
//! Written by `tests/seccomp/generate-syscalls.py` from the kernel's headers; do not edit by hand. Sorted by name. The
//! columns are those of [`super::Arch::column`]: x86_64, i386, x32 (without its bit 30), aarch64, arm (EABI). Calls that
//! i386 reaches only through socketcall(2) or ipc(2) may have no number at all.

/// The architecture does not have the call.
pub(super) const NONE: u32 = u32::MAX;

/// Name and one number per column.
#[rustfmt::skip]
pub(super) static SYSCALLS: &[(&str, [u32; 5])] = &['''

if __name__ == "__main__":
    main()
