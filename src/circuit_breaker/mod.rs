//! Stops calling a service that fails, and finds out by itself when it works again.
//!
//! # When to use it
//!
//! Around anything that can be *down*: another service, a database, a model provider. While it is down, calls are
//! refused at once instead of waiting for their timeouts, and the service can recover.
//!
//! # When not
//!
//! - For a service that is merely slow to some requests: a timeout is enough.
//! - For "too many at once": that is [`contention`](crate::contention).
//! - Around work that cannot fail together. A breaker judges *one* thing; have one for each host, each model, each
//!   database.
//!
//! # The states
//!
//! ```text
//!              too many failures                     the open time is over,
//!            or too many slow calls                    and a call comes
//!  CLOSED ─────────────────────────────▶  OPEN  ─────────────────────────────▶  HALF-OPEN
//!    ▲                                     ▲                                      │   │
//!    │                                     └────────── a probe failed ────────────┘   │
//!    └────────────────────────── enough probes succeeded ─────────────────────────────┘
//!
//!  by an operator:  FORCED OPEN (refuses all)   DISABLED (lets all through, counts nothing)
//!                   METRICS ONLY (lets all through, counts and reports what it would do)
//! ```
//!
//! # Example
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower_bulwark::ConfigError> {
//! use std::time::Duration;
//! use tower::{Layer, Service, ServiceExt, service_fn};
//! use tower_bulwark::circuit_breaker::{Recovery, Window};
//! use tower_bulwark::{CircuitBreaker, CircuitState, Error};
//!
//! let breaker = CircuitBreaker::builder("openai")
//!     .failure_rate(0.5, Window::calls(100))
//!     .slow_call_rate(0.8, Duration::from_secs(10))
//!     .recovery(Recovery::exponential(Duration::from_secs(5), 2.0, Duration::from_secs(60)).jitter(0.2))
//!     .build()?;
//!
//! let client = service_fn(|prompt: &'static str| async move { Ok::<_, std::io::Error>(prompt.len()) });
//! let mut service = breaker.layer().layer(client);
//! match service.ready().await.unwrap().call("hello").await {
//!     Ok(length) => assert_eq!(length, 5),
//!     Err(Error::CircuitOpen(open)) => println!("{open}"),
//!     Err(error) => println!("{error}"),
//! }
//! assert_eq!(breaker.state(), CircuitState::Closed);
//! # Ok(())
//! # }
//! ```
//!
//! Without tower: [`CircuitBreaker::call`], [`call_blocking`](CircuitBreaker::call_blocking), or
//! [`try_acquire`](CircuitBreaker::try_acquire) and a [`Permit`] that is settled by hand.
//!
//! # What counts
//!
//! An `Err` is a failure, an `Ok` a success, unless the layer is set up otherwise: `failure_if`, `ignore_if`,
//! `response_failure_if`, `classify_with`. With `failure_if`, an error that does not match is a success. *Ignored* results
//! change nothing, and give a probe's place back. Refusals of this crate below the breaker (a busy lock, another open
//! breaker) are always ignored.
//!
//! A breaker blames the service only for time at the service. While a call waits in this crate (in a lock's queue, in the
//! backoff of a retry below) its clocks stand still: that is no slow call, no lost probe, and no failure of a call that is
//! dropped meanwhile. A call that is cut by the *caller's own* deadline before it had the time that the policy gives an
//! attempt counts as cancelled. What is not seen: a wait in a branch that runs in no future of this crate; say
//! [`at_service`](crate::at_service) around such a branch.
//!
//! # Defaults
//!
//! | setting | default | because |
//! |---|---|---|
//! | `consecutive_failures` | 5, also beside a rate | a clear sign of an outage, and costs nothing to watch |
//! | `failure_rate`, `failure_count`, `slow_call_rate` | off | what is much depends on the service |
//! | window of the rates | last 100 calls | one failure is one percent |
//! | `minimum_calls` | 20 | fewer say little |
//! | `recovery_timeout` | 60 s | a restart takes about as long |
//! | `max_probes` | 1 | a service that recovers is not overloaded again |
//! | `success_threshold` | 2, out of as many | one good answer may be luck |
//! | `probe_timeout` | 30 s | a probe that takes longer has failed |
//! | `max_retry_after` | 300 s | the failure that opens the circuit may ask for longer than the policy, within this |
//! | `ramp` | off | most services take their full load at once |
//! | `cancelled_is_failure_after` | off | most callers that go away are no longer interested |
//!
//! Only a failure or a slow call opens a circuit: a fast success does not, although it may push an older success out of
//! the window. While traffic is let in gradually, the same rules apply.
//!
//! Calls that still run past the slow threshold are a gauge: the slow-call rate is (slow + overdue) / (calls + overdue),
//! and each counts for as long as it hangs. Below `minimum_calls` no rate is looked at: with a window of the last 100 calls
//! and a `minimum_calls` of 200, no rate could ever act, and building it is an error.
//!
//! The open time grows each time the circuit opens again, and starts again with the first once the circuit has stayed
//! closed for as long as it last was open: a host that flaps rests longer each time.
//!
//! # Events
//!
//! | event | level | when |
//! |---|---|---|
//! | `StateChanged` | `WARN` to open, else `INFO` | each change, with its cause and the numbers |
//! | `WouldChange` | `INFO` | the same, in metrics-only mode |
//! | `Rejected` | `INFO`, one a second at most | a refusal; the next one says how many were left out |
//! | `ProbeLost` | `WARN` | a probe outlived its lease |
//! | `Reset` | `INFO` | an operator's reset |
//!
//! # When the caller goes away
//!
//! The permit of the call is dropped: it counts as *cancelled*, gives back its place, and changes nothing else. It
//! is a failure only if the call was dropped by an attempt timeout of [`RetryLayer`](crate::RetryLayer) or after
//! `cancelled_is_failure_after`, or if it panicked. A call that ends after the state has changed is counted, and
//! changes nothing: permits carry the epoch they were given in.
//!
//! # In front of a balancer
//!
//! `poll_ready` asks whether a call would be refused and takes nothing; `call` takes. A refusal is the answer to a call,
//! never an error of `poll_ready`. [`pending_while_open`](CircuitBreakerLayer::pending_while_open) makes the service
//! pending instead, so that a balancer asks another replica.
//!
//! # What it costs
//!
//! A healthy call reads one shared word, and writes words of its own group of threads only: a reference count when
//! it starts and when it ends, and a counter of successes. No lock, no allocation, and no clock unless the policy
//! is about time: a window of time reads it once a call, slow calls twice. A refusal reads the clock and allocates
//! nothing. Failures, probes and changes take a lock for some nanoseconds; snapshots do too. An idle breaker takes at most
//! 1.3 KB, and a quarter of a byte for each call of a window of calls.
//!
//! # See also
//!
//! [The order of layers](crate::docs::order), [which pattern for which problem](crate::docs::choosing),
//! [errors](crate::docs::errors).
mod admitted;
mod builder;
mod config;
mod fast;
#[cfg(feature = "redis")]
mod fleet;
mod future;
mod group;
mod handle;
mod in_flight;
mod layer;
mod permit;
mod service;
mod shadow;
mod shared;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod wakers;

pub use crate::error::{Cause, CircuitState};
pub use crate::event::CircuitBreakerEvent;
pub use builder::CircuitBreakerBuilder;
pub use config::{CircuitBreakerConfig, Opening, Recovery, SlowCalls, Window, WindowCounts};
#[cfg(feature = "redis")]
pub(crate) use fleet::Watch;
pub use future::CircuitBreakerFuture;
pub(crate) use group::Group;
pub use handle::CircuitBreaker;
pub use layer::CircuitBreakerLayer;
pub use permit::Permit;
pub use service::CircuitBreakerService;
pub use shadow::CircuitBreakerShadow;
pub use snapshot::{CircuitBreakerSnapshot, CircuitBreakerTotals};
