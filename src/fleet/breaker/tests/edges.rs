//! What befalls a shared breaker at the edges: the longest times, messages of a store that counts anew, two shares.

use super::super::store::Heard;
use super::*;

#[tokio::test(start_paused = true)]
async fn what_an_operator_has_opened_for_a_time_stays_open_for_that_time() {
    for store in stores() {
        let shares = fleet(&store, 3, settings(1)).await;
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        let hour = Duration::from_secs(3_600);
        // Before the fleet opens, and while it is open.
        shares[0].breaker().open_for(hour);
        sleep(Duration::from_millis(300)).await;
        fail(shares[2].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        shares[1].breaker().open_for(hour);
        sleep(OPEN_FOR + Duration::from_secs(5)).await;
        assert_eq!(shares[2].breaker().state(), CircuitState::Closed);
        for share in &shares[..2] {
            assert_eq!(share.breaker().state(), CircuitState::Open);
            let left = share.breaker().snapshot().remaining_open.unwrap();
            assert!(left > hour - Duration::from_secs(60), "{left:?}");
        }
        sleep(hour).await;
        until_all(&shares, CircuitState::Closed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_whose_probes_may_take_for_ever_probes_for_all() {
    for store in stores() {
        let shares: Vec<_> = (0..2)
            .map(|node| {
                let breaker = CircuitBreaker::builder("api")
                    .consecutive_failures(5)
                    .recovery_timeout(OPEN_FOR)
                    .success_threshold(3)
                    .probe_timeout(Duration::MAX)
                    .build()
                    .unwrap();
                let store: Arc<dyn BreakerStore> = store.clone();
                let reporter = Reporter::of_a_test();
                BreakerShare::begin(&breaker, settings(1), store, &names(node), &reporter).unwrap()
            })
            .collect();
        sleep(Duration::from_millis(1)).await;
        let _callers = traffic(&shares, &Arc::default(), Duration::from_millis(200));
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        until_all(&shares, CircuitState::Closed).await;
        let epochs: Vec<_> = shares.iter().map(|it| it.snapshot().epoch).collect();
        assert_eq!(epochs, [2, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn two_shares_of_one_breaker_open_probe_and_close_with_the_fleet() {
    for store in stores() {
        let one = share(&store, 0, settings(1));
        let store_of_two: Arc<dyn BreakerStore> = store.clone();
        let two = BreakerShare::begin(
            one.breaker(),
            settings(1),
            store_of_two,
            &names(0),
            &Reporter::of_a_test(),
        );
        let shares = [one, two.unwrap(), share(&store, 1, settings(1))];
        sleep(Duration::from_millis(1)).await;
        let backend = Arc::<Backend>::default();
        let _callers = traffic(&shares[1..], &backend, OFTEN);
        for bad_for in [0, 20] {
            backend.is_bad.store(bad_for > 0, Ordering::Relaxed);
            fail(shares[2].breaker(), 5);
            until_all(&shares, CircuitState::Open).await;
            sleep(Duration::from_secs(bad_for)).await;
            backend.is_bad.store(false, Ordering::Relaxed);
            until_all(&shares, CircuitState::Closed).await;
            sleep(Duration::from_secs(1)).await;
            assert!(all(&shares, CircuitState::Closed));
        }
        store.assert_pace();
    }
}

/// A share that is dropped at any moment of an opening and a probe.
#[tokio::test(start_paused = true)]
async fn a_share_that_is_dropped_at_any_moment_leaves_a_breaker_that_works_and_a_fleet_that_goes_on()
 {
    for store in stores() {
        for moment in 0..40 {
            let name_of_two = share(&store, 1, settings(1));
            let shares = [share(&store, 0, settings(1)), name_of_two];
            sleep(Duration::from_millis(1)).await;
            let _callers = traffic(&shares, &Arc::default(), OFTEN);
            fail(shares[0].breaker(), 5);
            until_all(&shares, CircuitState::Open).await;
            sleep(OPEN_FOR.mul_f64(0.97) + Duration::from_millis(11 * moment)).await;
            let [dropped, stays] = shares;
            let alone = dropped.breaker().clone();
            drop(dropped);
            let both = async {
                while alone.state() != CircuitState::Closed
                    || stays.breaker().state() != CircuitState::Closed
                {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let closed = timeout(Duration::from_secs(6), both).await;
            assert!(
                closed.is_ok(),
                "dropped after {moment}: {} {}",
                alone.state(),
                stays.breaker().state()
            );
        }
    }
}

/// The store takes as long as it may, and a little longer, for ever.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_always_late_leaves_each_breaker_to_its_own_rules() {
    let store = Counting::around(Fleet::in_process().shared, true);
    let shares = fleet(&store, 2, settings(1)).await;
    store.is_away.store(true, Ordering::Relaxed);
    let backend = bad();
    let _callers = traffic(&shares, &backend, OFTEN);
    until_all(&shares, CircuitState::Open).await;
    backend.is_bad.store(false, Ordering::Relaxed);
    let took = until_all(&shares, CircuitState::Closed).await;
    assert!(took < OPEN_FOR + Duration::from_secs(1), "{took:?}");
    assert!(shares.iter().all(|it| it.snapshot().away_for.is_some()));
}

fn bad() -> Arc<Backend> {
    let backend = Arc::<Backend>::default();
    backend.is_bad.store(true, Ordering::Relaxed);
    backend
}

/// The server has lost its data and kept the connections, or the state was not used for a day.
#[test]
fn a_message_of_those_who_count_anew_is_a_reason_to_ask() {
    for is_open in [true, false] {
        let news = |epoch| {
            Heard::Change(News {
                is_open,
                epoch,
                remaining: 500,
            })
        };
        assert_eq!(news(7).since(6), Some(news(7)));
        assert_eq!(news(7).since(7), None);
        assert_eq!(news(6).since(7), is_open.then_some(Heard::Perhaps));
        assert_eq!(Heard::Perhaps.since(7), Some(Heard::Perhaps));
    }
}

#[tokio::test(start_paused = true)]
async fn while_there_are_no_calls_nobody_asks_until_messages_may_have_been_lost() {
    for store in stores() {
        let _shares = fleet(&store, 4, settings(1)).await;
        sleep(Duration::from_secs(1)).await;
        store.log.lock().unwrap().clear();
        sleep(Duration::from_secs(120)).await;
        assert_eq!(store.log.lock().unwrap().len(), 0);
    }
}

/// Two successes close it.
pub(super) async fn fleet_with_probes_of(
    store: &Arc<Counting>,
    n: usize,
    probe_timeout: Duration,
) -> Vec<BreakerShare> {
    let share = |node| {
        let breaker = CircuitBreaker::builder("api")
            .consecutive_failures(5)
            .success_threshold(2)
            .recovery_timeout(Duration::from_secs(1))
            .probe_timeout(probe_timeout)
            .build()
            .unwrap();
        let store: Arc<dyn BreakerStore> = store.clone();
        let reporter = Reporter::of_a_test();
        BreakerShare::begin(&breaker, settings(1), store, &names(node), &reporter).unwrap()
    };
    let shares = (0..n).map(share).collect();
    sleep(Duration::from_millis(1)).await;
    shares
}

/// The right to probe was for longer than the fleet is open after the probe has failed.
#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_soon_keeps_the_others_open_for_no_longer_than_the_fleet() {
    for store in stores() {
        let shares = fleet_with_probes_of(&store, 3, Duration::from_secs(60)).await;
        let backend = bad();
        let _callers = traffic(&shares, &backend, Duration::from_millis(150));
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        sleep(Duration::from_secs(10)).await;
        backend.is_bad.store(false, Ordering::Relaxed);
        let took = until_all(&shares, CircuitState::Closed).await;
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}

/// Who asks meanwhile is told to wait for as long as a probe may take.
#[tokio::test(start_paused = true)]
async fn a_probe_that_succeeds_late_closes_also_those_who_wanted_to_probe_meanwhile() {
    for store in stores() {
        let shares = fleet_with_probes_of(&store, 2, Duration::from_secs(60)).await;
        let callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        drop(callers);
        let probe = loop {
            match shares[0].breaker().try_acquire() {
                Ok(probe) => break probe,
                Err(_) => sleep(OFTEN).await,
            }
        };
        let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(shares[1].breaker().state(), CircuitState::Open);
        probe.success();
        shares[0].breaker().try_acquire().unwrap().success();
        let took = until_all(&shares, CircuitState::Closed).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_does_not_keep_every_name_that_it_has_ever_shared_and_keeps_those_that_are_open()
{
    let fleet = Fleet::in_process();
    let share = |name: String| {
        let breaker = CircuitBreaker::builder(name).consecutive_failures(5);
        let breaker = breaker.build().unwrap();
        fleet.share(&breaker, settings(1)).unwrap()
    };
    let open = share("open".into());
    sleep(Duration::from_millis(1)).await;
    fail(open.breaker(), 5);
    until_all(std::slice::from_ref(&open), CircuitState::Open).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(open.snapshot().epoch, 1);
    drop(open);
    for n in 0..3_000 {
        let it = share(format!("user-{n}"));
        sleep(Duration::from_millis(1)).await;
        drop(it);
    }
    let crate::fleet::Backend::InProcess(store) = &fleet.shared.backend else {
        panic!("it is in this process");
    };
    let names = store.breakers.names();
    assert!(names < 1_000, "{names}");
    let again = share("open".into());
    sleep(Duration::from_millis(200)).await;
    assert!(again.snapshot().fleet_is_open);
}
