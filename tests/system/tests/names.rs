//! Names inside containers: /etc/hosts, /etc/hostname and resolv.conf as they were asked for, and the resolver of user
//! networks, asked by real libraries and by hand, over UDP and TCP, while parts of Hull are killed.
//!
//! Each test of the resolver is a host of its own: a thread with a network and mount namespace, in which /etc/resolv.conf
//! is the test's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use hull_sys::process::{CLONE_NEWNET, CLONE_NEWNS, setns, unshare};
use rustix::process::{Pid, Signal, kill_process};
use system_tests::{Hull, is_vm, wait_for};

const A: u16 = 1;
const AAAA: u16 = 28;
const MX: u16 = 15;
const PTR: u16 = 12;
/// What the tests' servers say of names that begin with `known`.
const KNOWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// How long an answer may take, far longer than it does.
const LONG: Duration = Duration::from_secs(20);

/// Runs a test on a host of its own, with this content of /etc/resolv.conf.
fn apart(resolv_conf: &str, test: impl FnOnce(&Hull) + Send) {
    thread::scope(|scope| {
        let host = scope.spawn(|| {
            unshare(CLONE_NEWNET | CLONE_NEWNS).expect("namespaces");
            let hull = Hull::with_busybox();
            let file = hull.write("resolv.conf", resolv_conf);
            for command in
                ["ip link set lo up", "mount --make-rprivate /", &format!("mount --bind {file} /etc/resolv.conf")]
            {
                let words: Vec<_> = command.split(' ').collect();
                let run = Command::new(words[0]).args(&words[1..]).status().expect(command);
                assert!(run.success(), "{command}");
            }
            test(&hull);
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Makes a network.
fn network(hull: &Hull, name: &str, subnet: &str, internal: bool) {
    let internal = if internal { &["--internal"][..] } else { &[] };
    hull.ok(&[&["network", "create", "--subnet", subnet], internal, &[name]].concat());
}

/// A question's packet.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(label.len() as u8);
        packet.extend(label.bytes());
    }
    packet.push(0);
    packet.extend([kind.to_be_bytes(), 1u16.to_be_bytes()].concat());
    packet
}

/// What was answered: its code, and its number of answers with the end of the last one's data.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: u8,
    truncated: bool,
    count: u16,
    tail: Vec<u8>,
}

fn read(packet: &[u8]) -> Answer {
    assert!(packet.len() >= 12 && packet[..2] == [0x12, 0x34] && packet[2] & 0x80 != 0, "{packet:?}");
    let count = u16::from_be_bytes([packet[6], packet[7]]);
    let tail = if count > 0 { packet[packet.len() - 4..].to_vec() } else { Vec::new() };
    Answer { code: packet[3] & 0x0f, truncated: packet[2] & 2 != 0, count, tail }
}

fn address(answer: Ipv4Addr) -> Answer {
    Answer { code: 0, truncated: false, count: 1, tail: answer.octets().to_vec() }
}

const NOTHING: Answer = Answer { code: 0, truncated: false, count: 0, tail: Vec::new() };

/// Does something in a container's network.
fn inside<T: Send>(hull: &Hull, container: &str, act: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{}/ns/net", hull.pid(container))).expect("a namespace");
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            setns(namespace.as_fd(), CLONE_NEWNET).expect("entering the network");
            act()
        });
        there.join().expect("what was done inside")
    })
}

/// Asks in a container over UDP, once.
fn ask(hull: &Hull, container: &str, name: &str, kind: u16) -> Answer {
    inside(hull, container, || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(LONG)).expect("a timeout");
        socket.connect("127.0.0.11:53").expect("an address");
        socket.send(&question(name, kind)).expect("sending");
        let mut packet = [0; 4096];
        let length = socket.recv(&mut packet).unwrap_or_else(|error| panic!("no answer about {name}: {error}"));
        read(&packet[..length])
    })
}

