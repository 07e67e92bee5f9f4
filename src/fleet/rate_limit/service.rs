use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::acquire::FleetRateAcquire;
use super::handle::FleetRateLimit;
use super::reservation::FleetReservation;
use crate::call::outcome::{Classify, Outcome, Verdict};
use crate::error::{Answer, AsError, RejectWith, Rejection};
use crate::rate_limit::{Cost, CostBy, OneEach, RequestCost};
use crate::util::accessors::inner_service;

/// Makes each call of a service wait for its turn at a [`FleetRateLimit`].
pub struct FleetRateLimitLayer<L, C = OneEach, A = AsError> {
    limit: FleetRateLimit,
    cost: C,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

impl FleetRateLimit {
    /// A layer whose calls go by this limit. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> FleetRateLimitLayer<L> {
        FleetRateLimitLayer {
            limit: self.clone(),
            cost: OneEach,
            answer: AsError,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, A> FleetRateLimitLayer<L, C, A> {
    /// Takes from the request what it costs, quota by quota: `|ask| [1, estimate(ask)]`. Default: one of each.
    #[must_use]
    pub fn cost<Req, N: Into<Cost>, F: Fn(&Req) -> N>(
        self,
        cost: F,
    ) -> FleetRateLimitLayer<L, CostBy<F>, A> {
        FleetRateLimitLayer {
            limit: self.limit,
            cost: CostBy(cost),
            answer: self.answer,
            _leaf: PhantomData,
        }
    }

    /// Answers a call that is refused with a response instead of an error: the error type of the service stays what it is.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> FleetRateLimitLayer<L, C, RejectWith<F>> {
        FleetRateLimitLayer {
            limit: self.limit,
            cost: self.cost,
            answer: RejectWith(respond),
            _leaf: PhantomData,
        }
    }
}

impl<L, C: Clone, A: Clone> Clone for FleetRateLimitLayer<L, C, A> {
    fn clone(&self) -> Self {
        Self {
            limit: self.limit.clone(),
            cost: self.cost.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<S, L, C: Clone, A: Clone> Layer<S> for FleetRateLimitLayer<L, C, A> {
    type Service = FleetRateLimitService<S, L, C, A>;

    fn layer(&self, inner: S) -> Self::Service {
        FleetRateLimitService {
            inner,
            limit: self.limit.clone(),
            cost: self.cost.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

/// A service whose calls each wait for their turn. Made by [`FleetRateLimitLayer`].
///
/// A call for which there are leased tokens is made at once, by the instance that is ready. Any other is made by a clone,
/// which is made ready when its turn has come: that is why the inner service has to be `Clone`.
pub struct FleetRateLimitService<S, L, C = OneEach, A = AsError> {
    inner: S,
    limit: FleetRateLimit,
    cost: C,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

impl<S, L, C, A> FleetRateLimitService<S, L, C, A> {
    /// The limit.
    #[must_use]
    pub fn limit(&self) -> &FleetRateLimit {
        &self.limit
    }

    inner_service!("called no faster than the limit allows");
}

impl<S: Clone, L, C: Clone, A: Clone> Clone for FleetRateLimitService<S, L, C, A> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limit: self.limit.clone(),
            cost: self.cost.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<S, L, C, A, Req> Service<Req> for FleetRateLimitService<S, L, C, A>
where
    S: Service<Req> + Clone,
    L: StdError + 'static,
    C: RequestCost<Req>,
    A: Answer<S::Response, S::Error, L> + Clone,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = FleetRateLimitFuture<S, Req, L, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| self.answer.error(error))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let mut acquire = self.limit.acquire(self.cost.cost(&request));
        let state = match acquire.take_ready() {
            Some(reserved) => State::Calling {
                call: self.inner.call(request),
                reserved: Some(reserved),
            },
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
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

/// The response of a service whose calls wait for their turn. Dropping it gives up the turn; a call that was made stays
/// counted.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct FleetRateLimitFuture<S: Service<Req>, Req, L, A = AsError> {
    #[pin]
    state: State<S, Req, S::Future>,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
enum State<S, Req, F> {
    Waiting {
        #[pin]
        wait: FleetRateAcquire,
        next: Option<(S, Req)>,
    },
    /// The clone is made ready for the call that follows.
    Readying {
        next: Option<(S, Req)>,
        reserved: Option<FleetReservation>,
    },
    Calling {
        #[pin]
        call: F,
        reserved: Option<FleetReservation>,
    },
}

/// Tells a refusal of a layer below from all results of the service.
struct IsRefusal;

impl<Res, L> Classify<Res, L> for IsRefusal {
    fn classify(&self, _: Result<&Res, &L>) -> Verdict {
        Verdict::success()
    }
}

impl<S, Req, L, A> Future for FleetRateLimitFuture<S, Req, L, A>
where
    S: Service<Req>,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L>,
{
    type Output = Result<S::Response, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { wait, next } => match ready!(wait.poll(cx)) {
                    Ok(reserved) => {
                        let (next, reserved) = (next.take(), Some(reserved));
                        this.state.set(State::Readying { next, reserved });
                    }
                    Err(limited) => {
                        *next = None;
                        return Poll::Ready(this.answer.refuse(limited.into()));
                    }
                },
                StateProj::Readying { next, reserved } => {
                    let Some((service, _)) = next else {
                        polled_too_often()
                    };
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        *next = None;
                        // It was not called.
                        reserved
                            .take()
                            .into_iter()
                            .for_each(FleetReservation::cancel);
                        return Poll::Ready(Err(this.answer.error(error)));
                    }
                    if let Some((mut service, request)) = next.take() {
                        let reserved = reserved.take();
                        let call = service.call(request);
                        this.state.set(State::Calling { call, reserved });
                    }
                }
                StateProj::Calling { call, reserved } => {
                    let result = ready!(call.poll(cx));
                    let result = result.map_err(|error| this.answer.error(error));
                    if this.answer.judge(&result, &IsRefusal).outcome == Outcome::Ignored {
                        reserved
                            .take()
                            .into_iter()
                            .for_each(FleetReservation::cancel);
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}

#[cold]
fn polled_too_often() -> ! {
    panic!("`FleetRateLimitFuture` polled after completion")
}

impl<L, C, A> fmt::Debug for FleetRateLimitLayer<L, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetRateLimitLayer")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, L, C, A> fmt::Debug for FleetRateLimitService<S, L, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetRateLimitService")
            .field("inner", &self.inner)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<S: Service<Req>, Req, L, A> fmt::Debug for FleetRateLimitFuture<S, Req, L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Waiting { .. } => "waiting",
            State::Readying { .. } => "readying",
            State::Calling { .. } => "calling",
        };
        f.debug_struct("FleetRateLimitFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
