//! When a server wants to be asked again: `Retry-After`, and what is used beside it.
//!
//! All of it comes from a server that may be wrong or hostile: what cannot be read is ignored, what is too
//! long saturates, and [`max_retry_after`](crate::retry::RetryPolicyBuilder::max_retry_after) is the cap.

use std::time::Duration;

use ::http::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

use super::date::{http_date, rfc3339};
use crate::util::time;

/// Which headers are believed to say when to come back. `Retry-After` always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DelayHeaders {
    millis: bool,
    rate_limit: bool,
    vendor: bool,
}

/// The wait that a response asks for, by [`Retry-After`](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)
/// alone: a number of seconds, also one with a fraction as
/// some servers send it, or a date in any of the three forms of HTTP. A date is compared with the
/// response's own `Date`, so that a wrong clock on either side does not matter, and with the local clock only
/// without one. A date that has passed is zero.
///
/// `None` if the header is missing or is neither.
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
/// use std::time::Duration;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(RETRY_AFTER, HeaderValue::from_static("120"));
/// assert_eq!(tower_bulwark::http::retry_after(&headers), Some(Duration::from_secs(120)));
/// ```
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    DelayHeaders::new().read(headers)
}

/// How much is left of the quotas `requests` and `tokens`, as the headers of the known APIs say it: OpenAI's
/// `x-ratelimit-remaining-*`, Anthropic's `anthropic-ratelimit-*-remaining`, and the plain `x-ratelimit-remaining` and
/// `ratelimit-remaining` for requests. What is no number is left out.
///
/// For [`left_by`](crate::rate_limit::RateLimitLayer::left_by).
///
/// ```
/// use http::HeaderMap;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-ratelimit-remaining-tokens", "149984".parse()?);
/// let left: Vec<_> = tower_bulwark::http::quotas_left(&headers).collect();
/// assert_eq!(left, [("tokens", 149_984)]);
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
pub fn quotas_left(headers: &HeaderMap) -> impl Iterator<Item = (&'static str, u64)> + use<> {
    const NAMES: [(&str, &str); 6] = [
        ("x-ratelimit-remaining-requests", "requests"),
        ("x-ratelimit-remaining-tokens", "tokens"),
        ("anthropic-ratelimit-requests-remaining", "requests"),
        ("anthropic-ratelimit-tokens-remaining", "tokens"),
        ("x-ratelimit-remaining", "requests"),
        ("ratelimit-remaining", "requests"),
    ];
    let left = NAMES.map(|(header, quota)| {
        let text = headers.get(header)?.to_str().ok()?.trim();
        // Some have decimals: what is no whole one is none.
        let whole = text.split('.').next().filter(|it| !it.is_empty())?;
        whole.parse().ok().map(|units| (quota, units))
    });
    left.into_iter().flatten()
}

impl DelayHeaders {
    /// `Retry-After` and nothing else.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            millis: false,
            rate_limit: false,
            vendor: false,
        }
    }

    /// All that is known here.
    #[must_use]
    pub const fn all() -> Self {
        Self::new().millis().rate_limit().vendor()
    }

    /// Also `retry-after-ms` (OpenAI, Anthropic, Azure), `x-ms-retry-after-ms` (Azure) and
    /// `x-amz-retry-after` (AWS), in milliseconds. They are looked at first, because they are more exact.
    #[must_use]
    pub const fn millis(mut self) -> Self {
        self.millis = true;
        self
    }

    /// Also the `RateLimit` header of the IETF's draft: when a quota is used up, and when it is renewed.
    /// `Retry-After` goes before it, as the draft demands.
    #[must_use]
    pub const fn rate_limit(mut self) -> Self {
        self.rate_limit = true;
        self
    }

    /// Also the `x-ratelimit-reset` headers as GitHub, Envoy, OpenAI and Anthropic write them, when the
    /// quota beside them is used up. Of several the last to be renewed counts.
    #[must_use]
    pub const fn vendor(mut self) -> Self {
        self.vendor = true;
        self
    }

    /// The wait that a response asks for.
    #[must_use]
    pub fn read(&self, headers: &HeaderMap) -> Option<Duration> {
        Some(self.find(headers, time::unix_millis)?.1)
    }

    /// Which header asks for a wait, and for which. The clock is read only for what is a date.
    pub(super) fn find(
        &self,
        headers: &HeaderMap,
        now: impl Fn() -> i64,
    ) -> Option<(&'static str, Duration)> {
        self.find_millis(headers)
            .or_else(|| {
                let delay = self.retry_after(headers, &now)?;
                Some(("retry-after", delay))
            })
            .or_else(|| {
                let value = headers.get("ratelimit").filter(|_| self.rate_limit)?;
                Some(("ratelimit", rate_limit(value)?))
            })
            .or_else(|| self.find_vendor(headers, &now))
    }

    fn find_millis(&self, headers: &HeaderMap) -> Option<(&'static str, Duration)> {
        const HEADERS: [&str; 3] = ["retry-after-ms", "x-ms-retry-after-ms", "x-amz-retry-after"];
        if !self.millis {
            return None;
        }
        HEADERS.iter().find_map(|name| {
            let millis: f64 = decimal(trimmed(headers.get(*name)?))?;
            let delay = Duration::try_from_secs_f64(millis / 1_000.0).unwrap_or(Duration::MAX);
            Some((*name, delay))
        })
    }

    /// Of a field that was sent twice, the first line counts.
    fn retry_after(&self, headers: &HeaderMap, now: impl Fn() -> i64) -> Option<Duration> {
        let value = trimmed(headers.get(RETRY_AFTER)?);
        if let Some(seconds) = seconds(value) {
            return Some(Duration::from_secs(seconds));
        }
        if let Some(seconds) = decimal(value) {
            return Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
        }
        value.first().filter(|first| first.is_ascii_alphabetic())?;
        let local = now();
        let until = http_date(value)?;
        let sent = headers.get(DATE);
        let sent = sent.and_then(|date| http_date(trimmed(date)));
        let now = sent.map_or(local, |seconds| seconds.saturating_mul(1_000));
        Some(until_millis(until.saturating_mul(1_000), now))
    }

    fn find_vendor(
        &self,
        headers: &HeaderMap,
        now: impl Fn() -> i64,
    ) -> Option<(&'static str, Duration)> {
        // What is left of a quota, and when it is renewed.
        const QUOTAS: [(&str, &str); 9] = [
            ("x-ratelimit-remaining", "x-ratelimit-reset"),
            (
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ),
            ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
            ("ratelimit-remaining", "ratelimit-reset"),
            ("x-rate-limit-remaining", "x-rate-limit-reset"),
            (
                "anthropic-ratelimit-requests-remaining",
                "anthropic-ratelimit-requests-reset",
            ),
            (
                "anthropic-ratelimit-tokens-remaining",
                "anthropic-ratelimit-tokens-reset",
            ),
            (
                "anthropic-ratelimit-input-tokens-remaining",
                "anthropic-ratelimit-input-tokens-reset",
            ),
            (
                "anthropic-ratelimit-output-tokens-remaining",
                "anthropic-ratelimit-output-tokens-reset",
            ),
        ];
        if !self.vendor {
            return None;
        }
        let exhausted = QUOTAS.iter().filter_map(|(remaining, reset)| {
            let left = decimal(trimmed(headers.get(*remaining)?))?;
            let delay = reset_after(trimmed(headers.get(*reset)?), &now)?;
            (left <= 0.0).then_some((*reset, delay))
        });
        exhausted.max_by_key(|(_, delay)| *delay)
    }
}

