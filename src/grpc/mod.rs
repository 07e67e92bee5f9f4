//! What gRPC means to the patterns. (feature `grpc`; what names a type of tonic: feature `tonic`)
mod by_path;
mod classify;
mod code;
mod deadline;
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
pub use deadline::{GrpcDeadlineFuture, GrpcDeadlineLayer, GrpcDeadlineService};
pub use pushback::Pushback;
#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
pub use reject::reject;
pub use requests::GrpcRequests;
pub use retry::{GrpcRetry, GrpcRetryLayer, GrpcRetryService};
pub use service_config::{
    HedgingConfig, MethodConfig, RetryConfig, RetryThrottling, ServiceConfig, ServiceConfigError,
};
pub use timeout::{decode_timeout, encode_timeout};
