use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::Frame;

/// Names a future as work at a service: while it is pending, the call that it is part of does not count as waiting.
///
/// The layers of this crate know of their own calls and waits. A call may do two things at once, of which one waits
/// for a lock and the other is a plain future that the crate knows nothing of; it then looks as if it only waited,
/// and its time is nobody's fault. Name the plain one:
///
/// ```
/// # use std::convert::Infallible;
/// # use tower_bulwark::{CircuitBreaker, ResourceLock, at_service};
/// # async fn fetch() {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (breaker, cache) = (CircuitBreaker::new("api"), ResourceLock::new("cache"));
/// let result: Result<_, tower_bulwark::Error<Infallible>> = breaker
///     .call(|| async {
///         let (_, guard) = tokio::join!(at_service(fetch()), cache.acquire("reader"));
///         Ok::<_, Infallible>(guard.is_ok())
///     })
///     .await;
/// # assert!(result.unwrap());
/// # }
/// ```
pub fn at_service<F: Future>(future: F) -> AtService<F> {
    AtService {
        future,
        frame: Frame::default(),
    }
}

/// The future of [`at_service`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct AtService<F> {
    #[pin]
    future: F,
    frame: Frame,
}

impl<F: Future> Future for AtService<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.frame.poll(0, || this.future.poll(cx))
    }
}
