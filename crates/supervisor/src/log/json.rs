//! One line of docker's json-file format, written by hand and read by serde.
//!
//! The writer escapes what Go's encoder escapes: quotes, backslashes, control characters, `<`, `>`, `&`, U+2028 and
//! U+2029, and each byte that is no UTF-8 as `\ufffd`. Writing needs no memory beyond the line itself.

use std::borrow::Cow;
use std::io::Write;

use serde::Deserialize;

use super::Stream;
use crate::timestamp::Timestamp;

/// Appends one line for `text`, with a newline inside the text when `ended`.
pub(super) fn append_line(out: &mut Vec<u8>, stream: Stream, text: &[u8], ended: bool, time: Timestamp) {
    out.extend_from_slice(b"{\"log\":\"");
    append_escaped(out, text);
    if ended {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.as_str().as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    write!(out, "{time}").expect("a vector takes all");
    out.extend_from_slice(b"\"}\n");
}

fn append_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        append_valid(out, chunk.valid());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn append_valid(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let length = match byte {
            0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' => 1,
            0xE2 if matches!(bytes[at + 1..], [0x80, 0xA8 | 0xA9, ..]) => 3,
            _ => continue,
        };
        out.extend_from_slice(&bytes[plain_from..at]);
        plain_from = at + length;
        append_escape(out, &bytes[at..plain_from]);
    }
    out.extend_from_slice(&bytes[plain_from..]);
}

fn append_escape(out: &mut Vec<u8>, character: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match character {
        [b'\n'] => out.extend_from_slice(b"\\n"),
        [b'\r'] => out.extend_from_slice(b"\\r"),
        [quoted @ (b'"' | b'\\')] => out.extend_from_slice(&[b'\\', *quoted]),
        [other] => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(other >> 4)], HEX[usize::from(other & 15)]]);
        }
        [.., 0xA8] => out.extend_from_slice(b"\\u2028"),
        _ => out.extend_from_slice(b"\\u2029"),
    }
}

/// One line as it is read. Unknown fields (docker's `attrs`) are skipped.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    pub(super) log: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) stream: Cow<'a, str>,
    pub(super) time: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8], ended: bool) -> String {
        let mut out = Vec::new();
        append_line(&mut out, Stream::Stderr, text, ended, Timestamp { seconds: 0, nanoseconds: 500_000_000 });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_line_is_dockers() {
        assert_eq!(
            line("a\"b\\c\td\u{7}<é>\u{2028}".as_bytes(), true),
            "{\"log\":\"a\\\"b\\\\c\\u0009d\\u0007\\u003cé\\u003e\\u2028\\n\",\
             \"stream\":\"stderr\",\"time\":\"1970-01-01T00:00:00.5Z\"}\n"
        );
        assert!(line(b"half", false).starts_with("{\"log\":\"half\",\"stream\""));
    }

    #[test]
    fn every_text_survives_and_broken_bytes_become_replacement_characters() {
        for text in ["", "plain", "\u{0}\u{1f}\u{7f}\"\\/<>&\r\n", "日本語 한국어 \u{2029} \u{10FFFF}"] {
            let line = line(text.as_bytes(), false);
            let read: Line<'_> = serde_json::from_str(&line).unwrap();
            assert_eq!((read.log.as_ref(), read.stream.as_ref()), (text, "stderr"));
        }
        let line = line(b"a\xff\xe2\x82b\xc3", false);
        let read: Line<'_> = serde_json::from_str(&line).unwrap();
        assert_eq!(read.log, "a\u{fffd}\u{fffd}\u{fffd}b\u{fffd}");
    }
}