/// Asks over TCP.
fn ask_tcp(hull: &Hull, container: &str, name: &str, kind: u16) -> Answer {
    inside(hull, container, || {
        let mut stream = TcpStream::connect("127.0.0.11:53").expect("a connection");
        stream.set_read_timeout(Some(LONG)).expect("a timeout");
        let packet = question(name, kind);
        stream.write_all(&(packet.len() as u16).to_be_bytes()).expect("sending");
        stream.write_all(&packet).expect("sending");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("an answer's length");
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).expect("an answer");
        read(&answer)
    })
}

/// What a name server of the tests says: `known...` is [`KNOWN`], `long...` is that too but over TCP alone, other names
/// are nobody's.
fn say(packet: &[u8], tcp: bool) -> Vec<u8> {
    let mut answer = packet.to_vec();
    answer[2] |= 0x80;
    match &packet[13..] {
        name if name.starts_with(b"long") && !tcp => answer[2] |= 2,
        name if name.starts_with(b"known") || name.starts_with(b"long") => {
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(KNOWN.octets());
        }
        _ => answer[3] = 3,
    }
    answer
}

/// Serves names at an address of the calling thread's network, for as long as the test's process lives.
fn serve(at: &str) {
    let udp = UdpSocket::bind((at, 53)).expect("a name server's port");
    let tcp = TcpListener::bind((at, 53)).expect("a name server's port");
    thread::spawn(move || {
        let mut packet = [0; 4096];
        while let Ok((length, whom)) = udp.recv_from(&mut packet) {
            let _gone = udp.send_to(&say(&packet[..length], false), whom as SocketAddr);
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            let Ok(()) = stream.read_exact(&mut length) else { continue };
            let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
            let Ok(()) = stream.read_exact(&mut packet) else { continue };
            let answer = say(&packet, true);
            let _gone = stream.write_all(&[&(answer.len() as u16).to_be_bytes(), &answer[..]].concat());
        }
    });
}

/// The resolvers of a Hull.
fn resolvers(hull: &Hull) -> Vec<i32> {
    let state = hull.roots().state.as_os_str().as_encoded_bytes().to_vec();
    let is_ours = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.starts_with(b"hull-resolver\0") && words.windows(state.len()).any(|window| window == state)
    };
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
}

/// The one resolver; those that find it and end are waited for.
fn resolver(hull: &Hull) -> i32 {
    wait_for("one resolver", || <[i32; 1]>::try_from(resolvers(hull)).ok())[0]
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL).expect("killing");
}

/// The address of eth0, asked inside.
fn own_address(hull: &Hull, container: &str) -> Option<Ipv4Addr> {
    let text = hull.ok(&["exec", container, "ip", "-4", "-o", "addr", "show", "dev", "eth0"]);
    text.split_whitespace().find_map(|word| word.split_once('/')?.0.parse().ok())
}

#[test]
fn servers_domains_options_and_hosts_that_were_asked_for() {
    let hull = Hull::with_busybox();
    let flags = [
        "--dns=192.0.2.1",
        "--dns",
        "2001:db8::1",
        "--dns-search",
        "example.org",
        "--dns-opt",
        "ndots:3",
        "--dns-option",
        "rotate",
        "--add-host",
        "db:192.0.2.9",
        "--add-host",
        "six=[2001:db8::9]",
        "--hostname",
        "web",
    ];
    for network in ["bridge", "none", "host"] {
        let flags = [&["--network", network], &flags[..]].concat();
        let conf = hull.inside(&flags, "grep -v '^#' /etc/resolv.conf");
        assert_eq!(
            conf, "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch example.org\noptions ndots:3 rotate",
            "{network}"
        );
        let hosts = hull.inside(&flags, "grep -e db -e six /etc/hosts; cat /etc/hostname");
        assert_eq!(hosts, "192.0.2.9\tdb\n2001:db8::9\tsix\nweb", "{network}");
    }
    hull.ok(&[&["create", "--name", "asked"], &flags[..], &["busybox"]].concat());
    let asked = &hull.inspect("asked")["HostConfig"];
    assert_eq!(asked["Dns"], serde_json::json!(["192.0.2.1", "2001:db8::1"]));
    assert_eq!(asked["DnsOptions"], serde_json::json!(["ndots:3", "rotate"]));
    assert_eq!(asked["DnsSearch"], serde_json::json!(["example.org"]));
    assert_eq!(asked["ExtraHosts"], serde_json::json!(["db:192.0.2.9", "six:2001:db8::9"]));
}

