//! Who has the right to probe and makes no use of it, who waits meanwhile, and what an operator says in the middle.

use std::io;

use tower::{ServiceExt, service_fn};

use super::edges::fleet_with_probes_of;
use super::trouble::fragile;
use super::*;
use crate::circuit_breaker::Permit;

const MINUTE: Duration = Duration::from_secs(60);

/// Calls until the breaker gives a permit.
async fn first_permit(share: &BreakerShare) -> Permit {
    loop {
        match share.breaker().try_acquire() {
            Ok(permit) => return permit,
            Err(_) => sleep(OFTEN).await,
        }
    }
}

/// Two successes close the breakers. All are open, and the first has a probe on its way that the store knows of.
async fn probed_by_the_first(
    store: &Arc<Counting>,
    n: usize,
    probe_timeout: Duration,
) -> (Vec<BreakerShare>, Permit) {
    let shares = fleet_with_probes_of(store, n, probe_timeout).await;
    let callers = traffic(&shares[1..], &Arc::default(), OFTEN);
    fail(shares[0].breaker(), 5);
    until_all(&shares, CircuitState::Open).await;
    drop(callers);
    let probe = first_permit(&shares[0]).await;
    sleep(Duration::from_millis(300)).await;
    (shares, probe)
}

/// Callers that wait in `poll_ready` for as long as the circuit is open: none is ever refused.
fn waiting_traffic(shares: &[BreakerShare]) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for share in shares {
        let inner = service_fn(|()| async { Ok::<_, io::Error>(()) });
        let layer = share.breaker().layer::<io::Error>().pending_while_open();
        let mut service = tower::Layer::layer(&layer, inner);
        callers.spawn(async move {
            loop {
                let ready = service.ready().await.unwrap();
                let _ = tower::Service::call(ready, ()).await;
                sleep(OFTEN).await;
            }
        });
    }
    callers
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_the_circuit_are_calls_one_of_them_probes_and_all_close() {
    for store in stores() {
        let shares = fleet(&store, 3, settings(1)).await;
        let _callers = waiting_traffic(&shares);
        sleep(Duration::from_secs(1)).await;
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        let took = until_all(&shares, CircuitState::Closed).await;
        assert!(took < OPEN_FOR + Duration::from_secs(1), "{took:?}");
        let probes: u64 = shares.iter().map(|it| it.snapshot().probes).sum();
        assert_eq!(probes, 1);
        store.assert_pace();
    }
}

/// Each is refused by something that says nothing of the service: a lock or a limit of this process.
#[tokio::test(start_paused = true)]
async fn a_process_whose_probes_find_nothing_out_leaves_the_probe_to_another() {
    for store in stores() {
        let (shares, probe) = probed_by_the_first(&store, 2, PROBE_TIMEOUT).await;
        probe.ignore();
        let lone = shares[0].breaker().clone();
        let mut callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        callers.spawn(async move {
            loop {
                lone.try_acquire().into_iter().for_each(Permit::ignore);
                sleep(OFTEN).await;
            }
        });
        let took = until_all(&shares, CircuitState::Closed).await;
        let most = 3 * PROBE_TIMEOUT;
        assert!(took < most, "{took:?}");
        store.assert_pace();
    }
}

