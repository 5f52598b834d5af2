//! Images between Hull and Debian's own registry, with skopeo as a witness: what is pushed is what was pulled, what is
//! there already is not sent, who may log in, and who is asked first. Not in the virtual machine, where these tools are
//! not.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use system_tests::registry::nobody;
use system_tests::{Hull, Run, is_vm, peers, wait_for};

/// Debian's docker-registry on loopback, with its store and its log in a test's folder.
struct Registry {
    process: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Registry {
    /// One that serves whoever asks, or only the user `tester` with the password `U*U`.
    fn start(hull: &Hull, scripts: &Path, name: &str, is_closed: bool) -> Registry {
        let address = nobody();
        let store = hull.make_folder(name);
        let mut settings =
            format!("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {store}\nhttp:\n  addr: {address}\n");
        if is_closed {
            // A known answer of bcrypt for "U*U".
            let line = "tester:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
            let passwords = hull.write(&format!("{name}.htpasswd"), line);
            settings.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {passwords}\n"));
        }
        let settings = hull.write(&format!("{name}.yml"), &settings);
        let log = PathBuf::from(hull.file(&format!("{name}.log")));
        let output = fs::File::create(&log).expect("a file of the test's own");
        let errors = output.try_clone().expect("a descriptor");
        let mut command = Command::new(scripts.join("docker-registry"));
        command.args(["serve", &settings]).stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut process = command.spawn().expect("docker-registry");
        wait_for("the registry", || {
            assert!(process.try_wait().expect("a child").is_none(), "the registry has ended");
            TcpStream::connect(address).ok()
        });
        Registry { process, address, log }
    }

    /// How many of its answers to requests have this in their line.
    fn answers(&self, part: &str) -> usize {
        let log = fs::read_to_string(&self.log).expect("the registry's log");
        log.lines().filter(|line| line.contains("HTTP/1.1\"") && line.contains(part)).count()
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("ending the registry");
    }
}

/// The scripts of the peers; none in the virtual machine.
fn scripts() -> Option<PathBuf> {
    let found = peers();
    assert!(found.is_some() || is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
    found
}

/// What skopeo reads from a registry.
fn raw(scripts: &Path, words: &[&str], name: &str) -> String {
    let reference = format!("docker://{name}");
    let words = [&["inspect", "--tls-verify=false"], words, &[reference.as_str()]].concat();
    let output = Command::new(scripts.join("skopeo")).args(&words).stdin(Stdio::null()).output().expect("skopeo");
    Run::new(&words, output).expect(0).stdout
}

#[test]
fn what_is_pushed_comes_back_and_is_mounted_elsewhere() {
    let Some(scripts) = scripts() else { return };
    let mut hull = Hull::with_busybox();
    let registry = Registry::start(&hull, &scripts, "registry", false);
    let (first, second) = (registry.name("one/busybox:1"), registry.name("two/busybox:2"));
    hull.ok(&["tag", "busybox", &first]);
    let said = hull.ok(&["push", &first]);
    assert!(said.contains("The push refers to repository [") && said.contains(": Pushed"), "{said}");
    let manifest = raw(&scripts, &["--raw"], &first);
    let digest = said.rsplit("digest: ").next().and_then(|rest| rest.split(' ').next()).expect("a digest");
    assert_eq!(said.lines().last().expect("a line"), format!("1: digest: {digest} size: {}", manifest.len()));
    let config: Value = serde_json::from_str(&raw(&scripts, &["--config", "--raw"], &first)).expect("JSON");
    assert_eq!(config["rootfs"]["diff_ids"], hull.inspect("busybox")["RootFS"]["Layers"]);

    let sent = registry.answers("\"PUT /v2/two/busybox/blobs");
    hull.ok(&["tag", &first, &second]);
    let said = hull.ok(&["push", &second]);
    assert!(said.contains("Mounted from one/busybox"), "{said}");
    assert_eq!((registry.answers("\"PUT /v2/two/busybox/blobs"), sent), (0, 0), "no blob was sent");
    assert!(registry.answers("\"POST /v2/two/busybox/blobs/uploads/?mount=") > 0);
    assert_eq!(raw(&scripts, &["--raw"], &second), manifest);
    assert!(hull.ok(&["push", &second]).contains("Layer already exists"));

    let id = hull.inspect("busybox")["Id"].clone();
    hull.ok(&["rmi", "-f", "busybox", &first, &second]);
    assert_eq!(hull.ok(&["pull", "-q", &first]), first);
    assert_eq!(hull.inspect(&first)["Id"], id);
    let third = registry.name("three/again:3");
    hull.ok(&["tag", &first, &third]);
    assert_eq!(hull.ok(&["push", "-q", &third]), third);
    assert_eq!(raw(&scripts, &["--raw"], &third), manifest, "what was pulled is pushed byte for byte");
    let shown: Value = serde_json::from_str(&hull.ok(&["manifest", "inspect", &third])).expect("JSON");
    assert_eq!(shown, serde_json::from_str::<Value>(&manifest).expect("JSON"));
    hull.ok(&["tag", &third, &registry.name("three/again:4")]);
    hull.ok(&["push", "-a", &registry.name("three/again")]);
    hull.ok(&["pull", "-a", &registry.name("three/again")]);
    let lines = hull.ok(&["pull", "--progress", "json", &first]);
    assert!(
        lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|value| value["status"].is_string()))
    );
    hull.refused(1, &["push", &registry.name("never/seen")]);
    hull.keep_stored();
}

