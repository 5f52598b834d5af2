//! A real Debian through Debian's own registry and tools: pushed with skopeo, pulled, run; and the archives that
//! skopeo writes. Not in the virtual machine, where these tools are not.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use system_tests::registry::nobody;
use system_tests::{Hull, Run, image, is_vm, peers, wait_for};

/// Debian's docker-registry on loopback, with its store in a test's folder.
struct Registry {
    process: Child,
    address: SocketAddr,
}

impl Registry {
    fn start(hull: &Hull, scripts: &Path) -> Registry {
        let address = nobody();
        let store = hull.make_folder("registry");
        let settings = hull.write(
            "registry.yml",
            &format!("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {store}\nhttp:\n  addr: {address}\n"),
        );
        let mut command = Command::new(scripts.join("docker-registry"));
        command.args(["serve", &settings]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().expect("docker-registry");
        wait_for("the registry", || {
            assert!(process.try_wait().expect("a child").is_none(), "the registry has ended");
            TcpStream::connect(address).ok()
        });
        Registry { process, address }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("ending the registry");
    }
}

fn skopeo(scripts: &Path, words: &[&str]) {
    let output = Command::new(scripts.join("skopeo")).args(words).stdin(Stdio::null()).output().expect("skopeo");
    Run::new(words, output).expect(0);
}

#[test]
fn debian_from_a_registry_is_the_debian_of_the_archives() {
    let Some(scripts) = peers() else {
        assert!(is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
        return;
    };
    let mut hull = Hull::new();
    let registry = Registry::start(&hull, &scripts);
    let name = format!("{}/debian:latest", registry.address);
    let source = format!("oci-archive:{}", image("debian.oci.tar").display());
    skopeo(&scripts, &["copy", "--quiet", "--dest-tls-verify=false", &source, &format!("docker://{name}")]);
    hull.ok(&["pull", "-q", &name]);
    let script = ". /etc/os-release; echo $ID; dpkg --version | head -n 1 | cut -c 1-6; cat /proc/self/cgroup | wc -l";
    let said = hull.ok(&["run", "--rm", "-m", "256m", "--cpus", "0.5", &name, "bash", "-c", script]);
    assert!(said.starts_with("debian\nDebian"), "{said}");
    let pulled = hull.inspect(&name);
    assert!(
        pulled["RepoDigests"][0].as_str().expect("a digest").starts_with(&registry.address.to_string()),
        "{pulled}"
    );
    let oci = hull.file("oci.tar");
    let plain = [
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        &format!("docker://{name}"),
        &format!("oci-archive:{oci}:debian:oci"),
    ];
    skopeo(&scripts, &plain);
    for archive in [oci, image("debian.docker.tar").display().to_string()] {
        let said = hull.ok(&["load", "-i", &archive]);
        let loaded = said.rsplit(": ").next().expect("a name").trim();
        let loaded = hull.inspect(loaded);
        assert_eq!((&loaded["Id"], &loaded["RootFS"]), (&pulled["Id"], &pulled["RootFS"]), "{archive}");
    }
    hull.keep_stored();
    drop(registry);
    assert_eq!(hull.ok(&["run", "--rm", "--pull", "missing", &name, "echo", "still"]), "still");
    hull.refused(1, &["pull", &name]);
}
