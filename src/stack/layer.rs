use std::fmt;
use std::marker::PhantomData;

use tower_layer::Layer;

use super::handle::Stack;
use crate::call::outcome::{
    ClassifyFn, ErrorsAreFailures, FailureIf, Idempotency, ResponseFailureIf, Verdict,
};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerService};
use crate::contention::ContentionService;
use crate::hedge::HedgeService;
use crate::keyed::Idle;
use crate::rate_limit::{Cost, CostBy, LearnNothing, OneEach, PauseBy, RateLimitService, SettleBy};
use crate::registry::explain::Explanation;
use crate::retry::{CopyByClone, CopyWith, IdempotencyWith, RetryPolicy, RetryService};
use crate::timeout::{TimeoutService, Timeouts};
use crate::util::either::Either;

/// The service inside of the rate limit: behind a lock, or behind none, and given only so long.
type Locked<S, L> = Either<ContentionService<TimeoutService<S, L>, L>, TimeoutService<S, L>>;

/// Behind a rate limit, or behind none.
type Limited<S, L, K, T> = Either<RateLimitService<Locked<S, L>, L, K, T>, Locked<S, L>>;

/// Guarded. A breaker that was left out lets every call through.
type Guarded<S, L, C, K, T> = CircuitBreakerService<Limited<S, L, K, T>, L, C>;

/// With hedges, or without.
type Hedged<S, L, C, R, K, T> =
    Either<HedgeService<Guarded<S, L, C, K, T>, L, C, R>, Guarded<S, L, C, K, T>>;

/// What a [`StackLayer`] makes of a service `S`: the services of the parts, one around the other.
///
/// A retry, a breaker or a timeout that was left out is there, and lets every call through as it is.
pub type StackService<S, L, C, R, K, T> =
    TimeoutService<RetryService<Hedged<S, L, C, R, K, T>, L, C, R>, L>;

/// All parts of a [`Stack`] around a service. Made by [`Stack::layer`].
///
/// `L` is the service's own error, and inferred. `C` judges results for the retry, the hedge and the breaker, `R` copies
/// requests for the retry and the hedge; `K` says what a request costs of the rate limit, and `T` what it learns of results.
pub struct StackLayer<L, C = ErrorsAreFailures, R = CopyByClone, K = OneEach, T = LearnNothing> {
    stack: Stack,
    classify: C,
    requests: R,
    cost: K,
    learn: T,
    _leaf: PhantomData<fn() -> L>,
}

impl Stack {
    /// A layer with all parts, for any service whose requests are `Clone`. `L` is the service's own error, and inferred.
    ///
    /// For services of HTTP and gRPC there is one that knows what their answers mean: `http_layer`, `grpc_layer`, and a whole
    /// client with `reqwest` (features of these names).
    #[must_use]
    pub fn layer<L>(&self) -> StackLayer<L> {
        StackLayer::new(self.clone())
    }
}

