//! A reader of the dashboard that reads nothing, over a real connection, while a hundred thousand events happen: it fills no
//! memory, and holds up nobody. In a binary of its own, with one test: the allocator that counts counts everything in the
//! process.
#![cfg(feature = "dashboard")]

use std::alloc::System;
use std::time::Duration;

use axum::Router;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tower_bulwark::dashboard::Dashboard;
use tower_bulwark::{CircuitBreaker, Registry, RetryPolicy};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes in use.
fn in_use() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

async fn reader(address: std::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // What the kernel keeps for it is soon full.
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!("GET /ops/api/events HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads at least so many bytes, within a minute.
async fn read_on(stream: &mut TcpStream, bytes: usize) {
    let mut buffer = vec![0; 65_536];
    let reading = async {
        let mut read = 0;
        while read < bytes {
            let n = stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "the stream has ended");
            read += n;
        }
    };
    let done = timeout(Duration::from_secs(60), reading).await;
    done.expect("no more states for whoever reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_reads_nothing_fills_no_memory_and_holds_up_no_call() {
    let registry = Registry::new();
    // A state of some 60 kB, so that it takes few of them to fill what lies between.
    for n in 0..200 {
        let _ = registry.circuit_breaker(format!("host-{n:03} {}", "x".repeat(200)));
    }
    let breaker = CircuitBreaker::builder("busy").build_in(&registry).unwrap();
    let retry = RetryPolicy::builder()
        .name("calls")
        .max_retries(0)
        .build_in(&registry)
        .unwrap();
    let interval = Duration::from_millis(10);
    let dashboard = Dashboard::builder(&registry).rows(100).interval(interval);
    let router = dashboard.build().unwrap().router();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().nest_service("/ops", router);
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    // One reads on, and shows that states come.
    let mut quick = reader(address).await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(reader(address).await);
    }
    // Until what lies between is full for all of them: as many states as the quick one has read went by.
    read_on(&mut quick, 6_000_000).await;
    let before = in_use();

    let calls = async {
        for n in 0..50_000_u32 {
            let _ = retry.run(|| async { Err::<(), _>("down") }).await;
            match n % 2 {
                0 => breaker.force_open(),
                _ => breaker.reset(),
            }
        }
    };
    timeout(Duration::from_secs(60), calls)
        .await
        .expect("calls are held up");
    read_on(&mut quick, 6_000_000).await;

    let grown = in_use().saturating_sub(before);
    // Eight readers, a hundred states of 60 kB each: some 48 MB if they were queued. The rest is what the feed, the log and
    // the curves keep, which are bounded.
    assert!(grown < 6_000_000, "{grown} bytes more than before");
    assert!(!server.is_finished());
    drop(slow);
}
