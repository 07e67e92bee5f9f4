//! One deadline for everything that is done for a request, shared by all layers.
//!
//! A deadline is *ambient*: [`scope`] sets it around a future, and whatever waits inside respects
//! it. A retry stops at once when its next backoff would end too late, and a lock wait ends when the
//! deadline does. [`RetryLayer`](crate::RetryLayer) opens such a scope around its attempts when it
//! has a timeout of its own, so the layers below see the time that is really left.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! use std::time::Duration;
//! use tower_bulwark::deadline::{self, Deadline};
//!
//! deadline::scope(Deadline::after(Duration::from_secs(2)), async {
//!     assert_eq!(deadline::remaining(), Some(Duration::from_secs(2)));
//!     // An inner scope can only shorten what is left.
//!     deadline::scope(Deadline::after(Duration::from_secs(60)), async {
//!         assert_eq!(deadline::remaining(), Some(Duration::from_secs(2)));
//!     })
//!     .await;
//! })
//! .await;
//! # }
//! ```
//!
//! The scope follows the *future*: a service that hands the request to another task (tower's `Buffer`,
//! a tonic `Channel`) does not carry it there. Take the deadline from the request in that case, with
//! `deadline_from` on the layers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::Instant;

use super::context::{ambient_deadline, with_deadline};
use crate::util::time::{self, Tick};

/// The moment after which an answer is of no use to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub(crate) Tick);

impl Deadline {
    /// The deadline that lies `timeout` ahead. A timeout too long to count never comes.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        Self(time::now().after(timeout))
    }

    /// The deadline at `instant`.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(Tick::from_instant(instant))
    }

    /// The time that is left; zero when the deadline has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.since(time::now())
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.remaining().is_zero()
    }
}

/// The ambient deadline of the code that runs now, if a scope is open.
#[must_use]
pub fn current() -> Option<Deadline> {
    let tick = ambient_deadline();
    (tick != Tick::NEVER).then_some(Deadline(tick))
}

/// The time left until the ambient deadline, if a scope is open.
#[must_use]
pub fn remaining() -> Option<Duration> {
    current().map(Deadline::remaining)
}

/// Runs `future` with `deadline` as its ambient deadline, or with the one around it if that is earlier.
///
/// Scopes nest where they are *polled*: a scope that is made in one place and awaited inside another scope is
/// never longer than that one.
///
/// Nothing is cancelled: the layers inside stop *waiting*. To also end the work, put
/// `tokio::time::timeout` around it, or use the timeouts of [`RetryPolicy`](crate::RetryPolicy).
pub fn scope<F: Future>(deadline: Deadline, future: F) -> Scope<F> {
    Scope { deadline, future }
}

/// The future of [`scope`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Scope<F> {
    deadline: Deadline,
    #[pin]
    future: F,
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        with_deadline(this.deadline.0, || this.future.poll(cx))
    }
}

/// Whether the ambient deadline has passed, or is so near that a timeout which was sent along has: timers and
/// headers round to milliseconds, each at its own end.
#[cfg(feature = "http")]
pub(crate) fn has_passed() -> bool {
    const ROUNDED: Duration = Duration::from_millis(2);
    remaining().is_some_and(|left| left <= ROUNDED)
}

/// Runs `f`, usually one poll, with `deadline` as the ambient deadline, or the one around it if that is earlier.
pub(crate) fn with<T>(deadline: Option<Deadline>, f: impl FnOnce() -> T) -> T {
    match deadline {
        Some(deadline) => with_deadline(deadline.0, f),
        None => f(),
    }
}

/// The earlier of two deadlines.
pub(crate) fn earlier(a: Option<Deadline>, b: Option<Deadline>) -> Option<Deadline> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_inner_scope_never_lengthens_the_outer_one() {
        let second = Duration::from_secs(1);
        scope(Deadline::after(second), async {
            scope(Deadline::after(10 * second), async {
                assert_eq!(remaining(), Some(second));
            })
            .await;
            scope(Deadline::after(second / 2), async {
                assert_eq!(remaining(), Some(second / 2));
            })
            .await;
            assert_eq!(remaining(), Some(second));
        })
        .await;
        assert_eq!(remaining(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_too_long_to_count_is_not_over() {
        assert!(!Deadline::after(Duration::MAX).is_over());
        assert!(Deadline::after(Duration::ZERO).is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_scope_made_outside_of_another_and_polled_inside_is_no_longer_than_it() {
        let second = Duration::from_secs(1);
        let long = scope(Deadline::after(10 * second), async { remaining() });
        let seen = scope(Deadline::after(second), long).await;
        assert_eq!(seen, Some(second));
    }
}
