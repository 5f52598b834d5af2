//! A D-Bus value in GVariant's text format (docs.gtk.org/glib/gvariant-text-format.html), which annotations use to set
//! properties of a unit: `uint64 5`, `'inactive-or-failed'`, `['a', 'b']`, `@a(ss) [('/dev/null', 'r')]`.
//!
//! Read in two steps: the text becomes a tree, then the tree a value of one type. What a number or an empty list is
//! comes from the type before it (`uint32`, `@as`), from its neighbours in a list, or is int32 and double, as
//! GVariant and runc's reader have it. Maybe-types do not exist in D-Bus and are refused.

use zbus::wire::StructureBuilder;
use zbus::wire::signature::Signature;
use zbus::{Array, Dict, ObjectPath, Variant};

use super::SystemdError;

/// Deepest nesting, that of D-Bus itself.
const MAXIMUM_DEPTH: usize = 32;

/// Reads one value.
///
/// # Errors
/// [`SystemdError::Text`] with the place and the reason.
pub fn parse(text: &str) -> Result<Variant<'static>, SystemdError> {
    let mut reader = Reader { text, at: 0 };
    let read = reader.node(MAXIMUM_DEPTH).and_then(|node| {
        reader.skip_space();
        if reader.at < text.len() {
            return reader.fail("more follows after the value");
        }
        let signature = node.fixed().or_else(|| node.usual());
        let signature =
            signature.ok_or(Failure { at: 0, reason: "the type of an empty list has to be given, as @as []" })?;
        node.value(&signature)
    });
    read.map_err(|Failure { at, reason }| SystemdError::Text { text: text.to_owned(), position: at, reason })
}

struct Failure {
    at: usize,
    reason: &'static str,
}

/// A value as written, and where.
struct Node {
    at: usize,
    /// The type in front of it.
    signature: Option<Signature>,
    form: Form,
}

enum Form {
    Bool(bool),
    Number(String),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Node>),
    Dict(Vec<(Node, Node)>),
    Tuple(Vec<Node>),
    Boxed(Box<Node>),
}

impl Node {
    fn fail<T>(&self, reason: &'static str) -> Result<T, Failure> {
        Err(Failure { at: self.at, reason })
    }

    /// The type that this can only have.
    fn fixed(&self) -> Option<Signature> {
        if let Some(signature) = &self.signature {
            return Some(signature.clone());
        }
        match &self.form {
            Form::Bool(_) => Some(Signature::Bool),
            Form::Bytes(_) => Some(Signature::array(Signature::U8)),
            Form::Boxed(_) => Some(Signature::Variant),
            Form::Number(_) | Form::Text(_) => None,
            Form::List(items) => items.iter().find_map(Node::fixed).map(Signature::array),
            Form::Dict(pairs) => {
                let key = pairs.iter().find_map(|(key, _)| key.fixed());
                let value = pairs.iter().find_map(|(_, value)| value.fixed());
                let usual = |pick: fn(&(Node, Node)) -> &Node| pairs.iter().map(pick).find_map(Node::usual);
                if key.is_none() && value.is_none() {
                    return None;
                }
                let key = key.or_else(|| usual(|pair| &pair.0))?;
                Some(Signature::dict(key, value.or_else(|| usual(|pair| &pair.1))?))
            }
            Form::Tuple(items) => items.iter().any(|item| item.fixed().is_some()).then(|| self.usual()).flatten(),
        }
    }

    /// The type that this has where nothing says otherwise.
    fn usual(&self) -> Option<Signature> {
        let known = |node: &Node| node.fixed().or_else(|| node.usual());
        match &self.form {
            Form::Number(digits) if is_fraction(digits) => Some(Signature::F64),
            Form::Number(_) => Some(Signature::I32),
            Form::Text(_) => Some(Signature::Str),
            Form::List(items) => items.iter().find_map(Node::usual).map(Signature::array),
            Form::Dict(pairs) => {
                let (key, value) = pairs.first()?;
                Some(Signature::dict(known(key)?, known(value)?))
            }
            Form::Tuple(items) => {
                let fields: Option<Vec<Signature>> = items.iter().map(known).collect();
                Some(Signature::structure(fields.filter(|fields| !fields.is_empty())?))
            }
            _ => self.fixed(),
        }
    }

