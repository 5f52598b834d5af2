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

use std::net::Ipv4Addr;

use hull_sys::bpf::Instruction;
use hull_sys::bpf::code::{
    AND_IMMEDIATE, JUMP, JUMP_EQUAL, JUMP_EQUAL_32, JUMP_GREATER_32, JUMP_GREATER_REGISTER, JUMP_LESS_32, JUMP_UNEQUAL,
    JUMP_UNEQUAL_32, LOAD_BYTE, LOAD_DOUBLE, LOAD_HALF, LOAD_WORD, STORE_HALF, STORE_WORD, STORE_WORD_IMMEDIATE,
    SUBTRACT_REGISTER_32, TO_BIG_ENDIAN,
};
use serde::{Deserialize, Serialize};

use super::Shortcut;
use super::writer::Writer;

/// What differs from one kernel to the next: functions' numbers, and where the members of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    Writable,
    Release,
    On,
}

/// The program.
pub(super) fn write(kernel: &Kernel, wanted: &Shortcut, times: &Times) -> Vec<Instruction> {
    let mut writer = Writer::new();
    let w = &mut writer;
    take_own_tcp(w, wanted);
    take_near_and_published(w, wanted);
    look_up(w, kernel);
    take_established(w, kernel);
    turn_round(w, kernel, wanted);
    remember(w, kernel, times);
    change_checksums(w);
    change_ends(w);
    hand_back(w);
    go_on(w, kernel);
    writer.finish()
}

/// Addresses as they are in packets.
fn in_packet(address: Ipv4Addr) -> i32 {
    i32::from_ne_bytes(address.octets())
}

/// Leaves to others what is no TCP over IPv4 from the container's address, and the beginnings of connections. r2 is where
/// the packet is, afterwards.
fn take_own_tcp(w: &mut Writer<Label>, wanted: &Shortcut) {
    w.copy(6, 1);
    w.load(LOAD_WORD, 2, 6, DATA);
    w.load(LOAD_WORD, 3, 6, DATA_END);
    w.copy(4, 2);
    w.add(4, HEADERS);
    w.jump_by_register(JUMP_GREATER_REGISTER, 4, 3, Label::On);
    for (load, place, expected) in [
        (LOAD_HALF, ETHERNET_PROTOCOL, ETHERTYPE_IPV4),
        (LOAD_BYTE, IP, VERSION_AND_LENGTH),
        (LOAD_BYTE, IP_PROTOCOL, TCP),
    ] {
        w.load(load, 4, 2, place);
        w.jump(JUMP_UNEQUAL, 4, expected, Label::On);
    }
    w.load(LOAD_WORD, 4, 2, IP_SOURCE);
    w.jump(JUMP_UNEQUAL_32, 4, in_packet(wanted.address), Label::On);
    w.store(STORE_WORD, BEFORE, 4);
    w.load(LOAD_HALF, 4, 2, IP_FRAGMENT);
    w.put(AND_IMMEDIATE, 4, 0, 0, FRAGMENT);
    w.jump(JUMP_UNEQUAL, 4, 0, Label::On);
    w.load(LOAD_BYTE, 8, 2, TCP_FLAGS);
    w.copy(4, 8);
    w.put(AND_IMMEDIATE, 4, 0, 0, SYN);
    w.jump(JUMP_UNEQUAL, 4, 0, Label::On);
}

/// Leaves to others what goes neither to the gateway nor to a port that may be published, without asking conntrack.
fn take_near_and_published(w: &mut Writer<Label>, wanted: &Shortcut) {
    w.load(LOAD_WORD, 4, 2, IP_DESTINATION);
    w.store(STORE_WORD, BEFORE + 4, 4);
    w.load(LOAD_HALF, 5, 2, TCP_PORTS + 2);
    w.put(TO_BIG_ENDIAN, 5, 0, 0, 16);
    w.jump(JUMP_EQUAL_32, 4, in_packet(wanted.gateway), Label::Near);
    w.jump(JUMP_LESS_32, 5, (*wanted.ports.start()).into(), Label::On);
    w.jump(JUMP_GREATER_32, 5, (*wanted.ports.end()).into(), Label::On);
    w.label(Label::Near);
    w.load(LOAD_WORD, 4, 2, TCP_PORTS);
    w.store(STORE_WORD, BEFORE_PORTS, 4);
}

/// Asks conntrack for the packet's connection; r7 is it afterwards.
fn look_up(w: &mut Writer<Label>, kernel: &Kernel) {
    w.store_immediate(STORE_WORD_IMMEDIATE, OPTIONS, OWN_NAMESPACE);
    w.store_immediate(STORE_WORD_IMMEDIATE, OPTIONS + 4, 0);
    w.store_immediate(STORE_WORD_IMMEDIATE, OPTIONS + 8, TCP.to_le());
    w.copy(1, 6);
    w.address(2, BEFORE);
    w.set(3, ENDS_BYTES);
    w.address(4, OPTIONS);
    w.set(5, OPTIONS_BYTES);
    w.call(kernel.lookup, kernel.in_module);
    w.jump(JUMP_EQUAL, 0, 0, Label::On);
    w.copy(7, 0);
}

/// A member of the connection, a structure of some hundred bytes.
fn member(w: &mut Writer<Label>, load: u8, register: u8, offset: u32) {
    w.load(load, register, 7, offset as i16);
}

/// Leaves to others what conntrack has not seen a whole handshake of.
fn take_established(w: &mut Writer<Label>, kernel: &Kernel) {
    member(w, LOAD_DOUBLE, 2, kernel.status);
    w.put(AND_IMMEDIATE, 2, 0, 0, ASSURED);
    w.jump(JUMP_EQUAL, 2, 0, Label::Release);
    member(w, LOAD_BYTE, 2, kernel.state);
    w.jump(JUMP_UNEQUAL, 2, ESTABLISHED, Label::Release);
}

