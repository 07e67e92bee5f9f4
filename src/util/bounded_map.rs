//! A map with a limit that forgets what is idle when room is needed. Sharded: threads that ask for different keys do not
//! wait for each other.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;

type Entries<K, V> = HashTable<(K, V)>;
type Shard<K, V> = CachePadded<Mutex<Entries<K, V>>>;

pub(crate) struct BoundedMap<K, V> {
    shards: Box<[Shard<K, V>]>,
    hasher: RandomState,
    most: usize,
    /// Entries, and places that are taken for entries that are being made.
    taken: AtomicUsize,
    /// Which shard is looked through next for what is idle.
    next: AtomicUsize,
    /// Whether the last search found nothing: then the next one looks through one shard, so that a map that is full does
    /// not cost each newcomer a look at everything.
    was_futile: AtomicBool,
}

/// There is no room, and nothing is idle.
#[derive(Debug)]
pub(crate) struct Full;

impl<K: Hash + Eq, V: Clone> BoundedMap<K, V> {
    /// A map of at most `most` entries.
    pub(crate) fn new(most: usize) -> Self {
        // A small map is in one piece, so that each search of it is complete.
        let shards = match most {
            0..1_024 => 1,
            _ => 64,
        };
        Self {
            shards: (0..shards).map(|_| CachePadded::default()).collect(),
            hasher: RandomState::new(),
            most,
            taken: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            was_futile: AtomicBool::new(false),
        }
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// With those that are being made.
    pub(crate) fn len(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Entries<K, V>> {
        // The table itself goes by the highest and the lowest bits.
        lock(&self.shards[(hash >> 32) as usize & (self.shards.len() - 1)])
    }

    /// What is known of a key.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash);
        let found = shard.find(hash, |(known, _)| known.borrow() == key);
        found.map(|(_, value)| value.clone())
    }

    /// What is known of a key that was not known a moment ago; made, if it still is not. `make` runs without a lock.
    pub(crate) fn get_or_make(
        &self,
        key: K,
        make: impl FnOnce(&K) -> V,
        is_idle: impl Fn(&V) -> bool,
    ) -> Result<V, Full> {
        let place = self.take_place(is_idle)?;
        let made = make(&key);
        let hash = self.hasher.hash_one(&key);
        let mut shard = self.shard(hash);
        if let Some((_, known)) = shard.find(hash, |(known, _)| *known == key) {
            let known = known.clone();
            // What was made for nothing, and the place, go when the lock is gone.
            drop(shard);
            return Ok(known);
        }
        let value = made.clone();
        let rehash = |(key, _): &(K, V)| self.hasher.hash_one(key);
        shard.insert_unique(hash, (key, made), rehash);
        place.keep();
        Ok(value)
    }

    /// A place, if there is one.
    fn take(&self) -> Option<Place<'_>> {
        let more = |taken: usize| (taken < self.most).then_some(taken + 1);
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Place(&self.taken))
    }

    fn take_place(&self, is_idle: impl Fn(&V) -> bool) -> Result<Place<'_>, Full> {
        if let Some(place) = self.take() {
            return Ok(place);
        }
        let shards = match self.was_futile.load(Ordering::Relaxed) {
            true => 1,
            false => self.shards.len(),
        };
        let place = (0..shards).find_map(|_| {
            let next = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
            self.forget_in(next, &is_idle, || self.take()).1
        });
        self.was_futile.store(place.is_none(), Ordering::Relaxed);
        place.ok_or(Full)
    }

    /// Forgets what is idle in a shard, and does something else before others can use the room.
    fn forget_in<T>(
        &self,
        shard: usize,
        is_idle: impl Fn(&V) -> bool,
        then: impl FnOnce() -> T,
    ) -> (usize, T) {
        let mut entries = lock(&self.shards[shard]);
        let idle = entries.extract_if(|(_, value)| is_idle(value));
        let forgotten: Vec<_> = idle.collect();
        self.taken.fetch_sub(forgotten.len(), Ordering::Relaxed);
        let then = then();
        // Keys and values are dropped where no lock is held.
        drop(entries);
        (forgotten.len(), then)
    }

    /// Forgets all entries that are idle; says how many that were.
    pub(crate) fn forget_idle(&self, is_idle: impl Fn(&V) -> bool) -> usize {
        let shards = 0..self.shards.len();
        shards
            .map(|shard| self.forget_in(shard, &is_idle, || ()).0)
            .sum()
    }

    /// How many shards there are: one, or as many as make sure that none of them is locked for long.
    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The keys of one shard, at one moment.
    pub(crate) fn keys_in(&self, shard: usize) -> Vec<K>
    where
        K: Clone,
    {
        lock(&self.shards[shard])
            .iter()
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// A place for an entry, until it is dropped or kept.
struct Place<'a>(&'a AtomicUsize);

