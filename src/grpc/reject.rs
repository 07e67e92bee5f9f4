//! Refusals of this crate, as statuses that any gRPC client understands.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::pushback::{NAME, Pushback};
use crate::error::{ContendedReason, Error, LastFailure, RateLimitReason, Rejection, TimeoutPhase};
use crate::http::{Refused, come_back, says_nothing};

/// The status of a refusal.
///
/// | refusal | code | `grpc-retry-pushback-ms` |
/// |---|---|---|
/// | an open circuit | `UNAVAILABLE` | when the breaker lets a probe through |
/// | a throttle | `UNAVAILABLE` | a second |
/// | a busy resource | `RESOURCE_EXHAUSTED` | the [time it is likely to take](crate::Contended::expected_wait) |
/// | one that was waited for until the deadline | `DEADLINE_EXCEEDED` | |
/// | a deadlock | `ABORTED` | `-1` |
/// | a rate limit | `RESOURCE_EXHAUSTED` | when there is enough; `-1` if there never is |
/// | a service that was not ready in time | `UNAVAILABLE` | a second |
/// | a timeout after the service was called | `DEADLINE_EXCEEDED` | |
///
/// Where nobody can say, it is a second.
///
/// A deadlock is `ABORTED`, the code for what has to be begun anew at a higher level: asking again does not
/// help, giving back what one holds and starting over does.
///
/// The message says what happened and names neither the breaker nor the resource: what is inside of a server is
/// nobody's business but the operator's. All of it is in the refusal, which is the [source](StdError::source) of the
/// status as long as that has not been sent: [`Rejection::find`] finds it, and no classifier of this crate takes such a
/// status for a result of the service. For callers who may know the names, make the status of the refusal's own words:
/// `Status::unavailable(rejection.to_string())`.
impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        // Zero would say: at once.
        let wait = come_back(&rejection).map(|wait| wait.max(Duration::from_millis(1)));
        let later = wait.map(Pushback::After);
        let (code, pushback) = match &rejection {
            Rejection::CircuitOpen(_) | Rejection::Throttled(_) => (Code::Unavailable, later),
            Rejection::RateLimited(limited) => match limited.reason() {
                RateLimitReason::DeadlineExceeded => (Code::DeadlineExceeded, None),
                RateLimitReason::ExceedsBurst => (Code::ResourceExhausted, Some(Pushback::Never)),
                _ => (Code::ResourceExhausted, later),
            },
            Rejection::TimedOut(late) if late.was_called() => (Code::DeadlineExceeded, None),
            Rejection::TimedOut(_) => (Code::Unavailable, later),
            Rejection::Contended(contended) => match contended.reason() {
                ContendedReason::Deadlock(_) => (Code::Aborted, Some(Pushback::Never)),
                ContendedReason::Closed => (Code::Unavailable, None),
                #[cfg(feature = "redis")]
                ContendedReason::Unavailable { .. } => (Code::Unavailable, later),
                ContendedReason::ExceedsCapacity { .. } => {
                    (Code::ResourceExhausted, Some(Pushback::Never))
                }
                ContendedReason::DeadlineExceeded => (Code::DeadlineExceeded, None),
                ContendedReason::Busy
                | ContendedReason::TimedOut
                | ContendedReason::Overloaded
                | ContendedReason::QueueFull => (Code::ResourceExhausted, later),
            },
        };
        let mut status = Self::new(code, message(&rejection));
        if let Some(pushback) = pushback {
            push_back(&mut status, pushback);
        }
        status.set_source(Arc::new(rejection));
        status
    }
}

