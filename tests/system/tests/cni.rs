//! Networks that users bring as CNI plugin lists: Debian's plugins, and one that tells what it was told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use system_tests::net::Net;
use system_tests::{Hull, Run, is_vm, peers, wait_for};

/// Logs its command, variables and configuration; answers with an address, or fails when a file is there.
const TELLING: &str = r#"#!/bin/sh
echo "$CNI_COMMAND $CNI_CONTAINERID [$CNI_NETNS] $CNI_IFNAME $(cat)" >> "FOLDER/log"
if [ -e "FOLDER/fail-$CNI_COMMAND" ]; then
    echo '{"cniVersion": "1.1.0", "code": 11, "msg": "not now", "details": "ask later"}'
    exit 1
fi
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.88.0.7/24", "gateway": "10.88.0.1"}], "dns": {"nameservers": ["10.88.0.1"]}}'
"#;

/// A Hull whose lists and plugins are in its test's folder, behind Debian's plugins.
struct Brought {
    hull: Hull,
    configuration: String,
}

impl Brought {
    fn new() -> Brought {
        let hull = Hull::with_busybox();
        let (lists, plugins) = (hull.make_folder("lists"), hull.make_folder("plugins"));
        let program = PathBuf::from(&plugins).join("telling");
        fs::write(&program, TELLING.replace("FOLDER", &hull.files().display().to_string())).expect("a plugin");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
        let debians = peers().map(|scripts| scripts.join("../tree/usr/lib/cni").display().to_string());
        let folders: Vec<_> = debians.into_iter().chain([plugins]).map(|folder| format!("{folder:?}")).collect();
        let text = format!("[cni]\nconfig-dir = {lists:?}\nplugin-dirs = [{}]\n", folders.join(", "));
        let configuration = hull.write("cni.toml", &text);
        Brought { hull, configuration }
    }

    fn run(&self, words: &[&str]) -> Run {
        self.hull.run(&[&["--config", &self.configuration], words].concat())
    }

    fn ok(&self, words: &[&str]) -> String {
        self.run(words).expect(0).text().to_owned()
    }

    /// What the telling plugin was told since the last time, a line for each call.
    fn told(&self) -> Vec<String> {
        let log = self.hull.files().join("log");
        let told = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        told.lines().map(str::to_owned).collect()
    }

    /// The files that host-local keeps of addresses.
    fn leases(&self, network: &str) -> Vec<String> {
        let folder = self.hull.files().join("leases").join(network);
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("10.")).collect()
    }
}

const TELLING_LIST: &str = r#"{"cniVersion": "1.1.0", "name": "told", "plugins": [
    {"type": "telling", "color": "red", "capabilities": {"portMappings": true, "mac": true}}]}"#;

