//! What befalls a shared breaker: stores that forget, clocks that step, operators, processes that stop.

use tokio::sync::Notify;

use super::super::core::Breaker;
use super::super::store::{Heard, heard};
use super::*;

/// The core as a store, with a clock that steps, and memory that it can lose. It publishes nothing.
#[derive(Default)]
pub(super) struct Fragile {
    breaker: Mutex<Breaker>,
    /// What its clock is behind, in microseconds.
    behind: AtomicU64,
    epochs: Mutex<Vec<u64>>,
}

impl Fragile {
    pub(super) fn forget(&self) {
        *self.breaker.lock().unwrap() = Breaker::default();
    }

    fn step<T>(&self, step: impl FnOnce(&mut Breaker, u64) -> T) -> T {
        let now = time::now().0 / 1_000 - self.behind.load(Ordering::Relaxed);
        let mut breaker = self.breaker.lock().unwrap();
        let answer = step(&mut breaker, now);
        self.epochs.lock().unwrap().push(breaker.epoch());
        answer
    }
}

impl BreakerStore for Fragile {
    fn report<'a>(&'a self, key: &'a Key, rules: Rules, report: Report) -> Answer<'a, News> {
        let news = self.step(|it, now| it.report(now, &key.node, rules, report));
        Box::pin(async move { Ok(news) })
    }

    fn lease<'a>(&'a self, key: &'a Key, seen: u64, length: u64) -> Answer<'a, Leased> {
        let leased = self.step(|it, now| it.lease(now, &key.node, seen, length));
        Box::pin(async move { Ok(leased) })
    }

    fn probed<'a>(&'a self, key: &'a Key, seen: u64, failed_for: u64) -> Answer<'a, News> {
        let news = self.step(|it, now| it.probed(now, &key.node, seen, failed_for));
        Box::pin(async move { Ok(news) })
    }

    fn listen(&self, _: &Key) -> Listener {
        Listener::Deaf
    }
}

pub(super) fn fragile() -> (Arc<Fragile>, Arc<Counting>) {
    let fragile = Arc::<Fragile>::default();
    let store = Counting::around(fragile.clone(), false);
    (fragile, store)
}

/// Opens all, from the first.
async fn open_all(shares: &[BreakerShare]) {
    fail(shares[0].breaker(), 5);
    // Who is not called hears of it by messages alone.
    let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
    until_all(shares, CircuitState::Open).await;
}

