//! The tokens that a process has leased, and what it knows of the store's last refusal: pure.

use std::time::Duration;

use super::core::Pace;
use crate::util::time::Tick;

/// A limit has at most so many quotas.
pub(super) const MOST_QUOTAS: usize = 4;
/// The longest that leased tokens live.
const LONGEST_LEASE: Duration = Duration::from_millis(100);
/// A shorter lease saves nothing.
const SHORTEST_LEASE: Duration = Duration::from_millis(20);
const SHORTEST_DENIAL: Duration = Duration::from_millis(10);
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

    /// Whether to lease is of use: enough passes, and a lease is no mere moment.
    pub(super) fn is_worth_it(self, paces: &[Pace]) -> bool {
        let is_fast = |it: &Pace| it.amount * 1_000_000 / it.period >= LOWEST_RATE;
        self.life >= SHORTEST_LEASE && paces.iter().all(is_fast)
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
        self.earned(pace, 2).min(share).max(1)
    }
}

/// What is leased of one quota.
#[derive(Clone, Copy, Debug)]
struct Lease {
    tokens: u64,
    granted: u64,
    until: Tick,
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
}

/// What there is for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Taken,
    /// The store would refuse before this time.
    Denied {
        quota: usize,
        until: Tick,
    },
    /// The store has to be asked.
    Short,
}

#[derive(Debug)]
pub(super) struct Pool {
    leases: Vec<Lease>,
    denial: Option<Denial>,
    /// Somebody asks the store right now.
    pub(super) is_asking: bool,
}

impl Pool {
    pub(super) fn new(quotas: usize) -> Self {
        let nothing = Lease {
            tokens: 0,
            granted: 0,
            until: Tick(0),
            want: 1,
        };
        Self {
            leases: vec![nothing; quotas],
            denial: None,
            is_asking: false,
        }
    }

    /// Takes from the leased tokens, from all quotas or from none.
    pub(super) fn take(&mut self, cost: &[u64], paces: &[Pace], now: Tick) -> Look {
        let has = |(lease, cost): (&Lease, &u64)| {
            *cost == 0 || (lease.tokens >= *cost && now < lease.until)
        };
        if self.leases.iter().zip(cost).all(has) {
            for (lease, cost) in self.leases.iter_mut().zip(cost) {
                lease.tokens = lease.tokens.saturating_sub(*cost);
            }
            return Look::Taken;
        }
        match self.denied(cost, paces, now) {
            Some((quota, until)) => Look::Denied { quota, until },
            None => Look::Short,
        }
    }

    /// Whether the store would refuse that, by what it said last.
    pub(super) fn denied(&self, cost: &[u64], paces: &[Pace], now: Tick) -> Option<(usize, Tick)> {
        let denial = self.denial.filter(|it| now < it.until)?;
        let more = cost[denial.quota].checked_sub(denial.units)?;
        let pace = paces[denial.quota];
        let longer = more.saturating_mul(pace.period) / pace.amount;
        Some((
            denial.quota,
            denial.until.after(Duration::from_micros(longer)),
        ))
    }

    /// Until when the store would refuse those who wait.
    pub(super) fn denial(&self, now: Tick) -> Option<(usize, Tick)> {
        let denial = self.denial.filter(|it| now < it.until)?;
        Some((denial.quota, denial.until))
    }

    /// What to ask the store for: `(need, want)` of each quota.
    pub(super) fn asks(&mut self, cost: &[u64], largest: &[u64], now: Tick) -> Vec<(u64, u64)> {
        let mut asks = Vec::with_capacity(cost.len());
        for ((lease, cost), largest) in self.leases.iter_mut().zip(cost).zip(largest) {
            let is_live = now < lease.until;
            if *cost == 0 || (is_live && lease.tokens >= *cost) {
                asks.push((0, 0));
                continue;
            }
            lease.want = match is_live || lease.tokens == 0 {
                true => lease.granted.saturating_mul(2),
                // So many were used of the last batch: the others have died.
                false => lease.granted - lease.tokens,
            };
            lease.want = lease.want.clamp(1, *largest);
            asks.push((*cost, lease.want.max(*cost)));
        }
        asks
    }

    /// What the store has given: to be used within `life` of when it was asked.
    pub(super) fn granted(&mut self, got: &[u64], until: Tick) {
        self.denial = None;
        for (lease, got) in self.leases.iter_mut().zip(got).filter(|(_, got)| **got > 0) {
            // What was left was less than one call needed. Its time is not made longer.
            lease.tokens = *got;
            lease.granted = *got;
            lease.until = until;
        }
    }

    /// The store has refused: there will be `units` of this quota after `wait`.
    pub(super) fn refused(&mut self, quota: usize, units: u64, now: Tick, wait: Duration) {
        let until = now.after(wait);
        self.denial = Some(Denial {
            quota,
            units,
            until,
        });
    }

    /// Forgets all that the store has said.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.leases.len());
    }

    /// What is leased at the moment.
    pub(super) fn leased(&self, now: Tick) -> Vec<u64> {
        let tokens = |it: &Lease| if now < it.until { it.tokens } else { 0 };
        self.leases.iter().map(tokens).collect()
    }
}
