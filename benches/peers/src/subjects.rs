//! What is measured. Each subject is one shared instance; every thread gets a clone of the service around it.

use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::io::Error;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::retry::Policy;
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_bulwark::circuit_breaker::Window;
use tower_bulwark::contention::OwnedResourceGuard;
use tower_bulwark::keyed::Keyed;
use tower_bulwark::rate_limit::{Quota, RateLimit};
use tower_bulwark::{
    Chaos, CircuitBreaker, Hedge, Part, ResourceLock, RetryBudget, RetryPolicy, Stack, Throttle,
    Timeouts,
};

use crate::fleet::Running;

pub(crate) type Worker = Box<dyn FnMut(u64) + Send>;

pub(crate) struct Subject {
    pub(crate) case: &'static str,
    pub(crate) name: &'static str,
    pub(crate) make: Box<dyn Fn() -> Worker + Sync>,
    /// Only on one thread.
    pub(crate) alone: bool,
}

/// Runs a future that hardly ever has to wait.
fn drive<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

fn calls<S>(mut service: S, handle: Handle) -> Worker
where
    S: Service<u64, Future: Send> + Send + 'static,
{
    Box::new(move |n| {
        let _runtime = handle.enter();
        for i in 0..n {
            drive(std::future::poll_fn(|cx| service.poll_ready(cx))).ok();
            black_box(drive(service.call(black_box(i))).is_ok());
        }
    })
}

fn bare() -> impl Service<u64, Response = u64, Error = Error, Future = Ready<Result<u64, Error>>>
+ Clone
+ Send
+ Sync {
    service_fn(|n: u64| ready(Ok::<u64, Error>(n)))
}

#[derive(Clone)]
struct Never;

impl Policy<u64, u64, Error> for Never {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut u64, result: &mut Result<u64, Error>) -> Option<Ready<()>> {
        result.is_err().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &u64) -> Option<u64> {
        Some(*request)
    }
}

/// A lock of which so many permits are in use.
fn held_lock(permits: usize, held: usize) -> (Vec<OwnedResourceGuard>, ResourceLock) {
    let lock = ResourceLock::builder("lock").max_concurrent(permits);
    let lock = lock.build().expect("valid");
    let hold = |i| lock.acquire(i as u64).owned().now().expect("free");
    ((0..held).map(hold).collect(), lock)
}

/// A quota of which there is always some left, and one that is used up.
fn rate_limits(
    add: &mut impl FnMut(&'static str, &'static str, Box<dyn Fn() -> Worker + Sync>, bool),
    handle: &Handle,
) {
    const PLENTY: u32 = 1_000_000_000;
    let limit = |quota| RateLimit::new("limit", quota).expect("valid");
    let plenty = limit(Quota::per_second(PLENTY.into()));
    let used_up = limit(Quota::per_hour(1));
    let _ = used_up.try_acquire(1);
    for (case, limit) in [
        ("rate limit, free", plenty.clone()),
        ("rate limit, refused", used_up),
    ] {
        let make = move || -> Worker {
            let limit = limit.clone();
            Box::new(move |n| {
                for _ in 0..n {
                    black_box(limit.try_acquire(black_box(1)).is_ok());
                }
            })
        };
        add(case, "bulwark, try_acquire", Box::new(make), false);
    }
    let (service, handle) = (plenty.layer().layer(bare()), handle.clone());
    let make = move || calls(service.clone(), handle.clone());
    add("rate limit, free", "bulwark, layer", Box::new(make), false);
    let quota = |n| governor::Quota::per_second(std::num::NonZeroU32::new(n).expect("above 0"));
    let plenty = std::sync::Arc::new(governor::RateLimiter::direct(quota(PLENTY)));
    let hour = governor::Quota::with_period(Duration::from_secs(3_600)).expect("above 0");
    let used_up = std::sync::Arc::new(governor::RateLimiter::direct(hour));
    let _ = used_up.check();
    for (case, limit) in [
        ("rate limit, free", plenty),
        ("rate limit, refused", used_up),
    ] {
        let make = move || -> Worker {
            let limit = std::sync::Arc::clone(&limit);
            Box::new(move |n| {
                for _ in 0..n {
                    black_box(limit.check().is_ok());
                }
            })
        };
        add(case, "governor, check", Box::new(make), false);
    }
}

