//! Who waits for whom: small enough to be drawn, with everybody who can never go on.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::words::{clipped, grouped, humane};
use crate::call::Holder;
use crate::contention::ResourceSnapshot;

/// So many locks are drawn, those that most wait for first, and so many of each side of one.
const LOCKS: usize = 12;
const PER_SIDE: usize = 6;
/// So many deadlocks are told.
const DEADLOCKS: usize = 8;

/// What is drawn, and the same in words.
#[derive(Debug, Default, Serialize)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
    /// One for each lock that somebody waits for.
    pub(super) sentences: Vec<String>,
    pub(super) deadlocks: Vec<Deadlock>,
    /// Locks that somebody waits for, and that are not drawn.
    pub(super) more: usize,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Node {
    pub(super) label: String,
    pub(super) kind: Kind,
    /// Part of a deadlock.
    pub(super) stuck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Holder,
    Lock,
    /// Stands for several who are not drawn.
    More,
}

/// `from` waits for the lock `to`, or the lock `from` is held by `to`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) label: String,
    pub(super) waits: bool,
    pub(super) stuck: bool,
}

/// Waits that no release can end.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Deadlock {
    /// `a waits for x, held by b; b waits for y, held by a`.
    pub(super) text: String,
    /// The names of the locks in it.
    #[serde(skip)]
    pub(super) between: String,
    /// For how long: as long as the shortest of the waits.
    #[serde(skip)]
    pub(super) since: Duration,
    /// The locks in it.
    #[serde(skip)]
    pub(super) locks: Vec<usize>,
}

/// Which waits can never end, as far as the names of holders tell.
struct Stuck<'a> {
    locks: &'a [ResourceSnapshot],
    /// What each of them waits for.
    holders: HashMap<&'a Holder, usize>,
}

impl<'a> Stuck<'a> {
    /// A wait is stuck if every permit of its lock is held by somebody whose wait is stuck. Who waits twice, or has two
    /// permits of one lock, is several lines of work under one name, and proves nothing; nor does a lock whose holders are
    /// not all known.
    fn find(locks: &'a [ResourceSnapshot]) -> Self {
        let mut holders = HashMap::new();
        let mut twice = HashSet::new();
        for (at, lock) in locks.iter().enumerate() {
            for waiter in &lock.waiters {
                if holders.insert(&waiter.holder, at).is_some() {
                    twice.insert(&waiter.holder);
                }
            }
        }
        holders.retain(|it, _| !twice.contains(it));
        let mut stuck = Self { locks, holders };
        loop {
            let before = stuck.holders.len();
            let can_go_on: HashSet<usize> =
                (0..locks.len()).filter(|it| !stuck.is_stuck(*it)).collect();
            stuck.holders.retain(|_, lock| !can_go_on.contains(lock));
            if stuck.holders.len() == before {
                return stuck;
            }
        }
    }

    fn is_stuck(&self, lock: usize) -> bool {
        let lock = &self.locks[lock];
        let mut seen = HashSet::new();
        let known: usize = lock.holders.iter().map(|it| it.permits).sum();
        known >= lock.capacity
            && known >= lock.in_use
            && lock
                .holders
                .iter()
                .all(|it| self.holders.contains_key(&it.holder) && seen.insert(&it.holder))
    }

    /// The way round from a stuck holder; each once, whoever it is found from.
    fn cycles(&self) -> Vec<Vec<(&'a Holder, usize)>> {
        let mut found: BTreeMap<BTreeSet<usize>, Vec<(&Holder, usize)>> = BTreeMap::new();
        for start in self.holders.keys() {
            let mut way: Vec<(&Holder, usize)> = Vec::new();
            let mut at = *start;
            while let Some(lock) = self.holders.get(at) {
                if let Some(again) = way.iter().position(|it| it.0 == at) {
                    let cycle = way.split_off(again);
                    let key = cycle.iter().map(|it| it.1).collect();
                    found.entry(key).or_insert(cycle);
                    break;
                }
                way.push((at, *lock));
                match self.locks[*lock].holders.first() {
                    Some(next) => at = &next.holder,
                    None => break,
                }
            }
        }
        let mut cycles: Vec<_> = found.into_values().collect();
        // Told in the same order each time.
        for cycle in &mut cycles {
            let first = (0..cycle.len()).min_by_key(|it| cycle[*it].0.to_string());
            cycle.rotate_left(first.unwrap_or(0));
        }
        cycles.sort_by_key(|it| it.first().map(|it| it.0.to_string()));
        cycles
    }
}

