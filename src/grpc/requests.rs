//! What gRPC says in the headers of requests.

use http::{HeaderName, HeaderValue, Request};

use super::timeout::{TIMEOUT, encode_timeout, timeout_in};
use crate::call::deadline::{self, Deadline};
use crate::call::outcome::Idempotency;
use crate::http::MarkedIdempotent;
use crate::retry::{Beside, CopyByClone, CopyRequest, RequestConfig};

const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// What a retry asks of gRPC requests; for [`RetryLayer::requests`](crate::RetryLayer::requests).
///
/// - How they are copied, `R` says. Default: with `Clone`, which the body of a tonic request does not have:
///   give it one that can be sent again with a [`ReplayLayer`](crate::http::ReplayLayer), and take
///   `GrpcRequests::over(CopyReplay)`.
/// - The call has to end when the [`Deadline`] in the request's extensions, or the time in its
///   `grpc-timeout`, is over, whichever comes first, with all attempts and waits: a retry that would begin
///   later is not waited for.
/// - Each attempt carries a `grpc-timeout` of what is left when it begins (of the ambient
///   [deadline](crate::deadline) and of all those), and a `grpc-previous-rpc-attempts` if it is not the
///   first, as [gRFC
///   A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md#exposed-retry-metadata) has it.
///   What another call left in that header is removed.
///
/// - Whether they may be called twice: not, unless it is said ([`idempotent`](Self::idempotent), or a
///   [`MarkedIdempotent`] among the request's extensions). A code that says that nothing was done is retried all
///   the same; an attempt that timed out, or a connection that broke, may have been done.
///
/// If the time is over when an attempt begins, it asks for a nanosecond: its server gives up at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcRequests<R = CopyByClone> {
    rest: R,
    idempotent: bool,
}

impl GrpcRequests {
    /// Copies requests with `Clone`.
    #[must_use]
    pub const fn new() -> Self {
        Self::over(CopyByClone)
    }
}

impl<R> GrpcRequests<R> {
    /// Copies requests as `rest` does, and asks it what else it says of them.
    #[must_use]
    pub const fn over(rest: R) -> Self {
        Self {
            rest,
            idempotent: false,
        }
    }

    /// All methods may be called twice: an attempt that timed out, and a connection that broke, are tried
    /// again too.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
}

impl<B, R: CopyRequest<Request<B>>> CopyRequest<Request<B>> for GrpcRequests<R> {
    fn copy(&self, request: &Request<B>) -> Option<Request<B>> {
        self.rest.copy(request)
    }

    fn claim(&self, copy: &Request<B>) -> bool {
        self.rest.claim(copy)
    }

    fn claim_beside(&self, copy: &Request<B>) -> Beside {
        self.rest.claim_beside(copy)
    }
}

impl<B, R: RequestConfig<Request<B>>> RequestConfig<Request<B>> for GrpcRequests<R> {
    fn max_retries(&self, request: &Request<B>) -> Option<u32> {
        self.rest.max_retries(request)
    }

    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        let said = request.extensions().get::<Deadline>().copied();
        let asked = timeout_in(request.headers()).map(Deadline::after);
        deadline::earlier(self.rest.deadline(request), deadline::earlier(said, asked))
    }

    fn idempotency(&self, request: &Request<B>) -> Idempotency {
        match (request.extensions().get(), self.idempotent) {
            (Some(MarkedIdempotent(false)), _) => Idempotency::Forbidden,
            (None, false) => Idempotency::NotIdempotent,
            (Some(MarkedIdempotent(true)), _) => self.rest.idempotency(request),
            // The method of HTTP is always POST, and says nothing.
            (None, true) => Idempotency::Idempotent,
        }
    }

    fn before_attempt(&self, request: &mut Request<B>, attempt: u32) {
        self.rest.before_attempt(request, attempt);
        let headers = request.headers_mut();
        match attempt {
            0 | 1 => headers.remove(PREVIOUS_ATTEMPTS),
            later => headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(later - 1)),
        };
        let Some(left) = deadline::remaining() else {
            return;
        };
        if timeout_in(headers).is_none_or(|asked| left < asked) {
            let over = HeaderValue::from_static("1n");
            headers.insert(TIMEOUT, encode_timeout(left).unwrap_or(over));
        }
    }
}
