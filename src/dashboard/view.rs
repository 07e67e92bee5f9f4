//! Registry -> what the page shows: what is wrong in sentences, then a row for each handle, the worst first.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::problem::{self, Problem, Refused};
use super::words::{count, ms, span};
use crate::circuit_breaker::{CircuitBreakerConfig, CircuitBreakerSnapshot, CircuitState};
use crate::contention::{ResourceLock, ResourceSnapshot, WaitEdge};
use crate::event::Entry;
use crate::rate_limit::RateLimitSnapshot;
use crate::registry::Registry;
use crate::retry::RetryPolicy;
use crate::util::histogram::DurationSummary;
use crate::util::time::Tick;

/// So many rows of a kind are shown, and of holders and waiters of each lock.
pub(super) const MOST_ROWS: usize = 50;
const MOST_NAMES: usize = 20;
const MOST_EDGES: usize = 200;
const MOST_EVENTS: usize = 60;

/// A row, and how bad it is.
type Row = (f64, Value);

/// Rows of one kind, the worst first.
#[derive(Debug, Default, Serialize)]
struct Rows {
    rows: Vec<Value>,
    /// How many more there are.
    more: usize,
}

impl Rows {
    fn of(mut rows: Vec<Row>) -> Self {
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        let more = rows.len().saturating_sub(MOST_ROWS);
        rows.truncate(MOST_ROWS);
        Self {
            rows: rows.into_iter().map(|(_, row)| row).collect(),
            more,
        }
    }
}

