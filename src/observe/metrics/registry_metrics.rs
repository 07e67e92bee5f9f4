use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use metrics::Key;

use super::from_handles;
use super::sample::Sample;
use super::series::{counter, describe, gauge, histogram, register_events};
use crate::registry::Registry;

/// Everything in a registry as metrics. Made by [`Metrics::of`](super::Metrics::of). (feature `metrics`)
///
/// A cheap clone of shared state: what has been recorded before, so that each count is recorded once.
#[derive(Clone)]
pub struct RegistryMetrics {
    registry: Registry,
    recorded: Arc<Mutex<Recorded>>,
}

/// What has been recorded so far.
#[derive(Default)]
struct Recorded {
    round: u64,
    handles: HashMap<(&'static str, Arc<str>, Option<Address>), OfHandle>,
}

/// Where a name is.
type Address = usize;

fn address(name: &Arc<str>) -> Address {
    Arc::as_ptr(name).cast::<u8>() as Address
}

/// What has been recorded of a handle so far.
struct OfHandle {
    /// Its name, by whose address it is known. As long as this is kept, no other name is there.
    id: Weak<str>,
    /// When it was last seen.
    round: u64,
    counts: HashMap<Key, u64>,
    /// By the bits of the value.
    cells: HashMap<(Key, u64), u64>,
    gauges: Vec<Key>,
}

impl RegistryMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
            recorded: Arc::default(),
        }
    }

    /// Records everything that is registered now. To be called before each scrape.
    ///
    /// It takes snapshots, some microseconds for each handle, and adds to the histograms one value for each call since it was
    /// last called: of [`Metrics`](super::Metrics) is said what that costs. Two that are called at once follow one another.
    ///
    /// A handle that is [removed](Registry::remove_circuit_breaker) has its gauges set to 0, once, and is recorded no more.
    pub fn record(&self) {
        // The snapshots are made under the lock: none is older than what was recorded before.
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        describe();
        recorded.round += 1;
        #[cfg(feature = "config")]
        register_events("config", "config");
        for sample in from_handles::samples(&self.registry) {
            register_events(sample.pattern, &sample.name);
            recorded.record(sample);
        }
        recorded.let_go();
    }
}

impl Recorded {
    fn record(&mut self, sample: Sample) {
        let round = self.round;
        let address = sample.part.as_ref().map(address);
        let of_handle = self
            .handles
            .entry((sample.pattern, Arc::clone(&sample.name), address))
            .or_insert_with(|| OfHandle::new(&sample));
        if of_handle.begins_anew(&sample) {
            // What only the old one had, a quota say, is zero from here on.
            let gauges = std::mem::take(&mut of_handle.gauges);
            *of_handle = OfHandle {
                gauges,
                ..OfHandle::new(&sample)
            };
        }
        of_handle.round = round;
        of_handle.record(sample);
    }

    /// What is not registered any more is zero from here on. What was counted of it is known for as long as it lives: it may
    /// be registered again.
    fn let_go(&mut self) {
        let round = self.round;
        let gone = |it: &OfHandle| it.round != round;
        if !self.handles.values().any(gone) {
            return;
        }
        let mut kept_here: HashMap<Address, usize> = HashMap::new();
        for (_, name, _) in self.handles.keys() {
            *kept_here.entry(address(name)).or_default() += 1;
        }
        self.handles.retain(|(_, name, _), of_handle| {
            if !gone(of_handle) {
                return true;
            }
            of_handle
                .gauges
                .drain(..)
                .for_each(|key| gauge(&key).set(0.0));
            let at = of_handle.id.as_ptr().cast::<u8>() as Address;
            let lives = of_handle.id.strong_count() > kept_here.get(&at).copied().unwrap_or(0);
            if !lives && let Some(kept) = kept_here.get_mut(&address(name)) {
                // This name goes with it: one less for those that are looked at after it.
                *kept -= 1;
            }
            lives
        });
    }
}

impl OfHandle {
    fn new(sample: &Sample) -> Self {
        Self {
            id: Arc::downgrade(sample.id()),
            round: 0,
            counts: HashMap::new(),
            cells: HashMap::new(),
            gauges: Vec::new(),
        }
    }

    /// Whether it is another handle of that name, or its counts have been reset.
    fn begins_anew(&self, sample: &Sample) -> bool {
        let known = |key: &Key| self.counts.get(key).copied().unwrap_or(0);
        let shrinks = |it: &super::sample::Count| it.exact && it.value < known(&it.key);
        let is_same = std::ptr::addr_eq(self.id.as_ptr(), Arc::as_ptr(sample.id()));
        !is_same || sample.counts.iter().any(shrinks)
    }

