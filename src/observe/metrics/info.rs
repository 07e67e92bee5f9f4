use std::fmt;

/// What there is to know of a metric. (feature `metrics`)
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct MetricInfo {
    /// The name, with Prometheus' suffixes.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
    /// What is measured or counted: `seconds`, `calls`, `permits`.
    pub unit: &'static str,
    /// The patterns whose handles have it: words of [`Event::pattern`](crate::Event::pattern).
    pub patterns: &'static [&'static str],
    /// Its labels, in order.
    pub labels: &'static [LabelInfo],
    /// Where its values come from.
    pub source: MetricSource,
    /// The upper bounds of its buckets, in its unit; empty if it is no histogram. An exporter has to be told of them.
    pub buckets: &'static [f64],
    /// What it means.
    pub help: &'static str,
}

/// What there is to know of a label of a metric. (feature `metrics`)
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LabelInfo {
    /// The name.
    pub name: &'static str,
    /// By pattern, the values it may have; empty if these are names that the user gives.
    pub values: &'static [(&'static str, &'static [&'static str])],
}

impl LabelInfo {
    /// The values it may have for a pattern; `None` if these are names that the user gives.
    #[must_use]
    pub fn values_of(&self, pattern: &str) -> Option<&'static [&'static str]> {
        let of_pattern = self.values.iter().find(|(of, _)| *of == pattern);
        of_pattern.map(|(_, values)| *values)
    }
}

/// Counter, gauge or histogram. (feature `metrics`)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// It only grows: look at its rate.
    Counter,
    /// What is so now.
    Gauge,
    /// How many values there were, in buckets.
    Histogram,
}

impl fmt::Display for MetricKind {
    /// As Prometheus writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// Where the values of a metric come from. (feature `metrics`)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricSource {
    /// From events, as they happen, since [`Metrics`](super::Metrics) observes the handle.
    Events,
    /// From what the handle has counted by itself, at each [`record`](super::RegistryMetrics::record).
    Handle,
    /// From events for patterns that do not count it by themselves, from the handle for the others.
    Both,
}

impl fmt::Display for MetricSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Events => "events",
            Self::Handle => "handle",
            Self::Both => "both",
        })
    }
}
