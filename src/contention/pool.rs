//! Permits together with what they are for.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::guard::OwnedResourceGuard;
use super::handle::ResourceLock;
use crate::call::Holder;
use crate::error::{Error, IntoError};

/// Things of which there are only so many, lent out one by one: connections and clients that have no pool of their own.
///
/// A [`ResourceLock`] says how many are in use at once, who has one, who waits, and for how long. What is given back is
/// used again, the last one first: it is warm. A cheap clone of shared state.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_bulwark::ResourceLock;
/// use tower_bulwark::contention::ResourcePool;
///
/// # #[derive(Debug)] struct Connection;
/// # impl Connection { async fn open() -> Result<Self, std::io::Error> { Ok(Self) } fn is_broken(&self) -> bool { false } }
/// let lock = ResourceLock::builder("db").max_concurrent(8).build()?;
/// let pool = ResourcePool::new(lock);
/// let connection = pool.get("report-7", Connection::open).await?;
/// if connection.is_broken() {
///     connection.discard();
/// }
/// # Ok(())
/// # }
/// ```
pub struct ResourcePool<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    lock: ResourceLock,
    idle: Mutex<VecDeque<T>>,
}

impl<T> Shared<T> {
    /// Nothing is kept once the lock is closed: a close drops what is idle after it has closed the lock.
    fn put_back(&self, value: T) {
        let mut idle = self.idle();
        let left = match self.lock.is_closed() {
            true => Some(value),
            false => {
                idle.push_back(value);
                None
            }
        };
        drop(idle);
        drop(left);
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> ResourcePool<T> {
    /// An empty pool: what is in it is made when it is first asked for.
    #[must_use]
    pub fn new(lock: ResourceLock) -> Self {
        Self::with(lock, [])
    }

    /// A pool that begins with these. More than the lock has permits are of no use: [`retain`](Self::retain) drops them.
    #[must_use]
    pub fn with(lock: ResourceLock, idle: impl IntoIterator<Item = T>) -> Self {
        Self {
            shared: Arc::new(Shared {
                lock,
                idle: Mutex::new(idle.into_iter().collect()),
            }),
        }
    }

    /// The lock: how many may be in use, who has one, statistics.
    #[must_use]
    pub fn lock(&self) -> &ResourceLock {
        &self.shared.lock
    }

    /// How many are there and not in use.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.shared.idle().len()
    }

    /// Waits for a permit, and gives out what is idle, or what `make` makes if nothing is. `make` runs with the permit
    /// held, so never more than the lock's number are made at once.
    ///
    /// # Errors
    ///
    /// [`Error::Contended`] if there was no permit; the error of `make`, as [`Error::Inner`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the queue, or drops what is being made and gives the permit back.
    pub async fn get<E, L, Fut>(
        &self,
        holder: impl Into<Holder>,
        make: impl FnOnce() -> Fut,
    ) -> Result<Pooled<T>, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
    {
        let wait = self.shared.lock.acquire(holder).owned();
        let permit = wait.await.map_err(Error::Contended)?;
        let idle = self.shared.idle().pop_back();
        let value = match idle {
            Some(value) => value,
            None => make().await.map_err(IntoError::into_error)?,
        };
        Ok(Pooled {
            value: Some(value),
            pool: Arc::clone(&self.shared),
            permit: Some(permit),
        })
    }

    /// Drops what is idle and has gone bad: `keep` says which stay.
    pub fn retain(&self, mut keep: impl FnMut(&T) -> bool) {
        // Looked at and dropped where no lock is held: both are somebody else's code. One at a time, so that whoever
        // asks meanwhile finds the others.
        let idle = self.idle();
        for _ in 0..idle {
            let Some(value) = self.shared.idle().pop_front() else {
                return;
            };
            if !keep(&value) {
                continue;
            }
            // Somebody who found nothing meanwhile has made another: there are no more than the lock has permits.
            let seen = self.shared.lock.shared.core.seen();
            if self.idle() + (seen.in_use() as usize) < seen.capacity() as usize {
                self.shared.put_back(value);
            }
        }
    }

    /// Closes the pool: nobody gets anything any more, who waits is refused, and what is idle is dropped. What is in use
    /// is dropped when it is given back.
    pub fn close(&self) {
        self.shared.lock.close();
        let idle = std::mem::take(&mut *self.shared.idle());
        drop(idle);
    }
}

impl<T> Clone for ResourcePool<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> fmt::Debug for ResourcePool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourcePool")
            .field("lock", &self.shared.lock)
            .field("idle", &self.idle())
            .finish()
    }
}

/// Something of a [`ResourcePool`], given back when dropped.
#[must_use = "it is given back as soon as it is dropped"]
pub struct Pooled<T> {
    /// There until it is given back.
    value: Option<T>,
    pool: Arc<Shared<T>>,
    permit: Option<OwnedResourceGuard>,
}

impl<T> Pooled<T> {
    /// Does not give it back but drops it: it is broken. The permit is given back.
    pub fn discard(mut self) {
        drop(self.value.take());
    }

    /// Takes it out of the pool for good, and gives the permit back.
    #[must_use]
    pub fn into_inner(mut self) -> T {
        match self.value.take() {
            Some(value) => value,
            None => unreachable!("it is there until it is given back"),
        }
    }
}

impl<T> Drop for Pooled<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            self.pool.put_back(value);
        }
        // After what it is for, so that whoever is granted it finds that.
        drop(self.permit.take());
    }
}

impl<T> Deref for Pooled<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!("it is there until it is given back"),
        }
    }
}

impl<T> DerefMut for Pooled<T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.value {
            Some(value) => value,
            None => unreachable!("it is there until it is given back"),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Pooled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pooled").field(&self.value).finish()
    }
}
