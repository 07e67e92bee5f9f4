//! Event -> tracing. Every match is exhaustive: an event without a message does not compile.

use std::time::Duration;

use tracing::field::{DisplayValue, display};
use tracing::{debug, error, info, warn};

use super::text::{Cycle, Holders, More, OneLine, Time, redacted};
use super::words;
use super::{
    ChaosEvent, CircuitBreakerEvent, CircuitState, ConfigEvent, ContentionEvent, Event,
    FallbackEvent, FleetEvent, HedgeEvent, RateLimitEvent, RetryEvent, ThrottleEvent, TimeoutEvent,
};
use crate::error::AttemptEnd;

const TARGET: &str = "tower_bulwark";

/// Whether `DEBUG` events reach anybody.
pub(crate) fn logs_details() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// What is written with every event.
struct Line<'a> {
    pattern: &'static str,
    name: OneLine<&'a str>,
    /// Of its kind, those that were not written since the last that was.
    left_out: u64,
}

macro_rules! write_line {
    ($level:ident, $line:expr, $message:expr $(, $($field:tt)+)?) => {
        $level!(
            target: TARGET,
            pattern = %$line.pattern,
            name = %$line.name,
            $($($field)+,)?
            left_out = ($line.left_out > 0).then_some($line.left_out),
            "{}{}", $message, More($line.left_out)
        )
    };
}

/// Writes an event of the handle of that name. `left_out` others of its kind were not written since the last.
pub(super) fn log(name: &str, event: &Event, left_out: u64) {
    let line = Line {
        pattern: event.pattern(),
        name: OneLine(name),
        left_out,
    };
    match event {
        Event::Retry(event) => retry(&line, event),
        Event::CircuitBreaker(event) => circuit_breaker(&line, event),
        Event::Contention(event) => contention(&line, event),
        Event::RateLimit(event) => rate_limit(&line, event),
        Event::Fallback(event) => fallback(&line, event),
        Event::Hedge(event) => hedge(&line, event),
        Event::Throttle(event) => throttle(&line, event),
        Event::Chaos(event) => chaos(&line, event),
        Event::Timeout(event) => timeout(&line, event),
        Event::Config(event) => config(&line, event),
        Event::Fleet(event) => fleet(&line, event),
    }
}

/// The kind of an event of which one a second is written for a handle; `None` for one that is always written. The first
/// kind of a pattern is its most frequent refusal.
pub(super) fn kind_of(event: &Event) -> Option<usize> {
    Some(match event {
        Event::Retry(RetryEvent::Scheduled { .. })
        | Event::Contention(ContentionEvent::Busy { .. })
        | Event::CircuitBreaker(CircuitBreakerEvent::Rejected { .. })
        | Event::RateLimit(RateLimitEvent::Refused { .. })
        | Event::Fallback(FallbackEvent::FellBack { .. })
        | Event::Hedge(HedgeEvent::NotStarted { .. })
        | Event::Throttle(ThrottleEvent::Refused { .. })
        | Event::Chaos(ChaosEvent::Injected { .. }) => 0,
        Event::Retry(RetryEvent::Recovered { .. })
        | Event::Contention(ContentionEvent::QueueFull { .. })
        | Event::RateLimit(RateLimitEvent::Waited { .. })
        | Event::Fallback(FallbackEvent::AllFailed { .. })
        | Event::Hedge(HedgeEvent::Started { .. }) => 1,
        Event::Retry(RetryEvent::GaveUp { .. })
        | Event::Contention(ContentionEvent::Shed { .. })
        | Event::RateLimit(RateLimitEvent::Abandoned { .. })
        | Event::Hedge(HedgeEvent::Won { .. }) => 2,
        Event::Contention(ContentionEvent::TimedOut { .. })
        | Event::RateLimit(RateLimitEvent::Paused { .. }) => 3,
        Event::Contention(ContentionEvent::Acquired { .. }) => 4,
        Event::Contention(ContentionEvent::Abandoned { .. }) => 5,
        Event::Contention(ContentionEvent::Contended { .. }) => 6,
        Event::Contention(ContentionEvent::LongHold { .. }) => 7,
        Event::Contention(ContentionEvent::NotPolled { .. }) => 8,
        Event::Contention(ContentionEvent::CapacityChanged { .. }) => 9,
        Event::Timeout(TimeoutEvent::TimedOut { phase, .. }) => *phase as usize,
        Event::Fleet(FleetEvent::Connected { .. }) => 0,
        Event::Fleet(FleetEvent::Disconnected { .. }) => 1,
        Event::Fleet(FleetEvent::MessagesMissed) => 2,
        Event::Fleet(FleetEvent::StoreAway { .. }) => 3,
        Event::Fleet(FleetEvent::StoreBack { .. }) => 4,
        Event::Fleet(FleetEvent::LeaseLost { .. }) => 5,
        Event::CircuitBreaker(
            CircuitBreakerEvent::StateChanged { .. }
            | CircuitBreakerEvent::WouldChange { .. }
            | CircuitBreakerEvent::ProbeLost { .. }
            | CircuitBreakerEvent::Reset,
        )
        | Event::Contention(ContentionEvent::Deadlock { .. } | ContentionEvent::Closed { .. })
        | Event::Throttle(ThrottleEvent::Began { .. } | ThrottleEvent::Ended { .. })
        | Event::Chaos(ChaosEvent::Armed { .. } | ChaosEvent::Disarmed)
        | Event::Config(ConfigEvent::Applied { .. } | ConfigEvent::Refused { .. }) => return None,
    })
}

