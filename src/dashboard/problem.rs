//! What an operator should look at, in sentences.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::words::{count, ms, span};
use crate::chaos::ChaosSnapshot;
use crate::circuit_breaker::{CircuitBreakerSnapshot, CircuitState};
use crate::contention::{ContentionConfig, ResourceSnapshot};
use crate::rate_limit::RateLimitSnapshot;
use crate::retry::RetrySnapshot;
use crate::throttle::ThrottleSnapshot;

/// Something that an operator should look at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) pattern: &'static str,
    pub(super) name: String,
    /// What is wrong, in a few words.
    pub(super) short: String,
    /// What is wrong and why, with the numbers.
    pub(super) text: String,
    /// For how long so far.
    since_ms: Option<f64>,
    /// When something comes by itself, and what.
    until_ms: Option<f64>,
    then: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    Error,
    Warning,
    Notice,
}

impl Problem {
    fn new(
        severity: Severity,
        pattern: &'static str,
        name: &str,
        short: &str,
        text: String,
    ) -> Self {
        Self {
            severity,
            pattern,
            name: name.to_owned(),
            short: short.to_owned(),
            text,
            since_ms: None,
            until_ms: None,
            then: "",
        }
    }

    fn since(mut self, time: Duration) -> Self {
        self.since_ms = Some(ms(time));
        self
    }

    fn until(mut self, time: Option<Duration>, then: &'static str) -> Self {
        self.until_ms = time.map(ms);
        self.then = then;
        self
    }
}

/// All problems in a line: the page says of each more.
pub(super) fn headline(problems: &[Problem]) -> String {
    const NAMED: usize = 4;
    let bad = problems.iter().filter(|it| it.severity < Severity::Notice);
    let bad: Vec<&str> = bad.map(|it| &*it.short).collect();
    if bad.is_empty() {
        return match problems.len() as u64 {
            0 => "All is well: no circuit is open, and nobody waits for long.".to_owned(),
            n => format!(
                "No problems; {}.",
                count(n, "thing to know", "things to know")
            ),
        };
    }
    let mut named: Vec<String> = bad.iter().take(NAMED).map(|it| (*it).to_owned()).collect();
    if bad.len() > NAMED {
        named.push(format!("{} more", bad.len() - NAMED));
    }
    let all = count(bad.len() as u64, "problem", "problems");
    format!("{all}: {}", named.join(", "))
}

pub(super) fn of_breaker(it: &CircuitBreakerSnapshot) -> Option<Problem> {
    let name = &*it.name;
    let problem = |severity, what: &str, text| {
        let short = format!("circuit `{name}` {what}");
        Problem::new(severity, "circuit_breaker", name, &short, text).since(it.since_state_change)
    };
    Some(match it.state {
        CircuitState::Open => {
            let again = match it.openings {
                0 | 1 => String::new(),
                n => format!(" (the {}: it has not recovered in between)", nth(n)),
            };
            let text = format!(
                "the circuit `{name}` is open{again} and refuses every call{}",
                why(it)
            );
            let problem = problem(Severity::Error, "open", text);
            problem.until(it.remaining_open, "the next probe")
        }
        CircuitState::ForcedOpen => {
            let text = format!(
                "an operator has opened the circuit `{name}`: it refuses every call until it is closed by hand"
            );
            problem(Severity::Error, "opened by hand", text)
        }
        CircuitState::HalfOpen => {
            let (done, of) = (it.success_count, it.success_threshold);
            let text = format!(
                "the circuit `{name}` is half-open: {done} of {of} probes have succeeded, other calls are refused{}",
                why(it)
            );
            problem(Severity::Warning, "half-open", text)
        }
        CircuitState::Disabled => {
            let text = format!(
                "the circuit `{name}` is disabled: it lets every call through and counts nothing"
            );
            problem(Severity::Notice, "disabled", text)
        }
        CircuitState::MetricsOnly => {
            let text = format!("the circuit `{name}` only watches: it refuses nothing");
            problem(Severity::Notice, "only watches", text)
        }
        CircuitState::Closed => {
            let share = it.ramp? * 100.0;
            let text =
                format!("the circuit `{name}` has closed and lets {share:.0} % of the calls in");
            problem(Severity::Warning, "closing", text)
        }
    })
}

/// What has opened it, and what failed last.
fn why(it: &CircuitBreakerSnapshot) -> String {
    let cause = it.cause.as_ref().map(ToString::to_string);
    let last = it.last_failure.as_ref();
    let last = last.map(|last| format!("last failure: {last}"));
    let all: Vec<String> = cause.into_iter().chain(last).collect();
    match all.is_empty() {
        true => String::new(),
        false => format!(": {}", all.join("; ")),
    }
}

fn nth(n: u32) -> String {
    match n {
        2 => "second time".to_owned(),
        3 => "third time".to_owned(),
        n => format!("{n}th time"),
    }
}

/// Refusals since the last look.
pub(super) struct Refused {
    pub(super) calls: u64,
    pub(super) since: Duration,
}

