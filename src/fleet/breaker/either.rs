use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Whether the second ended first.
pub(super) async fn first(
    mut one: Pin<&mut impl Future>,
    mut other: Pin<&mut impl Future>,
) -> bool {
    poll_fn(|cx| {
        if other.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        one.as_mut().poll(cx).map(|_| false)
    })
    .await
}
