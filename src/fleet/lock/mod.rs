//! A lock that processes share.

mod acquire;
mod agent;
mod builder;
mod core;
mod counts;
mod guard;
mod handle;
mod layer;
mod lease;
mod op;
mod owner;
mod scripts;
mod settings;
mod shared;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod waiter;
mod wire;
mod zset;

pub use acquire::FleetAcquire;
pub use builder::FleetLockBuilder;
pub use guard::FleetGuard;
pub use handle::FleetLock;
pub use layer::{FenceWith, FleetLockFuture, FleetLockLayer, FleetLockService, NoFence, PutFence};
pub use lease::{Fence, LostReason};
pub use snapshot::{FleetHolder, FleetLockSnapshot, FleetWaiter};
pub(super) use store::InProcess;
