use std::fmt::Write;
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use ::http::{Response, StatusCode};

use crate::error::{ContendedReason, Rejection};

/// A response that a layer made of its own refusal: an extension of the response, put there by [`problem`].
///
/// The service below was not asked, so whatever the status is, it says nothing of that service:
/// [`HttpClassify`](super::HttpClassify) ignores such a response. Without it a busy lock, whose refusals are
/// `429` and `503`, would open a breaker around it. Put it among the extensions of what your own `reject_with`
/// answers. It is not sent: to a client the response is what its status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A refusal as a response: for `reject_with`.
///
/// An open circuit is a `503`. A busy resource is a `429` if the caller was one too many at the door (the queue
/// was full, or the caller did not want to wait), a `503` if it waited without success or could never have been served, and a `504`
/// if its own deadline came first. `Retry-After` says when to come back, in whole seconds: when the breaker lets a
/// probe through, or the [time that the resource is likely to take](crate::Contended::expected_wait); at least a
/// second, and one where nobody can say. After a deadlock it is not sent: coming back does not help. The body is a problem of
/// RFC 9457.
///
/// It is marked as [`Refused`], so that no breaker around it takes it for the service's.
///
/// The body names the breaker or the resource and the reason; who holds a resource is nobody's business but the
/// operator's.
///
/// ```
/// # use http::Response;
/// # use tower::ServiceBuilder;
/// use tower_bulwark::{CircuitBreaker, http::problem};
///
/// let layer = CircuitBreaker::new("backend").layer::<std::convert::Infallible>().reject_with(problem::<String>);
/// # let _ = ServiceBuilder::new().layer(layer);
/// ```
#[expect(
    clippy::needless_pass_by_value,
    reason = "that is what `reject_with` takes"
)]
pub fn problem<B: From<String>>(rejection: Rejection) -> Response<B> {
    let (status, title) = match &rejection {
        Rejection::CircuitOpen(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The service behind this one is not available",
        ),
        Rejection::Contended(contended) => match contended.reason() {
            ContendedReason::Busy | ContendedReason::QueueFull | ContendedReason::Overloaded => {
                (StatusCode::TOO_MANY_REQUESTS, "Too many requests at once")
            }
            ContendedReason::DeadlineExceeded => (
                StatusCode::GATEWAY_TIMEOUT,
                "The request's deadline came before its turn",
            ),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "The resource is busy"),
        },
    };
    let mut body = String::from(r#"{"type":"about:blank","title":""#);
    escape_into(&mut body, title);
    // Writing to a string cannot fail.
    let _ = write!(body, r#"","status":{},"resource":""#, status.as_u16());
    escape_into(&mut body, rejection.name());
    body.push('"');
    let retry_after = come_back(&rejection).map(whole_seconds);
    if let Some(seconds) = retry_after {
        let _ = write!(body, r#","retry_after":{seconds}"#);
    }
    body.push('}');

    let mut response = Response::new(B::from(body));
    *response.status_mut() = status;
    response.extensions_mut().insert(Refused);
    let json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    if let Some(seconds) = retry_after {
        let seconds = HeaderValue::from(seconds);
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

/// When it may be worth asking again; `None` if it never is.
pub(crate) fn come_back(rejection: &Rejection) -> Option<Duration> {
    const NOBODY_CAN_SAY: Duration = Duration::from_secs(1);
    let known = match rejection {
        Rejection::CircuitOpen(open) => open.retry_after(),
        Rejection::Contended(contended) if contended.is_deadlock() => return None,
        Rejection::Contended(contended) => contended.expected_wait(),
    };
    Some(known.unwrap_or(NOBODY_CAN_SAY))
}

/// Rounded up: who comes back a moment too early is refused again.
fn whole_seconds(delay: Duration) -> u64 {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    seconds.max(1)
}

/// Writes text as the inside of a JSON string.
fn escape_into(json: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' => json.push_str(r#"\""#),
            '\\' => json.push_str(r"\\"),
            c if (c as u32) < 0x20 => {
                let _ = write!(json, "\\u{:04x}", c as u32);
            }
            c => json.push(c),
        }
    }
}
