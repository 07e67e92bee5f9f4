//! Processes that are stopped and killed, on a server that forgets its scripts and whose messages are lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tower_bulwark::fleet::Fleet;

use super::super::support::rng::Rng;
use super::super::support::server::Server;
use super::super::support::{now, since, until};
use super::crew::{Crew, Word};
use super::ledger::Ledger;
use super::watch::Watch;
use super::{EXACT, LEASED, goes_on, length, ms};

/// Waits until nobody has a lease or a place in the queue, and nothing is left that stays for ever.
pub(super) async fn all_is_drained(server: &Server, grace: bool) {
    all_are_drained(server.url(), &[server], grace).await;
}

/// The same for the servers of a cluster.
pub(super) async fn all_are_drained(url: String, servers: &[&Server], grace: bool) {
    let fleet = Fleet::connect(url).await.unwrap();
    let watch = super::lock(&fleet, grace).build().unwrap();
    let began = now();
    until("every lease has ended", async || {
        let seen = watch.fetch().await;
        // The beats of others clear the queue of those who are dead.
        let _ = watch.acquire("watch").timeout(ms(50)).await;
        seen.is_ok_and(|it| it.holders.is_empty() && it.waiting == 0)
    })
    .await;
    // The lease, and 4 s for those who wait.
    assert!(since(began) < ms(6_000), "{:?}", since(began));
    let mut found = 0;
    for server in servers {
        let keys: Vec<String> = server.ask("KEYS *").await.unwrap();
        found += keys.len();
        for key in keys {
            let ttl: i64 = server.ask(&format!("PTTL {key}")).await.unwrap();
            // It may have gone meanwhile.
            assert!(ttl != -1, "{key} stays for ever");
        }
    }
    assert!(found > 0);
}

async fn stop_and_kill(crew: &mut Crew, during: Duration, is_enough: impl Fn(&Ledger) -> bool) {
    let mut rng = Rng::new(7);
    let began = now();
    while goes_on(began, during, || is_enough(&Ledger(crew.so_far()))) {
        sleep(ms(rng.between(50, 300).unsigned_abs())).await;
        let n = rng.below(crew.len());
        if rng.one_in(3) {
            crew.replace(n);
        } else {
            crew.stop(n);
            sleep(ms(rng.between(100, 1_500).unsigned_abs())).await;
            crew.go_on(n);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_stopped_and_killed_break_no_promise_and_leave_nothing() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let server = Arc::new(server);
    let watch = Watch::over(server.url());
    let mut crew = Crew::start(6, server.url(), "lock,limits,breaker", 400).await;
    let nuisance = tokio::spawn({
        let server = Arc::clone(&server);
        async move {
            loop {
                server.tell("SCRIPT FLUSH").await;
                sleep(ms(100)).await;
                server.tell("CLIENT KILL TYPE pubsub").await;
            }
        }
    });
    let is_enough = |ledger: &Ledger| {
        let (seen, passed) = (watch.so_far(), |name| ledger.passed(name, false).len());
        seen.polls > 500
            && seen.most == super::MAX
            && seen.from_queue > 10
            && ledger.beliefs().len() > 15
            && passed("exact") > 200
            && passed("leased") > 500
    };
    stop_and_kill(&mut crew, length(ms(6_000)), is_enough).await;
    nuisance.abort();
    let ledger = Ledger(crew.end());
    all_is_drained(&server, false).await;

    let seen = watch.end();
    assert!(seen.polls > 500 && seen.most == super::MAX, "{seen:?}");
    assert!(seen.from_queue > 10, "{}", seen.from_queue);
    ledger.leases_are_obeyed("stopped and killed");
    ledger.calls_end_in_time("stopped and killed");
    ledger.breaker_commands("stopped and killed");
    assert!(ledger.beliefs().len() > 15, "{}", ledger.beliefs().len());
    let passed = ledger.quota_is_kept("exact", EXACT, 0, "stopped and killed");
    assert!(passed > 200, "{passed}");
    let passed = ledger.quota_is_kept("leased", LEASED, 0, "stopped and killed");
    assert!(passed > 500, "{passed}");
}

/// Without faults: what it costs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_left_alone_send_two_commands_for_each_permit() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let crew = Crew::start(6, server.url(), "lock", 50).await;
    server.tell("CONFIG RESETSTAT").await;
    let before = Ledger(crew.so_far());
    let acquired = |ledger: &Ledger| ledger.beliefs().len() - before.beliefs().len();
    let began = now();
    while goes_on(began, length(ms(3_000)), || {
        acquired(&Ledger(crew.so_far())) > 50
    }) {
        sleep(ms(100)).await;
    }
    let stats: String = server.ask("INFO commandstats").await.unwrap();
    let lasted = since(began).as_secs() as usize + 1;
    let ledger = Ledger(crew.end());
    let calls = |name: &str| -> usize {
        let start = format!("cmdstat_{name}:calls=");
        let line = stats.lines().find_map(|it| it.strip_prefix(&start));
        line.map_or(0, |it| it.split(',').next().unwrap().parse().unwrap())
    };
    let scripts = calls("evalsha");
    let acquired = acquired(&ledger);
    let refused = |ledger: &Ledger| ledger.count(|it| *it == Word::Refused);
    let refused = refused(&ledger) - refused(&before);
    // One to ask and one to give back or to cancel. Each process beats once a second for those who wait, and each time one that
    // waits is next and a lease may have lapsed; lists; renews each lease at a third; and says that it is there.
    let others = 6 * (3 + 3 + 1) * lasted;
    let most = 2 * (acquired + refused) + 12 + others;
    assert!(acquired > 50, "{acquired}");
    assert!(
        scripts <= most,
        "{scripts} for {acquired} and {refused}, {most} are allowed"
    );
    ledger.leases_are_obeyed("left alone");
    ledger.calls_end_in_time("left alone");
}
