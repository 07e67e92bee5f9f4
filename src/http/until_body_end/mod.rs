//! Calls that end with the bodies of their responses.
//!
//! The patterns know nothing of bodies. Their layers get one more method here, and their permits somebody
//! who holds them for longer.

mod boilerplate;
mod breaker;
mod contention;
#[cfg(feature = "redis")]
mod fleet;

pub use breaker::{
    AsHead, BreakerGuard, CircuitBreakerBodyFuture, CircuitBreakerBodyLayer,
    CircuitBreakerBodyService, ClassifyEnd,
};
pub use contention::{
    ContentionBodyFuture, ContentionBodyLayer, ContentionBodyService, PermitGuard,
};
#[cfg(feature = "redis")]
pub use fleet::FleetLockBodyFuture;
