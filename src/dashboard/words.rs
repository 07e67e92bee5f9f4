//! Numbers and times as people read them.

use std::time::Duration;

/// A name or message as the page shows it: at most so many characters. Keys come from requests, and messages from anybody.
pub(super) const LONGEST: usize = 300;

/// `480 ms`, `4.2 s`, `48 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn humane(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.is_zero() => "0 s".into(),
        0 if duration < Duration::from_millis(1) => format!("{} µs", duration.as_micros()),
        0 if duration < Duration::from_millis(10) => trimmed(duration.as_secs_f64() * 1e3, " ms"),
        0 => format!("{} ms", duration.as_millis()),
        1..10 => trimmed(duration.as_secs_f64(), " s"),
        10..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, " min", seconds % 60, " s"),
        3_600..86_400 => two(seconds / 3_600, " h", seconds % 3_600 / 60, " min"),
        _ => two(seconds / 86_400, " d", seconds % 86_400 / 3_600, " h"),
    }
}

fn trimmed(number: f64, unit: &str) -> String {
    // Cut, not rounded: what lasts 9.99 s has not lasted 10.
    let tenths = (number * 10.0).floor() / 10.0;
    format!("{tenths}{unit}")
}

fn two(large: u64, unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit} {small}{small_unit}"),
    }
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 call`, `1,234 calls`.
pub(super) fn counted(number: u64, one: &str, more: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { more }
    )
}

/// `34 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// At most [`LONGEST`] characters.
pub(super) fn clipped(text: &str) -> String {
    clipped_at(LONGEST, text)
}

/// At most so many characters.
pub(super) fn clipped_at(longest: usize, text: &str) -> String {
    match text.char_indices().nth(longest) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_people_say_it() {
        let cases = [
            (0, "0 s"),
            (400, "400 µs"),
            (4_250, "4.2 ms"),
            (480_000, "480 ms"),
            (999_999, "999 ms"),
            (4_290_000, "4.2 s"),
            (48_900_000, "48 s"),
            (60_000_000, "1 min"),
            (200_000_000, "3 min 20 s"),
            (7_500_000_000, "2 h 5 min"),
            (273_600_000_000, "3 d 4 h"),
        ];
        for (micros, words) in cases {
            assert_eq!(humane(Duration::from_micros(micros)), words);
        }
        assert!(humane(Duration::MAX).ends_with(" h"));
    }

    #[test]
    fn a_number_is_grouped_by_thousands() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(counted(1, "call", "calls"), "1 call");
        assert_eq!(counted(2_000, "call", "calls"), "2,000 calls");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "ü".repeat(LONGEST + 1);
        let cut = clipped(&text);
        assert_eq!(cut.chars().count(), LONGEST + 1);
        assert!(cut.ends_with('…'));
        assert_eq!(clipped("short"), "short");
    }
}