    /// The value as one of this type.
    fn value(&self, wanted: &Signature) -> Result<Variant<'static>, Failure> {
        if self.signature.as_ref().is_some_and(|own| own != wanted) {
            return self.fail("its type is not that of its neighbours");
        }
        match (&self.form, wanted) {
            (Form::Bool(value), Signature::Bool) => Ok(Variant::Bool(*value)),
            (Form::Number(digits), _) => {
                number(digits, wanted).ok_or(Failure { at: self.at, reason: "it is no number of that type" })
            }
            (Form::Text(text), _) => self.text(text, wanted),
            (Form::Bytes(bytes), Signature::Array(element)) if *element.signature() == Signature::U8 => {
                Ok(Variant::from(bytes.clone()))
            }
            (Form::List(items), Signature::Array(element)) => {
                let mut array = Array::new(element.signature());
                for item in items {
                    let value = item.value(element.signature())?;
                    array
                        .append(value)
                        .map_err(|_| Failure { at: item.at, reason: "it does not fit into the list" })?;
                }
                Ok(Variant::Array(array))
            }
            (Form::Dict(pairs), Signature::Dict { key: keys, value: values }) => {
                let mut dict = Dict::new(keys.signature(), values.signature());
                for (key, value) in pairs {
                    let entry = (key.value(keys.signature())?, value.value(values.signature())?);
                    dict.append(entry.0, entry.1)
                        .map_err(|_| Failure { at: key.at, reason: "it does not fit into the dictionary" })?;
                }
                Ok(Variant::Dict(dict))
            }
            (Form::Tuple(items), Signature::Structure(fields)) if fields.iter().count() == items.len() => {
                let mut builder = StructureBuilder::new();
                for (item, field) in items.iter().zip(fields.iter()) {
                    builder = builder.append_field(item.value(field)?);
                }
                let built =
                    builder.build().map_err(|_| Failure { at: self.at, reason: "a tuple has a part at least" })?;
                Ok(Variant::Structure(built))
            }
            (Form::Boxed(inner), Signature::Variant) => {
                let signature = inner.fixed().or_else(|| inner.usual());
                let signature =
                    signature.ok_or(Failure { at: inner.at, reason: "the type of an empty list has to be given" })?;
                Ok(Variant::Variant(Box::new(inner.value(&signature)?)))
            }
            _ => self.fail("it is not of the type that is wanted there"),
        }
    }

    fn text(&self, text: &str, wanted: &Signature) -> Result<Variant<'static>, Failure> {
        match wanted {
            Signature::Str => Ok(Variant::from(text.to_owned())),
            Signature::ObjectPath => match ObjectPath::try_from(text.to_owned()) {
                Ok(path) => Ok(Variant::ObjectPath(path)),
                Err(_) => self.fail("it is no object path"),
            },
            Signature::Signature => match Signature::try_from(text) {
                Ok(signature) => Ok(Variant::Signature(signature)),
                Err(_) => self.fail("it is no signature"),
            },
            _ => self.fail("a text is a string, an object path or a signature"),
        }
    }
}

fn is_fraction(digits: &str) -> bool {
    !digits.contains("0x") && digits.contains(['.', 'e', 'E'])
}