fn message(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::CircuitOpen(_) | Rejection::Throttled(_) => {
            "a service that is needed for this call is not available"
        }
        Rejection::RateLimited(limited) => match limited.reason() {
            RateLimitReason::DeadlineExceeded => "the deadline of the call came before its turn",
            RateLimitReason::ExceedsBurst => "the call asks for more than there ever is",
            _ => "there are too many calls in this time",
        },
        Rejection::TimedOut(late) => late_message(late.phase()),
        Rejection::Contended(contended) => match contended.reason() {
            ContendedReason::Busy => "what is needed for this call is busy",
            ContendedReason::TimedOut => "what is needed for this call was busy for too long",
            ContendedReason::DeadlineExceeded => "the deadline of the call came before its turn",
            ContendedReason::QueueFull => "enough calls are waiting already",
            ContendedReason::Deadlock(_) => "the call was part of a deadlock: begin anew",
            ContendedReason::Overloaded => "there are too many calls at once",
            ContendedReason::Closed => "what is needed for this call was closed",
            #[cfg(feature = "redis")]
            ContendedReason::Unavailable { .. } => "what is needed for this call is not available",
            ContendedReason::ExceedsCapacity { .. } => "the call asks for more than there is",
        },
    }
}

fn late_message(phase: TimeoutPhase) -> &'static str {
    match phase {
        TimeoutPhase::Ready => "a service that is needed for this call is not ready",
        TimeoutPhase::Total | TimeoutPhase::Deadline => "the deadline of the call has passed",
        _ => "a service that is needed for this call took too long",
    }
}

fn push_back(status: &mut Status, pushback: Pushback) {
    let value = pushback.to_header_value();
    let value = value
        .to_str()
        .ok()
        .and_then(|it| MetadataValue::try_from(it).ok());
    if let Some(value) = value {
        status.metadata_mut().insert(NAME, value);
    }
}

/// What a stack of layers ended with, as a status: for `.map_err(Status::from)` between the layers and a
/// tonic client, and for `?` in a handler.
///
/// The service's own error is what tonic makes of it: a `Status` is itself. A refusal is as [`From<Rejection>`] has it.
/// A retry that gave up is the last failure; if that left no error, it is the refusal of the next attempt, else
/// `DEADLINE_EXCEEDED` after an attempt that took too long, and `UNAVAILABLE` after a response that was a failure. The
/// message names nobody; what gave up is the source of the status.
///
/// Without it a tonic client makes `UNKNOWN` of a refusal.
impl<E: StdError + Send + Sync + 'static> From<Error<E>> for Status {
    fn from(error: Error<E>) -> Self {
        if let Some(rejection) = error.rejection() {
            return rejection.into();
        }
        if let Error::TimedOut(late) = error {
            return Rejection::TimedOut(late).into();
        }
        match error.into_inner() {
            Ok(inner) => Self::from_error(Box::new(inner)),
            Err(error) => gave_up(error),
        }
    }
}

/// A retry that gave up, and whose last attempt left no error of the service's own.
fn gave_up<E: StdError + Send + Sync + 'static>(error: Error<E>) -> Status {
    let (refusal, in_time) = match &error {
        Error::Exhausted(gave_up) => (
            gave_up.refusal().cloned(),
            matches!(gave_up.last(), LastFailure::Response(_)),
        ),
        _ => (None, false),
    };
    let mut status = match refusal {
        Some(refusal) => Status::from(refusal),
        None if in_time => Status::unavailable("a service that is needed for this call fails"),
        None => Status::deadline_exceeded("a service that is needed for this call took too long"),
    };
    status.set_source(Arc::new(error));
    status
}

/// A refusal as the answer of a gRPC server: a response that is all trailers. For `reject_with` on the layers
/// around a tonic service, whose error type stays what it is. It is marked as [`Refused`], so that no breaker
/// around it takes it for the service's; except for a service that did not answer in time: that is the service's.
///
/// ```
/// use tower_bulwark::{CircuitBreaker, Rejection};
///
/// let layer = CircuitBreaker::new("database")
///     .layer::<std::convert::Infallible>()
///     .reject_with(tower_bulwark::grpc::reject::<tonic::body::Body>);
/// ```
#[must_use]
pub fn reject<B: Default>(rejection: Rejection) -> http::Response<B> {
    let refused = says_nothing(&rejection);
    let mut response = Status::from(rejection).into_http();
    if refused {
        response.extensions_mut().insert(Refused);
    }
    response
}
