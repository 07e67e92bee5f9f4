//! Situations around reqwest and hyper clients over real connections.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Then, ok, quick, scripted};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::http::{HttpClassify, ResilientClient};
use tower_bulwark::{CircuitBreaker, Error, ResourceLock, RetrySafety, StopReason, Verdict};

fn http() -> reqwest::Client {
    crate::common::reqwest_builder()
        .retry(reqwest::retry::never())
        .read_timeout(Duration::from_millis(150))
        .build()
        .unwrap()
}

fn resilient(classify: HttpClassify) -> (ResilientClient, CircuitBreaker) {
    let breaker = CircuitBreaker::new("api");
    let lock = ResourceLock::builder("slots")
        .max_concurrent(8)
        .build()
        .unwrap();
    let retry = quick().build().unwrap();
    let client = ResilientClient::builder("api", http())
        .retry(retry)
        .circuit_breaker(breaker.clone())
        .lock(lock)
        .classify(classify);
    (client.build().unwrap(), breaker)
}

/// A reqwest call that ends with its whole body, as a service: so that a retry around it covers the body too.
async fn fetch(
    client: reqwest::Client,
    request: http::Request<String>,
) -> Result<http::Response<Bytes>, reqwest::Error> {
    let response = client.execute(reqwest::Request::try_from(request)?).await?;
    let status = response.status();
    let body = response.bytes().await?;
    let mut whole = http::Response::new(body);
    *whole.status_mut() = status;
    Ok(whole)
}

const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it";

// a download that is cut off in the middle of its body, and is whole the second time.
#[tokio::test]
async fn a_get_whose_body_was_cut_off_is_sent_again_reqwest() {
    let server = scripted(|n, _| {
        if n == 0 {
            (HALF.into(), Then::Close)
        } else {
            (ok("whole"), Then::Keep)
        }
    })
    .await;
    let client = http();
    let service = ServiceBuilder::new()
        .layer(quick().build().unwrap().http_layer())
        .service(service_fn(move |r| fetch(client.clone(), r)));
    let request = http::Request::get(&server.url).body(String::new()).unwrap();
    let answer = service.oneshot(request).await;
    assert_eq!(answer.unwrap().into_body(), "whole");
}

#[tokio::test]
async fn a_get_whose_body_was_cut_off_is_sent_again_hyper() {
    let server = scripted(|n, _| {
        if n == 0 {
            (HALF.into(), Then::Close)
        } else {
            (ok("whole"), Then::Keep)
        }
    })
    .await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let service = ServiceBuilder::new()
        .layer(quick().build().unwrap().http_layer())
        .service(service_fn(move |r: http::Request<Full<Bytes>>| {
            let client = client.clone();
            async move {
                let response = client.request(r).await.map_err(std::io::Error::other)?;
                let (parts, body) = response.into_parts();
                let body = body
                    .collect()
                    .await
                    .map_err(std::io::Error::other)?
                    .to_bytes();
                Ok::<_, std::io::Error>(http::Response::from_parts(parts, body))
            }
        }));
    let request = http::Request::get(&server.url)
        .body(Full::default())
        .unwrap();
    let answer = service.oneshot(request).await;
    assert_eq!(answer.unwrap().into_body(), "whole");
}

// GitHub's secondary limit: 403 with Retry-After is a limit, 403 without is for good.
fn limited_403(n: usize) -> (String, Then) {
    match n {
        0 => ("HTTP/1.1 403 Forbidden\r\nretry-after: 1\r\nx-ratelimit-remaining: 4312\r\ncontent-length: 0\r\n\r\n".into(), Then::Keep),
        _ => (ok("fine"), Then::Keep),
    }
}

#[tokio::test]
async fn a_403_that_says_when_is_waited_for_with_layers_of_ones_own() {
    let server = scripted(|n, _| limited_403(n)).await;
    let judge = HttpClassify::new();
    let client = http();
    let service =
        ServiceBuilder::new()
            .layer(quick().build().unwrap().http_layer().classify_with(
                move |result: Result<&http::Response<Bytes>, &reqwest::Error>| match result {
                    Ok(r) if r.status() == 403 => {
                        match tower_bulwark::http::retry_after(r.headers()) {
                            Some(wait) => Verdict::overload()
                                .retry(RetrySafety::Always)
                                .retry_after(wait),
                            None => judge.head(r.status(), r.headers()),
                        }
                    }
                    Ok(r) => judge.head(r.status(), r.headers()),
                    Err(e) => judge.error(e),
                },
            ))
            .service(service_fn(move |r: http::Request<String>| {
                let client = client.clone();
                async move {
                    let response = client.execute(reqwest::Request::try_from(r)?).await?;
                    let (status, headers) = (response.status(), response.headers().clone());
                    let mut whole = http::Response::new(response.bytes().await?);
                    *whole.status_mut() = status;
                    *whole.headers_mut() = headers;
                    Ok::<_, reqwest::Error>(whole)
                }
            }));
    let request = http::Request::get(&server.url).body(String::new()).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
}