/// There are so many kinds in a pattern, at most.
pub(super) const KINDS: usize = 10;

/// The texts of errors are written only where this target is enabled.
const ERROR_TEXT: &str = "tower_bulwark::error_text";

/// The text of an error as it may be written, if it may.
fn error_text(text: Option<&str>) -> Option<DisplayValue<OneLine<String>>> {
    let text = text.filter(|_| tracing::enabled!(target: ERROR_TEXT, tracing::Level::ERROR))?;
    Some(display(OneLine(redacted(text))))
}

/// How an attempt ended, in a word, and in the words of others.
fn end(end: &AttemptEnd) -> (&'static str, Option<DisplayValue<OneLine<String>>>) {
    let text = match end {
        AttemptEnd::Error(text) | AttemptEnd::Rejected(text) => Some(text.as_str()),
        AttemptEnd::Response(reason) => reason.as_deref(),
        AttemptEnd::TimedOut => None,
    };
    (words::cause(end), error_text(text))
}

fn time(time: Duration) -> DisplayValue<Time> {
    display(Time(time))
}

fn retry(line: &Line<'_>, event: &RetryEvent) {
    match event {
        RetryEvent::Scheduled {
            attempt,
            delay,
            end: ended,
        } => {
            let ((cause, error), delay) = (end(ended), time(*delay));
            write_line!(
                info,
                line,
                "attempt failed, will retry",
                attempt, delay, %cause, error
            );
        }
        RetryEvent::Recovered { attempts } => {
            write_line!(info, line, "succeeded after retries", attempts);
        }
        RetryEvent::GaveUp {
            attempts,
            elapsed,
            reason,
            end: ended,
        } => {
            let ((cause, error), elapsed) = (end(ended), time(*elapsed));
            let reason = words::stop(*reason);
            write_line!(warn, line, "gave up", attempts, elapsed, %reason, %cause, error);
        }
    }
}

fn circuit_breaker(line: &Line<'_>, event: &CircuitBreakerEvent) {
    match event {
        CircuitBreakerEvent::StateChanged {
            from,
            to: to @ (CircuitState::Open | CircuitState::ForcedOpen),
            cause,
            open_for,
            last_failure,
        } => {
            let (from, to) = (words::state(*from), words::state(*to));
            let open_for = open_for.map(time);
            let last_failure = error_text(last_failure.as_deref());
            write_line!(warn, line, "circuit opened", %from, %to, %cause, open_for, last_failure);
        }
        CircuitBreakerEvent::StateChanged {
            from, to, cause, ..
        } => {
            let (from, to) = (words::state(*from), words::state(*to));
            write_line!(info, line, "circuit changed", %from, %to, %cause);
        }
        CircuitBreakerEvent::WouldChange { from, to, cause } => {
            let (from, to) = (words::state(*from), words::state(*to));
            write_line!(info, line, "circuit would have changed (metrics only)", %from, %to, %cause);
        }
        CircuitBreakerEvent::Rejected {
            reason,
            retry_after,
        } => {
            let (reason, retry_after) = (words::open_reason(*reason), retry_after.map(time));
            write_line!(info, line, "call refused", %reason, retry_after);
        }
        CircuitBreakerEvent::ProbeLost { lease } => {
            let lease = time(*lease);
            write_line!(warn, line, "a probe did not end in time", lease);
        }
        CircuitBreakerEvent::Reset => write_line!(info, line, "circuit reset"),
    }
}

