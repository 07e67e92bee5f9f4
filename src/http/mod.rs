//! What HTTP means to the patterns: bodies that can be sent again, and calls that end with their bodies.

mod guarded_body;
mod idle;
mod recording;
mod replay;
mod replay_body;
#[cfg(feature = "tower-http")]
mod tower_http;
mod until_body_end;

pub use guarded_body::{BodyGuard, GuardResponse, GuardedBody};
pub use idle::{
    BodyError, IdleTimeoutBody, IdleTimeoutFuture, IdleTimeoutLayer, IdleTimeoutService,
};
pub use replay::{CopyReplay, ReplayLayer, ReplayService};
pub use replay_body::{ReplayBody, ReplayError};
#[cfg(feature = "tower-http")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower-http")))]
pub use tower_http::TowerHttpClassify;
pub use until_body_end::{
    AsHead, BreakerGuard, CircuitBreakerBodyFuture, CircuitBreakerBodyLayer,
    CircuitBreakerBodyService, ClassifyEnd, ContentionBodyFuture, ContentionBodyLayer,
    ContentionBodyService, PermitGuard,
};
