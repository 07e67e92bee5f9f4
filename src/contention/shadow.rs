//! Another config, tried on the calls of a lock: pure.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use super::config::ContentionConfig;
use crate::util::time::Tick;

/// What a config that is [tried](crate::ResourceLock::shadow) beside the one in force would have done otherwise, call by call.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ResourceShadow {
    /// What it goes by.
    pub config: ContentionConfig,
    /// Calls that got their permits.
    pub calls: u64,
    /// Those of them that it would have refused: too late, or too many in the queue.
    pub would_refuse: u64,
    /// Those of them that got their permits at once, and would have waited.
    pub would_wait: u64,
    /// Calls that the lock refused, and that would have found their permits at once.
    pub would_pass: u64,
    /// The longest wait that there would have been.
    pub longest_wait: Duration,
    /// Permits that would be in use now.
    pub in_use: usize,
    /// Calls that would wait now.
    pub waiting: usize,
}

/// More than so many would not wait: they would be refused.
const MOST_WAITING: usize = 10_000;

/// A queue in numbers: calls come when they got their permits in force, and hold theirs for as long as they held those. With
/// fewer permits than there are that is exact. With more it is cautious: how long a call takes is known only once it has
/// ended in force.
#[derive(Debug)]
pub(super) struct Trial {
    config: ContentionConfig,
    free: usize,
    /// Which call has got permits in force, by the place of its record there: that is another's after it.
    places: HashMap<u32, u64>,
    calls: HashMap<u64, Call>,
    next: u64,
    queue: VecDeque<u64>,
    /// When those give back whose time is known.
    ends: BinaryHeap<Reverse<(Tick, u64)>>,
    seen: u64,
    would_refuse: u64,
    would_wait: u64,
    would_pass: u64,
    longest_wait: Duration,
}

#[derive(Debug)]
struct Call {
    asked: Tick,
    permits: usize,
    /// Whether it got its permits at once.
    at_once: bool,
    started: Option<Tick>,
    /// For how long it held its permits in force, once that is known.
    held: Option<Duration>,
}

impl Trial {
    /// The config has been checked.
    pub(super) fn new(config: ContentionConfig) -> Self {
        Self {
            free: config.max_concurrent,
            config,
            places: HashMap::new(),
            calls: HashMap::new(),
            next: 0,
            queue: VecDeque::new(),
            ends: BinaryHeap::new(),
            seen: 0,
            would_refuse: 0,
            would_wait: 0,
            would_pass: 0,
            longest_wait: Duration::ZERO,
        }
    }

    /// A call has got its permits, and asked for them so long ago.
    pub(super) fn taken(&mut self, place: u32, permits: usize, waited: Duration, now: Tick) {
        self.goes_on(now);
        self.seen += 1;
        let most = self
            .config
            .max_waiting
            .unwrap_or(MOST_WAITING)
            .min(MOST_WAITING);
        let waits = !self.queue.is_empty() || self.free < permits;
        if permits > self.config.max_concurrent || waits && self.queue.len() >= most {
            self.would_refuse += 1;
            return;
        }
        let id = self.next;
        self.next += 1;
        self.places.insert(place, id);
        let call = Call {
            asked: Tick(now.0.saturating_sub(crate::util::time::nanos(waited))),
            permits,
            at_once: waited.is_zero(),
            started: None,
            held: None,
        };
        self.calls.insert(id, call);
        self.queue.push_back(id);
        self.serve(now);
    }

    /// A call has given its permits back.
    pub(super) fn released(&mut self, place: u32, held: Duration, now: Tick) {
        self.goes_on(now);
        // One that would have been refused, or that was there before the trial, is unknown.
        let Some(id) = self.places.remove(&place) else {
            return;
        };
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        match call.started {
            Some(started) => {
                self.ends.push(Reverse((started.after(held), id)));
                self.goes_on(now);
            }
            None => call.held = Some(held),
        }
    }

    /// A call was refused.
    pub(super) fn refused(&mut self, permits: usize, now: Tick) {
        self.goes_on(now);
        self.would_pass += u64::from(self.queue.is_empty() && self.free >= permits);
    }

    /// Gives back what is to be given back by `now`, and serves those who wait.
    fn goes_on(&mut self, now: Tick) {
        while let Some(&Reverse((at, id))) = self.ends.peek() {
            if at > now {
                break;
            }
            self.ends.pop();
            if let Some(call) = self.calls.remove(&id) {
                self.free += call.permits;
            }
            self.serve(at);
        }
        self.serve(now);
    }