#[test]
fn the_host_is_reached_by_the_name_that_was_given_to_it() {
    let hull = Hull::with_busybox();
    let flags = ["--network", "bridge", "--add-host", "host.docker.internal:host-gateway"];
    let gateway = hull.inside(&flags, "ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'; ping -c 1 -w 5 host.docker.internal >/dev/null && grep host.docker.internal /etc/hosts");
    let (route, line) = gateway.split_once('\n').expect("a route and a line");
    assert_eq!(line, format!("{route}\thost.docker.internal"));
    let line = hull.inside(&["--network", "host", "--add-host", "h=host-gateway"], "tail -n 1 /etc/hosts");
    assert_eq!(line, "127.0.0.1\th");
}

#[test]
fn a_container_in_anothers_network_has_that_ones_names() {
    let hull = Hull::with_busybox();
    hull.background(&["--name", "lender", "--add-host", "db:192.0.2.9", "--dns", "192.0.2.1"], "sleep 1000");
    let shared =
        hull.inside(&["--network", "container:lender"], "grep 192.0.2.9 /etc/hosts; grep nameserver /etc/resolv.conf");
    assert_eq!(shared, "192.0.2.9\tdb\nnameserver 192.0.2.1");
    for (flag, value, said) in [("--dns", "192.0.2.1", "dns"), ("--add-host", "a:192.0.2.1", "host-to-IP mapping")] {
        let refusal =
            hull.refused(125, &["run", "--rm", "--network", "container:lender", flag, value, "busybox", "true"]);
        assert!(refusal.contains(&format!("{said} and the network mode")), "{refusal}");
    }
}

/// `web` in the network `front` as this machine's getent(1) finds it, which the virtual machine has none of.
fn asked_by_glibc(hull: &Hull, at: &str) {
    let by_glibc = hull.ok(&["run", "--rm", "--network", "front", "host", "getent", "ahosts", "web"]);
    assert!(by_glibc.lines().all(|line| line.starts_with(&format!("{at} "))) && !by_glibc.is_empty(), "{by_glibc}");
    let denied = hull.run(&["run", "--rm", "--network", "front", "host", "getent", "ahosts", "nobody"]);
    assert_eq!(denied.code, 2, "{denied:?}");
    let reverse = hull.ok(&["run", "--rm", "--network", "front", "host", "getent", "hosts", at]);
    assert!(reverse.ends_with(" web.front"), "{reverse}");
}

