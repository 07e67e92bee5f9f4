//! Everything at once, on four threads: calls that are dropped, that panic, that take too long, an operator who
//! forces states and changes the number of permits. In the end all counts must agree to the last call.
//!
//! ```sh
//! SOAK_SECONDS=60 cargo test --release --test soak -- --ignored
//! ```
//!
//! The short run does a fixed number of things. Which of them meet which is up to the threads; all counts agree
//! whatever it was.

#![expect(clippy::disallowed_methods, reason = "the long run ends by the clock")]

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_bulwark::circuit_breaker::{CircuitBreakerSnapshot, Recovery};
use tower_bulwark::{Backoff, CircuitBreaker, Error, Outcome, ResourceLock, RetryPolicy};

const THREADS: u64 = 4;
const TASKS: u64 = 8;
/// Too few for all who want one.
const FEW: usize = 6;

/// More than there are threads.
fn many() -> usize {
    8 * available_parallelism()
        .map_or(1, usize::from)
        .next_power_of_two()
        .min(32)
}

const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}

/// What was seen from outside of one breaker.
#[derive(Debug, Default)]
struct Ledger {
    started: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
    ignored: AtomicU64,
    overloaded: AtomicU64,
    refused: AtomicU64,
    panicked: AtomicU64,
    dropped: AtomicU64,
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, SeqCst);
}

impl Ledger {
    /// They balance with what the breaker counted. A retry that gives up an attempt makes a failure of what
    /// would have been a cancelled call.
    fn balance(&self, seen: &CircuitBreakerSnapshot, gives_up_attempts: bool) {
        let of = |count: &AtomicU64| count.load(SeqCst);
        let totals = seen.totals;
        assert_eq!(totals.successes, of(&self.ok), "{self:?} {totals:?}");
        assert_eq!(totals.ignored, of(&self.ignored), "{self:?} {totals:?}");
        assert_eq!(
            totals.overloads,
            of(&self.overloaded),
            "{self:?} {totals:?}"
        );
        assert_eq!(totals.rejected, of(&self.refused), "{self:?} {totals:?}");
        let (failed, dropped) = (of(&self.failed) + of(&self.panicked), of(&self.dropped));
        match gives_up_attempts {
            false => assert_eq!((totals.failures, totals.cancelled), (failed, dropped)),
            true => {
                assert_eq!(totals.failures + totals.cancelled, failed + dropped);
                assert!(totals.failures >= failed);
            }
        }
        let admitted = of(&self.started) - of(&self.refused);
        let ended = totals.successes
            + totals.failures
            + totals.overloads
            + totals.ignored
            + totals.cancelled;
        assert_eq!(admitted, ended, "{self:?} {totals:?}");
        assert_eq!(seen.probes, 0, "a probe's place was lost");
    }
}

/// Keeps the ledger of a call, whatever becomes of it.
struct Entry<'a> {
    ledger: &'a Ledger,
    polling: bool,
    ended: bool,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        match (self.ended, self.polling) {
            (true, _) => {}
            (false, true) => add(&self.ledger.panicked),
            (false, false) => add(&self.ledger.dropped),
        }
    }
}

async fn counted<F>(ledger: Arc<Ledger>, call: F) -> Result<(), Error<Down>>
where
    F: Future<Output = Result<(), Error<Down>>>,
{
    let mut entry = Entry {
        ledger: &ledger,
        polling: false,
        ended: false,
    };
    let mut call = pin!(call);
    let result = std::future::poll_fn(|cx| {
        entry.polling = true;
        let polled = call.as_mut().poll(cx);
        entry.polling = false;
        polled
    })
    .await;
    entry.ended = true;
    add(match &result {
        Ok(()) => &ledger.ok,
        Err(Error::CircuitOpen(_)) => &ledger.refused,
        Err(Error::Contended(_)) => &ledger.ignored,
        Err(_) => &ledger.failed,
    });
    result
}

