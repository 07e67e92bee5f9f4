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
//! The scope follows the *task*: a service that hands the request to another task (tower's `Buffer`,
//! a tonic `Channel`) does not carry it there. Take the deadline from the request in that case, with
//! `deadline_from` on the layers.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::util::time::{self, Tick};

tokio::task_local! {
    static AMBIENT: Deadline;
}

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

/// The ambient deadline of the current task, if a scope is open.
#[must_use]
pub fn current() -> Option<Deadline> {
    AMBIENT.try_with(|deadline| *deadline).ok()
}

/// The time left until the ambient deadline, if a scope is open.
#[must_use]
pub fn remaining() -> Option<Duration> {
    current().map(Deadline::remaining)
}

/// Runs `future` with `deadline` as its ambient deadline, or with the one around it if that is
/// earlier.
///
/// Nothing is cancelled: the layers inside stop *waiting*. To also end the work, put
/// `tokio::time::timeout` around it, or use the timeouts of [`RetryPolicy`](crate::RetryPolicy).
pub fn scope<F: Future>(deadline: Deadline, future: F) -> impl Future<Output = F::Output> {
    AMBIENT.scope(
        earlier(Some(deadline), current()).unwrap_or(deadline),
        future,
    )
}

/// Runs `f`, usually one poll, with `deadline` as the ambient deadline.
pub(crate) fn with<T>(deadline: Option<Deadline>, f: impl FnOnce() -> T) -> T {
    match deadline {
        Some(deadline) => AMBIENT.sync_scope(deadline, f),
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

thread_local! {
    static TIMED_OUT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, which drops a call that took too long, so that the permits dropped in it know why.
///
/// A dropped future cannot say whether its caller lost interest or lost patience. To a breaker below
/// a retry with an attempt timeout, that is the difference between "cancelled" and "the service
/// hangs".
pub(crate) fn while_dropping_timed_out<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            TIMED_OUT.set(self.0);
        }
    }
    let _restore = Restore(TIMED_OUT.replace(true));
    f()
}

/// What is being dropped never reached the service: that it took too long is not the service's fault. Said
/// by a wait for a permit, which is dropped before the permit of a breaker around it.
pub(crate) fn excuse_timed_out() {
    TIMED_OUT.set(false);
}

/// Whether what is being dropped right now is dropped because it took too long.
pub(crate) fn is_dropping_timed_out() -> bool {
    TIMED_OUT.get()
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
    async fn a_call_given_up_while_it_waits_for_a_permit_is_no_failure_and_one_that_ran_is() {
        use tower::{ServiceBuilder, ServiceExt, service_fn};
        let (breaker, lock) = (
            crate::CircuitBreaker::new("b"),
            crate::ResourceLock::new("l"),
        );
        let service = ServiceBuilder::new()
            .layer(breaker.layer())
            .layer(lock.layer())
            .service(service_fn(|(): ()| {
                std::future::pending::<Result<(), std::io::Error>>()
            }));
        let mut runs = tokio_test::task::spawn(service.clone().oneshot(()));
        let mut waits = tokio_test::task::spawn(service.oneshot(()));
        assert!(runs.poll().is_pending() && waits.poll().is_pending());
        while_dropping_timed_out(|| drop(waits));
        assert_eq!(breaker.snapshot().totals.failures, 0);
        while_dropping_timed_out(|| drop(runs));
        assert_eq!(breaker.snapshot().totals.failures, 1);
    }

    #[test]
    fn the_reason_of_a_drop_ends_with_the_drop_even_when_it_panics() {
        let caught = std::panic::catch_unwind(|| {
            while_dropping_timed_out(|| {
                assert!(is_dropping_timed_out());
                panic!("in drop");
            })
        });
        assert!(caught.is_err());
        assert!(!is_dropping_timed_out());
    }
}
