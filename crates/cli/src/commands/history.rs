//! `hull history`: the steps that made an image, as rows.

use hull_engine::HistoryLine;
use jiff::Timestamp;

use super::{Context, write_stdout};
use crate::args::images::HistoryArgs;
use crate::error::Failure;
use crate::output::table::{Format, Layout, render};
use crate::output::template::{Methods, NoMethods, Value};
use crate::output::units::{ellipsis, human_size, since};

const LAYOUT: Layout = Layout {
    headings: &[
        ("Comment", "COMMENT"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("CreatedSince", "CREATED"),
        ("ID", "IMAGE"),
        ("Size", "SIZE"),
    ],
    default: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
};

/// The same with moments and bytes instead of words about them.
const EXACT: &str = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
/// What a step has for an id that has none.
const MISSING: &str = "<missing>";
/// Widest command that is shown whole.
const COMMAND_WIDTH: usize = 45;

/// Lists the steps of an image.
///
/// # Errors
/// When the format is wrong, and the engine's.
pub fn run(arguments: HistoryArgs, context: &Context) -> Result<u8, Failure> {
    let default = if arguments.human { LAYOUT.default } else { EXACT };
    let format = match (arguments.quiet, arguments.format.as_deref()) {
        (true, None | Some("table" | "")) => Format::parse(Some("{{.ID}}"), default)?,
        (_, format) => Format::parse(format, default)?,
    };
    let lines = context.engine()?.history(&arguments.image, arguments.platform.as_deref())?;
    let now = Timestamp::now();
    let rows: Vec<_> =
        lines.iter().map(|line| (fields(line, &arguments, now), Box::new(NoMethods) as Box<dyn Methods>)).collect();
    write_stdout(render(&LAYOUT, &format, &rows)?.as_bytes())?;
    Ok(0)
}

fn fields(line: &HistoryLine, arguments: &HistoryArgs, now: Timestamp) -> Value {
    let id = line.id.as_deref().unwrap_or(MISSING);
    let short = id.strip_prefix("sha256:").and_then(|digits| digits.get(..12)).unwrap_or(id);
    let command = line.created_by.replace('\t', " ");
    let created =
        line.created.map_or_else(|| "N/A".to_owned(), |moment| moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let fields = [
        ("Comment", line.comment.clone()),
        ("CreatedAt", created.clone()),
        ("CreatedBy", if arguments.no_trunc { command } else { ellipsis(&command, COMMAND_WIDTH) }),
        ("CreatedSince", if arguments.human { since(line.created, now) } else { created }),
        ("ID", if arguments.no_trunc { id } else { short }.to_owned()),
        ("Size", if arguments.human { human_size(line.size_bytes, 3) } else { line.size_bytes.to_string() }),
    ];
    Value::Map(fields.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text))).collect())
}
