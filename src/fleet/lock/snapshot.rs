use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::snapshot::{FleetSnapshot, Part};
use super::lease::Fence;
use super::op::{Listed, MOST_HELD, Member, Micros};
use super::shared::{Shared, as_count, micros, since};
use crate::contention::ResourceStats;
use crate::util::time;

/// A shared lock at one moment, as this process sees it.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FleetLockSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// Which process this is.
    pub node: Arc<str>,
    /// How many permits there are in the fleet, as the store said last; before that, what was set here.
    pub capacity: usize,
    /// The version of that number.
    pub version: i64,
    /// How many permits are held in the fleet.
    pub held: usize,
    /// Who holds permits in the fleet, the oldest first. Of more than 1,000, those whose leases end first.
    pub holders: Vec<FleetHolder>,
    /// Who waits in the fleet, the next first, at most 100.
    pub waiters: Vec<FleetWaiter>,
    /// How many wait in the fleet.
    pub waiting: usize,
    /// How old `held`, `holders`, `waiters` and `waiting` are; `None`: they have not been asked for yet. They are asked for once a second
    /// while somebody of this process waits, and by [`fetch`](super::FleetLock::fetch). A holder whose lease has ended since,
    /// by what is known, is left out, and so are all who wait after 4 s.
    pub age: Option<Duration>,
    /// How many permits this process holds: leases.
    pub held_here: usize,
    /// How many of this process wait.
    pub waiting_here: usize,
    /// For how long the store has been away.
    pub away_for: Option<Duration>,
    /// How the last call to the store failed, if none has succeeded since the store went away.
    pub why_away: Option<String>,
    /// Calls to the store that failed.
    pub store_errors: u64,
    /// Renewals: each is one call for all leases of this process.
    pub renewals: u64,
    /// Leases that were lost in the hands of their holders.
    pub lost: u64,
    /// Refusals because the store was away.
    pub unavailable: u64,
    /// Permits of this process alone, given while the store was away.
    pub local: u64,
    /// How many permits this process gives by itself while the store is away, if it was
    /// [told to](super::FleetLockBuilder::local).
    pub local_permits: Option<usize>,
    /// What has been counted in this process.
    pub stats: ResourceStats,
}

/// Somebody who holds a permit, in any process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FleetHolder {
    /// Who.
    pub holder: String,
    /// In which process.
    pub node: String,
    /// With which fence.
    pub fence: Fence,
    /// For how long.
    pub held_for: Duration,
    /// When the lease ends, if it is not renewed.
    pub expires_in: Duration,
}

/// Somebody who waits for a permit, in any process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FleetWaiter {
    /// Who.
    pub holder: String,
    /// In which process.
    pub node: String,
    /// For how long.
    pub waiting_for: Duration,
}

fn who(member: &Member) -> (String, String) {
    (member.workflow().to_owned(), member.node().to_owned())
}

fn named_holders(listed: &Listed, then: Micros, passed: Duration) -> Vec<FleetHolder> {
    let held = listed.still_held(then, passed);
    held.map(|it| {
        let (holder, node) = who(&it.member);
        FleetHolder {
            holder,
            node,
            fence: Fence {
                slot: it.slot,
                token: it.token,
            },
            held_for: since(it.token, then) + passed,
            expires_in: micros(it.expiry - then).saturating_sub(passed),
        }
    })
    .collect()
}

fn named_waiters(listed: &Listed, then: Micros, passed: Duration) -> Vec<FleetWaiter> {
    let waiting = listed.still_waiting(passed).iter();
    waiting
        .map(|(member, ticket)| {
            let (holder, node) = who(member);
            FleetWaiter {
                holder,
                node,
                waiting_for: micros(then - ticket) + passed,
            }
        })
        .collect()
}

pub(super) fn snapshot(shared: &Shared) -> FleetLockSnapshot {
    let now = time::now();
    let view = shared.view();
    let (mut holders, mut waiters, mut waiting, mut age) = (Vec::new(), Vec::new(), 0, None);
    let mut held = 0;
    if let Some((seen, then, listed)) = &view.seen {
        let passed = now.since(*seen);
        age = Some(passed);
        if listed.is_fresh(passed) {
            waiting = as_count(listed.waiting);
        }
        holders = named_holders(listed, *then, passed);
        waiters = named_waiters(listed, *then, passed);
        // Who is not named is taken to hold for as long as somebody who is.
        held = match listed.held.len() < MOST_HELD || holders.is_empty() {
            true => holders.len(),
            false => as_count(listed.live),
        };
    }
    let version = view.version;
    drop(view);
    holders.sort_by_key(|it| it.fence.token);
    let (away_since, why) = {
        let health = shared.health();
        (health.away_since, health.why.clone())
    };
    let (held_here, waiting_here) = (shared.leases().len(), shared.waiting());
    let mut counts = shared.counts();
    FleetLockSnapshot {
        name: Arc::clone(shared.funnel.name()),
        node: Arc::clone(&shared.node),
        capacity: shared.capacity(),
        version,
        held,
        holders,
        waiters,
        waiting,
        age,
        held_here,
        waiting_here,
        away_for: away_since.map(|it| now.since(it)),
        why_away: away_since.and(why).map(|it| it.to_string()),
        store_errors: counts.store_errors,
        renewals: shared.renewals.load(Ordering::Relaxed),
        lost: counts.lost,
        unavailable: counts.unavailable,
        local: counts.local,
        local_permits: shared.settings.local,
        stats: counts.stats(now),
    }
}

impl Part for Shared {
    fn show(&self, snapshot: &mut FleetSnapshot) {
        snapshot.locks.push(self::snapshot(self));
    }
}
