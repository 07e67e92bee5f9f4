//! What all processes have said, and what must be true of it.

use std::collections::BTreeMap;

use tower_bulwark::rate_limit::Quota;

use super::crew::{Said, Word};
use super::{LATE, MAX};

/// A time in which a process believed that it has a lease.
#[derive(Clone, Debug)]
pub(super) struct Belief {
    pub(super) slot: u32,
    pub(super) token: u64,
    pub(super) from: u64,
    pub(super) to: u64,
}

pub(super) struct Ledger(pub(super) Vec<Said>);

impl Ledger {
    pub(super) fn beliefs(&self) -> Vec<Belief> {
        let mut all: BTreeMap<u64, (Belief, u64)> = BTreeMap::new();
        for said in &self.0 {
            match said.word {
                Word::Hold {
                    slot,
                    token,
                    at,
                    valid,
                } => {
                    let (belief, until) = all.entry(token).or_insert_with(|| {
                        let (from, to) = (at, at);
                        let new = Belief {
                            slot,
                            token,
                            from,
                            to,
                        };
                        (new, at)
                    });
                    assert_eq!(belief.slot, slot, "two leases with the token {token}");
                    // Killed later, it believed at least until now.
                    (belief.to, *until) = (at, at + valid);
                }
                // Stopped before this, it believed for as long as its lease was sure.
                Word::Drop { token, at } => {
                    if let Some((belief, until)) = all.get_mut(&token) {
                        belief.to = at.min(*until);
                    }
                }
                _ => {}
            }
        }
        let mut all: Vec<_> = all.into_values().map(|it| it.0).collect();
        all.sort_by_key(|it| it.from);
        all
    }

    /// How many believed at once that they have a lease, at most.
    pub(super) fn most_at_once(&self) -> usize {
        let mut changes = Vec::new();
        for it in self.beliefs() {
            changes.extend([(it.from, 1), (it.to, -1_isize)]);
        }
        // Ends first: what ends with the beginning of another was handed on.
        changes.sort_unstable();
        let mut count = 0;
        let counts = changes.iter().map(|it| {
            count += it.1;
            count
        });
        counts.max().unwrap_or(0).cast_unsigned()
    }

    /// Never more than there are at once, never two of one slot, and tokens rise.
    pub(super) fn leases_are_obeyed(&self, what: &str) {
        let most = self.most_at_once();
        assert!(most <= MAX, "{what}: {most} at once");
        let mut last: BTreeMap<u32, Belief> = BTreeMap::new();
        for it in self.beliefs() {
            if let Some(before) = last.insert(it.slot, it.clone()) {
                assert!(before.to <= it.from, "{what}: {before:?} and {it:?}");
            }
        }
        self.tokens_rise(what);
    }

    /// Of each slot, whatever the server has forgotten.
    pub(super) fn tokens_rise(&self, what: &str) {
        let mut last: BTreeMap<u32, Belief> = BTreeMap::new();
        for it in self.beliefs() {
            if let Some(before) = last.insert(it.slot, it.clone()) {
                assert!(before.token < it.token, "{what}: {before:?}, then {it:?}");
            }
        }
    }

    /// No call is late for its deadline, but for the time in which its whole process stood still.
    pub(super) fn calls_end_in_time(&self, what: &str) {
        for said in &self.0 {
            let Word::Late {
                what: call,
                from,
                to,
            } = &said.word
            else {
                continue;
            };
            let gaps = self.0.iter().filter_map(|it| match it.word {
                Word::Gap { from: a, to: b } if it.worker == said.worker => {
                    Some(b.min(*to).saturating_sub(a.max(*from)))
                }
                _ => None,
            });
            let late = (to - from).saturating_sub(gaps.sum());
            assert!(
                late <= LATE,
                "{what}: a call of {call} was late by {late} us"
            );
        }
    }

    /// When calls were asked for and when they were admitted.
    pub(super) fn passed(&self, name: &str, by_local: bool) -> Vec<(u64, u64)> {
        let passed = self.0.iter().filter_map(|it| match &it.word {
            Word::Pass {
                limit,
                is_local,
                asked,
                answered,
            } if limit == name && *is_local == by_local => Some((*asked, *answered)),
            _ => None,
        });
        passed.collect()
    }

    /// In no stretch of time does more pass than the burst, once and for each time that the store forgot, and what that time
    /// earns. Gives how many have passed.
    pub(super) fn quota_is_kept(&self, name: &str, quota: Quota, forgot: u64, what: &str) -> usize {
        let mut passed = self.passed(name, false);
        passed.sort_by_key(|it| it.1);
        let period = quota.period.as_micros() as u64;
        for begin in passed.iter().map(|it| it.0) {
            // What was both asked for and admitted in it was decided in it.
            let inside = passed.iter().filter(|it| it.0 >= begin);
            for (count, (_, end)) in (1..).zip(inside) {
                let earned = (end - begin) * quota.amount / period;
                let most = quota.burst * (1 + forgot) + earned + 1;
                assert!(
                    count <= most,
                    "{what}: {count} of {name} in {} us, {most} are allowed",
                    end - begin
                );
            }
        }
        passed.len()
    }

    /// While the store is away for it, a process takes no more than one of `processes` equal shares: its burst, and what the
    /// time earns.
    pub(super) fn shares_are_kept(&self, name: &str, quota: Quota, processes: u32, what: &str) {
        let processes = u64::from(processes);
        let mut passed: BTreeMap<usize, Vec<(u64, u64, bool)>> = BTreeMap::new();
        for said in &self.0 {
            if let Word::Pass {
                limit,
                is_local,
                asked,
                answered,
            } = &said.word
                && limit == name
            {
                let of_worker = passed.entry(said.worker).or_default();
                of_worker.push((*asked, *answered, *is_local));
            }
        }
        let period = quota.period.as_micros() as u64 * processes;
        for (worker, mut passed) in passed {
            passed.sort_unstable();
            for alone in passed.split(|it| !it.2) {
                for (n, (begin, ..)) in alone.iter().enumerate() {
                    for (count, (_, end, _)) in (1..).zip(&alone[n..]) {
                        let earned = (end - begin) * quota.amount / period;
                        let most = (quota.burst / processes).max(1) + earned + 1;
                        assert!(
                            count <= most,
                            "{what}: {worker} took {count} of {name} alone in {} us, {most} are allowed",
                            end - begin
                        );
                    }
                }
            }
        }
    }

    /// No process asks about its breaker more than ten times in any second.
    pub(super) fn breaker_commands(&self, what: &str) {
        let mut asked: BTreeMap<usize, Vec<(u64, u64, u64)>> = BTreeMap::new();
        for said in &self.0 {
            if let Word::Asked { commands, from, to } = said.word {
                let counts = asked.entry(said.worker).or_default();
                counts.push((commands, from, to));
            }
        }
        for (worker, counts) in asked {
            for (n, (before, began, _)) in counts.iter().enumerate() {
                for (after, _, ended) in &counts[n..] {
                    let seconds = (ended - began).div_ceil(1_000_000);
                    // What is counted was answered: one was sent before.
                    let most = 10 * seconds + 1;
                    let commands = after - before;
                    assert!(
                        commands <= most,
                        "{what}: {commands} commands of {worker} in {} us",
                        ended - began
                    );
                }
            }
        }
    }

    /// How many lines say that.
    pub(super) fn count(&self, is: impl Fn(&Word) -> bool) -> usize {
        self.0.iter().filter(|it| is(&it.word)).count()
    }
}
