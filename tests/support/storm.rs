//! A storm in virtual time: a few clients, one server that can only do so much at once, an outage, a rush.
//!
//! Everything is drawn from a seed and runs on one thread with tokio's clock paused, so a run is the same each
//! time, and takes as long as its arithmetic. Each client stands for a process with layers of its own: nothing
//! is shared between them but the server. Users do not wait for each other: calls come when they come, whatever
//! became of the calls before.
//!
//! The server is an honest one, with the fault that honest servers have: it takes requests in the order of
//! their arrival, and does not know that a caller has gone away. Once its queue is longer than the callers'
//! patience, all of its work is for nobody.
#![allow(dead_code, reason = "the tests and the example each use a part of it")]
#![expect(
    clippy::disallowed_methods,
    reason = "a simulation reads the paused clock"
)]

use std::collections::VecDeque;
use std::fmt;
use std::future::Ready;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tower::timeout::TimeoutLayer;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::circuit_breaker::{Recovery, Window};
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{
    Backoff, CircuitBreaker, CircuitState, Fallback, Hedge, Jitter, RateLimit, ResourceLock,
    RetryBudget, RetryPolicy,
};

/// How many clients there are, each with layers of its own.
pub(crate) const CLIENTS: usize = 6;
/// How many calls a second come in, over all clients, while all is well.
pub(crate) const CALLS_PER_SECOND: f64 = 60.0;
/// How many requests a second the server can do: this many at once, for a twentieth of a second each.
pub(crate) const CAPACITY_PER_SECOND: f64 = WORKERS as f64 * 20.0;
/// Retries may be this share of the calls.
pub(crate) const BUDGET: f64 = 0.1;
/// Besides, each client may try again so often a second, and has so many retries saved up when it starts.
pub(crate) const BUDGET_FLOOR: f64 = 0.2;
pub(crate) const BUDGET_BURST: u32 = 5;
/// How long a caller waits for an attempt.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

const WORKERS: usize = 5;
/// How many requests wait at the server before it refuses more: ten seconds of its work.
const QUEUE: usize = 1_000;
const RETRIES: u32 = 3;

/// What stands between the callers and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// A timeout.
    Bare,
    /// tower's retry with a plain policy: three more attempts, at once.
    Naive,
    /// The retry of this crate, with a backoff and a budget.
    Budgeted,
    /// All three layers of this crate.
    Layers,
    /// The same with a hedge: a second attempt beside one that takes longer than most.
    Hedged,
    /// A rate limit instead of the lock, each client its share; and a stale answer where there is none.
    Fallback,
}

impl Variant {
    pub(crate) const ALL: [Self; 6] = [
        Self::Bare,
        Self::Naive,
        Self::Budgeted,
        Self::Layers,
        Self::Hedged,
        Self::Fallback,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "no layer",
            Self::Naive => "tower retry, no budget",
            Self::Budgeted => "retry with budget",
            Self::Layers => "retry, breaker, contention",
            Self::Hedged => "and a hedge",
            Self::Fallback => "rate limit, fallback",
        }
    }
}

/// How the server fails during the outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    /// It answers with an error, soon.
    Refuses,
    /// It takes requests and does nothing with them until the outage is over.
    Hangs,
}

/// What happens, in whole seconds from the start.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) length: u64,
    pub(crate) outage: Range<u64>,
    pub(crate) kind: Outage,
    /// While this lasts, three times as many calls come in.
    pub(crate) rush: Range<u64>,
    /// The share of requests that fail for no reason, at any time.
    pub(crate) noise: f64,
}

impl Weather {
    /// An outage, a time to recover, a rush, and another time to recover.
    pub(crate) fn storm(kind: Outage) -> Self {
        Self {
            length: 120,
            outage: 15..35,
            kind,
            rush: 65..80,
            noise: 0.01,
        }
    }

    /// Up to the outage.
    pub(crate) fn before(&self) -> Range<u64> {
        0..self.outage.start
    }

    /// From the outage to the rush.
    pub(crate) fn between(&self) -> Range<u64> {
        self.outage.end..self.rush.start
    }

    /// After the rush.
    pub(crate) fn after(&self) -> Range<u64> {
        self.rush.end..self.length
    }

    pub(crate) fn all(&self) -> Range<u64> {
        0..self.length
    }

