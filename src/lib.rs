//! Resilience middleware for [tower]: **retry**, **circuit breaker**, **resource contention detection**, **rate limits**,
//! **timeouts**, **hedges** and **fallbacks**, as `Layer`/`Service` pairs for any tower service, and as plain functions around
//! any async code.
//!
//! ```text
//! request ──▶ Retry ──▶ CircuitBreaker ──▶ Contention ──▶ your client
//!             again,     not at all,        not too many
//!             later      while it is down   at once
//! ```
//!
//! ```
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::{CircuitBreaker, Error, ResourceLock, RetryPolicy};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let client = service_fn(|prompt: &'static str| async move { Ok::<_, std::io::Error>(prompt.len()) });
//!
//! let mut service = ServiceBuilder::new()
//!     .layer(RetryPolicy::new().layer())
//!     .layer(CircuitBreaker::new("openai").layer())
//!     .layer(ResourceLock::new("openai-slot").layer())
//!     .service(client);
//!
//! match service.ready().await.unwrap().call("hello").await {
//!     Ok(length) => assert_eq!(length, 5),
//!     Err(Error::CircuitOpen(open)) => println!("come back in {:?}", open.retry_after()),
//!     Err(error) => println!("{error}"),
//! }
//! # }
//! ```
//!
//! | pattern | handle | layer | alone |
//! |---|---|---|---|
//! | [`retry`] | [`RetryPolicy`] | [`RetryLayer`] | [`run`](RetryPolicy::run), [`run_blocking`](RetryPolicy::run_blocking) |
//! | [`circuit_breaker`] | [`CircuitBreaker`] | [`CircuitBreakerLayer`] | [`call`](CircuitBreaker::call), [`try_acquire`](CircuitBreaker::try_acquire) |
//! | [`contention`] | [`ResourceLock`] | [`ContentionLayer`] | [`run`](ResourceLock::run), [`acquire`](ResourceLock::acquire) |
//! | [`rate_limit`] | [`RateLimit`] | [`RateLimitLayer`](rate_limit::RateLimitLayer) | [`run`](RateLimit::run), [`acquire`](RateLimit::acquire) |
//! | [`hedge`] | [`Hedge`] | [`HedgeLayer`](hedge::HedgeLayer) | [`run`](Hedge::run) |
//! | [`fallback`] | [`Fallback`] | [`FallbackLayer`](fallback::FallbackLayer) | |
//! | [`throttle`] | [`Throttle`] | [`ThrottleLayer`](throttle::ThrottleLayer) | [`run`](Throttle::run), [`try_acquire`](Throttle::try_acquire) |
//! | [`timeout`] | [`Timeouts`] | [`TimeoutLayer`](timeout::TimeoutLayer) | [`run`](Timeouts::run) |
//!
//! Faults on purpose, for tests and drills: [`chaos`]. All of them around one service, in one call: [`stack`]. An instance for each key (host, tenant, model): [`keyed`].
//!
//! A *handle* is a cheap clone of shared, named state. Keep it: it is where you look ([`snapshot`]) and what you
//! command. A *layer* holds a handle, so it may be applied as often as a router likes.
//!
//! Around the patterns:
//!
//! - [`Error<E>`](Error): one flat error for every stack, with your service's own error inside. How to match it:
//!   [`docs::errors`].
//! - [`docs::order`]: in which order to put the layers, and why; [`explain`] checks it by machine.
//! - [`docs::choosing`]: which pattern for which trouble, and which numbers to start with.
//! - [`Registry`]: handles by name, a snapshot of everything, a feed of recent events.
//! - [`observe`]: logs, metrics, observers. [`deadline`]: one deadline for every wait. [`workflow`]: one id for
//!   everything that is done for one piece of work.
//! - `http` and `grpc` (features of these names): what a `429`, a `GOAWAY` or a `RESOURCE_EXHAUSTED` means to each
//!   layer, which requests may be done twice, when a server wants to be asked again, bodies that can be sent again,
//!   and calls that end with their bodies.
//! - `fleet` (feature `redis`): breakers, locks and rate limits that many processes share, through Redis or Valkey.
//! - [`docs::operations`]: for whoever is paged. [`docs::metrics`]: every name, unit and label.
//! - `config` and `dashboard` (features of these names): settings in a file that is applied as it changes, and a page that shows
//!   what is refused and why.
//! - [`docs::testing`]: every wait follows tokio's clock, so pause it.
//!
//! [`snapshot`]: CircuitBreaker::snapshot
//! [tower]: https://docs.rs/tower
#![cfg_attr(docsrs, feature(doc_cfg))]
// Pages about everything lead to items of these features. The docs with all of them are checked.
#![cfg_attr(
    not(all(
        feature = "config",
        feature = "dashboard",
        feature = "http",
        feature = "metrics",
        feature = "redis"
    )),
    allow(rustdoc::broken_intra_doc_links)
)]

mod call;
pub mod chaos;
pub mod circuit_breaker;
#[cfg(feature = "config")]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub mod config;
pub mod contention;
#[cfg(feature = "dashboard")]
#[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
pub mod dashboard;
pub mod docs;
pub mod error;
pub mod event;
pub mod fallback;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub mod fleet;
#[cfg(feature = "grpc")]
#[cfg_attr(docsrs, doc(cfg(feature = "grpc")))]
pub mod grpc;
pub mod hedge;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
pub mod keyed;
pub mod observe;
pub mod rate_limit;
mod registry;
pub mod retry;
pub mod stack;
pub mod throttle;
pub mod timeout;
mod util;

pub use call::outcome::{Classify, Idempotency, Outcome, RetrySafety, Verdict};
pub use call::{AtService, Holder, at_service, deadline, outcome, workflow};
pub use chaos::Chaos;
pub use circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitState};
pub use contention::{ContentionLayer, ResourceLock};
pub use error::{
    BoxError, Boxed, CircuitOpen, ConfigError, Contended, ContendedReason, Error, Exhausted,
    HolderInfo, LastFailure, Rejection, StopReason, TimedOut, TimeoutPhase,
};
pub use event::{Event, Observer};
pub use fallback::Fallback;
pub use hedge::Hedge;
pub use rate_limit::RateLimit;
pub use registry::{Registry, RegistryError, RegistrySnapshot, explain};
pub use retry::{Backoff, Jitter, RetryBudget, RetryLayer, RetryPolicy};
pub use stack::{Part, Stack};
pub use throttle::Throttle;
pub use timeout::Timeouts;

/// The names that most stacks need: `use tower_bulwark::prelude::*;`.
///
/// Nothing of the features `http` and `grpc` is among them: their names are those of other crates too.
pub mod prelude {
    pub use crate::{
        Backoff, CircuitBreaker, CircuitBreakerLayer, CircuitState, ContentionLayer, Error, Jitter,
        RateLimit, Registry, ResourceLock, RetryLayer, RetryPolicy, Timeouts,
    };
}
