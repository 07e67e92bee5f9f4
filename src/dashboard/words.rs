//! Numbers as people read them.

use std::time::Duration;

/// In milliseconds, to the microsecond: for data.
pub(super) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A duration in a sentence: two digits are enough.
pub(super) fn span(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..10 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        10..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{:.1} s", duration.as_secs_f64()),
        10_000..60_000 => format!("{} s", ms / 1_000),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// A number with its noun.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{} {many}", grouped(n)),
    }
}

/// 4,211.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!(grouped(4_211), "4,211");
        assert_eq!(grouped(1_000_000), "1,000,000");
        assert_eq!(grouped(999), "999");
        assert_eq!(count(1, "call", "calls"), "1 call");
        assert_eq!(count(0, "call", "calls"), "0 calls");
        assert_eq!(span(Duration::from_micros(1_500)), "1.5 ms");
        assert_eq!(span(Duration::from_millis(750)), "750 ms");
        assert_eq!(span(Duration::from_secs(75)), "1 min 15 s");
        assert_eq!(ms(Duration::from_micros(1_234)), 1.234);
    }
}
