//! What the numbers were in the last minutes, and how fast counts grow. In bounded memory, and only while somebody reads.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::table::{Cell, Level, Losses, Row, Table, Unit};
use super::words::{counted, grouped, humane};
use crate::util::time::Tick;

/// One sample a second, for two minutes.
const STEP: Duration = Duration::from_secs(1);
const SAMPLES: usize = 120;
/// After so long without a reader the curves begin anew: a gap would look like a flat line.
const GAP: Duration = Duration::from_secs(10);
/// So many samples say whether there were losses of late.
const OF_LATE: usize = 10;
/// When losses of so many handles are remembered, those of others are not.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct History {
    sampled: Option<Tick>,
    /// How many samples there were.
    number: u64,
    losses: HashMap<String, HashMap<String, Loss>>,
    curves: HashMap<String, HashMap<String, Vec<Curve>>>,
}

/// Calls of one handle that did not go well.
#[derive(Debug)]
struct Loss {
    total: u64,
    /// New ones, by sample.
    recent: VecDeque<u64>,
    since: Option<Tick>,
    seen: u64,
}

/// One column of one row.
#[derive(Debug, Default)]
struct Curve {
    counts: Option<[f64; 2]>,
    /// What is shown until the next sample.
    value: Option<f64>,
    drawn: bool,
    points: VecDeque<Option<f32>>,
}

/// The points of one row, by column; `None` for columns that are not drawn. A curve needs no more than seven digits.
type Points = Vec<Option<Vec<Option<f32>>>>;

/// All points of a row, and where it is.
#[derive(Debug, Serialize)]
pub(super) struct RowHistory {
    table: String,
    row: String,
    points: Points,
}

impl History {
    /// The number of the last sample.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether it is time for a sample; it is taken by the two that follow.
    pub(super) fn begin(&mut self, now: Tick) -> Option<Duration> {
        let passed = self.sampled.map(|it| now.since(it));
        match passed {
            Some(passed) if passed < STEP => return None,
            Some(passed) if passed < GAP => {}
            _ => {
                self.losses.clear();
                self.curves.clear();
            }
        }
        self.sampled = Some(now);
        self.number += 1;
        Some(passed.unwrap_or_default())
    }

    /// Raises the level of each row that has lost calls of late, and says so. Of all rows, before they are cut.
    pub(super) fn mark_losses(&mut self, table: &mut Table, sampling: bool, now: Tick) {
        let known = self.losses.entry(table.id.clone()).or_default();
        let room = known.len() < MOST;
        for row in &mut table.rows {
            let Some(losses) = row.losses.take() else {
                continue;
            };
            match known.get_mut(&row.name) {
                Some(loss) if sampling => loss.sample(losses.total, self.number, now),
                Some(_) => {}
                None if sampling && room => {
                    let loss = Loss {
                        total: losses.total,
                        recent: VecDeque::new(),
                        since: None,
                        seen: self.number,
                    };
                    known.insert(row.name.clone(), loss);
                }
                None => {}
            }
            let loss = known.get(&row.name);
            if !loss.is_some_and(|loss| loss.mark(row, &losses, now))
                && row.level >= Level::Warn
                && losses.total > 0
            {
                let calls = counted(losses.total, "call", "calls");
                row.text += &format!("; {calls} {} so far{}", losses.verb, losses.by_reason());
            }
        }
        if sampling {
            known.retain(|_, loss| loss.seen == self.number);
        }
    }

    /// Turns counts into rates, and keeps what is drawn. Of the rows that are shown.
    pub(super) fn mark_rates(&mut self, table: &mut Table, sampling: Option<Duration>) {
        let known = self.curves.entry(table.id.clone()).or_default();
        let mut kept = HashMap::with_capacity(table.rows.len());
        for row in &mut table.rows {
            let mut curves = known.remove(&row.name).unwrap_or_default();
            curves.resize_with(table.columns.len(), Curve::default);
            for ((cell, column), curve) in row.cells.iter_mut().zip(table.columns).zip(&mut curves)
            {
                curve.drawn = column.spark;
                if let Some(passed) = sampling {
                    curve.sample(cell, column.unit, passed);
                }
                if matches!(column.unit, Unit::PerSecond | Unit::Ratio) {
                    *cell = curve.value.map_or(Cell::Nothing, Cell::Number);
                }
            }
            kept.insert(row.name.clone(), curves);
        }
        match sampling {
            Some(_) => *known = kept,
            // What is not among the rows for a moment may be back in the next.
            None => known.extend(kept),
        }
    }

    /// Everything that is drawn.
    pub(super) fn points(&self) -> Vec<RowHistory> {
        let mut all = Vec::new();
        for (table, rows) in &self.curves {
            for (row, curves) in rows {
                let points = curves.iter();
                let points = points.map(|it| it.drawn.then(|| it.points.iter().copied().collect()));
                all.push(RowHistory {
                    table: table.clone(),
                    row: row.clone(),
                    points: points.collect(),
                });
            }
        }
        all
    }
}

impl Loss {
    fn sample(&mut self, total: u64, number: u64, now: Tick) {
        let new = total.saturating_sub(self.total);
        self.total = total;
        self.seen = number;
        if self.recent.len() == OF_LATE {
            self.recent.pop_front();
        }
        self.recent.push_back(new);
        if new > 0 {
            self.since.get_or_insert(now);
        } else if self.recent.iter().all(|it| *it == 0) {
            self.since = None;
        }
    }

    /// Whether there is anything to say of late.
    fn mark(&self, row: &mut Row, losses: &Losses, now: Tick) -> bool {
        let lost: u64 = self.recent.iter().sum();
        let Some(since) = self.since.filter(|_| lost > 0) else {
            return false;
        };
        row.text += &format!(
            "; {} for {}: {} in the last {}, {} so far{}",
            losses.phrase,
            humane(now.since(since)),
            grouped(lost),
            humane(STEP * self.recent.len() as u32),
            grouped(losses.total),
            losses.by_reason(),
        );
        if row.level < Level::Warn {
            row.level = Level::Warn;
            row.state = losses.verb.into();
            row.since_seconds = Some(now.since(since).as_secs_f64());
        }
        row.trouble += lost as f64;
        true
    }
}

impl Curve {
    fn sample(&mut self, cell: &Cell, unit: Unit, passed: Duration) {
        self.value = match (cell, unit) {
            (Cell::Number(count), Unit::PerSecond) => {
                let before = self.counts.replace([*count, 0.0]);
                let seconds = passed.as_secs_f64();
                // A count that begins anew after a reset says nothing.
                before
                    .map(|[before, _]| (count - before) / seconds)
                    .filter(|it| it.is_finite() && *it >= 0.0)
            }
            (Cell::Counts([part, of]), Unit::Ratio) => {
                let counts = [*part as f64, *of as f64];
                let before = self.counts.replace(counts);
                before
                    .map(|before| (counts[0] - before[0], counts[1] - before[1]))
                    .filter(|(part, of)| *part >= 0.0 && *of > 0.0)
                    .map(|(part, of)| part / of)
            }
            (Cell::Number(number), _) => Some(*number),
            _ => None,
        };
        if self.drawn {
            if self.points.len() == SAMPLES {
                self.points.pop_front();
            }
            self.points.push_back(self.value.map(|it| it as f32));
        }
    }
}
