//! Faults on purpose: calls that are late, fail, hang or panic, and bodies that break off.
//!
//! # When
//!
//! To see what a stack does before it has to: in tests, and in drills. Around the client, inside of everything else, so that
//! retries, breakers and timeouts take the faults for the service's.
//!
//! # When not
//!
//! To test what is said on the wire: a connection that is reset, a stream that is refused. That takes a server.
//!
//! ```text
//!   retry ─▶ breaker ─▶ timeouts ─▶ chaos ─▶ client
//!                                    │ off: the call, as it is
//!                                    └ armed: 10 % late, 5 % fail, 1 % hang
//! ```
//!
//! ```
//! use std::time::Duration;
//! # use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::{Chaos, CircuitBreaker, CircuitState};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let client = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) });
//! let chaos = Chaos::builder("drill").seed(7).error(1.0).build()?;
//! let breaker = CircuitBreaker::new("api");
//! let service = ServiceBuilder::new()
//!     .layer(breaker.layer())
//!     .layer(chaos.layer(|| Err(std::io::Error::other("a drill"))))
//!     .service(client);
//!
//! assert!(service.clone().oneshot(1).await.is_ok()); // It is off.
//! chaos.arm_for(Duration::from_secs(60));
//! for n in 0..5 {
//!     assert!(service.clone().oneshot(n).await.is_err());
//! }
//! assert_eq!(breaker.state(), CircuitState::Open);
//! # Ok(())
//! # }
//! ```
//!
//! Alone: [`Chaos::run`].
//!
//! # How it decides
//!
//! What happens to call number `n` depends on the seed and on `n` alone: the same seed gives the same faults in the same order,
//! and another rate of one fault changes nothing about the others. Calls are numbered from 0 while it is armed.
//!
//! - [`latency`](ChaosBuilder::latency) is drawn by itself, and comes before what else happens. The call is made at once, and
//!   polled after it: its answer is late.
//! - Of [`panic`](ChaosBuilder::panic), [`hang`](ChaosBuilder::hang) and [`error`](ChaosBuilder::error) a call has one at most, in
//!   this order. The service is not called then.
//! - [`cut_body`](ChaosBuilder::cut_body) is drawn by itself, and needs `http_layer` (feature `http`): the body breaks off after
//!   its first frame. That is counted when it happens: a body that nobody reads so far, or that ends with an error of its own, is
//!   not cut.
//!
//! The time of a fault is time at the service: that is its purpose.
//!
//! # Where it goes
//!
//! Innermost, right around the client. What a layer below it would do for the fault does not happen.
//!
//! # Defaults
//!
//! Every rate is 0, and it is off until [`arm`](Chaos::arm) or [`arm_for`](Chaos::arm_for): a layer that was forgotten does
//! nothing. That it is armed is logged as a warning, shown in the snapshot, and [`explain`](crate::explain) warns of it.
//!
//! # Errors
//!
//! Those of the closure that the layer is given: an error of the service's own type, or a response.
//!
//! # Events
//!
//! [`ChaosEvent`]: faults (counted, and logged once a second at most), and that it was armed and disarmed.
//!
//! # Panics
//!
//! Where a panic was asked for. Outside a tokio runtime with its timer, if there is latency.
//!
//! # Cancellation
//!
//! Dropping the future of a call drops the call.
//!
//! # Cost
//!
//! One relaxed load while it is off.

mod builder;
mod config;
mod future;
mod handle;
mod layer;
mod service;
mod shared;
mod snapshot;
mod state;

pub use crate::event::{ChaosEvent, ChaosFault};
pub use builder::ChaosBuilder;
pub use config::ChaosConfig;
pub use future::ChaosFuture;
#[cfg(feature = "http")]
pub(crate) use future::CutBody;
pub use handle::Chaos;
pub use layer::ChaosLayer;
pub use service::ChaosService;
pub use snapshot::{ChaosSnapshot, ChaosTotals};
