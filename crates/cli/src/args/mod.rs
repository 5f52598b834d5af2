//! The command line: what clap knows of it, and docker's manners where clap has others.
//!
//! Every command is one [`Verb`] in a table. Only the verb that is called has its flags built (clap's
//! `defer`), because `run` alone has a hundred. Flags follow docker's rules: a switch takes `=true` or
//! `=false`, a value may begin with a hyphen, a repeated flag overrides itself, and everything behind the
//! image is the container's. Errors are worded as docker words them.
//!
//! The tree is built in two ways: [`Purpose::Parse`] for reading, with those rules, and
//! [`Purpose::Document`] for help texts, completions and man pages, where a switch is just a switch.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "help texts are doc comments, and brackets mean optional parts there"
)]

pub mod bandwidth;
pub mod containers;
pub mod env;
pub mod images;
pub mod later;
pub mod moment;
pub mod mounts;
pub mod networks;
pub mod run;
pub mod surroundings;
pub mod system;
pub mod upkeep;
pub mod values;

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use hull_engine::request::MountRequest;

use crate::commands::Context;
use crate::error::{ExitRule, Failure};
use system::GlobalArgs;

/// A flag, its values, and how one of them is read as a mount.
type RawMounts<'a> = (&'static str, &'a [String], &'a dyn Fn(&str) -> Result<MountRequest, String>);

/// One command.
#[derive(Clone, Copy)]
pub struct Verb {
    /// Its word.
    pub name: &'static str,
    /// Other words for it, not shown.
    pub aliases: &'static [&'static str],
    /// One line about it.
    pub about: &'static str,
    /// What follows the word, as the help shows it.
    pub usage: &'static str,
    /// How many arguments it wants, in docker's words: `requires at least 1 argument`.
    pub wants: &'static str,
    /// Paragraphs below the options.
    pub notes: &'static str,
    /// Which exit codes its failures have.
    pub exits: ExitRule,
    /// What it does.
    pub body: Body,
}

/// What a verb does.
#[derive(Clone, Copy)]
pub enum Body {
    /// It has flags and a function.
    Leaf {
        /// Adds the flags for the documentation.
        document: fn(Command) -> Command,
        /// Adds the flags for parsing.
        parse: fn(Command) -> Command,
        /// Runs it; the value is the exit code.
        run: fn(&ArgMatches, &Context) -> Result<u8, Failure>,
    },
    /// It has verbs of its own.
    Group(&'static [Verb]),
}

/// What the tree of commands is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Reading a command line.
    Parse,
    /// Help, completions, man pages.
    Document,
}

const HELP_TEMPLATE: &str = "Usage:  {usage}\n\n{about-with-newline}\n{all-args}{after-help}";

/// The whole tree.
pub fn tree(verbs: &'static [Verb], purpose: Purpose) -> Command {
    let root = GlobalArgs::augment_args(Command::new("hull"))
        .bin_name("hull")
        .about("Containers without a daemon, in one binary")
        .version(env!("CARGO_PKG_VERSION"))
        .override_usage("hull [OPTIONS] COMMAND")
        .after_help("Run 'hull COMMAND --help' for more information on a command.");
    let version = Arg::new("version").short('v').long("version").help("Print the version").action(ArgAction::Version);
    let root = dressed(root.disable_version_flag(true).arg(version), purpose);
    commanding(root).subcommands(verbs.iter().map(|verb| subcommand("hull", verb, purpose)))
}

fn subcommand(parent: &str, verb: &'static Verb, purpose: Purpose) -> Command {
    let path = format!("{parent} {}", verb.name);
    let usage = format!("{path} {}", verb.usage);
    let command = Command::new(verb.name)
        .about(verb.about)
        .override_usage(usage.trim_end().to_owned())
        .after_help(verb.notes)
        .aliases(verb.aliases);
    match verb.body {
        Body::Leaf { document, parse, .. } => match purpose {
            Purpose::Parse => command.defer(parse),
            Purpose::Document => command.defer(document),
        },
        Body::Group(verbs) => {
            let command = command.after_help(format!("Run '{path} COMMAND --help' for more information on a command."));
            commanding(dressed(command, purpose)).subcommands(verbs.iter().map(|verb| subcommand(&path, verb, purpose)))
        }
    }
}

/// A command that wants another one behind it, and shows its help when there is none.
fn commanding(command: Command) -> Command {
    command.subcommand_help_heading("Commands").subcommand_required(true).arg_required_else_help(true)
}

/// The command with its flags; it keeps its line about itself, which clap would take from the flags' type.
pub fn flagged(command: Command, augment: fn(Command) -> Command) -> Command {
    let about = command.get_about().cloned();
    augment(command).about(about.unwrap_or_default())
}

/// What every command has: its help flag and, for parsing, docker's rules.
pub fn dressed(command: Command, purpose: Purpose) -> Command {
    let hostname = command.get_arguments().any(|arg| arg.get_short() == Some('h'));
    let help = Arg::new("help").long("help").help("Print this help").action(ArgAction::Help);
    let help = if hostname { help } else { help.short('h') };
    let command = command.disable_help_flag(true).disable_help_subcommand(true).help_template(HELP_TEMPLATE).arg(help);
    if purpose == Purpose::Document {
        return command;
    }
    let command = if command.has_subcommands() { command } else { command.args_override_self(true) };
    command.mut_args(docker_rules)
}

fn docker_rules(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(ValueParser::new(values::truth)),
        ArgAction::Set | ArgAction::Append if !arg.is_positional() && !arg.is_require_equals_set() => {
            arg.allow_hyphen_values(true)
        }
        _ => arg,
    }
}

