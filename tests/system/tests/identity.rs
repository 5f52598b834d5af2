//! Who the process is and where it stands: environment, user, working directory, entrypoint, names, files of /etc.

use std::fs;

use serde_json::json;
use system_tests::Hull;
use system_tests::archive::{Image, Layer};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn environment(hull: &Hull, flags: &[&str]) -> Vec<String> {
    hull.ok(&[&["run", "--rm"], flags, &["busybox", "env"]].concat()).lines().map(str::to_owned).collect()
}

#[track_caller]
fn has(environment: &[String], variable: &str) {
    assert!(environment.iter().any(|line| line == variable), "no {variable} in {environment:?}");
}

#[test]
fn the_environment_is_dockers() {
    let hull = Hull::with_busybox();
    let all = environment(&hull, &["--hostname", "box"]);
    for variable in [format!("PATH={PATH}").as_str(), "HOSTNAME=box", "HOME=/root"] {
        has(&all, variable);
    }
    assert_eq!(all.len(), 3, "and nothing of this process's own: {all:?}");
}

#[test]
fn variables_come_from_flags_files_and_this_process() {
    let hull = Hull::with_busybox();
    let file = hull.write("env", "# a comment\n\nONE=from file\nTWO=2=3\nHULL_TEST_PASSED\n");
    let mut command = hull.command(&["run", "--rm", "--env-file", &file, "-e", "ONE=flag", "-e", "HULL_TEST_GIVEN"]);
    command.args(["-e", "HULL_TEST_MISSING", "-e", "PATH=/bin", "busybox", "env"]);
    let output = command.env("HULL_TEST_GIVEN", "here").env("HULL_TEST_PASSED", "too").output().expect("hull");
    let all: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    for variable in ["ONE=flag", "TWO=2=3", "HULL_TEST_GIVEN=here", "HULL_TEST_PASSED=too", "PATH=/bin"] {
        has(&all, variable);
    }
    assert!(!all.iter().any(|line| line.contains("MISSING")), "{all:?}");
    let missing = hull.file("nosuch");
    let said = hull.refused(125, &["run", "--rm", "--env-file", &missing, "busybox", "true"]);
    assert!(said.contains(&missing), "{said}");
}

#[test]
fn the_working_directory_is_made_when_missing() {
    let hull = Hull::with_busybox();
    assert_eq!(hull.inside(&[], "pwd"), "/");
    assert_eq!(hull.inside(&["-w", "/etc"], "pwd"), "/etc");
    assert_eq!(hull.inside(&["-w", "/not/there/yet"], "pwd; stat -c %u:%a ."), "/not/there/yet\n0:755");
    let said = hull.refused(125, &["run", "--rm", "-w", "relative", "busybox", "true"]);
    assert!(said.contains("relative"), "{said}");
    let said = hull.run(&["run", "--rm", "-w", "/etc/passwd", "busybox", "true"]);
    assert!(matches!(said.code, 125..=127) && said.stderr.contains("/etc/passwd"), "{said:#?}");
}

#[test]
fn a_user_is_found_by_name_and_by_number() {
    let hull = Hull::with_busybox();
    for (user, expected) in [
        ("user", "1000 1000 50 1000"),
        ("1000", "1000 1000 50 1000"),
        ("user:staff", "1000 50 50"),
        ("1000:50", "1000 50 50"),
        ("4321", "4321 0 0"),
        ("4321:1234", "4321 1234 1234"),
        ("root", "0 0 0"),
    ] {
        let said = hull.inside(&["-u", user], "id -u; id -g; sed -n 's/Groups://p' /proc/self/status");
        assert_eq!(
            said.split_whitespace().collect::<Vec<_>>().join(" "),
            expected,
            "user, group and all groups of {user}"
        );
    }
    let said = hull.inside(&["-u", "user", "--group-add", "777", "--group-add", "root"], "id -G; echo $HOME");
    let (groups, home) = said.split_once('\n').expect("two lines");
    let mut groups: Vec<u32> = groups.split(' ').map(|group| group.parse().expect("a group")).collect();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!((groups, home), (vec![0, 50, 777, 1000], "/home"));
}