#[test]
fn containers_of_a_network_find_each_other_by_name() {
    apart("nameserver 127.0.1.1\nsearch a.example\n", |hull| {
        serve("127.0.1.1");
        network(hull, "front", "10.80.1.0/24", false);
        network(hull, "back", "10.80.2.0/24", true);
        let web = hull.background(&["--name", "web", "--network", "front", "--hostname", "w1"], "sleep 1000");
        hull.background(&["--name", "db", "--network", "front"], "sleep 1000");
        hull.background(&["--name", "hidden", "--network", "back"], "sleep 1000");
        let at = own_address(hull, "web").expect("an address");
        for name in ["web", "WEB", "web.front", &web[..12], "w1"] {
            assert_eq!(ask(hull, "db", name, A), address(at), "{name}");
            assert_eq!(ask_tcp(hull, "db", name, A), address(at), "{name}");
            // What is there and has nothing of the kind is not denied.
            assert_eq!(ask(hull, "db", name, AAAA), NOTHING, "{name}");
            assert_eq!(ask(hull, "db", name, MX), NOTHING, "{name}");
        }
        let [a, b, c, d] = at.octets();
        let reversed = ask(hull, "db", &format!("{d}.{c}.{b}.{a}.in-addr.arpa"), PTR);
        assert_eq!((reversed.code, reversed.count, &reversed.tail[..]), (0, 1, &b"ont\0"[..]));
        assert_eq!(ask(hull, "db", "hidden", A).code, 3);
        assert_eq!(ask(hull, "hidden", "hidden", A).code, 0);
        assert_eq!(resolvers(hull).len(), 2);

        // Two libraries: busybox' own, and this machine's by /etc/nsswitch.conf.
        let conf = hull.ok(&["exec", "db", "grep", "-v", "^#", "/etc/resolv.conf"]);
        assert_eq!(conf, "nameserver 127.0.0.11\nsearch a.example\noptions ndots:0");
        let looked_up = hull.ok(&["exec", "db", "nslookup", "web.front"]);
        assert!(looked_up.contains(&at.to_string()), "{looked_up}");
        hull.ok(&["exec", "db", "ping", "-c", "1", "-w", "20", "web"]);
        if !is_vm() {
            asked_by_glibc(hull, &at.to_string());
        }

        // A name goes with its container.
        hull.ok(&["rm", "-f", "web"]);
        assert_eq!(ask(hull, "db", "web", A).code, 3);
        hull.ok(&["rm", "-f", "db", "hidden"]);
        assert_eq!(
            system_tests::leftovers::settled(|| resolvers(hull).iter().map(ToString::to_string).collect()),
            [""; 0]
        );
        assert!(!hull.roots().state.join("names").exists());
    });
}

#[test]
fn other_names_are_the_hosts_servers_business() {
    apart("nameserver 127.0.1.9\nnameserver 127.0.1.1\n", |hull| {
        // The first server is none.
        serve("127.0.1.1");
        network(hull, "front", "10.80.1.0/24", false);
        network(hull, "back", "10.80.2.0/24", true);
        // The container has port 53 for itself.
        hull.background(&["--name", "web", "--network", "front"], "nc -l -p 53 & sleep 1000");
        hull.background(&["--name", "inner", "--network", "back"], "sleep 1000");
        assert_eq!(ask(hull, "web", "known.example", A), address(KNOWN));
        assert_eq!(ask(hull, "web", "known", A), address(KNOWN));
        assert_eq!(ask_tcp(hull, "web", "known.example", A), address(KNOWN));
        assert_eq!(ask(hull, "web", "nobody.example", A).code, 3);
        assert!(ask(hull, "web", "long.example", A).truncated);
        assert_eq!(ask_tcp(hull, "web", "long.example", A), address(KNOWN));
        // Who has no way out is not lent the host's.
        assert_eq!(ask(hull, "inner", "known.example", A).code, 2);

        let plain = ["--name", "plain", "--network", "front", "--dns-opt", "ndots:1"];
        hull.background(&plain, "sleep 1000");
        assert_eq!(ask(hull, "plain", "known", A), NOTHING);
        assert_eq!(ask(hull, "plain", "known.example", A), address(KNOWN));

        // The host moves to other servers, and to none.
        let file = hull.write("resolv.conf", "nameserver 127.0.1.2\n");
        assert_eq!(ask(hull, "web", "known.example", A).code, 2);
        serve("127.0.1.2");
        assert_eq!(ask(hull, "web", "known.example", A), address(KNOWN));
        fs::write(file, "").expect("an empty file");
        assert_eq!(ask(hull, "web", "known.example", A).code, 2);

        // A server of the container's own, in its own network.
        hull.background(&["--name", "own", "--network", "front", "--dns", "127.0.0.1"], "sleep 1000");
        assert_eq!(ask(hull, "own", "known.example", A).code, 2);
        inside(hull, "own", || serve("127.0.0.1"));
        assert_eq!(ask(hull, "own", "known.example", A), address(KNOWN));
        assert!(ask(hull, "own", "web", A).count == 1);
    });
}

