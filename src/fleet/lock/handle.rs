use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::super::error::StoreError;
use super::acquire::FleetAcquire;
use super::guard::FleetGuard;
use super::op::Op;
use super::owner::Owner;
use super::snapshot::{self, FleetLockSnapshot};
use crate::call::{Holder, workflow};
use crate::error::Contended;

/// A lock that processes share: exclusive, or for n holders at once in the whole fleet. A cheap clone. Made by
/// [`Fleet::lock`](super::super::Fleet::lock).
///
/// # What is promised
///
/// - At most [`max_concurrent`](super::FleetLockBuilder::max_concurrent) leases at any time, by the clock of the server.
/// - First come, first served among all who wait, in all processes. A permit that is given back goes to the next without a
///   round of questions: two commands to the server for each permit, however many want it.
/// - A permit of a process that died comes back after its [`lease`](super::FleetLockBuilder::lease). One that was handed to a process
///   that had died comes back after 2 s, and a dead waiter loses its place after 4 s.
/// - A message that is lost delays a wait by a second at most.
/// - The [`Fence`](super::Fence) of a lease is above that of every lease before it.
///
/// # What is not
///
/// - That nobody works with a permit that has ended. A process that is stopped, or whose server is lost, may go on for a
///   moment: watch [`lost`](FleetGuard::lost), and where it matters let the resource check the fence.
/// - The limit across a failover to a replica that does not know of the last leases, unless
///   [`grace`](super::FleetLockBuilder::grace) is on; and the limit while the clock of the server jumps ahead: leases end early then, until
///   they are renewed.
/// - Deadlocks between processes are not looked for. The search of the local locks stays within a process, and does not look
///   at shared ones: a [`timeout`](super::FleetLockBuilder::timeout) ends such a wait.
///
/// # When the store is away
///
/// Nobody is admitted: a call is refused with [`ContendedReason::Unavailable`](crate::ContendedReason::Unavailable), at once after three
/// failures in a row. Those who wait keep waiting until their time is over. Those who hold a permit keep it until its lease
/// ends, and are told then. With [`local`](super::FleetLockBuilder::local) a number of permits of this process stand in.
///
/// # Cost
///
/// One task for each process and lock, on the runtime of the fleet. It renews all leases of the process at a third of the lease, with
/// one command for each 500, and while somebody of the process waits it sends two commands a second, and one more for each 500 who
/// wait. Without callers it sends nothing. At most 128 calls of a process ask for a permit of a lock at once, the others after them.
#[derive(Clone)]
pub struct FleetLock {
    pub(super) owner: Arc<Owner>,
}

impl FleetLock {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.owner.0.funnel.name()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.owner.0.capacity()
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.owner.0.settings.timeout
    }

    /// Waits for a permit: at most for the lock's timeout, and not past the ambient [deadline](crate::deadline). First come, first
    /// served, in the whole fleet.
    ///
    /// `holder` is what other processes see, at most 200 characters of it.
    ///
    /// # Errors
    ///
    /// [`Contended`], with the reason, the time waited, and the holders as they were last seen.
    /// [`ContendedReason::Unavailable`](crate::ContendedReason::Unavailable) if the store cannot be asked: at once if it is known to be
    /// away, and unless the lock has [`local`](super::FleetLockBuilder::local) permits.
    ///
    /// # Cancellation
    ///
    /// Nothing happens before the future is first polled. Dropping it leaves the queue and gives back what was granted
    /// meanwhile, also if a call to the store has not been answered: the agent of the lock says so to the store. If that
    /// process dies as well, a place in the queue ends after 4 s, and a permit with its lease.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its timer.
    pub fn acquire(&self, holder: impl Into<Holder>) -> FleetAcquire {
        let timeout = self.owner.0.settings.timeout;
        FleetAcquire {
            owner: Arc::clone(&self.owner),
            holder: holder.into(),
            timeout,
            waits: timeout != Some(Duration::ZERO),
            deadline: None,
        }
    }

    /// Like [`acquire`](Self::acquire), for the [workflow](crate::workflow) of the task, or else for the place in the source.
    #[track_caller]
    pub fn acquire_here(&self) -> FleetAcquire {
        let holder = match workflow::current() {
            Some(workflow) => workflow,
            None => Holder::here(),
        };
        self.acquire(holder)
    }

    /// A permit if one is free and nobody waits. It waits for the store to answer, and not in the queue.
    ///
    /// # Errors
    ///
    /// [`Contended`], as [`acquire`](Self::acquire); [`Busy`](crate::ContendedReason::Busy) if there is no free permit.
    pub async fn try_acquire(&self, holder: impl Into<Holder>) -> Result<FleetGuard, Contended> {
        self.acquire(holder).timeout(Duration::ZERO).await
    }

    /// Changes the number of permits for the whole fleet, from now on and whatever the processes were started with: with the next
    /// higher version. With fewer, those who hold one too many keep it until they are done.
    ///
    /// It is kept for as long as the lock is used, and for a day after that. More than 1,000,000 are taken as that many.
    ///
    /// # Errors
    ///
    /// If the store does not do it; it [may have been done](StoreError::may_have_been_done).
    pub async fn set_max_concurrent(&self, n: NonZeroU32) -> Result<(), StoreError> {
        let shared = &self.owner.0;
        let op = Op::Resize {
            max: i64::from(n.get().min(1_000_000)),
            version: None,
        };
        shared.ask(&op, shared.call_timeout).await?;
        Ok(())
    }

    /// What is known in this process. Asks nobody.
    #[must_use]
    pub fn snapshot(&self) -> FleetLockSnapshot {
        snapshot::snapshot(&self.owner.0)
    }

    /// The same, with what the store says now of all processes.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn fetch(&self) -> Result<FleetLockSnapshot, StoreError> {
        let shared = &self.owner.0;
        let (answer, _) = shared.ask(&Op::List, shared.call_timeout).await?;
        shared.saw(answer);
        Ok(self.snapshot())
    }
}

impl fmt::Debug for FleetLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.owner.0;
        f.debug_struct("FleetLock")
            .field("name", shared.funnel.name())
            .field("capacity", &shared.capacity())
            .field("held_here", &shared.leases().len())
            .field("waiting_here", &shared.waiting())
            .field("is_away", &shared.is_away())
            .finish_non_exhaustive()
    }
}
