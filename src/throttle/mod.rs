//! A service that has too much to do is asked less often: calls are refused here with the probability with which the service
//! would refuse them.
//!
//! # When
//!
//! Before a service that refuses what is too much (`429`, `503`, `RESOURCE_EXHAUSTED`), and that has many callers. To refuse
//! costs the service work too: with enough calls beyond what it can do, it does nothing else. Each caller that throttles
//! itself sends about twice what is accepted.
//!
//! # When not
//!
//! - Where the service is up or down, and nothing between: that is a [`circuit_breaker`](crate::circuit_breaker), which asks it
//!   hardly at all while it is down.
//! - Where the service says what may be sent: that is a [`rate_limit`](crate::rate_limit).
//! - With a handful of calls a minute: there is no share of them to speak of.
//!
//! ```text
//!   accepted          ████████████████████▏
//!   accepted × K      ████████████████████████████████████████▏
//!   requests          ██████████████████████████████████████████████████████▏
//!                                                             └─ refused ──┘ here, with that probability
//! ```
//!
//! ```
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::{Error, Throttle};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let overloaded = service_fn(|_: u32| async { Err::<u32, _>(std::io::Error::other("too much to do")) });
//! let throttle = Throttle::builder("search").seed(7).build()?;
//! let service = ServiceBuilder::new().layer(throttle.layer()).service(overloaded);
//!
//! let mut refused = 0;
//! for n in 0..1_000 {
//!     match service.clone().oneshot(n).await {
//!         Err(Error::Throttled(_)) => refused += 1,
//!         other => assert!(other.is_err()),
//!     }
//! }
//! // One in ten goes through, to see whether the service has recovered.
//! assert!((850..950).contains(&refused), "{refused}");
//! # Ok(())
//! # }
//! ```
//!
//! Alone: [`Throttle::run`], [`Throttle::try_acquire`].
//!
//! # How it decides
//!
//! A call is refused with the probability `max(0, (requests - K × accepts) / (requests + 1))`, over the calls of the last
//! [`window`](ThrottleBuilder::window): the client-side throttling of *Site Reliability Engineering* (Beyer et al., O'Reilly
//! 2016, chapter 21, "Handling Overload"). With `K` = 2 nothing is refused as long as the service accepts half of the calls.
//!
//! - *Requests* are calls that have ended, and those that were refused here: what is refused has been wanted too.
//! - *Accepts* are calls that succeeded. A failure and an overload are none; with
//!   [`only_overload`](ThrottleBuilder::only_overload) a failure is one, because the service did answer.
//! - A call that says nothing about the service counts as neither: one that a layer below refused, one that was cancelled, one
//!   that its classifier ignores.
//! - A call is judged by its result; with a stream that is its head, because then it has been accepted. There is no
//!   `until_body_end`: a body that breaks off later belongs to a call that was accepted.
//!
//! The probability is made anew with every call that is not accepted, with every call that ends while there is one, and with
//! each tenth of the window. At least one call in ten goes through ([`max_reject`](ThrottleBuilder::max_reject)): so it is seen when
//! the service has recovered.
//!
//! # Where it goes
//!
//! Inside the retry and the hedge: each attempt is a request. Outside of breaker, rate limit and lock: who is refused should not
//! wait first. `Retry( Throttle( CircuitBreaker( RateLimit( Contention( client )))))`; with a breaker of failure rates take one of
//! the two, as a rule.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`k`](ThrottleBuilder::k) | 2 | that of the book: twice what is accepted is sent, so that a service with more room is found out |
//! | [`window`](ThrottleBuilder::window) | 30 s | after an outage it takes two windows until no call is refused: the two minutes of the book would be four |
//! | [`max_reject`](ThrottleBuilder::max_reject) | 0.9 | the formula alone lets hardly anything through after a long outage |
//! | [`minimum_requests`](ThrottleBuilder::minimum_requests) | 10 | after one failure of one call the formula refuses every second |
//! | [`only_overload`](ThrottleBuilder::only_overload) | no | a service that fails because it has too much to do does not always say so |
//!
//! # Errors
//!
//! [`Error::Throttled`](crate::Error::Throttled), a [rejection](crate::Rejection), with the [`Throttled::probability`] of it. There is
//! no `retry_after`: another try has the same probability at once. As a response of HTTP (`problem`) it is a `503`, as a
//! status of gRPC `UNAVAILABLE`: as for an open circuit.
//!
//! # Events
//!
//! [`ThrottleEvent`]: refusals (counted, and logged once a second at most), and that it begins and ends to refuse.
//!
//! # Panics
//!
//! None of its own. A call that panics is not accepted.
//!
//! # Cancellation
//!
//! A call that is dropped counts as neither, unless it was dropped because an attempt timeout had passed: the service has had
//! its time.
//!
//! # Cost
//!
//! A healthy call reads the clock once, when it ends, and takes no lock; only the first in each tenth of the window does. A
//! refusal reads it once and draws a random number, and takes no lock either, unless there is a seed.

mod builder;
mod config;
mod future;
mod handle;
mod layer;
mod permit;
mod service;
mod shared;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use crate::error::Throttled;
pub use crate::event::ThrottleEvent;
pub use builder::ThrottleBuilder;
pub use config::ThrottleConfig;
pub use future::ThrottleFuture;
pub use handle::Throttle;
pub use layer::ThrottleLayer;
pub use permit::ThrottlePermit;
pub use service::ThrottleService;
pub use snapshot::{ThrottleSnapshot, ThrottleTotals};
