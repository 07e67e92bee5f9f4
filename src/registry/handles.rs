use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::RegistryError;
use crate::error::ConfigError;

/// Handles of one kind, by name.
pub(super) struct Handles<H>(Mutex<BTreeMap<Arc<str>, H>>);

impl<H: Clone> Handles<H> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, H>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get_or(&self, name: &Arc<str>, make: impl FnOnce() -> H) -> H {
        let mut map = self.lock();
        map.entry(Arc::clone(name)).or_insert_with(make).clone()
    }

    pub(super) fn all(&self) -> Vec<H> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<H> {
        self.lock().get(name).cloned()
    }

    /// Puts a handle there, if there is another one or none; says whether it did.
    #[cfg(feature = "redis")]
    pub(super) fn replace(
        &self,
        name: &Arc<str>,
        handle: &H,
        is_same: impl Fn(&H, &H) -> bool,
    ) -> bool {
        let mut map = self.lock();
        if map.get(name).is_some_and(|it| is_same(it, handle)) {
            return false;
        }
        let before = map.insert(Arc::clone(name), handle.clone());
        drop(map);
        drop(before);
        true
    }

    pub(super) fn remove_if(&self, name: &str, is_idle: impl FnOnce(&H) -> bool) -> bool {
        let mut map = self.lock();
        let idle = map.get(name).is_some_and(is_idle);
        let removed = if idle { map.remove(name) } else { None };
        drop(map);
        removed.is_some()
    }

    pub(super) fn remove(&self, name: &str) -> Option<H> {
        self.lock().remove(name)
    }

    /// The handle of that name if it goes by `rules`; a new one if the name is free.
    pub(super) fn build<R: PartialEq + fmt::Debug>(
        &self,
        kind: &'static str,
        name: &Arc<str>,
        rules: &R,
        rules_of: impl Fn(&H) -> R,
        make: impl FnOnce() -> Result<H, ConfigError>,
    ) -> Result<H, RegistryError> {
        let mut map = self.lock();
        match map.get(name) {
            Some(handle) if rules_of(handle) == *rules => Ok(handle.clone()),
            Some(handle) => Err(RegistryError::Conflict {
                kind,
                name: Arc::clone(name),
                existing: format!("{:?}", rules_of(handle)),
                requested: format!("{rules:?}"),
            }),
            None => {
                let handle = make()?;
                map.insert(Arc::clone(name), handle.clone());
                Ok(handle)
            }
        }
    }
}
