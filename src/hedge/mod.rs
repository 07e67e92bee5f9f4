//! x
mod builder;
mod config;
mod future;
mod handle;
mod latency;
mod layer;
mod mark;
mod run;
mod runner;
mod service;
mod shared;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use crate::event::{HedgeEvent, NotHedged};
pub use builder::HedgeBuilder;
pub use config::HedgeConfig;
pub use future::HedgeFuture;
pub use handle::Hedge;
pub use layer::HedgeLayer;
pub use mark::{MarkAnswer, MarkWith, NoMark};
pub use runner::Hedged;
pub use service::HedgeService;
pub use snapshot::{HedgeSnapshot, HedgesNotStarted};
