use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::CircuitBreakerEvent;
use super::{Event, Observer};
use crate::util::time::{self, Tick};

/// A bounded ring of recent events: the flight recorder.
///
/// Single rejections of a breaker are left out (snapshots count them): in an outage they would push out
/// everything that explains it.
///
/// A cheap clone of one shared ring. Give it to a builder with `.observer(feed.clone())`, or use the
/// one that every [`Registry`](crate::Registry) has.
#[derive(Clone)]
pub struct Feed {
    ring: Arc<Mutex<Ring>>,
}

struct Ring {
    capacity: usize,
    entries: VecDeque<(Tick, Arc<str>, Event)>,
    dropped: u64,
}

/// One event of a [`Feed`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Entry {
    /// How long ago it happened.
    pub age: Duration,
    /// The policy, breaker or resource it happened to.
    pub name: Arc<str>,
    /// What happened.
    pub event: Event,
}

impl Feed {
    /// A ring of at most `capacity` events; with 0 nothing is kept.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            ring: Arc::new(Mutex::new(Ring {
                capacity,
                entries: VecDeque::new(),
                dropped: 0,
            })),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events in the ring, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Entry> {
        let now = time::now();
        let ring = self.ring();
        ring.entries
            .iter()
            .map(|(at, name, event)| Entry {
                age: now.since(*at),
                name: Arc::clone(name),
                event: event.clone(),
            })
            .collect()
    }

    /// How many events fell out of the ring so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.ring().dropped
    }
}

impl Default for Feed {
    /// A ring of 256 events: some minutes of an outage, in less than 100 KiB.
    fn default() -> Self {
        Self::new(256)
    }
}

impl Observer for Feed {
    fn observe(&self, name: &str, event: &Event) {
        if let Event::CircuitBreaker(CircuitBreakerEvent::Rejected { .. }) = event {
            return;
        }
        let now = time::now();
        let entry = (now, name.into(), event.clone());
        let mut ring = self.ring();
        if ring.entries.len() >= ring.capacity {
            ring.dropped += 1;
            if ring.entries.pop_front().is_none() {
                return;
            }
        }
        ring.entries.push_back(entry);
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring();
        f.debug_struct("Feed")
            .field("capacity", &ring.capacity)
            .field("len", &ring.entries.len())
            .field("dropped", &ring.dropped)
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
}
