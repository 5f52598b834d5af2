//! Every command of `hull`: its words, what it wants, and which function does it.

use clap::{Args, FromArgMatches};

use super::{
    attach, changes, completion, cp, create, exec, help, history, image, images, info, inspect, login, logs, man,
    manifest, network, port, prune, ps, rm, run, start, stop, system, update, version, volume,
};
use crate::args::containers::{
    AttachArgs, CommitArgs, CopyArgs, DiffArgs, ExecArgs, ExportArgs, InspectArgs, InspectOneKindArgs, KillArgs,
    ListArgs, LogsArgs, NamesArgs, PortArgs, RemoveArgs, StartArgs, StopArgs, UpdateArgs,
};
use crate::args::images::{
    HistoryArgs, ImportArgs, ListImagesArgs, LoadArgs, LoginArgs, LogoutArgs, ManifestInspectArgs, PullArgs, PushArgs,
    ReferrersArgs, RemoveImageArgs, SaveArgs, TagArgs,
};
use crate::args::later::{self, LaterFlag};
use crate::args::networks::{
    ConnectArgs, CreateNetworkArgs, DisconnectArgs, InspectNetworksArgs, ListNetworksArgs, ReloadArgs,
    RemoveNetworksArgs,
};
use crate::args::run::{ContainerArgs, RunArgs};
use crate::args::system::{CompletionArgs, FormatArgs, ManArgs};
use crate::args::upkeep::{
    CheckArgs, CollectArgs, CreateVolumeArgs, DiskUsageArgs, InspectVolumesArgs, ListVolumesArgs, PruneArgs,
    PruneContainersArgs, PruneSystemArgs, RemoveVolumesArgs,
};
use crate::args::{Body, Purpose, Verb, dressed, flagged};
use crate::error::{ExitRule, Failure};

