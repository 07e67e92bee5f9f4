//! A counting semaphore with leases, a queue and fences: what the scripts do, in memory. The store of one process, and what
//! the scripts are compared with.
//!
//! It has no clock: every step takes the time of the store, and the number of its history (another one after a failover).

use std::collections::BTreeMap;

use super::op::{
    Answer, CONFIRM, Cancelled, Handoff, Held, Listed, MOST_HELD, MOST_LISTED, Member, Micros, Op,
    Reply, WAIT_TTL,
};
use super::zset::ZSet;

/// One lock.
#[derive(Debug)]
pub(crate) struct SemCore {
    max: Option<i64>,
    version: i64,
    /// The highest token of any slot: no token is given twice, nor a lower one later, also after everything was lost.
    token: u64,
    /// The longest lease that anybody asked for.
    longest: Micros,
    ticket: Micros,
    grace: Micros,
    grace_until: Micros,
    /// Which history the grace belongs to.
    history: Option<u64>,
    /// Slot -> who had it last.
    records: BTreeMap<u32, (u64, Member)>,
    /// Slot -> expiry; 0 is free.
    leases: ZSet<u32>,
    /// Who waits -> ticket.
    queue: ZSet<Member>,
    /// Who waits -> until when without a sign of life.
    beats: ZSet<Member>,
    handoffs: Vec<Handoff>,
}

/// The time of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) now: Micros,
    pub(crate) history: u64,
}

type Grant = (u32, u64, Micros);

impl SemCore {
    pub(crate) fn new() -> Self {
        Self {
            max: None,
            version: -1,
            token: 0,
            longest: 0,
            ticket: 0,
            grace: 0,
            grace_until: 0,
            history: None,
            records: BTreeMap::new(),
            leases: ZSet::default(),
            queue: ZSet::default(),
            beats: ZSet::default(),
            handoffs: Vec::new(),
        }
    }

    /// One step. What is to be told to others is in `take_handoffs`.
    pub(crate) fn apply(&mut self, op: &Op, clock: Clock) -> Answer {
        let reply = match op {
            Op::Acquire { .. } => self.acquire(op, clock),
            Op::Release(held) => self.release(held, clock),
            Op::Cancel(members) => self.cancel(members, clock),
            Op::Renew(held) => self.renew(held, clock),
            Op::Beat(members) => self.beat(members, clock),
            Op::Resize { max, version } => self.resize(*max, *version, clock),
            Op::List => self.list(clock.now),
        };
        Answer {
            now: clock.now,
            max: self.max.unwrap_or(-1),
            version: self.version,
            reply,
        }
    }

    /// Whether a new one would do the same from here on: nobody holds or waits, and the number of permits is what those who
    /// ask say. Tokens go by the time.
    #[allow(dead_code)]
    pub(crate) fn says_nothing(&self, now: Micros) -> bool {
        self.version <= 0 && self.grace == 0 && self.queue.len() == 0 && self.live(now) == 0
    }

    pub(crate) fn take_handoffs(&mut self) -> Vec<Handoff> {
        std::mem::take(&mut self.handoffs)
    }

    fn acquire(&mut self, op: &Op, clock: Clock) -> Reply {
        let Op::Acquire {
            member,
            may_wait,
            max,
            version,
            grace,
            retry,
        } = op
        else {
            return Reply::Refused { waiting: 0 };
        };
        let (now, lease) = (clock.now, member.lease());
        if self.max.is_none() || *version > self.version {
            (self.max, self.version) = (Some(*max), *version);
        }
        self.longest = self.longest.max(lease);
        self.grace = self.grace.max(*grace);
        let mut queued = false;
        if *retry {
            // The call before this one may have been done, or its answer be lost.
            if let Some((slot, token, expiry)) = self.find(member) {
                if expiry > now || self.has_room_for(slot, now) {
                    let expiry = now + lease;
                    self.leases.insert(slot, expiry);
                    return granted((slot, token, expiry));
                }
                self.leases.insert(slot, 0);
            }
            queued = self.queue.score(member).is_some();
            if queued {
                self.beats.insert(member.clone(), now + WAIT_TTL);
            }
        }
        match self.hand_off(Some(member), clock) {
            (Some(mine), _) => return granted(mine),
            (None, Some(slot)) => return granted(self.give(slot, member.clone(), lease, now)),
            (None, None) => {}
        }
        if !queued {
            if *may_wait > 0 && self.waiting() >= *may_wait {
                self.bury(now);
            }
            let waiting = self.waiting();
            if waiting >= *may_wait {
                self.heal(now);
                return Reply::Refused { waiting };
            }
            self.ticket = (self.ticket + 1).max(now);
            self.queue.insert(member.clone(), self.ticket);
            self.beats.insert(member.clone(), now + WAIT_TTL);
        }
        self.heal(now);
        Reply::Waits {
            rank: self.rank(member),
            next: self.next_expiry(now),
        }
    }

