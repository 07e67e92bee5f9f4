//! All patterns around one service, in the right order, in one call.
//!
//! # When
//!
//! At the beginning. The order of the layers, and the numbers of one that depend on those of another, are what goes wrong
//! most. A stack has both right, and each part can be adjusted or left out.
//!
//! # When not
//!
//! If the layers of one service share their handles with those of another (one lock for two services), or stand in another
//! order: put them together with `ServiceBuilder`, as [`docs::order`](crate::docs::order) says. Other services when this one
//! fails are a [`fallback`](crate::fallback) around the stack; a stack for each host or tenant is one
//! [by key](crate::keyed).
//!
//! ```text
//!   total timeout ─▶ retry ─▶ hedge ─▶ circuit breaker ─▶ rate limit ─▶ lock ─▶ attempt timeout ─▶ service
//! ```
//!
//! ```
//! use std::time::Duration;
//!
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::rate_limit::Quota;
//! use tower_bulwark::{CircuitState, Part, Stack};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[derive(Clone)] struct Ask { prompt: String }
//! # struct Reply { tokens: u64 }
//! # let client = service_fn(|ask: Ask| async move { Ok::<_, std::io::Error>(Reply { tokens: ask.prompt.len() as u64 }) });
//! let stack = Stack::llm("openai")
//!     .quota("requests", Quota::per_minute(500))
//!     .quota("tokens", Quota::per_minute(90_000))
//!     .attempt_timeout(Duration::from_secs(20))
//!     .without(Part::Lock)
//!     .build()?;
//!
//! let layer = stack
//!     .layer()
//!     .cost(|ask: &Ask| [1, 2 * ask.prompt.len() as u64]) // reserved before,
//!     .settle(|reply: &Reply| Some([1, reply.tokens])); // corrected after
//! let service = ServiceBuilder::new().layer(layer).service(client);
//! let reply = service.oneshot(Ask { prompt: "Why is the sky blue?".into() }).await?;
//!
//! assert!(stack.circuit_breaker().is_some_and(|it| it.state() == CircuitState::Closed));
//! println!("{}", stack.explain());
//! # let _ = reply.tokens;
//! # Ok(())
//! # }
//! ```
//!
//! # Which layer
//!
//! | for | take | its requests and answers |
//! |---|---|---|
//! | any service whose requests are `Clone` | [`Stack::layer`] | an error is a failure: say more with [`classify`](StackLayer::classify) and its kin |
//! | a service of `http` types: hyper, axum, tower-http | `Stack::http_layer` (feature `http`) | judged by their status; a body is copied while it is sent; calls end with the bodies of their responses |
//! | a gRPC service | `Stack::grpc_layer` (feature `grpc`) | judged by their codes, to the end of the trailers |
//! | reqwest | `Stack::reqwest` (feature `reqwest`) | a `ResilientClient` |
//!
//! # Defaults
//!
//! | | `http`, `grpc`, `hedged` | `llm` | why |
//! |---|---|---|---|
//! | total timeout | 30 s | 5 min | few callers of an API wait longer; a model streams for minutes. It goes on to the end of the body: a large download needs more |
//! | retries | 3, after up to 0.2, 0.4, 0.8 s | 2, after up to 0.5, 1 s | full jitter: many callers share the service. Those of `llm` are what the clients of the known models do |
//! | retry budget | a fifth of the traffic | the same | that of every policy |
//! | hedge | only `hedged`: 1, after the 95th percentile, and at once after a failure; no retry | none | one of the two makes an attempt more, else there are up to eight |
//! | circuit breaker | opens at 5 failures in a row, or half of the calls of 30 s, for 5 s and up to 60 s | 5 in a row, or half of the calls of 2 min, for 15 s and up to 60 s | a window of at least two attempts |
//! | rate limit | none | none | only the service knows: give its quotas |
//! | lock | 64 permits, wait 10 s | 16 permits, wait 60 s | bounds what a slow service can pile up here |
//! | attempt timeout | 10 s | 60 s | two attempts that hang, and a third, fit into the total |
//! | first frame, idle | 10 s each | 60 s, 30 s | of bodies, with `http_layer` and `reqwest` |
//!
//! They are near to those of .NET's standard handler (30 s in all, 10 s an attempt, 3 retries, a window of 30 s, 5 s open).
//! Three differ, with a reason: it opens at a tenth of failures, which a few bad requests make of little traffic; its breaker
//! does not open longer each time; its limiter of 1,000 calls at once stands outside of the retry, so that a call that sleeps
//! before its next attempt takes a place from others.
//!
//! # Where it goes
//!
//! Around the client. Outside of it: a fallback. Layers that each attempt has to pass
//! (authentication, a header) go inside of it, below the stack.
//!
//! # Errors
//!
//! [`Error<L>`](crate::Error), as of the layers by themselves.
//!
//! # Panics
//!
//! Outside a tokio runtime with its timer, if a call has to wait.
//!
//! # Cancellation
//!
//! To drop the future of a call drops the attempt that runs, leaves the queue and gives the permits back.
//!
//! # Cost
//!
//! That of its layers. A hedge and a rate limit that were left out cost nothing, and so does a lock, but with `http_layer` and
//! `grpc_layer`; a retry, a breaker and timeouts cost as much as one that has nothing to do.

mod builder;
mod check;
mod config;
mod handle;
mod kind;
mod layer;
mod place;

pub use crate::util::either::Either;
pub use builder::{Part, StackBuilder};
pub use config::StackConfig;
pub use handle::Stack;
pub use kind::StackKind;
pub use layer::{StackLayer, StackService};
