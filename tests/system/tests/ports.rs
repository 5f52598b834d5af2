//! Published ports of real containers: reached, listed, refused when taken, and gone with the container.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use system_tests::{Hull, wait_for};

const SERVER: &str = "while true; do echo hello | nc -l -p 80; done";

/// What a server at a port of this host's loopback says.
fn heard(port: &str) -> Option<String> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    (!said.is_empty()).then_some(said)
}

#[test]
fn a_published_port_is_reached_listed_and_gone_with_its_container() {
    let hull = Hull::with_busybox();
    let flags = ["--name", "web", "--network", "bridge", "-p", "127.0.0.1::80", "--expose", "81"];
    hull.background(&flags, SERVER);
    let place = hull.ok(&["port", "web", "80"]);
    let port = place.strip_prefix("127.0.0.1:").expect("a place on loopback").to_owned();
    assert_eq!(wait_for("an answer", || heard(&port)), "hello\n");
    assert_eq!(hull.ok(&["port", "web"]), format!("80/tcp -> {place}"));
    assert_eq!(hull.ok(&["ps", "--format", "{{.Ports}}"]), format!("{place}->80/tcp, 81/tcp"));
    let listed = hull.ok(&["inspect", "-f", "{{json .NetworkSettings.Ports}}", "web"]);
    assert_eq!(listed, format!(r#"{{"80/tcp":[{{"HostIp":"127.0.0.1","HostPort":"{port}"}}],"81/tcp":null}}"#));
    let why = hull.ok(&["port", "--why", "web"]);
    assert!(why.contains("it is published on loopback"), "{why}");
    let said = hull.refused(1, &["port", "web", "81"]);
    assert!(said.contains("No public port '81/tcp' published for web"), "{said}");

    let again = format!("{port}:80");
    let said = hull.refused(125, &["run", "--rm", "--network", "bridge", "-p", &again, "busybox", "true"]);
    assert!(said.contains(&format!("port {port}/tcp on 0.0.0.0 is published by container web")), "{said}");
    hull.ok(&["rm", "-f", "web"]);
    assert!(heard(&port).is_none());
    hull.ok(&["run", "--rm", "--network", "bridge", "-p", &again, "busybox", "true"]);
}

#[test]
fn a_port_that_a_program_of_the_host_has_is_refused_with_its_name() {
    let hull = Hull::with_busybox();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port();
    let flag = format!("127.0.0.1:{port}:80");
    let said = hull.refused(125, &["run", "--rm", "--network", "bridge", "-p", &flag, "busybox", "true"]);
    assert!(said.contains(&format!("port {port}/tcp on 127.0.0.1 is in use by ")), "{said}");
    assert!(said.contains(&format!("(process {})", std::process::id())), "{said}");
    assert_eq!(hull.containers(), Vec::<String>::new());
    for mode in ["none", "host"] {
        let said = hull.refused(125, &["run", "--rm", "--network", mode, "-p", "80", "busybox", "true"]);
        assert!(said.contains(&format!("port publishing and the network mode {mode}")), "{said}");
    }
    let said = hull.refused(125, &["run", "--rm", "--network", "bridge", "-p", "[::1]:1:80", "busybox", "true"]);
    assert!(said.contains("cannot be published"), "{said}");
}