/// Writes down each call of the service below.
fn bookkeeper<S>(
    ledger: Arc<Ledger>,
    inner: S,
) -> impl Service<Task, Response = (), Error = Error<Down>, Future: Send> + Clone + Send
where
    S: Service<Task, Response = (), Error = Error<Down>, Future: Send> + Clone + Send,
{
    service_fn(move |task| {
        let (ledger, inner) = (Arc::clone(&ledger), inner.clone());
        async move {
            let mut inner = inner;
            std::future::poll_fn(|cx| inner.poll_ready(cx)).await?;
            add(&ledger.started);
            let call = inner.call(task);
            counted(ledger, call).await
        }
    })
}

/// What one request does at the service.
#[derive(Clone, Copy, Debug)]
struct Task {
    yields: u32,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Well,
    Fails,
    Panics,
    Hangs,
}

impl Task {
    fn random(dice: &mut StdRng) -> Self {
        let end = match dice.random_range(0..100) {
            0..75 => End::Well,
            75..94 => End::Fails,
            94..99 => End::Panics,
            _ => End::Hangs,
        };
        let yields = dice.random_range(0..4);
        Self { yields, end }
    }

    async fn run(self) -> Result<(), Down> {
        for _ in 0..self.yields {
            yield_now().await;
        }
        match self.end {
            End::Well => Ok(()),
            End::Fails => Err(Down),
            // As a panic, without a word on the screen.
            End::Panics => resume_unwind(Box::new("meant")),
            End::Hangs => {
                tokio::time::sleep(3 * MS).await;
                Ok(())
            }
        }
    }
}

/// How many have a permit, against how many may.
struct Gauge {
    inside: AtomicU64,
    most: AtomicU64,
    /// Odd while the number is being changed.
    changes: AtomicU64,
    exceeded: AtomicU64,
}

struct Inside<'a>(&'a Gauge);

impl Gauge {
    fn enter(&self) -> Inside<'_> {
        let before = self.changes.load(SeqCst);
        let inside = self.inside.fetch_add(1, SeqCst) + 1;
        let most = self.most.load(SeqCst);
        // A number that was another when the others came in says nothing of them.
        let is_settled = before.is_multiple_of(2) && self.changes.load(SeqCst) == before;
        if is_settled && inside > most {
            add(&self.exceeded);
        }
        Inside(self)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, SeqCst);
    }
}

/// Dropped after so many polls.
struct Polls<F>(Pin<Box<F>>, u32);

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.1 == 0 {
            return Poll::Ready(None);
        }
        self.1 -= 1;
        self.0.as_mut().poll(cx).map(Some)
    }
}

struct World {
    most_permits: usize,
    lock: ResourceLock,
    gauge: Gauge,
    operator: Mutex<()>,
    plain: (CircuitBreaker, Arc<Ledger>),
    retried: (CircuitBreaker, Arc<Ledger>),
    retry: RetryPolicy,
}

fn breaker(name: &'static str) -> (CircuitBreaker, Arc<Ledger>) {
    let breaker = CircuitBreaker::builder(name)
        .consecutive_failures(3)
        .recovery(Recovery::exponential(MS / 10, 2.0, MS).jitter(0.5))
        .max_probes(2)
        .probe_timeout(MS)
        .build()
        .unwrap();
    (breaker, Arc::default())
}

impl World {
    fn new(most_permits: usize) -> Self {
        Self {
            most_permits,
            lock: ResourceLock::builder("lock")
                .max_concurrent(most_permits)
                .timeout(2 * MS)
                .max_waiting(20)
                .contention_threshold(MS)
                .hold_threshold(MS)
                .build()
                .unwrap(),
            gauge: Gauge {
                inside: AtomicU64::new(0),
                most: AtomicU64::new(most_permits as u64),
                changes: AtomicU64::new(0),
                exceeded: AtomicU64::new(0),
            },
            operator: Mutex::new(()),
            plain: breaker("plain"),
            retried: breaker("retried"),
            retry: RetryPolicy::builder()
                .max_retries(2)
                .backoff(Backoff::fixed(MS / 10))
                .attempt_timeout(MS)
                .build()
                .unwrap(),
        }
    }

