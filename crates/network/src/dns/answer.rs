//! What is answered to a packet: a reply of our own, somebody else's, or nothing.
//!
//! Nothing here waits or reads anything but its arguments. A packet that is no question gets no answer, so that two
//! servers can never be made to talk with each other; one that cannot be understood gets `FORMERR`, a kind of question
//! that is not ours `NOTIMP`. Sizes: what the client says it takes (EDNS(0), RFC 6891), else 512 bytes over UDP; what does
//! not fit is left out and `TC` says so, so that the client asks again over TCP (RFC 2181 section 9).

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecoder, BinEncodable, BinEncoder};

use super::directory::Directory;

/// How long an answer of ours may be kept, in seconds. Addresses change with every start, so not for long.
const LIFETIME_SECONDS: u32 = 5;
/// What we take over UDP, in bytes: what passes every network without fragments (dnsflagday.net/2020).
const PAYLOAD_BYTES: u16 = 1232;
/// The least that every client takes over UDP.
const PLAIN_BYTES: u16 = 512;
/// Length of a packet's head.
const HEAD_BYTES: usize = 12;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// What is to happen with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This is the answer.
    Reply(Vec<u8>),
    /// The host's name servers, or the container's own, are to be asked.
    Forward(Question),
    /// It is none of a client's.
    Ignore,
}

/// What was asked: what the answer of another server has to be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question(Query);

/// What is said of a question to which there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody could be asked, or nobody answered.
    Server,
    /// Too many questions at a time.
    Refused,
}

/// Decides.
///
/// `turn` rotates the order of addresses. With `plain_names_stay`, a name without a dot that nobody here has is not asked
/// of others: the client has search domains that it is to try first.
pub fn consider(
    packet: &[u8],
    transport: Transport,
    directory: &Directory,
    plain_names_stay: bool,
    turn: usize,
) -> Verdict {
    let Some(head) = packet.get(..HEAD_BYTES) else { return Verdict::Ignore };
    // QR: an answer.
    if head[2] & 0x80 != 0 {
        return Verdict::Ignore;
    }
    let Ok(message) = Message::from_vec(packet) else { return Verdict::Reply(unreadable(head, ResponseCode::FormErr)) };
    if message.op_code != OpCode::Query {
        return Verdict::Reply(unreadable(head, ResponseCode::NotImp));
    }
    let [query] = message.queries.as_slice() else {
        return Verdict::Reply(unreadable(head, ResponseCode::FormErr));
    };
    match answers(query, directory, plain_names_stay) {
        Some(mut records) => {
            let split = turn.checked_rem(records.len()).unwrap_or(0);
            records.rotate_left(split);
            Verdict::Reply(reply(&message, query, ResponseCode::NoError, records, transport))
        }
        None => Verdict::Forward(Question(query.clone())),
    }
}

/// The records that answer a question, maybe none; `None` when it is not for us.
fn answers(query: &Query, directory: &Directory, plain_names_stay: bool) -> Option<Vec<Record>> {
    if query.query_class() != DNSClass::IN {
        return None;
    }
    let record = |data: RData| Record::from_rdata(query.name().clone(), LIFETIME_SECONDS, data);
    if query.query_type() == RecordType::PTR {
        let name = directory.name(reversed(query.name())?)?;
        let name = Name::from_ascii(format!("{name}.")).ok()?;
        return Some(vec![record(RData::PTR(PTR(name)))]);
    }
    let asked = query.name().to_ascii();
    let asked = asked.strip_suffix('.').unwrap_or(&asked);
    let Some(addresses) = directory.addresses(asked) else {
        let of_a_host = matches!(query.query_type(), RecordType::A | RecordType::AAAA);
        return (plain_names_stay && of_a_host && !asked.contains('.')).then(Vec::new);
    };
    let wanted = addresses.into_iter().filter_map(|address| match (address, query.query_type()) {
        (IpAddr::V4(own), RecordType::A | RecordType::ANY) => Some(RData::A(A(own))),
        (IpAddr::V6(own), RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(AAAA(own))),
        _ => None,
    });
    Some(wanted.map(record).collect())
}

