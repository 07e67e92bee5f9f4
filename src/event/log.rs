//! Event -> tracing. Every match is exhaustive: an event without a message does not compile.

use tracing::{debug, error, info, warn};

use super::ChaosEvent;
use super::ConfigEvent;
use super::ContentionEvent;
use super::Event;
use super::FallbackEvent;
use super::HedgeEvent;
use super::RateLimitEvent;
use super::RetryEvent;
use super::ThrottleEvent;
use super::TimeoutEvent;
use super::{CircuitBreakerEvent, CircuitState};

const TARGET: &str = "tower_bulwark";

/// Whether `DEBUG` events reach anybody.
pub(crate) fn logs_details() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

pub(crate) fn log(name: &str, event: &Event) {
    match event {
        Event::Retry(event) => retry(name, event),
        Event::CircuitBreaker(event) => circuit_breaker(name, event),
        Event::Contention(event) => contention(name, event),
        Event::RateLimit(event) => rate_limit(name, event),
        Event::Fallback(event) => fallback(name, event),
        Event::Hedge(event) => hedge(name, event),
        Event::Throttle(event) => throttle(name, event),
        Event::Chaos(event) => chaos(name, event),
        Event::Timeout(event) => timeout(name, event),
        Event::Config(event) => config(name, event),
    }
}

/// One refusal of many: `left_out` others were not written since the last.
pub(crate) fn refused(name: &str, event: &Event, left_out: u64) {
    let pattern = event.pattern();
    match left_out {
        0 => info!(target: TARGET, pattern, name, "{event}"),
        _ => info!(target: TARGET, pattern, name, left_out, "{event} (and {left_out} more)"),
    }
}

fn retry(name: &str, event: &RetryEvent) {
    match event {
        RetryEvent::Scheduled {
            attempt,
            delay,
            end,
        } => {
            info!(target: TARGET, retry = name, attempt, ?delay, %end, "attempt failed, will retry");
        }
        RetryEvent::Recovered { attempts } => {
            info!(target: TARGET, retry = name, attempts, "succeeded after retries");
        }
        RetryEvent::GaveUp {
            attempts,
            elapsed,
            reason,
            end,
        } => {
            warn!(target: TARGET, retry = name, attempts, ?elapsed, %reason, %end, "gave up");
        }
    }
}

fn circuit_breaker(name: &str, event: &CircuitBreakerEvent) {
    match event {
        CircuitBreakerEvent::StateChanged {
            from,
            to: to @ (CircuitState::Open | CircuitState::ForcedOpen),
            cause,
            open_for,
            last_failure,
        } => {
            warn!(target: TARGET, breaker = name, %from, %to, %cause, ?open_for, last_failure = last_failure.as_deref(), "circuit opened");
        }
        CircuitBreakerEvent::StateChanged {
            from, to, cause, ..
        } => {
            info!(target: TARGET, breaker = name, %from, %to, %cause, "circuit changed");
        }
        CircuitBreakerEvent::WouldChange { from, to, cause } => {
            info!(target: TARGET, breaker = name, %from, %to, %cause, "circuit would have changed (metrics only)");
        }
        CircuitBreakerEvent::Rejected {
            reason,
            retry_after,
        } => {
            debug!(target: TARGET, breaker = name, ?reason, ?retry_after, "call refused");
        }
        CircuitBreakerEvent::ProbeLost { lease } => {
            warn!(target: TARGET, breaker = name, ?lease, "a probe did not end in time");
        }
        CircuitBreakerEvent::Reset => info!(target: TARGET, breaker = name, "circuit reset"),
    }
}

fn fallback(name: &str, event: &FallbackEvent) {
    match event {
        FallbackEvent::FellBack { from, to, reason } => {
            info!(target: TARGET, fallback = name, %from, %to, reason, "fell back");
        }
        FallbackEvent::AllFailed { targets } => {
            warn!(target: TARGET, fallback = name, targets, "no target answered");
        }
    }
}

fn hedge(name: &str, event: &HedgeEvent) {
    match event {
        HedgeEvent::Started { attempt, after } => {
            debug!(target: TARGET, hedge = name, attempt, ?after, "hedged");
        }
        HedgeEvent::Won { attempt } => {
            debug!(target: TARGET, hedge = name, attempt, "a hedge answered first");
        }
        HedgeEvent::NotStarted { reason } => {
            debug!(target: TARGET, hedge = name, %reason, "not hedged");
        }
    }
}

