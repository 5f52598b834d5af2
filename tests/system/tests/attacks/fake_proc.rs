//! A /proc that is not what it seems, so that what is written to it or hidden in it is something else.
//!
//! Hull mounts procfs and sysfs on plain directories only, with no link anywhere on their path, lets nothing but procfs
//! cover a place in procfs, and reaches everything below /proc through the mount that it has made itself, by descriptor:
//! kernel parameters, masks and read-only paths do not depend on what is at the path /proc by then.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use system_tests::bundle::Bundle;
use system_tests::{Hull, is_vm};

use super::{Exchange, in_root, writable};

/// Tries to write a parameter of the own ipc namespace wherever procfs may be, and to read what is masked.
const WRITE: &str = r#"
for proc in /proc /elsewhere /elsewhere/proc /fake/real /other; do
  echo 4242 > $proc/sys/kernel/msgmax && echo "wrote below $proc"
  head -c 1 $proc/timer_list 2>/dev/null | grep -q . && echo "read below $proc"
done
echo ran
"#;

/// CVE-2019-16884: an image with a volume on /proc has a fake one, so that a label goes into a plain file.
///
/// Seen to succeed with `filesystem::target` not looking at what the place of a mount is.
#[test]
fn nothing_covers_proc() {
    let bundle = Bundle::script(WRITE, |_| {});
    let fake = bundle.hull.make_folder("fake");
    bundle.hull.make_folder("fake/self/attr");
    symlink("/proc", in_root(&bundle, "link")).expect("a link");
    for destination in ["/proc", "/proc/self", "/proc/sys", "/link", "/link/self", "/bin/../proc"] {
        let mount = json!({"destination": destination, "type": "bind", "source": fake, "options": ["rbind", "rw"]});
        let saved = fs::read(format!("{}/config.json", bundle.folder)).expect("config.json");
        bundle.configure(|config| config["mounts"].as_array_mut().expect("mounts").push(mount));
        let run = bundle.run_container("proc");
        assert!(run.code != 0 && run.stderr.contains("/proc"), "{destination}: {run:#?}");
        assert_eq!(run.stdout, "", "{destination}");
        fs::write(format!("{}/config.json", bundle.folder), saved).expect("config.json");
    }
    let hull = Hull::with_busybox();
    for volume in [format!("{fake}:/proc"), format!("{fake}:/proc/self")] {
        let run = hull.run(&["run", "--rm", "-v", &volume, "busybox", "echo", "ran"]);
        assert!(run.code != 0 && run.stdout.is_empty(), "{volume}: {run:#?}");
    }
}

/// CVE-2019-19921, CVE-2023-27561 and CVE-2023-28642: /proc or /sys of the image is a link to another place, where the
/// kernel's file system then is, while masks and labels go to the path.
///
/// Seen to succeed with `kernel_directory` resolving links inside of the root.
#[test]
fn proc_and_sys_are_no_links() {
    for (name, target) in [("proc", "/elsewhere"), ("proc", "elsewhere/proc"), ("sys", "/elsewhere"), ("proc", "/sys")]
    {
        let bundle = Bundle::script(WRITE, |_| {});
        fs::create_dir_all(in_root(&bundle, "elsewhere/proc")).expect("a folder");
        fs::remove_dir(in_root(&bundle, name)).expect("the folder of the image");
        symlink(target, in_root(&bundle, name)).expect("a link");
        let run = bundle.run_container("link");
        assert!(run.code != 0 && run.stdout.is_empty(), "{name} -> {target}: {run:#?}");
        assert!(run.stderr.contains(&format!("/{name}")), "{name} -> {target}: {run:#?}");
    }
}

/// CVE-2019-19921 as a race: while the container is made, its /proc is exchanged with a link to a fake one. The mount
/// goes along with the folder it is on, and the path /proc leads to the fake one when masks are put in place.
///
/// Seen to succeed with `cover::mask` and `cover::make_read_only` going by the path alone.
#[test]
fn masks_are_on_the_real_proc_when_the_path_changes() {
    const ROUNDS: usize = 60;
    let bundle = Bundle::script(WRITE, |_| {});
    let fake = in_root(&bundle, "fake");
    for path in ["sys/kernel", "self"] {
        fs::create_dir_all(fake.join(path)).expect("a fake /proc");
    }
    symlink("/fake", in_root(&bundle, "other")).expect("a link");
    let exchange = Exchange::start(&in_root(&bundle, "proc"), &in_root(&bundle, "other"));
    let mut started = 0;
    for round in 0..ROUNDS {
        let run = bundle.run_container("race");
        started += usize::from(run.stdout.contains("ran"));
        // Writing into the fake one is the container's own business.
        let real = run
            .stdout
            .lines()
            .filter(|line| line.contains("below"))
            .any(|_| !fs::exists(fake.join("sys/kernel/msgmax")).expect("looking"));
        assert!(!real && !run.stdout.contains("read"), "round {round}: {run:#?}");
        if fs::exists(fake.join("sys/kernel/msgmax")).expect("looking") {
            fs::remove_file(fake.join("sys/kernel/msgmax")).expect("the fake parameter");
        }
    }
    drop(exchange);
    assert!(started > 0, "no round came as far as the container");
}

/// CVE-2025-52881: a kernel parameter of the spec is written where the attacker has put another file of procfs.
///
/// The parameter meant is of the container's own network namespace; the one mounted over it is of the caller's, whose
/// value must not change. Hull opens it below its own procfs and refuses to cross a mount or a link on the way.
///
/// Seen to succeed with `set_sysctls` opening without `RESOLVE_NO_XDEV`.
#[test]
fn a_parameter_is_not_written_elsewhere() {
    let mut victims = vec!["/proc/sys/net/ipv4/ip_default_ttl"];
    if is_vm() {
        victims.push("/proc/sys/kernel/core_pattern");
    }
    for victim in victims {
        let before = fs::read_to_string(victim).expect("the parameter");
        let bundle = Bundle::script("echo ran", |config| {
            config["linux"]["sysctl"] = json!({"net.ipv4.tcp_fin_timeout": "77"});
            let over = "/proc/sys/net/ipv4/tcp_fin_timeout";
            let mount = json!({"destination": over, "type": "bind", "source": victim, "options": ["bind", "rw"]});
            config["mounts"].as_array_mut().expect("mounts").push(mount);
        });
        let run = bundle.run_container("sysctl");
        let after = fs::read_to_string(victim).expect("the parameter");
        if after != before {
            fs::write(victim, &before).expect("putting it back");
        }
        assert_eq!(after, before, "{victim}: {run:#?}");
        assert!(run.code != 0 && run.stdout.is_empty(), "{run:#?}");
    }
}

/// The attack's other half: what a label or a score is written to is a file of procfs that the image has put there. The
/// score goes through the host's /proc before the image is looked at.
///
/// Seen to succeed with `set_oom_score` called after `filesystem::pivot`.
#[test]
fn a_score_is_not_written_into_the_image() {
    let change = |config: &mut Value| {
        writable(config);
        config["process"]["oomScoreAdj"] = json!(777);
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != "/proc");
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    };
    let bundle = Bundle::script("cat /proc/self/oom_score_adj", change);
    fs::create_dir_all(in_root(&bundle, "proc/self")).expect("a fake /proc");
    fs::write(in_root(&bundle, "proc/self/oom_score_adj"), "untouched").expect("a fake score");
    assert_eq!(bundle.run_container("score").expect(0).text(), "untouched");
}
