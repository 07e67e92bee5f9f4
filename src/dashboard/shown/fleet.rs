//! Fleets, and what they share. Nothing of it takes commands: each is an operator's word for one process only.

use std::collections::BTreeSet;

use super::super::table::{Bar, Cell, Column, Level, Losses, Next, Row, Unit};
use super::super::words::{clipped, counted, grouped, humane};
use crate::fleet::breaker::SharedBreakerSnapshot;
use crate::fleet::lock::FleetLockSnapshot;
use crate::fleet::rate_limit::FleetRateLimitSnapshot;
use crate::fleet::{FleetSnapshot, Health};

/// So many holders are named.
const NAMED: usize = 6;

pub(in super::super) const FLEET: &[Column] = &[
    Column::new(
        "Processes",
        Unit::Count,
        "Processes of the namespace, as this one has last heard.",
    ),
    Column::new("Server", Unit::Text, "What the shared store is."),
    Column::new(
        "Connections",
        Unit::Count,
        "Connections for commands that were made since the start. One, if none ever ended.",
    ),
    Column::new(
        "Missed",
        Unit::Count,
        "How often messages of other processes may have been missed. What they said is asked for.",
    ),
];

pub(in super::super) const BREAKERS: &[Column] = &[
    Column::new(
        "Fleet",
        Unit::Text,
        "Whether all are open, by the last answer of the store.",
    ),
    Column::new(
        "Answer",
        Unit::Seconds,
        "How long the last answer of the store took. No call waits for it.",
    )
    .drawn(),
    Column::new(
        "Asked/s",
        Unit::PerSecond,
        "How often a second this process asks the store, at most ten times.",
    )
    .drawn(),
    Column::new(
        "Probes",
        Unit::Count,
        "How often this process was the one to probe.",
    ),
];

pub(in super::super) const LOCKS: &[Column] = &[
    Column::new(
        "In use",
        Unit::Bars,
        "Permits that are held in the whole fleet, as last heard, of all that there are.",
    ),
    Column::new(
        "Held here",
        Unit::Count,
        "Permits that this process holds.",
    )
    .drawn(),
    Column::new(
        "Waiting here",
        Unit::Count,
        "Calls of this process that wait.",
    )
    .drawn(),
    Column::new(
        "Wait p99",
        Unit::Seconds,
        "99 of 100 waits of this process that ended in the last 30 to 60 seconds were no longer.",
    )
    .drawn(),
    Column::new(
        "Hold p99",
        Unit::Seconds,
        "99 of 100 permits of this process given back in the last 30 to 60 seconds were held no longer.",
    )
    .drawn(),
    Column::new(
        "Lost",
        Unit::Count,
        "Leases that were lost in the hands of their holders.",
    ),
];

pub(in super::super) const LIMITS: &[Column] = &[
    Column::new(
        "Processes",
        Unit::Count,
        "Processes that use the limit, as far as is known.",
    ),
    Column::new(
        "Left",
        Unit::Text,
        "What was left of each quota in the whole fleet, by the last answer of the store.",
    ),
    Column::new(
        "Passed/s",
        Unit::PerSecond,
        "Calls of this process a second that passed.",
    )
    .drawn(),
    Column::new(
        "Refused/s",
        Unit::PerSecond,
        "Calls of this process a second that were refused.",
    )
    .drawn(),
    Column::new(
        "Asked/s",
        Unit::PerSecond,
        "How often a second this process asks the store.",
    )
    .drawn(),
];

/// The rows of the four tables: fleets, breakers, locks, rate limits.
pub(in super::super) fn rows(fleets: &[FleetSnapshot]) -> [Vec<Row>; 4] {
    let mut rows: [Vec<Row>; 4] = Default::default();
    for fleet in fleets {
        rows[0].push(connection(fleet));
        rows[1].extend(fleet.circuit_breakers.iter().map(breaker));
        rows[2].extend(fleet.locks.iter().map(lock));
        rows[3].extend(fleet.rate_limits.iter().map(rate_limit));
    }
    rows.iter_mut().for_each(|rows| tell_apart(rows));
    rows
}

/// Two handles may have one name.
fn tell_apart(rows: &mut [Row]) {
    let mut names = BTreeSet::new();
    for row in rows {
        let name = row.name.clone();
        for number in 2.. {
            if names.insert(row.name.clone()) {
                break;
            }
            row.name = format!("{name} ({number})");
        }
    }
}

fn connection(fleet: &FleetSnapshot) -> Row {
    let health = &fleet.health;
    let (level, state, text) = sentence(health, &fleet.node);
    Row {
        name: clipped(&fleet.namespace),
        level,
        state,
        text,
        since_seconds: Some(health.since.as_secs_f64()),
        next: (!health.connected).then(|| Next::new("it goes on connecting", None)),
        cells: vec![
            Cell::count(fleet.nodes.count),
            match &health.server {
                Some(server) => Cell::Text(clipped(server)),
                None => Cell::Nothing,
            },
            Cell::count(health.connections),
            Cell::count(health.gaps),
        ],
        ..Row::default()
    }
}

fn sentence(health: &Health, node: &str) -> (Level, String, String) {
    let (since, node) = (humane(health.since), clipped(node));
    if !health.connected {
        let why = health.why.as_ref().map(ToString::to_string);
        let why = clipped(&why.unwrap_or_default());
        let text = format!("has had no connection to the shared store for {since}: {why}");
        return (Level::Bad, "disconnected".into(), text);
    }
    if !health.inbox_connected {
        let text = format!(
            "is connected, and hears no messages of other processes: their news take as long as the next question; this process is {node}"
        );
        return (Level::Warn, "no messages".into(), text);
    }
    let text = format!("has been connected for {since}; this process is {node}");
    (Level::Ok, "connected".into(), text)
}