fn chaos(name: &str, event: &ChaosEvent) {
    match event {
        ChaosEvent::Armed { length } => {
            warn!(target: TARGET, chaos = name, ?length, "armed: calls meet faults on purpose");
        }
        ChaosEvent::Disarmed => info!(target: TARGET, chaos = name, "disarmed"),
        ChaosEvent::Injected { fault, call } => {
            debug!(target: TARGET, chaos = name, %fault, call, "a fault on purpose");
        }
    }
}

fn config(name: &str, event: &ConfigEvent) {
    match event {
        ConfigEvent::Applied { entries, .. } => {
            info!(target: TARGET, config = name, entries, "{event}");
        }
        ConfigEvent::Refused { problems, .. } => {
            error!(target: TARGET, config = name, problems, "{event}");
        }
    }
}

fn throttle(name: &str, event: &ThrottleEvent) {
    match event {
        ThrottleEvent::Refused { probability } => {
            debug!(target: TARGET, throttle = name, probability, "call refused");
        }
        ThrottleEvent::Began { requests, accepts } => {
            warn!(target: TARGET, throttle = name, requests, accepts, "begins to refuse calls");
        }
        ThrottleEvent::Ended { requests, accepts } => {
            info!(target: TARGET, throttle = name, requests, accepts, "refuses no more calls");
        }
    }
}

fn timeout(name: &str, event: &TimeoutEvent) {
    match event {
        TimeoutEvent::TimedOut {
            phase,
            limit,
            after,
        } => {
            debug!(target: TARGET, timeouts = name, %phase, ?limit, ?after, "timed out");
        }
    }
}

fn rate_limit(name: &str, event: &RateLimitEvent) {
    match event {
        RateLimitEvent::Refused {
            quota,
            reason,
            retry_after,
        } => {
            debug!(target: TARGET, limit = name, quota = quota.as_deref(), ?reason, ?retry_after, "call refused");
        }
        RateLimitEvent::Waited { waited } => {
            debug!(target: TARGET, limit = name, ?waited, "went on after a wait");
        }
        RateLimitEvent::Abandoned { waited } => {
            debug!(target: TARGET, limit = name, ?waited, "a waiter went away");
        }
        RateLimitEvent::Paused { pause } => {
            warn!(target: TARGET, limit = name, ?pause, "the service asked for a pause");
        }
    }
}

fn contention(name: &str, event: &ContentionEvent) {
    match event {
        ContentionEvent::Contended {
            holder,
            waited,
            holders,
            queue_length,
        } => {
            warn!(target: TARGET, resource = name, %holder, ?waited, ?holders, queue_length, "still waiting for a resource");
        }
        ContentionEvent::Acquired { holder, waited } => {
            debug!(target: TARGET, resource = name, %holder, ?waited, "got a resource after waiting");
        }
        ContentionEvent::TimedOut {
            holder,
            waited,
            holders,
            deadline,
        } => {
            warn!(target: TARGET, resource = name, %holder, ?waited, ?holders, deadline, "gave up waiting for a resource");
        }
        ContentionEvent::Abandoned { holder, waited } => {
            debug!(target: TARGET, resource = name, %holder, ?waited, "a waiter went away");
        }
        ContentionEvent::QueueFull {
            holder,
            queue_length,
        } => {
            warn!(target: TARGET, resource = name, %holder, queue_length, "too many are waiting for a resource");
        }
        ContentionEvent::Busy { holder } => {
            debug!(target: TARGET, resource = name, %holder, "refused: busy");
        }
        ContentionEvent::Shed { holder, waited } => {
            debug!(target: TARGET, resource = name, %holder, ?waited, "refused: too many wait");
        }
        ContentionEvent::Deadlock { holder, cycle } => {
            error!(target: TARGET, resource = name, %holder, ?cycle, "deadlock refused");
        }
        ContentionEvent::LongHold {
            holder,
            held_for,
            released,
        } => {
            warn!(target: TARGET, resource = name, %holder, ?held_for, released, "a resource is held for long");
        }
        ContentionEvent::NotPolled {
            holder,
            granted_for,
        } => {
            warn!(target: TARGET, resource = name, %holder, ?granted_for, "a waiter was granted a permit and is not polled");
        }
        ContentionEvent::Closed { in_use } => {
            info!(target: TARGET, resource = name, in_use, "closed");
        }
        ContentionEvent::CapacityChanged { from, to } => {
            info!(target: TARGET, resource = name, from, to, "capacity changed");
        }
    }
}
