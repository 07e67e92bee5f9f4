//! How things are written to the log: on one line, bounded, and without what looks like a secret.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::error::{CycleStep, HolderInfo};

/// `1.250s`, `250ms`, `1.5ms`, `80µs`.
pub(super) struct Time(pub(super) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.0;
        match time.as_micros() {
            _ if time == Duration::MAX => f.write_str("unlimited"),
            0 if !time.is_zero() => write!(f, "{}ns", time.as_nanos()),
            0..1_000 => write!(f, "{}µs", time.as_micros()),
            micros @ 1_000..10_000 if micros % 1_000 != 0 => {
                write!(f, "{:.1}ms", time.as_secs_f64() * 1_000.0)
            }
            1_000..1_000_000 => write!(f, "{}ms", time.as_millis()),
            _ => write!(f, "{:.3}s", time.as_secs_f64()),
        }
    }
}

/// ` (and 4,211 more)`; nothing for none.
pub(super) struct More(pub(super) u64);

impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return Ok(());
        }
        let digits = self.0.to_string();
        f.write_str(" (and ")?;
        for (nth, digit) in digits.chars().enumerate() {
            if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        f.write_str(" more)")
    }
}

/// A text of somebody else's: no character of it begins a line, moves a cursor or turns the direction of writing, and it is
/// cut when it is long.
pub(super) struct OneLine<T>(pub(super) T);

/// So many characters are written of a text of somebody else's.
pub(super) const LONGEST: usize = 256;

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Writer<'a, 'b> {
            to: &'a mut fmt::Formatter<'b>,
            left: usize,
        }
        impl Write for Writer<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for c in text.chars() {
                    if self.left == 0 {
                        return Err(fmt::Error);
                    }
                    self.left -= 1;
                    match is_harmless(c) {
                        true => self.to.write_char(c)?,
                        false => write!(self.to, "{}", c.escape_default())?,
                    }
                }
                Ok(())
            }
        }
        let mut writer = Writer {
            to: f,
            left: LONGEST,
        };
        match write!(writer, "{}", self.0) {
            Err(_) if writer.left == 0 => f.write_char('…'),
            result => result,
        }
    }
}

fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `a for 3.000s, b for 2.000s and 4 more`.
pub(super) struct Holders<'a>(pub(super) &'a [HolderInfo]);

impl fmt::Display for Holders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, info) in self.0.iter().take(3).enumerate() {
            let comma = if nth == 0 { "" } else { ", " };
            let (holder, time) = (OneLine(&info.holder), Time(info.held_for));
            write!(f, "{comma}{holder} for {time}")?;
        }
        crate::error::write_more(f, self.0.len())
    }
}

/// `a waits for db, b waits for cache`.
pub(super) struct Cycle<'a>(pub(super) &'a [CycleStep]);

impl fmt::Display for Cycle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, step) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { ", " };
            let (holder, resource) = (OneLine(&step.holder), OneLine(&step.waits_for));
            write!(f, "{comma}{holder} waits for {resource}")?;
        }
        Ok(())
    }
}

/// The text of an error, without what looks like a secret: credentials and queries of URLs, values of what is called
/// `token` or the like, and keys. That is a net with holes; the page says how to leave the texts out altogether.
pub(super) fn redacted(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut value_is_secret = false;
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        match value_is_secret && !word.is_empty() && !is_scheme(word) {
            true => written.push_str(HIDDEN),
            false => redact_word(&mut written, word),
        }
        written.push_str(&piece[word.len()..]);
        if !word.is_empty() {
            value_is_secret = is_scheme(word) || announces_secret(word);
        }
    }
    written
}

const HIDDEN: &str = "***";

/// `Bearer`, before a token.
fn is_scheme(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic")
}

fn names_secret(word: &str) -> bool {
    const NAMES: [&str; 12] = [
        "authorization",
        "password",
        "passwd",
        "secret",
        "token",
        "apikey",
        "api_key",
        "api-key",
        "credential",
        "cookie",
        "signature",
        "private",
    ];
    let word = word.to_ascii_lowercase();
    NAMES.iter().any(|name| word.contains(name))
}

/// `password:`, with the value in the next word.
fn announces_secret(word: &str) -> bool {
    let bare = word.trim_end_matches(['"', '\'']);
    bare.ends_with([':', '=']) && names_secret(bare)
}

fn redact_word(written: &mut String, word: &str) {
    if let Some((scheme, rest)) = word.split_once("://") {
        return redact_url(written, scheme, rest);
    }
    if let Some(at) = word.find(['=', ':']) {
        let (name, value) = word.split_at(at + 1);
        if names_secret(name) && value.chars().any(char::is_alphanumeric) {
            written.push_str(name);
            return written.push_str(HIDDEN);
        }
    }
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut rest = word;
    while let Some(begin) = rest.find(is_of_word) {
        written.push_str(&rest[..begin]);
        rest = &rest[begin..];
        let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(end);
        written.push_str(if looks_like_key(token) { HIDDEN } else { token });
        rest = after;
    }
    written.push_str(rest);
}

