//! Parts of /dev that the image brings as links: what is made, opened or mounted there must not be made, opened or
//! mounted where they lead.
//!
//! The host's tree is still in sight while /dev is filled, so an absolute link would lead to the host's files. Hull
//! resolves /dev once, inside of the root, and works below that descriptor without following links; masks are covered
//! by a null device that was opened on the host and looked at, never by the container's; the terminal's other end is
//! asked from its master (`TIOCGPTPEER`) and never looked up by a path.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};
use system_tests::bundle::Bundle;
use system_tests::{Hull, Run, is_vm};

use super::{Exchange, SECRET, host_folder, in_root, names};

/// Leaves /dev to the image.
fn without_dev(config: &mut Value) {
    let mounts = config["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev")));
}

/// Runs with a terminal whose master goes to a socket that this test listens at.
fn with_terminal(bundle: &Bundle) -> Run {
    let socket = bundle.hull.file("console");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a socket");
    let receiver = std::thread::spawn(move || {
        let mut connection = listener.accept().expect("a caller").0;
        let mut said = Vec::new();
        connection.read_to_end(&mut said).expect("what was said");
    });
    let id = bundle.id("console");
    let run = bundle.run(&["create", "--bundle", &bundle.folder, "--console-socket", &socket, &id]);
    if run.code == 0 {
        bundle.delete(&id);
    } else {
        // Nobody called.
        drop(std::os::unix::net::UnixStream::connect(&socket));
    }
    receiver.join().expect("the receiver");
    run
}

/// Names of kernel parameters that an attack aims at: of the container's own ipc namespace, and in the virtual machine
/// the one with which a container escapes.
fn parameters() -> Vec<&'static str> {
    if is_vm() {
        vec!["/proc/sys/kernel/msgmax", "/proc/sys/kernel/core_pattern"]
    } else {
        vec!["/proc/sys/kernel/msgmax"]
    }
}

/// CVE-2025-31133: the container's /dev/null is a link to a parameter, which is then what a masked file is covered with,
/// writable; or it is missing, and nothing is masked.
///
/// Here /dev is a folder that two containers share, in which Hull makes no nodes, and the link is there from the start.
///
/// Seen to succeed with `cover::mask` cloning the root's /dev/null instead of the plan's null device.
#[test]
fn a_masked_file_is_covered_by_the_hosts_null_device() {
    for parameter in parameters() {
        let script = format!("stat -c %t:%T /proc/timer_list; echo 4242 > /proc/timer_list; cat {parameter}");
        for is_link in [true, false] {
            let bundle = Bundle::script(&script, |_| {});
            let dev = bundle.hull.make_folder("dev");
            if is_link {
                symlink(parameter, format!("{dev}/null")).expect("a link");
            }
            bundle.configure(|config| {
                without_dev(config);
                let mounts = config["mounts"].as_array_mut().expect("mounts");
                mounts.push(json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]}));
                config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/timer_list"]);
            });
            let run = bundle.run_container("null").expect(0);
            let lines: Vec<&str> = run.stdout.lines().collect();
            assert!(lines[0] == "1:3" && lines[1] != "4242", "{run:#?}");
        }
    }
}

/// CVE-2025-31133 as a race: in that folder a real null device is exchanged with the link while the container is made.
///
/// Seen to succeed as the one above.
#[test]
fn a_masked_file_is_masked_while_the_null_device_changes() {
    const ROUNDS: usize = 40;
    let script = "stat -c %t:%T /proc/timer_list; echo 4242 > /proc/timer_list; cat /proc/sys/kernel/msgmax";
    let bundle = Bundle::script(script, |_| {});
    let dev = bundle.hull.make_folder("dev");
    let (null, other) = (format!("{dev}/null"), format!("{dev}/other"));
    mknodat(CWD, &null, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).expect("a null device");
    symlink("/proc/sys/kernel/msgmax", &other).expect("a link");
    bundle.configure(|config| {
        without_dev(config);
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]}));
    });
    let exchange = Exchange::start(Path::new(&null), Path::new(&other));
    for round in 0..ROUNDS {
        let run = bundle.run_container("null").expect(0);
        let lines: Vec<&str> = run.stdout.lines().collect();
        assert!(lines[0] == "1:3" && lines[1] != "4242", "round {round}: {run:#?}");
    }
    drop(exchange);
}

