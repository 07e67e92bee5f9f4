//! A lock for each key.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error as StdError;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::ContentionConfig;
use super::handle::ResourceLock;
use crate::error::ConfigError;
use crate::event::Observer;

/// A lock for each key: a file, a tenant, an account. Made when a key is first asked for, and forgotten when it is idle
/// and room is needed.
///
/// A lock is idle when nobody has a handle of it, a permit, a place in its queue, or a refusal of it. So two who ask for the same key always get the same lock as long as either has its handle: never are two inside.
/// A cheap clone of shared state.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_bulwark::contention::{ContentionConfig, LockMap};
///
/// let accounts: LockMap<u64> = LockMap::new("account", 10_000, ContentionConfig::default())?;
/// let lock = accounts.get(&7)?;
/// let guard = lock.acquire("transfer-3").await?;
/// assert_eq!(guard.resource(), "account");
/// # Ok(())
/// # }
/// ```
pub struct LockMap<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    name: Arc<str>,
    most: usize,
    config: ContentionConfig,
    observers: Vec<Arc<dyn Observer>>,
    locks: Mutex<HashMap<K, ResourceLock>>,
}

/// A [`LockMap`] has as many keys as it may have, and all of their locks are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooManyKeys {
    /// The name of the map.
    pub name: Arc<str>,
    /// How many keys it may have.
    pub most: usize,
}

impl fmt::Display for TooManyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, most } = self;
        write!(
            f,
            "`{name}` has {most} keys, all of them in use: allow more, or hold fewer handles"
        )
    }
}

impl StdError for TooManyKeys {}

impl<K: Hash + Eq + Clone> LockMap<K> {
    /// A map of at most `most` keys, whose locks are made with this config. All of them have this name.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a config that cannot work, and for no keys at all.
    pub fn new(
        name: impl Into<Arc<str>>,
        most: usize,
        config: ContentionConfig,
    ) -> Result<Self, ConfigError> {
        Self::observed(name, most, config, Vec::new())
    }

    /// The same, and each of its locks is observed.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn observed(
        name: impl Into<Arc<str>>,
        most: usize,
        config: ContentionConfig,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        if most == 0 {
            let advice = "no key could ever be locked: give the number of keys that are in use at once, at least";
            return Err(ConfigError::new("most", most, advice));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.into(),
                most,
                config,
                observers,
                locks: Mutex::default(),
            }),
        })
    }

    fn locks(&self) -> MutexGuard<'_, HashMap<K, ResourceLock>> {
        self.shared
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of a key. Keep it no longer than it is needed: as long as it is kept it is not idle.
    ///
    /// # Errors
    ///
    /// [`TooManyKeys`] if the key is new, the map is full, and no lock in it is idle. Looking for idle ones takes time
    /// that grows with the number of keys.
    pub fn get<Q>(&self, key: &Q) -> Result<ResourceLock, TooManyKeys>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut forgotten = Vec::new();
        let mut locks = self.locks();
        if let Some(lock) = locks.get(key) {
            return Ok(lock.clone());
        }
        if locks.len() >= self.shared.most {
            let idle = locks.extract_if(|_, lock| lock.is_idle());
            forgotten.extend(idle);
        }
        let full = locks.len() >= self.shared.most;
        let made = match locks.entry(key.to_owned()) {
            Entry::Vacant(_) if full => None,
            entry => Some(entry.or_insert_with(|| self.make()).clone()),
        };
        // Keys are somebody else's code: dropped where no lock is held.
        drop(locks);
        drop(forgotten);
        made.ok_or_else(|| TooManyKeys {
            name: Arc::clone(&self.shared.name),
            most: self.shared.most,
        })
    }

    fn make(&self) -> ResourceLock {
        let shared = &self.shared;
        ResourceLock::from_parts(
            Arc::clone(&shared.name),
            shared.config.clone(),
            shared.observers.clone(),
        )
    }

    /// Forgets the locks that are idle; says how many that were.
    #[expect(clippy::must_use_candidate, reason = "the number is by the way")]
    pub fn forget_idle(&self) -> usize {
        let forgotten: Vec<_> = self.locks().extract_if(|_, lock| lock.is_idle()).collect();
        forgotten.len()
    }

    /// How many keys have a lock.
    #[must_use]
    pub fn len(&self) -> usize {
        self.locks().len()
    }

    /// Whether no key has a lock.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.locks().is_empty()
    }
}

impl<K> Clone for LockMap<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K> fmt::Debug for LockMap<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockMap")
            .field("name", &self.shared.name)
            .field("most", &self.shared.most)
            .finish_non_exhaustive()
    }
}
