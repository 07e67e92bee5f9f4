//! What services say: that nobody is to come for a while, and how much is left. The store is told in the background, by one
//! question at a time, however many calls hear it.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::core::Change;
use super::shared::{Heard, Left, Named, Shared};
use super::store::micros;
use super::words::MOST_QUOTAS;
use crate::fleet::StoreError;
use crate::util::time::{self, Tick};

impl Named {
    /// How much there can be by now, by the last answer.
    fn may_be_left(&self, now: Tick) -> u64 {
        self.left_by_now(now, u128::div_ceil)
    }

    /// As much of it as there is for sure, if nobody has used any since.
    pub(super) fn is_left(&self, now: Tick) -> u64 {
        self.left_by_now(now, |earned, one| earned / one)
    }

    fn left_by_now(&self, now: Tick, divide: impl FnOnce(u128, u128) -> u128) -> u64 {
        let Left { units, at, .. } = *self.left();
        let earned = now.since(at).as_nanos() * u128::from(self.quota.amount);
        let earned = divide(earned, self.quota.period.as_nanos().max(1));
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        units.saturating_add(earned).min(self.quota.burst)
    }
}

impl Shared {
    fn heard_of(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long nobody passes.
    pub(super) fn paused_for(&self) -> Duration {
        self.pool().paused_until().since(time::now())
    }

    /// Nobody of the fleet passes for so long.
    pub(super) fn pause(self: &Arc<Self>, pause: Duration) {
        let until = time::now().after(pause.min(self.max_pause));
        if self.pause_here(until) && !self.is_degraded() {
            self.heard_of().until = until;
            self.tell();
        }
    }

    /// The store says how long a pause lasts. It was asked at `asked`: it ends no later than it does at the store, and those who
    /// have been given a turn at its end keep it.
    pub(super) fn hears_of_pause(&self, paused: u64, asked: Tick) {
        if paused > 0 {
            self.pause_here(asked.after(Duration::from_micros(paused)));
        }
    }

    /// Whether that is longer than before.
    fn pause_here(&self, until: Tick) -> bool {
        let now = time::now();
        let is_longer = self.pool().pause(now, until);
        if is_longer {
            // It tells of the pause, too.
            self.local.pause(until.since(now));
            self.news.notify_waiters();
            self.paused.notify_waiters();
        }
        is_longer
    }

    /// The service says how much is left.
    pub(super) fn left_by_service(self: &Arc<Self>, quota: &str, units: u64) {
        let Some(number) = self.quotas.iter().position(|it| &*it.name == quota) else {
            return;
        };
        if self.is_degraded() {
            return self.local.left(quota, units / self.nodes.sharers());
        }
        let now = time::now();
        if units >= self.quotas[number].may_be_left(now) {
            return;
        }
        self.left(number, units, now);
        let mut heard = self.heard_of();
        let most = heard.most[number].map_or(units, |it| it.min(units));
        heard.most[number] = Some(most);
        drop(heard);
        self.tell();
    }

    /// Changes what the store knows, and learns what is left.
    pub(super) async fn settle(&self, pause: u64, changes: &[Change]) -> Result<(), StoreError> {
        let asked = time::now();
        let left = self.store.settle(&self.limit, pause, changes).await?;
        for (quota, left) in left.into_iter().enumerate() {
            self.left(quota, left, asked);
        }
        if changes.iter().any(|it| it.back > 0) {
            // What it refused may be there now.
            self.pool().forget_denial();
            self.news.notify_waiters();
        }
        Ok(())
    }

    fn tell(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return self.heard_of().untold();
        };
        if !std::mem::replace(&mut self.heard_of().is_telling, true) {
            let telling = Telling {
                shared: Arc::clone(self),
                is_over: false,
            };
            runtime.spawn(telling.run());
        }
    }
}

impl Heard {
    /// Nobody tells it: what is said of a moment is not true of a later one.
    fn untold(&mut self) {
        if !self.is_telling {
            *self = Self::default();
        }
    }
}

struct Telling {
    shared: Arc<Shared>,
    is_over: bool,
}

impl Telling {
    async fn run(mut self) {
        while let Some((until, most)) = self.next() {
            let shared = &self.shared;
            let pause = micros(until.since(time::now()));
            let change = |(pace, most): (&_, Option<u64>)| {
                let nothing = Change::nothing(*pace);
                let most = most.unwrap_or(nothing.most);
                Change { most, ..nothing }
            };
            let changes: Vec<_> = shared.paces.iter().zip(most).map(change).collect();
            if let Err(error) = shared.settle(pause, &changes).await {
                // A pause that still lasts is told when the store is back.
                return shared.degrade(&error);
            }
        }
    }

    /// What is to be told; if there is nothing, the next who hears something tells it.
    fn next(&mut self) -> Option<(Tick, [Option<u64>; MOST_QUOTAS])> {
        let mut heard = self.shared.heard_of();
        let until = std::mem::take(&mut heard.until);
        let most = std::mem::take(&mut heard.most);
        let is_any = until > Tick(0) || most.iter().any(Option::is_some);
        heard.is_telling = is_any;
        self.is_over = !is_any;
        is_any.then_some((until, most))
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // The store is away, or the runtime ends.
        if !self.is_over {
            let mut heard = self.shared.heard_of();
            heard.is_telling = false;
            heard.untold();
        }
    }
}
