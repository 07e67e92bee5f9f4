use std::sync::Barrier;
use std::thread;

use super::counter::word;
use super::{Added, TaggedCounter};
use std::sync::atomic::Ordering;

#[test]
fn nothing_is_added_under_an_old_tag() {
    let shards = TaggedCounter::new();
    shards.drain(1, |_, _| {});
    assert_ne!(shards.add(1), Added::No);
    shards.drain(2, |_, _| {});
    assert_eq!(shards.add(1), Added::No);
    assert_eq!(shards.sum(), 0);
}

#[test]
fn every_count_is_drained_exactly_once() {
    const THREADS: usize = 4;
    const EACH: u64 = 20_000;
    let shards = TaggedCounter::new();
    shards.drain(1, |_, _| {});
    let start = Barrier::new(THREADS + 1);
    let drained = thread::scope(|scope| {
        let adders: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    (0..EACH).for_each(|_| assert_ne!(shards.add(1), Added::No));
                })
            })
            .collect();
        start.wait();
        let mut drained = 0;
        while adders.iter().any(|adder| !adder.is_finished()) {
            shards.drain(1, |_, n| drained += u64::from(n));
        }
        drained
    });
    assert_eq!(drained + shards.sum(), THREADS as u64 * EACH);
}

#[test]
fn a_full_shard_asks_to_be_drained_instead_of_touching_its_tag() {
    let shards = TaggedCounter::new();
    for shard in shards.words.all() {
        shard.store(word(7, u32::MAX), Ordering::Relaxed);
    }
    assert_eq!(shards.add(7), Added::No);
    let mut seen = Vec::new();
    shards.drain(7, |tag, n| seen.push((tag, n)));
    assert!(seen.iter().all(|it| *it == (7, u32::MAX)));
    assert_ne!(shards.add(7), Added::No);
}
