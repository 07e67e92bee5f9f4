//! Operators, stores and processes that do anything at any moment: afterwards the fleet shares as before.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::edges::fleet_with_probes_of;
use super::trouble::{Fragile, fragile};
use super::*;

/// Something happens to one process, to the store, or to what all call.
fn befall(
    rng: &mut StdRng,
    shares: &mut [BreakerShare],
    fragile: &Fragile,
    store: &Arc<Counting>,
    backend: &Backend,
) -> &'static str {
    let one = rng.random_range(0..shares.len());
    let breaker = shares[one].breaker().clone();
    match rng.random_range(0..24) {
        0..6 => {
            breaker.reset();
            "reset"
        }
        6 => {
            breaker.force_open();
            "force_open"
        }
        7 => {
            breaker.force_close();
            "force_close"
        }
        8 => {
            breaker.open_for(Duration::from_millis(rng.random_range(1..8_000)));
            "open_for"
        }
        9 | 10 => {
            breaker.trip();
            "trip"
        }
        11 => {
            breaker.disable();
            "disable"
        }
        12 => {
            breaker.metrics_only();
            "metrics_only"
        }
        13 => {
            let mut config = (*breaker.config()).clone();
            config.consecutive_failures = Some(rng.random_range(3..6));
            config.probe_timeout = Duration::from_millis(rng.random_range(500..2_000));
            breaker.update(config).unwrap();
            "update"
        }
        14 => {
            fragile.forget();
            "forget"
        }
        15..18 => {
            let is_away = rng.random_bool(0.5);
            store.is_away.store(is_away, Ordering::Relaxed);
            "away or back"
        }
        18..23 => {
            let is_bad = rng.random_bool(0.7);
            backend.is_bad.store(is_bad, Ordering::Relaxed);
            "bad or good"
        }
        _ => {
            // It dies, and another comes.
            shares[one] = share(store, 100 + rng.random_range(0..1_000), settings(1));
            "dies"
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_has_happened_a_fleet_that_is_left_alone_shares_as_before() {
    for seed in 0..16 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (fragile, store) = fragile();
        let mut shares = fleet(&store, 4, settings(1)).await;
        let (backend, mut story) = (Arc::<Backend>::default(), Vec::new());
        for _ in 0..60 {
            let _callers = traffic(&shares, &backend, OFTEN);
            let pause = rng.random_range(1..1_500);
            sleep(Duration::from_millis(pause)).await;
            let what = befall(&mut rng, &mut shares, &fragile, &store, &backend);
            story.push((pause, what));
        }
        store.assert_pace();
        store.is_away.store(false, Ordering::Relaxed);
        backend.is_bad.store(false, Ordering::Relaxed);
        shares.iter().for_each(|it| it.breaker().reset());
        let callers = traffic(&shares, &backend, OFTEN);
        sleep(2 * (OPEN_FOR + PROBE_TIMEOUT)).await;
        let is_quiet = |it: &BreakerShare| {
            it.breaker().state() == CircuitState::Closed && !it.snapshot().fleet_is_open
        };
        let seen: Vec<_> = shares.iter().map(BreakerShare::snapshot).collect();
        assert!(
            shares.iter().all(is_quiet),
            "seed {seed}: {seen:#?}\n{story:?}"
        );
        // One finds it bad, all open, and one probes.
        let probes =
            |shares: &[BreakerShare]| -> u64 { shares.iter().map(|it| it.snapshot().probes).sum() };
        let before = probes(&shares);
        drop(callers);
        while shares[1].breaker().state() == CircuitState::Closed {
            fail(shares[1].breaker(), 1);
        }
        let _callers = traffic(&shares, &backend, OFTEN);
        let took = until_all(&shares, CircuitState::Open).await;
        assert!(took < Duration::from_millis(400), "seed {seed}: {took:?}");
        let took = until_all(&shares, CircuitState::Closed).await;
        assert!(
            took < OPEN_FOR + Duration::from_secs(1),
            "seed {seed}: {took:?}"
        );
        assert_eq!(probes(&shares) - before, 1, "seed {seed}");
    }
}

/// Each process has the same settings, whatever they are, and is called as often as it happens to be.
#[tokio::test(start_paused = true)]
async fn with_any_settings_all_close_with_the_one_that_probed() {
    for seed in 0..32 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut millis = |range| Duration::from_millis(rng.random_range(range));
        let (recovery, probe_timeout) = (millis(300..6_000), millis(500..60_000));
        let (open_for, every) = (millis(300..6_000), millis(5..400));
        let successes = rng.random_range(1..4);
        let store = Counting::around(Fleet::in_process().shared, true);
        let share = |node| {
            let breaker = CircuitBreaker::builder("api")
                .consecutive_failures(5)
                .recovery_timeout(recovery)
                .probe_timeout(probe_timeout)
                .success_threshold(successes)
                .build()
                .unwrap();
            let settings = SharedBreaker {
                open_for,
                ..settings(1)
            };
            let store: Arc<dyn BreakerStore> = store.clone();
            let reporter = Reporter::of_a_test();
            BreakerShare::begin(&breaker, settings, store, &names(node), &reporter).unwrap()
        };
        let shares: Vec<_> = (0..rng.random_range(2..6)).map(share).collect();
        let backend = Arc::<Backend>::default();
        let _callers = traffic(&shares, &backend, every);
        for round in 0..6 {
            let story = format!(
                "seed {seed}, round {round}: {recovery:?} {probe_timeout:?} {open_for:?} {every:?} {successes}"
            );
            backend.is_bad.store(true, Ordering::Relaxed);
            until_all(&shares, CircuitState::Open).await;
            sleep(Duration::from_millis(rng.random_range(0..12_000))).await;
            backend.is_bad.store(false, Ordering::Relaxed);
            let closes = async {
                while !shares
                    .iter()
                    .any(|it| it.breaker().state() == CircuitState::Closed)
                {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            let probe = (every + Duration::from_millis(3)) * (successes + 1);
            let in_time = recovery.max(open_for) + probe + Duration::from_secs(2);
            assert!(timeout(in_time, closes).await.is_ok(), "{story}");
            let took = until_all(&shares, CircuitState::Closed).await;
            assert!(took < Duration::from_millis(300), "{story}: {took:?}");
        }
        store.assert_pace();
    }
}

/// What an operator has opened for a time, by process: until then it is open, unless another command says otherwise.
#[tokio::test(start_paused = true)]
async fn an_operators_time_is_kept_whatever_the_fleet_does() {
    for seed in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed);
        let store = Counting::around(Fleet::in_process().shared, seed % 2 == 0);
        let mut shares = fleet_with_probes_of(&store, 3, Duration::from_secs(4)).await;
        shares.push(share(&store, 7, settings(1)));
        let backend = Arc::<Backend>::default();
        let _callers = traffic(&shares, &backend, OFTEN);
        let mut open_until = [Tick(0); 4];
        for step in 0..150 {
            let one = rng.random_range(0..4);
            let breaker = shares[one].breaker();
            match rng.random_range(0..12) {
                0..5 => {
                    let time = Duration::from_millis(rng.random_range(1..9_000));
                    breaker.open_for(time);
                    open_until[one] = time::now().after(time);
                }
                5 => {
                    breaker.reset();
                    open_until[one] = Tick(0);
                }
                6 => {
                    let is_away = rng.random_bool(0.3);
                    store.is_away.store(is_away, Ordering::Relaxed);
                }
                _ => {
                    let is_bad = rng.random_bool(0.4);
                    backend.is_bad.store(is_bad, Ordering::Relaxed);
                }
            }
            for _ in 0..rng.random_range(1..200) {
                sleep(Duration::from_millis(5)).await;
                for (share, until) in shares.iter().zip(open_until) {
                    let state = share.breaker().state();
                    let is_kept = time::now() >= until || state == CircuitState::Open;
                    assert!(is_kept, "seed {seed}, step {step}: {state}");
                }
            }
        }
        store.assert_pace();
    }
}

