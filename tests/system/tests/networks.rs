//! Networks of real containers: who reaches whom, addresses, what goes live, and that nothing of it stays.
//!
//! Containers are judged by what they see of each other; the host is the test host's network namespace, or one of a test's
//! own where a remote host belongs to it.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use system_tests::net::Net;
use system_tests::{Hull, is_vm, peers, wait_for};

use crate::crashes::kill_at_many_moments;

/// Answers every connection at port 80 with the client's address, as netstat(8) shows the connection.
const SERVER: &str = r#"while true; do nc -l -p 80 -e sh -c '
    netstat -tn | grep "^tcp *[0-9]* *[0-9]* *[^ ]*:80 .*\(ESTABLISHED\|CLOSE_WAIT\)" | head -1 | tr -s " " | cut -d" " -f5'; done"#;
/// Waits to be asked things.
const IDLE: &str = "sleep 1000";

/// The address of a container in a network.
fn address(hull: &Hull, container: &str, network: &str) -> String {
    let place = &hull.inspect(container)["NetworkSettings"]["Networks"][network];
    place["IPAddress"].as_str().expect("an address").to_owned()
}

/// Whether `from` gets an answer from port 80 of an address.
fn reaches(hull: &Hull, from: &str, address: &str) -> bool {
    hull.run(&["exec", from, "nc", "-w", "1", address, "80"]).stdout.contains("heard")
}

fn serve(hull: &Hull, name: &str, flags: &[&str]) {
    let script = "while true; do echo heard | nc -l -p 80; done";
    hull.background(&[&["--name", name], flags].concat(), script);
}

/// Waits until a server answers, which listens anew after each client.
fn await_answer(hull: &Hull, from: &str, address: &str) {
    wait_for("the server", || reaches(hull, from, address).then_some(()));
}

/// Waits until a server answers its own container.
fn await_server(hull: &Hull, name: &str) {
    await_answer(hull, name, "127.0.0.1");
}

#[test]
fn two_containers_have_port_80_each_and_reach_each_other() {
    let hull = Hull::with_busybox();
    for name in ["one", "two"] {
        serve(&hull, name, &[]);
        await_server(&hull, name);
    }
    let (one, two) = (address(&hull, "one", "bridge"), address(&hull, "two", "bridge"));
    assert_ne!(one, two);
    await_answer(&hull, "one", &two);
    await_answer(&hull, "two", &one);
    assert_eq!(hull.inspect("one")["HostConfig"]["NetworkMode"], "bridge");
    let hosts = hull.ok(&["exec", "one", "cat", "/etc/hosts"]);
    assert!(hosts.contains(&format!("{one}\t{}", hull.ok(&["exec", "one", "hostname"]))), "{hosts}");
}