/// A verb's body from the type of its arguments, its refused flags and its function.
macro_rules! leaf {
    ($arguments:ty, $later:expr, $run:path) => {
        Body::Leaf {
            document: |command| dressed(flagged(command, <$arguments>::augment_args), Purpose::Document),
            parse: |command| {
                let command = flagged(command, <$arguments>::augment_args);
                dressed(later::recognise(command, $later), Purpose::Parse)
            },
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

/// What `run` and `create` say below their options.
const IMAGES_NOTE: &str = "\
Images that need no download:
  hello  Prints how a process sees its world from inside.
  host   This machine's own files, read-only, under a private writable layer:
         a throw-away container with all of the machine's tools. It can read
         every file that its user may read.";

const RUN: Verb = Verb {
    name: "run",
    about: "Create and start a container",
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    wants: "requires at least 1 argument",
    notes: IMAGES_NOTE,
    exits: ExitRule::Run,
    body: leaf!(RunArgs, later::RUN, run::run),
    ..PLAIN
};

const CREATE: Verb = Verb {
    name: "create",
    about: "Create a container",
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    wants: "requires at least 1 argument",
    notes: IMAGES_NOTE,
    exits: ExitRule::Run,
    body: leaf!(ContainerArgs, later::RUN, create::run),
    ..PLAIN
};

const START: Verb = Verb {
    name: "start",
    about: "Start containers",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    exits: ExitRule::Exec,
    body: leaf!(StartArgs, later::START, start::run),
    ..PLAIN
};

const STOP: Verb = Verb {
    name: "stop",
    about: "Stop containers",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    body: leaf!(StopArgs, stop::stop),
    ..PLAIN
};

const RESTART: Verb = Verb {
    name: "restart",
    about: "Stop containers and start them again",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    body: leaf!(StopArgs, stop::restart),
    ..PLAIN
};

const UPDATE: Verb = Verb {
    name: "update",
    about: "Change the limits of containers",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    body: leaf!(UpdateArgs, later::UPDATE, update::run),
    ..PLAIN
};

const PAUSE: Verb = Verb {
    name: "pause",
    about: "Freeze all processes of containers",
    usage: "CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    body: leaf!(NamesArgs, stop::pause),
    ..PLAIN
};

const UNPAUSE: Verb = Verb {
    name: "unpause",
    about: "Let frozen containers go on",
    usage: "CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    body: leaf!(NamesArgs, stop::unpause),
    ..PLAIN
};

const KILL: Verb = Verb {
    name: "kill",
    about: "Send a signal to containers",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    body: leaf!(KillArgs, stop::kill),
    ..PLAIN
};

const WAIT: Verb = Verb {
    name: "wait",
    about: "Wait until containers end, and print their exit codes",
    usage: "CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    body: leaf!(NamesArgs, stop::wait),
    ..PLAIN
};

const RM: Verb = Verb {
    name: "rm",
    about: "Remove containers",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    body: leaf!(RemoveArgs, later::REMOVE, rm::run),
    ..PLAIN
};

const PORT: Verb = Verb {
    name: "port",
    about: "List the published ports of a container, publish more, or withdraw some",
    usage: "[OPTIONS] CONTAINER [PORT[/PROTOCOL]]",
    wants: "requires at least 1 argument",
    notes: "hull port add CONTAINER PUBLISH...          publishes ports as run's --publish does, also of a running container\n\
            hull port rm CONTAINER PORT[/PROTOCOL]...  withdraws ports of the container",
    body: leaf!(PortArgs, port::run),
    ..PLAIN
};

const PS: Verb =
    Verb { name: "ps", about: "List containers", usage: "[OPTIONS]", body: leaf!(ListArgs, ps::run), ..PLAIN };

const LOGS: Verb = Verb {
    name: "logs",
    about: "Print the output of a container",
    usage: "[OPTIONS] CONTAINER",
    wants: "requires 1 argument",
    body: leaf!(LogsArgs, later::LOGS, logs::run),
    ..PLAIN
};

const EXEC: Verb = Verb {
    name: "exec",
    about: "Run a command in a running container",
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    wants: "requires at least 2 arguments",
    exits: ExitRule::Exec,
    body: leaf!(ExecArgs, exec::run),
    ..PLAIN
};

const ATTACH: Verb = Verb {
    name: "attach",
    about: "Attach this terminal to a running container",
    usage: "[OPTIONS] CONTAINER",
    wants: "requires 1 argument",
    exits: ExitRule::Exec,
    body: leaf!(AttachArgs, attach::run),
    ..PLAIN
};

const CP: Verb = Verb {
    name: "cp",
    about: "Copy files between a container and this machine",
    usage: "[OPTIONS] CONTAINER:SOURCE TARGET|-\n        hull cp [OPTIONS] SOURCE|- CONTAINER:TARGET",
    wants: "requires 2 arguments",
    body: leaf!(CopyArgs, cp::run),
    ..PLAIN
};

const DIFF: Verb = Verb {
    name: "diff",
    about: "List what a container changed of its image",
    usage: "CONTAINER",
    wants: "requires 1 argument",
    notes: "A is a path that is new, C one that is changed, D one that is deleted.",
    body: leaf!(DiffArgs, changes::diff),
    ..PLAIN
};

const COMMIT: Verb = Verb {
    name: "commit",
    about: "Make an image of a container",
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    wants: "requires at least 1 and at most 2 arguments",
    body: leaf!(CommitArgs, changes::commit),
    ..PLAIN
};

const EXPORT: Verb = Verb {
    name: "export",
    about: "Write the files of a container as a tar",
    usage: "[OPTIONS] CONTAINER",
    wants: "requires 1 argument",
    body: leaf!(ExportArgs, changes::export),
    ..PLAIN
};

const INSPECT: Verb = Verb {
    name: "inspect",
    about: "Print all that is known about containers and images",
    usage: "[OPTIONS] NAME [NAME...]",
    wants: "requires at least 1 argument",
    body: leaf!(InspectArgs, inspect::any),
    ..PLAIN
};

const INSPECT_CONTAINER: Verb = Verb {
    name: "inspect",
    about: "Print all that is known about containers",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    wants: "requires at least 1 argument",
    body: leaf!(InspectOneKindArgs, inspect::container),
    ..PLAIN
};

const INSPECT_IMAGE: Verb = Verb {
    name: "inspect",
    about: "Print all that is known about images",
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    wants: "requires at least 1 argument",
    body: leaf!(InspectOneKindArgs, inspect::image),
    ..PLAIN
};

const PULL: Verb = Verb {
    name: "pull",
    about: "Fetch an image from a registry",
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    wants: "requires 1 argument",
    body: leaf!(PullArgs, later::PULL, image::pull),
    ..PLAIN
};

const PUSH: Verb = Verb {
    name: "push",
    about: "Bring an image to a registry",
    usage: "[OPTIONS] NAME[:TAG]",
    wants: "requires 1 argument",
    body: leaf!(PushArgs, later::PUSH, image::push),
    ..PLAIN
};

const LOGIN: Verb = Verb {
    name: "login",
    about: "Log in to a registry",
    usage: "[OPTIONS] [SERVER]",
    wants: "requires at most 1 argument",
    notes: "Without a server it is docker.io. Credentials are kept where docker keeps them: in config.json, or by the\n\
            credential helper that it names.",
    body: leaf!(LoginArgs, login::login),
    ..PLAIN
};

const LOGOUT: Verb = Verb {
    name: "logout",
    about: "Forget the credentials for a registry",
    usage: "[SERVER]",
    wants: "requires at most 1 argument",
    body: leaf!(LogoutArgs, login::logout),
    ..PLAIN
};

const IMAGES: Verb = Verb {
    name: "images",
    about: "List images",
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    wants: "requires at most 1 argument",
    body: leaf!(ListImagesArgs, images::run),
    ..PLAIN
};

const RMI: Verb = Verb {
    name: "rmi",
    about: "Remove images",
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    wants: "requires at least 1 argument",
    body: leaf!(RemoveImageArgs, later::REMOVE_IMAGE, image::remove),
    ..PLAIN
};

const IMPORT: Verb = Verb {
    name: "import",
    about: "Make an image of a root file system's tar",
    usage: "[OPTIONS] FILE|- [REPOSITORY[:TAG]]",
    wants: "requires at least 1 and at most 2 arguments",
    body: leaf!(ImportArgs, image::import),
    ..PLAIN
};

const LOAD: Verb = Verb {
    name: "load",
    about: "Take the images of a docker or OCI archive in",
    usage: "[OPTIONS]",
    body: leaf!(LoadArgs, image::load),
    ..PLAIN
};

const SAVE: Verb = Verb {
    name: "save",
    about: "Write images as an archive",
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    wants: "requires at least 1 argument",
    body: leaf!(SaveArgs, image::save),
    ..PLAIN
};

const TAG: Verb = Verb {
    name: "tag",
    about: "Give an image another name",
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    wants: "requires 2 arguments",
    body: leaf!(TagArgs, image::tag),
    ..PLAIN
};

const HISTORY: Verb = Verb {
    name: "history",
    about: "Show how an image was made",
    usage: "[OPTIONS] IMAGE",
    wants: "requires 1 argument",
    body: leaf!(HistoryArgs, history::run),
    ..PLAIN
};

const INFO: Verb = Verb {
    name: "info",
    about: "Show what this Hull has and where it runs",
    usage: "[OPTIONS]",
    body: leaf!(FormatArgs, info::run),
    ..PLAIN
};

const OCI: Verb = Verb {
    name: "oci",
    about: "Use Hull as an OCI runtime (the binary called as runc is the same)",
    usage: "[OPTIONS] COMMAND",
    wants: "requires a command",
    body: Body::Leaf { document: crate::oci::args::flagged, parse: crate::oci::args::parsed, run: crate::oci::run },
    ..PLAIN
};

const VERSION: Verb = Verb {
    name: "version",
    about: "Show the version of Hull",
    usage: "[OPTIONS]",
    body: leaf!(FormatArgs, version::run),
    ..PLAIN
};

const COMPLETION: Verb = Verb {
    name: "completion",
    about: "Print a completion script for a shell",
    usage: "bash|elvish|fish|powershell|zsh",
    wants: "requires 1 argument",
    body: leaf!(CompletionArgs, completion::run),
    ..PLAIN
};

const MAN: Verb = Verb {
    name: "man",
    about: "Write the man pages into a folder",
    usage: "DIR",
    wants: "requires 1 argument",
    body: leaf!(ManArgs, man::run),
    ..PLAIN
};

const HELP: Verb = Verb {
    name: "help",
    about: "Print the help of a command",
    usage: "[COMMAND...]",
    body: leaf!(help::HelpArgs, help::run),
    ..PLAIN
};

/// `hull container ...`: the same commands under docker's newer words.
const CONTAINER: Verb = Verb {
    name: "container",
    about: "Manage containers",
    usage: "COMMAND",
    wants: "requires a command",
    body: Body::Group(&[
        ATTACH,
        COMMIT,
        CP,
        CREATE,
        DIFF,
        EXEC,
        EXPORT,
        INSPECT_CONTAINER,
        KILL,
        LOGS,
        Verb { name: "ls", aliases: &["ps", "list"], ..PS },
        PAUSE,
        Verb {
            name: "prune",
            about: "Remove containers that do not run",
            usage: "[OPTIONS]",
            body: leaf!(PruneContainersArgs, prune::containers),
            ..PLAIN
        },
        RESTART,
        Verb { aliases: &["remove"], ..RM },
        RUN,
        START,
        STOP,
        UNPAUSE,
        UPDATE,
        WAIT,
    ]),
    ..PLAIN
};

/// `hull image ...`: the same commands under docker's newer words.
const IMAGE: Verb = Verb {
    name: "image",
    about: "Manage images",
    usage: "COMMAND",
    wants: "requires a command",
    body: Body::Group(&[
        HISTORY,
        IMPORT,
        INSPECT_IMAGE,
        LOAD,
        Verb { name: "ls", aliases: &["list"], ..IMAGES },
        Verb {
            name: "prune",
            about: "Remove images that nothing uses",
            usage: "[OPTIONS]",
            body: leaf!(PruneArgs, prune::images),
            ..PLAIN
        },
        PULL,
        PUSH,
        Verb { name: "rm", aliases: &["remove"], ..RMI },
        SAVE,
        TAG,
    ]),
    ..PLAIN
};

/// `hull manifest ...`.
const MANIFEST: Verb = Verb {
    name: "manifest",
    about: "Look at what registries have",
    usage: "COMMAND",
    wants: "requires a command",
    body: Body::Group(&[
        Verb {
            name: "inspect",
            about: "Print a manifest or index as it is",
            usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
            wants: "requires 1 argument",
            body: leaf!(ManifestInspectArgs, later::MANIFEST_INSPECT, manifest::inspect),
            ..PLAIN
        },
        Verb {
            name: "referrers",
            about: "List what refers to an image: signatures, attestations and other artifacts",
            usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
            wants: "requires 1 argument",
            body: leaf!(ReferrersArgs, manifest::referrers),
            ..PLAIN
        },
    ]),
    ..PLAIN
};

const SYSTEM: Verb = Verb {
    name: "system",
    about: "Look after Hull's store",
    usage: "COMMAND",
    wants: "requires a command",
    body: Body::Group(&[
        Verb {
            name: "check",
            about: "Check every blob and every reference; the exit code is 1 when something is wrong",
            usage: "[OPTIONS]",
            body: leaf!(CheckArgs, system::check),
            ..PLAIN
        },
        Verb {
            name: "df",
            about: "Show what images, containers and volumes take on disk",
            usage: "[OPTIONS]",
            body: leaf!(DiskUsageArgs, system::df),
            ..PLAIN
        },
        Verb {
            name: "gc",
            about: "Remove what belongs to nothing",
            usage: "",
            body: leaf!(CollectArgs, system::collect),
            ..PLAIN
        },
        INFO,
        Verb {
            name: "prune",
            about: "Remove stopped containers and unused images",
            usage: "[OPTIONS]",
            body: leaf!(PruneSystemArgs, prune::system),
            ..PLAIN
        },
    ]),
    ..PLAIN
};

const NETWORK: Verb = Verb {
    name: "network",
    about: "Manage networks",
    usage: "COMMAND",
    wants: "requires a command",
    body: Body::Group(&[
        Verb {
            name: "connect",
            about: "Put a container into a network, at once when it runs",
            usage: "[OPTIONS] NETWORK CONTAINER",
            wants: "requires 2 arguments",
            body: leaf!(ConnectArgs, later::CONNECT, network::connect),
            ..PLAIN
        },
        Verb {
            name: "create",
            about: "Make a network",
            usage: "[OPTIONS] NETWORK",
            wants: "requires 1 argument",
            body: leaf!(CreateNetworkArgs, later::CREATE_NETWORK, network::create),
            ..PLAIN
        },
        Verb {
            name: "disconnect",
            about: "Take a container out of a network, at once when it runs",
            usage: "[OPTIONS] NETWORK CONTAINER",
            wants: "requires 2 arguments",
            body: leaf!(DisconnectArgs, network::disconnect),
            ..PLAIN
        },
        Verb {
            name: "inspect",
            about: "Print all that is known about networks",
            usage: "[OPTIONS] NETWORK [NETWORK...]",
            wants: "requires at least 1 argument",
            body: leaf!(InspectNetworksArgs, later::INSPECT_NETWORK, network::inspect),
            ..PLAIN
        },
        Verb {
            name: "ls",
            aliases: &["list"],
            about: "List networks",
            usage: "[OPTIONS]",
            body: leaf!(ListNetworksArgs, network::list),
            ..PLAIN
        },
        Verb {
            name: "prune",
            about: "Remove networks that no running container is in",
            usage: "[OPTIONS]",
            body: leaf!(PruneContainersArgs, prune::networks),
            ..PLAIN
        },
        Verb {
            name: "reload",
            about: "Bring back what the host's firewall has lost of Hull's, and follow its policy as it is now",
            usage: "",
            body: leaf!(ReloadArgs, network::reload),
            ..PLAIN
        },
        Verb {
            name: "rm",
            aliases: &["remove"],
            about: "Remove networks",
            usage: "[OPTIONS] NETWORK [NETWORK...]",
            wants: "requires at least 1 argument",
            body: leaf!(RemoveNetworksArgs, network::remove),
            ..PLAIN
        },
    ]),
    ..PLAIN
};

const VOLUME: Verb = Verb {
    name: "volume",
    about: "Manage volumes",
    usage: "COMMAND",
    wants: "requires a command",
    body: Body::Group(&[
        Verb {
            name: "create",
            about: "Make a volume",
            usage: "[OPTIONS] [VOLUME]",
            wants: "requires at most 1 argument",
            body: leaf!(CreateVolumeArgs, later::CREATE_VOLUME, volume::create),
            ..PLAIN
        },
        Verb {
            name: "inspect",
            about: "Print all that is known about volumes",
            usage: "[OPTIONS] VOLUME [VOLUME...]",
            wants: "requires at least 1 argument",
            body: leaf!(InspectVolumesArgs, volume::inspect),
            ..PLAIN
        },
        Verb {
            name: "ls",
            aliases: &["list"],
            about: "List volumes",
            usage: "[OPTIONS]",
            body: leaf!(ListVolumesArgs, volume::list),
            ..PLAIN
        },
        Verb {
            name: "prune",
            about: "Remove volumes that no container has",
            usage: "[OPTIONS]",
            body: leaf!(PruneArgs, prune::volumes),
            ..PLAIN
        },
        Verb {
            name: "rm",
            aliases: &["remove"],
            about: "Remove volumes",
            usage: "[OPTIONS] VOLUME [VOLUME...]",
            wants: "requires at least 1 argument",
            body: leaf!(RemoveVolumesArgs, volume::remove),
            ..PLAIN
        },
    ]),
    ..PLAIN
};

/// All commands, in the order of the help.
pub const VERBS: &[Verb] = &[
    RUN, CREATE, START, STOP, RESTART, PAUSE, UNPAUSE, UPDATE, KILL, WAIT, RM, PS, PORT, LOGS, EXEC, ATTACH, CP, DIFF,
    COMMIT, EXPORT, INSPECT, PULL, PUSH, IMAGES, RMI, IMPORT, LOAD, SAVE, TAG, HISTORY, LOGIN, LOGOUT, CONTAINER,
    IMAGE, NETWORK, VOLUME, SYSTEM, MANIFEST, INFO, VERSION, OCI, COMPLETION, MAN, HELP,
];
