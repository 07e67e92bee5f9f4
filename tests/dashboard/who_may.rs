//! Who may command.

use crate::*;

#[tokio::test]
async fn a_request_that_another_site_could_have_made_is_refused_case_by_case() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let dashboard = with_commands(Dashboard::builder(&registry))
        .build()
        .unwrap();
    let router = dashboard.router();
    let own = [
        ("host", "ops.example:8080"),
        ("x-bulwark-command", "1"),
        ("content-type", "application/json"),
        ("sec-fetch-site", "same-origin"),
    ];
    type Headers<'a> = Vec<(&'a str, &'a str)>;
    let without = |name: &str| {
        own.into_iter()
            .filter(|it| it.0 != name)
            .collect::<Headers<'_>>()
    };
    let with = |name: &'static str, value: &'static str| {
        let mut all = without(name);
        all.push((name, value));
        all
    };
    let by_origin = |origin: &'static str| {
        let mut all = without("sec-fetch-site");
        all.push(("origin", origin));
        all
    };
    let twice = |name: &'static str, value: &'static str| {
        let mut all: Headers<'_> = own.into();
        all.push((name, value));
        all
    };
    let refused: Vec<(&str, Headers<'_>)> = vec![
        ("no header of our own", without("x-bulwark-command")),
        ("another value of it", with("x-bulwark-command", "yes")),
        ("no type", without("content-type")),
        (
            "a form",
            with("content-type", "application/x-www-form-urlencoded"),
        ),
        (
            "plain text, as a form can send it",
            with("content-type", "text/plain"),
        ),
        ("cross site", with("sec-fetch-site", "cross-site")),
        ("a neighbour", with("sec-fetch-site", "same-site")),
        ("typed in, or a bookmark", with("sec-fetch-site", "none")),
        ("both", twice("sec-fetch-site", "cross-site")),
        ("no word of where it is from", without("sec-fetch-site")),
        ("another origin", by_origin("https://evil.example")),
        ("another port", by_origin("http://ops.example:9090")),
        (
            "an origin that begins alike",
            by_origin("http://ops.example:8080.evil.example"),
        ),
        ("a sandbox", by_origin("null")),
        ("nothing at all", vec![]),
    ];
    for (why, headers) in refused {
        let mut request = Request::post("/api/command");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = ask(&router, request.body(body(&force_open())).unwrap()).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{why}");
        let answer = json_of(response).await;
        assert_eq!(answer["error"]["code"], "not_same_origin", "{why}");
        assert_eq!(breaker.state(), CircuitState::Closed, "{why}");
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let request = Request::builder().method(method).uri("/api/command");
        let response = ask(&router, request.body(body(&force_open())).unwrap()).await;
        assert_eq!(
            response.status(),
            StatusCode::METHOD_NOT_ALLOWED,
            "{method}"
        );
        assert!(
            !response
                .headers()
                .contains_key("access-control-allow-origin")
        );
    }
    for (why, headers) in [
        ("the page", own.to_vec()),
        ("an older browser", by_origin("http://ops.example:8080")),
        (
            "a page behind a proxy that changes the host",
            twice("origin", "https://public.example"),
        ),
        (
            "with a charset",
            with("content-type", "application/json; charset=utf-8"),
        ),
    ] {
        breaker.reset();
        let mut request = Request::post("/api/command");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = ask(&router, request.body(body(&force_open())).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "{why}");
        assert_eq!(breaker.state(), CircuitState::ForcedOpen, "{why}");
    }
}

#[tokio::test]
async fn the_hook_sees_the_request_and_the_command_and_what_it_denies_is_not_done() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let dashboard = Dashboard::builder(&registry)
        .commands(|request: &Parts, command: &Command| {
            let user = request
                .headers
                .get("x-user")
                .and_then(|it| it.to_str().ok());
            match (user, &command.action) {
                (Some("root"), _) => Ok(Operator::new("root\nadmin: forged")),
                (Some(user), Action::Reset) if command.pattern == Pattern::CircuitBreaker => {
                    Ok(Operator::new(user))
                }
                (Some(_), _) => Err(Denied::because("you may only reset")),
                (None, _) => Err(Denied::because("log in first")),
            }
        })
        .build()
        .unwrap();
    let router = dashboard.router();
    let send = async |user: Option<&str>, json: Value| {
        let mut request = command(json.clone());
        if let Some(user) = user {
            request = request.header("x-user", user);
        }
        let response = ask(&router, request.body(body(&json)).unwrap()).await;
        (response.status(), json_of(response).await)
    };
    let (status, answer) = send(None, force_open()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(answer["error"]["code"], "denied");
    assert_eq!(answer["error"]["message"], "not allowed: log in first");
    let (status, _) = send(Some("bob"), force_open()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(breaker.state(), CircuitState::Closed);
    let reset = json!({"pattern": "circuit_breaker", "name": "openai", "command": "reset"});
    let (status, answer) = send(Some("bob"), reset).await;
    assert_eq!(
        (status, &answer["done"]["who"]),
        (StatusCode::OK, &"bob".into())
    );
    let (status, answer) = send(Some("root"), force_open()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        answer["done"]["who"], "root admin: forged",
        "it is one line in a log"
    );
}

#[tokio::test]
async fn the_hook_sees_what_a_layer_around_the_router_has_found_out() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let dashboard = Dashboard::builder(&registry)
        .commands(
            |request: &Parts, _: &Command| match request.extensions.get::<String>() {
                Some(user) => Ok(Operator::new(user)),
                None => Err(Denied::because("not logged in")),
            },
        )
        .build()
        .unwrap();
    let (status, _) = send(&dashboard.router(), force_open()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(breaker.state(), CircuitState::Closed);
    let router = dashboard.router().layer(axum::Extension("ada".to_owned()));
    let (status, answer) = send(&router, force_open()).await;
    assert_eq!(
        (status, &answer["done"]["who"]),
        (StatusCode::OK, &"ada".into())
    );
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
}

#[tokio::test]
async fn a_hook_may_wait_for_its_decision() {
    struct Later(tokio::sync::Mutex<u32>);
    impl Authorize for Later {
        fn authorize<'a>(&'a self, _: &'a Parts, _: &'a Command) -> Authorized<'a> {
            Box::pin(async {
                tokio::task::yield_now().await;
                let mut asked = self.0.lock().await;
                *asked += 1;
                match *asked {
                    1 => Err(Denied::because("not yet")),
                    n => Ok(Operator::new(n)),
                }
            })
        }
    }
    let registry = Registry::new();
    let _ = registry.circuit_breaker("openai");
    let dashboard = Dashboard::builder(&registry)
        .commands_by(Later(0.into()))
        .build();
    let router = dashboard.unwrap().router();
    assert_eq!(send(&router, force_open()).await.0, StatusCode::FORBIDDEN);
    let (status, answer) = send(&router, force_open()).await;
    assert_eq!(
        (status, &answer["done"]["who"]),
        (StatusCode::OK, &"2".into())
    );
}

#[tokio::test]
async fn a_command_of_more_than_64_kib_is_not_read_to_its_end() {
    let registry = Registry::new();
    let dashboard = with_commands(Dashboard::builder(&registry))
        .build()
        .unwrap();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // An endless body: whoever reads it to the end never answers.
    let endless = futures::stream::repeat_with(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, Infallible>(vec![b' '; 1_024])
    });
    let request = command(json!({})).body(Body::from_stream(endless)).unwrap();
    let response = ask(&dashboard.router(), request).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(asked.load(std::sync::atomic::Ordering::Relaxed) <= 66);
    assert!(text(response).await.contains("64 KiB"));
}
