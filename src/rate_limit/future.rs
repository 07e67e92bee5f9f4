use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tower_service::Service;

use super::handle::RateLimit;
use super::limit::Limit;
use super::limited;
use super::request::{Learn, LearnNothing};
use crate::error::{Answer, AsError};

/// The response of a service whose calls wait for their turn. Dropping it leaves the queue. A call that has been at the service
/// stays counted; one that still waited below, as for a permit of a lock, gives back what it has taken.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct RateLimitFuture<S, Req, L, T = LearnNothing, A = AsError, K = RateLimit>
where
    S: Service<Req>,
    K: Limit,
{
    #[pin]
    pub(super) state: State<S, Req, S::Future, K>,
    pub(super) learn: T,
    pub(super) answer: A,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

pub(super) type State<S, Req, F, K> =
    limited::State<S, Req, F, <K as Limit>::Wait, <K as Limit>::Taken>;

impl<S, Req, L, T, A, K> Future for RateLimitFuture<S, Req, L, T, A, K>
where
    S: Service<Req>,
    L: StdError + 'static,
    T: Learn<S::Response, L>,
    A: Answer<S::Response, S::Error, L>,
    K: Limit,
{
    type Output = Result<S::Response, A::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.state.poll(cx, this.learn, this.answer)
    }
}

impl<S: Service<Req>, Req, L, T, A, K: Limit> fmt::Debug for RateLimitFuture<S, Req, L, T, A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitFuture")
            .field("state", &self.state.name())
            .finish_non_exhaustive()
    }
}
