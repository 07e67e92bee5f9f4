//! Event and snapshot -> `metrics`. Every match is exhaustive: an event cannot be forgotten.

use metrics::{counter, gauge, histogram};

use crate::chaos::ChaosSnapshot;
use crate::circuit_breaker::{CircuitBreakerEvent, CircuitBreakerSnapshot, CircuitState};
use crate::contention::ResourceSnapshot;
use crate::event::ChaosEvent;
use crate::event::ConfigEvent;
use crate::event::ContentionEvent;
use crate::event::FallbackEvent;
use crate::event::HedgeEvent;
use crate::event::RateLimitEvent;
use crate::event::RetryEvent;
use crate::event::ThrottleEvent;
use crate::event::TimeoutEvent;
use crate::event::{Event, Observer};
use crate::fallback::FallbackSnapshot;
use crate::hedge::HedgeSnapshot;
use crate::rate_limit::RateLimitSnapshot;
use crate::registry::RegistrySnapshot;
use crate::retry::RetrySnapshot;
use crate::throttle::ThrottleSnapshot;
use crate::timeout::TimeoutsSnapshot;

/// Gives events to the recorder of the [`metrics`] facade. (feature `metrics`)
///
/// | name | type | labels | what |
/// |---|---|---|---|
/// | `bulwark_events_total` | counter | `pattern`, `name`, `kind` | every event |
/// | `bulwark_retry_delay_seconds` | histogram | `name` | backoffs before retries |
/// | `bulwark_wait_seconds` | histogram | `name` | waits for a permit or for a turn, however they ended |
/// | `bulwark_circuit_state` | gauge | `name`, `state` | 1 for the state a breaker is in, 0 for the others |
/// | `bulwark_circuit_calls_total` | counter | `name`, `outcome` | calls to a breaker, each once: `success`, `failure`, `overload`, `ignored`, `cancelled`, `rejected` |
/// | `bulwark_circuit_slow_calls_total` | counter | `name` | those of them that were slow |
/// | `bulwark_circuit_would_reject_total` | counter | `name` | in metrics-only mode: those that would have been refused |
/// | `bulwark_circuit_failure_rate` | gauge | `name` | failures in the window, once it holds enough calls |
/// | `bulwark_resource_in_use`, `_capacity`, `_waiting` | gauge | `name` | permits and waiters now |
/// | `bulwark_resource_attempts_total` | counter | `name`, `outcome` | who asked for a permit, each once: `acquired`, `timed_out`, `abandoned`, `busy`, `queue_full`, `deadlock`, `closed`, `shed` |
/// | `bulwark_resource_hold_seconds` | gauge | `name`, `quantile` | for how long the permits were held that came back in the last 30 to 60 seconds: 0.5, 0.9, 0.95, 0.99, and 1 for the longest |
/// | `bulwark_retry_calls_total` | counter | `name`, `outcome` | calls that have ended: `success`, `failure` |
/// | `bulwark_retry_attempts_total` | counter | `name` | their attempts, the first ones included |
/// | `bulwark_rate_limit_calls_total` | counter | `name`, `outcome` | calls, each once: `passed`, `waited`, `refused`, `abandoned` |
/// | `bulwark_rate_limit_available`, `_owed` | gauge | `name`, `quota` | what is left of a quota now, and what was used beyond it |
/// | `bulwark_rate_limit_waiting` | gauge | `name` | calls that wait now |
/// | `bulwark_rate_limit_paused_seconds` | gauge | `name` | how long nobody passes yet, because the service asked for it |
/// | `bulwark_throttle_calls_total` | counter | `name`, `outcome` | calls, each once: `accepted`, `not_accepted`, `refused` |
/// | `bulwark_throttle_probability` | gauge | `name` | with which probability a call is refused now |
/// | `bulwark_chaos_armed` | gauge | `name` | 1 while a drill is armed |
/// | `bulwark_chaos_injected_total` | counter | `name`, `fault` | faults on purpose: `latency`, `error`, `hang`, `panic`, `cut_body` |
/// | `bulwark_timeout_calls_total` | counter | `name` | calls that were made, or refused because the service was not ready |
/// | `bulwark_timeout_timed_out_total` | counter | `name`, `phase` | those that took too long, by phase: `ready`, `head`, `first_frame`, `idle`, `total`, `deadline` |
/// | `bulwark_retry_budget` | gauge | `name` | retries that the budget would pay for now |
/// | `bulwark_fallback_calls_total` | counter | `name`, `outcome` | calls that the service itself did not answer: `answered` by a target, `all_failed` |
/// | `bulwark_hedge_calls_total` | counter | `name` | calls that have begun |
/// | `bulwark_hedge_hedges_total` | counter | `name`, `outcome` | hedges, each once: `won`, `lost` (started, and the answer is another's, or still to come), `no_budget`, `refused`, `not_repeatable` |
/// | `bulwark_hedge_delay_seconds` | gauge | `name` | how long a call may take now before it is hedged, once that is known |
/// | `bulwark_hedge_budget` | gauge | `name` | hedges that the budget would pay for now |
///
/// The first three, and changes of `bulwark_circuit_state`, come from events, as they happen. The rest
/// comes from [`Metrics::record`], which is to be called before each scrape: so that a breaker that
/// never changed its state has a state too, and healthy calls pay nothing.
///
/// ```
/// use tower_bulwark::observe::Metrics;
/// use tower_bulwark::{CircuitBreaker, Registry};
///
/// // Once, for everything that is registered, now or later:
/// Registry::global().observe(Metrics);
/// let breaker = CircuitBreaker::builder("openai").build_in(Registry::global())?;
/// // Before a scrape:
/// Metrics::record(&Registry::global().snapshot());
/// # Ok::<(), tower_bulwark::RegistryError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics;

