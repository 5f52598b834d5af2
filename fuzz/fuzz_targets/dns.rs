//! A packet that a container sends to the resolver, or another server back to it: judged without a panic, and what is
//! answered is an answer to that packet.
#![no_main]

use hull_network::dns::answer::{Failure, Transport, Verdict, consider, failure, number};
use hull_network::dns::directory::Directory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    let directory = Directory::default();
    for transport in [Transport::Udp, Transport::Tcp] {
        match consider(packet, transport, &directory, packet.len() % 2 == 0, packet.len()) {
            Verdict::Ignore => assert!(packet.len() < 12 || packet[2] & 0x80 != 0),
            Verdict::Reply(reply) => {
                assert!(reply.len() >= 12 && reply[2] & 0x80 != 0 && number(&reply) == number(packet));
            }
            Verdict::Forward(question) => {
                let _meaning = question.judge(packet, number(packet));
                let mut answer = packet.to_vec();
                answer[2] |= 0x80;
                let _meaning = question.judge(&answer, number(packet));
            }
        }
    }
    assert_eq!(number(&failure(packet, Failure::Server)), number(packet));
});
