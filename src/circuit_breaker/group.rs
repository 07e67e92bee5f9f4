//! Breakers of one group, of which only a share may be open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Where too many fail at once it is not they who are ill, and to shut out the rest of them shuts out everybody: then
/// circuits that are closed stay closed (Envoy's panic threshold).
#[derive(Debug)]
pub(crate) struct Group {
    /// Above 0, and at most 1.
    most: f64,
    members: AtomicUsize,
    open: AtomicUsize,
}

impl Group {
    pub(crate) fn new(most: f64) -> Arc<Self> {
        Arc::new(Self {
            most,
            members: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        })
    }

    /// How many may be open: one always may.
    fn most_open(&self) -> usize {
        let members = self.members.load(Ordering::Relaxed) as f64;
        ((members * self.most) as usize).max(1)
    }
}

/// The place of one breaker in its group.
#[derive(Debug)]
pub(crate) struct Seat {
    group: Arc<Group>,
    is_open: AtomicBool,
}

impl Seat {
    pub(crate) fn new(group: &Arc<Group>) -> Arc<Self> {
        group.members.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            group: Arc::clone(group),
            is_open: AtomicBool::new(false),
        })
    }

    /// Whether the circuit may open; then it counts as open.
    pub(super) fn may_open(&self) -> bool {
        let most = self.group.most_open();
        let one_more = |open: usize| (open < most).then_some(open + 1);
        let taken = self.is_open.load(Ordering::Relaxed)
            || self
                .group
                .open
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
                .is_ok();
        if taken {
            self.is_open.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// What the circuit is now. Under the lock of its breaker.
    pub(super) fn set(&self, is_open: bool) {
        match (self.is_open.swap(is_open, Ordering::Relaxed), is_open) {
            (false, true) => self.group.open.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.group.open.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.set(false);
        self.group.members.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_share_is_open_and_one_always_may_be() {
        let group = Group::new(0.5);
        let seats: Vec<_> = (0..5).map(|_| Seat::new(&group)).collect();
        let opened = seats.iter().filter(|seat| seat.may_open()).count();
        assert_eq!(opened, 2);
        // Who is open already may open again.
        assert!(seats[0].may_open());
        assert!(!seats[2].may_open());
        seats[0].set(false);
        assert!(seats[2].may_open());
        // An operator's command asks nobody, and counts.
        seats[3].set(true);
        seats[2].set(false);
        assert!(!seats[4].may_open());
        drop(seats);
        let alone = Seat::new(&group);
        assert!(alone.may_open());
        assert_eq!(group.open.load(Ordering::Relaxed), 1);
    }
}
