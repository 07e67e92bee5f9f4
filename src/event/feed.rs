use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::CircuitBreakerEvent;
use super::{Event, Observer};
use crate::util::time::{self, Tick};

/// Recent events, of a bounded number: the flight recorder.
///
/// What explains an outage (state changes, deadlocks, long waits and holds, changes of capacity) is kept apart from what
/// is frequent (retries, waits that ended, refusals of locks), each in a ring of its own: however much happens, it pushes
/// out only its like. Single refusals of a breaker are left out: its opening is here, and snapshots count them.
///
/// A cheap clone of shared rings. Give it to a builder with `.observer(feed.clone())`, or use the one that every
/// [`Registry`](crate::Registry) has.
#[derive(Clone)]
pub struct Feed {
    rings: Arc<Mutex<Rings>>,
}

struct Rings {
    /// Of each of the two.
    capacity: usize,
    important: VecDeque<Kept>,
    frequent: VecDeque<Kept>,
    dropped: u64,
    last: u64,
}

struct Kept {
    position: u64,
    number: u64,
    at: Tick,
    wall: SystemTime,
    name: Arc<str>,
    event: Event,
}

/// One event of a [`Feed`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Entry {
    /// Its place among the events that this feed has received; the first is 1. Gaps are events that fell out.
    pub position: u64,
    /// Its number among the events of its handle: they are numbered from 1 in the order in which they happened.
    pub number: u64,
    /// How long ago it happened.
    pub age: Duration,
    /// When it happened, by the wall clock.
    pub at: SystemTime,
    /// The policy, breaker or resource it happened to.
    pub name: Arc<str>,
    /// What happened.
    pub event: Event,
}

impl Feed {
    /// Two rings of at most `capacity` events each; with 0 nothing is kept.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            rings: Arc::new(Mutex::new(Rings {
                capacity,
                important: VecDeque::new(),
                frequent: VecDeque::new(),
                dropped: 0,
                last: 0,
            })),
        }
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All events that are kept, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Entry> {
        let now = time::now();
        let rings = self.rings();
        let mut entries: Vec<_> = rings
            .important
            .iter()
            .chain(&rings.frequent)
            .map(|kept| kept.entry(now))
            .collect();
        drop(rings);
        entries.sort_by_key(|entry| entry.position);
        entries
    }

    /// The events that explain an outage, oldest first.
    #[must_use]
    pub fn important(&self) -> Vec<Entry> {
        let now = time::now();
        let rings = self.rings();
        rings.important.iter().map(|kept| kept.entry(now)).collect()
    }

    /// The events that are kept and came after this position, oldest first; 0 is before the first. What a reader asks for
    /// who knows the others already: only the new ones are copied.
    #[must_use]
    pub fn since(&self, position: u64) -> Vec<Entry> {
        let now = time::now();
        let rings = self.rings();
        let new = |ring: &VecDeque<Kept>| {
            let known = ring.partition_point(|kept| kept.position <= position);
            let new = ring.range(known..).map(|kept| kept.entry(now));
            new.collect::<Vec<_>>()
        };
        let mut entries = new(&rings.important);
        entries.extend(new(&rings.frequent));
        drop(rings);
        entries.sort_by_key(|entry| entry.position);
        entries
    }

    /// How many events fell out so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.rings().dropped
    }
}

impl Kept {
    fn entry(&self, now: Tick) -> Entry {
        Entry {
            position: self.position,
            number: self.number,
            age: now.since(self.at),
            at: self.wall,
            name: Arc::clone(&self.name),
            event: self.event.clone(),
        }
    }
}

impl Default for Feed {
    /// Twice 256 events: some minutes of an outage, in less than 200 KiB.
    fn default() -> Self {
        Self::new(256)
    }
}

impl Observer for Feed {
    fn observe(&self, name: &str, event: &Event) {
        self.observe_numbered(name, 0, event);
    }

    fn observe_numbered(&self, name: &str, number: u64, event: &Event) {
        if let Event::CircuitBreaker(CircuitBreakerEvent::Rejected { .. }) = event {
            return;
        }
        let kept = Kept {
            position: 0,
            number,
            at: time::now(),
            wall: time::wall_clock(),
            name: name.into(),
            event: event.clone(),
        };
        let mut rings = self.rings();
        rings.last += 1;
        let position = rings.last;
        let capacity = rings.capacity;
        let ring = match event.is_frequent() {
            true => &mut rings.frequent,
            false => &mut rings.important,
        };
        let is_full = ring.len() >= capacity;
        // Dropped when the lock is gone.
        let old = if is_full { ring.pop_front() } else { None };
        if capacity > 0 {
            ring.push_back(Kept { position, ..kept });
        }
        rings.dropped += u64::from(is_full);
        drop(rings);
        drop(old);
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rings = self.rings();
        f.debug_struct("Feed")
            .field("capacity", &rings.capacity)
            .field("important", &rings.important.len())
            .field("frequent", &rings.frequent.len())
            .field("dropped", &rings.dropped)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RetryEvent;

    fn recovered(attempts: u32) -> Event {
        Event::Retry(RetryEvent::Recovered { attempts })
    }

    #[test]
    fn a_full_ring_forgets_the_oldest_and_says_so() {
        let feed = Feed::new(2);
        for attempts in 1..=5 {
            feed.observe("api", &recovered(attempts));
        }
        let message: Vec<_> = feed.recent().iter().map(|e| e.event.to_string()).collect();
        assert_eq!(
            message,
            ["succeeded at attempt 4", "succeeded at attempt 5"]
        );
        assert_eq!(feed.dropped(), 3);
    }

    #[test]
    fn a_ring_of_nothing_keeps_nothing() {
        let feed = Feed::new(0);
        feed.observe("api", &recovered(1));
        assert!(feed.recent().is_empty());
        assert_eq!(feed.dropped(), 1);
    }

    #[test]
    fn what_is_frequent_pushes_out_only_what_is_frequent() {
        let feed = Feed::new(4);
        feed.observe_numbered("api", 7, &Event::CircuitBreaker(CircuitBreakerEvent::Reset));
        for attempts in 0..1_000 {
            feed.observe("api", &recovered(attempts));
        }
        let important = feed.important();
        assert_eq!(important.len(), 1);
        assert_eq!((important[0].position, important[0].number), (1, 7));
        let positions: Vec<_> = feed.recent().iter().map(|it| it.position).collect();
        assert_eq!(positions, [1, 998, 999, 1_000, 1_001]);
        let new: Vec<_> = feed.since(999).iter().map(|it| it.position).collect();
        assert_eq!(new, [1_000, 1_001]);
        assert_eq!(feed.since(0).len(), 5);
        assert!(feed.since(1_001).is_empty());
        assert_eq!(feed.dropped(), 996);
    }
}
