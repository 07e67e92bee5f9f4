//! What a status code says of a service, and of another attempt.

use std::error::Error as StdError;

use http::{HeaderMap, Response, StatusCode, header};
use http_body::Body;

use super::code::{Code, Codes};
use super::failure::{self, Said};
use super::pushback::Pushback;
use crate::call::deadline::{self, Deadline};
use crate::call::outcome::{Classify, RetrySafety, Verdict};
use crate::http::{ClassifyEnd, Refused};

/// Judges gRPC calls by their status codes: for a retry and for a breaker, around HTTP (a tonic channel or
/// server) and around typed calls (`tonic::Status`; feature `tonic`).
///
/// | code | retry | [idempotent](Self::idempotent) | to a breaker |
/// |---|---|---|---|
/// | `UNAVAILABLE` | yes | yes | failure |
/// | `RESOURCE_EXHAUSTED` | no | yes | overload |
/// | `UNKNOWN`, `DEADLINE_EXCEEDED`, `INTERNAL`, `DATA_LOSS` | no | no | failure |
/// | `CANCELLED` | no | no | ignored |
/// | all others | no | no | success |
///
/// The first column is that of [AIP-194](https://google.aip.dev/194), and of gRFC A6: a code that says that
/// the service has not begun. `RESOURCE_EXHAUSTED` may be a quota, and whose is used up is not served sooner
/// by asking again. `PERMISSION_DENIED` and its kin are the caller's doing: one caller without rights must
/// not open the circuit for all. `DEADLINE_EXCEEDED` is a failure, because a service that hangs says nothing
/// else.
///
/// # What is judged when
///
/// An HTTP response is judged by its head if its head is all of it (gRPC's *Trailers-Only*, the form that
/// errors take), if its HTTP status is not `200`, or if it is no gRPC at all. Any other head is a success so
/// far: to gRPC the call is *committed*, and not retried. How it ends is in the trailers; a breaker that
/// shall see them needs `until_body_end` and [`at_end`](Self::at_end).
///
/// `grpc-retry-pushback-ms` is obeyed: a delay instead of the backoff, if the code is one to be retried; or
/// no retry whatever the code. Without it, `google.rpc.RetryInfo` in the details of the status
/// (`grpc-status-details-bin`) is a floor beneath the backoff, as `Retry-After` is over HTTP.
///
/// An error instead of a response is judged by what is in the chain of its causes: a `tonic::Status`, a reset
/// HTTP/2 stream (of which `REFUSED_STREAM`, like a connection that says goodbye first, proves that nothing
/// was done: it is tried again at once), a timeout. A refusal of this crate in it is no result of the
/// service. What is not known is `UNAVAILABLE`, as gRPC has it for connections that fail; then only what may
/// be done twice is sent again. With the feature `hyper` more is known: see
/// [`ErrorKind`](crate::http::ErrorKind).
///
/// A time limit of this side that passes below the retry (`Endpoint::timeout` of tonic, `tower::timeout`) has ended an
/// attempt, and not the call: what may be done twice is sent again if `UNAVAILABLE` is, as over HTTP. A `DEADLINE_EXCEEDED` that the server
/// sends is judged by the table, and so is every timeout [for a throttle](Self::for_throttle).
///
/// A `CANCELLED` after the ambient deadline is taken for the `DEADLINE_EXCEEDED` that it is. Both say nothing about the
/// service then: who obeys the deadline of its caller answers like this.
///
/// ```
/// use tower_bulwark::grpc::{Code, Codes, GrpcClassify};
/// use tower_bulwark::{CircuitBreaker, RetryPolicy};
///
/// let classify = GrpcClassify::new().retry_on(Codes::of(&[Code::Unavailable, Code::Aborted]));
/// let retry = RetryPolicy::new().layer::<std::io::Error>().classify(classify);
/// let breaker = CircuitBreaker::new("model").layer::<std::io::Error>().classify(classify);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct GrpcClassify {
    retryable: Codes,
    failures: Codes,
    overloads: Codes,
    ignored: Codes,
    by_code: bool,
}

impl GrpcClassify {
    /// By the table above.
    pub const fn new() -> Self {
        Self {
            retryable: Codes::of(&[Code::Unavailable]),
            failures: Codes::of(&[
                Code::Unavailable,
                Code::Unknown,
                Code::DeadlineExceeded,
                Code::Internal,
                Code::DataLoss,
            ]),
            overloads: Codes::of(&[Code::ResourceExhausted]),
            ignored: Codes::of(&[Code::Cancelled]),
            by_code: false,
        }
    }