/// The address of a name below in-addr.arpa or ip6.arpa that stands for a single one.
fn reversed(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// A whole answer, cut to what the client takes.
fn reply(message: &Message, query: &Query, code: ResponseCode, records: Vec<Record>, transport: Transport) -> Vec<u8> {
    let limit = match (transport, &message.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload().max(PLAIN_BYTES),
        (Transport::Udp, None) => PLAIN_BYTES,
    };
    let mut answer = Message::new(message.id, MessageType::Response, OpCode::Query);
    answer.metadata = Metadata::response_from_request(&message.metadata);
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_query(query.clone());
    if message.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_BYTES).set_version(0);
        answer.set_edns(edns);
    }
    answer.add_answers(records);
    encode(answer, limit).unwrap_or_else(|_| unreadable(&message.id.to_be_bytes(), ResponseCode::ServFail))
}

/// A packet with as many of the answers as fit.
fn encode(mut answer: Message, limit: u16) -> Result<Vec<u8>, ProtoError> {
    let within = |answer: &Message| {
        let mut packet = Vec::new();
        let mut encoder = BinEncoder::new(&mut packet);
        encoder.set_max_size(limit);
        answer.emit(&mut encoder).map(|()| packet)
    };
    let packet = within(&answer)?;
    // TC: the encoder has left records out, maybe also the one that says what we take.
    if packet.get(2).is_none_or(|flags| flags & 2 == 0) {
        return Ok(packet);
    }
    let written = packet.get(6..8).map_or(0, |count| usize::from(u16::from_be_bytes([count[0], count[1]])));
    answer.answers.truncate(written.saturating_sub(1));
    answer.metadata.truncation = true;
    within(&answer)
}

/// The answer to a question that stays without one.
pub fn failure(packet: &[u8], failure: Failure) -> Vec<u8> {
    let code = match failure {
        Failure::Server => ResponseCode::ServFail,
        Failure::Refused => ResponseCode::Refused,
    };
    match Message::from_vec(packet) {
        Ok(message) => match message.queries.as_slice() {
            [query] => reply(&message, query, code, Vec::new(), Transport::Udp),
            _ => unreadable(packet, code),
        },
        Err(_) => unreadable(packet, code),
    }
}

/// An answer that repeats nothing but the number of what it answers, and how it was asked.
fn unreadable(head: &[u8], code: ResponseCode) -> Vec<u8> {
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    let mut answer = vec![0; HEAD_BYTES];
    answer[..2].copy_from_slice(&[byte(0), byte(1)]);
    // QR, and OPCODE and RD as they were; RA and RCODE.
    answer[2] = 0x80 | (byte(2) & 0x79);
    answer[3] = 0x80 | code.low();
    answer
}

impl Question {
    /// What another server's answer means for it.
    pub fn judge(&self, packet: &[u8], number: u16) -> Heard {
        let Some(head) = packet.get(..HEAD_BYTES) else { return Heard::Noise };
        if head[2] & 0x80 == 0 || u16::from_be_bytes([head[0], head[1]]) != number {
            return Heard::Noise;
        }
        let mut decoder = BinDecoder::new(packet);
        let count = u16::from_be_bytes([head[4], head[5]]);
        let same = match count {
            // Servers that cannot read the question may leave it out of their refusal.
            0 => head[3] & 0x0f != 0,
            _ => {
                decoder.read_slice(HEAD_BYTES).is_ok()
                    && Message::read_queries(&mut decoder, 1).is_ok_and(|read| {
                        read.first().is_some_and(|query| {
                            query.name() == self.0.name()
                                && query.query_type() == self.0.query_type()
                                && query.query_class() == self.0.query_class()
                        })
                    })
            }
        };
        match head[3] & 0x0f {
            _ if !same => Heard::Noise,
            // SERVFAIL and REFUSED: another server may know more.
            2 | 5 => Heard::Failure,
            _ => Heard::Answer,
        }
    }
}

/// What came from a server that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The answer.
    Answer,
    /// That it has none.
    Failure,
    /// Something else.
    Noise,
}

