//! The tokens that a process has leased, and what it knows of the store's last refusal: pure.

use std::sync::Arc;
use std::time::Duration;

use super::core::Pace;
use super::words::{MOST_TOKENS, Words};
use crate::util::time::Tick;

/// The longest that leased tokens live.
const LONGEST_LEASE: Duration = Duration::from_millis(100);
/// A shorter lease saves nothing, and is over before it has come.
const SHORTEST_LEASE: Duration = Duration::from_millis(20);
const SHORTEST_DENIAL: Duration = Duration::from_millis(10);
/// For so long nothing is leased from a store that takes longer than a lease.
const LATE: Duration = Duration::from_secs(1);
/// Below this rate a batch is hardly ever more than one.
const LOWEST_RATE: u64 = 100;

/// How a limit leases: for how long, and what is kept back for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leasing {
    pub(super) life: Duration,
}

impl Leasing {
    /// Leased tokens are spent up to `life` after they were taken. In a stretch of time can pass what is taken in it and
    /// in the `life` before, so as much as is earned in a `life` is kept back of the burst: at most a quarter.
    pub(super) fn of(paces: &[Pace]) -> Self {
        let lives = paces.iter().map(|pace| {
            let quarter = u128::from(pace.burst) * u128::from(pace.period);
            let quarter = quarter / (4 * u128::from(pace.amount));
            Duration::from_micros(u64::try_from(quarter).unwrap_or(u64::MAX))
        });
        let life = lives.min().unwrap_or_default().min(LONGEST_LEASE);
        Self { life }
    }

    /// Whether a lease is no mere moment, and something is left of each burst beside what is kept back.
    pub(super) fn can_work(self, paces: &[Pace]) -> bool {
        self.life >= SHORTEST_LEASE && paces.iter().all(|it| it.burst > 1)
    }

    /// Whether to lease is of use: enough passes.
    pub(super) fn is_worth_it(self, paces: &[Pace]) -> bool {
        let is_fast = |it: &Pace| it.amount * 1_000_000 / it.period >= LOWEST_RATE;
        self.can_work(paces) && paces.iter().all(is_fast)
    }

    /// After a refusal the store is not asked for another batch at least this long: what is earned meanwhile makes the
    /// next one worth a command, and is far from filling the bucket.
    pub(super) fn shortest_denial(self) -> Duration {
        (self.life / 4).max(SHORTEST_DENIAL)
    }

    fn earned(self, pace: Pace, part: u32) -> u64 {
        let micros = (self.life / part).as_micros();
        let earned = micros * u128::from(pace.amount);
        u64::try_from(earned.div_ceil(u128::from(pace.period))).unwrap_or(u64::MAX)
    }

    /// The pace with what is kept back taken from its burst.
    pub(super) fn kept_back(self, pace: Pace) -> Pace {
        let burst = pace.burst.saturating_sub(self.earned(pace, 1)).max(1);
        Pace { burst, ..pace }
    }

    /// The largest batch: what is earned in half a life, and no more than this process's share of the burst.
    pub(super) fn largest_batch(self, pace: Pace, nodes: u64) -> u64 {
        let share = pace.burst / nodes.max(1);
        self.earned(pace, 2).min(share).clamp(1, MOST_TOKENS)
    }
}

/// What was leased last of one quota. What is left of it is in the [`Words`].
#[derive(Clone, Copy, Debug)]
struct Lease {
    granted: u64,
    /// How many to ask for next.
    want: u64,
}

/// A refusal of the store, kept so that it is not asked again before the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Denial {
    pub(super) quota: usize,
    /// What was asked of that quota.
    units: u64,
    pub(super) until: Tick,
    /// From then on it may be out of date: others give back what they have not used.
    doubted: Tick,
}

/// How long a refusal is believed: as long as a lease.
const BELIEVED: Duration = Duration::from_millis(100);

/// What there is for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Taken,
    /// The store would refuse before this time: because of this quota, or of a pause.
    Denied {
        quota: Option<usize>,
        until: Tick,
    },
    /// The store has to be asked.
    Short,
}

#[derive(Debug)]
pub(super) struct Pool {
    leases: Vec<Lease>,
    words: Arc<Words>,
    denial: Option<Denial>,
    /// Nobody has a turn before this.
    paused_until: Tick,
    /// How long all pauses were: so much later are the turns that were given before.
    shifted: Duration,
    /// Somebody asks the store right now.
    pub(super) is_asking: bool,
    /// What was leased last was over when it came: until then nothing is leased.
    late_until: Tick,
}

impl Pool {
    pub(super) fn new(quotas: usize, words: Arc<Words>) -> Self {
        let nothing = Lease {
            granted: 0,
            want: 1,
        };
        Self {
            leases: vec![nothing; quotas],
            words,
            denial: None,
            paused_until: Tick(0),
            shifted: Duration::ZERO,
            is_asking: false,
            late_until: Tick(0),
        }
    }

    /// Takes what there is, from all quotas or from none.
    pub(super) fn take_leased(&self, cost: &[u64], now: Tick) -> bool {
        self.paused_until <= now && self.words.take(cost, now)
    }

