//! SQLite behind a pool of three connections: who has one, who waits, and what happens to those who cannot.
//!
//! ```sh
//! cargo run --example database_pool
//! ```

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use rusqlite::Connection;
use tokio::task::spawn_blocking;
use tower_bulwark::{BoxError, ContendedReason, Error, Holder, ResourceLock};

const MS: Duration = Duration::from_millis(1);

/// As many connections as the lock has permits: whoever has a permit finds one.
#[derive(Clone)]
struct Pool {
    lock: ResourceLock,
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// A connection on loan; goes back when dropped, also by a panic.
struct Loan {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Pool {
    fn open(file: &PathBuf, size: usize) -> Result<Self, BoxError> {
        let open = || {
            let connection = Connection::open(file)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            Ok(connection)
        };
        let connections: Result<Vec<_>, rusqlite::Error> = (0..size).map(|_| open()).collect();
        let lock = ResourceLock::builder("database")
            .max_concurrent(size)
            .timeout(Duration::from_secs(2))
            .contention_threshold(20 * MS)
            .build()?;
        Ok(Self {
            lock,
            idle: Arc::new(Mutex::new(connections?)),
        })
    }

    /// Runs `query` on a thread for blocking work. The permit goes with it: should the caller go away, the
    /// query runs on, and its connection is not free before it has ended.
    async fn with<T: Send + 'static>(
        &self,
        who: impl Into<Holder>,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error<rusqlite::Error>> {
        let permit = self
            .lock
            .acquire(who)
            .owned()
            .await
            .map_err(Error::Contended)?;
        let idle = Arc::clone(&self.idle);
        let run = spawn_blocking(move || {
            let connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut loan = Loan { connection, idle };
            let result = match &mut loan.connection {
                Some(connection) => query(connection),
                None => Err(rusqlite::Error::InvalidQuery), // Never: see `Pool`.
            };
            // First the connection, then the permit.
            drop(loan);
            drop(permit);
            result
        });
        match run.await {
            Ok(result) => result.map_err(Error::Inner),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(connection);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let folder = std::env::temp_dir().join(format!("database-pool-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = run(&folder.join("orders.db")).await;
    std::fs::remove_dir_all(&folder)?;
    result
}

async fn run(file: &PathBuf) -> Result<(), BoxError> {
    let pool = Pool::open(file, 3)?;
    pool.with("migration", |db| {
        db.execute_batch("create table orders (id integer primary key, item text not null)")
    })
    .await?;

    println!("forty orders at once, through three connections:");
    let insert = |id: u64| {
        pool.with(format!("order-{id}"), move |db| {
            let transaction = db.transaction()?;
            transaction.execute(
                "insert into orders (item) values (?1)",
                [format!("item {id}")],
            )?;
            transaction.commit()
        })
    };
    try_join_all((1..=40).map(insert)).await?;
    let count =
        |db: &mut Connection| db.query_row("select count(*) from orders", [], |row| row.get(0));
    let orders: u32 = pool.with("count", count).await?;
    let stats = pool.lock.snapshot().stats;
    println!(
        "  {orders} orders; at most {} connections in use and {} callers waiting; waits p50 {:.1?}, p99 {:.1?}",
        stats.peak_in_use, stats.peak_waiting, stats.wait.p50, stats.wait.p99
    );
    assert_eq!((orders, stats.peak_in_use), (40, 3));

    println!("three slow reports, and somebody in a hurry:");
    let (started, mut has_started) = tokio::sync::mpsc::unbounded_channel();
    let (finish, reports): (Vec<_>, Vec<_>) = ["sales", "stock", "tax"]
        .map(|name| {
            let (finish, finished) = std::sync::mpsc::channel::<()>();
            let started = started.clone();
            let report = pool.with(name, move |db| {
                let _ = started.send(());
                // As long as somebody wants it to take; a real report would compute.
                let _ = finished.recv();
                db.query_row("select max(item) from orders", [], |row| {
                    row.get::<_, String>(0)
                })
            });
            (finish, report)
        })
        .into_iter()
        .unzip();
    let hurried = async {
        for _ in 0..3 {
            has_started.recv().await;
        }
        let refused = pool.lock.acquire("checkout").timeout(50 * MS).await;
        drop(finish);
        refused.err()
    };
    let (reports, refused) = tokio::join!(join_all(reports), hurried);
    let refused = refused.ok_or("a fourth connection came out of a pool of three")?;
    println!("  {refused}");
    assert_eq!(refused.reason(), &ContendedReason::TimedOut);
    assert_eq!(refused.holders().len(), 3);
    for report in reports {
        assert_eq!(report?, "item 9");
    }

    println!("a query that fails is the database's own error, and gives its connection back:");
    match pool.with("typo", |db| db.execute_batch("selekt 1")).await {
        Err(Error::Inner(error)) => println!("  {error}"),
        other => return Err(format!("expected an error of SQLite, got {other:?}").into()),
    }
    let snapshot = pool.lock.snapshot();
    assert_eq!((snapshot.in_use, snapshot.waiting), (0, 0));
    let idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(idle.len(), 3);
    Ok(())
}
