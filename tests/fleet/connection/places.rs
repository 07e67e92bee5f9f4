//! Where a server may be: away for now, in a cluster, behind sentinels, behind TLS, or nowhere.

use std::time::Duration;

use tower_bulwark::fleet::{ConnectError, Fleet, StoreError};

use super::super::support::server::Server;
use super::super::support::until;
use super::{WITHIN, until_it_works};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_starts_while_the_server_is_away_and_connects_when_it_comes() {
    let Some(mut server) = Server::start(&[]).await else {
        return;
    };
    server.kill();
    let fleet = Fleet::builder(server.url())
        .connect_in_background()
        .unwrap();
    let error = fleet.ping(Duration::from_secs(10)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    server.restart().await;
    until_it_works(&fleet).await;
    until("messages come", || async {
        fleet.ping(WITHIN).await.unwrap();
        fleet.health().messages > 0
    })
    .await;
    assert_eq!(fleet.health().connections, 1);
}

#[tokio::test]
async fn a_fleet_in_one_process_needs_no_server_and_no_runtime_of_its_own() {
    let fleet = Fleet::in_process();
    let health = fleet.health();
    assert!(health.connected && health.inbox_connected && health.server.is_none());
    fleet.ping(Duration::ZERO).await.unwrap();
    assert_ne!(fleet.node(), Fleet::in_process().node());
}

/// Two primaries with half of the slots each.
async fn cluster() -> Option<(Server, Server)> {
    let args = ["--cluster-enabled", "yes"];
    let (a, b) = (Server::start(&args).await?, Server::start(&args).await?);
    // Servers of 6.2 know no ranges.
    for (server, mut slots) in [(&a, 0..8192), (&b, 8192..16384)] {
        let slots: Vec<_> = slots.by_ref().map(|slot| slot.to_string()).collect();
        server
            .tell(&format!("CLUSTER ADDSLOTS {}", slots.join(" ")))
            .await;
    }
    a.tell(&format!("CLUSTER MEET 127.0.0.1 {}", b.port)).await;
    for server in [&a, &b] {
        until("the cluster is whole", || async {
            let info: String = server.ask("CLUSTER INFO").await.unwrap();
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
        })
        .await;
    }
    Some((a, b))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_found_from_one_node_and_its_keys_are_on_all_of_them() {
    let Some((a, b)) = cluster().await else {
        return;
    };
    let url = format!("redis-cluster://127.0.0.1:1,{}", b.address());
    let mut fleets = Vec::new();
    // The key of a ping is named after the node, so some are on the one and some on the other.
    for _ in 0..16 {
        let fleet = Fleet::connect(url.clone()).await.unwrap();
        fleet.ping(Duration::from_secs(1)).await.unwrap();
        fleets.push(fleet);
    }
    for server in [&a, &b] {
        let stats: String = server.ask("INFO commandstats").await.unwrap();
        assert!(stats.contains("cmdstat_evalsha"), "{stats}");
    }
    // Messages are published on one node and heard on another.
    for fleet in &fleets {
        until("its message comes", || async {
            fleet.health().messages >= 1
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_cluster_that_evicts_or_is_taken_for_a_server_is_refused() {
    let Some((a, b)) = cluster().await else {
        return;
    };
    let error = Fleet::connect(a.url()).await.unwrap_err();
    assert!(error.to_string().contains("redis-cluster://"), "{error}");

    b.tell("CONFIG SET maxmemory-policy allkeys-lru").await;
    let url = format!("redis-cluster://{}", a.address());
    let error = Fleet::connect(url).await.unwrap_err();
    assert_eq!(error, ConnectError::Evicts("allkeys-lru".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_cluster_that_is_frozen_takes_none_of_the_others_with_it() {
    let Some((a, b)) = cluster().await else {
        return;
    };
    let url = format!("redis-cluster://{},{}", a.address(), b.address());
    let mut fleets = Vec::new();
    for _ in 0..16 {
        fleets.push(Fleet::connect(url.clone()).await.unwrap());
    }
    b.freeze();
    let (mut on_a, mut on_b) = (Vec::new(), Vec::new());
    for fleet in fleets {
        match fleet.ping(WITHIN).await {
            Ok(_) => on_a.push(fleet),
            Err(_) => on_b.push(fleet),
        }
    }
    assert!(!on_a.is_empty() && !on_b.is_empty());
    let fewer = |fleets: Vec<Fleet>| fleets.into_iter().take(3).collect::<Vec<_>>();
    let (on_a, on_b) = (fewer(on_a), fewer(on_b));
    for _ in 0..10 {
        for fleet in &on_b {
            assert!(fleet.ping(WITHIN).await.is_err());
        }
        for fleet in &on_a {
            fleet.ping(Duration::from_secs(5)).await.unwrap();
        }
    }
    // Who starts now starts.
    Fleet::connect(url).await.unwrap();
    for fleet in &on_a {
        assert_eq!(fleet.health().connections, 1);
    }
    b.thaw();
    for fleet in &on_b {
        until_it_works(fleet).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_frozen_or_killed_is_used_again() {
    let Some(mut server) = Server::start(&["--cluster-enabled", "yes"]).await else {
        return;
    };
    let all: Vec<_> = (0..16384).map(|slot: u32| slot.to_string()).collect();
    let all = format!("CLUSTER ADDSLOTS {}", all.join(" "));
    server.tell(&all).await;
    let whole = || async {
        let info: String = server.ask("CLUSTER INFO").await.unwrap();
        info.contains("cluster_state:ok")
    };
    until("the cluster is whole", whole).await;
    let fleet = Fleet::connect(format!("redis-cluster://{}", server.address()))
        .await
        .unwrap();

    server.freeze();
    super::until_it_is_known_by_calls(&fleet).await;
    server.thaw();
    until_it_works(&fleet).await;

    server.kill();
    super::until_it_is_known_by_calls(&fleet).await;
    server.restart().await;
    until_it_works(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_that_the_sentinels_name_is_followed_when_it_changes() {
    let Some(mut primary) = Server::start(&[]).await else {
        return;
    };
    let replica_of = format!("127.0.0.1 {}", primary.port);
    let Some(replica) = Server::start(&[
        "--replicaof",
        &replica_of,
        "--repl-diskless-sync-delay",
        "0",
    ])
    .await
    else {
        return;
    };
    let monitor = format!("sentinel monitor main 127.0.0.1 {} 1", primary.port);
    let args = [
        "--sentinel",
        &monitor,
        "sentinel down-after-milliseconds main 500",
    ];
    let Some(sentinel) = Server::start(&args).await else {
        return;
    };
    until("the sentinel knows the replica", || async {
        let known: String = sentinel.ask("INFO sentinel").await.unwrap();
        known.contains("status=ok") && known.contains("slaves=1")
    })
    .await;

    let hosts = format!("127.0.0.1:1,{}", sentinel.address());
    let unknown = format!("redis-sentinel://{hosts}?sentinelMasterId=other");
    let error = Fleet::connect(unknown).await.unwrap_err();
    assert!(error.to_string().contains("\"other\""), "{error}");

    let url = format!("redis-sentinel://{hosts}/1?sentinelMasterId=main");
    let fleet = Fleet::connect(url).await.unwrap();
    fleet.ping(WITHIN).await.unwrap();
    primary.kill();
    super::until_it_is_known(&fleet).await;
    until_it_works(&fleet).await;
    assert!(replica.is_primary().await);
    until("messages come", || async { fleet.health().inbox_connected }).await;
}

#[cfg(feature = "redis-tls")]
mod tls {
    use std::sync::Arc;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::ServerConfig;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Ends TLS before a server. Gives its port and the certificate.
    async fn before(server: String) -> (u16, String) {
        let names = vec!["localhost".to_owned()];
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::from(key))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, server) = (acceptor.clone(), server.clone());
                tokio::spawn(async move {
                    let mut client = acceptor.accept(stream).await?;
                    let mut server = TcpStream::connect(server).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        (port, cert.pem())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tls_is_spoken_with_a_server_whose_certificate_is_trusted_and_with_no_other() {
        let Some(server) = Server::start(&[]).await else {
            return;
        };
        // Without a provider, what to call is said, and nothing panics.
        let early = Fleet::connect(format!("rediss://{}", server.address())).await;
        let early = early.unwrap_err().to_string();
        assert!(early.contains("install_default()"), "{early}");
        rustls::crypto::ring::default_provider()
            .install_default()
            .unwrap();

        let (port, root) = before(server.address()).await;
        let url = format!("rediss://localhost:{port}");
        let fleet = Fleet::builder(url.clone())
            .connect_timeout(Duration::from_secs(10))
            .root_certificates(root.clone())
            .connect();
        let fleet = fleet.await.unwrap();
        fleet.ping(Duration::from_secs(1)).await.unwrap();
        assert!(fleet.health().inbox_connected);

        let error = Fleet::connect(url).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
        let other = format!("rediss://127.0.0.1:{port}");
        let other = Fleet::builder(other)
            .root_certificates(root)
            .connect()
            .await;
        assert!(
            matches!(other, Err(ConnectError::Unreachable(_))),
            "{other:?}"
        );
        let broken = Fleet::builder("rediss://localhost").root_certificates("no certificate");
        let broken = broken.connect().await.unwrap_err();
        assert!(matches!(broken, ConnectError::Tls(_)), "{broken:?}");
    }
}
