//! What HTTP means to the patterns: bodies that can be sent again, and calls that end with their bodies.

mod guarded_body;
mod recording;
mod replay;
mod replay_body;
mod until_body_end;

pub use guarded_body::{BodyGuard, GuardResponse, GuardedBody};
pub use replay::{CopyReplay, ReplayLayer, ReplayService};
pub use replay_body::{ReplayBody, ReplayError};
pub use until_body_end::{
    AsHead, BreakerGuard, CircuitBreakerBodyFuture, CircuitBreakerBodyLayer,
    CircuitBreakerBodyService, ClassifyEnd, ContentionBodyFuture, ContentionBodyLayer,
    ContentionBodyService, PermitGuard,
};
