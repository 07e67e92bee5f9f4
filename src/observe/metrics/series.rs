//! The one place that talks to the `metrics` facade.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Unit, with_recorder};

use super::info::{MetricInfo, MetricKind, MetricSource};
use super::list::LIST;

const METADATA: Metadata<'static> =
    Metadata::new("tower_bulwark", Level::INFO, Some("tower_bulwark"));

/// A series of a metric. `values` are those of the labels after `pattern` and `name`, in the order of the list.
pub(super) fn key(info: &MetricInfo, pattern: &'static str, name: &str, values: &[&str]) -> Key {
    let mut values = values.iter();
    let labels = info.labels.iter().map(|label| match label.name {
        "pattern" => Label::from_static_parts("pattern", pattern),
        "name" => Label::new("name", name.to_owned()),
        other => Label::new(other, values.next().copied().unwrap_or_default().to_owned()),
    });
    Key::from_parts(info.name, labels.collect::<Vec<_>>())
}

pub(super) fn counter(key: &Key) -> Counter {
    with_recorder(|recorder| recorder.register_counter(key, &METADATA))
}

pub(super) fn gauge(key: &Key) -> Gauge {
    with_recorder(|recorder| recorder.register_gauge(key, &METADATA))
}

pub(super) fn histogram(key: &Key) -> Histogram {
    with_recorder(|recorder| recorder.register_histogram(key, &METADATA))
}

/// Tells the recorder the unit and the meaning of every metric.
pub(super) fn describe() {
    for info in LIST {
        let unit = match info.unit {
            "seconds" => Unit::Seconds,
            _ => Unit::Count,
        };
        let (name, unit, help) = (info.name.into(), Some(unit), info.help.into());
        with_recorder(|recorder| match info.kind {
            MetricKind::Counter => recorder.describe_counter(name, unit, help),
            MetricKind::Gauge => recorder.describe_gauge(name, unit, help),
            MetricKind::Histogram => recorder.describe_histogram(name, unit, help),
        });
    }
}

/// Registers what a handle has from events, so that it is there, and zero, before the first of them.
pub(super) fn register_events(pattern: &'static str, name: &str) {
    let of_events = LIST
        .iter()
        .filter(|info| info.source != MetricSource::Handle && info.patterns.contains(&pattern));
    for info in of_events {
        let by_value = info
            .labels
            .iter()
            .find(|label| !matches!(label.name, "pattern" | "name"))
            .and_then(|label| label.values_of(pattern));
        let keys: Vec<Key> = match by_value {
            Some(values) => values
                .iter()
                .map(|value| key(info, pattern, name, &[value]))
                .collect(),
            None => vec![key(info, pattern, name, &[])],
        };
        for key in &keys {
            match info.kind {
                MetricKind::Counter => counter(key).increment(0),
                MetricKind::Gauge => gauge(key).increment(0.0),
                MetricKind::Histogram => drop(histogram(key)),
            }
        }
    }
}
