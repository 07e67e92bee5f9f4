//! Named locks that know who holds them and who waits.
mod acquire;
mod event;
mod graph;
mod guard;
mod handle;
mod holder;
mod policy;
mod queue;
mod service;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
pub mod workflow;

pub use acquire::{Acquire, AcquireOwned};
pub use event::ContentionEvent;
pub use guard::{OwnedResourceGuard, ResourceGuard};
pub use handle::ResourceLock;
pub use holder::Holder;
pub use policy::{ResourceLockBuilder, ResourcePolicy};
pub use service::{
    AmbientHolder, ContentionFuture, ContentionLayer, ContentionService, HolderWith, RequestHolder,
    WaitsUntil,
};
pub use snapshot::{ResourceSnapshot, ResourceStats, WaiterInfo};

pub use crate::histogram::DurationSummary;
