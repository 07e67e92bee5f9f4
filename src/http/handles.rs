//! One more method for each handle: its layer, for HTTP.

use super::classify::HttpClassify;
use super::replay::{CopyReplay, ReplayLayer};
use super::requests::HttpRequests;
use super::timeout::HttpTimeoutLayer;
use std::sync::Arc;

use ::http::{Request, Response};
use tower_layer::Stack;

use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use crate::fallback::{Fallback, FallbackLayer};
#[cfg(feature = "redis")]
use crate::fleet::{FleetRateLimit, rate_limit::FleetRateLimitLayer};
use crate::hedge::{Hedge, HedgeLayer, MarkAnswer};
use crate::rate_limit::{LearnNothing, OneEach, PauseBy, RateLimit, RateLimitLayer};
use crate::retry::{RetryLayer, RetryPolicy};
use crate::throttle::{Throttle, ThrottleLayer};
use crate::timeout::Timeouts;

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

#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
impl FleetRateLimit {
    /// As [`http_layer`](RateLimit::http_layer) of a local limit: a `429` that says when to come back pauses the whole fleet, for up to
    /// `max_pause`.
    #[must_use]
    pub fn http_layer<L>(
        &self,
    ) -> FleetRateLimitLayer<L, OneEach, PauseBy<HttpClassify, LearnNothing>> {
        self.layer().pause_by(HttpClassify::new())
    }
}

impl Throttle {
    /// A layer that throttles an HTTP client: responses and errors are judged by [`HttpClassify`]. A `429` is not accepted, nor
    /// is a `500`, unless [`only_overload`](crate::throttle::ThrottleBuilder::only_overload) says so; a `404` is.
    #[must_use]
    pub fn http_layer<L>(&self) -> ThrottleLayer<L, HttpClassify> {
        self.layer().classify(HttpClassify::new())
    }
}

impl Timeouts {
    /// A layer with all phases of these timeouts, those of a body too: for responses of `http`, and with the feature
    /// `reqwest` for its own.
    ///
    /// [`total`](crate::timeout::TimeoutsBuilder::total) goes on to the end of the body.
    #[must_use]
    pub fn http_layer<L>(&self) -> HttpTimeoutLayer<L> {
        HttpTimeoutLayer::new(self.layer())
    }
}

/// Which target of a [`Fallback`] has answered: an extension of the responses of its [`http_layer`](Fallback::http_layer).
/// Those of the service itself have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredBy(pub Arc<str>);

impl Fallback {
    /// A layer for HTTP: responses and errors are judged by [`HttpClassify`], so that a `503` or a `429` is no answer, and a
    /// response carries [`AnsweredBy`].
    ///
    /// For bodies that are `Clone`; others with [`ReplayLayer`](super::ReplayLayer) and
    /// `requests(`[`CopyReplay`](super::CopyReplay)`)`. A body that breaks off after its head is the caller's: nobody else is
    /// asked then.
    #[must_use]
    pub fn http_layer<B, A, L>(&self) -> FallbackLayer<Request<B>, Response<A>, L, HttpClassify> {
        self.layer()
            .classify(HttpClassify::new())
            .mark(|response: &mut Response<A>, target| {
                let by = AnsweredBy(target.into());
                response.extensions_mut().insert(by);
            })
    }
}

/// Which attempt of a hedged call has answered, from 2: an extension of the responses of its
/// [`http_layer`](Hedge::http_layer). Those of the first attempt have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgedAttempt(pub u32);

/// Marks responses with [`HedgedAttempt`].
#[derive(Clone, Copy, Debug, Default)]
pub struct MarkAttempt;

impl<B> MarkAnswer<Response<B>> for MarkAttempt {
    fn mark(&self, response: &mut Response<B>, attempt: u32) {
        response.extensions_mut().insert(HedgedAttempt(attempt));
    }
}

impl Hedge {
    /// A layer that hedges HTTP requests by these rules: responses and errors are judged by [`HttpClassify`], only
    /// requests that may be done twice are hedged, and the response of a hedge carries [`HedgedAttempt`].
    ///
    /// For bodies that are `Clone`. Those that stream are hedged with [`replaying`](HedgeLayer::replaying).
    #[must_use]
    pub fn http_layer<L>(&self) -> HedgeLayer<L, HttpClassify, HttpRequests, MarkAttempt> {
        self.layer()
            .classify(HttpClassify::new())
            .requests(HttpRequests::new())
            .marked_by(MarkAttempt)
    }
}

impl<L> HedgeLayer<L, HttpClassify, HttpRequests, MarkAttempt> {
    /// For requests whose bodies stream: a [`ReplayLayer`] around this one, which copies by [`CopyReplay`]. A request is
    /// hedged once its body has been sent to its end. The service below is given requests with a
    /// [`ReplayBody`](super::ReplayBody).
    ///
    /// Inside a retry that is [`replaying`](crate::RetryLayer::replaying) one `ReplayLayer` is enough: take
    /// `requests(HttpRequests::new().copied_by(CopyReplay))`.
    #[must_use]
    pub fn replaying(
        self,
    ) -> Stack<HedgeLayer<L, HttpClassify, HttpRequests<CopyReplay>, MarkAttempt>, ReplayLayer>
    {
        let hedge = self.requests(HttpRequests::new().copied_by(CopyReplay));
        Stack::new(hedge, ReplayLayer::new())
    }
}
