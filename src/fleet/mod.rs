//! The same patterns, shared by many processes through Redis or Valkey. (feature `redis`)
//!
//! # When
//!
//! When what is protected is protected for all processes together: an API key with one limit, a machine that takes eight
//! jobs whoever sends them, a dependency that one process has found to be down.
//!
//! # When not
//!
//! For one process: the patterns themselves share their state already, and need no server.
//!
//! # Example
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # use tower::{ServiceExt, service_fn};
//! # let client = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) });
//! use tower::ServiceBuilder;
//! use tower_bulwark::CircuitBreaker;
//! use tower_bulwark::fleet::{Fleet, SharedBreaker};
//! use tower_bulwark::rate_limit::Quota;
//!
//! // All processes that share something give the same namespace, names and settings.
//! let fleet = Fleet::builder("redis://redis.internal:6379")
//!     .namespace("checkout")
//!     .connect()
//!     .await?;
//!
//! let breaker = CircuitBreaker::new("payments");
//! let share = fleet.share(&breaker, SharedBreaker::default())?; // keep it: it is shared until this is dropped
//! let limit = fleet.rate_limit("payments").quota("calls", Quota::per_second(200)).build()?;
//! let terminal = fleet.lock("terminal").max_concurrent(8).build()?;
//!
//! let service = ServiceBuilder::new()
//!     .layer(breaker.layer())
//!     .layer(limit.layer())
//!     .layer(terminal.layer())
//!     .service(client);
//! # drop((share, service.oneshot(1).await?));
//! # Ok(())
//! # }
//! ```
//!
//! # URLs
//!
//! | URL | what |
//! |---|---|
//! | `redis://user:password@host:6379/0` | one server; also `redis+unix:///path` |
//! | `redis-cluster://user:password@host:6379,host:6379` | a cluster; one node that answers is enough |
//! | `redis-sentinel://user:password@host:26379,host:26379/0?sentinelMasterId=NAME` | the primary that the sentinels call so; `sentinelUsername` and `sentinelPassword` are theirs |
//! | `rediss://`, `rediss-cluster://`, `rediss-sentinel://` | the same with TLS (feature `redis-tls`) |
//!
//! `valkey` stands for `redis` in all of them. What is special in a user name or a password is percent-encoded.
//!
//! # What is shared
//!
//! | | by | while the store is away |
//! |---|---|---|
//! | [breaker] | [`Fleet::share`] | each decides by itself |
//! | [lock] | [`Fleet::lock`] | nobody is admitted, unless `local(n)` says so |
//! | [rate_limit] | [`Fleet::rate_limit`] | each process goes by its share |
//!
//! [`Fleet::in_process`] is the same without a server, for one process: for tests and demos.
//!
//! # What is seen
//!
//! [`Fleet::snapshot`] shows the processes, the connection and everything that is shared. [`FleetEvent`](crate::event::FleetEvent)s tell what
//! happens. [`Registry::add_fleet`](crate::Registry::add_fleet) brings both to the feed, the metrics and the dashboard.
//!
//! # The server
//!
//! Redis 6.2 or later, or Valkey, with `maxmemory-policy noeviction`, and a user that may run scripts and `INFO`, and use the
//! keys and channels of the namespace: `ACL SETUSER app on >password ~checkout:* &checkout:* +@all -@dangerous +info`. All of that is
//! checked on every new connection. Each process has two connections.
//!
//! # When the server is away
//!
//! No call waits longer than its deadline, and while there is no connection calls are refused at once, without being sent. A task
//! connects anew, first at once and then about every 100 to 500 ms. A connection that does not answer five calls in a row within the
//! [call timeout](FleetBuilder::call_timeout), or that leads to a replica, is given up. What that means is a matter of each pattern; [`Fleet::health`] says how it stands.
//!
//! In a cluster all keys of a name are on one node, and a node that is away takes only its own names with it if
//! `cluster-require-full-coverage no` is set; otherwise all nodes refuse until a replica has taken over. While the slot of a name is
//! moved, its calls may be refused until all keys are there: leases are renewed again and again meanwhile.
//!
//! A call that was not answered [may have been done](StoreError::may_have_been_done).
//!
//! # Ends
//!
//! The tasks and connections of a fleet end when its last clone is dropped, and with it the last breaker, lock and rate limit
//! that was made from it: each keeps the fleet.

pub mod breaker;
mod builder;
mod error;
mod health;
mod in_process;
pub mod lock;
mod names;
mod nodes;
pub mod rate_limit;
#[cfg(test)]
#[expect(dead_code, reason = "other tests have a use for what is left")]
#[path = "../../tests/fleet/support/server.rs"]
mod real_server;
mod redis;
mod reporter;
mod snapshot;
mod tasks;
mod unused;

pub use breaker::SharedBreaker;
pub use builder::FleetBuilder;
pub use error::{ConnectError, StoreError};
pub use health::Health;
pub use lock::{Fence, FleetLock};
pub use rate_limit::FleetRateLimit;
pub use snapshot::{FleetSnapshot, NodesSeen};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Observer;
use crate::util::time;

/// What many processes share. A cheap clone.
#[derive(Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
}

struct Shared {
    names: names::Names,
    backend: Backend,
    reporter: Arc<reporter::Reporter>,
    nodes: Arc<nodes::Nodes>,
    /// Last: what they use is still there while they end. A task must not hold `Shared`, or it would never be dropped.
    #[allow(dead_code, reason = "dropped, and for the agents of the patterns")]
    tasks: tasks::Tasks,
}

/// Where the shared state is.
enum Backend {
    InProcess(in_process::InProcess),
    Redis(redis::Redis),
}

impl Fleet {
    /// A fleet of this process alone, without a server: for tests, demos, and one machine.
    ///
    /// Its clones share everything. Two calls of this make two fleets that share nothing.
    ///
    /// When it knows many names, it forgets those that nobody uses and that have nothing to remember: a breaker that is not open,
    /// a lock that is free, a limit of which nothing is missing.
    #[must_use]
    pub fn in_process() -> Self {
        let names = names::Names::new("bulwark", None).expect("the name is one that is allowed");
        let reporter = reporter::Reporter::new(Arc::clone(&names.namespace));
        Self {
            shared: Arc::new(Shared {
                names,
                backend: Backend::InProcess(in_process::InProcess::new()),
                reporter: Arc::new(reporter),
                nodes: Arc::default(),
                tasks: tasks::Tasks::default(),
            }),
        }
    }

    /// Receives from now on what happens to the fleet in this process, and everything that its locks and rate limits report,
    /// also those that were made before.
    pub fn observe(&self, observer: impl Observer) {
        let observer: Arc<dyn Observer> = Arc::new(observer);
        self.observe_with(&observer);
    }

    pub(crate) fn observe_with(&self, observer: &Arc<dyn Observer>) {
        self.shared.reporter.add(observer);
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// What all keys and channels begin with.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.shared.names.namespace
    }

    /// What the others call this process. No two have the same.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.shared.names.node
    }

    /// Runs a script that does what every script of a fleet does and leaves nothing, and says how long it took.
    ///
    /// # Errors
    ///
    /// If it is not done `within` the time. While there is no connection, that is known at once.
    pub async fn ping(&self, within: Duration) -> Result<Duration, StoreError> {
        let began = time::now();
        match &self.shared.backend {
            Backend::Redis(redis) => redis.ping(within).await?,
            Backend::InProcess(_) => {}
        }
        Ok(time::now().since(began))
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("namespace", &self.namespace())
            .field("node", &self.node())
            .field("health", &self.health())
            .finish()
    }
}