const STATES: [CircuitState; 6] = [
    CircuitState::Closed,
    CircuitState::Open,
    CircuitState::HalfOpen,
    CircuitState::ForcedOpen,
    CircuitState::Disabled,
    CircuitState::MetricsOnly,
];

fn circuit_state(name: &str, now: CircuitState) {
    for state in STATES {
        let is_now = if state == now { 1.0 } else { 0.0 };
        gauge!("bulwark_circuit_state", "name" => name.to_owned(), "state" => state.to_string())
            .set(is_now);
    }
}

impl Metrics {
    /// Records what a snapshot shows.
    pub fn record(snapshot: &RegistrySnapshot) {
        snapshot.circuit_breakers.iter().for_each(record_breaker);
        snapshot.resource_locks.iter().for_each(record_lock);
        snapshot.retries.iter().for_each(record_retry);
        snapshot.rate_limits.iter().for_each(record_rate_limit);
        snapshot.fallbacks.iter().for_each(record_fallback);
        snapshot.hedges.iter().for_each(record_hedge);
        snapshot.throttles.iter().for_each(record_throttle);
        snapshot.chaos.iter().for_each(record_chaos);
        snapshot.timeouts.iter().for_each(record_timeouts);
    }
}

fn record_breaker(breaker: &CircuitBreakerSnapshot) {
    let name = || breaker.name.to_string();
    circuit_state(&breaker.name, breaker.state);
    let totals = &breaker.totals;
    for (outcome, calls) in [
        ("success", totals.successes),
        ("failure", totals.failures),
        ("overload", totals.overloads),
        ("ignored", totals.ignored),
        ("cancelled", totals.cancelled),
        ("rejected", totals.rejected),
    ] {
        counter!("bulwark_circuit_calls_total", "name" => name(), "outcome" => outcome)
            .absolute(calls);
    }
    // These are among the others: how long a call took, and what would have been.
    counter!("bulwark_circuit_slow_calls_total", "name" => name()).absolute(totals.slow);
    counter!("bulwark_circuit_would_reject_total", "name" => name()).absolute(totals.would_reject);
    if let Some(rate) = breaker.failure_rate {
        gauge!("bulwark_circuit_failure_rate", "name" => name()).set(rate);
    }
}

