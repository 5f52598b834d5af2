//! Failures as the user sees them: `Error:`, its causes, a `Hint:`, and the exit code.
//!
//! | code  | meaning                                                                  |
//! |-------|--------------------------------------------------------------------------|
//! | 0     | done; for `run`, `start -a`, `exec`, `attach`: the process's own code      |
//! | 1     | the command failed, for some or all of its names                         |
//! | 125   | a bad flag; anything that kept `run` or `create` from their container    |
//! | 126   | the program in the container cannot be executed                          |
//! | 127   | the program is not in the container                                      |
//! | 128+n | the process was killed by signal n                                       |
//!
//! [`exit_code`] is the only place that turns a failure into a number.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use hull_engine::{EngineError, ErrorKind};
use hull_oci::Reference;

use crate::args::UsageKind;
use crate::args::later::NotYet;
use crate::args::run::RequestError;
use crate::args::system::LogFormat;
use crate::output::template::TemplateError;

/// Which exit codes the failures of a command have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitRule {
    /// `run` and `create`: 125 is Hull's own failure.
    Run,
    /// `exec` and `start`: 126 and 127 are the program's, 1 is the rest.
    Exec,
    /// All others.
    Ordinary,
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line is wrong.
    #[error("{message}")]
    Usage {
        /// What is wrong, in docker's words.
        message: String,
        /// How the command is used.
        usage: String,
        /// The command whose help says more.
        help: String,
        /// What about it is wrong.
        kind: UsageKind,
    },
    /// Arguments that cannot be together, or a value that only shows itself as wrong here.
    #[error("{0}")]
    Arguments(String),
    /// A flag of a later release.
    #[error(transparent)]
    NotYet(#[from] NotYet),
    /// Arguments that are no request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The engine said no.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An image could not be fetched or brought to a registry.
    #[error("cannot {action} {image}")]
    Registry {
        /// pull or push.
        action: &'static str,
        /// Its name, in docker's short form.
        image: String,
        /// Why.
        source: Box<EngineError>,
    },
    /// The OCI runtime said no.
    #[error(transparent)]
    Runtime(#[from] hull_runtime::container::ContainerError),
    /// The supervisor of a container said no.
    #[error(transparent)]
    Client(#[from] hull_supervisor::client::ClientError),
    /// Attaching failed.
    #[error(transparent)]
    Attach(#[from] hull_supervisor::client::attach::AttachError),
    /// `--format` is no template, or does not fit.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A document has no JSON form.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
    /// A file of the user's.
    #[error("cannot {action} {path}", path = path.display())]
    Path {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A standard stream.
    #[error("cannot {action}")]
    Stream {
        /// What was being done.
        action: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// A container or process that could not be started; the code is 125, 126 or 127.
    #[error("{text}")]
    NotStarted {
        /// What its launch said.
        text: String,
        /// The exit code.
        code: u8,
    },
    /// A container ended while nobody looked, and its exit code is lost.
    #[error("the exit code is not known: nobody saw the container end")]
    ExitUnknown,
    /// All that had to be said was said already.
    #[error("some of the names failed")]
    Reported,
}

impl From<hull_image::registry::RegistryError> for Failure {
    fn from(error: hull_image::registry::RegistryError) -> Failure {
        Failure::Engine(error.into())
    }
}

impl Failure {
    /// A failure with a path, for `map_err`.
    pub fn path(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Failure {
        let path = path.into();
        move |source| Failure::Path { action, path, source }
    }

    /// The engine's failure to make or fetch something of an image, which is named when it was the registry's.
    pub fn of_image(image: &str) -> impl FnOnce(EngineError) -> Failure {
        let image = Reference::parse(image).map_or_else(|_| image.to_owned(), |reference| reference.familiar());
        move |error| match error {
            EngineError::Registry(_) => Failure::Registry { action: "pull", image, source: Box::new(error) },
            error => Failure::Engine(error),
        }
    }

    /// The engine's failure to push an image, which is named when it was the registry's.
    pub fn of_push(image: &str) -> impl FnOnce(EngineError) -> Failure {
        move |error| match error {
            EngineError::Registry(_) => {
                Failure::Registry { action: "push", image: image.to_owned(), source: Box::new(error) }
            }
            error => Failure::Engine(error),
        }
    }

    /// A failure of a standard stream, for `map_err`.
    pub fn stream(action: &'static str) -> impl FnOnce(std::io::Error) -> Failure {
        move |source| Failure::Stream { action, source }
    }

    /// What may help.
    fn hint(&self) -> Option<String> {
        match self {
            Failure::Usage { help, .. } => Some(format!("run '{help} --help' for more information")),
            Failure::Engine(error) => error.hint(),
            Failure::Registry { source, .. } => source.hint(),
            _ => None,
        }
    }
}

/// The exit code of a failure.
pub fn exit_code(failure: &Failure, rule: ExitRule) -> u8 {
    let ordinary = if rule == ExitRule::Run { 125 } else { 1 };
    match failure {
        Failure::Usage { kind: UsageKind::Flag, .. } | Failure::NotYet(_) | Failure::Request(_) => 125,
        Failure::NotStarted { code, .. } => *code,
        Failure::Engine(error) => match (error.kind(), rule) {
            (ErrorKind::CommandNotFound, ExitRule::Run | ExitRule::Exec) => 127,
            (ErrorKind::CommandNotExecutable, ExitRule::Run | ExitRule::Exec) => 126,
            _ => ordinary,
        },
        // Docker gives this one its own code.
        Failure::Template(TemplateError::Parse { .. }) if rule == ExitRule::Ordinary => 64,
        _ => ordinary,
    }
}

/// The lines that tell a failure.
pub fn described(failure: &Failure, format: LogFormat) -> String {
    let message = failure.to_string();
    let causes = causes(failure, &message);
    let hint = failure.hint();
    if format == LogFormat::Json {
        let line = serde_json::json!({"level": "error", "message": message, "causes": causes, "hint": hint});
        return format!("{line}\n");
    }
    let mut text = format!("Error: {message}\n");
    for cause in causes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  caused by: {cause}");
    }
    if let Failure::Usage { usage, .. } = failure {
        let _ = writeln!(text, "\nUsage:  {usage}\n");
    }
    if let Some(hint) = hint {
        let _ = writeln!(text, "Hint: {hint}");
    }
    text
}

/// The causes below a failure; one whose words the line above it already has is left out.
fn causes(failure: &Failure, message: &str) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut next = failure.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        let above = causes.last().map_or(message, String::as_str);
        if !above.contains(&text) {
            causes.push(text);
        }
        next = cause.source();
    }
    causes
}

/// Tells a failure on stderr; nothing when all was said.
pub fn report(failure: &Failure, format: LogFormat) {
    if !matches!(failure, Failure::Reported) {
        eprint!("{}", described(failure, format));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(kind: UsageKind) -> Failure {
        Failure::Usage {
            message: "unknown flag: --x".to_owned(),
            usage: "hull ps [OPTIONS]".to_owned(),
            help: "hull ps".to_owned(),
            kind,
        }
    }

    #[test]
    fn codes() {
        use ExitRule::{Exec, Ordinary, Run};
        let stream = || Failure::stream("write")(std::io::ErrorKind::BrokenPipe.into());
        let no_such = || Failure::Engine(EngineError::NoSuchContainer { name: "x".to_owned() });
        let late = || Failure::NotYet(NotYet { flag: "publish", reason: "later" });
        let template = || Failure::Template(crate::output::template::Template::parse("{{").unwrap_err());
        for (failure, rule, code) in [
            (usage(UsageKind::Flag), Ordinary, 125),
            (usage(UsageKind::Count), Ordinary, 1),
            (usage(UsageKind::Count), Run, 125),
            (late(), Run, 125),
            (stream(), Run, 125),
            (stream(), Ordinary, 1),
            (no_such(), Run, 125),
            (no_such(), Exec, 1),
            (no_such(), Ordinary, 1),
            (template(), Ordinary, 64),
            (Failure::NotStarted { text: String::new(), code: 127 }, Exec, 127),
            (Failure::Reported, Ordinary, 1),
        ] {
            assert_eq!(exit_code(&failure, rule), code, "{failure} {rule:?}");
        }
    }

    #[test]
    fn text_and_json() {
        assert_eq!(
            described(&usage(UsageKind::Flag), LogFormat::Text),
            "Error: unknown flag: --x\n\nUsage:  hull ps [OPTIONS]\n\nHint: run 'hull ps --help' for more information\n"
        );
        let failure = Failure::path("write", "/x")(std::io::Error::other("disk full"));
        assert_eq!(described(&failure, LogFormat::Text), "Error: cannot write /x\n  caused by: disk full\n");
        assert_eq!(
            described(&failure, LogFormat::Json),
            "{\"causes\":[\"disk full\"],\"hint\":null,\"level\":\"error\",\"message\":\"cannot write /x\"}\n"
        );
    }
}