#[test]
fn an_unknown_user_or_group_is_refused() {
    let hull = Hull::with_busybox();
    for (flags, name) in
        [(["-u", "nobody9"], "nobody9"), (["-u", "root:nogroup9"], "nogroup9"), (["--group-add", "extra9"], "extra9")]
    {
        let said = hull.refused(125, &[&["run", "--rm"], &flags[..], &["busybox", "true"]].concat());
        assert!(said.contains(name), "{said}");
    }
    assert_eq!(hull.containers(), Vec::<String>::new());
}

#[test]
fn the_images_wishes_hold_until_overruled() {
    let mut hull = Hull::new();
    let config = json!({
        "Env": ["PATH=/bin", "FROM=image", "BOTH=image"], "Entrypoint": ["echo", "entry"], "Cmd": ["command"],
        "User": "user", "WorkingDir": "/made/by/image", "StopSignal": "SIGUSR1", "Labels": {"made": "here"},
        "ExposedPorts": {"80/tcp": {}},
    });
    let archive = hull.files().join("wishes.tar");
    Image::new("wishes", config).layer(Layer::new()).write(&archive);
    hull.load(&archive);
    let run = |flags: &[&str], command: &[&str]| hull.ok(&[&["run", "--rm"], flags, &["wishes"], command].concat());
    assert_eq!(run(&[], &[]), "entry command");
    assert_eq!(run(&[], &["other", "words"]), "entry other words");
    assert_eq!(run(&["--entrypoint", "pwd"], &[]), "/made/by/image");
    assert_eq!(run(&["--entrypoint", ""], &["id", "-un"]), "user");
    assert_eq!(run(&["--entrypoint", "id", "-u", "0"], &["-u"]), "0");
    let all = run(&["--entrypoint", "env", "-e", "BOTH=flag"], &[]);
    for line in ["PATH=/bin", "FROM=image", "BOTH=flag", "HOME=/home"] {
        assert!(all.lines().any(|found| found == line), "no {line} in\n{all}");
    }
    let id = hull.ok(&["create", "--label", "own=1", "wishes"]);
    let config = &hull.inspect(&id)["Config"];
    assert_eq!(config["StopSignal"], "SIGUSR1");
    assert_eq!(config["Labels"], json!({"made": "here", "own": "1"}));
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}}));
}

#[test]
fn an_image_without_a_command_needs_one() {
    let mut hull = Hull::new();
    let archive = hull.files().join("mute.tar");
    Image::new("mute", json!({"Env": ["PATH=/bin"]})).write(&archive);
    hull.load(&archive);
    let said = hull.refused(125, &["run", "--rm", "mute"]);
    assert!(said.to_lowercase().contains("no command specified"), "{said}");
    assert_eq!(hull.ok(&["run", "--rm", "mute", "echo", "x"]), "x");
}

#[test]
fn the_host_name_is_everywhere() {
    let hull = Hull::with_busybox();
    let script = "hostname; cat /proc/sys/kernel/domainname /etc/hostname; grep -c box.example /etc/hosts";
    let flags = ["--hostname", "box", "--domainname", "example"];
    assert_eq!(hull.inside(&flags, script), "box\nexample\nbox\n1");
    let id = hull.ok(&["run", "-d", "busybox", "sleep", "1000"]);
    assert_eq!(hull.ok(&["exec", &id, "hostname"]), id[..12]);
    let own = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    assert_ne!(own.trim(), &id[..12]);
}

#[test]
fn names_are_resolved_without_a_network() {
    let hull = Hull::with_busybox();
    let hosts = hull.inside(&[], "cat /etc/hosts");
    assert!(hosts.contains("127.0.0.1\tlocalhost") || hosts.contains("127.0.0.1 localhost"), "{hosts}");
    for file in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
        hull.sh(&[], &format!("test -s {file} || test -e {file}; echo >> {file}")).expect(0);
        hull.sh(&["--network", "none", "--read-only"], &format!("test -e {file}")).expect(0);
    }
}
