//! Shared breakers over both stores, in virtual time: who opens, who probes, and what happens without the store.

mod edges;
mod random;
mod rights;
mod trouble;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::core::{Leased, News, Report, Rules};
use super::store::{Answer, BREAKER, BreakerStore, Key, Listener, args, leased, news, report_args};
use super::{BreakerShare, SharedBreaker};
use crate::circuit_breaker::{Cause, CircuitBreaker, CircuitState};
use crate::fleet::names::Names;
use crate::fleet::reporter::Reporter;
use crate::fleet::{Fleet, StoreError, real_server};
use crate::util::time::{self, Tick};

/// The script on a real server, at the virtual time. It blocks the thread: a paused clock runs ahead of whoever awaits.
struct OnServer {
    connection: Mutex<redis::Connection>,
    _server: real_server::Server,
}

impl OnServer {
    fn eval(&self, key: &Key, mut args: Vec<Vec<u8>>) -> redis::Value {
        args[0] = (time::now().0 / 1_000).to_string().into_bytes();
        let mut command = redis::cmd("EVAL");
        command.arg(BREAKER.code).arg(3).arg(&key.keys).arg(args);
        command.query(&mut self.connection.lock().unwrap()).unwrap()
    }
}

impl BreakerStore for OnServer {
    fn report<'a>(&'a self, key: &'a Key, rules: Rules, report: Report) -> Answer<'a, News> {
        let reply = self.eval(key, report_args(key, rules, report));
        Box::pin(async move { news(&reply) })
    }

    fn lease<'a>(&'a self, key: &'a Key, seen: u64, length: u64) -> Answer<'a, Leased> {
        let reply = self.eval(key, args("lease", key, &[seen, length]));
        Box::pin(async move { leased(&reply) })
    }

    fn probed<'a>(&'a self, key: &'a Key, seen: u64, failed_for: u64) -> Answer<'a, News> {
        let reply = self.eval(key, args("probed", key, &[seen, failed_for]));
        Box::pin(async move { news(&reply) })
    }

    fn listen(&self, _: &Key) -> Listener {
        Listener::Deaf
    }
}

/// A store that can be away, and that counts what it is asked.
struct Counting {
    inner: Arc<dyn BreakerStore>,
    asked: AtomicU64,
    /// When, and by whom.
    log: Mutex<Vec<(Arc<str>, Tick)>>,
    is_away: AtomicBool,
    tells_news: bool,
}

impl Counting {
    async fn travel(&self, key: &Key) -> Result<(), StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let asks = (Arc::clone(&key.node), time::now());
        self.log.lock().unwrap().push(asks);
        if self.is_away.load(Ordering::Relaxed) {
            sleep(key.within).await;
            return Err(StoreError::Deadline);
        }
        Ok(())
    }
}

impl Counting {
    fn around(inner: Arc<dyn BreakerStore>, tells_news: bool) -> Arc<Self> {
        Arc::new(Self {
            inner,
            asked: AtomicU64::new(0),
            log: Mutex::default(),
            is_away: AtomicBool::new(false),
            tells_news,
        })
    }

    /// No process has asked more than ten times in any second.
    fn assert_pace(&self) {
        let mut by_node: HashMap<Arc<str>, Vec<Tick>> = HashMap::new();
        for (node, at) in &*self.log.lock().unwrap() {
            by_node.entry(Arc::clone(node)).or_default().push(*at);
        }
        for times in by_node.values() {
            for window in times.windows(11) {
                let length = window[10].since(window[0]);
                assert!(length >= Duration::from_secs(1), "eleven in {length:?}");
            }
        }
    }
}

impl BreakerStore for Counting {
    fn report<'a>(&'a self, key: &'a Key, rules: Rules, report: Report) -> Answer<'a, News> {
        Box::pin(async move {
            self.travel(key).await?;
            self.inner.report(key, rules, report).await
        })
    }

    fn lease<'a>(&'a self, key: &'a Key, seen: u64, length: u64) -> Answer<'a, Leased> {
        Box::pin(async move {
            self.travel(key).await?;
            self.inner.lease(key, seen, length).await
        })
    }

    fn probed<'a>(&'a self, key: &'a Key, seen: u64, failed_for: u64) -> Answer<'a, News> {
        Box::pin(async move {
            self.travel(key).await?;
            self.inner.probed(key, seen, failed_for).await
        })
    }

