//! Every metric, as data: what is recorded, described, written on the page and shown in the dashboard comes from here.

use super::info::MetricKind::{Counter, Gauge, Histogram};
use super::info::MetricSource::{Both, Events, Handle};
use super::info::{LabelInfo, MetricInfo};
use super::values::{
    CAUSES, DECISIONS, FAULTS, FLEET_LIMITS, FLEET_LOCKS, HEDGES, KINDS, OUTCOMES, PARTS, PATTERNS,
    REASONS, STATES, STOPS, TIMEOUT_PHASES,
};

/// For times between a lock in memory and the answer of a large model.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];
const ATTEMPTS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0];

const NAME: LabelInfo = LabelInfo {
    name: "name",
    values: &[],
};
const QUOTA: LabelInfo = LabelInfo {
    name: "quota",
    values: &[],
};
const PATTERN: LabelInfo = LabelInfo {
    name: "pattern",
    values: PATTERNS,
};

const fn label(
    name: &'static str,
    values: &'static [(&'static str, &'static [&'static str])],
) -> LabelInfo {
    LabelInfo { name, values }
}

const BASE: MetricInfo = MetricInfo {
    name: "",
    kind: Counter,
    unit: "calls",
    patterns: &[],
    labels: &[NAME],
    source: Handle,
    buckets: &[],
    help: "",
};

pub(super) const EVENTS: MetricInfo = MetricInfo {
    name: "bulwark_events_total",
    unit: "events",
    patterns: &[
        "retry",
        "circuit_breaker",
        "contention",
        "rate_limit",
        "timeout",
        "hedge",
        "fallback",
        "throttle",
        "chaos",
        "config",
        "fleet",
    ],
    labels: &[PATTERN, NAME, label("kind", KINDS)],
    source: Events,
    help: "every event, by its kind",
    ..BASE
};
pub(super) const CALLS: MetricInfo = MetricInfo {
    name: "bulwark_calls_total",
    patterns: &[
        "retry",
        "circuit_breaker",
        "contention",
        "rate_limit",
        "timeout",
        "hedge",
        "fallback",
        "throttle",
    ],
    labels: &[PATTERN, NAME, label("outcome", OUTCOMES)],
    help: "calls, each once, by what became of them",
    ..BASE
};
pub(super) const REFUSALS: MetricInfo = MetricInfo {
    name: "bulwark_refusals_total",
    patterns: &[
        "circuit_breaker",
        "contention",
        "rate_limit",
        "throttle",
        "timeout",
    ],
    labels: &[PATTERN, NAME, label("reason", REASONS)],
    source: Both,
    help: "calls that were refused, so that the service behind was not called, by reason; those of breakers and rate limits come from events",
    ..BASE
};
pub(super) const WAIT: MetricInfo = MetricInfo {
    name: "bulwark_wait_seconds",
    kind: Histogram,
    unit: "seconds",
    patterns: &["contention", "rate_limit"],
    labels: &[PATTERN, NAME],
    source: Events,
    buckets: SECONDS,
    help: "waits for a permit or a turn, however they ended; who did not have to wait is not among them",
};

pub(super) const CIRCUIT_STATE: MetricInfo = MetricInfo {
    name: "bulwark_circuit_state",
    kind: Gauge,
    unit: "0 or 1",
    patterns: &["circuit_breaker"],
    labels: &[NAME, label("state", STATES)],
    help: "1 for the state that a call would meet now, 0 for the others",
    ..BASE
};
pub(super) const CIRCUIT_SLOW: MetricInfo = MetricInfo {
    name: "bulwark_circuit_slow_calls_total",
    patterns: &["circuit_breaker"],
    help: "calls that took at least the slow threshold, whatever they ended with",
    ..BASE
};
pub(super) const CIRCUIT_WOULD_REFUSE: MetricInfo = MetricInfo {
    name: "bulwark_circuit_would_refuse_total",
    patterns: &["circuit_breaker"],
    help: "in metrics-only mode: calls that would have been refused",
    ..BASE
};
pub(super) const CIRCUIT_WINDOW: MetricInfo = MetricInfo {
    name: "bulwark_circuit_window_calls",
    kind: Gauge,
    patterns: &["circuit_breaker"],
    help: "calls in the window; 0 without a rate to watch",
    ..BASE
};
pub(super) const CIRCUIT_FAILURE_RATIO: MetricInfo = MetricInfo {
    name: "bulwark_circuit_failure_ratio",
    kind: Gauge,
    unit: "ratio",
    patterns: &["circuit_breaker"],
    help: "share of failures in the window; 0 while it holds fewer than `minimum_calls`",
    ..BASE
};
pub(super) const CIRCUIT_SLOW_RATIO: MetricInfo = MetricInfo {
    name: "bulwark_circuit_slow_call_ratio",
    kind: Gauge,
    unit: "ratio",
    patterns: &["circuit_breaker"],
    help: "share of slow calls in the window; 0 while it holds fewer than `minimum_calls`",
    ..BASE
};

