//! What a fleet refuses to rely on, and says so.

use std::time::Duration;

use tower_bulwark::fleet::{ConnectError, Fleet};

use super::super::support::fake::Fake;
use super::super::support::server::Server;
use super::{WITHIN, until_it_works};

async fn refusal(url: String) -> ConnectError {
    match Fleet::connect(url).await {
        Ok(fleet) => panic!("it is taken: {fleet:?}"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_password_that_is_missing_or_wrong_is_told_at_the_start_and_never_shown() {
    let Some(server) = Server::start(&["--requirepass", "right-one"]).await else {
        return;
    };
    let address = server.address();
    for url in [
        format!("redis://{address}"),
        format!("redis://:wrong-one@{address}"),
        format!("redis://nobody:wrong-one@{address}"),
    ] {
        let error = refusal(url.clone()).await;
        assert!(
            matches!(error, ConnectError::Credentials(_)),
            "{url}: {error:?}"
        );
        let text = error.to_string();
        assert!(text.contains("redis://user:password@host"), "{text}");
        assert!(!text.contains("wrong-one"), "{text}");
    }
    let builder = Fleet::builder(format!("redis://:right-one@{address}"));
    assert!(!format!("{builder:?}").contains("right-one"));
    let fleet = builder.connect().await.unwrap();
    fleet.ping(WITHIN).await.unwrap();
    assert!(!format!("{fleet:?}").contains("right-one"));
}

#[tokio::test]
async fn a_user_without_scripts_keys_channels_or_info_is_told_what_is_missing() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    // What the page and the error say.
    let all = "~shop:* &shop:* +@all -@dangerous +info";
    for (user, rules) in [
        ("scripts", format!("{all} -@scripting")),
        ("eval", format!("{all} -eval")),
        ("info", format!("{all} -info")),
        ("keys", all.replace("~shop:*", "~bank:*")),
        ("channels", all.replace("&shop:*", "resetchannels &bank:*")),
        ("subscribe", format!("{all} -subscribe")),
        ("publish", format!("{all} -publish")),
    ] {
        server
            .tell(&format!("ACL SETUSER {user} on >word {rules}"))
            .await;
        let url = format!("redis://{user}:word@{}", server.address());
        let refused = Fleet::builder(url).namespace("shop").connect().await;
        match refused {
            Err(ConnectError::Forbidden(_)) => {}
            other => panic!("{user}: {other:?}"),
        }
    }
    server
        .tell(&format!("ACL SETUSER app on >word {all}"))
        .await;
    let url = format!("redis://app:word@{}", server.address());
    let fleet = Fleet::builder(url)
        .namespace("shop")
        .connect()
        .await
        .unwrap();
    fleet.ping(WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_server_that_evicts_keys_is_refused_unless_that_is_accepted() {
    let args = ["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"];
    let Some(server) = Server::start(&args).await else {
        return;
    };
    let error = refusal(server.url()).await;
    assert_eq!(error, ConnectError::Evicts("volatile-lru".to_owned()));
    assert!(error.to_string().contains("maxmemory-policy noeviction"));

    let accepting = Fleet::builder(server.url()).allow_eviction();
    accepting
        .connect()
        .await
        .unwrap()
        .ping(WITHIN)
        .await
        .unwrap();
    server.tell("CONFIG SET maxmemory-policy noeviction").await;
    Fleet::connect(server.url()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_evicts_keys_after_a_restart_is_refused_then_and_health_says_why() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    server.tell("CONFIG SET maxmemory-policy allkeys-lru").await;
    server.tell("CLIENT KILL TYPE normal SKIPME yes").await;
    super::until("it is refused", || async {
        let why = fleet.health().why;
        why.is_some_and(|why| why.to_string().contains("allkeys-lru"))
    })
    .await;
    let error = fleet.ping(WITHIN).await.unwrap_err();
    assert!(error.to_string().contains("allkeys-lru"), "{error}");

    server.tell("CONFIG SET maxmemory-policy noeviction").await;
    until_it_works(&fleet).await;
}

#[tokio::test]
async fn a_server_whose_memory_is_full_is_no_reason_to_refuse_it() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    server.tell("CONFIG SET maxmemory 1").await;
    let full: Result<String, _> = server.ask("SET a b").await;
    assert_eq!(full.unwrap_err().code(), Some("OOM"));
    let fleet = Fleet::connect(server.url()).await.unwrap();
    fleet.ping(WITHIN).await.unwrap();
}

/// As an old server answers.
fn of_version(version: &str) -> impl Fn(&[String]) -> String {
    let info = format!("# Server\r\nredis_version:{version}\r\nrole:master\r\n");
    move |command| match command[0].as_str() {
        "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
        "INFO" => format!("${}\r\n{info}\r\n", info.len()),
        "SUBSCRIBE" => command[1..]
            .iter()
            .map(|it| format!(">3\r\n$9\r\nsubscribe\r\n${}\r\n{it}\r\n:1\r\n", it.len()))
            .collect(),
        _ => "+OK\r\n".to_owned(),
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_told_by_its_version() {
    let old = Fake::start(|command| of_version("6.0.16")(command)).await;
    let error = refusal(old.url()).await;
    assert_eq!(error, ConnectError::TooOld("Redis 6.0.16".to_owned()));
    assert!(error.to_string().contains("6.2"), "{error}");

    let older = Fake::start(|command| match command[0].as_str() {
        "HELLO" => "-ERR unknown command `HELLO`\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    });
    let error = refusal(older.await.url()).await;
    assert_eq!(error, ConnectError::TooOld(String::new()));

    // The same server with a version that will do is taken: nothing else was wrong with it.
    let new = Fake::start(|command| of_version("6.2.0")(command)).await;
    let fleet = Fleet::connect(new.url()).await.unwrap();
    assert_eq!(fleet.health().server.as_deref(), Some("Redis 6.2.0"));
}

#[tokio::test]
async fn what_is_no_server_is_an_error_in_time() {
    let nothing = Fake::start(|_| String::new()).await;
    let timeout = Duration::from_millis(200);
    let builder = Fleet::builder(nothing.url()).connect_timeout(timeout);
    let error = builder.connect().await.unwrap_err();
    assert_eq!(error, ConnectError::TimedOut(timeout));

    let web = Fake::start(|_| "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned()).await;
    let error = refusal(web.url()).await;
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");

    let closed = super::super::support::server::free_port();
    let error = refusal(format!("redis://127.0.0.1:{closed}")).await;
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");

    let error = refusal("redis://no-such-host.invalid".to_owned()).await;
    assert!(
        matches!(
            error,
            ConnectError::Unreachable(_) | ConnectError::TimedOut(_)
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_replica_is_refused() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let Some(other) = Server::start(&[]).await else {
        return;
    };
    server
        .tell(&format!("REPLICAOF 127.0.0.1 {}", other.port))
        .await;
    assert_eq!(refusal(server.url()).await, ConnectError::Replica);
}

#[test]
fn a_fleet_outside_of_a_runtime_is_an_error() {
    let refused = Fleet::builder("redis://localhost").connect_in_background();
    assert_eq!(refused.unwrap_err(), ConnectError::NoRuntime);
}

#[tokio::test]
async fn a_namespace_a_node_or_a_timeout_that_makes_no_sense_is_an_error() {
    let builder = || Fleet::builder("redis://localhost");
    for builder in [
        builder().namespace("a b"),
        builder().node("{}"),
        builder().connect_timeout(Duration::ZERO),
        builder().call_timeout(Duration::ZERO),
    ] {
        let refused = builder.connect_in_background();
        assert!(
            matches!(refused, Err(ConnectError::Settings(_))),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_server_may_be_given_all_the_time_there_is() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let builder = Fleet::builder(server.url()).connect_timeout(Duration::MAX);
    let fleet = builder.call_timeout(Duration::MAX).connect().await.unwrap();
    fleet.ping(Duration::MAX).await.unwrap();
}
