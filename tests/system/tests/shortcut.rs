//! The shortcut of a container to its own published ports: which packets take it, and that connections outlive it.
//!
//! A packet that takes it arrives at the host's end of the container's pair of interfaces and is not sent there again, so
//! that the bytes which that end has sent tell of the long way.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::time::Duration;

use system_tests::net::Net;
use system_tests::wait_for;

use crate::networks::World;

/// What is sent by one exchange in each direction, bytes: more than conntrack would let pass unseen.
const EXCHANGED: usize = 4 << 20;
/// What still goes the long way of it at most, bytes: the first packets, and what the neighbourhood says.
const FEW: u64 = 64 << 10;

/// How long a packet may take, in an emulator too; one that is dropped takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection of a container with itself through a published port.
struct Loop {
    client: TcpStream,
    server: TcpStream,
}

impl Loop {
    /// Connects to a port of the host's, which leads to port 80 of the container.
    fn new(inside: &Net, port: u16) -> Loop {
        let listener = inside.within(|| TcpListener::bind("0.0.0.0:80")).expect("a listener");
        let client = inside.within(|| TcpStream::connect(("192.0.2.1", port))).expect("a connection");
        let (server, _) = listener.accept().expect("the connection");
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            end.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        }
        Loop { client, server }
    }

    /// Sends something to the server and back.
    fn exchange(&mut self) {
        let sent: Vec<u8> = (0..EXCHANGED).map(|position| (position % 251) as u8).collect();
        let both = [(&self.client, &self.server), (&self.server, &self.client)];
        for (mut from, mut to) in both {
            std::thread::scope(|scope| {
                scope.spawn(|| from.write_all(&sent).expect("sending"));
                let mut received = vec![0; sent.len()];
                to.read_exact(&mut received).expect("what was sent");
                assert!(received == sent, "something else arrived");
            });
        }
    }
}

/// Bytes that the host's end of the only container's pair of interfaces has sent; another's may take a moment to go.
fn sent_to_container(world: &World) -> u64 {
    let line = wait_for("one container's interface", || {
        let text = world.host.within(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("its interfaces");
        let mut lines = text.lines().map(str::trim).filter(|line| line.starts_with("hv"));
        lines.next().filter(|_| lines.next().is_none()).map(str::to_owned)
    });
    let (_, counters) = line.split_once(':').expect("its counters");
    counters.split_whitespace().nth(8).and_then(|bytes| bytes.parse().ok()).expect("bytes")
}

/// Whether something is done without sending much the long way.
fn is_short(world: &World, act: impl FnOnce()) -> bool {
    let before = sent_to_container(world);
    act();
    let sent = sent_to_container(world) - before;
    assert!(sent < FEW || sent >= EXCHANGED as u64, "{sent} bytes: neither nearly all nor nearly none");
    sent < FEW
}

fn gateway(world: &World) -> IpAddr {
    let text = world.run(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.Gateway}}", "one"]);
    text.parse().expect("an address")
}

/// Whether conntrack would wait so long for another packet of the only connection to port 80 of a container, seconds; also
/// where it shows none (`CONFIG_NF_CONNTRACK_PROCFS`).
fn is_remembered(world: &World, expected: RangeInclusive<u32>) -> bool {
    let Ok(text) = world.host.within(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack")) else { return true };
    let lines: Vec<_> = text.lines().filter(|line| line.contains("sport=80 ") && line.contains(" tcp ")).collect();
    let [line] = lines[..] else { panic!("one connection: {text}") };
    let seconds: u32 = line.split_whitespace().nth(4).and_then(|word| word.parse().ok()).expect(line);
    expected.contains(&seconds)
}

#[test]
fn a_container_reaches_its_own_port_by_the_shortcut_which_the_fallback_kernel_has_too() {
    let world = World::new();
    world.run(&["run", "-d", "--name", "one", "-p", "8080:80", "busybox", "sleep", "1000"]);
    let inside = Net::of(world.host.within(|| world.hull.pid("one")));
    let mut first = Loop::new(&inside, 8080);
    assert_eq!(first.server.peer_addr().expect("the client").ip(), gateway(&world));
    assert!(is_short(&world, || first.exchange()));
    // Its end goes the same way, and is noted.
    assert!(is_remembered(&world, 3600..=432_000));
    let Loop { client, mut server } = first;
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).expect("its end"), 0);
    drop(server);
    assert!(is_remembered(&world, 0..=120));
    // Others' packets are none of its business.
    let listener = inside.within(|| TcpListener::bind("0.0.0.0:80")).expect("a listener");
    for client in [&world.host, &world.remote] {
        let client = client.within(|| TcpStream::connect("192.0.2.1:8080")).expect("a connection");
        let (server, _) = listener.accept().expect("the connection");
        assert!(!is_short(&world, || Loop { client, server }.exchange()));
    }
}

#[test]
fn a_connection_outlives_the_shortcut_and_takes_it_again() {
    let world = World::new();
    world.run(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]);
    let inside = Net::of(world.host.within(|| world.hull.pid("one")));
    world.run(&["port", "add", "one", "8080:80"]);
    let mut first = Loop::new(&inside, 8080);
    assert!(is_short(&world, || first.exchange()));
    // What has a rate must not go past what keeps it.
    for flag in ["--net-rate-in", "--net-rate-out", "--net-rate"] {
        world.run(&["update", flag, "1gbit", "one"]);
        assert!(!is_short(&world, || first.exchange()), "{flag}");
        assert!(!is_short(&world, || Loop::new(&inside, 8080).exchange()), "{flag}");
        world.run(&["update", flag, "0", "one"]);
        assert!(is_short(&world, || first.exchange()), "{flag} 0");
    }
    // The port is no longer published; who is connected stays so.
    world.run(&["port", "rm", "one", "80"]);
    world.run(&["port", "add", "one", "9000:81"]);
    assert!(is_short(&world, || first.exchange()));
    // Who wants to see every packet has none of it. The namespace of the first container goes with whoever has it.
    drop((first, inside));
    let configuration = world.hull.write("long.toml", "[network]\nshortcut = false\n");
    world.run(&["rm", "-f", "one"]);
    let start = ["run", "-d", "--name", "two", "-p", "8081:80", "busybox", "sleep", "1000"];
    world.run(&[&["--config", &configuration][..], &start].concat());
    let inside = Net::of(world.host.within(|| world.hull.pid("two")));
    assert!(!is_short(&world, || Loop::new(&inside, 8081).exchange()));
}
