//! A replica that is promoted: by hand, without what came last, and by a sentinel.

use std::collections::BTreeSet;

use tokio::time::sleep;

use super::super::support::proxy::Proxy;
use super::super::support::server::Server;
use super::super::support::{now, until};
use super::crew::Crew;
use super::ledger::{Belief, Ledger};
use super::processes::all_is_drained;
use super::watch::{self, Watch};
use super::{MAX, clock, goes_on, ms};

/// A replica gets its copy at once, and not after five seconds in which others might come for one too.
pub(super) const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

/// A primary, its replica, and what stands between them.
struct Pair {
    primary: Server,
    replica: Server,
    link: Proxy,
}

impl Pair {
    async fn start() -> Option<Self> {
        let primary = Server::start(&AT_ONCE).await?;
        let link = Proxy::before(primary.address()).await;
        let replica_of = format!("127.0.0.1 {}", link.port);
        let replica = Server::start(&["--replicaof", &replica_of, AT_ONCE[0], AT_ONCE[1]]).await?;
        let pair = Self {
            primary,
            replica,
            link,
        };
        pair.are_one().await;
        Some(pair)
    }

    /// That the link is up is not enough: it may not stream yet.
    async fn are_one(&self) {
        let connection = self.primary.connect().await.unwrap();
        until("a write has reached the replica", async || {
            let mut connection = connection.clone();
            let mut both = redis::pipe();
            both.cmd("SET")
                .arg("barrier")
                .arg(1)
                .arg("EX")
                .arg(60)
                .ignore();
            both.cmd("WAIT").arg(1).arg(1_000);
            let reached: (i64,) = both.query_async(&mut connection).await.unwrap();
            reached.0 == 1
        })
        .await;
    }
}

/// What the processes said, and how many leases the replica knew nothing of when it was promoted.
async fn promoted(grace: bool) -> Option<(Ledger, usize)> {
    let mut pair = Pair::start().await?;
    let proxy = Proxy::before(pair.primary.address()).await;
    let watch = Watch::over(pair.primary.url());
    let parts = if grace {
        "lock,limits,breaker,grace"
    } else {
        "lock,limits,breaker"
    };
    let crew = Crew::start(4, proxy.url(), parts, 2_000).await;
    until("leases are given", async || {
        watch.so_far().last.held.len() == MAX
    })
    .await;
    pair.are_one().await;

    pair.link.swallow_all();
    let cut = watch.so_far().last;
    // Until there are only leases that the replica knows nothing of, and both the leases and the waiters that it knows have
    // ended: it would give all slots away at once.
    let ended = cut.now + 4_100_000;
    until("leases are given that are not copied", async || {
        let last = watch.so_far().last;
        last.now > ended
            && last.held.len() == MAX
            && last
                .held
                .values()
                .all(|it| !cut.held.values().any(|old| old == it))
    })
    .await;
    pair.primary.kill();
    let killed = clock();
    let mut connection = watch::connect(&pair.replica.url()).await.unwrap();
    let known = watch::look(&mut connection).await.unwrap();
    pair.replica.tell("REPLICAOF NO ONE").await;
    watch.turn_to(pair.replica.url());
    proxy.lead_to(pair.replica.address());
    let later = |ledger: &Ledger| {
        let is_later = |it: &&Belief| it.from > killed + 1_500_000;
        ledger.beliefs().iter().filter(is_later).count()
    };
    let began = now();
    while goes_on(began, ms(3_000), || {
        later(&Ledger(crew.so_far())) > 0 && watch.so_far().polls > 300
    }) {
        sleep(ms(100)).await;
    }

    let ledger = Ledger(crew.end());
    all_is_drained(&pair.replica, grace).await;
    let seen = watch.end();
    assert!(seen.polls > 300, "{}", seen.polls);
    assert!(later(&ledger) > 0, "no leases after the promotion");
    let known: BTreeSet<u64> = known.held.values().map(|it| it.0).collect();
    let beliefs = ledger.beliefs();
    let unknown = beliefs
        .iter()
        .filter(|it| it.from <= killed && it.to >= killed && !known.contains(&it.token));
    let unknown = unknown.count();
    assert!(unknown > 0, "all was copied");
    ledger.calls_end_in_time("promoted");
    Some((ledger, unknown))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_replica_admits_at_most_as_many_too_many_as_it_knew_nothing_of() {
    let Some((ledger, unknown)) = promoted(false).await else {
        return;
    };
    let most = ledger.most_at_once();
    assert!(
        most <= MAX + unknown,
        "{most}, and {unknown} were not copied"
    );
    ledger.tokens_rise("promoted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_replica_admits_nobody_too_many_with_grace() {
    let Some((ledger, _)) = promoted(true).await else {
        return;
    };
    ledger.leases_are_obeyed("promoted, with grace");
}

/// What the processes said, when the primary was killed, and when a sentinel had promoted its replica.
async fn failover() -> Option<(Ledger, u64, u64)> {
    let mut primary = Server::start(&AT_ONCE).await?;
    let replica_of = format!("127.0.0.1 {}", primary.port);
    let args = ["--replicaof", &replica_of, AT_ONCE[0], AT_ONCE[1]];
    let replica = Server::start(&args).await?;
    let monitor = format!("sentinel monitor main 127.0.0.1 {} 1", primary.port);
    let down = "sentinel down-after-milliseconds main 500";
    let sentinel = Server::start(&["--sentinel", &monitor, down]).await?;
    until("the sentinel knows the replica", async || {
        let known: String = sentinel.ask("INFO sentinel").await.unwrap();
        known.contains("status=ok") && known.contains("slaves=1")
    })
    .await;
    let url = format!(
        "redis-sentinel://{}?sentinelMasterId=main",
        sentinel.address()
    );
    let watch = Watch::over(primary.url());
    let crew = Crew::start(4, url, "lock,limits,breaker,grace,long", 3_500).await;
    until("leases are given", async || {
        watch.so_far().last.held.len() == MAX
    })
    .await;
    // The replica has them.
    sleep(ms(200)).await;
    primary.kill();
    let killed = clock();
    watch.turn_to(replica.url());
    until("the replica is promoted", async || {
        replica.is_primary().await
    })
    .await;
    let promoted = clock();
    until("new leases are given", async || {
        let ledger = Ledger(crew.so_far());
        let new = |it: &Belief| it.from > promoted;
        ledger.beliefs().iter().filter(|it| new(it)).count() >= MAX
    })
    .await;
    let ledger = Ledger(crew.end());
    all_is_drained(&replica, true).await;
    watch.end();
    ledger.leases_are_obeyed("sentinel");
    ledger.calls_end_in_time("sentinel");
    ledger.breaker_commands("sentinel");
    Some((ledger, killed, promoted))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlive_a_failover_by_a_sentinel_with_grace() {
    // A sentinel on a busy machine may take longer than a lease lasts.
    for _ in 0..3 {
        let Some((ledger, killed, promoted)) = failover().await else {
            return;
        };
        if promoted - killed > 1_500_000 {
            continue;
        }
        let outlived = |it: &Belief| it.from < killed && it.to > promoted + 500_000;
        assert!(ledger.beliefs().iter().any(outlived));
        return;
    }
    panic!("no failover took less than 1.5 s");
}
