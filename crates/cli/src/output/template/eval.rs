//! Walks a template's tree over one value and writes the text.
//!
//! The rules are text/template's: a command's first operand decides whether it is a call, the value of a
//! pipeline stage is the last argument of the next, `with` and `range` move the dot, and variables live to
//! the end of the branch that declares them.

use super::TemplateError;
use super::functions::{self, CallError};
use super::parse::{BranchKind, Call, Node, Operand, OperandKind, Pipe};
use super::value::Value;

/// Fields of the top value that take arguments, such as `.Label "name"` of a container row.
pub trait Methods {
    /// The result, or `None` when there is no such method.
    fn call(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>>;
}

/// Data without methods.
pub struct NoMethods;

impl Methods for NoMethods {
    fn call(&self, _name: &str, _arguments: &[Value]) -> Option<Result<Value, String>> {
        None
    }
}

/// The text of a parsed template for one value.
pub fn render(source: &str, nodes: &[Node], data: &Value, methods: &dyn Methods) -> Result<String, TemplateError> {
    let mut state =
        State { source, top: data, methods, variables: vec![("$".to_owned(), data.clone())], output: String::new() };
    state.walk(nodes, data)?;
    Ok(state.output)
}

struct State<'a> {
    source: &'a str,
    top: &'a Value,
    methods: &'a dyn Methods,
    variables: Vec<(String, Value)>,
    output: String,
}

#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// What a pipeline gives. Go prints a missing value as `<no value>` and a nil inside data as `<nil>`.
type Evaluated = Result<Value, TemplateError>;