/// What there is to draw.
pub(super) fn graph(locks: &[ResourceSnapshot]) -> Graph {
    let stuck = Stuck::find(locks);
    let cycles = stuck.cycles();
    let in_cycle: HashSet<&Holder> = cycles.iter().flatten().map(|it| it.0).collect();
    let stuck_locks: HashSet<usize> = cycles.iter().flatten().map(|it| it.1).collect();
    let mut waited_for: Vec<usize> = (0..locks.len())
        .filter(|it| locks[*it].waiting > 0)
        .collect();
    waited_for.sort_by_key(|it| {
        (
            !stuck_locks.contains(it),
            std::cmp::Reverse(locks[*it].waiting),
        )
    });
    let more = waited_for.len().saturating_sub(LOCKS);
    waited_for.truncate(LOCKS);
    let mut drawing = Drawing {
        graph: Graph::default(),
        nodes: HashMap::new(),
        in_cycle: &in_cycle,
    };
    for at in waited_for {
        drawing.lock(&locks[at], stuck_locks.contains(&at));
    }
    let deadlocks = cycles.iter().take(DEADLOCKS).map(|cycle| Deadlock {
        text: told(cycle, locks),
        between: {
            let names = cycle.iter().map(|it| clipped(&locks[it.1].name));
            names.collect::<Vec<_>>().join(", ")
        },
        since: {
            let waits = cycle.iter().flat_map(|(holder, lock)| {
                let waiters = locks[*lock].waiters.iter();
                waiters.filter(move |it| it.holder == **holder)
            });
            waits.map(|it| it.waiting_for).min().unwrap_or_default()
        },
        locks: cycle.iter().map(|it| it.1).collect(),
    });
    Graph {
        deadlocks: deadlocks.collect(),
        more,
        ..drawing.graph
    }
}

fn told(cycle: &[(&Holder, usize)], locks: &[ResourceSnapshot]) -> String {
    let steps = cycle.iter().enumerate().map(|(at, (holder, lock))| {
        let next = cycle[(at + 1) % cycle.len()].0;
        format!(
            "{} waits for {}, held by {}",
            clipped(&holder.to_string()),
            clipped(&locks[*lock].name),
            clipped(&next.to_string())
        )
    });
    steps.collect::<Vec<_>>().join("; ")
}

struct Drawing<'a> {
    graph: Graph,
    nodes: HashMap<&'a Holder, usize>,
    in_cycle: &'a HashSet<&'a Holder>,
}

impl<'a> Drawing<'a> {
    fn node(&mut self, label: &str, kind: Kind, stuck: bool) -> usize {
        let label = clipped(label);
        self.graph.nodes.push(Node { label, kind, stuck });
        self.graph.nodes.len() - 1
    }

    fn holder(&mut self, holder: &'a Holder) -> usize {
        if let Some(known) = self.nodes.get(holder) {
            return *known;
        }
        let stuck = self.in_cycle.contains(holder);
        let at = self.node(&holder.to_string(), Kind::Holder, stuck);
        self.nodes.insert(holder, at);
        at
    }

    fn lock(&mut self, seen: &'a ResourceSnapshot, stuck: bool) {
        let lock = self.node(&seen.name, Kind::Lock, stuck);
        let waiters = seen
            .waiters
            .iter()
            .map(|it| (&it.holder, it.waiting_for))
            .collect();
        let holders = seen
            .holders
            .iter()
            .map(|it| (&it.holder, it.held_for))
            .collect();
        let holding = seen.holders.iter().map(|it| it.permits).sum::<usize>();
        let unnamed = seen.in_use.saturating_sub(holding) + seen.holders.len();
        let waiting = self.side(waiters, seen.waiting, lock, true);
        let held = self.side(holders, unnamed, lock, false);
        let name = clipped(&seen.name);
        self.graph
            .sentences
            .push(format!("{name}: {waiting} wait for it; held by {held}"));
    }

    /// Those who wait, or who hold: the longest, and whoever is part of a deadlock.
    fn side(
        &mut self,
        mut all: Vec<(&'a Holder, Duration)>,
        total: usize,
        lock: usize,
        waits: bool,
    ) -> String {
        all.sort_by_key(|(holder, time)| {
            (!self.in_cycle.contains(holder), std::cmp::Reverse(*time))
        });
        all.truncate(PER_SIDE);
        let mut words = Vec::new();
        for (holder, time) in &all {
            let at = self.holder(holder);
            let stuck = self.graph.nodes[lock].stuck && self.in_cycle.contains(holder);
            let label = humane(*time);
            words.push(format!("{} ({label})", clipped(&holder.to_string())));
            self.edge(at, lock, label, waits, stuck);
        }
        let more = total.saturating_sub(all.len());
        if more > 0 {
            let label = format!("{} more", grouped(more as u64));
            let at = self.node(&label, Kind::More, false);
            self.edge(at, lock, String::new(), waits, false);
            words.push(label);
        }
        match words.is_empty() {
            true => "nobody that is known".into(),
            false => words.join(", "),
        }
    }

    fn edge(&mut self, who: usize, lock: usize, label: String, waits: bool, stuck: bool) {
        let (from, to) = if waits { (who, lock) } else { (lock, who) };
        self.graph.edges.push(Edge {
            from,
            to,
            label,
            waits,
            stuck,
        });
    }
}
