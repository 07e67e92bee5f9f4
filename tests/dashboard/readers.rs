//! Streams, and readers that are slow, late or too many.

use crate::*;

/// The next piece of a stream, and which events are in it.
async fn next(body: &mut Body) -> Option<String> {
    let frame = body.frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

fn data<'a>(chunk: &'a str, event: &str) -> Option<&'a str> {
    let frame = chunk
        .split("\n\n")
        .find(|it| it.starts_with(&format!("event: {event}\n")))?;
    frame.lines().find_map(|it| it.strip_prefix("data: "))
}

fn parsed(chunk: &str, event: &str) -> Value {
    let data = data(chunk, event).unwrap_or_else(|| panic!("no {event}: {chunk}"));
    serde_json::from_str(data).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_each_event_once_and_goes_on_where_it_broke_off() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    breaker.force_open();
    let router = router(&registry);
    let mut body = get(&router, "/api/events").await.into_body();
    let first = next(&mut body).await.unwrap();
    assert_eq!(
        parsed(&first, "events")["entries"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let second = next(&mut body).await.unwrap();
    assert!(data(&second, "events").is_none(), "{second}");
    assert_eq!(parsed(&second, "state")["sequence"], 2);
    breaker.reset();
    let third = next(&mut body).await.unwrap();
    let kinds = parsed(&third, "events");
    assert_eq!(kinds["entries"].as_array().unwrap().len(), 2, "{kinds}");
    let id = third
        .lines()
        .find_map(|it| it.strip_prefix("id: "))
        .unwrap()
        .to_owned();
    drop(body);

    breaker.force_open();
    tokio::time::advance(SECOND).await;
    let again = |id: String| {
        let request = Request::get("/api/events").header("last-event-id", id);
        ask(&router, request.body(Body::empty()).unwrap())
    };
    let chunk = next(&mut again(id.clone()).await.into_body())
        .await
        .unwrap();
    let events = parsed(&chunk, "events");
    assert_eq!(
        events["entries"].as_array().map(Vec::len),
        Some(1),
        "{events}"
    );
    // The id of another process, or nonsense: from the beginning.
    let position = id.split_once('-').unwrap().1.to_owned();
    for strange in [
        format!("0000000000000000-{position}"),
        "x".into(),
        String::new(),
    ] {
        let chunk = next(&mut again(strange).await.into_body()).await.unwrap();
        assert_eq!(
            parsed(&chunk, "events")["entries"]
                .as_array()
                .unwrap()
                .len(),
            4
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_late_gets_the_latest_state_and_the_number_of_events_that_it_missed() {
    let registry = Registry::new();
    let retry = RetryPolicy::builder()
        .name("calls")
        .max_retries(0)
        .build_in(&registry)
        .unwrap();
    let router = router(&registry);
    let mut body = get(&router, "/api/events").await.into_body();
    next(&mut body).await.unwrap();
    for _ in 0..100_000 {
        let _ = retry.run(|| async { Err::<(), _>("down") }).await;
    }
    // However long it waits: one state, not all that there could have been.
    tokio::time::advance(600 * SECOND).await;
    let chunk = next(&mut body).await.unwrap();
    assert_eq!(parsed(&chunk, "state")["sequence"], 2);
    let events = parsed(&chunk, "events");
    let entries = events["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 200);
    assert_eq!(events["missed"], 100_000 - 200);
    assert_eq!(entries.last().unwrap()["position"], 100_000);
    assert!(chunk.len() < 200_000, "{}", chunk.len());
}

#[tokio::test(start_paused = true)]
async fn all_readers_together_cost_one_look_at_a_time_and_none_when_nobody_reads() {
    let registry = Registry::new();
    // A key is shown by its `Display`: counts how often it was.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Key(u8);
    static SHOWN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    impl std::fmt::Display for Key {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            SHOWN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.fmt(f)
        }
    }
    let keyed = Keyed::new("k", 9, |_: &Key| CircuitBreaker::new("b")).unwrap();
    keyed.get(&Key(1)).unwrap();
    let dashboard = Dashboard::builder(&registry)
        .keyed("g", &keyed)
        .build()
        .unwrap();
    let router = dashboard.router();
    let shown = || SHOWN.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(shown(), 0);
    let mut bodies = Vec::new();
    for _ in 0..32 {
        bodies.push(get(&router, "/api/events").await.into_body());
    }
    let mut last = Vec::new();
    for _ in 0..4 {
        last = futures::future::join_all(bodies.iter_mut().map(next)).await;
    }
    let made = last
        .iter()
        .flatten()
        .map(|it| parsed(it, "state")["sequence"].as_u64());
    assert_eq!(
        made.max(),
        Some(Some(4)),
        "32 readers, four times: four states"
    );
    assert!((1..=4).contains(&shown()), "{}", shown());
    let before = shown();
    drop(bodies);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(shown(), before);
}

#[tokio::test(start_paused = true)]
async fn readers_beyond_the_bound_are_refused_until_one_leaves_or_stalls() {
    let registry = Registry::new();
    let dashboard = Dashboard::builder(&registry).readers(2).build().unwrap();
    let router = dashboard.router();
    let mut reads = get(&router, "/api/events").await.into_body();
    let stalls = get(&router, "/api/events").await;
    let refused = get(&router, "/api/events").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "5");
    assert_eq!(json_of(refused).await["error"]["code"], "too_many_readers");
    assert_eq!(get(&router, "/api/snapshot").await.status(), StatusCode::OK);

    for _ in 0..40 {
        tokio::time::advance(SECOND).await;
        assert!(next(&mut reads).await.is_some());
    }
    let mut newcomer = get(&router, "/api/events").await;
    assert_eq!(
        newcomer.status(),
        StatusCode::OK,
        "the one that has stalled makes room"
    );
    assert!(next(newcomer.body_mut()).await.is_some());
    assert!(next(&mut stalls.into_body()).await.is_none());
    assert!(next(&mut reads).await.is_some());
    assert_eq!(
        get(&router, "/api/events").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    drop(reads);
    assert_eq!(get(&router, "/api/events").await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_closed_dashboard_ends_its_streams() {
    let registry = Registry::new();
    // It does not wait for the next state.
    let builder = Dashboard::builder(&registry).interval(60 * SECOND);
    let dashboard = builder.build().unwrap();
    let router = dashboard.router();
    let mut body = get(&router, "/api/events").await.into_body();
    assert!(next(&mut body).await.is_some());
    let ends = tokio::spawn(async move { next(&mut body).await });
    tokio::task::yield_now().await;
    dashboard.close();
    let ended = tokio::time::timeout(SECOND, ends).await;
    assert_eq!(ended.expect("not at once").unwrap(), None);
    let later = get(&router, "/api/events").await.into_body();
    assert!(later.collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn a_graceful_shutdown_is_over_once_the_dashboard_is_closed() {
    let registry = Registry::new();
    let dashboard = Dashboard::builder(&registry).build().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().nest("/ops", dashboard.router());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let stopped = async move { stopped.await.unwrap_or_default() };
        axum::serve(listener, app)
            .with_graceful_shutdown(stopped)
            .await
    });
    let client = reqwest_client();
    let mut stream = client
        .get(format!("http://{address}/ops/api/events"))
        .send()
        .await
        .unwrap();
    assert!(stream.chunk().await.unwrap().is_some());
    stop.send(()).unwrap();
    dashboard.close();
    while stream.chunk().await.unwrap().is_some() {}
    let over = tokio::time::timeout(30 * SECOND, server).await;
    over.expect("the shutdown waits for a reader")
        .unwrap()
        .unwrap();
}

fn reqwest_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .unwrap()
}
