//! Ways to see what happens: logs, a ring of recent events, metrics.
//!
//! | what | how | cost when nothing fails |
//! |---|---|---|
//! | `tracing` events | always; install any subscriber | none |
//! | [`Feed`]: the last events, with the numbers that caused them | [`Registry::feed`](crate::Registry::feed), or `.observer(feed.clone())` on a builder | none |
//! | your own | any `Fn(&str, &Event)` given to `.observer(..)` | none |
//! | `metrics` counters, gauges, histograms: [`docs::metrics`](crate::docs::metrics) | feature `metrics`, `Metrics::of(&registry)` | none |
//!
//! # Logs
//!
//! Levels: what an operator should be woken for is `ERROR` (a deadlock), what explains an outage is
//! `WARN` (a circuit opens, a retry gives up, a lock is contended), what happens while all is
//! well in the end is `INFO` or `DEBUG`. The target is `tower_bulwark`; `pattern`, `name`, `reason` and `cause` are the words
//! that the labels of the metrics have.
//!
//! What happens call by call (refusals, timeouts, retries, waits, fallbacks) is written once a second at most for each handle
//! and kind, with the number of those that were left out since the last line, at every level:
//!
//! ```text
//! WARN tower_bulwark: gave up (and 4,211 more) pattern=retry name=api attempts=3 elapsed=1.250s reason=max_retries cause=error error=connection refused left_out=4211
//! ```
//!
//! Those of the last second of a burst are told with the next event of their kind, whenever that is; metrics and snapshots
//! count each at once. Changes of a circuit's state, deadlocks, lost probes and what operators do are always written.
//!
//! # Secrets
//!
//! No line holds a request, a header or a body. The words of an error, of a response's judge and of a breaker's last failure
//! do not come from this crate: they are written on one line of at most 256 characters, control characters as `\n`, without
//! the credentials and queries of URLs, the values of what is called `token`, `password` or the like, and what looks like a
//! key. That is a net with holes. Where an error may hold what nobody shall read, leave the words out: they are written only
//! while the target `tower_bulwark::error_text` is enabled.
//!
//! ```text
//! RUST_LOG=info,tower_bulwark::error_text=off
//! ```
//!
//! Names of handles and holders are written as they are, on one line: give them names, not tokens. Events, snapshots and the
//! [`Feed`] hold the words as they are.

#[cfg(feature = "metrics")]
mod metrics;

pub use crate::event::{Entry, Feed};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use metrics::{LabelInfo, MetricInfo, MetricKind, MetricSource, Metrics, RegistryMetrics};