/// From `now` until `until`, both in milliseconds since 1970; zero if it has passed.
fn until_millis(until: i64, now: i64) -> Duration {
    let left = i128::from(until) - i128::from(now);
    Duration::from_millis(u64::try_from(left.max(0)).unwrap_or(u64::MAX))
}

/// White space around a field's value is not part of it.
fn trimmed(value: &HeaderValue) -> &[u8] {
    value.as_bytes().trim_ascii()
}

/// Digits and nothing else: no sign, as `str::parse` would take. What is too large saturates.
fn seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |number: u64, digit: &u8| {
        let number = number.saturating_mul(10);
        number.saturating_add(u64::from(digit - b'0'))
    };
    Some(text.iter().fold(0, add))
}

/// Digits with at most one point among them.
fn decimal(text: &[u8]) -> Option<f64> {
    let digits = text.iter().filter(|byte| byte.is_ascii_digit()).count();
    let points = text.iter().filter(|byte| **byte == b'.').count();
    if digits == 0 || points > 1 || digits + points != text.len() {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `RateLimit: "default";r=0;t=30`: the longest renewal of the quotas that are used up.
fn rate_limit(value: &HeaderValue) -> Option<Duration> {
    let quota = |quota: &str| {
        let mut parameters = quota.split(';').map(str::trim);
        let name = parameters.next()?;
        if !(name.len() >= 2 && name.starts_with('"') && name.ends_with('"')) {
            return None; // Malformed fields are ignored, all of them.
        }
        let (mut remaining, mut renewed) = (None, None);
        for parameter in parameters {
            match parameter.split_once('=')? {
                ("r", number) => remaining = Some(seconds(number.as_bytes())?),
                ("t", number) => renewed = Some(seconds(number.as_bytes())?),
                _ => {}
            }
        }
        Some((remaining?, renewed))
    };
    let quotas: Option<Vec<_>> = value
        .to_str()
        .ok()?
        .split(',')
        .map(|it| quota(it.trim()))
        .collect();
    let exhausted = quotas?.into_iter().filter(|(remaining, _)| *remaining == 0);
    exhausted
        .filter_map(|(_, renewed)| renewed)
        .max()
        .map(Duration::from_secs)
}

/// A number (seconds, or seconds since 1970), a duration as Go writes it, or a time as RFC 3339 has it.
fn reset_after(text: &[u8], now: impl Fn() -> i64) -> Option<Duration> {
    // Nobody's quota is renewed in thirty years: such a number counts from 1970, in seconds or in milliseconds.
    const THIRTY_YEARS: f64 = 1e9;
    const MILLIS: f64 = 1e12;
    // A year: what is neither this nor a date is a number of something else, and a wrong wait is worse than none.
    const LONGEST: f64 = 31_536_000.0;
    match decimal(text) {
        Some(number) if number >= MILLIS => {
            let until = (number < MILLIS * 1e3).then_some(number as i64)?;
            Some(until_millis(until, now()))
        }
        Some(number) if number >= THIRTY_YEARS => Some(until_millis((number * 1e3) as i64, now())),
        Some(number) if number > LONGEST => None,
        Some(number) => Duration::try_from_secs_f64(number).ok(),
        None => go_duration(text).or_else(|| Some(until_millis(rfc3339(text)?, now()))),
    }
}

/// `1h2m3.5s`
fn go_duration(text: &[u8]) -> Option<Duration> {
    let mut rest = std::str::from_utf8(text)
        .ok()
        .filter(|text| !text.is_empty())?;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(number_ends);
        let unit_ends = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_ends);
        let seconds = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = decimal(number.as_bytes())? * seconds;
        total = total.saturating_add(Duration::try_from_secs_f64(part).unwrap_or(Duration::MAX));
        rest = behind;
    }
    Some(total)
}
