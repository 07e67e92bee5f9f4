//! A lock that many processes share: exclusive, or for n holders at once in the whole fleet.
//!
//! # When
//!
//! A machine takes eight jobs whoever sends them, an account is changed by one process at a time, a service allows so many
//! calls at once for all of you together.
//!
//! # When not
//!
//! One process: [`ResourceLock`](crate::ResourceLock) needs no store, and no clock to trust. Where two holders at once would
//! destroy something and the resource cannot check a [`Fence`]: no lock with leases is enough for that.
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_bulwark::fleet::Fleet;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # async fn train(_: tower_bulwark::fleet::Fence) {}
//! let fleet = Fleet::in_process(); // one process; the same interface
//! let gpu = fleet
//!     .lock("gpu")
//!     .max_concurrent(8)
//!     .lease(Duration::from_secs(10))
//!     .build()?;
//!
//! let guard = gpu.acquire("job-1").await?;
//! let fence = guard.fence().expect("the store is not away");
//! tokio::select! {
//!     () = train(fence) => {}
//!     reason = guard.lost() => eprintln!("stopped: {reason}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! A permit is a *lease*: the store takes it back when it ends, and the process renews it at a third of its time for as long as
//! the guard lives. Whoever gives a permit back hands it to the first in the queue, and the store tells that process. A
//! message that is lost costs a second: who waits asks again.
//!
//! # Promised
//!
//! By the clock of one primary server:
//!
//! - At most `max_concurrent` leases at any moment.
//! - First come, first served, among all who are in the queue of the store and are alive.
//! - A holder that dies frees its permit when its lease ends; a waiter that dies leaves the queue within 4 s.
//! - Of each slot the [token](Fence::token) only rises, also after a failover and after a loss of all data, unless the clock of the
//!   server goes back at the same time.
//!
//! # Not promised
//!
//! - That a holder knows at every moment that its lease has ended. A process that is suspended, or a machine, goes on where it
//!   was. [`lost`](FleetGuard::lost) tells it as soon as it runs; what it writes before is refused only by a resource that
//!   checks the fence.
//! - Exclusion while the clock of the server jumps forward.
//! - Exclusion across a failover: a replica that is promoted may not know of the last leases. With
//!   [`grace`](FleetLockBuilder::grace) those who hold permits keep them, and others wait for one lease. A primary that is cut
//!   off and goes on by itself is not found out: set `min-replicas-to-write`.
//! - That deadlocks between processes are found. The [search](crate::contention) looks at the locks of one process, and not
//!   at shared ones. A [`timeout`](FleetLockBuilder::timeout) ends them.
//!
//! # While the store is away
//!
//! Nobody is admitted: [`Contended`](crate::Contended), with
//! [`Unavailable`](crate::ContendedReason::Unavailable), at once when that is known. What is held is held until its lease
//! ends by the clock of the process. [`local`](FleetLockBuilder::local) lets each process admit some of its own meanwhile.
//!
//! # As a layer
//!
//! A [`ContentionLayer`](crate::ContentionLayer) takes a `FleetLock` in place of a [`ResourceLock`](crate::ResourceLock), and can
//! put the [fence](crate::ContentionLayer::fence_into) into the request.

mod acquire;
mod agent;
mod builder;
mod core;
mod counts;
mod entry;
mod guard;
mod handle;
mod layer;
mod lease;
mod op;
mod owner;
mod refused;
mod scripts;
mod settings;
mod shared;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod waiter;
mod wire;
mod zset;

pub use acquire::FleetAcquire;
pub use builder::FleetLockBuilder;
pub use guard::FleetGuard;
pub use handle::FleetLock;
pub use layer::{Fenced, FleetLockFuture, FleetLockLayer, FleetPermits, PutFence};
pub use lease::{Fence, LostReason};
pub use snapshot::{FleetHolder, FleetLockSnapshot, FleetWaiter};
pub(super) use store::InProcess;
