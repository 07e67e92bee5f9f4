//! The dashboard as a client sees it: what it shows, what it refuses, and what it costs those who do not look.
#![allow(clippy::disallowed_methods, reason = "a test is outside the crate")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_bulwark::dashboard::{Action, Command, Dashboard, Denied, Operator};
use tower_bulwark::keyed::Keyed;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{CircuitState, RateLimit, Registry, ResourceLock};

fn page(registry: &Registry) -> Router {
    Dashboard::builder(registry).build().router()
}

/// A page whose commands are given by whoever names himself.
fn commanded(registry: &Registry) -> Router {
    let dashboard = Dashboard::builder(registry).commands(|request, _| {
        let user = request
            .headers
            .get("x-user")
            .and_then(|it| it.to_str().ok());
        user.map(Operator::new)
            .ok_or_else(|| Denied::new("who are you?"))
    });
    dashboard.build().router()
}

async fn get(router: &Router, path: &str) -> Response<Body> {
    let request = Request::get(path).body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn state(router: &Router) -> Value {
    let response = get(router, "/api/snapshot").await;
    assert_eq!(response.status(), StatusCode::OK);
    serde_json::from_str(&text(response).await).unwrap()
}

/// A command as the page sends it.
fn command(action: &Value) -> Request<Body> {
    Request::post("http://ops.example/api/command")
        .header("host", "ops.example")
        .header("origin", "http://ops.example")
        .header("sec-fetch-site", "same-origin")
        .header("content-type", "application/json")
        .header("x-bulwark-command", "1")
        .header("x-user", "ada")
        .body(Body::from(action.to_string()))
        .unwrap()
}

async fn send(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    (response.status(), text(response).await)
}

fn force_open() -> Value {
    json!({ "pattern": "circuit_breaker", "name": "api", "action": "force_open" })
}

#[tokio::test(start_paused = true)]
async fn it_says_what_is_refused_and_why_since_when_and_until_when() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("api");
    for _ in 0..5 {
        breaker.try_acquire().unwrap().failure_because(&"503");
    }
    tokio::time::advance(Duration::from_secs(12)).await;
    let state = state(&page(&registry)).await;
    let problem = &state["problems"][0];
    assert_eq!(problem["severity"], "error");
    let said = problem["text"].as_str().unwrap();
    assert!(said.contains("`api` is open"), "{said}");
    assert!(
        said.contains("5 consecutive failures; last failure: 503"),
        "{said}"
    );
    assert_eq!(
        (&problem["since_ms"], &problem["until_ms"]),
        (&json!(12_000.0), &json!(48_000.0))
    );
    assert!(
        state["headline"]
            .as_str()
            .unwrap()
            .starts_with("1 problem: circuit `api` open")
    );
    assert_eq!(state["events"][0]["kind"], "state_changed");
}

#[tokio::test(start_paused = true)]
async fn while_all_is_well_it_says_so_and_how_far_a_circuit_is_from_opening() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("api");
    for _ in 0..3 {
        breaker.try_acquire().unwrap().failure();
    }
    let state = state(&page(&registry)).await;
    assert_eq!(state["problems"], json!([]));
    assert!(
        state["headline"]
            .as_str()
            .unwrap()
            .starts_with("All is well")
    );
    let row = &state["circuit_breakers"]["rows"][0];
    assert_eq!(
        row["distances"],
        json!([{ "text": "3 of 5 failures in a row", "share": 0.6 }])
    );
    assert_eq!(
        row["config"]["recovery"], "1m",
        "the settings in force, as a file would have them"
    );
}

