//! The fleets of a registry.

use std::sync::Arc;

use super::Registry;
use crate::fleet::Fleet;

impl Registry {
    /// Registers a fleet under its namespace: what happens to it, and what its locks and rate limits report, is in the
    /// [feed](Self::feed) from now on, and what it shares is in the [snapshot](Self::snapshot), in the metrics and on the
    /// dashboard.
    ///
    /// It takes the place of another fleet of that namespace. The same fleet is registered once.
    ///
    /// ```
    /// use tower_bulwark::Registry;
    /// use tower_bulwark::fleet::Fleet;
    ///
    /// let registry = Registry::new();
    /// let fleet = Fleet::in_process();
    /// registry.add_fleet(&fleet);
    /// assert_eq!(registry.snapshot().fleets[0].nodes.count, 1);
    /// ```
    pub fn add_fleet(&self, fleet: &Fleet) {
        let name = Arc::from(fleet.namespace());
        if !self.shared.fleets.replace(&name, fleet, Fleet::is_same) {
            return;
        }
        if let Some(observer) = self.observer() {
            fleet.observe_with(&observer);
        }
    }

    /// All fleets, by namespace.
    #[must_use]
    pub fn fleets(&self) -> Vec<Fleet> {
        self.shared.fleets.all()
    }

    /// The fleet of that namespace, if there is one.
    #[must_use]
    pub fn get_fleet(&self, namespace: &str) -> Option<Fleet> {
        self.shared.fleets.get(namespace)
    }

    /// Forgets the fleet of that namespace. Whoever has it keeps it, and it goes on to report to the feed.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_fleet(&self, namespace: &str) -> Option<Fleet> {
        self.shared.fleets.remove(namespace)
    }
}