/// Decimal, or octal after a zero, or hexadecimal after 0x.
fn number(digits: &str, wanted: &Signature) -> Option<Variant<'static>> {
    if *wanted == Signature::F64 {
        return digits.parse().ok().filter(|number: &f64| number.is_finite()).map(Variant::F64);
    }
    let (negative, plain) = match digits.strip_prefix('-') {
        Some(plain) => (true, plain),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let (radix, plain) = match plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        Some(plain) => (16, plain),
        None if plain.len() > 1 && plain.starts_with('0') => (8, &plain[1..]),
        None => (10, plain),
    };
    if plain.starts_with(['+', '-']) {
        return None;
    }
    let size = i128::from(u64::from_str_radix(plain, radix).ok()?);
    let value = if negative { -size } else { size };
    match wanted {
        Signature::U8 => u8::try_from(value).ok().map(Variant::U8),
        Signature::I16 => i16::try_from(value).ok().map(Variant::I16),
        Signature::U16 => u16::try_from(value).ok().map(Variant::U16),
        Signature::I32 => i32::try_from(value).ok().map(Variant::I32),
        Signature::U32 => u32::try_from(value).ok().map(Variant::U32),
        Signature::I64 => i64::try_from(value).ok().map(Variant::I64),
        Signature::U64 => u64::try_from(value).ok().map(Variant::U64),
        _ => None,
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, reason: &'static str) -> Result<T, Failure> {
        Err(Failure { at: self.at, reason })
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes this word or sign, when it comes next.
    fn take(&mut self, word: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// Takes characters as long as they are such.
    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        let word = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
        let word = word.to_owned();
        self.at += word.len();
        word
    }

    fn node(&mut self, depth: usize) -> Result<Node, Failure> {
        if depth == 0 {
            return self.fail("it is nested too deeply");
        }
        self.skip_space();
        let at = self.at;
        let signature = self.signature()?;
        self.skip_space();
        let form = match self.rest().chars().next() {
            None => return self.fail("a value is missing"),
            Some('[') => Form::List(self.items('[', ']', depth)?),
            Some('(') => Form::Tuple(self.items('(', ')', depth)?),
            Some('{') => Form::Dict(self.pairs(depth)?),
            Some('<') => {
                self.at += 1;
                let inner = self.node(depth - 1)?;
                if !self.take(">") {
                    return self.fail("> is missing");
                }
                Form::Boxed(Box::new(inner))
            }
            Some(quote @ ('\'' | '"')) => Form::Text(self.quoted(quote)?),
            Some('b') if self.rest()[1..].starts_with(['\'', '"']) => {
                self.at += 1;
                Form::Bytes(self.byte_string()?)
            }
            Some(c) if c.is_ascii_digit() || "+-.".contains(c) => {
                Form::Number(self.take_while(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)))
            }
            Some(_) => match self.take_while(|c| c.is_ascii_alphanumeric()).as_str() {
                "true" => Form::Bool(true),
                "false" => Form::Bool(false),
                _ => {
                    self.at = at;
                    return self.fail("a value cannot begin like that");
                }
            },
        };
        Ok(Node { at, signature, form })
    }

    /// The type in front of a value: a keyword, or @ and a signature.
    fn signature(&mut self) -> Result<Option<Signature>, Failure> {
        if self.take("@") {
            let word = self.take_while(|c| c.is_ascii_alphanumeric() || "(){}".contains(c));
            return match Signature::try_from(word.as_str()) {
                Ok(signature) if signature != Signature::Unit => Ok(Some(signature)),
                _ => self.fail("what follows @ is no type of D-Bus"),
            };
        }
        let start = self.at;
        let signature = match self.take_while(|c| c.is_ascii_alphanumeric()).as_str() {
            "boolean" => Signature::Bool,
            "byte" => Signature::U8,
            "int16" => Signature::I16,
            "uint16" => Signature::U16,
            "int32" => Signature::I32,
            "uint32" => Signature::U32,
            "int64" => Signature::I64,
            "uint64" => Signature::U64,
            "double" => Signature::F64,
            "string" => Signature::Str,
            "objectpath" => Signature::ObjectPath,
            "signature" => Signature::Signature,
            _ => {
                self.at = start;
                return Ok(None);
            }
        };
        Ok(Some(signature))
    }

    fn items(&mut self, open: char, close: char, depth: usize) -> Result<Vec<Node>, Failure> {
        self.at += open.len_utf8();
        let mut items = Vec::new();
        let end = close.to_string();
        while !self.take(&end) {
            if !items.is_empty() && !self.take(",") {
                return self.fail("a comma or the end of the list is missing");
            }
            // (1,) is how a tuple of one is written.
            if open == '(' && self.take(&end) {
                break;
            }
            items.push(self.node(depth - 1)?);
        }
        Ok(items)
    }

    fn pairs(&mut self, depth: usize) -> Result<Vec<(Node, Node)>, Failure> {
        self.at += 1;
        let mut pairs = Vec::new();
        while !self.take("}") {
            if !pairs.is_empty() && !self.take(",") {
                return self.fail("a comma or } is missing");
            }
            let key = self.node(depth - 1)?;
            if !self.take(":") {
                return self.fail("a colon is missing");
            }
            pairs.push((key, self.node(depth - 1)?));
        }
        Ok(pairs)
    }

    fn next(&mut self) -> Result<char, Failure> {
        match self.rest().chars().next() {
            Some(c) => {
                self.at += c.len_utf8();
                Ok(c)
            }
            None => self.fail("the closing quote is missing"),
        }
    }

    /// A text with its escapes, as in C, and \uXXXX and \UXXXXXXXX.
    fn quoted(&mut self, quote: char) -> Result<String, Failure> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.next()? {
                c if c == quote => return Ok(text),
                '\0' => return self.fail("a string has no zero byte"),
                '\\' => match self.next()? {
                    'u' => text.push(self.code_point(4)?),
                    'U' => text.push(self.code_point(8)?),
                    '\n' => {}
                    c => text.push(control(c).map_or(c, char::from)),
                },
                c => text.push(c),
            }
        }
    }

    fn code_point(&mut self, digits: usize) -> Result<char, Failure> {
        let word = self.rest().get(..digits).unwrap_or("");
        let code = u32::from_str_radix(word, 16).ok().and_then(char::from_u32);
        match code.filter(|c| *c != '\0' && !word.starts_with('+')) {
            Some(c) => {
                self.at += digits;
                Ok(c)
            }
            None => self.fail("that is no code of a character"),
        }
    }

    /// Bytes with a zero at their end; \NNN is one in octal.
    fn byte_string(&mut self) -> Result<Vec<u8>, Failure> {
        let quote = self.next()?;
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                c if c == quote => break,
                '\\' => match self.next()? {
                    digit @ '0'..='7' => {
                        let rest: String =
                            self.rest().chars().take(2).take_while(|c| ('0'..='7').contains(c)).collect();
                        self.at += rest.len();
                        match u8::from_str_radix(&format!("{digit}{rest}"), 8) {
                            Ok(byte) => bytes.push(byte),
                            Err(_) => return self.fail("that is more than a byte"),
                        }
                    }
                    c => match control(c) {
                        Some(byte) => bytes.push(byte),
                        None => bytes.extend(c.to_string().bytes()),
                    },
                },
                c => bytes.extend(c.to_string().bytes()),
            }
        }
        bytes.push(0);
        Ok(bytes)
    }
}

