//! The layers in a storm, beside no layer and beside tower's own retry: see `support/storm.rs` for the server
//! and its callers. Every bound holds for every seed; the seeds are there to keep it honest.

#[path = "support/storm.rs"]
mod storm;

use std::sync::OnceLock;
use std::time::Duration;

use storm::{
    BUDGET, BUDGET_BURST, BUDGET_FLOOR, CALLS_PER_SECOND, CAPACITY_PER_SECOND, CLIENTS, Outage,
    Report, Variant, Weather, run, run_all,
};
use tower_bulwark::circuit_breaker::{CircuitBreakerBuilder, Window};
use tower_bulwark::{CircuitBreaker, CircuitState};

const SEEDS: [u64; 3] = [1, 20, 300];

/// The same storm over all variants, for each seed.
fn storms() -> &'static [Vec<Report>] {
    static STORMS: OnceLock<Vec<Vec<Report>>> = OnceLock::new();
    STORMS.get_or_init(|| {
        let storm = |seed: &u64| run_all(&Variant::ALL, &weather(), *seed);
        SEEDS.iter().map(storm).collect()
    })
}

fn weather() -> Weather {
    Weather::storm(Outage::Refuses)
}

fn each(variant: Variant) -> impl Iterator<Item = &'static Report> {
    let reports = storms().iter().flatten();
    reports.filter(move |report| report.variant == variant)
}

#[test]
fn in_fair_weather_nobody_is_worse_off() {
    for variant in Variant::ALL {
        for report in each(variant) {
            let goodput = report.goodput(weather().before());
            assert!(goodput > 0.97, "{variant:?}: {goodput}");
        }
    }
}

#[test]
fn a_budget_bounds_the_load_and_a_plain_retry_multiplies_it() {
    for variant in [Variant::Budgeted, Variant::Layers] {
        for report in each(variant) {
            for range in [weather().all(), weather().outage, weather().rush] {
                let amplification = report.amplification(range);
                assert!(
                    amplification <= 1.1 + BUDGET,
                    "{variant:?}: {amplification}"
                );
            }
            // To the last request: what the calls paid in, the floor, and what was saved up.
            let calls = report.calls(weather().all()) as f64;
            let floor = BUDGET_FLOOR * weather().length as f64;
            let others = CLIENTS as f64 * (floor + f64::from(BUDGET_BURST));
            let bound = calls * (1.0 + BUDGET) + others;
            assert!(report.load(weather().all()) as f64 <= bound);
        }
    }
    for report in each(Variant::Naive) {
        let amplification = report.amplification(weather().outage);
        assert!(amplification > 3.9, "{amplification}");
    }
}

#[test]
fn a_server_that_is_down_is_left_alone() {
    let outage = weather().outage;
    for (bare, layers) in each(Variant::Bare).zip(each(Variant::Layers)) {
        let opened = layers.all_open_after(&outage).expect("all have opened");
        assert!(opened < Duration::from_millis(1_500), "{opened:?}");

        let settled = outage.start + 2..outage.end;
        // Each client sends a probe, and the circuit stays open for 1.6 s at least.
        let probes = (CLIENTS as f64 * (settled.end - settled.start) as f64 / 1.6) as u64;
        let load = layers.load(settled.clone());
        assert!(load <= probes, "{load} requests");
        assert!(load * 20 < bare.load(settled), "{load} requests");
    }
}

#[test]
fn after_an_outage_the_traffic_is_back_within_seconds() {
    for report in each(Variant::Layers) {
        // The longest open time, a second probe, and what a window of five seconds blurs.
        let recovered = report.recovers_in(weather().between());
        assert!(recovered.is_some_and(|it| it <= 8), "{recovered:?}");
        let last = report
            .changes
            .iter()
            .rfind(|it| it.at.as_secs() < weather().rush.start);
        assert_eq!(last.expect("it was open").to, CircuitState::Closed);
    }
}