/// The verbs that a command line names, outermost first, whatever stands around them.
pub fn named_verbs(verbs: &'static [Verb], words: &[OsString]) -> Vec<&'static Verb> {
    let mut path = Vec::new();
    let mut level = verbs;
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if word.starts_with('-') {
            let takes_value = matches!(&*word, "--root" | "--state" | "--config" | "--log-level" | "--log-format");
            if path.is_empty() && takes_value {
                words.next();
            }
            continue;
        }
        let Some(verb) = level.iter().find(|verb| verb.name == word || verb.aliases.contains(&&*word)) else { break };
        path.push(verb);
        match verb.body {
            Body::Group(inner) => level = inner,
            Body::Leaf { .. } => break,
        }
    }
    path
}

/// The help text of a verb, for its path of words without `hull`.
pub fn help(verbs: &'static [Verb], path: &[&str]) -> clap::builder::StyledStr {
    let mut command = tree(verbs, Purpose::Document);
    command.build();
    let mut found = &mut command;
    for word in path {
        if found.find_subcommand(word).is_none() {
            break;
        }
        found = found.find_subcommand_mut(word).expect("it was found the moment before");
    }
    found.render_help()
}

/// A failure to parse, in docker's words. Help and version are no failures and are not meant for here.
pub fn refusal(error: &clap::Error, verbs: &'static [Verb], words: &[OsString]) -> Failure {
    let path = named_verbs(verbs, words);
    let names: Vec<&str> = path.iter().map(|verb| verb.name).collect();
    let command = ["hull"].iter().chain(&names).copied().collect::<Vec<_>>().join(" ");
    let verb = path.last();
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let invalid = text(ContextKind::InvalidArg);
    let is_flag = invalid.starts_with('-');
    let (message, kind) = match error.kind() {
        _ if has_words_of_its_own(&path) => (first_line(error), UsageKind::Flag),
        ErrorKind::InvalidSubcommand => {
            let unknown = text(ContextKind::InvalidSubcommand);
            let message = match later::VERBS.contains(&unknown.as_str()) {
                true => format!("{command} {unknown} is not supported yet (it comes with a later release)"),
                false => format!("unknown command: {command} {unknown}"),
            };
            (message, UsageKind::Command)
        }
        ErrorKind::UnknownArgument if is_flag => (unknown_flag(&invalid, words), UsageKind::Flag),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue if is_flag => {
            (bad_value(error, verb, &invalid, &text(ContextKind::InvalidValue)), UsageKind::Flag)
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue if !text(ContextKind::InvalidValue).is_empty() => {
            (format!("invalid argument {:?} for {invalid}", text(ContextKind::InvalidValue)), UsageKind::Count)
        }
        ErrorKind::TooManyValues | ErrorKind::NoEquals if is_flag => {
            (format!("flag {invalid} takes its value behind an equals sign"), UsageKind::Flag)
        }
        ErrorKind::InvalidUtf8 => ("an argument is not valid UTF-8".to_owned(), UsageKind::Flag),
        _ => (format!("'{command}' {}", verb.map_or("requires a command", |verb| verb.wants)), UsageKind::Count),
    };
    let usage = verb.map_or_else(|| "hull [OPTIONS] COMMAND".to_owned(), |verb| format!("{command} {}", verb.usage));
    Failure::Usage { message, usage: usage.trim_end().to_owned(), help: command, kind }
}

/// `oci` has commands that are not in the table of verbs: what clap says of them is said as it is.
pub fn has_words_of_its_own(path: &[&'static Verb]) -> bool {
    path.last().is_some_and(|verb| verb.name == "oci")
}

/// What clap says, without its heading and its usage.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).trim_end_matches(':').to_owned()
}

/// What about a command line is wrong; docker's exit codes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageKind {
    /// A flag or its value.
    Flag,
    /// The number of arguments.
    Count,
    /// There is no such command.
    Command,
}

fn unknown_flag(flag: &str, words: &[OsString]) -> String {
    let long = flag.split('=').next().unwrap_or(flag);
    if long.starts_with("--") {
        return format!("unknown flag: {long}");
    }
    let letter = flag.trim_start_matches('-').chars().next().unwrap_or('-');
    let words = words.iter().skip(1).map(|word| word.to_string_lossy());
    let cluster =
        words.into_iter().find(|word| word.starts_with('-') && !word.starts_with("--") && word.contains(letter));
    match cluster {
        Some(cluster) => format!("unknown shorthand flag: '{letter}' in {cluster}"),
        None => format!("unknown shorthand flag: '{letter}' in {flag}"),
    }
}

fn bad_value(error: &clap::Error, verb: Option<&&'static Verb>, invalid: &str, value: &str) -> String {
    let long = invalid.split([' ', '[', '=']).next().unwrap_or(invalid).trim_start_matches('-').to_owned();
    let flag = flag_with_short(verb, &long);
    let problem = match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if !value.is_empty() => format!("must be one of {}", valid.join(", ")),
            _ => return format!("flag needs an argument: --{long}"),
        },
    };
    format!("invalid argument {value:?} for \"{flag}\" flag: {problem}")
}

/// `-m, --memory` for a flag that has a letter, as docker shows it.
fn flag_with_short(verb: Option<&&'static Verb>, long: &str) -> String {
    let short = verb.and_then(|verb| match verb.body {
        Body::Leaf { document, .. } => {
            let command = document(Command::new(verb.name));
            command.get_arguments().find(|arg| arg.get_long() == Some(long)).and_then(Arg::get_short)
        }
        Body::Group(_) => None,
    });
    short.map_or_else(|| format!("--{long}"), |short| format!("-{short}, --{long}"))
}

#[cfg(test)]
mod tests;
