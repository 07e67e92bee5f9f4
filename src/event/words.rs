//! One word for each of what there is a name of: the values of labels in metrics and of fields in the log.

use super::chaos::ChaosFault;
use super::hedge::NotHedged;
use crate::error::{AttemptEnd, CircuitState, OpenReason, RateLimitReason, StopReason};

pub(crate) fn state(state: CircuitState) -> &'static str {
    match state {
        CircuitState::Closed => "closed",
        CircuitState::Open => "open",
        CircuitState::HalfOpen => "half_open",
        CircuitState::ForcedOpen => "forced_open",
        CircuitState::Disabled => "disabled",
        CircuitState::MetricsOnly => "metrics_only",
    }
}

pub(crate) fn open_reason(reason: OpenReason) -> &'static str {
    match reason {
        OpenReason::Open => "open",
        OpenReason::ProbesBusy => "probes_busy",
        OpenReason::Ramping => "ramping",
        OpenReason::ForcedOpen => "forced_open",
        OpenReason::NotMadeReady => "not_made_ready",
    }
}

pub(crate) fn limit_reason(reason: RateLimitReason) -> &'static str {
    match reason {
        RateLimitReason::Exhausted => "exhausted",
        RateLimitReason::TooLong => "too_long",
        RateLimitReason::DeadlineExceeded => "deadline_exceeded",
        RateLimitReason::QueueFull => "queue_full",
        RateLimitReason::ExceedsBurst => "exceeds_burst",
    }
}

pub(crate) fn cause(end: &AttemptEnd) -> &'static str {
    match end {
        AttemptEnd::Error(_) => "error",
        AttemptEnd::Response(_) => "response",
        AttemptEnd::TimedOut => "timed_out",
        AttemptEnd::Rejected(_) => "refused",
    }
}

pub(crate) fn stop(reason: StopReason) -> &'static str {
    match reason {
        StopReason::MaxRetries => "max_retries",
        StopReason::Deadline => "deadline",
        StopReason::BudgetExhausted => "budget_exhausted",
        StopReason::RetryAfterTooLong => "retry_after_too_long",
        StopReason::NotCloneable => "not_cloneable",
        StopReason::NotIdempotent => "not_idempotent",
        StopReason::Refused => "refused",
        StopReason::NotWorthRetrying => "not_worth_retrying",
    }
}

pub(crate) fn not_hedged(reason: NotHedged) -> &'static str {
    match reason {
        NotHedged::NoBudget => "no_budget",
        NotHedged::Refused => "refused",
        NotHedged::NotRepeatable => "not_repeatable",
    }
}

pub(crate) fn fault(fault: ChaosFault) -> &'static str {
    match fault {
        ChaosFault::Latency => "latency",
        ChaosFault::Error => "error",
        ChaosFault::Hang => "hang",
        ChaosFault::Panic => "panic",
        ChaosFault::CutBody => "cut_body",
    }
}
