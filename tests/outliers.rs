//! Keys that are compared with the others of their group: what is an interval, who counts as out, and what is equal.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::advance;
use tower_bulwark::CircuitBreaker;
use tower_bulwark::keyed::{FailureShareRule, Keyed, OutlierConfig, Outliers};

const HOUR: Duration = Duration::from_secs(3_600);
const NOBODY: [u32; 0] = [];

fn keyed() -> Keyed<u32, CircuitBreaker> {
    let make = |host: &u32| {
        let breaker = CircuitBreaker::builder(format!("host {host}"));
        breaker.success_threshold(1).build().unwrap()
    };
    Keyed::new("hosts", 100, make).unwrap()
}

/// A hundred calls to each host, of which so many fail, evenly.
fn calls(hosts: &Keyed<u32, CircuitBreaker>, failures: &[u32]) {
    for (host, failures) in (0..).zip(failures) {
        let breaker = hosts.get(&host).unwrap();
        for call in 0..100 {
            let Ok(permit) = breaker.try_acquire() else {
                continue;
            };
            match call * failures / 100 != (call + 1) * failures / 100 {
                true => permit.failure(),
                false => permit.success(),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_before_the_first_interval_is_held_against_nobody() {
    let hosts = keyed();
    calls(&hosts, &[30, 0, 0, 0, 0, 0]);
    advance(HOUR).await;
    let outliers = Outliers::new(&hosts, OutlierConfig::default()).unwrap();
    calls(&hosts, &[0; 6]);
    assert_eq!(outliers.check(), NOBODY);
    calls(&hosts, &[30, 0, 0, 0, 0, 0]);
    assert_eq!(outliers.check(), [0]);
}

#[tokio::test(start_paused = true)]
async fn seven_of_a_hundred_are_seven() {
    let hosts = keyed();
    let mut rule = FailureShareRule::default();
    rule.threshold = 0.2;
    let mut config = OutlierConfig::default();
    (config.eject_at_most, config.success_rate) = (0.07, None);
    config.failure_share = Some(rule);
    let outliers = Outliers::new(&hosts, config).unwrap();
    let mut failures = [0; 100];
    failures[..20].fill(30);
    calls(&hosts, &failures);
    assert_eq!(outliers.check().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_time_is_over_and_that_nobody_calls_is_not_out() {
    let hosts = keyed();
    let outliers = Outliers::new(&hosts, OutlierConfig::default()).unwrap();
    calls(&hosts, &[30, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(outliers.check(), [0]);
    advance(HOUR).await;
    for host in 1..8 {
        let breaker = hosts.get(&host).unwrap();
        for call in 0..100 {
            let permit = breaker.try_acquire().unwrap();
            match host == 1 && call % 3 == 0 {
                true => permit.failure(),
                false => permit.success(),
            }
        }
    }
    assert_eq!(outliers.check(), [1]);
}

/// Who is looked at is not held meanwhile: there is room for a new key.
#[tokio::test(start_paused = true)]
async fn idle_keys_make_room_while_all_are_compared() {
    type Hosts = Keyed<u32, CircuitBreaker>;
    let slot: Arc<Mutex<Option<Hosts>>> = Arc::default();
    let asked = Arc::new(Mutex::new(None));
    let (map, seen) = (Arc::clone(&slot), Arc::clone(&asked));
    let make = move |host: &u32| {
        let (map, seen) = (Arc::clone(&map), Arc::clone(&seen));
        let breaker = CircuitBreaker::builder(format!("host {host}"));
        let breaker = breaker.on_state_change(move |_, _| {
            let hosts = map.lock().unwrap().clone().unwrap();
            *seen.lock().unwrap() = Some(hosts.get(&99).map(drop));
        });
        breaker.build().unwrap()
    };
    let hosts = Keyed::new("hosts", 8, make).unwrap();
    *slot.lock().unwrap() = Some(hosts.clone());
    let outliers = Outliers::new(&hosts, OutlierConfig::default()).unwrap();
    calls(&hosts, &[30, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(outliers.check(), [0]);
    asked.lock().unwrap().take().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_with_equal_rates_are_no_outliers() {
    let mut config = OutlierConfig::default();
    let mut rule = config.success_rate.unwrap();
    rule.stdev_factor = 0.5;
    (config.success_rate, config.eject_at_most) = (Some(rule), 1.0);
    for failures in 1..30 {
        for n in [5, 6, 7, 9, 11, 13, 17, 23] {
            let hosts = keyed();
            let outliers = Outliers::new(&hosts, config).unwrap();
            calls(&hosts, &vec![failures; n]);
            assert_eq!(outliers.check(), NOBODY, "{failures} {n}");
        }
    }
}