#[tokio::test(start_paused = true)]
async fn it_names_holders_and_waiters_and_draws_who_waits_for_whom() {
    let registry = Registry::new();
    let lock = |name: &str| {
        let lock = ResourceLock::builder(name).deadlock_timeout(None);
        lock.build_in(&registry).unwrap()
    };
    let (a, b) = (lock("a"), lock("b"));
    let hold = |who: &'static str, first: ResourceLock, second: ResourceLock| {
        tokio::spawn(async move {
            let _first = first.acquire(who).await;
            tokio::task::yield_now().await;
            let _second = second.acquire(who).await;
        })
    };
    let tasks = [
        hold("left", a.clone(), b.clone()),
        hold("right", b, a.clone()),
    ];
    let third = tokio::spawn(async move { a.acquire("third").await.map(drop) });
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    tokio::time::advance(Duration::from_secs(6)).await;
    let state = state(&page(&registry)).await;
    let row = &state["resource_locks"]["rows"][0];
    assert_eq!(row["name"], "a", "more wait for it");
    assert_eq!(row["holders"][0]["name"], "left");
    assert_eq!(row["waiting"], 2);
    let marked = |waiter: &str| {
        let edges = state["graph"]["edges"].as_array().unwrap();
        let edge = edges.iter().find(|it| it["waiter"] == waiter).unwrap();
        edge["deadlock"].clone()
    };
    assert_eq!(
        (marked("left"), marked("right"), marked("third")),
        (json!(true), json!(true), json!(false))
    );
    let first = &state["problems"][0];
    assert!(
        first["text"]
            .as_str()
            .unwrap()
            .contains("`left` has held a permit for 6.0 s"),
        "{first}"
    );
    tasks.into_iter().for_each(|it| it.abort());
    third.abort();
}

#[tokio::test]
async fn a_page_lets_no_script_in_but_its_own_and_no_frame_around_it() {
    let router = page(&Registry::new());
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/style.css", "text/css"),
        ("/app.js", "text/javascript"),
        ("/api/snapshot", "application/json"),
    ] {
        let response = get(&router, path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let headers = response.headers();
        assert_eq!(headers["content-type"], kind);
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
    }
    let html = text(get(&router, "/").await).await;
    assert!(
        !html.contains("<script>") && !html.contains("style=") && !html.contains("onclick"),
        "{html}"
    );
    let script = text(get(&router, "/app.js").await).await;
    for word in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
    ] {
        assert!(!script.contains(word), "{word}");
    }
    assert!(
        !html.contains("//") && !script.contains("https://"),
        "nothing comes from elsewhere"
    );
    assert_eq!(
        get(&router, "/nothing").await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn it_nests_anywhere_and_what_belongs_to_it_is_found_from_there() {
    let registry = Registry::new();
    let at = |path: &'static str| {
        let (nested, service) = (page(&registry), page(&registry));
        match path {
            "merged" => page(&registry),
            "nested" => Router::new().nest("/a/ops", nested),
            "slash" => Router::new().nest("/a/ops/", nested),
            _ => Router::new().nest_service("/a/ops", service),
        }
    };
    for (how, path, here) in [
        ("merged", "/", "."),
        ("nested", "/a/ops", "./ops"),
        ("slash", "/a/ops/", "."),
        ("service", "/a/ops", "./ops"),
        ("service", "/a/ops/", "."),
    ] {
        let router = at(how);
        let response = get(&router, path).await;
        assert_eq!(response.status(), StatusCode::OK, "{how} {path}");
        let html = text(response).await;
        assert!(
            html.contains(&format!("src=\"{here}/app.js\"")),
            "{how} {path}: {html}"
        );
        // As a browser resolves it.
        let base = &path[..path.rfind('/').unwrap()];
        let script = format!(
            "{base}/{}/app.js",
            here.trim_start_matches('.').trim_start_matches('/')
        );
        let script = script.replace("//", "/");
        assert_eq!(
            get(&router, &script).await.status(),
            StatusCode::OK,
            "{how} {path}: {script}"
        );
    }
}

#[tokio::test]
async fn commands_are_off_unless_somebody_says_who_may() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("api");
    let (status, _) = send(&page(&registry), command(&force_open())).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(state(&page(&registry)).await["commands"], false);

    let router = commanded(&registry);
    let mut anonymous = command(&force_open());
    anonymous.headers_mut().remove("x-user");
    let (status, said) = send(&router, anonymous).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(said.contains("who are you?"), "{said}");
    assert_eq!(breaker.state(), CircuitState::Closed);

    let (status, said) = send(&router, command(&force_open())).await;
    assert_eq!(
        (status, &*said),
        (StatusCode::OK, r#"{"done":"closed -> forced open"}"#)
    );
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
    let state = state(&router).await;
    assert_eq!(state["operators"][0]["operator"], "ada");
    assert_eq!(
        state["operators"][0]["text"],
        "circuit_breaker `api`: closed -> forced open"
    );
}

