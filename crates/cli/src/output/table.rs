//! Rows for people: docker's column layout, and the four meanings of `--format`.
//!
//! ```text
//! (absent), table      the command's own columns with a heading
//! table TEMPLATE       that template's columns with a heading
//! json                 one JSON object a line
//! TEMPLATE             that template, one line a row
//! ```
//!
//! A heading is the row template itself applied to the names of the columns, as docker does it. Columns end
//! at tabs, are padded to their widest cell plus three, and are never narrower than ten.

use super::template::{Methods, Template, TemplateError, Value};

/// A kind of row: its columns and its default table.
pub struct Layout {
    /// Field and heading of every column a template may name.
    pub headings: &'static [(&'static str, &'static str)],
    /// The default table's template.
    pub default: &'static str,
}

/// How rows are to be printed.
#[derive(Debug)]
pub enum Format {
    /// In columns, with a heading.
    Table(Template),
    /// As JSON, one object a line.
    Json,
    /// By template, one line a row.
    Lines(Template),
}

impl Format {
    /// Reads `--format`; `default` is the table used when it is absent or says only `table`.
    ///
    /// # Errors
    /// When the template does not parse.
    pub fn parse(format: Option<&str>, default: &str) -> Result<Format, TemplateError> {
        let format = format.unwrap_or_default().trim_end();
        if format.is_empty() || format == "table" {
            return Ok(Format::Table(Template::parse(default)?));
        }
        if format == "json" {
            return Ok(Format::Json);
        }
        match format.strip_prefix("table ") {
            Some(template) => Ok(Format::Table(Template::parse(&unescaped(template))?)),
            None => Ok(Format::Lines(Template::parse(&unescaped(format))?)),
        }
    }
}

/// `\t` and `\n` typed as two characters mean the tab and the newline.
fn unescaped(template: &str) -> String {
    template.replace(r"\t", "\t").replace(r"\n", "\n")
}

/// The text of all rows.
///
/// # Errors
/// When the template asks for something a row does not have.
pub fn render(layout: &Layout, format: &Format, rows: &[(Value, Box<dyn Methods>)]) -> Result<String, TemplateError> {
    let mut text = String::new();
    match format {
        Format::Json => {
            for (row, _) in rows {
                text.push_str(&row.json().unwrap_or_default());
                text.push('\n');
            }
        }
        Format::Lines(template) => {
            for (row, methods) in rows {
                text.push_str(&template.render_with(row, methods.as_ref())?);
                text.push('\n');
            }
        }
        Format::Table(template) => {
            let headings = layout.headings.iter().map(|(field, heading)| (field.to_string(), Value::from(*heading)));
            let mut lines = vec![template.render_with(&Value::Map(headings.collect()), &LabelHeading)?];
            for (row, methods) in rows {
                lines.push(template.render_with(row, methods.as_ref())?);
            }
            text = columns(&lines);
        }
    }
    Ok(text)
}

/// The heading of a `.Label "com.example.name"` column: its last part.
struct LabelHeading;

impl Methods for LabelHeading {
    fn call(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        match (name, arguments) {
            ("Label", [Value::Text(label)]) => {
                let last = label.rsplit('.').next().unwrap_or(label);
                Some(Ok(last.replace(['-', '_'], " ").into()))
            }
            _ => None,
        }
    }
}

/// Lays out lines of tab-separated cells, padding every cell but the last of its line.
pub fn columns(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> =
        lines.iter().flat_map(|line| line.split('\n')).map(|l| l.split('\t').collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate().take(row.len() - 1) {
            if widths.len() == column {
                widths.push(10);
            }
            widths[column] = widths[column].max(cell.chars().count() + 3);
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', widths[column] - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::template::Value;
    use super::*;

    const LAYOUT: Layout =
        Layout { headings: &[("ID", "CONTAINER ID"), ("Names", "NAMES")], default: "{{.ID}}\t{{.Names}}" };

    struct None_;

    impl Methods for None_ {
        fn call(&self, _name: &str, _arguments: &[Value]) -> Option<Result<Value, String>> {
            None
        }
    }

    fn rows() -> Vec<(Value, Box<dyn Methods>)> {
        ["a", "a long identifier"]
            .map(|id| {
                let row = Value::Map(vec![("ID".to_owned(), id.into()), ("Names".to_owned(), "x".into())]);
                (row, Box::new(None_) as Box<dyn Methods>)
            })
            .into()
    }

    #[test]
    fn every_format() {
        let render = |format: Option<&str>| render(&LAYOUT, &Format::parse(format, LAYOUT.default).unwrap(), &rows());
        let table = "CONTAINER ID        NAMES\na                   x\na long identifier   x\n";
        assert_eq!(render(None).unwrap(), table);
        assert_eq!(render(Some("table")).unwrap(), table);
        assert_eq!(
            render(Some("table {{.Names}}\\t{{.ID}}")).unwrap(),
            "NAMES     CONTAINER ID\nx         a\nx         a long identifier\n"
        );
        assert_eq!(render(Some("{{.ID}}={{.Names}}")).unwrap(), "a=x\na long identifier=x\n");
        assert_eq!(render(Some("json")).unwrap().lines().next().unwrap(), r#"{"ID":"a","Names":"x"}"#);
        assert!(render(Some("{{.Nope}}")).is_err());
        assert!(Format::parse(Some("{{"), "").is_err());
    }

    #[test]
    fn label_headings() {
        let format = Format::parse(Some("table {{.Label \"com.example.my-role\"}}"), "").unwrap();
        assert_eq!(super::render(&LAYOUT, &format, &[]).unwrap(), "my role\n");
    }
}
