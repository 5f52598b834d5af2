//! The program at the host's end of a container's pair of interfaces, written as instructions.
//!
//! It sees each packet that the container sends (`struct __sk_buff`, linux/bpf.h), and does this:
//!
//! ```text
//! not TCP over IPv4, a fragment, options of IP, a SYN, or not from the container's address     -> go on
//! neither to the gateway nor to a port of the host's that may be published                      -> go on
//! connection = lookup in conntrack; none                                                       -> go on
//! the first three packets are not through (ASSURED, ESTABLISHED)                               -> go on
//! the other direction, turned round, does not lead from the gateway to the container itself    -> go on
//! the connection's time begins again: that of one that has ended after a FIN or RST, else that of an established one
//! addresses, ports, checksums, and the Ethernet addresses change sides
//! to the other end of the pair, as if it had come from the bridge
//! ```
//! Registers: r6 packet, r7 connection, r8 TCP's flags, r9 first the connection's time, then the checksum's change.

use hull_sys::bpf::Instruction;

use super::Shortcut;

/// What differs from one kernel to the next: functions' numbers, and where the members of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Kernel {
    /// The functions are those of the module nf_conntrack.
    pub(super) in_module: bool,
    /// `bpf_skb_ct_lookup`
    pub(super) lookup: u32,
    /// `bpf_ct_change_timeout`
    pub(super) change_timeout: u32,
    /// `bpf_ct_release`
    pub(super) release: u32,
    /// `nf_conn.status`
    pub(super) status: u32,
    /// `nf_conn.timeout`
    pub(super) timeout: u32,
    /// `nf_conn.proto.tcp.state`
    pub(super) state: u32,
    /// The tuples of the first direction and of the other.
    pub(super) tuples: [Tuple; 2],
}

/// Where the members of a `struct nf_conntrack_tuple` are, from the beginning of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Tuple {
    pub(super) source: u32,
    pub(super) source_port: u32,
    pub(super) destination: u32,
    pub(super) destination_port: u32,
}

/// How long connections are remembered without a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// One that is established, milliseconds.
    pub(super) established_ms: i32,
    /// One that has seen a FIN or RST, milliseconds.
    pub(super) ended_ms: i32,
    /// Who has so little time left has seen one, ticks of the kernel's clock.
    pub(super) ended_ticks: i32,
}

// Operation codes, composed as in linux/bpf_common.h and linux/bpf.h.
const LOAD: u8 = 0x61; // BPF_LDX | BPF_MEM, with a size
const STORE: u8 = 0x63; // BPF_STX | BPF_MEM, with a size
const STORE_IMMEDIATE: u8 = 0x62; // BPF_ST | BPF_MEM | BPF_W
const ADD: u8 = 0x07; // BPF_ALU64 | BPF_ADD | BPF_K
const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SUBTRACT_32: u8 = 0x1c; // BPF_ALU | BPF_SUB | BPF_X
const MOVE: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const SET: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const GO: u8 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const UNLESS_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const UNLESS_EQUAL_32: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const IF_EQUAL_32: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
const IF_LESS_32: u8 = 0xa6; // BPF_JMP32 | BPF_JLT | BPF_K
const IF_GREATER_32: u8 = 0x26; // BPF_JMP32 | BPF_JGT | BPF_K
const TO_BIG_ENDIAN: u8 = 0xdc; // BPF_ALU | BPF_END | BPF_TO_BE
const IF_GREATER: u8 = 0x2d; // BPF_JMP | BPF_JGT | BPF_X
const CALL: u8 = 0x85; // BPF_JMP | BPF_CALL
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT
/// `src_reg` of a call of a function of the kernel's (`BPF_PSEUDO_KFUNC_CALL`).
const KERNEL_FUNCTION: u8 = 2;

/// How much is loaded or stored: the difference from the code for 32 bits.
const WORD: u8 = 0;
const HALF: u8 = 0x08;
const BYTE: u8 = 0x10;
const DOUBLE: u8 = 0x18;

// Helpers (enum bpf_func_id).
const SKB_STORE_BYTES: i32 = 9;
const L3_CSUM_REPLACE: i32 = 10;
const L4_CSUM_REPLACE: i32 = 11;
const SKB_LOAD_BYTES: i32 = 26;
const CSUM_DIFF: i32 = 28;
const SKB_CHANGE_TYPE: i32 = 32;
const JIFFIES64: i32 = 118;
const REDIRECT_PEER: i32 = 155;
/// A checksum that covers addresses (`BPF_F_PSEUDO_HDR`).
const PSEUDO_HEADER: i32 = 0x10;

