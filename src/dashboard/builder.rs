use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;

use super::command::{Authorize, Command, Denied, Operator};
use super::groups::{Groups, Shown};
use super::live::{Live, Settings};
use super::router::{self, Shared};
use crate::keyed::{Instance, Keyed};
use crate::registry::Registry;

/// The page of a registry. A cheap clone.
#[derive(Clone)]
pub struct Dashboard {
    shared: Shared,
}

/// Sets up a [`Dashboard`].
#[must_use = "nothing is made before `build`"]
pub struct DashboardBuilder {
    registry: Registry,
    title: String,
    groups: Groups,
    authorize: Option<Authorize>,
    every: Duration,
    most_readers: usize,
}

const SHORTEST: Duration = Duration::from_millis(100);

impl Dashboard {
    /// Starts with a page that shows all of a registry and takes no commands.
    pub fn builder(registry: &Registry) -> DashboardBuilder {
        DashboardBuilder {
            registry: registry.clone(),
            title: "tower-bulwark".to_owned(),
            groups: Groups::default(),
            authorize: None,
            every: Duration::from_secs(1),
            most_readers: 32,
        }
    }

    /// The routes, to be served as they are or nested anywhere.
    pub fn router(&self) -> axum::Router {
        router::router(self.shared.clone())
    }
}

impl DashboardBuilder {
    /// What the page is called. Default: `tower-bulwark`.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// How often what is shown is made anew, while somebody looks: at least 100 ms. Default: a second.
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = interval.max(SHORTEST);
        self
    }

    /// How many may look at once. Default: 32. Those beyond get `503`, and come again.
    pub fn most_readers(mut self, n: usize) -> Self {
        self.most_readers = n;
        self
    }

    /// Shows the worst of a group of instances by key: of circuit breakers, resource locks or rate limits. They need not be in
    /// the registry.
    pub fn keyed<K, T>(mut self, name: impl Into<String>, keyed: &Keyed<K, T>) -> Self
    where
        K: Hash + Eq + Clone + fmt::Display + Send + Sync + 'static,
        T: Instance + Send + Sync + 'static,
        T::Snapshot: Shown,
    {
        self.groups.add(name.into(), keyed.clone());
        self
    }

    /// Takes commands, if `authorize` says for each who gives it: from the headers of the request, or from what a layer around
    /// the router has put into its extensions. Default: no commands.
    ///
    /// ```
    /// use tower_bulwark::Registry;
    /// use tower_bulwark::dashboard::{Dashboard, Denied, Operator};
    ///
    /// let dashboard = Dashboard::builder(Registry::global())
    ///     .commands(|request, command| match request.headers.get("x-user") {
    ///         Some(user) => Ok(Operator::new(user.to_str().unwrap_or("?"))),
    ///         None => Err(Denied::new(format!("who wants to command `{}`?", command.name))),
    ///     })
    ///     .build();
    /// # let _ = dashboard;
    /// ```
    pub fn commands(
        mut self,
        authorize: impl Fn(&Parts, &Command) -> Result<Operator, Denied> + Send + Sync + 'static,
    ) -> Self {
        self.authorize = Some(Arc::new(authorize));
        self
    }

    /// Makes the page.
    #[must_use]
    pub fn build(self) -> Dashboard {
        let settings = Settings {
            title: self.title,
            groups: self.groups,
            commands: self.authorize.is_some(),
            every: self.every,
            most_readers: self.most_readers,
        };
        let live = Arc::new(Live::new(self.registry, settings));
        Dashboard {
            shared: Shared {
                live,
                authorize: self.authorize,
            },
        }
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard")
            .field("commands", &self.shared.authorize.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DashboardBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DashboardBuilder")
            .field("title", &self.title)
            .field("commands", &self.authorize.is_some())
            .finish_non_exhaustive()
    }
}
