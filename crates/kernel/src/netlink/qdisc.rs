//! How fast an interface sends, and how fast what arrives at it is taken on (tc(8), tc-tbf(8), rtnetlink's RTM_NEWQDISC).
//!
//! The kernel shapes what an interface sends and never what it receives. What arrives is therefore sent once more: a
//! filter at the interface's ingress redirects every packet to a device of its own, an ifb, which sends it at its rate
//! and hands it back to the place where it was taken (Linux' drivers/net/ifb.c).
//!
//! ```text
//! sent by the interface       [ tbf ] ──> the other end
//! received by the interface   ingress ── u32 0/0, mirred ──> ifb [ tbf ] ──> on, as if it had arrived just now
//! or                          ingress ── bpf, direct-action ──> where the program says
//! ```
//! The filter is u32, which even kernels with few classifiers have. A token bucket counts a packet without its Ethernet
//! header (`stab` with an overhead of -14 bytes), so that the rate is one of IP packets. An ifb does not go with the
//! interface whose packets it takes: whoever makes one removes it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute, TcFilterU32Option,
    TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcStats2, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::route::Netlink;

/// Length of an Ethernet header, bytes.
pub const ETHERNET_HEADER_BYTES: u32 = 14;

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// How fast it fills.
    pub bytes_per_second: u64,
    /// How much it holds; a packet that is larger never leaves.
    pub burst_bytes: u32,
    /// How much waits for it; what comes then is dropped.
    pub queue_bytes: u32,
}

/// What the kernel says of a token bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketState {
    /// How fast it fills.
    pub bytes_per_second: u64,
    /// What went through it.
    pub sent_bytes: u64,
    /// Packets that found its queue full.
    pub dropped_packets: u64,
}

// linux/pkt_sched.h
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_STAB_BASE: u16 = 1;
const TC_LINKLAYER_ETHERNET: u8 = 1;
// linux/pkt_cls.h
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// Where `rate.rate` is in `struct tc_tbf_qopt`.
const RATE_OFFSET: usize = 8;

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
/// All protocols (linux/if_ether.h), as a filter has it: in network order.
const ETH_P_ALL: u16 = 3_u16.to_be();
const INGRESS_HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// The handle of an interface's program, so that another takes its place.
const FIRST: TcHandle = TcHandle { major: 0, minor: 1 };

impl Netlink {
    /// Has an interface send at a rate; a rate that it has is changed and loses no packet.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` when it has no token buckets (module `sch_tbf`).
    pub fn shape(&self, index: u32, bucket: &Bucket) -> io::Result<()> {
        let mut message = at(index, TcHandle::ROOT);
        message.attributes = vec![
            TcAttribute::Kind("tbf".to_owned()),
            TcAttribute::Stab(without_ethernet_header()),
            TcAttribute::Options(vec![
                other(TCA_TBF_PARMS, parameters(bucket)),
                other(TCA_TBF_RATE64, bucket.bytes_per_second.to_ne_bytes().to_vec()),
                other(TCA_TBF_BURST, bucket.burst_bytes.to_ne_bytes().to_vec()),
            ]),
        ];
        self.tell(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Has an interface send as fast as it can; nothing when it does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unshape(&self, index: u32) -> io::Result<()> {
        self.remove_queue(at(index, TcHandle::ROOT))
    }

    /// The token bucket by which an interface sends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bucket(&self, index: u32) -> io::Result<Option<BucketState>> {
        // Asked for one, kernels differ in whether they answer; asked for all, as tc(8) asks, they do.
        let answers = self.ask(RouteNetlinkMessage::GetQueueDiscipline(at(index, TcHandle::UNSPEC)))?;
        let own = |answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(found) => {
                let is_own = u32::try_from(found.header.index) == Ok(index) && found.header.parent == TcHandle::ROOT;
                is_own.then_some(found)
            }
            _ => None,
        };
        Ok(answers.into_iter().find_map(own).as_ref().and_then(read_bucket))
    }

