//! SQLite behind a pool of three connections: who has one, who waits, what happens to those who cannot, and how the
//! pool is closed.
//!
//! ```sh
//! cargo run --example database_pool
//! ```

use std::future::ready;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use rusqlite::Connection;
use tokio::task::spawn_blocking;
use tower_bulwark::contention::ResourcePool;
use tower_bulwark::{BoxError, ContendedReason, Error, Holder, ResourceLock};

const MS: Duration = Duration::from_millis(1);

#[derive(Clone)]
struct Database {
    file: PathBuf,
    pool: ResourcePool<Connection>,
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    Ok(connection)
}

impl Database {
    fn new(file: &Path, connections: usize) -> Result<Self, BoxError> {
        let lock = ResourceLock::builder("database")
            .max_concurrent(connections)
            .timeout(Duration::from_secs(2))
            .contention_threshold(20 * MS)
            .build()?;
        Ok(Self {
            file: file.to_owned(),
            pool: ResourcePool::new(lock),
        })
    }

    /// Runs `query` on a thread for blocking work. The connection, and with it the permit, goes there too: if the caller
    /// goes away, the query runs on, and its connection is not free before it has ended.
    async fn with<T: Send + 'static>(
        &self,
        who: impl Into<Holder>,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error<rusqlite::Error>> {
        let mut connection = self.pool.get(who, || ready(connect(&self.file))).await?;
        let run = spawn_blocking(move || query(&mut connection));
        match run.await {
            Ok(result) => result.map_err(Error::Inner),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
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

async fn run(file: &Path) -> Result<(), BoxError> {
    let database = Database::new(file, 3)?;
    let lock = database.pool.lock();
    database
        .with("migration", |db| {
            db.execute_batch("create table orders (id integer primary key, item text not null)")
        })
        .await?;

    println!("forty orders at once, through three connections:");
    let insert = |id: u64| {
        database.with(format!("order-{id}"), move |db| {
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
    let orders: u32 = database.with("count", count).await?;
    let stats = lock.snapshot().stats;
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
            let report = database.with(name, move |db| {
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
        let refused = lock.acquire("checkout").timeout(50 * MS).await;
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
    match database
        .with("typo", |db| db.execute_batch("selekt 1"))
        .await
    {
        Err(Error::Inner(error)) => println!("  {error}"),
        other => return Err(format!("expected an error of SQLite, got {other:?}").into()),
    }
    let snapshot = lock.snapshot();
    assert_eq!((snapshot.in_use, snapshot.waiting), (0, 0));
    assert_eq!(database.pool.idle(), 3);

    println!("a pool that is closed waits for those who work, and refuses the others:");
    let (go, waits) = std::sync::mpsc::channel::<()>();
    let (started, mut has_started) = tokio::sync::mpsc::unbounded_channel();
    let last = database.with("last", move |db| {
        let _ = started.send(());
        let _ = waits.recv();
        db.query_row("select count(*) from orders", [], |row| {
            row.get::<_, u32>(0)
        })
    });
    let closing = async {
        has_started.recv().await;
        database.pool.close();
        let late = database.with("late", |_| Ok(())).await;
        drop(go);
        lock.drained().await;
        late
    };
    let (last, late) = tokio::join!(last, closing);
    match late {
        Err(Error::Contended(refused)) => println!("  {refused}"),
        other => return Err(format!("a closed pool gave out a connection: {other:?}").into()),
    }
    assert_eq!((last?, lock.snapshot().in_use), (40, 0));
    Ok(())
}
