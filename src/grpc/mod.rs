//! What gRPC means to the patterns: codes, deadlines, pushback, service configs. (feature `grpc`; what names
//! a type of tonic: feature `tonic`)
//!
//! To HTTP every gRPC call is a `200`. What became of it is a code, in a header if it failed at once, else in
//! the trailers behind the body; [`GrpcClassify`] knows where to look.
//!
//! # A client
//!
//! `Resilient` puts retry, breaker and lock around a channel, in one call:
//!
#![cfg_attr(feature = "tonic", doc = "```")]
#![cfg_attr(not(feature = "tonic"), doc = "```ignore")]
//! use tower_bulwark::{CircuitBreaker, ResourceLock, grpc};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let json = "{}";
//! let channel = tonic::transport::Channel::from_static("http://model:50051").connect_lazy();
//! let (breaker, slots) = (CircuitBreaker::new("model"), ResourceLock::new("model-slots"));
//! let channel = grpc::Resilient::new(channel)
//!     .service_config(json)?
//!     .breaker(&breaker)
//!     .lock(&slots);
//! // let client = CompletionsClient::new(channel);
//! # Ok(())
//! # }
//! ```
//!
//! A stack of your own, with other layers between:
//!
//! ```text
//! typed client ──▶ Status::from ──▶ ReplayLayer ──▶ GrpcRetry ──▶ CircuitBreaker ──▶ channel
//!                  refusals are     a body can be   by service    to the trailers
//!                  statuses         sent again      config
//! ```
//!
#![cfg_attr(feature = "tonic", doc = "```")]
#![cfg_attr(not(feature = "tonic"), doc = "```ignore")]
//! use tonic::{Status, body::Body};
//! use tower::ServiceBuilder;
//! use tower_bulwark::http::ReplayBody;
//! use tower_bulwark::{CircuitBreaker, RetryPolicy};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # let channel = tonic::transport::Channel::from_static("http://model:50051").connect_lazy();
//! let channel = ServiceBuilder::new()
//!     .map_err(Status::from)
//!     .layer(RetryPolicy::new().grpc_layer().replaying())
//!     .layer(CircuitBreaker::new("model").grpc_layer())
//!     .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::new))
//!     .service(channel);
//! # let _ = tower::ServiceExt::<http::Request<Body>>::boxed_clone(channel);
//! # }
//! ```
//!
//! # A server
//!
//! [`ReceiveDeadlineLayer::grpc`](crate::http::ReceiveDeadlineLayer::grpc) outermost: what the caller still waits for is
//! the deadline of everything below, and a handler that is late is ended with `DEADLINE_EXCEEDED`. `reject_with(reject)`
//! on a breaker or a lock answers refusals as gRPC does, with the time to come back in `grpc-retry-pushback-ms`; the
//! error type of the service stays what it is. With `until_body_end` a permit is held to the end of a stream.
//!
#![cfg_attr(feature = "tonic", doc = "```")]
#![cfg_attr(not(feature = "tonic"), doc = "```ignore")]
//! use std::convert::Infallible;
//! use std::time::Duration;
//! use tonic::body::Body;
//! use tonic::transport::Server;
//! use tower_bulwark::{ResourceLock, grpc, http::ReceiveDeadlineLayer};
//!
//! let slots = ResourceLock::new("gpu");
//! let server = Server::builder()
//!     .layer(
//!         ReceiveDeadlineLayer::grpc()
//!             .at_most(Duration::from_secs(30))
//!             .answer_with(grpc::deadline_exceeded::<Body>),
//!     )
//!     .layer(
//!         slots
//!             .layer::<Infallible>()
//!             .reject_with(grpc::reject::<Body>)
//!             .until_body_end(),
//!     );
//! // server.add_service(CompletionsServer::new(model)).serve(address).await?;
//! # let _ = server;
//! ```
//!
//! What a handler calls may be refused too: `?` makes a status of it (`Status::from`), which no caller
//! takes for a promise that nothing was done. A handler that waits for a lock can name who asks: [`holder`] on the layer
//! reads it from the request's metadata.
//!
//! [`holder`]: crate::ContentionLayer::holder
//!
//! # What is not done
//!
//! A request that the server has not begun is sent again once in a call, whenever that happens, where A6 does so for the first
//! attempt only, and only for methods that are retried at all. Buffers are per call, not per channel.
mod by_path;
mod classify;
mod code;
mod failure;
mod handles;
mod hedge;
mod pushback;
#[cfg(feature = "tonic")]
mod reject;
mod requests;
#[cfg(feature = "tonic")]
mod resilient;
mod retry;
mod retry_info;
mod service_config;
#[cfg(test)]
mod tests;
mod timeout;

pub use classify::{GrpcClassify, GrpcClassifyEnd};
pub use code::{Code, Codes};
pub use hedge::{GrpcHedge, GrpcHedgeLayer, GrpcHedgeService};
pub use pushback::Pushback;
#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
pub use reject::reject;
pub use requests::GrpcRequests;
#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
pub use resilient::{Resilient, ResilientFuture};
pub use retry::{GrpcRetry, GrpcRetryLayer, GrpcRetryService};
pub use service_config::{
    HedgingConfig, MethodConfig, RetryConfig, RetryThrottling, ServiceConfig, ServiceConfigError,
};
pub use timeout::{deadline_exceeded, decode_timeout, encode_timeout};
