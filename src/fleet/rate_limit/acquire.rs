//! Waiting for one's turn at a shared limit.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{timeout, timeout_at};

use super::core::{Ask, Taken};
use super::exact::{Away, Decided};
use super::pool::{Leasing, Look};
use super::request::{InLine, Request, Undecided};
use super::reservation::FleetReservation;
use super::shared::{RECHECK, Shared, add};
use crate::call::context::Wait;
use crate::call::deadline::{self, Deadline};
use crate::error::{RateLimitReason, RateLimited};
use crate::rate_limit::{Cost, Reservation};
use crate::util::time;

/// A wait for one's turn at a [`FleetRateLimit`](super::FleetRateLimit).
#[must_use = "futures do nothing unless polled"]
pub struct FleetRateAcquire {
    stage: Stage,
}

enum Stage {
    /// Not polled yet: nothing is taken.
    New {
        shared: Arc<Shared>,
        cost: Cost,
        may_wait: bool,
    },
    Asking {
        name: Arc<str>,
        wait: Wait,
        asking: Asking,
    },
    Over,
}

type Asking = Pin<Box<dyn Future<Output = Result<FleetReservation, RateLimited>> + Send>>;

impl FleetRateAcquire {
    pub(super) fn new(shared: &Arc<Shared>, cost: Cost, may_wait: bool) -> Self {
        let shared = Arc::clone(shared);
        let stage = Stage::New {
            shared,
            cost,
            may_wait,
        };
        Self { stage }
    }

    /// What there is for it at once. If there is nothing, it asks when it is polled.
    pub(super) fn take_ready(&mut self) -> Option<FleetReservation> {
        let (shared, cost, may_wait) = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::New {
                shared,
                cost,
                may_wait,
            } => (shared, cost, may_wait),
            other => {
                self.stage = other;
                return None;
            }
        };
        if shared.take_leased(cost) {
            shared.counts.passed.add_one();
            return Some(FleetReservation::new(shared, cost));
        }
        self.stage = Stage::Asking {
            name: Arc::clone(shared.funnel.name()),
            wait: Wait::new(0),
            asking: Box::pin(async move {
                // The deadline is that of whoever polls.
                let request = Request::new(&shared, cost, may_wait);
                shared.acquire(request).await
            }),
        };
        None
    }
}

impl Future for FleetRateAcquire {
    type Output = Result<FleetReservation, RateLimited>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(reserved) = self.take_ready() {
            return Poll::Ready(Ok(reserved));
        }
        match &mut self.stage {
            // Time at no service: the calls around are told.
            Stage::Asking { wait, asking, .. } => {
                wait.poll(cx.waker(), || asking.as_mut().poll(cx))
            }
            Stage::New { .. } | Stage::Over => polled_too_often(),
        }
    }
}

/// What the one gives, and whether it had to wait, unless the other is ready before.
async fn first<T>(
    mut one: Pin<&mut impl Future<Output = T>>,
    mut other: Pin<&mut impl Future>,
) -> Option<(T, bool)> {
    let mut has_waited = false;
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some((output, has_waited))),
        Poll::Pending => {
            has_waited = true;
            other.as_mut().poll(cx).map(|_| None)
        }
    })
    .await
}

#[cold]
fn polled_too_often() -> ! {
    panic!("`FleetRateAcquire` polled after completion")
}

impl Shared {
    /// What there is without asking, and without overtaking anybody.
    #[inline]
    fn take_leased(&self, cost: Cost) -> bool {
        let is_alone = self.in_line.load(Ordering::Relaxed) == 0;
        if self.leasing.is_none() || !is_alone || self.is_degraded() {
            return false;
        }
        let now = time::now();
        // Also what costs nothing waits for the end of a pause.
        if cost.each()[0] > 0 && self.words.take_from_one(cost.each()[0], now) {
            return true;
        }
        // Several quotas are taken from together: with a lock, which is held for no longer than that.
        let is_one = self.quotas.len() == 1;
        !is_one && self.pool().take_leased(&cost.each(), now)
    }

    async fn acquire(self: &Arc<Self>, request: Request) -> Result<FleetReservation, RateLimited> {
        let costs = &request.cost.each()[..self.quotas.len()];
        let too_much = costs
            .iter()
            .zip(&self.paces)
            .position(|(cost, pace)| *cost > pace.burst);
        if let Some(quota) = too_much {
            let reason = RateLimitReason::ExceedsBurst;
            return Err(self.refused(Some(quota), reason, None, request.since));
        }
        let undecided = Undecided::new(self, &request);
        let decided = self.decide(&request, costs);
        // Also if it is the store that takes too long.
        let decided = request.within_deadline(decided).await;
        undecided.ends();
        decided.unwrap_or_else(|| Err(self.refused_by_deadline(&request)))
    }

