//! How the cost of a call grows: with the layers, with the window, with threads, with waiters, with somebody who
//! watches.
//!
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench curves [-- part of a name]`
//!
//! The last table is no curve: it is the tail of the callers' times while snapshots are taken, which a mean
//! would hide.

use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::io::Error;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_bulwark::circuit_breaker::Window;
use tower_bulwark::{CircuitBreaker, ResourceLock, RetryPolicy};

/// Runs a future that never has to wait.
fn drive<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("everything is ready here"),
    }
}

fn call(service: &mut impl Service<u64, Response = u64>) -> bool {
    let ready = drive(std::future::poll_fn(|cx| service.poll_ready(cx)));
    ready.is_ok() && black_box(drive(service.call(black_box(1)))).is_ok()
}

fn bare()
-> impl Service<u64, Response = u64, Error = Error, Future = Ready<Result<u64, Error>>> + Clone + Send
{
    service_fn(|n: u64| ready(Ok::<u64, Error>(n)))
}

fn lock() -> ResourceLock {
    let builder = ResourceLock::builder("lock").max_concurrent(1024);
    builder.build().expect("valid")
}

fn breaker(window: usize) -> CircuitBreaker {
    let builder = CircuitBreaker::builder("breaker").failure_rate(0.5, Window::calls(window));
    builder.build().expect("valid")
}

fn stack() -> impl Service<u64, Response = u64, Error: Send, Future: Send> + Clone + Send {
    ServiceBuilder::new()
        .layer(RetryPolicy::new().layer())
        .layer(CircuitBreaker::new("breaker").layer())
        .layer(lock().layer())
        .service(bare())
}

fn layers(c: &mut Criterion) {
    let mut group = c.benchmark_group("layers");
    macro_rules! row {
        ($name:literal, $service:expr) => {{
            let mut service = $service;
            group.bench_function($name, |b| b.iter(|| call(&mut service)));
        }};
    }
    row!("bare", bare());
    row!("retry", RetryPolicy::new().layer().layer(bare()));
    row!("breaker", CircuitBreaker::new("b").layer().layer(bare()));
    row!("contention", lock().layer().layer(bare()));
    row!("all three", stack());
}

/// A healthy call should not know how large the window is; a failing one is the window's own work.
fn windows(c: &mut Criterion) {
    let mut group = c.benchmark_group("window");
    for size in [100, 10_000, 1_000_000] {
        let mut service = breaker(size).layer().layer(bare());
        group.bench_function(BenchmarkId::new("success", size), |b| {
            b.iter(|| call(&mut service));
        });
        let breaker = breaker(size);
        let mut n = 0_u32;
        group.bench_function(BenchmarkId::new("one failure in four", size), |b| {
            b.iter(|| {
                n = n.wrapping_add(1);
                match (breaker.try_acquire(), n % 4) {
                    (Ok(permit), 0) => permit.failure(),
                    (Ok(permit), _) => permit.success(),
                    (Err(_), _) => unreachable!("a quarter is not half"),
                }
            });
        });
        group.bench_function(BenchmarkId::new("snapshot", size), |b| {
            b.iter(|| black_box(breaker.snapshot()));
        });
    }
}

/// The time until the last of the threads has made its calls, all at once.
fn threads(c: &mut Criterion) {
    fn rows<S>(c: &mut Criterion, name: &str, service: &S)
    where
        S: Service<u64, Response = u64> + Clone + Send,
    {
        let mut group = c.benchmark_group("threads");
        for threads in [1, 2, 4] {
            group.bench_function(BenchmarkId::new(name, threads), |b| {
                b.iter_custom(|calls| {
                    let ready = Barrier::new(threads);
                    let worker = |mut service: S| {
                        ready.wait();
                        let start = Instant::now();
                        for _ in 0..calls {
                            call(&mut service);
                        }
                        start.elapsed()
                    };
                    thread::scope(|scope| {
                        let spawn = |_| {
                            let service = service.clone();
                            scope.spawn(|| worker(service))
                        };
                        let running: Vec<_> = (0..threads).map(spawn).collect();
                        let times = running.into_iter().map(|it| it.join().expect("it ends"));
                        times.max().unwrap_or_default()
                    })
                });
            });
        }
    }
    rows(c, "bare", &bare());
    rows(
        c,
        "breaker",
        &CircuitBreaker::new("b").layer().layer(bare()),
    );
    rows(c, "contention", &lock().layer().layer(bare()));
    rows(c, "all three", &stack());
}

const WAITERS: u64 = 10_000;
const PERMITS: usize = 8;

/// Ten thousand tasks want one of eight permits, and yield while they have it.
fn waiters(c: &mut Criterion) {
    let mut group = c.benchmark_group("10000 waiters on 8 permits");
    group
        .throughput(Throughput::Elements(WAITERS))
        .sample_size(10);
    let runtimes: [(&str, Runtime); 2] = [
        (
            "one thread",
            Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime"),
        ),
        (
            "four threads",
            Builder::new_multi_thread()
                .worker_threads(4)
                .enable_time()
                .build()
                .expect("a runtime"),
        ),
    ];
    for (name, runtime) in &runtimes {
        group.bench_function(BenchmarkId::new("bulwark", name), |b| {
            b.iter(|| {
                let lock = ResourceLock::builder("lock")
                    .max_concurrent(PERMITS)
                    .no_timeout();
                let lock = lock.build().expect("valid");
                all(runtime, |n| {
                    let lock = lock.clone();
                    async move {
                        let permit = lock.acquire(n).owned().await;
                        tokio::task::yield_now().await;
                        drop(permit);
                    }
                });
            });
        });
        group.bench_function(BenchmarkId::new("tokio Semaphore", name), |b| {
            b.iter(|| {
                let semaphore = Arc::new(Semaphore::new(PERMITS));
                all(runtime, |_| {
                    let semaphore = Arc::clone(&semaphore);
                    async move {
                        let permit = semaphore.acquire_owned().await;
                        tokio::task::yield_now().await;
                        drop(permit);
                    }
                });
            });
        });
    }
}

fn all<F>(runtime: &Runtime, task: impl Fn(u64) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    runtime.block_on(async {
        let tasks: Vec<_> = (0..WAITERS).map(|n| tokio::spawn(task(n))).collect();
        for task in tasks {
            task.await.expect("no task panics");
        }
    });
}

/// Times of single calls, sorted, in nanoseconds, while somebody takes snapshots or nobody does.
fn watched(
    watch: Option<&(dyn Fn() + Sync)>,
    service: &(impl Service<u64, Response = u64> + Clone + Send),
) -> Vec<u64> {
    const CALLS: usize = 400_000;
    let done = AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        if let Some(watch) = watch {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    watch();
                    thread::park_timeout(Duration::from_millis(1));
                }
            });
        }
        let spawn = |_| {
            let mut service = service.clone();
            scope.spawn(move || {
                let mut times = Vec::with_capacity(CALLS);
                for _ in 0..CALLS {
                    let start = Instant::now();
                    call(&mut service);
                    times.push(start.elapsed().as_nanos() as u64);
                }
                times
            })
        };
        let callers: Vec<_> = (0..2).map(spawn).collect();
        let times: Vec<u64> = callers
            .into_iter()
            .flat_map(|it| it.join().expect("it ends"))
            .collect();
        done.store(true, Ordering::Relaxed);
        times
    });
    times.sort_unstable();
    times
}

fn watching() {
    println!("\nns of a call on two threads          p50      p99     p999");
    let row = |name: &str, times: Vec<u64>| {
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        println!("{name:<32} {:>7} {:>8} {:>8}", at(0.5), at(0.99), at(0.999));
    };
    let breaker = breaker(10_000);
    let service = breaker.layer().layer(bare());
    let snapshot = || drop(black_box(breaker.snapshot()));
    row("breaker", watched(None, &service));
    row(
        "breaker, 1000 snapshots/s",
        watched(Some(&snapshot), &service),
    );
    let lock = lock();
    let service = lock.layer().layer(bare());
    let snapshot = || drop(black_box(lock.snapshot()));
    row("contention", watched(None, &service));
    row(
        "contention, 1000 snapshots/s",
        watched(Some(&snapshot), &service),
    );
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    layers(&mut criterion);
    windows(&mut criterion);
    threads(&mut criterion);
    waiters(&mut criterion);
    criterion.final_summary();
    watching();
}
