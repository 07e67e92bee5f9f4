//! From a registry to what the page shows: the worst first, in sentences.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::command::Action;
use super::graph::{Graph, graph};
use super::groups::Named;
use super::history::History;
use super::log::Said;
use super::pattern::Pattern;
use super::settings::Setting;
#[cfg(feature = "redis")]
use super::shown::fleet;
use super::shown::{Shown, in_deadlock, lock_row};
use super::table::{Column, Level, Next, Row, Table};
use super::words::{clipped, counted, humane};
use crate::contention::{ResourceLock, ResourceSnapshot};
#[cfg(feature = "redis")]
use crate::fleet::Fleet;
use crate::registry::Registry;
use crate::util::time::Tick;

/// So many problems are told; there is a number for the rest.
const PROBLEMS: usize = 20;

/// Everything that changes on the page, but the events.
#[derive(Debug, Serialize)]
pub(super) struct View<'a> {
    /// Another one after a restart.
    pub(super) epoch: &'a str,
    /// The number of this state.
    pub(super) sequence: u64,
    /// The number of the last sample of the curves.
    pub(super) sample: u64,
    /// Milliseconds since 1970.
    pub(super) at: u64,
    pub(super) title: &'a str,
    pub(super) up_seconds: f64,
    /// How soon the next state comes, about.
    pub(super) next_seconds: f64,
    /// Whether commands are taken at all.
    pub(super) commands: bool,
    /// Changes when a setting does.
    pub(super) settings_version: String,
    pub(super) headline: String,
    pub(super) level: Level,
    pub(super) problems: Vec<Problem>,
    pub(super) more_problems: u64,
    pub(super) tables: Vec<Table>,
    pub(super) graph: Graph,
    pub(super) said: Vec<Said>,
    /// Events that fell out of the registry's feed so far.
    pub(super) dropped_events: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub(super) level: Level,
    pub(super) pattern: Pattern,
    /// The table and the row it is about.
    pub(super) table: String,
    /// The group of keys that it is in, if it is in one.
    pub(super) group: Option<String>,
    pub(super) name: String,
    pub(super) state: String,
    /// What is the matter, by name.
    pub(super) sentence: String,
    pub(super) since_seconds: Option<f64>,
    /// What comes next by itself.
    pub(super) next: Option<Next>,
}

/// What a row goes by.
#[derive(Debug, Hash, Serialize)]
pub(super) struct RowSettings {
    pub(super) table: String,
    pub(super) row: String,
    pub(super) settings: Vec<Setting>,
}

/// What there is to see.
pub(super) struct Seen {
    pub(super) tables: Vec<Table>,
    pub(super) graph: Graph,
    /// Looked at with each sample.
    pub(super) settings: Option<Vec<RowSettings>>,
}

/// Looks at all of a registry and of the groups.
pub(super) struct Look<'a> {
    history: &'a mut History,
    /// How long after the last sample, if it is time for one.
    sampling: Option<Duration>,
    now: Tick,
    most: usize,
    seen: Seen,
}

impl<'a> Look<'a> {
    pub(super) fn begin(history: &'a mut History, now: Tick, most: usize) -> Self {
        let sampling = history.begin(now);
        Self {
            history,
            sampling,
            now,
            most,
            seen: Seen {
                tables: Vec::new(),
                graph: Graph::default(),
                settings: sampling.map(|_| Vec::new()),
            },
        }
    }

    pub(super) fn at(mut self, registry: &Registry, groups: &[Arc<Named>]) -> Seen {
        for pattern in Pattern::ALL {
            match pattern {
                Pattern::CircuitBreaker => self.table(&registry.circuit_breakers()),
                Pattern::ResourceLock => self.locks(&registry.resource_locks()),
                Pattern::RateLimit => self.table(&registry.rate_limits()),
                Pattern::Retry => self.table(&registry.retries()),
                Pattern::Hedge => self.table(&registry.hedges()),
                Pattern::Fallback => self.table(&registry.fallbacks()),
                Pattern::Throttle => self.table(&registry.throttles()),
                Pattern::Timeouts => self.table(&registry.timeouts()),
                Pattern::Chaos => self.table(&registry.chaos()),
                Pattern::Fleet => self.fleets(registry),
                // With their fleets.
                Pattern::FleetCircuitBreaker | Pattern::FleetLock | Pattern::FleetRateLimit => {}
            }
        }
        for (id, group) in groups.iter().enumerate() {
            let (table, settings) = group.table(id);
            self.add(table, |place| settings.get(place).cloned());
        }
        self.seen
    }

    fn table<T: Shown>(&mut self, handles: &[T]) {
        self.rows(handles, handles.iter().map(T::row).collect());
    }

    #[cfg(feature = "redis")]
    fn fleets(&mut self, registry: &Registry) {
        let fleets: Vec<_> = registry.fleets().iter().map(Fleet::snapshot).collect();
        let [connections, breakers, locks, limits] = fleet::rows(&fleets);
        self.plain(Pattern::Fleet, fleet::FLEET, connections);
        self.plain(Pattern::FleetCircuitBreaker, fleet::BREAKERS, breakers);
        self.plain(Pattern::FleetLock, fleet::LOCKS, locks);
        self.plain(Pattern::FleetRateLimit, fleet::LIMITS, limits);
    }

    #[cfg(not(feature = "redis"))]
    fn fleets(&mut self, _: &Registry) {}

