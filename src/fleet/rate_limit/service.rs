use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tower_service::Service;

use super::acquire::FleetRateAcquire;
use super::handle::FleetRateLimit;
use super::reservation::FleetReservation;
use crate::error::{Answer, AsError};
use crate::rate_limit::{Learn, LearnNothing, Limited, OneEach, RequestCost};
use crate::util::accessors::inner_service;

/// A service whose calls each wait for their turn. Made by [`FleetRateLimitLayer`](super::FleetRateLimitLayer).
///
/// A call for which there are leased tokens is made at once, by the instance that is ready. Any other is made by a clone,
/// which is made ready when its turn has come: that is why the inner service has to be `Clone`.
pub struct FleetRateLimitService<S, L, C = OneEach, T = LearnNothing, A = AsError> {
    pub(super) inner: S,
    pub(super) limit: FleetRateLimit,
    pub(super) cost: C,
    pub(super) learn: T,
    pub(super) answer: A,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

impl<S, L, C, T, A> FleetRateLimitService<S, L, C, T, A> {
    /// The limit.
    #[must_use]
    pub fn limit(&self) -> &FleetRateLimit {
        &self.limit
    }

    inner_service!("called no faster than the limit allows");
}

impl<S: Clone, L, C: Clone, T: Clone, A: Clone> Clone for FleetRateLimitService<S, L, C, T, A> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limit: self.limit.clone(),
            cost: self.cost.clone(),
            learn: self.learn.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<S, L, C, T, A, Req> Service<Req> for FleetRateLimitService<S, L, C, T, A>
where
    S: Service<Req> + Clone,
    L: StdError + 'static,
    C: RequestCost<Req>,
    T: Learn<S::Response, L> + Clone,
    A: Answer<S::Response, S::Error, L> + Clone,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = FleetRateLimitFuture<S, Req, L, T, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| self.answer.error(error))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let mut acquire = self.limit.acquire(self.cost.cost(&request));
        let state = match acquire.take_ready() {
            Some(taken) => State::calling(taken, || self.inner.call(request)),
            None => {
                // The readied instance may keep a place that the clone would wait for without end.
                self.inner = self.inner.clone();
                State::Waiting {
                    wait: acquire,
                    next: Some((self.inner.clone(), request)),
                }
            }
        };
        FleetRateLimitFuture {
            state,
            learn: self.learn.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

/// The response of a service whose calls wait for their turn. Dropping it gives up the turn. A call that has been at the service
/// stays counted; one that still waited below, as for a permit of a lock, gives back what it has taken.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct FleetRateLimitFuture<S: Service<Req>, Req, L, T = LearnNothing, A = AsError> {
    #[pin]
    state: State<S, Req, S::Future>,
    learn: T,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

type State<S, Req, F> = Limited<S, Req, F, FleetRateAcquire, FleetReservation>;

impl<S, Req, L, T, A> Future for FleetRateLimitFuture<S, Req, L, T, A>
where
    S: Service<Req>,
    L: StdError + 'static,
    T: Learn<S::Response, L>,
    A: Answer<S::Response, S::Error, L>,
{
    type Output = Result<S::Response, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.state.poll(cx, this.learn, this.answer)
    }
}

impl<S: fmt::Debug, L, C, T, A> fmt::Debug for FleetRateLimitService<S, L, C, T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetRateLimitService")
            .field("inner", &self.inner)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<S: Service<Req>, Req, L, T, A> fmt::Debug for FleetRateLimitFuture<S, Req, L, T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetRateLimitFuture")
            .field("state", &self.state.name())
            .finish_non_exhaustive()
    }
}
