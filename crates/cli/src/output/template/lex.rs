//! Cuts a template into tokens: literal text, and inside `{{ }}` the words of Go's template language.
//!
//! Trim markers (`{{- ` and ` -}}`) and comments are dealt with here, so the parser never sees them. Space
//! inside an action is a token of its own, because `.A .B` is two operands and `.A.B` is one. Positions are
//! byte offsets into the template, which the error messages of Go count from zero within their line.

use super::TemplateError;

/// A token and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Byte offset in the template.
    pub position: usize,
    /// What it is.
    pub kind: TokenKind,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenKind {
    /// Literal text between actions.
    Text(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// White space inside an action.
    Space,
    /// `.` alone.
    Dot,
    /// `.Name`, without the dot.
    Field(String),
    /// `$name` or `$`, with the dollar sign.
    Variable(String),
    /// A word: a keyword, a constant or a function.
    Word(String),
    /// A number as typed.
    Number(String),
    /// A quoted string: as typed, and its value.
    Quoted(String, String),
    /// A character constant: as typed, and its code point.
    Character(String, i128),
    /// `|`, `(`, `)`, `,`.
    Sign(char),
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
    /// The end of the template.
    End,
}

/// The tokens of a template, ending in [`TokenKind::End`].
///
/// # Errors
/// With Go's words for an action or a quote that is not closed, or a character that has no place there.
pub fn tokens(template: &str) -> Result<Vec<Token>, TemplateError> {
    let mut lexer = Lexer { source: template, position: 0, tokens: Vec::new() };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    position: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.position..]
    }

    fn push(&mut self, position: usize, kind: TokenKind) {
        self.tokens.push(Token { position, kind });
    }

    fn error(&self, position: usize, message: impl Into<String>) -> TemplateError {
        TemplateError::parse(self.source, position, message)
    }

    fn run(&mut self) -> Result<(), TemplateError> {
        let mut trim_left = false;
        loop {
            let start = self.position;
            let Some(offset) = self.rest().find("{{") else {
                self.text(start, self.source.len(), trim_left, false);
                self.push(self.source.len(), TokenKind::End);
                return Ok(());
            };
            let open = start + offset;
            let after = &self.source[open + 2..];
            let trims = after.starts_with('-') && after[1..].starts_with(is_space);
            self.text(start, open, trim_left, trims);
            self.position = open + 2 + if trims { 2 } else { 0 };
            trim_left = if self.rest().trim_start_matches(is_space).starts_with("/*") {
                self.comment(open)?
            } else {
                self.push(open, TokenKind::Open);
                self.action(open)?
            };
        }
    }

    fn text(&mut self, start: usize, end: usize, trim_left: bool, trim_right: bool) {
        let mut text = &self.source[start..end];
        if trim_left {
            text = text.trim_start_matches(is_space);
        }
        if trim_right {
            text = text.trim_end_matches(is_space);
        }
        if !text.is_empty() {
            let text = text.to_owned();
            self.push(start, TokenKind::Text(text));
        }
    }

    fn comment(&mut self, open: usize) -> Result<bool, TemplateError> {
        let Some(end) = self.rest().find("*/") else {
            return Err(self.error(open, "unclosed comment"));
        };
        self.position += end + 2;
        self.close().ok_or_else(|| self.error(open, "comment ends before closing delimiter"))
    }

    /// At `}}` or ` -}}`: moves past it, and says whether it trims what follows.
    fn close(&mut self) -> Option<bool> {
        let rest = self.rest();
        if rest.starts_with(is_space) && rest[1..].starts_with("-}}") {
            self.position += 4;
            return Some(true);
        }
        if rest.starts_with("}}") {
            self.position += 2;
            return Some(false);
        }
        None
    }

    fn action(&mut self, open: usize) -> Result<bool, TemplateError> {
        let mut parentheses = 0usize;
        loop {
            let start = self.position;
            if let Some(trims) = self.close() {
                if parentheses > 0 {
                    return Err(self.error(start, "unclosed left paren"));
                }
                self.push(start, TokenKind::Close);
                return Ok(trims);
            }
            let Some(next) = self.rest().chars().next() else {
                return Err(self.error(open, "unclosed action"));
            };
            match next {
                '(' => parentheses += 1,
                ')' if parentheses == 0 => return Err(self.error(start, "unexpected right paren")),
                ')' => parentheses -= 1,
                _ => {}
            }
            self.word(start, next)?;
        }
    }

    fn word(&mut self, start: usize, next: char) -> Result<(), TemplateError> {
        match next {
            c if is_space(c) => {
                // The one space that belongs to ` -}}` stays for `close`.
                self.take_while(is_space);
                if self.rest().starts_with("-}}") {
                    self.position -= 1;
                }
                self.push(start, TokenKind::Space);
            }
            '|' | '(' | ')' | ',' => {
                self.position += 1;
                self.push(start, TokenKind::Sign(next));
            }
            ':' if self.rest().starts_with(":=") => {
                self.position += 2;
                self.push(start, TokenKind::Declare);
            }
            ':' => return Err(self.error(start, "expected :=")),
            '=' => {
                self.position += 1;
                self.push(start, TokenKind::Assign);
            }
            '"' => self.quoted(start)?,
            '`' => self.raw_quoted(start)?,
            '\'' => self.character(start)?,
            '.' if !self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                self.position += 1;
                let name = self.take_while(is_alphanumeric);
                self.push(start, if name.is_empty() { TokenKind::Dot } else { TokenKind::Field(name) });
            }
            '$' => {
                self.position += 1;
                let name = self.take_while(is_alphanumeric);
                self.push(start, TokenKind::Variable(format!("${name}")));
            }
            c if c == '+' || c == '-' || c == '.' || c.is_ascii_digit() => self.number(start)?,
            c if is_alphanumeric(c) => {
                let word = self.take_while(is_alphanumeric);
                self.push(start, TokenKind::Word(word));
            }
            c => {
                let message = format!("unexpected {} in operand", super::value::go_quote(&c.to_string()));
                return Err(self.error(start, message));
            }
        }
        Ok(())
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        let length = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        let taken = rest[..length].to_owned();
        self.position += length;
        taken
    }

    fn number(&mut self, start: usize) -> Result<(), TemplateError> {
        self.position += 1;
        self.take_while(|c| is_alphanumeric(c) || c == '.');
        let exponent_sign = self.source[start..self.position].ends_with(['e', 'E'])
            && !self.source[start..self.position].contains(['x', 'X']);
        if exponent_sign && self.rest().starts_with(['+', '-']) {
            self.position += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        let text = self.source[start..self.position].to_owned();
        if text == "-" || text == "+" {
            return Err(self.error(start, format!("bad number syntax: {}", super::value::go_quote(&text))));
        }
        self.push(start, TokenKind::Number(text));
        Ok(())
    }

    fn quoted(&mut self, start: usize) -> Result<(), TemplateError> {
        let mut escaped = false;
        let Some(end) = self.source[start + 1..].char_indices().find_map(|(index, c)| match c {
            '\n' => Some(None),
            _ if escaped => {
                escaped = false;
                None
            }
            '\\' => {
                escaped = true;
                None
            }
            '"' => Some(Some(start + 1 + index)),
            _ => None,
        }) else {
            return Err(self.error(start, "unterminated quoted string"));
        };
        let Some(end) = end else {
            return Err(self.error(start, "unterminated quoted string"));
        };
        let typed = self.source[start..=end].to_owned();
        let value = unescape(&typed[1..typed.len() - 1]).ok_or_else(|| self.error(start, "invalid syntax"))?;
        self.position = end + 1;
        self.push(start, TokenKind::Quoted(typed, value));
        Ok(())
    }

    fn raw_quoted(&mut self, start: usize) -> Result<(), TemplateError> {
        let Some(length) = self.source[start + 1..].find('`') else {
            return Err(self.error(start, "unterminated raw quoted string"));
        };
        let value = self.source[start + 1..start + 1 + length].to_owned();
        self.position = start + length + 2;
        self.push(start, TokenKind::Quoted(format!("`{value}`"), value));
        Ok(())
    }

    fn character(&mut self, start: usize) -> Result<(), TemplateError> {
        let body = &self.source[start + 1..];
        let length = match body.strip_prefix('\\') {
            Some(escaped) => escaped.get(1..).and_then(|rest| rest.find('\'')).map(|at| at + 2),
            None => body.find('\''),
        };
        let length = length.ok_or_else(|| self.error(start, "unterminated character constant"))?;
        let inner = body[..length].to_owned();
        let value = unescape(&inner).filter(|value| value.chars().count() == 1);
        let Some(code) = value.and_then(|value| value.chars().next()) else {
            return Err(self.error(start, format!("malformed character constant: '{inner}'")));
        };
        self.position = start + length + 2;
        self.push(start, TokenKind::Character(format!("'{inner}'"), i128::from(u32::from(code))));
        Ok(())
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The value of a string constant's inside; `None` for an escape Go does not have.
fn unescape(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            value.push(c);
            continue;
        }
        let (digits, radix) = match characters.next()? {
            'a' => ('\u{7}', 0),
            'b' => ('\u{8}', 0),
            'f' => ('\u{c}', 0),
            'n' => ('\n', 0),
            'r' => ('\r', 0),
            't' => ('\t', 0),
            'v' => ('\u{b}', 0),
            c @ ('\\' | '"' | '\'') => (c, 0),
            'x' => ('2', 16),
            'u' => ('4', 16),
            'U' => ('8', 16),
            _ => return None,
        };
        if radix == 0 {
            value.push(digits);
            continue;
        }
        let hex: String = characters.by_ref().take(digits.to_digit(10)? as usize).collect();
        value.push(char::from_u32(u32::from_str_radix(&hex, radix).ok()?)?);
    }
    Some(value)
}
