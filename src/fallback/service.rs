use std::error::Error as StdError;
use std::fmt;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::{FallbackFuture, State};
use super::handle::Fallback;
use super::target::{MapRequest, Mark, Targets};
use crate::call::outcome::{Classify, ErrorsAreFailures};
use crate::error::{Error, IntoError};
use crate::retry::{CopyByClone, CopyRequest};
use crate::util::accessors::inner_service;

/// A service whose calls go elsewhere when it does not answer. Made by [`FallbackLayer`](super::FallbackLayer).
pub struct FallbackService<S, Req, Res, L, C = ErrorsAreFailures, R = CopyByClone> {
    pub(super) inner: S,
    pub(super) fallback: Fallback,
    pub(super) targets: Targets<Req, Res, L>,
    pub(super) classify: C,
    pub(super) requests: R,
    pub(super) only_unreached: bool,
    pub(super) map_request: Option<MapRequest<Req>>,
    pub(super) mark: Option<Mark<Res>>,
}

impl<S, Req, Res, L, C, R> FallbackService<S, Req, Res, L, C, R> {
    /// The fallback.
    #[must_use]
    pub fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    inner_service!("asked first");
}

impl<S: Clone, Req, Res, L, C: Clone, R: Clone> Clone for FallbackService<S, Req, Res, L, C, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            fallback: self.fallback.clone(),
            targets: self.targets.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            only_unreached: self.only_unreached,
            map_request: self.map_request.clone(),
            mark: self.mark.clone(),
        }
    }
}

impl<S: fmt::Debug, Req, Res, L, C, R> fmt::Debug for FallbackService<S, Req, Res, L, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackService")
            .field("inner", &self.inner)
            .field("fallback", &self.fallback)
            .finish_non_exhaustive()
    }
}

impl<S, Req, Res, L, C, R> Service<Req> for FallbackService<S, Req, Res, L, C, R>
where
    S: Service<Req, Response = Res>,
    S::Error: IntoError<L>,
    L: StdError + 'static,
    C: Classify<Res, L> + Clone,
    R: CopyRequest<Req> + Clone,
{
    type Response = Res;
    type Error = Error<L>;
    type Future = FallbackFuture<S::Future, Req, Res, L, C, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error<L>>> {
        self.inner.poll_ready(cx).map_err(IntoError::into_error)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let copy = match self.targets.is_empty() {
            true => None,
            false => self.requests.copy(&request),
        };
        FallbackFuture {
            state: State::First(self.inner.call(request)),
            copy,
            asked: 0,
            failures: Vec::new(),
            fallback: self.fallback.clone(),
            targets: self.targets.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            only_unreached: self.only_unreached,
            map_request: self.map_request.clone(),
            mark: self.mark.clone(),
        }
    }
}
