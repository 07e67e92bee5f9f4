use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::RateLimitFuture;
use super::handle::RateLimit;
use super::limit::Limit;
use super::limited::State;
use super::request::{Learn, LearnNothing, OneEach, RequestCost};
use crate::error::{Answer, AsError};
use crate::util::accessors::inner_service;

/// A service whose calls each wait for their turn. Made by [`RateLimitLayer`](super::RateLimitLayer).
///
/// The wait is part of the response future, not of `poll_ready`: it is the request that has a cost. A call whose turn it is
/// is made at once, by the instance that is ready. A call that must wait is made by a clone, which is made ready when its
/// turn has come; while it waits nothing of the inner service is reserved. That is why the inner service has to be `Clone`.
pub struct RateLimitService<S, L, C = OneEach, T = LearnNothing, A = AsError, K = RateLimit> {
    pub(super) inner: S,
    pub(super) limit: K,
    pub(super) cost: C,
    pub(super) learn: T,
    pub(super) answer: A,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

impl<S, L, C, T, A, K> RateLimitService<S, L, C, T, A, K> {
    /// The limit.
    #[must_use]
    pub fn limit(&self) -> &K {
        &self.limit
    }

    inner_service!("called no faster than the limit allows");
}

impl<S: Clone, L, C: Clone, T: Clone, A: Clone, K: Clone> Clone
    for RateLimitService<S, L, C, T, A, K>
{
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

impl<S: fmt::Debug, L, C, T, A, K: fmt::Debug> fmt::Debug for RateLimitService<S, L, C, T, A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService")
            .field("inner", &self.inner)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<S, L, C, T, A, K, Req> Service<Req> for RateLimitService<S, L, C, T, A, K>
where
    S: Service<Req> + Clone,
    L: StdError + 'static,
    C: RequestCost<Req>,
    T: Learn<S::Response, L> + Clone,
    A: Answer<S::Response, S::Error, L> + Clone,
    K: Limit,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = RateLimitFuture<S, Req, L, T, A, K>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| self.answer.error(error))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let state = match self.limit.take(self.cost.cost(&request)) {
            Ok(taken) => State::calling(taken, || self.inner.call(request)),
            Err(wait) => {
                // The readied instance may keep a place that the clone below would wait for without end: it goes, and the
                // place is free while the call waits.
                self.inner = self.inner.clone();
                State::Waiting {
                    wait,
                    next: Some((self.inner.clone(), request)),
                }
            }
        };
        RateLimitFuture {
            state,
            learn: self.learn.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}
