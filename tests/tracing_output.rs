//! What the crate writes with `tracing`. In a binary of its own: a subscriber of one thread misses what another thread
//! was first to register, so here every test has a subscriber and they run one after the other.

#![expect(
    clippy::await_holding_lock,
    reason = "each test has its runtime and thread"
)]

#[cfg(feature = "http")]
#[path = "metrics/traffic.rs"]
#[allow(dead_code, reason = "not all of it is looked at here")]
mod traffic;

use std::future::{pending, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt};
use tower_bulwark::{CircuitBreaker, Fallback, Jitter, ResourceLock, RetryPolicy, Timeouts};
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

/// What a subscriber with these directives writes while this runs.
async fn written(directives: &str, traffic: impl Future<Output = ()>) -> String {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(directives)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_writer(lines.clone())
        .with_ansi(false)
        .finish();
    let default = tracing::subscriber::set_default(subscriber);
    traffic.await;
    drop(default);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// The lines of a text that hold this.
fn lines_with<'a>(text: &'a str, part: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(part)).collect()
}

/// Fails with these words.
#[derive(Clone, Debug)]
struct Says(&'static str);

impl std::fmt::Display for Says {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Says {}

/// A retry, a breaker and a fallback of one name meet an error with these words.
async fn fails_with(words: &'static str) {
    let fail = move || ready(Err::<(), _>(Says(words)));
    let policy = RetryPolicy::builder()
        .name("api")
        .max_retries(1)
        .jitter(Jitter::None);
    policy.build().unwrap().run(fail).await.unwrap_err();
    let breaker = CircuitBreaker::builder("api").consecutive_failures(1);
    let breaker = breaker.build().unwrap();
    breaker.call(fail).await.unwrap_err();
    // The refusal of a breaker holds the words too.
    let again = RetryPolicy::builder()
        .name("again")
        .max_retries(1)
        .jitter(Jitter::None);
    let again = again.retry_rejections(true).build().unwrap();
    again.run(|| breaker.call(fail)).await.unwrap_err();
    let failing = || tower::service_fn(move |(): ()| fail());
    let fallback = Fallback::new("api");
    let service = fallback.layer().to("other", failing()).layer(failing());
    service.oneshot(()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn refusals_are_written_once_a_second_with_the_number_of_those_left_out() {
    let _turn = one_at_a_time();
    let lock = ResourceLock::new("db");
    let _held = lock.try_acquire("a").unwrap();
    let text = written("info", async {
        for _ in 0..4_212 {
            lock.try_acquire("b").map(drop).unwrap_err();
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        lock.try_acquire("b").map(drop).unwrap_err();
    })
    .await;
    let written: Vec<_> = text.lines().collect();
    assert_eq!(written.len(), 2, "{text}");
    assert!(!written[0].contains("more"), "{text}");
    assert!(written[1].contains("(and 4,211 more)"), "{text}");
    assert!(written[1].contains("left_out=4211"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_what_is_frequent_is_written_once_a_second_for_each_handle() {
    let _turn = one_at_a_time();
    let never = Duration::from_secs(60);
    let lock = ResourceLock::builder("db").max_waiting(1);
    let lock = lock.contention_threshold(never).build().unwrap();
    let timeouts = Timeouts::builder("api").head(Duration::from_millis(1));
    let timeouts = timeouts.build().unwrap();
    let policy = RetryPolicy::builder().name("api").max_retries(0);
    let policy = policy.build().unwrap();
    let fallback = Fallback::new("api");
    let _held = lock.try_acquire("a").unwrap();
    let fail = || ready(Err::<(), _>(Says("down")));
    let failing = || tower::service_fn(move |(): ()| fail());
    let service = fallback.layer().to("other", failing()).layer(failing());
    let round = async || {
        for _ in 0..5 {
            lock.try_acquire("b").map(drop).unwrap_err();
            let mut waits = task::spawn(lock.acquire("c"));
            assert_pending!(waits.poll());
            lock.acquire("d").await.map(drop).unwrap_err();
            drop(waits);
            let at_once = lock.acquire("e").timeout(Duration::from_millis(1));
            at_once.await.map(drop).unwrap_err();
            let hangs = || pending::<Result<(), Says>>();
            timeouts.run(hangs).await.unwrap_err();
            policy.run(fail).await.unwrap_err();
            service.clone().oneshot(()).await.unwrap_err();
        }
    };
    let text = written("info", async {
        round().await;
        tokio::time::advance(Duration::from_secs(2)).await;
        round().await;
    })
    .await;
    for (message, left_out) in [
        // Of refusals at once each fourth looks whether it is to be written.
        ("refused: the resource is busy", 7),
        ("refused: too many wait for the resource", 7),
        ("gave up waiting for a resource", 4),
        ("timed out", 4),
        ("gave up", 4),
        ("fell back", 4),
        ("no target answered", 4),
    ] {
        let bare = format!("tower_bulwark: {message} pattern=");
        let more = format!("tower_bulwark: {message} (and {left_out} more) pattern=");
        let found = [
            lines_with(&text, &bare).len(),
            lines_with(&text, &more).len(),
        ];
        assert_eq!(found, [1, 1], "{message}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn state_changes_and_deadlocks_are_always_written() {
    let _turn = one_at_a_time();
    let breaker = CircuitBreaker::new("api");
    let lock = ResourceLock::builder("db")
        .deadlock_timeout(Duration::from_millis(1))
        .build()
        .unwrap();
    let text = written("info", async {
        for _ in 0..5 {
            breaker.force_open();
            breaker.force_close();
        }
        let _held = lock.acquire("a").await.unwrap();
        for _ in 0..5 {
            lock.acquire("a").await.map(drop).unwrap_err();
        }
    })
    .await;
    assert_eq!(lines_with(&text, "circuit opened").len(), 5, "{text}");
    assert_eq!(lines_with(&text, "circuit changed").len(), 5, "{text}");
    let deadlocks = lines_with(&text, "ERROR tower_bulwark: deadlock");
    assert_eq!(deadlocks.len(), 5, "{text}");
    assert!(deadlocks[0].contains("cycle=a waits for db"), "{text}");
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn no_field_is_written_as_debug_writes_it() {
    let _turn = one_at_a_time();
    let registry = tower_bulwark::Registry::new();
    let text = written("trace", async {
        traffic::everything(&traffic::handles(&registry)).await;
    })
    .await;
    assert!(text.lines().count() > 30, "{text}");
    for trace in ["Some(", "None", "{", "[", "Holder", "000000", "000ms", "\""] {
        assert_eq!(lines_with(&text, trace), [""; 0]);
    }
    let contended = lines_with(&text, "still waiting for a resource");
    assert!(
        contended[0].contains("holders=a for 12.000s"),
        "{contended:?}"
    );
    let paused = lines_with(&text, "asked for a pause");
    assert!(paused[0].ends_with("pause=1.000s"), "{paused:?}");
}

#[tokio::test(start_paused = true)]
async fn words_of_others_can_neither_begin_a_line_nor_fill_it() {
    let _turn = one_at_a_time();
    let forged = "down\n2030-01-01T00:00:00Z ERROR tower_bulwark: all is lost\r\u{1b}[2K";
    let text = written("trace", fails_with(forged)).await;
    assert_eq!(
        lines_with(&text, "2030-01-01").len(),
        lines_with(&text, "down\\n2030").len()
    );
    assert!(lines_with(&text, "down\\n2030").len() >= 4, "{text}");
    let begins = |line: &str| line.starts_with("2030") || line.contains(['\r', '\u{1b}']);
    assert!(!text.lines().any(begins), "{text}");

    let name = "db\n2030-01-01T00:00:00Z ERROR";
    let lock = ResourceLock::new(name);
    let _held = lock.try_acquire("a").unwrap();
    let text = written("trace", async {
        lock.try_acquire(name).map(drop).unwrap_err();
    })
    .await;
    assert_eq!(text.lines().count(), 1, "{text}");

    let long: &'static str = Box::leak("long ".repeat(10_000).into_boxed_str());
    let text = written("trace", fails_with(long)).await;
    assert!(text.contains('…'), "{text}");
    let longest = text.lines().map(str::len).max().unwrap();
    assert!(longest < 600, "{longest}: {text}");
}

#[tokio::test(start_paused = true)]
async fn what_looks_like_a_secret_in_the_words_of_an_error_is_not_written() {
    let _turn = one_at_a_time();
    let words = "GET https://user:hunter2@api.test/v1?key=S3CRET with Bearer T0PS3CRET and sk-abcdefgh: refused";
    let text = written("trace", fails_with(words)).await;
    for secret in ["hunter2", "S3CRET", "T0PS3CRET", "abcdefgh"] {
        assert_eq!(lines_with(&text, secret), [""; 0]);
    }
    assert!(
        lines_with(&text, "@api.test/v1?*** with Bearer *** and ***: refused").len() >= 4,
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_filter_leaves_the_words_of_errors_out_and_nothing_else() {
    let _turn = one_at_a_time();
    let with = written("info", fails_with("my own words")).await;
    let without = "info,tower_bulwark::error_text=off";
    let without = written(without, fails_with("my own words")).await;
    assert!(lines_with(&with, "my own words").len() >= 4, "{with}");
    assert_eq!(lines_with(&without, "my own words"), [""; 0]);
    assert_eq!(with.lines().count(), without.lines().count());
    assert!(without.contains("cause=error"), "{without}");
    // A level that is too low for some events leaves the words of the others.
    let warnings = written("warn", fails_with("my own words")).await;
    assert!(
        !lines_with(&warnings, "my own words").is_empty(),
        "{warnings}"
    );
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
    use tower_bulwark::Backoff;
    use tower_bulwark::http::ResilientClient;
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
            "http.request.resend_count=1",
            "http.request.resend_count=2",
            "http.response.status_code=502 error.type=\"502\"",
            "http.response.status_code=200",
        ] {
            assert!(told.contains(expected), "{expected}: {told}");
        }
        assert_eq!(told.matches("error.type").count(), 2, "{told}");
        assert_eq!(told.matches("resend_count").count(), 2, "{told}");
    }

    /// At `TRACE`, with all fields of all spans, through every layer of a client and failures of every kind.
    #[tokio::test]
    async fn nothing_of_a_request_but_its_method_and_host_is_written() {
        let _turn = one_at_a_time();
        let mut tasks = JoinSet::new();
        let url = server(&mut tasks).await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = RetryPolicy::builder()
            .backoff(Backoff::fixed(Duration::from_millis(1)))
            .jitter(Jitter::None);
        let client = ResilientClient::builder("api", reqwest::Client::new())
            .retry(policy.build().unwrap())
            .build()
            .unwrap();
        let nowhere = "http://user:PASSWORD@127.0.0.1:1/PATH?key=QUERY".to_owned();
        let text = written("tower_bulwark=trace", async {
            for url in [format!("{url}?key=QUERY"), nowhere] {
                let request = client.put(&url).header("x-key", "HEADER");
                let request = request.bearer_auth("TOKEN").body("BODY");
                drop(request.send().await);
            }
        })
        .await;
        assert!(!lines_with(&text, "will retry").is_empty(), "{text}");
        assert!(!lines_with(&text, "gave up").is_empty(), "{text}");
        assert!(text.contains("http.request.method=PUT"), "{text}");
        for secret in ["PASSWORD", "QUERY", "HEADER", "TOKEN", "BODY"] {
            assert_eq!(lines_with(&text, secret), [""; 0]);
        }
    }
}
