//! Rates of containers, by the bytes that get through; limits that are changed while containers run; and nothing left.
//!
//! A phase sends more than it may for a while in one direction, to or from two containers at once, between a socket here
//! and one in the container's network namespace, and counts the payload that arrives once all queues are full. Rates are
//! of IP packets, so the payload is a little less.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hull_kernel::netlink::route::Netlink;
use hull_sys::process::{CLONE_NEWNET, setns};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use system_tests::{Hull, is_vm, wait_for};

/// Until all buffers on the way are full.
const WARM_UP: Duration = Duration::from_millis(1500);
/// How long is counted.
const COUNTED: Duration = Duration::from_secs(5);

/// A rate in megabits; in an emulator, whose processors have no time for so many packets beside other tests, a fifth of it.
fn rate(mbit: u64) -> u64 {
    if is_vm() { mbit / 5 } else { mbit }
}

/// A container with rates.
struct Limited {
    name: &'static str,
    mbit: u64,
    address: String,
    gateway: String,
    pid: i32,
}

fn limited(hull: &Hull, name: &'static str, mbit: u64) -> Limited {
    let rate = format!("{mbit}mbit");
    hull.background(&["--name", name, "--network", "bridge", "--net-rate", &rate], "sleep 1000");
    let places = &hull.inspect(name)["NetworkSettings"]["Networks"]["bridge"];
    let text = |key: &str| places[key].as_str().expect(key).to_owned();
    Limited { name, mbit, address: text("IPAddress"), gateway: text("Gateway"), pid: hull.pid(name) }
}

/// How long something goes on: it is told the counted time's beginning and end by what this returns.
fn counted(mut go_on: impl FnMut() -> u64) -> f64 {
    let began = Instant::now();
    let mut warm = None;
    let mut bytes = 0;
    loop {
        bytes += go_on();
        let now = Instant::now();
        match warm {
            None if now - began >= WARM_UP => warm = Some((now, bytes)),
            Some((since, before)) if now - since >= COUNTED => {
                return (bytes - before) as f64 * 8.0 / (now - since).as_secs_f64() / 1e6;
            }
            _ => {}
        }
    }
}

impl Limited {
    /// Megabits of payload in a second by TCP into the container.
    fn takes_tcp(&self) -> f64 {
        let listener = self.within(|| TcpListener::bind(format!("{}:0", self.address))).expect("a listener");
        let at = listener.local_addr().expect("its address");
        stream(TcpStream::connect(at).expect("a connection"), &listener)
    }

    /// Megabits of payload in a second by TCP out of the container.
    fn sends_tcp(&self) -> f64 {
        let listener = TcpListener::bind(format!("{}:0", self.gateway)).expect("a listener");
        let at = listener.local_addr().expect("its address");
        stream(self.within(|| TcpStream::connect(at)).expect("a connection"), &listener)
    }

    /// Megabits of payload in a second by UDP into the container.
    fn takes_udp(&self) -> f64 {
        let receiver = self.within(|| UdpSocket::bind(format!("{}:0", self.address))).expect("a socket");
        self.flood(&UdpSocket::bind("0.0.0.0:0").expect("a socket"), &receiver)
    }

