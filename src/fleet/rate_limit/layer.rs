use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use tower_layer::Layer;

use super::handle::FleetRateLimit;
use super::service::FleetRateLimitService;
use crate::error::{AsError, RejectWith, Rejection};
use crate::rate_limit::{
    Cost, CostBy, LearnNothing, LeftBy, OneEach, PauseBy, PauseWith, SettleBy,
};

/// Makes each call of a service wait for its turn at a [`FleetRateLimit`].
///
/// `L` is the service's own error, and inferred.
pub struct FleetRateLimitLayer<L, C = OneEach, T = LearnNothing, A = AsError> {
    limit: FleetRateLimit,
    cost: C,
    learn: T,
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
            learn: LearnNothing,
            answer: AsError,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, T, A> FleetRateLimitLayer<L, C, T, A> {
    /// The limit.
    #[must_use]
    pub fn limit(&self) -> &FleetRateLimit {
        &self.limit
    }

    /// Takes from the request what it costs, quota by quota: `|ask| [1, estimate(ask)]`. Default: one of each.
    #[must_use]
    pub fn cost<Req, N: Into<Cost>, F: Fn(&Req) -> N>(
        self,
        cost: F,
    ) -> FleetRateLimitLayer<L, CostBy<F>, T, A> {
        self.cost_of(CostBy(cost))
    }

    /// Asks this what a request costs.
    #[must_use]
    pub fn cost_of<D>(self, cost: D) -> FleetRateLimitLayer<L, D, T, A> {
        FleetRateLimitLayer {
            limit: self.limit,
            cost,
            learn: self.learn,
            answer: self.answer,
            _leaf: PhantomData,
        }
    }

    pub(crate) fn learning<U>(self, learn: impl FnOnce(T) -> U) -> FleetRateLimitLayer<L, C, U, A> {
        FleetRateLimitLayer {
            limit: self.limit,
            cost: self.cost,
            learn: learn(self.learn),
            answer: self.answer,
            _leaf: PhantomData,
        }
    }

    /// Takes from the response what the call has used in truth: what is left over is given back, and what was used beyond
    /// it is owed, up to one burst. `None`: as much as was asked for. A call that fails has used what it asked for.
    ///
    /// The store is told in the background: a command for each call that has used something else than it asked for.
    #[must_use]
    pub fn settle<Res, N, F>(self, used: F) -> FleetRateLimitLayer<L, C, SettleBy<F, T>, A>
    where
        N: Into<Cost>,
        F: Fn(&Res) -> Option<N>,
    {
        self.learning(|rest| SettleBy { used, rest })
    }

    /// Lets the whole fleet [pause](FleetRateLimit::pause) when a result says that there is too much to do, and when to come
    /// back: a `429` with `Retry-After`. `classify` judges results, as for a retry.
    #[must_use]
    pub fn pause_by<D>(self, classify: D) -> FleetRateLimitLayer<L, C, PauseBy<D, T>, A> {
        self.learning(|rest| PauseBy { classify, rest })
    }

    /// Lets the whole fleet [pause](FleetRateLimit::pause) for as long as `pause` says of a result. `None`: not at all.
    #[must_use]
    pub fn pause_with<Res, F>(self, pause: F) -> FleetRateLimitLayer<L, C, PauseWith<F, T>, A>
    where
        F: Fn(Result<&Res, &L>) -> Option<Duration>,
    {
        self.learning(|rest| PauseWith { pause, rest })
    }

    /// Takes from the response [how much is left](FleetRateLimit::left) of which quota, as the service counts it.
    #[must_use]
    pub fn left_by<Res, N, I, F>(self, left: F) -> FleetRateLimitLayer<L, C, LeftBy<F, T>, A>
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
    ) -> FleetRateLimitLayer<L, C, T, RejectWith<F>> {
        FleetRateLimitLayer {
            limit: self.limit,
            cost: self.cost,
            learn: self.learn,
            answer: RejectWith(respond),
            _leaf: PhantomData,
        }
    }
}

impl<L, C: Clone, T: Clone, A: Clone> Clone for FleetRateLimitLayer<L, C, T, A> {
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

impl<S, L, C: Clone, T: Clone, A: Clone> Layer<S> for FleetRateLimitLayer<L, C, T, A> {
    type Service = FleetRateLimitService<S, L, C, T, A>;

    fn layer(&self, inner: S) -> Self::Service {
        FleetRateLimitService {
            inner,
            limit: self.limit.clone(),
            cost: self.cost.clone(),
            learn: self.learn.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, C, T, A> fmt::Debug for FleetRateLimitLayer<L, C, T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetRateLimitLayer")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
