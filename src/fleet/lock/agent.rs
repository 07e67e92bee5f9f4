//! The one task of a lock in this process: it gives back, renews, keeps waits alive, and hears of hand-offs.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::lease::{Lease, LostReason};
use super::op::{Held, Member, Op, Reply};
use super::shared::{Due, Shared, lock, micros};
use super::store::{Ear, Heard};
use super::waiter::Waiter;
use crate::event::ContentionEvent;
use crate::util::time::{self, Tick};

/// How often those who wait say that they are there: four times before they lose their place.
const BEAT: Duration = Duration::from_secs(1);

/// How often the store is asked whether it is back.
const PROBE: Duration = Duration::from_millis(100);

/// After a failure.
const AGAIN: Duration = Duration::from_millis(100);

/// A lapsed lease is looked for at its end, but not more often than this.
const SOONEST: Duration = Duration::from_millis(20);

/// So many are named in one call: the server does nothing else meanwhile.
const AT_ONCE: usize = 500;

/// Starts the agent, unless it runs: on the runtime of the fleet, or else on that of the caller, if there is one. It ends by
/// itself.
pub(super) fn ensure(shared: &Arc<Shared>) {
    let mut agent = lock(&shared.agent);
    // The runtime that it was started on may be gone.
    if agent.as_ref().is_none_or(|it| it.is_finished()) {
        let current = || Handle::try_current().ok();
        let Some(runtime) = shared.runtime.clone().or_else(current) else {
            return;
        };
        // It listens before anything is asked, so that it misses nothing.
        let ear = shared.store.ear();
        *agent = Some(runtime.spawn(run(Arc::clone(shared), ear)));
    }
}

struct Agent {
    shared: Arc<Shared>,
    calls: JoinSet<Done>,
    beat_at: Tick,
    list_at: Tick,
    is_renewing: bool,
    is_beating: bool,
    is_listing: bool,
}

/// What a call was about that has ended.
enum Done {
    Other,
    Renewal,
    Beat {
        /// When the next one is of use.
        next: Tick,
    },
    List,
    /// One of them, and it is not known which.
    Panicked,
}

async fn run(shared: Arc<Shared>, mut ear: Ear) {
    let mut agent = Agent {
        calls: JoinSet::new(),
        beat_at: Tick::NEVER,
        list_at: Tick::default(),
        is_renewing: false,
        is_beating: false,
        is_listing: false,
        shared,
    };
    loop {
        let next = agent.start_what_is_due(time::now());
        if agent.is_over() {
            return;
        }
        tokio::select! {
            heard = ear.next() => match heard {
                Heard::Handoff(handoff) => agent.shared.handed(&handoff),
                Heard::Gap => agent.beat_at = time::now(),
            },
            done = join_next(&mut agent.calls) => agent.ended(&done),
            () = agent.shared.wake.notified() => {}
            () = sleep_until(next.to_instant()) => {}
        }
    }
}

async fn join_next(calls: &mut JoinSet<Done>) -> Done {
    match calls.join_next().await {
        Some(done) => done.unwrap_or(Done::Panicked),
        None => pending().await,
    }
}

impl Agent {
    fn is_over(&self) -> bool {
        let shared = &self.shared;
        if !shared.is_closed.load(Ordering::Relaxed) || !self.calls.is_empty() {
            return false;
        }
        let work = shared.work();
        // A second cancellation is no reason to stay.
        work.releases.is_empty() && work.cancels.iter().all(|it| it.is_second)
    }

    fn ended(&mut self, done: &Done) {
        match done {
            Done::Other => {}
            Done::Renewal => {
                self.is_renewing = false;
                self.shared.look_by(Tick::default());
            }
            Done::Beat { next } => {
                self.is_beating = false;
                self.beat_at = *next;
            }
            Done::List => self.is_listing = false,
            // Twice is better than never again.
            Done::Panicked => {
                (self.is_renewing, self.is_beating, self.is_listing) = (false, false, false);
                self.shared.look_by(Tick::default());
            }
        }
    }

    fn spawn(&mut self, call: impl Future<Output = Done> + Send + 'static) {
        self.calls.spawn(call);
    }

