//! What is to be seen of a fleet: who is told what happens, and which parts it has.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::error::StoreError;
use super::snapshot::Parts;
use crate::event::{Event, FleetEvent, FleetPart, Funnel, Observer, guarded};

/// Tells the log and all observers, also those that are added later.
pub(super) struct Reporter {
    funnel: Funnel,
    observers: Arc<Observers>,
    pub(super) parts: Parts,
}

#[derive(Default)]
struct Observers(ArcSwap<Vec<Arc<dyn Observer>>>);

impl Observer for Observers {
    fn observe(&self, name: &str, event: &Event) {
        self.observe_numbered(name, 0, event);
    }

    fn observe_numbered(&self, name: &str, number: u64, event: &Event) {
        for observer in self.0.load().iter() {
            guarded(name, || observer.observe_numbered(name, number, event));
        }
    }
}

impl Reporter {
    /// `name` is what everything is reported under.
    pub(super) fn new(name: Arc<str>) -> Self {
        let observers = Arc::<Observers>::default();
        Self {
            funnel: Funnel::new(name, vec![observers.clone()]),
            observers,
            parts: Parts::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn of_a_test() -> Arc<Self> {
        Arc::new(Self::new("test".into()))
    }

    pub(super) fn add(&self, observer: &Arc<dyn Observer>) {
        self.observers.0.rcu(|added| {
            let mut added = Vec::clone(added);
            // A registry comes again when a fleet was removed from it and is added anew.
            if !added.iter().any(|it| Arc::ptr_eq(it, observer)) {
                added.push(Arc::clone(observer));
            }
            added
        });
    }

    /// For what a part reports by itself.
    pub(super) fn observer(&self) -> Arc<dyn Observer> {
        self.observers.clone()
    }

    /// Never call this with a lock in hand.
    pub(super) fn tell(&self, event: FleetEvent) {
        self.funnel.publish(&Event::Fleet(event));
    }

    /// The store does not answer what is asked for a part.
    pub(super) fn is_away(&self, part: FleetPart, name: &Arc<str>, why: &StoreError) {
        self.tell(FleetEvent::StoreAway {
            part,
            name: Arc::clone(name),
            reason: why.to_string(),
        });
    }

    /// It answers again.
    pub(super) fn is_back(&self, part: FleetPart, name: &Arc<str>, after: Duration) {
        self.tell(FleetEvent::StoreBack {
            part,
            name: Arc::clone(name),
            after,
        });
    }
}
