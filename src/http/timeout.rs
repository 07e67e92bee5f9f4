//! Timeouts that go on to the end of a body.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "reqwest")]
use super::guarded_body::into_http;
use super::idle::{BodyError, IdleTimeoutBody};
use crate::error::{Answer, AsError, BoxError, RejectWith, Rejection, TimeoutPhase};
use crate::keyed::Idle;
use crate::registry::explain::{Describe, LayerDescription};
use crate::timeout::{BodyTimeouts, TimeoutFuture, TimeoutLayer, TimeoutService, Timeouts};

/// A [`TimeoutLayer`] that goes on to the end of the body of each response: with the phases `first_frame`, `idle`, and what
/// `total` leaves. Made by [`Timeouts::http_layer`](crate::Timeouts::http_layer).
///
/// For responses of `http`, whose bodies are then each a [`TimeoutBody`], and with the feature `reqwest` for its responses,
/// which stay what they are.
pub struct HttpTimeoutLayer<L, A = AsError> {
    layer: TimeoutLayer<L, A>,
}

impl<L> HttpTimeoutLayer<L> {
    pub(super) fn new(layer: TimeoutLayer<L>) -> Self {
        Self { layer }
    }
}

impl<L, A> HttpTimeoutLayer<L, A> {
    /// The timeouts.
    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        self.layer.timeouts()
    }

    /// See [`TimeoutLayer::only_total`].
    #[must_use]
    pub fn only_total(self) -> Self {
        Self {
            layer: self.layer.only_total(),
        }
    }

    /// See [`TimeoutLayer::without_total`].
    #[must_use]
    pub fn without_total(self) -> Self {
        Self {
            layer: self.layer.without_total(),
        }
    }

    /// See [`TimeoutLayer::reject_with`]. A body that takes too long ends with an error all the same: its head has been sent.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> HttpTimeoutLayer<L, RejectWith<F>> {
        HttpTimeoutLayer {
            layer: self.layer.reject_with(respond),
        }
    }
}

impl<L, A: Clone> Clone for HttpTimeoutLayer<L, A> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
        }
    }
}

impl<L, A> fmt::Debug for HttpTimeoutLayer<L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpTimeoutLayer")
            .field(&self.layer)
            .finish()
    }
}

impl<L, A> Describe for HttpTimeoutLayer<L, A> {
    fn describe(&self) -> LayerDescription {
        self.layer.describe()
    }
}

impl<L, A> Idle for HttpTimeoutLayer<L, A> {
    fn is_idle(&self) -> bool {
        self.layer.is_idle()
    }
}

impl<S, L, A: Clone> Layer<S> for HttpTimeoutLayer<L, A> {
    type Service = HttpTimeoutService<S, L, A>;

    fn layer(&self, inner: S) -> Self::Service {
        HttpTimeoutService {
            service: self.layer.layer(inner),
        }
    }
}

/// A service whose responses may take only so long, to the end of their bodies. Made by [`HttpTimeoutLayer`].
pub struct HttpTimeoutService<S, L, A = AsError> {
    service: TimeoutService<S, L, A>,
}

impl<S, L, A> HttpTimeoutService<S, L, A> {
    /// The timeouts.
    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        self.service.timeouts()
    }

    /// The service that is given only so long.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        self.service.get_ref()
    }

    /// The service that is given only so long, to change it.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut S {
        self.service.get_mut()
    }

    /// The service that was given only so long, as it is.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.service.into_inner()
    }
}

impl<S: Clone, L, A: Clone> Clone for HttpTimeoutService<S, L, A> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
        }
    }
}

impl<S: fmt::Debug, L, A> fmt::Debug for HttpTimeoutService<S, L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpTimeoutService")
            .field(&self.service)
            .finish()
    }
}

impl<S, L, A, Req> Service<Req> for HttpTimeoutService<S, L, A>
where
    S: Service<Req>,
    S::Response: TimedResponse,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L> + Clone,
{
    type Response = <S::Response as TimedResponse>::Timed;
    type Error = A::Error;
    type Future = HttpTimeoutFuture<S::Future, L, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Req>::poll_ready(&mut self.service, cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        HttpTimeoutFuture {
            call: self.service.call(request),
        }
    }
}

/// The response of a service whose calls, to the end of their bodies, may take only so long. Dropping it drops the call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct HttpTimeoutFuture<F, L, A = AsError> {
    #[pin]
    call: TimeoutFuture<F, L, A>,
}

