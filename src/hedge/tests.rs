//! The core against a model that steps through time, and what latencies make of the delay.

use std::time::Duration;

use proptest::prelude::*;

use super::config::HedgeConfig;
use super::latency;
use super::state::{End, Next, NotBegun, Race, Turn};
use crate::util::recent::RecentHistogram;
use crate::util::time::Tick;

const MS: Duration = Duration::from_millis(1);

fn tick(ms: u64) -> Tick {
    Tick(1_000_000 * (ms + 1))
}

/// What an attempt does: how long it takes, and what it ends with. One that cannot begin takes no time.
#[derive(Clone, Copy, Debug)]
enum Script {
    Ends(u64, End),
    Refused,
    NoBudget,
    Later,
}

#[derive(Clone, Debug)]
struct Rules {
    extra: u32,
    delay: Option<u64>,
    ends: u64,
}

/// When attempts began, and when the call was over.
#[derive(Debug, Default, PartialEq)]
struct Course {
    begun: Vec<u64>,
    over: u64,
    won: bool,
}

const HORIZON: u64 = 500;

/// Millisecond by millisecond.
fn model(rules: &Rules, scripts: &[Script]) -> Course {
    let mut course = Course::default();
    let mut running: Vec<(u64, End)> = Vec::new();
    let (mut tried, mut used, mut open, mut next) = (0, 0, true, None);
    for now in 0..=HORIZON {
        let (ended, rest): (Vec<_>, Vec<_>) = running.iter().partition(|it| it.0 == now);
        running = rest;
        for (i, (_, end)) in ended.iter().enumerate() {
            let none_left = running.is_empty() && i + 1 == ended.len();
            match end {
                End::Final => {
                    course.over = now;
                    course.won = true;
                    return course;
                }
                End::Failed(Next::AtOnce) => next = Some(now),
                End::Failed(Next::After(delay)) => next = Some(now + delay.as_millis() as u64),
                End::Failed(Next::None) => open = false,
                End::Failed(Next::AsPlanned) | End::Refused if none_left => open = false,
                End::Failed(Next::AsPlanned) | End::Refused => {}
            }
        }
        if now == 0 {
            let Some(Script::Ends(takes, end)) = scripts.first() else {
                return course;
            };
            running.push((*takes, *end));
            course.begun.push(0);
            next = rules.delay;
            tried = 1;
        }
        while open && used < rules.extra && now < rules.ends && next.is_some_and(|at| at <= now) {
            used += 1;
            next = rules.delay.map(|delay| now + delay.max(5));
            match scripts.get(tried) {
                Some(Script::Ends(takes, end)) => {
                    running.push((now + takes, *end));
                    course.begun.push(now);
                    next = rules.delay.map(|delay| now + delay);
                }
                Some(Script::Later) => {
                    used -= 1;
                    next = Some(now + 5);
                }
                Some(Script::Refused) => open = !running.is_empty(),
                Some(Script::NoBudget) | None => open = false,
            }
            tried += 1;
        }
        let may_come = open && used < rules.extra && next.is_some_and(|at| at < rules.ends);
        if running.is_empty() && !may_come {
            course.over = now;
            return course;
        }
    }
    course.over = HORIZON;
    course
}

/// The core, driven from event to event.
fn subject(rules: &Rules, scripts: &[Script]) -> Course {
    let mut course = Course::default();
    let Some(Script::Ends(takes, end)) = scripts.first() else {
        return course;
    };
    let delay = rules.delay.map(|delay| MS * delay as u32);
    let mut race = Race::new(rules.extra);
    race.first_waits(tick(0), delay, tick(rules.ends));
    let mut running = vec![(*takes, *end)];
    course.begun.push(0);
    let (mut now, mut tried) = (0, 1);
    loop {
        if race.is_over() {
            course.over = now;
            return course;
        }
        let turn = match race.turn(false, Duration::ZERO) {
            Turn::Never | Turn::AfterTheWait => None,
            Turn::AtOnce => Some(now),
            Turn::At(at) => Some((at.0 / 1_000_000 - 1).max(now)),
        };
        let first = running.iter().map(|it| it.0).min();
        match (first, turn) {
            (Some(end), turn) if turn.is_none_or(|turn| end <= turn) => {
                now = end;
                let at = running.iter().position(|it| it.0 == now).unwrap();
                let (_, end) = running.remove(at);
                if race.ended(end, || tick(now)) {
                    course.over = now;
                    course.won = true;
                    return course;
                }
            }
            (_, Some(turn)) => {
                now = turn;
                if race.is_late(tick(now)) {
                    race.stop();
                    continue;
                }
                match scripts.get(tried) {
                    Some(Script::Ends(takes, end)) => {
                        race.hedged(tick(now), delay);
                        running.push((now + takes, *end));
                        course.begun.push(now);
                    }
                    Some(Script::Refused) => {
                        race.not_hedged(NotBegun::Refused, tick(now), delay);
                    }
                    Some(Script::Later) => {
                        race.not_hedged(NotBegun::Later, tick(now), delay);
                    }
                    Some(Script::NoBudget) | None => {
                        race.not_hedged(NotBegun::ForGood, tick(now), delay);
                    }
                }
                tried += 1;
            }
            (_, None) => unreachable!("nothing runs, and it is not over"),
        }
    }
}

