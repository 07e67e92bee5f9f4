//! Event -> series. The matches are exhaustive: an event cannot be forgotten.

use std::time::Duration;

use super::info::MetricInfo;
use super::list;
use super::series::{counter, histogram, key};
use crate::event::CircuitBreakerEvent;
use crate::event::ContentionEvent;
use crate::event::Event;
use crate::event::RateLimitEvent;
use crate::event::RetryEvent;
use crate::event::words;

/// Records an event of the handle of that name.
pub(super) fn record(name: &str, event: &Event) {
    let pattern = event.pattern();
    let count =
        |info: &MetricInfo, value| counter(&key(info, pattern, name, &[value])).increment(1);
    let time = |info: &MetricInfo, time: Duration| {
        histogram(&key(info, pattern, name, &[])).record(time.as_secs_f64());
    };
    count(&list::EVENTS, event.kind());
    match event {
        Event::Retry(event) => match event {
            RetryEvent::Scheduled { delay, end, .. } => {
                count(&list::RETRY_RETRIES, words::cause(end));
                time(&list::RETRY_DELAY, *delay);
            }
            RetryEvent::GaveUp { reason, .. } => count(&list::RETRY_GAVE_UP, words::stop(*reason)),
            RetryEvent::Recovered { .. } => {}
        },
        Event::CircuitBreaker(event) => match event {
            CircuitBreakerEvent::Rejected { reason, .. } => {
                count(&list::REFUSALS, words::open_reason(*reason));
            }
            CircuitBreakerEvent::StateChanged { .. }
            | CircuitBreakerEvent::WouldChange { .. }
            | CircuitBreakerEvent::ProbeLost { .. }
            | CircuitBreakerEvent::Reset => {}
        },
        Event::Contention(event) => {
            if let Some(waited) = wait_that_ended(event) {
                time(&list::WAIT, waited);
            }
        }
        Event::RateLimit(event) => match event {
            RateLimitEvent::Refused { reason, .. } => {
                count(&list::REFUSALS, words::limit_reason(*reason));
            }
            RateLimitEvent::Waited { waited } | RateLimitEvent::Abandoned { waited } => {
                time(&list::WAIT, *waited);
            }
            RateLimitEvent::Paused { .. } => {}
        },
        // Their handles count everything else by themselves.
        Event::Fallback(_)
        | Event::Hedge(_)
        | Event::Throttle(_)
        | Event::Chaos(_)
        | Event::Timeout(_)
        | Event::Config(_)
        | Event::Fleet(_) => {}
    }
}

fn wait_that_ended(event: &ContentionEvent) -> Option<Duration> {
    match event {
        ContentionEvent::Acquired { waited, .. }
        | ContentionEvent::TimedOut { waited, .. }
        | ContentionEvent::Abandoned { waited, .. }
        | ContentionEvent::Shed { waited, .. } => Some(*waited),
        ContentionEvent::Contended { .. }
        | ContentionEvent::QueueFull { .. }
        | ContentionEvent::Busy { .. }
        | ContentionEvent::Deadlock { .. }
        | ContentionEvent::LongHold { .. }
        | ContentionEvent::NotPolled { .. }
        | ContentionEvent::Closed { .. }
        | ContentionEvent::CapacityChanged { .. } => None,
    }
}