/// The other patterns, around calls that are well; a throttle that refuses; and a whole stack.
fn family(
    add: &mut impl FnMut(&'static str, &'static str, Box<dyn Fn() -> Worker + Sync>, bool),
    handle: &Handle,
) {
    let minute = Duration::from_secs(60);
    let mut layered = |case, name, service: BoxedCalls| {
        add(case, name, Box::new(move || service()), false);
    };
    let timeouts = Timeouts::builder("t").head(minute).build().expect("valid");
    layered(
        "timeout",
        "bulwark, head",
        boxed(timeouts.layer().layer(bare()), handle),
    );
    let total = Timeouts::builder("t").total(minute).build().expect("valid");
    layered(
        "timeout",
        "bulwark, total (one reading)",
        boxed(total.layer().layer(bare()), handle),
    );
    layered(
        "timeout",
        "tower Timeout (a timer each)",
        boxed(TimeoutLayer::new(minute).layer(bare()), handle),
    );
    let hedge = Hedge::builder("h").after(minute).build().expect("valid");
    layered(
        "hedge, none starts",
        "bulwark, after a delay",
        boxed(hedge.layer().layer(bare()), handle),
    );
    layered(
        "hedge, none starts",
        "bulwark, percentile",
        boxed(Hedge::new("h").layer().layer(bare()), handle),
    );
    let throttle = Throttle::new("t");
    layered(
        "throttle, accepted",
        "bulwark (one reading)",
        boxed(throttle.layer().layer(bare()), handle),
    );
    let down = Throttle::builder("t").window(Duration::from_secs(86_400));
    let down = down.max_reject(0.999).build().expect("valid");
    while down.snapshot().requests < 100_000 {
        down.try_acquire()
            .into_iter()
            .for_each(|permit| permit.overload());
    }
    let refused = move || -> Worker {
        let throttle = down.clone();
        Box::new(move |n| {
            for _ in 0..n {
                black_box(
                    throttle
                        .try_acquire()
                        .map(|permit| permit.overload())
                        .is_ok(),
                );
            }
        })
    };
    layered(
        "throttle, 999 of 1,000 refused",
        "bulwark, try_acquire",
        Box::new(refused),
    );
    let chaos = Chaos::builder("c").error(1.0).build().expect("valid");
    let fault = || Err::<u64, _>(Error::other("a drill"));
    layered(
        "chaos, off",
        "bulwark",
        boxed(chaos.layer(fault).layer(bare()), handle),
    );
    for (name, stack) in [
        ("bulwark, http", Stack::http("s")),
        (
            "bulwark, http without a lock",
            Stack::http("s").without(Part::Lock),
        ),
    ] {
        let stack = stack.build().expect("valid");
        layered(
            "a whole stack",
            name,
            boxed(stack.layer().layer(bare()), handle),
        );
    }
}

type BoxedCalls = Box<dyn Fn() -> Worker + Sync>;

fn boxed<S>(service: S, handle: &Handle) -> BoxedCalls
where
    S: Service<u64, Future: Send> + Clone + Send + Sync + 'static,
{
    let handle = handle.clone();
    Box::new(move || calls(service.clone(), handle.clone()))
}

/// A breaker for each of a hundred thousand hosts, looked up in no order; and a clone of one, which a look-up gives out.
fn by_key(add: &mut impl FnMut(&'static str, &'static str, Box<dyn Fn() -> Worker + Sync>, bool)) {
    const KEYS: usize = 100_000;
    let keys: std::sync::Arc<[String]> = (0..KEYS).map(|n| format!("host-{n}.example")).collect();
    let make = |host: &String| CircuitBreaker::new(host.as_str());
    let hosts = Keyed::new("hosts", 2 * KEYS, make).expect("not none");
    for key in keys.iter() {
        drop(hosts.get(key));
    }
    let one = CircuitBreaker::new("one");
    for (subject, asked_for) in [
        ("bulwark, one of 100000", KEYS),
        ("bulwark, 64 of 100000", 64),
    ] {
        let (hosts, keys) = (hosts.clone(), std::sync::Arc::clone(&keys));
        let make = move || -> Worker {
            let (hosts, keys) = (hosts.clone(), std::sync::Arc::clone(&keys));
            let mut at = 0;
            Box::new(move |n| {
                for _ in 0..n {
                    at = (at + 77_773) % asked_for;
                    black_box(hosts.get(&keys[at]).is_ok());
                }
            })
        };
        add("by key", subject, Box::new(make), false);
    }
    let make = move || -> Worker {
        let one = one.clone();
        Box::new(move |n| {
            for _ in 0..n {
                black_box(one.clone());
            }
        })
    };
    add("by key", "a clone of a handle", Box::new(make), false);
}

