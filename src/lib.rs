//! Resilience middleware for tower.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
pub mod circuit_breaker;
pub mod contention;
pub mod deadline;
pub mod docs;
pub mod error;
pub mod event;
pub mod explain;
mod histogram;
pub mod observe;
pub mod outcome;
mod random;
mod registry;
pub mod retry;
mod stripes;
mod sync;
mod time;
mod window;

pub use answer::{Answer, AsError, RejectWith};
pub use circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitState};
pub use contention::{ContentionLayer, Holder, ResourceLock, workflow};
pub use error::{
    AsLeaf, BoxError, Boxed, CircuitOpen, ConfigError, Contended, ContendedReason, Error,
    Exhausted, HolderInfo, IntoError, LastFailure, Rejection, StopReason, TimedOut,
};
pub use event::{Event, Observer};
pub use outcome::{Classify, Outcome, Verdict};
pub use registry::{Registry, RegistryError, RegistrySnapshot};
pub use retry::{Backoff, Jitter, RetryBudget, RetryLayer, RetryPolicy};
