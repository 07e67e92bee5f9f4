//! Which values labels have: words of [`words`](crate::event::words), of events and phases, and of their own.

type ByPattern = &'static [(&'static str, &'static [&'static str])];

pub(super) const PATTERNS: ByPattern = &[
    ("retry", &["retry"]),
    ("circuit_breaker", &["circuit_breaker"]),
    ("contention", &["contention"]),
    ("rate_limit", &["rate_limit"]),
    ("timeout", &["timeout"]),
    ("hedge", &["hedge"]),
    ("fallback", &["fallback"]),
    ("throttle", &["throttle"]),
    ("chaos", &["chaos"]),
    ("config", &["config"]),
    ("fleet", &["fleet"]),
];

pub(super) const KINDS: ByPattern = &[
    ("retry", &["scheduled", "recovered", "gave_up"]),
    (
        "circuit_breaker",
        &[
            "state_changed",
            "would_change",
            "rejected",
            "probe_lost",
            "reset",
        ],
    ),
    (
        "contention",
        &[
            "contended",
            "acquired",
            "timed_out",
            "abandoned",
            "queue_full",
            "busy",
            "shed",
            "deadlock",
            "long_hold",
            "not_polled",
            "closed",
            "capacity_changed",
        ],
    ),
    ("rate_limit", &["refused", "waited", "abandoned", "paused"]),
    ("timeout", PHASES),
    ("hedge", &["started", "won", "not_started"]),
    ("fallback", &["fell_back", "all_failed"]),
    ("throttle", &["refused", "began", "ended"]),
    ("chaos", &["armed", "disarmed", "injected"]),
    ("config", &["applied", "refused"]),
    (
        "fleet",
        &[
            "connected",
            "disconnected",
            "messages_missed",
            "store_away",
            "store_back",
            "lease_lost",
        ],
    ),
];

pub(super) const OUTCOMES: ByPattern = &[
    ("retry", &["success", "success_after_retry", "failure"]),
    (
        "circuit_breaker",
        &[
            "success",
            "failure",
            "overload",
            "ignored",
            "cancelled",
            "refused",
        ],
    ),
    ("contention", &["passed", "refused", "abandoned"]),
    ("rate_limit", &["passed", "waited", "refused", "abandoned"]),
    ("timeout", &["in_time", "timed_out"]),
    ("hedge", &["hedged", "not_hedged"]),
    ("fallback", &["answered", "all_failed"]),
    ("throttle", &["accepted", "not_accepted", "refused"]),
];

const SHADOWED: &[&str] = &["seen", "would_refuse", "would_wait", "would_pass"];

pub(super) const DECISIONS: ByPattern = &[
    (
        "circuit_breaker",
        &[
            "seen",
            "would_refuse",
            "would_refuse_succeeded",
            "would_pass",
        ],
    ),
    ("contention", SHADOWED),
    ("rate_limit", SHADOWED),
];

pub(super) const REASONS: ByPattern = &[
    (
        "circuit_breaker",
        &[
            "open",
            "probes_busy",
            "ramping",
            "forced_open",
            "not_made_ready",
        ],
    ),
    (
        "contention",
        &[
            "busy",
            "queue_full",
            "timed_out",
            "shed",
            "deadlock",
            "closed",
        ],
    ),
    (
        "rate_limit",
        &[
            "exhausted",
            "too_long",
            "deadline_exceeded",
            "queue_full",
            "exceeds_burst",
        ],
    ),
    ("throttle", &["throttled"]),
    ("timeout", &["not_ready"]),
];

/// So a deadline of the caller's is no phase of the service, and yet ends a call.
const PHASES: &[&str] = &["ready", "head", "first_frame", "idle", "total", "deadline"];

pub(super) const TIMEOUT_PHASES: ByPattern = &[("timeout", PHASES)];

pub(super) const STATES: ByPattern = &[(
    "circuit_breaker",
    &[
        "closed",
        "open",
        "half_open",
        "forced_open",
        "disabled",
        "metrics_only",
    ],
)];

pub(super) const CAUSES: ByPattern = &[("retry", &["error", "response", "timed_out", "refused"])];

pub(super) const STOPS: ByPattern = &[(
    "retry",
    &[
        "max_retries",
        "deadline",
        "budget_exhausted",
        "retry_after_too_long",
        "not_cloneable",
        "not_idempotent",
        "refused",
        "not_worth_retrying",
    ],
)];

pub(super) const HEDGES: ByPattern = &[(
    "hedge",
    &["won", "lost", "no_budget", "refused", "not_repeatable"],
)];

pub(super) const FAULTS: ByPattern =
    &[("chaos", &["latency", "error", "hang", "panic", "cut_body"])];

pub(super) const PARTS: ByPattern = &[("fleet", &["circuit_breaker", "lock", "rate_limit"])];

pub(super) const FLEET_LOCKS: ByPattern =
    &[("fleet", &["passed", "local", "refused", "abandoned"])];

pub(super) const FLEET_LIMITS: ByPattern =
    &[("fleet", &["passed", "waited", "refused", "abandoned"])];