    fn listen(&self, key: &Key) -> Listener {
        self.inner.listen(key)
    }
}

fn stores() -> Vec<Arc<Counting>> {
    let in_process = Counting::around(Fleet::in_process().shared, true);
    let on_server = real_server::Server::start_blocking(&[]).map(|server| {
        let client = redis::Client::open(server.url()).unwrap();
        let store = OnServer {
            connection: Mutex::new(client.get_connection().unwrap()),
            _server: server,
        };
        Counting::around(Arc::new(store), false)
    });
    [in_process].into_iter().chain(on_server).collect()
}

const OPEN_FOR: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

fn settings(min_nodes: u32) -> SharedBreaker {
    SharedBreaker {
        min_nodes,
        open_for: OPEN_FOR,
        ..SharedBreaker::default()
    }
}

fn share(store: &Arc<Counting>, node: usize, settings: SharedBreaker) -> BreakerShare {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(5)
        .recovery_timeout(OPEN_FOR)
        .probe_timeout(PROBE_TIMEOUT)
        .build()
        .unwrap();
    BreakerShare::begin(
        &breaker,
        settings,
        store.clone(),
        &names(node),
        &Reporter::of_a_test(),
    )
    .unwrap()
}

fn names(node: usize) -> Names {
    Names::new("test", Some(&format!("node-{node}"))).unwrap()
}

async fn fleet(store: &Arc<Counting>, n: usize, settings: SharedBreaker) -> Vec<BreakerShare> {
    let shares = (0..n).map(|i| share(store, i, settings)).collect();
    sleep(Duration::from_millis(1)).await;
    shares
}

