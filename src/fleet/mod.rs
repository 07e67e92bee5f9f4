//! The same patterns, shared by many processes through Redis or Valkey. (feature `redis`)

mod breaker;
mod error;
mod in_process;
mod lock;
mod rate_limit;
mod redis;

pub use error::StoreError;

use std::sync::Arc;

/// What many processes share. A cheap clone.
#[derive(Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
}

struct Shared {
    /// Which process this is, for the others.
    node: Arc<str>,
    backend: Backend,
}

/// Where the shared state is.
enum Backend {
    InProcess(in_process::InProcess),
    Redis(redis::Redis),
}