#[test]
fn a_plugin_is_told_what_the_specification_says() {
    let brought = Brought::new();
    brought.hull.write("lists/10-told.conflist", TELLING_LIST);
    let listed = brought.ok(&["network", "ls", "--filter", "driver=cni", "--format", "{{.Name}} {{.Driver}}"]);
    assert_eq!(listed, "told cni");
    assert_eq!(brought.ok(&["network", "inspect", "-f", "{{.Options.plugins}}", "told"]), "telling");
    let flags = ["--network", "told", "--mac-address", "02:00:00:00:00:09", "-p", "127.0.0.1:8080:80"];
    let id = brought.ok(&[&["run", "-d", "--name", "one"], &flags[..], &["busybox", "sleep", "1000"]].concat());
    let told = brought.told();
    let [add] = &told[..] else { panic!("{told:#?}") };
    let pid = brought.hull.pid("one");
    assert!(add.starts_with(&format!("ADD {id} [/proc/{pid}/ns/net] eth0 {{")), "{add}");
    let given: serde_json::Value = serde_json::from_str(&add[add.find('{').expect("JSON")..]).expect("JSON");
    assert_eq!(
        (&given["name"], &given["cniVersion"], &given["color"]),
        (&"told".into(), &"1.1.0".into(), &"red".into())
    );
    assert_eq!(given["runtimeConfig"]["mac"], "02:00:00:00:00:09");
    let port = serde_json::json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}]);
    assert_eq!(given["runtimeConfig"]["portMappings"], port);
    let place = &brought.hull.inspect("one")["NetworkSettings"]["Networks"]["told"];
    assert_eq!((&place["IPAddress"], &place["Gateway"]), (&"10.88.0.7".into(), &"10.88.0.1".into()));
    let hosts = brought.ok(&["exec", "one", "cat", "/etc/hosts"]);
    let own = format!("10.88.0.7\t{}", &id[..12]);
    assert!(hosts.contains(&own) && !hosts.contains(&format!("127.0.0.1\t{}", &id[..12])), "{hosts}");
    assert!(brought.ok(&["exec", "one", "cat", "/etc/resolv.conf"]).contains("nameserver 10.88.0.1"));

    // Neither is lost when one of Hull's networks comes and goes.
    brought.ok(&["network", "create", "web"]);
    brought.ok(&["network", "connect", "web", "one"]);
    assert!(brought.ok(&["exec", "one", "cat", "/etc/hosts"]).contains(&own));
    brought.ok(&["network", "disconnect", "web", "one"]);
    assert_eq!(brought.ok(&["exec", "one", "cat", "/etc/hosts"]), hosts);
    assert!(brought.ok(&["exec", "one", "cat", "/etc/resolv.conf"]).contains("nameserver 10.88.0.1"));

    // Checked, and told who there is.
    brought.ok(&["network", "reload"]);
    let told = brought.told();
    let [check, collect] = &told[..] else { panic!("{told:#?}") };
    assert!(check.starts_with("CHECK ") && check.contains(r#""prevResult":{"#), "{check}");
    assert!(collect.starts_with("GC ") && collect.contains(&format!(r#""containerID":"{id}""#)), "{collect}");
    brought.hull.write("fail-CHECK", "");
    let said = brought.run(&["network", "reload"]).expect(1).stderr;
    assert!(said.contains("failed to find the container well in network told: not now; ask later (code 11)"), "{said}");
    brought.told();
    for verb in ["connect", "disconnect"] {
        let said = brought.run(&["network", verb, "told", "one"]).expect(1).stderr;
        assert!(said.contains("network told is made of CNI plugins"), "{said}");
    }
    brought.ok(&["rm", "-f", "one"]);
    let told = brought.told();
    let [delete] = &told[..] else { panic!("{told:#?}") };
    assert!(delete.starts_with(&format!("DEL {id} [] eth0 {{")) && delete.contains("prevResult"), "{delete}");
}

#[test]
fn what_plugins_do_not_do_is_told_and_leaves_nothing() {
    let brought = Brought::new();
    brought.hull.write("lists/10-told.conflist", TELLING_LIST);
    brought.hull.write("lists/20-bad.conflist", r#"{"name": "gone", "plugins": [{"type": "nowhere"}]}"#);
    let run = |flags: &[&str]| brought.run(&[&["run", "--rm"], flags, &["busybox", "true"]].concat());
    for (flags, expected) in [
        (&["--network", "gone"][..], "CNI plugin nowhere of network gone is not in "),
        (
            &["--network", "told", "--ip", "10.88.0.9"],
            "network option ips is not supported by the driver of CNI list told",
        ),
        (&["--network", "told", "-p", "80"], "port 80/tcp has no number on the host, which CNI plugins need"),
        (&["--network", "gone", "-p", "80:80"], "port publishing and the network mode gone"),
        (&["--network", "other"], "network other not found"),
    ] {
        let said = run(flags).expect(125).stderr;
        assert!(said.contains(expected), "{flags:?}: {said}");
        assert_eq!(brought.hull.containers(), Vec::<String>::new());
    }
    brought.told();
    brought.hull.write("fail-ADD", "");
    let said = run(&["--network", "told"]).expect(125).stderr;
    assert!(said.contains("CNI plugin telling failed to add the container to network told: not now"), "{said}");
    let told = brought.told();
    assert!(told.len() == 2 && told[0].starts_with("ADD ") && told[1].starts_with("DEL "), "{told:#?}");
    fs::remove_file(brought.hull.files().join("fail-ADD")).expect("the file");
    // A plugin that does not delete keeps nobody's container.
    brought.hull.write("fail-DEL", "");
    assert!(run(&["--network", "told"]).expect(0).stderr.contains("does not delete its place"));
    brought.hull.write("lists/05-broken.conflist", "{");
    let said = run(&["--network", "told"]).expect(125).stderr;
    assert!(said.contains("05-broken.conflist is no list of CNI plugins"), "{said}");
}

#[test]
fn debians_plugins_wire_containers_and_give_their_addresses_up() {
    if peers().is_none() {
        assert!(is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
        return;
    }
    let brought = Brought::new();
    let leases = brought.hull.make_folder("leases");
    let list = format!(
        r#"{{"cniVersion": "0.4.0", "name": "lan", "plugins": [
            {{"type": "bridge", "bridge": "cni7", "isGateway": true, "ipam": {{"type": "host-local", "dataDir": {leases:?},
              "ranges": [[{{"subnet": "10.99.0.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
            {{"type": "tuning", "mtu": 1400}}]}}"#
    );
    brought.hull.write("lists/lan.conflist", &list);
    let host = Net::new();
    let ok = |words: &[&str]| host.within(|| brought.ok(words));
    let serve = "while true; do echo heard | nc -l -p 80; done";
    ok(&["run", "-d", "--name", "one", "--network", "lan", "busybox", "sh", "-c", serve]);
    let address = brought.hull.inspect("one")["NetworkSettings"]["Networks"]["lan"]["IPAddress"].clone();
    let address = address.as_str().expect("an address").to_owned();
    assert_eq!(brought.leases("lan").as_slice(), std::slice::from_ref(&address));
    ok(&["network", "reload"]);
    let heard = || {
        let asked = ["run", "--rm", "--network", "lan", "busybox", "nc", "-w", "1", &address, "80"];
        host.within(|| brought.run(&asked)).stdout.contains("heard").then_some(())
    };
    wait_for("the other container", heard);
    assert!(ok(&["exec", "one", "ip", "link", "show", "eth0"]).contains("mtu 1400"));
    assert!(ok(&["exec", "one", "ip", "route"]).contains("default via 10.99.0.1"));
    // Beside a network of Hull's own.
    let both = ok(&["run", "--rm", "--network", "bridge", "--network", "lan", "busybox", "ip", "-4", "-o", "addr"]);
    assert!(both.contains("eth0") && both.contains("eth1") && both.contains("10.99.0."), "{both}");
    assert_eq!(brought.leases("lan").as_slice(), std::slice::from_ref(&address));

    // The command and the supervisor are killed; the next command finds what is left of the place.
    let folder = brought.hull.roots().containers();
    host.within(|| {
        let mut child = brought.hull.command(&[
            "--config",
            &brought.configuration,
            "run",
            "--network",
            "lan",
            "--name",
            "two",
            "busybox",
            "sleep",
            "1000",
        ]);
        let mut child = child.spawn().expect("starting hull");
        wait_for("its address", || (brought.leases("lan").len() == 2).then_some(()));
        child.kill().expect("killing");
        child.wait().expect("its end");
        brought.run(&["rm", "-f", "two"]);
    });
    wait_for("the address given up", || {
        host.within(|| brought.run(&["ps", "-a"]));
        (brought.leases("lan") == [address.clone()]).then_some(())
    });
    ok(&["rm", "-f", "one"]);
    assert!(brought.leases("lan").is_empty() && folder.read_dir().expect("a folder").next().is_none());
}
