//! Calls again when a call failed: after a backoff, within a budget and a deadline.
//!
//! # When to use it
//!
//! For failures that pass by themselves: a dropped connection, a `503`, a `429` that says when to come back.
//!
//! # When not
//!
//! - For failures that stay: a bad request is as bad the fourth time. Say what is worth a retry with
//!   [`retry_if`](RetryLayer::retry_if).
//! - For work that must not be done twice, unless the service can distinguish a repeated request from a new one.
//! - Twice in one stack. A retry hands on what a retry below has given up on, so two do not multiply; but one is enough.
//!
//! # One call
//!
//! ```text
//!  call ──▶ attempt ──▶ success, or not worth a retry ──▶ the caller
//!              ▲   │
//!              │   └──▶ worth a retry: attempts left? within the cap? the deadline? the budget? a copy of the request?
//!              │               │ no: Error::Exhausted, with the reason and the last error
//!              └── wait ◀──────┘ yes
//! ```
//!
//! The failed attempt is dropped before the wait, and with it everything it held. The request is copied before the first
//! attempt; the service is cloned only after a failure, and the clone is made ready before it is called.
//!
//! # Example
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower_bulwark::ConfigError> {
//! use std::time::Duration;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_bulwark::{Backoff, Jitter, RetryBudget, RetryPolicy};
//!
//! let policy = RetryPolicy::builder()
//!     .name("openai")
//!     .max_retries(4)
//!     .backoff(Backoff::exponential(Duration::from_millis(100), 2.0))
//!     .jitter(Jitter::Full)
//!     .budget(RetryBudget::new(0.1)?)
//!     .attempt_timeout(Duration::from_secs(10))
//!     .total_timeout(Duration::from_secs(30))
//!     .build()?;
//!
//! let service = policy
//!     .layer()
//!     .retry_if(|e: &std::io::Error| e.kind() != std::io::ErrorKind::InvalidInput)
//!     .retry_response_if(|status: &u16| *status == 503)
//!     .layer(service_fn(|_: ()| async { Ok::<u16, std::io::Error>(200) }));
//! assert_eq!(service.oneshot(()).await.unwrap(), 200);
//!
//! // Without tower:
//! let status = policy.run(|| async { Ok::<u16, std::io::Error>(200) }).await;
//! # assert_eq!(status.unwrap(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # Defaults
//!
//! | setting | default | because |
//! |---|---|---|
//! | `max_retries` | 3 | four attempts outlast most short failures |
//! | `backoff` | 1 s, doubled each time | for background work; for a waiting user take 50 to 100 ms |
//! | `max_delay` | 60 s | a hard bound, jitter included |
//! | `jitter` | ±10 % | keeps callers out of step; `Full` spreads best |
//! | `max_retry_after` | 60 s | a service that asks for more is not waited for |
//! | `retry_after_jitter` | up to 10 % more | a thousand callers that were given the same time do not return in one instant |
//! | `budget` | one of the policy's own: a fifth of its traffic, and a floor | in an outage each call would else be four; the floor lets a quiet client retry |
//! | `attempt_timeout`, `total_timeout` | none | what is long depends on the work |
//! | `retry_rejections`, `retry_exhausted` | no | a refusal keeps calls away on purpose; retries do not multiply |
//! | `retry_deadlocks` | in `run` once, in a layer no | right around a whole job, which gives back all it holds; wrong inside one |
//!
//! # Events
//!
//! | event | level | when |
//! |---|---|---|
//! | `Scheduled` | `INFO` | an attempt failed, and another follows |
//! | `Recovered` | `INFO` | a call succeeded after a retry |
//! | `GaveUp` | `WARN` | no further attempt: not possible, refused below, or not worth one |
//!
//! A call that was announced as retried ends with exactly one `Recovered` or `GaveUp`, unless it is dropped.
//!
//! # Deadlines
//!
//! The earliest counts: `total_timeout`, [`deadline_from`](RetryLayer::deadline_from), and the ambient
//! [deadline](crate::deadline). A wait that would end at it or after it is not begun. `total_timeout` and
//! `deadline_from` also end an attempt that is running; the ambient deadline only ends waits.
//!
//! `attempt_timeout` bounds the time at the service. It stands still while the attempt waits in this crate: in a lock's
//! queue, or in the backoff of a retry below. `total_timeout` covers everything.
//!
//! Blocking retries ([`run_blocking`](RetryPolicy::run_blocking)) wait in real time: a paused tokio clock cannot wake a
//! thread.
//!
//! # When the caller goes away
//!
//! The attempt that is running is dropped, or the wait ends. Nothing is left behind: there are no tasks.
//!
//! # What it costs
//!
//! A call that succeeds at once: a copy of the request, and a reference count and two counters of this thread's shard. No
//! clone of the service, no clock, no random number, no lock, no allocation of its own. An attempt that has to wait reads
//! the clock once; under a timeout it also makes a timer, in a box, so that a call without one is small.
//!
//! # See also
//!
//! [The order of layers](crate::docs::order), [errors](crate::docs::errors), [`explain`](crate::explain).
mod backoff;
mod budget;
mod builder;
mod config;
mod future;
mod handle;
mod layer;
mod prepare;
mod run;
mod runner;
mod service;
mod state;
#[cfg(test)]
mod tests;

pub use crate::event::RetryEvent;
pub use backoff::{Backoff, Jitter};
pub use budget::{RetryBudget, RetryBudgetBuilder, RetryQuota};
pub use builder::RetryPolicyBuilder;
pub use config::RetryConfig;
pub use future::RetryFuture;
pub use handle::{AttemptOutcome, FailedAttempt, RetryPolicy, RetrySnapshot};
pub use layer::RetryLayer;
pub use prepare::{
    BeforeAttempt, Beside, CopyByClone, CopyRequest, CopyWith, DeadlineWith, IdempotencyWith,
    MaxRetriesWith, RequestConfig,
};
pub use runner::Retry;
pub use service::RetryService;
