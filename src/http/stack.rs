//! The parts of a stack around services whose responses have bodies.

use std::fmt;
use std::marker::PhantomData;

use tower_layer::Layer;

use super::classify::HttpClassify;
use super::handles::MarkAttempt;
use super::replay::{CopyReplay, ReplayLayer, ReplayService};
use super::requests::HttpRequests;
use super::timeout::HttpTimeoutService;
use super::unsettled::SettleLater;
use super::until_body_end::{
    AsHead, CircuitBreakerBodyService, ClassifyEnd, ContentionBodyService,
};
use crate::contention::ResourceLock;
use crate::error::AsError;
use crate::hedge::HedgeService;
use crate::keyed::Idle;
use crate::rate_limit::{
    Cost, CostBy, LearnNothing, LeftBy, OneEach, PauseBy, RateLimitService, SettleBy,
};
use crate::retry::RetryService;
use crate::stack::{Either, Stack, StackKind};

/// Behind a lock to the end of the body, and given only so long.
type Locked<S, L> = ContentionBodyService<HttpTimeoutService<S, L>, L>;

/// Behind a rate limit, or behind none.
type Limited<S, L, K, T> = Either<RateLimitService<Locked<S, L>, L, K, T>, Locked<S, L>>;

type Guarded<S, L, C, E, K, T> = CircuitBreakerBodyService<Limited<S, L, K, T>, L, C, AsError, E>;

/// With hedges, or without.
type Hedged<S, L, C, E, R, K, T> = Either<
    HedgeService<Guarded<S, L, C, E, K, T>, L, C, R, MarkAttempt>,
    Guarded<S, L, C, E, K, T>,
>;

/// What an [`HttpStackLayer`] makes of a service `S`: the services of the parts, one around the other. A part that was left
/// out is there, and lets every call through as it is, or is not.
pub type HttpStackService<S, L, C, E, R, K, T> =
    ReplayService<HttpTimeoutService<RetryService<Hedged<S, L, C, E, R, K, T>, L, C, R>, L>>;

/// All parts of a [`Stack`] around a service of HTTP, or of gRPC. Made by [`Stack::http_layer`] and `Stack::grpc_layer`.
///
/// `L` is the service's own error, and inferred. `C` and `E` judge answers and the ends of their bodies, `R` says which requests
/// may be done twice, `K` what they cost of the rate limit, and `T` is what it learns of answers.
pub struct HttpStackLayer<
    L,
    C = HttpClassify,
    E = AsHead,
    R = HttpRequests<CopyReplay>,
    K = OneEach,
    T = PauseBy<C, LearnNothing>,
> {
    stack: Stack,
    classify: C,
    end: E,
    requests: R,
    cost: K,
    learn: T,
    _leaf: PhantomData<fn() -> L>,
}

impl Stack {
    /// A layer with all parts, for a service of `http` types: answers are judged by [`HttpClassify`], for
    /// [`llm`](Stack::llm) [as the clients of models do](HttpClassify::sdk). Only what may be done twice is sent again, or was
    /// certainly not done. A permit is held, and the breaker judges, until the body of the response has ended.
    ///
    /// The service below is given requests with a [`ReplayBody`](super::ReplayBody), of which up to 64 KiB are kept to be sent
    /// again.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// # use hyper_util::client::legacy::Client;
    /// # use hyper_util::rt::TokioExecutor;
    /// # use tower::ServiceBuilder;
    /// use tower_bulwark::Stack;
    /// use tower_bulwark::http::ReplayBody;
    ///
    /// let client = Client::builder(TokioExecutor::new()).build_http::<ReplayBody<Full<Bytes>>>();
    /// let stack = Stack::http("api").build()?;
    /// let client = ServiceBuilder::new().layer(stack.http_layer()).service(client);
    /// # fn takes<C: tower::Service<http::Request<Full<Bytes>>>>(_: C) {}
    /// # takes(client);
    /// # Ok::<(), tower_bulwark::ConfigError>(())
    /// ```
    #[must_use]
    pub fn http_layer<L>(&self) -> HttpStackLayer<L> {
        let classify = match self.kind() {
            StackKind::Llm => HttpClassify::new().sdk(),
            StackKind::Http | StackKind::Grpc | StackKind::Hedged => HttpClassify::new(),
        };
        HttpStackLayer::new(
            self.clone(),
            classify,
            AsHead,
            HttpRequests::new().copied_by(CopyReplay),
        )
    }
}

