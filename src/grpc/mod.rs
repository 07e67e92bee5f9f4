//! What gRPC means to the patterns. (feature `grpc`; what names a type of tonic: feature `tonic`)
mod by_path;
mod code;
mod pushback;
mod service_config;
mod timeout;

pub use code::{Code, Codes};
pub use pushback::Pushback;
pub use service_config::{
    HedgingConfig, MethodConfig, RetryConfig, RetryThrottling, ServiceConfig, ServiceConfigError,
};
pub use timeout::{decode_timeout, encode_timeout};