    fn refused_by_deadline(self: &Arc<Self>, request: &Request) -> RateLimited {
        let reason = RateLimitReason::DeadlineExceeded;
        self.refused(Some(0), reason, Some(RECHECK), request.since)
    }

    async fn decide(
        self: &Arc<Self>,
        request: &Request,
        costs: &[u64],
    ) -> Result<FleetReservation, RateLimited> {
        loop {
            if !self.is_degraded() {
                let leasing = self.leasing.filter(|it| {
                    let largest = self.largest_batches(*it);
                    costs.iter().zip(largest).all(|(cost, most)| *cost <= most)
                });
                let answered = match leasing {
                    Some(leasing) if request.may_wait => {
                        self.in_line(request, costs, leasing).await
                    }
                    Some(leasing) => self.from_pool(request, costs, leasing).await,
                    None => self.exactly(request, costs).await,
                };
                if let Ok(answered) = answered {
                    return answered;
                }
            }
            if let Some(decided) = self.locally(request).await {
                return decided;
            }
        }
    }

    /// By this process's share. `None`: the store came back while this waited.
    async fn locally(
        self: &Arc<Self>,
        request: &Request,
    ) -> Option<Result<FleetReservation, RateLimited>> {
        self.keep_beating();
        let (reserved, has_waited) = match request.may_wait {
            true => {
                let mut back = pin!(self.back.notified());
                back.as_mut().enable();
                if !self.is_degraded() {
                    return None;
                }
                let until = Deadline(request.gives_up);
                let turn = pin!(deadline::scope(until, self.local.acquire(request.cost)));
                first(turn, back).await?
            }
            false => (self.local.try_acquire(request.cost), false),
        };
        Some(self.by_share(request, reserved, has_waited))
    }

    fn by_share(
        self: &Arc<Self>,
        request: &Request,
        reserved: Result<Reservation, RateLimited>,
        has_waited: bool,
    ) -> Result<FleetReservation, RateLimited> {
        match reserved {
            Ok(reserved) => {
                add(&self.counts.local);
                self.add_untold(request.cost.each());
                let it = match has_waited {
                    true => self.went_on(request),
                    false => self.passed(request.cost),
                };
                Ok(it.of_share(reserved))
            }
            Err(mut refused) => {
                add(&self.counts.refused);
                match refused.reason {
                    // The whole may well be enough: so say "later".
                    RateLimitReason::ExceedsBurst => {
                        refused.reason = request.too_late();
                        refused.retry_after = Some(RECHECK);
                    }
                    RateLimitReason::DeadlineExceeded => refused.reason = request.too_late(),
                    _ => {}
                }
                Err(refused)
            }
        }
    }

    /// Takes leased tokens; asks for more if there are not enough. Waits for the store, not for a turn.
    async fn from_pool(
        self: &Arc<Self>,
        request: &Request,
        costs: &[u64],
        leasing: Leasing,
    ) -> Decided {
        // Others may be quicker than this one: then it asks for itself.
        for _ in 0..3 {
            if self.is_degraded() {
                return Err(Away);
            }
            let now = time::now();
            let look = {
                let mut pool = self.pool();
                match self.short.load(Ordering::Relaxed) {
                    0 => pool.take(costs, &self.paces, now),
                    // There will be some for the one who waits, and not for one that comes later.
                    _ => {
                        let soon = (Some(0), now.after(leasing.shortest_denial()));
                        let (quota, until) = pool.denial(now).unwrap_or(soon);
                        Look::Denied { quota, until }
                    }
                }
            };
            match look {
                Look::Taken => return Ok(Ok(self.passed(request.cost))),
                Look::Denied { quota, until } => {
                    let wait = Some(until.since(now));
                    let reason = request.too_late();
                    return Ok(Err(self.refused(quota, reason, wait, request.since)));
                }
                Look::Short if self.pool().is_late(now) => break,
                Look::Short => self.refill(costs, leasing).await,
            }
        }
        self.exactly(request, costs).await
    }

