//! What gRPC means to the patterns: codes, deadlines, pushback, service configs. (feature `grpc`; what names
//! a type of tonic: feature `tonic`)
//!
//! To HTTP every gRPC call is a `200`. What became of it is a code, in a header if it failed at once, else in
//! the trailers behind the body; [`GrpcClassify`] knows where to look.
//!
//! # A client
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
//! use tower_bulwark::CircuitBreaker;
//! use tower_bulwark::grpc::{GrpcClassify, GrpcRequests, GrpcRetry, ServiceConfig};
//! use tower_bulwark::http::{CopyReplay, ReplayBody, ReplayLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let json = "{}";
//! let channel = tonic::transport::Channel::from_static("http://model:50051").connect_lazy();
//! let retry = GrpcRetry::new("model", &ServiceConfig::parse(json)?)?;
//! let classify = GrpcClassify::new();
//!
//! let channel = ServiceBuilder::new()
//!     .map_err(Status::from)
//!     .layer(ReplayLayer::new())
//!     .layer(retry.layer().requests(GrpcRequests::over(CopyReplay)))
//!     .layer(
//!         CircuitBreaker::new("model")
//!             .layer()
//!             .classify(classify)
//!             .until_body_end()
//!             .classify_end(classify.at_end()),
//!     )
//!     .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::new))
//!     .service(channel);
//! // let client = CompletionsClient::new(channel);
//! # let _ = tower::ServiceExt::<http::Request<Body>>::boxed_clone(channel);
//! # Ok(())
//! # }
//! ```
//!
//! Without a service config, a [`RetryPolicy`](crate::RetryPolicy) of your own does:
//! `policy.layer().classify(classify).requests(GrpcRequests::over(CopyReplay))`.
//!
//! # A server
//!
//! [`ReceiveDeadlineLayer::grpc`](crate::http::ReceiveDeadlineLayer::grpc) outermost: what the caller still
//! waits for is the deadline of everything below. Around the service `reject_with(reject)` on a breaker or a
//! lock answers refusals as gRPC does, with the time to come back in `grpc-retry-pushback-ms`.
//!
//! # What is not done
//!
//! Hedging: its policies are read and reported, see [`ServiceConfig::not_supported`]. A request that the
//! server has not begun is sent again once in a call, whenever that happens, where A6 does so for the first
//! attempt only, and only for methods that are retried at all. Buffers are per call, not per channel.
mod by_path;
mod classify;
mod code;
mod failure;
mod pushback;
#[cfg(feature = "tonic")]
mod reject;
mod requests;
mod retry;
mod service_config;
#[cfg(test)]
mod tests;
mod timeout;

pub use classify::{GrpcClassify, GrpcClassifyEnd};
pub use code::{Code, Codes};
pub use pushback::Pushback;
#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
pub use reject::reject;
pub use requests::GrpcRequests;
pub use retry::{GrpcRetry, GrpcRetryLayer, GrpcRetryService};
pub use service_config::{
    HedgingConfig, MethodConfig, RetryConfig, RetryThrottling, ServiceConfig, ServiceConfigError,
};
pub use timeout::{deadline_exceeded, decode_timeout, encode_timeout};
