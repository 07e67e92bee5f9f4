//! One more method for each handle: its layer, for HTTP.

use super::classify::HttpClassify;
use super::requests::HttpRequests;
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
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
