//! Queues that are served otherwise than first come, first served.

use std::task::{Poll, Waker};
use std::time::Duration;

use crate::call::Holder;
use crate::contention::codel::{Codel, Queue};
use crate::contention::core::{Claimed, Core, Place, Why};
use crate::contention::owner::Owner;
use crate::contention::records::{Because, Who};
use crate::contention::rules::{Priority, Rules};
use crate::util::time::Tick;

const VECTORS: &str = include_str!("../../../tests/vectors/codel.json");

fn millis(value: &serde_json::Value) -> Duration {
    Duration::from_secs_f64(value.as_f64().unwrap() / 1e3)
}

#[test]
fn waits_are_refused_as_follys_codel_refuses_them() {
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let mut codel = Codel::new();
        let settings = (millis(&case["target_ms"]), millis(&case["interval_ms"]));
        for step in case["steps"].as_array().unwrap() {
            let now = Tick(0).after(millis(&step["t"]));
            let shed = codel.sheds(millis(&step["delay"]), now, settings);
            let (id, why) = (&case["id"], &case["why"]);
            assert_eq!(shed, step["shed"].as_bool().unwrap(), "{id} {step} {why}");
            assert_eq!(
                codel.overloaded,
                step["overloaded"].as_bool().unwrap(),
                "{id} {step}"
            );
            assert_eq!(codel.min_delay, millis(&step["min_delay"]), "{id} {step}");
        }
    }
}

#[test]
fn the_order_and_the_longest_wait_are_those_of_the_paper() {
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    for case in vectors["adaptive_timeout_cases"].as_array().unwrap() {
        let millis = |name: &str| Duration::from_millis(case[name].as_u64().unwrap());
        let interval = millis("n_ms");
        let mut rules = Rules::new(Queue::lifo_when_overloaded(interval), None).unwrap();
        rules.queue_begins(Tick(1));
        let now = Tick(1).after(millis("queue_last_empty_ms_ago"));
        let is_lifo = case["order"] == "LIFO";
        assert_eq!(rules.last_comes_first(now), is_lifo, "{case}");
        assert_eq!(rules.longest_wait(now).is_some(), is_lifo, "{case}");
    }
}

#[test]
fn a_holder_has_at_most_its_share_whatever_it_gives_back() {
    let mut rules = Rules::new(Queue::Fifo, Some(3)).unwrap();
    let holder = Holder::from("tenant");
    rules.takes(&holder, 2);
    assert!(rules.may_take(&holder, 1) && !rules.may_take(&holder, 2));
    rules.takes(&holder, 1);
    assert!(!rules.may_take(&holder, 1) && rules.may_take(&Holder::from("other"), 3));
    rules.gives_back(&holder, 2);
    rules.gives_back(&holder, 9);
    assert!(rules.may_take(&holder, 3) && rules.held.is_empty());
}

fn who(name: u64, priority: Priority) -> Who {
    Who {
        holder: Holder::Number(name),
        owner: Owner::Anybody,
        priority,
    }
}

fn at(millis: u64) -> Tick {
    Tick(1_000_000_000).after(Duration::from_millis(millis))
}

fn take(core: &Core, name: u64, now: Tick) -> Option<Place> {
    core.take(1, || now, &mut Some(who(name, Priority::Normal)))
        .ok()
}

fn wait(core: &Core, who: Who, most: usize, now: Tick) -> Result<Place, Why> {
    let waker = Waker::noop().clone();
    match core.enqueue(1, who, waker, Some(most), now)? {
        (place, Poll::Pending) => Ok(place),
        (_, Poll::Ready(())) => panic!("it was free"),
    }
}

fn claim(core: &Core, waiter: Place) -> Claimed {
    core.claim(waiter, Waker::noop(), Duration::MAX, || Tick(0))
}

/// Who of these has been granted its permit.
fn granted(core: &Core, waiters: &mut Vec<(u64, Place)>) -> Option<(u64, Place)> {
    let has = |it: &(u64, Place)| matches!(claim(core, it.1), Claimed::Permits(_));
    let index = waiters.iter().position(has)?;
    Some(waiters.remove(index))
}

#[test]
fn the_most_important_is_served_first_and_the_longest_wait_is_never_forgotten() {
    let core = Core::new(1);
    let mut held = take(&core, 0, at(0)).unwrap();
    let low = wait(&core, who(1_000, Priority::Low), 999, at(0)).unwrap();
    let mut waiters = vec![(1_000, low)];
    let mut served = Vec::new();
    for n in 0..40 {
        // There is always somebody more important.
        for priority in [Priority::High, Priority::Normal] {
            let name = n * 10 + priority as u64;
            let place = wait(&core, who(name, priority), 999, at(1 + n)).unwrap();
            waiters.push((name, place));
        }
        core.release(held, None, at(2 + n));
        let (name, place) = granted(&core, &mut waiters).unwrap();
        served.push(name);
        held = place;
    }
    let low = served.iter().position(|name| *name == 1_000).unwrap();
    assert_eq!(low, 7, "each eighth grant is for whoever waits longest");
    let high = served
        .iter()
        .filter(|name| *name % 10 == Priority::High as u64);
    assert_eq!(high.count(), 35);
}

