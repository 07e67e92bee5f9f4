use std::fmt;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::ChaosFuture;
use super::handle::Chaos;
use crate::util::accessors::inner_service;

/// A service with faults. Made by [`ChaosLayer`](super::ChaosLayer).
#[derive(Clone)]
pub struct ChaosService<S, F> {
    pub(super) inner: S,
    pub(super) chaos: Chaos,
    pub(super) fault: F,
}

impl<S, F> ChaosService<S, F> {
    /// The drill.
    #[must_use]
    pub fn chaos(&self) -> &Chaos {
        &self.chaos
    }

    inner_service!("given faults");
}

impl<S: fmt::Debug, F> fmt::Debug for ChaosService<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosService")
            .field("inner", &self.inner)
            .field("chaos", &self.chaos)
            .finish_non_exhaustive()
    }
}

impl<S, F, Req> Service<Req> for ChaosService<S, F>
where
    S: Service<Req>,
    F: Fn() -> Result<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ChaosFuture<S::Future, Result<S::Response, S::Error>>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let Self {
            inner,
            chaos,
            fault,
        } = self;
        ChaosFuture::begin(&chaos.shared, fault, || inner.call(request))
    }
}
