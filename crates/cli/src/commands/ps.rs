//! `hull ps`: containers as rows.

use std::collections::BTreeMap;

use hull_engine::{ContainerSummary, ListFilter, ListQuery};
use jiff::Timestamp;

use super::{Context, write_stdout};
use crate::args::containers::ListArgs;
use crate::error::Failure;
use crate::output::table::{Format, Layout, render};
use crate::output::template::value::go_quote;
use crate::output::template::{Methods, Value};
use crate::output::units::{ellipsis, go_time, human_size};

const LAYOUT: Layout = Layout {
    headings: &[
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Labels", "LABELS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Mounts", "MOUNTS"),
        ("Names", "NAMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
        ("Ports", "PORTS"),
        ("RunningFor", "CREATED"),
        ("Size", "SIZE"),
        ("State", "STATE"),
        ("Status", "STATUS"),
    ],
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
};

/// Lists containers.
///
/// # Errors
/// When a filter or the format is wrong, or the store cannot be read.
pub fn run(arguments: ListArgs, context: &Context) -> Result<u8, Failure> {
    let filters = arguments.filter.iter().map(|text| text.parse::<ListFilter>());
    let filters: Vec<_> = filters.collect::<Result<_, _>>().map_err(|error| Failure::Arguments(error.to_string()))?;
    let last = match (arguments.last.unwrap_or(-1), arguments.latest) {
        (..1, true) => Some(1),
        (last, _) => usize::try_from(last).ok().filter(|last| *last > 0),
    };
    let sized = arguments.size || arguments.format.as_ref().is_some_and(|format| format.contains(".Size"));
    let with_size = format!("{}\t{{{{.Size}}}}", LAYOUT.default);
    let default = match (arguments.quiet, arguments.size) {
        (true, _) => "{{.ID}}",
        (false, true) => with_size.as_str(),
        (false, false) => LAYOUT.default,
    };
    let format = match (arguments.quiet, arguments.format.as_deref()) {
        (true, None | Some("table" | "")) => Format::parse(Some("{{.ID}}"), default)?,
        (_, format) => Format::parse(format, default)?,
    };
    let query = ListQuery { all: arguments.all, last, filters, size: sized };
    let containers = context.engine()?.list(&query)?;
    let now = Timestamp::now();
    let rows: Vec<_> = containers.iter().map(|summary| row(summary, now, !arguments.no_trunc)).collect();
    write_stdout(render(&LAYOUT, &format, &rows)?.as_bytes())?;
    Ok(0)
}

/// The fields of a row, sorted by name as docker's JSON has them, and its labels for `.Label`.
fn row(summary: &ContainerSummary, now: Timestamp, short: bool) -> (Value, Box<dyn Methods>) {
    let command = summary.command.join(" ");
    let command = if short { ellipsis(&command, 20) } else { command };
    let id = if short { summary.id.short() } else { summary.id.as_str() };
    let mounts = summary.mounts.iter().map(|mount| if short { ellipsis(mount, 15) } else { mount.clone() });
    let fields = [
        ("Command", go_quote(&command)),
        ("CreatedAt", go_time(summary.created)),
        ("ID", id.to_owned()),
        ("Image", summary.image.clone()),
        ("Labels", labels_text(&summary.labels)),
        ("LocalVolumes", summary.local_volumes.to_string()),
        ("Mounts", mounts.collect::<Vec<_>>().join(",")),
        ("Names", summary.name.clone()),
        ("Networks", summary.networks.join(",")),
        ("Platform", format!("linux/{}", super::version::go_architecture())),
        ("Ports", summary.ports.clone()),
        ("RunningFor", summary.running_for(now)),
        ("Size", size(summary)),
        ("State", summary.state.name().to_owned()),
        ("Status", summary.status(now)),
    ];
    let fields = fields.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text))).collect();
    (Value::Map(fields), Box::new(Labels(summary.labels.clone())))
}

fn labels_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

fn size(summary: &ContainerSummary) -> String {
    let written = human_size(summary.size_rw_bytes.unwrap_or(0), 3);
    match summary.size_root_fs_bytes {
        Some(whole) if whole > 0 => format!("{written} (virtual {})", human_size(whole, 3)),
        _ => written,
    }
}

/// `.Label "name"` of a row.
struct Labels(BTreeMap<String, String>);

impl Methods for Labels {
    fn call(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        match (name, arguments) {
            ("Label", [Value::Text(label)]) => Some(Ok(self.0.get(label).cloned().unwrap_or_default().into())),
            ("Label", _) => Some(Err("wants the name of one label".to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hull_engine::{ContainerId, ContainerState, ExitStatus};

    use super::*;

    fn summary() -> ContainerSummary {
        ContainerSummary {
            id: ContainerId::parse(&"0123456789abcdef".repeat(4)).unwrap(),
            name: "web".to_owned(),
            image: "debian".to_owned(),
            image_id: None,
            command: ["bash", "-c", "echo \"hi\"; sleep 1000"].map(str::to_owned).to_vec(),
            created: Timestamp::from_second(1_700_000_000).unwrap(),
            state: ContainerState::Exited {
                status: ExitStatus {
                    code: Some(137),
                    oom_killed: true,
                    error: None,
                    finished_at: Some(Timestamp::from_second(1_700_000_060).unwrap()),
                },
                started_at: None,
            },
            labels: [("a.b".to_owned(), "1".to_owned()), ("c".to_owned(), "2".to_owned())].into(),
            mounts: vec!["cache".to_owned(), "/a/very/long/path/indeed".to_owned()],
            mount_targets: Vec::new(),
            local_volumes: 1,
            networks: vec!["private".to_owned()],
            ports: "80/tcp, 53/udp".to_owned(),
            size_rw_bytes: Some(1234),
            size_root_fs_bytes: Some(74_800_000),
        }
    }

    fn shown(format: Option<&str>, short: bool) -> String {
        let now = Timestamp::from_second(1_700_000_120).unwrap();
        render(&LAYOUT, &Format::parse(format, LAYOUT.default).unwrap(), &[row(&summary(), now, short)]).unwrap()
    }

    #[test]
    fn the_table() {
        insta::assert_snapshot!(shown(None, true) + &shown(None, false));
    }

    #[test]
    fn every_field() {
        let fields: String = LAYOUT
            .headings
            .iter()
            .filter(|(field, _)| *field != "CreatedAt")
            .map(|(field, _)| format!("{field}: {{{{.{field}}}}}\n"))
            .collect();
        insta::assert_snapshot!(shown(Some(&fields), true));
        assert_eq!(shown(Some("{{.Label \"a.b\"}}{{.Label \"none\"}}|"), true), "1|\n");
    }
}
