//! How the OCI runtime command line tells failures: as log lines on stderr, or in the caller's log file and in plain words
//! on stderr.
//!
//! The log is the one that containerd's shim, dockerd and conmon read back: with `--log-format json` an object with
//! `level`, `msg` and `time` on each line. The words that those programs look for are the runtime's own, in
//! `hull_runtime`; a create that failed is introduced as runc does it.

use std::error::Error;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hull_runtime::container::ContainerError;

use super::args::FrontArgs;
use crate::error::Failure;
use clap::ArgMatches;

/// How grave a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gravity {
    /// The command has failed.
    Error,
    /// Something has, and the command went on.
    Warning,
}

impl Gravity {
    fn word(self) -> &'static str {
        match self {
            Gravity::Error => "error",
            Gravity::Warning => "warning",
        }
    }
}

/// A failure and its causes in one line; a cause whose words were said already is left out.
pub fn line(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut next = failure.source();
    while let Some(cause) = next {
        let words = words(cause);
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    match failure {
        Failure::Runtime(ContainerError::Create(_)) => format!("unable to start container process: {text}"),
        _ => text,
    }
}

/// A cause; an errno in the words of Go's programs, which is what their users and tests look for.
fn words(cause: &(dyn Error + 'static)) -> String {
    let text = cause.to_string();
    match cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
        Some(number) => text.trim_end_matches(&format!(" (os error {number})")).to_lowercase(),
        None => text,
    }
}

/// Where messages go: stderr, or the file that the caller reads them from.
#[derive(Debug, Clone)]
pub struct Log {
    path: Option<PathBuf>,
    format: String,
}

impl Log {
    /// From the flags before the command, whatever that is.
    pub fn of(front: &FrontArgs) -> Log {
        Log { path: front.log.clone(), format: front.log_format.clone() }
    }

    /// The same, when the command line has no meaning.
    pub fn of_matches(matches: &ArgMatches) -> Log {
        Log {
            path: matches.get_one::<PathBuf>("log").cloned(),
            format: matches.get_one::<String>("log_format").cloned().unwrap_or_default(),
        }
    }

    /// From a command line that is none, as far as its flags before the command can be made out.
    pub fn of_words(words: &[OsString]) -> Log {
        let words: Vec<&str> = words.iter().skip(1).map(|word| word.to_str().unwrap_or_default()).collect();
        let given = |flag: &str| {
            let joined = format!("{flag}=");
            let position = words.iter().position(|word| *word == flag || word.starts_with(&joined))?;
            let value = words[position].strip_prefix(&joined).or_else(|| words.get(position + 1).copied())?;
            Some(value.to_owned())
        };
        Log { path: given("--log").map(PathBuf::from), format: given("--log-format").unwrap_or_default() }
    }

    /// Writes a message into the log, and a failure in plain words to stderr; without `--log`, stderr is the log.
    pub fn tell(&self, gravity: Gravity, text: &str) {
        let now = jiff::Timestamp::now();
        let Some(path) = &self.path else {
            if self.format != "json" && rustix::termios::isatty(io::stderr()) {
                eprint!("{}", terminal_line(gravity, text));
            } else {
                eprint!("{}", log_line(&self.format, gravity, text, now));
            }
            return;
        };
        if gravity == Gravity::Error {
            eprintln!("{text}");
        }
        if let Err(error) = append(path, &log_line(&self.format, gravity, text, now)) {
            eprintln!("cannot write to the log {}: {error}", path.display());
        }
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(line.as_bytes())
}

/// One line of the log, in the two forms of logrus, the library that Go's container programs log with.
fn log_line(format: &str, gravity: Gravity, text: &str, now: jiff::Timestamp) -> String {
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ");
    let level = gravity.word();
    if format == "json" {
        let text = serde_json::Value::from(text).to_string();
        // As encoding/json, which makes its text safe for web pages.
        let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
        return format!("{{\"level\":\"{level}\",\"msg\":{text},\"time\":\"{time}\"}}\n");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    let text = if text.chars().all(plain) { text.to_owned() } else { quoted(text) };
    format!("time=\"{time}\" level={level} msg={text}\n")
}

/// What a person on a terminal gets: four letters, in colour, the seconds since the start, which are none, and the text.
fn terminal_line(gravity: Gravity, text: &str) -> String {
    let (colour, word) = match gravity {
        Gravity::Error => (31, "ERRO"),
        Gravity::Warning => (33, "WARN"),
    };
    format!("\x1b[{colour}m{word}\x1b[0m[0000] {text:<44} \n")
}

/// Go's quoting (`%q`).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_oci::runtime::Status;
    use hull_runtime::failure::{InitFailure, Step};
    use rustix::io::Errno;

    #[test]
    fn log_lines_are_those_that_engines_read() {
        let now = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        let text = "exec: \"nope\": executable file not found in $PATH";
        assert_eq!(
            log_line("json", Gravity::Error, text, now),
            "{\"level\":\"error\",\"msg\":\"exec: \\\"nope\\\": executable file not found in $PATH\",\
             \"time\":\"2023-11-14T22:13:20Z\"}\n"
        );
        assert_eq!(
            log_line("text", Gravity::Warning, text, now),
            "time=\"2023-11-14T22:13:20Z\" level=warning \
             msg=\"exec: \\\"nope\\\": executable file not found in $PATH\"\n"
        );
    }

    #[test]
    fn text_is_quoted_as_go_does_it() {
        let now = jiff::Timestamp::from_second(0).unwrap();
        let line = |format, text| log_line(format, Gravity::Error, text, now);
        assert_eq!(line("text", "nope"), "time=\"1970-01-01T00:00:00Z\" level=error msg=nope\n");
        assert_eq!(
            line("text", "a \"b\"\n\u{1b}\\"),
            "time=\"1970-01-01T00:00:00Z\" level=error msg=\"a \\\"b\\\"\\n\\x1b\\\\\"\n"
        );
        assert_eq!(
            line("json", "<a & b>"),
            "{\"level\":\"error\",\"msg\":\"\\u003ca \\u0026 b\\u003e\",\"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
    }

    #[test]
    fn the_log_is_found_in_words_that_are_no_command() {
        let of = |line: &str| Log::of_words(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        let log = of("runc --log /l --log-format=json --bogus");
        assert_eq!((log.path, log.format.as_str()), (Some(PathBuf::from("/l")), "json"));
        assert_eq!(of("runc --log").path, None);
    }

    /// A failure of a command on a container as its caller reads it.
    fn said(error: ContainerError) -> String {
        line(&Failure::Runtime(error))
    }

    /// A create, start or exec whose process failed at a step.
    fn step(step: Step, subject: &str, errno: Errno) -> String {
        said(ContainerError::Create(InitFailure::new(step, subject, errno).into()))
    }

    /// The words that programs and people look for in what a runtime says, where, and what is said here.
    fn clients_words() -> Vec<(&'static str, String)> {
        let file =
            |errno: Errno| ContainerError::File { action: "open", path: "/b/config.json".into(), source: errno.into() };
        vec![
            // moby daemon/errors.go translateContainerdStartErr (exit code 127); podman libpod/oci_util.go
            // getOCIRuntimeError (127); both in any case of letters.
            ("executable file not found in $PATH", step(Step::Exec, "nope", Errno::NOENT)),
            ("no such file or directory", step(Step::Exec, "/nope", Errno::NOENT)),
            ("no such file or directory", said(file(Errno::NOENT))),
            // The same two (126): EACCES in moby, this or the next in podman.
            ("permission denied", step(Step::Exec, "/etc", Errno::ACCESS)),
            ("permission denied", said(file(Errno::ACCESS))),
            ("operation not permitted", step(Step::Exec, "/x", Errno::PERM)),
            // moby daemon/errors.go: ENOTDIR, a file mounted onto a directory or the other way round.
            ("not a directory", step(Step::Mount, "/x", Errno::NOTDIR)),
            // containerd cmd/containerd-shim-runc-v2/process/utils.go checkKillError, which makes "process already
            // finished" of it and "no such container" of the next.
            ("container not running", said(ContainerError::NotRunning)),
            ("does not exist", said(ContainerError::Missing)),
            // runc libcontainer/error.go, exec.go, start.go, delete.go and checkpoint.go: not matched by the programs above,
            // but shown as they are to their users, whose scripts look for them.
            ("container with given ID already exists", said(ContainerError::Exists)),
            ("container does not exist", said(ContainerError::Missing)),
            ("container not running", said(ContainerError::CannotPause)),
            ("container not paused", said(ContainerError::NotPaused)),
            ("cannot exec in a stopped container", said(ContainerError::ExecStopped)),
            ("cannot exec in a paused container (use --ignore-paused to override)", said(ContainerError::ExecPaused)),
            (
                "cannot start an already running container",
                said(ContainerError::NotCreated("an already running container")),
            ),
            (
                "cannot start a container that has stopped",
                said(ContainerError::NotCreated("a container that has stopped")),
            ),
            (
                "cannot delete container box that is not stopped: running",
                said(ContainerError::NotStopped { id: "box".to_owned(), status: Status::Running }),
            ),
            (
                "Container cannot be checkpointed in created state",
                said(ContainerError::CannotCheckpoint(Status::Created)),
            ),
            // runc libcontainer/container_linux.go, what every message of a process that could not be started begins with.
            ("unable to start container process: exec: \"nope\"", step(Step::Exec, "nope", Errno::NOENT)),
        ]
    }

    #[test]
    fn the_words_that_clients_match_on() {
        for (words, said) in clients_words() {
            assert!(said.contains(words), "{words:?} is not in {said:?}");
            assert_eq!(said.lines().count(), 1, "{said:?}");
            let now = jiff::Timestamp::from_second(1_700_000_000).unwrap();
            let line: serde_json::Value =
                serde_json::from_str(&log_line("json", Gravity::Error, &said, now)).expect("a line of JSON");
            // What containerd's getLastRuntimeError and podman's ociError read back.
            assert_eq!((line["level"].as_str(), line["msg"].as_str()), (Some("error"), Some(said.as_str())));
        }
    }
}