#[test]
fn the_default_network_asks_servers_that_only_the_host_reaches_through_the_resolver() {
    apart("nameserver 127.0.1.1\n", |hull| {
        serve("127.0.1.1");
        hull.background(&["--name", "one", "--network", "bridge"], "sleep 1000");
        assert_eq!(ask(hull, "one", "known.example", A), address(KNOWN));
        // It has no names there.
        assert_eq!(ask(hull, "one", "one", A).code, 3);
        let conf = hull.ok(&["exec", "one", "grep", "nameserver", "/etc/resolv.conf"]);
        assert_eq!(conf, "nameserver 127.0.0.11");
        hull.write("resolv.conf", "nameserver 127.0.1.1\nnameserver 192.0.2.1\n");
        let conf = hull.inside(&["--network", "bridge"], "grep nameserver /etc/resolv.conf");
        assert_eq!(conf, "nameserver 192.0.2.1");
        assert_eq!(resolvers(hull).len(), 1);
    });
}

#[test]
fn names_survive_a_kill_of_the_resolver_of_a_supervisor_and_of_both() {
    apart("nameserver 127.0.1.1\n", |hull| {
        network(hull, "front", "10.80.1.0/24", false);
        for name in ["web", "db"] {
            hull.background(&["--name", name, "--network", "front"], "sleep 1000");
        }
        let at = own_address(hull, "web").expect("an address");
        let supervisor = |name: &str| {
            let state = hull.roots().state.join(hull.inspect(name)["Id"].as_str().expect("an id")).join("state.json");
            let live: serde_json::Value = serde_json::from_slice(&fs::read(state).expect("a state")).expect("JSON");
            live["supervisor_pid"].as_i64().expect("a supervisor") as i32
        };
        for _ in 0..3 {
            kill(resolver(hull));
            // Once: nothing is refused and nothing is lost.
            assert_eq!(ask(hull, "db", "web", A), address(at));
            assert_eq!(ask_tcp(hull, "web", "web", A), address(at));
        }
        let first = resolver(hull);
        kill(supervisor("db"));
        assert_eq!(ask(hull, "db", "web", A), address(at));
        assert_eq!(resolver(hull), first);
        // The next command has another supervisor adopt it; that one holds the sockets again.
        hull.ok(&["ps", "-a"]);
        assert_eq!(hull.status("db"), "running");
        kill(resolver(hull));
        assert_eq!(ask(hull, "db", "web", A), address(at));

        // Nobody has db's sockets any more: they are made again.
        kill(supervisor("db"));
        kill(resolver(hull));
        hull.ok(&["ps", "-a"]);
        let found = wait_for("an answer", || {
            inside(hull, "db", || {
                let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
                socket.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
                socket.connect("127.0.0.11:53").ok()?;
                socket.send(&question("web", A)).ok()?;
                let mut packet = [0; 512];
                let length = socket.recv(&mut packet).ok()?;
                Some(read(&packet[..length]))
            })
        });
        assert_eq!(found, address(at));
        assert_eq!(ask_tcp(hull, "db", "web", A), address(at));
        hull.ok(&["rm", "-f", "web", "db"]);
        assert_eq!(
            system_tests::leftovers::settled(|| resolvers(hull).iter().map(ToString::to_string).collect()),
            [""; 0]
        );
        assert!(!hull.roots().state.join("names").exists());
    });
}

