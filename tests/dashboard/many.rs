//! Many handles and keys.

use crate::*;

#[tokio::test(start_paused = true)]
async fn of_many_the_worst_are_shown_and_the_rest_is_counted() {
    let registry = Registry::new();
    for n in 0..200 {
        let _ = registry.circuit_breaker(format!("host-{n:03}"));
    }
    for n in [150, 60, 199] {
        registry
            .circuit_breaker(format!("host-{n:03}"))
            .force_open();
    }
    let dashboard = Dashboard::builder(&registry).rows(10).build().unwrap();
    let document = snapshot(&dashboard.router()).await;
    let table = table(&document, "circuit_breaker");
    assert_eq!(table["total"], 200);
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 10);
    assert!(rows[..3].iter().all(|it| it["state"] == "forced open"));
    assert_eq!(rows[3]["state"], "closed");
    assert_eq!(
        document["state"]["headline"],
        "3 problems: host-060 (forced open), host-150 (forced open), host-199 (forced open)."
    );
}

#[tokio::test]
async fn a_million_keys_are_looked_through_while_nobody_who_asks_for_a_key_waits_long() {
    const KEYS: u32 = 1_000_000;
    let keyed = Keyed::new("hosts", KEYS as usize, |n: &u32| {
        CircuitBreaker::new(format!("host-{n}"))
    })
    .unwrap();
    let (first, second) = (keyed.clone(), keyed.clone());
    let threads = [
        std::thread::spawn(move || (0..KEYS / 2).for_each(|n| drop(first.get(&n).unwrap()))),
        std::thread::spawn(move || (KEYS / 2..KEYS).for_each(|n| drop(second.get(&n).unwrap()))),
    ];
    threads.into_iter().for_each(|it| it.join().unwrap());
    keyed.get(&777_777).unwrap().force_open();
    keyed.get(&31).unwrap().force_open();

    let registry = Registry::new();
    let dashboard = Dashboard::builder(&registry)
        .rows(5)
        .keyed("per host", &keyed)
        .build()
        .unwrap();
    let router = dashboard.router();
    // The first answer does not wait for all of them.
    let first = json_of(get(&router, "/api/snapshot").await).await;
    assert_eq!(table(&first, "group-0")["total"], KEYS);

    // Somebody asks for keys all the while; the longest that one took is noted.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let asks = keyed.clone();
    let asking = std::thread::spawn(move || {
        let (mut longest, mut n) = (Duration::ZERO, 0_u32);
        while matches!(
            stopped.try_recv(),
            Err(std::sync::mpsc::TryRecvError::Empty)
        ) {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let start = now();
            let _ = asks.get_known(&(n % KEYS));
            longest = longest.max(now() - start);
        }
        longest
    });
    let seen = until("the group is looked through", || async {
        let document = json_of(get(&router, "/api/snapshot").await).await;
        let group = table(&document, "group-0").clone();
        (!group["rows"].as_array().unwrap().is_empty()).then_some(group)
    })
    .await;
    drop(stop);
    let longest = asking.join().unwrap();
    // A shard of a million keys in 64, copied by a build without optimisation on a busy machine; all of them take seconds.
    assert!(longest < SECOND, "{longest:?}");
    let rows = seen["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    let worst: Vec<_> = rows[..2]
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert!(
        worst.contains(&"777777") && worst.contains(&"31"),
        "{worst:?}"
    );
    assert!(
        seen["note"]
            .as_str()
            .unwrap()
            .starts_with("2 of 1,000,000 keys in trouble")
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a caller really waits is what is tested"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[tokio::test]
async fn a_key_that_panics_when_it_is_shown_takes_nothing_else_down() {
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Evil;
    impl std::fmt::Display for Evil {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("meant");
        }
    }
    let keyed = Keyed::new("k", 9, |_: &Evil| CircuitBreaker::new("b")).unwrap();
    keyed.get(&Evil).unwrap();
    let registry = Registry::new();
    registry.circuit_breaker("openai").force_open();
    let builder = Dashboard::builder(&registry).keyed("evil", &keyed);
    let router = with_commands(builder).build().unwrap().router();
    for _ in 0..2 {
        let document = json_of(get(&router, "/api/snapshot").await).await;
        row(&document, "circuit_breaker", "openai");
        assert_eq!(table(&document, "group-0")["note"], "looking through 1 key");
        let json =
            json!({"pattern": "circuit_breaker", "group": "evil", "name": "x", "command": "reset"});
        let (status, answer) = send(&router, json).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    }
}

#[tokio::test]
async fn a_key_of_a_group_is_shown_and_commanded_by_its_key() {
    let hosts = Keyed::new("hosts", 100, |host: &String| {
        CircuitBreaker::new(host.clone())
    })
    .unwrap();
    for host in ["a.example", "b.example"] {
        hosts.get(host).unwrap();
    }
    let registry = Registry::new();
    let _ = registry.circuit_breaker("a.example");
    let builder = Dashboard::builder(&registry).keyed("per host", &hosts);
    let router = with_commands(builder).build().unwrap().router();
    let key = |key: &str| json!({"pattern": "circuit_breaker", "group": "per host", "name": key, "command": "force_open"});
    let (status, answer) = send(&router, key("a.example")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        hosts.get("a.example").unwrap().state(),
        CircuitState::ForcedOpen
    );
    assert_eq!(
        registry.circuit_breaker("a.example").state(),
        CircuitState::Closed
    );
    let (status, _) = send(&router, key("c.example")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(hosts.len(), 2);
    let document = json_of(get(&router, "/api/snapshot").await).await;
    let group = table(&document, "group-0");
    assert_eq!(group["title"], "per host: circuit breakers");
    assert_eq!(group["rows"][0]["name"], "a.example");
    assert_eq!(group["note"], "1 of 2 keys in trouble");
    assert_eq!(
        document["state"]["headline"],
        "1 problem: a.example (per host, forced open)."
    );
    let problem = &document["state"]["problems"][0];
    assert_eq!(
        (&problem["table"], &problem["name"]),
        (&"group-0".into(), &"a.example".into())
    );
    // It is looked at again and again.
    hosts.get("b.example").unwrap().force_open();
    until("the other key is in trouble, too", || async {
        let document = json_of(get(&router, "/api/snapshot").await).await;
        (table(&document, "group-0")["note"] == "2 of 2 keys in trouble").then_some(())
    })
    .await;
}