/// CVE-2025-52565, and CVE-2026-88264 of crun: the terminal is mounted on a /dev/console that is a link, which makes or
/// covers a file where it leads, on the host for an absolute one.
///
/// Seen to succeed with `console_place` opening without `O_EXCL` and `O_NOFOLLOW` and taking what it finds.
#[test]
fn the_console_is_not_mounted_through_a_link() {
    let bundle = Bundle::script("true", |config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| {
            let path = mount["destination"].as_str().unwrap_or_default();
            !path.starts_with("/dev") || path == "/dev/pts"
        });
    });
    bundle.configure(|config| config["process"]["terminal"] = json!(true));
    let terminal = |config: &mut Value| config["process"]["terminal"] = json!(true);
    let host = host_folder(&bundle);
    fs::create_dir_all(in_root(&bundle, "dev/pts")).expect("a folder");
    for target in [&format!("{host}/made"), &format!("{host}/secret"), "/proc/sys/kernel/msgmax", "../bin/busybox"] {
        let console = in_root(&bundle, "dev/console");
        let _ = fs::remove_file(&console);
        symlink(target, &console).expect("a link");
        bundle.configure(terminal);
        let run = with_terminal(&bundle);
        assert!(run.code != 0 && run.stderr.contains("console"), "{target}: {run:#?}");
        assert_eq!(names(&host), ["secret"], "{target}");
    }
}

/// CVE-2025-52565, the other side: /dev/pts of the image is a folder of its own, whose ptmx or number is a link to a
/// parameter, to be taken for the terminal.
///
/// Seen to fail with `terminal::open` not asking which file system it is and `inside::open` resolving without
/// `RESOLVE_IN_ROOT`: the link is then opened, and only what comes of it is no terminal.
#[test]
fn a_terminal_is_of_a_terminal_file_system() {
    for target in ["/proc/sys/kernel/msgmax", "/dev/null", "/proc/self/fd/0"] {
        let bundle = Bundle::script("true", |config| {
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            mounts.retain(|mount| mount["destination"] != "/dev/pts" && mount["destination"] != "/dev");
            mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev/")));
        });
        fs::create_dir_all(in_root(&bundle, "dev/pts")).expect("a folder");
        for name in ["ptmx", "0", "1"] {
            symlink(target, in_root(&bundle, &format!("dev/pts/{name}"))).expect("a link");
        }
        bundle.configure(|_| {});
        let path = format!("{}/config.json", bundle.folder);
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("config.json")).expect("JSON");
        config["process"]["terminal"] = json!(true);
        fs::write(&path, config.to_string()).expect("config.json");
        let run = with_terminal(&bundle);
        assert!(run.code != 0, "{target}: {run:#?}");
        assert!(run.stderr.contains("devpts") || run.stderr.contains("symbolic link"), "{target}: {run:#?}");
    }
}

/// CVE-2026-41579, and CVE-2026-47766 of crun: /dev of the image is a link to a folder of the host, in which nodes and
/// links are made and a `ptmx` is removed.
///
/// Seen to succeed with `inside::open` resolving without `RESOLVE_IN_ROOT`.
#[test]
fn a_dev_that_is_a_link_does_not_lead_to_the_host() {
    for has_mount in [false, true] {
        for prefix in ["", "../../../../../../../../../../.."] {
            let bundle = Bundle::script("ls /dev/; cat /dev/secret", |config| {
                if !has_mount {
                    without_dev(config);
                }
            });
            let host = host_folder(&bundle);
            for name in ["ptmx", "console", "null"] {
                fs::write(format!("{host}/{name}"), SECRET).expect("a file of the host");
            }
            fs::remove_dir_all(in_root(&bundle, "dev")).expect("the image's /dev");
            symlink(format!("{prefix}{host}"), in_root(&bundle, "dev")).expect("a link");
            let run = bundle.run_container("dev");
            assert_eq!(names(&host), ["console", "null", "ptmx", "secret"], "{run:#?}");
            for name in names(&host) {
                assert_eq!(fs::read_to_string(format!("{host}/{name}")).expect("a file"), SECRET, "{name}");
            }
            assert!(!run.stdout.contains(SECRET), "{run:#?}");
        }
    }
    let hull = Hull::new();
    let host = hull.make_folder("host");
    fs::write(format!("{host}/ptmx"), SECRET).expect("a file of the host");
    let image = system_tests::archive::Image::new("evil:latest", json!({"Cmd": ["ls", "/dev/"]}));
    let image = image.layer(system_tests::archive::Layer::new().file(".wh.dev", b"").symlink("dev", &host));
    let archive = hull.file("evil.tar");
    image.write(Path::new(&archive));
    let mut hull = hull;
    hull.load(Path::new(&archive));
    let run = hull.run(&["run", "--rm", "evil"]);
    assert_eq!(names(&host), ["ptmx"], "{run:#?}");
}