pub(super) const RESOURCE_CAPACITY: MetricInfo = MetricInfo {
    name: "bulwark_resource_capacity",
    kind: Gauge,
    unit: "permits",
    patterns: &["contention"],
    help: "permits that there are",
    ..BASE
};
pub(super) const RESOURCE_IN_USE: MetricInfo = MetricInfo {
    name: "bulwark_resource_in_use",
    kind: Gauge,
    unit: "permits",
    patterns: &["contention"],
    help: "permits in use; more than there are, for a while, after their number was cut",
    ..BASE
};
pub(super) const RESOURCE_HOLDERS: MetricInfo = MetricInfo {
    name: "bulwark_resource_holders",
    kind: Gauge,
    unit: "holders",
    patterns: &["contention"],
    help: "acquisitions that have permits, one or several each; counted up to 100",
    ..BASE
};
pub(super) const RESOURCE_WAITING: MetricInfo = MetricInfo {
    name: "bulwark_resource_waiting",
    kind: Gauge,
    unit: "waiters",
    patterns: &["contention"],
    help: "callers that wait for a permit",
    ..BASE
};
pub(super) const RESOURCE_LONGEST: MetricInfo = MetricInfo {
    name: "bulwark_resource_longest_hold_seconds",
    kind: Gauge,
    unit: "seconds",
    patterns: &["contention"],
    help: "for how long the longest holder has had its permit; 0 if there is none",
    ..BASE
};
pub(super) const RESOURCE_HOLD: MetricInfo = MetricInfo {
    name: "bulwark_resource_hold_seconds",
    kind: Histogram,
    unit: "seconds",
    patterns: &["contention"],
    buckets: SECONDS,
    help: "for how long permits were held that have come back",
    ..BASE
};

pub(super) const RETRY_ATTEMPTS: MetricInfo = MetricInfo {
    name: "bulwark_retry_attempts_total",
    unit: "attempts",
    patterns: &["retry"],
    help: "attempts of the calls that have ended, the first ones included",
    ..BASE
};
pub(super) const RETRY_CALL_ATTEMPTS: MetricInfo = MetricInfo {
    name: "bulwark_retry_call_attempts",
    kind: Histogram,
    unit: "attempts",
    patterns: &["retry"],
    buckets: ATTEMPTS,
    help: "attempts of each call that has ended, the first included; more than 12 count as 12",
    ..BASE
};
pub(super) const RETRY_RETRIES: MetricInfo = MetricInfo {
    name: "bulwark_retry_retries_total",
    unit: "retries",
    patterns: &["retry"],
    labels: &[NAME, label("cause", CAUSES)],
    source: Events,
    help: "retries that were scheduled, by what the attempt before had ended with",
    ..BASE
};
pub(super) const RETRY_GAVE_UP: MetricInfo = MetricInfo {
    name: "bulwark_retry_gave_up_total",
    patterns: &["retry"],
    labels: &[NAME, label("reason", STOPS)],
    source: Events,
    help: "calls that failed although another attempt was wanted, by why there was none",
    ..BASE
};
pub(super) const RETRY_DELAY: MetricInfo = MetricInfo {
    name: "bulwark_retry_delay_seconds",
    kind: Histogram,
    unit: "seconds",
    patterns: &["retry"],
    source: Events,
    buckets: SECONDS,
    help: "waits before retries",
    ..BASE
};
pub(super) const RETRY_BUDGET: MetricInfo = MetricInfo {
    name: "bulwark_retry_budget",
    kind: Gauge,
    unit: "retries",
    patterns: &["retry"],
    help: "retries that the budget would pay for now; absent without a budget that says",
    ..BASE
};