#[test]
fn in_a_rush_the_server_does_all_that_it_can_and_none_of_it_for_nobody() {
    let rush = weather().rush;
    let most = CAPACITY_PER_SECOND * (rush.end - rush.start) as f64;
    for report in each(Variant::Layers) {
        let good = report.good(rush.clone()) as f64;
        assert!(good >= 0.9 * most, "{good} of {most}");
        assert_eq!(report.wasted(rush.clone()), 0);
    }
    for variant in [Variant::Bare, Variant::Naive, Variant::Budgeted] {
        for report in each(variant) {
            let good = report.good(rush.clone()) as f64;
            assert!(good <= 0.5 * most, "{variant:?}: {good} of {most}");
        }
    }
}

#[test]
fn a_rush_that_is_over_is_over_and_with_a_plain_retry_it_never_is() {
    let after = weather().after();
    for report in each(Variant::Layers) {
        let recovered = report.recovers_in(after.clone());
        assert!(recovered.is_some_and(|it| it <= 2), "{recovered:?}");
    }
    // Its queue is full of calls that nobody waits for, and has to be worked through.
    for report in each(Variant::Bare) {
        let recovered = report.recovers_in(after.clone());
        assert!(recovered.is_none_or(|it| it >= 10), "{recovered:?}");
    }
    // The calls are as few as before the rush, and not one of them succeeds: the retries alone are more
    // than the server can do.
    for report in each(Variant::Naive) {
        let last = after.end - 20..after.end;
        assert_eq!(report.recovers_in(after.clone()), None);
        assert!(report.goodput(last.clone()) < 0.05);
        assert!(report.load(last) as f64 > 20.0 * CAPACITY_PER_SECOND);
    }
}

#[test]
fn hedges_add_no_more_than_their_budget_and_keep_nobody_down() {
    for (layers, hedged) in each(Variant::Layers).zip(each(Variant::Hedged)) {
        for range in [weather().all(), weather().outage, weather().rush] {
            let (with, without) = (
                hedged.amplification(range.clone()),
                layers.amplification(range),
            );
            assert!(with <= without + 0.1, "{with} {without}");
        }
        for range in [weather().between(), weather().after()] {
            let recovered = hedged.recovers_in(range);
            assert!(recovered.is_some_and(|it| it <= 8), "{recovered:?}");
        }
    }
}

#[test]
fn with_a_rate_limit_and_a_fallback_nobody_goes_without_an_answer_and_the_server_is_never_overrun()
{
    let (rush, outage) = (weather().rush, weather().outage);
    for report in each(Variant::Fallback) {
        let goodput = report.goodput(weather().all());
        assert!(goodput > 0.99, "{goodput}");
        let fair = report.stale(weather().before()) as f64;
        assert!(
            fair <= 0.02 * report.calls(weather().before()) as f64,
            "{fair}"
        );
        assert!(report.stale(outage.clone()) as f64 > 0.9 * report.calls(outage.clone()) as f64);
        let most = CAPACITY_PER_SECOND * (rush.end - rush.start) as f64;
        let load = report.load(rush.clone()) as f64;
        assert!((0.8 * most..=most).contains(&load), "{load} of {most}");
        assert_eq!(report.wasted(rush.clone()), 0);
    }
}

/// A metastable failure: what began it is over, and what keeps it up is the callers' own retries (Bronson et al.,
/// "Metastable Failures in Distributed Systems", HotOS 2021).
#[test]
fn a_rush_of_five_seconds_is_never_over_with_a_plain_retry_and_at_once_with_these() {
    let weather = Weather::trigger();
    let late = weather.length - 20..weather.length;
    let variants = [
        Variant::Naive,
        Variant::Layers,
        Variant::Hedged,
        Variant::Fallback,
    ];
    for seed in SEEDS {
        for report in run_all(&variants, &weather, seed) {
            let (variant, recovered) = (report.variant, report.recovers_in(weather.after()));
            match variant {
                Variant::Naive => {
                    assert_eq!(recovered, None);
                    assert!(report.goodput(late.clone()) < 0.05);
                }
                _ => assert!(
                    recovered.is_some_and(|it| it <= 3),
                    "{variant:?}: {recovered:?}"
                ),
            }
        }
    }
}

