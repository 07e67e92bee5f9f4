//! What has happened so far, in all processes, and what is known of the lock.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tower_bulwark::fleet::lock::FleetLockSnapshot;

use crate::told::{Told, What};

/// A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Story(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    told: Vec<Told>,
    lock: Option<FleetLockSnapshot>,
    looks: Looks,
}

/// What was seen of the lock, each time that it was looked at.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    pub count: u64,
    /// The most permits that were held at once, and the most that waited.
    pub most_held: usize,
    pub most_waiting: usize,
    /// The most processes that held permits at once.
    pub most_nodes: usize,
}

impl Story {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, told: Told) {
        self.state().told.push(told);
    }

    pub fn saw(&self, lock: FleetLockSnapshot) {
        let mut nodes: Vec<_> = lock.holders.iter().map(|it| &it.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let mut state = self.state();
        let looks = &mut state.looks;
        looks.count += 1;
        looks.most_held = looks.most_held.max(lock.holders.len());
        looks.most_waiting = looks.most_waiting.max(lock.waiting);
        looks.most_nodes = looks.most_nodes.max(nodes.len());
        state.lock = Some(lock);
    }

    pub fn lock(&self) -> Option<FleetLockSnapshot> {
        self.state().lock.clone()
    }

    pub fn looks(&self) -> Looks {
        self.state().looks.clone()
    }

    /// What was told at `from` or later, the first that `picks`.
    pub fn first<T>(&self, from: u64, picks: impl Fn(&Told) -> Option<T>) -> Option<T> {
        let state = self.state();
        let mut later = state.told.iter().filter(|it| it.at >= from);
        later.find_map(picks)
    }

    /// The most jobs that had a permit at once, by what they say themselves: the store is not asked.
    pub fn most_at_once(&self) -> usize {
        let state = self.state();
        let mut told: Vec<_> = state.told.iter().collect();
        told.sort_by_key(|it| it.at);
        let (mut have, mut most) = (BTreeSet::new(), 0);
        for it in told {
            match &it.what {
                What::Took { job, .. } => have.insert((&it.worker, job)),
                What::Gave { job } | What::Lost { job, .. } => have.remove(&(&it.worker, job)),
                What::Killed => {
                    have.retain(|(worker, _)| *worker != &it.worker);
                    true
                }
                What::Ready { .. } | What::Breaker { .. } => continue,
            };
            most = most.max(have.len());
        }
        most
    }

    /// The node of a worker, if it has begun.
    pub fn node(&self, worker: &str) -> Option<String> {
        self.first(0, |told| match &told.what {
            What::Ready { node } if told.worker == worker => Some(node.clone()),
            _ => None,
        })
    }

    /// When the breaker of a worker first came to this state, and why.
    pub fn came_to(&self, worker: &str, wanted: &str, from: u64) -> Option<(u64, String)> {
        self.first(from, |told| match &told.what {
            What::Breaker { state, why } if told.worker == worker && state == wanted => {
                Some((told.at, why.clone()))
            }
            _ => None,
        })
    }

    /// How a worker is: the state of its breaker, and why it came to it.
    pub fn breaker(&self, worker: &str) -> (String, String) {
        let state = self.state();
        let mut last = state.told.iter().rev().filter(|it| it.worker == worker);
        let last = last.find_map(|told| match &told.what {
            What::Breaker { state, why } => Some((state.clone(), why.clone())),
            What::Killed => Some(("gone".to_owned(), "killed".to_owned())),
            _ => None,
        });
        last.unwrap_or_else(|| ("closed".to_owned(), String::new()))
    }
}