fn bad_backend() -> Arc<Backend> {
    let backend = Arc::<Backend>::default();
    backend.is_bad.store(true, Ordering::Relaxed);
    backend
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_called_no_more_leaves_the_probe_to_another() {
    for store in stores() {
        for successes in [0, 1] {
            let shares = fleet(&store, 3, settings(1)).await;
            open_all(&shares).await;
            sleep(OPEN_FOR).await;
            // It is called while it is open, and so it asks to probe.
            let lone = shares[0].breaker();
            while shares[0].snapshot().probes == 0 {
                drop(lone.try_acquire());
                sleep(OFTEN).await;
            }
            if successes == 1 {
                lone.try_acquire().unwrap().success();
            }
            sleep(Duration::from_millis(300)).await;
            let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
            let took = until_all(&shares[1..], CircuitState::Closed).await;
            let most = PROBE_TIMEOUT + Duration::from_secs(1);
            assert!(took < most, "{took:?} after {successes}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_store_a_breaker_probes_no_more_often_than_by_its_own_rules() {
    for store in stores() {
        let shares = fleet(&store, 2, settings(1)).await;
        let backend = bad_backend();
        let _callers = traffic(&shares, &backend, OFTEN);
        until_all(&shares, CircuitState::Open).await;
        store.is_away.store(true, Ordering::Relaxed);
        backend.reset();
        sleep(Duration::from_secs(31)).await;
        let calls = backend.calls.load(Ordering::Relaxed);
        assert!((2..=2 * 7).contains(&calls), "{calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_found_after_the_store_was_away_is_shared_again() {
    for store in stores() {
        let shares = fleet(&store, 3, settings(1)).await;
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        store.is_away.store(true, Ordering::Relaxed);
        until_all(&shares, CircuitState::Closed).await;
        store.is_away.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(2)).await;
        assert!(all(&shares, CircuitState::Closed));
        fail(shares[1].breaker(), 5);
        let took = until_all(&shares, CircuitState::Open).await;
        assert!(took < Duration::from_millis(300), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_was_closed_by_hand_everywhere_shares_again_when_its_time_is_over() {
    for store in stores() {
        let shares = fleet(&store, 3, settings(1)).await;
        open_all(&shares).await;
        for share in &shares {
            share.breaker().reset();
        }
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        sleep(OPEN_FOR + Duration::from_secs(1)).await;
        assert!(shares.iter().all(|it| !it.snapshot().fleet_is_open));
        fail(shares[1].breaker(), 5);
        let took = until_all(&shares, CircuitState::Open).await;
        assert!(took < Duration::from_millis(300), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_changes_all_the_time_sends_ten_commands_in_a_second_at_most() {
    for store in stores() {
        let shares = fleet(&store, 3, settings(4)).await;
        for round in 0..2_000 {
            let breaker = shares[round % 2].breaker();
            match round % 4 / 2 {
                0 => breaker.open_for(Duration::from_millis(5)),
                _ => breaker.force_close(),
            }
            breaker
                .try_acquire()
                .into_iter()
                .for_each(|it| it.failure());
            sleep(Duration::from_millis(2)).await;
        }
        // Nor do many changes of the fleet.
        for _ in 0..20 {
            for share in &shares {
                fail_if_closed(share.breaker());
            }
            sleep(Duration::from_millis(30)).await;
            shares.iter().for_each(|it| it.breaker().reset());
        }
        let asked = store.asked.load(Ordering::Relaxed);
        assert!(asked > 60, "{asked}");
        store.assert_pace();
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_heard_at_once_and_costs_no_question() {
    let store = stores().remove(0);
    let shares = fleet(&store, 8, settings(1)).await;
    sleep(Duration::from_secs(2)).await;
    store.log.lock().unwrap().clear();
    fail(shares[3].breaker(), 5);
    let took = until_all(&shares, CircuitState::Open).await;
    assert!(took <= Duration::from_millis(2), "{took:?}");
    sleep(Duration::from_millis(500)).await;
    let asked: Vec<_> = store
        .log
        .lock()
        .unwrap()
        .iter()
        .map(|it| Arc::clone(&it.0))
        .collect();
    assert!(
        asked.iter().all(|it| it.starts_with("node-3-")),
        "{asked:?}"
    );
}

#[test]
fn a_message_that_is_not_understood_is_a_reason_to_ask() {
    let news = News {
        is_open: true,
        epoch: 7,
        remaining: 500,
    };
    assert_eq!(heard(b"1|7|500"), Heard::Change(news));
    for text in [
        "",
        "2|7|500",
        "1|7",
        "1|7|500|1",
        "1|-7|500",
        "1||",
        "\u{fe}",
    ] {
        assert_eq!(heard(text.as_bytes()), Heard::Perhaps, "{text}");
    }
}

/// Then each process has used up its commands most of the time.
#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_for_a_tenth_of_a_second_is_probed_by_one_process_at_a_time() {
    for store in stores() {
        let shares: Vec<_> = (0..8).map(|node| short(&store, node)).collect();
        let backend = Arc::<Backend>::default();
        let _callers = traffic(&shares, &backend, Duration::from_millis(1));
        backend.is_bad.store(true, Ordering::Relaxed);
        until_all(&shares, CircuitState::Open).await;
        sleep(Duration::from_secs(1)).await;
        backend.reset();
        sleep(Duration::from_secs(30)).await;
        let probes = backend.calls.load(Ordering::Relaxed);
        assert!(probes > 30, "{probes}");
        assert_eq!(backend.most_at_once.load(Ordering::Relaxed), 1);
        store.assert_pace();
    }
}

fn short(store: &Arc<Counting>, node: usize) -> BreakerShare {
    let open_for = Duration::from_millis(100);
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(5)
        .recovery_timeout(open_for)
        .probe_timeout(PROBE_TIMEOUT)
        .build()
        .unwrap();
    let settings = SharedBreaker {
        open_for,
        ..settings(1)
    };
    let reporter = Reporter::of_a_test();
    BreakerShare::begin(&breaker, settings, store.clone(), &names(node), &reporter).unwrap()
}

/// Its question whether it may probe is answered with the closing.
#[tokio::test(start_paused = true)]
async fn who_hears_of_the_closing_when_it_asks_to_probe_closes_and_does_not_probe() {
    let store = stores().remove(0);
    let shares = fleet(&store, 8, settings(1)).await;
    let backend = Arc::<Backend>::default();
    let _callers = traffic(&shares, &backend, Duration::from_millis(1));
    for round in 0..10 {
        fail_if_closed(shares[round % 8].breaker());
        until_all(&shares, CircuitState::Open).await;
        let mut probed = [false; 8];
        while !all(&shares, CircuitState::Closed) {
            for (share, probed) in shares.iter().zip(&mut probed) {
                *probed |= share.breaker().state() == CircuitState::HalfOpen;
            }
            sleep(Duration::from_millis(1)).await;
        }
        let probed = probed.iter().filter(|it| **it).count();
        assert_eq!(probed, 1, "round {round}");
        sleep(Duration::from_secs(2)).await;
    }
}

fn fail_if_closed(breaker: &CircuitBreaker) {
    for _ in 0..5 {
        breaker
            .try_acquire()
            .into_iter()
            .for_each(|it| it.failure());
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_does_to_the_one_that_probes_is_no_result_of_the_probe() {
    type Command = fn(&CircuitBreaker);
    let commands: [Command; 5] = [
        |it| it.force_close(),
        |it| it.reset(),
        |it| it.open_for(Duration::from_secs(60)),
        |it| it.force_open(),
        |it| it.disable(),
    ];
    for store in stores() {
        for command in commands {
            let shares = fleet(&store, 3, settings(1)).await;
            open_all(&shares).await;
            sleep(OPEN_FOR).await;
            let lone = shares[0].breaker();
            while shares[0].snapshot().probes == 0 {
                drop(lone.try_acquire());
                sleep(OFTEN).await;
            }
            let epoch = shares[0].snapshot().epoch;
            command(lone);
            sleep(Duration::from_millis(500)).await;
            assert_eq!(shares[0].snapshot().epoch, epoch);
            // The others find out by themselves, with one probe.
            let backend = Arc::<Backend>::default();
            let _callers = traffic(&shares[1..], &backend, OFTEN);
            let took = until_all(&shares[1..], CircuitState::Closed).await;
            assert!(took < Duration::from_secs(2), "{took:?}");
            let probes: u64 = shares[1..].iter().map(|it| it.snapshot().probes).sum();
            assert_eq!(probes, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_of_the_store_that_steps_back_lets_nobody_probe_by_himself() {
    let (fragile, store) = fragile();
    fragile.behind.store(0, Ordering::Relaxed);
    let shares = fleet(&store, 6, settings(1)).await;
    let backend = Arc::<Backend>::default();
    let _callers = traffic(&shares, &backend, OFTEN);
    fail(shares[0].breaker(), 5);
    until_all(&shares, CircuitState::Open).await;
    sleep(OPEN_FOR / 2).await;
    backend.reset();
    fragile.behind.store(3_600_000_000, Ordering::Relaxed);
    let took = until_all(&shares, CircuitState::Closed).await;
    // Not an hour.
    assert!(took < OPEN_FOR + Duration::from_secs(1), "{took:?}");
    let probes: u64 = shares.iter().map(|it| it.snapshot().probes).sum();
    assert_eq!(probes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_empty_is_neither_open_for_ever_nor_sets_an_epoch_back() {
    // While it is open, while one probes, and after it has closed.
    for forgets_after in [1_000, 5_120, 7_000] {
        let (fragile, store) = fragile();
        let shares = fleet(&store, 4, settings(1)).await;
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        sleep(Duration::from_millis(forgets_after)).await;
        let before = shares[0].snapshot().epoch;
        fragile.forget();
        fragile.epochs.lock().unwrap().clear();
        let took = until_all(&shares, CircuitState::Closed).await;
        let most = OPEN_FOR + PROBE_TIMEOUT + Duration::from_secs(1);
        assert!(took < most, "{took:?}");
        sleep(Duration::from_secs(1)).await;
        assert!(shares.iter().all(|it| it.snapshot().epoch >= before));
        let epochs = fragile.epochs.lock().unwrap().clone();
        assert!(epochs.is_sorted() && epochs[0] >= before, "{epochs:?}");
        // It is shared as before.
        fail(shares[2].breaker(), 5);
        let took = until_all(&shares, CircuitState::Open).await;
        assert!(took < Duration::from_millis(300), "{took:?}");
    }
}

/// One knows a later epoch than the others, and hears of an opening that they begin to count anew.
#[tokio::test(start_paused = true)]
async fn who_knows_a_later_epoch_opens_with_those_who_count_anew() {
    let (fragile, store) = fragile();
    let old = fleet(&store, 1, settings(1)).await;
    for _ in 0..3 {
        let _callers = traffic(&old, &Arc::default(), OFTEN);
        fail(old[0].breaker(), 5);
        sleep(OPEN_FOR + Duration::from_secs(2)).await;
        assert!(all(&old, CircuitState::Closed));
    }
    sleep(Duration::from_secs(1)).await;
    for epochs in [1, 6] {
        fragile.forget();
        let new = share(&store, 7, settings(1));
        let callers = traffic(std::slice::from_ref(&new), &Arc::default(), OFTEN);
        sleep(Duration::from_millis(300)).await;
        for _ in 0..epochs / 2 {
            fail(new.breaker(), 5);
            sleep(OPEN_FOR + Duration::from_secs(2)).await;
        }
        fail(new.breaker(), 5);
        sleep(Duration::from_millis(300)).await;
        drop(callers);
        let _callers = traffic(&old, &Arc::default(), OFTEN);
        let took = until_all(&old, CircuitState::Open).await;
        assert!(took < Duration::from_millis(400), "{took:?}");
        until_all(&old, CircuitState::Closed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_finding_of_a_process_that_was_cut_off_is_not_undone_by_what_it_has_missed() {
    for store in stores() {
        let shares = fleet(&store, 2, settings(1)).await;
        let cut_off = Counting::around(Arc::clone(&store.inner), store.tells_news);
        let alone = share(&cut_off, 9, settings(1));
        sleep(Duration::from_millis(1)).await;
        cut_off.is_away.store(true, Ordering::Relaxed);
        // The others open and close.
        let callers = traffic(&shares, &Arc::default(), OFTEN);
        fail(shares[0].breaker(), 5);
        sleep(OPEN_FOR + Duration::from_secs(2)).await;
        assert!(all(&shares, CircuitState::Closed));
        drop(callers);
        fail(alone.breaker(), 5);
        cut_off.is_away.store(false, Ordering::Relaxed);
        for _ in 0..30 {
            drop(alone.breaker().try_acquire());
            sleep(OFTEN).await;
            assert_eq!(alone.breaker().state(), CircuitState::Open);
        }
        // And the others hear of it.
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        until_all(&shares, CircuitState::Open).await;
    }
}

/// A store that keeps whoever asks waiting, as if the process were stopped.
struct Stopped {
    inner: Arc<dyn BreakerStore>,
    is_stopped: AtomicBool,
    goes_on: Notify,
}

impl Stopped {
    async fn wait(&self) {
        while self.is_stopped.load(Ordering::Relaxed) {
            self.goes_on.notified().await;
        }
    }
}

impl BreakerStore for Stopped {
    fn report<'a>(&'a self, key: &'a Key, rules: Rules, report: Report) -> Answer<'a, News> {
        Box::pin(async move {
            self.wait().await;
            self.inner.report(key, rules, report).await
        })
    }

    fn lease<'a>(&'a self, key: &'a Key, seen: u64, length: u64) -> Answer<'a, Leased> {
        Box::pin(async move {
            self.wait().await;
            self.inner.lease(key, seen, length).await
        })
    }

    fn probed<'a>(&'a self, key: &'a Key, seen: u64, failed_for: u64) -> Answer<'a, News> {
        Box::pin(async move {
            self.wait().await;
            self.inner.probed(key, seen, failed_for).await
        })
    }

    fn listen(&self, _: &Key) -> Listener {
        Listener::Deaf
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_while_it_probed_changes_nothing_when_it_goes_on() {
    for store in stores() {
        let stopped = Arc::new(Stopped {
            inner: Arc::clone(&store.inner),
            is_stopped: AtomicBool::new(false),
            goes_on: Notify::new(),
        });
        let others = fleet(&store, 2, settings(1)).await;
        let prober = {
            let inner: Arc<dyn BreakerStore> = stopped.clone();
            share(&Counting::around(inner, false), 9, settings(1))
        };
        sleep(Duration::from_millis(1)).await;
        let backend = bad_backend();
        fail(prober.breaker(), 5);
        sleep(OPEN_FOR + Duration::from_millis(400)).await;
        while prober.snapshot().probes == 0 {
            drop(prober.breaker().try_acquire());
            sleep(OFTEN).await;
        }
        let last = [(); 2].map(|()| prober.breaker().try_acquire());
        stopped.is_stopped.store(true, Ordering::Relaxed);
        let callers = traffic(&others, &backend, OFTEN);
        sleep(Duration::from_secs(4)).await;
        // Another has probed meanwhile, and found it bad.
        let epoch = others[0].snapshot().epoch;
        assert!(epoch >= 2, "{epoch}");
        last.into_iter().flatten().for_each(|it| it.success());
        stopped.is_stopped.store(false, Ordering::Relaxed);
        stopped.goes_on.notify_waiters();
        sleep(Duration::from_millis(200)).await;
        assert!(all(&others, CircuitState::Open));
        assert_eq!(prober.breaker().state(), CircuitState::Open);
        drop(callers);
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_is_shared_in_two_fleets_opens_with_either_and_carries_nothing_over() {
    let (one, two) = (Arc::clone(&stores()[0]), Arc::clone(&stores()[0]));
    let both = share(&one, 0, settings(1));
    let breaker = both.breaker().clone();
    let again = BreakerShare::begin(
        &breaker,
        settings(1),
        two.clone(),
        &names(0),
        &Reporter::of_a_test(),
    )
    .unwrap();
    let (of_one, of_two) = (share(&one, 1, settings(1)), share(&two, 1, settings(1)));
    sleep(Duration::from_millis(1)).await;
    let shares = [both, of_one];
    let _callers = traffic(&shares, &Arc::default(), OFTEN);
    fail(shares[1].breaker(), 5);
    until_all(&shares, CircuitState::Open).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(of_two.breaker().state(), CircuitState::Closed);
    assert!(!again.snapshot().fleet_is_open);
    until_all(&shares, CircuitState::Closed).await;
    fail(of_two.breaker(), 5);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(shares[1].breaker().state(), CircuitState::Closed);
}

#[test]
fn a_breaker_outlives_the_runtime_of_its_share_and_is_not_held_open() {
    let paused = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let first = paused();
    let share = first.block_on(async {
        let store = Arc::clone(&stores()[0]);
        let shares = fleet(&store, 2, settings(1)).await;
        fail(shares[1].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        shares.into_iter().next().unwrap()
    });
    drop(first);
    paused().block_on(async {
        sleep(OPEN_FOR + Duration::from_secs(1)).await;
        for _ in 0..2 {
            share.breaker().try_acquire().unwrap().success();
        }
        assert_eq!(share.breaker().state(), CircuitState::Closed);
    });
}
