//! Instances by key: bounded, and nothing that matters is forgotten.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_bulwark::keyed::{
    FailureShareRule, Idle, Keyed, OutlierConfig, Outliers, PerKeyLayer, Stateless,
};
use tower_bulwark::{Backoff, CircuitBreaker, CircuitState, Error, ResourceLock, RetryPolicy};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}

/// Odd hosts are down.
fn hosts() -> impl Service<u32, Response = u32, Error = Down, Future: Send> + Clone {
    service_fn(|host: u32| async move {
        match host % 2 {
            0 => Ok(host),
            _ => Err(Down),
        }
    })
}

fn breaker(host: &u32) -> CircuitBreaker {
    CircuitBreaker::builder(format!("host {host}"))
        .consecutive_failures(2)
        .recovery_timeout(10 * SECOND)
        .success_threshold(1)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_host_that_is_down_closes_no_door_of_another() {
    let layer = PerKeyLayer::new(100, |host: &u32| *host, |host: &u32| breaker(host).layer());
    // Two services of one layer, as of two connections.
    let services = [layer.layer(hosts()), layer.clone().layer(hosts())];
    for n in 0..4 {
        let ended = services[n % 2].clone().oneshot(1).await.unwrap_err();
        assert_eq!(ended.is_rejection(), n >= 2, "{n}: {ended}");
        assert_eq!(services[n % 2].clone().oneshot(2).await.unwrap(), 2);
    }
    assert_eq!(layer.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_not_forgotten_however_many_keys_come() {
    let layer = PerKeyLayer::new(4, |host: &u32| *host, |host: &u32| breaker(host).layer());
    let service = layer.layer(hosts());
    for _ in 0..2 {
        assert!(!service.clone().oneshot(1).await.unwrap_err().is_rejection());
    }
    for host in 0..1_000 {
        let _ = service.clone().oneshot(host * 2).await;
        assert!(layer.len() <= 4);
    }
    assert!(service.clone().oneshot(1).await.unwrap_err().is_rejection());
}

/// A failure that does not open it yet is something to remember too.
#[tokio::test(start_paused = true)]
async fn a_failure_that_counts_is_not_forgotten() {
    let layer = PerKeyLayer::new(1, |host: &u32| *host, |host: &u32| breaker(host).layer());
    let service = layer.layer(hosts());
    let _ = service.clone().oneshot(1).await;
    for host in 1..50 {
        let _ = service.clone().oneshot(host * 2).await;
    }
    let _ = service.clone().oneshot(1).await;
    assert!(service.clone().oneshot(1).await.unwrap_err().is_rejection());
}

#[tokio::test(start_paused = true)]
async fn keys_without_room_are_guarded_together() {
    let layer = PerKeyLayer::new(1, |host: &u32| *host, |host: &u32| breaker(host).layer());
    let service = layer.layer(hosts());
    // Takes the only place, and keeps it.
    for _ in 0..2 {
        let _ = service.clone().oneshot(1).await;
    }
    // Two hosts fail once each, and the circuit that they share opens.
    for host in [3, 5] {
        assert!(
            !service
                .clone()
                .oneshot(host)
                .await
                .unwrap_err()
                .is_rejection()
        );
    }
    assert!(service.clone().oneshot(7).await.unwrap_err().is_rejection());
}

/// However keys are forgotten, made anew and waited for, there is never more than one call of a key inside.
#[tokio::test(start_paused = true)]
async fn never_are_two_calls_of_one_tenant_inside() {
    let inside: Arc<[AtomicUsize; 8]> = Arc::default();
    let counted = Arc::clone(&inside);
    let service = service_fn(move |tenant: usize| {
        let inside = Arc::clone(&counted);
        async move {
            assert_eq!(
                inside[tenant].fetch_add(1, Ordering::SeqCst),
                0,
                "two inside"
            );
            // Dropped calls leave too.
            struct Leaves(Arc<[AtomicUsize; 8]>, usize);
            impl Drop for Leaves {
                fn drop(&mut self) {
                    self.0[self.1].fetch_sub(1, Ordering::SeqCst);
                }
            }
            let _leaves = Leaves(inside, tenant);
            tokio::time::sleep(Duration::from_millis(3)).await;
            Ok::<_, Infallible>(tenant)
        }
    });
    // Room for all of them: else those without share a lock.
    let layer = PerKeyLayer::new(
        8,
        |tenant: &usize| *tenant,
        |tenant: &usize| ResourceLock::new(format!("tenant {tenant}")).layer(),
    );
    let service = layer.layer(service);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..400_u64 {
        let call = service.clone().oneshot(n as usize % 8);
        calls.spawn(async move {
            tokio::time::sleep(Duration::from_millis(n % 17)).await;
            let _ = tokio::time::timeout(Duration::from_millis(n % 29), call).await;
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended.unwrap();
    }
    assert!(inside.iter().all(|n| n.load(Ordering::SeqCst) == 0));
}

#[tokio::test(start_paused = true)]
async fn a_whole_stack_by_key_is_a_tuple_the_outermost_first() {
    let retry = RetryPolicy::builder()
        .max_retries(1)
        .backoff(Backoff::fixed(Duration::ZERO))
        .build()
        .unwrap();
    let breakers = Keyed::new("hosts", 10, breaker).unwrap();
    let known = breakers.clone();
    let layer = PerKeyLayer::new(
        10,
        |host: &u32| *host,
        move |host: &u32| {
            (
                retry.layer::<Down>(),
                breakers.get(host).unwrap().layer(),
                Stateless(tower::layer::util::Identity::new()),
            )
        },
    );
    let mut service = layer.layer(hosts());
    // One call is two attempts, and these open the circuit.
    let ended = service.ready().await.unwrap().call(1).await.unwrap_err();
    assert!(matches!(ended, Error::Exhausted(_)), "{ended}");
    assert_eq!(known.get_known(&1).unwrap().state(), CircuitState::Open);
    assert!(known.get_known(&2).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_comes_first() {
    let hosts = Keyed::new("hosts", 10, breaker).unwrap();
    for host in 0..5 {
        let _ = hosts.get(&host).unwrap();
    }
    hosts.get(&3).unwrap().trip();
    let failing = hosts.get(&4).unwrap();
    let _ = failing.call(async || Err::<(), _>(Down)).await;
    let seen: Vec<u32> = hosts
        .snapshot(2)
        .into_iter()
        .map(|(host, _)| host)
        .collect();
    assert_eq!(seen, [3, 4]);
    drop(failing);
    // Three have nothing to remember.
    assert_eq!((hosts.forget_idle(), hosts.len()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_has_rested_as_long_as_it_was_open_may_be_forgotten() {
    let breaker = breaker(&1);
    assert!(Idle::is_idle(&breaker));
    breaker.trip();
    tokio::time::advance(10 * SECOND).await;
    let _ = breaker.call(async || Ok::<_, Down>(())).await;
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert!(
        !Idle::is_idle(&breaker),
        "it rests longer if it opens again"
    );
    tokio::time::advance(10 * SECOND).await;
    assert!(Idle::is_idle(&breaker));
    breaker.disable();
    assert!(!Idle::is_idle(&breaker), "an operator's word");
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_spent_is_not_forgotten() {
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::ZERO))
        .build()
        .unwrap();
    assert!(Idle::is_idle(&policy));
    let _ = policy.run(async || Err::<(), _>(Down)).await;
    assert!(!Idle::is_idle(&policy));
}

#[tokio::test(start_paused = true)]
async fn no_keys_at_all_is_an_error_and_a_full_map_says_what_to_do() {
    assert!(Keyed::new("hosts", 0, breaker).is_err());
    let locks = Keyed::new("files", 1, |name: &String| ResourceLock::new(name.as_str())).unwrap();
    let first = locks.get("a").unwrap();
    let full = locks.get("b").unwrap_err();
    assert_eq!((&*full.name, full.most), ("files", 1));
    // Whoever waits for a permit of it keeps it.
    let held = first.acquire("one").await.unwrap();
    let again = locks.get("a").unwrap();
    let mut waits = task::spawn(again.acquire("two").owned());
    assert_pending!(waits.poll());
    drop((held, first.clone()));
    let guard = assert_ready_ok!(waits.poll());
    drop((first, again));
    assert!(locks.get("b").is_err(), "a permit is out");
    drop((waits, guard));
    assert!(locks.get("b").is_ok());
}

/// A call that has not begun yet keeps the lock of its key.
#[tokio::test(start_paused = true)]
async fn the_layers_of_a_call_that_was_not_polled_yet_are_not_forgotten() {
    let layer = PerKeyLayer::new(
        1,
        |tenant: &u32| *tenant,
        |tenant: &u32| ResourceLock::new(format!("tenant {tenant}")).layer(),
    );
    let inside = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&inside);
    let stays = service_fn(move |_: u32| {
        counts.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Result<(), Infallible>>()
    });
    let goes = service_fn(|_: u32| std::future::ready(Ok::<(), Infallible>(())));
    let mut first = task::spawn(layer.layer(stays.clone()).call(0));
    layer.layer(goes).oneshot(1).await.unwrap();
    let mut second = task::spawn(layer.layer(stays).call(0));
    assert_pending!(second.poll());
    assert_pending!(first.poll());
    assert_eq!(inside.load(Ordering::SeqCst), 1, "two inside");
}

/// What all keys share is not what a key remembers.
#[tokio::test(start_paused = true)]
async fn a_lock_that_all_keys_share_keeps_none_of_them() {
    let shared = ResourceLock::new("all");
    let layer = PerKeyLayer::new(
        2,
        |host: &u32| *host,
        move |host: &u32| (breaker(host).layer::<Down>(), shared.layer()),
    );
    let service = layer.layer(hosts());
    for host in 0..10 {
        assert_eq!(service.clone().oneshot(2 * host).await.unwrap(), 2 * host);
    }
    // Two fail once, each for itself: they have room.
    for host in [1, 3] {
        assert!(
            !service
                .clone()
                .oneshot(host)
                .await
                .unwrap_err()
                .is_rejection()
        );
    }
    for host in [1, 3] {
        assert!(
            !service
                .clone()
                .oneshot(host)
                .await
                .unwrap_err()
                .is_rejection()
        );
    }
    assert!(service.clone().oneshot(1).await.unwrap_err().is_rejection());
}

// ---- Keys that are worse than the others ----------------------------------------------------------------

struct Group {
    hosts: Keyed<u32, CircuitBreaker>,
    outliers: Outliers<u32>,
}

impl Group {
    fn new(change: impl Fn(&mut OutlierConfig)) -> Self {
        let hosts = Keyed::new("hosts", 100, |host: &u32| {
            CircuitBreaker::builder(format!("host {host}"))
                .success_threshold(1)
                .build()
                .unwrap()
        });
        let hosts = hosts.unwrap();
        let mut config = OutlierConfig::default();
        change(&mut config);
        let outliers = Outliers::new(&hosts, config).unwrap();
        Self { hosts, outliers }
    }

    /// So many of a hundred calls to each host fail, well apart from each other.
    fn calls(&self, failures: &[u32]) {
        for (host, failures) in (0..).zip(failures) {
            let breaker = self.hosts.get(&host).unwrap();
            for call in 0..100 {
                let Ok(permit) = breaker.try_acquire() else {
                    continue;
                };
                let fails = call * failures / 100 != (call + 1) * failures / 100;
                match fails {
                    true => permit.failure(),
                    false => permit.success(),
                }
            }
        }
    }

    fn open(&self) -> Vec<u32> {
        let all = self.hosts.snapshot(100).into_iter();
        let open = all.filter(|(_, it)| it.state == CircuitState::Open);
        let mut open: Vec<_> = open.map(|(host, _)| host).collect();
        open.sort_unstable();
        open
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_fails_more_often_than_all_others_is_ejected_before_its_own_breaker_opens() {
    let group = Group::new(|_| {});
    group.calls(&[0, 1, 0, 2, 30, 0, 1, 0]);
    assert_eq!(group.open(), [0_u32; 0], "no breaker has opened by itself");
    assert_eq!(group.outliers.check(), [4]);
    assert_eq!(group.open(), [4]);
    let breaker = group.hosts.get(&4).unwrap();
    let refused = breaker.try_acquire().unwrap_err();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(30)));
    let cause = breaker.snapshot().cause.unwrap().to_string();
    assert!(cause.starts_with("30 of 100 calls failed"), "{cause}");
    // It is probed as after any opening.
    advance(Duration::from_secs(30)).await;
    breaker.try_acquire().unwrap().success();
    assert_eq!(breaker.state(), CircuitState::Closed);
    // What is past is not counted again.
    assert_eq!(group.outliers.check(), [0_u32; 0]);
}

#[tokio::test(start_paused = true)]
async fn each_ejection_in_a_row_is_longer_and_each_interval_without_one_forgives() {
    let group = Group::new(|_| {});
    let breaker = group.hosts.get(&0).unwrap();
    let time_out = || breaker.try_acquire().unwrap_err().retry_after().unwrap();
    let bad = [30, 0, 0, 0, 0, 0, 0, 0];
    for (calls, secs) in [(bad, 30), (bad, 60), ([0; 8], 0), ([0; 8], 0), (bad, 30)] {
        group.calls(&calls);
        let ejected = group.outliers.check();
        assert_eq!(ejected.is_empty(), secs == 0);
        if secs > 0 {
            assert_eq!(time_out(), Duration::from_secs(secs));
            advance(Duration::from_secs(secs)).await;
            breaker.try_acquire().unwrap().success();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_share_is_ejected_however_many_are_bad() {
    let mut rule = FailureShareRule::default();
    rule.threshold = 0.2;
    let group = Group::new(|config| {
        config.success_rate = None;
        config.failure_share = Some(rule);
        config.eject_at_most = 0.5;
    });
    group.calls(&[40, 40, 40, 40, 40, 40, 40, 0]);
    assert_eq!(group.outliers.check().len(), 4);
    group.calls(&[40, 40, 40, 40, 40, 40, 40, 0]);
    assert_eq!(group.outliers.check().len(), 0, "those that are out count");
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_commands_stays() {
    let group = Group::new(|_| {});
    group.hosts.get(&0).unwrap().metrics_only();
    group.calls(&[90, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(group.outliers.check(), [0_u32; 0]);
    let state = group.hosts.get(&0).unwrap().state();
    assert_eq!(state, CircuitState::MetricsOnly);
}

#[tokio::test(start_paused = true)]
async fn it_compares_at_every_interval_until_it_is_dropped() {
    let group = Group::new(|_| {});
    let mut running = tokio_test::task::spawn(group.outliers.run());
    assert!(running.poll().is_pending());
    group.calls(&[30, 0, 0, 0, 0, 0, 0, 0]);
    advance(Duration::from_secs(9)).await;
    assert!(running.poll().is_pending());
    assert_eq!(group.open(), [0_u32; 0]);
    advance(Duration::from_secs(1)).await;
    assert!(running.poll().is_pending());
    assert_eq!(group.open(), [0]);
}

#[test]
fn a_config_that_cannot_work_is_refused_and_says_what_to_change() {
    let group = Group::new(|_| {});
    for change in [
        (|it| it.interval = Duration::ZERO) as fn(&mut OutlierConfig),
        |it| it.base_ejection_time = Duration::ZERO,
        |it| it.eject_at_most = 1.5,
        |it| it.eject_at_most = f64::NAN,
    ] {
        let mut config = OutlierConfig::default();
        change(&mut config);
        group.outliers.update(config).unwrap_err();
    }
    assert_eq!(group.outliers.config(), OutlierConfig::default());
}

/// The panic threshold: breakers of one group, of which at most half opens by itself.
mod group {
    use super::*;

    fn hosts(share: f64) -> Keyed<String, CircuitBreaker> {
        let make = |host: &String| CircuitBreaker::new(host.as_str());
        let hosts = Keyed::new("hosts", 100, make).unwrap();
        hosts.eject_at_most(share).unwrap()
    }

    fn fails(breaker: &CircuitBreaker, times: u32) {
        for _ in 0..times {
            if let Ok(permit) = breaker.try_acquire() {
                permit.failure();
            }
        }
    }

    fn open(breakers: &[CircuitBreaker]) -> usize {
        let open = |it: &&CircuitBreaker| it.state() != CircuitState::Closed;
        breakers.iter().filter(open).count()
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_share_of_a_group_opens_by_itself() {
        let hosts = hosts(0.5);
        let all: Vec<_> = (0..10)
            .map(|n| hosts.get(&format!("{n}")).unwrap())
            .collect();
        for breaker in &all {
            fails(breaker, 50);
        }
        assert_eq!(open(&all), 5);
        // The others go on to be called.
        assert!(all[9].try_acquire().is_ok());
        // One of the first recovers: the next failure of another opens that one.
        all[0].force_close();
        fails(&all[9], 1);
        assert_eq!(all[9].state(), CircuitState::Open);
        fails(&all[8], 50);
        assert_eq!(open(&all), 5);
        // With time they are probed, and close.
        advance(Duration::from_secs(61)).await;
        for breaker in &all {
            for _ in 0..2 {
                breaker.try_acquire().unwrap().success();
            }
        }
        assert_eq!(open(&all), 0);
        for breaker in all.iter().rev() {
            fails(breaker, 5);
        }
        assert_eq!(open(&all), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn one_always_may_and_an_operator_need_not_ask() {
        let hosts = hosts(0.1);
        let (a, b) = (hosts.get("a").unwrap(), hosts.get("b").unwrap());
        fails(&a, 5);
        assert_eq!(a.state(), CircuitState::Open);
        fails(&b, 500);
        assert_eq!(b.state(), CircuitState::Closed);
        b.open_for(Duration::from_secs(1));
        assert_eq!(b.state(), CircuitState::Open);
        a.reset();
        fails(&a, 500);
        assert_eq!(a.state(), CircuitState::Closed, "the operator's counts");
        b.metrics_only();
        // It would be open, and is not.
        fails(&b, 50);
        fails(&a, 1);
        assert_eq!(a.state(), CircuitState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_forgotten_has_no_place_in_the_group() {
        let hosts = hosts(0.5);
        for n in 0..10 {
            hosts.get(&format!("{n}")).unwrap();
        }
        assert_eq!(hosts.forget_idle(), 10);
        let all: Vec<_> = ["a", "b"].map(|host| hosts.get(host).unwrap()).into();
        for breaker in &all {
            fails(breaker, 50);
        }
        assert_eq!(open(&all), 1);
    }

    #[test]
    fn a_share_is_said_once_and_before_there_are_keys() {
        let make = || {
            Keyed::new("hosts", 9, |host: &String| {
                CircuitBreaker::new(host.as_str())
            })
        };
        for share in [0.0, -0.5, 1.01, f64::NAN] {
            let refused = make().unwrap().eject_at_most(share).map(|_| ());
            assert_eq!(refused.unwrap_err().setting(), "eject_at_most");
        }
        let hosts = make().unwrap();
        hosts.get("a").unwrap();
        assert!(hosts.eject_at_most(0.5).is_err());
        let once = make().unwrap().eject_at_most(0.5).unwrap();
        assert!(once.eject_at_most(0.5).is_err());
    }
}