    /// Megabits of payload in a second by UDP out of the container.
    fn sends_udp(&self) -> f64 {
        let receiver = UdpSocket::bind(format!("{}:0", self.gateway)).expect("a socket");
        self.flood(&self.within(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket"), &receiver)
    }

    /// Does something on a thread in the container's network namespace, in which sockets made there stay.
    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = File::open(format!("/proc/{}/ns/net", self.pid)).expect("the container's namespace");
                setns(namespace.as_fd(), CLONE_NEWNET).expect("entering it");
                act()
            });
            inside.join().expect("what was done inside")
        })
    }

    /// Sends more than the rate, with pauses that leave processors to others, and counts what arrives. It is not much more,
    /// since an emulated processor that is busy with what will be dropped has no time left for what arrives.
    fn flood(&self, sender: &UdpSocket, receiver: &UdpSocket) -> f64 {
        const MORE: f64 = 1.3;
        const PAUSE: Duration = Duration::from_millis(2);
        const PAYLOAD: [u8; 1400] = [0; 1400];
        let per_second = self.mbit as f64 * MORE * 1e6 / 8.0 / PAYLOAD.len() as f64;
        let at = receiver.local_addr().expect("its address");
        // A reader that waits for a processor loses nothing meanwhile.
        set_socket_recv_buffer_size_force(receiver, 8 << 20).expect("a large buffer");
        receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let began = Instant::now();
                let mut sent = 0.0;
                while !ended.load(Ordering::Relaxed) {
                    if sent > began.elapsed().as_secs_f64() * per_second {
                        thread::sleep(PAUSE);
                    }
                    sender.send_to(&PAYLOAD, at).expect("sending");
                    sent += 1.0;
                }
            });
            let mut buffer = [0; 2048];
            let rate = counted(|| receiver.recv(&mut buffer).map_or(0, |bytes| bytes as u64));
            ended.store(true, Ordering::Relaxed);
            rate
        })
    }

    /// Measures whether the rate is kept. More is never allowed; less may be for want of processors, so that it is
    /// measured again.
    fn keeps(&self, what: &str, measure: fn(&Limited) -> f64) {
        const ATTEMPTS: usize = 4;
        let mut measured = Vec::new();
        for _ in 0..ATTEMPTS {
            let rate = measure(self);
            eprintln!("{} {what}: {rate:.2} of {} mbit/s", self.name, self.mbit);
            measured.push(rate);
            assert!(rate <= self.mbit as f64 * 1.05, "{} {what}: {measured:.2?} of {} mbit/s", self.name, self.mbit);
            if rate >= self.mbit as f64 * 0.95 {
                return;
            }
        }
        panic!("{} {what}: {measured:.2?} of {} mbit/s", self.name, self.mbit);
    }
}

/// Sends as fast as TCP can, and counts what arrives.
fn stream(mut sender: TcpStream, listener: &TcpListener) -> f64 {
    let (mut receiver, _) = listener.accept().expect("the connection");
    let sending = thread::spawn(move || while sender.write_all(&[0; 16384]).is_ok() {});
    let mut buffer = vec![0; 65536];
    let rate = counted(|| receiver.read(&mut buffer).expect("reading") as u64);
    // With what has not been read the connection is reset, and the sender gives up.
    drop(receiver);
    sending.join().expect("the sender");
    rate
}

/// Measures both at once.
fn both(pair: &[Limited; 2], what: &str, measure: fn(&Limited) -> f64) {
    thread::scope(|scope| {
        for one in pair {
            scope.spawn(move || one.keeps(what, measure));
        }
    });
}

/// The host's end of a container's interface.
fn host_end(hull: &Hull, name: &str) -> String {
    let index: u32 = hull.ok(&["exec", name, "cat", "/sys/class/net/eth0/iflink"]).parse().expect("a number");
    let host = Netlink::here().expect("netlink");
    let names = host.names().expect("the host's interfaces");
    names.into_iter().find(|name| host.index(name).ok() == Some(Some(index))).expect("the host's end")
}

fn exists(interface: &str) -> bool {
    Netlink::here().and_then(|host| host.index(interface)).expect("netlink").is_some()
}

#[test]
fn two_containers_keep_their_rates_by_tcp_and_a_changed_one_at_once() {
    let hull = Hull::with_busybox();
    let mut pair = [limited(&hull, "slow", rate(20)), limited(&hull, "fast", rate(50))];
    both(&pair, "takes by TCP", Limited::takes_tcp);
    both(&pair, "sends by TCP", Limited::sends_tcp);
    let faster = format!("{}mbit", rate(80));
    assert_eq!(hull.ok(&["update", "--net-rate-in", &faster, "--net-rate-out", "10mbit", "fast"]), "fast");
    pair[1].mbit = rate(80);
    pair[1].keeps("takes by TCP after a change", Limited::takes_tcp);
    let place = &hull.inspect("fast")["NetworkSettings"]["Networks"]["bridge"]["NetRate"];
    assert_eq!(
        (&place["In"]["Rate"], &place["Out"]["Rate"]),
        (&(rate(80) * 1_000_000).into(), &10_000_000.into()),
        "{place}"
    );
}