fn ends() -> impl Strategy<Value = End> {
    prop_oneof![
        2 => Just(End::Final),
        2 => Just(End::Failed(Next::AsPlanned)),
        2 => Just(End::Failed(Next::AtOnce)),
        1 => (1..40_u32).prop_map(|ms| End::Failed(Next::After(MS * ms))),
        1 => Just(End::Failed(Next::None)),
        1 => Just(End::Refused),
    ]
}

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let script = prop_oneof![
        6 => (1..60_u64, ends()).prop_map(|(takes, end)| Script::Ends(takes, end)),
        1 => Just(Script::Refused),
        1 => Just(Script::NoBudget),
        1 => Just(Script::Later),
    ];
    let first = (1..60_u64, ends()).prop_map(|(takes, end)| Script::Ends(takes, end));
    (first, prop::collection::vec(script, 5)).prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        rest
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_core_does_what_a_model_does_that_steps_through_time(
        extra in 0..4_u32,
        delay in prop::option::of(0..40_u64),
        ends in 1..150_u64,
        scripts in scripts(),
    ) {
        let rules = Rules { extra, delay, ends };
        let course = subject(&rules, &scripts);
        prop_assert_eq!(&course, &model(&rules, &scripts));
        prop_assert!(course.begun.len() as u32 <= 1 + extra);
        prop_assert!(course.begun.iter().skip(1).all(|&it| it < ends));
    }
}

#[test]
fn the_clock_of_an_attempt_stands_still_while_it_waits_in_this_crate() {
    let mut race = Race::new(1);
    race.first_waits(tick(0), Some(20 * MS), Tick::NEVER);
    assert_eq!(race.turn(true, Duration::ZERO), Turn::AfterTheWait);
    assert_eq!(race.turn(false, 50 * MS), Turn::At(tick(70)));
}

#[test]
fn a_delay_without_end_is_none() {
    let mut race = Race::new(1);
    race.first_waits(tick(0), Some(Duration::MAX), Tick::NEVER);
    assert_eq!(race.turn(false, Duration::MAX), Turn::Never);
}

/// `n` calls that took 1, 2, .. n milliseconds.
fn latencies(n: u32) -> RecentHistogram {
    let mut recent = RecentHistogram::default();
    (1..=n).for_each(|ms| recent.record(MS * ms, tick(0)));
    recent
}

#[test]
fn a_percentile_is_known_from_enough_calls_on_and_never_below_its_floor() {
    let config = HedgeConfig {
        at_least: 30 * MS,
        ..HedgeConfig::default()
    };
    assert_eq!(latency::delay(&config, &latencies(99)), None);
    assert!(latency::is_cold(&config, &latencies(99)));
    let delay = latency::delay(&config, &latencies(100)).unwrap();
    assert!(delay >= 95 * MS && delay <= 107 * MS, "{delay:?}");
    assert!(!latency::is_cold(&config, &latencies(100)));
    let low = HedgeConfig {
        percentile: Some(0.1),
        ..config.clone()
    };
    assert_eq!(latency::delay(&low, &latencies(100)), Some(30 * MS));
    // Until then, and without a percentile, what is fixed.
    let fixed = HedgeConfig {
        after: Some(5 * MS),
        ..config
    };
    assert_eq!(latency::delay(&fixed, &latencies(99)), Some(5 * MS));
}

#[test]
fn latencies_of_long_ago_do_not_count() {
    let config = HedgeConfig::default();
    let mut recent = latencies(100);
    recent.turn(tick(59_000));
    assert!(latency::delay(&config, &recent).is_some());
    recent.turn(tick(61_000));
    assert_eq!(latency::delay(&config, &recent), None);
}