    /// The same, first come, first served, until there is enough.
    async fn in_line(
        self: &Arc<Self>,
        request: &Request,
        costs: &[u64],
        leasing: Leasing,
    ) -> Decided {
        let mut place = InLine::new(self);
        let gives_up = request.gives_up.to_instant();
        let Ok(turn) = timeout_at(gives_up, self.line.lock()).await else {
            drop(place);
            return Ok(Err(self.refused_in_line(request, costs)));
        };
        let mut asked = 0;
        loop {
            // From before it looks: it misses none.
            let news = self.news.notified();
            if self.is_degraded() {
                drop(place);
                return Err(Away);
            }
            let now = time::now();
            let (look, asks_again) = {
                let mut pool = self.pool();
                (pool.take(costs, &self.paces, now), pool.asks_again(now))
            };
            match look {
                Look::Taken => {
                    let has_waited = place.is_short;
                    drop(place);
                    return Ok(Ok(match has_waited {
                        true => self.went_on(request),
                        false => self.passed(request.cost),
                    }));
                }
                Look::Denied { quota, until } if until > request.gives_up => {
                    drop(place);
                    let (wait, reason) = (Some(until.since(now)), request.too_late());
                    return Ok(Err(self.refused(quota, reason, wait, request.since)));
                }
                Look::Denied { until, .. } => {
                    place.is_short();
                    asked = 0;
                    let until = until.min(asks_again).to_instant();
                    let _ = timeout_at(until, news).await;
                }
                Look::Short if asked < 3 && !self.pool().is_late(now) => {
                    asked += 1;
                    self.refill(costs, leasing).await;
                }
                // What has come was over: the store takes as long as a lease. It keeps the order, too.
                Look::Short => {
                    drop((place, turn));
                    return self.exactly(request, costs).await;
                }
            }
        }
    }

    /// The line is too long.
    fn refused_in_line(self: &Arc<Self>, request: &Request, costs: &[u64]) -> RateLimited {
        let now = time::now();
        let denied = self.pool().denied(costs, &self.paces, now);
        let wait = denied.map_or(RECHECK, |(_, until)| until.since(now));
        let quota = denied.map_or(Some(0), |(quota, _)| quota);
        self.refused(quota, request.too_late(), Some(wait), request.since)
    }

    /// Returns when the store has answered somebody of this process.
    async fn refill(self: &Arc<Self>, costs: &[u64], leasing: Leasing) {
        let mut changed = pin!(self.changed.notified());
        changed.as_mut().enable();
        {
            let (largest, now) = (self.largest_batches(leasing), time::now());
            let mut pool = self.pool();
            if !pool.is_asking {
                let asks = pool.asks(costs, &largest, now);
                if asks.iter().all(|(need, _)| *need == 0) {
                    return; // Somebody was quicker.
                }
                pool.is_asking = true;
                let asking = InFlight(Arc::clone(self));
                // A task of its own: if this caller goes away the answer is for the others.
                tokio::spawn(asking.refill(asks, leasing));
            }
        }
        if timeout(self.limit.within.saturating_mul(2), changed)
            .await
            .is_err()
        {
            // The runtime on which it is asked does not run: another asks on its own.
            self.pool().is_asking = false;
        }
    }
}

/// The one question that a process has on its way.
struct InFlight(Arc<Shared>);

impl InFlight {
    async fn refill(self, asks: Vec<(u64, u64)>, leasing: Leasing) {
        let shared = &self.0;
        let until = time::now().after(leasing.life);
        let ask = |((need, want), pace): (&(u64, u64), &_)| Ask {
            pace: *pace,
            need: *need,
            want: *want,
        };
        let questions: Vec<_> = asks.iter().zip(&shared.paces).map(ask).collect();
        match shared.ask(0, &questions).await {
            Ok(Taken::Granted { got, .. }) => {
                let mut pool = shared.pool();
                pool.granted(&got, time::now(), until);
                if let Some(quota) = got.iter().zip(&asks).position(|(got, ask)| *got < ask.1) {
                    // That was all there is: there will be more to ask for a little later.
                    let pause = leasing.shortest_denial();
                    pool.refused(quota, asks[quota].0, time::now(), pause);
                }
            }
            // There is a pause, and the pool knows.
            Ok(Taken::Refused { quota: None, .. }) => {}
            Ok(Taken::Refused {
                quota: Some(quota),
                wait,
            }) => {
                let wait = Duration::from_micros(wait).max(leasing.shortest_denial());
                shared
                    .pool()
                    .refused(quota, asks[quota].0, time::now(), wait);
            }
            Ok(Taken::Never { quota }) => {
                shared
                    .pool()
                    .refused(quota, asks[quota].0, time::now(), RECHECK);
            }
            Err(Away) => {}
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.pool().is_asking = false;
        self.0.changed.notify_waiters();
    }
}

impl fmt::Debug for FleetRateAcquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.stage {
            Stage::New { shared, .. } => Some(&**shared.funnel.name()),
            Stage::Asking { name, .. } => Some(&**name),
            Stage::Over => None,
        };
        f.debug_struct("FleetRateAcquire")
            .field("limit", &name)
            .finish_non_exhaustive()
    }
}
