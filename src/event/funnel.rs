//! The one way from a pattern to the outside.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::text::{self, OneLine};
use super::{Event, Observer, log};
use crate::util::time::{self, Tick};

/// Reports to the log and the observers of one handle what happens.
pub(crate) struct Funnel {
    name: Arc<str>,
    observers: Box<[Arc<dyn Observer>]>,
    /// The number of the last event.
    last: AtomicU64,
    gates: Gates,
    ordered: Mutex<Ordered>,
}

/// Lets one event a second of each kind be written to the log. Of the first kind many callers look at when the next is;
/// everything else is made when there is an event. That way an idle handle takes two words.
#[derive(Default)]
struct Gates {
    first: NextLine,
    rest: ArcSwapOption<Rest>,
}

#[derive(Default)]
struct Rest {
    seen_of_first: AtomicU64,
    others: [(NextLine, AtomicU64); log::KINDS - 1],
}

/// When the next event of a kind is written.
#[derive(Default)]
struct NextLine(AtomicU64);

impl Gates {
    #[cold]
    fn make_rest(&self) {
        let nothing = None::<Arc<Rest>>;
        self.rest
            .compare_and_swap(&nothing, Some(Arc::<Rest>::default()));
    }

    /// Hands out when the next event of a kind is written. And of refusals, which are counted elsewhere, how many there were
    /// when one was last written; of other events, how many there were since.
    fn with<T>(
        &self,
        kind: usize,
        look: impl FnOnce(&NextLine, &AtomicU64) -> Option<T>,
    ) -> Option<T> {
        let mut rest = self.rest.load();
        if rest.is_none() {
            self.make_rest();
            rest = self.rest.load();
        }
        let rest = rest.as_ref()?;
        match kind.checked_sub(1) {
            None => look(&self.first, &rest.seen_of_first),
            Some(other) => {
                let (next, seen) = &rest.others[other];
                look(next, seen)
            }
        }
    }
}

impl NextLine {
    fn is_due(&self, now: Tick) -> bool {
        now.0 >= self.0.load(Ordering::Relaxed)
    }

    /// Of those who ask at the same time, it is one's turn.
    fn is_mine(&self, now: Tick) -> bool {
        const EVERY: Duration = Duration::from_secs(1);
        let seen = self.0.load(Ordering::Relaxed);
        let next = now.after(EVERY).0;
        let swapped = || {
            self.0
                .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed)
        };
        now.0 >= seen && swapped().is_ok()
    }
}

/// Events that are reported in order.
#[derive(Default)]
struct Ordered {
    waiting: VecDeque<(u64, Event)>,
    /// Somebody reports them right now, and will report what is added meanwhile.
    telling: bool,
}

impl Funnel {
    pub(crate) fn new(name: Arc<str>, observers: Vec<Arc<dyn Observer>>) -> Self {
        Self {
            name,
            observers: observers.into(),
            last: AtomicU64::new(0),
            gates: Gates::default(),
            ordered: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Reports a refusal: to each observer, and once a second at most to the log, with the number of those that were
    /// left out. `total` is how many there were so far, this one included. Costs a look at a word that is written once
    /// a second, where no observer listens. For the most frequent refusal of a pattern: the others are reported
    /// [by their kind](Self::refused_as).
    pub(crate) fn refused(
        &self,
        now: Tick,
        total: impl FnOnce() -> u64,
        event: impl FnOnce() -> Event,
    ) {
        if self.gates.first.is_due(now) || !self.observers.is_empty() {
            self.refused_as(now, total, &event());
        }
    }

    /// The same, each kind of refusal by itself: `total` is how many there were of this kind.
    pub(crate) fn refused_as(&self, now: Tick, total: impl FnOnce() -> u64, event: &Event) {
        let written = |next: &NextLine, seen: &AtomicU64| {
            next.is_mine(now).then(|| {
                let total = total();
                let before = seen.swap(total, Ordering::Relaxed);
                // After a reset the count begins again.
                total.saturating_sub(before).saturating_sub(1)
            })
        };
        if let Some(kind) = log::kind_of(event)
            && let Some(left_out) = self.gates.with(kind, written)
        {
            self.log(event, left_out);
        }
        let number = self.number();
        self.tell_observers(number, event);
    }

    pub(crate) fn has_observers(&self) -> bool {
        !self.observers.is_empty()
    }

    /// Whether anybody listens to what happens call by call.
    pub(crate) fn hears_details(&self) -> bool {
        !self.observers.is_empty() || log::logs_details()
    }

    fn ordered(&self) -> MutexGuard<'_, Ordered> {
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Numbers an event that is reported in order. Called under the lock under which it was decided: the numbers then
    /// are in the order of the decisions. [`flush`](Self::flush) reports it.
    pub(crate) fn enqueue(&self, event: Event) {
        let mut ordered = self.ordered();
        let number = self.number();
        ordered.waiting.push_back((number, event));
    }

    /// Reports what was [enqueued](Self::enqueue), one after the other. Never call this with a lock in hand.
    ///
    /// If another thread, or a caller of this very thread, is reporting already, it goes on with what is new, and this
    /// returns at once: nobody waits for an observer of somebody else's event, and an observer may cause events.
    pub(crate) fn flush(&self) {
        let mut ordered = self.ordered();
        if std::mem::replace(&mut ordered.telling, true) {
            return;
        }
        while let Some((number, event)) = ordered.waiting.pop_front() {
            drop(ordered);
            self.tell(number, &event);
            ordered = self.ordered();
        }
        ordered.telling = false;
    }

    /// Reports an event at once, for what is frequent and needs no order. Never call this with a lock in hand.
    pub(crate) fn publish(&self, event: &Event) {
        self.tell(self.number(), event);
    }

    fn tell(&self, number: u64, event: &Event) {
        let written = |next: &NextLine, seen: &AtomicU64| match next.is_mine(time::now()) {
            true => Some(seen.swap(0, Ordering::Relaxed)),
            false => {
                seen.fetch_add(1, Ordering::Relaxed);
                None
            }
        };
        let left_out = match log::kind_of(event) {
            None => Some(0),
            Some(kind) => self.gates.with(kind, written),
        };
        if let Some(left_out) = left_out {
            self.log(event, left_out);
        }
        self.tell_observers(number, event);
    }

    fn log(&self, event: &Event, left_out: u64) {
        // A subscriber of `tracing` is somebody else's code too. If it panics there is no use in logging that.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            log::log(&self.name, event, left_out);
        }));
    }

    fn tell_observers(&self, number: u64, event: &Event) {
        for observer in &self.observers {
            guarded(&self.name, || {
                observer.observe_numbered(&self.name, number, event);
            });
        }
    }
}