#[test]
fn a_full_queue_refuses_the_youngest_of_the_least_important() {
    let core = Core::new(1);
    let held = take(&core, 0, at(0)).unwrap();
    let old = wait(&core, who(1, Priority::Low), 2, at(1)).unwrap();
    let young = wait(&core, who(2, Priority::Low), 2, at(2)).unwrap();
    let same = wait(&core, who(3, Priority::Low), 2, at(3)).unwrap_err();
    assert!(matches!(same, Why::QueueFull { waiting: 2, .. }));
    let high = wait(&core, who(4, Priority::High), 2, at(4)).unwrap();
    assert!(matches!(
        claim(&core, young),
        Claimed::Refused(Because::GaveWay, _)
    ));
    assert_eq!((claim(&core, old), core.waiting()), (Claimed::Waits, 2));
    core.release(held, None, at(5));
    assert!(matches!(claim(&core, high), Claimed::Permits(_)));
    assert_eq!(core.counts(Tick(100)).shed, 1);
}

#[test]
fn a_queue_that_has_not_been_empty_serves_the_last_first_and_refuses_who_waited_too_long() {
    let core = Core::new(1);
    core.set_rules(
        Queue::lifo_when_overloaded(Duration::from_millis(100)),
        None,
        at(0),
    );
    let mut held = take(&core, 0, at(0)).unwrap();
    let mut waiters = Vec::new();
    for n in 1..=4 {
        let place = wait(&core, who(n, Priority::Normal), 99, at(10 * n)).unwrap();
        waiters.push((n, place));
    }
    // Within the interval: first come, first served.
    core.release(held, None, at(50));
    let (first, place) = granted(&core, &mut waiters).unwrap();
    assert_eq!(first, 1);
    held = place;
    // The queue began at 10 ms: from 110 ms on the last comes first.
    core.release(held, None, at(115));
    let (last, place) = granted(&core, &mut waiters).unwrap();
    assert_eq!(last, 4);
    // Those that came at 20 and 30 ms have waited for more than 100 ms by now.
    core.release(place, None, at(131));
    for (_, place) in waiters {
        assert!(matches!(
            claim(&core, place),
            Claimed::Refused(Because::Shed, _)
        ));
    }
    let seen = core.seen();
    assert_eq!((seen.in_use(), seen.is_queued()), (0, false));
    assert_eq!(core.counts(Tick(100)).shed, 2);
}

#[test]
fn codel_refuses_while_a_queue_stands_and_stops_when_it_does_not() {
    let core = Core::new(1);
    let (target, interval) = (Duration::from_millis(5), Duration::from_millis(100));
    core.set_rules(Queue::codel(target, interval), None, at(0));
    let mut held = take(&core, 0, at(0)).unwrap();
    let (mut shed, mut served) = (0, 0);
    // Each waits for 20 ms: a standing queue.
    let mut waiting = std::collections::VecDeque::new();
    for n in 1..400 {
        let now = at(n * 5);
        waiting.push_back(wait(&core, who(n, Priority::Normal), 999, now).unwrap());
        if n % 4 != 0 {
            continue;
        }
        core.release(held, None, now);
        loop {
            let next = waiting.pop_front().unwrap();
            match claim(&core, next) {
                Claimed::Permits(_) => {
                    served += 1;
                    held = next;
                    break;
                }
                Claimed::Refused(Because::Shed, _) => shed += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(
        shed > 100 && served == 99,
        "{shed} refused, {served} served"
    );
    assert_eq!(core.counts(Tick(100)).shed, shed);
}

#[test]
fn a_holder_that_has_its_share_waits_and_others_pass() {
    let core = Core::with_shards(4);
    core.set_rules(Queue::Fifo, Some(2), at(0));
    let greedy: Vec<Place> = (0..2).map(|_| take(&core, 7, at(0)).unwrap()).collect();
    assert!(take(&core, 7, at(1)).is_none(), "it has its share");
    let more = wait(&core, who(7, Priority::Normal), 99, at(1)).unwrap();
    // Two are free, and others may have them past who waits.
    let other = take(&core, 8, at(2)).unwrap();
    let second = take(&core, 8, at(2)).unwrap();
    assert_eq!(
        (core.seen().in_use(), claim(&core, more)),
        (4, Claimed::Waits)
    );
    // One comes back from somebody else: that is not what it waits for.
    core.release(other, None, at(3));
    assert_eq!(claim(&core, more), Claimed::Waits);
    core.release(greedy[0], None, at(4));
    assert!(matches!(claim(&core, more), Claimed::Permits(_)));
    for place in [greedy[1], second, more] {
        core.release(place, None, at(5));
    }
    let seen = core.seen();
    assert_eq!((seen.in_use(), seen.is_queued()), (0, false));
    let three = core.enqueue(
        3,
        who(7, Priority::Normal),
        Waker::noop().clone(),
        None,
        at(6),
    );
    assert_eq!(three.unwrap_err(), Why::TooMany);
    // Without the limit it may have them all.
    core.set_rules(Queue::Fifo, None, at(7));
    assert!((0..4).all(|_| take(&core, 7, at(7)).is_some()));
}
