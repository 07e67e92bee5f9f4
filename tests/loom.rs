//! The atomic protocols of this crate, in every order that two or three threads can run them in (with a
//! bounded number of preemptions). The very files of the crate are compiled here, with simulated atomics.

#![allow(
    dead_code,
    reason = "the files are compiled for what is checked here, and have more in them"
)]
#![allow(unreachable_pub)]

use std::time::Duration;

use loom::sync::{Arc, Mutex};
use loom::thread;

#[path = "../src/rate_limit/bucket.rs"]
mod bucket;
#[path = "../src/util/sharded/collisions.rs"]
mod collisions;
#[path = "../src/util/sharded/counter.rs"]
mod counter;
#[path = "../src/circuit_breaker/fast.rs"]
mod fast;
#[path = "../src/circuit_breaker/in_flight.rs"]
mod in_flight;
#[path = "../src/util/sharded/shards.rs"]
mod shards;
#[path = "../src/rate_limit/word.rs"]
mod word;

#[allow(unused_imports, reason = "shared, and each of them needs its part")]
#[path = "support/loom_sync.rs"]
mod sync;

mod time {
    use std::time::Duration;

    #[derive(Clone, Copy)]
    pub(crate) struct Tick(pub(crate) u64);

    pub(crate) fn now() -> Tick {
        Tick(0)
    }

    pub(crate) fn nanos(duration: Duration) -> u64 {
        duration.as_nanos() as u64
    }
}

/// Where the files look for them.
mod util {
    pub(crate) use crate::{sync, time};
    pub(crate) mod sharded {
        pub(crate) use crate::counter::{Added, TaggedCounter};
        pub(crate) use crate::shards::Sharded;
    }
}

use counter::{Added, TaggedCounter};
use fast::{Fast, Route};
use in_flight::InFlight;
use time::Tick;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn a_count_is_drained_once_or_still_there_and_never_under_another_tag() {
    for shard in [0, 1] {
        check(move || {
            let shards = Arc::new(TaggedCounter::new());
            shards.drain(1, |_, _| {});
            let adder = {
                let shards = Arc::clone(&shards);
                thread::spawn(move || {
                    sync::set_thread_number(shard);
                    u32::from(shards.add(1) != Added::No) + u32::from(shards.add(1) != Added::No)
                })
            };
            let mut drained = 0;
            shards.drain(2, |tag, n| {
                assert_eq!(tag, 1);
                drained += n;
            });
            let added = adder.join().unwrap();
            assert_eq!(drained, added, "what was added was drained");
            assert_eq!(shards.sum(), 0, "nothing was added under the new tag");
        });
    }
}

const NOW: Tick = Tick(0);

/// The published word and the shards as they are in the crate, and a core that only counts.
struct Breaker {
    fast: Fast,
    core: Mutex<Core>,
}

struct Core {
    epoch: u32,
    /// Successes in the window of this epoch.
    window: u64,
    /// Successes that came too late for theirs.
    late: u64,
}

impl Breaker {
    fn new() -> Self {
        let fast = Fast::new(1, false, 0);
        fast.drain(1, NOW);
        Self {
            fast,
            core: Mutex::new(Core {
                epoch: 1,
                window: 0,
                late: 0,
            }),
        }
    }

    /// As `Shared::settle` does with a success.
    fn settle(&self, epoch: u32) {
        if self.fast.add_success(epoch, || NOW) != Added::No {
            return;
        }
        let mut core = self.core.lock().unwrap();
        self.drain(&mut core);
        if core.epoch == epoch {
            core.window += 1;
        } else {
            core.late += 1;
        }
    }

    /// As `Shared::with_core` does: drain, step, and after a change of epoch drain again.
    fn change(&self) -> u64 {
        let mut core = self.core.lock().unwrap();
        self.drain(&mut core);
        let in_old_window = core.window;
        core.epoch += 1;
        core.window = 0;
        let (late, _) = self.fast.drain(core.epoch, NOW);
        core.late += late;
        self.fast.publish(Route::Closed, core.epoch, false, false);
        in_old_window
    }

    fn drain(&self, core: &mut Core) {
        let (drained, _) = self.fast.drain(core.epoch, NOW);
        core.window += drained;
    }
}

/// What a refusal reads is the route of the epoch that it names.
#[test]
fn a_word_is_of_one_epoch() {
    check(|| {
        let fast = Arc::new(Fast::new(1, false, 0));
        let changes = {
            let fast = Arc::clone(&fast);
            thread::spawn(move || {
                fast.publish(Route::Open, 2, false, false);
                fast.publish(Route::AskCore, 3, true, false);
            })
        };
        let seen = fast.read();
        let expected = match seen.epoch() {
            1 => (Route::Closed, false),
            2 => (Route::Open, false),
            _ => (Route::AskCore, true),
        };
        assert_eq!((seen.route(), seen.is_timed()), expected);
        changes.join().unwrap();
    });
}