/// What there was at the last look.
#[derive(Default)]
pub(super) struct Seen {
    at: Option<Tick>,
    refused: HashMap<(&'static str, Arc<str>), u64>,
}

impl Seen {
    /// What has been refused since the last look, if this is not the first.
    fn since_then(
        &mut self,
        pattern: &'static str,
        name: &Arc<str>,
        all: u64,
        now: Tick,
    ) -> Refused {
        let before = self.refused.insert((pattern, Arc::clone(name)), all);
        Refused {
            calls: before.map_or(0, |before| all.saturating_sub(before)),
            since: self.at.map_or(Duration::ZERO, |at| now.since(at)),
        }
    }
}

/// All that the page shows of a registry, and of groups by key.
pub(super) fn view(registry: &Registry, groups: &[Value], seen: &mut Seen, now: Tick) -> Value {
    let mut problems: Vec<_> = groups.iter().filter_map(problem::of_group).collect();
    let breakers = registry.circuit_breakers();
    let breakers = breakers.iter().map(|it| {
        let (snapshot, config) = (it.snapshot(), it.config());
        problems.extend(problem::of_breaker(&snapshot));
        breaker_row(&snapshot, Some(&config))
    });
    let breakers = Rows::of(breakers.collect());
    let locks = registry.resource_locks();
    let locks = Rows::of(
        locks
            .iter()
            .map(|it| lock(it, &mut problems, seen, now))
            .collect(),
    );
    let limits = registry.rate_limits();
    let limits = limits.iter().map(|it| {
        let snapshot = it.snapshot();
        let all = snapshot.totals.refused;
        let refused = seen.since_then("rate_limit", &snapshot.name, all, now);
        problems.extend(problem::of_limit(&snapshot, &refused));
        limit_row(&snapshot, Some(&config(&*it.config())))
    });
    let limits = Rows::of(limits.collect());
    let retries = registry.retries();
    let retries = Rows::of(retries.iter().map(|it| retry(it, &mut problems)).collect());
    let others = others(registry, &mut problems);
    let graph = graph(&edges(registry));
    seen.at = Some(now);
    problems.sort_by(|a, b| {
        let by = a.severity.cmp(&b.severity);
        by.then_with(|| (a.pattern, &a.name).cmp(&(b.pattern, &b.name)))
    });
    let headline = problem::headline(&problems);
    problems.truncate(MOST_ROWS);
    json!({
        "headline": headline,
        "problems": problems,
        "circuit_breakers": breakers,
        "resource_locks": locks,
        "rate_limits": limits,
        "retries": retries,
        "others": others,
        "graph": graph,
        "events": events(registry),
    })
}

fn config<C: Serialize>(config: &C) -> Value {
    serde_json::to_value(config).unwrap_or(Value::Null)
}

fn times(it: &DurationSummary) -> Value {
    json!({ "count": it.count, "p50_ms": ms(it.p50), "p99_ms": ms(it.p99), "max_ms": ms(it.max) })
}

/// How near the circuit is to opening, by each rule: what there is, what it takes, and the share of that.
fn distances(it: &CircuitBreakerSnapshot, config: &CircuitBreakerConfig) -> Vec<Value> {
    let distance =
        |text: String, share: f64| json!({ "text": text, "share": share.clamp(0.0, 1.0) });
    let mut all = Vec::new();
    if let Some(most) = config.consecutive_failures {
        let text = format!("{} of {most} failures in a row", it.failure_count);
        all.push(distance(
            text,
            f64::from(it.failure_count) / f64::from(most.max(1)),
        ));
    }
    let enough = u64::from(config.minimum_calls);
    let mut rate = |of: &str, now: Option<f64>, part: u64, most: f64| {
        all.push(match now {
            Some(now) => {
                let text = format!(
                    "{:.0} % of the last {} calls {of}; trips at {:.0} %",
                    now * 100.0,
                    it.window_calls,
                    most * 100.0
                );
                distance(text, now / most)
            }
            None => {
                let text = format!(
                    "{part} of {} calls {of}; looked at from {enough} calls on",
                    it.window_calls
                );
                distance(text, 0.0)
            }
        });
    };
    if let Some(most) = config.failure_rate {
        rate("failed", it.failure_rate, it.window_failures, most);
    }
    if let Some(slow) = &config.slow_calls {
        rate("slow", it.slow_call_rate, it.window_slow, slow.rate);
    }
    if let Some(most) = config.failure_count {
        let text = format!("{} of {most} failures in the window", it.window_failures);
        all.push(distance(
            text,
            it.window_failures as f64 / f64::from(most.max(1)),
        ));
    }
    all
}

pub(super) fn breaker_row(it: &CircuitBreakerSnapshot, of: Option<&CircuitBreakerConfig>) -> Row {
    let trouble = match it.state {
        CircuitState::Open | CircuitState::ForcedOpen => 2_000.0,
        CircuitState::HalfOpen => 1_000.0,
        CircuitState::Closed | CircuitState::Disabled | CircuitState::MetricsOnly => 0.0,
    };
    let distances = of.map(|config| distances(it, config)).unwrap_or_default();
    let nearest = distances.iter().filter_map(|it| it["share"].as_f64());
    let trouble = trouble + nearest.fold(0.0, f64::max);
    let totals = &it.totals;
    let row = json!({
        "name": it.name,
        "state": it.state,
        "would_be": it.would_be,
        "since_ms": ms(it.since_state_change),
        "until_ms": it.remaining_open.map(ms),
        "cause": it.cause.as_ref().map(ToString::to_string),
        "last_failure": it.last_failure,
        "distances": distances,
        "probes": it.probes,
        "max_probes": of.map(|config| config.max_probes),
        "succeeded": it.success_count,
        "needed": it.success_threshold,
        "totals": totals,
        "shadow": it.shadow.as_ref().map(|shadow| format!(
            "another config that is tried would be {}: of {} it would have refused {}, of which {} succeeded, and let {} through that were refused",
            shadow.state,
            count(shadow.calls, "call", "calls"),
            count(shadow.would_refuse, "call", "calls"),
            shadow.would_refuse_succeeded,
            shadow.would_pass,
        )),
        "config": of.map(config),
    });
    (trouble, row)
}

fn lock(lock: &ResourceLock, problems: &mut Vec<Problem>, seen: &mut Seen, now: Tick) -> Row {
    let (snapshot, config) = (lock.snapshot(), lock.config());
    let stats = &snapshot.stats;
    let all = stats.timeouts + stats.rejected + stats.deadlocks + stats.shed + stats.closed;
    let refused = seen.since_then("resource_lock", &snapshot.name, all, now);
    problems.extend(problem::of_lock(&snapshot, &config, &refused));
    lock_row(&snapshot, Some(&self::config(&*config)))
}

pub(super) fn lock_row(it: &ResourceSnapshot, config: Option<&Value>) -> Row {
    let more_holders = it.holders.len().saturating_sub(MOST_NAMES);
    let holders = it.holders.iter().take(MOST_NAMES);
    let holders = holders.map(
        |it| json!({ "name": it.holder.to_string(), "ms": ms(it.held_for), "permits": it.permits }),
    );
    let waiters = it.waiters.iter().take(MOST_NAMES);
    let waiters =
        waiters.map(|it| json!({ "name": it.holder.to_string(), "ms": ms(it.waiting_for) }));
    let stats = &it.stats;
    let full = it.in_use as f64 / it.capacity.max(1) as f64;
    let trouble = it.waiting as f64 * 10.0 + full + if it.closed { 1e9 } else { 0.0 };
    let row = json!({
        "name": it.name,
        "in_use": it.in_use,
        "capacity": it.capacity,
        "waiting": it.waiting,
        "closed": it.closed,
        "holders": holders.collect::<Vec<_>>(),
        "more_holders": more_holders,
        "waiters": waiters.collect::<Vec<_>>(),
        "wait": times(&stats.recent_wait),
        "hold": times(&stats.recent_hold),
        "refused": {
            "timed_out": stats.timeouts,
            "at_once": stats.rejected,
            "deadlock": stats.deadlocks,
            "shed": stats.shed,
            "closed": stats.closed,
        },
        "contention_rate": stats.contention_rate,
        "shadow": it.shadow.as_ref().map(|shadow| format!(
            "another config that is tried ({}): of {} {} would have waited, {} would have been refused; the longest wait {}",
            count(shadow.config.max_concurrent as u64, "permit", "permits"),
            count(shadow.calls, "call", "calls"),
            shadow.would_wait,
            shadow.would_refuse,
            span(shadow.longest_wait),
        )),
        "config": config,
    });
    (trouble, row)
}

pub(super) fn limit_row(it: &RateLimitSnapshot, config: Option<&Value>) -> Row {
    let used = it.quotas.iter().map(|quota| {
        let left = quota.available as f64 / quota.burst.max(1) as f64;
        1.0 - left.min(1.0)
    });
    let trouble = used.fold(0.0, f64::max) + it.waiting as f64 * 10.0;
    let row = json!({
        "name": it.name,
        "quotas": it.quotas,
        "waiting": it.waiting,
        "paused_ms": it.paused_for.map(ms),
        "totals": it.totals,
        "wait": times(&it.wait),
        "shadow": it.shadow.as_ref().map(|shadow| format!(
            "another config that is tried: of {} it would have refused {}, made {} wait, and let {} through that were refused",
            count(shadow.calls, "call", "calls"),
            shadow.would_refuse,
            shadow.would_wait,
            shadow.would_pass,
        )),
        "config": config,
    });
    (trouble, row)
}

fn retry(policy: &RetryPolicy, problems: &mut Vec<Problem>) -> Row {
    let it = policy.snapshot();
    problems.extend(problem::of_retry(&it));
    let ratio = it.retries as f64 / it.calls.max(1) as f64;
    let row = json!({
        "name": it.name,
        "calls": it.calls,
        "attempts": it.attempts,
        "retries": it.retries,
        "ratio": ratio,
        "recovered": it.recovered,
        "gave_up": it.gave_up,
        "failed": it.calls.saturating_sub(it.successes),
        "budget": it.budget_available,
        "config": config(&*policy.config()),
    });
    (ratio + it.gave_up as f64, row)
}

/// Timeouts, hedges, throttles, fallbacks and drills: each with what it says in a line.
fn others(registry: &Registry, problems: &mut Vec<Problem>) -> Rows {
    let mut rows = Vec::new();
    let mut row = |pattern: &str,
                   name: &str,
                   trouble: f64,
                   text: String,
                   extra: Value,
                   config: Value| {
        let row = json!({ "pattern": pattern, "name": name, "text": text, "extra": extra, "config": config });
        rows.push((trouble, row));
    };
    for handle in registry.timeouts() {
        let it = handle.snapshot();
        let late = &it.timed_out;
        let phases = [
            ("ready", late.ready),
            ("head", late.head),
            ("first frame", late.first_frame),
            ("idle", late.idle),
            ("total", late.total),
            ("deadline", late.deadline),
        ];
        let of_phase = phases.iter().filter(|(_, n)| *n > 0);
        let of_phase: Vec<_> = of_phase
            .map(|(phase, n)| format!("{n} in {phase}"))
            .collect();
        let all: u64 = phases.iter().map(|(_, n)| n).sum();
        let mut text = format!("{}, {all} timed out", count(it.calls, "call", "calls"));
        if !of_phase.is_empty() {
            text += &format!(" ({})", of_phase.join(", "));
        }
        row(
            "timeouts",
            &it.name,
            all as f64,
            text,
            times(&it.recent_calls),
            config(&*handle.config()),
        );
    }
    for handle in registry.hedges() {
        let it = handle.snapshot();
        let mut text = format!(
            "{}, {} hedged, {} of the hedges answered first",
            count(it.calls, "call", "calls"),
            it.hedged,
            it.won,
        );
        if let Some(delay) = it.delay {
            text += &format!("; a call is hedged after {}", span(delay));
        }
        row(
            "hedge",
            &it.name,
            0.0,
            text,
            times(&it.recent_latency),
            config(&*handle.config()),
        );
    }
    for handle in registry.throttles() {
        let it = handle.snapshot();
        problems.extend(problem::of_throttle(&it));
        let text = format!(
            "{} accepted, {} not, {} refused here; {:.0} % are refused now",
            it.totals.accepted,
            it.totals.not_accepted,
            it.totals.refused,
            it.probability * 100.0,
        );
        row(
            "throttle",
            &it.name,
            it.probability * 100.0,
            text,
            Value::Null,
            config(&*handle.config()),
        );
    }
    for handle in registry.fallbacks() {
        let it = handle.snapshot();
        let text = format!(
            "{} handed on, {} of them answered by none",
            count(it.fell_back, "call", "calls"),
            it.all_failed,
        );
        row(
            "fallback",
            &it.name,
            it.all_failed as f64,
            text,
            Value::Null,
            Value::Null,
        );
    }
    for handle in registry.chaos() {
        let it = handle.snapshot();
        problems.extend(problem::of_chaos(&it));
        let injected = &it.injected;
        let all =
            injected.latency + injected.error + injected.hang + injected.panic + injected.cut_body;
        let armed = if it.armed { "armed" } else { "not armed" };
        let text = format!(
            "{armed}; {}, {all} met a fault",
            count(it.calls, "call", "calls")
        );
        row(
            "chaos",
            &it.name,
            all as f64,
            text,
            json!({ "armed": it.armed }),
            config(&*handle.config()),
        );
    }
    Rows::of(rows)
}

/// Who waits for whom; of so many waits more than are shown tell nobody more.
fn edges(registry: &Registry) -> Vec<WaitEdge> {
    let mut edges = Vec::new();
    for lock in registry.resource_locks() {
        edges.extend(lock.wait_edges());
        if edges.len() > 20 * MOST_EDGES {
            break;
        }
    }
    edges
}

/// Who waits for whom, with those marked that wait in a circle.
fn graph(edges: &[WaitEdge]) -> Value {
    let mut next: HashMap<String, BTreeSet<String>> = HashMap::new();
    for edge in edges {
        let holders = next.entry(edge.waiter.to_string()).or_default();
        holders.insert(edge.holder.to_string());
    }
    let reaches = |from: &str, to: &str| {
        let mut seen = BTreeSet::from([from]);
        let mut left = vec![from];
        while let Some(at) = left.pop() {
            for it in next.get(at).into_iter().flatten() {
                if it == to {
                    return true;
                }
                if seen.insert(it) {
                    left.push(it);
                }
            }
        }
        false
    };
    let shown = edges.iter().take(MOST_EDGES).map(|edge| {
        let (waiter, holder) = (edge.waiter.to_string(), edge.holder.to_string());
        let deadlock = reaches(&holder, &waiter);
        json!({ "waiter": waiter, "resource": edge.resource, "holder": holder, "deadlock": deadlock })
    });
    let shown: Vec<_> = shown.collect();
    json!({ "edges": shown, "more": edges.len().saturating_sub(MOST_EDGES) })
}

/// What explains an outage, the newest first.
fn events(registry: &Registry) -> Value {
    let important = registry.feed().important();
    let newest = important.iter().rev().take(MOST_EVENTS).map(event);
    Value::Array(newest.collect())
}

fn event(entry: &Entry) -> Value {
    json!({
        "position": entry.position,
        "age_ms": ms(entry.age),
        "name": entry.name,
        "pattern": entry.event.pattern(),
        "kind": entry.event.kind(),
        "text": entry.event.to_string(),
    })
}
