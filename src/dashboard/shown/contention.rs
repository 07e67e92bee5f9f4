//! Who holds, who waits, and for how long.

use super::super::command::{Action, CommandError, Done};
use super::super::pattern::Pattern;
use super::super::settings::{Setting, settings};
use super::super::table::{Bar, Cell, Column, Level, Losses, Row, Unit};
use super::super::words::{clipped, counted, grouped, humane};
use super::sealed::Look;
use super::tried;
use crate::call::Holder;
use crate::contention::{
    ContentionConfig, ResourceLock, ResourceShadow, ResourceSnapshot, ResourceStats, WaiterInfo,
};

const COLUMNS: &[Column] = &[
    Column::new(
        "In use",
        Unit::Bars,
        "Permits that are held, of those that there are.",
    ),
    Column::new("Waiting", Unit::Count, "Callers that wait for a permit.").drawn(),
    Column::new(
        "Wait p50",
        Unit::Seconds,
        "Half of the waits that ended in the last 30 to 60 seconds took no longer.",
    )
    .drawn(),
    Column::new(
        "Wait p99",
        Unit::Seconds,
        "99 of 100 waits that ended in the last 30 to 60 seconds took no longer.",
    )
    .drawn(),
    Column::new(
        "Hold p50",
        Unit::Seconds,
        "Half of the permits that came back in the last 30 to 60 seconds were held no longer: what a call takes inside.",
    )
    .drawn(),
    Column::new(
        "Hold p99",
        Unit::Seconds,
        "99 of 100 permits that came back in the last 30 to 60 seconds were held no longer.",
    )
    .drawn(),
    Column::new(
        "Calls/s",
        Unit::PerSecond,
        "Callers a second that asked for a permit.",
    )
    .drawn(),
    Column::new(
        "Refused/s",
        Unit::PerSecond,
        "Callers a second that got no permit: they waited too long, the queue was full, or they did not want to wait.",
    )
    .drawn(),
];

impl Look for ResourceLock {
    const PATTERN: Pattern = Pattern::ResourceLock;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn name(&self) -> &str {
        self.name()
    }

    fn row(&self) -> Row {
        row(&self.snapshot(), &self.config())
    }

    fn settings(&self) -> Vec<Setting> {
        settings(&*self.config(), &ContentionConfig::default())
    }

    fn command(&self, action: &Action) -> Result<Done, CommandError> {
        match action {
            Action::Capacity { permits } => {
                let before = self.config().max_concurrent;
                self.set_max_concurrent(*permits)
                    .map_err(CommandError::nonsense)?;
                let of = |n| counted(n as u64, "permit", "permits");
                Ok(Done::between(of(before), of(*permits)))
            }
            Action::Reset => {
                self.reset_stats();
                Ok(Done::between(
                    "statistics since the start",
                    "statistics from now on",
                ))
            }
            Action::Config { config } => {
                action.update(&*self.config(), config, |new| self.update(new))
            }
            Action::ForceOpen
            | Action::ForceClose
            | Action::Disable
            | Action::MetricsOnly
            | Action::Arm { .. }
            | Action::Disarm => Err(action.does_not_fit(Self::PATTERN)),
        }
    }

    fn is_in_trouble(&self) -> bool {
        let threshold = self.config().contention_threshold;
        let seen = self.snapshot();
        seen.waiters.iter().any(|it| it.waiting_for >= threshold)
    }
}

/// What the page shows of a lock.
pub(in super::super) fn row(seen: &ResourceSnapshot, config: &ContentionConfig) -> Row {
    let stats = &seen.stats;
    let (level, state, text) = sentence(seen, config);
    let refused = stats.timeouts + stats.rejected + stats.deadlocks + stats.closed + stats.shed;
    let (in_use, capacity) = (seen.in_use as u64, seen.capacity as u64);
    let used = Bar {
        label: format!("{} of {}", grouped(in_use), grouped(capacity)),
        value: in_use.min(capacity) as f64,
        of: capacity as f64,
        full_is_bad: true,
    };
    let (wait, hold) = (&stats.recent_wait, &stats.recent_hold);
    Row {
        name: clipped(&seen.name),
        level,
        state,
        text,
        since_seconds: longest_wait(seen).map(|it| it.waiting_for.as_secs_f64()),
        trial: seen.shadow.as_ref().map(|it| trial(it, config)),
        cells: vec![
            Cell::Bars(vec![used]),
            Cell::count(seen.waiting as u64),
            Cell::seconds_if(wait.count > 0, wait.p50),
            Cell::seconds_if(wait.count > 0, wait.p99),
            Cell::seconds_if(hold.count > 0, hold.p50),
            Cell::seconds_if(hold.count > 0, hold.p99),
            Cell::count(stats.attempts),
            Cell::count(refused),
        ],
        losses: Some(Losses {
            reasons: reasons(stats),
            ..Losses::new(refused, "refused", "calls have been refused")
        }),
        trouble: seen.waiting as f64,
        ..Row::default()
    }
}