// struct __sk_buff
const INTERFACE: i16 = 40;
const DATA: i16 = 76;
const DATA_END: i16 = 80;

// An Ethernet header, one of IPv4 without options, and what every TCP header has.
const ETHERNET_PROTOCOL: i16 = 12;
const IP: i16 = 14;
const IP_FRAGMENT: i16 = IP + 6;
const IP_PROTOCOL: i16 = IP + 9;
const IP_CHECKSUM: i32 = IP as i32 + 10;
const IP_SOURCE: i16 = IP + 12;
const IP_DESTINATION: i16 = IP + 16;
const TCP_PORTS: i16 = IP + 20;
const TCP_FLAGS: i16 = TCP_PORTS + 13;
const TCP_CHECKSUM: i32 = TCP_PORTS as i32 + 16;
const HEADERS: i32 = TCP_PORTS as i32 + 20;
/// Both addresses and both ports lie side by side.
const ENDS_BYTES: i32 = 12;
const ADDRESSES_BYTES: i32 = 8;
const MAC_BYTES: i16 = 6;

const ETHERTYPE_IPV4: i32 = 0x0800_u16.to_be() as i32;
const VERSION_AND_LENGTH: i32 = 0x45;
/// "More fragments" and the offset.
const FRAGMENT: i32 = 0x3fff_u16.to_be() as i32;
const TCP: i32 = 6;
const FIN_OR_RST: i32 = 0x05;
const SYN: i32 = 0x02;

/// `BPF_F_CURRENT_NETNS`
const OWN_NAMESPACE: i32 = -1;
/// `IPS_ASSURED`
const ASSURED: i32 = 1 << 2;
/// `TCP_CONNTRACK_ESTABLISHED`
const ESTABLISHED: i32 = 3;
/// `TC_ACT_UNSPEC`: on, to the next filter and the bridge.
const ON: i32 = -1;
/// `TC_ACT_SHOT`
const DROP: i32 = 2;
/// `PACKET_HOST`
const TO_THIS_HOST: i32 = 0;

// On the stack, from its end (r10).
const BEFORE: i16 = -16;
const BEFORE_PORTS: i16 = BEFORE + 8;
const OPTIONS: i16 = -32;
const OPTIONS_BYTES: i32 = 12;
const OPTIONS_DIRECTION: i16 = OPTIONS + 9;
const AFTER: i16 = -48;
const AFTER_PORTS: i16 = AFTER + 8;
/// Room for three Ethernet addresses.
const MACS: i16 = -80;

/// Where a jump leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    Near,
    Other,
    Turned,
    Ended,
    Timed,
    Release,
    On,
}

#[derive(Default)]
struct Writer {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    labels: Vec<(Label, usize)>,
}

impl Writer {
    fn put(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction { code, registers: source << 4 | destination, offset, immediate });
    }

    fn load(&mut self, size: u8, destination: u8, source: u8, offset: i16) {
        self.put(LOAD + size, destination, source, offset, 0);
    }

    fn store(&mut self, size: u8, offset: i16, source: u8) {
        self.put(STORE + size, 10, source, offset, 0);
    }

    fn set(&mut self, register: u8, value: i32) {
        self.put(SET, register, 0, 0, value);
    }

    fn copy(&mut self, destination: u8, source: u8) {
        self.put(MOVE, destination, source, 0, 0);
    }

    /// The address of something on the stack.
    fn address(&mut self, register: u8, place: i16) {
        self.copy(register, 10);
        self.put(ADD, register, 0, 0, place.into());
    }

    fn jump(&mut self, code: u8, destination: u8, source: u8, value: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.put(code, destination, source, 0, value);
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.instructions.len()));
    }

    fn help(&mut self, helper: i32) {
        self.put(CALL, 0, 0, 0, helper);
    }

    fn finish(mut self) -> Vec<Instruction> {
        for (place, label) in self.jumps {
            let target = self.labels.iter().find(|(one, _)| *one == label).map_or(place, |(_, target)| *target);
            // The program has some hundred instructions, and jumps only forwards.
            self.instructions[place].offset = (target - place - 1) as i16;
        }
        self.instructions
    }
}

