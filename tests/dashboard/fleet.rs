//! What it says of a fleet and of what it shares.

use crate::*;
use tower_bulwark::fleet::{Fleet, SharedBreaker};

#[tokio::test(start_paused = true)]
async fn a_shared_lock_names_holders_and_waiters_and_the_other_parts_stand_in_tables_of_their_own()
{
    let registry = Registry::new();
    let fleet = Fleet::in_process();
    registry.add_fleet(&fleet);
    let router = router(&registry);
    let breaker = CircuitBreaker::new("openai");
    let _share = fleet.share(&breaker, SharedBreaker::default()).unwrap();
    let limit = fleet.rate_limit("api").quota("calls", Quota::per_second(5));
    let limit = limit.build().unwrap();
    limit.try_acquire(1).await.unwrap();
    let gpu = fleet.lock("gpu").build().unwrap();
    let _guard = gpu.acquire("job-1").await.unwrap();
    let second = gpu.clone();
    let waiting = tokio::spawn(async move { second.acquire("job-2").await.map(drop) });
    // The fleet is asked who holds and waits once a second.
    tokio::time::sleep(3 * SECOND).await;

    let document = snapshot(&router).await;
    let words = row(&document, "fleet_lock", "gpu")["text"]
        .as_str()
        .unwrap();
    for part in ["is held by job-1 on ", "1 waits, the first is job-2 on "] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(cell(&document, "fleet_lock", "gpu", "Held here"), 1.0);
    assert_eq!(
        cell(&document, "fleet_circuit_breaker", "openai", "Fleet"),
        "closed"
    );
    assert_eq!(cell(&document, "fleet_rate_limit", "api", "Left"), "4");
    assert_eq!(cell(&document, "fleet", "bulwark", "Processes"), 1.0);
    waiting.abort();
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_a_problem_with_its_reason() {
    let registry = Registry::new();
    // Nobody listens there: the port has just been free.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", free.local_addr().unwrap());
    drop(free);
    let fleet = Fleet::builder(url).namespace("checkout");
    let fleet = fleet.connect_in_background().unwrap();
    registry.add_fleet(&fleet);
    let gpu = fleet.lock("gpu").build().unwrap();
    let dashboard = Dashboard::builder(&registry).interval(Duration::from_millis(10));
    let router = dashboard.build().unwrap().router();
    let problems = until("both problems are told", || async {
        let _ = gpu.try_acquire("job-1").await;
        let document = json_of(get(&router, "/api/snapshot").await).await;
        let problems = document["state"]["problems"].as_array().unwrap().clone();
        (problems.len() == 2).then_some(problems)
    })
    .await;
    let sentences: Vec<_> = problems
        .iter()
        .map(|it| it["sentence"].as_str().unwrap())
        .collect();
    let all = sentences.join("\n");
    assert!(
        all.contains("checkout has had no connection to the shared store for "),
        "{all}"
    );
    assert!(all.contains("gpu has admitted nobody for "), "{all}");
}

#[tokio::test(start_paused = true)]
async fn two_handles_of_one_name_are_two_rows_and_neither_takes_commands() {
    let registry = Registry::new();
    let fleet = Fleet::in_process();
    registry.add_fleet(&fleet);
    let (_a, _b) = (
        fleet.lock("gpu").build().unwrap(),
        fleet.lock("gpu").build().unwrap(),
    );
    let router = with_commands(Dashboard::builder(&registry))
        .build()
        .unwrap()
        .router();
    let document = snapshot(&router).await;
    row(&document, "fleet_lock", "gpu");
    row(&document, "fleet_lock", "gpu (2)");
    let reset = json!({"pattern": "fleet_lock", "name": "gpu", "command": "reset"});
    let (status, answer) = send(&router, reset).await;
    assert_eq!(answer["error"]["code"], "not_applicable", "{status}");
}