fn record_lock(lock: &ResourceSnapshot) {
    let name = || lock.name.to_string();
    gauge!("bulwark_resource_in_use", "name" => name()).set(lock.in_use as f64);
    gauge!("bulwark_resource_capacity", "name" => name()).set(lock.capacity as f64);
    gauge!("bulwark_resource_waiting", "name" => name()).set(lock.waiting as f64);
    let stats = &lock.stats;
    for (outcome, attempts) in [
        ("acquired", stats.acquisitions),
        ("timed_out", stats.timeouts),
        ("abandoned", stats.abandoned),
        (
            "busy",
            stats.rejected - stats.queue_full.min(stats.rejected),
        ),
        ("queue_full", stats.queue_full),
        ("deadlock", stats.deadlocks),
        ("closed", stats.closed),
        ("shed", stats.shed),
    ] {
        counter!("bulwark_resource_attempts_total", "name" => name(), "outcome" => outcome)
            .absolute(attempts);
    }
    for (quantile, time) in [
        ("0.5", stats.recent_hold.p50),
        ("0.9", stats.recent_hold.p90),
        ("0.95", stats.recent_hold.p95),
        ("0.99", stats.recent_hold.p99),
        ("1", stats.recent_hold.max),
    ] {
        gauge!("bulwark_resource_hold_seconds", "name" => name(), "quantile" => quantile)
            .set(time.as_secs_f64());
    }
}

fn record_rate_limit(limit: &RateLimitSnapshot) {
    let name = || limit.name.to_string();
    let totals = &limit.totals;
    for (outcome, calls) in [
        ("passed", totals.passed),
        ("waited", totals.waited),
        ("refused", totals.refused),
        ("abandoned", totals.abandoned),
    ] {
        counter!("bulwark_rate_limit_calls_total", "name" => name(), "outcome" => outcome)
            .absolute(calls);
    }
    for quota in &limit.quotas {
        let labels = [("name", name()), ("quota", quota.name.to_string())];
        gauge!("bulwark_rate_limit_available", &labels).set(quota.available as f64);
        gauge!("bulwark_rate_limit_owed", &labels).set(quota.owed as f64);
    }
    gauge!("bulwark_rate_limit_waiting", "name" => name()).set(limit.waiting as f64);
    let paused = limit.paused_for.unwrap_or_default();
    gauge!("bulwark_rate_limit_paused_seconds", "name" => name()).set(paused.as_secs_f64());
}

fn record_throttle(throttle: &ThrottleSnapshot) {
    let name = || throttle.name.to_string();
    let totals = &throttle.totals;
    for (outcome, calls) in [
        ("accepted", totals.accepted),
        ("not_accepted", totals.not_accepted),
        ("refused", totals.refused),
    ] {
        counter!("bulwark_throttle_calls_total", "name" => name(), "outcome" => outcome)
            .absolute(calls);
    }
    gauge!("bulwark_throttle_probability", "name" => name()).set(throttle.probability);
}

fn record_chaos(chaos: &ChaosSnapshot) {
    let name = || chaos.name.to_string();
    let armed = if chaos.armed { 1.0 } else { 0.0 };
    gauge!("bulwark_chaos_armed", "name" => name()).set(armed);
    let injected = &chaos.injected;
    for (fault, calls) in [
        ("latency", injected.latency),
        ("error", injected.error),
        ("hang", injected.hang),
        ("panic", injected.panic),
        ("cut_body", injected.cut_body),
    ] {
        counter!("bulwark_chaos_injected_total", "name" => name(), "fault" => fault)
            .absolute(calls);
    }
}

fn record_timeouts(timeouts: &TimeoutsSnapshot) {
    let name = || timeouts.name.to_string();
    counter!("bulwark_timeout_calls_total", "name" => name()).absolute(timeouts.calls);
    let late = &timeouts.timed_out;
    for (phase, calls) in [
        ("ready", late.ready),
        ("head", late.head),
        ("first_frame", late.first_frame),
        ("idle", late.idle),
        ("total", late.total),
        ("deadline", late.deadline),
    ] {
        counter!("bulwark_timeout_timed_out_total", "name" => name(), "phase" => phase)
            .absolute(calls);
    }
}

fn record_retry(retry: &RetrySnapshot) {
    let name = || retry.name.to_string();
    for (outcome, calls) in [
        ("success", retry.successes),
        ("failure", retry.calls.saturating_sub(retry.successes)),
    ] {
        counter!("bulwark_retry_calls_total", "name" => name(), "outcome" => outcome)
            .absolute(calls);
    }
    counter!("bulwark_retry_attempts_total", "name" => name()).absolute(retry.attempts);
    if let Some(left) = retry.budget_available {
        gauge!("bulwark_retry_budget", "name" => name()).set(left as f64);
    }
}