/// What all processes call.
#[derive(Default)]
struct Backend {
    is_bad: AtomicBool,
    calls: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Backend {
    async fn call(&self, breaker: &CircuitBreaker) {
        let Ok(permit) = breaker.try_acquire() else {
            return;
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(now, Ordering::Relaxed);
        sleep(Duration::from_millis(3)).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        match self.is_bad.load(Ordering::Relaxed) {
            true => permit.failure(),
            false => permit.success(),
        }
    }

    fn reset(&self) {
        for count in [&self.calls, &self.at_once, &self.most_at_once] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

/// Each process calls every so often, until this is dropped.
fn traffic(shares: &[BreakerShare], backend: &Arc<Backend>, every: Duration) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for share in shares {
        let (breaker, backend) = (share.breaker().clone(), Arc::clone(backend));
        callers.spawn(async move {
            loop {
                backend.call(&breaker).await;
                sleep(every).await;
            }
        });
    }
    callers
}

fn fail(breaker: &CircuitBreaker, times: usize) {
    for _ in 0..times {
        breaker.try_acquire().unwrap().failure();
    }
}

fn all(shares: &[BreakerShare], state: CircuitState) -> bool {
    shares.iter().all(|it| it.breaker().state() == state)
}

/// How long it takes until all are in that state.
async fn until_all(shares: &[BreakerShare], state: CircuitState) -> Duration {
    let began = time::now();
    let waits = async {
        while !all(shares, state) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let came = timeout(Duration::from_secs(60), waits).await;
    assert!(came.is_ok(), "they are never all {state}");
    time::now().since(began)
}

const OFTEN: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn all_open_within_a_tenth_of_a_second_of_a_trip_because_the_fleet_says_so() {
    for store in stores() {
        let shares = fleet(&store, 8, settings(1)).await;
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        sleep(Duration::from_secs(1)).await;
        fail(shares[3].breaker(), 5);
        let took = until_all(&shares, CircuitState::Open).await;
        let most = if store.tells_news { 5 } else { 140 };
        assert!(took <= Duration::from_millis(most), "{took:?}");
        for (i, share) in shares.iter().enumerate() {
            let cause = share.breaker().snapshot().cause.unwrap();
            assert_eq!(cause == Cause::Fleet, i != 3, "{cause}");
            assert!(share.snapshot().fleet_is_open);
            let left = share.breaker().snapshot().remaining_open.unwrap();
            assert!(left <= OPEN_FOR + Duration::from_millis(300), "{left:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_cut_off_opens_its_own_breaker_and_no_other() {
    for store in stores() {
        let shares = fleet(&store, 4, settings(2)).await;
        let _callers = traffic(&shares[1..], &Arc::default(), OFTEN);
        for _ in 0..3 {
            fail(shares[0].breaker(), 5);
            sleep(Duration::from_secs(1)).await;
            assert!(all(&shares[1..], CircuitState::Closed));
            assert_eq!(shares[0].breaker().state(), CircuitState::Open);
            shares[0].breaker().force_close();
        }
        // The second one.
        fail(shares[0].breaker(), 5);
        fail(shares[1].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
    }
}

#[tokio::test(start_paused = true)]
async fn failures_too_few_for_any_process_open_all() {
    for store in stores() {
        let shares = fleet(&store, 8, settings(3)).await;
        // Never five in a row at one process, and three of four fail.
        'rounds: for round in 0..8 {
            for share in &shares {
                let Ok(permit) = share.breaker().try_acquire() else {
                    break 'rounds;
                };
                match round % 4 {
                    3 => permit.success(),
                    _ => permit.failure(),
                }
            }
            sleep(Duration::from_millis(120)).await;
        }
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        until_all(&shares, CircuitState::Open).await;
        assert!(
            shares
                .iter()
                .all(|it| it.breaker().snapshot().cause == Some(Cause::Fleet))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn one_process_probes_for_all_and_all_close_with_it() {
    for store in stores() {
        let (shares, backend) = (
            fleet(&store, 8, settings(1)).await,
            Arc::<Backend>::default(),
        );
        let _callers = traffic(&shares, &backend, OFTEN);
        sleep(Duration::from_millis(500)).await;
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        sleep(Duration::from_millis(50)).await;
        backend.reset();
        let opened = time::now();
        while !shares
            .iter()
            .any(|it| it.breaker().state() == CircuitState::Closed)
        {
            sleep(Duration::from_millis(1)).await;
        }
        // Two successes close a breaker; and what the first to hear lets through while this looks.
        assert!((2..=4).contains(&backend.calls.load(Ordering::Relaxed)));
        assert_eq!(backend.most_at_once.load(Ordering::Relaxed), 1);
        let took = time::now().since(opened);
        assert!(took > Duration::from_millis(4_500), "{took:?}");
        until_all(&shares, CircuitState::Closed).await;
        let took = time::now().since(opened);
        assert!(took < Duration::from_millis(5_500), "{took:?}");
        let probes: u64 = shares.iter().map(|it| it.snapshot().probes).sum();
        assert_eq!(probes, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_keeps_all_open_for_another_time() {
    for store in stores() {
        let (shares, backend) = (
            fleet(&store, 8, settings(1)).await,
            Arc::<Backend>::default(),
        );
        backend.is_bad.store(true, Ordering::Relaxed);
        let _callers = traffic(&shares, &backend, OFTEN);
        until_all(&shares, CircuitState::Open).await;
        sleep(Duration::from_millis(50)).await;
        backend.reset();
        sleep(Duration::from_secs(14)).await;
        // After 5 s, and after 10 s.
        assert_eq!(backend.calls.load(Ordering::Relaxed), 2);
        let left = shares
            .iter()
            .filter_map(|it| it.breaker().snapshot().remaining_open);
        assert_eq!(left.count(), 8);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_while_it_probes_leaves_the_probe_to_another() {
    for store in stores() {
        let mut shares = fleet(&store, 3, settings(1)).await;
        let backend = Arc::<Backend>::default();
        fail(shares[0].breaker(), 5);
        let lone = shares.remove(0);
        // It alone is called when the time is over.
        sleep(OPEN_FOR).await;
        for _ in 0..30 {
            if let Ok(permit) = lone.breaker().try_acquire() {
                std::mem::forget(permit); // Its call never ends.
            }
            sleep(OFTEN).await;
        }
        assert_eq!(lone.snapshot().probes, 1);
        drop(lone);
        let died = time::now();
        let _callers = traffic(&shares, &backend, OFTEN);
        sleep(Duration::from_millis(1_000)).await;
        assert!(!shares.iter().any(|it| it.snapshot().probes > 0));
        until_all(&shares, CircuitState::Closed).await;
        let took = time::now().since(died);
        assert!(
            took < PROBE_TIMEOUT + Duration::from_millis(800),
            "{took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_store_each_breaker_goes_on_alone() {
    for store in stores() {
        let (shares, backend) = (
            fleet(&store, 3, settings(1)).await,
            Arc::<Backend>::default(),
        );
        let _callers = traffic(&shares, &backend, OFTEN);
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        store.is_away.store(true, Ordering::Relaxed);
        // All probe for themselves, and close.
        let took = until_all(&shares, CircuitState::Closed).await;
        assert!(took < OPEN_FOR + Duration::from_millis(800), "{took:?}");
        assert!(shares.iter().all(|it| it.snapshot().away_for.is_some()));
        fail(shares[1].breaker(), 5);
        assert_eq!(shares[1].breaker().state(), CircuitState::Open);
        assert_eq!(shares[2].breaker().state(), CircuitState::Closed);

        store.is_away.store(false, Ordering::Relaxed);
        sleep(Duration::from_millis(500)).await;
        assert!(shares.iter().all(|it| it.snapshot().away_for.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_asks_ten_times_a_second_at_most_whatever_the_traffic() {
    for store in stores() {
        for every in [50, 10, 1] {
            let shares = fleet(&store, 2, settings(1)).await;
            let callers = traffic(&shares, &Arc::default(), Duration::from_millis(every));
            let before = store.asked.load(Ordering::Relaxed);
            sleep(Duration::from_secs(10)).await;
            let asked = store.asked.load(Ordering::Relaxed) - before;
            assert!((100..=160).contains(&asked), "{asked}");
            drop(callers);
            sleep(Duration::from_secs(1)).await;
            // Nobody calls: nobody asks.
            let before = store.asked.load(Ordering::Relaxed);
            sleep(Duration::from_secs(10)).await;
            assert_eq!(store.asked.load(Ordering::Relaxed), before);
        }
        // Nor are there more while all are open, and all are called.
        let shares = fleet(&store, 2, settings(1)).await;
        let _callers = traffic(&shares, &Arc::default(), Duration::from_millis(1));
        fail(shares[0].breaker(), 5);
        let before = store.asked.load(Ordering::Relaxed);
        sleep(Duration::from_secs(4)).await;
        let asked = store.asked.load(Ordering::Relaxed) - before;
        assert!(asked > 0);
        store.assert_pace();
    }
}

#[tokio::test(start_paused = true)]
async fn an_operators_command_goes_before_what_the_fleet_finds() {
    for store in stores() {
        let shares = fleet(&store, 4, settings(1)).await;
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        shares[0].breaker().force_open();
        shares[1].breaker().disable();
        shares[3].breaker().open_for(Duration::from_secs(2));
        sleep(Duration::from_millis(300)).await;
        // An operator's opening is no finding.
        assert_eq!(shares[2].breaker().state(), CircuitState::Closed);
        fail(shares[2].breaker(), 5);
        until_all(&shares[2..], CircuitState::Open).await;
        sleep(Duration::from_secs(10)).await;
        assert_eq!(shares[0].breaker().state(), CircuitState::ForcedOpen);
        assert_eq!(shares[1].breaker().state(), CircuitState::Disabled);
        assert!(all(&shares[2..], CircuitState::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_forgets_opens_and_closes_nobody() {
    for store in stores() {
        let shares = fleet(&store, 3, settings(1)).await;
        let _callers = traffic(&shares, &Arc::default(), OFTEN);
        fail(shares[0].breaker(), 5);
        until_all(&shares, CircuitState::Open).await;
        let epoch = shares[0].snapshot().epoch;
        // A store that knows nothing answers a node that has seen an epoch: it is never set back.
        let key = Key::new(&names(0), "other", Duration::from_secs(1));
        let report = Report {
            seen: epoch,
            ok: 0,
            failed: 0,
            opened: 0,
        };
        let rules = Rules {
            slice: 1_000,
            minimum_calls: 1,
            permille: 1,
            min_nodes: 1,
            open_for: 1,
        };
        let news = store.report(&key, rules, report).await.unwrap();
        assert_eq!((news.epoch, news.is_open), (epoch, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_that_is_dropped_ends_its_task_and_leaves_the_breaker_to_itself() {
    let store = Arc::clone(&stores()[0]);
    let share = share(&store, 0, settings(1));
    let breaker = share.breaker().clone();
    fail(&breaker, 5);
    sleep(Duration::from_millis(10)).await;
    drop(share);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(Arc::strong_count(&store), 1);
    let before = store.asked.load(Ordering::Relaxed);
    sleep(OPEN_FOR + Duration::from_millis(300)).await;
    breaker.try_acquire().unwrap().success();
    breaker.try_acquire().unwrap().success();
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(store.asked.load(Ordering::Relaxed), before);
}
