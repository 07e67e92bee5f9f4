//! Calls again when a call failed.
mod backoff;
mod budget;
mod builder;
mod event;
mod policy;
mod prepare;
mod run;
mod runner;
mod service;
mod state;
#[cfg(test)]
mod tests;

pub use backoff::{Backoff, Jitter};
pub use budget::{RetryBudget, RetryBudgetBuilder};
pub use builder::RetryPolicyBuilder;
pub use event::RetryEvent;
pub use policy::{AttemptOutcome, RetryPolicy, RetryRules, RetrySnapshot};
pub use prepare::{
    CloneRequest, CopyRequest, CopyWith, DeadlineWith, MaxRetriesWith, RequestLimits,
};
pub use runner::Retry;
pub use service::{RetryFuture, RetryLayer, RetryService};