/// Why calls were refused, since the start.
fn reasons(stats: &ResourceStats) -> String {
    let full = stats.queue_full.min(stats.rejected);
    let reasons = [
        (stats.timeouts, "waited too long"),
        (full, "found the queue full"),
        (stats.rejected - full, "did not want to wait"),
        (stats.deadlocks, "in a deadlock"),
        (stats.shed, "shed from the queue"),
        (stats.closed, "found it closed"),
    ];
    let known = reasons.iter().filter(|it| it.0 > 0);
    let words = known.map(|(n, reason)| format!("{} {reason}", grouped(*n)));
    words.collect::<Vec<_>>().join(", ")
}

fn longest_wait(seen: &ResourceSnapshot) -> Option<&WaiterInfo> {
    seen.waiters.iter().max_by_key(|it| it.waiting_for)
}

/// What a tried config would have done otherwise.
fn trial(shadow: &ResourceShadow, config: &ContentionConfig) -> String {
    format!(
        "{}: of {} it would have refused {} that got a permit, made {} wait that did not, the longest for {}, and let {} pass that were refused",
        tried(config, &shadow.config),
        counted(shadow.calls, "call", "calls"),
        grouped(shadow.would_refuse),
        grouped(shadow.would_wait),
        humane(shadow.longest_wait),
        grouped(shadow.would_pass),
    )
}

/// A lock that is part of a deadlock: nobody comes or goes.
pub(in super::super) fn in_deadlock(row: &mut Row, cycle: &str) {
    row.level = Level::Bad;
    row.state = "deadlock".into();
    row.text = format!("is part of a deadlock: {cycle}");
}

type Words = (Level, String, String);

fn sentence(seen: &ResourceSnapshot, config: &ContentionConfig) -> Words {
    let held = held(seen);
    if seen.closed {
        let text = format!("is closed: nobody gets a permit any more; {held}");
        return (Level::Bad, "closed".into(), text);
    }
    let known = not_polled(seen, config)
        .or_else(|| waited_for(seen, config, &held))
        .or_else(|| long_hold(seen, config));
    known.unwrap_or_else(|| match seen.in_use {
        0 => (Level::Ok, "free".into(), "is free".into()),
        n if n >= seen.capacity => (Level::Note, "full".into(), format!("is full: {held}")),
        _ => (Level::Ok, "in use".into(), format!("is in use: {held}")),
    })
}

fn named(holder: &Holder) -> String {
    clipped(&holder.to_string())
}

/// `4 of 22 permits are held, the longest by prompt-3 for 4 s`.
fn held(seen: &ResourceSnapshot) -> String {
    let longest = seen.holders.first();
    let longest = longest.map(|it| format!("by {} for {}", named(&it.holder), humane(it.held_for)));
    if (seen.capacity, seen.in_use) == (1, 1) {
        let longest = longest.map_or_else(String::new, |it| format!(", {it}"));
        return format!("the only permit is held{longest}");
    }
    let (in_use, capacity) = (grouped(seen.in_use as u64), grouped(seen.capacity as u64));
    let longest = longest.map_or_else(String::new, |it| format!(", the longest {it}"));
    format!("{in_use} of {capacity} permits are held{longest}")
}

/// A permit was granted, and its future is not polled.
fn not_polled(seen: &ResourceSnapshot, config: &ContentionConfig) -> Option<Words> {
    let threshold = config.contention_threshold;
    let mut holders = seen.holders.iter();
    let it = holders.find(|it| !it.claimed && it.held_for >= threshold)?;
    let text = format!(
        "was granted to {} {} ago, which has not been polled since: everybody behind it waits",
        named(&it.holder),
        humane(it.held_for)
    );
    Some((Level::Bad, "not polled".into(), text))
}

fn waited_for(seen: &ResourceSnapshot, config: &ContentionConfig, held: &str) -> Option<Words> {
    let longest = longest_wait(seen)?;
    let (who, time) = (named(&longest.holder), humane(longest.waiting_for));
    let waits = match seen.waiting {
        0 | 1 => format!("{who} has waited for {time}"),
        n => format!(
            "{} wait, of which {who} has waited longest, for {time}",
            grouped(n as u64)
        ),
    };
    Some(match longest.waiting_for >= config.contention_threshold {
        true => {
            let timeout = config.timeout.map_or_else(String::new, |it| {
                format!("; the timeout of the lock is {}", humane(it))
            });
            let text = format!("is contended: {waits}; {held}{timeout}");
            (Level::Bad, "contended".into(), text)
        }
        false => (
            Level::Note,
            "busy".into(),
            format!("is busy: {waits}; {held}"),
        ),
    })
}

fn long_hold(seen: &ResourceSnapshot, config: &ContentionConfig) -> Option<Words> {
    let (longest, threshold) = seen.holders.first().zip(config.hold_threshold)?;
    let text = format!(
        "is held by {} for {}, longer than the {} from which on that is reported",
        named(&longest.holder),
        humane(longest.held_for),
        humane(threshold)
    );
    (longest.held_for >= threshold).then(|| (Level::Warn, "long hold".into(), text))
}