fn fallback(line: &Line<'_>, event: &FallbackEvent) {
    match event {
        FallbackEvent::FellBack { from, to, reason } => {
            let (from, to) = (OneLine(from), OneLine(to));
            let error = error_text(Some(reason));
            write_line!(info, line, "fell back", %from, %to, error);
        }
        FallbackEvent::AllFailed { targets } => {
            write_line!(warn, line, "no target answered", targets);
        }
    }
}

fn hedge(line: &Line<'_>, event: &HedgeEvent) {
    match event {
        HedgeEvent::Started { attempt, after } => {
            let after = time(*after);
            write_line!(debug, line, "hedged", attempt, after);
        }
        HedgeEvent::Won { attempt } => {
            write_line!(debug, line, "a hedge answered first", attempt);
        }
        HedgeEvent::NotStarted { reason } => {
            let reason = words::not_hedged(*reason);
            write_line!(info, line, "not hedged", %reason);
        }
    }
}

fn chaos(line: &Line<'_>, event: &ChaosEvent) {
    match event {
        ChaosEvent::Armed { length } => {
            let length = time(*length);
            write_line!(warn, line, "armed: calls meet faults on purpose", length);
        }
        ChaosEvent::Disarmed => write_line!(info, line, "disarmed"),
        ChaosEvent::Injected { fault, call } => {
            let fault = words::fault(*fault);
            write_line!(info, line, "a fault on purpose", %fault, call);
        }
    }
}

fn config(line: &Line<'_>, event: &ConfigEvent) {
    match event {
        ConfigEvent::Applied { entries, .. } => write_line!(info, line, event, entries),
        ConfigEvent::Refused { problems, .. } => write_line!(error, line, event, problems),
    }
}

fn fleet(line: &Line<'_>, event: &FleetEvent) {
    match event {
        FleetEvent::Connected { server, after } => {
            let (server, after) = (OneLine(server), time(*after));
            write_line!(info, line, "connected to the shared store", %server, after);
        }
        FleetEvent::Disconnected { reason } => {
            let reason = OneLine(redacted(reason));
            write_line!(warn, line, "disconnected from the shared store", %reason);
        }
        FleetEvent::MessagesMissed => {
            write_line!(
                warn,
                line,
                "messages of other processes may have been missed"
            );
        }
        FleetEvent::StoreAway { part, name, reason } => {
            let (of, reason) = (OneLine(name), OneLine(redacted(reason)));
            write_line!(warn, line, "the shared store is away", %part, %of, %reason);
        }
        FleetEvent::StoreBack { part, name, after } => {
            let (of, after) = (OneLine(name), time(*after));
            write_line!(info, line, "the shared store is back", %part, %of, after);
        }
        FleetEvent::LeaseLost {
            lock,
            holder,
            reason,
        } => {
            let (of, holder, reason) = (OneLine(lock), OneLine(holder), OneLine(reason));
            write_line!(warn, line, "a lease is lost", %of, %holder, %reason);
        }
    }
}

fn throttle(line: &Line<'_>, event: &ThrottleEvent) {
    match event {
        ThrottleEvent::Refused { probability } => {
            write_line!(info, line, "call refused", probability);
        }
        ThrottleEvent::Began { requests, accepts } => {
            write_line!(warn, line, "begins to refuse calls", requests, accepts);
        }
        ThrottleEvent::Ended { requests, accepts } => {
            write_line!(info, line, "refuses no more calls", requests, accepts);
        }
    }
}

fn timeout(line: &Line<'_>, event: &TimeoutEvent) {
    match event {
        TimeoutEvent::TimedOut {
            phase,
            limit,
            after,
        } => {
            let (limit, after) = (limit.map(time), time(*after));
            write_line!(info, line, "timed out", %phase, limit, after);
        }
    }
}