pub(super) const LIMIT_BURST: MetricInfo = MetricInfo {
    name: "bulwark_rate_limit_burst",
    kind: Gauge,
    unit: "units",
    patterns: &["rate_limit"],
    labels: &[NAME, QUOTA],
    help: "what may be used of a quota at once",
    ..BASE
};
pub(super) const LIMIT_AVAILABLE: MetricInfo = MetricInfo {
    name: "bulwark_rate_limit_available",
    kind: Gauge,
    unit: "units",
    patterns: &["rate_limit"],
    labels: &[NAME, QUOTA],
    help: "what is left of a quota now",
    ..BASE
};
pub(super) const LIMIT_OWED: MetricInfo = MetricInfo {
    name: "bulwark_rate_limit_owed",
    kind: Gauge,
    unit: "units",
    patterns: &["rate_limit"],
    labels: &[NAME, QUOTA],
    help: "what was used beyond a quota: calls that cost more than they had asked for",
    ..BASE
};
pub(super) const LIMIT_WAITING: MetricInfo = MetricInfo {
    name: "bulwark_rate_limit_waiting",
    kind: Gauge,
    unit: "waiters",
    patterns: &["rate_limit"],
    help: "calls that wait for their turn",
    ..BASE
};
pub(super) const LIMIT_PAUSED: MetricInfo = MetricInfo {
    name: "bulwark_rate_limit_paused_seconds",
    kind: Gauge,
    unit: "seconds",
    patterns: &["rate_limit"],
    help: "how long nobody passes yet, because the service asked for it; 0 if it did not",
    ..BASE
};

pub(super) const TIMED_OUT: MetricInfo = MetricInfo {
    name: "bulwark_timeout_timed_out_total",
    patterns: &["timeout"],
    labels: &[NAME, label("phase", TIMEOUT_PHASES)],
    help: "calls that took too long, each once, by the phase that ended them",
    ..BASE
};
pub(super) const TIMEOUT_CALL: MetricInfo = MetricInfo {
    name: "bulwark_timeout_call_seconds",
    kind: Histogram,
    unit: "seconds",
    patterns: &["timeout"],
    buckets: SECONDS,
    help: "from the call to its response, or to its timeout: of calls with a `total`; 0 values without one, and dropped calls are not among them",
    ..BASE
};

pub(super) const HEDGES_TOTAL: MetricInfo = MetricInfo {
    name: "bulwark_hedge_hedges_total",
    unit: "hedges",
    patterns: &["hedge"],
    labels: &[NAME, label("outcome", HEDGES)],
    help: "hedges, each once: `won`, `lost` (started, and another answered or will), or why it has not started",
    ..BASE
};
pub(super) const HEDGE_DELAY: MetricInfo = MetricInfo {
    name: "bulwark_hedge_delay_seconds",
    kind: Gauge,
    unit: "seconds",
    patterns: &["hedge"],
    help: "how long a call may take now before it is hedged; 0 while that is not known",
    ..BASE
};
pub(super) const HEDGE_LATENCY: MetricInfo = MetricInfo {
    name: "bulwark_hedge_latency_seconds",
    kind: Histogram,
    unit: "seconds",
    patterns: &["hedge"],
    buckets: SECONDS,
    help: "how long calls that succeeded were at the service, if the delay depends on it; else 0 values",
    ..BASE
};
pub(super) const HEDGE_BUDGET: MetricInfo = MetricInfo {
    name: "bulwark_hedge_budget",
    kind: Gauge,
    unit: "hedges",
    patterns: &["hedge"],
    help: "hedges that the budget would pay for now; absent without a budget that says",
    ..BASE
};

