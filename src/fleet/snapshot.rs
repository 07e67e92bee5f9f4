use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::breaker::SharedBreakerSnapshot;
use super::health::Health;
use super::lock::FleetLockSnapshot;
use super::rate_limit::FleetRateLimitSnapshot;
use super::{Backend, Fleet};

/// A fleet at one moment, as this process sees it.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FleetSnapshot {
    /// What all keys and channels begin with.
    pub namespace: Arc<str>,
    /// What the others call this process.
    pub node: Arc<str>,
    /// How the connection stands.
    pub health: Health,
    /// The processes of the namespace.
    pub nodes: NodesSeen,
    /// The breakers that this process shares, by name.
    pub circuit_breakers: Vec<SharedBreakerSnapshot>,
    /// The locks that this process shares, by name.
    pub locks: Vec<FleetLockSnapshot>,
    /// The rate limits that this process shares, by name.
    pub rate_limits: Vec<FleetRateLimitSnapshot>,
}

/// The processes of a fleet, as this one has last heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NodesSeen {
    /// How many there are. This process is one of them.
    pub count: u64,
    /// Their names, by how long ago they were heard of: those that may have ended come first. At most 100.
    pub names: Vec<Arc<str>>,
    /// How long ago that was heard; `None`: it was not heard yet.
    pub age: Option<Duration>,
}

impl NodesSeen {
    /// Of a fleet that is one process.
    pub(super) fn only(node: &Arc<str>) -> Self {
        Self {
            count: 1,
            names: vec![Arc::clone(node)],
            age: Some(Duration::ZERO),
        }
    }
}

/// Something that a fleet shares, and that is seen in its snapshot.
pub(super) trait Part: Send + Sync {
    fn show(&self, snapshot: &mut FleetSnapshot);
}

/// What was made from a fleet, for as long as it is used.
#[derive(Default)]
pub(super) struct Parts(Mutex<Vec<Weak<dyn Part>>>);

impl Parts {
    pub(super) fn add<P: Part + 'static>(&self, part: &Arc<P>) {
        let part: Weak<P> = Arc::downgrade(part);
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|it| it.strong_count() > 0);
        parts.push(part);
    }

    fn all(&self) -> Vec<Arc<dyn Part>> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Fleet {
    /// The fleet and everything that this process shares. Reads what is known, and asks nobody.
    #[must_use]
    pub fn snapshot(&self) -> FleetSnapshot {
        let shared = &self.shared;
        let mut snapshot = FleetSnapshot {
            namespace: Arc::clone(&shared.names.namespace),
            node: Arc::clone(&shared.names.node),
            health: self.health(),
            nodes: match shared.backend {
                Backend::InProcess(_) => NodesSeen::only(&shared.names.node),
                Backend::Redis(_) => shared.nodes.seen(),
            },
            circuit_breakers: Vec::new(),
            locks: Vec::new(),
            rate_limits: Vec::new(),
        };
        for part in shared.reporter.parts.all() {
            part.show(&mut snapshot);
        }
        snapshot
            .circuit_breakers
            .sort_by(|a, b| a.name.cmp(&b.name));
        snapshot.locks.sort_by(|a, b| a.name.cmp(&b.name));
        snapshot.rate_limits.sort_by(|a, b| a.name.cmp(&b.name));
        snapshot
    }
}
