//! One more method for each handle: its layer, for gRPC.

use super::classify::{GrpcClassify, GrpcClassifyEnd};
use super::requests::GrpcRequests;
use crate::circuit_breaker::CircuitBreaker;
use crate::error::AsError;
use crate::http::{CircuitBreakerBodyLayer, CopyReplay, ReplayLayer};
use crate::retry::{RetryLayer, RetryPolicy};
use tower_layer::Stack;

impl RetryPolicy {
    /// A layer that retries gRPC calls by this policy: codes and errors are judged by [`GrpcClassify`], deadlines and
    /// headers are those of [`GrpcRequests`].
    ///
    /// For bodies that are `Clone`. Those that stream, as tonic's do, are sent again with
    /// [`replaying`](RetryLayer::replaying).
    #[must_use]
    pub fn grpc_layer<L>(&self) -> RetryLayer<L, GrpcClassify, GrpcRequests> {
        self.layer()
            .classify(GrpcClassify::new())
            .requests(GrpcRequests::new())
    }
}

impl<L> RetryLayer<L, GrpcClassify, GrpcRequests> {
    /// For requests whose bodies stream: a [`ReplayLayer`] around this one, which copies by [`CopyReplay`]. The service
    /// below is given requests with a [`ReplayBody`](crate::http::ReplayBody).
    #[must_use]
    pub fn replaying(
        self,
    ) -> Stack<RetryLayer<L, GrpcClassify, GrpcRequests<CopyReplay>>, ReplayLayer> {
        let retry = self.requests(GrpcRequests::over(CopyReplay));
        Stack::new(retry, ReplayLayer::new())
    }
}

impl CircuitBreaker {
    /// A layer that guards a gRPC service with this breaker: calls are judged by [`GrpcClassify`], to the end of their
    /// trailers.
    #[must_use]
    pub fn grpc_layer<L>(
        &self,
    ) -> CircuitBreakerBodyLayer<L, GrpcClassify, AsError, GrpcClassifyEnd> {
        let classify = GrpcClassify::new();
        self.layer()
            .classify(classify)
            .until_body_end()
            .classify_end(classify.at_end())
    }
}
