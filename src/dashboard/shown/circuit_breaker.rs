//! Open since when, until when, why; and how far a closed circuit is from opening.

use super::super::command::{Action, CommandError, Done};
use super::super::pattern::Pattern;
use super::super::settings::{Setting, settings};
use super::super::table::{Bar, Cell, Column, Level, Losses, Next, Row, Unit};
use super::super::words::{clipped, counted, grouped, humane, percent};
use super::sealed::Look;
use super::tried;
use crate::circuit_breaker::{
    CircuitBreaker, CircuitBreakerConfig, CircuitBreakerShadow, CircuitBreakerSnapshot,
};
use crate::error::CircuitState;

const COLUMNS: &[Column] = &[
    Column::new(
        "Distance to the trip",
        Unit::Bars,
        "How much of what opens the circuit has come together, by each of its rules. A full bar opens it.",
    ),
    Column::new(
        "Calls/s",
        Unit::PerSecond,
        "Calls a second, with those that were refused.",
    )
    .drawn(),
    Column::new(
        "Failed",
        Unit::Ratio,
        "The share of failures among the calls that ended in the last second.",
    )
    .drawn(),
    Column::new(
        "Refused/s",
        Unit::PerSecond,
        "Calls a second that the circuit refused.",
    )
    .drawn(),
    Column::new(
        "Probes",
        Unit::Text,
        "While it is half-open: probes that have succeeded, of those that must, and probes on their way.",
    ),
    Column::new(
        "In this state",
        Unit::Seconds,
        "How long ago the state last changed.",
    ),
];

impl Look for CircuitBreaker {
    const PATTERN: Pattern = Pattern::CircuitBreaker;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn name(&self) -> &str {
        self.name()
    }

    fn row(&self) -> Row {
        row(&self.snapshot(), &self.config())
    }

    fn settings(&self) -> Vec<Setting> {
        settings(&*self.config(), &CircuitBreakerConfig::default())
    }

    fn command(&self, action: &Action) -> Result<Done, CommandError> {
        let before = self.state();
        match action {
            Action::ForceOpen => self.force_open(),
            Action::ForceClose => self.force_close(),
            Action::Disable => self.disable(),
            Action::MetricsOnly => self.metrics_only(),
            Action::Reset => self.reset(),
            Action::Config { config } => {
                let now = self.config();
                return action.update(&*now, config, |mut new: CircuitBreakerConfig| {
                    // What is code is not in JSON: it stays, unless another recovery is named.
                    new.has_rule = now.has_rule;
                    if !config.contains_key("recovery") {
                        new.recovery = now.recovery.clone();
                    }
                    self.update(new)
                });
            }
            Action::Capacity { .. } | Action::Arm { .. } | Action::Disarm => {
                return Err(action.does_not_fit(Self::PATTERN));
            }
        }
        Ok(Done::between(before, self.state()))
    }

    fn is_in_trouble(&self) -> bool {
        match self.state() {
            CircuitState::Open | CircuitState::HalfOpen | CircuitState::ForcedOpen => true,
            CircuitState::Closed | CircuitState::Disabled | CircuitState::MetricsOnly => false,
        }
    }
}

fn row(seen: &CircuitBreakerSnapshot, config: &CircuitBreakerConfig) -> Row {
    let distances = distances(seen, config);
    let (level, text) = sentence(seen, distances.first());
    let totals = &seen.totals;
    let said = totals.successes + totals.failures;
    let ended = said + totals.overloads + totals.ignored + totals.cancelled;
    let is_closed = seen.state == CircuitState::Closed;
    let distance = match is_closed && !distances.is_empty() {
        true => Cell::Bars(distances),
        false => Cell::Nothing,
    };
    Row {
        name: clipped(&seen.name),
        level,
        state: seen.state.to_string(),
        text,
        since_seconds: Some(seen.since_state_change.as_secs_f64()),
        next: next(seen),
        trial: seen.shadow.as_ref().map(|it| trial(it, config)),
        cells: vec![
            distance,
            Cell::count(ended + totals.rejected),
            Cell::Counts([totals.failures, said]),
            Cell::count(totals.rejected),
            probes(seen),
            Cell::seconds(seen.since_state_change),
        ],
        losses: Some(Losses::new(
            totals.rejected,
            "refused",
            "calls have been refused",
        )),
        trouble: totals.rejected as f64,
        ..Row::default()
    }
}

/// What would open it, what is nearest first.
fn distances(seen: &CircuitBreakerSnapshot, config: &CircuitBreakerConfig) -> Vec<Bar> {
    let bar = |label, value: f64, of: f64| Bar {
        label,
        value: value.min(of),
        of,
        full_is_bad: true,
    };
    let consecutive = config.consecutive_failures.map(|most| {
        let label = format!("{} of {most} failures in a row", seen.failure_count);
        bar(label, f64::from(seen.failure_count), f64::from(most))
    });
    let count = config.failure_count.map(|most| {
        let label = format!(
            "{} of {most} failures in the window",
            grouped(seen.window_failures)
        );
        bar(label, seen.window_failures as f64, f64::from(most))
    });
    // A rate says nothing before there are enough calls, and then all of a sudden much.
    let calls = grouped(seen.window_calls);
    let rate = |what: &str, known: Option<f64>, part: u64, most: f64| match known {
        Some(rate) => {
            let (rate_is, most_is) = (percent(rate), percent(most));
            let label = format!("{rate_is} of {calls} calls {what}, opens at {most_is}");
            bar(label, rate, most)
        }
        None => {
            let (part, enough) = (grouped(part), config.minimum_calls);
            let label = format!("{part} of {calls} calls {what}, judged from {enough} calls on");
            bar(label, 0.0, most)
        }
    };
    let failures = config
        .failure_rate
        .map(|most| rate("failed", seen.failure_rate, seen.window_failures, most));
    let slow = config.slow_calls.map(|it| {
        rate(
            "were slow",
            seen.slow_call_rate,
            seen.window_slow + seen.overdue,
            it.rate,
        )
    });
    let all = [consecutive, count, failures, slow].into_iter().flatten();
    let mut all: Vec<Bar> = all.collect();
    let share = |it: &Bar| it.value / it.of;
    all.sort_by(|a, b| share(b).total_cmp(&share(a)));
    all
}

