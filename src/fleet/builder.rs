use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::error::ConnectError;
use super::names::Names;
use super::nodes::{self, Nodes};
use super::redis::{Certificates, Redis, Settings};
use super::reporter::Reporter;
use super::tasks::Tasks;
use super::{Backend, Fleet, Shared};
use crate::event::Observer;

/// How a [`Fleet`] is connected.
pub struct FleetBuilder {
    url: String,
    namespace: String,
    node: Option<String>,
    settings: Settings,
    observers: Vec<Arc<dyn Observer>>,
}

impl Fleet {
    /// Connects to the server at `url`, with the defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// See [`FleetBuilder::connect`].
    pub async fn connect(url: impl Into<String>) -> Result<Self, ConnectError> {
        Self::builder(url).connect().await
    }

    /// A builder for a connection to the server at `url`. See [the module](super) for the forms of it.
    pub fn builder(url: impl Into<String>) -> FleetBuilder {
        FleetBuilder {
            url: url.into(),
            namespace: "bulwark".to_owned(),
            node: None,
            observers: Vec::new(),
            settings: Settings {
                certificates: Certificates::default(),
                allow_eviction: false,
                connect_timeout: Duration::from_secs(1),
                call_timeout: Duration::from_millis(100),
            },
        }
    }
}

impl FleetBuilder {
    /// What all keys and channels begin with. Processes that share something have the same. `bulwark` by default.
    ///
    /// 1 to 64 letters, digits and `.`, `_`, `-`, `:`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// What the others call this process. The name of the host and the number of the process by default.
    ///
    /// A random number is added to it, so that two processes of one name are two. The same characters as in a
    /// [`namespace`](Self::namespace).
    #[must_use]
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// Receives what happens to the fleet in this process, from the first connection on, and everything that its locks and
    /// rate limits report. [`Fleet::observe`] adds one later.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// How long it may take to make a connection: the name of the host, all handshakes, the checks. 1 s by default.
    ///
    /// No call ever waits that long: connections are made beside them.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long a call to the server waits for its answer, unless it says otherwise. 100 ms by default: hundreds of times what a server
    /// nearby takes.
    ///
    /// Five calls in a row that had to wait that long end the connection, and a new one is made.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.settings.call_timeout = timeout;
        self
    }

    /// Accepts a server that evicts keys when its memory is full.
    ///
    /// Limits and locks are keys. Where one is evicted, a limit starts anew and a lock is given to a second holder. Without
    /// this, a server with a `maxmemory-policy` other than `noeviction` is refused. If only breakers and rate limits are
    /// shared, and they may be forgotten, it does no harm.
    #[must_use]
    pub fn allow_eviction(mut self) -> Self {
        self.settings.allow_eviction = true;
        self
    }

    /// Trusts these certificates, in PEM, and not those of the system.
    #[cfg(feature = "redis-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-tls")))]
    #[must_use]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.settings.certificates.roots = Some(pem.into());
        self
    }

    /// Shows this certificate to the server, both in PEM.
    #[cfg(feature = "redis-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-tls")))]
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.settings.certificates.client = Some((certificate.into(), key.into()));
        self
    }

    /// Connects, checks the server, and goes on connecting for as long as the fleet lives.
    ///
    /// Waits at most twice the [`connect_timeout`](Self::connect_timeout). Dropped before it is ready, it leaves nothing.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or is none that a fleet can rely on; see [`ConnectError`].
    pub async fn connect(self) -> Result<Fleet, ConnectError> {
        let (fleet, first) = self.start()?;
        first.await?;
        Ok(fleet)
    }

    /// The same without waiting: the program starts also while the server is away, and each pattern does what it does
    /// without it. What the checks find is in [`Fleet::health`].
    ///
    /// # Errors
    ///
    /// If the URL, a name or a certificate cannot be used, or there is no tokio runtime.
    pub fn connect_in_background(self) -> Result<Fleet, ConnectError> {
        let (fleet, _) = self.start()?;
        Ok(fleet)
    }

    fn start(
        self,
    ) -> Result<(Fleet, impl Future<Output = Result<(), ConnectError>>), ConnectError> {
        let names = Names::new(&self.namespace, self.node.as_deref())?;
        let Settings {
            connect_timeout,
            call_timeout,
            ..
        } = self.settings;
        if connect_timeout.is_zero() || call_timeout.is_zero() {
            let why = "a timeout of zero leaves no time for any answer";
            return Err(ConnectError::Settings(why.to_owned()));
        }
        let runtime = Handle::try_current().map_err(|_| ConnectError::NoRuntime)?;
        let tasks = Tasks::on(runtime);
        let reporter = Arc::new(Reporter::new(Arc::clone(&names.namespace)));
        for observer in &self.observers {
            reporter.add(observer);
        }
        let (redis, first) =
            Redis::start(&self.url, names.clone(), self.settings, &reporter, &tasks)?;
        let nodes = Arc::<Nodes>::default();
        tasks.spawn(nodes::report(
            Arc::downgrade(&nodes),
            redis.clone(),
            names.clone(),
        ))?;
        let shared = Shared {
            names,
            backend: Backend::Redis(redis),
            reporter,
            nodes,
            tasks,
        };
        let fleet = Fleet {
            shared: Arc::new(shared),
        };
        Ok((fleet, first))
    }
}

impl fmt::Debug for FleetBuilder {
    /// Without the URL: it has a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetBuilder")
            .field("namespace", &self.namespace)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