/// The control characters that have a letter.
fn control(letter: char) -> Option<u8> {
    match letter {
        'a' => Some(7),
        'b' => Some(8),
        't' => Some(9),
        'n' => Some(10),
        'v' => Some(11),
        'f' => Some(12),
        'r' => Some(13),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The type and the value in the same notation, as the library prints it.
    fn read(text: &str) -> Option<String> {
        parse(text).ok().map(|value| format!("{} {value}", value.value_signature()))
    }

    #[test]
    fn values_have_the_type_that_is_written_or_usual() {
        let table = [
            ("uint64 123456789", "t uint64 123456789"),
            ("'inactive-or-failed'", "s \"inactive-or-failed\""),
            ("\"it's\"", "s \"it's\""),
            ("5", "i 5"),
            ("-5", "i -5"),
            ("2.5", "d 2.5"),
            ("1e3", "d 1000."),
            ("0x1f", "i 31"),
            ("017", "i 15"),
            ("byte 7", "y byte 0x07"),
            ("true", "b true"),
            ("boolean false", "b false"),
            ("objectpath '/a/b'", "o objectpath \"/a/b\""),
            ("signature 'a(ss)'", "g signature \"a(ss)\""),
            ("@t 5", "t uint64 5"),
            ("['a', 'b']", "as [\"a\", \"b\"]"),
            ("[1, uint64 2]", "at [uint64 1, 2]"),
            ("@as []", "as @as []"),
            ("@a(ss) [('/dev/null', 'r')]", "a(ss) [(\"/dev/null\", \"r\")]"),
            ("(1, 'x', true)", "(isb) (1, \"x\", true)"),
            ("<uint32 5>", "v <uint32 5>"),
            ("{'a': 1}", "a{si} {\"a\": 1}"),
            ("{'a': <1>, 'b': <'x'>}", "a{sv} {\"a\": <1>, \"b\": <\"x\">}"),
            ("  [ 1 ,2 ] ", "ai [1, 2]"),
            ("'\\u00e9\\n\\\\'", "s \"é\\n\\\\\""),
        ];
        for (text, expected) in table {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(parse("b'a\\101\\n'").unwrap(), Variant::from(b"aA\n\0".to_vec()));
    }

    #[test]
    fn what_is_no_value_is_refused_with_its_place() {
        let refused = [
            "",
            "[]",
            "{}",
            "()",
            "[1,",
            "[1 2]",
            "(1",
            "{'a' 1}",
            "'a",
            "byte 256",
            "uint32 -1",
            "int32 'a'",
            "5 5",
            "@zz 5",
            "@as 5",
            "hello",
            "[1, 'a']",
            "[true, 1]",
            "uint64 uint64 5",
            "objectpath 'x'",
            "'\\u00'",
            "1x",
            "--1",
            "<>",
            "just 5",
            "nothing",
            "08",
            "0x",
            "'a\0b'",
        ];
        for text in refused {
            assert_eq!(read(text), None, "{text:?}");
        }
        let error = parse("[1, 'a']").unwrap_err().to_string();
        assert!(error.contains("at byte 4"), "{error}");
        assert_eq!(read(&"[".repeat(100_000)), None);
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_never_panics(text in "[\\[\\](){}<>@asty01'\",:b\\\\ .é-]{0,24}") {
            let _either = parse(&text);
        }

        #[test]
        fn what_is_printed_is_read_again(number: u64, text in "[a-zé '\"\\\\]{0,8}", flag: bool) {
            let built = StructureBuilder::new().add_field(number).add_field(text.clone()).add_field(flag).build().unwrap();
            let value = Variant::Structure(built);
            proptest::prop_assert_eq!(parse(&value.to_string()).unwrap(), value);
        }
    }
}