impl fmt::Debug for Funnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Funnel")
            .field("name", &self.name)
            .field("observers", &self.observers.len())
            .finish_non_exhaustive()
    }
}

/// Runs a user's callback. A panic in it is logged, and is not the caller's problem.
pub(crate) fn guarded(name: &str, callback: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(callback)) {
        let message = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        // The subscriber may be what panicked.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            tracing::error!(
                target: "tower_bulwark",
                name = %OneLine(name),
                panic = %OneLine(text::redacted(&message)),
                "a callback panicked; the call goes on"
            );
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::RetryEvent;
    use super::*;

    #[test]
    fn an_observer_that_panics_silences_nobody() {
        let heard = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&heard);
        let funnel = Funnel::new(
            "db".into(),
            vec![
                Arc::new(|_: &str, _: &Event| panic!("observer")),
                Arc::new(move |name: &str, _: &Event| {
                    assert_eq!(name, "db");
                    count.fetch_add(1, Ordering::Relaxed);
                }),
            ],
        );
        funnel.publish(&Event::Retry(RetryEvent::Recovered { attempts: 2 }));
        assert_eq!(heard.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn events_are_told_in_the_order_of_their_numbers_whoever_tells_them() {
        struct Numbers(Mutex<Vec<u64>>);
        impl Observer for Numbers {
            fn observe(&self, _: &str, _: &Event) {}
            fn observe_numbered(&self, _: &str, number: u64, _: &Event) {
                self.0.lock().unwrap().push(number);
            }
        }
        let numbers = Arc::new(Numbers(Mutex::default()));
        struct Shared(Arc<Numbers>);
        impl Observer for Shared {
            fn observe(&self, _: &str, _: &Event) {}
            fn observe_numbered(&self, name: &str, number: u64, event: &Event) {
                self.0.observe_numbered(name, number, event);
            }
        }
        let funnel = Funnel::new("db".into(), vec![Arc::new(Shared(Arc::clone(&numbers)))]);
        let decided = Mutex::new(());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        let guard = decided.lock().unwrap();
                        funnel.enqueue(Event::Retry(RetryEvent::Recovered { attempts: 2 }));
                        drop(guard);
                        funnel.flush();
                    }
                });
            }
        });
        let told = numbers.0.lock().unwrap();
        assert_eq!(*told, (1..=1_000).collect::<Vec<_>>());
    }

    #[test]
    fn an_observer_that_causes_an_event_hears_of_it_after_its_own() {
        use std::sync::OnceLock;
        let funnel: Arc<OnceLock<Funnel>> = Arc::default();
        let heard: Arc<Mutex<Vec<u32>>> = Arc::default();
        let (again, list) = (Arc::clone(&funnel), Arc::clone(&heard));
        let observer = move |_: &str, event: &Event| {
            let Event::Retry(RetryEvent::Recovered { attempts }) = event else {
                return;
            };
            if *attempts < 4 {
                let funnel = again.get().unwrap();
                funnel.enqueue(Event::Retry(RetryEvent::Recovered {
                    attempts: attempts + 1,
                }));
                funnel.flush();
            }
            list.lock().unwrap().push(*attempts);
        };
        let _ = funnel.set(Funnel::new("db".into(), vec![Arc::new(observer)]));
        let funnel = funnel.get().unwrap();
        funnel.enqueue(Event::Retry(RetryEvent::Recovered { attempts: 2 }));
        funnel.flush();
        assert_eq!(*heard.lock().unwrap(), [2, 3, 4]);
    }
}
