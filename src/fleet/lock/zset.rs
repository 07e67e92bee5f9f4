//! A sorted set, as Redis has it: members by score, and by name where scores are equal.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(crate) struct ZSet<K> {
    scores: BTreeMap<K, i64>,
    order: BTreeSet<(i64, K)>,
}

impl<K> Default for ZSet<K> {
    fn default() -> Self {
        Self {
            scores: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<K: Clone + Ord> ZSet<K> {
    pub(crate) fn len(&self) -> usize {
        self.scores.len()
    }

    pub(crate) fn score(&self, member: &K) -> Option<i64> {
        self.scores.get(member).copied()
    }

    pub(crate) fn insert(&mut self, member: K, score: i64) {
        if let Some(before) = self.scores.insert(member.clone(), score) {
            self.order.remove(&(before, member.clone()));
        }
        self.order.insert((score, member));
    }

    pub(crate) fn remove(&mut self, member: &K) -> bool {
        let Some(score) = self.scores.remove(member) else {
            return false;
        };
        self.order.remove(&(score, member.clone()))
    }

    pub(crate) fn pop_first(&mut self) -> Option<K> {
        let (_, member) = self.order.pop_first()?;
        self.scores.remove(&member);
        Some(member)
    }

    /// Lowest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (i64, &K)> {
        self.order.iter().map(|(score, member)| (*score, member))
    }

    /// Of those above `score`, highest first.
    pub(crate) fn above(&self, score: i64) -> impl Iterator<Item = (i64, &K)> {
        self.iter().rev().take_while(move |(it, _)| *it > score)
    }

    pub(crate) fn rank(&self, member: &K) -> Option<usize> {
        let score = self.score(member)?;
        self.iter().position(|it| it == (score, member))
    }

    /// No score is above `limit` any more.
    pub(crate) fn cap(&mut self, limit: i64) {
        let above: Vec<K> = self.above(limit).map(|(_, it)| it.clone()).collect();
        for member in above {
            self.insert(member, limit);
        }
    }
}
