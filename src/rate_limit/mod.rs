//! So many calls, tokens or bytes in so long: who comes too soon waits for its turn.
//!
//! # When
//!
//! Before a service that counts: an API with 500 requests and 90,000 tokens a minute. To run into its limit and retry costs
//! a call each time, and some services punish it. A limit of your own lets each call go when the service will take it.
//!
//! # When not
//!
//! Against too many calls *at once*: that is a number of permits, [`contention`](crate::contention). To share what is left
//! among tenants: a limit for each, with [`keyed`](crate::keyed). Across processes: each process has limits
//! of its own; with the feature `redis`, `fleet::FleetRateLimit` is one of many processes.
//!
//! ```text
//!                     tokens: 90,000 a minute
//! call, 1 request ──▶ [██████████████████░░░░]  both there ──▶ goes at once
//! and 2,000 tokens    requests: 500 a minute    one is not ──▶ waits in line, first come, first served
//!                     [███████████████░░░░░░░]  too long   ──▶ refused, with the exact time
//! ```
//!
//! ```
//! use std::time::Duration;
//! # use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::rate_limit::{Quota, RateLimit};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[derive(Clone)] struct Ask { prompt: &'static str }
//! # struct Reply { tokens: u64 }
//! # let client = service_fn(|ask: Ask| async move { Ok::<_, std::io::Error>(Reply { tokens: ask.prompt.len() as u64 }) });
//! let limit = RateLimit::builder("openai")
//!     .quota("requests", Quota::per_minute(500))
//!     .quota("tokens", Quota::per_minute(90_000))
//!     .build()?;
//!
//! let mut service = ServiceBuilder::new()
//!     .layer(
//!         limit
//!             .layer()
//!             .cost(|ask: &Ask| [1, 2 * ask.prompt.len() as u64]) // reserved before,
//!             .settle(|reply: &Reply| Some([1, reply.tokens])),   // corrected after
//!     )
//!     .service(client);
//! service.ready().await?.call(Ask { prompt: "Why is the sky blue?" }).await?;
//! assert_eq!(limit.snapshot().quotas[1].available, 90_000 - 20);
//! # Ok(())
//! # }
//! ```
//!
//! # How it counts
//!
//! By the generic cell rate algorithm (ITU-T I.371, Annex A): a quota is one number, no list of times. A whole
//! [burst](Quota::burst) can go at once, then one call each time that one is earned; there is no minute at whose turn twice
//! the quota could pass.
//!
//! - Several quotas are taken together or not at all.
//! - What a call costs can be corrected by its response: what is left over comes back, what was used beyond it is owed. Over
//!   HTTP also when the body has been read (`settle_later`, feature `http`).
//! - A caller that goes away while it waits gives its place to those behind; one that goes away while it waits for something below,
//!   such as a permit of a lock, has used nothing. A call that a layer below refuses has used
//!   nothing (one that it answers with a response of its own, only if [`pause_by`](RateLimitLayer::pause_by) ignores that). A call that was made stays counted, however it ended: the service has counted it too.
//! - A service that says when to come back ([`pause_by`](RateLimitLayer::pause_by)) pauses everybody, not one call; what it
//!   says is left ([`left_by`](RateLimitLayer::left_by)) is believed if it is less.
//!
//! - First come, first served: one that costs much is not overtaken by those that cost little.
//!
//! # Where it goes
//!
//! Inside the retry: each attempt is a call to the service, and takes its turn. Outside the breaker calls would wait only to
//! be refused; inside of it they are refused at once. A wait is no time at the service: attempt timeouts, slow-call clocks
//! and breakers around it do not count it. It respects the ambient [deadline](crate::deadline).
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`burst`](Quota::burst) | the amount | the known APIs let a fresh client use all of its minute at once |
//! | [`max_wait`](RateLimitBuilder::max_wait) | 30 s | as long as a caller has patience; who would wait longer is refused at once |
//! | [`max_waiting`](RateLimitBuilder::max_waiting) | none | each waits for a bounded time |
//! | [`max_pause`](RateLimitBuilder::max_pause) | 60 s | a service that is not well must not stop its callers for a day |
//!
//! # Events
//!
//! [`RateLimitEvent`]: refusals (counted, and logged once a second at most), waits, waiters that went away, pauses.
//!
//! # Precision
//!
//! tokio's timers have milliseconds: a call goes up to 2 ms after its turn. That is not lost: the next turn is counted from
//! when this one was due. In no stretch of time does more pass than the burst and what the stretch, 2 ms longer, earns.

mod acquire;
mod bucket;
mod builder;
mod config;
mod cost;
mod future;
mod handle;
mod layer;
mod limit;
mod limited;
mod quota;
mod request;
mod reservation;
mod service;
mod shadow;
mod shared;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod word;

pub use crate::error::{RateLimitReason, RateLimited};
pub use crate::event::RateLimitEvent;
pub use acquire::Acquire;
pub use builder::RateLimitBuilder;
pub use config::RateLimitConfig;
pub use cost::Cost;
pub use future::RateLimitFuture;
pub use handle::RateLimit;
pub use layer::RateLimitLayer;
pub use limit::Limit;
#[cfg(feature = "redis")]
pub(crate) use limit::sealed;
#[cfg(feature = "redis")]
pub(crate) use limited::run;
pub use quota::Quota;
#[cfg(feature = "redis")]
pub(crate) use request::Taken;
pub use request::{
    CallReservation, CostBy, Learn, LearnNothing, LeftBy, MadeCall, OneEach, PauseBy, PauseWith,
    RequestCost, SettleBy,
};
pub use reservation::Reservation;
pub use service::RateLimitService;
pub use shadow::RateLimitShadow;
pub use snapshot::{QuotaSnapshot, RateLimitSnapshot, RateLimitTotals};
