use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use tower_layer::Layer;

use super::cost::Cost;
use super::handle::RateLimit;
use super::limit::Limit;
use super::request::{CostBy, LearnNothing, LeftBy, OneEach, PauseBy, PauseWith, SettleBy};
use super::service::RateLimitService;
use crate::error::{AsError, RejectWith, Rejection};

/// Makes each call of a service wait for its turn at a limit: at a [`RateLimit`], or at one that a fleet shares (`K`).
///
/// `L` is the service's own error, and inferred.
pub struct RateLimitLayer<L, C = OneEach, T = LearnNothing, A = AsError, K = RateLimit> {
    limit: K,
    cost: C,
    learn: T,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

impl RateLimit {
    /// A layer whose calls go by this limit. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> RateLimitLayer<L> {
        RateLimitLayer::new(self.clone())
    }
}

impl<L, K: Limit> RateLimitLayer<L, OneEach, LearnNothing, AsError, K> {
    /// A layer of `limit`.
    #[must_use]
    pub fn new(limit: K) -> Self {
        Self {
            limit,
            cost: OneEach,
            learn: LearnNothing,
            answer: AsError,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, T, A, K> RateLimitLayer<L, C, T, A, K> {
    /// The limit.
    #[must_use]
    pub fn limit(&self) -> &K {
        &self.limit
    }

    /// Takes from the request what it costs, quota by quota: `|ask| [1, estimate(ask)]`. Default: one of each.
    #[must_use]
    pub fn cost<Req, N: Into<Cost>, F: Fn(&Req) -> N>(
        self,
        cost: F,
    ) -> RateLimitLayer<L, CostBy<F>, T, A, K> {
        self.cost_of(CostBy(cost))
    }

    /// Asks this what a request costs.
    #[must_use]
    pub fn cost_of<D>(self, cost: D) -> RateLimitLayer<L, D, T, A, K> {
        RateLimitLayer {
            limit: self.limit,
            cost,
            learn: self.learn,
            answer: self.answer,
            _leaf: PhantomData,
        }
    }

    pub(crate) fn learning<U>(self, learn: impl FnOnce(T) -> U) -> RateLimitLayer<L, C, U, A, K> {
        RateLimitLayer {
            limit: self.limit,
            cost: self.cost,
            learn: learn(self.learn),
            answer: self.answer,
            _leaf: PhantomData,
        }
    }

    /// Learns by this, instead of all that was said so far.
    pub(crate) fn learn_by<U>(self, learn: U) -> RateLimitLayer<L, C, U, A, K> {
        self.learning(|_| learn)
    }

    /// Takes from the response what the call has used in truth: what is left over is given back, and what was used beyond
    /// it is owed: all of it by a limit of this process, up to one burst by one that a fleet shares. `None`: as much as was asked
    /// for. A call that fails has used what it asked for.
    ///
    /// With a limit that a fleet shares each call that has used something else than it asked for is a command to the store, in
    /// the background.
    #[must_use]
    pub fn settle<Res, N, F>(self, used: F) -> RateLimitLayer<L, C, SettleBy<F, T>, A, K>
    where
        N: Into<Cost>,
        F: Fn(&Res) -> Option<N>,
    {
        self.learning(|rest| SettleBy { used, rest })
    }

    /// Lets everybody pause, the whole fleet if it shares the limit, when a result says that there is too much to do, and when to come back: a `429` with
    /// `Retry-After`. `classify` judges results, as for a retry.
    #[must_use]
    pub fn pause_by<D>(self, classify: D) -> RateLimitLayer<L, C, PauseBy<D, T>, A, K> {
        self.learning(|rest| PauseBy { classify, rest })
    }

    /// Lets everybody pause for as long as `pause` says of a result. `None`: not at all.
    #[must_use]
    pub fn pause_with<Res, F>(self, pause: F) -> RateLimitLayer<L, C, PauseWith<F, T>, A, K>
    where
        F: Fn(Result<&Res, &L>) -> Option<Duration>,
    {
        self.learning(|rest| PauseWith { pause, rest })
    }

    /// Takes from the response how much is left of which quota, as the service counts it.
    #[must_use]
    pub fn left_by<Res, N, I, F>(self, left: F) -> RateLimitLayer<L, C, LeftBy<F, T>, A, K>
    where
        N: AsRef<str>,
        I: IntoIterator<Item = (N, u64)>,
        F: Fn(&Res) -> I,
    {
        self.learning(|rest| LeftBy { left, rest })
    }

    /// Answers a call that is refused with a response instead of an error: the error type of the service stays what it is.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> RateLimitLayer<L, C, T, RejectWith<F>, K> {
        RateLimitLayer {
            limit: self.limit,
            cost: self.cost,
            learn: self.learn,
            answer: RejectWith(respond),
            _leaf: PhantomData,
        }
    }
}

impl<L, C: Clone, T: Clone, A: Clone, K: Clone> Clone for RateLimitLayer<L, C, T, A, K> {
    fn clone(&self) -> Self {
        Self {
            limit: self.limit.clone(),
            cost: self.cost.clone(),
            learn: self.learn.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, C, T, A, K: fmt::Debug> fmt::Debug for RateLimitLayer<L, C, T, A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<S, L, C: Clone, T: Clone, A: Clone, K: Clone> Layer<S> for RateLimitLayer<L, C, T, A, K> {
    type Service = RateLimitService<S, L, C, T, A, K>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitService {
            inner,
            limit: self.limit.clone(),
            cost: self.cost.clone(),
            learn: self.learn.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}
