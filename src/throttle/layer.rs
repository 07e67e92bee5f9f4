use std::fmt;
use std::marker::PhantomData;

use tower_layer::Layer;

use super::handle::Throttle;
use super::service::ThrottleService;
use crate::call::outcome::{
    ClassifyFn, ErrorsAreFailures, FailureIf, IgnoreIf, ResponseFailureIf, Verdict,
};
use crate::error::{AsError, RejectWith, Rejection};

/// Throttles services by a [`Throttle`].
///
/// `L` is the service's own error, and inferred. `C` judges results.
pub struct ThrottleLayer<L, C = ErrorsAreFailures, A = AsError> {
    throttle: Throttle,
    classify: C,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

impl Throttle {
    /// A layer that throttles a service. An error of the service is not accepted, a response is. `L` is the service's own
    /// error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> ThrottleLayer<L> {
        ThrottleLayer {
            throttle: self.clone(),
            classify: ErrorsAreFailures,
            answer: AsError,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, A> ThrottleLayer<L, C, A> {
    /// The throttle.
    #[must_use]
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    fn judging<D>(self, wrap: impl FnOnce(C) -> D) -> ThrottleLayer<L, D, A> {
        ThrottleLayer {
            throttle: self.throttle,
            classify: wrap(self.classify),
            answer: self.answer,
            _leaf: PhantomData,
        }
    }

    /// Only errors that match are not accepted. An error that does not match is accepted: the service has answered.
    /// (Errors that say nothing about the service: [`ignore_if`](Self::ignore_if).)
    #[must_use]
    pub fn failure_if<F: Fn(&L) -> bool>(self, matches: F) -> ThrottleLayer<L, FailureIf<F, C>, A> {
        self.judging(|inner| FailureIf { matches, inner })
    }

    /// Errors that match count as neither request nor accept.
    #[must_use]
    pub fn ignore_if<F: Fn(&L) -> bool>(self, matches: F) -> ThrottleLayer<L, IgnoreIf<F, C>, A> {
        self.judging(|inner| IgnoreIf { matches, inner })
    }

    /// Responses that match are not accepted either.
    #[must_use]
    pub fn response_failure_if<Res, F: Fn(&Res) -> bool>(
        self,
        matches: F,
    ) -> ThrottleLayer<L, ResponseFailureIf<F, C>, A> {
        self.judging(|inner| ResponseFailureIf { matches, inner })
    }

    /// Judges results with a function, instead of all rules so far.
    #[must_use]
    pub fn classify_with<Res, F: Fn(Result<&Res, &L>) -> Verdict>(
        self,
        judge: F,
    ) -> ThrottleLayer<L, ClassifyFn<F>, A> {
        self.judging(|_| ClassifyFn(judge))
    }

    /// Judges results with a classifier, instead of all rules so far.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> ThrottleLayer<L, D, A> {
        self.judging(|_| classify)
    }

    /// Answers a call that is refused with a response instead of an error: the error type of the service stays what it is.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> ThrottleLayer<L, C, RejectWith<F>> {
        ThrottleLayer {
            throttle: self.throttle,
            classify: self.classify,
            answer: RejectWith(respond),
            _leaf: PhantomData,
        }
    }
}

impl<L, C: Clone, A: Clone> Clone for ThrottleLayer<L, C, A> {
    fn clone(&self) -> Self {
        Self {
            throttle: self.throttle.clone(),
            classify: self.classify.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, C, A> fmt::Debug for ThrottleLayer<L, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleLayer")
            .field("throttle", &self.throttle)
            .finish_non_exhaustive()
    }
}

impl<S, L, C: Clone, A: Clone> Layer<S> for ThrottleLayer<L, C, A> {
    type Service = ThrottleService<S, L, C, A>;

    fn layer(&self, inner: S) -> Self::Service {
        ThrottleService {
            inner,
            throttle: self.throttle.clone(),
            classify: self.classify.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}