#[test]
fn a_closed_registry_wants_a_login() {
    let Some(scripts) = scripts() else { return };
    let mut hull = Hull::with_busybox();
    let registry = Registry::start(&hull, &scripts, "closed", true);
    let (name, address) = (registry.name("busybox"), registry.address.to_string());
    hull.ok(&["tag", "busybox", &name]);
    let home = hull.make_folder("home");
    let run = |password: &str, words: &[&str]| {
        let input = hull.write("password", password);
        let mut command = hull.command(words);
        command.env("DOCKER_CONFIG", &home).stdin(fs::File::open(input).expect("the password"));
        Run::new(words, command.output().expect("starting hull"))
    };
    let denied = run("", &["push", &name]).expect(1);
    assert!(denied.stderr.contains("push access denied"), "{denied:?}");
    let login = ["login", "-u", "tester", "--password-stdin", &address];
    let refused = run("wrong", &login).expect(1);
    assert!(refused.stderr.contains("refuses the credentials"), "{refused:?}");
    assert!(!Path::new(&home).join("config.json").exists(), "nothing is kept of what was refused");
    let said = run("U*U\n", &login).expect(0);
    assert_eq!(said.text(), "Login Succeeded");
    assert!(said.stderr.contains("unencrypted"), "{said:?}");
    run("", &["push", &name]).expect(0);
    assert_eq!(run("", &["logout", &address]).expect(0).text(), format!("Removing login credentials for {address}"));
    assert_eq!(run("", &["logout", &address]).expect(0).text(), format!("Not logged in to {address}"));
    run("", &["pull", &name]).expect(1);
    hull.keep_stored();
}

#[test]
fn a_credential_helper_keeps_the_password() {
    let Some(scripts) = scripts() else { return };
    let hull = Hull::new();
    let registry = Registry::start(&hull, &scripts, "closed", true);
    let address = registry.address.to_string();
    let home = hull.make_folder("home");
    let config = format!("{{\"credHelpers\": {{\"{address}\": \"test\"}}}}");
    hull.write("home/config.json", &config);
    let kept = hull.file("kept");
    let script =
        format!("#!/bin/sh\ncase $1 in store) cat > {kept};; erase) cat; rm {kept};; get) cat {kept};; esac\n");
    let folder = hull.make_folder("helpers");
    let helper = hull.write("helpers/docker-credential-test", &script);
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("executable");
    let run = |password: &str, words: &[&str]| {
        let input = hull.write("password", password);
        let mut command = hull.command(words);
        command.env("DOCKER_CONFIG", &home).env("PATH", format!("{folder}:/usr/bin:/bin"));
        Run::new(words, command.stdin(fs::File::open(input).expect("it")).output().expect("starting hull"))
    };
    run("U*U\n", &["login", "-u", "tester", "--password-stdin", &address]).expect(0);
    let secret: Value = serde_json::from_str(&fs::read_to_string(&kept).expect("kept")).expect("JSON");
    assert_eq!((&secret["Username"], &secret["Secret"]), (&"tester".into(), &"U*U".into()));
    assert!(!fs::read_to_string(Path::new(&home).join("config.json")).expect("it").contains("dGVzdGVyOlUqVQ"));
    // Nothing is there to pull, which only somebody who was let in is told.
    let name = registry.name("nothing");
    assert!(run("", &["pull", &name]).expect(1).stderr.contains("manifest unknown"));
    run("", &["logout", &address]).expect(0);
    assert!(!Path::new(&kept).exists());
    assert!(!run("", &["pull", &name]).expect(1).stderr.contains("manifest unknown"));
}

#[test]
fn a_mirror_is_asked_before_the_registry() {
    let Some(scripts) = scripts() else { return };
    let mut hull = Hull::with_busybox();
    let registry = Registry::start(&hull, &scripts, "registry", false);
    let mirror = Registry::start(&hull, &scripts, "mirror", false);
    for place in [&registry, &mirror] {
        hull.ok(&["tag", "busybox", &place.name("busybox")]);
        hull.ok(&["push", &place.name("busybox")]);
    }
    hull.ok(&["tag", "busybox", &registry.name("only:1")]);
    hull.ok(&["push", &registry.name("only:1")]);
    let settings = format!("[registries.\"{}\"]\nmirrors = [\"{}\"]\n", registry.address, mirror.address);
    let settings = hull.write("hull.toml", &settings);
    let asked = registry.answers("\"GET /v2/busybox/");
    hull.ok(&["--config", &settings, "pull", &registry.name("busybox")]);
    assert_eq!(registry.answers("\"GET /v2/busybox/"), asked);
    assert!(mirror.answers("\"GET /v2/busybox/manifests/latest") > 0);
    let fallen_back = hull.run(&["--config", &settings, "pull", &registry.name("only:1")]).expect(0);
    assert!(fallen_back.stderr.contains("WARNING: the mirror"), "{fallen_back:?}");
    hull.refused(1, &["--config", "/nowhere/hull.toml", "pull", &registry.name("busybox")]);
    let wanted = hull.write("trust.toml", "[trust]\n\"127.0.0.1*\" = \"reject\"\n");
    let said = hull.refused(1, &["--config", &wanted, "pull", &registry.name("busybox")]);
    assert!(said.contains("[trust] \"127.0.0.1*\" rejects it"), "{said}");
    hull.keep_stored();
}
