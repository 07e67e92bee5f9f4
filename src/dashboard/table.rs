//! What the page shows of one pattern: a table, the worst row first.

use serde::Serialize;

use super::pattern::Pattern;

/// How much somebody who is paged should care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// All is as it should be.
    #[default]
    Ok,
    /// Worth a look, and no problem yet.
    Note,
    /// Calls suffer, or something is not as it is meant to stay.
    Warn,
    /// Calls are refused, or wait for too long.
    Bad,
}

/// What the numbers of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    /// How many there are.
    Count,
    /// Seconds.
    Seconds,
    /// From 0 to 1.
    Share,
    /// A count since the beginning, shown as so many a second.
    PerSecond,
    /// Two counts since the beginning, shown as the share of the first in the second, of late.
    Ratio,
    /// So much of so much.
    Bars,
    /// Words.
    Text,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// What it means, for who has not read the documentation.
    pub(super) help: &'static str,
    pub(super) unit: Unit,
    /// Whether its last minutes are drawn.
    pub(super) spark: bool,
}

impl Column {
    pub(super) const fn new(title: &'static str, unit: Unit, help: &'static str) -> Self {
        Self {
            title,
            help,
            unit,
            spark: false,
        }
    }

    pub(super) const fn drawn(mut self) -> Self {
        self.spark = true;
        self
    }
}

/// One bar: so much of so much, in words too.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) of: f64,
    /// Whether a full bar is bad news. Otherwise an empty one is.
    pub(super) full_is_bad: bool,
}

/// What stands in one place of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Cell {
    Nothing,
    Number(f64),
    /// For [`Unit::Ratio`], until it is one number.
    Counts([u64; 2]),
    Text(String),
    Bars(Vec<Bar>),
}

impl Cell {
    pub(super) fn count(number: u64) -> Self {
        Self::Number(number as f64)
    }

    pub(super) fn seconds(duration: std::time::Duration) -> Self {
        Self::Number(duration.as_secs_f64())
    }

    /// A time of which there is none before there was a first.
    pub(super) fn seconds_if(known: bool, duration: std::time::Duration) -> Self {
        match known {
            true => Self::seconds(duration),
            false => Self::Nothing,
        }
    }
}

/// Calls that did not go well, counted since the beginning: that there were some of late is a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) total: u64,
    /// What became of them: `refused`, `timed out`.
    pub(super) verb: &'static str,
    /// The same of late: `calls have been refused`.
    pub(super) phrase: &'static str,
    /// By reason, if there are several: `12 waited too long, 3 found the queue full`.
    pub(super) reasons: String,
}

/// What comes next by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Next {
    /// `the next probe`.
    pub(super) what: String,
    /// How soon, if that is known.
    pub(super) in_seconds: Option<f64>,
}

/// One handle.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) level: Level,
    /// A word or two: `open`, `7 wait`.
    pub(super) state: String,
    /// A sentence without the name: what is the matter, since when, until when.
    pub(super) text: String,
    /// For how long it has been in this state, if it is one that begins and ends.
    pub(super) since_seconds: Option<f64>,
    pub(super) next: Option<Next>,
    /// What a config that is tried beside the one in force would have done otherwise.
    pub(super) trial: Option<String>,
    pub(super) cells: Vec<Cell>,
    #[serde(skip)]
    pub(super) losses: Option<Losses>,
    /// Among those of one level, which comes first.
    #[serde(skip)]
    pub(super) trouble: f64,
    /// Which of all handles it is.
    #[serde(skip)]
    pub(super) place: usize,
}

/// All handles of one pattern, or of one group of keys.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Table {
    /// Unlike any other of the page.
    pub(super) id: String,
    pub(super) pattern: Pattern,
    /// The group of keys, if it is one.
    pub(super) group: Option<String>,
    pub(super) title: String,
    /// What there is to say about all of it.
    pub(super) note: Option<String>,
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Row>,
    /// How many there are, with those that are not shown.
    pub(super) total: u64,
    /// How many of them are a problem.
    pub(super) problems: u64,
    /// What an operator may do with each.
    pub(super) commands: &'static [&'static str],
}

impl Losses {
    pub(super) fn new(total: u64, verb: &'static str, phrase: &'static str) -> Self {
        Self {
            total,
            verb,
            phrase,
            reasons: String::new(),
        }
    }

    pub(super) fn by_reason(&self) -> String {
        match &*self.reasons {
            "" => String::new(),
            reasons => format!(" ({reasons})"),
        }
    }
}

impl Next {
    pub(super) fn new(what: impl Into<String>, after: Option<std::time::Duration>) -> Self {
        Self {
            what: what.into(),
            in_seconds: after.map(|it| it.as_secs_f64()),
        }
    }
}

impl Table {
    /// The worst first, at most so many.
    pub(super) fn cut_to(&mut self, most: usize) {
        let worst_first = |a: &Row, b: &Row| {
            let level = b.level.cmp(&a.level);
            level.then(b.trouble.total_cmp(&a.trouble))
        };
        let problems = self.rows.iter().filter(|it| it.level >= Level::Warn);
        self.problems = self.problems.max(problems.count() as u64);
        self.rows.sort_by(worst_first);
        self.rows.truncate(most);
    }
}
