//! What the handle, the guards, the waits and the agent of one lock share in this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::Fleet;
use super::super::error::StoreError;
use super::super::reporter::Reporter;
use super::counts::Counts;
use super::lease::{Fence, Grant, Lease, LostReason};
use super::op::{Answer, Handoff, Listed, Member, Micros, Op, Reply};
use super::settings::Settings;
use super::store::LockStore;
use super::waiter::Waiter;
use crate::call::Holder;
use crate::contention::ResourceLock;
use crate::error::{Contended, ContendedReason, HolderInfo, LockView, Look};
use crate::event::{ContentionEvent, Event, FleetEvent, FleetPart, Funnel, guarded};
use crate::util::time::{self, Tick};

/// So many calls in a row that fail, and the store is away: nobody waits for it any more.
const FAILURES: u32 = 3;

/// So many calls of one process that ask for a permit are under way at most: some milliseconds of work for a server.
const AT_ONCE: usize = 128;

/// A store that has not answered for so long does not answer, however patient calls are.
const ENOUGH: Duration = Duration::from_secs(1);

/// Something that is to be told to the store, until then.
#[derive(Clone)]
pub(super) struct Due<T> {
    pub(super) what: T,
    /// From then on it makes no difference.
    pub(super) until: Tick,
    /// Not before: it failed, or it is said a second time.
    pub(super) at: Tick,
    /// It was said before, and answered: it is said again for a call that may be done late.
    pub(super) is_second: bool,
}

#[derive(Default)]
pub(super) struct Work {
    pub(super) releases: Vec<Due<(u32, u64)>>,
    pub(super) cancels: Vec<Due<Member>>,
}

/// What the store said last of all who hold and wait.
#[derive(Default)]
pub(super) struct View {
    pub(super) seen: Option<(Tick, Micros, Listed)>,
    pub(super) max: Option<i64>,
    pub(super) version: i64,
    /// Whether it was said that the number of permits is another than the one set here.
    warned: bool,
}

#[derive(Default)]
pub(super) struct Health {
    failures: u32,
    pub(super) away_since: Option<Tick>,
    pub(super) why: Option<StoreError>,
}

pub(super) struct Shared {
    reporter: Arc<Reporter>,
    pub(super) node: Arc<str>,
    pub(super) inbox: Arc<str>,
    pub(super) settings: Settings,
    pub(super) call_timeout: Duration,
    pub(super) store: Box<dyn LockStore>,
    /// Where the agent runs: that of a caller may end before the lock.
    pub(super) runtime: Option<Handle>,
    /// The connection is there for as long as the agent is.
    _fleet: Option<Fleet>,
    pub(super) funnel: Funnel,
    /// For the time without the store, if that was asked for.
    pub(super) local: Option<ResourceLock>,
    counts: Mutex<Counts>,
    leases: Mutex<HashMap<u64, Arc<Lease>>>,
    waiters: Mutex<HashMap<String, Arc<Waiter>>>,
    /// How many of `waiters` are in the queue.
    pub(super) queued: AtomicUsize,
    /// When the agent has to look after the leases: it is woken for each of thousands.
    pub(super) look_at: AtomicU64,
    work: Mutex<Work>,
    view: Mutex<View>,
    health: Mutex<Health>,
    /// Who asks for a permit: of ten thousand who come at once, most would give up before the store came to them.
    pub(super) turns: Semaphore,
    /// Changes only while `health` is locked.
    is_away: AtomicBool,
    /// Wakes who does without the store when it is back.
    pub(super) back: Notify,
    /// A moment of this process, and a time that the store had reached then or later.
    clock: Mutex<Option<(Tick, Micros)>>,
    pub(super) agent: Mutex<Option<JoinHandle<()>>>,
    /// Wakes the agent.
    pub(super) wake: Notify,
    /// Whether the agent has to beat at once.
    pub(super) beat_now: AtomicBool,
    /// No handle, no guard and no wait is left.
    pub(super) is_closed: AtomicBool,
    pub(super) renewals: AtomicU64,
}

/// Locks a mutex whoever panicked with it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a lock is, and with whom it is shared.
pub(super) struct Place {
    pub(super) reporter: Arc<Reporter>,
    pub(super) name: Arc<str>,
    pub(super) node: Arc<str>,
    pub(super) inbox: Arc<str>,
    pub(super) call_timeout: Duration,
}

impl Shared {
    pub(super) fn new(
        place: Place,
        settings: Settings,
        local: Option<ResourceLock>,
        store: Box<dyn LockStore>,
        fleet: Option<Fleet>,
    ) -> Self {
        Self {
            runtime: fleet.as_ref().and_then(|it| it.shared.tasks.runtime()),
            _fleet: fleet,
            reporter: place.reporter,
            node: place.node,
            inbox: place.inbox,
            call_timeout: place.call_timeout,
            funnel: Funnel::new(place.name, settings.observers.clone()),
            settings,
            store,
            local,
            counts: Mutex::default(),
            leases: Mutex::default(),
            waiters: Mutex::default(),
            queued: AtomicUsize::new(0),
            look_at: AtomicU64::new(Tick::NEVER.0),
            work: Mutex::default(),
            view: Mutex::default(),
            health: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
            is_away: AtomicBool::new(false),
            back: Notify::new(),
            clock: Mutex::default(),
            agent: Mutex::default(),
            wake: Notify::new(),
            beat_now: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            renewals: AtomicU64::new(0),
        }
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }

