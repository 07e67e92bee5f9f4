//! A cluster of three primaries: one of them is killed, and slots move while they are in use.

use tokio::sync::oneshot;
use tokio::time::sleep;
use tower_bulwark::fleet::{Fleet, StoreError};

use super::super::support::server::Server;
use super::super::support::{now, until};
use super::crew::{Crew, Word};
use super::ledger::Ledger;
use super::processes::all_are_drained;
use super::watch::Watch;
use super::{EXACT, LEASED, MAX, clock, goes_on, length, ms};

/// Where the slots of each begin: that of the leased limit is on the first, those of the exact limit and of the breaker on
/// the second, that of the lock on the third.
const BEGIN: [u16; 4] = [0, 6_400, 13_000, 16_384];
const OF_LEASED: usize = 0;
const OF_EXACT: usize = 1;
const OF_LOCK: usize = 2;

struct Cluster {
    primaries: Vec<Server>,
    /// Of that which has the lock.
    replica: Server,
}

impl Cluster {
    async fn start() -> Option<Self> {
        let args = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            // What is on the other nodes goes on.
            "--cluster-require-full-coverage",
            "no",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let mut nodes = Vec::new();
        for _ in 0..4 {
            nodes.push(Server::start(&args).await?);
        }
        for (n, server) in nodes.iter().take(3).enumerate() {
            // Servers of 6.2 know no ranges.
            let slots: Vec<_> = (BEGIN[n]..BEGIN[n + 1]).map(|it| it.to_string()).collect();
            let add = format!("CLUSTER ADDSLOTS {}", slots.join(" "));
            server.tell(&add).await;
            // Otherwise two have the same epoch at first, and the one that gives in may take a slot with it that has moved.
            server
                .tell(&format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1))
                .await;
        }
        for server in &nodes[1..] {
            let meet = format!("CLUSTER MEET 127.0.0.1 {}", server.port);
            nodes[0].tell(&meet).await;
        }
        for server in &nodes {
            until("the cluster is whole", async || {
                let info: String = server.ask("CLUSTER INFO").await.unwrap();
                ["state:ok", "known_nodes:4", "slots_assigned:16384"]
                    .iter()
                    .all(|it| info.contains(it))
            })
            .await;
        }
        let replica = nodes.pop()?;
        let cluster = Self {
            primaries: nodes,
            replica,
        };
        cluster.replicate().await;

        Some(cluster)
    }

    async fn replicate(&self) {
        let of = id(&self.primaries[OF_LOCK]).await;
        let replicate = format!("CLUSTER REPLICATE {of}");
        self.replica.tell(&replicate).await;
        let mut connection = self.primaries[OF_LOCK].connect().await.unwrap();
        until("a write has reached the replica", async || {
            let mut connection = connection.clone();
            let mut both = redis::pipe();
            let write = both.cmd("SET").arg("{gpu}barrier").arg(1);
            write.arg("EX").arg(60).ignore();
            both.cmd("WAIT").arg(1).arg(1_000);
            let reached: (i64,) = both.query_async(&mut connection).await.unwrap();
            reached.0 == 1
        })
        .await;
        // The others know whose replica it is: only then do they vote for it.
        for server in &self.primaries {
            until("all know the replica", async || {
                let nodes: String = server.ask("CLUSTER NODES").await.unwrap();
                nodes.contains(&format!("slave {of}"))
            })
            .await;
        }
        let _: i64 = redis::cmd("DEL")
            .arg("{gpu}barrier")
            .query_async(&mut connection)
            .await
            .unwrap();
    }

    fn url(&self) -> String {
        let all: Vec<_> = self.primaries.iter().map(Server::address).collect();
        format!("redis-cluster://{}", all.join(","))
    }

    /// Which of them had the slot of a key at first.
    async fn owner(&self, key: &str) -> usize {
        let slot = self.slot(key).await;
        BEGIN.iter().rposition(|it| *it <= slot).unwrap()
    }

    async fn slot(&self, key: &str) -> u16 {
        let ask = format!("CLUSTER KEYSLOT {key}");
        self.primaries[OF_LEASED].ask(&ask).await.unwrap()
    }

    /// Moves the slot of a key as operators' programs do: in three steps, with calls coming in between.
    async fn move_slot(&self, key: &str, [from, to]: [usize; 2]) {
        let (source, target) = (&self.primaries[from], &self.primaries[to]);
        let slot = self.slot(key).await;
        let set = format!("CLUSTER SETSLOT {slot}");
        let (source_id, target_id) = (id(source).await, id(target).await);
        target.tell(&format!("{set} IMPORTING {source_id}")).await;
        source.tell(&format!("{set} MIGRATING {target_id}")).await;
        sleep(ms(20)).await;
        let mut connection = source.connect().await.unwrap();
        loop {
            let get = format!("CLUSTER GETKEYSINSLOT {slot} 100");
            let keys: Vec<String> = source.ask(&get).await.unwrap();
            if keys.is_empty() {
                break;
            }
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(target.port).arg("");
            migrate.arg(0).arg(1_000).arg("KEYS").arg(keys);
            let _: String = migrate.query_async(&mut connection).await.unwrap();
        }
        sleep(ms(50)).await;
        for server in [target, source] {
            server.tell(&format!("{set} NODE {target_id}")).await;
        }
    }
}

async fn id(server: &Server) -> String {
    server.ask("CLUSTER MYID").await.unwrap()
}

