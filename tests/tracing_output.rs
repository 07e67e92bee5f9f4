//! What the crate writes with `tracing`. In a binary of its own: a subscriber of one thread misses what another thread
//! was first to register, so here every test has a subscriber and they run one after the other.

#![expect(
    clippy::await_holding_lock,
    reason = "each test has its runtime and thread"
)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_test::{assert_pending, task};
use tower_bulwark::ResourceLock;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::prelude::*;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_are_written_once_a_second_with_the_number_of_those_left_out() {
    let _turn = one_at_a_time();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let lock = ResourceLock::new("db");
    let _held = lock.try_acquire("a").unwrap();
    for _ in 0..1_000 {
        lock.try_acquire("b").map(drop).unwrap_err();
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    lock.try_acquire("b").map(drop).unwrap_err();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let written: Vec<_> = text.lines().collect();
    assert_eq!(written.len(), 2, "{text}");
    assert!(written[1].contains("(and 999 more)"), "{text}");
}

#[derive(Clone, Default)]
struct Panics(Arc<AtomicU32>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Panics {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("a subscriber that panics")
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_loses_no_permit() {
    let _turn = one_at_a_time();
    let lock = ResourceLock::builder("db")
        .contention_threshold(Duration::from_millis(1))
        .build()
        .unwrap();
    let held = lock.try_acquire("a").unwrap();
    let mut wait = task::spawn(lock.acquire("b"));
    assert_pending!(wait.poll());
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(held);
    let panics = Panics::default();
    let subscriber = tracing_subscriber::registry().with(panics.clone());
    let held = tracing::subscriber::with_default(subscriber, || wait.poll());
    assert!(held.is_ready(), "the panic stays where it was");
    assert_ne!(panics.0.load(Ordering::Relaxed), 0, "nothing was written");
    drop((wait, held));
    assert_eq!(lock.snapshot().in_use, 0);
}

#[cfg(feature = "reqwest")]
mod spans {
    use http::StatusCode;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tower_bulwark::http::ResilientClient;
    use tower_bulwark::{Backoff, Jitter, RetryPolicy};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};

    use super::*;

    /// The fields of each span by the name `attempt`, in the order in which they were recorded.
    #[derive(Clone, Default)]
    struct Spans(Arc<Mutex<Vec<String>>>);

    impl Visit for Spans {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            let field = format!("{}={value:?}", field.name());
            self.0.lock().unwrap().push(field);
        }
    }

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Spans {
        fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
            if attributes.metadata().name() == "attempt" {
                attributes.record(&mut self.clone());
            }
        }

        fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
            values.record(&mut self.clone());
        }
    }

    /// Fails twice, then is well.
    async fn server(tasks: &mut JoinSet<()>) -> String {
        let requests = AtomicU32::new(0);
        let answer = move || {
            std::future::ready(match requests.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => StatusCode::BAD_GATEWAY,
                _ => StatusCode::OK,
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        let router = axum::Router::new().route(
            "/",
            axum::routing::any(move || async move { answer().await }),
        );
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    #[tokio::test]
    async fn each_attempt_is_a_span_with_the_names_of_opentelemetry() {
        let _turn = one_at_a_time();
        let mut tasks = JoinSet::new();
        let url = server(&mut tasks).await;
        let spans = Spans::default();
        let subscriber = tracing_subscriber::registry().with(spans.clone());
        let _default = tracing::subscriber::set_default(subscriber);
        // An error says that another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = RetryPolicy::builder()
            .backoff(Backoff::fixed(Duration::from_millis(1)))
            .jitter(Jitter::None);
        let client = ResilientClient::builder("api", reqwest::Client::new())
            .retry(policy.build().unwrap())
            .build()
            .unwrap();
        client.get(&url).send().await.unwrap();
        let told = spans.0.lock().unwrap().join(" ");
        for expected in [
            "http.request.method=GET",
            "server.address=\"127.0.0.1\"",
            "http.request.resend_count=0",
            "http.request.resend_count=1",
            "http.request.resend_count=2",
            "http.response.status_code=502 error.type=\"502\"",
            "http.response.status_code=200",
        ] {
            assert!(told.contains(expected), "{expected}: {told}");
        }
        assert_eq!(told.matches("error.type").count(), 2, "{told}");
    }
}
