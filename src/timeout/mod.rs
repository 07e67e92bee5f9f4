//! So long for each part of a call: to be ready, to answer, for the first frame, between frames, for all of it.
//!
//! # When
//!
//! Around anything that can hang. One number for all of it is too long for a connection that is dead, and too short for a
//! stream that is fine: a model answers with a head at once, thinks for half a minute, and then sends a token every few
//! milliseconds for minutes. Each part has a limit of its own, and the error says which one it was.
//!
//! # When not
//!
//! To wait for a permit or for a turn: that is bounded by the `timeout` of a lock and the `max_wait` of a rate limit, and is
//! nobody's fault. For retries without a layer of their own: `attempt_timeout` and `total_timeout` of the
//! [policy](crate::RetryPolicy) do what `head` and `total` do here.
//!
//! ```text
//!   poll_ready         call                    head    frame           frame           end
//!       │─── ready ─────│─────── head ──────────│─ first ─│──── idle ─────│──── idle ─────│
//!       │               │─────────────────────────── total ──────────────────────────────│
//! ```
//!
//! ```
//! use std::time::Duration;
//! # use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::{CircuitBreaker, Error, RetryPolicy, TimeoutPhase, Timeouts};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let client = service_fn(|_: u32| std::future::pending::<Result<u32, std::io::Error>>());
//! let timeouts = Timeouts::builder("openai")
//!     .total(Duration::from_secs(40))
//!     .ready(Duration::from_secs(5))
//!     .head(Duration::from_secs(10))
//!     .build()?;
//!
//! let service = ServiceBuilder::new()
//!     .layer(timeouts.layer().only_total()) // for all attempts together
//!     .layer(RetryPolicy::new().layer())
//!     .layer(CircuitBreaker::new("openai").layer())
//!     .layer(timeouts.layer().without_total()) // for each attempt
//!     .service(client); // hangs
//!
//! match service.oneshot(7).await {
//!     Err(Error::Exhausted(gave_up)) => println!("{gave_up}"),
//!     Err(Error::TimedOut(late)) => assert_eq!(late.phase(), TimeoutPhase::Total),
//!     other => panic!("{other:?}"),
//! }
//! assert_eq!(timeouts.snapshot().timed_out.head, 3);
//! # Ok(())
//! # }
//! ```
//!
//! Alone: [`Timeouts::run`]. With the phases of a body: `http_layer` (feature `http`).
//!
//! # The phases
//!
//! | phase | from | to | counts |
//! |---|---|---|---|
//! | [`ready`](TimeoutsBuilder::ready) | the first `poll_ready` that is pending | ready | all of it |
//! | [`head`](TimeoutsBuilder::head) | the first poll that is pending | the response | the time at the service: waits of this crate below do not count |
//! | [`first_frame`](TimeoutsBuilder::first_frame) | somebody waits for it | the first frame of the body | only while it is waited for: a slow reader is not the sender's fault |
//! | [`idle`](TimeoutsBuilder::idle) | somebody waits for it | each later frame | the same |
//! | [`total`](TimeoutsBuilder::total) | the call | the response; with `http_layer` the end of its body | all of it |
//! | [`end_at_deadline`](TimeoutsBuilder::end_at_deadline) | | the same | up to the ambient [deadline](crate::deadline) |
//!
//! `first_frame` and `idle` are two settings, and none is the other's default. Time to the first token and silence between
//! tokens differ by a factor of ten or more.
//!
//! `total` opens the ambient [deadline](crate::deadline) for everything below: a retry does not sleep past it, and no lock or
//! rate limit makes a call wait longer. So a call often ends a little before `total`, with the error that says what really
//! went wrong.
//!
//! # Whose fault it is
//!
//! | phase | a breaker around it | a breaker below it | a retry around it |
//! |---|---|---|---|
//! | `ready` | counts nothing: the call never left | was not called | as a refusal: only with `retry_rejections(true)`, whatever the method is |
//! | `head` | a failure | a failure | tries again what may be done twice |
//! | `first_frame`, `idle` | a failure, if it goes `until_body_end` | the same | has ended with the head |
//! | `total`, `deadline` | counts nothing | cancelled: counts nothing | hands it on |
//!
//! A call that waits for something of this crate when its time is over is nobody's failure, whatever the phase.
//!
//! With nothing but a `total`, a service that hangs is never blamed, and no breaker opens: give it a `head` too, a shorter one.
//! [`explain`](crate::explain) warns of one that is no shorter.
//!
//! A body that `total` or the deadline ends leaves the call what its head was, on either side of a breaker that goes
//! `until_body_end`.
//!
//! # Where it goes
//!
//! `total` outside the retry ([`only_total`](TimeoutLayer::only_total)), everything else inside of it
//! ([`without_total`](TimeoutLayer::without_total)): inside or outside of breaker, rate limit and lock makes no difference to
//! `head`, because their waits do not count. One handle makes both layers.
//!
//! # Defaults
//!
//! There is none: no number is right for a database, a web service and a model. What is not set does not end. A limit of zero,
//! and no limit at all, are errors of the builder.
//!
//! For a model that streams: 5 s `ready`, 20 s `head`, 60 s `first_frame`, 30 s `idle`, 5 min `total`. For an API within a data
//! center: 1 s `head`, 5 s `total`.
//!
//! # Errors
//!
//! [`Error::TimedOut`](crate::Error::TimedOut), with the name, the [phase](TimeoutPhase), the limit, and how long it took. Only
//! `ready` is a [rejection](crate::Rejection): the service was not called. As a response of HTTP (`problem`) it is a `503`,
//! every other phase a `504`; as a status of gRPC `UNAVAILABLE` and `DEADLINE_EXCEEDED`. There is no `retry_after`: nobody can
//! say when a service that hangs will not. A body ends with `http::BodyError::TimedOut`.
//!
//! # Events
//!
//! [`TimeoutEvent::TimedOut`], whose kind is the phase: counted, and logged once a second at most.
//!
//! # Panics
//!
//! Outside a tokio runtime with its timer, if a call is not ready at once.
//!
//! # Cancellation
//!
//! A call that takes too long is dropped, and with it everything it holds, before the error is handed out. Permits below learn
//! why. To drop the future of the layer drops the call, and counts as no timeout.
//!
//! # Cost
//!
//! No timer, and no allocation, before a call is first pending. A call that is ready at once reads no clock, unless there is a
//! `total`, or with `http_layer` a deadline that ends its body. With a `total` the clock is read when the call begins and when it
//! ends, and how long it took is recorded: some 35 ns of the 88 ns of a call that is ready at once. The timer is polled outside of tokio's cooperative budget: a call that uses it up is ended all the same. tokio's
//! timers have milliseconds: a call may go on for up to 2 ms longer.

#[cfg(feature = "http")]
mod body;
mod builder;
mod config;
mod future;
mod handle;
mod layer;
mod service;
mod shared;
mod snapshot;
mod state;

pub use crate::error::{TimedOut, TimeoutPhase};
pub use crate::event::TimeoutEvent;
#[cfg(feature = "http")]
pub(crate) use body::BodyTimeouts;
pub use builder::TimeoutsBuilder;
pub use config::TimeoutConfig;
pub use future::TimeoutFuture;
pub use handle::Timeouts;
pub use layer::TimeoutLayer;
pub use service::TimeoutService;
pub use snapshot::{TimeoutTotals, TimeoutsSnapshot};
