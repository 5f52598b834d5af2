//! The calls that i386 also makes through socketcall(2) and ipc(2).
//!
//! Both take the number of the real operation in argument 0 and a pointer to the rest. socketcall(2) compares it whole;
//! ipc(2) keeps a version in the upper 16 bits, so there only the lower ones are compared. The numbers are those of
//! linux/net.h (`SYS_*`) and linux/ipc.h.

use super::{Comparison, Condition};

/// Name of the call, whether it is socketcall's (else ipc's), and its number there. Sorted by name.
const OPERATIONS: &[(&str, Carrier, u64)] = &[
    ("accept", Carrier::Socketcall, 5),
    ("accept4", Carrier::Socketcall, 18),
    ("bind", Carrier::Socketcall, 2),
    ("connect", Carrier::Socketcall, 3),
    ("getpeername", Carrier::Socketcall, 7),
    ("getsockname", Carrier::Socketcall, 6),
    ("getsockopt", Carrier::Socketcall, 15),
    ("listen", Carrier::Socketcall, 4),
    ("msgctl", Carrier::Ipc, 14),
    ("msgget", Carrier::Ipc, 13),
    ("msgrcv", Carrier::Ipc, 12),
    ("msgsnd", Carrier::Ipc, 11),
    ("recv", Carrier::Socketcall, 10),
    ("recvfrom", Carrier::Socketcall, 12),
    ("recvmmsg", Carrier::Socketcall, 19),
    ("recvmsg", Carrier::Socketcall, 17),
    ("semctl", Carrier::Ipc, 3),
    ("semget", Carrier::Ipc, 2),
    ("semop", Carrier::Ipc, 1),
    ("semtimedop", Carrier::Ipc, 4),
    ("send", Carrier::Socketcall, 9),
    ("sendmmsg", Carrier::Socketcall, 20),
    ("sendmsg", Carrier::Socketcall, 16),
    ("sendto", Carrier::Socketcall, 11),
    ("setsockopt", Carrier::Socketcall, 14),
    ("shmat", Carrier::Ipc, 21),
    ("shmctl", Carrier::Ipc, 24),
    ("shmdt", Carrier::Ipc, 22),
    ("shmget", Carrier::Ipc, 23),
    ("shutdown", Carrier::Socketcall, 13),
    ("socket", Carrier::Socketcall, 1),
    ("socketpair", Carrier::Socketcall, 8),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Socketcall,
    Ipc,
}

/// The i386 number of the carrying call, and the condition on its argument 0, for a call that has one.
pub(super) fn carrier_of(name: &str) -> Option<(u32, Condition)> {
    let index = OPERATIONS.binary_search_by(|(known, ..)| (*known).cmp(name)).ok()?;
    let (_, carrier, operation) = OPERATIONS[index];
    let (number, comparison) = match carrier {
        Carrier::Socketcall => (102, Comparison::Equal(operation)),
        Carrier::Ipc => (117, Comparison::MaskedEqual { mask: 0xffff, value: operation }),
    };
    Some((number, Condition { argument: 0, comparison }))
}

#[cfg(test)]
mod tests {
    use super::super::{Arch, Syscall};
    use super::*;

    #[test]
    fn operations_are_sorted_and_known() {
        assert!(OPERATIONS.is_sorted_by_key(|(name, ..)| *name));
        assert!(OPERATIONS.iter().all(|(name, ..)| Syscall::named(name).is_some()));
        let number = |name| Syscall::named(name).and_then(|call| call.number(Arch::X86));
        assert_eq!((number("socketcall"), number("ipc")), (Some(102), Some(117)));
    }
}
