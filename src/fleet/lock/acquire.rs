//! Waiting for a slot.

use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::{sleep_until, timeout_at};

use super::super::error::StoreError;
use super::agent;
use super::entry::enter;
use super::guard::{FleetGuard, Permit};
use super::lease::{Fence, Grant};
use super::op::{Op, Reply};
use super::owner::Owner;
use super::refused;
use super::shared::{Shared, micros};
use super::waiter::{Told, Waiter};
use crate::call::Holder;
use crate::call::context::Wait;
use crate::call::deadline::{self, Deadline};
use crate::error::{Contended, ContendedReason};
use crate::event::ContentionEvent;
use crate::util::time::{self, Tick};

/// The first pause after a call that failed; each is twice as long as the one before it.
const PAUSE: Duration = Duration::from_millis(20);

const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Waits for a permit. Made by [`FleetLock::acquire`](super::FleetLock::acquire); `.await` begins it.
#[must_use = "nothing happens unless it is awaited"]
pub struct FleetAcquire {
    pub(super) owner: Arc<Owner>,
    pub(super) holder: Holder,
    pub(super) timeout: Option<Duration>,
    pub(super) waits: bool,
    /// Besides the ambient one.
    pub(super) deadline: Option<Deadline>,
}

impl FleetAcquire {
    /// Waits at most for `timeout`, instead of the lock's own. Zero does not wait in the queue, but it waits for the store to answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self.waits = !timeout.is_zero();
        self
    }

    /// Waits without end, or until the ambient deadline.
    pub fn no_timeout(mut self) -> Self {
        self.timeout = None;
        self.waits = true;
        self
    }
}

impl fmt::Debug for FleetAcquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetAcquire")
            .field("resource", self.owner.0.funnel.name())
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}

impl IntoFuture for FleetAcquire {
    type Output = Result<FleetGuard, Contended>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut attempt = std::pin::pin!(Attempt::begin(self).run());
            // The calls around it are told that they wait.
            let mut wait = Wait::new(0);
            poll_fn(|cx| {
                let waker = cx.waker().clone();
                wait.poll(&waker, || attempt.as_mut().poll(cx))
            })
            .await
        })
    }
}

/// One attempt. Dropped before its end, it leaves nothing at the store.
struct Attempt {
    owner: Arc<Owner>,
    holder: Holder,
    waiter: Arc<Waiter>,
    began: Tick,
    until: Tick,
    /// Whether the end is the deadline of the request.
    is_deadline: bool,
    waits: bool,
    /// Whether the store may know of it.
    was_sent: bool,
    /// Whether a call is under way, or was not answered.
    is_doubtful: bool,
    /// Whether it has waited for more than one answer of the store: in the queue, for its turn to ask, or to ask again.
    has_waited: bool,
    is_reported: bool,
    is_over: bool,
}

enum End {
    Granted(Grant),
    Refused(ContendedReason),
    WithoutTheStore,
}

impl Attempt {
    fn begin(ask: FleetAcquire) -> Self {
        let (shared, began) = (&ask.owner.0, time::now());
        let own = ask.timeout.map_or(Tick::NEVER, |it| began.after(it));
        // Whoever does not wait in the queue waits for the store.
        let own = if ask.waits {
            own
        } else {
            began.after(shared.call_timeout)
        };
        let ambient = deadline::earlier(deadline::current(), ask.deadline);
        let ambient = ambient.map_or(Tick::NEVER, |it| it.0);
        shared.counts().attempts += 1;
        agent::ensure(shared);
        let waiter = enter(shared, &ask.holder);
        Self {
            holder: ask.holder,
            waiter,
            began,
            until: own.min(ambient),
            is_deadline: ambient < own,
            waits: ask.waits,
            was_sent: false,
            is_doubtful: false,
            has_waited: false,
            is_reported: false,
            is_over: false,
            owner: ask.owner,
        }
    }

    async fn run(mut self) -> Result<FleetGuard, Contended> {
        loop {
            let end = match self.ask_the_store().await {
                Some(end) => Some(end),
                None => self.wait().await,
            };
            match end {
                None => self.leaves_the_queue(),
                Some(End::WithoutTheStore) => {
                    if let Some(admitted) = self.admit_locally().await {
                        return admitted;
                    }
                    // It is back. What it knew of this attempt is being cancelled: this is a new one.
                    self.waiter = enter(&self.owner.0, &self.holder);
                    self.is_doubtful = false;
                }
                Some(end) => return self.end(end),
            }
        }
    }

    fn end(mut self, end: End) -> Result<FleetGuard, Contended> {
        let shared = Arc::clone(&self.owner.0);
        self.is_over = true;
        match end {
            End::Granted(grant) => {
                // What the store knows of it is the guard's now.
                self.was_sent = false;
                let (member, holder) = (self.waiter.member.clone(), self.holder.clone());
                let lease = shared.add_lease(grant, member, holder, self.is_doubtful);
                let guard = FleetGuard(Permit::Leased {
                    lease,
                    owner: Arc::clone(&self.owner),
                });
                self.admitted(false);
                Ok(guard)
            }
            End::Refused(reason) => Err(self.refused(reason)),
            End::WithoutTheStore => Err(self.refused(self.unavailable())),
        }
    }

