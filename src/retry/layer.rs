//! The layer whose services are retried.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use tower_layer::Layer;

use super::handle::RetryPolicy;
use super::prepare::{
    BeforeAttempt, CopyByClone, CopyWith, DeadlineWith, IdempotencyWith, MaxRetriesWith,
};
use crate::call::deadline::Deadline;
use crate::call::outcome::{
    AttemptContext, ClassifyFn, DelayFrom, ErrorsAreFailures, FailureIf, Idempotency,
    ResponseFailureIf, RetryIfWith, Verdict,
};

use super::service::RetryService;
use crate::util::kit::Kits;

/// Retries calls of a service by a [`RetryPolicy`].
///
/// `L` is the service's own error, and inferred. `C` judges results, `R` copies requests.
pub struct RetryLayer<L, C = ErrorsAreFailures, R = CopyByClone> {
    policy: RetryPolicy,
    classify: C,
    requests: R,
    _leaf: PhantomData<fn() -> L>,
}

impl RetryPolicy {
    /// A layer that retries by this policy. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> RetryLayer<L> {
        RetryLayer::new(self.clone())
    }
}

impl<L> RetryLayer<L> {
    /// A layer that retries every error of the service, and no response.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            classify: ErrorsAreFailures,
            requests: CopyByClone,
            _leaf: PhantomData,
        }
    }
}

impl<L> Default for RetryLayer<L> {
    fn default() -> Self {
        Self::new(RetryPolicy::new())
    }
}

impl<L, C, R> RetryLayer<L, C, R> {
    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    fn with<D, Q>(self, wrap: impl FnOnce(C, R) -> (D, Q)) -> RetryLayer<L, D, Q> {
        let (classify, requests) = wrap(self.classify, self.requests);
        RetryLayer {
            policy: self.policy,
            classify,
            requests,
            _leaf: PhantomData,
        }
    }

    /// Only errors that match are retried.
    #[must_use]
    pub fn retry_if<F: Fn(&L) -> bool>(self, matches: F) -> RetryLayer<L, FailureIf<F, C>, R> {
        self.with(|inner, requests| (FailureIf { matches, inner }, requests))
    }

    /// Responses that match are retried too. When the last attempt ends with such a response, the caller
    /// gets it.
    #[must_use]
    pub fn retry_response_if<Res, F: Fn(&Res) -> bool>(
        self,
        matches: F,
    ) -> RetryLayer<L, ResponseFailureIf<F, C>, R> {
        self.with(|inner, requests| (ResponseFailureIf { matches, inner }, requests))
    }

    /// Retries what `wanted` says yes to, instead of all rules so far. It sees which attempt ended, and the whole result.
    #[must_use]
    pub fn retry_if_with<Res, F: Fn(&AttemptContext, Result<&Res, &L>) -> bool>(
        self,
        wanted: F,
    ) -> RetryLayer<L, RetryIfWith<F>, R> {
        self.with(|_, requests| (RetryIfWith(wanted), requests))
    }

    /// Takes the wait from the result, instead of the backoff: a `Retry-After`, say. It is waited with up to a tenth more
    /// (`retry_after_jitter`), unless it is longer than `max_retry_after`; zero, or `None`, means the backoff.
    #[must_use]
    pub fn delay_from<Res, F: Fn(Result<&Res, &L>) -> Option<Duration>>(
        self,
        delay: F,
    ) -> RetryLayer<L, DelayFrom<F, C>, R> {
        self.with(|inner, requests| (DelayFrom { delay, inner }, requests))
    }

    /// Judges results with a function, instead of all rules so far.
    #[must_use]
    pub fn classify_with<Res, F: Fn(Result<&Res, &L>) -> Verdict>(
        self,
        judge: F,
    ) -> RetryLayer<L, ClassifyFn<F>, R> {
        self.with(|_, requests| (ClassifyFn(judge), requests))
    }

    /// Judges results with a classifier, instead of all rules so far.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> RetryLayer<L, D, R> {
        self.with(|_, requests| (classify, requests))
    }

    /// Takes the number of retries from the request, instead of the policy's `max_retries`.
    #[must_use]
    pub fn max_retries_fn<Req, F: Fn(&Req) -> u32>(
        self,
        max_retries: F,
    ) -> RetryLayer<L, C, MaxRetriesWith<F, R>> {
        self.with(|classify, rest| (classify, MaxRetriesWith { max_retries, rest }))
    }

    /// Copies requests with a function, for requests that are not `Clone`. A request for which it gives
    /// `None` is sent once.
    #[must_use]
    pub fn copy_request<Req, F: Fn(&Req) -> Option<Req>>(
        self,
        copy: F,
    ) -> RetryLayer<L, C, CopyWith<F, R>> {
        self.with(|classify, rest| (classify, CopyWith { copy, rest }))
    }

    /// Takes the deadline of the call from the request, where the ambient one does not reach.
    #[must_use]
    pub fn deadline_from<Req, F: Fn(&Req) -> Option<Deadline>>(
        self,
        deadline: F,
    ) -> RetryLayer<L, C, DeadlineWith<F, R>> {
        self.with(|classify, rest| (classify, DeadlineWith { deadline, rest }))
    }

    /// Takes from the request whether it may be done twice. One that may not is sent again only after a
    /// result that proves it was not done; see [`RetrySafety`](crate::RetrySafety).
    #[must_use]
    pub fn idempotency_from<Req, F: Fn(&Req) -> Idempotency>(
        self,
        idempotency: F,
    ) -> RetryLayer<L, C, IdempotencyWith<F, R>> {
        self.with(|classify, rest| (classify, IdempotencyWith { idempotency, rest }))
    }

    /// Changes each request just before it is sent: a header with the number of the attempt (from 1), say.
    #[must_use]
    pub fn before_attempt<Req, F: Fn(&mut Req, u32)>(
        self,
        change: F,
    ) -> RetryLayer<L, C, BeforeAttempt<F, R>> {
        self.with(|classify, rest| (classify, BeforeAttempt { change, rest }))
    }

    /// Asks `requests` all there is to ask of a request: how to copy it, and what it says of its retries.
    /// Instead of everything said so far.
    #[must_use]
    pub fn requests<Q>(self, requests: Q) -> RetryLayer<L, C, Q> {
        self.with(|classify, _| (classify, requests))
    }
}

impl<L, C: Clone, R: Clone> Clone for RetryLayer<L, C, R> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, C, R> fmt::Debug for RetryLayer<L, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<S, L, C: Clone, R: Clone> Layer<S> for RetryLayer<L, C, R> {
    type Service = RetryService<S, L, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RetryService {
            inner,
            kits: Kits::none(),
            policy: self.policy.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            _leaf: PhantomData,
        }
    }
}
