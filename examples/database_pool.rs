//! A pool of three connections to a real database, guarded by a lock of three: the fourth query waits, and
//! whoever waits is told whom for.
//!
//! `cargo run --example database_pool`

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, params};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::contention::ContentionEvent;
use tower_bulwark::{Backoff, Error as CallError, Event, ResourceLock, RetryPolicy};

const CONNECTIONS: usize = 3;

/// A transfer between two accounts, by the job that asks for it.
#[derive(Clone, Copy)]
struct Transfer {
    job: u64,
    from: u32,
    to: u32,
    amount: i64,
}

/// Connections to one database; whoever has a permit finds one here.
#[derive(Clone)]
struct Pool(Arc<Mutex<Vec<Connection>>>);

impl Pool {
    fn open(url: &str) -> rusqlite::Result<Self> {
        let open = |_| {
            let connection = Connection::open(url)?;
            connection.busy_timeout(Duration::from_millis(5))?;
            Ok(connection)
        };
        let connections = (0..CONNECTIONS).map(open).collect::<rusqlite::Result<Vec<_>>>()?;
        connections[0].execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);",
        )?;
        for id in 0..10 {
            connections[0].execute("INSERT INTO account VALUES (?1, 1000)", [id])?;
        }
        Ok(Self(Arc::new(Mutex::new(connections))))
    }

    fn take(&self) -> Option<Connection> {
        self.0.lock().ok()?.pop()
    }

    fn give_back(&self, connection: Connection) {
        if let Ok(mut connections) = self.0.lock() {
            connections.push(connection);
        }
    }
}

fn transfer(connection: &mut Connection, it: Transfer) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let change = "UPDATE account SET balance = balance + ?2 WHERE id = ?1";
    transaction.execute(change, params![it.from, -it.amount])?;
    transaction.execute(change, params![it.to, it.amount])?;
    transaction.commit()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("bulwark-pool-{}.db", std::process::id()));
    let pool = Pool::open(&file.to_string_lossy())?;
    let lock = ResourceLock::builder("sqlite")
        .max_concurrent(CONNECTIONS)
        .timeout(Duration::from_secs(10))
        .contention_threshold(Duration::from_millis(60))
        .observer(|name: &str, event: &Event| {
            if let Event::Contention(ContentionEvent::Contended { .. }) = event {
                println!("  [{name}] {event}");
            }
        })
        .build()?;
    let retry = RetryPolicy::builder()
        .name("transfer")
        .max_retries(20)
        .backoff(Backoff::fixed(Duration::from_millis(2)))
        .build()?;

    // `SQLITE_BUSY` is worth a retry: another connection is writing.
    let is_busy = |e: &rusqlite::Error| {
        e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
    };
    let database = {
        let pool = pool.clone();
        service_fn(move |it: Transfer| {
            let pool = pool.clone();
            async move {
                let work = tokio::task::spawn_blocking(move || {
                    let mut connection = pool.take().ok_or(rusqlite::Error::InvalidQuery)?;
                    let result = transfer(&mut connection, it);
                    pool.give_back(connection);
                    result
                });
                work.await.unwrap_or(Err(rusqlite::Error::InvalidQuery))
            }
        })
    };
    let service = ServiceBuilder::new()
        .layer(retry.layer().retry_if(is_busy))
        .layer(lock.layer().holder(|it: &Transfer| it.job))
        .service(database);

    println!("100 transfers over {CONNECTIONS} connections");
    let jobs: Vec<_> = (0..100_u32)
        .map(|n| {
            let mut service = service.clone();
            let it = Transfer {
                job: u64::from(n),
                from: n % 10,
                to: (n * 7 + 3) % 10,
                amount: i64::from(n),
            };
            tokio::spawn(async move { service.ready().await?.call(it).await })
        })
        .collect();
    for job in jobs {
        job.await?.map_err(|error: CallError<rusqlite::Error>| error.to_string())?;
    }

    let connection = pool.take().ok_or("a connection was lost")?;
    let total: i64 = connection.query_row("SELECT sum(balance) FROM account", [], |row| row.get(0))?;
    drop(connection);
    let stats = lock.snapshot().stats;
    println!("all done: the balances add up to {total}");
    println!("  most at once {}, most waiting {}", stats.peak_in_use, stats.peak_waiting);
    println!("  waited: p50 {:.1?}, p99 {:.1?}; held: p50 {:.1?}", stats.wait.p50, stats.wait.p99, stats.hold.p50);
    println!("  retries after SQLITE_BUSY: {}", retry.snapshot().retries);
    drop(pool);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
    }
    if total != 10_000 || stats.peak_in_use > CONNECTIONS {
        return Err("money was lost, or more connections were used than there are".into());
    }
    Ok(())
}