/// With a probe now and then, each good, and two of them needed.
#[tokio::test(start_paused = true)]
async fn a_process_whose_probes_are_rare_and_find_something_out_keeps_the_right() {
    for store in stores() {
        let (shares, probe) = probed_by_the_first(&store, 2, PROBE_TIMEOUT).await;
        let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        let lone = shares[0].breaker();
        // It takes nearly as long as it may, and another begins nearly as late.
        for _ in 0..6 {
            sleep(Duration::from_millis(250)).await;
            assert!(lone.try_acquire().is_err());
        }
        probe.success();
        for _ in 0..6 {
            sleep(Duration::from_millis(250)).await;
            lone.try_acquire().unwrap().ignore();
        }
        lone.try_acquire().unwrap().success();
        until_all(&shares, CircuitState::Closed).await;
        assert_eq!(shares[1].snapshot().probes, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_an_operator_stops_leaves_the_probe_to_another_at_once() {
    type Command = fn(&CircuitBreaker);
    let commands: [Command; 4] = [
        |it| it.force_open(),
        |it| it.disable(),
        |it| it.metrics_only(),
        |it| it.open_for(2 * MINUTE),
    ];
    for store in stores() {
        for command in commands {
            let (shares, _probe) = probed_by_the_first(&store, 2, MINUTE).await;
            // It has heard that it has to wait.
            let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(shares[1].breaker().state(), CircuitState::Open);
            command(shares[0].breaker());
            let took = until_all(&shares[1..], CircuitState::Closed).await;
            assert!(took < Duration::from_secs(2), "{took:?}");
            store.assert_pace();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_closed_by_hand_and_is_called_no_more_keeps_nobody_waiting() {
    for store in stores() {
        let shares = fleet_with_probes_of(&store, 2, MINUTE).await;
        fail(shares[0].breaker(), 5);
        let callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        until_all(&shares, CircuitState::Open).await;
        drop(callers);
        shares[0].breaker().reset();
        let callers = traffic(&shares[..1], &Arc::default(), OFTEN);
        while shares[0].snapshot().probes == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        drop(callers);
        let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        let took = until_all(&shares, CircuitState::Closed).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_has_opened_while_another_probes_stays_open_for_that_time() {
    for store in stores() {
        let (shares, probe) = probed_by_the_first(&store, 2, MINUTE).await;
        let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        sleep(Duration::from_secs(1)).await;
        let ends = time::now().after(Duration::from_secs(10));
        shares[1].breaker().open_for(Duration::from_secs(10));
        sleep(Duration::from_secs(1)).await;
        probe.success();
        shares[0].breaker().try_acquire().unwrap().success();
        while time::now() < ends {
            assert_eq!(shares[1].breaker().state(), CircuitState::Open);
            sleep(Duration::from_millis(1)).await;
        }
        let took = until_all(&shares, CircuitState::Closed).await;
        assert!(took < Duration::from_millis(100), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_probe_half_a_second_before_an_operators_time_is_over_waits_for_that() {
    for store in stores() {
        let shares = fleet(&store, 2, settings(1)).await;
        let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        let left = OPEN_FOR + Duration::from_millis(500);
        let ends = time::now().after(left);
        shares[1].breaker().open_for(left);
        while time::now() < ends {
            assert_eq!(shares[1].breaker().state(), CircuitState::Open);
            sleep(Duration::from_millis(1)).await;
        }
        until_all(&shares[1..], CircuitState::Closed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn for_how_long_an_operator_opens_a_breaker_is_no_finding_for_the_fleet() {
    for store in stores() {
        let shares = fleet(&store, 2, settings(1)).await;
        let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        // Before it could say that it has opened.
        store.is_away.store(true, Ordering::Relaxed);
        fail(shares[0].breaker(), 5);
        sleep(Duration::from_millis(300)).await;
        shares[0].breaker().open_for(60 * MINUTE);
        store.is_away.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(2)).await;
        let left = shares[1].breaker().snapshot().remaining_open;
        assert!(left <= Some(OPEN_FOR), "{left:?}");
    }
}

/// The store did not answer while it was open; what it has found alone the fleet does not know.
#[tokio::test(start_paused = true)]
async fn a_finding_of_a_process_that_went_on_alone_while_the_fleet_was_open_stays() {
    for failing_after in [0, 7_000] {
        let (fragile, store) = fragile();
        let cut_off = Counting::around(fragile, false);
        let shares = fleet(&store, 2, settings(1)).await;
        let alone = share(&cut_off, 9, settings(1));
        let (good, bad) = (Arc::<Backend>::default(), Arc::<Backend>::default());
        let _callers = traffic(&shares, &good, OFTEN);
        let _alone = traffic(std::slice::from_ref(&alone), &bad, OFTEN);
        sleep(Duration::from_millis(500)).await;
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        until_all(std::slice::from_ref(&alone), CircuitState::Open).await;
        cut_off.is_away.store(true, Ordering::Relaxed);
        // Its own probes fail, or it closes, and then opens by its own rules.
        sleep(Duration::from_millis(failing_after)).await;
        bad.is_bad.store(true, Ordering::Relaxed);
        until_all(&shares, CircuitState::Closed).await;
        let by_itself = async {
            loop {
                let look = alone.breaker().snapshot();
                if look.remaining_open > Some(OPEN_FOR / 2) && look.cause != Some(Cause::Fleet) {
                    break;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(timeout(2 * OPEN_FOR, by_itself).await.is_ok());
        cut_off.is_away.store(false, Ordering::Relaxed);
        let opens = until_all(&shares, CircuitState::Open);
        tokio::pin!(opens);
        loop {
            tokio::select! {
                took = &mut opens => {
                    assert!(took < Duration::from_millis(500), "{took:?}");
                    break;
                }
                () = sleep(Duration::from_millis(1)) => {
                    assert_eq!(alone.breaker().state(), CircuitState::Open);
                }
            }
        }
    }
}

/// Nobody calls it, and the answer to its first question was lost.
#[tokio::test(start_paused = true)]
async fn a_question_that_is_not_answered_is_asked_again_also_if_there_are_no_calls() {
    for store in stores() {
        let shares = fleet(&store, 1, settings(1)).await;
        let cut_off = Counting::around(Arc::clone(&store.inner), false);
        cut_off.is_away.store(true, Ordering::Relaxed);
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        let late = share(&cut_off, 1, settings(1));
        sleep(Duration::from_secs(2)).await;
        assert!(
            cut_off.asked.load(Ordering::Relaxed) <= 3,
            "not all the time"
        );
        cut_off.is_away.store(false, Ordering::Relaxed);
        let took = until_all(std::slice::from_ref(&late), CircuitState::Open).await;
        assert!(took < Duration::from_millis(1_500), "{took:?}");
    }
}

/// A store that is far away: so long there, and so long back.
struct Distant {
    inner: Arc<dyn BreakerStore>,
    half: Duration,
    /// Questions who may probe that are on their way.
    leasing: AtomicU64,
}

impl Distant {
    fn around(inner: Arc<dyn BreakerStore>, half: Duration) -> Arc<Self> {
        Arc::new(Self {
            inner,
            half,
            leasing: AtomicU64::new(0),
        })
    }
}

impl BreakerStore for Distant {
    fn report<'a>(&'a self, key: &'a Key, rules: Rules, report: Report) -> Answer<'a, News> {
        Box::pin(async move {
            sleep(self.half).await;
            let answer = self.inner.report(key, rules, report).await;
            sleep(self.half).await;
            answer
        })
    }

    fn lease<'a>(&'a self, key: &'a Key, seen: u64, length: u64) -> Answer<'a, Leased> {
        Box::pin(async move {
            self.leasing.fetch_add(1, Ordering::Relaxed);
            sleep(self.half).await;
            let answer = self.inner.lease(key, seen, length).await;
            sleep(self.half).await;
            self.leasing.fetch_sub(1, Ordering::Relaxed);
            answer
        })
    }

    fn probed<'a>(&'a self, key: &'a Key, seen: u64, failed_for: u64) -> Answer<'a, News> {
        Box::pin(async move {
            sleep(self.half).await;
            let answer = self.inner.probed(key, seen, failed_for).await;
            sleep(self.half).await;
            answer
        })
    }

    fn listen(&self, key: &Key) -> Listener {
        self.inner.listen(key)
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_store_that_is_slow_within_its_time_one_process_probes_and_no_other() {
    for half in [40, 250] {
        let inner = Counting::around(Fleet::in_process().shared, true);
        let settings = SharedBreaker {
            store_timeout: Duration::from_secs(1),
            ..settings(1)
        };
        let distant = Distant::around(inner, Duration::from_millis(half));
        let shares: Vec<_> = (0..4)
            .map(|node| {
                let breaker = CircuitBreaker::builder("api")
                    .consecutive_failures(5)
                    .recovery_timeout(OPEN_FOR)
                    .build()
                    .unwrap();
                let (store, reporter) = (distant.clone(), Reporter::of_a_test());
                BreakerShare::begin(&breaker, settings, store, &names(node), &reporter).unwrap()
            })
            .collect();
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        sleep(Duration::from_secs(3)).await;
        for round in 0..5 {
            fail_if_closed(&shares[round % 4]);
            until_all(&shares, CircuitState::Open).await;
            let mut probed = [false; 4];
            while !all(&shares, CircuitState::Closed) {
                for (share, probed) in shares.iter().zip(&mut probed) {
                    *probed |= share.breaker().state() == CircuitState::HalfOpen;
                }
                sleep(Duration::from_millis(1)).await;
            }
            let probed = probed.iter().filter(|it| **it).count();
            assert_eq!(probed, 1, "round {round}, {half} ms");
            sleep(Duration::from_secs(3)).await;
        }
    }
}

fn fail_if_closed(share: &BreakerShare) {
    for _ in 0..5 {
        let permit = share.breaker().try_acquire();
        permit.into_iter().for_each(Permit::failure);
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_is_closed_by_hand_while_its_question_is_on_its_way_stays_closed() {
    let inner = Counting::around(Fleet::in_process().shared, true);
    let (mut shares, probe) = probed_by_the_first(&inner, 1, MINUTE).await;
    let distant = Distant::around(inner.clone(), Duration::from_millis(45));
    let breaker = CircuitBreaker::new("api");
    let (store, reporter) = (distant.clone(), Reporter::of_a_test());
    let late = BreakerShare::begin(&breaker, settings(1), store, &names(7), &reporter).unwrap();
    shares.push(late);
    let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(breaker.state(), CircuitState::Open);
    while distant.leasing.load(Ordering::Relaxed) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    breaker.reset();
    for _ in 0..500 {
        assert_eq!(breaker.state(), CircuitState::Closed);
        sleep(Duration::from_millis(1)).await;
    }
    drop(probe);
}