#[test]
fn two_containers_keep_their_rates_by_udp() {
    let hull = Hull::with_busybox();
    let pair = [limited(&hull, "slow", rate(20)), limited(&hull, "fast", rate(50))];
    both(&pair, "takes by UDP", Limited::takes_udp);
    both(&pair, "sends by UDP", Limited::sends_udp);
}

#[test]
fn rates_come_and_go_and_leave_nothing() {
    let hull = Hull::with_busybox();
    let rates = |name: &str| {
        let config = &hull.inspect(name)["HostConfig"];
        (config["NetRateIn"].as_u64().unwrap(), config["NetRateOut"].as_u64().unwrap())
    };
    let now = |name: &str| hull.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["NetRate"].clone();
    hull.background(&["--name", "box", "--network", "bridge"], "sleep 1000");
    let end = host_end(&hull, "box");
    let shaper = end.replacen("hv", "hi", 1);
    assert_eq!((rates("box"), now("box"), exists(&shaper)), ((0, 0), serde_json::Value::Null, false));
    hull.ok(&["update", "--net-rate", "1mbps", "box"]);
    assert_eq!((rates("box"), exists(&shaper)), ((8_000_000, 8_000_000), true));
    assert_eq!(now("box")["Out"]["Rate"], 8_000_000);
    hull.ok(&["update", "--net-rate-out", "0", "box"]);
    assert_eq!((rates("box"), exists(&shaper)), ((8_000_000, 0), false));
    assert_eq!((&now("box")["In"]["Rate"], now("box")["Out"].is_null()), (&8_000_000.into(), true));

    // The next start has them as well.
    hull.ok(&["update", "--net-rate", "30mbit", "--net-burst", "64k", "box"]);
    hull.ok(&["restart", "-t", "0", "box"]);
    assert!(!exists(&shaper), "the shaper of the first run");
    let shaper = host_end(&hull, "box").replacen("hv", "hi", 1);
    assert!(exists(&shaper));
    assert_eq!((&now("box")["In"]["Rate"], &now("box")["Out"]["Rate"]), (&30_000_000.into(), &30_000_000.into()));
    hull.ok(&["rm", "-f", "box"]);
    assert!(!exists(&shaper));
}

#[test]
fn shapers_of_killed_runs_are_removed() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["--name", "box", "--network", "bridge", "--net-rate", "30mbit"], "sleep 1000");
    let shaper = host_end(&hull, "box").replacen("hv", "hi", 1);
    assert!(exists(&shaper));
    let live = fs::read_to_string(hull.roots().runtime_state(&id).join("state.json")).expect("the live state");
    let live: serde_json::Value = serde_json::from_str(&live).expect("JSON");
    for pid in [live["supervisor_pid"].as_i64().expect("the supervisor"), hull.pid("box").into()] {
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill").success());
    }
    wait_for("the end", || (hull.status("box") == "exited").then_some(()));
    hull.ok(&["start", "box"]);
    assert!(!exists(&shaper), "the killed run's shaper");
    hull.ok(&["rm", "-f", "box"]);
}

#[test]
fn rates_that_cannot_be_are_refused_by_name() {
    let hull = Hull::with_busybox();
    for mode in ["none", "host"] {
        let said = hull.refused(125, &["run", "--rm", "--network", mode, "--net-rate", "1mbit", "busybox", "true"]);
        assert!(said.contains(&format!("--net-rate and the network mode {mode}")), "{said}");
    }
    for (flag, value, problem) in [
        ("--net-rate", "fast", "\"fast\" is no rate"),
        ("--net-rate-in", "20m", "\"20m\" is no rate"),
        ("--net-burst", "64q", "\"64q\" is no size"),
        ("--net-burst", "64k", "--net-burst needs a rate"),
    ] {
        let said = hull.refused(125, &["run", "--rm", "--network", "bridge", flag, value, "busybox", "true"]);
        assert!(said.contains(problem), "{said}");
    }
    let small = ["run", "--rm", "--network", "bridge", "--net-rate", "1mbit", "--net-burst", "1k", "busybox", "true"];
    let said = hull.refused(125, &small);
    assert!(said.contains("--net-burst 1024 is less than one packet of 1514 bytes"), "{said}");
    assert_eq!(hull.containers(), Vec::<String>::new());
}