    /// A rush of five seconds, and nothing else: what it leaves behind is of the callers' own making.
    pub(crate) fn trigger() -> Self {
        Self {
            rush: 20..25,
            ..Self::calm(120, 0.0)
        }
    }

    /// Nothing but noise.
    pub(crate) fn calm(length: u64, noise: f64) -> Self {
        Self {
            length,
            outage: 0..0,
            kind: Outage::Refuses,
            rush: 0..0,
            noise,
        }
    }
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Second {
    /// Calls that users made.
    pub(crate) calls: u32,
    /// Requests that reached the server.
    pub(crate) load: u32,
    /// Calls that succeeded.
    pub(crate) good: u32,
    /// Of these, the ones with a stale answer.
    pub(crate) stale: u32,
    /// Requests that the server worked on, and nobody waited for any more.
    pub(crate) wasted: u32,
}

/// A circuit breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) client: usize,
    pub(crate) at: Duration,
    pub(crate) to: CircuitState,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) variant: Variant,
    pub(crate) seconds: Vec<Second>,
    pub(crate) changes: Vec<Change>,
}

impl Report {
    fn sum(&self, range: Range<u64>, what: impl Fn(&Second) -> u32) -> u64 {
        let seconds = range.start as usize..range.end as usize;
        self.seconds[seconds]
            .iter()
            .map(|it| u64::from(what(it)))
            .sum()
    }

    pub(crate) fn calls(&self, range: Range<u64>) -> u64 {
        self.sum(range, |it| it.calls)
    }

    pub(crate) fn load(&self, range: Range<u64>) -> u64 {
        self.sum(range, |it| it.load)
    }

    pub(crate) fn good(&self, range: Range<u64>) -> u64 {
        self.sum(range, |it| it.good)
    }

    pub(crate) fn stale(&self, range: Range<u64>) -> u64 {
        self.sum(range, |it| it.stale)
    }

    pub(crate) fn wasted(&self, range: Range<u64>) -> u64 {
        self.sum(range, |it| it.wasted)
    }

    /// Requests that reached the server for each call that was made.
    pub(crate) fn amplification(&self, range: Range<u64>) -> f64 {
        self.load(range.clone()) as f64 / self.calls(range).max(1) as f64
    }

    /// The share of calls that succeeded.
    pub(crate) fn goodput(&self, range: Range<u64>) -> f64 {
        self.good(range.clone()) as f64 / self.calls(range).max(1) as f64
    }

    /// How many seconds into `range` nine calls in ten succeed again, for five seconds on end.
    pub(crate) fn recovers_in(&self, range: Range<u64>) -> Option<u64> {
        let start = range.start;
        let well = |at: &u64| self.goodput(*at..*at + 5) >= 0.9;
        (start..range.end - 4).find(well).map(|at| at - start)
    }

    /// When the last of the clients had opened its circuit for the first time in `range`.
    pub(crate) fn all_open_after(&self, range: &Range<u64>) -> Option<Duration> {
        let (start, end) = (
            Duration::from_secs(range.start),
            Duration::from_secs(range.end),
        );
        let opened = |client| {
            let mut changes = self.changes.iter();
            changes.find(|it| {
                it.client == client && it.to == CircuitState::Open && (start..end).contains(&it.at)
            })
        };
        let each: Option<Vec<_>> = (0..CLIENTS)
            .map(|client| Some(opened(client)?.at))
            .collect();
        each?.into_iter().max().map(|last| last - start)
    }

    /// How often a circuit opened.
    pub(crate) fn openings(&self) -> usize {
        let changes = self.changes.iter();
        changes.filter(|it| it.to == CircuitState::Open).count()
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    Down,
    QueueFull,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::QueueFull => "queue full",
        })
    }
}

impl std::error::Error for Failed {}

/// What is written down, each second.
struct Book {
    start: Instant,
    seconds: Mutex<Vec<Second>>,
    changes: Mutex<Vec<Change>>,
}