impl<L> StackLayer<L> {
    fn new(stack: Stack) -> Self {
        Self {
            stack,
            classify: ErrorsAreFailures,
            requests: CopyByClone,
            cost: OneEach,
            learn: LearnNothing,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, R, K, T> StackLayer<L, C, R, K, T> {
    /// The stack.
    #[must_use]
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// What the stack does in the worst case.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.stack.explain()
    }

    fn judging<D>(self, wrap: impl FnOnce(C) -> D) -> StackLayer<L, D, R, K, T> {
        StackLayer {
            stack: self.stack,
            classify: wrap(self.classify),
            requests: self.requests,
            cost: self.cost,
            learn: self.learn,
            _leaf: PhantomData,
        }
    }

    /// Only the errors for which this is true are failures: the others are neither tried again nor counted.
    #[must_use]
    pub fn failure_if<F: Fn(&L) -> bool>(
        self,
        matches: F,
    ) -> StackLayer<L, FailureIf<F, C>, R, K, T> {
        self.judging(|classify| FailureIf {
            matches,
            inner: classify,
        })
    }

    /// The responses for which this is true are failures too.
    #[must_use]
    pub fn response_failure_if<Res, F: Fn(&Res) -> bool>(
        self,
        matches: F,
    ) -> StackLayer<L, ResponseFailureIf<F, C>, R, K, T> {
        self.judging(|classify| ResponseFailureIf {
            matches,
            inner: classify,
        })
    }

    /// Judges results by a function, for the retry, the hedge and the breaker alike.
    #[must_use]
    pub fn classify_with<Res, F: Fn(Result<&Res, &L>) -> Verdict>(
        self,
        judge: F,
    ) -> StackLayer<L, ClassifyFn<F>, R, K, T> {
        self.judging(|_| ClassifyFn(judge))
    }

    /// Judges results with this, for the retry, the hedge and the breaker alike.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> StackLayer<L, D, R, K, T> {
        self.judging(|_| classify)
    }

    fn copying<Q>(self, wrap: impl FnOnce(R) -> Q) -> StackLayer<L, C, Q, K, T> {
        StackLayer {
            stack: self.stack,
            classify: self.classify,
            requests: wrap(self.requests),
            cost: self.cost,
            learn: self.learn,
            _leaf: PhantomData,
        }
    }

    /// Copies requests with this function. `None`: it is made once.
    #[must_use]
    pub fn copy_request<Req, F: Fn(&Req) -> Option<Req>>(
        self,
        copy: F,
    ) -> StackLayer<L, C, CopyWith<F, R>, K, T> {
        self.copying(|requests| CopyWith {
            copy,
            rest: requests,
        })
    }

    /// Takes from the request whether it may be done twice. Default: it may.
    #[must_use]
    pub fn idempotency_from<Req, F: Fn(&Req) -> Idempotency>(
        self,
        idempotency: F,
    ) -> StackLayer<L, C, IdempotencyWith<F, R>, K, T> {
        self.copying(|requests| IdempotencyWith {
            idempotency,
            rest: requests,
        })
    }

    /// Asks this how requests are copied, and whether they may be done twice.
    #[must_use]
    pub fn requests<Q>(self, requests: Q) -> StackLayer<L, C, Q, K, T> {
        self.copying(|_| requests)
    }

    /// Takes from the request what it costs of each quota: `|ask| [1, estimate(ask)]`. Default: one of each. Without a rate
    /// limit it is not asked.
    #[must_use]
    pub fn cost<Req, N: Into<Cost>, F: Fn(&Req) -> N>(
        self,
        cost: F,
    ) -> StackLayer<L, C, R, CostBy<F>, T> {
        StackLayer {
            stack: self.stack,
            classify: self.classify,
            requests: self.requests,
            cost: CostBy(cost),
            learn: self.learn,
            _leaf: PhantomData,
        }
    }

    fn learning<U>(self, learn: impl FnOnce(T) -> U) -> StackLayer<L, C, R, K, U> {
        StackLayer {
            stack: self.stack,
            classify: self.classify,
            requests: self.requests,
            cost: self.cost,
            learn: learn(self.learn),
            _leaf: PhantomData,
        }
    }

    /// Takes from the response what the call has used in truth: see
    /// [`RateLimitLayer::settle`](crate::rate_limit::RateLimitLayer::settle).
    #[must_use]
    pub fn settle<Res, N, F>(self, used: F) -> StackLayer<L, C, R, K, SettleBy<F, T>>
    where
        N: Into<Cost>,
        F: Fn(&Res) -> Option<N>,
    {
        self.learning(|rest| SettleBy { used, rest })
    }

    /// Lets everybody pause when a result says that there is too much to do, and when to come back: see
    /// [`RateLimitLayer::pause_by`](crate::rate_limit::RateLimitLayer::pause_by).
    #[must_use]
    pub fn pause_by<D>(self, classify: D) -> StackLayer<L, C, R, K, PauseBy<D, T>> {
        self.learning(|rest| PauseBy { classify, rest })
    }
}

impl<L, C: Clone, R: Clone, K: Clone, T: Clone> Clone for StackLayer<L, C, R, K, T> {
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            cost: self.cost.clone(),
            learn: self.learn.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, C, R, K, T> fmt::Debug for StackLayer<L, C, R, K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackLayer")
            .field("stack", &self.stack)
            .finish_non_exhaustive()
    }
}

impl<S, L, C: Clone, R: Clone, K: Clone, T: Clone> Layer<S> for StackLayer<L, C, R, K, T> {
    type Service = StackService<S, L, C, R, K, T>;

    fn layer(&self, inner: S) -> Self::Service {
        let stack = &self.stack;
        let timeouts = stack.timeouts_or_none();
        let timed = timeouts.layer().without_total().layer(inner);
        let lock = stack.lock.as_ref().map(|it| it.layer());
        let locked = Either::around(lock, timed);
        let limit = stack.rate_limit.as_ref();
        let limit = limit.map(|it| {
            it.layer()
                .learn_by(self.learn.clone())
                .cost_of(self.cost.clone())
        });
        let limited = Either::around(limit, locked);
        let breaker = stack.breaker_or_none().layer();
        let guarded = breaker.classify(self.classify.clone()).layer(limited);
        let hedge = stack.hedge.as_ref().map(|it| {
            let layer = it.layer().classify(self.classify.clone());
            layer.requests(self.requests.clone())
        });
        let hedged = Either::around(hedge, guarded);
        let retry = stack.retry_or_none().layer();
        let retry = retry.classify(self.classify.clone());
        let retried = retry.requests(self.requests.clone()).layer(hedged);
        timeouts.layer().only_total().layer(retried)
    }
}

impl Idle for Stack {
    /// None of its parts has anything to remember.
    fn is_idle(&self) -> bool {
        self.retry.as_ref().is_none_or(Idle::is_idle)
            && self.hedge.as_ref().is_none_or(Idle::is_idle)
            && self.circuit_breaker.as_ref().is_none_or(Idle::is_idle)
            && self.rate_limit.as_ref().is_none_or(Idle::is_idle)
            && self.lock.as_ref().is_none_or(Idle::is_idle)
    }
}

impl<L, C, R, K, T> Idle for StackLayer<L, C, R, K, T> {
    fn is_idle(&self) -> bool {
        self.stack.is_idle()
    }
}

/// What stands for parts that were left out.
impl Stack {
    pub(crate) fn timeouts_or_none(&self) -> Timeouts {
        let timeouts = self.timeouts.clone();
        timeouts.unwrap_or_else(|| Timeouts::unlimited(&*self.name))
    }

    pub(crate) fn breaker_or_none(&self) -> CircuitBreaker {
        let breaker = self.circuit_breaker.clone();
        breaker.unwrap_or_else(|| CircuitBreaker::none(&*self.name))
    }

    pub(crate) fn retry_or_none(&self) -> RetryPolicy {
        self.retry.clone().unwrap_or_else(RetryPolicy::none)
    }
}
