//! Event and handle -> `metrics`.

mod from_events;
#[cfg(feature = "redis")]
mod from_fleets;
mod from_handles;
mod info;
mod list;
mod registry_metrics;
mod sample;
mod series;
mod values;

use crate::event::{Event, Observer};
use crate::registry::Registry;

pub use info::{LabelInfo, MetricInfo, MetricKind, MetricSource};
pub use registry_metrics::RegistryMetrics;

/// What happens, as counters, gauges and histograms of the [`metrics`] facade. (feature `metrics`)
///
/// Every name, unit, label and meaning: [`docs::metrics`](crate::docs::metrics).
///
/// ```
/// use tower_bulwark::observe::Metrics;
/// use tower_bulwark::{CircuitBreaker, Registry};
///
/// // Once, for everything that is registered, now or later:
/// let metrics = Metrics::of(Registry::global());
/// let breaker = CircuitBreaker::builder("openai").build_in(Registry::global())?;
/// // Before each scrape:
/// metrics.record();
/// # Ok::<(), tower_bulwark::RegistryError>(())
/// ```
///
/// For a handle that is in no registry, it is an [`Observer`]: `.observer(Metrics)` on its builder. Then there is only what comes
/// from [events](MetricSource::Events), and nothing before the first of them.
///
/// # Cost
///
/// A call that goes well costs nothing more. An event costs a few allocations and a look into the recorder's table, about a
/// microsecond in all: with an observer each refusal is such an event. The rest is done in
/// [`record`](RegistryMetrics::record).
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics;

impl Metrics {
    /// Observes everything in this registry, now or later, and gives what records the rest.
    ///
    /// Once for a registry: to do it twice counts each event twice. Two registries with handles of the same name write to
    /// the same series.
    #[must_use = "`record` is to be called before each scrape"]
    pub fn of(registry: &Registry) -> RegistryMetrics {
        registry.observe(Self);
        RegistryMetrics::new(registry)
    }

    /// Every metric that there is: to set the buckets of an exporter, or to make a dashboard.
    #[must_use]
    pub fn list() -> &'static [MetricInfo] {
        list::LIST
    }
}

impl Observer for Metrics {
    fn observe(&self, name: &str, event: &Event) {
        from_events::record(name, event);
    }
}
