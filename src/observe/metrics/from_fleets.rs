//! Snapshot of a fleet -> values of series.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fleet::FleetSnapshot;

use super::info::MetricInfo;
use super::list;
use super::sample::Sample;

/// What a fleet shows, and each part of it: counts by themselves, because a part may end and its counts do not, and all
/// gauges together, because one name may stand for several parts.
pub(super) fn add(fleet: &FleetSnapshot, samples: &mut Vec<Sample>) {
    let mut sample = Sample::new("fleet", &fleet.namespace);
    let gauges = &mut Gauges::default();
    gauges.most(&list::FLEET_CONNECTED, &[], flag(fleet.health.connected));
    gauges.most(&list::FLEET_NODES, &[], fleet.nodes.count as f64);
    sample.count(&list::FLEET_CONNECTIONS, &[], fleet.health.connections);
    sample.count(&list::FLEET_MISSED, &[], fleet.health.gaps);
    breakers(fleet, gauges, samples);
    locks(fleet, gauges, samples);
    rate_limits(fleet, gauges, samples);
    for ((_, values), (info, value)) in std::mem::take(&mut gauges.0) {
        let values: Vec<_> = values.iter().map(|it| &**it).collect();
        sample.gauge(info, &values, value);
    }
    samples.push(sample);
}

fn flag(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

fn part(fleet: &FleetSnapshot, name: &Arc<str>) -> Sample {
    let mut sample = Sample::new("fleet", &fleet.namespace);
    sample.part = Some(Arc::clone(name));
    sample
}

fn breakers(fleet: &FleetSnapshot, gauges: &mut Gauges, samples: &mut Vec<Sample>) {
    const PART: &str = "circuit_breaker";
    for breaker in &fleet.circuit_breakers {
        let name = &*breaker.name;
        let mut sample = part(fleet, &breaker.name);
        sample.count(&list::FLEET_ERRORS, &[PART, name], breaker.failed);
        let is_away = flag(breaker.away_for.is_some());
        gauges.most(&list::FLEET_AWAY, &[PART, name], is_away);
        let is_open = flag(breaker.fleet_is_open);
        gauges.most(&list::FLEET_CIRCUIT_OPEN, &[name], is_open);
        let lag = breaker.lag.as_secs_f64();
        gauges.most(&list::FLEET_CIRCUIT_LAG, &[name], lag);
        samples.push(sample);
    }
}

fn locks(fleet: &FleetSnapshot, gauges: &mut Gauges, samples: &mut Vec<Sample>) {
    const PART: &str = "lock";
    for lock in &fleet.locks {
        let (name, stats) = (&*lock.name, &lock.stats);
        let mut sample = part(fleet, &lock.name);
        sample.count(&list::FLEET_ERRORS, &[PART, name], lock.store_errors);
        let refused = stats.rejected + stats.timeouts + lock.unavailable;
        for (outcome, calls) in [
            // What was admitted without the store is another outcome, and counted once.
            ("passed", stats.acquisitions.saturating_sub(lock.local)),
            ("local", lock.local),
            ("refused", refused),
            ("abandoned", stats.abandoned),
        ] {
            sample.count(&list::FLEET_LOCK_CALLS, &[name, outcome], calls);
        }
        sample.count(&list::FLEET_LOCK_LOST, &[name], lock.lost);
        let is_away = flag(lock.away_for.is_some());
        gauges.most(&list::FLEET_AWAY, &[PART, name], is_away);
        let capacity = lock.capacity as f64;
        gauges.most(&list::FLEET_LOCK_CAPACITY, &[name], capacity);
        let leases = lock.held_here as f64;
        gauges.sum(&list::FLEET_LOCK_LEASES, &[name], leases);
        let waiting = lock.waiting_here as f64;
        gauges.sum(&list::FLEET_LOCK_WAITING, &[name], waiting);
        samples.push(sample);
    }
}

fn rate_limits(fleet: &FleetSnapshot, gauges: &mut Gauges, samples: &mut Vec<Sample>) {
    const PART: &str = "rate_limit";
    for limit in &fleet.rate_limits {
        let (name, totals) = (&*limit.name, &limit.totals);
        let mut sample = part(fleet, &limit.name);
        sample.count(&list::FLEET_ERRORS, &[PART, name], totals.failed);
        for (outcome, calls) in [
            ("passed", totals.passed),
            ("waited", totals.waited),
            ("refused", totals.refused),
            ("abandoned", totals.abandoned),
        ] {
            sample.count(&list::FLEET_LIMIT_CALLS, &[name, outcome], calls);
        }
        sample.count(&list::FLEET_LIMIT_LOCAL, &[name], totals.local);
        let is_away = flag(limit.degraded_for.is_some());
        gauges.most(&list::FLEET_AWAY, &[PART, name], is_away);
        samples.push(sample);
    }
}

/// Gauges by what they are of.
#[derive(Default)]
struct Gauges(BTreeMap<Of, (&'static MetricInfo, f64)>);

/// The name of a metric, and the values of its labels.
type Of = (&'static str, Vec<String>);

impl Gauges {
    fn entry(&mut self, info: &'static MetricInfo, values: &[&str]) -> &mut f64 {
        let values: Vec<_> = values.iter().map(|it| (*it).to_owned()).collect();
        let of = (info.name, values);
        let (_, value) = self.0.entry(of).or_insert((info, 0.0));
        value
    }

    fn most(&mut self, info: &'static MetricInfo, values: &[&str], value: f64) {
        let it = self.entry(info, values);
        *it = it.max(value);
    }

    fn sum(&mut self, info: &'static MetricInfo, values: &[&str], value: f64) {
        *self.entry(info, values) += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;

    #[test]
    fn a_call_of_a_lock_that_was_admitted_without_the_store_is_counted_once() {
        let fleet = Fleet::in_process();
        let _lock = fleet.lock("gpu").build().unwrap();
        let mut seen = fleet.snapshot();
        seen.locks[0].stats.acquisitions = 5;
        seen.locks[0].local = 2;
        let mut samples = Vec::new();
        add(&seen, &mut samples);
        let counts = samples.iter().flat_map(|it| &it.counts);
        let calls = counts.filter(|it| it.key.name() == list::FLEET_LOCK_CALLS.name);
        assert_eq!(calls.map(|it| it.value).sum::<u64>(), 5);
    }
}