    /// When to look again.
    fn start_what_is_due(&mut self, now: Tick) -> Tick {
        let mut next = self.give_back(now);
        next = next.min(self.look_after_leases(now));
        let is_waited = self.shared.waiting() > 0;
        if self.shared.beat_now.swap(false, Ordering::Relaxed) {
            self.beat_at = now;
        }
        if !is_waited && !self.shared.is_away() {
            self.beat_at = Tick::NEVER;
            return next;
        }
        if self.shared.is_away() {
            self.beat_at = self.beat_at.min(now.after(PROBE));
        }
        self.beat_at = self.beat_at.min(now.after(BEAT));
        if self.beat_at <= now && !self.is_beating {
            self.is_beating = true;
            self.spawn(beat(Arc::clone(&self.shared), self.waiting()));
        }
        if self.list_at <= now && !self.is_listing && is_waited {
            self.is_listing = true;
            self.list_at = now.after(BEAT);
            self.spawn(list(Arc::clone(&self.shared)));
        }
        if !self.is_beating {
            next = next.min(self.beat_at);
        }
        if is_waited && !self.is_listing {
            next = next.min(self.list_at);
        }
        next
    }

    fn waiting(&self) -> Vec<Arc<Waiter>> {
        let waiters = self.shared.waiters();
        let queued = waiters.values().filter(|it| it.is_queued());
        queued.cloned().collect()
    }

    fn give_back(&mut self, now: Tick) -> Tick {
        let (releases, cancels, next) = {
            let mut work = self.shared.work();
            let releases: Vec<_> = work.releases.extract_if(.., |it| it.at <= now).collect();
            let cancels: Vec<_> = work.cancels.extract_if(.., |it| it.at <= now).collect();
            let later = work.releases.iter().map(|it| it.at);
            let later = later.chain(work.cancels.iter().map(|it| it.at));
            (releases, cancels, later.min().unwrap_or(Tick::NEVER))
        };
        if !releases.is_empty() {
            self.spawn(release(Arc::clone(&self.shared), releases));
        }
        if !cancels.is_empty() {
            self.spawn(cancel(Arc::clone(&self.shared), cancels));
        }
        next
    }

    fn look_after_leases(&mut self, now: Tick) -> Tick {
        let due = Tick(self.shared.look_at.load(Ordering::Relaxed));
        if now < due {
            return due;
        }
        // Before they are looked at: one that comes meanwhile says when.
        self.shared.look_at.store(Tick::NEVER.0, Ordering::Relaxed);
        let leases: Vec<Arc<Lease>> = self.shared.leases().values().cloned().collect();
        let mut next = Tick::NEVER;
        let (mut is_due, mut live) = (false, Vec::new());
        for lease in leases {
            if let Some(reason) = lease.lost_by(now) {
                self.shared.lose(&lease, reason);
                continue;
            }
            next = next.min(self.report_long_hold(&lease, now));
            let state = *lease.lock();
            next = next.min(state.until);
            if state.renew_at <= now {
                is_due = true;
            } else if !self.is_renewing {
                next = next.min(state.renew_at);
            }
            live.push(lease);
        }
        if is_due && !self.is_renewing {
            self.is_renewing = true;
            self.spawn(renew(Arc::clone(&self.shared), live));
        }
        self.shared.look_by(next);
        next
    }

    /// When that is due, if it is not yet.
    fn report_long_hold(&self, lease: &Lease, now: Tick) -> Tick {
        let Some(threshold) = self.shared.settings.hold_threshold else {
            return Tick::NEVER;
        };
        let (due, held_for) = (lease.since.after(threshold), now.since(lease.since));
        if now < due {
            return due;
        }
        if !std::mem::replace(&mut lease.lock().reported, true) {
            self.shared.publish(ContentionEvent::LongHold {
                holder: lease.holder.clone(),
                held_for,
                released: false,
            });
        }
        Tick::NEVER
    }
}

/// Said again later, unless it makes no difference any more.
fn again<T>(what: Vec<Due<T>>) -> impl Iterator<Item = Due<T>> {
    let now = time::now();
    let still = what.into_iter().filter(move |it| it.until > now);
    still.map(move |it| Due {
        at: now.after(AGAIN),
        ..it
    })
}

