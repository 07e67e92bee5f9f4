//! The same patterns, shared by many processes through Redis or Valkey. (feature `redis`)

pub mod breaker;
#[cfg(test)]
#[expect(dead_code, reason = "other tests have a use for what is left")]
#[path = "../../tests/fleet/cbrl_server.rs"]
mod cbrl_server;
mod error;
mod in_process;
mod lock;
pub mod rate_limit;
mod redis;

pub use breaker::SharedBreaker;
pub use error::StoreError;
pub use rate_limit::SharedRateLimit;

use std::fmt;
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
    #[allow(dead_code, reason = "the connection is not made yet")]
    Redis(redis::Redis),
}

impl Fleet {
    /// A fleet of one process: nothing is shared with others, and everything else is the same. For tests, demos, and one
    /// machine with one process.
    #[must_use]
    pub fn in_process() -> Self {
        Self {
            shared: Arc::new(Shared {
                node: Arc::from("in-process"),
                backend: Backend::InProcess(in_process::InProcess::default()),
            }),
        }
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = match self.shared.backend {
            Backend::InProcess(_) => "in process",
            Backend::Redis(_) => "redis",
        };
        f.debug_struct("Fleet")
            .field("node", &self.shared.node)
            .field("backend", &backend)
            .finish_non_exhaustive()
    }
}
