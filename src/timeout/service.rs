use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep_until};
use tower_service::Service;

use super::config::Part;
use super::future::TimeoutFuture;
use super::handle::Timeouts;
use crate::error::{Answer, AsError};
use crate::util::accessors::inner_service;
use crate::util::time::{self, Tick};

/// A service whose calls may take only so long. Made by [`TimeoutLayer`](super::TimeoutLayer).
///
/// A service that is not ready in time does not make `poll_ready` fail: it is ready then, and the call that follows is
/// refused. Whoever keeps services that are ready (a balancer) would take it for a good one: put the layer around that.
pub struct TimeoutService<S, L, A = AsError> {
    pub(super) inner: S,
    pub(super) timeouts: Timeouts,
    pub(super) part: Part,
    pub(super) answer: A,
    pub(super) readiness: Readiness,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

impl<S, L, A> TimeoutService<S, L, A> {
    /// The timeouts.
    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    inner_service!("given only so long");
}

impl<S: Clone, L, A: Clone> Clone for TimeoutService<S, L, A> {
    /// The clone starts anew: readiness is not inherited.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            timeouts: self.timeouts.clone(),
            part: self.part,
            answer: self.answer.clone(),
            readiness: Readiness::default(),
            _leaf: PhantomData,
        }
    }
}

impl<S: fmt::Debug, L, A> fmt::Debug for TimeoutService<S, L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutService")
            .field("inner", &self.inner)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl<S, L, A, Req> Service<Req> for TimeoutService<S, L, A>
where
    S: Service<Req>,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L> + Clone,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = TimeoutFuture<S::Future, L, A>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self.inner.poll_ready(cx) {
            Poll::Ready(result) => {
                self.readiness.is_there();
                Poll::Ready(result.map_err(|error| self.answer.error(error)))
            }
            Poll::Pending => {
                let limit = self.timeouts.shared.ready_limit(self.part);
                self.readiness.poll_late(limit, cx).map(Ok)
            }
        }
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let shared = &self.timeouts.shared;
        match self.readiness.take_late() {
            None => {
                let call = || self.inner.call(request);
                TimeoutFuture::begin(shared.mine(), self.part, call, self.answer.clone())
            }
            Some(late) => {
                let late = shared.not_ready(late.limit, late.after);
                TimeoutFuture::refused(shared.mine(), self.part, late, self.answer.clone())
            }
        }
    }
}

/// How long the service below has not been ready.
#[derive(Default)]
pub(super) struct Readiness {
    /// Made by the first `poll_ready` that is pending.
    waiting: Option<Waiting>,
    /// It was not ready in time: the call that follows is refused.
    late: Option<Late>,
}

struct Waiting {
    since: Tick,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Waiting {
    fn from_now(limit: Duration) -> Self {
        let since = time::now();
        let timer = Box::pin(sleep_until(since.after(limit).to_instant()));
        Self {
            since,
            limit,
            timer,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Late {
    limit: Duration,
    after: Duration,
}

impl Readiness {
    #[inline]
    fn is_there(&mut self) {
        if self.waiting.is_some() || self.late.is_some() {
            *self = Self::default();
        }
    }

    #[inline]
    fn take_late(&mut self) -> Option<Late> {
        match self.late {
            None => None,
            Some(_) => self.late.take(),
        }
    }

    /// Ready when the service has had its time.
    #[cold]
    fn poll_late(&mut self, limit: Option<Duration>, cx: &mut Context<'_>) -> Poll<()> {
        if self.late.is_some() {
            return Poll::Ready(());
        }
        let waiting = match (&mut self.waiting, limit) {
            // A wait that has begun ends as it would have, whatever the limit is now.
            (Some(waiting), _) => waiting,
            (None, None) => return Poll::Pending,
            (none, Some(limit)) => none.insert(Waiting::from_now(limit)),
        };
        ready!(time::poll_timer(waiting.timer.as_mut(), cx));
        let (limit, after) = (waiting.limit, time::now().since(waiting.since));
        self.waiting = None;
        self.late = Some(Late { limit, after });
        Poll::Ready(())
    }
}
