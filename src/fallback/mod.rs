//! Another service when one does not answer: a second model, a second region, a value that was known before.
//!
//! # When
//!
//! When an answer of somebody else is better than none, and when it can be had: for questions, for reads. When the service
//! is down its breaker refuses at once, and the fallback costs no more than the refusal.
//!
//! # When not
//!
//! Instead of a retry: what fails now and then is asked again, where it belongs. For what may be done only once, unless
//! [`only_refusals`](FallbackLayer::only_refusals) is set: two services that are both asked to pay may both pay.
//!
//! ```text
//!           no answer: refused, gave up, failed
//! request ──▶ service ──▶ target 1 ──▶ target 2 ──▶ Error::AllFailed, with what each said
//!                │           │            │
//!                └─ answer ──┴── answer ──┴──▶ caller
//! ```
//!
//! ```
//! # use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::{CircuitBreaker, Fallback, RetryPolicy};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let large = service_fn(|_: String| async { Err::<String, _>(std::io::Error::other("overloaded")) });
//! # let small = service_fn(|ask: String| async move { Ok::<_, std::io::Error>(format!("{ask} Because.")) });
//! // Each target may be a stack of its own.
//! let small = ServiceBuilder::new().layer(CircuitBreaker::new("small").layer()).service(small);
//! let service = ServiceBuilder::new()
//!     .layer(
//!         Fallback::new("chat")
//!             .layer()
//!             .to("small", small)
//!             .to_value("sorry", |_| "Nobody can say.".to_owned()),
//!     )
//!     .layer(RetryPolicy::new().layer())
//!     .layer(CircuitBreaker::new("large").layer())
//!     .service(large);
//! let answer = service.oneshot("Why?".to_owned()).await?;
//! assert_eq!(answer, "Why? Because.");
//! # Ok(())
//! # }
//! ```
//!
//! # What is no answer
//!
//! A refusal (an open circuit, a busy lock, a rate limit), a retry that gave up, and what the
//! [classifier](FallbackLayer::classify) judges a failure or an overload: by default every error of the service. Over HTTP
//! ([`http_layer`](Fallback::http_layer)) a `503` is none either, and a `404` is one.
//!
//! The next target is asked with a copy of the request, which may be [changed](FallbackLayer::map_request) for it. What has
//! failed is dropped first, and with it its permits. Nobody is asked after the ambient [deadline](crate::deadline). A
//! response is an answer as soon as it is there: what becomes of its body later asks nobody else.
//!
//! If none answers, the last bad response is the caller's; if the last failed with an error, that is
//! [`Error::AllFailed`](crate::Error::AllFailed), with what each target said. It is a refusal only if all refused.
//!
//! # Where it goes
//!
//! Outside everything else: around the retry of the service. A retry around it does not repeat what all targets gave up.
//!
//! # Events
//!
//! [`FallbackEvent`]: from which target to which, and why; and that none answered. [`mark`](FallbackLayer::mark) tells the
//! caller who has answered.
//!
//! # Cancellation
//!
//! Dropping the call drops the one target that is being asked.

mod future;
mod handle;
mod layer;
mod service;
mod target;

pub use crate::error::{AllFailed, TargetError, TargetFailure};
pub use crate::event::FallbackEvent;
pub use future::FallbackFuture;
pub use handle::{Fallback, FallbackSnapshot};
pub use layer::FallbackLayer;
pub use service::FallbackService;