/// Puts another number into a packet.
pub fn renumber(packet: &mut [u8], number: u16) {
    if let Some(place) = packet.get_mut(..2) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

/// A packet's number.
pub fn number(packet: &[u8]) -> u16 {
    packet.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::super::directory::tests::{directory, endpoint, network};
    use super::*;

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn asked(message: &Message) -> Verdict {
        consider(&message.to_vec().unwrap(), Transport::Udp, &directory(), false, 0)
    }

    /// Code and data of a reply of our own.
    fn said(message: &Message) -> (ResponseCode, Vec<String>) {
        let Verdict::Reply(packet) = asked(message) else { panic!("no reply of our own") };
        let answer = Message::from_vec(&packet).unwrap();
        assert_eq!((answer.id, answer.message_type), (0x1234, MessageType::Response));
        assert!(answer.recursion_available && answer.recursion_desired && !answer.truncation);
        assert_eq!(answer.queries, message.queries);
        (answer.response_code, answer.answers.iter().map(|record| record.data.to_string()).collect())
    }

    #[test]
    fn names_addresses_and_what_is_between() {
        let ok =
            |texts: &[&str]| (ResponseCode::NoError, texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(said(&question("web.", RecordType::A)), ok(&["10.1.0.2"]));
        assert_eq!(said(&question("WeB.", RecordType::AAAA)), ok(&["fd00::2"]));
        assert_eq!(said(&question("web.a.back.", RecordType::A)), ok(&["10.2.0.2"]));
        assert_eq!(said(&question("pool.", RecordType::A)), ok(&["10.1.0.3", "10.1.0.4"]));
        assert_eq!(said(&question("web.", RecordType::ANY)), ok(&["10.1.0.2", "fd00::2"]));
        assert_eq!(said(&question("3.0.1.10.in-addr.arpa.", RecordType::PTR)), ok(&["one.front."]));
        // A name that is known and has nothing of the kind.
        for kind in [RecordType::AAAA, RecordType::MX, RecordType::TXT, RecordType::HTTPS] {
            assert_eq!(said(&question("two.", kind)), ok(&[]), "{kind}");
        }
    }

    #[test]
    fn what_nobody_here_has_is_forwarded() {
        let mut chaos = question("web.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        for message in [
            question("example.org.", RecordType::A),
            question("nobody.", RecordType::A),
            question(".", RecordType::NS),
            question("1.0.1.10.in-addr.arpa.", RecordType::PTR),
            question("1.10.in-addr.arpa.", RecordType::PTR),
            question("web.", RecordType::PTR),
            chaos,
        ] {
            assert!(matches!(asked(&message), Verdict::Forward(_)), "{message:?}");
        }
        let stays = |name: &str, kind| {
            let packet = question(name, kind).to_vec().unwrap();
            matches!(consider(&packet, Transport::Udp, &directory(), true, 0), Verdict::Reply(_))
        };
        assert!(stays("nobody.", RecordType::A) && stays("nobody.", RecordType::AAAA));
        assert!(!stays("nobody.", RecordType::MX) && !stays("no.body.", RecordType::A));
    }

    #[test]
    fn the_order_changes_with_every_turn() {
        let packet = question("pool.", RecordType::A).to_vec().unwrap();
        let first = |turn| {
            let Verdict::Reply(packet) = consider(&packet, Transport::Udp, &directory(), false, turn) else { panic!() };
            Message::from_vec(&packet).unwrap().answers[0].data.to_string()
        };
        assert_eq!([0, 1, 2, usize::MAX].map(first), ["10.1.0.3", "10.1.0.4", "10.1.0.3", "10.1.0.4"]);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_to_be() {
        let crowd = network("crowd", &["10.1.0.0/16"], false);
        let endpoints = (0..5000u32)
            .map(|n| {
                endpoint(
                    &crowd,
                    &n.to_string(),
                    &format!("c{n}"),
                    &["pool"],
                    &[&format!("10.1.{}.{}", n / 250, n % 250 + 1)],
                )
            })
            .collect();
        let directory = Directory::of(vec![(crowd, endpoints)]);
        let mut message = question("pool.", RecordType::A);
        let ask = |message: &Message, transport| {
            let packet = message.to_vec().unwrap();
            let Verdict::Reply(packet) = consider(&packet, transport, &directory, false, 7) else { panic!() };
            let answer = Message::from_vec(&packet).unwrap();
            (packet.len(), answer.answers.len(), answer.truncation)
        };
        let (length, count, cut) = ask(&message, Transport::Udp);
        assert!(length <= 512 && length > 480 && count > 25 && cut);
        let (length, count, cut) = ask(&message, Transport::Tcp);
        assert!(length <= 65535 && count > 3000 && cut, "{length} {count} {cut}");
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
        let (length, count, cut) = ask(&message, Transport::Udp);
        assert!(length <= 4096 && count > 200 && cut);
    }

    #[test]
    fn packets_that_are_no_questions() {
        let good = question("web.", RecordType::A);
        let bytes = good.to_vec().unwrap();
        let verdict = |packet: &[u8]| consider(packet, Transport::Udp, &directory(), false, 0);
        for length in 0..12 {
            assert_eq!(verdict(&bytes[..length]), Verdict::Ignore);
        }
        let mut answer = bytes.clone();
        answer[2] |= 0x80;
        assert_eq!(verdict(&answer), Verdict::Ignore);
        let code = |packet: &[u8]| match verdict(packet) {
            Verdict::Reply(reply) => (reply.len() >= 12).then(|| (number(&reply), reply[2] & 0x80, reply[3] & 0x0f)),
            _ => None,
        };
        for length in 12..bytes.len() {
            assert_eq!(code(&bytes[..length]), Some((0x1234, 0x80, 1)), "{length}");
        }
        let mut update = bytes.clone();
        update[2] |= 5 << 3;
        assert_eq!(code(&update).map(|(_, _, code)| code == 4 || code == 1), Some(true));
        let mut none = bytes.clone();
        none[5] = 0;
        assert_eq!(code(&none[..12]), Some((0x1234, 0x80, 1)));
        // A name that points at itself.
        let mut looped = bytes[..12].to_vec();
        looped.extend([0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(code(&looped), Some((0x1234, 0x80, 1)));
    }

    #[test]
    fn any_bytes_at_all_are_survived() {
        let mut seed = 1u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        };
        let bytes = question("web.front.", RecordType::A).to_vec().unwrap();
        let question = Question(question("web.front.", RecordType::A).queries[0].clone());
        for round in 0..20_000 {
            let mut packet = bytes.clone();
            for _ in 0..1 + round % 4 {
                let at = usize::from(random()) % packet.len();
                packet[at] = random();
            }
            packet.truncate(packet.len() - usize::from(random()) % 8);
            let _ = consider(&packet, Transport::Udp, &directory(), round % 2 == 0, round);
            let _ = failure(&packet, Failure::Server);
            let _ = question.judge(&packet, number(&packet));
        }
    }

    #[test]
    fn only_an_answer_to_the_question_is_one() {
        let message = question("example.org.", RecordType::A);
        let Verdict::Forward(asked) = asked(&message) else { panic!() };
        let mut answer = message.clone();
        answer.metadata.message_type = MessageType::Response;
        let judge = |answer: &Message, number| asked.judge(&answer.to_vec().unwrap(), number);
        assert_eq!(judge(&answer, 0x1234), Heard::Answer);
        assert_eq!(judge(&answer, 0x1235), Heard::Noise);
        assert_eq!(judge(&message, 0x1234), Heard::Noise);
        answer.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(judge(&answer, 0x1234), Heard::Answer);
        for code in [ResponseCode::ServFail, ResponseCode::Refused] {
            answer.metadata.response_code = code;
            assert_eq!(judge(&answer, 0x1234), Heard::Failure);
        }
        let mut other = answer.clone();
        other.queries[0].set_name(Name::from_ascii("example.com.").unwrap());
        assert_eq!(judge(&other, 0x1234), Heard::Noise);
        let refused = unreadable(&answer.to_vec().unwrap(), ResponseCode::Refused);
        assert_eq!(asked.judge(&refused, 0x1234), Heard::Failure);
        let failed = Message::from_vec(&failure(&message.to_vec().unwrap(), Failure::Server)).unwrap();
        assert_eq!((failed.response_code, failed.id), (ResponseCode::ServFail, 0x1234));
    }
}