    /// Makes a device that sends what is redirected to it back to where it was taken; it is up.
    ///
    /// # Errors
    /// The kernel's: `EEXIST` when the name is taken, `EOPNOTSUPP` when it has no such devices (module `ifb`).
    pub fn make_ifb(&self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
        self.tell(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Has everything that arrives at an interface go through an ifb first; nothing when that is so already.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` when it lacks one of `sch_ingress`, `cls_u32` and `act_mirred`. What was made of it is
    /// removed then.
    pub fn divert(&self, index: u32, ifb: u32) -> io::Result<()> {
        match self.make_ingress(index) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.undivert(index)?,
            Err(error) => return Err(error),
            Ok(()) => return self.redirect(index, ifb).inspect_err(|_| drop(self.undivert(index))),
        }
        // One is there whose filter may lead elsewhere.
        self.divert(index, ifb)
    }

    /// Has a program (`BPF_PROG_TYPE_SCHED_CLS`) decide on everything that arrives at an interface, in the place of one that
    /// does (tc-bpf(8), `direct-action`).
    ///
    /// # Errors
    /// The kernel's: `ENOENT` when it lacks `sch_ingress` or `cls_bpf`. What was made of it is removed then.
    pub fn classify(&self, index: u32, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        match self.make_ingress(index) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.set_classifier(index, program, name),
            Err(error) => Err(error),
            Ok(()) => self.set_classifier(index, program, name).inspect_err(|_| drop(self.undivert(index))),
        }
    }

    /// Takes what arrives at an interface at once; nothing when that is so.
    ///
    /// # Errors
    /// The kernel's.
    pub fn undivert(&self, index: u32) -> io::Result<()> {
        self.remove_queue(at(index, TcHandle::INGRESS))
    }

    /// Names of all interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let name = |answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else { return None };
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        };
        let answers = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.into_iter().filter_map(name).collect())
    }

    fn make_ingress(&self, index: u32) -> io::Result<()> {
        let mut queue = at(index, TcHandle::INGRESS);
        queue.header.handle = INGRESS_HANDLE;
        queue.attributes = vec![TcAttribute::Kind("ingress".to_owned())];
        self.tell(RouteNetlinkMessage::NewQueueDiscipline(queue), NLM_F_CREATE | NLM_F_EXCL)
    }

    fn set_classifier(&self, index: u32, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut filter = first_filter(index);
        filter.header.handle = FIRST;
        let descriptor = program.as_raw_fd().to_ne_bytes().to_vec();
        let mut name = name.as_bytes().to_vec();
        name.push(0);
        filter.attributes = vec![
            TcAttribute::Kind("bpf".to_owned()),
            TcAttribute::Options(vec![
                other(TCA_BPF_FD, descriptor),
                other(TCA_BPF_NAME, name),
                other(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()),
            ]),
        ];
        self.tell(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn redirect(&self, index: u32, ifb: u32) -> io::Result<()> {
        let mut filter = first_filter(index);
        filter.attributes = vec![
            TcAttribute::Kind("u32".to_owned()),
            TcAttribute::Options(vec![
                TcOption::U32(TcFilterU32Option::Selector(everything())),
                TcOption::U32(TcFilterU32Option::Action(vec![redirection(ifb)])),
            ]),
        ];
        self.tell(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_EXCL)
    }

    fn remove_queue(&self, message: TcMessage) -> io::Result<()> {
        match self.tell(RouteNetlinkMessage::DelQueueDiscipline(message), 0) {
            Err(error) if matches!(error.raw_os_error(), Some(ENOENT | EINVAL)) => Ok(()),
            result => result,
        }
    }
}

fn at(index: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX));
    message.header.parent = parent;
    message
}

/// The one filter of what arrives at an interface, for all protocols.
fn first_filter(index: u32) -> TcMessage {
    let mut filter = at(index, INGRESS_HANDLE);
    filter.header.info = (1 << 16) | u32::from(ETH_P_ALL);
    filter
}

fn other(kind: u16, value: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value))
}

/// `struct tc_tbf_qopt`: a rate, no peak rate, the queue; the bucket's size is an attribute of its own.
fn parameters(bucket: &Bucket) -> Vec<u8> {
    let rate = u32::try_from(bucket.bytes_per_second).unwrap_or(u32::MAX);
    let mut bytes = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    bytes.extend(rate.to_ne_bytes());
    bytes.extend([0; 12]);
    bytes.extend(bucket.queue_bytes.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes
}

/// `TCA_STAB` with a `struct tc_sizespec` that has no table: only a number of bytes to add to every packet's.
fn without_ethernet_header() -> Vec<u8> {
    let overhead = -(ETHERNET_HEADER_BYTES as i32);
    let mut base = vec![0; 4];
    base.extend(overhead.to_ne_bytes());
    base.extend(u32::from(TC_LINKLAYER_ETHERNET).to_ne_bytes());
    base.extend([0; 12]);
    let nla = DefaultNla::new(TCA_STAB_BASE, base);
    let mut bytes = vec![0; netlink_packet_core::Emitable::buffer_len(&nla)];
    netlink_packet_core::Emitable::emit(&nla, &mut bytes);
    bytes
}

/// A selector that every packet meets.
fn everything() -> TcU32Selector {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    selector
}

fn redirection(ifb: u32) -> TcAction {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = ifb;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}

fn read_bucket(message: &TcMessage) -> Option<BucketState> {
    let is_tbf = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "tbf");
    if !message.attributes.iter().any(is_tbf) {
        return None;
    }
    let mut state = BucketState::default();
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Options(options) => {
                state.bytes_per_second = options.iter().find_map(read_rate).unwrap_or_default();
            }
            TcAttribute::Stats2(all) => {
                for one in all {
                    match one {
                        TcStats2::Basic(basic) => state.sent_bytes = basic.bytes,
                        TcStats2::Queue(queue) => state.dropped_packets = queue.drops.into(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(state)
}

/// The rate among a token bucket's options, which the library leaves as they are.
fn read_rate(option: &TcOption) -> Option<u64> {
    let TcOption::Other(options) = option else { return None };
    let mut raw = vec![0; options.value_len()];
    options.emit_value(&mut raw);
    let (mut small, mut large) = (None, None);
    for nla in netlink_packet_core::NlasIterator::new(&raw) {
        let nla = nla.ok()?;
        let value = nla.value();
        match nla.kind() {
            TCA_TBF_PARMS => small = value.get(RATE_OFFSET..RATE_OFFSET + 4)?.try_into().ok().map(u32::from_ne_bytes),
            TCA_TBF_RATE64 => large = value.try_into().ok().map(u64::from_ne_bytes),
            _ => {}
        }
    }
    large.or(small.map(u64::from))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::apart::apart;
    use super::*;

    /// In a namespace whose new interfaces say nothing of their own accord, as IPv6 would.
    fn in_silence(test: impl FnOnce() + Send + 'static) {
        apart(|| {
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            test();
        });
    }

    const SLOW: Bucket = Bucket { bytes_per_second: 125_000, burst_bytes: 3200, queue_bytes: 40_000 };

    #[test]
    fn an_interface_gets_a_rate_another_one_and_none() {
        in_silence(|| {
            let host = Netlink::here().unwrap();
            host.make_ifb("i0").unwrap();
            let index = host.index("i0").unwrap().unwrap();
            assert_eq!(host.bucket(index).unwrap(), None);
            host.unshape(index).unwrap();
            host.shape(index, &SLOW).unwrap();
            let state = host.bucket(index).unwrap().unwrap();
            assert_eq!(state, BucketState { bytes_per_second: 125_000, ..BucketState::default() });
            // More than 32 bits of bytes in a second.
            let fast = Bucket { bytes_per_second: 5_000_000_000, burst_bytes: 100_000_000, queue_bytes: u32::MAX };
            host.shape(index, &fast).unwrap();
            assert_eq!(host.bucket(index).unwrap().unwrap().bytes_per_second, 5_000_000_000);
            host.unshape(index).unwrap();
            assert_eq!(host.bucket(index).unwrap(), None);
        });
    }

    #[test]
    fn what_arrives_goes_through_the_ifb() {
        in_silence(|| {
            let host = Netlink::here().unwrap();
            host.make_ifb("i0").unwrap();
            let taken = host.make_ifb("i0").unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
            let ifb = host.index("i0").unwrap().unwrap();
            host.shape(ifb, &SLOW).unwrap();
            let lo = super::super::route::LOOPBACK;
            host.divert(lo, ifb).unwrap();
            host.divert(lo, ifb).unwrap();
            host.set_up(lo, true).unwrap();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            socket.send_to(&[7; 1000], socket.local_addr().unwrap()).unwrap();
            assert_eq!(socket.recv(&mut [0; 2000]).unwrap(), 1000);
            // IP and UDP headers are counted, Ethernet's is not.
            assert_eq!(host.bucket(ifb).unwrap().unwrap().sent_bytes, 1028);
            host.undivert(lo).unwrap();
            host.undivert(lo).unwrap();
            socket.send_to(&[7; 1000], socket.local_addr().unwrap()).unwrap();
            assert_eq!(socket.recv(&mut [0; 2000]).unwrap(), 1000);
            assert_eq!(host.bucket(ifb).unwrap().unwrap().sent_bytes, 1028);
            assert!(host.names().unwrap().contains(&"i0".to_owned()));
            host.remove_link(ifb).unwrap();
            assert_eq!(host.index("i0").unwrap(), None);
        });
    }
}
