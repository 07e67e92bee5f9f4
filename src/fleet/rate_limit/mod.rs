//! A rate limit that many processes share: a service that allows 1,000 calls a second gets 1,000, not 1,000 from each.
//!
//! # When
//!
//! The service counts what all your processes do together. A limit of each process's own would have to be a share, and the
//! shares of idle processes would be wasted.
//!
//! # When not
//!
//! One process: [`RateLimit`](crate::RateLimit) needs no store.
//!
//! ```
//! use tower_bulwark::fleet::Fleet;
//! use tower_bulwark::rate_limit::Quota;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fleet = Fleet::in_process(); // one process; the same interface
//! let limit = fleet
//!     .rate_limit("openai")
//!     .quota("requests", Quota::per_minute(500))
//!     .quota("tokens", Quota::per_minute(90_000))
//!     .build()?;
//!
//! // One request, and as many tokens as it may take; then what it took.
//! let reserved = limit.acquire([1, 2_000]).await?;
//! reserved.settle([1, 350]);
//! # Ok(())
//! # }
//! ```
//!
//! # Two ways to decide
//!
//! | | [`exact`](FleetRateLimitBuilder::exact) | [`leased`](FleetRateLimitBuilder::leased) |
//! |---|---|---|
//! | the store is asked | by each call | by each process, for a batch, at most once at a time |
//! | a call takes | one round trip | no round trip while there are tokens |
//! | order | first come, first served, in the whole fleet | within a process, and nobody overtakes those who wait; processes compete |
//! | largest cost | the burst | the burst, less what is earned in one lease |
//! | default for | less than 100 a second, or a short burst | 100 a second and more |
//!
//! In both, in no stretch of time by the clock of the store does more pass than the burst and what that time earns. A process
//! that is stopped between its admission and its call may make the call later.
//!
//! A refusal is remembered: for 100 ms, and no longer than until the time that the store has named, a process does not ask again for
//! as much. What others give back meanwhile is there for it after that, and what it gives back itself at once.
//!
//! # What the service says
//!
//! The [layer](FleetRateLimitLayer) learns from results as that of a local limit does.
//!
//! - [`settle`](FleetRateLimitLayer::settle), and `settle_later` over HTTP: what a call has not used comes back to the whole fleet,
//!   what it has used beyond its cost is owed by the whole fleet, up to one burst for each call. Each such call is a command to
//!   the store, in the background.
//! - [`pause_by`](FleetRateLimitLayer::pause_by), [`pause`](FleetRateLimit::pause): nobody passes until the time that the service
//!   has named. The process that hears it pauses at once: leased tokens are dropped, and turns that the store has given come
//!   later by as much, or are refused if that is after `max_wait`. The store gives no turn and no batch in a pause. It tells the
//!   other processes by a message: each asks how long the pause lasts, at once, or if it has done so just before within 100 ms.
//!   One that the message does not reach hears of it with the next answer of the store: when a call asks, when leased tokens
//!   are used up or over (100 ms), and at the latest after 5.5 s. Until then leased tokens are spent there, and turns that
//!   were given before come as they were given. In a pause nothing is earned, other than with a local limit: else those whose turns fall into it would all
//!   pass at its end.
//! - [`left_by`](FleetRateLimitLayer::left_by), [`left`](FleetRateLimit::left): no more is believed to be left in the whole fleet.
//!   Tokens that are leased at that moment can still be spent. The store is told only of what is less than there can be by its
//!   last answer.
//!
//! There is no `reset` and no `update`, as a local limit has: one process would change what all go by. A pause ends when its time is
//! over, and quotas change by a deploy.
//!
//! # While the store is away
//!
//! A call whose question is not answered within [`store_timeout`](FleetRateLimitBuilder::store_timeout) is decided by this
//! process's *share*: each quota divided by the number of processes that used the limit last, where each handle that was
//! built counts as a process. So are all calls after it, without asking, until the store answers a task that tries it every
//! 100 ms. Callers never get an error of the store.
//!
//! All shares together are the quota, and those who have been given a turn keep it as a part of them. A share has a burst of one
//! call at least: of a burst that is smaller than the number of processes each process has one. A call that costs more than
//! the share's burst is refused while the store is away. When the store is back, each process tells it what has passed
//! meanwhile and is not earned yet, and those who wait for a share ask the store instead. A pause that a process hears of
//! holds for its own share, and is told when the store is back.
//!
//! So a store that goes and comes back, however often, lets one burst more pass at most: two bursts, and what the time earns.
//! Besides that, a process that has not found out that the store is back, which takes it up to 100 ms, still goes by its share
//! while others take all there is.
//!
//! The number of processes is the largest that was said within the last 15 s: a store that comes back empty does not make a
//! process believe that it is alone. Until a process has heard from the store for 15 s without a gap, it goes by no
//! fewer than before, and at its beginning than [`expected_nodes`](FleetRateLimitBuilder::expected_nodes): those that begin, or
//! hear again, at the same time do not take a whole quota each.
//! More processes than that, as just after a scale-up, are more shares.
//!
//! # Not promised
//!
//! Processes that are cut off from the store while others are not go by their shares, and the others do not know: up to twice
//! the quota passes for as long as that lasts.
//!
//! A store that loses its data forgets what was used, and which turns it has given: up to one burst more passes, each time, and
//! those turns come beside what is given anew. A clock of the server that steps forward does the same; one that steps back lets
//! no more pass. What a process has told the store when it was back is forgotten if the answer does not come: it may have arrived,
//! and is not told twice.
//!
//! What a call gives back late ([`settle`](FleetReservation::settle)), or by going away before its turn, can be used at once: also
//! if it has been earned meanwhile, and beside turns that were given after it. So in any stretch of time as much more may pass
//! as was given back.
//!
//! While a process has not heard of a pause, its turns come beside those that others have moved: in any stretch of time as much
//! more may pass as the pause would have earned.

mod acquire;
mod beat;
mod builder;
mod core;
mod exact;
mod handle;
mod heard;
mod layer;
mod listener;
mod pool;
mod promised;
mod request;
mod reservation;
mod shared;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod words;

pub use acquire::FleetRateAcquire;
pub use builder::FleetRateLimitBuilder;
pub use handle::FleetRateLimit;
pub use layer::FleetRateLimitLayer;
pub use reservation::FleetReservation;
pub use snapshot::{FleetRateLimitSnapshot, FleetRateLimitTotals};
pub(super) use store::InProcess;
