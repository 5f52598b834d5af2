#!/usr/bin/env python3
"""Writes verdicts.txt: filters, and what libseccomp's programs for them answer to single calls.

Run by hand when the compiler's meaning is to be checked again; tests/libseccomp.rs holds our compiler to the file, so
that the build needs no libseccomp. libseccomp is fetched into a scratch folder, not installed:

    apt-get download libseccomp2 && dpkg -x libseccomp2_*.deb scratch
    ./generate-verdicts.py scratch/usr/lib/x86_64-linux-gnu/libseccomp.so.2 DOCKER_PROFILE.json > verdicts.txt

DOCKER_PROFILE.json is docker's default profile, evaluated here as for a container without capabilities. The other
filters are random from a fixed seed (third argument: how many, fourth: seed). Filters are built as runc builds them:
rules with the default action are left out, and calls above every call named answer ENOSYS unless the default action
lets calls through. Left out, because libseccomp does not do there what its rules say: several conditional rules for
one call, other than by equality on one argument (its tree of comparisons then loses some), and, in the random filters,
calls that one of the filter's architectures lacks (it then forgets to load the number). Left out too are calls whose
numbers this libseccomp does not know as we do.

Format, one record per line, numbers hexadecimal:
    filter DEFAULT ARCH,...          begins a filter; the first architecture is the native one
    rule ACTION NAME,... [CONDITION]...   with CONDITION argument OP value, or argument&mask==value
    call ARCH NUMBER ARGUMENTS = ACTION   trailing zero arguments left out
    range ARCH FIRST LAST = ACTION   the same for all numbers between, with all arguments zero
"""

import ctypes
import json
import os
import random
import re
import struct
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent.parent / "src/seccomp"
TOKENS = {"x86_64": 0xC000003E, "x86": 0x40000003, "x32": 0x4000003E, "aarch64": 0xC00000B7, "arm": 0x40000028}
AUDIT = {**TOKENS, "x32": 0xC000003E}
COLUMNS = ["x86_64", "x86", "x32", "aarch64", "arm"]
X32_BIT = 0x40000000
ACTIONS = {"KillProcess": 0x80000000, "KillThread": 0, "Trap": 0x30000, "Errno": 0x50000, "Notify": 0x7FC00000,
           "Trace": 0x7FF00000, "Log": 0x7FFC0000, "Allow": 0x7FFF0000}
OPERATORS = {"!=": 1, "<": 2, "<=": 3, "==": 4, ">=": 5, ">": 6, "&": 7}
ENOSYS = "Errno:26"


