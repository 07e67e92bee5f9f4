//! What all services of one layer share: the layers of each key.

use std::hash::Hash;
use std::sync::{Arc, OnceLock};

use super::idle::Idle;
use crate::util::bounded_map::BoundedMap;

pub(super) struct Shared<K, L, F, G> {
    map: BoundedMap<K, Arc<L>>,
    /// Of keys for which there is no room.
    others: OnceLock<Arc<L>>,
    pub(super) key: F,
    make: G,
}

impl<K: Hash + Eq, L: Idle, F, G: Fn(&K) -> L> Shared<K, L, F, G> {
    pub(super) fn new(most: usize, key: F, make: G) -> Self {
        Self {
            map: BoundedMap::new(most.max(1)),
            others: OnceLock::new(),
            key,
            make,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// The layers of a key: kept as long as whoever has asked keeps them.
    pub(super) fn layers(&self, key: &K) -> Arc<L>
    where
        K: Clone,
    {
        if let Some(known) = self.map.get(key) {
            return known;
        }
        let is_idle = |layers: &Arc<L>| Arc::strong_count(layers) == 1 && layers.is_idle();
        let make = |key: &K| Arc::new((self.make)(key));
        match self.map.get_or_make(key.clone(), make, is_idle) {
            Ok(layers) => layers,
            Err(_) => Arc::clone(self.others.get_or_init(|| Arc::new((self.make)(key)))),
        }
    }
}