    /// By the table above, for methods that may be called twice.
    pub const fn idempotent() -> Self {
        Self::new().retry_on(Codes::of(&[Code::Unavailable, Code::ResourceExhausted]))
    }

    /// After these codes there is a retry, and after no others.
    pub const fn retry_on(mut self, codes: Codes) -> Self {
        self.retryable = codes;
        self
    }

    /// These codes are failures to a breaker, and no others. One that is also an overload or ignored is a
    /// failure.
    pub const fn failures(mut self, codes: Codes) -> Self {
        self.failures = codes;
        self
    }

    /// These codes say that the service is well and has too much to do, and no others.
    pub const fn overloads(mut self, codes: Codes) -> Self {
        self.overloads = codes;
        self
    }

    /// These codes say nothing about the service, and no others.
    pub const fn ignored(mut self, codes: Codes) -> Self {
        self.ignored = codes;
        self
    }

    /// For a retry with a [throttle](crate::RetryBudget::throttle), which counts by codes and not by health:
    /// a code to be retried is a failure, `OK` is a success, and all others count as neither.
    pub const fn for_throttle(mut self) -> Self {
        self.by_code = true;
        self
    }

    /// After which codes there is a retry.
    #[must_use]
    pub const fn retryable(&self) -> Codes {
        self.retryable
    }

    /// What a status says.
    pub fn verdict(&self, code: Code, pushback: Option<Pushback>) -> Verdict {
        let code = match code {
            Code::Cancelled if deadline::current().is_some_and(Deadline::is_over) => {
                Code::DeadlineExceeded
            }
            code => code,
        };
        if code == Code::Ok {
            return Verdict::success();
        }
        let cut = matches!(code, Code::Cancelled | Code::DeadlineExceeded);
        let health = match cut && !self.by_code && deadline::has_passed() {
            // Who obeys a deadline that was sent along answers like this.
            true => Verdict::ignored(),
            false => self.health(code),
        };
        let verdict = health.because(code.name());
        match pushback {
            Some(Pushback::Never) if self.by_code => {
                Verdict::failure().because(code.name()).do_not_retry()
            }
            Some(Pushback::Never) => verdict.do_not_retry(),
            _ if !self.retryable.contains(code) => verdict.retry(RetrySafety::Never),
            Some(Pushback::After(delay)) => verdict
                .retry_exactly_after(delay)
                .retry(RetrySafety::Always),
            None => verdict.retry(RetrySafety::Always),
        }
    }

    /// A pushback is an order; the wait in the details of a status is advice: what the backoff may not be shorter than.
    fn judge(&self, said: Said) -> Verdict {
        let verdict = self.verdict(said.code, said.pushback);
        let asks = verdict.retry_safety() != RetrySafety::Never && said.pushback.is_none();
        match said.recommended.filter(|_| asks) {
            Some(delay) => verdict.retry_after(delay),
            None => verdict,
        }
    }

    fn health(&self, code: Code) -> Verdict {
        let retryable = self.retryable.contains(code);
        if self.failures.contains(code) || self.by_code && retryable {
            Verdict::failure()
        } else if self.overloads.contains(code) {
            Verdict::overload()
        } else if self.ignored.contains(code) || self.by_code {
            Verdict::ignored()
        } else {
            Verdict::success()
        }
    }

    /// Judges ends of bodies, for a breaker that holds its permits
    /// [`until_body_end`](crate::CircuitBreakerLayer::until_body_end).
    ///
    /// A body that ends without a `grpc-status` makes its call `UNKNOWN`, and so a failure: a stream that was
    /// cut off on the way looks like that.
    ///
    /// ```
    /// use tower_bulwark::CircuitBreaker;
    /// use tower_bulwark::grpc::GrpcClassify;
    ///
    /// let classify = GrpcClassify::new();
    /// let layer = CircuitBreaker::new("model")
    ///     .layer::<std::io::Error>()
    ///     .classify(classify)
    ///     .until_body_end()
    ///     .classify_end(classify.at_end());
    /// ```
    pub const fn at_end(self) -> GrpcClassifyEnd {
        GrpcClassifyEnd {
            classify: self,
            said: None,
            decided: false,
        }
    }

