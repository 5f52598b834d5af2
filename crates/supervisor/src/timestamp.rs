//! Points in time as docker writes them: RFC 3339 in UTC with up to nine decimals and trailing zeros cut.
//!
//! The supervisor stamps every log line, so this neither allocates nor loads time zones. Parsing accepts any RFC 3339
//! offset. Years from 0000 to 9999 only.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: seconds since 1970-01-01T00:00:00Z, and nanoseconds below a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

/// A text that is no RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time: {0:?}")]
pub struct InvalidTimestamp(String);

impl Timestamp {
    /// The present moment (`CLOCK_REALTIME`).
    pub fn now() -> Timestamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Timestamp { seconds: now.tv_sec, nanoseconds: now.tv_nsec as u32 }
    }

    /// The same time with all nine decimals, as `docker logs -t` prints it so that lines align.
    pub fn fixed(self) -> impl fmt::Display {
        Fixed(self)
    }

    fn date_and_time(self) -> DateAndTime {
        let days = self.seconds.div_euclid(86_400);
        let second = self.seconds.rem_euclid(86_400) as u32;
        let (year, month, day) = civil_from_days(days);
        DateAndTime { year, month, day, hour: second / 3600, minute: second / 60 % 60, second: second % 60 }
    }
}

struct DateAndTime {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl fmt::Display for DateAndTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DateAndTime { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.date_and_time().fmt(f)?;
        if self.nanoseconds > 0 {
            let (mut fraction, mut digits) = (self.nanoseconds, 9);
            while fraction.is_multiple_of(10) {
                fraction /= 10;
                digits -= 1;
            }
            write!(f, ".{fraction:0digits$}")?;
        }
        f.write_str("Z")
    }
}

struct Fixed(Timestamp);

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}Z", self.0.date_and_time(), self.0.nanoseconds)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        parse(text.as_bytes()).ok_or_else(|| InvalidTimestamp(text.to_owned()))
    }
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let (date_and_time, tail) = text.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| date_and_time[*at] != *byte)
        || !matches!(date_and_time[10], b'T' | b't' | b' ')
    {
        return None;
    }
    let (year, month, day) =
        (number(&date_and_time[..4])?, number(&date_and_time[5..7])?, number(&date_and_time[8..10])?);
    let (hour, minute, second) =
        (number(&date_and_time[11..13])?, number(&date_and_time[14..16])?, number(&date_and_time[17..])?);
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if !in_range {
        return None;
    }
    let (nanoseconds, zone) = fraction(tail)?;
    let days = days_from_civil(i64::from(year), month, day);
    let seconds = days * 86_400 + i64::from(hour * 3600 + minute * 60 + second) - offset_seconds(zone)?;
    Some(Timestamp { seconds, nanoseconds })
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |sum, digit| {
        digit.is_ascii_digit().then(|| sum.checked_mul(10)?.checked_add(u32::from(digit - b'0'))).flatten()
    })
}

/// The decimals after the seconds as nanoseconds (more than nine are cut), and what follows them.
fn fraction(tail: &[u8]) -> Option<(u32, &[u8])> {
    let Some(decimals) = tail.strip_prefix(b".") else { return Some((0, tail)) };
    let length = decimals.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 {
        return None;
    }
    let used = length.min(9);
    let nanoseconds = number(&decimals[..used])? * 10_u32.pow(9 - used as u32);
    Some((nanoseconds, &decimals[length..]))
}

fn offset_seconds(zone: &[u8]) -> Option<i64> {
    let (sign, rest) = match zone {
        b"Z" | b"z" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let [hours @ .., b':', tens, units] = rest else { return None };
    let (hours, minutes) = (number(hours)?, number(&[*tens, *units])?);
    (hours < 24 && minutes < 60).then(|| sign * i64::from(hours * 3600 + minutes * 60))
}

/// Year, month and day of a day number since 1970-01-01 in the proleptic Gregorian calendar.
///
/// Years are counted from 1 March, so that the leap day is the last day of its year; 400 years have 146 097 days.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * march_month + 2) / 5 + 1) as u32;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let march_month = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let day_of_year = (153 * march_month + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_and_read_as_docker_does() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_827_696, 100_000_000, "2000-02-29T12:34:56.1Z"),
            (1_735_689_599, 999_999_999, "2024-12-31T23:59:59.999999999Z"),
            (-1, 1_000, "1969-12-31T23:59:59.000001Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
        ] {
            let time = Timestamp { seconds, nanoseconds };
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time));
        }
        let offset: Timestamp = "2000-01-01T02:00:00+02:00".parse().unwrap();
        assert_eq!(offset.to_string(), "2000-01-01T00:00:00Z");
        let time = Timestamp { seconds: 0, nanoseconds: 5_000 };
        assert_eq!(time.fixed().to_string(), "1970-01-01T00:00:00.000005000Z");
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_round_trip() {
        for day in -10_000..150_000 {
            let (year, month, of_month) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, of_month), day);
        }
    }

    #[test]
    fn broken_texts_are_refused() {
        for text in ["", "2000-01-01", "2000-13-01T00:00:00Z", "2000-01-01T00:00:00", "2000-01-01T00:00:00.Z", "x"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
