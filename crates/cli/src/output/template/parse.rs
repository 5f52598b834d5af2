//! Builds the tree of a template from its tokens, with Go's rules and Go's error messages.
//!
//! What is not there is refused by name: `define`, `template` and `block`. Undefined variables and unknown
//! functions are errors of parsing, as in Go, so a template that parses fails only on its data.

use std::fmt;

use super::TemplateError;
use super::functions;
use super::lex::{Token, TokenKind, tokens};
use super::value::Value;

/// One piece of a template.
#[derive(Debug, Clone)]
pub enum Node {
    /// Literal text.
    Text(String),
    /// `{{pipeline}}`.
    Action(Pipe),
    /// `{{if}}`, `{{with}}` or `{{range}}` with its two branches.
    Branch {
        /// Which of the three.
        kind: BranchKind,
        /// What decides.
        pipe: Pipe,
        /// Done when it is true (or for each item).
        body: Vec<Node>,
        /// Done when it is not (or empty).
        otherwise: Vec<Node>,
    },
    /// `{{break}}`.
    Break,
    /// `{{continue}}`.
    Continue,
}

/// The three control words that have a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchKind {
    /// `if`.
    If,
    /// `with`.
    With,
    /// `range`.
    Range,
}

impl BranchKind {
    fn word(self) -> &'static str {
        match self {
            BranchKind::If => "if",
            BranchKind::With => "with",
            BranchKind::Range => "range",
        }
    }
}

/// A pipeline: commands from left to right, and the variables that take its value.
#[derive(Debug, Clone)]
pub struct Pipe {
    /// Where it starts.
    pub position: usize,
    /// Variables, with the dollar sign.
    pub variables: Vec<String>,
    /// `=` and not `:=`.
    pub assigns: bool,
    /// The commands.
    pub commands: Vec<Call>,
}

/// One command of a pipeline: an operand, or a function with its arguments.
#[derive(Debug, Clone)]
pub struct Call {
    /// Where it starts.
    pub position: usize,
    /// The function or operand, then the arguments.
    pub operands: Vec<Operand>,
}

/// An operand and where it starts.
#[derive(Debug, Clone)]
pub struct Operand {
    /// Byte offset in the template, as Go counts it for this kind.
    pub position: usize,
    /// What it is.
    pub kind: OperandKind,
}

/// What an operand is.
#[derive(Debug, Clone)]
pub enum OperandKind {
    /// `.`.
    Dot,
    /// `nil`.
    Nil,
    /// A number, string, character or truth value: as typed, and its value.
    Constant(String, Value),
    /// `.A.B`.
    Field(Vec<String>),
    /// `$x.A.B`.
    Variable(String, Vec<String>),
    /// A function's name.
    Function(String),
    /// `(pipeline).A.B`.
    Group(Box<Pipe>, Vec<String>),
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            write!(f, "{} {} ", self.variables.join(", "), if self.assigns { "=" } else { ":=" })?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            write!(f, "{}{command}", if index > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, operand) in self.operands.iter().enumerate() {
            write!(f, "{}{operand}", if index > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, fields): (String, &[String]) = match &self.kind {
            OperandKind::Dot => (".".to_owned(), &[]),
            OperandKind::Nil => ("nil".to_owned(), &[]),
            OperandKind::Constant(text, _) | OperandKind::Function(text) => (text.clone(), &[]),
            OperandKind::Field(fields) => (String::new(), fields),
            OperandKind::Variable(name, fields) => (name.clone(), fields),
            OperandKind::Group(pipe, fields) => (format!("({pipe})"), fields),
        };
        f.write_str(&base)?;
        fields.iter().try_for_each(|field| write!(f, ".{field}"))
    }
}

