use std::sync::Barrier;
use std::thread;

use super::TaggedStripes;
use super::counter::word;
use std::sync::atomic::Ordering;

#[test]
fn nothing_is_added_under_an_old_tag() {
    let stripes = TaggedStripes::new();
    stripes.drain(1, |_, _| {});
    assert!(stripes.add(1));
    stripes.drain(2, |_, _| {});
    assert!(!stripes.add(1));
    assert_eq!(stripes.sum(), 0);
}

#[test]
fn every_count_is_drained_exactly_once() {
    const THREADS: usize = 4;
    const EACH: u64 = 20_000;
    let stripes = TaggedStripes::new();
    stripes.drain(1, |_, _| {});
    let start = Barrier::new(THREADS + 1);
    let drained = thread::scope(|scope| {
        let adders: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    (0..EACH).for_each(|_| assert!(stripes.add(1)));
                })
            })
            .collect();
        start.wait();
        let mut drained = 0;
        while adders.iter().any(|adder| !adder.is_finished()) {
            stripes.drain(1, |_, n| drained += u64::from(n));
        }
        drained
    });
    assert_eq!(drained + stripes.sum(), THREADS as u64 * EACH);
}

#[test]
fn a_full_stripe_asks_to_be_drained_instead_of_touching_its_tag() {
    let stripes = TaggedStripes::new();
    for stripe in &stripes.words {
        stripe.store(word(7, u32::MAX), Ordering::Relaxed);
    }
    assert!(!stripes.add(7));
    let mut seen = Vec::new();
    stripes.drain(7, |tag, n| seen.push((tag, n)));
    assert!(seen.iter().all(|it| *it == (7, u32::MAX)));
    assert!(stripes.add(7));
}