impl Book {
    fn note(&self, what: impl FnOnce(&mut Second)) {
        let at = self.start.elapsed().as_secs() as usize;
        if let Some(second) = lock(&self.seconds).get_mut(at) {
            what(second);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

type Answer = oneshot::Sender<Result<(), Failed>>;

struct Server {
    book: Arc<Book>,
    weather: Weather,
    queue: Mutex<VecDeque<Answer>>,
    arrived: Notify,
}

impl Server {
    async fn request(self: Arc<Self>) -> Result<(), Failed> {
        self.book.note(|it| it.load += 1);
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = lock(&self.queue);
            if queue.len() >= QUEUE {
                return Err(Failed::QueueFull);
            }
            queue.push_back(answer);
        }
        self.arrived.notify_one();
        answered.await.unwrap_or(Err(Failed::Down))
    }

    fn next(&self) -> Option<Answer> {
        lock(&self.queue).pop_front()
    }

    async fn work(self: Arc<Self>, mut dice: StdRng) {
        loop {
            let Some(answer) = self.next() else {
                self.arrived.notified().await;
                continue;
            };
            let second = self.book.start.elapsed().as_secs();
            let down = self.weather.outage.contains(&second);
            let result = match (down, self.weather.kind) {
                (true, Outage::Refuses) => {
                    sleep(Duration::from_millis(5)).await;
                    Err(Failed::Down)
                }
                (true, Outage::Hangs) => {
                    sleep_until(self.book.start + Duration::from_secs(self.weather.outage.end))
                        .await;
                    Err(Failed::Down)
                }
                (false, _) => {
                    sleep(Duration::from_millis(dice.random_range(30..=70))).await;
                    match dice.random_bool(self.weather.noise) {
                        true => Err(Failed::Down),
                        false => Ok(()),
                    }
                }
            };
            if answer.send(result).is_err() {
                self.book.note(|it| it.wasted += 1);
            }
        }
    }
}

/// A policy as they are written in an afternoon.
#[derive(Clone)]
struct Naive(u32);

impl tower::retry::Policy<(), (), BoxError> for Naive {
    type Future = Ready<()>;

    fn retry(&mut self, (): &mut (), result: &mut Result<(), BoxError>) -> Option<Ready<()>> {
        if result.is_ok() || self.0 == 0 {
            return None;
        }
        self.0 -= 1;
        Some(std::future::ready(()))
    }

    fn clone_request(&mut self, (): &()) -> Option<()> {
        Some(())
    }
}

type Client = BoxCloneSyncService<(), (), BoxError>;

fn client(variant: Variant, number: usize, seed: u64, server: &Arc<Server>) -> Client {
    let book = Arc::clone(&server.book);
    let server = Arc::clone(server);
    let inner = service_fn(move |()| Arc::clone(&server).request());
    let seed = seed.wrapping_mul(CLIENTS as u64) + number as u64;
    match variant {
        Variant::Bare => BoxCloneSyncService::new(
            ServiceBuilder::new()
                .layer(TimeoutLayer::new(PATIENCE))
                .service(inner),
        ),
        Variant::Naive => BoxCloneSyncService::new(
            ServiceBuilder::new()
                .layer(tower::retry::RetryLayer::new(Naive(RETRIES)))
                .layer(TimeoutLayer::new(PATIENCE))
                .service(inner),
        ),
        Variant::Budgeted => BoxCloneSyncService::new(
            ServiceBuilder::new()
                .map_err(BoxError::from)
                .layer(retry(seed).layer())
                .service(inner),
        ),
        Variant::Layers => BoxCloneSyncService::new(
            ServiceBuilder::new()
                .map_err(BoxError::from)
                .layer(retry(seed).layer())
                .layer(breaker(number, seed, book).layer())
                .layer(slots().layer())
                .service(inner),
        ),
        Variant::Hedged => BoxCloneSyncService::new(
            ServiceBuilder::new()
                .map_err(BoxError::from)
                .layer(retry(seed).layer())
                .layer(Hedge::new("server").layer())
                .layer(breaker(number, seed, book).layer())
                .layer(slots().layer())
                .service(inner),
        ),
        Variant::Fallback => {
            let noted = Arc::clone(&book);
            let stale = move |()| noted.note(|it| it.stale += 1);
            BoxCloneSyncService::new(
                ServiceBuilder::new()
                    .map_err(BoxError::from)
                    .layer(Fallback::new("server").layer().to_value("stale", stale))
                    .layer(retry(seed).layer())
                    .layer(breaker(number, seed, book).layer())
                    .layer(share().layer())
                    .service(inner),
            )
        }
    }
}

/// A sixth of what the server can do, less what a burst of all clients adds.
fn share() -> RateLimit {
    let each = (0.95 * CAPACITY_PER_SECOND) as u64 / CLIENTS as u64;
    RateLimit::builder("server")
        .quota("requests", Quota::per_second(each).burst(2))
        .max_wait(Duration::from_millis(200))
        .build()
        .expect("valid")
}

fn retry(seed: u64) -> RetryPolicy {
    let budget = RetryBudget::builder()
        .ratio(BUDGET)
        .floor_per_second(BUDGET_FLOOR)
        .burst(BUDGET_BURST)
        .build();
    RetryPolicy::builder()
        .max_retries(RETRIES)
        .backoff(Backoff::exponential(Duration::from_millis(50), 2.0))
        .jitter(Jitter::Full)
        .attempt_timeout(PATIENCE)
        .budget(budget.expect("valid"))
        .seed(seed)
        .build()
        .expect("valid")
}

fn breaker(client: usize, seed: u64, book: Arc<Book>) -> CircuitBreaker {
    let opens = Recovery::exponential(Duration::from_secs(2), 1.5, Duration::from_secs(5));
    CircuitBreaker::builder(format!("client-{client}"))
        .consecutive_failures(5)
        .failure_rate(0.5, Window::calls(20))
        .recovery(opens.jitter(0.2))
        .seed(seed)
        .on_state_change(move |_, to| {
            let at = book.start.elapsed();
            lock(&book.changes).push(Change { client, at, to });
        })
        .build()
        .expect("valid")
}

/// A share of what the server can hold so that nobody's patience ends in its queue.
fn slots() -> ResourceLock {
    ResourceLock::builder("server")
        .max_concurrent(4)
        .timeout(Duration::from_millis(200))
        .build()
        .expect("valid")
}

async fn users(client: Client, book: Arc<Book>, weather: Weather, mut dice: StdRng) {
    let mut next = book.start;
    loop {
        let rush = weather.rush.contains(&(next - book.start).as_secs());
        let rate = CALLS_PER_SECOND / CLIENTS as f64 * if rush { 3.0 } else { 1.0 };
        next += Duration::from_secs_f64(-(1.0 - dice.random::<f64>()).ln() / rate);
        sleep_until(next).await;
        book.note(|it| it.calls += 1);
        let (client, book) = (client.clone(), Arc::clone(&book));
        tokio::spawn(async move {
            if client.oneshot(()).await.is_ok() {
                book.note(|it| it.good += 1);
            }
        });
    }
}

/// Runs a storm over each variant, each on a thread of its own.
pub(crate) fn run_all(variants: &[Variant], weather: &Weather, seed: u64) -> Vec<Report> {
    std::thread::scope(|scope| {
        let run = |variant| scope.spawn(move || run(variant, weather, seed));
        let threads: Vec<_> = variants.iter().map(|variant| run(*variant)).collect();
        let reports = threads.into_iter().map(|thread| thread.join());
        reports.map(|it| it.expect("a run ends")).collect()
    })
}

/// Runs a storm over a variant.
pub(crate) fn run(variant: Variant, weather: &Weather, seed: u64) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without a reactor");
    runtime.block_on(async {
        let book = Arc::new(Book {
            start: Instant::now(),
            seconds: Mutex::new(vec![Second::default(); weather.length as usize]),
            changes: Mutex::new(Vec::new()),
        });
        let server = Arc::new(Server {
            book: Arc::clone(&book),
            weather: weather.clone(),
            queue: Mutex::new(VecDeque::new()),
            arrived: Notify::new(),
        });
        let dice = |number: usize| StdRng::seed_from_u64(seed << 8 | number as u64);
        for number in 0..WORKERS {
            tokio::spawn(Arc::clone(&server).work(dice(number)));
        }
        for number in 0..CLIENTS {
            let client = client(variant, number, seed, &server);
            let dice = dice(WORKERS + number);
            tokio::spawn(users(client, Arc::clone(&book), weather.clone(), dice));
        }
        sleep(Duration::from_secs(weather.length)).await;
        Report {
            variant,
            seconds: lock(&book.seconds).clone(),
            changes: lock(&book.changes).clone(),
        }
    })
}
