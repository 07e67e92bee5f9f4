//! What HTTP means to the patterns: which results are failures, which requests may be sent again, when to come
//! back, bodies that can be sent again, and calls that end with their bodies.
//!
//! # Judging
//!
//! [`HttpClassify`] knows what statuses and the errors of clients say of a service, [`HttpRequests`] which
//! requests may be done twice. Both together are one call:
//!
//! ```
//! # use http::{Request, Response};
//! # use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::{CircuitBreaker, RetryPolicy};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! # let mut answers = vec![200, 503, 429].into_iter().rev().collect::<Vec<u16>>();
//! # answers.reverse();
//! # let answers = std::sync::Arc::new(std::sync::Mutex::new(answers));
//! # let client = service_fn(move |_: Request<()>| {
//! #     let status = answers.lock().unwrap().pop().unwrap();
//! #     std::future::ready(Ok::<_, std::io::Error>(Response::builder().status(status).body(()).unwrap()))
//! # });
//! let service = ServiceBuilder::new()
//!     .layer(RetryPolicy::new().http_layer())
//!     .layer(CircuitBreaker::new("api").http_layer())
//!     .service(client); // answers 429, then 503, then 200
//!
//! let response = service.oneshot(Request::get("/").body(())?).await?;
//! assert_eq!(response.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # Requests whose bodies are streams
//!
//! A retry sends a request again, and a stream can be read only once. [`ReplayLayer`] and [`CopyReplay`] keep
//! what an attempt has sent, up to 64 KiB, while it is being sent: nothing is buffered ahead, and only frames of less than
//! 4 KiB are copied, so that many small ones take no more memory than a few large ones.
//!
//! # What clients do by themselves
//!
//! Below these layers nobody sees what a client sends again by itself.
//!
//! | client | sends again by itself | what to do |
//! |---|---|---|
//! | `hyper-util` | what it has not sent yet, because the idle connection that it took was closed | nothing: no request leaves twice |
//! | `reqwest` | over HTTP/2, what the server refused or left behind with a `GOAWAY`: also a `POST`, and the error is no proof that it was not done | `retry(reqwest::retry::never())` |
//! | `tonic` | nothing | nothing |
//!
//! # Responses whose bodies are streams
//!
//! A call ends with the head of its response, unless it is said otherwise: a permit is given back and a
//! breaker has made its mind up before the first token of a model, or the first event of a feed, has come.
//! [`CircuitBreakerLayer::until_body_end`] and [`ContentionLayer::until_body_end`] hold on until the last one.
//!
//! | the body | breaker | permit of a lock |
//! |---|---|---|
//! | ends, by trailers or without | what the head was, or what [`ClassifyEnd`] says | given back |
//! | breaks off with an error, or panics | failure | given back (after a panic: when dropped) |
//! | is dropped before its end | what the head was: the caller has read what it wanted | given back |
//! | is dropped by a timeout of this crate | failure | given back |
//! | is dropped because the caller's own time is over | what the head was | given back |
//!
//! A body can fall silent and never end: [`Timeouts::http_layer`](crate::Timeouts::http_layer) makes an error of that.
//!
//! ```
//! use std::time::Duration;
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::{BodyExt, Full};
//! # use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_bulwark::{CircuitBreaker, ResourceLock, Timeouts};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! # let client = service_fn(|_: Request<()>| async {
//! #     Ok::<_, std::io::Error>(Response::new(Full::new(Bytes::from("data: hello"))))
//! # });
//! let (breaker, slot) = (CircuitBreaker::new("model"), ResourceLock::new("model-slot"));
//! let timeouts = Timeouts::builder("model").idle(Duration::from_secs(60)).build()?;
//! let service = ServiceBuilder::new()
//!     .layer(breaker.layer().until_body_end())
//!     .layer(timeouts.http_layer())
//!     .layer(slot.layer().until_body_end())
//!     .service(client);
//!
//! let response = service.oneshot(Request::new(())).await?;
//! assert_eq!(slot.snapshot().in_use, 1);
//! response.into_body().collect().await?;
//! assert_eq!(slot.snapshot().in_use, 0);
//! assert_eq!(breaker.snapshot().totals.successes, 1);
//! # Ok(())
//! # }
//! ```
//!
//! [`CircuitBreakerLayer::until_body_end`]: crate::CircuitBreakerLayer::until_body_end
//! [`ContentionLayer::until_body_end`]: crate::ContentionLayer::until_body_end

mod chaos;
mod classify;
mod date;
mod deadline;
mod error_kind;
mod guarded_body;
mod handles;
mod idle;
mod kept;
mod peek;
mod recording;
mod reject;
mod replay;
mod replay_body;
mod requests;
#[cfg(feature = "reqwest")]
mod reqwest_client;
#[cfg(feature = "reqwest")]
mod reqwest_request;
#[cfg(feature = "reqwest")]
mod reqwest_send;
mod retry_after;
mod stack;
#[cfg(test)]
mod tests;
mod timeout;
#[cfg(feature = "tower-http")]
mod tower_http;
mod unsettled;
mod until_body_end;

pub use chaos::{ChaosBody, HttpChaosFuture, HttpChaosLayer, HttpChaosService};
pub use classify::HttpClassify;
pub use deadline::{
    AnswerWith, LateAnswer, NoAnswer, ReceiveDeadlineFuture, ReceiveDeadlineLayer,
    ReceiveDeadlineService, SendDeadlineLayer, SendDeadlineService, deadline_exceeded,
};
pub use error_kind::ErrorKind;
#[cfg(feature = "grpc")]
pub(crate) use error_kind::chain;
pub use guarded_body::{BodyGuard, GuardResponse, GuardedBody};
pub use handles::{AnsweredBy, HedgedAttempt, MarkAttempt};
pub use idle::{BodyError, IdleTimeoutBody};
pub use peek::{BodyStart, PeekBodyFuture, PeekBodyLayer, PeekBodyService, PeekedBody};
pub use reject::{Refused, problem, problem_with_name};
#[cfg(feature = "tonic")]
pub(crate) use reject::{come_back, says_nothing};
pub use replay::{CopyReplay, ReplayLayer, ReplayService};
pub use replay_body::{ReplayBody, ReplayError};
pub use requests::{HttpRequests, MarkedIdempotent, MaxRetries, idempotency};
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub use reqwest_client::{
    ReqwestRequests, ResilientClient, ResilientClientBuilder, ResilientFuture,
};
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub use reqwest_request::ResilientRequest;
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub use reqwest_send::Attempts;
pub use retry_after::{DelayHeaders, quotas_left, retry_after};
pub use stack::{HttpStackLayer, HttpStackService};
pub use timeout::{
    HttpTimeoutFuture, HttpTimeoutLayer, HttpTimeoutService, TimedResponse, TimeoutBody,
};
#[cfg(feature = "tower-http")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower-http")))]
pub use tower_http::TowerHttpClassify;
pub use unsettled::{CarriesExtensions, SettleLater, Unsettled};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use until_body_end::FleetLockBodyFuture;
pub use until_body_end::{
    AsHead, BreakerGuard, CircuitBreakerBodyFuture, CircuitBreakerBodyLayer,
    CircuitBreakerBodyService, ClassifyEnd, ContentionBodyFuture, ContentionBodyLayer,
    ContentionBodyService, PermitGuard,
};
