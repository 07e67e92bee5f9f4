//! A borrowed guard in a task of its own: `acquire_owned` is for that.
use tower_bulwark::ResourceLock;

async fn work() {
    let lock = ResourceLock::new("db");
    let guard = lock.acquire("a").await.unwrap();
    tokio::spawn(async move {
        drop(guard);
    });
}

fn main() {
    let _ = work();
}
