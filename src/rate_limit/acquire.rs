//! Waiting for one's turn.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep_until};

use super::bucket::Time;
use super::config::RateLimitConfig;
use super::cost::Cost;
use super::handle::RateLimit;
use super::limited;
use super::reservation::Reservation;
use super::shadow::InForce;
use super::shared::{Shared, VERSION};
use super::state::Not;
use crate::call::context::Wait;
use crate::call::deadline;
use crate::error::{Error, RateLimitReason, RateLimited};
use crate::util::sharded::ArcShard;
use crate::util::time::{self, Tick};

impl RateLimit {
    /// Takes `cost`, when its turn has come: first come, first served. Refuses at once if that would take longer than
    /// `max_wait`, or until after the ambient [deadline](crate::deadline).
    ///
    /// The wait counts as time at no service: attempt timeouts and slow-call clocks around it stand still.
    ///
    /// Dropping the future leaves the queue, and gives back what it had been served already: those behind move up.
    ///
    /// # Errors
    ///
    /// [`RateLimited`], with the reason, the quota, and the time at which there will be enough.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its timer, if it has to wait.
    pub fn acquire(&self, cost: impl Into<Cost>) -> Acquire {
        Acquire {
            shared: self.shared.mine(),
            cost: cost.into(),
            wait: Wait::new(0),
            queued: None,
        }
    }

    /// Runs `operation` when its turn has come. It costs one of each quota.
    ///
    /// Dropping the future leaves the queue. An operation that has run stays counted; one that still waited for something of
    /// this crate, as for a permit of a lock, gives back what it has taken.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`] if it was refused, else what the operation fails with.
    pub async fn run<T, E, L, Fut>(&self, operation: impl FnOnce() -> Fut) -> Result<T, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: crate::error::IntoError<L>,
    {
        let reserved = self.acquire(Cost::ONE).await.map_err(Error::RateLimited)?;
        limited::run(reserved, operation).await
    }
}

/// A wait for one's turn. Made by [`RateLimit::acquire`].
#[must_use = "futures do nothing unless polled"]
pub struct Acquire {
    shared: ArcShard<Shared>,
    cost: Cost,
    /// Tells the calls around that they wait.
    wait: Wait,
    queued: Option<Queued>,
}

/// A place in the queue.
struct Queued {
    ticket: u64,
    version: u64,
    since: Tick,
    gives_up: Tick,
    /// Whether `gives_up` is the caller's own deadline.
    by_deadline: bool,
    timer: Pin<Box<Sleep>>,
}

impl Future for Acquire {
    type Output = Result<Reservation, RateLimited>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = match this.queued.is_some() {
            true => this.poll_queued(cx),
            false => this.begin(cx),
        };
        this.wait.poll(cx.waker(), || polled)
    }
}

