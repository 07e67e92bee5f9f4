//! A call that asks the store for itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout_at;

use super::core::{Answered, Ask, Taken};
use super::request::{Request, Turn};
use super::reservation::FleetReservation;
use super::shared::{Shared, add};
use crate::error::{RateLimitReason, RateLimited};
use crate::rate_limit::Cost;
use crate::util::time::{self, Tick};

/// The store has not answered: this process's share decides.
pub(super) struct Away;

pub(super) type Decided = Result<Result<FleetReservation, RateLimited>, Away>;

type Asking = Pin<Box<dyn Future<Output = Result<Taken, Away>> + Send>>;

/// What a call asks the store for. If it goes away before the answer has come, what that gives is given back.
struct Question {
    shared: Arc<Shared>,
    cost: Cost,
    asking: Option<Asking>,
}

impl Question {
    async fn answer(mut self) -> Result<Taken, Away> {
        let Some(asking) = &mut self.asking else {
            return Err(Away);
        };
        let answer = asking.await;
        self.asking = None;
        answer
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(asking) = self.asking.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let reserved = FleetReservation::new(Arc::clone(&self.shared), self.cost);
            runtime.spawn(async move {
                if let Ok(Taken::Granted { .. }) = asking.await {
                    reserved.cancel();
                }
            });
        }
    }
}

impl Shared {
    /// Asks the store for this call alone, and waits for the turn that it gives.
    pub(super) async fn exactly(self: &Arc<Self>, request: &Request, costs: &[u64]) -> Decided {
        let ask = |(cost, pace): (&u64, &_)| Ask {
            pace: *pace,
            need: *cost,
            want: *cost,
        };
        let asks: Vec<_> = costs.iter().zip(&self.paces).map(ask).collect();
        // First come, first served. It is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await;
        if self.is_degraded() {
            return Err(Away);
        }
        let now = time::now();
        let denied = self.pool().denied(costs, &self.paces, now);
        if let Some((quota, until)) = denied
            && until > request.gives_up
        {
            let (wait, reason) = (Some(until.since(now)), request.too_late());
            return Ok(Err(self.refused(quota, reason, wait, request.since)));
        }
        let patience = request.gives_up.since(now).as_micros();
        let max_wait = u64::try_from(patience).unwrap_or(u64::MAX);
        let asking = {
            let shared = Arc::clone(self);
            async move {
                let taken = shared.ask(max_wait, &asks).await;
                drop(place);
                taken
            }
        };
        let question = Question {
            shared: Arc::clone(self),
            cost: request.cost,
            asking: Some(Box::pin(asking)),
        };
        match question.answer().await? {
            Taken::Granted { wait: 0, .. } if self.paused_for().is_zero() => {
                Ok(Ok(self.passed(request.cost)))
            }
            // Later than the store has said, if it has not heard of a pause.
            Taken::Granted { wait, .. } => {
                Ok(self.for_turn(request, Duration::from_micros(wait)).await)
            }
            Taken::Refused { quota, wait } => {
                let (now, wait) = (time::now(), Duration::from_micros(wait));
                if let Some(quota) = quota {
                    self.pool().refused(quota, costs[quota], now, wait);
                }
                let reason = request.too_late();
                Ok(Err(self.refused(quota, reason, Some(wait), request.since)))
            }
            Taken::Never { quota } => {
                let reason = RateLimitReason::ExceedsBurst;
                Ok(Err(self.refused(Some(quota), reason, None, request.since)))
            }
        }
    }

    /// Waits for a turn that the store has given: longer, if there are pauses meanwhile.
    async fn for_turn(
        self: &Arc<Self>,
        request: &Request,
        wait: Duration,
    ) -> Result<FleetReservation, RateLimited> {
        let turn = Turn::new(self, request);
        let granted = time::now().after(wait);
        let (mut due, mut seen) = (granted, self.pool().shifted());
        loop {
            // From before it looks: it misses none.
            let paused = self.paused.notified();
            let (shifted, paused_until) = {
                let pool = self.pool();
                (pool.shifted(), pool.paused_until())
            };
            due = due.after(shifted - seen).max(paused_until);
            seen = shifted;
            // A turn may come as much after `max_wait` as the answer took, and none after the deadline.
            let latest = match due > granted {
                true => request.gives_up,
                false => request.deadline.unwrap_or(Tick::NEVER),
            };
            let now = time::now();
            if due > latest {
                drop(turn);
                let (wait, reason) = (Some(due.since(now)), request.too_late());
                return Err(self.refused(None, reason, wait, request.since));
            }
            if due <= now {
                return Ok(turn.came());
            }
            let _ = timeout_at(due.to_instant(), paused).await;
        }
    }

    /// Asks the store, and learns from what it says.
    pub(super) async fn ask(self: &Arc<Self>, max_wait: u64, asks: &[Ask]) -> Result<Taken, Away> {
        add(&self.counts.asked);
        self.keep_beating();
        let asked = time::now();
        let answered = self.store.take(&self.limit, max_wait, asks).await;
        let Answered { taken, paused } = answered.map_err(|error| {
            self.degrade(&error);
            Away
        })?;
        self.hears_of_pause(paused, asked);
        match &taken {
            Taken::Granted { left, .. } => {
                left.iter()
                    .enumerate()
                    .for_each(|(i, left)| self.left(i, *left, asked));
            }
            Taken::Refused {
                quota: Some(quota),
                wait,
            } => {
                let left = asks[*quota].left_by(wait.saturating_sub(paused));
                self.left(*quota, left, asked);
            }
            Taken::Refused { .. } | Taken::Never { .. } => {}
        }
        Ok(taken)
    }
}
