use std::fmt;
use std::marker::PhantomData;

use tower_layer::Layer;

use super::handle::Hedge;
use super::mark::{MarkWith, NoMark};
use super::service::HedgeService;
use crate::call::deadline::Deadline;
use crate::call::outcome::{
    ClassifyFn, ErrorsAreFailures, FailureIf, Idempotency, ResponseFailureIf, Verdict,
};
use crate::retry::{BeforeAttempt, CopyByClone, CopyWith, DeadlineWith, IdempotencyWith};
use crate::util::kit::Kits;

/// Hedges calls of a service by a [`Hedge`].
///
/// `L` is the service's own error, and inferred. `C` judges results, `R` copies requests, `M` marks responses.
pub struct HedgeLayer<L, C = ErrorsAreFailures, R = CopyByClone, M = NoMark> {
    hedge: Hedge,
    classify: C,
    requests: R,
    mark: M,
    _leaf: PhantomData<fn() -> L>,
}

impl Hedge {
    /// A layer that hedges by these rules. `L` is the service's own error, and inferred.
    ///
    /// Requests are copied with `Clone`, and every one may be sent twice: say otherwise with
    /// [`idempotency_from`](HedgeLayer::idempotency_from).
    #[must_use]
    pub fn layer<L>(&self) -> HedgeLayer<L> {
        HedgeLayer {
            hedge: self.clone(),
            classify: ErrorsAreFailures,
            requests: CopyByClone,
            mark: NoMark,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, R, M> HedgeLayer<L, C, R, M> {
    /// The hedge.
    #[must_use]
    pub fn hedge(&self) -> &Hedge {
        &self.hedge
    }

    fn with<D, Q, N>(self, wrap: impl FnOnce(C, R, M) -> (D, Q, N)) -> HedgeLayer<L, D, Q, N> {
        let (classify, requests, mark) = wrap(self.classify, self.requests, self.mark);
        HedgeLayer {
            hedge: self.hedge,
            classify,
            requests,
            mark,
            _leaf: PhantomData,
        }
    }

    /// Only errors that match are failures, which another attempt may better. Every other error ends the call.
    #[must_use]
    pub fn failure_if<F: Fn(&L) -> bool>(self, matches: F) -> HedgeLayer<L, FailureIf<F, C>, R, M> {
        self.with(|inner, requests, mark| (FailureIf { matches, inner }, requests, mark))
    }

    /// Responses that match are failures too: they do not win while another attempt runs.
    #[must_use]
    pub fn response_failure_if<Res, F: Fn(&Res) -> bool>(
        self,
        matches: F,
    ) -> HedgeLayer<L, ResponseFailureIf<F, C>, R, M> {
        self.with(|inner, requests, mark| (ResponseFailureIf { matches, inner }, requests, mark))
    }

    /// Judges results with a function, instead of all rules so far.
    #[must_use]
    pub fn classify_with<Res, F: Fn(Result<&Res, &L>) -> Verdict>(
        self,
        judge: F,
    ) -> HedgeLayer<L, ClassifyFn<F>, R, M> {
        self.with(|_, requests, mark| (ClassifyFn(judge), requests, mark))
    }

    /// Judges results with a classifier, as for a retry: a failure that may be tried again does not win while another
    /// attempt runs, and everything else does. Default: errors are failures.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> HedgeLayer<L, D, R, M> {
        self.with(|_, requests, mark| (classify, requests, mark))
    }

    /// Copies requests with a function, for requests that are not `Clone`. A request for which it gives `None` is sent
    /// once.
    #[must_use]
    pub fn copy_request<Req, F: Fn(&Req) -> Option<Req>>(
        self,
        copy: F,
    ) -> HedgeLayer<L, C, CopyWith<F, R>, M> {
        self.with(|classify, rest, mark| (classify, CopyWith { copy, rest }, mark))
    }

    /// Takes the deadline of the call from the request, where the ambient one does not reach. No hedge starts after it.
    #[must_use]
    pub fn deadline_from<Req, F: Fn(&Req) -> Option<Deadline>>(
        self,
        deadline: F,
    ) -> HedgeLayer<L, C, DeadlineWith<F, R>, M> {
        self.with(|classify, rest, mark| (classify, DeadlineWith { deadline, rest }, mark))
    }

    /// Takes from the request whether it may be done twice. One that may not is never hedged.
    #[must_use]
    pub fn idempotency_from<Req, F: Fn(&Req) -> Idempotency>(
        self,
        idempotency: F,
    ) -> HedgeLayer<L, C, IdempotencyWith<F, R>, M> {
        self.with(|classify, rest, mark| (classify, IdempotencyWith { idempotency, rest }, mark))
    }

    /// Changes each request that may be hedged just before it is sent: a header with the number of the attempt (from 1),
    /// say.
    #[must_use]
    pub fn before_attempt<Req, F: Fn(&mut Req, u32)>(
        self,
        change: F,
    ) -> HedgeLayer<L, C, BeforeAttempt<F, R>, M> {
        self.with(|classify, rest, mark| (classify, BeforeAttempt { change, rest }, mark))
    }

    /// Asks `requests` all there is to ask of a request: how to copy it, and whether it may be done twice. Instead of
    /// everything said so far. `max_retries` of it bounds the hedges.
    #[must_use]
    pub fn requests<Q>(self, requests: Q) -> HedgeLayer<L, C, Q, M> {
        self.with(|classify, _, mark| (classify, requests, mark))
    }

    /// Marks a response that a hedge gave with the number of its attempt, from 2. Responses of the first attempt are not
    /// marked.
    #[must_use]
    pub fn mark<Res, F: Fn(&mut Res, u32)>(self, mark: F) -> HedgeLayer<L, C, R, MarkWith<F>> {
        self.with(|classify, requests, _| (classify, requests, MarkWith(mark)))
    }

    #[cfg(feature = "http")]
    pub(crate) fn marked_by<N>(self, mark: N) -> HedgeLayer<L, C, R, N> {
        self.with(|classify, requests, _| (classify, requests, mark))
    }
}

impl<L, C: Clone, R: Clone, M: Clone> Clone for HedgeLayer<L, C, R, M> {
    fn clone(&self) -> Self {
        Self {
            hedge: self.hedge.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            mark: self.mark.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, C, R, M> fmt::Debug for HedgeLayer<L, C, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeLayer")
            .field("hedge", &self.hedge)
            .finish_non_exhaustive()
    }
}

impl<S, L, C: Clone, R: Clone, M: Clone> Layer<S> for HedgeLayer<L, C, R, M> {
    type Service = HedgeService<S, L, C, R, M>;

    fn layer(&self, inner: S) -> Self::Service {
        HedgeService {
            inner,
            kits: Kits::none(),
            hedge: self.hedge.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            mark: self.mark.clone(),
            _leaf: PhantomData,
        }
    }
}
