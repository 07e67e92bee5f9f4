//! An instance for each key: a breaker for each host, a lock for each tenant, a whole stack for each model.
//!
//! One breaker for many hosts is wrong twice: the failures of one open the circuit for all, and the successes of the
//! others hide that it is down.
//!
//! - [`Keyed`] is a bounded map of handles, for code without tower and for what looks at them.
//! - [`PerKeyLayer`] is a layer whose services ask each request for its key, and lead it through the layers of that key.
//!
//! ```
//! # use std::convert::Infallible;
//! # use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::CircuitBreaker;
//! use tower_bulwark::keyed::PerKeyLayer;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! # let client = service_fn(|host: String| async move {
//! #     match &*host { "down" => Err(std::io::Error::other("reset")), _ => Ok(()) }
//! # });
//! let per_host = PerKeyLayer::new(
//!     10_000,
//!     |host: &String| host.clone(),
//!     |host: &String| CircuitBreaker::new(format!("api {host}")).layer(),
//! );
//! let service = ServiceBuilder::new().layer(per_host).service(client);
//! for _ in 0..5 {
//!     let _ = service.clone().oneshot("down".to_owned()).await;
//! }
//! let refused = service.clone().oneshot("down".to_owned()).await.unwrap_err();
//! assert!(refused.is_rejection());
//! service.oneshot("up".to_owned()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Keys that are worse than the others
//!
//! [`Outliers`] compares the keys of one group at intervals, and opens the circuits of those whose success rate is far below
//! the mean: a host that fails one call in three is found beside a hundred that fail none, long before its own breaker
//! opens. Only so many go as a share of the keys allows.
//!
//! Where most of them are bad at once, none is worse than the others: with [`Keyed::eject_at_most`] no more than a share of
//! their circuits opens by itself, and the rest stays in use.
//!
//! # What is bounded
//!
//! The number of keys. An idle breaker or lock takes up to 1.3 KB; keys that come from requests are chosen by whoever
//! sends them. When a map is full and a new key comes, keys are forgotten that have nothing to remember: a circuit that is
//! closed and has seen no failure, a lock that nobody holds or waits for. What is open, held or in use is never
//! forgotten.

mod idle;
mod layer;
mod map;
mod outlier;
mod outliers;
mod service;
mod shared;
mod worst;

pub use crate::error::TooManyKeys;
pub use idle::{Idle, Instance, Stateless};
pub use layer::PerKeyLayer;
pub use map::Keyed;
pub use outlier::{FailureShareRule, OutlierConfig, SuccessRateRule};
pub use outliers::Outliers;
pub use service::{PerKeyFuture, PerKeyService};
#[cfg(feature = "dashboard")]
pub(crate) use worst::Worst;
