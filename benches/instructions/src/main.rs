//! Instructions that a call takes on the paths that are taken most, as callgrind counts them.
//!
//! `cargo run --release --manifest-path benches/instructions/Cargo.toml [part of a name]`
//!
//! Each path is run twice in a process of its own, a thousand times and eleven thousand times: the difference is
//! ten thousand calls and nothing else, no setting up and no tearing down. The figures of two runs on one machine
//! differ by less than an instruction. They say nothing of caches and of waiting for other threads.
//!
//! To see where they go: `valgrind --tool=callgrind <the binary> run <name> 10000`, and `callgrind_annotate`.

use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::io::Error;
use std::pin::pin;
use std::process::{Command, ExitCode};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_bulwark::{CircuitBreaker, ResourceLock, RetryPolicy};

const PATHS: [(&str, fn(u64)); 6] = [
    ("bare", |n| calls(bare(), n)),
    ("retry, first attempt succeeds", |n| {
        calls(RetryPolicy::new().layer().layer(bare()), n);
    }),
    ("breaker, closed", |n| {
        calls(CircuitBreaker::new("breaker").layer().layer(bare()), n);
    }),
    ("breaker, open", |n| {
        let breaker = CircuitBreaker::new("breaker");
        breaker.open_for(Duration::from_secs(86_400));
        calls(breaker.layer().layer(bare()), n);
    }),
    ("contention, permit free", |n| {
        calls(lock().layer().layer(bare()), n)
    }),
    ("all three", |n| {
        let stack = ServiceBuilder::new()
            .layer(RetryPolicy::new().layer())
            .layer(CircuitBreaker::new("breaker").layer())
            .layer(lock().layer())
            .service(bare());
        calls(stack, n);
    }),
];

fn bare()
-> impl Service<u64, Response = u64, Error = Error, Future = Ready<Result<u64, Error>>> + Clone {
    service_fn(|n: u64| ready(Ok::<u64, Error>(n)))
}

fn lock() -> ResourceLock {
    let builder = ResourceLock::builder("lock").max_concurrent(1024);
    builder.build().expect("valid")
}

/// Runs a future that never has to wait.
fn drive<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("everything is ready here"),
    }
}

#[inline(never)]
fn calls(mut service: impl Service<u64>, n: u64) {
    for i in 0..n {
        drive(std::future::poll_fn(|cx| service.poll_ready(cx))).ok();
        black_box(drive(service.call(black_box(i))).is_ok());
    }
}

/// What callgrind counts in a process that takes this path `n` times.
fn count(path: &str, n: u64) -> Result<u64, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(me)
        .args(["run", path, &n.to_string()])
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find_map(|line| line.split_once("Collected :"));
    let (_, counted) = line.ok_or_else(|| format!("valgrind said: {said}"))?;
    let counted = counted.trim().parse();
    counted.map_err(|e| format!("{e} in what valgrind said: {said}"))
}

fn per_call(path: &str) -> Result<f64, String> {
    Ok((count(path, 11_000)?.saturating_sub(count(path, 1_000)?)) as f64 / 10_000.0)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [run, name, n] = &args[..]
        && run == "run"
    {
        let (path, n) = (PATHS.iter().find(|(it, _)| it == name), n.parse());
        let (Some((_, path)), Ok(n)) = (path, n) else {
            return ExitCode::FAILURE;
        };
        path(n);
        return ExitCode::SUCCESS;
    }
    let wanted = args.first().map_or("", String::as_str);
    println!(
        "{:<32} {:>12} {:>12}",
        "instructions a call", "", "over bare"
    );
    let mut bare = None;
    for (name, _) in PATHS {
        if bare.is_some() && !name.contains(wanted) {
            continue;
        }
        match per_call(name) {
            Ok(n) => {
                let over = n - *bare.get_or_insert(n);
                println!("{name:<32} {n:>12.1} {over:>12.1}");
            }
            Err(error) => {
                eprintln!("{name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