#[test]
fn networks_are_made_listed_and_removed() {
    let hull = Hull::with_busybox();
    let id =
        hull.ok(&["network", "create", "--subnet", "10.77.0.0/24", "--gateway", "10.77.0.9", "--label", "a=b", "web"]);
    assert_eq!(id.len(), 64);
    let listed = hull.ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"]);
    assert_eq!(listed, "bridge bridge\nhost host\nnone null\nweb bridge");
    assert_eq!(hull.ok(&["network", "ls", "-q", "--no-trunc", "--filter", "label=a"]), id);
    assert_eq!(hull.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &id[..5]]), "10.77.0.9");
    for (words, expected) in [
        (&["create", "web"][..], "network with name web already exists"),
        (&["create", "host"], "host is a pre-defined network and cannot be created"),
        (&["create", "a b"], "\"a b\" is no name for a network"),
        (
            &["create", "--subnet", "10.77.0.128/25", "other"],
            "subnet 10.77.0.128/25 overlaps with 10.77.0.0/24 of network web",
        ),
        (
            &["create", "--subnet", "10.78.0.0/24", "--gateway", "10.79.0.1", "other"],
            "no matching subnet for gateway 10.79.0.1",
        ),
        (&["create", "-d", "overlay", "other"], "network driver overlay is not supported"),
        (&["create", "-d", "macvlan", "other"], "the driver macvlan needs -o parent=INTERFACE"),
        (
            &["create", "-d", "macvlan", "-o", "parent=nowhere0", "other"],
            "invalid value \"nowhere0\" for network option parent",
        ),
        (&["create", "-o", "color=red", "other"], "network option color is not supported by the driver bridge"),
        (&["rm", "bridge"], "bridge is a pre-defined network and cannot be removed"),
        (&["rm", "nowhere"], "network nowhere not found"),
        (&["inspect", "nowhere"], "network nowhere not found"),
    ] {
        let said = hull.refused(1, &[&["network"], words].concat());
        assert!(said.contains(expected), "{words:?}: {said}");
    }
    hull.background(&["--name", "one", "--network", "web", "--ip", "10.77.0.20"], IDLE);
    assert_eq!(address(&hull, "one", "web"), "10.77.0.20");
    let said = hull.refused(1, &["network", "rm", "web"]);
    assert!(said.contains("network web has active endpoints (containers one)"), "{said}");
    assert_eq!(hull.ok(&["network", "prune", "-f"]), "");
    for (flags, expected) in [
        (&["--network", "web", "--ip", "10.77.0.20"][..], "Address already in use: 10.77.0.20"),
        (
            &["--network", "web", "--ip", "10.77.0.9"],
            "address 10.77.0.9 cannot be given to a container of 10.77.0.0/24",
        ),
        (&["--network", "web", "--ip6", "fd00::2"], "network web has no IPv6 subnet for address fd00::2"),
        (&["--ip", "172.17.0.20"], "user specified IP address is supported on user defined networks only"),
        (&["--network-alias", "x"], "network-scoped alias is supported on user defined networks only"),
        (&["--network", "none", "--ip", "10.77.0.3"], "conflicting options: --ip and the network mode none"),
        (&["--network", "nowhere"], "network nowhere not found"),
        (&["--network", "web", "--network", "host"], "conflicting options: several networks"),
        (&["--network", "web", "--network", "web"], "already exists in network web"),
    ] {
        let said = hull.refused(125, &[&["run", "--rm"], flags, &["busybox", "true"]].concat());
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
    hull.ok(&["rm", "-f", "one"]);
    assert_eq!(hull.ok(&["network", "prune", "-f"]), "Deleted Networks:\nweb");
    assert!(hull.refused(1, &["network", "inspect", "web"]).contains("network web not found"));
}

#[test]
fn networks_are_apart_and_internal_ones_end_at_the_host() {
    let hull = Hull::with_busybox();
    hull.ok(&["network", "create", "left"]);
    hull.ok(&["network", "create", "--internal", "inner"]);
    serve(&hull, "one", &[]);
    serve(&hull, "two", &["--network", "left"]);
    serve(&hull, "three", &["--network", "inner"]);
    serve(&hull, "both", &["--network", "left", "--network", "inner"]);
    for name in ["one", "two", "three", "both"] {
        await_server(&hull, name);
    }
    let networks = [("one", "bridge"), ("two", "left"), ("three", "inner")];
    for (from, own) in networks {
        for (to, other) in networks.iter().filter(|(_, other)| *other != own) {
            assert!(!reaches(&hull, from, &address(&hull, to, other)), "{from} reaches {to}");
        }
    }
    await_answer(&hull, "both", &address(&hull, "two", "left"));
    await_answer(&hull, "three", &address(&hull, "both", "inner"));
    assert!(!reaches(&hull, "three", &address(&hull, "both", "left")));
    let routes = |name: &str| hull.ok(&["exec", name, "ip", "route"]);
    assert!(!routes("three").contains("default"));
    assert_eq!(routes("both").matches("default").count(), 1);
}

