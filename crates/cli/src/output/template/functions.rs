//! The functions a template may call: Go's built-in ones and docker's.
//!
//! Each takes its arguments already evaluated (`and` and `or` are the evaluator's, they stop early). Type
//! errors and counts are reported apart from a function's own failure, because Go words them differently.

use super::printf::{print, printf, println};
use super::value::Value;

/// Why a call failed.
pub enum CallError {
    /// Too few or too many arguments.
    Count {
        /// Go's description of the right number.
        wanted: String,
    },
    /// An argument of the wrong type.
    Type {
        /// Which argument, from zero.
        index: usize,
        /// The type it should have.
        wanted: &'static str,
    },
    /// The function's own error.
    Failed(String),
}

type Outcome = Result<Value, CallError>;

const NAMES: [&str; 26] = [
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index", "slice", "print", "printf", "println",
    "html", "js", "urlquery", "json", "split", "join", "title", "lower", "upper", "pad", "truncate",
];

/// Whether there is such a function.
pub fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a function by name.
pub fn call(name: &str, arguments: &[Value]) -> Outcome {
    match name {
        "not" => exactly(arguments, 1).map(|()| Value::Bool(!arguments[0].is_true())),
        "eq" => equal(arguments).map(Value::Bool),
        "ne" => exactly(arguments, 2).and_then(|()| same(&arguments[0], &arguments[1])).map(|same| Value::Bool(!same)),
        "lt" | "le" | "gt" | "ge" => ordered(name, arguments).map(Value::Bool),
        "len" => length(arguments),
        "index" => index(arguments),
        "slice" => slice(arguments),
        "print" => Ok(print(arguments).into()),
        "println" => Ok(println(arguments).into()),
        "printf" => {
            at_least(arguments, 1)?;
            Ok(printf(&text(arguments, 0)?, &arguments[1..]).into())
        }
        "html" => Ok(html(&print(arguments)).into()),
        "js" => Ok(js(&print(arguments)).into()),
        "urlquery" => Ok(url_query(&print(arguments)).into()),
        "json" => {
            exactly(arguments, 1)?;
            arguments[0].json().map(Value::Text).map_err(|error| CallError::Failed(error.to_string()))
        }
        "split" => split(arguments),
        "join" => join(arguments),
        "title" => one_text(arguments, title),
        "lower" => one_text(arguments, |text| text.to_lowercase()),
        "upper" => one_text(arguments, |text| text.to_uppercase()),
        "pad" => pad(arguments),
        "truncate" => truncate(arguments),
        other => Err(CallError::Failed(format!("function {other:?} not defined"))),
    }
}

fn exactly(arguments: &[Value], count: usize) -> Result<(), CallError> {
    if arguments.len() == count { Ok(()) } else { Err(CallError::Count { wanted: count.to_string() }) }
}

fn at_least(arguments: &[Value], count: usize) -> Result<(), CallError> {
    if arguments.len() >= count { Ok(()) } else { Err(CallError::Count { wanted: format!("at least {count}") }) }
}

fn text(arguments: &[Value], index: usize) -> Result<String, CallError> {
    match &arguments[index] {
        Value::Text(text) => Ok(text.clone()),
        _ => Err(CallError::Type { index, wanted: "string" }),
    }
}

fn whole(arguments: &[Value], index: usize) -> Result<usize, CallError> {
    match &arguments[index] {
        Value::Int(number) => Ok(usize::try_from(*number).unwrap_or(0)),
        _ => Err(CallError::Type { index, wanted: "int" }),
    }
}

fn one_text(arguments: &[Value], apply: impl Fn(&str) -> String) -> Outcome {
    exactly(arguments, 1)?;
    Ok(apply(&text(arguments, 0)?).into())
}

fn same(left: &Value, right: &Value) -> Result<bool, CallError> {
    let bad = |message: &str| CallError::Failed(message.to_owned());
    match (left, right) {
        (Value::List(_) | Value::Map(_), _) | (_, Value::List(_) | Value::Map(_)) => {
            Err(bad("non-comparable type in comparison"))
        }
        (Value::Nil, _) | (_, Value::Nil) => Ok(left == right),
        _ if std::mem::discriminant(left) != std::mem::discriminant(right) => {
            Err(bad("incompatible types for comparison"))
        }
        _ => Ok(left == right),
    }
}

