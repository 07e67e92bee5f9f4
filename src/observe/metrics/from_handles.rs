//! Snapshot -> values of series.

use crate::chaos::ChaosSnapshot;
use crate::circuit_breaker::{CircuitBreakerSnapshot, CircuitState};
use crate::contention::ResourceLock;
use crate::event::words;
use crate::fallback::FallbackSnapshot;
use crate::hedge::Hedge;
use crate::rate_limit::RateLimitSnapshot;
use crate::registry::Registry;
use crate::retry::RetryPolicy;
use crate::throttle::ThrottleSnapshot;
use crate::timeout::Timeouts;
use crate::util::histogram::Histogram;

use super::list;
use super::sample::{Cells, Sample};

/// What everything in a registry shows.
pub(super) fn samples(registry: &Registry) -> Vec<Sample> {
    let mut samples = Vec::new();
    samples.extend(registry.retries().iter().map(retry));
    samples.extend(
        registry
            .circuit_breakers()
            .iter()
            .map(|it| breaker(&it.snapshot())),
    );
    samples.extend(registry.resource_locks().iter().map(lock));
    samples.extend(
        registry
            .rate_limits()
            .iter()
            .map(|it| rate_limit(&it.snapshot())),
    );
    samples.extend(registry.timeouts().iter().map(timeouts));
    samples.extend(registry.hedges().iter().map(hedge));
    samples.extend(
        registry
            .fallbacks()
            .iter()
            .map(|it| fallback(&it.snapshot())),
    );
    samples.extend(
        registry
            .throttles()
            .iter()
            .map(|it| throttle(&it.snapshot())),
    );
    samples.extend(registry.chaos().iter().map(|it| chaos(&it.snapshot())));
    #[cfg(feature = "redis")]
    for fleet in registry.fleets() {
        super::from_fleets::add(&fleet.snapshot(), &mut samples);
    }
    samples
}

fn cells(times: &Histogram) -> Cells {
    let seconds = times
        .cells()
        .map(|(time, count)| (time.as_secs_f64(), count));
    seconds.collect()
}

fn retry(policy: &RetryPolicy) -> Sample {
    let retry = policy.snapshot();
    let mut sample = Sample::new("retry", &retry.name);
    let at_once = retry.successes.saturating_sub(retry.recovered);
    let failed = retry.calls.saturating_sub(retry.successes);
    sample.computed(&list::CALLS, &["success"], at_once);
    sample.count(&list::CALLS, &["success_after_retry"], retry.recovered);
    sample.computed(&list::CALLS, &["failure"], failed);
    sample.computed(&list::RETRY_ATTEMPTS, &[], retry.attempts);
    let by_attempts = (1..).zip(policy.calls_by_attempts());
    let by_attempts = by_attempts.map(|(attempts, calls)| (f64::from(attempts), calls));
    sample.histogram(&list::RETRY_CALL_ATTEMPTS, by_attempts.collect());
    if let Some(left) = retry.budget_available {
        sample.gauge(&list::RETRY_BUDGET, &[], left as f64);
    }
    sample
}