/// Each process has settings of its own, and is called as it happens to be: at times not at all, at times by callers whose
/// probes say nothing. As soon as one is called whose probes say that all is well, all are closed in the time that the page
/// gives.
#[tokio::test(start_paused = true)]
async fn whoever_is_called_closes_all_whatever_the_others_did_with_their_right() {
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let probe_timeout = Duration::from_millis(rng.random_range(300..5_000));
        let store = Counting::around(Fleet::in_process().shared, true);
        let shares = fleet_with_probes_of(&store, rng.random_range(2..5), probe_timeout).await;
        for round in 0..4 {
            let mut permits = Vec::new();
            shares.iter().for_each(|it| it.breaker().reset());
            fail(shares[0].breaker(), 5);
            let open = Arc::new(Backend::default());
            let callers = traffic(&shares, &open, OFTEN);
            until_all(&shares, CircuitState::Open).await;
            drop(callers);
            for _ in 0..rng.random_range(0..60) {
                let one = shares[rng.random_range(0..shares.len())].breaker();
                match (one.try_acquire(), rng.random_range(0..5)) {
                    (Err(_), _) => {}
                    (Ok(permit), 0) => permits.push(permit),
                    (Ok(permit), 1) => permit.success(),
                    (Ok(permit), 2) => drop(permit),
                    (Ok(permit), _) => permit.ignore(),
                }
                sleep(Duration::from_millis(rng.random_range(1..300))).await;
            }
            let one = rng.random_range(0..shares.len());
            let _callers = traffic(&shares[one..=one], &Arc::default(), OFTEN);
            let took = until_all(&shares, CircuitState::Closed).await;
            // Its own probe that never ends, or the right of another, and then the time of the breaker.
            let most = 3 * probe_timeout + Duration::from_secs(4);
            assert!(
                took < most,
                "seed {seed}, round {round}: {took:?} of {most:?}"
            );
            sleep(Duration::from_secs(2)).await;
        }
        store.assert_pace();
    }
}
