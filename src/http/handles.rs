//! One more method for each handle: its layer, for HTTP.

use super::classify::HttpClassify;
use super::requests::HttpRequests;
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use crate::rate_limit::{LearnNothing, OneEach, PauseBy, RateLimit, RateLimitLayer};
use crate::retry::{RetryLayer, RetryPolicy};

impl RetryPolicy {
    /// A layer that retries HTTP requests by this policy: responses and errors are judged by
    /// [`HttpClassify`], and only requests that may be done twice (or were certainly not done) are sent again.
    ///
    /// For bodies that are `Clone`. Those that stream are sent again with [`replaying`](RetryLayer::replaying).
    #[must_use]
    pub fn http_layer<L>(&self) -> RetryLayer<L, HttpClassify, HttpRequests> {
        self.layer()
            .classify(HttpClassify::new())
            .requests(HttpRequests::new())
    }
}

impl CircuitBreaker {
    /// A layer that guards an HTTP service with this breaker: responses and errors are judged by
    /// [`HttpClassify`].
    #[must_use]
    pub fn http_layer<L>(&self) -> CircuitBreakerLayer<L, HttpClassify> {
        self.layer().classify(HttpClassify::new())
    }
}

impl RateLimit {
    /// A layer that limits an HTTP client: a `429` that says when to come back pauses everybody, for up to `max_pause`.
    ///
    /// What the responses of an API say is left can be believed too:
    /// `limit.http_layer().left_by(|response: &Response<_>| quotas_left(response.headers()))`, with
    /// [`quotas_left`](super::quotas_left).
    #[must_use]
    pub fn http_layer<L>(&self) -> RateLimitLayer<L, OneEach, PauseBy<HttpClassify, LearnNothing>> {
        self.layer().pause_by(HttpClassify::new())
    }
}
