//! Retry as tower middleware: call, ask, wait, make ready, call again.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower_service::Service;

use super::handle::{RetryPolicy, Shared};
use super::prepare::{CopyByClone, CopyRequest, RequestConfig};
use super::run::Run;
use crate::call::context::{Frame, Wait};
use crate::call::deadline::{self};
use crate::call::outcome::{Classify, ErrorsAreFailures};
use crate::error::{Error, IntoError};
use crate::util::kit::{Kits, Spare};

use super::future::{RetryFuture, State};

/// A service whose calls are retried. Made by [`RetryLayer`](super::RetryLayer).
pub struct RetryService<S, L, C = ErrorsAreFailures, R = CopyByClone> {
    pub(super) inner: S,
    pub(super) kits: Kits<S, Shared>,
    pub(super) policy: RetryPolicy,
    pub(super) classify: C,
    pub(super) requests: R,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

impl<S, L, C, R> RetryService<S, L, C, R> {
    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Goes by other rules from the next call on.
    #[cfg(feature = "grpc")]
    pub(crate) fn go_by(&mut self, policy: &RetryPolicy, classify: C) {
        self.policy.clone_from(policy);
        self.kits.forget();
        self.classify = classify;
    }

    /// The service that is retried.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service that is retried, to change it.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut S {
        self.kits.forget();
        &mut self.inner
    }

    /// The service that was retried, as it is.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, L, C: Clone, R: Clone> Clone for RetryService<S, L, C, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            kits: self.kits.clone_for(&self.policy.shared, &self.inner),
            policy: self.policy.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<S: fmt::Debug, L, C, R> fmt::Debug for RetryService<S, L, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryService")
            .field("inner", &self.inner)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<S, L, C, R, Req> Service<Req> for RetryService<S, L, C, R>
where
    S: Service<Req> + Clone,
    S::Error: IntoError<L>,
    L: StdError + 'static,
    C: Classify<S::Response, L> + Clone,
    R: CopyRequest<Req> + RequestConfig<Req> + Clone,
{
    type Response = S::Response;
    type Error = Error<L>;
    type Future = RetryFuture<S, Req, L, C, R>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(IntoError::into_error)
    }

    #[inline]
    fn call(&mut self, mut request: Req) -> Self::Future {
        let own = self.requests.max_retries(&request);
        let (limit, again) = {
            let rules = self.policy.shared.config.load();
            let limit = own.unwrap_or(rules.max_retries);
            (limit, limit > 0 || rules.free_retry)
        };
        let ends = self.requests.deadline(&request);
        let copy = again.then(|| self.requests.copy(&request)).flatten();
        let idempotency = self.requests.idempotency(&request);
        // Later attempts are made by a clone that is made ready first. The instance that is ready makes this call.
        let spare = match copy {
            Some(_) => self.kits.take(&self.policy.shared, &self.inner),
            None => Spare::own(self.policy.shared.mine(), None),
        };
        let run = Run::new(spare.rules(), limit, ends, idempotency);
        let mut frame = Frame::default();
        let call = frame.enter(0, || {
            deadline::with(run.ambient(), || {
                self.requests.before_attempt(&mut request, run.attempt());
                self.inner.call(request)
            })
        });
        RetryFuture {
            state: State::Calling { call },
            frame,
            wait: Wait::new(0),
            timer: None,
            last: None,
            spare,
            request: copy,
            run,
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            _leaf: PhantomData,
        }
    }
}
