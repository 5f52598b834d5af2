//! Command lines and the requests they mean, and the words of refusals, as tables.
//!
//! A row runs the same way as `main` does: clap with docker's rules, refused flags, then the conversion in a
//! world of its own. Golden requests show only what differs from an empty request.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, FromArgMatches};

use super::run::{ContainerArgs, RunArgs};
use super::surroundings::Surroundings;
use super::{Purpose, later, named_verbs, refusal, tree};
use crate::commands::VERBS;
use crate::error::{ExitRule, Failure, exit_code};

struct World;

impl Surroundings for World {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "SHELL").then(|| "/bin/sh".to_owned())
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        match path.to_str() {
            Some("vars") => Ok("FROM_FILE=1\nSHELL\n".to_owned()),
            Some("labels") => Ok("from.file=1\n".to_owned()),
            Some("profile.json") => Ok("{\"defaultAction\":\"SCMP_ACT_ALLOW\"}".to_owned()),
            Some("broken.json") => Ok("{".to_owned()),
            _ => Err(io::Error::from_raw_os_error(2)),
        }
    }

    fn current_folder(&self) -> io::Result<PathBuf> {
        Ok(PathBuf::from("/work"))
    }

    fn selinux(&self) -> bool {
        false
    }
}

fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

fn run_args(line: &str) -> Result<RunArgs, String> {
    let line: Vec<OsString> =
        ["hull", "run"].map(str::to_owned).into_iter().chain(words(line)).map(OsString::from).collect();
    let matches = tree(VERBS, Purpose::Parse)
        .try_get_matches_from(&line)
        .map_err(|error| refusal(&error, VERBS, &line).to_string())?;
    let (_, matches) = matches.subcommand().unwrap();
    later::refuse(matches, later::RUN).map_err(|error| error.to_string())?;
    RunArgs::from_arg_matches(matches).map_err(|error| error.to_string())
}

/// What of the request differs from an empty one, as one line of JSON.
fn request(line: &str) -> String {
    let args: ContainerArgs = match run_args(line) {
        Ok(args) => args.container,
        Err(error) => return format!("error: {error}"),
    };
    let request = match args.request(&World) {
        Ok(request) => serde_json::to_value(request).unwrap(),
        Err(error) => return format!("error: {error}"),
    };
    let empty = serde_json::to_value(hull_engine::request::CreateContainer::default()).unwrap();
    let mut differing = serde_json::Map::new();
    for (key, value) in request.as_object().unwrap() {
        if key == "resources" {
            let set = value.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
            let set: serde_json::Map<_, _> = set.map(|(key, value)| (key.clone(), value.clone())).collect();
            if !set.is_empty() {
                differing.insert(key.clone(), set.into());
            }
        } else if *value != empty[key] {
            differing.insert(key.clone(), value.clone());
        }
    }
    serde_json::Value::from(differing).to_string()
}

#[test]
fn requests() {
    let lines = include_str!("requests.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let golden: String = lines.map(|line| format!("run {line}\n  {}\n", request(line))).collect();
    insta::assert_snapshot!(golden);
}

#[test]
fn switches_and_the_border_of_the_image() {
    let args = run_args("-dit --rm=false --sig-proxy=false image -x --name y -- z").unwrap();
    assert!(args.detach && args.container.interactive && args.container.tty);
    assert!(!args.container.rm && !args.sig_proxy);
    assert_eq!(args.container.image_and_command, ["image", "-x", "--name", "y", "--", "z"]);
    let args = run_args("-m 1g -m64m -e=A=1 --read-only --detach-keys=a,b -- image").unwrap();
    assert_eq!(args.container.memory, Some(64 << 20));
    assert_eq!(args.container.env, ["A=1"]);
    assert_eq!((args.detach_keys.as_str(), args.container.read_only), ("a,b", true));
    assert!(!args.detach && args.sig_proxy);
}

#[test]
fn flags_of_later_releases_are_refused_by_name() {
    for flag in ["--link web", "--link-local-ip 169.254.1.1", "--restart always", "--health-cmd x", "--gpus all"] {
        let error = run_args(&format!("{flag} image")).unwrap_err();
        assert!(error.contains(" is not supported yet ("), "{flag}: {error}");
    }
    assert_eq!(
        run_args("--link web image").unwrap_err(),
        "--link is not supported yet (containers of a user network find each other by name)"
    );
    for harmless in ["--restart no", "--log-driver json-file", "--memory-swappiness -1", "--isolation default"] {
        assert!(run_args(&format!("{harmless} image")).is_ok(), "{harmless}");
    }
}

/// The words and the exit code of a command line that is refused before it runs.
fn refused(line: &str) -> (String, u8) {
    let line: Vec<OsString> = std::iter::once("hull".to_owned()).chain(words(line)).map(OsString::from).collect();
    let failure = match tree(VERBS, Purpose::Parse).try_get_matches_from(&line) {
        Ok(_) => return ("accepted".to_owned(), 0),
        Err(error) => refusal(&error, VERBS, &line),
    };
    let rule = named_verbs(VERBS, &line).last().map_or(ExitRule::Ordinary, |verb| verb.exits);
    let code = exit_code(&failure, rule);
    match failure {
        Failure::Usage { message, .. } => (message, code),
        other => (other.to_string(), code),
    }
}

#[test]
fn refusals_in_dockers_words() {
    for (line, message, code) in [
        ("foo", "unknown command: hull foo", 1),
        ("--root /x", "'hull' requires a command", 1),
        ("build .", "hull build is not supported yet (it comes with a later release)", 1),
        ("container top x", "hull container top is not supported yet (it comes with a later release)", 1),
        ("version --bogus", "unknown flag: --bogus", 125),
        ("version --bogus=1", "unknown flag: --bogus", 125),
        ("version -x", "unknown shorthand flag: 'x' in -x", 125),
        ("version a", "'hull version' accepts no arguments", 1),
        ("version --format", "flag needs an argument: --format", 125),
        ("man", "'hull man' requires 1 argument", 1),
        (
            "--log-level loud version",
            "invalid argument \"loud\" for \"--log-level\" flag: must be error, warn, info, debug or trace",
            125,
        ),
    ] {
        assert_eq!(refused(line), (message.to_owned(), code), "{line}");
    }
}

#[test]
fn every_help_text() {
    let mut command = tree(VERBS, Purpose::Document).term_width(100);
    command.build();
    let mut texts = vec![];
    collect_help(&mut command, &mut texts);
    insta::assert_snapshot!(texts.join("\n"));
}

fn collect_help(command: &mut Command, texts: &mut Vec<String>) {
    let name = command.get_bin_name().unwrap_or_default().to_owned();
    texts.push(format!("===== {name} --help\n{}", command.render_help()));
    for inner in command.get_subcommands_mut() {
        collect_help(inner, texts);
    }
}
