//! `state` and `list`: containers as runc prints them, which is the specification's state and a little more.

use std::io;

use hull_oci::runtime::Status;
use hull_runtime::container::{Containers, Description};
use serde::Serialize;

use super::args::ListArgs;
use super::report;
use crate::commands::write_stdout;
use crate::error::Failure;

/// The fields of runc's documents, in their order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    oci_version: String,
    id: String,
    /// 0 when there is no process.
    pid: i32,
    status: Status,
    bundle: String,
    rootfs: String,
    created: String,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: std::collections::BTreeMap<String, String>,
    owner: String,
}

impl Document {
    fn of(container: Description, owner: String) -> Document {
        let state = container.state;
        Document {
            oci_version: state.oci_version,
            id: state.id,
            pid: state.pid.unwrap_or(0),
            status: state.status,
            bundle: state.bundle.display().to_string(),
            rootfs: container.rootfs.display().to_string(),
            created: created(container.created_ns),
            annotations: state.annotations,
            owner,
        }
    }
}

/// RFC 3339 with nanoseconds.
fn created(nanoseconds: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).map_or_else(|_| String::new(), |time| time.to_string())
}

/// Prints the state of one container.
///
/// # Errors
/// When there is none such, or stdout is gone.
pub fn state(containers: &Containers, id: &str) -> Result<(), Failure> {
    let document = Document::of(containers.describe(id)?, String::new());
    write_stdout((serde_json::to_string_pretty(&document)? + "\n").as_bytes())
}

/// Prints all containers; those that cannot be read are told on stderr and passed over.
///
/// # Errors
/// When the folder cannot be read, or stdout is gone.
pub fn list(containers: &Containers, arguments: &ListArgs) -> Result<(), Failure> {
    let ids = containers.ids()?;
    if arguments.quiet {
        let lines: String = ids.iter().map(|id| format!("{id}\n")).collect();
        return write_stdout(lines.as_bytes());
    }
    let names = user_names();
    let describe = |id: &String| match containers.describe(id) {
        Ok(container) => {
            let owner = user_name(&names, container.owner);
            Some(Document::of(container, owner))
        }
        Err(error) => {
            eprintln!("load container {id}: {}", report::line(&error.into()));
            None
        }
    };
    let documents: Vec<Document> = ids.iter().filter_map(describe).collect();
    let text = match arguments.format.as_str() {
        // Go's encoder, and so runc, says null where there is nothing.
        "json" if documents.is_empty() => "null".to_owned(),
        "json" => serde_json::to_string(&documents)?,
        _ => table(&documents),
    };
    write_stdout(text.as_bytes())
}

/// Columns at least twelve wide with three spaces between, as runc's.
fn table(documents: &[Document]) -> String {
    let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(heading)
        .chain(documents.iter().map(|container| {
            [
                container.id.clone(),
                container.pid.to_string(),
                container.status.to_string(),
                container.bundle.clone(),
                container.created.clone(),
                container.owner.clone(),
            ]
        }))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<String>() + &row[5] + "\n"
    };
    rows.iter().map(line).collect()
}

fn user_names() -> io::Result<String> {
    std::fs::read_to_string("/etc/passwd")
}

/// The name of a user, or `#` and the number of one without.
fn user_name(passwd: &io::Result<String>, uid: u32) -> String {
    let number = uid.to_string();
    let lines = passwd.as_deref().unwrap_or_default().lines();
    let mut fields = lines.map(|line| line.split(':').collect::<Vec<_>>());
    let name = fields.find(|fields| fields.get(2) == Some(&number.as_str())).map(|fields| fields[0].to_owned());
    name.unwrap_or_else(|| format!("#{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        Document {
            oci_version: "1.3.0".to_owned(),
            id: "c1".to_owned(),
            pid: 29660,
            status: Status::Running,
            bundle: "/tmp/bundles/b".to_owned(),
            rootfs: "/tmp/bundles/b/rootfs".to_owned(),
            created: created(1_700_000_000_059_300_682),
            annotations: Default::default(),
            owner: "root".to_owned(),
        }
    }

    #[test]
    fn the_table_is_runcs() {
        assert_eq!(
            table(&[document()]),
            "ID          PID         STATUS      BUNDLE           CREATED                          OWNER\n\
             c1          29660       running     /tmp/bundles/b   2023-11-14T22:13:20.059300682Z   root\n"
        );
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }

    #[test]
    fn the_document_is_runcs() {
        assert_eq!(
            serde_json::to_string(&document()).unwrap(),
            "{\"ociVersion\":\"1.3.0\",\"id\":\"c1\",\"pid\":29660,\"status\":\"running\",\
             \"bundle\":\"/tmp/bundles/b\",\"rootfs\":\"/tmp/bundles/b/rootfs\",\
             \"created\":\"2023-11-14T22:13:20.059300682Z\",\"owner\":\"root\"}"
        );
    }

    #[test]
    fn owners_have_names_where_there_are_some() {
        let passwd = Ok("root:x:0:0::/root:/bin/sh\nann:x:10:10::/:/bin/sh\n".to_owned());
        assert_eq!(user_name(&passwd, 10), "ann");
        assert_eq!(user_name(&passwd, 1), "#1");
        assert_eq!(user_name(&Err(io::ErrorKind::NotFound.into()), 0), "#0");
    }
}
