use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::ThrottleFuture;
use super::handle::Throttle;
use crate::call::outcome::{Classify, ErrorsAreFailures};
use crate::error::{Answer, AsError};
use crate::util::accessors::inner_service;

/// A throttled service. Made by [`ThrottleLayer`](super::ThrottleLayer).
pub struct ThrottleService<S, L, C = ErrorsAreFailures, A = AsError> {
    pub(super) inner: S,
    pub(super) throttle: Throttle,
    pub(super) classify: C,
    pub(super) answer: A,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

impl<S, L, C, A> ThrottleService<S, L, C, A> {
    /// The throttle.
    #[must_use]
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    inner_service!("throttled");
}

impl<S: Clone, L, C: Clone, A: Clone> Clone for ThrottleService<S, L, C, A> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            throttle: self.throttle.clone(),
            classify: self.classify.clone(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<S: fmt::Debug, L, C, A> fmt::Debug for ThrottleService<S, L, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleService")
            .field("inner", &self.inner)
            .field("throttle", &self.throttle)
            .finish_non_exhaustive()
    }
}

impl<S, L, C, A, Req> Service<Req> for ThrottleService<S, L, C, A>
where
    S: Service<Req>,
    L: StdError + 'static,
    C: Classify<S::Response, L> + Clone,
    A: Answer<S::Response, S::Error, L> + Clone,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = ThrottleFuture<S::Future, L, C, A>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| self.answer.error(error))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let answer = self.answer.clone();
        match self.throttle.admit(false) {
            Ok(mut permit) => {
                let call = permit.running(|| self.inner.call(request));
                ThrottleFuture::admitted(call, permit, self.classify.clone(), answer)
            }
            Err(throttled) => ThrottleFuture::refused(throttled, answer),
        }
    }
}
