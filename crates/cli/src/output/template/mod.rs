//! Go templates (text/template), as `--format` takes them.
//!
//! The language is Go's: pipelines, variables, `if`, `with`, `range`, `break`, trim markers, comments, the
//! built-in functions, and docker's own `json split join title lower upper pad truncate`. Error messages are
//! Go's, because users and scripts know them. `define`, `template` and `block` are refused by name.
//!
//! ```text
//! text -> lex (tokens) -> parse (tree; undefined names end here) -> eval (one value -> text)
//! ```
//!
//! A template sees JSON-shaped data ([`Value`]). A document's fields start with a capital letter, so a
//! missing key that does too is an error (a misspelt field), and any other missing key is `<no value>` (a
//! label or port that is not there), which is what docker prints for its structs and maps.

mod eval;
mod functions;
mod lex;
mod parse;
mod printf;
pub mod value;

pub use eval::{Methods, NoMethods};
pub use value::Value;

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    source: String,
    nodes: Vec<parse::Node>,
}

/// Why a template failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is not a template.
    #[error("template parsing error: template: :{line}: {message}")]
    Parse {
        /// Line, from one.
        line: usize,
        /// Go's words.
        message: String,
    },
    /// It does not fit the data.
    #[error("template parsing error: template: :{line}:{column}: executing \"\" at <{context}>: {message}")]
    Execute {
        /// Line, from one.
        line: usize,
        /// Byte in the line, from zero, as Go counts.
        column: usize,
        /// The part of the template that failed.
        context: String,
        /// Go's words.
        message: String,
    },
}

impl TemplateError {
    fn parse(source: &str, position: usize, message: impl Into<String>) -> TemplateError {
        TemplateError::Parse { line: place(source, position).0, message: message.into() }
    }

    fn execute(source: &str, position: usize, context: String, message: impl Into<String>) -> TemplateError {
        let (line, column) = place(source, position);
        TemplateError::Execute { line, column, context, message: message.into() }
    }
}

fn place(source: &str, position: usize) -> (usize, usize) {
    let before = &source[..position.min(source.len())];
    let column = before.rfind('\n').map_or(before.len(), |newline| before.len() - newline - 1);
    (1 + before.matches('\n').count(), column)
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError::Parse`].
    pub fn parse(source: &str) -> Result<Template, TemplateError> {
        Ok(Template { nodes: parse::parse(source)?, source: source.to_owned() })
    }

    /// The text for one value.
    ///
    /// # Errors
    /// [`TemplateError::Execute`].
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        eval::render(&self.source, &self.nodes, data, &eval::NoMethods)
    }

    /// As [`Template::render`], for data whose fields can be called with arguments (`{{.Label "x"}}`).
    ///
    /// # Errors
    /// [`TemplateError::Execute`].
    pub fn render_with(&self, data: &Value, methods: &dyn Methods) -> Result<String, TemplateError> {
        eval::render(&self.source, &self.nodes, data, methods)
    }
}

#[cfg(test)]
mod tests;