/// The first against every other: true when one is equal.
fn equal(arguments: &[Value]) -> Result<bool, CallError> {
    at_least(arguments, 1)?;
    if arguments.len() == 1 {
        return Err(CallError::Failed("missing argument for comparison".to_owned()));
    }
    for other in &arguments[1..] {
        if same(&arguments[0], other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn ordered(name: &str, arguments: &[Value]) -> Result<bool, CallError> {
    exactly(arguments, 2)?;
    let ordering = match (&arguments[0], &arguments[1]) {
        (Value::Int(left), Value::Int(right)) => left.partial_cmp(right),
        (Value::Float(left), Value::Float(right)) => left.partial_cmp(right),
        (Value::Text(left), Value::Text(right)) => left.partial_cmp(right),
        (left, right) if std::mem::discriminant(left) == std::mem::discriminant(right) => {
            return Err(CallError::Failed("invalid type for comparison".to_owned()));
        }
        _ => return Err(CallError::Failed("incompatible types for comparison".to_owned())),
    };
    Ok(ordering.is_some_and(|ordering| match name {
        "lt" => ordering.is_lt(),
        "le" => ordering.is_le(),
        "gt" => ordering.is_gt(),
        _ => ordering.is_ge(),
    }))
}

fn length(arguments: &[Value]) -> Outcome {
    exactly(arguments, 1)?;
    let length = match &arguments[0] {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(entries) => entries.len(),
        Value::Nil => return Err(CallError::Failed("len of nil pointer".to_owned())),
        other => return Err(CallError::Failed(format!("len of type {}", other.type_name()))),
    };
    Ok(Value::Int(length as i128))
}

fn index(arguments: &[Value]) -> Outcome {
    at_least(arguments, 1)?;
    let mut value = arguments[0].clone();
    for key in &arguments[1..] {
        value = match (&value, key) {
            (Value::Map(_), Value::Text(name)) => value.get(name).cloned().unwrap_or(Value::Nil),
            (Value::Map(_), other) => return Err(value_type_error("string", other)),
            (Value::List(items), Value::Int(number)) => {
                let item = usize::try_from(*number).ok().and_then(|number| items.get(number));
                item.cloned().ok_or_else(|| CallError::Failed(format!("index out of range: {number}")))?
            }
            (Value::Text(text), Value::Int(number)) => {
                let byte = usize::try_from(*number).ok().and_then(|number| text.as_bytes().get(number).copied());
                let byte = byte.ok_or_else(|| CallError::Failed(format!("index out of range: {number}")))?;
                Value::Int(byte.into())
            }
            (Value::List(_) | Value::Text(_), other) => {
                return Err(CallError::Failed(format!("cannot index slice/array with type {}", other.type_name())));
            }
            (Value::Nil, _) => return Err(CallError::Failed("index of untyped nil".to_owned())),
            (other, _) => return Err(CallError::Failed(format!("can't index item of type {}", other.type_name()))),
        };
    }
    Ok(value)
}

fn value_type_error(wanted: &str, got: &Value) -> CallError {
    CallError::Failed(format!("value has type {}; should be {wanted}", got.type_name()))
}

fn slice(arguments: &[Value]) -> Outcome {
    at_least(arguments, 1)?;
    let length = match &arguments[0] {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        other => return Err(CallError::Failed(format!("can't slice item of type {}", other.type_name()))),
    };
    if arguments.len() > 3 {
        return Err(CallError::Failed(format!("too many slice indexes: {}", arguments.len() - 1)));
    }
    let bound = |at: usize, default: usize| match arguments.get(at) {
        None => Ok(default),
        Some(Value::Int(number)) => usize::try_from(*number)
            .ok()
            .filter(|number| *number <= length)
            .ok_or_else(|| CallError::Failed(format!("index out of range: {number}"))),
        Some(other) => Err(CallError::Failed(format!("cannot index slice/array with type {}", other.type_name()))),
    };
    let (start, end) = (bound(1, 0)?, bound(2, length)?);
    if start > end {
        return Err(CallError::Failed(format!("invalid slice index: {start} > {end}")));
    }
    Ok(match &arguments[0] {
        Value::Text(text) => String::from_utf8_lossy(&text.as_bytes()[start..end]).into_owned().into(),
        Value::List(items) => Value::List(items[start..end].to_vec()),
        _ => Value::Nil,
    })
}

fn split(arguments: &[Value]) -> Outcome {
    exactly(arguments, 2)?;
    let (whole, separator) = (text(arguments, 0)?, text(arguments, 1)?);
    let parts: Vec<Value> = if separator.is_empty() {
        whole.chars().map(|c| c.to_string().into()).collect()
    } else {
        whole.split(&separator).map(Value::from).collect()
    };
    Ok(Value::List(parts))
}

fn join(arguments: &[Value]) -> Outcome {
    exactly(arguments, 2)?;
    let separator = text(arguments, 1)?;
    match &arguments[0] {
        Value::List(items) => Ok(items.iter().map(Value::to_string).collect::<Vec<_>>().join(&separator).into()),
        Value::Nil => Ok(Value::from("")),
        _ => Err(CallError::Type { index: 0, wanted: "[]string" }),
    }
}

fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.chars() {
        if in_word {
            result.push(character);
        } else {
            result.extend(character.to_uppercase());
        }
        in_word = character.is_alphanumeric() || character == '_' || character == '\'';
    }
    result
}

/// Spaces before and after; nothing at all for an empty string, as docker does it.
fn pad(arguments: &[Value]) -> Outcome {
    exactly(arguments, 3)?;
    let (text, before, after) = (text(arguments, 0)?, whole(arguments, 1)?, whole(arguments, 2)?);
    if text.is_empty() {
        return Ok(text.into());
    }
    Ok(format!("{}{text}{}", " ".repeat(before), " ".repeat(after)).into())
}

fn truncate(arguments: &[Value]) -> Outcome {
    exactly(arguments, 2)?;
    let (text, length) = (text(arguments, 0)?, whole(arguments, 1)?);
    Ok(text.chars().take(length).collect::<String>().into())
}

fn html(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\0' => escaped.push('\u{fffd}'),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn js(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\'' => escaped.push_str("\\'"),
            '"' => escaped.push_str("\\\""),
            '<' => escaped.push_str("\\u003C"),
            '>' => escaped.push_str("\\u003E"),
            '&' => escaped.push_str("\\u0026"),
            '=' => escaped.push_str("\\u003D"),
            c if (c as u32) < 0x20 => escaped.push_str(&format!("\\u{:04X}", c as u32)),
            c => escaped.push(c),
        }
    }
    escaped
}

fn url_query(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => escaped.push('+'),
            b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => escaped.push(char::from(b)),
            b => escaped.push_str(&format!("%{b:02X}")),
        }
    }
    escaped
}
