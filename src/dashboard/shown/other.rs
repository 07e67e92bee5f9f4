//! Throttles, timeouts, hedges, fallbacks and drills.

use std::time::Duration;

use super::super::command::{Action, CommandError, Done};
use super::super::pattern::Pattern;
use super::super::settings::{Setting, settings};
use super::super::table::{Cell, Column, Level, Losses, Row, Unit};
use super::super::words::{clipped, counted, grouped, humane, percent};
use super::sealed::Look;
use crate::chaos::{Chaos, ChaosConfig};
use crate::fallback::Fallback;
use crate::hedge::{Hedge, HedgeConfig};
use crate::throttle::{Throttle, ThrottleConfig};
use crate::timeout::{TimeoutConfig, Timeouts, TimeoutsSnapshot};

impl Look for Throttle {
    const PATTERN: Pattern = Pattern::Throttle;
    const COLUMNS: &'static [Column] = &[
        Column::new(
            "Refuses",
            Unit::Share,
            "The probability with which a call is refused now.",
        )
        .drawn(),
        Column::new(
            "Accepted",
            Unit::Text,
            "Calls in the window that the service accepted, of all that were made.",
        ),
        Column::new(
            "Refused/s",
            Unit::PerSecond,
            "Calls a second that were refused.",
        )
        .drawn(),
    ];

    fn name(&self) -> &str {
        self.name()
    }

    fn row(&self) -> Row {
        let seen = self.snapshot();
        let (accepts, requests) = (grouped(seen.accepts), grouped(seen.requests));
        let share = percent(seen.probability);
        let (level, state, text) = match seen.probability > 0.0 {
            true => (
                Level::Bad,
                "throttles".to_owned(),
                format!(
                    "refuses {share} of the calls: the service has accepted {accepts} of the last {requests}"
                ),
            ),
            false => (
                Level::Ok,
                "idle".into(),
                format!(
                    "refuses nothing: the service has accepted {accepts} of the last {requests}"
                ),
            ),
        };
        Row {
            name: clipped(&seen.name),
            level,
            state,
            text,
            cells: vec![
                Cell::Number(seen.probability),
                Cell::Text(format!("{accepts} of {requests}")),
                Cell::count(seen.totals.refused),
            ],
            losses: Some(Losses::new(
                seen.totals.refused,
                "refused",
                "calls have been refused",
            )),
            trouble: seen.probability,
            ..Row::default()
        }
    }

    fn settings(&self) -> Vec<Setting> {
        settings(&*self.config(), &ThrottleConfig::default())
    }

    fn command(&self, action: &Action) -> Result<Done, CommandError> {
        match action {
            Action::Reset => {
                let before = self.snapshot().probability;
                self.reset();
                let refuses = |it| format!("refuses {}", percent(it));
                Ok(Done::between(
                    refuses(before),
                    refuses(self.snapshot().probability),
                ))
            }
            Action::Config { config } => {
                action.update(&*self.config(), config, |new| self.update(new))
            }
            _ => Err(action.does_not_fit(Self::PATTERN)),
        }
    }

    fn is_in_trouble(&self) -> bool {
        self.snapshot().probability > 0.0
    }
}

