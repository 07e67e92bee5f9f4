//! A permit that is taken in `poll_ready`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::acquire::Waiting;
use super::guard::Slot;
use super::handle::{ResourceLock, Shared};
use super::wait::{Ask, Asker, try_now};
use crate::call::{Holder, workflow};
use crate::error::Contended;
use crate::util::sharded::ArcShard;

/// What an instance of a service has taken for its next call.
#[derive(Default)]
pub(super) enum InPollReady {
    #[default]
    Nothing,
    Waits(Pin<Box<Waiting<ArcShard<Shared>>>>),
    /// It waited until this.
    Ready(Result<Slot<ArcShard<Shared>>, Contended>),
}

fn holder() -> Holder {
    workflow::current().unwrap_or_else(Holder::anonymous)
}

impl InPollReady {
    /// Ready with a permit, or with a refusal for the call to return.
    pub(super) fn poll(&mut self, lock: &ResourceLock, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Nothing = self {
            *self = Self::Waits(Box::pin(Waiting::new(
                lock.shared.mine(),
                Ask::new(holder(), Asker::OwnedGuard),
            )));
        }
        if let Self::Waits(wait) = self {
            let result = ready!(wait.as_mut().poll(cx));
            *self = Self::Ready(result);
        } else if let Self::Ready(Err(_)) = self
            && lock.shared.core.has_free()
            && let Ok(slot) = try_now(lock.shared.mine(), Ask::new(holder(), Asker::OwnedGuard))
        {
            // An old refusal is not repeated if there is a permit by now.
            *self = Self::Ready(Ok(slot));
        }
        Poll::Ready(())
    }

    /// What the call is made with. A service that was not made ready has to find a free permit.
    pub(super) fn take(
        &mut self,
        lock: &ResourceLock,
    ) -> Result<Slot<ArcShard<Shared>>, Contended> {
        match std::mem::take(self) {
            Self::Ready(result) => result,
            Self::Nothing | Self::Waits(_) => {
                try_now(lock.shared.mine(), Ask::new(holder(), Asker::OwnedGuard))
            }
        }
    }

    /// The service cannot be called: the permit goes back.
    pub(super) fn forget(&mut self) {
        *self = Self::Nothing;
    }
}
