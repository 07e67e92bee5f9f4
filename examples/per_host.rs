//! One client, many hosts: the host that is down has a circuit of its own, and so has each of the others.
//!
//! ```sh
//! cargo run --example per_host
//! ```

mod support;

use reqwest::{Request, Response};
use support::chat::ChatRequest;
use support::fake_llm::FakeLlm;
use support::scenario::{Scenario, Trouble};
use tower::{ServiceBuilder, ServiceExt};
use tower_bulwark::keyed::{Keyed, PerKeyLayer};
use tower_bulwark::{BoxError, CircuitBreaker, CircuitState, Error, ResourceLock};

/// Which host a request goes to.
fn host(request: &Request) -> String {
    let url = request.url();
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let http = support::http_client()?;
    let broken = Scenario::healthy(1).fault(0..99, 1..=99, 1.0, Trouble::Status(500));
    let servers = [
        FakeLlm::start(Scenario::healthy(2)).await?,
        FakeLlm::start(broken).await?,
        FakeLlm::start(Scenario::healthy(3)).await?,
    ];
    // The breakers are kept where they can be looked at; the locks live with the layers of their host.
    let breakers = Keyed::new("hosts", 1_000, |host: &String| {
        CircuitBreaker::new(host.as_str())
    })?;
    let known = breakers.clone();
    let per_host = PerKeyLayer::new(1_000, host, move |host: &String| {
        let breaker = known
            .get(host)
            .unwrap_or_else(|_| CircuitBreaker::new("others"));
        let failed = |response: &Response| response.status().is_server_error();
        (
            breaker.layer().response_failure_if(failed),
            ResourceLock::new(host.as_str()).layer(),
        )
    });
    let service = ServiceBuilder::new().layer(per_host).service(http.clone());

    let mut refused = 0;
    for prompt in 0..12 {
        for server in &servers {
            let request = http
                .post(server.base_url() + "/chat/completions")
                .header("x-client-request-id", format!("prompt-{prompt}"))
                .json(&ChatRequest::ask("fake-1", "Why?"))
                .build()?;
            match service.clone().oneshot(request).await {
                Ok(_) => {}
                Err(Error::CircuitOpen(_)) => refused += 1,
                Err(other) => return Err(other.into()),
            }
        }
    }
    // What is wrong comes first.
    for (host, breaker) in breakers.snapshot(10) {
        println!(
            "{host}: {}, {} good, {} failed, {} refused",
            breaker.state,
            breaker.totals.successes,
            breaker.totals.failures,
            breaker.totals.rejected
        );
    }
    let worst = &breakers.snapshot(1)[0].1;
    assert_eq!(
        (worst.state, worst.totals.failures),
        (CircuitState::Open, 5)
    );
    assert_eq!(refused, 12 - 5);
    let [good, bad, other] = servers;
    for server in [good, other] {
        assert_eq!(server.shutdown().await.answered, 12);
    }
    println!(
        "the broken host was asked {} times",
        bad.shutdown().await.requests
    );
    Ok(())
}
