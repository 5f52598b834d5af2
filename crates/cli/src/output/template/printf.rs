//! `print`, `println` and `printf` with Go's verbs, flags, widths and complaints (`%!d(string=a)`).
//!
//! Verbs: `v s q d x X o b c t e f g T`, flags `- + # 0` and space, width and precision as numbers. A verb
//! that does not fit its argument is printed as Go prints it, never an error.

use super::value::{Value, go_float, go_quote};

/// Go's Print: a space between two operands when neither is a string.
pub fn print(arguments: &[Value]) -> String {
    let mut text = String::new();
    for (index, argument) in arguments.iter().enumerate() {
        let strings = matches!(argument, Value::Text(_)) || matches!(arguments[index.max(1) - 1], Value::Text(_));
        if index > 0 && !strings {
            text.push(' ');
        }
        text.push_str(&argument.to_string());
    }
    text
}

/// Go's Println: spaces between all, a newline after.
pub fn println(arguments: &[Value]) -> String {
    let words: Vec<String> = arguments.iter().map(Value::to_string).collect();
    words.join(" ") + "\n"
}

#[derive(Default)]
struct Directive {
    minus: bool,
    plus: bool,
    sharp: bool,
    zero: bool,
    space: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Go's Printf.
pub fn printf(format: &str, arguments: &[Value]) -> String {
    let mut text = String::new();
    let mut rest = format;
    let mut used = 0;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let (directive, after) = directive(&rest[at + 1..]);
        let mut characters = after.chars();
        match characters.next() {
            None => text.push_str("%!(NOVERB)"),
            Some('%') => text.push('%'),
            Some(verb) => match arguments.get(used) {
                Some(argument) => {
                    text.push_str(&formatted(verb, &directive, argument));
                    used += 1;
                }
                None => text.push_str(&format!("%!{verb}(MISSING)")),
            },
        }
        rest = characters.as_str();
    }
    text.push_str(rest);
    if used < arguments.len() {
        let extra: Vec<String> = arguments[used..].iter().map(|a| format!("{}={a}", a.type_name())).collect();
        text.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    text
}

fn directive(text: &str) -> (Directive, &str) {
    let mut directive = Directive::default();
    let mut rest = text;
    while let Some(flag) = rest.chars().next() {
        match flag {
            '-' => directive.minus = true,
            '+' => directive.plus = true,
            '#' => directive.sharp = true,
            '0' => directive.zero = true,
            ' ' => directive.space = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let number = |text: &mut &str| {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number = text[..digits].parse::<usize>().ok().map(|number| number.min(4096));
        *text = &text[digits..];
        number
    };
    directive.width = number(&mut rest);
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        directive.precision = Some(number(&mut rest).unwrap_or(0));
    }
    (directive, rest)
}

fn formatted(verb: char, directive: &Directive, argument: &Value) -> String {
    let body = match (verb, argument) {
        ('T', value) => value.type_name().to_owned(),
        ('v', Value::Text(_)) if directive.sharp => return padded(directive, go_quote(&argument.to_string()), false),
        ('v', Value::Int(number)) => return padded(directive, signed(directive, *number), true),
        ('v' | 's', Value::Text(text)) => shortened(directive, text),
        ('v', value) => value.to_string(),
        ('q', Value::Text(text)) => go_quote(&shortened(directive, text)),
        ('x' | 'X', Value::Text(text)) => {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            if verb == 'X' { hex.to_uppercase() } else { hex }
        }
        ('s' | 'q' | 'd' | 'x' | 'X', Value::List(items)) => {
            let items: Vec<String> = items.iter().map(|item| formatted(verb, directive, item)).collect();
            return format!("[{}]", items.join(" "));
        }
        ('d', Value::Int(number)) => return padded(directive, signed(directive, *number), true),
        ('x', Value::Int(number)) => format!("{}{number:x}", if directive.sharp { "0x" } else { "" }),
        ('X', Value::Int(number)) => format!("{}{number:X}", if directive.sharp { "0X" } else { "" }),
        ('o', Value::Int(number)) => format!("{}{number:o}", if directive.sharp { "0" } else { "" }),
        ('b', Value::Int(number)) => format!("{number:b}"),
        ('c', Value::Int(number)) => {
            let code = u32::try_from(*number).ok().and_then(char::from_u32);
            code.unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        ('q', Value::Int(number)) => {
            let code = u32::try_from(*number).ok().and_then(char::from_u32);
            format!("'{}'", code.unwrap_or(char::REPLACEMENT_CHARACTER))
        }
        ('t', Value::Bool(value)) => value.to_string(),
        ('f' | 'F', Value::Float(number)) => {
            return padded(directive, format!("{number:.*}", directive.precision.unwrap_or(6)), true);
        }
        ('e', Value::Float(number)) => exponent(*number, directive.precision.unwrap_or(6)),
        ('g', Value::Float(number)) => go_float(*number),
        (verb, Value::Nil) => return format!("%!{verb}(<nil>)"),
        (verb, value) => return format!("%!{verb}({}={value})", value.type_name()),
    };
    let number = !matches!(argument, Value::Text(_)) && verb != 'c';
    padded(directive, body, number)
}

fn signed(directive: &Directive, number: i128) -> String {
    match number {
        0.. if directive.plus => format!("+{number}"),
        0.. if directive.space => format!(" {number}"),
        _ => number.to_string(),
    }
}

fn shortened(directive: &Directive, text: &str) -> String {
    match directive.precision {
        Some(length) => text.chars().take(length).collect(),
        None => text.to_owned(),
    }
}

fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, power)) => {
            let (sign, digits) = power.strip_prefix('-').map_or(('+', power), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

fn padded(directive: &Directive, body: String, number: bool) -> String {
    let missing = directive.width.unwrap_or(0).saturating_sub(body.chars().count());
    if missing == 0 {
        return body;
    }
    if directive.minus {
        return body + &" ".repeat(missing);
    }
    if !directive.zero {
        return " ".repeat(missing) + &body;
    }
    match body.strip_prefix(['-', '+']) {
        Some(digits) if number => format!("{}{}{digits}", &body[..1], "0".repeat(missing)),
        _ => "0".repeat(missing) + &body,
    }
}