async fn release(shared: Arc<Shared>, releases: Vec<Due<(u32, u64)>>) -> Done {
    let mut failed = Vec::new();
    for part in releases.chunks(AT_ONCE) {
        let op = Op::Release(part.iter().map(|it| it.what).collect());
        if shared.ask(&op, shared.call_timeout).await.is_err() {
            failed.extend_from_slice(part);
        }
    }
    shared.work().releases.extend(again(failed));
    Done::Other
}

async fn cancel(shared: Arc<Shared>, cancels: Vec<Due<Member>>) -> Done {
    let mut failed = Vec::new();
    for part in cancels.chunks(AT_ONCE) {
        let op = Op::Cancel(part.iter().map(|it| it.what.clone()).collect());
        if shared.ask(&op, shared.call_timeout).await.is_err() {
            failed.extend_from_slice(part);
        }
    }
    shared.work().cancels.extend(again(failed));
    Done::Other
}

async fn renew(shared: Arc<Shared>, leases: Vec<Arc<Lease>>) -> Done {
    for part in leases.chunks(AT_ONCE) {
        renew_part(&shared, part).await;
    }
    Done::Renewal
}

async fn renew_part(shared: &Shared, leases: &[Arc<Lease>]) {
    let held = leases.iter().map(|it| Held {
        slot: it.fence.slot,
        token: it.fence.token,
        expiry: it.lock().expiry,
        member: it.member.clone(),
    });
    let op = Op::Renew(held.collect());
    let asked = shared.ask(&op, shared.patience()).await;
    let now = time::now();
    if let Ok((answer, sent)) = &asked
        && let Reply::Renewed(expiries) = &answer.reply
    {
        shared.renewals.fetch_add(1, Ordering::Relaxed);
        for (lease, expiry) in leases.iter().zip(expiries) {
            match *expiry {
                0 => shared.lose(lease, LostReason::Refused),
                _ => lease.renewed(sent.after(micros(expiry - answer.now)), *expiry, now),
            }
        }
        return;
    }
    for lease in leases {
        let mut state = lease.lock();
        let pause = AGAIN.min(shared.patience());
        state.renew_at = state.renew_at.max(now.after(pause));
    }
}

/// Also where nobody waits: it asks whether the store is back.
async fn beat(shared: Arc<Shared>, waiting: Vec<Arc<Waiter>>) -> Done {
    let mut next = Tick::NEVER;
    let mut left = waiting.as_slice();
    loop {
        let (part, rest) = left.split_at(left.len().min(AT_ONCE));
        next = next.min(beat_part(&shared, part).await);
        left = rest;
        if left.is_empty() {
            return Done::Beat { next };
        }
    }
}

/// When the next one is of use.
async fn beat_part(shared: &Shared, waiting: &[Arc<Waiter>]) -> Tick {
    let op = Op::Beat(waiting.iter().map(|it| it.member.clone()).collect());
    // However patient calls are: a place in the queue has to bear one that is not answered.
    let asked = shared.ask(&op, shared.call_timeout.min(BEAT)).await;
    let now = time::now();
    let Ok((answer, _)) = asked else {
        return now.after(AGAIN);
    };
    let Reply::Beaten { next, ranks, .. } = answer.reply else {
        return now.after(BEAT);
    };
    let mut is_near = false;
    for (waiter, rank) in waiting.iter().zip(ranks) {
        if rank < 0 {
            waiter.ask_again();
            continue;
        }
        waiter.lock().rank = rank;
        is_near |= rank < answer.max;
    }
    // Whoever is next looks at the moment at which the first lease can have lapsed.
    if is_near && next > 0 {
        let lapses = micros(next - answer.now).max(SOONEST);
        return now.after(lapses.min(BEAT));
    }
    now.after(BEAT)
}

async fn list(shared: Arc<Shared>) -> Done {
    if let Ok((answer, _)) = shared.ask(&Op::List, shared.call_timeout).await {
        shared.saw(answer);
    }
    Done::List
}
