//! Named locks, exclusive or for n at once, that know who holds them, who waits, and for how long.
//!
//! # When to use it
//!
//! - To bound how much goes on at once: connections, GPU slots, calls of one tenant.
//! - To keep two pieces of work from touching the same thing at once.
//! - To *see*: who holds what, who waits for whom, how long it takes. A long wait is reported while it lasts.
//!
//! # When not
//!
//! - To bound a *rate*. Ten permits are ten at once, not ten a second.
//! - Between processes. It is a lock of this process; with the feature `redis`, `fleet::FleetLock` is one of many processes, and
//!   [`ContentionLayer`] takes it as well.
//! - Around a few lines of code that never wait: that is what a mutex is for.
//!
//! # A wait
//!
//! ```text
//!            free: at once                      released, in the order of arrival
//!  ask ───────────────────────────▶ permit ◀────────────────────────────┐
//!   │                                                                   │
//!   ├─▶ queue full, or no timeout ──▶ Contended           waiting ──────┤
//!   ├─▶ closed, or too few permits ─▶ Contended              │          ├─▶ timeout, deadline ─▶ Contended
//!   └───────────────────────────────▶ waiting                │          └─▶ deadlock, close ───▶ Contended
//!                                                            └─ contention_threshold: event, with the holders
//! ```
//!
//! # Inside
//!
//! ```text
//!  word     one atomic: how many permits, how many in use, whether anybody waits
//!  queue    a FIFO behind a mutex: who waits
//!  records  who holds what since when, in shards that are added when threads collide
//! ```
//!
//! A free permit is one compare-and-swap and one record. A refusal reads the word and counts itself. Permits never move
//! between the shards: each is free for everybody.
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
//! # More than one permit, lock or thing
//!
//! | for | there is |
//! |---|---|
//! | several permits at once | [`permits`](Acquire::permits), and [`weight`](ContentionLayer::weight) on the layer |
//! | several locks at once | [`acquire_all`], in one order for all callers |
//! | a lock for each key | [`LockMap`], bounded |
//! | a permit together with a connection or a client | [`ResourcePool`] |
//! | some who are more important than others | [`Priority`] |
//! | a queue that stays short under overload | [`Queue`]: CoDel, or the last first |
//! | a tenant that must not take all | [`max_per_holder`](ResourceLockBuilder::max_per_holder) |
//! | a number of permits that follows the service | [`adaptive`](ResourceLockBuilder::adaptive) |
//! | back-pressure in `poll_ready` | [`permit_in_poll_ready`](ContentionLayer::permit_in_poll_ready) |
//! | shutting down | [`close`](ResourceLock::close) and [`drained`](ResourceLock::drained) |
//!
//! # Who is the holder
//!
//! Whoever [`acquire`](ResourceLock::acquire) is given; [`acquire_here`](ResourceLock::acquire_here) takes the
//! [workflow] of the task, else the place in the source. In the layer: what `holder` takes from the request, else the
//! workflow, else a number. Holders are permits, not names: one name may hold several.
//!
//! # Deadlocks
//!
//! A wait that has lasted for `deadlock_timeout` (1 s) looks for a cycle of waits that no release can break, and looks
//! again each time that this passes, as PostgreSQL does. Of a cycle, the wait that would give up first is refused, with
//! the cycle; with [`OnDeadlock::Report`] it is only reported. Shorter waits cost nothing. A call that waits for a
//! resource of which it holds every permit itself is refused, or reported, at once.
//!
//! A false alarm would break a healthy program, so only what is certain counts:
//!
//! - What waits inside a call of a layer, or of [`run`](ResourceLock::run), keeps that call's permit from being released,
//!   whatever the names.
//! - A guard of [`acquire`](ResourceLock::acquire) belongs to its holder *in its task*: the same name in another task is
//!   somebody else. A name that holds permits of one resource by several acquisitions, or waits twice at once, proves
//!   nothing. Branches of *one* task that lock under one name (`join!`, `buffer_unordered`) look like one line of work:
//!   give each a name of its own, or use [`run`](ResourceLock::run), a layer or [`owned`](Acquire::owned) guards there.
//! - An owned guard, and a permit taken in `poll_ready`, may be anywhere, and prove nothing.
//!
//! What is not seen ends with its timeout: alternatives of a `select!` in which one branch could go on, some cycles in
//! which somebody waits for several permits, blocking waits inside of a call, and locks that are not of this crate.
//!
//! # Defaults
//!
//! | setting | default | because |
//! |---|---|---|
//! | `max_concurrent` | 1 | a lock is exclusive unless it is said otherwise |
//! | `timeout` | 30 s | every wait ends; it covers the wait, never the work |
//! | `contention_threshold` | 5 s | shorter waits are common |
//! | `hold_threshold` | off | how long is long depends on the work |
//! | `max_waiting` | as many as come | each waits for a bounded time |
//! | `deadlock_timeout` | 1 s | most waits are over by then, and pay nothing for the search |
//! | `on_deadlock` | `Refuse` | the wait could only end in its timeout |
//! | `queue` | first come, first served | fair, and what most expect |
//! | `max_per_holder`, `adaptive` | off | for locks that many tenants share, or whose right number nobody knows |
//!
//! # Events
//!
//! | event | level | when |
//! |---|---|---|
//! | `Contended` | `WARN` | somebody has waited for the threshold, and still waits |
//! | `Acquired` | `DEBUG` | a wait ended with a permit |
//! | `TimedOut` | `WARN` | a wait took too long, or the deadline came |
//! | `Abandoned` | `DEBUG` | a waiter went away |
//! | `QueueFull`, `Busy`, `Shed` | `INFO`, one a second at most | a refusal without a wait, or by an overloaded queue; the next one says how many were left out |
//! | `Deadlock` | `ERROR` | a wait was refused that could not have ended |
//! | `LongHold` | `WARN` | a permit is, or was, held for `hold_threshold` |
//! | `NotPolled` | `WARN` | a permit was granted to a future that nobody has polled for the threshold |
//! | `Closed` | `INFO` | [`close`](ResourceLock::close) |
//! | `CapacityChanged` | `INFO` | [`set_max_concurrent`](ResourceLock::set_max_concurrent) |
//!
//! Of refusals in quick succession one in four looks at the clock, so up to three that follow a burst are logged with the
//! next one.
//!
//! # When the caller goes away
//!
//! A waiter leaves the queue; one that had just been granted a permit passes it on. A call that is dropped gives its
//! permit back after it is gone. Both are counted. The permit of a layer is held until the response, not until the
//! end of its body.
//!
//! # Threads that block
//!
//! [`blocking`](Acquire::blocking) parks the thread. Its time runs on the real clock: a paused tokio clock cannot wake a
//! thread. On a thread that runs tasks it panics instead of waiting, as tokio's own blocking calls do.
//!
//! # What it costs
//!
//! A free permit: a compare-and-swap, a mutex of this thread's shard twice, and two readings of the clock, which are most
//! of it. A refusal without a wait: a look at the word and a count. Neither allocates, if the holder is a number or an
//! `Arc<str>`; who holds the permits is collected when somebody looks at the refusal. A wait takes its place in the queue
//! under one mutex, and makes a timer. An idle lock takes about 1 KB. A snapshot names at most 100 holders and 100
//! waiters, so that it keeps no caller waiting however many there are.
//!
//! # See also
//!
//! [The order of layers](crate::docs::order), [errors](crate::docs::errors), [`explain`](crate::explain).
//!
//! [workflow]: crate::workflow
mod acquire;
mod adaptive;
mod alarm;
mod all;
mod builder;
mod codel;
mod config;
mod core;
mod future;
mod graph;
mod guard;
mod handle;
mod layer;
mod lock_map;
mod owner;
mod permits;
mod poll_ready;
mod pool;
mod records;
mod request;
mod rules;
mod run;
mod service;
mod shadow;
mod snapshot;
#[cfg(test)]
mod tests;
mod wait;
mod word;

pub use crate::call::{Here, Holder};
pub use crate::error::TooManyKeys;
pub use crate::event::ContentionEvent;
pub use acquire::{Acquire, AcquireOwned};
pub use adaptive::{Adaptive, AdaptiveCapacity};
pub use all::{ResourceGuards, acquire_all};
pub use builder::ResourceLockBuilder;
pub use codel::Queue;
pub use config::{ContentionConfig, OnDeadlock};
#[cfg(feature = "http")]
pub(crate) use future::CallPermit;
pub use future::ContentionFuture;
pub use guard::{OwnedResourceGuard, ResourceGuard};
pub use handle::ResourceLock;
pub use layer::ContentionLayer;
pub use lock_map::LockMap;
pub use permits::Permits;
#[cfg(feature = "redis")]
pub(crate) use permits::sealed;
pub use pool::{Pooled, ResourcePool};
pub use request::{AmbientHolder, HolderWith, RankedBy, RequestHolder, WaitsUntil, WeighedBy};
pub use rules::Priority;
pub use service::ContentionService;
pub use shadow::ResourceShadow;
pub use snapshot::{ResourceSnapshot, ResourceStats, WaitEdge, WaiterInfo};

pub use crate::util::histogram::DurationSummary;