#[test]
fn a_success_of_an_old_epoch_is_counted_and_never_in_the_new_window() {
    check(|| {
        let breaker = Arc::new(Breaker::new());
        let settle = {
            let breaker = Arc::clone(&breaker);
            thread::spawn(move || {
                sync::set_thread_number(1);
                breaker.settle(1);
            })
        };
        let in_old_window = breaker.change();
        settle.join().unwrap();
        let mut core = breaker.core.lock().unwrap();
        breaker.drain(&mut core);
        assert_eq!(core.window, 0, "in the new window");
        assert_eq!(in_old_window + core.late, 1, "counted once");
    });
}

#[test]
fn two_who_settle_while_the_epoch_changes_are_both_counted() {
    check(|| {
        let breaker = Arc::new(Breaker::new());
        let settlers: Vec<_> = (0..2)
            .map(|number| {
                let breaker = Arc::clone(&breaker);
                thread::spawn(move || {
                    sync::set_thread_number(number);
                    breaker.settle(1);
                })
            })
            .collect();
        let in_old_window = breaker.change();
        for settler in settlers {
            settler.join().unwrap();
        }
        let mut core = breaker.core.lock().unwrap();
        breaker.drain(&mut core);
        assert_eq!(core.window, 0);
        assert_eq!(in_old_window + core.late, 2);
    });
}

#[test]
fn a_call_is_swept_as_slow_or_ends_unswept_and_never_both() {
    check(|| {
        let calls = Arc::new(InFlight::new(Duration::from_nanos(80)));
        let place = calls.enter(1, Tick(1_000)).unwrap();
        let ends = {
            let calls = Arc::clone(&calls);
            thread::spawn(move || calls.exit(place))
        };
        let swept = calls.sweep(1, Tick(2_000));
        let ended_unswept = ends.join().unwrap();
        assert_eq!(swept + u64::from(ended_unswept), 1);
    });
}

#[test]
fn calls_that_start_and_end_at_once_are_not_lost() {
    check(|| {
        let calls = Arc::new(InFlight::new(Duration::from_nanos(80)));
        let first = calls.enter(1, Tick(1_000)).unwrap();
        let other = {
            let calls = Arc::clone(&calls);
            thread::spawn(move || calls.enter(1, Tick(1_001)).unwrap())
        };
        assert!(calls.exit(first));
        let second = other.join().unwrap();
        assert_eq!(calls.sweep(1, Tick(2_000)), 1, "one is on its way");
        assert!(!calls.exit(second));
    });
}

/// Some take without the lock while another, who has it, takes and gives back: no more is taken than there is, and what is
/// left is what was not taken.
#[test]
fn a_quota_in_a_word_loses_nothing_between_those_with_the_lock_and_those_without() {
    use bucket::Pace;
    use word::Word;

    const PACE: Pace = Pace {
        interval: 10,
        capacity: 40,
    };
    check(|| {
        // The quota as whoever has the lock knows it.
        let shared = Arc::new((Word::new(true), Mutex::new(0_u64)));
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || match shared.0.try_take(PACE, 2, 0) {
                    Some(Ok(())) => 2,
                    Some(Err(_)) => 0,
                    None => {
                        let mut full = shared.1.lock().unwrap();
                        if let Some(open) = shared.0.close() {
                            *full = open;
                        }
                        let can = PACE.free_at(*full, 2) == 0;
                        if can {
                            *full = PACE.taken(*full, 2, 0);
                        }
                        shared.0.open(*full);
                        if can { 2 } else { 0 }
                    }
                })
            })
            .collect();
        let with_lock = {
            let mut full = shared.1.lock().unwrap();
            if let Some(open) = shared.0.close() {
                *full = open;
            }
            // Takes three, and gives two of them back.
            let can = PACE.free_at(*full, 3) == 0;
            if can {
                *full = PACE.taken(*full, 3, 0);
                *full = PACE.given_back(*full, 2, 0);
            }
            shared.0.open(*full);
            u64::from(can)
        };
        let taken: u64 = takers.into_iter().map(|it| it.join().unwrap()).sum();
        let taken = taken + with_lock;
        let full = shared.0.close().expect("it is open");
        assert!(taken <= 4, "{taken}");
        assert_eq!(PACE.available(full, 0), 4 - taken);
    });
}