class Comparison(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_uint), ("operator", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def load_library(path):
    library = ctypes.CDLL(path, use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
                                               ctypes.POINTER(Comparison)]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


def to_return(action):
    name, _, data = action.partition(":")
    return ACTIONS[name] | int(data or "0", 16)


def from_return(value):
    for name, base in ACTIONS.items():
        if value & 0xFFFF0000 == base:
            return f"{name}:{value & 0xFFFF:x}" if name in ("Errno", "Trace") else name
    raise ValueError(hex(value))


class Filter:
    def __init__(self, default, arches):
        self.default, self.arches, self.rules = default, arches, []

    def lines(self):
        yield f"filter {self.default} {','.join(self.arches)}"
        for action, names, conditions in self.rules:
            words = [f"{argument}&{mask:x}=={value:x}" if op == "&" else f"{argument}{op}{mask:x}"
                     for argument, op, mask, value in conditions]
            yield " ".join(["rule", action, ",".join(names), *words])

    def build(self, library):
        context = library.seccomp_init(to_return(self.default))
        for arch in self.arches[1:]:
            assert library.seccomp_arch_add(context, TOKENS[arch]) == 0, arch
        for action, names, conditions in self.rules:
            if action == self.default:
                continue
            array = (Comparison * 6)(*[Comparison(argument, OPERATORS[op], mask, value)
                                       for argument, op, mask, value in conditions])
            for name in names:
                number = library.seccomp_syscall_resolve_name(name.encode())
                failed = library.seccomp_rule_add_array(context, to_return(action), number, len(conditions), array)
                if failed:
                    raise RuntimeError(f"{name}: {os.strerror(-failed)}")
        pipe = os.memfd_create("program")
        assert library.seccomp_export_bpf(context, pipe) == 0
        library.seccomp_release(context)
        code = os.pread(pipe, 1 << 20, 0)
        os.close(pipe)
        self.program = list(struct.iter_unpack("<HBBI", code))

    def last(self, numbers, arch):
        named = [numbers[name][arch] for _, names, _ in self.rules for name in names]
        carried = [CARRIED[name] for _, names, _ in self.rules for name in names if arch == "x86" and name in CARRIED]
        return max([number for number in named if number is not None] + carried, default=0)

    def verdict(self, numbers, arch, number, arguments):
        open_default = self.default.split(":")[0] in ("Allow", "Log", "Trace") or self.default == ENOSYS
        if arch in self.arches and not open_default:
            last = self.last(numbers, arch)
            if last and number > last:
                return ENOSYS
        data = struct.pack("<IIQ6Q", number, AUDIT[arch], 0, *arguments)
        accumulator, at = 0, 0
        while True:
            code, true, false, operand = self.program[at]
            at += 1
            if code == 0x06:
                return from_return(operand)
            if code == 0x20:
                accumulator = struct.unpack_from("<I", data, operand)[0]
            elif code == 0x54:
                accumulator &= operand
            elif code == 0x05:
                at += operand
            else:
                holds = {0x15: accumulator == operand, 0x25: accumulator > operand, 0x35: accumulator >= operand,
                         0x45: accumulator & operand != 0}[code]
                at += true if holds else false


def carried_numbers():
    text = (SOURCES / "multiplex.rs").read_text()
    carriers = {"Socketcall": 102, "Ipc": 117}
    return {name: carriers[carrier] for name, carrier in re.findall(r'\("(\w+)", Carrier::(\w+),', text)}


def our_numbers(library):
    """Calls whose numbers libseccomp knows as we do (it hides i386's own socket and IPC calls behind the carriers)."""
    text = (SOURCES / "syscalls.rs").read_text()
    numbers = {}
    for name, row in re.findall(r'\("(\w+)", \[(.*?)\]\)', text):
        row = [None if cell == "NONE" else int(cell) for cell in row.split(", ")]
        row[2] = None if row[2] is None else row[2] | X32_BIT
        theirs = [library.seccomp_syscall_resolve_name_arch(TOKENS[arch], name.encode()) for arch in COLUMNS]
        same = all((number if number is not None else -1) == max(their, -1)
                   for arch, number, their in zip(COLUMNS, row, theirs) if not (arch == "x86" and name in CARRIED))
        if same:
            numbers[name] = dict(zip(COLUMNS, row))
    return numbers


def random_filter(chance, numbers):
    words = [0, 1, 2, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]
    value = lambda: chance.choice(words) << 32 | chance.choice(words) if chance.random() < 0.5 else chance.randrange(6)
    action = lambda: chance.choice(["Allow"] * 3 + ["Errno:1", "Errno:26", "Errno:5", "Trap", "Log", "Trace:7",
                                                    "KillProcess", "KillThread", "Notify"])
    default = chance.choice(["Errno:1", "Errno:26", "Allow", "KillProcess", "Log", "Trace:3", "KillThread"])
    others = [["x86", "x32"], ["x86"], ["x32"], [], ["x86", "x32", "aarch64", "arm"]]
    made = Filter(default, ["x86_64", *chance.choice(others)])
    common = {name for name, row in numbers.items() if all(row[arch] is not None for arch in made.arches)}
    carried = {name for name in CARRIED if name in numbers and numbers[name]["x86_64"] is not None}
    pool = chance.sample(sorted(common), 12) + chance.sample(sorted(carried & common or carried), 4)
    of_call, shapes, used = {}, {}, set()
    for _ in range(chance.randrange(1, 14)):
        names = sorted(set(chance.choices(pool, k=chance.randrange(1, 4))))
        conditions = []
        if chance.random() < 0.7:
            for argument in sorted(chance.sample(range(3), chance.randrange(1, 3))):
                conditions.append((argument, chance.choice(list(OPERATORS)), value(), value()))
        conditions = [(argument, op, mask, other if op == "&" else 0) for argument, op, mask, other in conditions]
        wanted = action()
        if conditions:
            # One action for all, since calls may share a carrier, where the first to match is not defined.
            wanted = of_call.setdefault("conditional", wanted)
            shape = tuple(argument for argument, *_ in conditions)
            # Several rules for one call only where libseccomp merges them right: on one argument, by equality.
            alone = len(shape) == 1 and conditions[0][1] == "=="
            names = [name for name in names if shapes.setdefault(name, shape if alone else None) == shape and alone
                     or shapes.get(name) is None and name not in used]
            used.update(names)
        if names:
            made.rules.append((wanted, names, conditions))
    return made, pool, value


def random_calls(chance, made, numbers, pool, value):
    for _ in range(24):
        arch = chance.choice(COLUMNS if chance.random() < 0.1 else made.arches)
        name = chance.choice([name for _, names, _ in made.rules for name in names] + pool[:3])
        number = numbers[name][arch]
        carried = arch == "x86" and name in CARRIED and (number is None or chance.random() < 0.5)
        if carried:
            number = CARRIED[name]
        if number is None:
            number = chance.randrange(460) | (X32_BIT if arch == "x32" else 0)
        arguments = [chance.randrange(1, 25) if carried else value(), value(), value(), 0, 0, 0]
        for argument, op, mask, other in chance.choice(made.rules)[2]:
            if chance.random() < 0.7 and not (carried and argument == 0):
                near = other & mask if op == "&" else mask
                arguments[argument] = max(0, min((1 << 64) - 1, near + chance.choice([0, 0, 0, 1, -1, 1 << 32])))
        if arch in ("x86", "arm"):
            arguments = [argument & 0xFFFFFFFF for argument in arguments]
        yield arch, number, arguments


def docker_filter(path, numbers):
    profile = json.loads(Path(path).read_text())
    made = Filter("Errno:1", ["x86_64", "x86", "x32"])
    words = {"SCMP_CMP_LT": "<", "SCMP_CMP_EQ": "==", "SCMP_CMP_GT": ">", "SCMP_CMP_MASKED_EQ": "&"}
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes", {}), rule.get("excludes", {})
        if includes.get("caps") or "amd64" not in includes.get("arches", ["amd64"]):
            continue
        if "amd64" in excludes.get("arches", []):
            continue
        action = "Allow" if rule["action"] == "SCMP_ACT_ALLOW" else f"Errno:{rule.get('errnoRet', 1):x}"
        names = sorted(name for name in rule["names"] if name in numbers)
        conditions = [(arg["index"], words[arg["op"]], arg["value"], arg.get("valueTwo", 0))
                      for arg in rule.get("args") or []]
        made.rules.append((action, names, conditions))
    return made


def print_call(made, numbers, arch, number, arguments):
    shown = list(arguments)
    while shown and shown[-1] == 0:
        shown.pop()
    verdict = made.verdict(numbers, arch, number, arguments)
    print(" ".join(["call", arch, f"{number:x}", *[f"{argument:x}" for argument in shown], "=", verdict]))


def print_docker(made, numbers):
    print("\n".join(made.lines()))
    for arch in ["x86_64", "x86", "x32"]:
        bit = X32_BIT if arch == "x32" else 0
        verdicts = [made.verdict(numbers, arch, number | bit, [0] * 6) for number in range(600)]
        first = 0
        for number in range(1, 601):
            if number == 600 or verdicts[number] != verdicts[first]:
                print(f"range {arch} {first | bit:x} {number - 1 | bit:x} = {verdicts[first]}")
                first = number
        for name in ["socket", "personality", "clone", "clone3"]:
            number = numbers[name][arch]
            for value in [0, 1, 8, 37, 38, 39, 40, 41, 0x20000, 0x20008, 0xFFFFFFFF, 0x10000000, 0x2000000, 0x11]:
                print_call(made, numbers, arch, number, [value, 0, 0, 0, 0, 0])
        for operation in range(0, 25):
            for carrier in (102, 117):
                print_call(made, numbers, arch, carrier | bit, [operation, 0, 0, 0, 0, 0])


def main():
    library = load_library(sys.argv[1])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 50
    chance = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 20)
    numbers = our_numbers(library)
    print("# Written by generate-verdicts.py; do not edit.")
    docker = docker_filter(sys.argv[2], numbers)
    docker.build(library)
    print_docker(docker, numbers)
    while count:
        made, pool, value = random_filter(chance, numbers)
        try:
            made.build(library)
        except RuntimeError:
            # libseccomp refuses rules that contradict each other in its inner tree.
            continue
        print("\n".join(made.lines()))
        for arch, number, arguments in random_calls(chance, made, numbers, pool, value):
            print_call(made, numbers, arch, number, arguments)
        count -= 1


CARRIED = carried_numbers()

if __name__ == "__main__":
    main()
