//! The binary as a user meets it, without containers: help, version, completions, man pages, and refusals.
//!
//! Every test runs the built program with a store of its own in a temporary folder. What containers do is
//! tested end to end elsewhere.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

const HULL: &str = env!("CARGO_BIN_EXE_hull");

fn hull(program: impl AsRef<std::ffi::OsStr>, folder: &Path, line: &str) -> Output {
    Command::new(program)
        .args(line.split_whitespace())
        .env("HULL_ROOT", folder.join("root"))
        .env("HULL_STATE", folder.join("state"))
        .current_dir(folder)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_and_version() {
    let folder = tempfile::tempdir().unwrap();
    for line in ["", "--help", "help", "-h"] {
        let output = hull(HULL, folder.path(), line);
        assert!(output.status.success(), "{line}");
        assert!(stdout(&output).starts_with("Usage:  hull [OPTIONS] COMMAND\n"), "{line}");
    }
    let run = stdout(&hull(HULL, folder.path(), "run --help"));
    assert!(run.contains("It can read\n         every file that its user may read."), "{run}");
    assert_eq!(stdout(&hull(HULL, folder.path(), "help run")), run);
    assert_eq!(stdout(&hull(HULL, folder.path(), "--version")), format!("hull {}\n", env!("CARGO_PKG_VERSION")));
    let format = hull(HULL, folder.path(), "version --format {{.Version}}");
    assert_eq!(stdout(&format), format!("{}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_and_man_pages() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = hull(HULL, folder.path(), &format!("completion {shell}"));
        assert!(output.status.success() && stdout(&output).contains("memory-swap"), "{shell}");
    }
    assert!(hull(HULL, folder.path(), "man pages").status.success());
    for page in ["hull.1", "hull-run.1", "hull-container-rm.1"] {
        let text = fs::read_to_string(folder.path().join("pages").join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
}

#[test]
fn refusals_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    for (line, code, message) in [
        ("run", 125, "Error: 'hull run' requires at least 1 argument\n"),
        (
            "run --link web hello",
            125,
            "Error: --link is not supported yet (containers of a user network find each other by name)\n",
        ),
        ("run -m x hello", 125, "Error: invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'\n"),
        ("run -v a:b:c:d hello", 125, "Error: invalid argument \"a:b:c:d\" for \"-v, --volume\" flag"),
        ("run --env-file none hello", 125, "Error: cannot read --env-file none\n  caused by: No such file"),
        ("run -it hello", 125, "Error: the input device is not a TTY\n"),
        ("run --detach-keys ctrl-! hello", 125, "Error: invalid detach keys (ctrl-!)"),
        ("cp a b", 1, "Error: must specify at least one container source\n"),
        ("cp a:b c:d", 1, "Error: copying between containers is not supported\n"),
        ("inspect --format {{.Id x", 64, "Error: template parsing error: template: :1: unclosed action\n"),
        ("ps --format {{nope}}", 64, "Error: template parsing error: template: :1: function \"nope\" not defined\n"),
        ("bogus", 1, "Error: unknown command: hull bogus\n"),
        ("push x", 1, "Error: An image does not exist locally with the tag: x:latest\n"),
        ("stats", 1, "Error: hull stats is not supported yet"),
        ("start -a a b", 1, "Error: you cannot start and attach multiple containers at once\n"),
    ] {
        let output = hull(HULL, folder.path(), line);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", stderr(&output));
        assert!(stderr(&output).starts_with(message), "{line}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{line}");
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "root" || name == "state"), "{left:?}");
}

#[test]
fn errors_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let output = hull(HULL, folder.path(), "--log-format json cp a b");
    let line: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(line["message"], "must specify at least one container source");
}

#[test]
fn without_roots_rights() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("hull");
    // By another process: a program that this one has open for writing could not be executed.
    assert!(Command::new("cp").arg(HULL).arg(&copy).status().unwrap().success());
    let output = Command::new(&copy).args(["run", "hello"]).uid(65534).gid(65534).current_dir("/").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).starts_with("Error: Hull has to run as root for now"), "{}", stderr(&output));
    assert!(stderr(&output).contains("\nHint: "), "{}", stderr(&output));
}
