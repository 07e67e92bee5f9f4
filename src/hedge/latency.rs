//! How long calls take of late, and the delay that follows from it. Pure: time is an argument.

use std::time::Duration;

use super::config::HedgeConfig;
use crate::util::recent::RecentHistogram;

/// How long to wait for an answer before a hedge starts; `None` for as long as it takes.
pub(super) fn delay(config: &HedgeConfig, recent: &RecentHistogram) -> Option<Duration> {
    let known = config.percentile.and_then(|percentile| {
        let (count, latency) = recent.recent_quantile(percentile);
        (count >= config.min_samples).then(|| latency.max(config.at_least))
    });
    known.or(config.after)
}

/// Whether the delay depends on latencies, and is not known yet.
pub(super) fn is_cold(config: &HedgeConfig, recent: &RecentHistogram) -> bool {
    let count = recent.totals()[0].0;
    config.percentile.is_some() && count < config.min_samples
}
