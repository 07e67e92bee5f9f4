use std::fmt::Write;
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use ::http::{Response, StatusCode};

use crate::error::{ContendedReason, RateLimitReason, Rejection, TimeoutPhase};

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
/// An open circuit is a `503`, and so is a throttle. A busy resource is a `429` if the caller was one too many at the door (the queue
/// was full, or the caller did not want to wait), a `503` if it waited without success or could never have been served, and a `504`
/// if its own deadline came first. A service that was not ready in time is a `503`, one that did not answer in time, and a
/// request whose time is over, a `504`. `Retry-After` says when to come back, in whole seconds: when the breaker lets a
/// probe through, or the [time that the resource is likely to take](crate::Contended::expected_wait); at least a
/// second, and one where nobody can say. It is not sent after a deadlock, by a lock that was closed, or to who asked for
/// more permits than there are: coming back does not help.
///
/// The body is a problem of RFC 9457: `type` is `about:blank`, so `title` is the phrase of the status; `detail` says in
/// words what happened, `code` is [`Rejection::code`], and `retry_after` is what the header says. It names neither the
/// breaker nor the resource, and no holder: what is inside is nobody's business but the operator's. For callers who may
/// know the name there is [`problem_with_name`].
///
/// It is marked as [`Refused`], so that no breaker around it takes it for the service's; except for a service that did not
/// answer in time: that is the service's.
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
    respond(&rejection, None)
}

/// As [`problem`], and the member `resource` of the body names the breaker or the resource. For services whose callers
/// are trusted with the names of what is inside.
#[expect(
    clippy::needless_pass_by_value,
    reason = "that is what `reject_with` takes"
)]
pub fn problem_with_name<B: From<String>>(rejection: Rejection) -> Response<B> {
    respond(&rejection, Some(rejection.name()))
}

fn respond<B: From<String>>(rejection: &Rejection, name: Option<&str>) -> Response<B> {
    let (status, detail) = answer(rejection);
    let retry_after = come_back(rejection).map(whole_seconds);
    let mut response = problem_of(status, detail, rejection.code(), (name, retry_after));
    if says_nothing(rejection) {
        response.extensions_mut().insert(Refused);
    }
    response
}

/// All but a timeout of a service that was called and did not answer: that is the service's.
pub(crate) fn says_nothing(rejection: &Rejection) -> bool {
    match rejection {
        Rejection::TimedOut(late) => !late.was_called() || late.is_callers_own(),
        _ => true,
    }
}

/// `detail` and `code` need no escape in JSON.
pub(super) fn problem_of<B: From<String>>(
    status: StatusCode,
    detail: &str,
    code: &str,
    (name, retry_after): (Option<&str>, Option<u64>),
) -> Response<B> {
    let (title, number) = (
        status.canonical_reason().unwrap_or_default(),
        status.as_u16(),
    );
    let mut body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{number},"detail":"{detail}","code":"{code}""#
    );
    if let Some(name) = name {
        body.push_str(r#","resource":""#);
        escape_into(&mut body, name);
        body.push('"');
    }
    if let Some(seconds) = retry_after {
        // Writing to a string cannot fail.
        let _ = write!(body, r#","retry_after":{seconds}"#);
    }
    body.push('}');

    let mut response = Response::new(B::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    if let Some(seconds) = retry_after {
        let seconds = HeaderValue::from(seconds);
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

/// The status, and what happened in words that need no escape in JSON.
fn answer(rejection: &Rejection) -> (StatusCode, &'static str) {
    let contended = match rejection {
        Rejection::CircuitOpen(_) | Rejection::Throttled(_) => {
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                "a service that is needed for this request is not available",
            );
        }
        Rejection::RateLimited(limited) => {
            return match limited.reason() {
                RateLimitReason::DeadlineExceeded => (
                    StatusCode::GATEWAY_TIMEOUT,
                    "the deadline of the request came before its turn",
                ),
                _ => (
                    StatusCode::TOO_MANY_REQUESTS,
                    "there are too many requests in this time",
                ),
            };
        }
        Rejection::TimedOut(late) => return answer_late(late.phase()),
        Rejection::Contended(contended) => contended,
    };
    match contended.reason() {
        ContendedReason::Busy | ContendedReason::QueueFull | ContendedReason::Overloaded => (
            StatusCode::TOO_MANY_REQUESTS,
            "there are too many requests at once",
        ),
        ContendedReason::DeadlineExceeded => (
            StatusCode::GATEWAY_TIMEOUT,
            "the deadline of the request came before its turn",
        ),
        #[cfg(feature = "redis")]
        ContendedReason::Unavailable { .. } => (
            StatusCode::SERVICE_UNAVAILABLE,
            "what is needed for this request is not available",
        ),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            "what is needed for this request is busy",
        ),
    }
}

fn answer_late(phase: TimeoutPhase) -> (StatusCode, &'static str) {
    match phase {
        TimeoutPhase::Ready => (
            StatusCode::SERVICE_UNAVAILABLE,
            "a service that is needed for this request is not ready",
        ),
        TimeoutPhase::Total | TimeoutPhase::Deadline => (
            StatusCode::GATEWAY_TIMEOUT,
            "the deadline of the request came before its end",
        ),
        _ => (
            StatusCode::GATEWAY_TIMEOUT,
            "a service that is needed for this request took too long",
        ),
    }
}

/// When it may be worth asking again; `None` if it never is.
pub(crate) fn come_back(rejection: &Rejection) -> Option<Duration> {
    const NOBODY_CAN_SAY: Duration = Duration::from_secs(1);
    let known = match rejection {
        Rejection::CircuitOpen(open) => open.retry_after(),
        // Exact; and what is more than there can ever be is not worth asking for again.
        Rejection::RateLimited(limited) => return limited.retry_after(),
        // One that takes too long need not be asked to wait: only who was never let in comes back.
        Rejection::TimedOut(late) if late.was_called() => return None,
        Rejection::TimedOut(_) | Rejection::Throttled(_) => None,
        Rejection::Contended(contended) => match contended.reason() {
            ContendedReason::Deadlock(_)
            | ContendedReason::Closed
            | ContendedReason::ExceedsCapacity { .. } => return None,
            _ => contended.expected_wait(),
        },
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
