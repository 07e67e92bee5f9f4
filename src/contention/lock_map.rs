//! A lock for each key.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use super::config::ContentionConfig;
use super::handle::ResourceLock;
use crate::error::{ConfigError, TooManyKeys};
use crate::event::Observer;
use crate::util::bounded_map::{BoundedMap, Full};

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
    config: ContentionConfig,
    observers: Vec<Arc<dyn Observer>>,
    locks: BoundedMap<K, ResourceLock>,
}

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
                locks: BoundedMap::new(most),
                config,
                observers,
            }),
        })
    }

    /// The lock of a key. Keep it no longer than it is needed: as long as it is kept it is not idle.
    ///
    /// # Errors
    ///
    /// [`TooManyKeys`] if the key is new, the map is full, and no lock in it is idle. A large map that was found full by
    /// the one before is looked through in parts, a part by each newcomer.
    pub fn get<Q>(&self, key: &Q) -> Result<ResourceLock, TooManyKeys>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let shared = &self.shared;
        if let Some(known) = shared.locks.get(key) {
            return Ok(known);
        }
        let made =
            shared
                .locks
                .get_or_make(key.to_owned(), |_| self.make(), ResourceLock::is_disused);
        made.map_err(|Full| TooManyKeys {
            name: Arc::clone(&shared.name),
            most: shared.locks.most(),
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
    pub fn forget_idle(&self) -> usize {
        self.shared.locks.forget_idle(ResourceLock::is_disused)
    }

    /// How many keys have a lock.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.locks.len()
    }

    /// Whether no key has a lock.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
            .finish_non_exhaustive()
    }
}
