//! Every command of `hull`: its words, what it wants, and which function does it.

use clap::{Args, FromArgMatches};

use super::{completion, help, man, version};
use crate::args::later::{self, LaterFlag};
use crate::args::system::{CompletionArgs, FormatArgs, ManArgs};
use crate::args::{Body, Purpose, Verb, dressed};
use crate::error::{ExitRule, Failure};

/// A verb's body from the type of its arguments, its refused flags and its function.
macro_rules! leaf {
    ($arguments:ty, $later:expr, $run:path) => {
        Body::Leaf {
            document: |command| dressed(<$arguments>::augment_args(command), Purpose::Document),
            parse: |command| dressed(later::recognise(<$arguments>::augment_args(command), $later), Purpose::Parse),
            run: |matches, context| {
                later::refuse(matches, $later)?;
                let arguments =
                    <$arguments>::from_arg_matches(matches).map_err(|error| Failure::Arguments(error.to_string()))?;
                $run(arguments, context)
            },
        }
    };
    ($arguments:ty, $run:path) => {
        leaf!($arguments, NOTHING_LATER, $run)
    };
}

const NOTHING_LATER: &[LaterFlag] = &[];

/// What most verbs have.
const PLAIN: Verb = Verb {
    name: "",
    aliases: &[],
    about: "",
    usage: "",
    wants: "accepts no arguments",
    notes: "",
    exits: ExitRule::Ordinary,
    body: Body::Group(&[]),
};

/// All commands, in the order of the help.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "version",
        about: "Show the version of Hull",
        usage: "[OPTIONS]",
        body: leaf!(FormatArgs, version::run),
        ..PLAIN
    },
    Verb {
        name: "completion",
        about: "Print a completion script for a shell",
        usage: "bash|elvish|fish|powershell|zsh",
        wants: "requires 1 argument",
        body: leaf!(CompletionArgs, completion::run),
        ..PLAIN
    },
    Verb {
        name: "man",
        about: "Write the man pages into a folder",
        usage: "DIR",
        wants: "requires 1 argument",
        body: leaf!(ManArgs, man::run),
        ..PLAIN
    },
    Verb {
        name: "help",
        about: "Print the help of a command",
        usage: "[COMMAND...]",
        body: leaf!(help::HelpArgs, help::run),
        ..PLAIN
    },
];
