//! What a fleet adds to a call: a breaker and a rate limit of this process alone, and the same shared, with their tasks at
//! work. Over a real server if one is found, and it is said which.

use std::future::Future;
use std::hint::black_box;
use std::net::TcpListener;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tower_bulwark::CircuitBreaker;
use tower_bulwark::fleet::breaker::BreakerShare;
use tower_bulwark::fleet::{Fleet, FleetRateLimit, SharedBreaker};
use tower_bulwark::rate_limit::{Quota, RateLimit};

use crate::subjects::{Worker, breaker_calls};

/// A fleet whose tasks run beside what is measured.
pub(crate) struct Running {
    fleet: Fleet,
    share: BreakerShare,
    runtime: Runtime,
    server: Option<Child>,
    pub(crate) store: &'static str,
}

impl Running {
    pub(crate) fn start() -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build()?;
        let (server, fleet, store) = match server(&runtime) {
            Some((server, fleet, name)) => (Some(server), fleet, name),
            None => (
                None,
                Fleet::in_process(),
                "no server found: in this process",
            ),
        };
        let _context = runtime.enter();
        let breaker = CircuitBreaker::new("shared");
        let share = fleet.share(&breaker, SharedBreaker::default());
        let share = share.expect("valid");
        Ok(Self {
            fleet,
            share,
            runtime,
            server,
            store,
        })
    }

    fn limit(&self) -> FleetRateLimit {
        let _context = self.runtime.enter();
        let limit = self.fleet.rate_limit("limit").quota("calls", plenty());
        limit.leased().expected_nodes(1).build().expect("valid")
    }

    /// How often the agent of the breaker has asked the store.
    pub(crate) fn commands(&self) -> u64 {
        self.share.snapshot().commands
    }

    pub(crate) fn subjects(
        &self,
        add: &mut impl FnMut(&'static str, &'static str, Box<dyn Fn() -> Worker + Sync>, bool),
    ) {
        let handle = self.runtime.handle();
        for (name, breaker) in [
            ("breaker, layer, local", CircuitBreaker::new("local")),
            ("breaker, layer, shared", self.share.breaker().clone()),
        ] {
            let handle = handle.clone();
            let make = move || breaker_calls(&breaker, &handle);
            add("fleet", name, Box::new(make), false);
        }
        let local = RateLimit::new("limit", plenty()).expect("valid");
        let make = move || -> Worker {
            let limit = local.clone();
            Box::new(move |n| {
                for _ in 0..n {
                    black_box(drive(limit.acquire(black_box(1))).is_ok());
                }
            })
        };
        add("fleet", "rate limit, acquire, local", Box::new(make), false);
        let (shared, handle) = (self.limit(), handle.clone());
        let make = move || -> Worker {
            let (limit, handle) = (shared.clone(), handle.clone());
            Box::new(move |n| {
                let _context = handle.enter();
                for _ in 0..n {
                    black_box(drive(limit.acquire(black_box(1))).is_ok());
                }
            })
        };
        add(
            "fleet",
            "rate limit, acquire, leased",
            Box::new(make),
            false,
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn plenty() -> Quota {
    Quota::per_second(1_000_000_000)
}

/// Runs a future that has to wait only for the next batch, ten times a second.
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

/// The one that `REDIS_SERVER_BIN` names, or one in the path.
fn server(runtime: &Runtime) -> Option<(Child, Fleet, &'static str)> {
    let named = std::env::var("REDIS_SERVER_BIN").ok();
    let named = named
        .iter()
        .map(|it| (it.as_str(), "the server that REDIS_SERVER_BIN names"));
    let known = ["valkey-server", "redis-server"].map(|it| (it, it));
    for (binary, name) in named.chain(known) {
        let listener = TcpListener::bind("127.0.0.1:0").ok()?;
        let port = listener.local_addr().ok()?.port().to_string();
        drop(listener);
        let started = Command::new(binary)
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut server) = started else {
            continue;
        };
        for _ in 0..100 {
            let url = format!("redis://127.0.0.1:{port}");
            if let Ok(fleet) = runtime.block_on(Fleet::connect(url)) {
                return Some((server, fleet, name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = server.kill();
        let _ = server.wait();
    }
    None
}
