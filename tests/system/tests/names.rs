//! Names inside containers: /etc/hosts, /etc/hostname and resolv.conf as they were asked for.

use system_tests::Hull;

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
            conf,
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch example.org\noptions ndots:3 rotate",
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
    let shared = hull.inside(&["--network", "container:lender"], "grep db /etc/hosts; grep nameserver /etc/resolv.conf");
    assert_eq!(shared, "192.0.2.9\tdb\nnameserver 192.0.2.1");
    for (flag, value, said) in [("--dns", "192.0.2.1", "dns"), ("--add-host", "a:192.0.2.1", "host-to-IP mapping")] {
        let refusal = hull.refused(125, &["run", "--rm", "--network", "container:lender", flag, value, "busybox", "true"]);
        assert!(refusal.contains(&format!("{said} and the network mode")), "{refusal}");
    }
}