// a streaming request body must not make the call fail just because a retry is configured.
#[tokio::test]
async fn a_streamed_upload_is_sent_once_and_not_refused() {
    let server = scripted(|n, _| match n {
        0 => (ok("done"), Then::Close),
        _ => (
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
                .into(),
            Then::Close,
        ),
    })
    .await;
    let (client, _) = resilient(HttpClassify::new());
    let upload = || {
        let chunks = futures::stream::iter([Ok::<_, std::io::Error>("a"), Ok("b")]);
        client
            .put(&server.url)
            .header("content-length", "2")
            .body(reqwest::Body::wrap_stream(chunks))
    };
    assert_eq!(upload().send().await.unwrap().status(), 200);
    let response = upload().send().await.unwrap();
    assert_eq!(
        response.status(),
        503,
        "the caller sees what the server said"
    );
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn the_ways_to_say_that_a_post_may_be_sent_again() {
    for (how, expected) in [("key", 200), ("extension", 200)] {
        let server = scripted(|n, _| match n {
            0 => (
                "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".into(),
                Then::Keep,
            ),
            _ => (ok("{}"), Then::Keep),
        })
        .await;
        let (client, _) = resilient(HttpClassify::new().sdk());
        let request = http::Request::post(&server.url);
        let request = match how {
            "key" => request.header("idempotency-key", "7f3a"),
            _ => request.extension(tower_bulwark::http::MarkedIdempotent(true)),
        };
        let request = reqwest::Request::try_from(request.body("{}").unwrap()).unwrap();
        let status = client.execute(request).await.unwrap().status();
        assert_eq!(status, expected, "{how}");
    }
}

// the server closes an idle keep-alive connection just as the next request is sent.
#[tokio::test]
async fn a_post_that_meets_a_closing_connection_is_not_doubled_and_a_get_is_sent_again() {
    for (method, want) in [
        (reqwest::Method::POST, None),
        (reqwest::Method::GET, Some(200)),
    ] {
        // The first request is answered; the second is read on the same connection, and dropped.
        let server = scripted(|n, _| match n {
            1 => (String::new(), Then::Close),
            _ => (ok("fine"), Then::Keep),
        })
        .await;
        let (client, _) = resilient(HttpClassify::new());
        client
            .get(&server.url)
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        let answer = client
            .request(method.clone(), &server.url)
            .body("x")
            .send()
            .await;
        match (want, answer) {
            (Some(status), Ok(response)) => assert_eq!(response.status(), status),
            (None, Err(Error::Exhausted(gave_up))) => {
                assert_eq!(gave_up.reason(), StopReason::NotIdempotent);
                assert_eq!(server.requests(), 2, "done twice");
            }
            (_, other) => panic!("{method}: {other:?}"),
        }
    }
}

// answers that are thrown away by a retry must not leak their connections.
#[tokio::test]
async fn connections_of_answers_that_were_retried_are_used_again_or_closed() {
    for size in [20_usize, 300_000] {
        let body = "x".repeat(size);
        let server = scripted(move |n, _| match n % 4 {
            3 => (ok("fine"), Then::Keep),
            _ => (
                format!(
                    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                ),
                Then::Keep,
            ),
        })
        .await;
        let (client, _) = resilient(HttpClassify::new());
        for _ in 0..10 {
            let response = client.get(&server.url).send().await.unwrap();
            assert_eq!(response.status(), 200);
            response.bytes().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let open = server.open.load(Ordering::SeqCst);
        assert!(open <= 2, "{open} connections are left");
    }
}

// tower's own timeout and load shed below the layers, as ServiceBuilder stacks them.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_towers_timeout_ended_is_a_timeout() {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    let service = ServiceBuilder::new()
        .layer(quick().build().unwrap().http_layer())
        .timeout(Duration::from_secs(1))
        .service(service_fn(move |_: http::Request<String>| {
            let n = seen.fetch_add(1, Ordering::SeqCst);
            async move {
                if n == 0 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::io::Error>(http::Response::new(String::from("fine")))
            }
        }));
    let answer = service
        .oneshot(http::Request::get("/").body(String::new()).unwrap())
        .await;
    assert!(answer.is_ok(), "a GET that timed out was not tried again");
}

/// One client for many hosts: the one that is down opens its own circuit.
#[tokio::test]
async fn a_client_has_a_breaker_for_each_authority() {
    let up = scripted(|_, _| (ok("fine"), Then::Keep)).await;
    let down = scripted(|_, _| {
        let failed = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
        (failed.into(), Then::Keep)
    })
    .await;
    let client = ResilientClient::builder("apis", http())
        .no_retry()
        .build()
        .unwrap();
    for _ in 0..5 {
        let answer = client.get(&down.url).send().await.unwrap();
        assert_eq!(answer.status(), 500);
        let answer = client.get(&up.url).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "fine");
    }
    let refused = client.get(&down.url).send().await.unwrap_err();
    assert!(refused.is_rejection(), "{refused}");
    let answer = client.get(&up.url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(down.requests(), 5);
    let authority = down.url.trim_start_matches("http://").trim_end_matches('/');
    let breaker = client.breaker(authority);
    assert_eq!(&*breaker.snapshot().name, format!("apis {authority}"));
    assert_eq!(breaker.snapshot().totals.rejected, 1);
}

/// Breakers of one's own, of which there are too few: hosts without room share one.
#[tokio::test]
async fn hosts_without_room_share_a_breaker() {
    let one = scripted(|_, _| (ok("fine"), Then::Keep)).await;
    let two = scripted(|_, _| (ok("fine"), Then::Keep)).await;
    let keyed = tower_bulwark::keyed::Keyed::new("hosts", 1, |host: &String| {
        CircuitBreaker::new(host.as_str())
    })
    .unwrap();
    let client = ResilientClient::builder("apis", http())
        .circuit_breakers(keyed.clone())
        .build()
        .unwrap();
    let authority = |it: &crate::common::Scripted| {
        let url = it.url.trim_start_matches("http://");
        url.trim_end_matches('/').to_owned()
    };
    let first = client.breaker(&authority(&one));
    first.force_open();
    assert!(client.get(&one.url).send().await.is_err());
    assert!(client.get(&two.url).send().await.is_ok());
    assert_eq!(
        &*client.breaker(&authority(&two)).snapshot().name,
        "apis others"
    );
    assert_eq!(keyed.len(), 1);
}

/// One `429` that says when, and nobody is sent before that.
#[tokio::test]
async fn a_client_with_a_rate_limit_takes_turns_and_pauses_for_all() {
    use tower_bulwark::rate_limit::{Quota, RateLimit};

    let server = scripted(|n, _| {
        let busy =
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0.2\r\ncontent-length: 0\r\n\r\n";
        match n {
            0 => (busy.into(), Then::Keep),
            _ => (ok("fine"), Then::Keep),
        }
    })
    .await;
    let limit = RateLimit::builder("api")
        .quota("requests", Quota::per_minute(100))
        .quota("bytes", Quota::per_minute(100))
        .build()
        .unwrap();
    let client = ResilientClient::builder("api", http())
        .no_retry()
        .rate_limit(limit.clone())
        .cost(|request| {
            let body = request.body().and_then(reqwest::Body::as_bytes);
            [1, body.map_or(0, <[u8]>::len) as u64]
        })
        .build()
        .unwrap();
    let first = client.post(&server.url).body("12345").send().await.unwrap();
    assert_eq!(first.status(), 429);
    assert!(limit.snapshot().paused_for.is_some());
    let left: Vec<u64> = limit
        .snapshot()
        .quotas
        .iter()
        .map(|it| it.available)
        .collect();
    assert_eq!(left, [99, 95]);
    let began = std::time::Instant::now();
    let others = (0..4).map(|_| client.get(&server.url).send());
    for answer in futures::future::join_all(others).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert!(began.elapsed() >= Duration::from_millis(150));
    let totals = limit.snapshot().totals;
    assert_eq!((totals.passed, totals.waited), (1, 4));
}

/// A head that comes, a body that does not: the policy's timeouts end with the head.
#[tokio::test]
async fn a_client_with_timeouts_does_not_wait_for_ever_for_a_body() {
    use tower_bulwark::Timeouts;

    let server = scripted(|_, _| {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        (head.into(), Then::Keep)
    })
    .await;
    let timeouts = Timeouts::builder("api")
        .first_frame(Duration::from_millis(50))
        .build()
        .unwrap();
    let lock = ResourceLock::new("api");
    let client = ResilientClient::builder("api", http())
        .lock(lock.clone())
        .timeouts(timeouts.clone())
        .build()
        .unwrap();
    let response = client.get(&server.url).send().await.unwrap();
    assert_eq!(lock.snapshot().in_use, 1);
    assert!(response.text().await.is_err());
    assert_eq!(timeouts.snapshot().timed_out.first_frame, 1);
    assert_eq!(lock.snapshot().in_use, 0);

    let total = Timeouts::builder("api").total(Duration::from_millis(50));
    let total = total.build().unwrap();
    let client = ResilientClient::builder("api", http())
        .timeouts(total.clone())
        .build()
        .unwrap();
    let response = client.get(&server.url).send().await.unwrap();
    assert!(response.text().await.is_err());
    assert_eq!(total.snapshot().timed_out.total, 1);

    let late = Timeouts::builder("api").total(Duration::from_secs(9));
    let late = late.head(Duration::from_secs(9)).build().unwrap();
    let refused = ResilientClient::builder("api", http()).timeouts(late);
    assert_eq!(refused.build().unwrap_err().setting(), "head");
}
