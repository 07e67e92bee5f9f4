//! The code of the README, line for line: it compiles, and what can run runs.

/// The first stack, and the same without tower.
mod patterns {
    #[rustfmt::skip]
    #[tokio::test(start_paused = true)]
    async fn a_stack_of_three() {
        use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
        use tower_bulwark::{CircuitBreaker, Error, ResourceLock, RetryPolicy};

        let client = service_fn(|prompt: &'static str| async move { Ok::<_, std::io::Error>(prompt.len()) });

        let mut service = ServiceBuilder::new()
            .layer(RetryPolicy::new().layer().retry_if(|e: &std::io::Error| e.kind() != std::io::ErrorKind::InvalidInput))
            .layer(CircuitBreaker::new("openai").layer())
            .layer(ResourceLock::new("openai-slot").layer())
            .service(client);

        match service.ready().await.unwrap().call("hello").await {
            Ok(length) => assert_eq!(length, 5),
            Err(Error::CircuitOpen(open)) => println!("come back in {:?}", open.retry_after()),
            Err(error) => println!("{error}"),
        }
    }

    #[rustfmt::skip]
    #[tokio::test(start_paused = true)]
    async fn in_one_call() -> Result<(), Box<dyn std::error::Error>> {
        use tower::{ServiceBuilder, ServiceExt, service_fn};
        let client = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) });

        use tower_bulwark::rate_limit::Quota;
        use tower_bulwark::{Part, Stack};

        let stack = Stack::http("api") // or `llm`, `grpc`, `hedged`
            .quota("requests", Quota::per_second(10))
            .retry(|it| it.max_retries(2))
            .without(Part::Lock)
            .build()?;
        let service = ServiceBuilder::new().layer(stack.layer()).service(client);
        println!("{}", stack.explain());

        assert_eq!(service.oneshot(7).await?, 7);
        Ok(())
    }

    #[rustfmt::skip]
    #[tokio::test(start_paused = true)]
    async fn without_tower() -> Result<(), tower_bulwark::Error<std::io::Error>> {
        use tower_bulwark::{CircuitBreaker, ResourceLock, RetryPolicy};
        async fn ask() -> Result<String, std::io::Error> {
            Ok("42".into())
        }

        let (retry, breaker, lock) = (RetryPolicy::new(), CircuitBreaker::new("openai"), ResourceLock::new("gpu"));
        let answer = retry.run(|| breaker.call(|| lock.run("job-7", ask))).await?;

        assert_eq!(answer, "42");
        Ok(())
    }
}

#[cfg(feature = "reqwest")]
#[allow(dead_code)]
#[rustfmt::skip]
async fn reqwest_client() -> Result<(), Box<dyn std::error::Error>> {
    use tower_bulwark::http::ResilientClient;

    let http = reqwest::Client::builder().retry(reqwest::retry::never()).build()?;
    let client = ResilientClient::builder("openai", http).build()?; // a breaker for each host; each part replaceable
    let ask = client.post("http://localhost:8080/").body("why?").idempotency_key("f3b1");
    let answer = ask.send().await?.error_for_status()?.text().await?;

    drop(answer);
    Ok(())
}