impl Acquire {
    fn reservation(&self, version: u64) -> Reservation {
        Reservation {
            shared: self.shared.clone(),
            cost: self.cost,
            version,
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reservation, RateLimited>> {
        let (shared, now) = (&self.shared, time::now());
        let version = shared.version();
        if shared.try_take(self.cost, now).is_ok() {
            let mark = shared.asked(self.cost, now, true, InForce::Passed);
            return Poll::Ready(Ok(self.reservation(version | mark)));
        }
        self.join_queue(now, version, cx)
    }

    /// Nothing if it has passed after all, else its place, or why it has none.
    fn ask_for_a_place(
        &self,
        now: Tick,
        config: &RateLimitConfig,
        gives_up: Tick,
        by_deadline: bool,
    ) -> Result<Option<u64>, (Not, RateLimitReason)> {
        self.shared.with_state(now, |state, time| {
            // Anew: somebody may have given something back.
            let (at, quota) = match state.outlook(self.cost, time) {
                Ok(()) => {
                    state.take(self.cost, time);
                    return Ok(None);
                }
                Err(never @ Not::Ever { .. }) => {
                    return Err((never, RateLimitReason::ExceedsBurst));
                }
                Err(Not::Before { at, quota }) => (at, quota),
            };
            let not = Not::Before { at, quota };
            if config.max_wait.is_zero() {
                return Err((not, RateLimitReason::Exhausted));
            }
            if self.shared.tick(at) > gives_up {
                return Err((not, too_late(by_deadline)));
            }
            let most = config.max_waiting.unwrap_or(usize::MAX);
            if state.waiting() >= most {
                return Err((not, RateLimitReason::QueueFull));
            }
            Ok(Some(state.enqueue(self.cost)))
        })
    }

    /// There is not enough right now.
    fn join_queue(
        &mut self,
        now: Tick,
        version: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Reservation, RateLimited>> {
        let shared = &self.shared;
        let config = shared.config.load_full();
        let (gives_up, by_deadline) = gives_up(now, config.max_wait);
        let queued = self.ask_for_a_place(now, &config, gives_up, by_deadline);
        let in_force = match &queued {
            Ok(None) => InForce::Passed,
            Ok(Some(_)) => InForce::Queued,
            Err(_) => InForce::Refused,
        };
        let version = version | shared.asked(self.cost, now, true, in_force);
        match queued {
            Ok(None) => {
                shared.count_passed();
                Poll::Ready(Ok(self.reservation(version)))
            }
            Ok(Some(ticket)) => {
                self.queued = Some(Queued {
                    ticket,
                    version,
                    since: now,
                    gives_up,
                    by_deadline,
                    timer: Box::pin(sleep_until(gives_up.to_instant())),
                });
                self.poll_queued(cx)
            }
            Err((refused, reason)) => {
                let limit = shared.clone().into_arc();
                let refused = shared.refused(limit, refused, reason, (Duration::ZERO, now));
                Poll::Ready(Err(refused))
            }
        }
    }

    fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reservation, RateLimited>> {
        loop {
            let Some(queued) = &mut self.queued else {
                return Poll::Pending;
            };
            let (shared, now) = (&self.shared, time::now());
            let ticket = queued.ticket;
            let waits = shared.with_state(now, |state, time| {
                let turn = state.look(ticket, cx.waker())?;
                if now < queued.gives_up {
                    return Some(Ok(turn));
                }
                state.abandon(ticket);
                let late = state.outlook(self.cost, time).err();
                Some(Err(late.unwrap_or(Not::Before {
                    at: time,
                    quota: None,
                })))
            });
            let waited = now.since(queued.since);
            let turn: Option<Time> = match waits {
                None => {
                    let version = queued.version;
                    self.queued = None;
                    shared.went_on(waited);
                    return Poll::Ready(Ok(self.reservation(version)));
                }
                Some(Err(late)) => {
                    let reason = too_late(queued.by_deadline);
                    self.queued = None;
                    let limit = shared.clone().into_arc();
                    let refused = shared.refused(limit, late, reason, (waited, now));
                    return Poll::Ready(Err(refused));
                }
                Some(Ok(turn)) => turn,
            };
            let turn = turn.map_or(Tick::NEVER, |turn| shared.tick(turn));
            let wakes = turn.min(queued.gives_up).to_instant();
            if queued.timer.deadline() != wakes {
                queued.timer.as_mut().reset(wakes);
            }
            if time::poll_timer(queued.timer.as_mut(), cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// When a call gives up, and whether it is its deadline that makes it so.
fn gives_up(now: Tick, max_wait: Duration) -> (Tick, bool) {
    let by_config = now.after(max_wait);
    let deadline = deadline::current().map(|deadline| deadline.0);
    let gives_up = deadline.map_or(by_config, |deadline| deadline.min(by_config));
    (gives_up, gives_up < by_config)
}

fn too_late(by_deadline: bool) -> RateLimitReason {
    match by_deadline {
        true => RateLimitReason::DeadlineExceeded,
        false => RateLimitReason::TooLong,
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(queued) = self.queued.take() else {
            return;
        };
        let (shared, now) = (&self.shared, time::now());
        shared.with_state(now, |state, time| {
            // It may have been served, and not have noticed.
            let was_served = !state.abandon(queued.ticket);
            if was_served && state.version == queued.version & VERSION {
                state.give_back(self.cost, time);
            }
        });
        shared.went_away(now.since(queued.since));
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("limit", self.shared.name())
            .field("waiting", &self.queued.is_some())
            .finish_non_exhaustive()
    }
}