#[test]
fn limits_change_while_a_container_runs_and_for_its_next_start() {
    let hull = Hull::with_busybox();
    let id = hull.background(&["--name", "box", "-m", "64m", "--pids-limit", "20"], "sleep 1000");
    let value = |controller: &str, names: &[&str]| {
        let folder = hull.cgroup(&id, controller);
        let path = names.iter().map(|name| folder.join(name)).find(|path| path.exists()).expect("a cgroup file");
        fs::read_to_string(path).expect("a cgroup file").trim().to_owned()
    };
    let memory = || value("memory", &["memory.max", "memory.limit_in_bytes"]);
    let quota = || value("cpu", &["cpu.max", "cpu.cfs_quota_us"]).replace(" 100000", "");
    let limits = || (memory(), value("pids", &["pids.max"]), quota(), value("cpuset", &["cpuset.cpus"]));
    let flags = ["update", "-m", "100m", "--pids-limit", "30", "--cpus", "0.5", "--cpuset-cpus", "0", "box"];
    assert_eq!(hull.ok(&flags), "box");
    let expected = ((100_u64 << 20).to_string(), "30".to_owned(), "50000".to_owned(), "0".to_owned());
    assert_eq!(limits(), expected);
    let config = &hull.inspect("box")["HostConfig"];
    assert_eq!((&config["Memory"], &config["MemorySwap"]), (&(100 << 20).into(), &(128 << 20).into()), "{config}");
    assert_eq!((&config["PidsLimit"], &config["NanoCpus"]), (&30.into(), &500_000_000.into()), "{config}");

    hull.ok(&["restart", "-t", "0", "box"]);
    assert_eq!(limits(), expected);

    let said = hull.refused(1, &["update", "-m", "129m", "box"]);
    assert!(said.contains(&format!("Cannot update container {id}")), "{said}");
    assert!(said.contains("Memory limit should be smaller than already set memoryswap limit"), "{said}");
    assert_eq!(limits(), expected);
    hull.ok(&["update", "--pids-limit", "-1", "--memory-swap", "-1", "-m", "200m", "box"]);
    assert_eq!((memory(), value("pids", &["pids.max"])), ((200_u64 << 20).to_string(), "max".to_owned()));
}

#[test]
fn update_names_what_it_changed_and_what_it_does_not_know() {
    let hull = Hull::with_busybox();
    hull.ok(&["create", "--name", "one", "busybox", "true"]);
    hull.ok(&["create", "--name", "two", "--network", "none", "busybox", "true"]);
    let run = hull.run(&["update", "--cpus", "0.5", "one", "gone", "two"]).expect(1);
    assert_eq!(run.text(), "one\ntwo");
    assert!(run.stderr.contains("No such container: gone"), "{run:#?}");
    let said = hull.refused(1, &["update", "one"]);
    assert!(said.contains("you must provide one or more flags when using this command"), "{said}");
    let said = hull.refused(125, &["update", "--restart", "always", "one"]);
    assert!(said.contains("--restart is not supported yet"), "{said}");
    let said = hull.refused(1, &["update", "--net-rate", "1mbit", "two"]);
    assert!(said.contains("--net-rate and the network mode none"), "{said}");
    assert_eq!(hull.inspect("two")["HostConfig"]["NetRateIn"], 0);
    let said = hull.refused(1, &["update", "--cpuset-cpus", "9999", "one"]);
    assert!(said.contains("9999"), "{said}");
}