impl Place<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<K, V>(shard: &Mutex<Entries<K, V>>) -> MutexGuard<'_, Entries<K, V>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    type Map = BoundedMap<u16, Arc<u16>>;

    fn is_idle(value: &Arc<u16>) -> bool {
        Arc::strong_count(value) == 1
    }

    fn get(map: &Map, key: u16) -> Result<Arc<u16>, Full> {
        match map.get(&key) {
            Some(known) => Ok(known),
            None => map.get_or_make(key, |key| Arc::new(*key), is_idle),
        }
    }

    proptest! {
        /// Against a plain map: what is held is never forgotten, and there is room unless everything is held.
        #[test]
        fn what_is_in_use_stays_and_the_limit_holds(
            most in 1..80_usize,
            steps in prop::collection::vec((any::<bool>(), 0..120_u16), 0..300),
        ) {
            let map = Map::new(most);
            let mut held: HashMap<u16, Arc<u16>> = HashMap::new();
            for (holds, key) in steps {
                if !holds {
                    held.remove(&key);
                    continue;
                }
                let known = held.get(&key).cloned();
                match get(&map, key) {
                    Ok(value) => {
                        prop_assert_eq!(*value, key);
                        if let Some(known) = known {
                            prop_assert!(Arc::ptr_eq(&value, &known), "forgotten while it was held");
                        }
                        held.insert(key, value);
                    }
                    Err(Full) => {
                        prop_assert!(known.is_none());
                        // A map in one piece is always looked through.
                        prop_assert!(held.len() >= most || map.shards.len() > 1);
                    }
                }
                prop_assert!(map.len() <= most);
            }
            drop(held);
            let all = map.len();
            prop_assert_eq!(map.forget_idle(is_idle), all);
            prop_assert_eq!(map.len(), 0);
            prop_assert_eq!(map.taken.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn whoever_makes_it_first_everybody_has_the_same() {
        let map = Map::new(4);
        let held = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..3).map(|key| get(&map, key).unwrap()).collect()))
                .collect();
            let held = threads.into_iter().map(|it| it.join().unwrap());
            held.collect::<Vec<Vec<Arc<u16>>>>()
        });
        for other in &held {
            for (one, other) in held[0].iter().zip(other) {
                assert!(Arc::ptr_eq(one, other));
            }
        }
        assert_eq!(map.len(), 3);
        assert_eq!(map.taken.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_place_comes_back_if_making_panics() {
        let map = Map::new(1);
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = map.get_or_make(1, |_| panic!("meant"), is_idle);
        }));
        assert!(made.is_err());
        assert_eq!(*get(&map, 2).unwrap(), 2);
    }

    #[test]
    fn a_full_map_is_not_searched_by_everybody_who_comes() {
        let map = Map::new(2_048);
        let held: Vec<_> = (0..2_048).map(|key| get(&map, key).unwrap()).collect();
        let looked = AtomicUsize::new(0);
        let newcomers = 3_000..3_064;
        for key in newcomers {
            let full = map.get_or_make(
                key,
                |key| Arc::new(*key),
                |value| {
                    looked.fetch_add(1, Ordering::Relaxed);
                    is_idle(value)
                },
            );
            assert!(full.is_err());
        }
        // All of it by the first, and a part by each of the others.
        assert!(looked.load(Ordering::Relaxed) <= 2 * 2_048);
        drop(held);
        assert!(get(&map, 9_999).is_ok(), "it was full, and is not any more");
    }
}
