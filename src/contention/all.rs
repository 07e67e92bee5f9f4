//! Permits of several locks at once.

use super::guard::OwnedResourceGuard;
use super::handle::ResourceLock;
use crate::call::Holder;
use crate::error::Contended;

/// Permits of several locks, given back together. Made by [`acquire_all`].
#[must_use = "the permits are given back as soon as the guards are dropped"]
#[derive(Debug)]
pub struct ResourceGuards(Vec<OwnedResourceGuard>);

impl ResourceGuards {
    /// The guards, in the order in which the locks were named.
    #[must_use]
    pub fn into_guards(self) -> Vec<OwnedResourceGuard> {
        self.0
    }

    /// How many locks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no lock was named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A permit of each of these locks. Whatever order they are named in, they are acquired in one order, that in which they
/// were made: so callers that all use this never wait for each other in a circle. A lock that is named twice is acquired
/// once.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower_bulwark::Contended> {
/// use tower_bulwark::ResourceLock;
/// use tower_bulwark::contention::acquire_all;
///
/// let (from, to) = (ResourceLock::new("account-7"), ResourceLock::new("account-9"));
/// let both = acquire_all([&to, &from], "transfer-3").await?;
/// assert_eq!(both.len(), 2);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Contended`] of the first lock that refuses. What was acquired before it is given back. Each lock is waited for by
/// its own timeout.
///
/// # Cancellation
///
/// Dropping the future gives everything back.
pub async fn acquire_all<'a>(
    locks: impl IntoIterator<Item = &'a ResourceLock>,
    holder: impl Into<Holder>,
) -> Result<ResourceGuards, Contended> {
    let holder = holder.into();
    let mut ordered: Vec<(usize, &ResourceLock)> = locks.into_iter().enumerate().collect();
    ordered.sort_by_key(|(named, lock)| (lock.shared.resource(), *named));
    ordered.dedup_by_key(|(_, lock)| lock.shared.resource());
    let mut guards = Vec::with_capacity(ordered.len());
    for (named, lock) in ordered {
        guards.push((named, lock.acquire(&holder).owned().await?));
    }
    guards.sort_by_key(|(named, _)| *named);
    Ok(ResourceGuards(
        guards.into_iter().map(|(_, guard)| guard).collect(),
    ))
}
