use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Backend, Fleet};
use super::handle::FleetLock;
use super::owner::Owner;
use super::settings::Settings;
use super::shared::{Place, Shared};
use super::store::{InProcessStore, LockStore, RedisStore};
use super::wire;
use crate::contention::ResourceLock;
use crate::error::ConfigError;
use crate::event::Observer;

/// Sets up a [`FleetLock`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct FleetLockBuilder {
    fleet: Fleet,
    name: Arc<str>,
    settings: Settings,
}

impl Fleet {
    /// A lock that every process of the namespace shares that asks for this name. See [`FleetLock`] and
    /// [`FleetLockBuilder`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use tower_bulwark::fleet::Fleet;
    ///
    /// let fleet = Fleet::in_process();
    /// let gpu = fleet.lock("gpu").max_concurrent(2).lease(Duration::from_secs(10)).build()?;
    ///
    /// let a = gpu.acquire("job-1").await?;
    /// let b = gpu.acquire("job-2").await?;
    /// assert_ne!(a.fence(), b.fence());
    /// assert!(gpu.try_acquire("job-3").await.is_err());
    /// drop(a);
    /// let c = gpu.acquire("job-3").await?;
    /// assert!(c.fence().unwrap().token > b.fence().unwrap().token);
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, name: impl Into<Arc<str>>) -> FleetLockBuilder {
        FleetLockBuilder {
            fleet: self.clone(),
            name: name.into(),
            settings: Settings::default(),
        }
    }
}

impl FleetLockBuilder {
    /// How many may have the resource at once, in the whole fleet. Default: 1. At most 1,000,000.
    ///
    /// The store keeps the number, with its [`version`](Self::version).
    pub fn max_concurrent(mut self, n: usize) -> Self {
        self.settings.max_concurrent = n;
        self
    }

    /// The version of [`max_concurrent`](Self::max_concurrent). Default: 0. The highest that any process has wins, so that processes of an old
    /// and a new release do not change the number to and fro: give each new number a higher version.
    ///
    /// A process that asks for another number than the one in force says so in the log.
    pub fn version(mut self, version: u32) -> Self {
        self.settings.version = version;
        self
    }

    /// For how long a permit stays with a process that has died. Default: 10 s; at least 300 ms and at most 1 h.
    ///
    /// It is renewed at a third of that. A process that stands still for longer loses the permit.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long a caller may wait for a permit. Default: 30 s. Zero means not in the queue.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Lets callers wait without end, or until the ambient deadline.
    pub fn no_timeout(mut self) -> Self {
        self.settings.timeout = None;
        self
    }

    /// From when on a wait is contention: it is counted, and reported *while* it lasts. Default: 5 s.
    pub fn contention_threshold(mut self, threshold: Duration) -> Self {
        self.settings.contention_threshold = threshold;
        self
    }

    /// From when on somebody of this process who holds a permit is reported. Default: never.
    pub fn hold_threshold(mut self, threshold: Duration) -> Self {
        self.settings.hold_threshold = Some(threshold);
        self
    }

    /// How many may wait in the whole fleet; the next is refused. Default: as many as come.
    pub fn max_waiting(mut self, n: usize) -> Self {
        self.settings.max_waiting = Some(n);
        self
    }

    /// While the store is away, gives `n` permits of this process alone, without a fence. Default: nobody is admitted then.
    ///
    /// With m processes the resource then has up to m times n holders, beside those whose leases have not ended yet. That is for
    /// a resource that bears it, as a limit that only spares something does.
    pub fn local(mut self, n: usize) -> Self {
        self.settings.local = Some(n);
        self
    }

    /// After a failover, a restart or a loss of the store, admits nobody new for the time of a lease, and lets those who hold
    /// permits keep them. Default: off.
    ///
    /// A replica that is promoted may not know of the last leases, and would give their slots away. With this they are
    /// renewed first. The price: a failover takes one lease longer, the longest that any process has asked for since the lock
    /// came into use, and so does the very first use of a name. It does not help if an old primary goes on by itself: set
    /// `min-replicas-to-write` on the server.
    ///
    /// It is on for all processes as soon as one has asked for it, and until the lock has not been used for a day.
    pub fn grace(mut self) -> Self {
        self.settings.grace = true;
        self
    }

    /// Receives every event of this lock in this process.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.settings.observers.push(Arc::new(observer));
        self
    }

    /// Makes the lock. Asks nobody.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work: it names the setting and says what to change.
    pub fn build(mut self) -> Result<FleetLock, ConfigError> {
        self.settings.check()?;
        let names = &self.fleet.shared.names;
        let inbox: Arc<str> = names.own_channel().into();
        let (store, call_timeout): (Box<dyn LockStore>, _) = match &self.fleet.shared.backend {
            Backend::InProcess(in_process) => {
                let store = InProcessStore {
                    locks: in_process.locks.clone(),
                    name: Arc::clone(&self.name),
                    inbox: Arc::clone(&inbox),
                };
                (Box::new(store), Duration::from_secs(1))
            }
            Backend::Redis(redis) => {
                let store = RedisStore {
                    redis: redis.clone(),
                    name: Arc::clone(&self.name),
                    keys: wire::PARTS.map(|part| names.key("lock", &self.name, part)),
                };
                (Box::new(store), redis.call_timeout())
            }
        };
        let reporter = &self.fleet.shared.reporter;
        self.settings.observers.push(reporter.observer());
        let place = Place {
            reporter: Arc::clone(reporter),
            // Its own: two of one name are told apart by where their names are.
            name: Arc::from(&*self.name),
            node: Arc::clone(&names.node),
            inbox,
            call_timeout,
        };
        FleetLock::over(place, self.settings, store, Some(self.fleet.clone()))
    }
}

impl FleetLock {
    /// Over any store.
    pub(super) fn over(
        place: Place,
        settings: Settings,
        store: Box<dyn LockStore>,
        fleet: Option<Fleet>,
    ) -> Result<Self, ConfigError> {
        let local = match settings.local {
            Some(n) => {
                let local = ResourceLock::builder(format!("{} (local)", place.name));
                Some(local.max_concurrent(n).build()?)
            }
            None => None,
        };
        let reporter = Arc::clone(&place.reporter);
        let shared = Arc::new(Shared::new(place, settings, local, store, fleet));
        reporter.parts.add(&shared);
        Ok(Self {
            owner: Arc::new(Owner(shared)),
        })
    }
}

impl fmt::Debug for FleetLockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetLockBuilder")
            .field("name", &self.name)
            .field("max_concurrent", &self.settings.max_concurrent)
            .field("lease", &self.settings.lease)
            .finish_non_exhaustive()
    }
}