/// What comes next, and when.
fn next(seen: &CircuitBreakerSnapshot) -> Option<Next> {
    match seen.state {
        CircuitState::Open => Some(Next::new("the next probe", seen.remaining_open)),
        CircuitState::HalfOpen => {
            let left = seen.success_threshold.saturating_sub(seen.success_count);
            let probes = counted(left.into(), "more probe", "more probes");
            let verb = if left == 1 { "succeeds" } else { "succeed" };
            Some(Next::new(format!("it closes once {probes} {verb}"), None))
        }
        CircuitState::ForcedOpen | CircuitState::Disabled => {
            Some(Next::new("an operator closes or resets it", None))
        }
        CircuitState::Closed | CircuitState::MetricsOnly => None,
    }
}

/// What a tried config would have done otherwise.
fn trial(shadow: &CircuitBreakerShadow, config: &CircuitBreakerConfig) -> String {
    format!(
        "{} would be {} now: of {} it would have refused {}, of which {} succeeded, and let {} through that were refused",
        tried(config, &shadow.config),
        shadow.state,
        counted(shadow.calls, "call", "calls"),
        grouped(shadow.would_refuse),
        grouped(shadow.would_refuse_succeeded),
        grouped(shadow.would_pass),
    )
}

fn probes(seen: &CircuitBreakerSnapshot) -> Cell {
    if seen.state != CircuitState::HalfOpen {
        return Cell::Nothing;
    }
    let (good, needed) = (seen.success_count, seen.success_threshold);
    Cell::Text(format!(
        "{good} of {needed} succeeded, {} on the way",
        seen.probes
    ))
}

/// What has opened it, and what failed last.
fn why(seen: &CircuitBreakerSnapshot) -> String {
    let cause = seen.cause.as_ref().map(ToString::to_string);
    let last = seen.last_failure.as_ref();
    let last = last.map(|it| format!("last failure: {}", clipped(it)));
    let all: Vec<String> = cause.into_iter().chain(last).collect();
    all.join("; ")
}

fn sentence(seen: &CircuitBreakerSnapshot, nearest: Option<&Bar>) -> (Level, String) {
    let since = humane(seen.since_state_change);
    let why = why(seen);
    let because = |text: String| match &*why {
        "" => text,
        why => format!("{text}: {why}"),
    };
    match seen.state {
        CircuitState::Open => {
            let again = match seen.openings {
                0 | 1 => String::new(),
                n => format!(" (opened {n} times without recovering in between)"),
            };
            let next = match seen.remaining_open {
                Some(left) => format!("the next probe in {}", humane(left)),
                None => "the next call is a probe".into(),
            };
            let text = format!("has been open for {since}{again}, {next}");
            (Level::Bad, because(text))
        }
        CircuitState::HalfOpen => {
            let (good, needed) = (seen.success_count, seen.success_threshold);
            let probes = counted(seen.probes as u64, "probe is", "probes are");
            let mut text = format!(
                "has been half-open for {since}: {good} of {needed} probes succeeded, {probes} on the way, other calls are refused"
            );
            if !why.is_empty() {
                text += &format!("; it opened because of {why}");
            }
            (Level::Warn, text)
        }
        CircuitState::ForcedOpen => (
            Level::Bad,
            format!(
                "has been held open by an operator for {since}, until it is closed or reset: every call is refused"
            ),
        ),
        CircuitState::Disabled => (
            Level::Warn,
            format!(
                "has been disabled by an operator for {since}, until it is closed or reset: calls go through, failures are not counted"
            ),
        ),
        CircuitState::MetricsOnly => match seen.would_be {
            Some(state @ (CircuitState::Open | CircuitState::HalfOpen)) => {
                let text = format!(
                    "has only counted for {since}: calls go through; otherwise it would be {state} now"
                );
                (Level::Warn, because(text))
            }
            _ => (
                Level::Note,
                format!("has only counted for {since}: calls go through, whatever happens"),
            ),
        },
        CircuitState::Closed => closed(seen, nearest, &since),
    }
}

fn closed(seen: &CircuitBreakerSnapshot, nearest: Option<&Bar>, since: &str) -> (Level, String) {
    if let Some(share) = seen.ramp {
        let share = percent(share);
        let text =
            format!("closed {since} ago and lets traffic in gradually: {share} of the calls now");
        return (Level::Warn, text);
    }
    match nearest {
        // Half of the way: worth a look before it opens.
        Some(bar) if bar.value >= bar.of / 2.0 => (
            Level::Note,
            format!("is closed, and not far from opening: {}", bar.label),
        ),
        Some(bar) => (
            Level::Ok,
            format!("has been closed for {since}: {}", bar.label),
        ),
        None => (Level::Ok, format!("has been closed for {since}")),
    }
}