impl Refused {
    fn sentence(&self, who: &str) -> Option<String> {
        let calls = count(self.calls, "call", "calls");
        let since = span(self.since);
        (self.calls > 0).then(|| format!("{who} has refused {calls} in the last {since}"))
    }
}

/// Of a group by key: of the worst that are shown.
pub(super) fn of_group(group: &Value) -> Option<Problem> {
    let name = group["name"].as_str()?;
    let rows = group["rows"].as_array()?;
    let is_shut = |it: &&Value| {
        let state = it["row"]["state"].as_str();
        matches!(state, Some("open" | "forced_open" | "half_open"))
    };
    let shut: Vec<_> = rows.iter().filter(is_shut).collect();
    let first = shut.first()?["key"].as_str()?;
    let least = if shut.len() == rows.len() {
        "at least "
    } else {
        ""
    };
    let keys = count(shut.len() as u64, "key is", "keys are");
    let text = format!("of `{name}`, {least}{keys} refused by a circuit, such as `{first}`");
    let short = format!("{least}{} of `{name}` refused", shut.len());
    Some(Problem::new(Severity::Warning, "keyed", name, &short, text))
}

pub(super) fn of_lock(
    it: &ResourceSnapshot,
    config: &ContentionConfig,
    refused: &Refused,
) -> Vec<Problem> {
    let name = &*it.name;
    let problem = |severity, what: &str, text| {
        let short = format!("lock `{name}` {what}");
        Problem::new(severity, "resource_lock", name, &short, text)
    };
    let mut found = Vec::new();
    if it.closed {
        let text = format!("`{name}` is closed: nobody gets a permit");
        found.push(problem(Severity::Error, "closed", text));
    }
    if let Some(text) = refused.sentence(&format!("the lock `{name}`")) {
        found.push(problem(Severity::Warning, "refuses", text));
    }
    let longest = it.waiters.iter().map(|it| it.waiting_for).max();
    if let Some(longest) = longest.filter(|it| *it >= config.contention_threshold) {
        let held = it.holders.first().map_or_else(String::new, |it| {
            format!(
                "; `{}` has held a permit for {}",
                it.holder,
                span(it.held_for)
            )
        });
        let callers = count(it.waiting as u64, "caller waits", "callers wait");
        let longest = span(longest);
        let text = format!("{callers} for the lock `{name}`, the longest for {longest}{held}");
        found.push(problem(Severity::Warning, "held for long", text));
    }
    found
}

pub(super) fn of_limit(it: &RateLimitSnapshot, refused: &Refused) -> Vec<Problem> {
    let name = &*it.name;
    let problem = |severity, what: &str, text| {
        let short = format!("rate limit `{name}` {what}");
        Problem::new(severity, "rate_limit", name, &short, text)
    };
    let mut found = Vec::new();
    if it.paused_for.is_some() {
        let text = format!("the rate limit `{name}` is paused: the service asked for it");
        let paused = problem(Severity::Warning, "paused", text);
        found.push(paused.until(it.paused_for, "it goes on"));
    }
    if let Some(text) = refused.sentence(&format!("the rate limit `{name}`")) {
        found.push(problem(Severity::Warning, "refuses", text));
    }
    for quota in it.quotas.iter().filter(|it| it.available == 0) {
        let owed = match quota.owed {
            0 => String::new(),
            owed => format!(", and {owed} more are owed"),
        };
        let waiting = count(it.waiting as u64, "call waits", "calls wait");
        let text = format!(
            "the quota `{}` of `{name}` is used up{owed}; {waiting}",
            quota.name
        );
        found.push(problem(Severity::Notice, "used up", text));
    }
    found
}

pub(super) fn of_retry(it: &RetrySnapshot) -> Option<Problem> {
    let name = &*it.name;
    let text =
        format!("the retry budget of `{name}` is used up: calls that fail are not tried again");
    let short = format!("retry budget `{name}` used up");
    let is_used_up = it.budget_available == Some(0);
    is_used_up.then(|| Problem::new(Severity::Warning, "retry", name, &short, text))
}

pub(super) fn of_throttle(it: &ThrottleSnapshot) -> Option<Problem> {
    let name = &*it.name;
    let text = format!(
        "the throttle `{name}` refuses {:.0} % of the calls: the service has accepted {} of the last {}",
        it.probability * 100.0,
        it.accepts,
        it.requests
    );
    let short = format!("throttle `{name}` refuses");
    let refuses = it.probability > 0.0;
    refuses.then(|| Problem::new(Severity::Warning, "throttle", name, &short, text))
}

pub(super) fn of_chaos(it: &ChaosSnapshot) -> Option<Problem> {
    let name = &*it.name;
    let text = format!("the drill `{name}` is armed: calls meet faults on purpose");
    let short = format!("drill `{name}` armed");
    it.armed
        .then(|| Problem::new(Severity::Warning, "chaos", name, &short, text))
}