/// An outage that refuses nothing, and answers nothing.
#[test]
fn a_server_that_hangs_is_found_out_and_does_not_stay_down_for_it() {
    let weather = Weather::storm(Outage::Hangs);
    for seed in SEEDS {
        let reports = run_all(&[Variant::Naive, Variant::Layers], &weather, seed);
        let [naive, layers] = &reports[..] else {
            panic!("two were run");
        };
        let opened = layers
            .all_open_after(&weather.outage)
            .expect("all have opened");
        assert!(opened < Duration::from_secs(4), "{opened:?}");
        assert!(layers.load(weather.outage.clone()) < CLIENTS as u64 * 20);
        let recovered = layers.recovers_in(weather.between());
        assert!(recovered.is_some_and(|it| it <= 8), "{recovered:?}");
        assert_eq!(naive.recovers_in(weather.between()), None);
    }
}

#[test]
fn two_failures_in_a_hundred_open_no_circuit_in_fifty_thousand_calls() {
    let weather = Weather::calm(300, 0.02);
    let weather = &weather;
    let reports: Vec<_> = std::thread::scope(|scope| {
        let run = |seed| scope.spawn(move || run(Variant::Layers, weather, seed));
        let threads: Vec<_> = SEEDS.into_iter().map(run).collect();
        threads
            .into_iter()
            .map(|it| it.join().expect("a run ends"))
            .collect()
    });
    let calls: u64 = reports.iter().map(|it| it.calls(weather.all())).sum();
    assert!(calls as f64 > 0.93 * 3.0 * 300.0 * CALLS_PER_SECOND);
    for report in reports {
        assert_eq!(report.openings(), 0);
        assert!(report.goodput(weather.all()) > 0.98);
    }
}

#[test]
fn a_storm_is_the_same_each_time() {
    let first = &storms()[0][Variant::Layers as usize];
    assert_eq!(&run(Variant::Layers, &weather(), SEEDS[0]), first);
    assert_ne!(&run(Variant::Layers, &weather(), SEEDS[1]), first);
}

/// How many failing calls it takes to open a new breaker after so many healthy ones.
fn failures_to_open(builder: &CircuitBreakerBuilder, healthy: u32) -> u32 {
    let breaker: CircuitBreaker = builder.clone().build().expect("valid");
    for _ in 0..healthy {
        breaker.try_acquire().expect("closed").success();
    }
    let fails = |_: &u32| match breaker.try_acquire() {
        Ok(permit) => {
            permit.failure();
            true
        }
        Err(_) => false,
    };
    (0..10_000).take_while(fails).count() as u32
}

#[test]
fn a_million_healthy_calls_delay_no_detection() {
    let builder = || CircuitBreaker::builder("api");
    let rate = |size| {
        builder()
            .failure_rate(0.5, Window::calls(size))
            .consecutive_failures(None)
            .minimum_calls(10)
    };
    let both = rate(100).consecutive_failures(5);
    let slow = rate(100).slow_call_rate(0.5, Duration::from_secs(10));
    for (builder, expected) in [
        (builder(), 5),
        (rate(10), 5),
        (rate(100), 50),
        (slow, 50),
        (both, 5),
    ] {
        assert_eq!(failures_to_open(&builder, 100), expected);
        assert_eq!(failures_to_open(&builder, 1_000_000), expected);
    }
}

/// A window of time forgets what is older, however much that was.
#[tokio::test(start_paused = true)]
async fn healthy_hours_delay_no_detection_in_a_window_of_time() {
    const STEP: Duration = Duration::from_millis(100);
    let failures_to_open = async |minutes: u32| {
        let breaker = CircuitBreaker::builder("api")
            .failure_rate(0.5, Window::time(Duration::from_secs(10)))
            .consecutive_failures(None)
            .build()
            .expect("valid");
        for _ in 0..minutes * 600 {
            breaker.try_acquire().expect("closed").success();
            tokio::time::advance(STEP).await;
        }
        let mut failures = 0;
        while let Ok(permit) = breaker.try_acquire() {
            permit.failure();
            failures += 1;
            tokio::time::advance(STEP).await;
        }
        // The next one begins at the same point of a slice.
        tokio::time::advance(Duration::from_secs(60) - failures * STEP).await;
        failures
    };
    let after_a_minute = failures_to_open(1).await;
    assert!((45..=50).contains(&after_a_minute), "{after_a_minute}");
    assert_eq!(failures_to_open(120).await, after_a_minute);
}
