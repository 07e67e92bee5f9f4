//! Ways to see what happens: logs, a ring of recent events, metrics.
//!
//! | what | how | cost when nothing fails |
//! |---|---|---|
//! | `tracing` events | always; install any subscriber | none |
//! | [`Feed`]: the last events, with the numbers that caused them | [`Registry::feed`](crate::Registry::feed), or `.observer(feed.clone())` on a builder | none |
//! | your own | any `Fn(&str, &Event)` given to `.observer(..)` | none |
//! | `metrics` counters, gauges, histograms: [`docs::metrics`](crate::docs::metrics) | feature `metrics`, `Metrics::of(&registry)` | none |
//!
//! Levels: what an operator should be woken for is `ERROR` (a deadlock), what explains an outage is
//! `WARN` (a circuit opens, a retry gives up, a lock is contended), what happens while all is
//! well in the end is `INFO` or `DEBUG`. The target is `tower_bulwark`.

#[cfg(feature = "metrics")]
mod metrics;

pub use crate::event::{Entry, Feed};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use metrics::{LabelInfo, MetricInfo, MetricKind, MetricSource, Metrics, RegistryMetrics};
