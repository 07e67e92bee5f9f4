//! The words before and after.

use std::error::Error as StdError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tower_bulwark::Stack;
use tower_bulwark::contention::DurationSummary;
use tower_bulwark::observe::Feed;

use crate::client;
use crate::live::ms;
use crate::stack::Handles;
use crate::support::fake_llm::Seen;
use crate::support::scenario::Scenario;
use crate::support::table::Table;
use crate::traffic::{Loss, Tally, Traffic};

/// What one run came to.
#[derive(Debug)]
pub struct Run {
    tally: Tally,
    took: Duration,
    /// What the server saw, where it can be asked.
    seen: Option<Seen>,
    /// When the breaker changed its state, and how.
    changes: Vec<(Duration, String)>,
}

impl Run {
    pub fn new(tally: Tally, took: Duration) -> Self {
        Self {
            tally,
            took,
            seen: None,
            changes: Vec::new(),
        }
    }

    /// With the events of the feed, as long as their age says when they were.
    pub fn with_changes(mut self, changes: &Feed) -> Self {
        let at = |age| self.took.saturating_sub(age);
        let entries = changes.recent();
        let lines = entries.iter().map(|it| (at(it.age), it.event.to_string()));
        self.changes = lines.collect();
        self
    }

    pub fn seen(mut self, seen: Seen) -> Self {
        self.seen = Some(seen);
        self
    }

    pub fn lost(&self) -> u64 {
        self.tally.lost()
    }

    pub fn unanswered(&self) -> u64 {
        self.tally.ended() - self.tally.answered
    }
}

pub fn opening(scenario: &Scenario, seed: u64, prompts: u64, concurrency: u16) -> String {
    let mut text = format!(
        "{prompts} prompts, {concurrency} on their way at once, to a fake API on loopback (seed {seed}).\n\
         It takes {} requests at once; it will throttle, hang, break connections",
        scenario.capacity
    );
    match scenario.outage {
        Some(outage) => {
            text += &format!(
                ",\nand from prompt {} on it will be down for {:?}.",
                outage.from, outage.lasts
            );
        }
        None => text += ".",
    }
    text
}

/// The answers of a real API, or some of them.
pub fn answers(traffic: &Traffic) -> String {
    let mut text = String::new();
    for (prompt, words) in &traffic.tally().answers {
        text += &format!("\n> {}\n{words}\n", client::question(*prompt));
    }
    text
}

/// Everything that was counted, side by side.
pub fn summary(with: &Run, without: Option<&Run>, handles: &Handles) -> String {
    let runs: Vec<&Run> = std::iter::once(with).chain(without).collect();
    let mut table = Table::new();
    let titles = ["", "with the layers", "without"];
    table.row(titles.into_iter().take(1 + runs.len()));
    outcomes(&mut table, &runs);
    if with.seen.is_some() {
        server_side(&mut table, &runs);
    }
    let mut text = format!("\n{table}");
    text += &layers(handles).to_string();
    text += &state_changes(with);
    text += &warnings(handles);
    text + &verdict(with, without)
}

fn each(table: &mut Table, name: &str, runs: &[&Run], value: impl Fn(&Run) -> String) {
    let cells = runs.iter().map(|run| value(run));
    table.row(std::iter::once(name.to_owned()).chain(cells));
}

fn outcomes(table: &mut Table, runs: &[&Run]) {
    each(table, "prompts answered", runs, |run| {
        run.tally.answered.to_string()
    });
    each(table, "prompts lost", runs, |run| run.lost().to_string());
    for loss in [
        Loss::Throttled,
        Loss::ServerError,
        Loss::Connection,
        Loss::TimedOut,
        Loss::Refused,
        Loss::WrongAnswer,
    ] {
        let lost = |run: &Run| run.tally.lost.get(&loss).copied().unwrap_or(0);
        if runs.iter().any(|run| lost(run) > 0) {
            each(table, &format!("  {loss}"), runs, |run| {
                lost(run).to_string()
            });
        }
    }
    each(table, "prompts at fault themselves (4xx)", runs, |run| {
        run.tally.at_fault.to_string()
    });
    each(table, "time", runs, |run| {
        format!("{:.1} s", run.took.as_secs_f64())
    });
    each(table, "answers per second", runs, |run| {
        format!("{:.0}", run.tally.answered as f64 / run.took.as_secs_f64())
    });
}