#[tokio::test]
async fn a_command_that_does_not_come_from_the_page_is_refused() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("api");
    let router = commanded(&registry);
    let without = |name: &str| {
        let mut request = command(&force_open());
        request.headers_mut().remove(name);
        request
    };
    let with = |name: &'static str, value: &'static str| {
        let mut request = command(&force_open());
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let forged = [
        without("x-bulwark-command"),
        without("content-type"),
        with("content-type", "text/plain"),
        with("content-type", "application/x-www-form-urlencoded"),
        with("sec-fetch-site", "cross-site"),
        with("sec-fetch-site", "same-site"),
        with("origin", "http://evil.example"),
        with("origin", "null"),
        with("origin", "http://ops.example.evil.example"),
        with("origin", "http://ops.example:8080"),
    ];
    for request in forged {
        let headers = format!("{:?}", request.headers());
        let (status, _) = send(&router, request).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{headers}");
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
    // Neither a GET nor anything else changes anything.
    assert_eq!(
        get(&router, "/api/command").await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    // A program of the operator's own names no origin.
    let (status, _) = send(&router, without("origin")).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn every_command_does_what_it_says_and_nonsense_says_what_is_wrong() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("api");
    let lock = registry.resource_lock("db");
    let limit = RateLimit::builder("search")
        .quota("requests", Quota::per_hour(10))
        .build_in(&registry)
        .unwrap();
    limit.try_acquire(9).unwrap();
    let retry = registry.retry("calls");
    let chaos = tower_bulwark::Chaos::builder("drill")
        .error(0.5)
        .build_in(&registry)
        .unwrap();
    let router = commanded(&registry);
    let run = |pattern: &str, name: &str, action: Value| {
        let request = command(&json!({ "pattern": pattern, "name": name, "action": action }));
        send(&router, request)
    };
    for (action, state) in [
        ("force_open", CircuitState::ForcedOpen),
        ("disable", CircuitState::Disabled),
        ("metrics_only", CircuitState::MetricsOnly),
        ("force_close", CircuitState::Closed),
        ("force_open", CircuitState::ForcedOpen),
        ("reset", CircuitState::Closed),
    ] {
        let (status, said) = run("circuit_breaker", "api", json!(action)).await;
        assert_eq!(status, StatusCode::OK, "{action}: {said}");
        assert_eq!(breaker.state(), state, "{action}");
    }
    run("resource_lock", "db", json!({ "capacity": 7 })).await;
    assert_eq!(lock.snapshot().capacity, 7);
    run("rate_limit", "search", json!("reset")).await;
    assert_eq!(limit.snapshot().quotas[0].available, 10);
    run("chaos", "drill", json!({ "arm": 60 })).await;
    assert!(chaos.is_armed());
    run("chaos", "drill", json!("disarm")).await;
    assert!(!chaos.is_armed());
    let (_, said) = run(
        "circuit_breaker",
        "api",
        json!({ "config": { "recovery": "5s" } }),
    )
    .await;
    assert!(said.contains("recovery"), "{said}");
    assert_eq!(breaker.config().recovery.longest(), Duration::from_secs(5));
    assert_eq!(
        breaker.config().consecutive_failures,
        Some(5),
        "what is not named stays"
    );
    run("retry", "calls", json!({ "config": { "max_retries": 9 } })).await;
    assert_eq!(retry.config().max_retries(), 9);

    for (pattern, name, action, status, why) in [
        (
            "circuit_breaker",
            "nobody",
            json!("reset"),
            404,
            "nothing of that kind and name",
        ),
        (
            "breaker",
            "api",
            json!("reset"),
            404,
            "nothing of that kind and name",
        ),
        (
            "circuit_breaker",
            "api",
            json!({ "capacity": 3 }),
            422,
            "cannot be done",
        ),
        (
            "resource_lock",
            "db",
            json!({ "capacity": 0 }),
            422,
            "give at least 1",
        ),
        (
            "resource_lock",
            "db",
            json!({ "capacity": -1 }),
            400,
            "no command",
        ),
        (
            "circuit_breaker",
            "api",
            json!("explode"),
            400,
            "no command",
        ),
        (
            "circuit_breaker",
            "api",
            json!({ "config": { "max_probs": 1 } }),
            422,
            "unknown field",
        ),
        (
            "circuit_breaker",
            "api",
            json!({ "config": { "max_probes": 0 } }),
            422,
            "`max_probes` cannot be 0",
        ),
        (
            "circuit_breaker",
            "api",
            json!({ "config": 3 }),
            422,
            "object of settings",
        ),
        (
            "chaos",
            "drill",
            json!({ "arm": 1_000_000 }),
            422,
            "1 to 3600",
        ),
    ] {
        let (answered, said) = run(pattern, name, action).await;
        assert_eq!(
            (answered.as_u16(), said.contains(why)),
            (status, true),
            "{said}"
        );
    }
    let huge = command(&json!({ "pattern": "x".repeat(70_000), "name": "", "action": "reset" }));
    assert_eq!(send(&router, huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn the_hook_is_told_what_is_commanded_and_sees_what_layers_have_put_there() {
    let registry = Registry::new();
    let _ = (
        registry.circuit_breaker("api"),
        registry.circuit_breaker("payments"),
    );
    let dashboard = Dashboard::builder(&registry).commands(|request, command| {
        let Some(user) = request.extensions.get::<String>() else {
            return Err(Denied::new("not logged in"));
        };
        match (&*command.name, &command.action) {
            ("payments", Action::ForceOpen) => Err(Denied::new("not that one")),
            _ => Ok(Operator::new(user.as_str())),
        }
    });
    let router = dashboard
        .build()
        .router()
        .layer(axum::Extension("ada".to_owned()));
    assert_eq!(
        send(&router, command(&force_open())).await.0,
        StatusCode::OK
    );
    let other = json!({ "pattern": "circuit_breaker", "name": "payments", "action": "force_open" });
    let (status, said) = send(&router, command(&other)).await;
    assert_eq!(
        (status, said.contains("not that one")),
        (StatusCode::FORBIDDEN, true)
    );
    // A command is data for tools too.
    let read: Command = serde_json::from_value(other).unwrap();
    assert_eq!(read.action, Action::ForceOpen);
}

#[tokio::test(start_paused = true)]
async fn events_come_once_an_interval_and_a_reader_that_takes_nothing_skips_states() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("api");
    let response = get(&page(&registry), "/api/events").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut next = async || {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let text = String::from_utf8(frame.to_vec()).unwrap();
        let data = text.split("data: ").nth(1).unwrap().trim_end();
        assert!(!data.contains('\n'));
        serde_json::from_str::<Value>(data).unwrap()
    };
    let began = tokio::time::Instant::now();
    assert_eq!(
        next().await["circuit_breakers"]["rows"][0]["state"],
        "closed"
    );
    assert_eq!(began.elapsed(), Duration::ZERO, "the first comes at once");
    next().await;
    assert_eq!(began.elapsed().as_millis() / 10, 100);
    // A hundred changes in a quarter of an hour, and nobody reads.
    for _ in 0..50 {
        breaker.force_open();
        breaker.force_close();
    }
    breaker.force_open();
    tokio::time::advance(Duration::from_secs(900)).await;
    assert_eq!(
        next().await["circuit_breakers"]["rows"][0]["state"],
        "forced_open"
    );
    let before = tokio::time::Instant::now();
    next().await;
    assert_eq!(
        before.elapsed().as_millis() / 10,
        100,
        "nothing was saved up"
    );
}

#[tokio::test(start_paused = true)]
async fn readers_share_one_look_and_those_beyond_the_bound_come_again_later() {
    let registry = Registry::new();
    let _ = registry.circuit_breaker("api");
    let router = Dashboard::builder(&registry)
        .most_readers(2)
        .build()
        .router();
    let first = get(&router, "/api/events").await;
    let second = get(&router, "/api/events").await;
    let third = get(&router, "/api/events").await;
    assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(third.headers()["retry-after"], "5");
    drop((first, third));
    assert_eq!(get(&router, "/api/events").await.status(), StatusCode::OK);
    drop(second);
    let one = text(get(&router, "/api/snapshot").await).await;
    registry.circuit_breaker("api").force_open();
    let same = text(get(&router, "/api/snapshot").await).await;
    assert_eq!(one, same, "within an interval it is looked at once");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_ne!(text(get(&router, "/api/snapshot").await).await, one);
}

#[tokio::test]
async fn names_are_data_whatever_they_are() {
    let registry = Registry::new();
    let names = [
        "<script>alert(1)</script>",
        "a\nb\r\nc",
        "\"'`&",
        "\u{202e}evil",
        "ünïcødé ✓",
        "",
    ];
    for name in names {
        registry.circuit_breaker(name).force_open();
    }
    let router = page(&registry);
    let raw = text(get(&router, "/api/snapshot").await).await;
    assert!(!raw.contains('\n'), "an event is a line");
    let state: Value = serde_json::from_str(&raw).unwrap();
    let shown = state["circuit_breakers"]["rows"].as_array().unwrap();
    for name in names {
        assert!(shown.iter().any(|row| row["name"] == name), "{name:?}");
    }
}

#[tokio::test]
async fn of_many_handles_the_worst_are_shown_and_the_others_counted() {
    let registry = Registry::new();
    for n in 0..1_000 {
        let _ = registry.circuit_breaker(format!("b{n:04}"));
    }
    registry.circuit_breaker("b0500").force_open();
    let state = state(&page(&registry)).await;
    let shown = state["circuit_breakers"]["rows"].as_array().unwrap();
    assert_eq!(
        (shown.len(), &state["circuit_breakers"]["more"]),
        (50, &json!(950))
    );
    assert_eq!(shown[0]["name"], "b0500");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_keys_are_looked_through_beside_and_the_worst_are_shown() {
    const KEYS: u64 = 1_000_000;
    let hosts = Keyed::new("hosts", 1_000_000, |_: &u64| {
        RateLimit::new("host", Quota::per_minute(100)).unwrap()
    })
    .unwrap();
    for key in 0..KEYS {
        let limit = hosts.get(&key).unwrap();
        if key == 777_777 {
            limit.pause(Duration::from_secs(60));
        }
    }
    let registry = Registry::new();
    let router = Dashboard::builder(&registry)
        .every(Duration::from_millis(100))
        .keyed("hosts", &hosts)
        .build()
        .router();
    // The first look does not wait for it.
    assert_eq!(state(&router).await["groups"], json!([]));
    let seen = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(150));
        loop {
            ticks.tick().await;
            let state = state(&router).await;
            if state["groups"][0].is_object() {
                return state["groups"][0].clone();
            }
        }
    };
    let group = tokio::time::timeout(Duration::from_secs(120), seen)
        .await
        .unwrap();
    assert_eq!(group["keys"], KEYS);
    assert_eq!(group["rows"][0]["key"], "777777");
    assert_eq!(group["rows"].as_array().unwrap().len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_go_on_while_a_reader_on_a_real_connection_takes_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let registry = Registry::new();
    let breaker = registry.circuit_breaker("api");
    let router = Dashboard::builder(&registry)
        .every(Duration::from_millis(100))
        .build()
        .router();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let mut reader = tokio::net::TcpStream::connect(address).await.unwrap();
    let ask = b"GET /api/events HTTP/1.1\r\nhost: a\r\n\r\n";
    reader.write_all(ask).await.unwrap();
    let mut head = [0; 15];
    reader.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    // From here on it takes nothing.
    let calls = Arc::new(AtomicU64::new(0));
    for _ in 0..100_000 {
        breaker.force_open();
        assert!(breaker.try_acquire().is_err());
        breaker.force_close();
        breaker.try_acquire().unwrap().success();
        calls.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 100_000);
    server.abort();
}
