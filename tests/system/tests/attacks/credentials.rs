//! Users and capabilities that an exec gets.

use std::fs;

use rustix::fs::{XattrFlags, setxattr};
use serde_json::json;
use system_tests::Hull;
use system_tests::bundle::Bundle;

use super::in_root;

/// CVE-2022-29162: capabilities given to an exec are inheritable too, and a file with inheritable capabilities then
/// makes them permitted, for a user who should have none.
///
/// Hull adds them to the bounding, effective and permitted sets alone, and none is inheritable by default.
///
/// Seen to succeed with `derived` in the command line's exec extending the inheritable set as well.
#[test]
fn an_exec_has_no_inheritable_capabilities() {
    let bundle = Bundle::script("exec sleep 1000", |config| {
        assert!(config["process"]["capabilities"]["inheritable"].as_array().is_none_or(Vec::is_empty), "{config}");
        config["process"]["capabilities"]["ambient"] = json!([]);
    });
    let file = in_root(&bundle, "escalating/cat");
    fs::create_dir(in_root(&bundle, "escalating")).expect("a folder");
    fs::copy(in_root(&bundle, "bin/busybox"), &file).expect("a copy of busybox");
    // struct vfs_cap_data, revision 2: effective, permitted 0, inheritable CAP_NET_RAW (13).
    let capabilities: Vec<u8> =
        [0x0200_0001_u32, 0, 1 << 13, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    setxattr(&file, "security.capability", &capabilities, XattrFlags::empty()).expect("file capabilities");
    let id = bundle.id("caps");
    bundle.start_detached(&id);
    let status = |user: &str, program: &str| {
        let words = ["exec", "--user", user, "--cap", "CAP_NET_RAW", &id, program, "/proc/self/status"];
        bundle.run(&words).expect(0).stdout
    };
    for (user, program) in [("0", "cat"), ("1000", "cat"), ("1000", "/escalating/cat")] {
        let status = status(user, program);
        assert!(status.contains("CapInh:\t0000000000000000"), "{user} {program}: {status}");
        assert!(user == "0" || status.contains("CapPrm:\t0000000000000000"), "{user} {program}: {status}");
    }
    bundle.delete(&id);
}

/// CVE-2026-30892 (crun): the user `1` of an exec is read as 0.
///
/// The last number of all is "no change" to setresuid(2), which would be root as well; Hull refuses it.
///
/// Seen to succeed with `parse_user` taking 0 for a single digit.
#[test]
fn the_user_of_an_exec_is_the_one_named() {
    let bundle = Bundle::script("exec sleep 1000", |_| {});
    let id = bundle.id("user");
    bundle.start_detached(&id);
    for (user, expected) in
        [("0", "0:0"), ("1", "1:0"), ("2:1", "2:1"), ("01", "1:0"), ("1:0", "1:0"), ("65534", "65534:0")]
    {
        let run = bundle.run(&["exec", "--user", user, &id, "sh", "-c", "echo $(id -u):$(id -g)"]).expect(0);
        assert_eq!(run.text(), expected, "--user {user}");
    }
    for user in [
        "-1",
        "0x1",
        "1x",
        "",
        ":1",
        "1:",
        "4294967295",
        "0:4294967295",
        "4294967296",
        "18446744073709551616",
        " 1",
        "1:-1",
        "root",
    ] {
        let run = bundle.run(&["exec", &format!("--user={user}"), &id, "id"]);
        assert!(run.code != 0 && !run.stdout.contains("uid="), "--user {user:?}: {run:#?}");
    }
    bundle.delete(&id);
}

/// The same by `hull exec` and `hull run`, and a number that overflows into a line of the image's own /etc/passwd, where
/// it is root (CVE-2026-46680 of containerd).
///
/// Seen to succeed with `identity::number` taking for a name what does not fit instead of refusing it.
#[test]
fn a_user_that_is_a_number_is_never_a_name() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "for n in 1 4294967296 4294967295 18446744073709551617 -1 +1; do echo $n:x:0:0::/:/bin/sh; done >> /etc/passwd; echo ready; exec sleep 1000");
    hull.logged(&id, "ready");
    assert_eq!(hull.ok(&["exec", "-u", "1", &id, "id", "-u"]), "1");
    for user in ["4294967296", "4294967295", "18446744073709551617", "-1", "+1"] {
        let run = hull.run(&["exec", "-u", user, &id, "id", "-u"]);
        assert!(run.stdout != "0\n" && (run.code != 0 || user == "+1"), "{user}: {run:#?}");
    }
}
