//! The pure parts: vectors, and a naive model.

use std::task::Waker;

use proptest::prelude::*;
use serde_json::Value;

use super::bucket::{Pace, Time};
use super::cost::Cost;
use super::quota::Quota;
use super::state::{Not, State};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/gcra.json")).unwrap()
}

#[test]
fn a_bucket_does_as_the_vectors_say() {
    let vectors = vectors();
    let mut steps = 0;
    for case in vectors["cases"].as_array().unwrap() {
        let number = |value: &Value| value.as_u64().unwrap();
        let interval = number(&case["emission_interval"]);
        let pace = Pace {
            interval,
            capacity: interval * number(&case["burst"]),
        };
        let mut full: Time = 0;
        for step in case["steps"].as_array().unwrap() {
            let (now, units) = (number(&step["t"]), number(&step["n"]));
            let at = pace.free_at(full, units);
            let can = pace.can_hold(units);
            let allow = can && at <= now;
            assert_eq!(allow, step["allow"].as_bool().unwrap(), "{case} {step}");
            if allow && units > 0 {
                full = pace.taken(full, units, now);
            }
            let wait = can.then(|| at.saturating_sub(now));
            assert_eq!(wait, step["retry_after"].as_u64(), "{case} {step}");
            let left = pace.available(full, now);
            assert_eq!(left, number(&step["remaining"]), "{case} {step}");
            let resets = full.saturating_sub(now);
            assert_eq!(resets, number(&step["reset_after"]), "{case} {step}");
            steps += 1;
        }
    }
    assert!(steps > 60, "{steps}");
    for case in vectors["itu_burst_cases"].as_array().unwrap() {
        // Cells come back to back, one a unit of time; here in tenths of it.
        let tenths = |value: &Value| (value.as_f64().unwrap() * 10.0).round() as u64;
        let interval = tenths(&case["T_delta"]);
        let pace = Pace {
            interval,
            capacity: interval + tenths(&case["tau_delta"]),
        };
        let mut full = 0;
        let cells = (0..).map(|n| n * 10).take_while(|now| {
            let conforms = pace.free_at(full, 1) <= *now;
            if conforms {
                full = pace.taken(full, 1, *now);
            }
            conforms
        });
        assert_eq!(
            cells.count() as u64,
            case["max_back_to_back_cells"],
            "{case}"
        );
    }
    for case in vectors["equivalence_cases"].as_array().unwrap() {
        let number = |value: &Value| value.as_u64().unwrap();
        let pace = Pace {
            interval: number(&case["T"]),
            capacity: number(&case["T"]) + number(&case["tau"]),
        };
        let mut full = 0;
        let arrivals = case["arrivals"].as_array().unwrap();
        for (now, conforming) in arrivals.iter().zip(case["conforming"].as_array().unwrap()) {
            let now = number(now);
            let conforms = pace.free_at(full, 1) <= now;
            assert_eq!(conforms, conforming.as_bool().unwrap(), "{case} at {now}");
            if conforms {
                full = pace.taken(full, 1, now);
            }
        }
    }
}