impl<F, Res, E, L, A> Future for HttpTimeoutFuture<F, L, A>
where
    F: Future<Output = Result<Res, E>>,
    Res: TimedResponse,
    L: StdError + 'static,
    A: Answer<Res, E, L>,
{
    type Output = Result<Res::Timed, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let response = ready!(this.call.as_mut().poll(cx))?;
        let left = this.call.left_for_body();
        Poll::Ready(Ok(response.time_body(left)))
    }
}

impl<F, L, A> fmt::Debug for HttpTimeoutFuture<F, L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpTimeoutFuture")
            .field(&self.call)
            .finish()
    }
}

/// A body that ends with [`BodyError::TimedOut`] when it takes longer than the [`Timeouts`] of its call allow.
///
/// A frame is waited for from the moment that somebody begins to: a reader that takes its time is not the sender's fault. (The
/// end of `total` ends the body whoever was slow.) With the error the body inside is dropped, and so its connection; permits
/// that are held inside learn whose fault it was.
#[pin_project]
pub struct TimeoutBody<B> {
    #[pin]
    body: IdleTimeoutBody<B>,
    timeouts: Option<BodyTimeouts>,
    has_begun: bool,
}

impl<B> TimeoutBody<B> {
    fn new(body: B, timeouts: Option<BodyTimeouts>) -> Self {
        let first_frame = timeouts.as_ref().and_then(BodyTimeouts::first_frame);
        let ends = timeouts.as_ref().and_then(BodyTimeouts::ends);
        Self {
            body: IdleTimeoutBody::within(body, first_frame, ends),
            timeouts,
            has_begun: false,
        }
    }
}

impl<B> Body for TimeoutBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BodyError>>> {
        let mut this = self.project();
        let polled = ready!(this.body.as_mut().poll_frame(cx));
        let Some(timeouts) = this.timeouts else {
            return Poll::Ready(polled);
        };
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                if !std::mem::replace(this.has_begun, true) {
                    this.body.set_idle(timeouts.idle());
                }
                Some(Ok(frame))
            }
            // A body inside that has limits of its own says so itself.
            Some(Err(error)) if !this.body.has_given_up() => Some(Err(error)),
            Some(Err(BodyError::Idle(limit))) => {
                let phase = match this.has_begun {
                    false => TimeoutPhase::FirstFrame,
                    true => TimeoutPhase::Idle,
                };
                Some(Err(BodyError::TimedOut(timeouts.silent(phase, limit))))
            }
            Some(Err(BodyError::DeadlineExceeded)) => {
                Some(Err(BodyError::TimedOut(timeouts.over())))
            }
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of our own making, which nothing bounds: what a layer that refuses answers with.
impl<B: From<String>> From<String> for TimeoutBody<B> {
    fn from(text: String) -> Self {
        Self::new(B::from(text), None)
    }
}

/// An empty body, which nothing bounds.
impl<B: Default> Default for TimeoutBody<B> {
    fn default() -> Self {
        Self::new(B::default(), None)
    }
}

impl<B> fmt::Debug for TimeoutBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutBody")
            .field("body", &self.body)
            .field("has_begun", &self.has_begun)
            .finish_non_exhaustive()
    }
}

/// A response whose body can be given only so long.
#[diagnostic::on_unimplemented(
    message = "the body of `{Self}` cannot be given only so long",
    note = "`http_layer` of timeouts is for `http::Response<B>`, and, with the feature `reqwest`, for `reqwest::Response`; for anything else there is `layer`"
)]
pub trait TimedResponse {
    /// The response with such a body.
    type Timed;

    #[doc(hidden)]
    fn time_body(self, timeouts: Option<BodyTimeouts>) -> Self::Timed;
}

impl<B> TimedResponse for Response<B> {
    type Timed = Response<TimeoutBody<B>>;

    fn time_body(self, timeouts: Option<BodyTimeouts>) -> Self::Timed {
        self.map(|body| TimeoutBody::new(body, timeouts))
    }
}

#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
impl TimedResponse for reqwest::Response {
    type Timed = Self;

    fn time_body(self, timeouts: Option<BodyTimeouts>) -> Self {
        if timeouts.is_none() {
            return self;
        }
        let (parts, body) = into_http(self).into_parts();
        let body = reqwest::Body::wrap(TimeoutBody::new(body, timeouts));
        Self::from(Response::from_parts(parts, body))
    }
}