fn breaker(breaker: &CircuitBreakerSnapshot) -> Sample {
    const STATES: [CircuitState; 6] = [
        CircuitState::Closed,
        CircuitState::Open,
        CircuitState::HalfOpen,
        CircuitState::ForcedOpen,
        CircuitState::Disabled,
        CircuitState::MetricsOnly,
    ];
    let mut sample = Sample::new("circuit_breaker", &breaker.name);
    let totals = &breaker.totals;
    for (outcome, calls) in [
        ("success", totals.successes),
        ("failure", totals.failures),
        ("overload", totals.overloads),
        ("ignored", totals.ignored),
        ("cancelled", totals.cancelled),
        ("refused", totals.rejected),
    ] {
        sample.count(&list::CALLS, &[outcome], calls);
    }
    sample.count(&list::CIRCUIT_SLOW, &[], totals.slow);
    sample.count(&list::CIRCUIT_WOULD_REFUSE, &[], totals.would_reject);
    for state in STATES {
        let is_now = if state == breaker.state { 1.0 } else { 0.0 };
        sample.gauge(&list::CIRCUIT_STATE, &[words::state(state)], is_now);
    }
    let ratio = |rate: Option<f64>| rate.unwrap_or(0.0);
    let tried = breaker.shadow.as_ref();
    for (decision, calls) in [
        ("seen", tried.map(|it| it.calls)),
        ("would_refuse", tried.map(|it| it.would_refuse)),
        (
            "would_refuse_succeeded",
            tried.map(|it| it.would_refuse_succeeded),
        ),
        ("would_pass", tried.map(|it| it.would_pass)),
    ] {
        sample.gauge(&list::SHADOW, &[decision], calls.unwrap_or(0) as f64);
    }
    sample.gauge(&list::CIRCUIT_WINDOW, &[], breaker.window_calls as f64);
    sample.gauge(
        &list::CIRCUIT_FAILURE_RATIO,
        &[],
        ratio(breaker.failure_rate),
    );
    sample.gauge(
        &list::CIRCUIT_SLOW_RATIO,
        &[],
        ratio(breaker.slow_call_rate),
    );
    sample
}

fn lock(handle: &ResourceLock) -> Sample {
    let lock = handle.snapshot();
    let stats = &lock.stats;
    let mut sample = Sample::new("contention", &lock.name);
    let refusals = [
        ("busy", stats.rejected.saturating_sub(stats.queue_full)),
        ("queue_full", stats.queue_full),
        ("timed_out", stats.timeouts),
        ("shed", stats.shed),
        ("deadlock", stats.deadlocks),
        ("closed", stats.closed),
    ];
    let refused = refusals.iter().map(|(_, calls)| calls).sum();
    for (outcome, calls) in [
        ("passed", stats.acquisitions),
        ("refused", refused),
        ("abandoned", stats.abandoned),
    ] {
        sample.count(&list::CALLS, &[outcome], calls);
    }
    for (reason, calls) in refusals {
        sample.count(&list::REFUSALS, &[reason], calls);
    }
    let tried = lock.shadow.as_ref();
    let tried = tried.map(|it| [it.calls, it.would_refuse, it.would_wait, it.would_pass]);
    shadow(&mut sample, tried);
    sample.gauge(&list::RESOURCE_CAPACITY, &[], lock.capacity as f64);
    sample.gauge(&list::RESOURCE_IN_USE, &[], lock.in_use as f64);
    sample.gauge(&list::RESOURCE_HOLDERS, &[], lock.holders.len() as f64);
    sample.gauge(&list::RESOURCE_WAITING, &[], lock.waiting as f64);
    let longest = lock.holders.first().map(|it| it.held_for);
    let longest = longest.unwrap_or_default().as_secs_f64();
    sample.gauge(&list::RESOURCE_LONGEST, &[], longest);
    sample.histogram(&list::RESOURCE_HOLD, cells(&handle.hold_times()));
    sample
}

fn rate_limit(limit: &RateLimitSnapshot) -> Sample {
    let mut sample = Sample::new("rate_limit", &limit.name);
    let totals = &limit.totals;
    for (outcome, calls) in [
        ("passed", totals.passed),
        ("waited", totals.waited),
        ("refused", totals.refused),
        ("abandoned", totals.abandoned),
    ] {
        sample.count(&list::CALLS, &[outcome], calls);
    }
    for quota in &limit.quotas {
        let label = [&*quota.name];
        sample.gauge(&list::LIMIT_BURST, &label, quota.burst as f64);
        sample.gauge(&list::LIMIT_AVAILABLE, &label, quota.available as f64);
        sample.gauge(&list::LIMIT_OWED, &label, quota.owed as f64);
    }
    sample.gauge(&list::LIMIT_WAITING, &[], limit.waiting as f64);
    let paused = limit.paused_for.unwrap_or_default().as_secs_f64();
    sample.gauge(&list::LIMIT_PAUSED, &[], paused);
    let tried = limit.shadow.as_ref();
    let tried = tried.map(|it| [it.calls, it.would_refuse, it.would_wait, it.would_pass]);
    shadow(&mut sample, tried);
    sample
}