    fn release(&mut self, held: &[(u32, u64)], clock: Clock) -> Reply {
        let mut released = Vec::with_capacity(held.len());
        for (slot, token) in held {
            let is_mine = self.records.get(slot).is_some_and(|it| it.0 == *token);
            let is_held = is_mine && self.leases.score(slot).is_some_and(|it| it != 0);
            if is_held {
                self.leases.insert(*slot, 0);
            }
            released.push(is_held);
        }
        self.hand_off_to_waiters(clock);
        Reply::Released(released)
    }

    fn cancel(&mut self, members: &[Member], clock: Clock) -> Reply {
        let mut cancelled = Vec::with_capacity(members.len());
        for member in members {
            self.beats.remove(member);
            cancelled.push(if self.queue.remove(member) {
                Cancelled::LeftTheQueue
            } else if let Some((slot, ..)) = self.find(member) {
                self.leases.insert(slot, 0);
                Cancelled::GaveBack
            } else {
                Cancelled::Unknown
            });
        }
        self.hand_off_to_waiters(clock);
        Reply::Cancelled(cancelled)
    }

    fn renew(&mut self, held: &[Held], clock: Clock) -> Reply {
        let mut renewed = Vec::with_capacity(held.len());
        for it in held {
            if !self.may_renew(it, clock.now) {
                renewed.push(0);
                continue;
            }
            let lease = it.member.lease();
            self.longest = self.longest.max(lease);
            self.leases.insert(it.slot, clock.now + lease);
            if self.records.get(&it.slot).map(|it| it.0) != Some(it.token) {
                self.token = self.token.max(it.token);
                self.records.insert(it.slot, (it.token, it.member.clone()));
            }
            renewed.push(clock.now + lease);
        }
        self.heal(clock.now);
        self.hand_off_to_waiters(clock);
        Reply::Renewed(renewed)
    }

    /// A lease that has lapsed and was given to nobody is taken up again, and so is one that was forgotten, if there is
    /// room and the slot was not given away since.
    fn may_renew(&self, held: &Held, now: Micros) -> bool {
        let last = self.records.get(&held.slot).map(|it| it.0);
        let expiry = self.leases.score(&held.slot);
        let is_mine = last == Some(held.token);
        let is_live = expiry.is_some_and(|it| it > now);
        if is_mine && is_live {
            return true;
        }
        let was_given_back = is_mine && expiry == Some(0);
        let is_anothers = !is_mine && (is_live || last.is_some_and(|it| it > held.token));
        if was_given_back || is_anothers {
            return false;
        }
        let is_fresh = (is_mine && expiry.is_some()) || held.expiry > now;
        is_fresh && (self.max.is_none() || self.has_room_for(held.slot, now))
    }

    fn beat(&mut self, members: &[Member], clock: Clock) -> Reply {
        let now = clock.now;
        for member in members {
            if self.beats.score(member).is_some() {
                self.beats.insert(member.clone(), now + WAIT_TTL);
            }
        }
        self.bury(now);
        self.heal(now);
        self.hand_off_to_waiters(clock);
        let waiting = self.waiting();
        let mut next = self.next_expiry(now);
        if waiting > 0 && self.is_in_grace(clock) {
            next = self.grace_until;
        }
        Reply::Beaten {
            next,
            waiting,
            ranks: members.iter().map(|it| self.rank(it)).collect(),
        }
    }

    /// Who has shown no sign of life for too long has left the queue.
    fn bury(&mut self, now: Micros) {
        let first = |beats: &ZSet<Member>| beats.iter().next().map(|it| (it.0, it.1.clone()));
        while let Some((until, member)) = first(&self.beats)
            && until <= now
        {
            self.beats.remove(&member);
            self.queue.remove(&member);
        }
    }

    fn resize(&mut self, max: i64, version: Option<i64>, clock: Clock) -> Reply {
        let version = version.unwrap_or(self.version + 1);
        if version > self.version {
            (self.max, self.version) = (Some(max), version);
            self.hand_off_to_waiters(clock);
        }
        Reply::Resized
    }

    fn list(&self, now: Micros) -> Reply {
        let live = self.leases.iter().filter(|it| it.0 > now);
        let held: Vec<Held> = live
            .take(MOST_HELD)
            .map(|(expiry, slot)| {
                let record = self.records.get(slot).cloned();
                let (token, member) = record.unwrap_or_else(|| (0, Member::read("")));
                Held {
                    slot: *slot,
                    token,
                    expiry,
                    member,
                }
            })
            .collect();
        let queue = self.queue.iter().take(MOST_LISTED);
        Reply::Listed(Listed {
            waiting: self.waiting(),
            live: self.live(now),
            held,
            queue: queue.map(|(ticket, it)| (it.clone(), ticket)).collect(),
        })
    }