/// Parses a template.
///
/// # Errors
/// With Go's message for the first thing that is wrong.
pub fn parse(source: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser =
        Parser { source, tokens: tokens(source)?, next: 0, variables: vec!["$".to_owned()], range_depth: 0 };
    let (nodes, end) = parser.list()?;
    match end {
        ListEnd::Template => Ok(nodes),
        ListEnd::End(position) => Err(parser.error(position, "unexpected {{end}}")),
        ListEnd::Else(position) => Err(parser.error(position, "unexpected {{else}}")),
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Token>,
    next: usize,
    variables: Vec<String>,
    range_depth: usize,
}

/// What ended a list of nodes. After `Else` the parser stands behind the word `else`.
enum ListEnd {
    Template,
    End(usize),
    Else(usize),
}

impl Parser<'_> {
    fn error(&self, position: usize, message: impl Into<String>) -> TemplateError {
        TemplateError::parse(self.source, position, message)
    }

    fn peek(&self) -> &TokenKind {
        &self.tokens[self.next.min(self.tokens.len() - 1)].kind
    }

    fn position(&self) -> usize {
        self.tokens[self.next.min(self.tokens.len() - 1)].position
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.next.min(self.tokens.len() - 1)].clone();
        self.next += 1;
        token
    }

    fn skip_space(&mut self) {
        while *self.peek() == TokenKind::Space {
            self.next += 1;
        }
    }

    fn list(&mut self) -> Result<(Vec<Node>, ListEnd), TemplateError> {
        let mut nodes = Vec::new();
        loop {
            let token = self.take();
            match token.kind {
                TokenKind::Text(text) => nodes.push(Node::Text(text)),
                TokenKind::Open => {
                    self.skip_space();
                    match self.peek().clone() {
                        TokenKind::Word(word) if word == "end" => {
                            self.next += 1;
                            self.expect_close("end")?;
                            return Ok((nodes, ListEnd::End(token.position)));
                        }
                        TokenKind::Word(word) if word == "else" => {
                            self.next += 1;
                            self.skip_space();
                            return Ok((nodes, ListEnd::Else(token.position)));
                        }
                        _ => nodes.push(self.action()?),
                    }
                }
                _ => return Ok((nodes, ListEnd::Template)),
            }
        }
    }

    fn expect_close(&mut self, context: &str) -> Result<(), TemplateError> {
        self.skip_space();
        match self.take() {
            Token { kind: TokenKind::Close, .. } => Ok(()),
            other => Err(self.error(other.position, format!("unexpected {} in {context}", described(&other.kind)))),
        }
    }

    fn action(&mut self) -> Result<Node, TemplateError> {
        let position = self.position();
        let word = match self.peek() {
            TokenKind::Word(word) => word.clone(),
            _ => String::new(),
        };
        match word.as_str() {
            "if" => self.branch(BranchKind::If),
            "with" => self.branch(BranchKind::With),
            "range" => self.branch(BranchKind::Range),
            "break" | "continue" => {
                self.next += 1;
                self.expect_close(&word)?;
                if self.range_depth == 0 {
                    return Err(self.error(position, format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                Ok(if word == "break" { Node::Break } else { Node::Continue })
            }
            "define" | "template" | "block" => {
                Err(self.error(position, format!("{{{{{word}}}}} is not supported by Hull's templates")))
            }
            _ => {
                let pipe = self.pipeline("command", false)?;
                self.expect_close("command")?;
                Ok(Node::Action(pipe))
            }
        }
    }

    /// From the control word to behind its `{{end}}`.
    fn branch(&mut self, kind: BranchKind) -> Result<Node, TemplateError> {
        self.next += 1;
        let scope = self.variables.len();
        let pipe = self.pipeline(kind.word(), kind == BranchKind::Range)?;
        self.expect_close(kind.word())?;
        self.range_depth += usize::from(kind == BranchKind::Range);
        let (body, end) = self.list()?;
        self.range_depth -= usize::from(kind == BranchKind::Range);
        let otherwise = match end {
            ListEnd::End(_) => Vec::new(),
            ListEnd::Template => return Err(self.error(self.source.len(), "unexpected EOF")),
            ListEnd::Else(position) => self.otherwise(kind, position)?,
        };
        self.variables.truncate(scope);
        Ok(Node::Branch { kind, pipe, body, otherwise })
    }

    /// Behind the word `else` of a branch, to behind the branch's `{{end}}`.
    fn otherwise(&mut self, kind: BranchKind, position: usize) -> Result<Vec<Node>, TemplateError> {
        let chained = match self.peek() {
            TokenKind::Word(word) if word == "if" && kind == BranchKind::If => Some(BranchKind::If),
            TokenKind::Word(word) if word == "with" && kind == BranchKind::With => Some(BranchKind::With),
            _ => None,
        };
        if let Some(chained) = chained {
            // `{{else if}}` shares the `{{end}}` of the branch it belongs to.
            return Ok(vec![self.branch(chained)?]);
        }
        self.expect_close("else")?;
        match self.list()? {
            (nodes, ListEnd::End(_)) => Ok(nodes),
            (_, ListEnd::Template) => Err(self.error(self.source.len(), "unexpected EOF")),
            (_, ListEnd::Else(_)) => Err(self.error(position, "expected end; found {{else}}")),
        }
    }

    fn pipeline(&mut self, context: &str, range: bool) -> Result<Pipe, TemplateError> {
        self.skip_space();
        let position = self.position();
        let (variables, assigns) = self.declarations(range)?;
        let mut pipe = Pipe { position, variables, assigns, commands: Vec::new() };
        loop {
            self.skip_space();
            match self.peek().clone() {
                TokenKind::Close | TokenKind::Sign(')') => break,
                TokenKind::Sign('|') if !pipe.commands.is_empty() => self.next += 1,
                TokenKind::Sign('(')
                | TokenKind::Dot
                | TokenKind::Field(_)
                | TokenKind::Variable(_)
                | TokenKind::Word(_)
                | TokenKind::Number(_)
                | TokenKind::Quoted(..)
                | TokenKind::Character(..) => {
                    let call = self.call()?;
                    pipe.commands.push(call);
                }
                other => {
                    return Err(self.error(self.position(), format!("unexpected {} in {context}", described(&other))));
                }
            }
        }
        self.check(&pipe, context)?;
        if !pipe.assigns {
            self.variables.extend(pipe.variables.iter().cloned());
        }
        Ok(pipe)
    }

    fn check(&self, pipe: &Pipe, context: &str) -> Result<(), TemplateError> {
        if pipe.commands.is_empty() {
            return Err(self.error(self.position(), format!("missing value for {context}")));
        }
        for (index, command) in pipe.commands.iter().enumerate().skip(1) {
            if matches!(command.operands[0].kind, OperandKind::Constant(..) | OperandKind::Dot | OperandKind::Nil) {
                let message = format!("non executable command in pipeline stage {}", index + 1);
                return Err(self.error(command.position, message));
            }
        }
        if pipe.assigns
            && let Some(unknown) = pipe.variables.iter().find(|name| !self.variables.contains(name))
        {
            return Err(self.error(pipe.position, format!("undefined variable \"{unknown}\"")));
        }
        Ok(())
    }

    /// `$x :=`, `$x =`, and for a range `$i, $x :=`. Leaves the parser where it was when there is none.
    fn declarations(&mut self, range: bool) -> Result<(Vec<String>, bool), TemplateError> {
        let start = self.next;
        let mut names = Vec::new();
        while let TokenKind::Variable(name) = self.peek().clone() {
            self.next += 1;
            names.push(name);
            self.skip_space();
            match self.peek() {
                TokenKind::Declare | TokenKind::Assign => {
                    let assigns = *self.peek() == TokenKind::Assign;
                    self.next += 1;
                    return Ok((names, assigns));
                }
                TokenKind::Sign(',') if range && names.len() < 2 => {
                    self.next += 1;
                    self.skip_space();
                }
                TokenKind::Sign(',') => {
                    let context = if range { "range" } else { "command" };
                    return Err(self.error(self.position(), format!("too many declarations in {context}")));
                }
                _ => break,
            }
        }
        self.next = start;
        Ok((Vec::new(), false))
    }

    fn call(&mut self) -> Result<Call, TemplateError> {
        let position = self.position();
        let mut operands = Vec::new();
        loop {
            operands.push(self.operand()?);
            match self.peek() {
                TokenKind::Space => self.skip_space(),
                TokenKind::Close | TokenKind::Sign('|' | ')') => break,
                other => {
                    let message = format!("unexpected {} in operand", described(other));
                    return Err(self.error(self.position(), message));
                }
            }
            if matches!(self.peek(), TokenKind::Close | TokenKind::Sign('|' | ')')) {
                break;
            }
        }
        Ok(Call { position, operands })
    }

    fn operand(&mut self) -> Result<Operand, TemplateError> {
        let Token { position, kind } = self.take();
        let mut operand = Operand { position, kind: self.term(position, kind)? };
        let chain_position = self.position();
        let mut chain = Vec::new();
        while let TokenKind::Field(name) = self.peek().clone() {
            self.next += 1;
            chain.push(name);
        }
        if chain.is_empty() {
            return Ok(operand);
        }
        match &mut operand.kind {
            OperandKind::Field(fields) => {
                fields.append(&mut chain);
                operand.position = chain_position;
            }
            OperandKind::Variable(_, fields) | OperandKind::Group(_, fields) => {
                fields.append(&mut chain);
                operand.position = chain_position;
            }
            _ => {
                return Err(self.error(chain_position, format!("unexpected . after term {operand}")));
            }
        }
        Ok(operand)
    }

    fn term(&mut self, position: usize, kind: TokenKind) -> Result<OperandKind, TemplateError> {
        Ok(match kind {
            TokenKind::Dot => OperandKind::Dot,
            TokenKind::Field(name) => OperandKind::Field(vec![name]),
            TokenKind::Variable(name) => {
                if !self.variables.contains(&name) {
                    return Err(self.error(position, format!("undefined variable \"{name}\"")));
                }
                OperandKind::Variable(name, Vec::new())
            }
            TokenKind::Word(word) => match word.as_str() {
                "nil" => OperandKind::Nil,
                "true" | "false" => OperandKind::Constant(word.clone(), Value::Bool(word == "true")),
                _ if functions::exists(&word) => OperandKind::Function(word),
                _ => return Err(self.error(position, format!("function \"{word}\" not defined"))),
            },
            TokenKind::Number(text) => match number(&text) {
                Some(value) => OperandKind::Constant(text, value),
                None => {
                    return Err(self.error(position, format!("bad number syntax: {}", super::value::go_quote(&text))));
                }
            },
            TokenKind::Quoted(typed, value) => OperandKind::Constant(typed, Value::Text(value)),
            TokenKind::Character(typed, code) => OperandKind::Constant(typed, Value::Int(code)),
            TokenKind::Sign('(') => {
                let pipe = self.pipeline("parenthesized pipeline", false)?;
                match self.take() {
                    Token { kind: TokenKind::Sign(')'), .. } => OperandKind::Group(Box::new(pipe), Vec::new()),
                    _ => return Err(self.error(position, "unclosed left paren")),
                }
            }
            other => {
                return Err(self.error(position, format!("unexpected {} in operand", described(&other))));
            }
        })
    }
}

fn described(kind: &TokenKind) -> String {
    match kind {
        TokenKind::Close => "\"}}\"".to_owned(),
        TokenKind::End => "EOF".to_owned(),
        TokenKind::Word(word) | TokenKind::Number(word) | TokenKind::Quoted(word, _) => format!("<{word}>"),
        TokenKind::Character(text, _) => format!("<{text}>"),
        TokenKind::Variable(name) => format!("<{name}>"),
        TokenKind::Field(name) => format!("<.{name}>"),
        TokenKind::Dot => "<.>".to_owned(),
        TokenKind::Sign(sign) => format!("\"{sign}\""),
        TokenKind::Declare => "\":=\"".to_owned(),
        TokenKind::Assign => "\"=\"".to_owned(),
        TokenKind::Text(_) | TokenKind::Open | TokenKind::Space => "text".to_owned(),
    }
}

/// A number constant: decimal, hexadecimal, octal or binary, with underscores, or a float.
fn number(text: &str) -> Option<Value> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let plain = digits.replace('_', "").to_ascii_lowercase();
    let (body, radix) = [("0x", 16), ("0o", 8), ("0b", 2)]
        .iter()
        .find_map(|(prefix, radix)| plain.strip_prefix(prefix).map(|body| (body, *radix)))
        .unwrap_or((plain.as_str(), 10));
    if let Ok(value) = i64::from_str_radix(body, radix) {
        return Some(Value::Int(i128::from(if negative { -value } else { value })));
    }
    if radix != 10 || !plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    plain.parse::<f64>().ok().map(|value| Value::Float(if negative { -value } else { value }))
}
