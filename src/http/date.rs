//! Dates as HTTP and its neighbours write them: pure, in seconds (or milliseconds) since 1970.

const DAY: i64 = 86_400;

/// Days since 1970 of a date of the proleptic Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last of a year.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A date and a time of day, as far as they can be.
fn moment(year: i64, month: i64, day: i64, time: i64) -> Option<i64> {
    let valid = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    valid.then(|| days(year, month, day) * DAY + time)
}

/// Reads text piece by piece.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn literal(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Exactly `n` digits.
    fn digits(&mut self, n: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(n)?;
        let number = digits.iter().try_fold(0, |number, digit| {
            digit
                .is_ascii_digit()
                .then(|| number * 10 + i64::from(digit - b'0'))
        })?;
        self.0 = rest;
        Some(number)
    }

    /// One of `words`, by its number from 0.
    fn word(&mut self, words: &[&str]) -> Option<i64> {
        let at = words
            .iter()
            .position(|word| self.0.starts_with(word.as_bytes()))?;
        self.0 = &self.0[words[at].len()..];
        i64::try_from(at).ok()
    }

    /// `hh:mm:ss` in seconds; the second may be a leap second.
    fn time(&mut self) -> Option<i64> {
        let hour = self.digits(2)?;
        self.literal(b":")?;
        let minute = self.digits(2)?;
        self.literal(b":")?;
        let second = self.digits(2)?;
        let valid = hour < 24 && minute < 60 && second <= 60;
        valid.then_some(hour * 3_600 + minute * 60 + second)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// An HTTP date in any of the three forms of RFC 9110, 5.6.7, in seconds. A name of a day that contradicts the date is
/// not looked at.
///
/// A leap second is a second later than the one before, which is what a wait wants to know. A two-digit year is one of
/// 1970 to 2069.
pub(super) fn http_date(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (date, leap) = match text.contains(":60 ") {
        true => (
            httpdate::parse_http_date(&text.replacen(":60 ", ":59 ", 1)),
            1,
        ),
        false => (httpdate::parse_http_date(text), 0),
    };
    let since = date.ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(i64::try_from(since.as_secs()).ok()? + leap)
}

/// `2026-06-01T00:00:30.5Z` or with an offset, as RFC 3339 has it, in milliseconds.
pub(super) fn rfc3339(text: &[u8]) -> Option<i64> {
    let mut text = Text(text);
    let year = text.digits(4)?;
    text.literal(b"-")?;
    let month = text.digits(2)?;
    text.literal(b"-")?;
    let day = text.digits(2)?;
    text.word(&["T", "t", " "])?;
    let time = text.time()?;
    let mut millis = 0;
    if text.literal(b".").is_some() {
        let mut worth = 100;
        let mut any = false;
        while let Some(digit) = text.digits(1) {
            millis += digit * worth;
            worth /= 10;
            any = true;
        }
        any.then_some(())?;
    }
    let offset = match text.word(&["Z", "z", "+", "-"])? {
        0 | 1 => 0,
        sign => {
            let hours = text.digits(2)?;
            text.literal(b":")?;
            let minutes = text.digits(2)?;
            let offset = hours * 3_600 + minutes * 60;
            if sign == 2 { offset } else { -offset }
        }
    };
    text.end()?;
    Some((moment(year, month, day, time)? - offset) * 1_000 + millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_day_is_followed_by_the_next_for_a_thousand_years() {
        let mut expected = days(1600, 1, 1);
        for year in 1600..2600 {
            for month in 1..=12 {
                for day in 1..=days_in(year, month) {
                    assert_eq!(days(year, month, day), expected, "{year}-{month}-{day}");
                    expected += 1;
                }
            }
        }
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 2, 29), 11_016);
    }

    proptest! {
        #[test]
        fn nothing_that_a_server_can_send_is_a_panic(
            text in prop::collection::vec(any::<u8>(), 0..40),
            like in "[SMTWF][a-z]{2,8},? [0-9 ]{1,2}[ -][A-Z][a-z]{2}[ -][0-9]{2,4} [0-9:]{5,9}( GMT)?",
        ) {
            for text in [text.as_slice(), like.as_bytes()] {
                let _ = http_date(text);
                let _ = rfc3339(text);
            }
        }
    }
}
