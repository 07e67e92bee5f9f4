//! A circuit breaker that many processes share: what one process has found out the others need not find out again.
//!
//! # When
//!
//! Many processes call the same service. Each would need its own failures to open, or never has enough of them; each would
//! probe a service that is just coming back.
//!
//! # When not
//!
//! The processes see different services under one name, such as a sidecar each.
//!
//! ```
//! use tower_bulwark::CircuitBreaker;
//! use tower_bulwark::fleet::Fleet;
//! use tower_bulwark::fleet::breaker::SharedBreaker;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fleet = Fleet::in_process(); // one process; the same interface
//! let breaker = CircuitBreaker::new("openai");
//! let share = fleet.share(&breaker, SharedBreaker { min_nodes: 3, ..SharedBreaker::default() })?;
//! // Use `breaker` as ever, and keep `share`.
//! # drop(share);
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! The local breaker decides, by its own rules, without asking anybody. A task beside it reports its counts. All breakers of
//! the fleet open
//!
//! - when [`min_nodes`](SharedBreaker::min_nodes) of them have opened by themselves within the
//!   [`window`](SharedBreaker::window), or
//! - when the calls of all together fail at [`failure_rate`](SharedBreaker::failure_rate), and as many processes have seen
//!   failures.
//!
//! They are then open because of [`Cause::Fleet`](crate::circuit_breaker::Cause::Fleet). When the time is over, the first
//! process that is called asks for the right to probe. One has it; the breakers of the others stay open. It probes by the
//! rules of its own breaker, and all close, or stay open, as that one does. A call that waits for the circuit in `poll_ready`
//! ([`pending_while_open`](crate::circuit_breaker::CircuitBreakerLayer::pending_while_open)) is a call.
//!
//! A process that dies while it probes, is stopped, or is called no more, loses the right: after a second if no probe has begun,
//! else about [`probe_timeout`](crate::circuit_breaker::CircuitBreakerConfig::probe_timeout) after it was last called. One whose
//! probes find nothing out, because a lock or a limit of its own refuses them, loses it after twice that time at most, and one
//! whose breaker an operator takes over within a second or two. What it finds later changes nothing.
//!
//! An operator's command is for the process to which it was given, and goes before what the fleet finds: a breaker that is
//! forced open or disabled stays so, one that was opened for a time stays open for that time at least, and what is done to the
//! one that probes is no result of the probe. A breaker that an operator closes while the fleet is open lets its calls through;
//! if they succeed when the time is over, the fleet closes.
//!
//! # While the store is away
//!
//! Each breaker goes on by itself: it opens, probes and closes as if it were alone, and rejoins when the store answers. What
//! was counted meanwhile is not reported. What a breaker has found by itself stays, also if the fleet has opened and closed
//! meanwhile, and is told when the store answers.
//!
//! A store that comes back empty does not know that the fleet was open. Each breaker then stays open until its time is over,
//! and probes for itself. Numbers of changes never go back: what is found from then on is shared as before.
//!
//! # Costs
//!
//! Calls cost what they cost without. A process asks the store about eight times a second while there are calls, whatever their
//! number, and at once when its breaker opens; in no second more than ten times. A change of the fleet is told by a message, and
//! costs no question. While there are no calls a process asks only when messages may have been lost.

mod agent;
mod core;
mod counted;
mod handle;
mod pace;
mod probing;
mod shared;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

pub use handle::{BreakerShare, SharedBreaker};
pub use snapshot::SharedBreakerSnapshot;
pub(super) use store::InProcess;