pub(super) const FALLBACK_STEPS: MetricInfo = MetricInfo {
    name: "bulwark_fallback_steps_total",
    unit: "steps",
    patterns: &["fallback"],
    help: "how often a next target was asked",
    ..BASE
};
pub(super) const THROTTLE_RATIO: MetricInfo = MetricInfo {
    name: "bulwark_throttle_refusal_ratio",
    kind: Gauge,
    unit: "ratio",
    patterns: &["throttle"],
    help: "with which probability a call is refused now",
    ..BASE
};
pub(super) const CHAOS_ARMED: MetricInfo = MetricInfo {
    name: "bulwark_chaos_armed",
    kind: Gauge,
    unit: "0 or 1",
    patterns: &["chaos"],
    help: "1 while a drill is armed",
    ..BASE
};
pub(super) const CHAOS_INJECTED: MetricInfo = MetricInfo {
    name: "bulwark_chaos_injected_total",
    unit: "faults",
    patterns: &["chaos"],
    labels: &[NAME, label("fault", FAULTS)],
    help: "faults on purpose",
    ..BASE
};

pub(super) const SHADOW: MetricInfo = MetricInfo {
    name: "bulwark_shadow_calls",
    kind: Gauge,
    patterns: &["circuit_breaker", "contention", "rate_limit"],
    labels: &[PATTERN, NAME, label("decision", DECISIONS)],
    help: "while another config is tried (`shadow`): the calls that it has seen, and what it would have done otherwise; 0 while none is",
    ..BASE
};

const PART_NAME: LabelInfo = LabelInfo {
    name: "part_name",
    values: &[],
};
const PART: LabelInfo = label("part", PARTS);

pub(super) const FLEET_CONNECTED: MetricInfo = MetricInfo {
    name: "bulwark_fleet_connected",
    kind: Gauge,
    unit: "0 or 1",
    patterns: &["fleet"],
    help: "1 while there is a connection to the shared store",
    ..BASE
};
pub(super) const FLEET_NODES: MetricInfo = MetricInfo {
    name: "bulwark_fleet_nodes",
    kind: Gauge,
    unit: "processes",
    patterns: &["fleet"],
    help: "processes of the namespace, as this one has last heard; 0 before that",
    ..BASE
};
pub(super) const FLEET_CONNECTIONS: MetricInfo = MetricInfo {
    name: "bulwark_fleet_connections_total",
    unit: "connections",
    patterns: &["fleet"],
    help: "connections for commands that were made",
    ..BASE
};
pub(super) const FLEET_MISSED: MetricInfo = MetricInfo {
    name: "bulwark_fleet_messages_missed_total",
    unit: "times",
    patterns: &["fleet"],
    help: "how often messages of other processes may have been missed",
    ..BASE
};
pub(super) const FLEET_AWAY: MetricInfo = MetricInfo {
    name: "bulwark_fleet_store_away",
    kind: Gauge,
    unit: "0 or 1",
    patterns: &["fleet"],
    labels: &[NAME, PART, PART_NAME],
    help: "1 while the shared store does not answer what is asked for this part of the fleet",
    ..BASE
};
pub(super) const FLEET_ERRORS: MetricInfo = MetricInfo {
    name: "bulwark_fleet_store_errors_total",
    patterns: &["fleet"],
    labels: &[NAME, PART, PART_NAME],
    help: "calls to the shared store that failed",
    ..BASE
};
pub(super) const FLEET_CIRCUIT_OPEN: MetricInfo = MetricInfo {
    name: "bulwark_fleet_circuit_open",
    kind: Gauge,
    unit: "0 or 1",
    patterns: &["fleet"],
    labels: &[NAME, PART_NAME],
    help: "1 while a breaker is open for the whole fleet, by the last answer of the store",
    ..BASE
};
pub(super) const FLEET_CIRCUIT_LAG: MetricInfo = MetricInfo {
    name: "bulwark_fleet_circuit_lag_seconds",
    kind: Gauge,
    unit: "seconds",
    patterns: &["fleet"],
    labels: &[NAME, PART_NAME],
    help: "how long the last answer of the store to the agent of a breaker took",
    ..BASE
};
pub(super) const FLEET_LOCK_CALLS: MetricInfo = MetricInfo {
    name: "bulwark_fleet_lock_calls_total",
    patterns: &["fleet"],
    labels: &[NAME, PART_NAME, label("outcome", FLEET_LOCKS)],
    help: "calls of this process that asked for a permit of a shared lock; `local`: without the store",
    ..BASE
};
pub(super) const FLEET_LOCK_CAPACITY: MetricInfo = MetricInfo {
    name: "bulwark_fleet_lock_capacity",
    kind: Gauge,
    unit: "permits",
    patterns: &["fleet"],
    labels: &[NAME, PART_NAME],
    help: "permits of a shared lock in the whole fleet",
    ..BASE
};
pub(super) const FLEET_LOCK_LEASES: MetricInfo = MetricInfo {
    name: "bulwark_fleet_lock_leases",
    kind: Gauge,
    unit: "permits",
    patterns: &["fleet"],
    labels: &[NAME, PART_NAME],
    help: "permits of a shared lock that this process holds",
    ..BASE
};
pub(super) const FLEET_LOCK_WAITING: MetricInfo = MetricInfo {
    name: "bulwark_fleet_lock_waiting",
    kind: Gauge,
    patterns: &["fleet"],
    labels: &[NAME, PART_NAME],
    help: "calls of this process that wait for a shared lock",
    ..BASE
};
pub(super) const FLEET_LOCK_LOST: MetricInfo = MetricInfo {
    name: "bulwark_fleet_lock_leases_lost_total",
    unit: "permits",
    patterns: &["fleet"],
    labels: &[NAME, PART_NAME],
    help: "leases that were lost in the hands of their holders",
    ..BASE
};
pub(super) const FLEET_LIMIT_CALLS: MetricInfo = MetricInfo {
    name: "bulwark_fleet_limit_calls_total",
    patterns: &["fleet"],
    labels: &[NAME, PART_NAME, label("outcome", FLEET_LIMITS)],
    help: "calls of this process at a shared rate limit",
    ..BASE
};
pub(super) const FLEET_LIMIT_LOCAL: MetricInfo = MetricInfo {
    name: "bulwark_fleet_limit_local_total",
    patterns: &["fleet"],
    labels: &[NAME, PART_NAME],
    help: "of those that passed: by the share of this process, while the store was away",
    ..BASE
};

