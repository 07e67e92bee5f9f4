//! One more method for each handle: its layer, for gRPC.

use super::classify::{GrpcClassify, GrpcClassifyEnd};
use super::requests::GrpcRequests;
use crate::circuit_breaker::CircuitBreaker;
use crate::error::AsError;
use crate::http::{CircuitBreakerBodyLayer, CopyReplay, HttpStackLayer, ReplayLayer};
use crate::retry::{RetryLayer, RetryPolicy};
use crate::stack::Stack;
use crate::throttle::{Throttle, ThrottleLayer};
use tower_layer::Stack as Layered;

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
    ) -> Layered<RetryLayer<L, GrpcClassify, GrpcRequests<CopyReplay>>, ReplayLayer> {
        let retry = self.requests(GrpcRequests::over(CopyReplay));
        Layered::new(retry, ReplayLayer::new())
    }
}

impl Throttle {
    /// A layer that throttles a gRPC client: calls are judged by [`GrpcClassify`], by the head of their responses.
    #[must_use]
    pub fn grpc_layer<L>(&self) -> ThrottleLayer<L, GrpcClassify> {
        self.layer().classify(GrpcClassify::new())
    }
}

impl Stack {
    /// A layer with all parts, for a gRPC service: calls are judged by [`GrpcClassify`], to the end of their trailers, and
    /// deadlines and headers are those of [`GrpcRequests`]. A permit is held as long.
    ///
    /// Only a status that says that nothing was done is tried again, `UNAVAILABLE` for one. Where every method may be done
    /// twice, say `requests(GrpcRequests::over(CopyReplay).idempotent())`; a hedge hedges only then.
    ///
    /// The service below is given requests with a [`ReplayBody`](crate::http::ReplayBody), of which up to 64 KiB are kept to be
    /// sent again: for a channel of tonic, `.map_request(|it: Request<ReplayBody<_>>| it.map(tonic::body::Body::new))` goes
    /// between.
    #[must_use]
    pub fn grpc_layer<L>(
        &self,
    ) -> HttpStackLayer<L, GrpcClassify, GrpcClassifyEnd, GrpcRequests<CopyReplay>> {
        let classify = GrpcClassify::new();
        let requests = GrpcRequests::over(CopyReplay);
        HttpStackLayer::new(self.clone(), classify, classify.at_end(), requests)
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