    fn hand_off_to_waiters(&mut self, clock: Clock) {
        if self.waiting() > 0 {
            let _ = self.hand_off(None, clock);
        }
    }

    /// Gives what is free to those who wait, in order. What `me` got; and a slot that nobody waits for.
    fn hand_off(&mut self, me: Option<&Member>, clock: Clock) -> (Option<Grant>, Option<u32>) {
        let now = clock.now;
        let mut mine = None;
        let Some(max) = self.max else {
            return (None, None);
        };
        if self.is_in_grace(clock) {
            return (None, None);
        }
        while let Some(slot) = self.free_slot(max, now) {
            let Some(member) = self.next_waiter(now) else {
                return (mine, Some(slot));
            };
            let lease = member.lease();
            if me == Some(&member) {
                mine = Some(self.give(slot, member, lease, now));
                continue;
            }
            let (id, inbox) = (member.id().to_owned(), member.inbox().to_owned());
            let (slot, token, expiry) = self.give(slot, member, lease.min(CONFIRM), now);
            self.handoffs.push(Handoff {
                inbox,
                id,
                slot,
                token,
                expiry,
                now,
            });
        }
        (mine, None)
    }

    /// A slot that is free or has lapsed, if one may be given.
    fn free_slot(&mut self, max: i64, now: Micros) -> Option<u32> {
        loop {
            let count = as_count(self.leases.len());
            let first = self.leases.iter().next().filter(|it| it.0 <= now);
            let Some(slot) = first.map(|it| *it.1) else {
                if count >= max {
                    return None;
                }
                let last = u32::try_from(count).ok()?;
                let is_unused = |slot: &u32| self.leases.score(slot).is_none();
                return Some(last)
                    .filter(is_unused)
                    .or_else(|| (0..last).find(is_unused));
            };
            if i64::from(slot) < max {
                let is_draining = count > max && self.live(now) >= max;
                return (!is_draining).then_some(slot);
            }
            self.leases.remove(&slot);
        }
    }

    /// The head of the queue that is still alive.
    fn next_waiter(&mut self, now: Micros) -> Option<Member> {
        while let Some(member) = self.queue.pop_first() {
            let until = self.beats.score(&member);
            self.beats.remove(&member);
            if until.is_some_and(|it| it > now) {
                return Some(member);
            }
        }
        None
    }

    fn give(&mut self, slot: u32, member: Member, lease: Micros, now: Micros) -> Grant {
        self.token = (self.token + 1).max(u64::try_from(now).unwrap_or(0));
        self.leases.insert(slot, now + lease);
        self.records.insert(slot, (self.token, member));
        (slot, self.token, now + lease)
    }

    /// What a member has, if it was not given back: of several the last to expire.
    fn find(&self, member: &Member) -> Option<Grant> {
        self.leases.above(0).find_map(|(expiry, slot)| {
            let (token, who) = self.records.get(slot)?;
            (who == member).then_some((*slot, *token, expiry))
        })
    }

    /// Whether a lease of this slot that has lapsed can be live again.
    fn has_room_for(&self, slot: u32, now: Micros) -> bool {
        self.max
            .is_some_and(|max| i64::from(slot) < max && self.live(now) < max)
    }

    fn is_in_grace(&mut self, clock: Clock) -> bool {
        if self.grace == 0 {
            return false;
        }
        let span = self.grace.max(self.longest);
        if self.history != Some(clock.history) {
            self.history = Some(clock.history);
            self.grace_until = clock.now + span;
        }
        // The clock may have gone back.
        self.grace_until = self.grace_until.min(clock.now + span);
        clock.now < self.grace_until
    }

    /// The clock may have gone back: no lease outlives the longest one from now, and no waiter its time.
    fn heal(&mut self, now: Micros) {
        if self.longest > 0 {
            self.leases.cap(now + self.longest);
        }
        self.beats.cap(now + WAIT_TTL);
    }

    fn live(&self, now: Micros) -> i64 {
        as_count(self.leases.above(now).count())
    }

    fn waiting(&self) -> i64 {
        as_count(self.queue.len())
    }

    fn rank(&self, member: &Member) -> i64 {
        self.queue.rank(member).map_or(-1, as_count)
    }

    fn next_expiry(&self, now: Micros) -> Micros {
        let mut live = self.leases.iter().filter(|it| it.0 > now);
        live.next().map_or(0, |it| it.0)
    }
}

fn granted((slot, token, expiry): Grant) -> Reply {
    Reply::Granted {
        slot,
        token,
        expiry,
    }
}

fn as_count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
