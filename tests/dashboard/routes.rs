//! Names and messages of anybody; routes and headers.

use crate::*;

// ---- Names and messages of anybody ----

const NAMES: [&str; 6] = [
    "<script>alert(1)</script>",
    "\"quoted\" 'twice'",
    "line\nbreak\r\n\ndata: {}\n\nevent: state",
    "ключ 🔑 \u{202e}gnp",
    "../../etc/passwd?a=b#c",
    "",
];

#[tokio::test(start_paused = true)]
async fn a_name_is_data_wherever_it_comes_from_and_breaks_no_frame_of_the_stream() {
    let registry = Registry::new();
    for name in NAMES {
        registry.circuit_breaker(name).force_open();
    }
    let router = router(&registry);
    let document = snapshot(&router).await;
    for name in NAMES {
        row(&document, "circuit_breaker", name);
    }
    let response = get(&router, "/api/events").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let chunk = String::from_utf8(chunk.to_vec()).unwrap();
    let frames: Vec<_> = chunk.split_terminator("\n\n").collect();
    assert_eq!(frames.len(), 3, "{chunk}");
    assert!(!chunk.contains('\r'));
    assert!(frames[0].starts_with("retry: "));
    for (frame, event) in [(frames[1], "event: state"), (frames[2], "event: events")] {
        let mut lines = frame.lines();
        assert_eq!(lines.next(), Some(event));
        let data = lines.find_map(|it| it.strip_prefix("data: ")).unwrap();
        serde_json::from_str::<Value>(data).unwrap();
    }
    let page = text(get(&router, "/").await).await;
    let empty = text(get(&self::router(&Registry::new()), "/").await).await;
    assert_eq!(page, empty, "no name is ever in the page itself");
}

#[tokio::test(start_paused = true)]
async fn a_name_of_a_megabyte_is_cut() {
    let registry = Registry::new();
    registry.circuit_breaker("é".repeat(500_000)).force_open();
    let response = text(get(&router(&registry), "/api/snapshot").await).await;
    assert!(response.len() < 20_000, "{}", response.len());
}

// ---- Routes and headers ----

#[tokio::test]
async fn it_works_at_the_root_and_nested_with_a_slash_at_the_end_and_without() {
    let registry = Registry::new();
    let own = || router(&registry);
    let nested = Router::new().nest("/ops", own());
    let nested_with_slash = Router::new().nest("/ops/", own());
    let deep = Router::new().nest("/a", Router::new().nest_service("/b%20c", own()));
    let service = Router::new().nest_service("/ops", own());
    for (router, path, base) in [
        (&own(), "/", ""),
        (&nested, "/ops", "./ops/"),
        (&nested_with_slash, "/ops/", ""),
        (&deep, "/a/b%20c", "./b%20c/"),
        (&deep, "/a/b%20c/", ""),
        (&service, "/ops", "./ops/"),
        (&service, "/ops/", ""),
    ] {
        let response = get(router, path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let page = text(response).await;
        assert!(
            page.contains(&format!("src=\"{base}app.js\"")),
            "{path}: {page}"
        );
        let folder = match path.rsplit_once('/').unwrap() {
            (_, "") => path.to_owned(),
            _ => format!("{path}/"),
        };
        for file in ["app.js", "style.css", "api/snapshot"] {
            let response = get(router, &format!("{folder}{file}")).await;
            assert_eq!(response.status(), StatusCode::OK, "{folder}{file}");
        }
        let other = get(router, &format!("{folder}nothing")).await;
        assert_eq!(other.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn every_response_forbids_what_is_not_of_this_page() {
    let registry = Registry::new();
    let dashboard = with_commands(Dashboard::builder(&registry))
        .build()
        .unwrap();
    let router = dashboard.router();
    for path in [
        "/",
        "/app.js",
        "/style.css",
        "/api/snapshot",
        "/api/events",
        "/nothing",
    ] {
        let response = get(&router, path).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{path}"
        );
        assert!(!policy.contains("unsafe"), "{path}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        let cache = if path.starts_with("/api") || path == "/nothing" {
            "no-store"
        } else {
            "no-cache"
        };
        assert_eq!(header("cache-control"), cache, "{path}");
    }
    let refused = ask(&router, command(json!({})).body(Body::empty()).unwrap()).await;
    assert!(refused.headers().contains_key("content-security-policy"));
}

#[tokio::test]
async fn the_page_has_nothing_inline_and_asks_nobody_else() {
    let registry = Registry::new();
    let router = router(&registry);
    let page = text(get(&router, "/").await).await;
    let script = text(get(&router, "/app.js").await).await;
    let style = text(get(&router, "/style.css").await).await;
    assert!(
        !page.contains("<style") && !page.contains(" style=") && !page.contains(" on"),
        "{page}"
    );
    assert_eq!(page.matches("<script").count(), 1);
    for text in [&page, &script, &style] {
        let addresses = text.matches("//").count() - text.matches("// ").count();
        let own = text.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(addresses, own, "an address of somebody else");
    }
    for wrong in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
    ] {
        assert!(!script.contains(wrong), "{wrong}");
    }
    assert!(script.lines().count() <= 900);
}

#[tokio::test]
async fn settings_that_show_nothing_are_typed_errors() {
    let registry = Registry::new();
    let builder = || Dashboard::builder(&registry);
    let keyed = Keyed::new("k", 9, |_: &u8| CircuitBreaker::new("b")).unwrap();
    for (builder, setting) in [
        (builder().rows(0), "rows"),
        (builder().readers(0), "readers"),
        (builder().interval(Duration::ZERO), "interval"),
        (builder().interval(Duration::MAX), "interval"),
        (builder().keyed("g", &keyed).keyed("g", &keyed), "keyed"),
    ] {
        assert_eq!(builder.build().unwrap_err().setting(), setting);
    }
    let locks = Keyed::new("l", 9, |_: &u8| ResourceLock::new("l")).unwrap();
    builder()
        .keyed("g", &keyed)
        .keyed("g", &locks)
        .build()
        .unwrap();
}