    /// What an error says that came instead of a response.
    pub fn classify_error(&self, error: &(dyn StdError + 'static)) -> Verdict {
        match failure::of(error) {
            failure::Failure::Refused => Verdict::ignored().because("not sent"),
            failure::Failure::Status(said) => self.judge(said),
            failure::Failure::NotBegun => self
                .verdict(Code::Unavailable, None)
                .because("not begun")
                .retry_immediately(),
            failure::Failure::GoAway => self
                .verdict(Code::Unavailable, None)
                .because("the server went away")
                .retry_immediately()
                .retry(RetrySafety::IfIdempotent),
            failure::Failure::NotConnected => self.verdict(Code::Unavailable, None),
            failure::Failure::NoMeans => Verdict::ignored().retry(RetrySafety::Always),
            failure::Failure::TimedOut => {
                let verdict = self.verdict(Code::DeadlineExceeded, None);
                let retries = |code| self.retryable.contains(code);
                let again = !self.by_code && retries(Code::Unavailable);
                match again || retries(Code::DeadlineExceeded) {
                    true => verdict.retry(RetrySafety::IfIdempotent),
                    false => verdict,
                }
            }
            #[cfg(feature = "tonic")]
            failure::Failure::Caused(code) => {
                let verdict = self.verdict(code, None);
                let repeat = verdict.retry_safety().min(RetrySafety::IfIdempotent);
                verdict.retry(repeat)
            }
            failure::Failure::Broken => {
                let verdict = self.verdict(Code::Unavailable, None);
                let repeat = verdict.retry_safety().min(RetrySafety::IfIdempotent);
                verdict.retry(repeat)
            }
        }
    }
}

impl Default for GrpcClassify {
    fn default() -> Self {
        Self::new()
    }
}

/// The code that is final when the head of a response has come; `None` for one that the trailers will say.
fn head_code(status: StatusCode, headers: &HeaderMap, ends_here: bool) -> Option<Code> {
    let declared = Code::from_headers(headers);
    if status != StatusCode::OK {
        return Some(declared.unwrap_or_else(|| Code::from_http(status)));
    }
    let foreign = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|it| !is_grpc(it.as_bytes()));
    (ends_here || foreign).then(|| declared.unwrap_or(Code::Unknown))
}

/// Media types are compared without regard to case (RFC 9110, section 8.3.1).
fn is_grpc(content_type: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let start = content_type.get(..TYPE.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(TYPE))
}

/// Judges how the body of a gRPC response ended. Made by [`GrpcClassify::at_end`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct GrpcClassifyEnd {
    classify: GrpcClassify,
    /// What the head said.
    said: Option<Said>,
    /// Whether the trailers have no say.
    decided: bool,
}

impl ClassifyEnd for GrpcClassifyEnd {
    fn at_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let decided = head_code(status, headers, false);
        self.decided = decided.is_some();
        let said = decided.or_else(|| Code::from_headers(headers));
        self.said = said.map(|code| Said::new(code, headers));
    }

    fn classify_end(self, trailers: Option<&HeaderMap>) -> Option<Verdict> {
        let at_end = trailers.and_then(|it| Code::from_headers(it).map(|code| Said::new(code, it)));
        let said = match (self.decided, at_end) {
            (false, Some(end)) => Some(end),
            // Without trailers the head was all of it, and its status counts.
            _ => self.said,
        };
        Some(
            self.classify
                .judge(said.unwrap_or_else(|| Code::Unknown.into())),
        )
    }
}

impl<B: Body, E: StdError + 'static> Classify<Response<B>, E> for GrpcClassify {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Verdict {
        match result {
            Ok(response) if response.extensions().get::<Refused>().is_some() => Verdict::ignored(),
            Ok(response) => {
                let (headers, ends_here) = (response.headers(), response.body().is_end_stream());
                match head_code(response.status(), headers, ends_here) {
                    Some(code) => self.judge(Said::new(code, headers)),
                    None => Verdict::success(),
                }
            }
            Err(error) => self.classify_error(error),
        }
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl<T> Classify<tonic::Response<T>, tonic::Status> for GrpcClassify {
    /// A typed call that fails is not asked whether it was committed: nothing of it was handed out.
    fn classify(&self, result: Result<&tonic::Response<T>, &tonic::Status>) -> Verdict {
        match result {
            Ok(_) => Verdict::success(),
            Err(status) => self.classify_error(status),
        }
    }
}