fn record_fallback(fallback: &FallbackSnapshot) {
    let name = || fallback.name.to_string();
    let answered = fallback.fell_back.saturating_sub(fallback.all_failed);
    for (outcome, calls) in [("answered", answered), ("all_failed", fallback.all_failed)] {
        counter!("bulwark_fallback_calls_total", "name" => name(), "outcome" => outcome)
            .absolute(calls);
    }
}

fn record_hedge(hedge: &HedgeSnapshot) {
    let name = || hedge.name.to_string();
    counter!("bulwark_hedge_calls_total", "name" => name()).absolute(hedge.calls);
    let not_started = &hedge.not_started;
    for (outcome, hedges) in [
        ("won", hedge.won),
        ("lost", hedge.hedges.saturating_sub(hedge.won)),
        ("no_budget", not_started.no_budget),
        ("refused", not_started.refused),
        ("not_repeatable", not_started.not_repeatable),
    ] {
        counter!("bulwark_hedge_hedges_total", "name" => name(), "outcome" => outcome)
            .absolute(hedges);
    }
    if let Some(delay) = hedge.delay {
        gauge!("bulwark_hedge_delay_seconds", "name" => name()).set(delay.as_secs_f64());
    }
    if let Some(left) = hedge.budget_available {
        gauge!("bulwark_hedge_budget", "name" => name()).set(left as f64);
    }
}

