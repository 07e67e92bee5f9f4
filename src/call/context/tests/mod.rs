//! Where a call is, in every situation that the layers can bring about: by toy layers that ask the account what the
//! real ones ask.

mod branches;
mod layers;
mod model;
mod random;
mod threads;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::sleep;

use super::{Frame, Wait};
use model::Breaker;

pub(super) const S: Duration = Duration::from_secs(1);
pub(super) const MS: Duration = Duration::from_millis(1);

fn breaker() -> Arc<Breaker> {
    Arc::new(Breaker::default())
}

/// A call at the service, in a frame of ours.
pub(super) async fn service(took: Duration) {
    let mut frame = Frame::default();
    let mut call = Box::pin(sleep(took));
    std::future::poll_fn(|cx| frame.poll(0, || call.as_mut().poll(cx))).await
}

pub(super) async fn hung() {
    service(Duration::from_secs(1_000_000)).await
}

/// A wait of this crate: a backoff, say.
pub(super) async fn wait(took: Duration) {
    let mut wait = Wait::new(0);
    let mut rest = Box::pin(sleep(took));
    std::future::poll_fn(|cx| wait.poll(cx.waker(), || rest.as_mut().poll(cx))).await
}

pub(super) fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A frame with a future, to ask of it from outside.
pub(super) struct Framed<F>(pub(super) Pin<Box<F>>, pub(super) Frame);
impl<F: Future> Framed<F> {
    pub(super) fn new(future: F) -> Self {
        Self(Box::pin(future), Frame::default())
    }
}
impl<F: Future> Future for Framed<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self(future, frame) = &mut *self;
        frame.poll(0, || future.as_mut().poll(cx))
    }
}