impl Look for Timeouts {
    const PATTERN: Pattern = Pattern::Timeouts;
    const COLUMNS: &'static [Column] = &[
        Column::new("Calls/s", Unit::PerSecond, "Calls a second that began.").drawn(),
        Column::new(
            "Timed out",
            Unit::Ratio,
            "The share of the calls of the last second that took too long.",
        )
        .drawn(),
        Column::new(
            "Call p50",
            Unit::Seconds,
            "Half of the calls that ended in the last 30 to 60 seconds took no longer. Known of calls with a `total`.",
        )
        .drawn(),
        Column::new(
            "Call p99",
            Unit::Seconds,
            "99 of 100 calls that ended in the last 30 to 60 seconds took no longer. Known of calls with a `total`.",
        )
        .drawn(),
        Column::new(
            "By phase",
            Unit::Text,
            "What took too long, since the start.",
        ),
    ];

    fn name(&self) -> &str {
        self.name()
    }

    fn row(&self) -> Row {
        let seen = self.snapshot();
        let all = seen.timed_out.sum();
        let phases = phases(&seen);
        let times = &seen.recent_calls;
        let calls = counted(seen.calls, "call", "calls");
        Row {
            name: clipped(&seen.name),
            level: Level::Ok,
            state: "in use".into(),
            text: format!(
                "has timed out {} of {calls}{}",
                grouped(all),
                match &*phases {
                    "" => String::new(),
                    phases => format!(": {phases}"),
                }
            ),
            cells: vec![
                Cell::count(seen.calls),
                Cell::Counts([all, seen.calls]),
                Cell::seconds_if(times.count > 0, times.p50),
                Cell::seconds_if(times.count > 0, times.p99),
                Cell::Text(phases),
            ],
            losses: Some(Losses::new(all, "timed out", "calls have timed out")),
            trouble: all as f64 / seen.calls.max(1) as f64,
            ..Row::default()
        }
    }

    fn settings(&self) -> Vec<Setting> {
        settings(&*self.config(), &TimeoutConfig::default())
    }

    fn command(&self, action: &Action) -> Result<Done, CommandError> {
        match action {
            Action::Config { config } => {
                action.update(&*self.config(), config, |new| self.update(new))
            }
            _ => Err(action.does_not_fit(Self::PATTERN)),
        }
    }
}

/// `12 head, 3 total`.
fn phases(seen: &TimeoutsSnapshot) -> String {
    let it = &seen.timed_out;
    let all = [
        (it.ready, "ready"),
        (it.head, "head"),
        (it.first_frame, "first frame"),
        (it.idle, "idle"),
        (it.total, "total"),
        (it.deadline, "deadline"),
    ];
    let some = all.into_iter().filter(|it| it.0 > 0);
    let words = some.map(|(n, phase)| format!("{} {phase}", grouped(n)));
    words.collect::<Vec<_>>().join(", ")
}

impl Look for Hedge {
    const PATTERN: Pattern = Pattern::Hedge;
    const COLUMNS: &'static [Column] = &[
        Column::new("Calls/s", Unit::PerSecond, "Calls a second that began.").drawn(),
        Column::new(
            "Hedged",
            Unit::Ratio,
            "The share of the calls of the last second that were made once more beside the first attempt.",
        )
        .drawn(),
        Column::new("Won", Unit::Count, "Hedges whose answer was the caller's, since the start."),
        Column::new(
            "Delay",
            Unit::Seconds,
            "How long a call may be at the service before a hedge starts.",
        )
        .drawn(),
        Column::new(
            "Call p50",
            Unit::Seconds,
            "Half of the calls of the last 30 to 60 seconds took no longer. Known if the delay is a percentile.",
        )
        .drawn(),
        Column::new(
            "Call p99",
            Unit::Seconds,
            "99 of 100 calls of the last 30 to 60 seconds took no longer. Known if the delay is a percentile.",
        )
        .drawn(),
        Column::new("Budget", Unit::Count, "How many hedges the budget would pay for now."),
    ];

    fn name(&self) -> &str {
        self.name()
    }

    fn row(&self) -> Row {
        let seen = self.snapshot();
        let latency = &seen.recent_latency;
        let known = latency.count > 0;
        let (level, state) = match seen.budget_available {
            Some(0) => (Level::Warn, "no budget"),
            _ => (Level::Ok, "in use"),
        };
        let share = percent(seen.hedged as f64 / seen.calls.max(1) as f64);
        let delay = seen
            .delay
            .map(|it| format!("; the next starts after {}", humane(it)));
        Row {
            name: clipped(&seen.name),
            level,
            state: state.into(),
            text: format!(
                "has hedged {share} of {}, and {} won{}{}",
                counted(seen.calls, "call", "calls"),
                grouped(seen.won),
                delay.unwrap_or_default(),
                if level == Level::Warn {
                    "; the budget is empty: nothing is hedged"
                } else {
                    ""
                },
            ),
            cells: vec![
                Cell::count(seen.calls),
                Cell::Counts([seen.hedged, seen.calls]),
                Cell::count(seen.won),
                seen.delay.map_or(Cell::Nothing, Cell::seconds),
                Cell::seconds_if(known, latency.p50),
                Cell::seconds_if(known, latency.p99),
                seen.budget_available.map_or(Cell::Nothing, Cell::count),
            ],
            trouble: seen.hedged as f64 / seen.calls.max(1) as f64,
            ..Row::default()
        }
    }

    fn settings(&self) -> Vec<Setting> {
        settings(&*self.config(), &HedgeConfig::default())
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

impl Look for Fallback {
    const PATTERN: Pattern = Pattern::Fallback;
    const COLUMNS: &'static [Column] = &[
        Column::new(
            "Fell back/s",
            Unit::PerSecond,
            "Calls a second that the service itself did not answer.",
        )
        .drawn(),
        Column::new("Fell back", Unit::Count, "The same, since the start."),
        Column::new(
            "All failed",
            Unit::Count,
            "Calls that no target answered, since the start.",
        ),
    ];

    fn name(&self) -> &str {
        self.name()
    }

    fn row(&self) -> Row {
        let seen = self.snapshot();
        Row {
            name: clipped(&seen.name),
            level: Level::Ok,
            state: "in use".into(),
            text: format!(
                "has fallen back for {}; nobody answered {}",
                counted(seen.fell_back, "call", "calls"),
                counted(seen.all_failed, "call", "calls"),
            ),
            cells: vec![
                Cell::count(seen.fell_back),
                Cell::count(seen.fell_back),
                Cell::count(seen.all_failed),
            ],
            losses: Some(Losses::new(
                seen.all_failed,
                "answered by nobody",
                "nobody has answered calls",
            )),
            trouble: seen.all_failed as f64,
            ..Row::default()
        }
    }

    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }

    fn command(&self, action: &Action) -> Result<Done, CommandError> {
        Err(action.does_not_fit(Self::PATTERN))
    }
}