    pub(super) fn leases(&self) -> MutexGuard<'_, HashMap<u64, Arc<Lease>>> {
        lock(&self.leases)
    }

    pub(super) fn waiters(&self) -> MutexGuard<'_, HashMap<String, Arc<Waiter>>> {
        lock(&self.waiters)
    }

    /// How many of this process are in the queue.
    pub(super) fn waiting(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// The agent has to look after the leases at this time, or before.
    pub(super) fn look_by(&self, at: Tick) {
        self.look_at.fetch_min(at.0, Ordering::Relaxed);
    }

    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }

    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// Asks the store, within the time of a call. The answer, and when it was asked for.
    pub(super) async fn ask(
        &self,
        op: &Op,
        within: Duration,
    ) -> Result<(Answer, Tick), StoreError> {
        let sent = time::now();
        let within = within.min(self.call_timeout);
        let asked = timeout(within, self.store.ask(op, within)).await;
        let answer = asked.unwrap_or(Err(StoreError::Deadline));
        match answer {
            Ok(answer) => {
                self.hear(&answer, sent);
                Ok((answer, sent))
            }
            // Who has hardly any time left does not find out whether the store answers.
            Err(StoreError::Deadline) if within < self.patience().min(ENOUGH) => {
                self.health().why = Some(StoreError::Deadline);
                Err(StoreError::Deadline)
            }
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// How long a call waits at most that can be made again: a lease has to bear one that is not answered.
    pub(super) fn patience(&self) -> Duration {
        self.call_timeout.min(self.settings.lease / 6)
    }

    fn hear(&self, answer: &Answer, sent: Tick) {
        *lock(&self.clock) = Some((sent, answer.now));
        self.is_back();
        if answer.max < 0 {
            return;
        }
        let (before, mismatch) = {
            let mut view = self.view();
            let before = view.max.replace(answer.max);
            view.version = answer.version;
            let differs = answer.max != self.settings.max();
            (
                before,
                differs && !std::mem::replace(&mut view.warned, differs),
            )
        };
        if let Some(before) = before
            && before != answer.max
        {
            self.publish(ContentionEvent::CapacityChanged {
                from: as_count(before),
                to: as_count(answer.max),
            });
        }
        if mismatch {
            guarded(self.funnel.name(), || {
                tracing::warn!(
                    target: "tower_bulwark", pattern = "contention", name = %self.funnel.name(),
                    "the shared lock has {} permits (version {}), not the {} of this process (version {}): \
                     a higher `version` wins",
                    answer.max, answer.version, self.settings.max_concurrent, self.settings.version,
                );
            });
        }
    }

    pub(super) fn is_back(&self) {
        let mut health = self.health();
        health.failures = 0;
        health.why = None;
        let Some(since) = health.away_since.take() else {
            return;
        };
        // Under the lock: one that fails at the same time must not have the last word.
        self.is_away.store(false, Ordering::Relaxed);
        drop(health);
        self.back.notify_waiters();
        self.beat_now.store(true, Ordering::Relaxed);
        self.wake.notify_one();
        let away = time::now().since(since);
        self.reporter
            .is_back(FleetPart::Lock, self.funnel.name(), away);
    }

    pub(super) fn failed(&self, error: &StoreError) {
        self.counts().store_errors += 1;
        let mut health = self.health();
        health.failures = health.failures.saturating_add(1);
        health.why = Some(error.clone());
        if health.failures < FAILURES || health.away_since.is_some() {
            return;
        }
        health.away_since = Some(time::now());
        self.is_away.store(true, Ordering::Relaxed);
        drop(health);
        for waiter in self.waiters().values() {
            waiter.store_is_away();
        }
        self.wake.notify_one();
        self.reporter
            .is_away(FleetPart::Lock, self.funnel.name(), error);
    }

    /// A hand-off, told by a message that has been under way for an unknown time. A time that the store had reached when it
    /// was last asked bounds it on one side, the time of the message itself on the other, should the clock have run ahead.
    pub(super) fn handed(&self, handoff: &Handoff) {
        let Some(waiter) = self.waiters().get(&handoff.id).cloned() else {
            // It has gone, and a cancellation is under way.
            return;
        };
        let mut until = time::now().after(micros(handoff.expiry - handoff.now));
        if let Some((then, reached)) = *lock(&self.clock) {
            until = until.min(then.after(micros(handoff.expiry - reached)));
        }
        waiter.grant(Grant {
            fence: Fence {
                slot: handoff.slot,
                token: handoff.token,
            },
            until,
            expiry: handoff.expiry,
        });
    }

    pub(super) fn add_lease(
        &self,
        grant: Grant,
        member: Member,
        holder: Holder,
        is_doubtful: bool,
    ) -> Arc<Lease> {
        let lease = Lease::new(grant, member, holder, is_doubtful, time::now());
        let lease = Arc::new(lease);
        let in_use = {
            let mut leases = self.leases();
            leases.insert(grant.fence.token, Arc::clone(&lease));
            leases.len()
        };
        let next = lease.lock().renew_at;
        let reports = self.settings.hold_threshold;
        self.look_by(reports.map_or(next, |it| next.min(lease.since.after(it))));
        let mut counts = self.counts();
        counts.peak_in_use = counts.peak_in_use.max(in_use);
        drop(counts);
        self.wake.notify_one();
        lease
    }

    /// Gives a lease back, without waiting for it.
    pub(super) fn give_back(&self, lease: &Lease) {
        let now = time::now();
        self.leases().remove(&lease.fence.token);
        let held_for = now.since(lease.since);
        self.counts().held(held_for, now);
        let state = *lease.lock();
        if !state.is_released {
            // What was lost may still be there: a release is for one token only.
            self.work().releases.push(Due {
                what: (lease.fence.slot, lease.fence.token),
                until: state.until,
                at: now,
                is_second: false,
            });
        }
        if lease.is_doubtful {
            // A call that was not answered may have got another slot, or may get it yet.
            self.cancel(&lease.member, true);
        }
        self.wake.notify_one();
        let threshold = self.settings.hold_threshold;
        if threshold.is_some_and(|it| held_for >= it) {
            self.publish(ContentionEvent::LongHold {
                holder: lease.holder.clone(),
                held_for,
                released: true,
            });
        }
    }

    /// Nobody wants what this member may have or get.
    pub(super) fn cancel(&self, member: &Member, is_doubtful: bool) {
        let now = time::now();
        let until = now.after(micros(member.lease()));
        let due = |at| Due {
            what: member.clone(),
            until,
            at,
            is_second: at > now,
        };
        let mut work = self.work();
        work.cancels.push(due(now));
        if is_doubtful {
            // A call that was not answered may be done after this.
            work.cancels.push(due(now.after(Duration::from_secs(1))));
        }
        drop(work);
        self.wake.notify_one();
    }

    pub(super) fn lose(&self, lease: &Lease, reason: LostReason) {
        // What was given back meanwhile is not in anybody's hands.
        let is_held = self.leases().contains_key(&lease.fence.token);
        if is_held && lease.lose(reason) {
            self.counts().lost += 1;
            self.reporter.tell(FleetEvent::LeaseLost {
                lock: Arc::clone(self.funnel.name()),
                holder: lease.holder.to_string(),
                reason: reason.to_string(),
            });
        }
    }

    pub(super) fn saw(&self, answer: Answer) {
        if let Reply::Listed(listed) = answer.reply {
            self.view().seen = Some((time::now(), answer.now, listed));
        }
    }

    pub(super) fn publish(&self, event: ContentionEvent) {
        self.funnel.publish(&Event::Contention(event));
    }

    pub(super) fn capacity(&self) -> usize {
        as_count(self.view().max.unwrap_or_else(|| self.settings.max()))
    }

    /// Whoever holds a slot anywhere, as was last seen.
    pub(super) fn holders(&self) -> Vec<HolderInfo> {
        let now = time::now();
        let view = self.view();
        let Some((seen, then, listed)) = &view.seen else {
            return Vec::new();
        };
        let age = now.since(*seen);
        let mut held: Vec<_> = listed.still_held(*then, age).collect();
        held.sort_by_key(|it| it.token);
        held.truncate(HolderInfo::MOST_NAMED);
        held.iter()
            .map(|it| {
                let held_for = since(it.token, *then) + age;
                let member = &it.member;
                let holder = format!("{} on {}", member.workflow(), member.node());
                HolderInfo::new(holder.into(), held_for, true, 1)
            })
            .collect()
    }

    /// How many wait in the whole fleet, as was last seen.
    pub(super) fn queue_length(&self) -> usize {
        let (now, view) = (time::now(), self.view());
        let fresh = view.seen.as_ref();
        let fresh = fresh.filter(|(seen, _, listed)| listed.is_fresh(now.since(*seen)));
        fresh.map_or(0, |it| as_count(it.2.waiting))
    }

    pub(super) fn contended(
        &self,
        holder: Holder,
        waited: Duration,
        reason: ContendedReason,
    ) -> Contended {
        let capacity = u32::try_from(self.capacity()).unwrap_or(u32::MAX);
        Contended::after(waited, self, holder, reason, capacity)
    }
}

impl Look for Shared {
    fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    fn look(&self) -> LockView {
        LockView {
            holders: self.holders(),
            queue_length: self.queue_length(),
            mean_hold: self.counts().mean_hold(time::now()),
        }
    }
}

pub(super) fn micros(n: Micros) -> Duration {
    Duration::from_micros(u64::try_from(n).unwrap_or(0))
}

/// A token is the time of its grant, if no clock went back.
pub(super) fn since(token: u64, now: Micros) -> Duration {
    micros(now.saturating_sub(i64::try_from(token).unwrap_or(i64::MAX)))
}

pub(super) fn as_count(n: i64) -> usize {
    usize::try_from(n).unwrap_or(0)
}
