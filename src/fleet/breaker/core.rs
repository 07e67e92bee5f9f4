//! What the store decides of a breaker: pure. Time is an argument, in microseconds.
//!
//! The Lua script beside this does the same; a test compares both, step by step.

use std::collections::BTreeMap;

/// The window is counted in so many slices.
pub(crate) const SLICES: u64 = 10;
/// A node that was heard of so far in the future was heard of before the clock stepped back.
pub(crate) const STEP_BACK: u64 = 1_000_000;

/// For how long a server keeps what nobody asks for.
#[allow(dead_code, reason = "the test that compares has no use for it")]
const DAY: u64 = 86_400_000_000;

/// When a fleet opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The length of a slice.
    pub(crate) slice: u64,
    pub(crate) minimum_calls: u64,
    /// Failures of a thousand calls.
    pub(crate) permille: u64,
    pub(crate) min_nodes: u64,
    /// For how long it opens if no process has opened by itself.
    pub(crate) open_for: u64,
}

/// What a process has counted since it last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The last epoch that it has heard of.
    pub(crate) seen: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// It has opened by itself, for so long; 0 if it has not.
    pub(crate) opened: u64,
}

/// What all processes go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) is_open: bool,
    /// Grows with each change.
    pub(crate) epoch: u64,
    /// How long it stays open.
    pub(crate) remaining: u64,
}

/// Whether a process may probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leased {
    pub(crate) is_mine: bool,
    /// If not: when it is worth asking again.
    pub(crate) wait: u64,
    pub(crate) news: News,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    is_open: bool,
    epoch: u64,
    until: u64,
    /// How long it was opened for.
    length: u64,
    probe: Option<Probe>,
    slices: [Slice; SLICES as usize],
    /// When each was last heard to have failed, and to have opened by itself.
    failing: BTreeMap<String, u64>,
    opened: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
struct Probe {
    node: String,
    until: u64,
    length: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    number: u64,
    ok: u64,
    failed: u64,
}

impl Breaker {
    #[allow(dead_code, reason = "the test that compares has no use for it")]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Open, and not for so long that a server would have forgotten it.
    #[allow(dead_code, reason = "the test that compares has no use for it")]
    pub(crate) fn is_kept_open(&self, now: u64) -> bool {
        self.is_open && now < self.until + DAY
    }

    fn read(&mut self, now: u64) {
        // A clock that steps back makes nothing longer.
        self.until = self.until.min(now + self.length);
        if let Some(probe) = &mut self.probe {
            probe.until = probe.until.min(now + probe.length);
        }
    }

    /// The store has forgotten: an epoch never goes back. That it is open is news also for those who know a later one.
    fn remember(&mut self, seen: u64) {
        if seen > self.epoch {
            self.epoch = seen + u64::from(self.is_open);
        }
    }

    fn news(&self, now: u64) -> News {
        News {
            is_open: self.is_open,
            epoch: self.epoch,
            remaining: match self.is_open {
                true => self.until.saturating_sub(now),
                false => 0,
            },
        }
    }

    /// A process reports. What it counted in another epoch says nothing about this one.
    pub(crate) fn report(&mut self, now: u64, node: &str, rules: Rules, report: Report) -> News {
        self.read(now);
        self.remember(report.seen);
        if !self.is_open && report.seen == self.epoch {
            self.count(now, node, rules, report);
            if let Some(length) = self.opens(now, rules, report) {
                self.open(now, length);
            }
        }
        self.news(now)
    }

    fn count(&mut self, now: u64, node: &str, rules: Rules, report: Report) {
        let number = now / rules.slice;
        let slice = &mut self.slices[(number % SLICES) as usize];
        if report.ok + report.failed > 0 {
            if slice.number != number {
                *slice = Slice {
                    number,
                    ..Slice::default()
                };
            }
            slice.ok += report.ok;
            slice.failed += report.failed;
        }
        if report.failed > 0 {
            self.failing.insert(node.to_owned(), now);
        }
        if report.opened > 0 {
            self.opened.insert(node.to_owned(), now);
        }
        let is_recent =
            |_: &String, at: &mut u64| *at + rules.slice * SLICES > now && *at <= now + STEP_BACK;
        self.failing.retain(is_recent);
        self.opened.retain(is_recent);
    }

    fn opens(&self, now: u64, rules: Rules, report: Report) -> Option<u64> {
        if report.opened > 0 && self.opened.len() as u64 >= rules.min_nodes {
            return Some(report.opened);
        }
        let current = now / rules.slice;
        let recent = self
            .slices
            .iter()
            .filter(|it| it.number + SLICES > current && it.number <= current);
        let (mut calls, mut failed) = (0, 0);
        for slice in recent {
            calls += slice.ok + slice.failed;
            failed += slice.failed;
        }
        let is_bad = report.failed > 0
            && calls >= rules.minimum_calls
            && failed * 1_000 >= rules.permille * calls;
        (is_bad && self.failing.len() as u64 >= rules.min_nodes).then_some(rules.open_for)
    }

    fn open(&mut self, now: u64, length: u64) {
        *self = Self {
            is_open: true,
            epoch: self.epoch + 1,
            until: now + length,
            length,
            ..Self::default()
        };
    }

    /// A process wants to probe, for `length`, or goes on.
    pub(crate) fn lease(&mut self, now: u64, node: &str, seen: u64, length: u64) -> Leased {
        self.read(now);
        self.remember(seen);
        let other = self
            .probe
            .as_ref()
            .filter(|it| it.node != node && now < it.until);
        let busy = other.map_or(0, |it| it.until - now);
        let is_mine = self.is_open && now >= self.until && busy == 0;
        if is_mine {
            self.probe = Some(Probe {
                node: node.to_owned(),
                until: now + length,
                length,
            });
        }
        let news = self.news(now);
        Leased {
            is_mine,
            wait: if is_mine { 0 } else { news.remaining.max(busy) },
            news,
        }
    }

    /// How the probe of a process ended: well, or it opened for `length`.
    pub(crate) fn probed(&mut self, now: u64, node: &str, seen: u64, failed_for: u64) -> News {
        self.read(now);
        self.remember(seen);
        let is_its = self.probe.as_ref().is_some_and(|it| it.node == node);
        if self.is_open && seen == self.epoch && is_its {
            match failed_for {
                0 => {
                    *self = Self {
                        epoch: self.epoch + 1,
                        ..Self::default()
                    }
                }
                length => self.open(now, length),
            }
        }
        self.news(now)
    }
}