/// What a lock or a limit that is tried would have done otherwise.
fn shadow(sample: &mut Sample, calls: Option<[u64; 4]>) {
    let decisions = ["seen", "would_refuse", "would_wait", "would_pass"];
    for (decision, calls) in decisions.iter().zip(calls.unwrap_or_default()) {
        sample.gauge(&list::SHADOW, &[decision], calls as f64);
    }
}

fn timeouts(handle: &Timeouts) -> Sample {
    let timeouts = handle.snapshot();
    let mut sample = Sample::new("timeout", &timeouts.name);
    let late = &timeouts.timed_out;
    let in_time = timeouts.calls.saturating_sub(late.sum());
    sample.computed(&list::CALLS, &["in_time"], in_time);
    sample.count(&list::CALLS, &["timed_out"], late.sum());
    sample.count(&list::REFUSALS, &["not_ready"], late.ready);
    for (phase, calls) in [
        ("ready", late.ready),
        ("head", late.head),
        ("first_frame", late.first_frame),
        ("idle", late.idle),
        ("total", late.total),
        ("deadline", late.deadline),
    ] {
        sample.count(&list::TIMED_OUT, &[phase], calls);
    }
    sample.histogram(&list::TIMEOUT_CALL, cells(&handle.call_times()));
    sample
}

fn hedge(handle: &Hedge) -> Sample {
    let hedge = handle.snapshot();
    let mut sample = Sample::new("hedge", &hedge.name);
    let alone = hedge.calls.saturating_sub(hedge.hedged);
    sample.count(&list::CALLS, &["hedged"], hedge.hedged);
    sample.computed(&list::CALLS, &["not_hedged"], alone);
    let not_started = &hedge.not_started;
    let lost = hedge.hedges.saturating_sub(hedge.won);
    sample.computed(&list::HEDGES_TOTAL, &["lost"], lost);
    for (outcome, hedges) in [
        ("won", hedge.won),
        ("no_budget", not_started.no_budget),
        ("refused", not_started.refused),
        ("not_repeatable", not_started.not_repeatable),
    ] {
        sample.count(&list::HEDGES_TOTAL, &[outcome], hedges);
    }
    let delay = hedge.delay.unwrap_or_default().as_secs_f64();
    sample.gauge(&list::HEDGE_DELAY, &[], delay);
    if let Some(left) = hedge.budget_available {
        sample.gauge(&list::HEDGE_BUDGET, &[], left as f64);
    }
    sample.histogram(&list::HEDGE_LATENCY, cells(&handle.latencies()));
    sample
}

fn fallback(fallback: &FallbackSnapshot) -> Sample {
    let mut sample = Sample::new("fallback", &fallback.name);
    let answered = fallback.fell_back.saturating_sub(fallback.all_failed);
    sample.computed(&list::CALLS, &["answered"], answered);
    sample.count(&list::CALLS, &["all_failed"], fallback.all_failed);
    sample.count(&list::FALLBACK_STEPS, &[], fallback.steps);
    sample
}

fn throttle(throttle: &ThrottleSnapshot) -> Sample {
    let mut sample = Sample::new("throttle", &throttle.name);
    let totals = &throttle.totals;
    for (outcome, calls) in [
        ("accepted", totals.accepted),
        ("not_accepted", totals.not_accepted),
        ("refused", totals.refused),
    ] {
        sample.count(&list::CALLS, &[outcome], calls);
    }
    sample.count(&list::REFUSALS, &["throttled"], totals.refused);
    sample.gauge(&list::THROTTLE_RATIO, &[], throttle.probability);
    sample
}

fn chaos(chaos: &ChaosSnapshot) -> Sample {
    let mut sample = Sample::new("chaos", &chaos.name);
    sample.gauge(&list::CHAOS_ARMED, &[], if chaos.armed { 1.0 } else { 0.0 });
    let injected = &chaos.injected;
    for (fault, calls) in [
        ("latency", injected.latency),
        ("error", injected.error),
        ("hang", injected.hang),
        ("panic", injected.panic),
        ("cut_body", injected.cut_body),
    ] {
        sample.count(&list::CHAOS_INJECTED, &[fault], calls);
    }
    sample
}
