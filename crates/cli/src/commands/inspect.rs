//! `hull inspect`: all that is known about containers and images, as JSON or by template.
//!
//! What was found is printed as one list, and what was not is told of afterwards, as docker does it.

use hull_engine::{Engine, Inspect, InspectKind};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;

use super::{Context, write_stdout};
use crate::args::containers::{InspectArgs, InspectOneKindArgs};
use crate::error::{Failure, report};
use crate::output::template::{Template, Value};

/// `inspect`.
///
/// # Errors
/// When one of the names failed, or the format is wrong.
pub fn any(arguments: InspectArgs, context: &Context) -> Result<u8, Failure> {
    let kind = match arguments.kind.as_deref() {
        Some("container") => InspectKind::Container,
        Some("image") => InspectKind::Image,
        Some("network") => InspectKind::Network,
        _ => InspectKind::Any,
    };
    inspect(&arguments.names, kind, arguments.size, arguments.format.as_deref(), context)
}

/// `container inspect`.
///
/// # Errors
/// As [`any`].
pub fn container(arguments: InspectOneKindArgs, context: &Context) -> Result<u8, Failure> {
    inspect(&arguments.names, InspectKind::Container, arguments.size, arguments.format.as_deref(), context)
}

/// `image inspect`.
///
/// # Errors
/// As [`any`].
pub fn image(arguments: InspectOneKindArgs, context: &Context) -> Result<u8, Failure> {
    if arguments.size {
        return Err(Failure::Arguments("--size is for containers: an image always shows its size".to_owned()));
    }
    inspect(&arguments.names, InspectKind::Image, false, arguments.format.as_deref(), context)
}

/// How documents are printed.
pub(super) enum Form {
    List,
    Line,
    Template(Template),
}

impl Form {
    /// Reads `--format`.
    pub(super) fn parse(format: Option<&str>) -> Result<Form, Failure> {
        Ok(match format {
            None | Some("") => Form::List,
            Some("json") => Form::Line,
            Some(template) => Form::Template(Template::parse(template)?),
        })
    }
}

fn inspect(
    names: &[String],
    kind: InspectKind,
    size: bool,
    format: Option<&str>,
    context: &Context,
) -> Result<u8, Failure> {
    let form = Form::parse(format)?;
    let engine = context.engine()?;
    let (found, failures) = look_up(&engine, names, kind, size);
    write_stdout(&printed(&found, &form)?)?;
    for failure in &failures {
        report(failure, context.log_format());
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::Reported) }
}

fn look_up(engine: &Engine, names: &[String], kind: InspectKind, size: bool) -> (Vec<Inspect>, Vec<Failure>) {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match engine.inspect(name, kind, size) {
            Ok(document) => found.push(document),
            Err(error) => failures.push(error.into()),
        }
    }
    (found, failures)
}

pub(super) fn printed<T: Serialize>(found: &[T], form: &Form) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    match form {
        Form::List => {
            let mut serializer =
                serde_json::Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
            found.serialize(&mut serializer)?;
        }
        Form::Line => serde_json::to_writer(&mut text, found)?,
        Form::Template(template) => {
            for document in found {
                text.extend(template.render(&Value::of(document)?)?.bytes());
                text.push(b'\n');
            }
            return Ok(text);
        }
    }
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let found = [serde_json::json!({"Id": "a", "State": {"Pid": 1}})];
        let printed = |form| String::from_utf8(printed(&found, &form).unwrap()).unwrap();
        assert_eq!(
            printed(Form::List),
            "[\n    {\n        \"Id\": \"a\",\n        \"State\": {\n            \"Pid\": 1\n        }\n    }\n]\n"
        );
        assert_eq!(printed(Form::Line), "[{\"Id\":\"a\",\"State\":{\"Pid\":1}}]\n");
        assert_eq!(printed(Form::Template(Template::parse("{{.Id}} {{.State.Pid}}").unwrap())), "a 1\n");
        let nothing: [(); 0] = [];
        assert_eq!(super::printed(&nothing, &Form::List).unwrap(), b"[]\n");
    }
}
