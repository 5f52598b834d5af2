//! The command lines that dockerd, containerd's shim, conmon and people write, and the documents they get.

use super::*;
use crate::oci::args::RunBundleArgs;

fn parse(line: &str) -> Result<OciArgs, String> {
    let words = std::iter::once("runc").chain(line.split_whitespace());
    let matches = args::tree("runc").try_get_matches_from(words).map_err(|error| error.to_string())?;
    refuse_later(&matches).map_err(|failure| failure.to_string())?;
    OciArgs::from_arg_matches(&matches).map_err(|error| error.to_string())
}

#[test]
fn what_engines_write_is_understood() {
    let shim = "--root /run/containerd/runc/moby --log /b/log.json --log-format json create --bundle /b \
                --pid-file /b/init.pid --console-socket /tmp/pty.sock box";
    let arguments = parse(shim).unwrap();
    assert_eq!(arguments.front.root, Path::new("/run/containerd/runc/moby"));
    assert_eq!(
        (arguments.front.log.as_deref(), arguments.front.log_format.as_str()),
        (Some(Path::new("/b/log.json")), "json")
    );
    let OciCommand::Create(create) = arguments.command else { panic!("not a create") };
    assert_eq!((create.id.as_str(), create.bundle.as_path()), ("box", Path::new("/b")));
    assert_eq!(create.pid_file.as_deref(), Some(Path::new("/b/init.pid")));
    assert_eq!(create.console_socket.as_deref(), Some(Path::new("/tmp/pty.sock")));

    for line in [
        "--log=/b/log --log-format=json --root=/run/crun create --bundle /b --pid-file /b/pidfile box",
        "--root /r --systemd-cgroup=false --rootless=auto create -b /b --preserve-fds 0 box",
        "--systemd-cgroup create box",
        "--rootless false start box",
        "--debug state box",
        "kill box KILL",
        "kill --all box 15",
        "delete --force box",
        "delete box",
        "list -q",
        "list --format=json",
        "exec --process /b/process.json --detach --pid-file /b/p --console-socket /s box",
        "exec -t -e A=1 -e B=2 -u 1:1 -c CAP_CHOWN --cwd / box sh -c x",
        "ps --format json box",
        "pause box",
        "resume box",
        "spec --bundle /b",
        "features",
        "--criu /x list",
        "create --no-pivot=false --no-new-keyring=true box",
        "--rootless true run --no-pivot box",
        "--rootless= create box",
        "exec --preserve-fds=2 --cgroup cpu:a --cgroup memory:b --apparmor p --process-label l --detach=false box true",
        "ps box -o pid,cmd",
        "ps box --forest",
        "spec --rootless",
        "checkpoint --image-path /i --work-path /w --leave-running --file-locks --ext-unix-sk box",
        "checkpoint --pre-dump --parent-path ../a --manage-cgroups-mode soft --empty-ns network --status-fd -1 box",
        "restore -d --detach --pid-file /p --no-subreaper --no-pivot=false --image-path /i -b /b --shell-job box",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn run_has_what_create_has_and_more() {
    let arguments = parse("run -d --keep --no-subreaper --no-new-keyring --bundle=/b box").unwrap();
    let OciCommand::Run(RunBundleArgs { detach, keep, no_subreaper, bundle }) = arguments.command else {
        panic!("not a run")
    };
    assert!(detach && keep && no_subreaper && bundle.no_new_keyring);
    assert_eq!(bundle.id, "box");
    assert_eq!(arguments.front.root, Path::new("/run/hull-oci"));
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    for (line, name) in
        [("restore --no-pivot box", "--no-pivot"), ("restore --console-socket /s box", "--console-socket")]
    {
        let error = parse(line).unwrap_err();
        assert!(error.contains(name) && error.contains("is not supported yet"), "{line}: {error}");
    }
}

#[test]
fn what_is_wrong_is_an_error() {
    for line in ["", "create", "create a b", "bogus", "create --bogus a", "list -f yaml", "--log-format xml list"] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn the_version_has_the_lines_that_engines_read() {
    let error = args::tree("runc").try_get_matches_from(["runc", "--version"]).unwrap_err();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, [&format!("runc version {}", env!("CARGO_PKG_VERSION")), "spec: 1.3.0"]);
}

#[test]
fn a_switch_can_be_said_to_be_off() {
    let OciCommand::Run(run) = parse("run -d --keep=false --detach=false box").unwrap().command else {
        panic!("not a run")
    };
    assert!(!run.detach && !run.keep);
    let OciCommand::Exec(exec) = parse("exec --no-new-privs=false -t=true box true").unwrap().command else {
        panic!("not an exec")
    };
    assert!(exec.tty && exec.no_new_privs == Some(false));
}

#[test]
fn what_follows_the_id_of_an_exec_is_its_command() {
    let OciCommand::Exec(exec) = parse("exec -e A=1 -e B=2 -d box ls -d --force").unwrap().command else {
        panic!("not an exec")
    };
    assert_eq!(exec.env, ["A=1", "B=2"]);
    assert_eq!(exec.command, ["ls", "-d", "--force"]);
}
