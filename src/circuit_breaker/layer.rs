//! The layer whose services are guarded.

use std::fmt;
use std::marker::PhantomData;

use tower_layer::Layer;

use super::handle::CircuitBreaker;
use super::wakers::Pending;
use crate::call::outcome::{
    ClassifyFn, ErrorsAreFailures, FailureIf, IgnoreIf, ResponseFailureIf, Verdict,
};
use crate::error::Rejection;
use crate::error::{AsError, RejectWith};

use super::service::{CircuitBreakerService, WhileOpen};

/// Guards services with a [`CircuitBreaker`].
///
/// Every service made by a layer, by its clones, and by other layers of the same breaker shares the
/// breaker's state. `L` is the service's own error, and inferred.
pub struct CircuitBreakerLayer<L, C = ErrorsAreFailures, A = AsError> {
    breaker: CircuitBreaker,
    classify: C,
    answer: A,
    pending_while_open: bool,
    _leaf: PhantomData<fn() -> L>,
}

impl CircuitBreaker {
    /// A layer that guards a service with this breaker. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> CircuitBreakerLayer<L> {
        CircuitBreakerLayer::new(self.clone())
    }
}

impl<L> CircuitBreakerLayer<L> {
    /// A layer of `breaker`. An error of the service is a failure, a response a success.
    #[must_use]
    pub fn new(breaker: CircuitBreaker) -> Self {
        Self {
            breaker,
            classify: ErrorsAreFailures,
            answer: AsError,
            pending_while_open: false,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, A> CircuitBreakerLayer<L, C, A> {
    /// The breaker.
    #[must_use]
    pub fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    fn with_classify<D>(self, wrap: impl FnOnce(C) -> D) -> CircuitBreakerLayer<L, D, A> {
        CircuitBreakerLayer {
            breaker: self.breaker,
            classify: wrap(self.classify),
            answer: self.answer,
            pending_while_open: self.pending_while_open,
            _leaf: PhantomData,
        }
    }

    /// While the circuit refuses, `poll_ready` is pending instead of ready for a refusal: for balancers, which then
    /// send calls to other replicas. The task is woken when the circuit admits calls again.
    ///
    /// Without a balancer this makes callers wait for as long as the circuit is open. Needs a tokio runtime with its
    /// timer. A call is still refused if the circuit opens between `poll_ready` and `call`, if another call has
    /// taken the place of the probe, or while a [`ramp`](crate::circuit_breaker::CircuitBreakerBuilder::ramp) lets in a
    /// share of the calls.
    #[must_use]
    pub fn pending_while_open(mut self) -> Self {
        self.pending_while_open = true;
        self
    }

    /// Only errors that match are failures. An error that does not match is a success: the service has answered.
    /// (Errors that say nothing about the service either way: [`ignore_if`](Self::ignore_if).)
    #[must_use]
    pub fn failure_if<F: Fn(&L) -> bool>(
        self,
        matches: F,
    ) -> CircuitBreakerLayer<L, FailureIf<F, C>, A> {
        self.with_classify(|inner| FailureIf { matches, inner })
    }

    /// Errors that match are ignored; the others are judged as before.
    #[must_use]
    pub fn ignore_if<F: Fn(&L) -> bool>(
        self,
        matches: F,
    ) -> CircuitBreakerLayer<L, IgnoreIf<F, C>, A> {
        self.with_classify(|inner| IgnoreIf { matches, inner })
    }

    /// Responses that match are failures: a `503` that arrives as an `Ok`, say.
    #[must_use]
    pub fn response_failure_if<Res, F: Fn(&Res) -> bool>(
        self,
        matches: F,
    ) -> CircuitBreakerLayer<L, ResponseFailureIf<F, C>, A> {
        self.with_classify(|inner| ResponseFailureIf { matches, inner })
    }

    /// Judges results with a function, instead of all rules so far.
    #[must_use]
    pub fn classify_with<Res, F: Fn(Result<&Res, &L>) -> Verdict>(
        self,
        judge: F,
    ) -> CircuitBreakerLayer<L, ClassifyFn<F>, A> {
        self.with_classify(|_| ClassifyFn(judge))
    }

    /// Judges results with a classifier, instead of all rules so far.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> CircuitBreakerLayer<L, D, A> {
        self.with_classify(|_| classify)
    }

    /// Answers a refused call with a response instead of an error: the error type of the service stays
    /// what it is, so an axum router needs no `HandleErrorLayer`.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> CircuitBreakerLayer<L, C, RejectWith<F>> {
        CircuitBreakerLayer {
            breaker: self.breaker,
            classify: self.classify,
            answer: RejectWith(respond),
            pending_while_open: self.pending_while_open,
            _leaf: PhantomData,
        }
    }
}

impl<L, C: Clone, A: Clone> Clone for CircuitBreakerLayer<L, C, A> {
    fn clone(&self) -> Self {
        Self {
            breaker: self.breaker.clone(),
            classify: self.classify.clone(),
            answer: self.answer.clone(),
            pending_while_open: self.pending_while_open,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, A> fmt::Debug for CircuitBreakerLayer<L, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerLayer")
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl<S, L, C: Clone, A: Clone> Layer<S> for CircuitBreakerLayer<L, C, A> {
    type Service = CircuitBreakerService<S, L, C, A>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreakerService {
            inner,
            breaker: self.breaker.clone(),
            classify: self.classify.clone(),
            answer: self.answer.clone(),
            refused: None,
            pending: Pending::default(),
            while_open: WhileOpen::new(self.pending_while_open),
            _leaf: PhantomData,
        }
    }
}