const TASKS: u64 = 1_000;

/// A thousand tasks want one of eight permits again and again, and yield while they have it.
fn queueing(
    add: &mut impl FnMut(&'static str, &'static str, Box<dyn Fn() -> Worker + Sync>, bool),
) {
    const MINUTE: Duration = Duration::from_secs(60);
    let case = "contention, 8 permits, 1000 tasks";
    let lock = ResourceLock::builder("queue").max_concurrent(8);
    let lock = lock.build().expect("valid");
    let turns = move |turn: u64| {
        let lock = lock.clone();
        async move {
            let permit = lock.acquire(turn).await;
            tokio::task::yield_now().await;
            drop(permit);
        }
    };
    add(case, "bulwark", in_tasks(turns), true);
    let semaphore = std::sync::Arc::new(Semaphore::new(8));
    let shared = std::sync::Arc::clone(&semaphore);
    let turns = move |_| {
        let semaphore = std::sync::Arc::clone(&shared);
        async move {
            let permit = semaphore.acquire().await;
            tokio::task::yield_now().await;
            drop(permit);
        }
    };
    add(case, "tokio Semaphore", in_tasks(turns), true);
    let turns = move |_| {
        let semaphore = std::sync::Arc::clone(&semaphore);
        async move {
            let permit = tokio::time::timeout(MINUTE, semaphore.acquire()).await;
            tokio::task::yield_now().await;
            drop(permit);
        }
    };
    add(
        case,
        "tokio Semaphore, with a timeout",
        in_tasks(turns),
        true,
    );
}

