//! Hedging as tower middleware: call, wait a while, call once more, take what comes first.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::{First, HedgeFuture};
use super::handle::Hedge;
use super::mark::{MarkAnswer, NoMark};
use super::run::Run;
use super::shared::Shared;
use crate::call::outcome::{Classify, ErrorsAreFailures, Idempotency};
use crate::error::{Error, IntoError};
use crate::retry::{CopyByClone, CopyRequest, RequestConfig};
use crate::util::kit::{Kits, Spare};

/// A service whose calls are hedged. Made by [`HedgeLayer`](super::HedgeLayer).
///
/// The instance that is ready makes the call. A hedge is made by a clone, which is made only then, and which has to be
/// ready at once.
pub struct HedgeService<S, L, C = ErrorsAreFailures, R = CopyByClone, M = NoMark> {
    pub(super) inner: S,
    pub(super) kits: Kits<S, Shared>,
    pub(super) hedge: Hedge,
    pub(super) classify: C,
    pub(super) requests: R,
    pub(super) mark: M,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

impl<S, L, C, R, M> HedgeService<S, L, C, R, M> {
    /// The hedge.
    #[must_use]
    pub fn hedge(&self) -> &Hedge {
        &self.hedge
    }

    /// Goes by other rules from the next call on.
    #[cfg(feature = "grpc")]
    pub(crate) fn go_by(&mut self, hedge: &Hedge, classify: C) {
        self.hedge.clone_from(hedge);
        self.kits.forget();
        self.classify = classify;
    }

    /// The service that is hedged.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service that is hedged, to change it.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut S {
        self.kits.forget();
        &mut self.inner
    }

    /// The service that was hedged, as it is.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, L, C: Clone, R: Clone, M: Clone> Clone for HedgeService<S, L, C, R, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            kits: self.kits.clone_for(&self.hedge.shared, &self.inner),
            hedge: self.hedge.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            mark: self.mark.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<S: fmt::Debug, L, C, R, M> fmt::Debug for HedgeService<S, L, C, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeService")
            .field("inner", &self.inner)
            .field("hedge", &self.hedge)
            .finish_non_exhaustive()
    }
}

impl<S, L, C, R, M, Req> Service<Req> for HedgeService<S, L, C, R, M>
where
    S: Service<Req> + Clone,
    S::Error: IntoError<L>,
    L: StdError + 'static,
    C: Classify<S::Response, L> + Clone,
    R: CopyRequest<Req> + RequestConfig<Req> + Clone,
    M: MarkAnswer<S::Response> + Clone,
{
    type Response = S::Response;
    type Error = Error<L>;
    type Future = HedgeFuture<S, Req, L, C, R, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(IntoError::into_error)
    }

    #[inline]
    fn call(&mut self, mut request: Req) -> Self::Future {
        let shared = &self.hedge.shared;
        let most = shared.max_extra();
        let copy = match most {
            0 => None,
            _ => match self.requests.idempotency(&request) {
                Idempotency::Forbidden | Idempotency::NotIdempotent => None,
                Idempotency::Idempotent | Idempotency::Keyed => self.requests.copy(&request),
            },
        };
        let first = match &copy {
            None => {
                match most {
                    0 => shared.count_call(0),
                    _ => shared.count_not_repeatable(),
                }
                let spare = Spare::own(shared.mine(), None);
                let call = self.inner.call(request);
                First::once(spare, call)
            }
            Some(_) => {
                let own = self.requests.max_retries(&request);
                let extra = own.map_or(most, |own| own.min(most));
                shared.count_call(extra);
                let ends = self.requests.deadline(&request);
                let idempotency = self.requests.idempotency(&request);
                let spare = self.kits.take(&self.hedge.shared, &self.inner);
                let mut run = Run::new(extra, idempotency, ends);
                let call = run.begins(|| {
                    self.requests.before_attempt(&mut request, 1);
                    self.inner.call(request)
                });
                First::of_race(spare, run, call)
            }
        };
        HedgeFuture {
            first,
            request: copy,
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            mark: self.mark.clone(),
            hedges: Vec::new(),
            kept: None,
            _leaf: PhantomData,
        }
    }
}