    /// One thing of all that can happen.
    async fn step(self: &Arc<Self>, dice: &mut StdRng) {
        match dice.random_range(0..100) {
            0..30 => {
                let (breaker, ledger) = &self.plain;
                let stack = breaker.layer().layer(self.locked());
                self.call(bookkeeper(Arc::clone(ledger), stack), dice).await;
            }
            30..50 => {
                let (breaker, ledger) = &self.retried;
                let stack = breaker.layer().layer(self.locked());
                let stack = bookkeeper(Arc::clone(ledger), stack);
                self.call(self.retry.layer().layer(stack), dice).await;
            }
            50..65 => self.permit_by_hand(dice).await,
            65..85 => self.guard_by_hand(dice).await,
            85..95 => self.operate(dice),
            _ => self.change_capacity(dice).await,
        }
    }

    /// The service, behind the lock.
    fn locked(
        self: &Arc<Self>,
    ) -> impl Service<Task, Response = (), Error = Error<Down>, Future: Send> + Clone + Send + use<>
    {
        let world = Arc::clone(self);
        self.lock.layer().layer(service_fn(move |task: Task| {
            let world = Arc::clone(&world);
            async move {
                let _inside = world.gauge.enter();
                task.run().await
            }
        }))
    }

    /// A call that is dropped unpolled, after some polls, or after a while; or not at all.
    async fn call(
        &self,
        stack: impl Service<Task, Response = (), Error = Error<Down>, Future: Send> + Clone,
        dice: &mut StdRng,
    ) {
        let call = stack.oneshot(Task::random(dice));
        let call = AssertUnwindSafe(call).catch_unwind();
        match dice.random_range(0..4) {
            0 => drop(Polls(Box::pin(call), dice.random_range(0..6)).await),
            1 => drop(tokio::time::timeout(MS, call).await),
            _ => drop(call.await),
        }
    }

    async fn permit_by_hand(&self, dice: &mut StdRng) {
        let (breaker, ledger) = &self.plain;
        add(&ledger.started);
        let Ok(permit) = breaker.try_acquire() else {
            return add(&ledger.refused);
        };
        yield_now().await;
        match dice.random_range(0..5) {
            0 => {
                permit.settle(Outcome::Success);
                add(&ledger.ok);
            }
            1 => {
                permit.failure_because(&Down);
                add(&ledger.failed);
            }
            2 => {
                permit.ignore();
                add(&ledger.ignored);
            }
            3 => {
                drop(permit);
                add(&ledger.dropped);
            }
            _ => {
                permit.settle(Outcome::Overload);
                add(&ledger.overloaded);
            }
        }
    }

    async fn guard_by_hand(&self, dice: &mut StdRng) {
        let (lock, holder) = (&self.lock, dice.random_range(0..50_u64));
        let polls = dice.random_range(0..5);
        let hold = async {
            let inside = self.gauge.enter();
            yield_now().await;
            drop(inside);
        };
        match dice.random_range(0..4) {
            0 => {
                if let Some(Ok(guard)) = Polls(Box::pin(lock.acquire(holder)), polls).await {
                    hold.await;
                    drop(guard);
                }
            }
            1 => {
                if let Ok(guard) = lock.acquire(holder).timeout(MS).owned().await {
                    hold.await;
                    drop(guard);
                }
            }
            2 => {
                if let Ok(guard) = lock.try_acquire(holder) {
                    hold.await;
                    drop(guard);
                }
            }
            _ => {
                let run = lock.run(holder, || async {
                    hold.await;
                    Ok::<_, Down>(())
                });
                drop(Polls(Box::pin(run), polls).await);
            }
        }
    }

    /// Every command but `reset` and `disable`, after which not everything is counted.
    fn operate(&self, dice: &mut StdRng) {
        let breakers = [&self.plain.0, &self.retried.0];
        let breaker = breakers[dice.random_range(0..2)];
        match dice.random_range(0..8) {
            0 => breaker.force_open(),
            1 => breaker.metrics_only(),
            2 => breaker.open_for(MS),
            3 => drop(breaker.snapshot()),
            4 => drop(self.lock.snapshot()),
            _ => breaker.force_close(),
        }
    }

