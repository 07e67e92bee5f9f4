//! So long for each part of a call.
#[cfg(feature = "http")]
mod body;
mod builder;
mod config;
mod future;
mod handle;
mod layer;
mod service;
mod shared;
mod snapshot;
mod state;

pub use crate::error::{TimedOut, TimeoutPhase};
pub use crate::event::TimeoutEvent;
#[cfg(feature = "http")]
pub(crate) use body::BodyTimeouts;
pub use builder::TimeoutsBuilder;
pub use config::TimeoutConfig;
pub use future::TimeoutFuture;
pub use handle::Timeouts;
pub use layer::TimeoutLayer;
pub use service::TimeoutService;
pub use snapshot::{TimeoutTotals, TimeoutsSnapshot};
