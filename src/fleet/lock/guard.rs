use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use super::super::error::StoreError;
use super::agent;
use super::lease::{Fence, Lease, LostReason};
use super::op::Op;
use super::owner::Owner;
use crate::call::Holder;
use crate::contention::OwnedResourceGuard;
use crate::util::time;

/// A permit of a [`FleetLock`](super::FleetLock), given back when dropped. Dropping it does not wait: a task says so to the store.
/// A program that ends right after calls [`release`](Self::release).
///
/// It is a *lease*: it is renewed while the guard lives, at a third of its time. If that fails, because the store cannot be reached,
/// or because this process stood still for longer than the lease, somebody else may get the permit: [`lost`](Self::lost) tells,
/// and [`valid_for`](Self::valid_for) says for how long it is sure.
#[must_use = "the permit is given back as soon as the guard is dropped"]
pub struct FleetGuard(pub(super) Permit);

pub(super) enum Permit {
    Leased {
        lease: Arc<Lease>,
        owner: Arc<Owner>,
    },
    /// Of this process alone: the store is away.
    Local {
        guard: OwnedResourceGuard,
        owner: Arc<Owner>,
    },
}

impl FleetGuard {
    /// Proof of the lease, for the resource. `None` for a permit of this process alone, which the lock gives while the store is
    /// away if [`local`](super::FleetLockBuilder::local) says so.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        match &self.0 {
            Permit::Leased { lease, .. } => Some(lease.fence),
            Permit::Local { .. } => None,
        }
    }

    /// For how long the permit is sure, without another renewal; zero once it is lost. `None` for a permit of this process alone,
    /// which has no end.
    ///
    /// Counted from the moment at which the store was asked, not from its answer. A machine that is suspended does not
    /// count: only the [`fence`](Self::fence) helps there.
    #[must_use]
    pub fn valid_for(&self) -> Option<Duration> {
        match &self.0 {
            Permit::Leased { lease, .. } => Some(lease.valid_for()),
            Permit::Local { .. } => None,
        }
    }

    /// Waits until the permit is lost: stop what is done with it. Pending for as long as all is well.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn train() {}
    /// use tower_bulwark::fleet::Fleet;
    ///
    /// let gpu = Fleet::in_process().lock("gpu").build()?;
    /// let guard = gpu.acquire("job-1").await?;
    /// tokio::select! {
    ///     () = train() => println!("done"),
    ///     reason = guard.lost() => println!("stopped: {reason}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancellation
    ///
    /// Nothing is lost by dropping the future.
    pub async fn lost(&self) -> LostReason {
        match &self.0 {
            Permit::Leased { lease, .. } => lease.lost().await,
            Permit::Local { .. } => pending().await,
        }
    }

    /// Gives the permit back, and waits until the store has heard it.
    ///
    /// For a program that ends right after: the runtime takes with it what has not been said yet, and the permit would be
    /// missing until its lease ends. Everybody else drops the guard.
    ///
    /// # Errors
    ///
    /// If the store does not answer. The permit is given back all the same as if the guard had been dropped.
    ///
    /// # Cancellation
    ///
    /// Dropping the future is dropping the guard.
    pub async fn release(self) -> Result<(), StoreError> {
        if let Permit::Leased { lease, owner } = &self.0 {
            let op = Op::Release(vec![(lease.fence.slot, lease.fence.token)]);
            let shared = &owner.0;
            // It is not renewed any more, and a renewal that is under way finds nothing lost.
            shared.leases().remove(&lease.fence.token);
            shared.ask(&op, shared.call_timeout).await?;
            lease.lock().is_released = true;
        }
        Ok(())
    }

    /// Who holds the permit.
    #[must_use]
    pub fn holder(&self) -> Holder {
        match &self.0 {
            Permit::Leased { lease, .. } => lease.holder.clone(),
            Permit::Local { guard, .. } => guard.holder(),
        }
    }

    /// The name of the resource.
    #[must_use]
    pub fn resource(&self) -> &str {
        let (Permit::Leased { owner, .. } | Permit::Local { owner, .. }) = &self.0;
        owner.0.funnel.name()
    }

    /// For how long the permit has been held.
    #[must_use]
    pub fn held_for(&self) -> Duration {
        match &self.0 {
            Permit::Leased { lease, .. } => time::now().since(lease.since),
            Permit::Local { guard, .. } => guard.held_for(),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Self::Leased { lease, owner } = self {
            owner.0.give_back(lease);
            // The runtime that it ran on may be gone.
            agent::ensure(&owner.0);
        }
    }
}

impl fmt::Debug for FleetGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetGuard")
            .field("resource", &self.resource())
            .field("holder", &self.holder())
            .field("fence", &self.fence())
            .field("valid_for", &self.valid_for())
            .finish()
    }
}