pub(super) const LIST: &[MetricInfo] = &[
    CALLS,
    REFUSALS,
    EVENTS,
    WAIT,
    RETRY_ATTEMPTS,
    RETRY_CALL_ATTEMPTS,
    RETRY_RETRIES,
    RETRY_GAVE_UP,
    RETRY_DELAY,
    RETRY_BUDGET,
    CIRCUIT_STATE,
    CIRCUIT_SLOW,
    CIRCUIT_WOULD_REFUSE,
    CIRCUIT_WINDOW,
    CIRCUIT_FAILURE_RATIO,
    CIRCUIT_SLOW_RATIO,
    RESOURCE_CAPACITY,
    RESOURCE_IN_USE,
    RESOURCE_HOLDERS,
    RESOURCE_WAITING,
    RESOURCE_LONGEST,
    RESOURCE_HOLD,
    LIMIT_BURST,
    LIMIT_AVAILABLE,
    LIMIT_OWED,
    LIMIT_WAITING,
    LIMIT_PAUSED,
    SHADOW,
    TIMED_OUT,
    TIMEOUT_CALL,
    HEDGES_TOTAL,
    HEDGE_DELAY,
    HEDGE_LATENCY,
    HEDGE_BUDGET,
    FALLBACK_STEPS,
    THROTTLE_RATIO,
    CHAOS_ARMED,
    CHAOS_INJECTED,
    FLEET_CONNECTED,
    FLEET_NODES,
    FLEET_CONNECTIONS,
    FLEET_MISSED,
    FLEET_AWAY,
    FLEET_ERRORS,
    FLEET_CIRCUIT_OPEN,
    FLEET_CIRCUIT_LAG,
    FLEET_LOCK_CALLS,
    FLEET_LOCK_CAPACITY,
    FLEET_LOCK_LEASES,
    FLEET_LOCK_WAITING,
    FLEET_LOCK_LOST,
    FLEET_LIMIT_CALLS,
    FLEET_LIMIT_LOCAL,
];