fn server_side(table: &mut Table, runs: &[&Run]) {
    type Count = fn(&Seen) -> u64;
    let counts: [(&str, Count); 8] = [
        ("requests", |seen| seen.requests),
        ("  while it was down", |seen| seen.while_down),
        ("  answered in full", |seen| seen.answered),
        ("  throttled by the script", |seen| seen.rate_limited),
        ("  throttled because it was overloaded", |seen| {
            seen.over_capacity
        }),
        ("  answered with 5xx", |seen| seen.server_errors),
        ("  connections broken", |seen| seen.dropped),
        ("  given up by the client", |seen| seen.abandoned),
    ];
    table.section("what the server saw");
    for (name, count) in counts {
        each(table, name, runs, |run| {
            run.seen.as_ref().map(count).unwrap_or_default().to_string()
        });
    }
    each(table, "most at once", runs, |run| {
        let seen = run.seen.unwrap_or_default();
        seen.most_at_once.to_string()
    });
}

fn layers(handles: &Handles) -> Table {
    let mut table = Table::new();
    table.section("what the layers did");
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let retried =
        |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed).to_string();
    if let Some(retry) = handles.first.retry() {
        let retry = retry.snapshot();
        row("retries", retry.retries.to_string());
        row("  after a 429 or 5xx", retried(&handles.retried.responses));
        row(
            "  after a broken connection",
            retried(&handles.retried.errors),
        );
        row("  after a timeout", retried(&handles.retried.timeouts));
        row("prompts that a retry saved", retry.recovered.to_string());
        row(
            "prompts given up by the first model",
            retry.gave_up.to_string(),
        );
    }
    let fallback = handles.fallback.snapshot();
    let second = fallback.fell_back - fallback.all_failed;
    row("prompts answered by the second model", second.to_string());
    if let Some(hedge) = handles.first.hedge() {
        let hedge = hedge.snapshot();
        row("hedges", hedge.hedges.to_string());
        row("hedges that answered first", hedge.won.to_string());
    }
    if let Some(breaker) = handles.first.circuit_breaker() {
        let totals = breaker.snapshot().totals;
        row(
            "breaker: calls that succeeded",
            totals.successes.to_string(),
        );
        row("breaker: calls that failed", totals.failures.to_string());
        row(
            "breaker: attempts refused, so saved",
            totals.rejected.to_string(),
        );
    }
    if let Some(limit) = handles.first.rate_limit() {
        let limit = limit.snapshot();
        let waits = [limit.wait.p50, limit.wait.p99, limit.wait.max].map(ms);
        row(
            "rate limit: attempts that waited",
            limit.totals.waited.to_string(),
        );
        row("rate limit: waits p50 / p99 / max", waits.join(" / "));
    }
    slots(&mut table, &handles.first);
    table.section("the slots of the second model");
    slots(&mut table, &handles.second);
    table
}

fn slots(table: &mut Table, stack: &Stack) {
    let Some(slots) = stack.lock().map(|it| it.snapshot()) else {
        return;
    };
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let stats = &slots.stats;
    let most = format!("{} of {}", stats.peak_in_use, slots.capacity);
    let contended = format!(
        "{} ({:.0} %)",
        stats.contentions,
        100.0 * stats.contention_rate
    );
    row("slots: permits given", stats.acquisitions.to_string());
    row("slots: most in use", most);
    row("slots: most waiting", stats.peak_waiting.to_string());
    row("slots: contended", contended);
    let times = |it: &DurationSummary| [it.p50, it.p90, it.p99, it.max].map(ms).join(" / ");
    row("slots: waits p50 / p90 / p99 / max", times(&stats.wait));
    row("slots: holds p50 / p90 / p99 / max", times(&stats.hold));
}

fn state_changes(run: &Run) -> String {
    let mut text = String::from("\nstates of the breaker\n");
    if run.changes.is_empty() {
        text += "  closed all the time\n";
    }
    for (at, change) in &run.changes {
        text += &format!("  {:>6.2} s  {change}\n", at.as_secs_f64());
    }
    text
}

fn warnings(handles: &Handles) -> String {
    let recent = handles.warnings.recent();
    let all = handles.warnings.dropped() + recent.len() as u64;
    let mut text = format!("\nwarnings of the slots, given while somebody waited: {all}\n");
    if let Some(last) = recent.last() {
        text += &format!("  the last: {}\n", last.event);
    }
    text
}

fn verdict(with: &Run, without: Option<&Run>) -> String {
    let mut text = match with.lost() {
        0 => String::from("\nno prompt was lost with the layers"),
        lost => format!("\n{lost} prompts were lost with the layers"),
    };
    if let Some(without) = without {
        text += &format!("; {} were without", without.lost());
    }
    text += ".";
    if !with.tally.losses.is_empty() {
        text += " Not answered, among others:";
    }
    for (prompt, words) in &with.tally.losses {
        text += &format!("\n  prompt {prompt}: {words}");
    }
    text
}

/// An error and what caused it, in one line.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = words + ": " + &cause_words;
        }
        next = cause.source();
    }
    words
}

/// What it all comes down to.
pub fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
