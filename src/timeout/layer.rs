use std::fmt;
use std::marker::PhantomData;

use tower_layer::Layer;

use super::config::{Part, TimeoutConfig};
use super::handle::Timeouts;
use super::service::{Readiness, TimeoutService};
use crate::error::{AsError, RejectWith, Rejection};

/// Ends the calls of a service that take too long. Made by [`Timeouts::layer`].
///
/// `L` is the service's own error, and inferred.
pub struct TimeoutLayer<L, A = AsError> {
    timeouts: Timeouts,
    part: Part,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

impl Timeouts {
    /// A layer with all phases of these timeouts. `L` is the service's own error, and inferred.
    ///
    /// The phases of a body are those of its `http_layer` (feature `http`): this one ends with the response.
    #[must_use]
    pub fn layer<L>(&self) -> TimeoutLayer<L> {
        TimeoutLayer {
            timeouts: self.clone(),
            part: Part::All,
            answer: AsError,
            _leaf: PhantomData,
        }
    }
}

impl<L, A> TimeoutLayer<L, A> {
    /// The timeouts.
    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Only `total`, and `end_at_deadline`: for outside of a retry. The others go to a second layer of the same timeouts,
    /// inside of it.
    #[must_use]
    pub fn only_total(mut self) -> Self {
        self.part = Part::Total;
        self
    }

    /// All but `total`: for inside of a retry, where each attempt has these limits.
    #[must_use]
    pub fn without_total(mut self) -> Self {
        self.part = Part::Attempt;
        self
    }

    /// The limits that hold in this layer.
    pub(crate) fn limits(&self) -> TimeoutConfig {
        self.timeouts.config().of(self.part)
    }

    /// Answers a call that took too long with a response instead of an error: the error type of the service stays what it
    /// is.
    ///
    /// The closure is given every timeout: the service was called, except in the phase `ready`.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> TimeoutLayer<L, RejectWith<F>> {
        TimeoutLayer {
            timeouts: self.timeouts,
            part: self.part,
            answer: RejectWith(respond),
            _leaf: PhantomData,
        }
    }
}

impl<L, A: Clone> Clone for TimeoutLayer<L, A> {
    fn clone(&self) -> Self {
        Self {
            timeouts: self.timeouts.clone(),
            part: self.part,
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, A> fmt::Debug for TimeoutLayer<L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutLayer")
            .field("timeouts", &self.timeouts)
            .field("part", &self.part)
            .finish_non_exhaustive()
    }
}

impl<S, L, A: Clone> Layer<S> for TimeoutLayer<L, A> {
    type Service = TimeoutService<S, L, A>;

    fn layer(&self, inner: S) -> Self::Service {
        TimeoutService {
            inner,
            timeouts: self.timeouts.clone(),
            part: self.part,
            answer: self.answer.clone(),
            readiness: Readiness::default(),
            _leaf: PhantomData,
        }
    }
}
