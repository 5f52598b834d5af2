//! Moments as `logs --since` and `--until` take them.
//!
//! ```text
//! 42m, 1h30m, 1.5s             so long ago
//! 1136073845.000000001         seconds since 1970
//! 2024-01-02T13:23:37Z         RFC 3339, also with an offset
//! 2024-01-02T13:23, 2024-01-02 local time when no offset is given
//! ```

use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Reads a moment; `now` is what durations count back from, `zone` is the zone of times without an offset.
///
/// # Errors
/// Says which text is no moment.
pub fn moment(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let invalid = || format!("failed to parse value as time or duration: {text:?}");
    if let Some(ago) = duration(text) {
        return now.checked_sub(ago).map_err(|_| invalid());
    }
    if let Some(seconds) = unix_seconds(text) {
        return Ok(seconds);
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let local = text
        .parse::<civil::DateTime>()
        .or_else(|_| text.parse::<civil::Date>().map(|date| date.at(0, 0, 0, 0)))
        .map_err(|_| invalid())?;
    local.to_zoned(zone.clone()).map(|zoned| zoned.timestamp()).map_err(|_| invalid())
}

fn unix_seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(whole.parse().ok()?, nanoseconds).ok()
}

/// Go's durations: numbers with the units `ns us ms s m h`, one after another.
pub fn duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        nanoseconds += value
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    let nanoseconds = if negative { -nanoseconds } else { nanoseconds };
    (nanoseconds.abs() < 9e18).then(|| SignedDuration::from_nanos(nanoseconds as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let now: Timestamp = "2024-05-01T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        for (text, expected) in [
            ("42m", "2024-05-01T11:18:00Z"),
            ("1h30m", "2024-05-01T10:30:00Z"),
            ("1.5s", "2024-05-01T11:59:58.5Z"),
            ("-10s", "2024-05-01T12:00:10Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("1136073845.000000001", "2006-01-01T00:04:05.000000001Z"),
            ("2024-01-02T13:23:37Z", "2024-01-02T13:23:37Z"),
            ("2024-01-02T13:23:37.5+01:00", "2024-01-02T12:23:37.5Z"),
            ("2024-01-02T13:23:37", "2024-01-02T11:23:37Z"),
            ("2024-01-02T13:23", "2024-01-02T11:23:00Z"),
            ("2024-01-02", "2024-01-01T22:00:00Z"),
        ] {
            assert_eq!(moment(text, now, &zone).map(|moment| moment.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "x", "10", "5 minutes", "2024-13-01", "1h30", "."] {
            let got = moment(text, now, &zone);
            assert!(text == "10" || got.is_err(), "{text}: {got:?}");
        }
    }
}