#[test]
fn connect_and_disconnect_live() {
    let hull = Hull::with_busybox();
    hull.ok(&["network", "create", "--ipv6", "web"]);
    serve(&hull, "one", &["--network", "web"]);
    serve(&hull, "two", &["-p", "127.0.0.1::80"]);
    for name in ["one", "two"] {
        await_server(&hull, name);
    }
    let one = address(&hull, "one", "web");
    assert!(!reaches(&hull, "two", &one));
    hull.ok(&["network", "connect", "--alias", "second", "web", "two"]);
    await_answer(&hull, "two", &one);
    await_answer(&hull, "one", &address(&hull, "two", "web"));
    wait_for("the other's name", || reaches(&hull, "two", "one").then_some(()));
    await_answer(&hull, "one", "second");
    await_answer(&hull, "one", "two");
    let said = hull.refused(1, &["network", "connect", "web", "two"]);
    assert!(said.contains("endpoint with name two already exists in network web"), "{said}");
    let place = &hull.inspect("two")["NetworkSettings"]["Networks"]["web"];
    assert_eq!(place["Aliases"][0], "second");
    let six = place["GlobalIPv6Address"].as_str().expect("an address").to_owned();
    assert!(reaches(&hull, "one", &six), "{six}");

    // Ports and the default route move to the network that is left.
    let port = hull.ok(&["port", "two", "80"]);
    hull.ok(&["network", "disconnect", "bridge", "two"]);
    assert!(hull.ok(&["exec", "two", "ip", "route"]).contains("default via"), "a way out");
    assert_eq!(hull.ok(&["port", "two", "80"]).split(':').next(), port.split(':').next());
    let said = hull.refused(1, &["network", "disconnect", "bridge", "two"]);
    assert!(said.contains("container two is not connected to network bridge"), "{said}");
    hull.ok(&["network", "disconnect", "web", "two"]);
    assert!(!reaches(&hull, "two", &one) && hull.ok(&["port", "two"]).is_empty());

    // What was connected stays so over a restart.
    hull.ok(&["network", "connect", "web", "two"]);
    hull.ok(&["restart", "-t", "0", "two"]);
    await_server(&hull, "two");
    await_answer(&hull, "two", &one);
    hull.ok(&["stop", "-t", "0", "two"]);
    hull.ok(&["network", "disconnect", "web", "two"]);
    hull.ok(&["network", "connect", "bridge", "two"]);
    hull.ok(&["start", "two"]);
    assert!(!reaches(&hull, "two", &one));
    hull.background(&["--name", "three", "--network", "none"], IDLE);
    let said = hull.refused(1, &["network", "connect", "web", "three"]);
    assert!(said.contains("cannot be connected to any other network"), "{said}");
}

#[test]
fn hulls_that_begin_at_once_beside_each_other_choose_different_subnets() {
    const HULLS: usize = 6;
    let hulls: Vec<Hull> = (0..HULLS).map(|_| Hull::new()).collect();
    let start = |hull: &Hull| hull.command(&["network", "ls"]).stdout(Stdio::null()).spawn().expect("starting hull");
    for mut list in hulls.iter().map(start).collect::<Vec<_>>() {
        assert!(list.wait().expect("its end").success());
    }
    let subnet = |hull: &Hull| hull.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "bridge"]);
    let subnets: BTreeSet<String> = hulls.iter().map(subnet).collect();
    assert_eq!(subnets.len(), HULLS, "{subnets:?}");
}