/// Each call is a turn of one of the tasks, on a runtime of its own with one worker.
fn in_tasks<F>(
    turn: impl Fn(u64) -> F + Clone + Send + Sync + 'static,
) -> Box<dyn Fn() -> Worker + Sync>
where
    F: Future<Output = ()> + Send + 'static,
{
    Box::new(move || {
        let turn = turn.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        Box::new(move |n| {
            let turns = n.div_ceil(TASKS);
            runtime.block_on(async {
                let tasks: Vec<_> = (0..TASKS)
                    .map(|id| {
                        let turn = turn.clone();
                        tokio::spawn(async move {
                            for _ in 0..turns {
                                turn(id).await;
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.expect("no task panics");
                }
            });
        })
    })
}

/// Calls through the layer of a breaker.
pub(crate) fn breaker_calls(breaker: &CircuitBreaker, handle: &Handle) -> Worker {
    calls(breaker.layer().layer(bare()), handle.clone())
}

pub(crate) fn all(handle: &Handle, fleet: &Running) -> Vec<Subject> {
    let mut all = Vec::new();
    let mut add = |case, name, make: Box<dyn Fn() -> Worker + Sync>, alone| {
        all.push(Subject {
            case,
            name,
            make,
            alone,
        });
    };
    macro_rules! service {
        ($case:literal, $name:literal, $service:expr) => {
            service!($case, $name, $service, false)
        };
        ($case:literal, $name:literal, $service:expr, $alone:literal) => {{
            let (service, handle) = ($service, handle.clone());
            let make = move || calls(service.clone(), handle.clone());
            add($case, $name, Box::new(make), $alone);
        }};
    }
    macro_rules! steps {
        ($case:literal, $name:expr, $make:expr, |$shared:ident| $step:expr) => {{
            let shared = std::sync::Arc::new($make);
            let make = move || -> Worker {
                let $shared = std::sync::Arc::clone(&shared);
                Box::new(move |n| {
                    for i in 0..n {
                        black_box(($step)(black_box(i)));
                    }
                })
            };
            add($case, $name, Box::new(make), false);
        }};
    }

    service!("nothing", "bare service_fn", bare());
    rate_limits(&mut add, handle);
    fleet.subjects(&mut add);
    family(&mut add, handle);
    by_key(&mut add);

    let retry = RetryPolicy::new();
    service!(
        "retry, first succeeds",
        "bulwark",
        retry.layer().layer(bare())
    );
    let budget = RetryBudget::new(0.2).expect("valid");
    let budgeted = RetryPolicy::builder()
        .budget(budget)
        .build()
        .expect("valid");
    service!(
        "retry, first succeeds",
        "bulwark, with a budget",
        budgeted.layer().layer(bare())
    );
    service!(
        "retry, first succeeds",
        "tower Retry",
        tower::retry::RetryLayer::new(Never).layer(bare())
    );
    let peer = tower_resilience_retry::RetryLayer::<u64, u64, Error>::builder()
        .max_attempts(4)
        .exponential_backoff(Duration::from_secs(1))
        .build();
    service!(
        "retry, first succeeds",
        "tower-resilience",
        peer.layer(bare())
    );

    let seatbelt = seatbelt::ResilienceContext::new(tick::Clock::new_tokio());
    let recovery = |result: &Result<u64, Error>| match result {
        Ok(_) => seatbelt::RecoveryInfo::never(),
        Err(_) => seatbelt::RecoveryInfo::retry(),
    };
    let peer = seatbelt::retry::Retry::layer("retry", &seatbelt)
        .clone_input()
        .recovery_with(move |result: &Result<u64, Error>, _| recovery(result));
    service!("retry, first succeeds", "seatbelt", peer.layer(bare()));

    let breaker = CircuitBreaker::new("consecutive");
    service!(
        "breaker, closed",
        "bulwark, consecutive",
        breaker.layer().layer(bare())
    );
    let window = |window| {
        CircuitBreaker::builder("window")
            .failure_rate(0.5, window)
            .build()
            .expect("valid")
    };
    service!(
        "breaker, closed",
        "bulwark, last 100 calls",
        window(Window::calls(100)).layer().layer(bare())
    );
    let timed = window(Window::time(Duration::from_secs(10)));
    service!(
        "breaker, closed",
        "bulwark, last 10 s",
        timed.layer().layer(bare())
    );
    let slow = CircuitBreaker::builder("slow")
        .slow_call_rate(0.5, Duration::from_secs(10))
        .build()
        .expect("valid");
    service!(
        "breaker, closed",
        "bulwark, slow calls",
        slow.layer().layer(bare())
    );
    let peer = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder()
        .consecutive_failures(5)
        .build()
        .expect("valid");
    service!(
        "breaker, closed",
        "tower-resilience, consecutive",
        peer.layer(bare())
    );
    let peer = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(100)
        .build()
        .expect("valid");
    service!(
        "breaker, closed",
        "tower-resilience, last 100 calls",
        peer.layer(bare())
    );
    {
        use failsafe::CircuitBreaker as _;
        let peer = failsafe::Config::new().build();
        let make = move || -> Worker {
            let peer = peer.clone();
            Box::new(move |n| {
                for i in 0..n {
                    black_box(peer.call(|| Ok::<u64, Error>(black_box(i))).is_ok());
                }
            })
        };
        add(
            "breaker, closed",
            "failsafe (sync call)",
            Box::new(make),
            false,
        );
        let peer = std::sync::Arc::new(recloser::Recloser::default());
        let make = move || -> Worker {
            let peer = std::sync::Arc::clone(&peer);
            Box::new(move |n| {
                for i in 0..n {
                    black_box(peer.call(|| Ok::<u64, Error>(black_box(i))).is_ok());
                }
            })
        };
        add(
            "breaker, closed",
            "recloser (sync call)",
            Box::new(make),
            false,
        );
    }

    let peer = seatbelt::breaker::Breaker::layer("breaker", &seatbelt)
        .recovery_with(move |result: &Result<u64, Error>, _| recovery(result))
        .rejected_input_error(|_, _| Error::other("open"));
    service!("breaker, closed", "seatbelt", peer.layer(bare()));

    let open = CircuitBreaker::new("open");
    open.open_for(Duration::from_secs(86_400));
    service!("breaker, open", "bulwark", open.layer().layer(bare()));
    let full = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(0))
        .service(bare());
    service!("breaker, open", "tower LoadShed, nothing free", full);
    let (peer, control) = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder()
        .consecutive_failures(5)
        .build_with_handle()
        .expect("valid");
    drive(control.force_open());
    // On several threads it waits for a timer, and here nobody drives timers.
    service!(
        "breaker, open",
        "tower-resilience",
        peer.layer(bare()),
        true
    );

    let lock = ResourceLock::builder("many")
        .max_concurrent(1024)
        .build()
        .expect("valid");
    service!(
        "contention, permit free",
        "bulwark, holder a number",
        lock.layer().holder(|n: &u64| *n).layer(bare())
    );
    let lock = ResourceLock::builder("many")
        .max_concurrent(1024)
        .build()
        .expect("valid");
    service!(
        "contention, permit free",
        "bulwark, no holder",
        lock.layer().layer(bare())
    );
    service!(
        "contention, permit free",
        "tower ConcurrencyLimit",
        GlobalConcurrencyLimitLayer::new(1024).layer(bare())
    );
    let peer = tower_resilience_bulkhead::BulkheadLayer::builder()
        .max_concurrent_calls(1024)
        .build()
        .expect("valid");
    service!(
        "contention, permit free",
        "tower-resilience bulkhead",
        peer.layer(bare())
    );

    for (held, bulwark, tokio) in [
        (0, "bulwark, 0 of 256 in use", "tokio Semaphore, 0 of 256"),
        (
            200,
            "bulwark, 200 of 256 in use",
            "tokio Semaphore, 200 of 256",
        ),
    ] {
        let (kept, lock) = held_lock(256, held);
        steps!("contention, try_acquire", bulwark, (kept, lock), |shared| {
            |i: u64| shared.1.try_acquire(i).is_ok()
        });
        let semaphore = Semaphore::new(256);
        semaphore
            .try_acquire_many(held as u32)
            .expect("free")
            .forget();
        steps!("contention, try_acquire", tokio, semaphore, |shared| |_| {
            shared.try_acquire().is_ok()
        });
    }

    for (permits, bulwark, tokio) in [
        (1, "bulwark, 1 permit", "tokio Semaphore, 1 permit"),
        (
            1_024,
            "bulwark, 1024 permits",
            "tokio Semaphore, 1024 permits",
        ),
    ] {
        let (kept, lock) = held_lock(permits, permits);
        steps!("contention, refused", bulwark, (kept, lock), |shared| {
            |i: u64| shared.1.try_acquire(i).is_err()
        });
        let semaphore = Semaphore::new(0);
        steps!("contention, refused", tokio, semaphore, |shared| |_| {
            shared.try_acquire().is_err()
        });
    }
    let (kept, lock) = held_lock(1_024, 1_024);
    steps!(
        "contention, refused",
        "bulwark, and the holders are read",
        (kept, lock),
        |shared| |i: u64| {
            let refused = shared.1.try_acquire(i).expect_err("all are held");
            refused.holders().len()
        }
    );
    let busy = ResourceLock::builder("busy")
        .timeout(Duration::ZERO)
        .build()
        .expect("valid");
    let kept = busy.acquire("somebody").owned().now().expect("free");
    std::mem::forget(kept);
    service!(
        "contention, refused",
        "bulwark, layer",
        busy.layer().layer(bare())
    );
    let full = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(0))
        .service(bare());
    service!("contention, refused", "tower LoadShed", full);

    queueing(&mut add);

    let (retry, breaker) = (RetryPolicy::new(), CircuitBreaker::new("stack"));
    let lock = ResourceLock::builder("stack")
        .max_concurrent(1024)
        .build()
        .expect("valid");
    let stack = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .layer(lock.layer())
        .service(bare());
    service!("all three", "bulwark", stack);
    service!(
        "timeout",
        "tower Timeout",
        TimeoutLayer::new(Duration::from_secs(10)).layer(bare())
    );
    all
}