impl Look for Chaos {
    const PATTERN: Pattern = Pattern::Chaos;
    const COLUMNS: &'static [Column] = &[
        Column::new("Faults/s", Unit::PerSecond, "Faults on purpose, a second.").drawn(),
        Column::new("Faults", Unit::Count, "Since the start."),
        Column::new("Calls", Unit::Count, "Calls that began while it was armed."),
    ];

    fn name(&self) -> &str {
        self.name()
    }

    fn row(&self) -> Row {
        let seen = self.snapshot();
        let faults = seen.injected.sum();
        let met = format!(
            "{} have met {}",
            counted(seen.calls, "call", "calls"),
            counted(faults, "fault", "faults")
        );
        let (level, state, text) = match seen.armed {
            true => (
                Level::Warn,
                "armed",
                format!("is armed: calls fail on purpose; {met}"),
            ),
            false => (Level::Ok, "off", format!("is off; {met}")),
        };
        Row {
            name: clipped(&seen.name),
            level,
            state: state.into(),
            text,
            cells: vec![
                Cell::count(faults),
                Cell::count(faults),
                Cell::count(seen.calls),
            ],
            trouble: faults as f64,
            ..Row::default()
        }
    }

    fn settings(&self) -> Vec<Setting> {
        settings(&*self.config(), &ChaosConfig::default())
    }

    fn command(&self, action: &Action) -> Result<Done, CommandError> {
        let armed = |it| if it { "armed" } else { "off" };
        let before = armed(self.is_armed());
        match action {
            Action::Arm { seconds } => {
                if !(1..=3_600).contains(seconds) {
                    let why =
                        "a drill lasts from 1 to 3600 seconds: arm it again if it should go on";
                    return Err(CommandError::nonsense(why));
                }
                self.arm_for(Duration::from_secs(*seconds));
            }
            Action::Disarm => self.disarm(),
            Action::Config { config } => {
                return action.update(&*self.config(), config, |new| self.update(new));
            }
            _ => return Err(action.does_not_fit(Self::PATTERN)),
        }
        Ok(Done::between(before, armed(self.is_armed())))
    }

    fn is_in_trouble(&self) -> bool {
        self.is_armed()
    }
}
