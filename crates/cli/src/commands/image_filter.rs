//! The filters of `hull images`, and the glob of names.
//!
//! `reference=` (and the argument of the command) takes patterns as Go's path.Match: `*` and `?` stop at a
//! slash. Several patterns are alternatives; other filters must all match.

use hull_image::Image;
use hull_oci::Reference;
use jiff::Timestamp;

use crate::args::moment::moment;
use crate::error::Failure;

/// What an image must be like.
#[derive(Debug, Default)]
pub struct ImageFilter {
    dangling: Option<bool>,
    labels: Vec<(String, Option<String>)>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    patterns: Vec<String>,
}

impl ImageFilter {
    /// Reads the filters; `repository` is the command's argument.
    ///
    /// # Errors
    /// Names the filter that there is not, or the image that one names in vain.
    pub fn parse(filters: &[String], repository: Option<&str>, images: &[Image]) -> Result<ImageFilter, Failure> {
        let mut filter =
            ImageFilter { patterns: repository.into_iter().map(str::to_owned).collect(), ..Self::default() };
        for text in filters {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            let invalid = || Failure::Arguments(format!("invalid filter '{text}'"));
            match key {
                "dangling" => filter.dangling = Some(crate::args::values::truth(value).map_err(|_| invalid())?),
                "label" => {
                    let (name, wanted) = value.split_once('=').map_or((value, None), |(name, v)| (name, Some(v)));
                    filter.labels.push((name.to_owned(), wanted.map(str::to_owned)));
                }
                "before" => filter.before = Some(created(value, images)?),
                "since" => filter.since = Some(created(value, images)?),
                "until" => {
                    let zone = jiff::tz::TimeZone::system();
                    filter.until = Some(moment(value, Timestamp::now(), &zone).map_err(Failure::Arguments)?);
                }
                "reference" => filter.patterns.push(value.to_owned()),
                _ => {
                    return Err(Failure::Arguments(format!(
                        "invalid filter '{key}': known are before, dangling, label, reference, since and until"
                    )));
                }
            }
        }
        Ok(filter)
    }

    /// Whether the image itself matches, whatever its names.
    pub fn takes(&self, image: &Image) -> bool {
        let labels = image.execution().labels;
        let has = |(name, wanted): &(String, Option<String>)| {
            labels.get(name).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
        };
        let made = |image: &Image| image.created.unwrap_or(Timestamp::UNIX_EPOCH);
        self.dangling.is_none_or(|dangling| dangling == image.names.is_empty())
            && self.labels.iter().all(has)
            && self.before.is_none_or(|before| made(image) < before)
            && self.since.is_none_or(|since| made(image) > since)
            && self.until.is_none_or(|until| made(image) < until)
    }

    /// The names that match a pattern; `None` when there are patterns and none does.
    pub fn names(&self, image: &Image) -> Option<Vec<Reference>> {
        if self.patterns.is_empty() {
            return Some(image.names.clone());
        }
        let fits = |name: &&Reference| {
            self.patterns.iter().any(|pattern| {
                glob(pattern, &name.familiar()) || glob(pattern, &name.familiar_name()) || glob(pattern, &name.name())
            })
        };
        let names: Vec<Reference> = image.names.iter().filter(fits).cloned().collect();
        (!names.is_empty()).then_some(names)
    }
}

fn created(name: &str, images: &[Image]) -> Result<Timestamp, Failure> {
    let wanted = Reference::parse(name).ok();
    let is_meant = |image: &&Image| {
        image.id.as_str() == name
            || (name.len() >= 4 && image.id.hex().starts_with(name))
            || wanted.as_ref().is_some_and(|wanted| image.names.contains(wanted))
    };
    match images.iter().find(is_meant) {
        Some(image) => Ok(image.created.unwrap_or(Timestamp::UNIX_EPOCH)),
        None => Err(Failure::Arguments(format!("No such image: {name}"))),
    }
}

/// Go's path.Match: `*`, `?`, `[a-z]`, `[^a]` and a backslash, none of them matching a slash.
pub fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    matches(&pattern, &text)
}

fn matches(pattern: &[char], text: &[char]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return text.is_empty() };
    match (first, text.split_first()) {
        ('*', _) => {
            let reach = text.iter().position(|c| *c == '/').unwrap_or(text.len());
            (0..=reach).any(|skip| matches(rest, &text[skip..]))
        }
        ('?', Some((c, text))) => *c != '/' && matches(rest, text),
        ('[', Some((c, text))) => match class(rest, *c) {
            Some((true, rest)) => *c != '/' && matches(rest, text),
            _ => false,
        },
        ('\\', Some((c, text))) => match rest.split_first() {
            Some((literal, rest)) => literal == c && matches(rest, text),
            None => false,
        },
        (literal, Some((c, text))) => literal == c && matches(rest, text),
        (_, None) => false,
    }
}

/// Whether a character is in the class that begins behind `[`, and what follows `]`. `None` when it is not closed.
fn class(pattern: &[char], c: char) -> Option<(bool, &[char])> {
    let (negated, mut rest) = match pattern.split_first()? {
        ('^', rest) => (true, rest),
        _ => (false, pattern),
    };
    let mut found = false;
    loop {
        let (low, after) = rest.split_first()?;
        let (high, after) = match after {
            ['-', high, after @ ..] if *high != ']' => (high, after),
            _ => (low, after),
        };
        found |= (*low..=*high).contains(&c);
        rest = after;
        if let Some((']', after)) = rest.split_first() {
            return Some((found != negated, after));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("debian", "debian", true),
            ("debian*", "debian:12", true),
            ("deb?an", "debian", true),
            ("*", "me/x", false),
            ("*/*", "me/x", true),
            ("me/[a-y]", "me/x", true),
            ("me/[^x]", "me/x", false),
            ("me/[", "me/x", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("", "", true),
            ("a", "", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn unknown_filters_are_refused_by_name() {
        let error = |filter: &str| ImageFilter::parse(&[filter.to_owned()], None, &[]).unwrap_err().to_string();
        assert!(error("colour=red").starts_with("invalid filter 'colour'"));
        assert_eq!(error("dangling=maybe"), "invalid filter 'dangling=maybe'");
        assert_eq!(error("before=nope"), "No such image: nope");
        assert!(error("until=nope").contains("nope"));
    }
}