    /// Until there is an answer. `None`: it is in the queue.
    async fn ask_the_store(&mut self) -> Option<End> {
        let shared = Arc::clone(&self.owner.0);
        let mut pause = PAUSE;
        loop {
            if shared.is_away() {
                return Some(self.without_the_store());
            }
            let turn = self.turn(&shared).await;
            if let Some(end) = self.needs_no_question(&shared) {
                return Some(end);
            }
            let left = self.until.since(time::now());
            let op = self.op();
            let knew = std::mem::replace(&mut self.was_sent, true);
            let doubted = std::mem::replace(&mut self.is_doubtful, true);
            let asked = shared.ask(&op, left).await;
            drop(turn);
            self.is_doubtful = doubted;
            match asked {
                Ok((answer, sent)) => match answer.reply {
                    Reply::Granted {
                        slot,
                        token,
                        expiry,
                    } => {
                        let fence = Fence { slot, token };
                        let until = sent.after(micros(expiry - answer.now));
                        if until > time::now() {
                            return Some(End::Granted(Grant {
                                fence,
                                until,
                                expiry,
                            }));
                        }
                        // The answer was under way for as long as the lease: another may have the slot by now.
                        self.has_waited = true;
                    }
                    Reply::Refused { .. } => {
                        // A call before this one may be done yet.
                        self.was_sent = self.is_doubtful;
                        return Some(self.is_full());
                    }
                    Reply::Waits { rank, .. } => {
                        self.queued(rank);
                        return None;
                    }
                    _ => {}
                },
                Err(error) => self.is_not_answered(knew, &error),
            }
            let again = time::now().after(pause).min(self.until);
            pause = (pause * 2).min(LONGEST_PAUSE);
            sleep_until(again.to_instant()).await;
        }
    }

    /// What is known already when it could ask.
    fn needs_no_question(&mut self, shared: &Shared) -> Option<End> {
        if shared.is_away() {
            return Some(self.without_the_store());
        }
        let now = time::now();
        if let Some(grant) = self.waiter.take_grant()
            && grant.until > now
        {
            return Some(End::Granted(grant));
        }
        (now >= self.until).then(|| self.too_late())
    }