fn rate_limit(line: &Line<'_>, event: &RateLimitEvent) {
    match event {
        RateLimitEvent::Refused {
            quota,
            reason,
            retry_after,
        } => {
            let quota = quota.as_deref().map(|it| display(OneLine(it)));
            let retry_after = retry_after.map(time);
            let reason = words::limit_reason(*reason);
            write_line!(info, line, "call refused", quota, %reason, retry_after);
        }
        RateLimitEvent::Waited { waited } => {
            let waited = time(*waited);
            write_line!(debug, line, "went on after a wait", waited);
        }
        RateLimitEvent::Abandoned { waited } => {
            let waited = time(*waited);
            write_line!(debug, line, "a waiter went away", waited);
        }
        RateLimitEvent::Paused { pause } => {
            let pause = time(*pause);
            write_line!(warn, line, "the service asked for a pause", pause);
        }
    }
}

fn contention(line: &Line<'_>, event: &ContentionEvent) {
    match event {
        ContentionEvent::Contended {
            holder,
            waited,
            holders,
            queue_length,
        } => {
            let (holder, waited, holders) = (OneLine(holder), time(*waited), Holders(holders));
            write_line!(warn, line, "still waiting for a resource", %holder, waited, %holders, queue_length);
        }
        ContentionEvent::Acquired { holder, waited } => {
            let (holder, waited) = (OneLine(holder), time(*waited));
            write_line!(debug, line, "got a resource after waiting", %holder, waited);
        }
        ContentionEvent::TimedOut {
            holder,
            waited,
            holders,
            deadline,
        } => {
            let (holder, waited, holders) = (OneLine(holder), time(*waited), Holders(holders));
            write_line!(warn, line, "gave up waiting for a resource", %holder, waited, %holders, deadline);
        }
        ContentionEvent::Abandoned { holder, waited } => {
            let (holder, waited) = (OneLine(holder), time(*waited));
            write_line!(debug, line, "a waiter went away", %holder, waited);
        }
        ContentionEvent::QueueFull {
            holder,
            queue_length,
        } => {
            let holder = OneLine(holder);
            write_line!(info, line, "refused: too many wait for the resource", %holder, queue_length);
        }
        ContentionEvent::Busy { holder } => {
            let holder = OneLine(holder);
            write_line!(info, line, "refused: the resource is busy", %holder);
        }
        ContentionEvent::Shed { holder, waited } => {
            let (holder, waited) = (OneLine(holder), time(*waited));
            write_line!(info, line, "refused after a wait: too many wait for the resource", %holder, waited);
        }
        rare => rare_of_contention(line, rare),
    }
}

fn rare_of_contention(line: &Line<'_>, event: &ContentionEvent) {
    match event {
        ContentionEvent::Deadlock { holder, cycle } => {
            let (holder, cycle) = (OneLine(holder), Cycle(cycle));
            write_line!(error, line, "deadlock", %holder, %cycle);
        }
        ContentionEvent::LongHold {
            holder,
            held_for,
            released,
        } => {
            let (holder, held_for) = (OneLine(holder), time(*held_for));
            write_line!(warn, line, "a resource is held for long", %holder, held_for, released);
        }
        ContentionEvent::NotPolled {
            holder,
            granted_for,
        } => {
            let (holder, granted_for) = (OneLine(holder), time(*granted_for));
            write_line!(warn, line, "a waiter was granted a permit and is not polled", %holder, granted_for);
        }
        ContentionEvent::Closed { in_use } => write_line!(info, line, "closed", in_use),
        ContentionEvent::CapacityChanged { from, to } => {
            write_line!(info, line, "capacity changed", from, to);
        }
        // Written above; named here, so that a new event is not forgotten.
        ContentionEvent::Contended { .. }
        | ContentionEvent::Acquired { .. }
        | ContentionEvent::TimedOut { .. }
        | ContentionEvent::Abandoned { .. }
        | ContentionEvent::QueueFull { .. }
        | ContentionEvent::Busy { .. }
        | ContentionEvent::Shed { .. } => {}
    }
}