fn breaker(seen: &SharedBreakerSnapshot) -> Row {
    let (level, state, text) = match (seen.away_for, seen.fleet_is_open) {
        (Some(away), _) => {
            let away = humane(away);
            let text =
                format!("has decided alone for {away}, because the shared store does not answer");
            (Level::Warn, "alone", text)
        }
        (None, true) => (
            Level::Note,
            "open",
            "is open in the whole fleet; one process probes for all".to_owned(),
        ),
        (None, false) => (
            Level::Ok,
            "shared",
            "is shared; the fleet is closed".to_owned(),
        ),
    };
    let fleet = if seen.fleet_is_open { "open" } else { "closed" };
    Row {
        name: clipped(&seen.name),
        level,
        state: state.into(),
        text,
        since_seconds: seen.away_for.map(|it| it.as_secs_f64()),
        cells: vec![
            Cell::Text(fleet.into()),
            Cell::seconds_if(seen.answered_before.is_some(), seen.lag),
            Cell::count(seen.commands),
            Cell::count(seen.probes),
        ],
        ..Row::default()
    }
}

fn lock(seen: &FleetLockSnapshot) -> Row {
    let stats = &seen.stats;
    let (level, state, text) = lock_sentence(seen);
    let in_use = seen.held.max(seen.held_here);
    let of = grouped(seen.capacity as u64);
    let refused = stats.rejected + stats.timeouts + seen.unavailable;
    let (wait, hold) = (&stats.recent_wait, &stats.recent_hold);
    Row {
        name: clipped(&seen.name),
        level,
        state,
        text,
        since_seconds: seen.away_for.map(|it| it.as_secs_f64()),
        cells: vec![
            Cell::Bars(vec![Bar {
                label: format!("{} of {of}", grouped(in_use as u64)),
                value: in_use.min(seen.capacity) as f64,
                of: seen.capacity as f64,
                full_is_bad: true,
            }]),
            Cell::count(seen.held_here as u64),
            Cell::count(seen.waiting_here as u64),
            Cell::seconds_if(wait.count > 0, wait.p99),
            Cell::seconds_if(hold.count > 0, hold.p99),
            Cell::count(seen.lost),
        ],
        losses: Some(Losses::new(refused, "refused", "calls have been refused")),
        trouble: seen.waiting.max(seen.waiting_here) as f64,
        ..Row::default()
    }
}

fn lock_sentence(seen: &FleetLockSnapshot) -> (Level, String, String) {
    if let Some(away) = seen.away_for {
        let (away, why) = (humane(away), seen.why_away.clone().unwrap_or_default());
        let why = clipped(&why);
        return match seen.local_permits {
            None => (
                Level::Bad,
                "store away".into(),
                format!("has admitted nobody for {away}: {why}"),
            ),
            Some(n) => (
                Level::Warn,
                "alone".into(),
                format!(
                    "has given {} of this process alone for {away}: {why}",
                    counted(n as u64, "permit", "permits")
                ),
            ),
        };
    }
    let holders = seen.holders.iter().take(NAMED);
    let holders = holders.map(|it| {
        let (holder, node) = (clipped(&it.holder), clipped(&it.node));
        format!("{holder} on {node} ({})", humane(it.held_for))
    });
    let mut holders = holders.collect::<Vec<_>>().join(", ");
    let more = seen.held.saturating_sub(NAMED);
    if more > 0 {
        holders += &format!(" and {}", counted(more as u64, "other", "others"));
    }
    if holders.is_empty() {
        holders = match seen.held_here {
            0 => "nobody, as far as is known".to_owned(),
            n => format!("{} of this process", counted(n as u64, "call", "calls")),
        };
    }
    let waiting = seen.waiting.max(seen.waiting_here);
    if waiting == 0 {
        return (Level::Ok, "free".into(), format!("is held by {holders}"));
    }
    let first = seen.waiters.first();
    let first = first.map_or_else(String::new, |it| {
        format!(
            ", the first is {} on {} ({})",
            clipped(&it.holder),
            clipped(&it.node),
            humane(it.waiting_for)
        )
    });
    let waiting = counted(waiting as u64, "waits", "wait");
    let text = format!("is held by {holders}; {waiting}{first}");
    (Level::Note, waiting, text)
}

fn rate_limit(seen: &FleetRateLimitSnapshot) -> Row {
    let totals = &seen.totals;
    let nodes = counted(seen.nodes, "process", "processes");
    let (level, state, text) = match seen.degraded_for {
        Some(away) => (
            Level::Warn,
            "alone",
            format!(
                "has gone by its share, one of {nodes}, for {}, because the shared store does not answer",
                humane(away)
            ),
        ),
        None => (Level::Ok, "shared", format!("is shared by {nodes}")),
    };
    let left: Vec<_> = seen.left.iter().map(|it| grouped(*it)).collect();
    Row {
        name: clipped(&seen.name),
        level,
        state: state.into(),
        text,
        since_seconds: seen.degraded_for.map(|it| it.as_secs_f64()),
        cells: vec![
            Cell::count(seen.nodes),
            Cell::Text(left.join(", ")),
            Cell::count(totals.passed + totals.waited),
            Cell::count(totals.refused),
            Cell::count(totals.asked),
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