    /// Its turn to ask. `None`: its time is over.
    async fn turn<'a>(&mut self, shared: &'a Shared) -> Option<SemaphorePermit<'a>> {
        if let Ok(turn) = shared.turns.try_acquire() {
            return Some(turn);
        }
        self.has_waited = true;
        let turn = timeout_at(self.until.to_instant(), shared.turns.acquire());
        turn.await.ok()?.ok()
    }

    fn is_not_answered(&mut self, knew: bool, error: &StoreError) {
        let may_be_done = error.may_have_been_done();
        self.was_sent = knew || may_be_done;
        self.is_doubtful |= may_be_done;
        // It pauses, and asks again.
        self.has_waited = true;
    }

    fn op(&self) -> Op {
        let settings = &self.owner.0.settings;
        let grace = if settings.grace {
            settings.lease_micros()
        } else {
            0
        };
        Op::Acquire {
            member: self.waiter.member.clone(),
            may_wait: if self.waits { settings.may_wait() } else { 0 },
            max: settings.max(),
            version: i64::from(settings.version),
            grace,
            retry: self.was_sent,
        }
    }

    fn queued(&mut self, rank: i64) {
        let shared = &self.owner.0;
        let was_queued = {
            let mut state = self.waiter.lock();
            state.rank = rank;
            std::mem::replace(&mut state.queued, true)
        };
        shared
            .queued
            .fetch_add(usize::from(!was_queued), Ordering::Relaxed);
        self.has_waited = true;
        let waiting = shared.waiting();
        let mut counts = shared.counts();
        counts.peak_waiting = counts.peak_waiting.max(waiting);
        drop(counts);
        shared.wake.notify_one();
    }

    fn leaves_the_queue(&self) {
        let was_queued = std::mem::take(&mut self.waiter.lock().queued);
        let queued = &self.owner.0.queued;
        queued.fetch_sub(usize::from(was_queued), Ordering::Relaxed);
    }

    /// In the queue. `None`: the store has to be asked again.
    async fn wait(&mut self) -> Option<End> {
        let shared = Arc::clone(&self.owner.0);
        let report_at = self.began.after(shared.settings.contention_threshold);
        loop {
            let next = if self.is_reported {
                self.until
            } else {
                self.until.min(report_at)
            };
            match timeout_at(next.to_instant(), self.waiter.told()).await {
                Ok(Told::Granted(grant)) if grant.until > time::now() => {
                    return Some(End::Granted(grant));
                }
                // The message was under way for longer than the lease is sure: the store knows better.
                Ok(Told::Granted(_) | Told::AskAgain) => return None,
                Ok(Told::StoreIsAway) if shared.local.is_some() && shared.is_away() => {
                    return Some(End::WithoutTheStore);
                }
                // It may be back in time, and then the place in the queue is still there.
                Ok(Told::StoreIsAway) => {}
                Err(_) if time::now() >= self.until => return Some(self.too_late()),
                Err(_) => self.report(),
            }
        }
    }

    /// It waits for long, and still does.
    fn report(&mut self) {
        if std::mem::replace(&mut self.is_reported, true) {
            return;
        }
        let shared = &self.owner.0;
        shared.publish(ContentionEvent::Contended {
            holder: self.holder.clone(),
            waited: time::now().since(self.began),
            holders: shared.holders(),
            queue_length: shared.queue_length(),
        });
    }

    fn without_the_store(&self) -> End {
        match &self.owner.0.local {
            Some(_) => End::WithoutTheStore,
            None => End::Refused(self.unavailable()),
        }
    }

    fn unavailable(&self) -> ContendedReason {
        let why = self.owner.0.health().why.clone();
        let why = why.map_or_else(
            || "the shared store is away".to_owned(),
            |it| it.to_string(),
        );
        ContendedReason::Unavailable { why: why.into() }
    }

    fn too_late(&self) -> End {
        let failed = self.owner.0.health().why.is_some();
        End::Refused(match (self.is_deadline, failed) {
            (true, _) => ContendedReason::DeadlineExceeded,
            (false, true) => self.unavailable(),
            (false, false) => ContendedReason::TimedOut,
        })
    }

    fn is_full(&self) -> End {
        End::Refused(if self.waits {
            ContendedReason::QueueFull
        } else {
            ContendedReason::Busy
        })
    }

    /// Also while it was not in the queue.
    fn is_contended(&self, waited: Duration) -> bool {
        self.has_waited && waited >= self.owner.0.settings.contention_threshold
    }

    fn admitted(&self, is_local: bool) {
        let shared = &self.owner.0;
        let now = time::now();
        let waited = if self.has_waited {
            now.since(self.began)
        } else {
            Duration::ZERO
        };
        let mut counts = shared.counts();
        counts.acquisitions += 1;
        counts.local += u64::from(is_local);
        counts.contentions += u64::from(self.is_contended(waited));
        counts.waited(waited, now);
        drop(counts);
        if self.has_waited && shared.funnel.hears_details() {
            let holder = self.holder.clone();
            shared.publish(ContentionEvent::Acquired { holder, waited });
        }
    }

    /// A permit of this process, within the time that is left. `None`: the store is back.
    async fn admit_locally(&mut self) -> Option<Result<FleetGuard, Contended>> {
        let shared = Arc::clone(&self.owner.0);
        let Some(local) = shared.local.clone() else {
            self.is_over = true;
            return Some(Err(self.refused(self.unavailable())));
        };
        let mut back = std::pin::pin!(shared.back.notified());
        back.as_mut().enable();
        if !shared.is_away() {
            self.forget();
            return None;
        }
        self.forget();
        let acquire = local.acquire(self.holder.clone());
        let acquire = match (self.waits, self.until) {
            (false, _) => acquire.timeout(Duration::ZERO),
            (true, Tick::NEVER) => acquire.no_timeout(),
            (true, until) => acquire.timeout(until.since(time::now())),
        };
        let asked = time::now();
        let admitted = tokio::select! {
            biased;
            admitted = acquire.owned() => Some(admitted),
            () = back => None,
        };
        self.has_waited |= time::now() > asked;
        let admitted = admitted?;
        self.is_over = true;
        Some(match admitted {
            Ok(guard) => {
                self.admitted(true);
                let owner = Arc::clone(&self.owner);
                Ok(FleetGuard(Permit::Local { guard, owner }))
            }
            Err(contended) => Err(self.refused(match contended.reason() {
                ContendedReason::TimedOut if self.is_deadline => ContendedReason::DeadlineExceeded,
                reason => reason.clone(),
            })),
        })
    }

    fn refused(&self, reason: ContendedReason) -> Contended {
        let waited = time::now().since(self.began);
        refused::refused(
            &self.owner.0,
            &self.holder,
            waited,
            reason,
            self.is_deadline,
        )
    }

    /// Neither this process nor the store keeps anything of it.
    fn forget(&mut self) {
        let shared = &self.owner.0;
        shared.waiters().remove(self.waiter.member.id());
        self.leaves_the_queue();
        if std::mem::take(&mut self.was_sent) {
            shared.cancel(&self.waiter.member, self.is_doubtful);
            // The runtime that it ran on may be gone.
            agent::ensure(shared);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.forget();
        let shared = &self.owner.0;
        if !self.is_over {
            let now = time::now();
            let waited = now.since(self.began);
            let mut counts = shared.counts();
            counts.abandoned += 1;
            counts.contentions += u64::from(self.is_contended(waited));
            counts.waited(waited, now);
            drop(counts);
            if shared.funnel.hears_details() {
                let holder = self.holder.clone();
                shared.publish(ContentionEvent::Abandoned { holder, waited });
            }
        }
    }
}
