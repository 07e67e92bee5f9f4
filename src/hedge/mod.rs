//! Calls once more, beside a call that takes long, and takes the answer that comes first.
//!
//! # When
//!
//! For reads of which a few take much longer than most, for reasons that a second attempt does not share: a busy replica, a
//! pause of a garbage collector, a lost packet. One call in twenty is then made twice, and the slowest are as fast as the
//! others. The rule is that of Dean and Barroso, *The Tail at Scale* (2013): send the second request when the first has taken
//! longer than 95 % of them do.
//!
//! # When not
//!
//! - For work that must not be done twice. A request that is not [idempotent](crate::Idempotency) is never hedged.
//! - Where all calls are slow because there is too much to do: hedges add to it. The budget bounds how much.
//! - After failures: that is a [`retry`](crate::retry). A hedge starts because there is no answer yet.
//!
//! ```text
//!           delay          first answer
//! attempt 1 ──┬──────────────────────────────▷ dropped
//!             │ no answer yet: ready? budget? may be done twice?
//! attempt 2   └───────▶ answer ──▶ caller
//! ```
//!
//! # Example
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower_bulwark::ConfigError> {
//! use std::time::Duration;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_bulwark::{Hedge, RetryBudget};
//!
//! let budget = RetryBudget::new(0.1)?; // One for retries and hedges.
//! let hedge = Hedge::builder("reads")
//!     .after_percentile(0.95)
//!     .at_least(Duration::from_millis(20))
//!     .max_extra(1)
//!     .budget(&budget)
//!     .build()?;
//!
//! let service = hedge
//!     .layer()
//!     .layer(service_fn(|key: u32| async move { Ok::<_, std::io::Error>(key + 1) }));
//! assert_eq!(service.oneshot(41).await.unwrap(), 42);
//!
//! // Without tower:
//! let answer = hedge.run(|_attempt| async { Ok::<_, std::io::Error>(42) }).await;
//! # assert_eq!(answer.unwrap(), 42);
//! # Ok(())
//! # }
//! ```
//!
//! # When a hedge starts
//!
//! When the newest attempt has been at the service for the delay, and there is no answer. The delay is fixed
//! ([`after`](HedgeBuilder::after)), or follows the latencies of the last 30 to 60 seconds
//! ([`after_percentile`](HedgeBuilder::after_percentile)). It is computed anew ten times a second at most, and is up to an
//! eighth above the true value. Until [`min_samples`](HedgeBuilder::min_samples) calls are known there is no hedge, or a fixed
//! delay.
//!
//! A sample is the time of a first attempt, of a call that may be hedged, that succeeded, or that was overtaken: it took at least so long. A call that is
//! ready when it is first polled is none. Failures are none.
//!
//! A hedge does not start if
//!
//! - the [deadline](crate::deadline) is over by then,
//! - the budget is empty: hedges that run go on,
//! - the service below is not ready for it at once (a `ConcurrencyLimit` that is full),
//! - a layer below refuses it (an open circuit), or it would have to wait in one (a lock that is full, a rate limit),
//! - the request cannot be copied. One with a streaming body (`http::ReplayBody`) is hedged once it has been sent to its end.
//!
//! Its turn is over then, and the next comes a delay later, if [`max_extra`](HedgeBuilder::max_extra) allows one. With an empty
//! budget there is no other turn. What did not start is not paid for, unless the budget is one of tower's, which take nothing
//! back.
//!
//! # Which answer wins
//!
//! The first that the [classifier](HedgeLayer::classify) deems a success, or a failure that another attempt may not better. A
//! failure that may be tried again does not win while another attempt runs; a refusal of a layer of this crate never does. If
//! all fail the caller gets the last failure of the service, as it is. A refusal that a layer below turns into a response
//! (`reject_with`) is a response like any other: put such layers outside.
//!
//! A failure starts no hedge, unless [`hedge_failures`](HedgeBuilder::hedge_failures) says so: then the next attempt starts at
//! once, or when the service wants it, and a service that wants none gets none. That is the rule of
//! [gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md#hedging-policy).
//!
//! # Where it goes
//!
//! Inside the retry, outside everything else: `Retry( Hedge( CircuitBreaker( RateLimit( Contention( client )))))`. Each hedge
//! is then a call that the breaker may refuse, the rate limit counts and the lock has a permit for. Around a retry hedges and
//! retries multiply. [`explain`](crate::explain) warns of both.
//!
//! # Defaults
//!
//! | setting | default | because |
//! |---|---|---|
//! | `percentile` | 0.95 | one call in twenty is made twice; Dean and Barroso found 2 to 5 % more load to take most of the tail |
//! | `after` | none | what is long depends on the service |
//! | `min_samples` | 100 | below that a 95th percentile is one of five values |
//! | `at_least` | 10 ms | where calls take less there is little to gain, and timers have milliseconds |
//! | `max_extra` | 1 | a second hedge gains little where the first does not help |
//! | `hedge_failures` | no | what calls again after failures is a retry |
//! | `budget` | a tenth of its own traffic, one a second, ten saved | when all calls get slow, every one is slower than the recent ones |
//!
//! # Events
//!
//! | event | level | when |
//! |---|---|---|
//! | `Started` | `DEBUG` | a hedge has begun |
//! | `Won` | `DEBUG` | its answer is the caller's |
//! | `NotStarted` | `INFO`, one a second | it was due, and there is none |
//!
//! A hedge that is withdrawn from the queue of a lock, or refused by a breaker, is counted there too, as abandoned or refused.
//!
//! # Errors
//!
//! None of its own. [`Error::Inner`](crate::Error::Inner) is the service's own error; refusals of layers below come as they are.
//! [`build`](HedgeBuilder::build) and [`update`](Hedge::update) name the setting that cannot work.
//!
//! # Panics
//!
//! A panic in one attempt goes to the caller, as it does without a hedge; the other attempts are dropped with the call. The
//! delay needs the timer of a tokio runtime: where there is none, a call that has to wait panics.
//!
//! # Deadlines, and time that is nobody's fault
//!
//! The delay counts time at the service: while the newest attempt waits for a permit or its turn, it stands still, and such
//! waits are no part of a latency. While a call waits for its hedge it is at the service: attempt timeouts and slow-call clocks
//! of layers around it go on.
//!
//! # Cancellation
//!
//! At the first answer all other attempts are dropped, before the caller has it: their permits are back. To a breaker below a
//! loser is *cancelled*: neither failure nor success, unless it was there for longer than the breaker's own
//! `cancelled_is_failure_after`. Dropping the call drops all attempts. There are no tasks.
//!
//! A server may go on with what was dropped. That is part of the price of a hedge.
//!
//! # What it costs
//!
//! A call that may be hedged: a copy of the request, a reference count, two counters. If it has to wait: one reading of the
//! clock and a timer; another reading at its end if the delay follows latencies, and a lock of this thread's shard. No
//! allocation before a hedge starts; each hedge is one. A request that may not be sent twice costs a counter and a reference
//! count.
//!
//! # See also
//!
//! [The order of layers](crate::docs::order), [`RetryBudget`](crate::RetryBudget), [`explain`](crate::explain).
mod builder;
mod config;
mod future;
mod handle;
mod latency;
mod layer;
mod mark;
mod run;
mod runner;
mod service;
mod shared;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use crate::event::{HedgeEvent, NotHedged};
pub use builder::HedgeBuilder;
pub use config::HedgeConfig;
pub use future::HedgeFuture;
pub use handle::Hedge;
pub use layer::HedgeLayer;
pub use mark::{MarkAnswer, MarkWith, NoMark};
pub use runner::Hedged;
pub use service::HedgeService;
pub use snapshot::{HedgeSnapshot, HedgesNotStarted};
