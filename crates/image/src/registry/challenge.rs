//! What a registry asks for when it answers 401: the WWW-Authenticate header (RFC 9110, 11.6.1) and where a bearer
//! token is had (distribution project, "Token Authentication Specification"). Pure text, no I/O.

use std::collections::BTreeMap;

/// One challenge of a WWW-Authenticate header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from another server.
    Bearer(TokenSource),
}

/// Where a token is had and for what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenSource {
    /// The address of its server.
    pub realm: String,
    /// For whom it is.
    pub service: Option<String>,
    /// What it is to allow.
    pub scope: Option<String>,
}

impl TokenSource {
    /// The address of a token for these scopes, with them and the service in its query.
    pub fn url(&self, scopes: &[String]) -> String {
        let mut url = self.realm.clone();
        let mut separator = if url.contains('?') { '&' } else { '?' };
        let service = self.service.iter().map(|service| ("service", service));
        for (key, value) in service.chain(scopes.iter().map(|scope| ("scope", scope))) {
            url.push(separator);
            url.push_str(key);
            url.push('=');
            percent_encode(value, &mut url);
            separator = '&';
        }
        url
    }
}

/// Whether whoever has one scope (`repository:NAME:ACTION,ACTION`) may do all of another.
pub(super) fn covers(known: &str, wanted: &str) -> bool {
    match (known.rsplit_once(':'), wanted.rsplit_once(':')) {
        (Some((thing, actions)), Some((wanted_thing, wanted_actions))) => {
            thing == wanted_thing
                && wanted_actions.split(',').all(|wanted| actions.split(',').any(|known| known == wanted))
        }
        _ => known == wanted,
    }
}

/// Appends a query value.
pub fn percent_encode(value: &str, into: &mut String) {
    use std::fmt::Write;
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',' => {
                into.push(char::from(byte));
            }
            // Writing into a String cannot fail.
            _ => _ = write!(into, "%{byte:02X}"),
        }
    }
}

/// The challenges in one header value that we can answer, in order. What cannot be read ends the list.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let (scheme, after) = token(rest);
        if scheme.is_empty() {
            break;
        }
        let (parameters, after) = parameters(after.trim_start());
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => challenges.push(Challenge::Basic),
            "bearer" => challenges.extend(token_source(parameters).map(Challenge::Bearer)),
            _ => {}
        }
        rest = after.trim_start_matches([' ', ',']);
    }
    challenges
}

fn token_source(mut parameters: BTreeMap<String, String>) -> Option<TokenSource> {
    let realm = parameters.remove("realm")?;
    let mut given = |key: &str| parameters.remove(key).filter(|value| !value.is_empty());
    Some(TokenSource { realm, service: given("service"), scope: given("scope") })
}

/// `key=value` pairs up to the next scheme.
fn parameters(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut found = BTreeMap::new();
    loop {
        let start = rest.trim_start_matches([' ', ',']);
        let (key, after) = token(start);
        let Some(value) = after.trim_start().strip_prefix('=').map(str::trim_start) else {
            return (found, start);
        };
        if key.is_empty() {
            return (found, "");
        }
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let (value, after) = token(value);
                (value.to_owned(), after)
            }
        };
        found.insert(key.to_ascii_lowercase(), value);
        rest = after;
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find([' ', ',', '=', '"', '\t']).unwrap_or(text.len());
    text.split_at(end)
}

/// The rest of a quoted string and what follows it; a backslash takes the next character literally.
fn quoted_string(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, literal)| literal)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer(TokenSource {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn reads_what_registries_send() {
        let docker = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull""#;
        let expected =
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/debian:pull"));
        assert_eq!(parse(docker), [expected]);
        assert_eq!(parse(r#"Basic realm="Registry Realm""#), [Challenge::Basic]);
        assert_eq!(parse("Basic"), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Negotiate, bearer Realm = "https://a/\"b\"" , scope="x:a:pull,push", BASIC realm=x"#),
            [bearer(r#"https://a/"b""#, None, Some("x:a:pull,push")), Challenge::Basic]
        );
    }

    #[test]
    fn rubbish_ends_quietly() {
        for text in ["", ",", "=", "Bearer", "Bearer realm", r#"Bearer realm="open"#, "\"\"", "Bearer =x, y"] {
            assert!(parse(text).len() <= 1, "{text}");
        }
        assert!(parse(r#"Bearer service="x""#).is_empty(), "no realm, no token");
    }

    #[test]
    fn builds_the_token_address() {
        let source = TokenSource { realm: "https://a/t?x=1".into(), service: Some("a b&c".into()), scope: None };
        let scopes = ["repository:l/d:pull".to_owned(), "repository:e:pull".to_owned()];
        let expected = "https://a/t?x=1&service=a%20b%26c&scope=repository:l/d:pull&scope=repository:e:pull";
        assert_eq!(source.url(&scopes), expected);
        let source = TokenSource { realm: "https://a/t".into(), service: None, scope: None };
        assert_eq!(source.url(&[]), "https://a/t");
    }

    #[test]
    fn scopes_cover_their_parts() {
        assert!(covers("repository:a:pull,push", "repository:a:pull"));
        assert!(!covers("repository:a:pull", "repository:a:pull,push"));
        assert!(!covers("repository:a:pull", "repository:b:pull") && covers("x", "x"));
    }
}