impl Observer for Metrics {
    fn observe(&self, name: &str, event: &Event) {
        let labels = [
            ("pattern", event.pattern().to_owned()),
            ("name", name.to_owned()),
            ("kind", event.kind().to_owned()),
        ];
        counter!("bulwark_events_total", &labels).increment(1);
        match event {
            Event::Retry(RetryEvent::Scheduled { delay, .. }) => {
                histogram!("bulwark_retry_delay_seconds", "name" => name.to_owned()).record(*delay);
            }
            Event::CircuitBreaker(CircuitBreakerEvent::StateChanged { to, .. }) => {
                circuit_state(name, *to);
            }
            Event::Contention(
                ContentionEvent::Acquired { waited, .. }
                | ContentionEvent::TimedOut { waited, .. }
                | ContentionEvent::Abandoned { waited, .. },
            ) => {
                histogram!("bulwark_wait_seconds", "name" => name.to_owned()).record(*waited);
            }
            Event::RateLimit(
                RateLimitEvent::Waited { waited } | RateLimitEvent::Abandoned { waited },
            ) => {
                histogram!("bulwark_wait_seconds", "name" => name.to_owned()).record(*waited);
            }
            Event::Retry(RetryEvent::Recovered { .. } | RetryEvent::GaveUp { .. })
            | Event::CircuitBreaker(
                CircuitBreakerEvent::WouldChange { .. }
                | CircuitBreakerEvent::Rejected { .. }
                | CircuitBreakerEvent::ProbeLost { .. }
                | CircuitBreakerEvent::Reset,
            )
            | Event::Contention(
                ContentionEvent::Contended { .. }
                | ContentionEvent::QueueFull { .. }
                | ContentionEvent::Busy { .. }
                | ContentionEvent::Shed { .. }
                | ContentionEvent::Deadlock { .. }
                | ContentionEvent::LongHold { .. }
                | ContentionEvent::NotPolled { .. }
                | ContentionEvent::Closed { .. }
                | ContentionEvent::CapacityChanged { .. },
            )
            | Event::Throttle(
                ThrottleEvent::Refused { .. }
                | ThrottleEvent::Began { .. }
                | ThrottleEvent::Ended { .. },
            )
            | Event::Chaos(
                ChaosEvent::Armed { .. } | ChaosEvent::Disarmed | ChaosEvent::Injected { .. },
            )
            | Event::Config(ConfigEvent::Applied { .. } | ConfigEvent::Refused { .. })
            | Event::Timeout(TimeoutEvent::TimedOut { .. })
            | Event::Fallback(FallbackEvent::FellBack { .. } | FallbackEvent::AllFailed { .. })
            | Event::Hedge(
                HedgeEvent::Started { .. } | HedgeEvent::Won { .. } | HedgeEvent::NotStarted { .. },
            )
            | Event::RateLimit(RateLimitEvent::Refused { .. } | RateLimitEvent::Paused { .. }) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;
    use crate::{CircuitBreaker, Registry};

    /// Every metric as one line.
    fn recorded(f: impl FnOnce()) -> Vec<String> {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, f);
        let lines = snapshotter
            .snapshot()
            .into_vec()
            .into_iter()
            .map(|(key, _, _, value)| {
                let key = key.key();
                let labels: Vec<_> = key
                    .labels()
                    .map(|l| format!("{}={}", l.key(), l.value()))
                    .collect();
                let value = match value {
                    DebugValue::Counter(n) => n.to_string(),
                    DebugValue::Gauge(x) => x.to_string(),
                    DebugValue::Histogram(values) => format!("{} values", values.len()),
                };
                format!("{}{{{}}} {value}", key.name(), labels.join(","))
            });
        lines.collect()
    }

    #[test]
    fn a_breaker_has_a_state_before_it_ever_changed() {
        let registry = Registry::new();
        let _ = registry.circuit_breaker("api");
        let lines = recorded(|| Metrics::record(&registry.snapshot()));
        let is = |line: &str| lines.iter().any(|l| l == line);
        assert!(
            is("bulwark_circuit_state{name=api,state=closed} 1"),
            "{lines:#?}"
        );
        assert!(
            is("bulwark_circuit_state{name=api,state=open} 0"),
            "{lines:#?}"
        );
        assert!(
            is("bulwark_circuit_calls_total{name=api,outcome=success} 0"),
            "{lines:#?}"
        );
    }

    #[test]
    fn the_old_state_is_set_to_zero_when_the_new_one_is_set_to_one() {
        let lines = recorded(|| {
            let breaker = CircuitBreaker::builder("api")
                .observer(Metrics)
                .build()
                .unwrap();
            breaker.force_open();
            breaker.force_close();
        });
        let is = |line: &str| lines.iter().any(|l| l == line);
        assert!(
            is("bulwark_circuit_state{name=api,state=closed} 1"),
            "{lines:#?}"
        );
        assert!(
            is("bulwark_circuit_state{name=api,state=forced open} 0"),
            "{lines:#?}"
        );
        let events = "bulwark_events_total{pattern=circuit_breaker,name=api,kind=state_changed} 2";
        assert!(is(events), "{lines:#?}");
    }

    #[test]
    fn each_pattern_of_a_registry_has_its_metrics() {
        use crate::rate_limit::Quota;
        use crate::{RateLimit, Timeouts};

        let registry = Registry::new();
        registry.observe(Metrics);
        let throttle = registry.throttle("search");
        let drill = crate::Chaos::builder("drill").build_in(&registry).unwrap();
        drill.arm();
        let _kept = (
            registry.circuit_breaker("api"),
            registry.resource_lock("slot"),
            registry.retry("again"),
            registry.hedge("reads"),
            registry.fallback("models"),
            RateLimit::builder("quota")
                .quota("requests", Quota::per_second(1))
                .build_in(&registry)
                .unwrap(),
            Timeouts::builder("limits")
                .head(std::time::Duration::from_secs(1))
                .build_in(&registry)
                .unwrap(),
        );
        let lines = recorded(|| {
            for _ in 0..20 {
                throttle
                    .try_acquire()
                    .into_iter()
                    .for_each(|it| it.overload());
            }
            Metrics::record(&registry.snapshot());
        });
        for expected in [
            "bulwark_circuit_calls_total{name=api,outcome=rejected} 0",
            "bulwark_resource_capacity{name=slot} 1",
            "bulwark_retry_calls_total{name=again,outcome=success} 0",
            "bulwark_hedge_calls_total{name=reads} 0",
            "bulwark_fallback_calls_total{name=models,outcome=answered} 0",
            "bulwark_rate_limit_available{name=quota,quota=requests} 1",
            "bulwark_timeout_calls_total{name=limits} 0",
            "bulwark_throttle_calls_total{name=search,outcome=accepted} 0",
            "bulwark_throttle_probability{name=search} 0.9",
            "bulwark_events_total{pattern=throttle,name=search,kind=began} 1",
            "bulwark_chaos_armed{name=drill} 1",
            "bulwark_chaos_injected_total{name=drill,fault=hang} 0",
        ] {
            assert!(
                lines.iter().any(|it| it == expected),
                "{expected}: {lines:#?}"
            );
        }
    }
}