impl State<'_> {
    fn error(&self, position: usize, context: impl ToString, message: impl Into<String>) -> TemplateError {
        TemplateError::execute(self.source, position, context.to_string(), message)
    }

    fn walk(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.output.push_str(text);
                    Flow::On
                }
                Node::Action(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.variables.is_empty() {
                        self.print(&value);
                    }
                    Flow::On
                }
                Node::Branch { kind, pipe, body, otherwise } => {
                    let scope = self.variables.len();
                    let flow = self.branch(*kind, pipe, (body, otherwise), dot)?;
                    self.variables.truncate(scope);
                    flow
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn print(&mut self, value: &Value) {
        match value {
            Value::Nil => self.output.push_str("<no value>"),
            value => self.output.push_str(&value.to_string()),
        }
    }

    fn branch(
        &mut self,
        kind: BranchKind,
        pipe: &Pipe,
        (body, otherwise): (&[Node], &[Node]),
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        if kind == BranchKind::Range {
            return self.range(pipe, body, otherwise, dot);
        }
        let value = self.pipe(pipe, dot)?;
        match (value.is_true(), kind) {
            (true, BranchKind::With) => self.walk(body, &value),
            (true, _) => self.walk(body, dot),
            (false, _) => self.walk(otherwise, dot),
        }
    }

    fn range(&mut self, pipe: &Pipe, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        let value = self.pipe_value(pipe, dot)?;
        let items = match &value {
            Value::List(items) => items.iter().cloned().enumerate().map(|(i, v)| (Value::Int(i as i128), v)).collect(),
            Value::Map(entries) => Value::sorted_entries(entries)
                .into_iter()
                .map(|(key, item)| (Value::Text(key.clone()), item.clone()))
                .collect(),
            Value::Int(count) => (0..*count).map(|i| (Value::Int(i), Value::Int(i))).collect(),
            Value::Nil => Vec::new(),
            other => {
                let last = pipe.commands.last().map_or(pipe.position, |call| call.position);
                return Err(self.error(last, pipe, format!("range can't iterate over {other}")));
            }
        };
        if items.is_empty() {
            return self.walk(otherwise, dot);
        }
        let scope = self.variables.len();
        for (key, item) in items {
            match pipe.variables.as_slice() {
                [] => {}
                [only] => self.bind(only, item.clone(), pipe.assigns),
                [first, second, ..] => {
                    self.bind(first, key, pipe.assigns);
                    self.bind(second, item.clone(), pipe.assigns);
                }
            }
            let flow = self.walk(body, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn bind(&mut self, name: &str, value: Value, assigns: bool) {
        let existing = self.variables.iter_mut().rev().find(|(known, _)| assigns && known == name);
        match existing {
            Some((_, slot)) => *slot = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Evaluated {
        let value = self.pipe_value(pipe, dot)?;
        for name in &pipe.variables {
            self.bind(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn pipe_value(&mut self, pipe: &Pipe, dot: &Value) -> Evaluated {
        let mut value = None;
        for call in &pipe.commands {
            value = Some(self.call(call, dot, value)?);
        }
        Ok(value.unwrap_or(Value::Nil))
    }

    fn call(&mut self, call: &Call, dot: &Value, piped: Option<Value>) -> Evaluated {
        let first = &call.operands[0];
        let has_arguments = call.operands.len() > 1 || piped.is_some();
        match &first.kind {
            OperandKind::Function(name) => self.function(name, call, dot, piped),
            OperandKind::Field(fields) if has_arguments || self.is_method(fields, dot) => {
                self.method(fields, call, dot, piped)
            }
            OperandKind::Variable(..) | OperandKind::Group(..) if has_arguments => {
                Err(self.error(first.position, first, format!("can't give argument to non-function {first}")))
            }
            OperandKind::Nil => Err(self.error(first.position, first, "nil is not a command")),
            _ if has_arguments => {
                Err(self.error(first.position, first, format!("can't give argument to non-function {first}")))
            }
            _ => self.operand(first, dot),
        }
    }

    fn is_method(&self, fields: &[String], dot: &Value) -> bool {
        matches!(fields, [name] if std::ptr::eq(dot, self.top) && dot.get(name).is_none())
            && self.methods.call(&fields[0], &[]).is_some()
    }

    fn method(&mut self, fields: &[String], call: &Call, dot: &Value, piped: Option<Value>) -> Evaluated {
        let mut arguments = Vec::new();
        for operand in &call.operands[1..] {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        let first = &call.operands[0];
        let name = fields.last().map(String::as_str).unwrap_or_default();
        if fields.len() == 1
            && let Some(result) = self.methods.call(name, &arguments)
        {
            return result
                .map_err(|message| self.error(first.position, call, format!("error calling {name}: {message}")));
        }
        self.operand(first, dot)?;
        Err(self.error(first.position, first, format!("{name} has arguments but cannot be invoked as function")))
    }

    fn function(&mut self, name: &str, call: &Call, dot: &Value, piped: Option<Value>) -> Evaluated {
        if name == "and" || name == "or" {
            return self.short_circuit(name, call, dot, piped);
        }
        let mut arguments = Vec::new();
        for operand in &call.operands[1..] {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        functions::call(name, &arguments).map_err(|error| match error {
            CallError::Count { wanted } => {
                let message = format!("wrong number of args for {name}: want {wanted} got {}", arguments.len());
                self.error(call.position, &call.operands[0], message)
            }
            CallError::Type { index, wanted } => self.type_error(call, index, wanted, &arguments[index]),
            CallError::Failed(message) => self.error(call.position, call, format!("error calling {name}: {message}")),
        })
    }

    fn type_error(&self, call: &Call, index: usize, wanted: &str, got: &Value) -> TemplateError {
        let operand = call.operands.get(index + 1).unwrap_or(&call.operands[0]);
        let message = match &operand.kind {
            OperandKind::Constant(text, _) => format!("expected {wanted}; found {text}"),
            OperandKind::Nil => format!("cannot assign nil to {wanted}"),
            _ if *got == Value::Nil => format!("invalid value; expected {wanted}"),
            _ => format!("wrong type for value; expected {wanted}; got {}", got.type_name()),
        };
        self.error(operand.position, operand, message)
    }

    /// `and` and `or` evaluate no further than they must.
    fn short_circuit(&mut self, name: &str, call: &Call, dot: &Value, piped: Option<Value>) -> Evaluated {
        let mut value = None;
        for operand in &call.operands[1..] {
            let next = self.operand(operand, dot)?;
            let decided = next.is_true() == (name == "or");
            value = Some(next);
            if decided {
                break;
            }
        }
        let undecided = value.as_ref().is_none_or(|value| value.is_true() != (name == "or"));
        if let (true, Some(piped)) = (undecided, piped) {
            value = Some(piped);
        }
        value.ok_or_else(|| {
            let message = format!("wrong number of args for {name}: want at least 1 got 0");
            self.error(call.position, &call.operands[0], message)
        })
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Evaluated {
        match &operand.kind {
            OperandKind::Dot => Ok(dot.clone()),
            OperandKind::Nil => Ok(Value::Nil),
            OperandKind::Constant(_, value) => Ok(value.clone()),
            OperandKind::Field(fields) => self.fields(operand, dot, fields),
            OperandKind::Variable(name, fields) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let value = found.map_or(Value::Nil, |(_, value)| value.clone());
                self.fields(operand, &value, fields)
            }
            OperandKind::Group(pipe, fields) => {
                let value = self.pipe(pipe, dot)?;
                self.fields(operand, &value, fields)
            }
            OperandKind::Function(name) => {
                let call = Call { position: operand.position, operands: vec![operand.clone()] };
                self.function(name, &call, dot, None)
            }
        }
    }

    fn fields(&self, operand: &Operand, base: &Value, fields: &[String]) -> Evaluated {
        let mut value = base;
        for field in fields {
            value = match value {
                Value::Map(_) => match value.get(field) {
                    Some(inner) => inner,
                    None if field.starts_with(|c: char| c.is_ascii_uppercase()) => {
                        let message = format!("map has no entry for key \"{field}\"");
                        return Err(self.error(operand.position, operand, message));
                    }
                    None => &Value::Nil,
                },
                Value::Nil => {
                    let message = format!("nil data; no entry for key \"{field}\"");
                    return Err(self.error(operand.position, operand, message));
                }
                other => {
                    let message = format!("can't evaluate field {field} in type {}", other.type_name());
                    return Err(self.error(operand.position, operand, message));
                }
            };
        }
        Ok(value.clone())
    }
}
