//! What is measured. Each subject is one shared instance; every thread gets a clone of the service around it.

use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::io::Error;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::retry::Policy;
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_bulwark::circuit_breaker::Window;
use tower_bulwark::{CircuitBreaker, ResourceLock, RetryBudget, RetryPolicy};

type Worker = Box<dyn FnMut(u64) + Send>;

pub(crate) struct Subject {
    pub(crate) case: &'static str,
    pub(crate) name: &'static str,
    pub(crate) make: Box<dyn Fn() -> Worker + Sync>,
    /// Measured with so many times fewer calls.
    pub(crate) slower_by: u64,
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

pub(crate) fn all(handle: &Handle) -> Vec<Subject> {
    let mut all = Vec::new();
    let mut add = |case, name, make: Box<dyn Fn() -> Worker + Sync>, slower_by, alone| {
        all.push(Subject {
            case,
            name,
            make,
            slower_by,
            alone,
        });
    };
    macro_rules! service {
        ($case:literal, $name:literal, $service:expr) => {
            service!($case, $name, $service, 1)
        };
        ($case:literal, $name:literal, $service:expr, $slower:literal) => {
            service!($case, $name, $service, $slower, false)
        };
        ($case:literal, $name:literal, $service:expr, $slower:literal, $alone:literal) => {{
            let (service, handle) = ($service, handle.clone());
            let make = move || calls(service.clone(), handle.clone());
            add($case, $name, Box::new(make), $slower, $alone);
        }};
    }

    service!("nothing", "bare service_fn", bare());

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
        peer.layer(bare()),
        4
    );

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
        peer.layer(bare()),
        20
    );
    let peer = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(100)
        .build()
        .expect("valid");
    service!(
        "breaker, closed",
        "tower-resilience, last 100 calls",
        peer.layer(bare()),
        20
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
            1,
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
            1,
            false,
        );
    }

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
        10,
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
        peer.layer(bare()),
        10
    );

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
