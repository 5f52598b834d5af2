//! The commands: a table of verbs, and one file for what each does.
//!
//! A command turns its arguments into a request, hands it to the engine, and prints the answer. Commands that
//! take several names go on after a failure and end with 1 when there was one ([`each`]).

mod attach;
mod changes;
mod completion;
mod cp;
mod create;
mod exec;
mod foreground;
mod help;
mod history;
mod image;
mod image_filter;
mod image_tree;
mod images;
mod info;
mod inspect;
mod login;
mod logs;
mod man;
mod manifest;
mod network;
mod port;
mod prune;
mod ps;
mod rm;
mod run;
mod start;
mod stop;
mod system;
mod table;
mod update;
mod version;
mod volume;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, FromArgMatches};
use hull_engine::Engine;
use hull_store::Roots;

use crate::args::system::{GlobalArgs, LogFormat};
use crate::args::{self, Body, Purpose, Verb};
use crate::error::{ExitRule, Failure, exit_code, report};
use crate::output::messages;

pub use table::VERBS;

/// What every command gets besides its own arguments.
pub struct Context {
    /// The options before the command.
    pub global: GlobalArgs,
}

impl Context {
    /// The engine on the folders of `--root` and `--state`.
    ///
    /// # Errors
    /// Without root's rights, or when the store cannot be opened.
    pub fn engine(&self) -> Result<Engine, Failure> {
        // Supervisors get these folders too, and have another current folder.
        let absolute = |path: &Path| std::path::absolute(path).map_err(Failure::path("find", path));
        let engine = Engine::open(Roots::new(absolute(&self.global.root)?, absolute(&self.global.state)?))?;
        Ok(match self.global.config.as_deref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => engine.configured_by(absolute(path)?),
            None => engine,
        })
    }

    /// How messages on stderr look.
    pub fn log_format(&self) -> LogFormat {
        self.global.log_format
    }
}

/// Runs a command line; `words` begins with the program's name.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let matches = match args::tree(VERBS, Purpose::Parse).try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(error) => return without_command(&error, &words),
    };
    let global = match GlobalArgs::from_arg_matches(&matches) {
        Ok(global) => global,
        Err(error) => return without_command(&error, &words),
    };
    let (verb, matches) = chosen(VERBS, &matches);
    messages::tell(crate::oci::level(verb, matches).unwrap_or(global.log_level), global.log_format);
    let context = Context { global };
    let Body::Leaf { run, .. } = verb.body else {
        return ExitCode::FAILURE;
    };
    match run(matches, &context) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(&failure, context.log_format());
            ExitCode::from(exit_code(&failure, verb.exits))
        }
    }
}

/// Help, version, and command lines that are none.
fn without_command(error: &clap::Error, words: &[OsString]) -> ExitCode {
    let path = args::named_verbs(VERBS, words);
    match error.kind() {
        ErrorKind::DisplayHelp if args::has_words_of_its_own(&path) => {
            finished(write_stdout(error.to_string().as_bytes()))
        }
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let names: Vec<&str> = path.iter().map(|verb| verb.name).collect();
            finished(write_stdout(args::help(VERBS, &names).to_string().as_bytes()))
        }
        ErrorKind::DisplayVersion => finished(write_stdout(error.to_string().as_bytes())),
        _ => {
            let failure = args::refusal(error, VERBS, words);
            report(&failure, LogFormat::Text);
            let rule = path.last().map_or(ExitRule::Ordinary, |verb| verb.exits);
            ExitCode::from(exit_code(&failure, rule))
        }
    }
}

fn finished(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, LogFormat::Text);
            ExitCode::FAILURE
        }
    }
}

/// The verb that clap chose, through the groups, and its matches.
fn chosen<'a>(verbs: &'static [Verb], matches: &'a ArgMatches) -> (&'static Verb, &'a ArgMatches) {
    let (name, inner) = matches.subcommand().expect("clap asks for a command");
    let verb = verbs.iter().find(|verb| verb.name == name).expect("clap knows the commands of the table only");
    match verb.body {
        Body::Leaf { .. } => (verb, inner),
        Body::Group(verbs) => chosen(verbs, inner),
    }
}

/// Writes a command's result. A reader that has gone away (`hull ps | head -1`) is no failure.
///
/// # Errors
/// When stdout cannot be written to.
pub fn write_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::stream("write to stdout")(error)),
        _ => Ok(()),
    }
}

/// Does something for each name, and goes on past those that fail, telling each failure.
///
/// # Errors
/// [`Failure::Reported`] when one failed.
pub fn each(
    names: &[String],
    context: &Context,
    mut act: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let mut failed = false;
    for name in names {
        if let Err(failure) = act(name) {
            report(&failure, context.log_format());
            failed = true;
        }
    }
    if failed { Err(Failure::Reported) } else { Ok(0) }
}
