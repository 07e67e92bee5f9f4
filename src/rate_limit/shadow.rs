//! Another config, tried on the calls of a limit: pure.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::bucket::{Pace, Time};
use super::config::RateLimitConfig;
use super::cost::Cost;
use super::state::{Not, State};
use crate::util::time;

/// What a config that is [tried](crate::RateLimit::shadow) beside the one in force would have done otherwise, call by call.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RateLimitShadow {
    /// What it goes by.
    pub config: RateLimitConfig,
    /// Calls that it has seen.
    pub calls: u64,
    /// Calls that the limit let pass, at once or after a wait, and it would have refused.
    pub would_refuse: u64,
    /// Calls that the limit let pass at once, and that would have waited.
    pub would_wait: u64,
    /// Calls that the limit refused, and it would have let pass, at once or after a wait.
    pub would_pass: u64,
}

/// From which bit on a number is the mark of a trial.
pub(super) const MARK_SHIFT: u32 = 48;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// More than so many would not wait: they would be refused. Of each is kept when it would be served.
const MOST_WAITING: usize = 100_000;

/// What the limit in force did with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InForce {
    Passed,
    Queued,
    Refused,
}

/// The quotas as the tried config has them. Whoever would wait is served in advance: it owes until its time has come, and
/// those behind it come later for that.
#[derive(Debug)]
pub(super) struct Trial {
    /// Whatever a call takes here it settles here, and what it took elsewhere it does not.
    mark: u64,
    config: RateLimitConfig,
    state: State,
    /// When those who would wait are served, in order.
    served: VecDeque<Time>,
    calls: u64,
    would_refuse: u64,
    would_wait: u64,
    would_pass: u64,
}

impl Trial {
    /// The config has been checked.
    pub(super) fn new(config: RateLimitConfig, paces: Vec<Pace>) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 0xffff + 1;
        Self {
            mark: number << MARK_SHIFT,
            state: State::new(paces),
            config,
            served: VecDeque::new(),
            calls: 0,
            would_refuse: 0,
            would_wait: 0,
            would_pass: 0,
        }
    }

    /// A call asks, and could wait for as long as `patience`.
    pub(super) fn asked(
        &mut self,
        cost: Cost,
        now: Time,
        patience: Duration,
        in_force: InForce,
    ) -> u64 {
        while self.served.front().is_some_and(|at| *at <= now) {
            self.served.pop_front();
        }
        self.calls += 1;
        let wait = match self.state.outlook(cost, now) {
            Ok(()) => Some(0),
            Err(Not::Ever { .. }) => None,
            Err(Not::Before { at, .. }) => {
                let longest = self.config.max_wait.min(patience);
                let waits = at.saturating_sub(now);
                let most = self.config.max_waiting.unwrap_or(MOST_WAITING);
                let most = most.min(MOST_WAITING);
                let fits =
                    waits <= time::nanos(longest).saturating_mul(8) && self.served.len() < most;
                fits.then_some(waits)
            }
        };
        if let Some(wait) = wait {
            self.state.take(cost, now);
            if wait > 0 {
                self.served.push_back(now.saturating_add(wait));
            }
        }
        match (in_force, wait) {
            (InForce::Refused, Some(_)) => self.would_pass += 1,
            (InForce::Passed | InForce::Queued, None) => self.would_refuse += 1,
            (InForce::Passed, Some(1..)) => self.would_wait += 1,
            (InForce::Passed, Some(0)) | (InForce::Queued, Some(_)) | (InForce::Refused, None) => {}
        }
        if wait.is_some() { self.mark } else { 0 }
    }

    /// What a call has used is known now.
    pub(super) fn settled(&mut self, mark: u64, more: Cost, less: Cost, now: Time) {
        if mark != self.mark {
            return;
        }
        self.state.take(more, now);
        self.state.give_back(less, now);
    }

    /// Everything as at the beginning: the limit in force begins anew too.
    pub(super) fn begin_anew(&mut self) {
        // What was taken before is not given back after.
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 0xffff + 1;
        self.mark = number << MARK_SHIFT;
        self.state.reset();
        self.served.clear();
    }

    pub(super) fn max_pause(&self) -> Duration {
        self.config.max_pause
    }

    pub(super) fn pause(&mut self, until: Time) {
        self.state.pause(until);
    }

    /// The service says how much is left of a quota.
    pub(super) fn left_of(&mut self, quota: usize, units: u64, now: Time) {
        if let Some(bucket) = self.state.quotas().get_mut(quota) {
            bucket.full = bucket.full.max(bucket.pace.with(units, now));
        }
    }

    pub(super) fn snapshot(&self) -> RateLimitShadow {
        RateLimitShadow {
            config: self.config.clone(),
            calls: self.calls,
            would_refuse: self.would_refuse,
            would_wait: self.would_wait,
            would_pass: self.would_pass,
        }
    }
}
