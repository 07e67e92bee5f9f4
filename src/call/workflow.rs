//! An id for everything that is done for one piece of work.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use tower_bulwark::{ResourceLock, workflow};
//!
//! let lock = ResourceLock::new("gpu");
//! workflow::scope("exec-123", async {
//!     // Layers take it as the holder where the request does not say; guards take it by hand.
//!     let guard = lock.acquire(workflow::current().unwrap()).await.unwrap();
//!     assert_eq!(guard.holder().to_string(), "exec-123");
//! })
//! .await;
//! # }
//! ```
//!
//! The scope follows the task; work that is handed to another task does not carry it there.

use std::future::Future;

use super::Holder;

tokio::task_local! {
    static CURRENT: Holder;
}

/// Runs `future` as part of the workflow `id`. An inner scope hides an outer one.
pub fn scope<F: Future>(id: impl Into<Holder>, future: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(id.into(), future)
}

/// The id of the workflow that this task works for, if it is in a scope.
#[must_use]
pub fn current() -> Option<Holder> {
    CURRENT.try_with(Clone::clone).ok()
}