#[test]
fn fifty_at_once_have_fifty_addresses() {
    const CONTAINERS: usize = 50;
    let hull = Hull::with_busybox();
    let run = |_| {
        let mut command = hull.command(&["run", "-d", "busybox", "sleep", "1000"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starting hull")
    };
    let runs: Vec<_> = (0..CONTAINERS).map(run).collect();
    for run in runs {
        let output = run.wait_with_output().expect("its end");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let members = hull.ok(&["network", "inspect", "-f", "{{range .Containers}}{{.IPv4Address}} {{end}}", "bridge"]);
    let addresses: BTreeSet<&str> = members.split_whitespace().collect();
    assert_eq!(addresses.len(), CONTAINERS, "{members}");
    let first = hull.ok(&["ps", "-lq"]);
    let seen = hull.ok(&["exec", &first, "ip", "-4", "-o", "addr", "show", "eth0"]);
    assert!(addresses.iter().any(|address| seen.contains(address)), "{seen}");
}

#[test]
fn macvlan_and_a_namespace_by_its_path() {
    let hull = Hull::with_busybox();
    let host = Net::new();
    let other = Net::new();
    host.wire("eth7", &other, "eth0");
    other.ip("addr add 10.66.0.9/24 dev eth0");
    let run = |words: &[&str]| host.within(|| hull.run(words));
    run(&["network", "create", "-d", "macvlan", "--subnet", "10.66.0.0/24", "-o", "parent=eth7", "lan"]).expect(0);
    run(&["run", "-d", "--name", "one", "--network", "lan", "busybox", "sleep", "1000"]).expect(0);
    let pinged = run(&["exec", "one", "ping", "-c1", "-w5", "10.66.0.9"]);
    assert!(pinged.stdout.contains("1 packets received"), "{pinged:?}");
    let said = run(&["run", "--rm", "--network", "lan", "-p", "80", "busybox", "true"]).expect(125).stderr;
    assert!(said.contains("port publishing and the network mode lan"), "{said}");
    let path = format!("/proc/{}/ns/net", hull.pid("one"));
    let shared =
        run(&["run", "--rm", "--network", &format!("ns:{path}"), "busybox", "ip", "-4", "-o", "addr"]).expect(0);
    assert!(shared.stdout.contains(&address(&hull, "one", "lan")), "{shared:?}");
    let said = hull.refused(125, &["run", "--rm", "--network", "ns:/etc/passwd", "busybox", "true"]);
    assert!(said.contains("/etc/passwd is no network namespace"), "{said}");
    run(&["rm", "-f", "one"]).expect(0);
    run(&["network", "rm", "lan"]).expect(0);
}

#[test]
fn a_network_that_outlives_its_owner_gives_the_address_back() {
    let hull = Hull::with_busybox();
    let host = Net::new();
    let other = Net::new();
    host.wire("eth7", &other, "eth0");
    let run = |words: &[&str]| host.within(|| hull.run(words)).expect(0).stdout;
    run(&["network", "create", "--subnet", "10.66.1.0/24", "web"]);
    run(&["network", "create", "-d", "macvlan", "--subnet", "10.66.2.0/24", "-o", "parent=eth7", "lan"]);
    for (network, own) in [("web", "10.66.1.9"), ("lan", "10.66.2.9")] {
        run(&["run", "-d", "--name", "owner", "--network", network, "--ip", own, "busybox", "sleep", "1000"]);
        run(&["run", "-d", "--name", "sharer", "--network", "container:owner", "busybox", "sleep", "1000"]);
        run(&["run", "-d", "--name", "third", "--network", "container:sharer", "busybox", "sleep", "1000"]);
        let seen = || run(&["exec", "third", "ip", "-o", "addr"]);
        assert!(seen().contains(own), "{}", seen());
        run(&["stop", "-t", "0", "owner"]);
        // The end of the process is told before it is cleaned up; only then is the address free.
        wait_for("its end", || {
            run(&["network", "inspect", "-f", "{{len .Containers}}", network]).starts_with('0').then_some(())
        });
        assert!(seen().contains("127.0.0.1") && !seen().contains(own), "{}", seen());
        run(&["start", "owner"]);
        assert!(!seen().contains(own), "the new run has another namespace: {}", seen());
        run(&["rm", "-f", "third", "sharer", "owner"]);
    }
    run(&["network", "rm", "web", "lan"]);
}

/// A host with a remote one beside it, and a Hull whose commands run on it.
pub(crate) struct World {
    pub(crate) host: Net,
    pub(crate) remote: Net,
    pub(crate) hull: Hull,
}

impl World {
    pub(crate) fn new() -> World {
        let (host, remote) = (Net::new(), Net::new());
        host.set("ipv4/ip_forward", "0");
        host.wire("eth0", &remote, "eth0");
        host.ip("addr add 192.0.2.1/24 dev eth0; addr add 2001:db8::1/64 dev eth0");
        remote.ip("addr add 192.0.2.9/24 dev eth0; addr add 2001:db8::9/64 dev eth0");
        remote.serve("[::]:80");
        World { host, remote, hull: Hull::with_busybox() }
    }

    pub(crate) fn run(&self, words: &[&str]) -> String {
        self.host.within(|| self.hull.run(words)).expect(0).stdout.trim_end().to_owned()
    }

    /// What a server answers a client of the host's or the remote's; `None` when it is not reached.
    fn heard(net: &Net, at: &str) -> Option<String> {
        let at = at.parse().expect("a place");
        net.within(|| {
            let mut stream = std::net::TcpStream::connect_timeout(&at, Duration::from_millis(700)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            let mut said = String::new();
            std::io::Read::read_to_string(&mut stream, &mut said).ok()?;
            (!said.is_empty()).then(|| said.trim_end().to_owned())
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The rest of a Hull's end looks at the test host's network, and this namespace goes with its descriptor.
        for id in self.hull.containers() {
            self.host.within(|| self.hull.run(&["rm", "-f", &id]));
        }
    }
}

#[test]
fn the_way_out_is_the_hosts_address_and_the_way_in_keeps_the_clients() {
    let world = World::new();
    world.run(&["network", "create", "--ipv6", "web"]);
    world.run(&["run", "-d", "--name", "one", "--network", "web", "-p", "8080:80", "busybox", "sh", "-c", SERVER]);
    // Any container of the network could send router advertisements.
    let id = world.run(&["network", "inspect", "-f", "{{.Id}}", "web"]);
    let setting = format!("/proc/sys/net/ipv6/conf/hull-{}/accept_ra", &id[..10]);
    assert_eq!(world.host.within(|| std::fs::read_to_string(&setting)).expect("a setting"), "0\n");
    let inside = Net::of(world.host.within(|| world.hull.pid("one")));
    let inside = inside.within(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra"));
    assert_eq!(inside.expect("a setting"), "0\n");
    let info = world.run(&["info"]);
    assert!(info.contains("Changed Settings:") && info.contains(" net.ipv4.ip_forward: 0 before"), "{info}");
    let exec = |words: &[&str]| world.host.within(|| world.hull.run(&[&["exec", "one"], words].concat())).stdout;
    wait_for("the way out", || (exec(&["nc", "-w", "1", "192.0.2.9", "80"]) == "192.0.2.1").then_some(()));
    assert_eq!(exec(&["nc", "-w", "1", "2001:db8::9", "80"]), "2001:db8::1");

    let place = &world.host.within(|| world.hull.inspect("one"))["NetworkSettings"]["Networks"]["web"];
    let (gateway, own) = (place["Gateway"].as_str().expect("one"), place["IPAddress"].as_str().expect("one"));
    let seen = |net: &Net, at: &str| wait_for(at, || World::heard(net, at));
    let is_from = |seen: &str, address: &str| seen.replace("::ffff:", "").starts_with(&format!("{address}:"));
    for (net, at, client) in [
        (&world.remote, "192.0.2.1:8080", "192.0.2.9"),
        (&world.remote, "[2001:db8::1]:8080", "2001:db8::9"),
        (&world.host, "192.0.2.1:8080", "192.0.2.1"),
        (&world.host, "127.0.0.1:8080", gateway),
    ] {
        let seen = seen(net, at);
        assert!(is_from(&seen, client), "{at}: {seen}");
    }
    let hairpin = wait_for("the container's own port", || {
        Some(exec(&["nc", "-w", "1", "192.0.2.1", "8080"])).filter(|seen| !seen.is_empty())
    });
    assert!(is_from(&hairpin, gateway), "{hairpin}");
    // Straight to the container's address nobody comes from elsewhere, whatever routes they have.
    world.remote.ip(&format!("route add {own} via 192.0.2.1"));
    assert_eq!(World::heard(&world.remote, &format!("{own}:80")), None);
}

#[test]
fn udp_that_was_on_its_way_follows_a_port_when_it_is_published_and_withdrawn() {
    let world = World::new();
    world.run(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]);
    let inside = Net::of(world.host.within(|| world.hull.pid("one")));
    let server = inside.within(|| UdpSocket::bind("0.0.0.0:9000")).expect("a socket");
    server.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    // The same addresses and ports all the time, more often than a tracked connection is forgotten by itself.
    let client = world.remote.within(|| UdpSocket::bind("192.0.2.9:7000")).expect("a socket");
    let heard = || {
        client.send_to(b"x", "192.0.2.1:9000").expect("sending");
        server.recv_from(&mut [0; 8]).map(|(_, from)| from.to_string()).ok()
    };
    assert_eq!(heard(), None);
    world.run(&["port", "add", "one", "9000:9000/udp"]);
    assert_eq!(wait_for("the published port", heard), "192.0.2.9:7000");
    world.run(&["port", "rm", "one", "9000/udp"]);
    while server.recv_from(&mut [0; 8]).is_ok() {}
    assert_eq!(heard(), None);
}

#[test]
fn what_is_published_follows_the_hosts_policy_and_comes_back() {
    let Some(peers) = peers() else {
        assert!(is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
        return;
    };
    let world = World::new();
    let nft = |script: &str| {
        let mut child = world
            .host
            .within(|| Command::new(peers.join("nft")).args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft"));
        child.stdin.take().expect("its stdin").write_all(script.as_bytes()).expect("a script");
        assert!(child.wait().expect("its end").success(), "{script}");
    };
    let answer = "while true; do echo heard | nc -l -p 80; done";
    world.run(&["run", "-d", "--name", "one", "-p", "8080:80", "busybox", "sh", "-c", answer]);
    let reached = |net: &Net| World::heard(net, "192.0.2.1:8080").is_some();
    wait_for("the server", || reached(&world.remote).then_some(()));
    for (set_up, rules, why) in FIREWALLS {
        nft(rules);
        world.run(&["network", "reload"]);
        assert!(!reached(&world.remote), "{set_up}: closed to other hosts");
        wait_for("the host itself", || reached(&world.host).then_some(()));
        let said = world.run(&["port", "--why", "one"]);
        assert!(said.contains(why) && said.contains("the host's firewall is closed"), "{set_up}: {said}");
        // What is published now is closed as well, until the configuration names it.
        world.run(&["port", "add", "one", "8081:80"]);
        assert_eq!(World::heard(&world.remote, "192.0.2.1:8081"), None, "{set_up}");
        world.run(&["port", "rm", "one", "80"]);
        world.run(&["port", "add", "one", "8080:80"]);
        let allow = world.hull.write("allow.toml", "[publish]\nallow = [\"8080/tcp\"]\n");
        world.run(&["--config", &allow, "network", "reload"]);
        wait_for("what is allowed", || reached(&world.remote).then_some(()));

        nft("flush ruleset");
        assert!(!reached(&world.host), "{set_up}: nothing is left to publish it");
        world.run(&["network", "reload"]);
        wait_for("what was flushed", || reached(&world.remote).then_some(()));
    }
    // What passes is for other tables to let pass; the host's own traffic does not pass through that hook.
    nft("table ip filter {
           chain FORWARD { type filter hook forward priority 0; policy drop; }
         }");
    let said = world.host.within(|| world.hull.run(&["network", "reload"])).expect(0).stderr;
    let why = "the chain ip filter FORWARD has policy drop";
    assert!(said.contains(&format!("{why}: networks reach other hosts")), "{said}");
    assert!(world.run(&["port", "--why", "one"]).contains(&format!("forward: {why}")));
    assert!(!reached(&world.remote));
    wait_for("the host itself", || reached(&world.host).then_some(()));
    nft("add rule ip filter FORWARD iifname hull* accept; add rule ip filter FORWARD oifname hull* accept");
    wait_for("what its rules let through", || reached(&world.remote).then_some(()));
    nft("flush ruleset");
    world.run(&["run", "--rm", "busybox", "true"]);
    wait_for("what the next start restores", || reached(&world.remote).then_some(()));
    nft("flush ruleset");
    world.run(&["network", "create", "other"]);
    world.run(&["network", "connect", "other", "one"]);
    wait_for("what a connection restores", || reached(&world.remote).then_some(()));
    world.run(&["rm", "-f", "one"]);
    assert!(!reached(&world.host));
}

/// What the three ways to have a firewall leave in the kernel when they close the host, and what `--why` says of it.
const FIREWALLS: [(&str, &str, &str); 3] = [
    (
        "iptables-nft",
        "table ip filter {
           chain INPUT { type filter hook input priority 0; policy drop; ct state established accept; iifname lo accept; }
           chain FORWARD { type filter hook forward priority 0; policy accept; }
         }",
        "input: the chain ip filter INPUT has policy drop",
    ),
    (
        "ufw",
        "table ip filter {
           chain ufw-before-input { iifname lo accept; ct state related,established accept; }
           chain INPUT { type filter hook input priority 0; policy drop; jump ufw-before-input; }
           chain FORWARD { type filter hook forward priority 0; policy accept; }
         }
         table ip6 filter {
           chain INPUT { type filter hook input priority 0; policy drop; }
         }",
        "input: the chain ip6 filter INPUT has policy drop",
    ),
    (
        "firewalld",
        "table inet firewalld {
           chain filter_INPUT { type filter hook input priority 10; policy accept;
             ct state established,related accept; iifname lo accept; reject with icmpx admin-prohibited; }
         }",
        "input: firewalld is active",
    ),
];

/// The published ports that the firewall's table of a Hull has, as nft(8) lists its maps; none where nft is not.
fn published(hull: &Hull) -> Vec<String> {
    let (Some(peers), instance) = (peers(), hull.roots().instance()) else { return Vec::new() };
    let listed = Command::new(peers.join("nft")).args(["list", "table", "inet", &instance]).output().expect("nft");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let is_port = |line: &&str| line.contains(" . 80 ") || line.ends_with(" . 80") || line.contains(" . 80,");
    listed.lines().filter(is_port).map(str::to_owned).collect()
}

#[test]
fn killed_commands_leave_no_place_port_or_network_that_the_next_one_does_not_remove() {
    let hull = Hull::with_busybox();
    let moments = if is_vm() { 6 } else { 25 };
    hull.ok(&["network", "create", "web"]);
    let members =
        |network: &str| hull.ok(&["network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", network]);
    let run = ["run", "-d", "--name", "one", "--network", "web", "-p", "127.0.0.1::80", "busybox", "sleep", "1000"];
    let mut seen = 0;
    kill_at_many_moments(&hull, &run, moments, |hull, moment| {
        seen += usize::from(hull.run(&["rm", "-f", "one"]).code == 0);
        wait_for(&format!("nothing left at {moment}"), || hull.leftovers().is_empty().then_some(()));
        assert_eq!((members("web"), published(hull)), (String::new(), Vec::new()), "at {moment}");
    });
    assert!(seen > 0, "some moments were late enough for a container");

    hull.ok(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]);
    let interfaces = || hull.ok(&["exec", "one", "ip", "-o", "link"]).lines().count();
    let before = interfaces();
    kill_at_many_moments(&hull, &["network", "connect", "web", "one"], moments, |hull, moment| {
        hull.run(&["network", "disconnect", "web", "one"]);
        assert_eq!((members("web"), interfaces()), (String::new(), before), "at {moment}");
    });
    hull.ok(&["network", "connect", "web", "one"]);
    kill_at_many_moments(&hull, &["network", "disconnect", "web", "one"], moments, |hull, moment| {
        hull.run(&["network", "disconnect", "web", "one"]);
        assert_eq!((members("web"), interfaces()), (String::new(), before), "at {moment}");
        hull.ok(&["network", "connect", "web", "one"]);
    });
    kill_at_many_moments(&hull, &["port", "add", "one", "127.0.0.1::80"], moments, |hull, moment| {
        hull.run(&["port", "rm", "one", "80"]);
        assert_eq!((hull.ok(&["port", "one"]), published(hull)), (String::new(), Vec::new()), "at {moment}");
    });
    hull.ok(&["port", "add", "one", "127.0.0.1::80"]);
    kill_at_many_moments(&hull, &["port", "rm", "one", "80"], moments, |hull, moment| {
        hull.run(&["port", "rm", "one", "80"]);
        assert_eq!((hull.ok(&["port", "one"]), published(hull)), (String::new(), Vec::new()), "at {moment}");
        hull.ok(&["port", "add", "one", "127.0.0.1::80"]);
        assert!(peers().is_none() || published(hull).len() == 1, "{:?}", published(hull));
    });

    let create = || hull.ok(&["network", "create", "other"]);
    create();
    kill_at_many_moments(&hull, &["network", "rm", "other"], moments, |hull, moment| {
        hull.run(&["network", "rm", "other"]);
        let listed = hull.ok(&["network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"]);
        assert_eq!(listed, "web", "at {moment}");
        create();
    });
    hull.ok(&["rm", "-f", "one"]);
}

#[test]
fn a_killed_start_keeps_no_address_or_port_from_others() {
    let hull = Hull::with_busybox();
    let moments = if is_vm() { 6 } else { 40 };
    let places = ["--network", "web", "--ip", "10.66.3.9", "-p", "127.0.0.1:8093:80", "busybox"];
    hull.ok(&["network", "create", "--subnet", "10.66.3.0/24", "web"]);
    hull.ok(&[&["create", "--name", "one"], &places[..], &["sleep", "1000"]].concat());
    let members = || hull.ok(&["network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", "web"]);
    kill_at_many_moments(&hull, &["start", "one"], moments, |hull, moment| {
        wait_for(&format!("the places of a start killed at {moment}"), || {
            let other = hull.run(&[&["run", "--rm"], &places[..], &["true"]].concat());
            let is_held = other.stderr.contains("published by") || other.stderr.contains("already in use");
            assert!(other.code == 0 || is_held, "at {moment}: {other:?}");
            // Past some moment the start goes on to its end without its client.
            (other.code == 0 || hull.status("one") == "running").then_some(())
        });
        if hull.status("one") == "running" {
            hull.ok(&["stop", "-t", "0", "one"]);
        }
        wait_for(&format!("nothing left at {moment}"), || members().is_empty().then_some(()));
        assert_eq!((hull.ok(&["port", "one"]), published(hull)), (String::new(), Vec::new()), "at {moment}");
    });
    hull.ok(&["rm", "one"]);
    hull.ok(&["network", "rm", "web"]);
}