    /// Rows without settings.
    #[cfg(feature = "redis")]
    fn plain(&mut self, pattern: Pattern, columns: &'static [Column], rows: Vec<Row>) {
        if rows.is_empty() {
            return;
        }
        let table = table(pattern, columns, rows);
        self.add(table, |_| None);
    }

    fn locks(&mut self, locks: &[ResourceLock]) {
        let seen: Vec<ResourceSnapshot> = locks.iter().map(ResourceLock::snapshot).collect();
        let graph = graph(&seen);
        let rows = seen.iter().zip(locks);
        let mut rows: Vec<_> = rows
            .map(|(seen, lock)| lock_row(seen, &lock.config()))
            .collect();
        for deadlock in &graph.deadlocks {
            for lock in &deadlock.locks {
                in_deadlock(&mut rows[*lock], &deadlock.text);
            }
        }
        self.seen.graph = graph;
        self.rows(locks, rows);
    }

    fn rows<T: Shown>(&mut self, handles: &[T], mut rows: Vec<Row>) {
        if handles.is_empty() {
            return;
        }
        for (place, row) in rows.iter_mut().enumerate() {
            row.place = place;
        }
        let table = table(T::PATTERN, T::COLUMNS, rows);
        self.add(table, |place| handles.get(place).map(T::settings));
    }

    fn add(&mut self, mut table: Table, settings: impl Fn(usize) -> Option<Vec<Setting>>) {
        let sampling = self.sampling;
        self.history
            .mark_losses(&mut table, sampling.is_some(), self.now);
        table.cut_to(self.most);
        self.history.mark_rates(&mut table, sampling);
        if let Some(all) = &mut self.seen.settings {
            let rows = table.rows.iter().filter_map(|row| {
                Some(RowSettings {
                    table: table.id.clone(),
                    row: row.name.clone(),
                    settings: settings(row.place)?,
                })
            });
            all.extend(rows.filter(|it| !it.settings.is_empty()));
        }
        self.seen.tables.push(table);
    }
}

fn table(pattern: Pattern, columns: &'static [Column], rows: Vec<Row>) -> Table {
    Table {
        id: pattern.id().into(),
        pattern,
        group: None,
        title: pattern.title().into(),
        note: None,
        columns,
        total: rows.len() as u64,
        rows,
        problems: 0,
        commands: Action::names_for(pattern),
    }
}

/// What is wrong, the worst first, and how much more there is than is told.
pub(super) fn problems(seen: &Seen) -> (Vec<Problem>, u64) {
    let deadlocks = seen.graph.deadlocks.iter().map(|it| Problem {
        level: Level::Bad,
        pattern: Pattern::ResourceLock,
        table: Pattern::ResourceLock.id().into(),
        group: None,
        name: it.between.clone(),
        state: "deadlock".into(),
        sentence: format!(
            "{}; for {}, and until one of them gives up or is cancelled.",
            it.text,
            humane(it.since)
        ),
        since_seconds: Some(it.since.as_secs_f64()),
        next: Some(Next::new("one of them gives up or is cancelled", None)),
    });
    let mut all: Vec<_> = deadlocks.collect();
    let mut known = 0;
    for table in &seen.tables {
        let rows = table.rows.iter().filter(|it| it.level >= Level::Warn);
        // A deadlock is told once, and not for each of its locks.
        let rows = rows.filter(|it| {
            known += 1;
            it.state != "deadlock"
        });
        all.extend(rows.map(|row| Problem {
            level: row.level,
            pattern: table.pattern,
            table: table.id.clone(),
            group: table.group.clone(),
            name: row.name.clone(),
            state: row.state.clone(),
            sentence: format!("{} {}.", row.name, row.text),
            since_seconds: row.since_seconds,
            next: row.next.clone(),
        }));
    }
    all.sort_by_key(|it| std::cmp::Reverse(it.level));
    let untold = all.len().saturating_sub(PROBLEMS) as u64;
    all.truncate(PROBLEMS);
    let troubled: u64 = seen.tables.iter().map(|it| it.problems).sum();
    (all, untold + troubled.saturating_sub(known))
}

/// All of it in one sentence.
pub(super) fn headline(problems: &[Problem], more: u64, tables: &[Table]) -> String {
    if problems.is_empty() {
        let handles: u64 = tables
            .iter()
            .filter(|it| it.group.is_none())
            .map(|it| it.total)
            .sum();
        let keys: u64 = tables
            .iter()
            .filter(|it| it.group.is_some())
            .map(|it| it.total)
            .sum();
        let mut all = counted(handles, "handle", "handles");
        if keys > 0 {
            all += &format!(" and {}", counted(keys, "key", "keys"));
        }
        return match handles + keys {
            0 => "Nothing is registered yet.".into(),
            _ => format!("All is well: {all}, none of them in trouble."),
        };
    }
    const NAMED: usize = 3;
    let count = problems.len() as u64 + more;
    let named = problems.iter().take(NAMED).map(|it| match &*it.state {
        "deadlock" => "a deadlock".to_owned(),
        state => match &it.group {
            Some(group) => format!("{} ({}, {state})", it.name, clipped(group)),
            None => format!("{} ({state})", it.name),
        },
    });
    let mut text =
        counted(count, "problem", "problems") + ": " + &named.collect::<Vec<_>>().join(", ");
    if count > NAMED as u64 {
        text += &format!(" and {} more", count - NAMED as u64);
    }
    text + "."
}
