//! Handles by key.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use super::idle::Instance;
use super::worst::Worst;
use crate::circuit_breaker::{CircuitBreaker, Group};
use crate::error::{ConfigError, TooManyKeys};
use crate::util::bounded_map::{BoundedMap, Full};

/// A handle for each key, made when the key is first asked for: `Keyed<String, CircuitBreaker>` for hosts, say.
///
/// Two who ask for the same key always get the same handle, as long as either has it or it has something to remember. A
/// cheap clone of shared state.
///
/// ```
/// use tower_bulwark::CircuitBreaker;
/// use tower_bulwark::keyed::Keyed;
///
/// let hosts = Keyed::new("hosts", 1_000, |host: &String| CircuitBreaker::new(format!("api {host}")))?;
/// hosts.get("a.example")?.trip();
/// hosts.get("b.example")?;
/// // What is wrong comes first.
/// let worst = &hosts.snapshot(10)[0];
/// assert_eq!(worst.0, "a.example");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A known key is found without an allocation. Keep a handle no longer than it is needed: as long as it is kept its key is
/// not forgotten.
pub struct Keyed<K, T> {
    shared: Arc<Shared<K, T>>,
}

struct Shared<K, T> {
    name: Arc<str>,
    map: BoundedMap<K, T>,
    make: Box<dyn Fn(&K) -> T + Send + Sync>,
    /// Done with each handle that is made, if anything.
    joins: OnceLock<Join<T>>,
}

type Join<T> = Box<dyn Fn(&T) + Send + Sync>;

impl<K: Hash + Eq + Clone, T: Instance> Keyed<K, T> {
    /// At most `most` keys, whose handles `make` makes. The name is for errors.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for no keys at all.
    pub fn new(
        name: impl Into<Arc<str>>,
        most: usize,
        make: impl Fn(&K) -> T + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        if most == 0 {
            let advice = "there could be no instance: give the number of keys that are in use at once, at least";
            return Err(ConfigError::new("most", most, advice));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.into(),
                map: BoundedMap::new(most),
                make: Box::new(make),
                joins: OnceLock::new(),
            }),
        })
    }

    /// The handle of a key.
    ///
    /// # Errors
    ///
    /// [`TooManyKeys`] if the key is new, the map is full, and nothing in it may be forgotten. A large map that was found
    /// full by the one before is looked through in parts, a part by each newcomer.
    pub fn get<Q>(&self, key: &Q) -> Result<T, TooManyKeys>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let shared = &*self.shared;
        if let Some(known) = shared.map.get(key) {
            return Ok(known);
        }
        let make = |key: &K| {
            let handle = (shared.make)(key);
            if let Some(join) = shared.joins.get() {
                join(&handle);
            }
            handle
        };
        let made = shared.map.get_or_make(key.to_owned(), make, Self::may_go);
        made.map_err(|Full| TooManyKeys {
            name: Arc::clone(&shared.name),
            most: shared.map.most(),
        })
    }

    /// The handle of a key that has one.
    #[must_use]
    pub fn get_known<Q>(&self, key: &Q) -> Option<T>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shared.map.get(key)
    }

    fn may_go(handle: &T) -> bool {
        handle.is_sole() && handle.is_idle()
    }

    /// Forgets what has nothing to remember; says how many keys that were.
    pub fn forget_idle(&self) -> usize {
        self.shared.map.forget_idle(Self::may_go)
    }

    /// Shows `look` each key and its handle, one after the other: a handle that is held is not forgotten, so no more than
    /// one is. Each shard is locked for as long as it takes to copy its keys, and none while `look` looks. Stops when `look`
    /// says so.
    pub(crate) fn look_through(&self, mut look: impl FnMut(&K, &T) -> ControlFlow<()>) {
        let map = &self.shared.map;
        for key in (0..map.shards()).flat_map(|shard| map.keys_in(shard)) {
            if let Some(handle) = map.get(&key)
                && look(&key, &handle).is_break()
            {
                return;
            }
        }
    }

    /// What `look` sees of each key.
    pub(super) fn each<S>(&self, look: impl Fn(&K, &T) -> S) -> Vec<(K, S)> {
        let mut all = Vec::new();
        self.look_through(|key, handle| {
            all.push((key.clone(), look(key, handle)));
            ControlFlow::Continue(())
        });
        all
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.map.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What there is to see of each key, the worst first, at most `most` of them. Takes time that grows with the number of
    /// keys, and memory that grows with `most`. Nobody who asks for a key waits for longer than it takes to copy the keys of
    /// a shard: up to a thousand, or a 64th of a larger map.
    #[must_use]
    pub fn snapshot(&self, most: usize) -> Vec<(K, T::Snapshot)> {
        let mut worst = Worst::new(most);
        self.look_through(|key, handle| {
            let snapshot = handle.snapshot();
            let trouble = T::trouble(&snapshot);
            worst.offer(trouble, || (key.clone(), snapshot));
            ControlFlow::Continue(())
        });
        worst.into_sorted()
    }
}

impl<K: Hash + Eq + Clone> Keyed<K, CircuitBreaker> {
    /// Of the breakers of these keys at most this share opens by its own rules, above 0 and up to 1; one always may. For the
    /// replicas of one service: where too many fail at once it is not they who are ill, and to shut out the rest of them shuts
    /// out everybody (the panic threshold of Envoy).
    ///
    /// A circuit that stays closed for it opens with its next failure once others have closed. What an operator opens
    /// (`force_open`, `open_for`), and what [`Outliers`](super::Outliers) eject, opens all the same, and counts. Half-open is
    /// open. A breaker of metrics only, or a disabled one, counts as closed.
    ///
    /// For hosts that have nothing to do with each other this is wrong: two that are down are two that are down.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for what is no share, and if there are keys already, or there is a share.
    pub fn eject_at_most(self, share: f64) -> Result<Self, ConfigError> {
        if !(share > 0.0 && share <= 1.0) {
            let advice = "give a share of the keys above 0 and up to 1, such as 0.5";
            return Err(ConfigError::new("eject_at_most", share, advice));
        }
        let advice = "say it once, before the first key is asked for";
        let group = Group::new(share);
        let join = Box::new(move |breaker: &CircuitBreaker| breaker.join(&group));
        match self.is_empty() && self.shared.joins.set(join).is_ok() {
            true => Ok(self),
            false => Err(ConfigError::new("eject_at_most", share, advice)),
        }
    }
}

impl<K, T> Clone for Keyed<K, T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K, T> fmt::Debug for Keyed<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}