    fn record(&mut self, sample: Sample) {
        for count in sample.counts {
            let series = counter(&count.key);
            let known = self.counts.entry(count.key).or_insert(0);
            series.increment(count.value.saturating_sub(*known));
            *known = count.value.max(*known);
        }
        for (key, cells) in sample.histograms {
            let series = histogram(&key);
            for (value, count) in cells {
                let cell = (key.clone(), value.to_bits());
                let known = self.cells.entry(cell).or_insert(0);
                let new = usize::try_from(count.saturating_sub(*known)).unwrap_or(usize::MAX);
                series.record_many(value, new);
                *known = count.max(*known);
            }
        }
        let before = std::mem::take(&mut self.gauges);
        for (key, value) in sample.gauges {
            gauge(&key).set(value);
            self.gauges.push(key);
        }
        let gone = before.iter().filter(|key| !self.gauges.contains(key));
        gone.for_each(|key| gauge(key).set(0.0));
    }
}

impl fmt::Debug for RegistryMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryMetrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::super::list::{CALLS, RESOURCE_HOLD};
    use super::*;

    /// What a counter has come to, when a handle shows these values one after the other.
    fn counted(values: &[u64], show: impl Fn(&mut Sample, u64)) -> u64 {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let (mut recorded, name) = (Recorded::default(), "api".into());
        metrics::with_local_recorder(&recorder, || {
            for value in values {
                let mut sample = Sample::new("contention", &name);
                show(&mut sample, *value);
                recorded.record(sample);
            }
        });
        let series = snapshotter.snapshot().into_vec().into_iter();
        let counts = series.map(|(.., value)| match value {
            DebugValue::Counter(n) => n,
            DebugValue::Histogram(values) => values.len() as u64,
            DebugValue::Gauge(_) => 0,
        });
        counts.sum()
    }

    #[test]
    fn an_exact_count_that_shrinks_has_begun_anew_and_a_computed_one_only_wavers() {
        let values = [5, 4, 6];
        let exact = |sample: &mut Sample, n| sample.count(&CALLS, &["passed"], n);
        assert_eq!(counted(&values, exact), 5 + 6);
        let computed = |sample: &mut Sample, n| sample.computed(&CALLS, &["passed"], n);
        assert_eq!(counted(&values, computed), 6);
    }

    #[test]
    fn a_handle_that_comes_back_is_not_counted_twice_and_one_that_is_dropped_is_forgotten() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let mut recorded = Recorded::default();
        metrics::with_local_recorder(&recorder, || {
            let name: Arc<str> = "api".into();
            let part: Arc<str> = "gpu".into();
            for is_there in [true, true, false, false, true] {
                recorded.round += 1;
                for part in [None, Some(&part)].into_iter().filter(|_| is_there) {
                    let mut sample = Sample::new("contention", &name);
                    sample.part = part.cloned();
                    sample.count(&CALLS, &[part.map_or("passed", |it| it)], 5);
                    recorded.record(sample);
                }
                recorded.let_go();
            }
            assert_eq!(recorded.handles.len(), 2);
            recorded.round += 1;
            drop((name, part));
            recorded.let_go();
        });
        assert!(recorded.handles.is_empty());
        let series = snapshotter.snapshot().into_vec().into_iter();
        for (.., value) in series {
            assert_eq!(value, DebugValue::Counter(5));
        }
    }

    #[test]
    fn parts_that_end_while_a_fleet_is_not_registered_take_nothing_of_it_with_them() {
        let mut recorded = Recorded::default();
        let name: Arc<str> = "fleet".into();
        let parts: Vec<Arc<str>> = (0..100).map(|n| n.to_string().into()).collect();
        recorded.round += 1;
        for part in std::iter::once(None).chain(parts.iter().map(Some)) {
            let mut sample = Sample::new("fleet", &name);
            sample.part = part.cloned();
            recorded.record(sample);
        }
        drop(parts);
        recorded.round += 1;
        recorded.let_go();
        assert_eq!(recorded.handles.len(), 1, "the fleet alone is known");
        drop(name);
        recorded.let_go();
        assert!(recorded.handles.is_empty());
    }

    #[test]
    fn a_cell_of_a_histogram_is_recorded_once_for_each_time_in_it() {
        let show = |sample: &mut Sample, n| sample.histogram(&RESOURCE_HOLD, vec![(0.5, n)]);
        assert_eq!(counted(&[2, 2, 7], show), 7);
    }
}
