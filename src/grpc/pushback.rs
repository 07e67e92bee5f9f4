//! `grpc-retry-pushback-ms`: the server says when to try again, or that it must not be tried again.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const NAME: &str = "grpc-retry-pushback-ms";
const PUSHBACK: HeaderName = HeaderName::from_static(NAME);

/// What a server says of another attempt, in the trailer `grpc-retry-pushback-ms`.
/// ([gRFC A6, Pushback](https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback))
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// After exactly this, zero included.
    After(Duration),
    /// Not at all: a negative number, or anything that is no number.
    Never,
}

impl Pushback {
    /// What headers or trailers say; `None` if they say nothing.
    ///
    /// More than one value, a sign, a leading zero, a number above 2^31 - 1: none of that is the format, and
    /// what cannot be read means [`Never`](Self::Never).
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(PUSHBACK).iter();
        let first = values.next()?;
        Some(match values.next() {
            None => Self::parse(first.as_bytes()),
            Some(_) => Self::Never,
        })
    }

    fn parse(value: &[u8]) -> Self {
        let plain = match value {
            [] | [b'0', _, ..] => false,
            digits => digits.iter().all(u8::is_ascii_digit),
        };
        let number = std::str::from_utf8(value).ok().filter(|_| plain);
        match number.and_then(|number| number.parse::<i32>().ok()) {
            Some(millis) => Self::After(Duration::from_millis(u64::from(millis.unsigned_abs()))),
            None => Self::Never,
        }
    }

    /// The value of the header: milliseconds, rounded up, at most 2^31 - 1; `-1` for never.
    #[must_use]
    pub fn to_header_value(self) -> HeaderValue {
        match self {
            Self::After(delay) => {
                let millis = delay.as_nanos().div_ceil(1_000_000);
                i32::try_from(millis).unwrap_or(i32::MAX).into()
            }
            Self::Never => HeaderValue::from_static("-1"),
        }
    }
}