/// The program.
pub(super) fn write(kernel: &Kernel, wanted: &Shortcut, times: &Times) -> Vec<Instruction> {
    // In the packet's order of bytes.
    let own = i32::from_ne_bytes(wanted.address.octets());
    let gateway = i32::from_ne_bytes(wanted.gateway.octets());
    let mut writer = Writer::default();
    let w = &mut writer;
    let function = |w: &mut Writer, number: u32| {
        w.put(CALL, 0, KERNEL_FUNCTION, i16::from(kernel.in_module), number as i32);
    };
    // Members of a structure of some hundred bytes.
    let member = |w: &mut Writer, size: u8, register: u8, offset: u32| w.load(size, register, 7, offset as i16);

    w.copy(6, 1);
    w.load(WORD, 2, 6, DATA);
    w.load(WORD, 3, 6, DATA_END);
    w.copy(4, 2);
    w.put(ADD, 4, 0, 0, HEADERS);
    w.jump(IF_GREATER, 4, 3, 0, Label::On);
    for (size, place, wanted) in
        [(HALF, ETHERNET_PROTOCOL, ETHERTYPE_IPV4), (BYTE, IP, VERSION_AND_LENGTH), (BYTE, IP_PROTOCOL, TCP)]
    {
        w.load(size, 4, 2, place);
        w.jump(UNLESS_EQUAL, 4, 0, wanted, Label::On);
    }
    w.load(WORD, 4, 2, IP_SOURCE);
    w.jump(UNLESS_EQUAL_32, 4, 0, own, Label::On);
    w.store(WORD, BEFORE, 4);
    w.load(HALF, 4, 2, IP_FRAGMENT);
    w.put(AND, 4, 0, 0, FRAGMENT);
    w.jump(UNLESS_EQUAL, 4, 0, 0, Label::On);
    w.load(BYTE, 8, 2, TCP_FLAGS);
    w.copy(4, 8);
    w.put(AND, 4, 0, 0, SYN);
    w.jump(UNLESS_EQUAL, 4, 0, 0, Label::On);

    w.load(WORD, 4, 2, IP_DESTINATION);
    w.store(WORD, BEFORE + 4, 4);
    w.load(HALF, 5, 2, TCP_PORTS + 2);
    w.put(TO_BIG_ENDIAN, 5, 0, 0, 16);
    w.jump(IF_EQUAL_32, 4, 0, gateway, Label::Near);
    w.jump(IF_LESS_32, 5, 0, (*wanted.ports.start()).into(), Label::On);
    w.jump(IF_GREATER_32, 5, 0, (*wanted.ports.end()).into(), Label::On);
    w.label(Label::Near);
    w.load(WORD, 4, 2, TCP_PORTS);
    w.store(WORD, BEFORE_PORTS, 4);
    w.put(STORE_IMMEDIATE, 10, 0, OPTIONS, OWN_NAMESPACE);
    w.put(STORE_IMMEDIATE, 10, 0, OPTIONS + 4, 0);
    w.put(STORE_IMMEDIATE, 10, 0, OPTIONS + 8, TCP.to_le());
    w.copy(1, 6);
    w.address(2, BEFORE);
    w.set(3, ENDS_BYTES);
    w.address(4, OPTIONS);
    w.set(5, OPTIONS_BYTES);
    function(w, kernel.lookup);
    w.jump(IF_EQUAL, 0, 0, 0, Label::On);
    w.copy(7, 0);

    member(w, DOUBLE, 2, kernel.status);
    w.put(AND, 2, 0, 0, ASSURED);
    w.jump(IF_EQUAL, 2, 0, 0, Label::Release);
    member(w, BYTE, 2, kernel.state);
    w.jump(UNLESS_EQUAL, 2, 0, ESTABLISHED, Label::Release);
    // What comes from where the other direction goes to goes to where that one comes from. The end that the server sees is
    // the gateway: that its answers come by here as well is certain only then.
    let turn = |w: &mut Writer, tuple: &Tuple| {
        member(w, WORD, 3, tuple.destination);
        member(w, WORD, 5, tuple.source);
        member(w, HALF, 4, tuple.destination_port);
        member(w, HALF, 2, tuple.source_port);
    };
    w.load(BYTE, 2, 10, OPTIONS_DIRECTION);
    w.jump(UNLESS_EQUAL, 2, 0, 0, Label::Other);
    turn(w, &kernel.tuples[1]);
    w.jump(UNLESS_EQUAL_32, 3, 0, gateway, Label::Release);
    w.jump(GO, 0, 0, 0, Label::Turned);
    w.label(Label::Other);
    w.load(WORD, 3, 10, BEFORE + 4);
    w.jump(UNLESS_EQUAL_32, 3, 0, gateway, Label::Release);
    turn(w, &kernel.tuples[0]);
    w.label(Label::Turned);
    w.jump(UNLESS_EQUAL_32, 5, 0, own, Label::Release);
    w.store(WORD, AFTER, 3);
    w.store(WORD, AFTER + 4, 5);
    w.store(HALF, AFTER_PORTS, 4);
    w.store(HALF, AFTER_PORTS + 2, 2);

    member(w, WORD, 9, kernel.timeout);
    w.help(JIFFIES64);
    w.put(SUBTRACT_32, 9, 0, 0, 0);
    w.put(AND, 8, 0, 0, FIN_OR_RST);
    w.jump(UNLESS_EQUAL, 8, 0, 0, Label::Ended);
    w.jump(IF_LESS_32, 9, 0, times.ended_ticks, Label::Ended);
    w.set(2, times.established_ms);
    w.jump(GO, 0, 0, 0, Label::Timed);
    w.label(Label::Ended);
    w.set(2, times.ended_ms);
    w.label(Label::Timed);
    w.copy(1, 7);
    function(w, kernel.change_timeout);
    w.copy(1, 7);
    function(w, kernel.release);

    w.address(1, BEFORE);
    w.set(2, ADDRESSES_BYTES);
    w.address(3, AFTER);
    w.set(4, ADDRESSES_BYTES);
    w.set(5, 0);
    w.help(CSUM_DIFF);
    w.copy(9, 0);
    w.copy(1, 6);
    w.set(2, TCP_CHECKSUM);
    w.set(3, 0);
    w.copy(4, 9);
    w.set(5, PSEUDO_HEADER);
    w.help(L4_CSUM_REPLACE);
    // The packet could not be made this program's own to write to; from here on it is.
    w.put(IF_EQUAL, 0, 0, 2, 0);
    w.set(0, DROP);
    w.put(EXIT, 0, 0, 0, 0);
    w.copy(1, 6);
    w.set(2, TCP_CHECKSUM);
    w.load(WORD, 3, 10, BEFORE_PORTS);
    w.load(WORD, 4, 10, AFTER_PORTS);
    w.set(5, 4);
    w.help(L4_CSUM_REPLACE);
    w.copy(1, 6);
    w.set(2, IP_CHECKSUM);
    w.set(3, 0);
    w.copy(4, 9);
    w.set(5, 0);
    w.help(L3_CSUM_REPLACE);
    w.copy(1, 6);
    w.set(2, IP_SOURCE.into());
    w.address(3, AFTER);
    w.set(4, ENDS_BYTES);
    w.set(5, 0);
    w.help(SKB_STORE_BYTES);
    // The first address once more after the second: from the second on they are in the other order.
    w.copy(1, 6);
    w.set(2, 0);
    w.address(3, MACS);
    w.set(4, (2 * MAC_BYTES).into());
    w.help(SKB_LOAD_BYTES);
    for step in [0, 2, 4] {
        w.load(HALF, 2, 10, MACS + step);
        w.store(HALF, MACS + 2 * MAC_BYTES + step, 2);
    }
    w.copy(1, 6);
    w.set(2, 0);
    w.address(3, MACS + MAC_BYTES);
    w.set(4, (2 * MAC_BYTES).into());
    w.set(5, 0);
    w.help(SKB_STORE_BYTES);
    w.copy(1, 6);
    w.set(2, TO_THIS_HOST);
    w.help(SKB_CHANGE_TYPE);
    w.load(WORD, 1, 6, INTERFACE);
    w.set(2, 0);
    w.help(REDIRECT_PEER);
    w.put(EXIT, 0, 0, 0, 0);

    w.label(Label::Release);
    w.copy(1, 7);
    function(w, kernel.release);
    w.label(Label::On);
    w.set(0, ON);
    w.put(EXIT, 0, 0, 0, 0);
    writer.finish()
}
