//! Sizes and moments for people, in docker's words.
//!
//! Sizes are decimal (`kB` is 1000 bytes) with three or four significant digits, as docker's go-units package
//! rounds them; the table tests below hold its boundaries. Durations are the engine's to word.

use hull_engine::human_duration;
use jiff::Timestamp;

const DECIMAL_UNITS: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY_UNITS: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// A size in decimal units with `digits` significant digits: `1.23MB`, `74.8MB`, `0B`.
pub fn human_size(bytes: u64, digits: usize) -> String {
    scaled(bytes as f64, 1000.0, &DECIMAL_UNITS, digits)
}

/// A size in binary units with four significant digits: `64MiB`, `1.953GiB`.
pub fn binary_size(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &BINARY_UNITS, 4)
}

fn scaled(mut size: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while size >= base && unit < units.len() - 1 {
        size /= base;
        unit += 1;
    }
    format!("{}{}", significant(size, digits), units[unit])
}

/// C's `%.<digits>g` for a number that is not negative.
fn significant(number: f64, digits: usize) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{number:.*e}", digits - 1);
    let exponent: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    if exponent >= digits as i32 {
        let (mantissa, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        return format!("{}e+{exponent:02}", trimmed(mantissa));
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{number:.decimals$}")).to_owned()
}

fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// How long ago a moment was: `3 minutes ago`. `N/A` for a moment that is not known.
pub fn since(moment: Option<Timestamp>, now: Timestamp) -> String {
    match moment {
        Some(moment) => format!("{} ago", human_duration(now.as_second() - moment.as_second())),
        None => "N/A".to_owned(),
    }
}

/// A moment as Go prints it: `2024-01-02 15:04:05 +0000 UTC`, in the local time zone.
pub fn go_time(moment: Timestamp) -> String {
    let zoned = moment.to_zoned(jiff::tz::TimeZone::system());
    let zone = zoned.strftime("%Z").to_string();
    let zone = if zone == "Etc/UTC" || zone == "UTC" { "UTC".to_owned() } else { zone };
    format!("{} {zone}", zoned.strftime("%Y-%m-%d %H:%M:%S %z"))
}

/// At most `width` characters, the last an ellipsis when some were cut.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, three, four) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1kB"),
            (1023, "1.02kB", "1.023kB"),
            (13256, "13.3kB", "13.26kB"),
            (74_823_111, "74.8MB", "74.82MB"),
            (116_500_000, "116MB", "116.5MB"),
            (999_999_999, "1e+03MB", "1000MB"),
            (1_234_567_890, "1.23GB", "1.235GB"),
        ] {
            assert_eq!(human_size(bytes, 3), three);
            assert_eq!(human_size(bytes, 4), four);
        }
        assert_eq!(binary_size(64 << 20), "64MiB");
        assert_eq!(binary_size(2_097_152_000), "1.953GiB");
    }

    #[test]
    fn cutting() {
        assert_eq!(ellipsis("abc", 3), "abc");
        assert_eq!(ellipsis("abcd", 3), "ab…");
        assert_eq!(ellipsis("abcd", 1), "…");
    }

    #[test]
    fn ages() {
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(since(Some(Timestamp::from_second(940).unwrap()), now), "About a minute ago");
        assert_eq!(since(None, now), "N/A");
    }
}
