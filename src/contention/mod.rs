//! Named locks, exclusive or for n at once, that know who holds them, who waits, and for how long.
//!
//! # When to use it
//!
//! - To bound how much goes on at once: connections, GPU slots, calls of one tenant.
//! - To keep two pieces of work from touching the same thing at once.
//! - To *see*: who holds what, who waits for whom, how long it takes. A wait that lasts is told of while it lasts.
//!
//! # When not
//!
//! - To bound a *rate*. Ten permits are ten at once, not ten a second.
//! - Between processes. It is a lock of this process.
//! - Around a few lines of code that never wait: that is what a mutex is for.
//!
//! # A wait
//!
//! ```text
//!            free: at once                      released, in the order of arrival
//!  ask ───────────────────────────▶ permit ◀────────────────────────────┐
//!   │                                                                   │
//!   ├─▶ queue full, or no patience ─▶ Contended           waiting ──────┤
//!   ├─▶ would wait for itself ──────▶ Contended              │          ├─▶ timeout, deadline ─▶ Contended
//!   └───────────────────────────────▶ waiting                └─ threshold: told, with the holders' names
//! ```
//!
//! # Example
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_bulwark::ResourceLock;
//!
//! let gpu = ResourceLock::builder("gpu")
//!     .max_concurrent(2)
//!     .timeout(Duration::from_secs(10))
//!     .contention_threshold(Duration::from_secs(1))
//!     .build()?;
//!
//! // By hand:
//! let guard = gpu.acquire("job-17").await?;
//! assert_eq!(gpu.snapshot().holders[0].holder.to_string(), "job-17");
//! drop(guard);
//!
//! // Around an operation:
//! let answer = gpu.run("job-18", || async { Ok::<_, std::io::Error>(42) }).await?;
//!
//! // As a layer, with the holder taken from the request:
//! let service = gpu
//!     .layer()
//!     .holder(|job: &u64| *job)
//!     .layer(service_fn(|job: u64| async move { Ok::<_, std::io::Error>(job) }));
//! assert_eq!(service.oneshot(19).await?, 19);
//! # assert_eq!(answer, 42);
//! # Ok(())
//! # }
//! ```
//!
//! # Who is the holder
//!
//! Whoever [`acquire`](ResourceLock::acquire) is told. In the layer: what `holder` takes from the request, else the
//! [workflow] of the task, else a number. Holders are permits, not names: one name may hold several.
//!
//! # Deadlocks
//!
//! A wait that no release could ever end is refused at once, with the cycle. A false alarm would be worse than a
//! timeout, so only what is certain counts:
//!
//! - What waits inside a call of a layer, or of [`run`](ResourceLock::run), keeps that call's permit from being released,
//!   whatever the names.
//! - A guard of [`acquire`](ResourceLock::acquire) belongs to its holder *in its task*: the same name in another task is
//!   somebody else. A name that holds several permits of one resource, or waits twice at once, proves nothing.
//!   Branches of *one* task that lock under one name (`join!`, `buffer_unordered`) cannot be told from one line of work:
//!   give each a name of its own, or use [`run`](ResourceLock::run), a layer or
//!   [`acquire_owned`](ResourceLock::acquire_owned) there.
//! - An owned guard may be anywhere, and proves nothing.
//!
//! # Defaults
//!
//! | setting | default | because |
//! |---|---|---|
//! | `max_concurrent` | 1 | a lock is exclusive unless it is said otherwise |
//! | `timeout` | 30 s | every wait ends; it covers the wait, never the work |
//! | `contention_threshold` | 5 s | shorter waits are everyday life |
//! | `hold_threshold` | off | how long is long depends on the work |
//! | `max_waiting` | as many as come | each waits for a bounded time |
//!
//! # Events
//!
//! | event | level | when |
//! |---|---|---|
//! | `Contended` | `WARN` | somebody has waited for the threshold, and still waits |
//! | `Acquired` | `DEBUG` | a wait ended with a permit |
//! | `TimedOut` | `WARN` | a wait took too long, or the deadline came |
//! | `Abandoned` | `DEBUG` | a waiter went away |
//! | `QueueFull` | `WARN` | `max_waiting` were waiting already |
//! | `Deadlock` | `ERROR` | a wait was refused that could not have ended |
//! | `LongHold` | `WARN` | a permit is, or was, held for `hold_threshold` |
//! | `CapacityChanged` | `INFO` | [`set_max_concurrent`](ResourceLock::set_max_concurrent) |
//!
//! # When the caller goes away
//!
//! A waiter leaves the queue; one that had just been given a permit passes it on. A call that is dropped gives its
//! permit back after it is gone. Both are counted. The permit of a layer is held until the response, not until the
//! end of its body.
//!
//! # What it costs
//!
//! A free permit: a mutex that is held for some nanoseconds, taken twice, and two readings of the clock. Nothing is
//! allocated if the holder is a number or an `Arc<str>`. Memory is constant: some 5 KiB of histograms, a quarter of
//! a KiB for each core (64 at most), and a place for each permit in use and each waiter.
//!
//! The permits of a lock that has many (from 8 for each core on) are kept apart for groups of threads, each behind a
//! mutex of its own with statistics of its own, so that threads seldom meet. It is first come, first served all the
//! same: as soon as somebody finds nothing, what is free is brought together, and stays so while anybody waits.
//!
//! # See also
//!
//! [The order of layers](crate::docs::order), [errors](crate::docs::errors), [`explain`](crate::explain).
mod acquire;
mod alarm;
mod all;
mod builder;
mod config;
mod core;
mod future;
mod graph;
mod guard;
mod handle;
mod layer;
mod lock_map;
mod owner;
mod poll_ready;
mod pool;
mod records;
mod request;
mod run;
mod service;
mod snapshot;
#[cfg(test)]
mod tests;
mod wait;
mod word;

pub use crate::call::{Here, Holder};
pub use crate::event::ContentionEvent;
pub use acquire::{Acquire, AcquireOwned};
pub use all::{ResourceGuards, acquire_all};
pub use builder::ResourceLockBuilder;
pub use config::{ContentionConfig, OnDeadlock};
#[cfg(feature = "http")]
pub(crate) use future::CallPermit;
pub use future::ContentionFuture;
pub use guard::{OwnedResourceGuard, ResourceGuard};
pub use handle::ResourceLock;
pub use layer::ContentionLayer;
pub use lock_map::{LockMap, TooManyKeys};
pub use pool::{Pooled, ResourcePool};
pub use request::{AmbientHolder, HolderWith, RequestHolder, WaitsUntil, WeighedBy};
pub use service::ContentionService;
pub use snapshot::{ResourceSnapshot, ResourceStats, WaitEdge, WaiterInfo};

pub use crate::util::histogram::DurationSummary;
