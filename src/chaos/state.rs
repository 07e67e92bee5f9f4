//! What happens to a call: pure.

use std::time::Duration;

use super::config::ChaosConfig;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The number of the call.
    pub(super) call: u64,
    pub(super) late_by: Option<Duration>,
    pub(super) then: Then,
    pub(super) cut_body: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It is made.
    Call,
    Error,
    Hang,
    Panic,
}

/// What is drawn. Each has a sequence of its own.
#[derive(Clone, Copy)]
enum Draw {
    Latency = 1,
    HowLate,
    Panic,
    Hang,
    Error,
    CutBody,
}

/// A number in [0, 1) for this draw of call `n`: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014), which can be asked for any place of its sequence.
fn unit(seed: u64, n: u64, draw: Draw) -> f64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let sequence = mix(seed.wrapping_add((draw as u64).wrapping_mul(GOLDEN)));
    let bits = mix(sequence.wrapping_add(n.wrapping_add(1).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

impl ChaosConfig {
    /// What happens to call `n`.
    pub(super) fn plan(&self, seed: u64, n: u64) -> Plan {
        let meets = |rate: f64, draw| rate > 0.0 && unit(seed, n, draw) < rate;
        let late_by = meets(self.latency, Draw::Latency).then(|| {
            let (least, most) = (*self.latency_range.start(), *self.latency_range.end());
            let share = unit(seed, n, Draw::HowLate);
            let range = most - least;
            let part = Duration::try_from_secs_f64(range.as_secs_f64() * share);
            least.saturating_add(part.unwrap_or(range)).min(most)
        });
        let then = if meets(self.panic, Draw::Panic) {
            Then::Panic
        } else if meets(self.hang, Draw::Hang) {
            Then::Hang
        } else if meets(self.error, Draw::Error) {
            Then::Error
        } else {
            Then::Call
        };
        Plan {
            call: n,
            late_by,
            then,
            cut_body: then == Then::Call && meets(self.cut_body, Draw::CutBody),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn config() -> ChaosConfig {
        ChaosConfig {
            latency: 0.1,
            latency_range: 50 * MS..=500 * MS,
            error: 0.05,
            hang: 0.01,
            panic: 0.002,
            cut_body: 0.2,
        }
    }

    fn plans(config: &ChaosConfig, seed: u64) -> Vec<Plan> {
        (0..100_000).map(|n| config.plan(seed, n)).collect()
    }

    fn share(plans: &[Plan], which: impl Fn(&Plan) -> bool) -> f64 {
        plans.iter().filter(|plan| which(plan)).count() as f64 / plans.len() as f64
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another() {
        assert_eq!(plans(&config(), 7), plans(&config(), 7));
        assert_ne!(plans(&config(), 7), plans(&config(), 8));
    }

    #[test]
    fn each_fault_has_its_share_of_the_calls() {
        for seed in [0, 7, u64::MAX] {
            let plans = plans(&config(), seed);
            let near = |share: f64, rate: f64| {
                // Four standard deviations.
                let most = 4.0 * (rate * (1.0 - rate) / plans.len() as f64).sqrt();
                assert!((share - rate).abs() < most, "{share} {rate}");
            };
            near(share(&plans, |it| it.late_by.is_some()), 0.1);
            near(share(&plans, |it| it.then == Then::Panic), 0.002);
            near(share(&plans, |it| it.then == Then::Hang), 0.01 * 0.998);
            let error = share(&plans, |it| it.then == Then::Error);
            near(error, 0.05 * 0.99 * 0.998);
            let both = |it: &Plan| it.then == Then::Error && it.late_by.is_some();
            near(share(&plans, both), error * 0.1);
            // A call that is not made has no body.
            assert!(plans.iter().all(|it| !it.cut_body || it.then == Then::Call));
            let late: Vec<Duration> = plans.iter().filter_map(|it| it.late_by).collect();
            assert!(late.iter().all(|it| (50 * MS..=500 * MS).contains(it)));
            let mean = late.iter().sum::<Duration>() / late.len() as u32;
            assert!((270 * MS..=280 * MS).contains(&mean), "{mean:?}");
        }
    }

    /// One call in ten is late, and after it again one in ten.
    #[test]
    fn what_happens_to_a_call_says_nothing_about_the_next() {
        let plans = plans(&config(), 7);
        let twice = plans.windows(2).filter(|two| {
            let [one, next] = two else { return false };
            one.late_by.is_some() && next.late_by.is_some()
        });
        let share = twice.count() as f64 / plans.len() as f64;
        assert!((0.008..0.012).contains(&share), "{share}");
    }

    #[test]
    fn another_rate_of_one_fault_changes_nothing_about_the_others() {
        let more_errors = ChaosConfig {
            error: 0.5,
            ..config()
        };
        for (before, after) in plans(&config(), 7).iter().zip(plans(&more_errors, 7)) {
            assert_eq!(before.late_by, after.late_by);
            match before.then {
                Then::Call => assert!(matches!(after.then, Then::Call | Then::Error)),
                other => assert_eq!(after.then, other),
            }
        }
    }

    #[test]
    fn nothing_and_always_are_exact() {
        assert!(
            plans(&ChaosConfig::default(), 7)
                .iter()
                .all(|it| { it.late_by.is_none() && it.then == Then::Call && !it.cut_body })
        );
        let always = ChaosConfig {
            latency: 1.0,
            latency_range: Duration::MAX..=Duration::MAX,
            cut_body: 1.0,
            ..ChaosConfig::default()
        };
        let any_time = ChaosConfig {
            latency_range: Duration::ZERO..=Duration::MAX,
            ..always.clone()
        };
        assert!(plans(&any_time, 7).iter().all(|it| it.late_by.is_some()));
        let plans = plans(&always, 7);
        assert!(
            plans
                .iter()
                .all(|it| it.late_by == Some(Duration::MAX) && it.cut_body)
        );
    }
}