/// Stores the ends that the packet is to have: what comes from where the other direction goes to goes to where that one
/// comes from. Leaves to others what does not come back to the container. The end that its server sees is the gateway: that
/// the answers come by here as well is certain only then.
fn turn_round(w: &mut Writer<Label>, kernel: &Kernel, wanted: &Shortcut) {
    let gateway = in_packet(wanted.gateway);
    w.load_back(LOAD_BYTE, 2, OPTIONS_DIRECTION);
    w.jump(JUMP_UNEQUAL, 2, 0, Label::Other);
    load_turned(w, &kernel.tuples[1]);
    w.jump(JUMP_UNEQUAL_32, 3, gateway, Label::Release);
    w.jump(JUMP, 0, 0, Label::Turned);
    w.label(Label::Other);
    w.load_back(LOAD_WORD, 3, BEFORE + 4);
    w.jump(JUMP_UNEQUAL_32, 3, gateway, Label::Release);
    load_turned(w, &kernel.tuples[0]);
    w.label(Label::Turned);
    w.jump(JUMP_UNEQUAL_32, 5, in_packet(wanted.address), Label::Release);
    w.store(STORE_WORD, AFTER, 3);
    w.store(STORE_WORD, AFTER + 4, 5);
    w.store(STORE_HALF, AFTER_PORTS, 4);
    w.store(STORE_HALF, AFTER_PORTS + 2, 2);
}

/// Where a direction goes to as r3 and r4 (the port), and where it comes from as r5 and r2.
fn load_turned(w: &mut Writer<Label>, tuple: &Tuple) {
    member(w, LOAD_WORD, 3, tuple.destination);
    member(w, LOAD_WORD, 5, tuple.source);
    member(w, LOAD_HALF, 4, tuple.destination_port);
    member(w, LOAD_HALF, 2, tuple.source_port);
}

/// Has the connection's time begin again, as conntrack would have, and is done with it.
fn remember(w: &mut Writer<Label>, kernel: &Kernel, times: &Times) {
    member(w, LOAD_WORD, 9, kernel.timeout);
    w.help(JIFFIES64);
    w.put(SUBTRACT_REGISTER_32, 9, 0, 0, 0);
    w.put(AND_IMMEDIATE, 8, 0, 0, FIN_OR_RST);
    w.jump(JUMP_UNEQUAL, 8, 0, Label::Ended);
    w.jump(JUMP_LESS_32, 9, times.ended_ticks, Label::Ended);
    w.set(2, times.established_ms);
    w.jump(JUMP, 0, 0, Label::Timed);
    w.label(Label::Ended);
    w.set(2, times.ended_ms);
    w.label(Label::Timed);
    w.copy(1, 7);
    w.call(kernel.change_timeout, kernel.in_module);
    w.copy(1, 7);
    w.call(kernel.release, kernel.in_module);
}

/// Changes the checksums of TCP and IP by what will change of their ends. Drops a packet that cannot be made this program's
/// own to write to; once it is, nothing fails.
fn change_checksums(w: &mut Writer<Label>) {
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
    w.jump(JUMP_EQUAL, 0, 0, Label::Writable);
    w.end(DROP);
    w.label(Label::Writable);

    w.copy(1, 6);
    w.set(2, TCP_CHECKSUM);
    w.load_back(LOAD_WORD, 3, BEFORE_PORTS);
    w.load_back(LOAD_WORD, 4, AFTER_PORTS);
    w.set(5, 4);
    w.help(L4_CSUM_REPLACE);

    w.copy(1, 6);
    w.set(2, IP_CHECKSUM);
    w.set(3, 0);
    w.copy(4, 9);
    w.set(5, 0);
    w.help(L3_CSUM_REPLACE);
}

/// Changes the ends themselves, and has the Ethernet addresses change sides.
fn change_ends(w: &mut Writer<Label>) {
    store_in_packet(w, IP_SOURCE.into(), AFTER, ENDS_BYTES);
    // The first address once more after the second: from the second on they are in the other order.
    w.copy(1, 6);
    w.set(2, 0);
    w.address(3, MACS);
    w.set(4, (2 * MAC_BYTES).into());
    w.help(SKB_LOAD_BYTES);
    for step in [0, 2, 4] {
        w.load_back(LOAD_HALF, 2, MACS + step);
        w.store(STORE_HALF, MACS + 2 * MAC_BYTES + step, 2);
    }
    store_in_packet(w, 0, MACS + MAC_BYTES, (2 * MAC_BYTES).into());
}

/// Copies from the stack into the packet.
fn store_in_packet(w: &mut Writer<Label>, offset: i32, place: i16, bytes: i32) {
    w.copy(1, 6);
    w.set(2, offset);
    w.address(3, place);
    w.set(4, bytes);
    w.set(5, 0);
    w.help(SKB_STORE_BYTES);
}

/// Hands the packet to the other end of the pair that it came from.
fn hand_back(w: &mut Writer<Label>) {
    w.copy(1, 6);
    w.set(2, TO_THIS_HOST);
    w.help(SKB_CHANGE_TYPE);
    w.load(LOAD_WORD, 1, 6, INTERFACE);
    w.set(2, 0);
    w.help(REDIRECT_PEER);
    w.exit();
}

/// Where packets are left to others.
fn go_on(w: &mut Writer<Label>, kernel: &Kernel) {
    w.label(Label::Release);
    w.copy(1, 7);
    w.call(kernel.release, kernel.in_module);
    w.label(Label::On);
    w.end(ON);
}