    fn serve(&mut self, now: Tick) {
        while let Some(&id) = self.queue.front() {
            let Some(call) = self.calls.get_mut(&id) else {
                self.queue.pop_front();
                continue;
            };
            let timeout = self.config.timeout.unwrap_or(Duration::MAX);
            if now.since(call.asked) > timeout {
                self.queue.pop_front();
                self.calls.remove(&id);
                self.would_refuse += 1;
                continue;
            }
            if call.permits > self.free {
                return;
            }
            self.queue.pop_front();
            self.free -= call.permits;
            let at = now.max(call.asked);
            call.started = Some(at);
            let wait = at.since(call.asked);
            self.would_wait += u64::from(call.at_once && !wait.is_zero());
            self.longest_wait = self.longest_wait.max(wait);
            if let Some(held) = call.held {
                self.ends.push(Reverse((at.after(held), id)));
            }
        }
    }

    pub(super) fn snapshot(&mut self, now: Tick) -> ResourceShadow {
        self.goes_on(now);
        ResourceShadow {
            config: self.config.clone(),
            calls: self.seen,
            would_refuse: self.would_refuse,
            would_wait: self.would_wait,
            would_pass: self.would_pass,
            longest_wait: self.longest_wait,
            in_use: self.config.max_concurrent - self.free,
            waiting: self.queue.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn trial(permits: usize, timeout_ms: Option<u64>) -> Trial {
        let config = ContentionConfig {
            max_concurrent: permits,
            timeout: timeout_ms.map(Duration::from_millis),
            ..ContentionConfig::default()
        };
        Trial::new(config)
    }

    /// Calls of (came at, held for) in ms, all of which got their permits at once.
    fn play(trial: &mut Trial, calls: &[(u64, u64)]) -> ResourceShadow {
        let mut steps: Vec<(u64, bool, usize)> = Vec::new();
        for (i, (at, held)) in calls.iter().enumerate() {
            steps.push((*at, true, i));
            steps.push((at + held, false, i));
        }
        steps.sort_unstable();
        for (at, comes, i) in steps {
            let (id, now) = (i as u32, Tick(at * MS));
            match comes {
                true => trial.taken(id, 1, Duration::ZERO, now),
                false => trial.released(id, Duration::from_millis(calls[i].1), now),
            }
        }
        trial.snapshot(Tick(u64::MAX / 2))
    }

    #[test]
    fn with_as_many_permits_as_are_used_nothing_would_be_otherwise() {
        let seen = play(&mut trial(2, None), &[(0, 10), (0, 30), (15, 10), (40, 1)]);
        assert_eq!((seen.calls, seen.would_wait, seen.would_refuse), (4, 0, 0));
        assert_eq!(seen.longest_wait, Duration::ZERO);
    }

    #[test]
    fn with_fewer_permits_each_waits_for_those_before_it_as_long_as_they_held_theirs() {
        // One at a time: 0-10, 10-40, 40-50.
        let seen = play(&mut trial(1, None), &[(0, 10), (1, 30), (15, 10)]);
        assert_eq!((seen.would_wait, seen.would_refuse), (2, 0));
        assert_eq!(seen.longest_wait, Duration::from_millis(25));
    }

    #[test]
    fn who_would_wait_for_longer_than_the_timeout_would_be_refused_and_hold_nothing() {
        // The second would wait for 9 ms, the third, which comes at 9, for 1: the second is gone by then.
        let seen = play(&mut trial(1, Some(5)), &[(0, 10), (1, 30), (9, 10)]);
        assert_eq!((seen.would_wait, seen.would_refuse), (1, 1));
        assert_eq!(seen.longest_wait, Duration::from_millis(1));
    }

    #[test]
    fn a_refusal_in_force_would_pass_only_where_a_permit_is_free() {
        let mut two = trial(2, None);
        two.taken(1, 1, Duration::ZERO, Tick(0));
        two.refused(1, Tick(1));
        two.taken(2, 1, Duration::ZERO, Tick(2));
        two.refused(1, Tick(3));
        assert_eq!(two.snapshot(Tick(4)).would_pass, 1);
    }

    #[test]
    fn more_permits_at_once_than_there_are_would_be_refused() {
        let mut one = trial(1, None);
        one.taken(1, 2, Duration::ZERO, Tick(0));
        one.released(1, Duration::from_millis(1), Tick(MS));
        assert_eq!(one.snapshot(Tick(MS)).would_refuse, 1);
    }
}
