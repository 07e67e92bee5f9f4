//! How much of the traffic is retries, and what pays for them.

use super::super::command::{Action, CommandError, Done};
use super::super::pattern::Pattern;
use super::super::settings::{Setting, settings};
use super::super::table::{Cell, Column, Level, Losses, Row, Unit};
use super::super::words::{clipped, counted, grouped, percent};
use super::sealed::Look;
use crate::retry::{RetryConfig, RetryPolicy, RetrySnapshot};

const COLUMNS: &[Column] = &[
    Column::new("Calls/s", Unit::PerSecond, "Calls a second that ended.").drawn(),
    Column::new(
        "Retries",
        Unit::Ratio,
        "Retries for each call that ended in the last second.",
    )
    .drawn(),
    Column::new(
        "Budget",
        Unit::Count,
        "How many retries the budget would pay for now. With none left, calls fail at their first failure.",
    )
    .drawn(),
    Column::new(
        "Recovered",
        Unit::Count,
        "Calls that succeeded after at least one retry, since the start.",
    ),
    Column::new(
        "Gave up",
        Unit::Count,
        "Calls that failed although another attempt was wanted, and calls that a layer below refused, since the start.",
    ),
];

impl Look for RetryPolicy {
    const PATTERN: Pattern = Pattern::Retry;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn name(&self) -> &str {
        self.name()
    }

    fn row(&self) -> Row {
        row(&self.snapshot())
    }

    fn settings(&self) -> Vec<Setting> {
        settings(&*self.config(), &RetryConfig::default())
    }

    fn command(&self, action: &Action) -> Result<Done, CommandError> {
        match action {
            Action::Config { config } => {
                action.update(&*self.config(), config, |new| self.update(new))
            }
            _ => Err(action.does_not_fit(Self::PATTERN)),
        }
    }

    fn is_in_trouble(&self) -> bool {
        self.snapshot().budget_available == Some(0)
    }
}

fn row(seen: &RetrySnapshot) -> Row {
    let calls = seen.calls.max(1) as f64;
    let made = format!(
        "{} for {} ({})",
        counted(seen.retries, "retry", "retries"),
        counted(seen.calls, "call", "calls"),
        percent(seen.retries as f64 / calls)
    );
    let (level, state, text) = match seen.budget_available {
        Some(0) => (
            Level::Bad,
            "no budget",
            format!("has no budget left: calls are not tried again; it has made {made}"),
        ),
        Some(left) => (
            Level::Ok,
            "ready",
            format!(
                "has made {made}; the budget pays for {} more",
                grouped(left)
            ),
        ),
        None => (Level::Ok, "ready", format!("has made {made}")),
    };
    Row {
        name: clipped(&seen.name),
        level,
        state: state.into(),
        text,
        cells: vec![
            Cell::count(seen.calls),
            Cell::Counts([seen.retries, seen.calls]),
            seen.budget_available.map_or(Cell::Nothing, Cell::count),
            Cell::count(seen.recovered),
            Cell::count(seen.gave_up),
        ],
        losses: Some(Losses::new(
            seen.gave_up,
            "given up",
            "calls have been given up",
        )),
        trouble: seen.retries as f64 / calls,
        ..Row::default()
    }
}