/// Host and path stay.
fn redact_url(written: &mut String, scheme: &str, rest: &str) {
    let end = rest
        .find([')', '"', '\'', '>', ',', ';'])
        .unwrap_or(rest.len());
    let (url, after) = rest.split_at(end);
    let authority = url.find('/').unwrap_or(url.len());
    let host = url[..authority].rfind('@').map_or(0, |at| at + 1);
    written.push_str(scheme);
    written.push_str("://");
    if host > 0 {
        written.push_str(HIDDEN);
        written.push('@');
    }
    match url.find(['?', '#']).filter(|at| *at >= host) {
        Some(query) => {
            written.push_str(&url[host..=query]);
            written.push_str(HIDDEN);
        }
        None => written.push_str(&url[host..]),
    }
    written.push_str(after);
}

fn looks_like_key(token: &str) -> bool {
    const BEGINNINGS: [&str; 10] = [
        "sk-",
        "sk_",
        "pk_",
        "rk_",
        "ghp_",
        "gho_",
        "github_pat_",
        "xox",
        "AKIA",
        "eyJ",
    ];
    let has_beginning = BEGINNINGS.iter().any(|it| token.starts_with(it));
    let is_mixed = |part: &str| {
        let digits = part.bytes().any(|b| b.is_ascii_digit());
        digits && part.bytes().any(|b| b.is_ascii_alphabetic())
    };
    // The parts of an id that is made of parts, as of a UUID or a pod, are shorter.
    let long = |part: &str| part.len() >= 16 && is_mixed(part);
    has_beginning && token.len() >= 8 || token.split('-').any(long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_write_them() {
        let written = |time| Time(time).to_string();
        let nanos = Duration::from_nanos;
        assert_eq!(written(nanos(1_250_000_000)), "1.250s");
        assert_eq!(written(nanos(250_000_000)), "250ms");
        assert_eq!(written(nanos(1_500_000)), "1.5ms");
        assert_eq!(written(nanos(80_000)), "80µs");
        assert_eq!(written(nanos(80)), "80ns");
        assert_eq!(written(Duration::ZERO), "0µs");
        assert_eq!(written(Duration::MAX), "unlimited");
    }

    #[test]
    fn numbers_of_what_was_left_out_have_a_comma_before_each_three_digits() {
        let written = [0, 7, 999, 4_211, 1_234_567].map(|it| More(it).to_string());
        let expected = [
            "",
            " (and 7 more)",
            " (and 999 more)",
            " (and 4,211 more)",
            " (and 1,234,567 more)",
        ];
        assert_eq!(written, expected);
    }

    #[test]
    fn a_text_stays_on_its_line_and_is_cut_at_the_bound() {
        let text = "one\ntwo\r\u{1b}[31mred\u{2028}\u{202e}x";
        let written = OneLine(text).to_string();
        assert_eq!(written, "one\\ntwo\\r\\u{1b}[31mred\\u{2028}\\u{202e}x");
        let long = "ä".repeat(LONGEST + 1);
        let cut = OneLine(&long).to_string();
        assert_eq!(cut, "ä".repeat(LONGEST) + "…");
        let whole = "ä".repeat(LONGEST);
        assert_eq!(OneLine(&whole).to_string(), whole);
    }

    #[test]
    fn what_looks_like_a_secret_is_not_written_and_the_rest_is() {
        for (text, expected) in [
            (
                "error sending request for url (https://api.example.com/v1/chat?key=AIza12): refused",
                "error sending request for url (https://api.example.com/v1/chat?***): refused",
            ),
            (
                "postgres://app:hunter2@db.internal:5432/orders is down",
                "postgres://***@db.internal:5432/orders is down",
            ),
            ("authorization: Bearer abc.def", "authorization: Bearer ***"),
            ("got Basic dXNlcg==, then 401", "got Basic *** then 401"),
            ("{\"password\":\"hunter2\"}", "{\"password\":***"),
            ("{\"password\": \"hunter2\"}", "{\"password\": ***"),
            ("api_key=abc is wrong", "api_key=*** is wrong"),
            (
                "Incorrect API key provided: sk-proj-abc",
                "Incorrect API key provided: ***",
            ),
            ("key 'A1b2C3d4E5f6G7h8I9'", "key '***'"),
            (
                "connection to 10.0.0.7:5432 refused (os error 111) after 3 tries",
                "connection to 10.0.0.7:5432 refused (os error 111) after 3 tries",
            ),
            (
                "pod payments-7d9c5b6f8d-x2x4z, request 6f1c2a34-9b1d-4c55-8d7e-0a1b2c3d4e5f",
                "pod payments-7d9c5b6f8d-x2x4z, request 6f1c2a34-9b1d-4c55-8d7e-0a1b2c3d4e5f",
            ),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }
}