/// Holds a lock that nobody waits for: a node refuses its calls while its slot moves, because not all keys are there.
async fn hold_idle(url: String, mut ends: oneshot::Receiver<()>) {
    let fleet = Fleet::connect(url).await.unwrap();
    let lock = fleet.lock("idle").lease(ms(2_000)).build().unwrap();
    let guard = lock.acquire("holder").await.unwrap();
    let mut errors = Vec::new();
    while ends.try_recv().is_err() {
        errors.extend(lock.fetch().await.err());
        sleep(ms(2)).await;
    }
    assert!(!errors.is_empty());
    for error in errors {
        // It will be there in a moment, and nothing is wrong with the keys.
        assert!(
            matches!(error, StoreError::Unavailable(_) | StoreError::Deadline),
            "{error:?}"
        );
    }
    assert!(!guard.valid_for().unwrap().is_zero(), "it was lost");
}

/// The longest time in which none of them was admitted by the fleet.
fn longest_pause(passed: &[(u64, u64)]) -> u64 {
    let mut answered: Vec<_> = passed.iter().map(|it| it.1).collect();
    answered.sort_unstable();
    let pauses = answered.windows(2).map(|it| it[1] - it[0]);
    pauses.max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_killed_takes_its_own_keys_only_and_its_replica_goes_on_after_every_lease_has_ended()
 {
    let Some(mut cluster) = Cluster::start().await else {
        return;
    };
    let watch = Watch::over(cluster.primaries[OF_LOCK].url());
    let mut crew = Crew::start(4, cluster.url(), "lock,limits,breaker", 400).await;
    until("leases are given", async || {
        watch.so_far().last.held.len() == MAX
    })
    .await;
    cluster.primaries[OF_LOCK].kill();
    let killed = clock();
    watch.turn_to(cluster.replica.url());
    until("the replica is promoted", async || {
        cluster.replica.is_primary().await
    })
    .await;
    let promoted = clock();
    let again = |word: &Word| matches!(word, Word::Hold { at, .. } if *at > promoted + 1_000_000);
    until("leases are given again", async || {
        crew.so_far().iter().filter(|it| again(&it.word)).count() > 100
    })
    .await;
    crew.tell(0, "trip");
    let open = |word: &Word| matches!(word, Word::State { state, .. } if state == "Open");
    until("all have opened", async || {
        crew.so_far().iter().filter(|it| open(&it.word)).count() == 4
    })
    .await;
    let ledger = Ledger(crew.end());
    let left = [
        &cluster.primaries[OF_LEASED],
        &cluster.primaries[OF_EXACT],
        &cluster.replica,
    ];

    all_are_drained(cluster.url(), &left, false).await;

    watch.end();
    ledger.leases_are_obeyed("killed in a cluster");
    ledger.calls_end_in_time("killed in a cluster");
    ledger.breaker_commands("killed in a cluster");
    for (name, quota) in [("exact", EXACT), ("leased", LEASED)] {
        ledger.quota_is_kept(name, quota, 0, "killed in a cluster");
        let pause = longest_pause(&ledger.passed(name, false));
        let outage = promoted - killed;
        assert!(
            pause < outage / 4,
            "{name} paused for {pause} us of {outage} us"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_while_they_are_in_use_break_no_promise() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let watch = Watch::over(cluster.primaries[OF_LOCK].url());
    let crew = Crew::start(4, cluster.url(), "lock,limits,breaker", 200).await;
    let (began, during) = (now(), length(ms(5_000)));
    let (mut lock, mut limit) = ([OF_LOCK, OF_LEASED], [OF_EXACT, OF_LEASED]);
    let mut idle = [cluster.owner("{idle}").await, OF_LOCK];
    if idle[0] == OF_LOCK {
        idle[1] = OF_EXACT;
    }
    let (end, ends) = oneshot::channel();
    let holds = tokio::spawn(hold_idle(cluster.url(), ends));
    let mut moved = 0;
    let is_enough = || {
        let seen = watch.so_far();
        seen.polls > 300 && seen.most == MAX
    };
    while goes_on(began, during, is_enough) {
        sleep(ms(700)).await;
        cluster.move_slot("{gpu}", lock).await;
        watch.follow(cluster.primaries[lock[1]].url());
        cluster.move_slot("{exact}", limit).await;
        cluster.move_slot("{api}", limit).await;
        cluster.move_slot("{idle}", idle).await;
        moved = clock();
        // And back.
        lock.reverse();
        limit.reverse();
        idle.reverse();
    }
    sleep(ms(700)).await;
    end.send(()).unwrap();
    holds.await.unwrap();
    let ledger = Ledger(crew.end());
    let all: Vec<_> = cluster.primaries.iter().collect();

    all_are_drained(cluster.url(), &all, false).await;
    let seen = watch.end();
    assert!(seen.polls > 300 && seen.most == MAX, "{seen:?}");
    ledger.leases_are_obeyed("moved");
    ledger.calls_end_in_time("moved");
    ledger.breaker_commands("moved");
    for (name, quota) in [("exact", EXACT), ("leased", LEASED)] {
        ledger.quota_is_kept(name, quota, 0, "moved");
        assert!(ledger.passed(name, false).iter().any(|it| it.0 > moved));
    }
    // Whoever asks is led to where the keys are.
    let next = ledger.beliefs().into_iter().find(|it| it.from > moved);
    let after = next.expect("leases are given again").from - moved;
    assert!(after < 2_000_000, "{after} us");
}