    async fn change_capacity(&self, dice: &mut StdRng) {
        let Ok(_alone) = self.operator.try_lock() else {
            return;
        };
        let n = dice.random_range(1..=self.most_permits);
        add(&self.gauge.changes);
        self.lock.set_max_concurrent(n).unwrap();
        // Those who hold one too many keep it until they are done, and nobody else gets one before.
        let start = Instant::now();
        let mut last = usize::MAX;
        loop {
            let passed = start.elapsed();
            let seen = self.lock.snapshot();
            if seen.in_use <= n {
                break;
            }
            assert!(seen.in_use <= last, "granted beyond the number of permits");
            last = seen.in_use;
            assert!(passed < Duration::from_secs(30), "a permit was lost");
            yield_now().await;
        }
        self.gauge.most.store(n as u64, SeqCst);
        add(&self.gauge.changes);
    }

    fn check(&self) {
        assert_eq!(
            self.gauge.exceeded.load(SeqCst),
            0,
            "more had a permit than there are"
        );
        assert_eq!(self.gauge.inside.load(SeqCst), 0);
        self.plain.1.balance(&self.plain.0.snapshot(), false);
        self.retried.1.balance(&self.retried.0.snapshot(), true);

        let seen = self.lock.snapshot();
        assert_eq!((seen.in_use, seen.waiting), (0, 0));
        let stats = seen.stats;
        let ended = stats.acquisitions
            + stats.timeouts
            + stats.abandoned
            + stats.rejected
            + stats.deadlocks;
        assert_eq!(stats.attempts, ended, "{stats:?}");
        assert_eq!(stats.deadlocks, 0, "nobody holds two");
        assert_eq!(
            stats.hold.count, stats.acquisitions,
            "each permit was given back once"
        );
        assert!(stats.peak_in_use <= self.most_permits);

        let all: Vec<_> = (0..seen.capacity as u64)
            .map(|i| self.lock.try_acquire(i))
            .collect();
        assert!(all.iter().all(Result::is_ok), "a permit was lost");
        self.lock
            .try_acquire("one more")
            .expect_err("a permit came from nowhere");
    }
}

fn soak(permits: usize, seed: u64, go_on: impl Fn(u64) -> bool + Send + Sync) -> Arc<World> {
    let world = Arc::new(World::new(permits));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (world, go_on) = (&world, &go_on);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build();
                let tasks = (0..TASKS).map(async |task| {
                    let seed = seed << 16 | thread << 8 | task;
                    let mut dice = StdRng::seed_from_u64(seed);
                    let mut done = 0;
                    while go_on(done) {
                        world.step(&mut dice).await;
                        done += 1;
                    }
                });
                runtime.unwrap().block_on(join_all(tasks));
            });
        }
    });
    world.check();
    world
}

#[test]
fn whatever_happens_at_once_all_counts_agree() {
    let world = soak(FEW, 1, |done| done < 2_000);
    // It was worth comparing.
    let (totals, stats) = (world.plain.0.snapshot().totals, world.lock.snapshot().stats);
    for count in [
        totals.successes,
        totals.failures,
        totals.ignored,
        totals.overloads,
        totals.cancelled,
        totals.rejected,
        stats.timeouts,
        stats.abandoned,
    ] {
        assert!(count > 10, "{totals:?} {stats:?}");
    }
}

#[test]
fn all_counts_agree_too_of_a_lock_with_many_permits() {
    let world = soak(many(), 2, |done| done < 2_000);
    let stats = world.lock.snapshot().stats;
    assert!(stats.acquisitions > 1_000, "{stats:?}");
}

/// With `--ignored`; `SOAK_SECONDS` says for how long, a minute by default.
#[test]
#[ignore = "takes a minute of real time: SOAK_SECONDS=60 cargo test --release --test soak -- --ignored"]
fn all_counts_agree_after_a_minute() {
    let seconds = std::env::var("SOAK_SECONDS").ok();
    let seconds = seconds.map_or(60, |it| it.parse().expect("a number of seconds"));
    let (start, mut rounds) = (Instant::now(), 0);
    let length = Duration::from_secs(seconds);
    while start.elapsed() < length {
        // In rounds of some seconds: what goes wrong is found soon after it did.
        let round = start.elapsed() + Duration::from_secs(5);
        rounds += 1;
        let permits = if rounds % 2 == 0 { many() } else { FEW };
        let world = soak(permits, rounds, |_| start.elapsed() < round.min(length));
        let (totals, stats) = (world.plain.0.snapshot().totals, world.lock.snapshot().stats);
        println!("{totals:?} {} permits", stats.acquisitions);
    }
}