#[test]
fn a_quota_is_rounded_so_that_never_more_passes() {
    for (amount, seconds) in [(3, 1), (7, 60), (90_000, 60), (999_999_937, 1), (1, 86_400)] {
        let quota = Quota::per(amount, std::time::Duration::from_secs(seconds));
        let interval = quota.interval().unwrap();
        assert!(interval * amount >= seconds * 8_000_000_000, "{quota:?}");
        assert!(
            (interval - 1) * amount < seconds * 8_000_000_000,
            "{quota:?}"
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask([u64; 2]),
    Wait(u64),
    Abandon(usize),
    GiveBack([u64; 2]),
    Pause(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let cost = || [0..6_u64, 0..40];
    prop_oneof![
        5 => cost().prop_map(Step::Ask),
        3 => (0..3_000_000_000_u64).prop_map(Step::Wait),
        1 => any::<usize>().prop_map(Step::Abandon),
        1 => cost().prop_map(Step::GiveBack),
        1 => (0..2_000_000_000_u64).prop_map(Step::Pause),
    ]
}

/// Everything in floating point, and everybody looked at each time.
struct Model {
    pace: [(f64, f64); 2],
    full: [f64; 2],
    queue: Vec<(u64, [u64; 2])>,
    paused: f64,
}

impl Model {
    fn when(&self, cost: [u64; 2]) -> f64 {
        (0..2).fold(self.paused, |latest, i| match cost[i] {
            0 => latest,
            n => latest.max(self.full[i] + n as f64 * self.pace[i].0 - self.pace[i].1),
        })
    }

    fn take(&mut self, cost: [u64; 2], at: f64) {
        for (i, units) in cost.into_iter().enumerate() {
            if units > 0 {
                self.full[i] = self.full[i].max(at) + units as f64 * self.pace[i].0;
            }
        }
    }

    /// The tickets of those that are served.
    fn serve(&mut self, now: f64) -> Vec<u64> {
        let mut served = Vec::new();
        while let Some((ticket, cost)) = self.queue.first().copied() {
            let at = self.when(cost);
            if at > now {
                break;
            }
            self.take(cost, at.max(now - 16_000_000.0));
            self.queue.remove(0);
            served.push(ticket);
        }
        served
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    /// Whoever waits is served in order, when the model serves it, and nobody else is.
    #[test]
    fn the_queue_is_served_as_the_model_serves_it(steps in prop::collection::vec(step(), 1..80)) {
        let paces = [
            Pace { interval: 800_000_000, capacity: 4_000_000_000 },
            Pace { interval: 50_000_000, capacity: 1_500_000_000 },
        ];
        let mut state = State::new(paces);
        let mut model = Model {
            pace: paces.map(|it| (it.interval as f64, it.capacity as f64)),
            full: [0.0; 2],
            queue: Vec::new(),
            paused: 0.0,
        };
        let mut now: Time = 1_000_000_000;
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::Ask(cost) => {
                    let outlook = state.outlook(Cost::from(cost), now);
                    let never = cost[0] > 5 || cost[1] > 30;
                    let free = model.queue.is_empty() && model.when(cost) <= now as f64;
                    match outlook {
                        Err(Not::Ever { .. }) => prop_assert!(never),
                        Ok(()) => {
                            prop_assert!(free && !never);
                            state.take(Cost::from(cost), now);
                            model.take(cost, now as f64);
                        }
                        Err(Not::Before { at, .. }) => {
                            prop_assert!(!free && !never);
                            prop_assert!(at >= now);
                            let ticket = state.enqueue(Cost::from(cost));
                            model.queue.push((ticket, cost));
                        }
                    }
                }
                Step::Abandon(n) if !model.queue.is_empty() => {
                    let (ticket, _) = model.queue.remove(n % model.queue.len());
                    prop_assert!(state.abandon(ticket));
                }
                Step::Abandon(_) => prop_assert!(!state.abandon(u64::MAX)),
                Step::GiveBack(cost) => {
                    state.give_back(Cost::from(cost), now);
                    for (i, units) in cost.into_iter().enumerate() {
                        let less = model.full[i] - units as f64 * model.pace[i].0;
                        let full = model.full[i].max(now as f64);
                        model.full[i] = less.max(now as f64).min(full);
                    }
                }
                Step::Pause(time) => {
                    state.pause(now + time);
                    model.paused = model.paused.max((now + time) as f64);
                }
            }
            let before: Vec<u64> = model.queue.iter().map(|(ticket, _)| *ticket).collect();
            state.serve(now, &mut Vec::new());
            let served = model.serve(now as f64);
            for ticket in before {
                let waits = state.look(ticket, Waker::noop()).is_some();
                prop_assert_eq!(waits, !served.contains(&ticket), "ticket {}", ticket);
            }
            prop_assert_eq!(state.waiting(), model.queue.len());
            for (bucket, full) in state.quotas().iter().zip(model.full) {
                prop_assert!((bucket.full.max(now) as f64 - full.max(now as f64)).abs() < 1.0);
            }
        }
    }
}