impl<L, C: Clone, E, R> HttpStackLayer<L, C, E, R> {
    pub(crate) fn new(stack: Stack, classify: C, end: E, requests: R) -> Self {
        Self {
            stack,
            learn: PauseBy {
                classify: classify.clone(),
                rest: LearnNothing,
            },
            classify,
            end,
            requests,
            cost: OneEach,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, E, R, K, T> HttpStackLayer<L, C, E, R, K, T> {
    /// The stack.
    #[must_use]
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Judges answers with this, for the retry, the hedge and the breaker alike.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> HttpStackLayer<L, D, E, R, K, T> {
        HttpStackLayer {
            stack: self.stack,
            classify,
            end: self.end,
            requests: self.requests,
            cost: self.cost,
            learn: self.learn,
            _leaf: PhantomData,
        }
    }

    /// Judges calls also by how their bodies ended: see
    /// [`CircuitBreakerBodyLayer::classify_end`](super::CircuitBreakerBodyLayer::classify_end).
    #[must_use]
    pub fn classify_end<D: ClassifyEnd>(self, end: D) -> HttpStackLayer<L, C, D, R, K, T> {
        HttpStackLayer {
            stack: self.stack,
            classify: self.classify,
            end,
            requests: self.requests,
            cost: self.cost,
            learn: self.learn,
            _leaf: PhantomData,
        }
    }

    /// Asks this how requests are copied, and whether they may be done twice.
    #[must_use]
    pub fn requests<Q>(self, requests: Q) -> HttpStackLayer<L, C, E, Q, K, T> {
        HttpStackLayer {
            stack: self.stack,
            classify: self.classify,
            end: self.end,
            requests,
            cost: self.cost,
            learn: self.learn,
            _leaf: PhantomData,
        }
    }

    /// Takes from the request what it costs of each quota: `|request| [1, estimate(request)]`. Default: one of each.
    #[must_use]
    pub fn cost<Req, N: Into<Cost>, F: Fn(&Req) -> N>(
        self,
        cost: F,
    ) -> HttpStackLayer<L, C, E, R, CostBy<F>, T> {
        HttpStackLayer {
            stack: self.stack,
            classify: self.classify,
            end: self.end,
            requests: self.requests,
            cost: CostBy(cost),
            learn: self.learn,
            _leaf: PhantomData,
        }
    }

    fn learning<U>(self, learn: impl FnOnce(T) -> U) -> HttpStackLayer<L, C, E, R, K, U> {
        HttpStackLayer {
            stack: self.stack,
            classify: self.classify,
            end: self.end,
            requests: self.requests,
            cost: self.cost,
            learn: learn(self.learn),
            _leaf: PhantomData,
        }
    }

    /// Takes from the head of the response what the call has used in truth: see
    /// [`RateLimitLayer::settle`](crate::rate_limit::RateLimitLayer::settle).
    #[must_use]
    pub fn settle<Res, N, F>(self, used: F) -> HttpStackLayer<L, C, E, R, K, SettleBy<F, T>>
    where
        N: Into<Cost>,
        F: Fn(&Res) -> Option<N>,
    {
        self.learning(|rest| SettleBy { used, rest })
    }

    /// Where what was used is known only from the body: see
    /// [`RateLimitLayer::settle_later`](crate::rate_limit::RateLimitLayer::settle_later).
    #[must_use]
    pub fn settle_later(self) -> HttpStackLayer<L, C, E, R, K, SettleLater<T>> {
        self.learning(|rest| SettleLater { rest })
    }

    /// Takes from the response how much is left of which quota: see
    /// [`RateLimitLayer::left_by`](crate::rate_limit::RateLimitLayer::left_by), and [`quotas_left`](super::quotas_left).
    #[must_use]
    pub fn left_by<Res, N, I, F>(self, left: F) -> HttpStackLayer<L, C, E, R, K, LeftBy<F, T>>
    where
        N: AsRef<str>,
        I: IntoIterator<Item = (N, u64)>,
        F: Fn(&Res) -> I,
    {
        self.learning(|rest| LeftBy { left, rest })
    }
}

impl<L, C, E, R, K, T> Clone for HttpStackLayer<L, C, E, R, K, T>
where
    C: Clone,
    E: Clone,
    R: Clone,
    K: Clone,
    T: Clone,
{
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.clone(),
            classify: self.classify.clone(),
            end: self.end.clone(),
            requests: self.requests.clone(),
            cost: self.cost.clone(),
            learn: self.learn.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, C, E, R, K, T> fmt::Debug for HttpStackLayer<L, C, E, R, K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpStackLayer")
            .field("stack", &self.stack)
            .finish_non_exhaustive()
    }
}

impl<L, C, E, R, K, T> Idle for HttpStackLayer<L, C, E, R, K, T> {
    fn is_idle(&self) -> bool {
        self.stack.is_idle()
    }
}

impl<S, L, C, E, R, K, T> Layer<S> for HttpStackLayer<L, C, E, R, K, T>
where
    C: Clone,
    E: ClassifyEnd + Clone,
    R: Clone,
    K: Clone,
    T: Clone,
{
    type Service = HttpStackService<S, L, C, E, R, K, T>;

    fn layer(&self, inner: S) -> Self::Service {
        let stack = &self.stack;
        let timeouts = stack.timeouts_or_none();
        let timed = timeouts.http_layer().without_total().layer(inner);
        let lock = stack.lock().cloned();
        let lock = lock.unwrap_or_else(|| ResourceLock::unlimited(stack.name()));
        let locked = lock.layer().until_body_end().layer(timed);
        let limit = stack.rate_limit().map(|it| {
            let layer = it.layer().learn_by(self.learn.clone());
            layer.cost_of(self.cost.clone())
        });
        let limited = Either::around(limit, locked);
        let breaker = stack.breaker_or_none().layer();
        let breaker = breaker.classify(self.classify.clone()).until_body_end();
        let guarded = breaker.classify_end(self.end.clone()).layer(limited);
        let hedge = stack.hedge().map(|it| {
            let layer = it.layer().classify(self.classify.clone());
            layer.requests(self.requests.clone()).marked_by(MarkAttempt)
        });
        let hedged = Either::around(hedge, guarded);
        let retry = stack.retry_or_none().layer();
        let retry = retry.classify(self.classify.clone());
        let retried = retry.requests(self.requests.clone()).layer(hedged);
        ReplayLayer::new().layer(timeouts.http_layer().only_total().layer(retried))
    }
}
