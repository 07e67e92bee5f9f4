//! What is left of each quota, who waits, and what the service asked for.

use super::super::command::{Action, CommandError, Done};
use super::super::pattern::Pattern;
use super::super::settings::{Setting, settings};
use super::super::table::{Bar, Cell, Column, Level, Losses, Next, Row, Unit};
use super::super::words::{clipped, counted, grouped, humane};
use super::sealed::Look;
use super::tried;
use crate::rate_limit::{
    QuotaSnapshot, RateLimit, RateLimitConfig, RateLimitShadow, RateLimitSnapshot,
};

const COLUMNS: &[Column] = &[
    Column::new(
        "Quotas",
        Unit::Bars,
        "What is there now of each quota, of what may be used at once. An empty bar refuses, or makes wait.",
    ),
    Column::new("Waiting", Unit::Count, "Calls that wait for their turn.").drawn(),
    Column::new(
        "Wait p50",
        Unit::Seconds,
        "Half of those who had to wait, and went on, waited no longer.",
    )
    .drawn(),
    Column::new(
        "Wait p99",
        Unit::Seconds,
        "99 of 100 of those who had to wait, and went on, waited no longer.",
    )
    .drawn(),
    Column::new("Passed/s", Unit::PerSecond, "Calls a second that passed.").drawn(),
    Column::new(
        "Refused/s",
        Unit::PerSecond,
        "Calls a second that were refused.",
    )
    .drawn(),
];

impl Look for RateLimit {
    const PATTERN: Pattern = Pattern::RateLimit;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn name(&self) -> &str {
        self.name()
    }

    fn row(&self) -> Row {
        row(&self.snapshot(), &self.config())
    }

    fn settings(&self) -> Vec<Setting> {
        settings(&*self.config(), &RateLimitConfig::default())
    }

    fn command(&self, action: &Action) -> Result<Done, CommandError> {
        match action {
            Action::Reset => {
                let before = self.snapshot().quotas;
                self.reset();
                Ok(Done::between(left(&before), left(&self.snapshot().quotas)))
            }
            Action::Config { config } => {
                action.update(&*self.config(), config, |new| self.update(new))
            }
            Action::ForceOpen
            | Action::ForceClose
            | Action::Disable
            | Action::MetricsOnly
            | Action::Capacity { .. }
            | Action::Arm { .. }
            | Action::Disarm => Err(action.does_not_fit(Self::PATTERN)),
        }
    }

    fn is_in_trouble(&self) -> bool {
        self.snapshot().paused_for.is_some()
    }
}

/// `requests 3 of 10, tokens 0 of 500`.
fn left(quotas: &[QuotaSnapshot]) -> String {
    let words = |it: &QuotaSnapshot| {
        let owed = match it.owed {
            0 => String::new(),
            owed => format!(" ({} owed)", grouped(owed)),
        };
        let (name, left, of) = (clipped(&it.name), grouped(it.available), grouped(it.burst));
        format!("{name} {left} of {of}{owed}")
    };
    quotas.iter().map(words).collect::<Vec<_>>().join(", ")
}

fn row(seen: &RateLimitSnapshot, config: &RateLimitConfig) -> Row {
    let bar = |it: &QuotaSnapshot| Bar {
        label: left(std::slice::from_ref(it)),
        value: it.available.min(it.burst) as f64,
        of: it.burst as f64,
        full_is_bad: false,
    };
    let (level, state, text) = sentence(seen);
    let totals = &seen.totals;
    Row {
        name: clipped(&seen.name),
        level,
        state,
        text,
        next: seen
            .paused_for
            .map(|left| Next::new("it goes on", Some(left))),
        trial: seen.shadow.as_ref().map(|it| trial(it, config)),
        cells: vec![
            Cell::Bars(seen.quotas.iter().map(bar).collect()),
            Cell::count(seen.waiting as u64),
            Cell::seconds_if(seen.wait.count > 0, seen.wait.p50),
            Cell::seconds_if(seen.wait.count > 0, seen.wait.p99),
            Cell::count(totals.passed + totals.waited),
            Cell::count(totals.refused),
        ],
        losses: Some(Losses::new(
            totals.refused,
            "refused",
            "calls have been refused",
        )),
        trouble: seen.waiting as f64,
        ..Row::default()
    }
}

fn sentence(seen: &RateLimitSnapshot) -> (Level, String, String) {
    let left = left(&seen.quotas);
    let waiting = counted(seen.waiting as u64, "call waits", "calls wait");
    if let Some(pause) = seen.paused_for {
        let pause = humane(pause);
        let text = format!(
            "is paused because the service asked for it, and goes on in {pause}: nobody passes until then; {waiting}; left: {left}"
        );
        return (Level::Bad, "paused".into(), text);
    }
    if seen.waiting > 0 {
        let text = format!("makes calls wait: {waiting} for their turn; left: {left}");
        return (Level::Note, "busy".into(), text);
    }
    let empty = seen.quotas.iter().find(|it| it.available == 0);
    match empty {
        Some(it) => {
            let text = format!("has nothing left of {}; left: {left}", clipped(&it.name));
            (Level::Note, "used up".into(), text)
        }
        None => (Level::Ok, "free".into(), format!("has quota left: {left}")),
    }
}

/// What a tried config would have done otherwise.
fn trial(shadow: &RateLimitShadow, config: &RateLimitConfig) -> String {
    format!(
        "{}: of {} it would have refused {} that passed, made {} wait that did not, and let {} pass that were refused",
        tried(config, &shadow.config),
        counted(shadow.calls, "call", "calls"),
        grouped(shadow.would_refuse),
        grouped(shadow.would_wait),
        grouped(shadow.would_pass),
    )
}