#[test]
fn what_is_no_question_harms_nobody() {
    apart("nameserver 127.0.1.1\n", |hull| {
        network(hull, "front", "10.80.1.0/24", false);
        hull.background(&["--name", "web", "--network", "front"], "sleep 1000");
        let at = own_address(hull, "web").expect("an address");
        let first = resolver(hull);
        inside(hull, "web", || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            socket.connect("127.0.0.11:53").expect("an address");
            let good = question("web", A);
            for length in 0..good.len() {
                socket.send(&good[..length]).expect("sending");
            }
            for byte in 0..=255u8 {
                socket.send(&[byte; 300]).expect("sending");
            }
            socket.send(&vec![0; 60_000]).expect("sending");
            // More connections than one container may have, half a question in each.
            let streams: Vec<_> = (0..200).filter_map(|_| TcpStream::connect("127.0.0.11:53").ok()).collect();
            for mut stream in &streams {
                let _closed = stream.write_all(&[0, 30, 1, 2, 3]);
            }
        });
        assert_eq!(ask(hull, "web", "web", A), address(at));
        assert_eq!(ask_tcp(hull, "web", "web", A), address(at));
        assert_eq!(resolver(hull), first);
    });
}

#[test]
fn a_container_that_comes_into_a_network_while_it_runs_has_names_there() {
    apart("nameserver 192.0.2.1\n", |hull| {
        network(hull, "front", "10.80.1.0/24", false);
        hull.background(&["--name", "late", "--network", "bridge"], "sleep 1000");
        hull.background(&["--name", "web", "--network", "front"], "sleep 1000");
        let at = own_address(hull, "web").expect("an address");
        assert_eq!(hull.ok(&["exec", "late", "grep", "nameserver", "/etc/resolv.conf"]), "nameserver 192.0.2.1");
        hull.ok(&["network", "connect", "--alias", "second", "front", "late"]);
        assert_eq!(hull.ok(&["exec", "late", "grep", "nameserver", "/etc/resolv.conf"]), "nameserver 127.0.0.11");
        assert_eq!(ask(hull, "late", "web", A), address(at));
        assert_eq!(ask(hull, "web", "second", A).count, 1);
        // Its supervisor holds the sockets as if it had always been there.
        for _ in 0..2 {
            kill(resolver(hull));
            assert_eq!(ask(hull, "late", "web", A), address(at));
        }
        hull.ok(&["network", "disconnect", "front", "late"]);
        assert_eq!(hull.ok(&["exec", "late", "grep", "nameserver", "/etc/resolv.conf"]), "nameserver 192.0.2.1");
        assert_eq!(ask(hull, "late", "late", A).count, 0);
        hull.ok(&["network", "connect", "front", "late"]);
        assert_eq!(ask(hull, "late", "web", A), address(at));
    });
}

#[test]
fn starts_beside_each_other_share_one_resolver_and_an_alias_leads_to_all() {
    const CROWD: u8 = 12;
    apart("nameserver 127.0.1.1\n", |hull| {
        network(hull, "front", "10.80.1.0/24", false);
        thread::scope(|scope| {
            for number in 0..CROWD {
                let name = format!("c{number}");
                let flags = ["--name", &name, "--network", "front", "--network-alias", "all"].map(str::to_owned);
                scope.spawn(move || hull.background(&flags.each_ref().map(String::as_str), "sleep 1000"));
            }
        });
        resolver(hull);
        assert_eq!(ask(hull, "c0", "all", A).count, u16::from(CROWD));
        let first: BTreeSet<_> = (0..CROWD).map(|_| ask(hull, "c0", "all", A).tail).collect();
        assert_eq!(first.len(), usize::from(CROWD), "the order of addresses changes with every answer");
        kill(resolver(hull));
        for number in 0..CROWD {
            let asked = ask(hull, &format!("c{number}"), &format!("c{}", (number + 1) % CROWD), A);
            assert_eq!(asked.count, 1, "c{number}");
        }
        resolver(hull);
    });
}