    /// The same, and what to do if there is not enough.
    pub(super) fn take(&mut self, cost: &[u64], paces: &[Pace], now: Tick) -> Look {
        if self.take_leased(cost, now) {
            return Look::Taken;
        }
        match self.denied(cost, paces, now) {
            Some((quota, until)) => Look::Denied { quota, until },
            None => Look::Short,
        }
    }

    fn believed(&self, now: Tick) -> Option<Denial> {
        self.denial.filter(|it| now < it.until.min(it.doubted))
    }

    /// When who waits for what the store has refused asks it once more: others may have given something back.
    pub(super) fn asks_again(&self, now: Tick) -> Tick {
        self.believed(now).map_or(Tick::NEVER, |it| it.doubted)
    }

    /// Something has been given back.
    pub(super) fn forget_denial(&mut self) {
        self.denial = None;
    }

    /// Whether the store would refuse that, by what it said last.
    pub(super) fn denied(
        &self,
        cost: &[u64],
        paces: &[Pace],
        now: Tick,
    ) -> Option<(Option<usize>, Tick)> {
        let denied = self.believed(now).and_then(|denial| {
            let more = cost[denial.quota].checked_sub(denial.units)?;
            let pace = paces[denial.quota];
            let longer = more.saturating_mul(pace.period) / pace.amount;
            let until = denial.until.after(Duration::from_micros(longer));
            Some((Some(denial.quota), until))
        });
        self.or_paused(denied, now)
    }

    /// Until when the store would refuse those who wait.
    pub(super) fn denial(&self, now: Tick) -> Option<(Option<usize>, Tick)> {
        let denial = self.believed(now);
        self.or_paused(denial.map(|it| (Some(it.quota), it.until)), now)
    }

    /// The later of both.
    fn or_paused(
        &self,
        denied: Option<(Option<usize>, Tick)>,
        now: Tick,
    ) -> Option<(Option<usize>, Tick)> {
        let until = self.paused_until;
        let is_later = until > now && denied.is_none_or(|(_, it)| it < until);
        if is_later {
            Some((None, until))
        } else {
            denied
        }
    }

    /// Nobody has a turn before this, and what is leased is no turn. Whether that is later than before.
    pub(super) fn pause(&mut self, now: Tick, until: Tick) -> bool {
        let is_longer = until > self.paused_until.max(now);
        if is_longer {
            self.shifted += until.since(self.paused_until.max(now));
            self.paused_until = until;
            self.words.clear();
        }
        is_longer
    }

    pub(super) fn paused_until(&self) -> Tick {
        self.paused_until
    }

    pub(super) fn shifted(&self) -> Duration {
        self.shifted
    }

    /// What to ask the store for: `(need, want)` of each quota.
    pub(super) fn asks(&mut self, cost: &[u64], largest: &[u64], now: Tick) -> Vec<(u64, u64)> {
        let mut asks = Vec::with_capacity(cost.len());
        let leases = self.leases.iter_mut().zip(cost).zip(largest);
        for (quota, ((lease, cost), largest)) in leases.enumerate() {
            let (left, is_live) = self.words.left(quota, now);
            if *cost == 0 || (is_live && left >= *cost) {
                asks.push((0, 0));
                continue;
            }
            lease.want = match is_live || left == 0 {
                true => lease.granted.saturating_mul(2),
                // So many were used of the last batch: the others have died.
                false => lease.granted.saturating_sub(left),
            };
            lease.want = lease.want.clamp(1, *largest);
            asks.push((*cost, lease.want.max(*cost)));
        }
        asks
    }

    /// Whether the store takes longer than a lease: each call asks for itself.
    pub(super) fn is_late(&self, now: Tick) -> bool {
        now < self.late_until
    }

    /// What the store has given: to be used within `life` of when it was asked.
    pub(super) fn granted(&mut self, got: &[u64], now: Tick, until: Tick) {
        self.denial = None;
        if until <= now {
            self.late_until = now.after(LATE);
            return; // What somebody else has got meanwhile may be there still.
        }
        if now < self.paused_until {
            return; // It was said after the store had been asked.
        }
        for (quota, (lease, got)) in self.leases.iter_mut().zip(got).enumerate() {
            if *got > 0 {
                // What was left was less than one call needed. Its time is not made longer.
                self.words.set(quota, *got, until);
                lease.granted = *got;
            }
        }
    }

    /// The store has refused: there will be `units` of this quota after `wait`.
    pub(super) fn refused(&mut self, quota: usize, units: u64, now: Tick, wait: Duration) {
        let until = now.after(wait);
        self.denial = Some(Denial {
            quota,
            units,
            until,
            doubted: now.after(BELIEVED),
        });
    }

    /// Forgets all that the store has said, but for a pause. A question may still be on its way.
    pub(super) fn forget(&mut self) {
        self.words.clear();
        *self = Self {
            paused_until: self.paused_until,
            shifted: self.shifted,
            is_asking: self.is_asking,
            ..Self::new(self.leases.len(), Arc::clone(&self.words))
        };
    }

    /// What is leased at the moment.
    pub(super) fn leased(&self, now: Tick) -> Vec<u64> {
        let quotas = 0..self.leases.len();
        quotas.map(|quota| self.words.tokens(quota, now)).collect()
    }
}