#[cfg(feature = "redis")]
#[allow(dead_code)]
#[rustfmt::skip]
async fn a_fleet() -> Result<(), Box<dyn std::error::Error>> {
    use tower::{ServiceExt, service_fn};
    let client = service_fn(|prompt: &'static str| async move { Ok::<_, std::io::Error>(prompt.len()) });

    use std::time::Duration;
    use tower::ServiceBuilder;
    use tower_bulwark::{CircuitBreaker, fleet::{Fleet, SharedBreaker}, rate_limit::Quota};

    let fleet = Fleet::connect("redis://redis.internal:6379").await?;
    let breaker = CircuitBreaker::new("openai");
    let share = fleet.share(&breaker, SharedBreaker::default())?; // it is shared for as long as this is kept; calls cost the same
    let gpu = fleet.lock("gpu").max_concurrent(8).lease(Duration::from_secs(10)).build()?;
    let limit = fleet.rate_limit("openai").quota("requests", Quota::per_minute(500)).build()?;

    let service = ServiceBuilder::new()
        .layer(breaker.layer())
        .layer(limit.layer())
        .layer(gpu.layer())
        .service(client);

    let answer = service.oneshot("hello").await?;
    drop((share, answer));
    Ok(())
}

#[cfg(feature = "hyper")]
#[test]
#[rustfmt::skip]
fn hyper_client() {
    use bytes::Bytes;
    use http_body_util::Full;
    use tower::ServiceBuilder;

    use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    use tower_bulwark::{CircuitBreaker, ResourceLock, RetryPolicy};
    use tower_bulwark::http::ReplayBody;

    let service = ServiceBuilder::new()
        .layer(RetryPolicy::new().http_layer().replaying())
        .layer(CircuitBreaker::new("api").http_layer().until_body_end())
        .layer(ResourceLock::new("api-slot").layer().until_body_end())
        .service(Client::builder(TokioExecutor::new()).build_http::<ReplayBody<Full<Bytes>>>());

    fn is_service<S: tower::Service<http::Request<Full<Bytes>>>>(_: S) {}
    is_service(service);
}

#[cfg(feature = "tonic")]
#[allow(dead_code)]
#[rustfmt::skip]
async fn tonic_client(json: &str) -> Result<(), Box<dyn std::error::Error>> {
    use tower_bulwark::{CircuitBreaker, ResourceLock, grpc};

    let channel = tonic::transport::Channel::from_static("http://[::1]:50051").connect().await?;
    let (breaker, slots) = (CircuitBreaker::new("model"), ResourceLock::new("model-slots"));
    let channel = grpc::Resilient::new(channel).service_config(json)?.breaker(&breaker).lock(&slots);
    // let client = CompletionsClient::new(channel);

    fn is_channel<S: tower::Service<http::Request<tonic::body::Body>, Error = tonic::Status>>(_: S) {}
    is_channel(channel);
    Ok(())
}

#[cfg(feature = "http")]
#[test]
#[rustfmt::skip]
fn axum_server() {
    use axum::{Router, routing::get};
    use tower::ServiceBuilder;

    use tower_bulwark::{CircuitBreaker, ResourceLock, http::problem};

    let (breaker, gpu) = (CircuitBreaker::new("render"), ResourceLock::new("gpu"));
    let guard = ServiceBuilder::new()
        .layer(breaker.http_layer().reject_with(problem).until_body_end())
        .layer(gpu.layer().reject_with(problem).until_body_end());
    let router: Router = Router::new().route("/render", get(|| async { "done" })).layer(guard);

    drop(router);
}

#[cfg(feature = "dashboard")]
#[test]
#[rustfmt::skip]
fn a_page() -> Result<(), tower_bulwark::ConfigError> {
    use axum::Router;

    use tower_bulwark::{Registry, dashboard::Dashboard};

    let dashboard = Dashboard::builder(Registry::global()).title("checkout").build()?;
    let app: Router = Router::new().nest_service("/ops", dashboard.router());

    drop(app);
    Ok(())
}

#[cfg(feature = "metrics")]
#[test]
#[rustfmt::skip]
fn metrics_of_a_registry() {
    use tower_bulwark::{Registry, observe::Metrics};

    let metrics = Metrics::of(Registry::global()); // once
    metrics.record(); // before each scrape
}

#[cfg(feature = "config")]
#[allow(dead_code)]
#[rustfmt::skip]
fn a_file() -> Result<(), Box<dyn std::error::Error>> {
    use tower_bulwark::{Registry, config::Config};

    let config = Config::from_file("bulwark.toml")?;
    let stack = config.stack("openai")?.build_in(Registry::global())?;
    let watcher = Registry::global().watch_config("bulwark.toml")?; // until it is dropped

    drop((stack, watcher));
    Ok(())
}

#[cfg(feature = "config")]
#[test]
fn every_toml_block_of_the_readme_is_a_config_that_works() {
    let mut blocks = 0;
    for block in include_str!("../README.md").split("```toml\n").skip(1) {
        let (text, _) = block.split_once("```").expect("a block ends");
        let config = tower_bulwark::config::Config::from_toml(text);
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        for name in config.stacks().keys() {
            config.stack(name).unwrap().build().unwrap();
        }
        blocks += 1;
    }
    assert!(blocks > 0);
}

fn lines(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn every_rust_block_of_the_readme_stands_in_this_file_line_for_line() {
    let here = lines(include_str!("readme.rs"));
    let mut blocks = 0;
    for block in include_str!("../README.md").split("```rust\n").skip(1) {
        let (code, _) = block.split_once("```").expect("a block ends");
        let code = lines(code);
        let found = here.windows(code.len()).any(|window| window == code);
        assert!(found, "not in tests/readme.rs:\n{}", code.join("\n"));
        blocks += 1;
    }
    assert!(blocks > 0);
}

#[test]
fn no_line_of_the_readme_is_meant_for_a_doc_test_only() {
    let mut in_code = false;
    for line in include_str!("../README.md").lines() {
        if line.starts_with("```") {
            in_code = line.starts_with("```rust") && !in_code;
        }
        assert!(!(in_code && line.starts_with("# ")), "{line}");
    }
}
