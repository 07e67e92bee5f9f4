//! `grpc-timeout`: how long the caller still waits.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::http::ReceiveDeadlineLayer;

pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The units, in nanoseconds, from the finest on.
const UNITS: [(u128, char); 6] = [
    (1, 'n'),
    (1_000, 'u'),
    (1_000_000, 'm'),
    (1_000_000_000, 'S'),
    (60_000_000_000, 'M'),
    (3_600_000_000_000, 'H'),
];

const MOST_DIGITS: usize = 8;
const MOST: u128 = 99_999_999;

/// The value of a `grpc-timeout` header for the time that is left; `None` if there is none left: such a call
/// is not to be sent, it has failed with `DEADLINE_EXCEEDED`.
///
/// In the finest unit of which it takes no more than eight digits, rounded up, so that the server never gives
/// up before its client does. What is too long even in hours is `99999999H`, which is 11 415 years.
/// ([Timeout, in gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests))
///
/// ```
/// use std::time::Duration;
/// use tower_bulwark::grpc::encode_timeout;
///
/// assert_eq!(encode_timeout(Duration::from_millis(100)).unwrap(), "100000u");
/// assert_eq!(encode_timeout(Duration::ZERO), None);
/// ```
#[must_use]
pub fn encode_timeout(left: Duration) -> Option<HeaderValue> {
    let nanos = left.as_nanos();
    if nanos == 0 {
        return None;
    }
    let fitting = UNITS
        .into_iter()
        .map(|(length, unit)| (nanos.div_ceil(length), unit))
        .find(|(count, _)| *count <= MOST);
    let (count, unit) = fitting.unwrap_or((MOST, 'H'));
    HeaderValue::try_from(format!("{count}{unit}")).ok()
}

/// What the value of a `grpc-timeout` header means; `None` if it is not one to eight digits and a unit.
#[must_use]
pub fn decode_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let (nanos, _) = UNITS.iter().find(|(_, it)| *it == char::from(*unit))?;
    // Digits are looked at one by one: `parse` takes a plus sign.
    if !(1..=MOST_DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0_u128, |count, digit| count * 10 + u128::from(digit - b'0'));
    let nanos = count * nanos;
    const SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(nanos / SECOND).ok()?;
    Some(Duration::new(seconds, (nanos % SECOND) as u32))
}

/// The `grpc-timeout` in the headers of a request, if it has one that can be read.
#[must_use]
pub(super) fn timeout_in(headers: &HeaderMap) -> Option<Duration> {
    decode_timeout(headers.get(TIMEOUT)?.as_bytes())
}

impl ReceiveDeadlineLayer {
    /// Reads `grpc-timeout`. (feature `grpc`)
    ///
    /// A handler's own client that goes by [`GrpcRequests`](super::GrpcRequests) asks its servers for what is
    /// left. A tonic server ends a call whose time is over by itself, and answers `CANCELLED`; with
    /// [`answer_with`](Self::answer_with) and [`deadline_exceeded`] it is `DEADLINE_EXCEEDED`.
    #[cfg_attr(docsrs, doc(cfg(feature = "grpc")))]
    #[must_use]
    pub fn grpc() -> Self {
        Self::reading(TIMEOUT, decode_timeout)
    }
}

/// The answer to a call whose deadline has passed: a response that is all trailers, with `DEADLINE_EXCEEDED`. For
/// [`ReceiveDeadlineLayer::answer_with`].
#[must_use]
pub fn deadline_exceeded<B: Default>() -> Response<B> {
    let mut response = Response::new(B::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("4"));
    let message = HeaderValue::from_static("the deadline of the call has passed");
    headers.insert("grpc-message", message);
    response
}
