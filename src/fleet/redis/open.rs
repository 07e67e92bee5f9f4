//! How connections are made. Only tasks do it, never a call.

use std::future::Future;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ProtocolVersion, PushInfo, RedisResult,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::super::error::ConnectError;
use super::super::names::Names;
use super::address::{Address, Certificates, Sentinel, client, tcp};
use super::checks::{self, Lenience, Server};
use super::connection::Connection;
use super::failure;

/// What has to be known to make a connection.
pub(super) struct Opener {
    pub(super) address: Address,
    pub(super) names: Names,
    pub(super) lenience: Lenience,
    /// For all of it: the name of the host, the handshakes, the checks.
    pub(super) within: Duration,
    /// Which sentinel is asked first: another one each time, because one that is cut off may name a former primary.
    pub(super) turn: AtomicUsize,
}

impl Opener {
    /// A connection for commands to a server that has passed the checks. What it pushes tells when it ends.
    pub(super) async fn commands(
        &self,
        pushes: UnboundedSender<PushInfo>,
    ) -> Result<(Connection, Server), ConnectError> {
        self.bounded(async {
            let mut connection = match &self.address {
                Address::One(client) => Connection::One(self.one(client, pushes).await?),
                Address::Sentinel(sentinel) => {
                    let client = self.primary(sentinel).await?;
                    Connection::One(self.one(&client, pushes).await?)
                }
                Address::Cluster {
                    seeds,
                    certificates,
                } => Connection::Cluster(self.cluster(seeds, certificates).await?),
            };
            let server = checks::check(&mut connection, &self.names, self.lenience).await?;
            Ok((connection, server))
        })
        .await
    }

    /// A connection that has subscribed. `turn` chooses among the nodes of a cluster: any of them hands messages on.
    pub(super) async fn messages(
        &self,
        turn: usize,
        pushes: UnboundedSender<PushInfo>,
    ) -> Result<MultiplexedConnection, ConnectError> {
        self.bounded(async {
            let mut connection = match &self.address {
                Address::One(client) => self.one(client, pushes).await?,
                Address::Sentinel(sentinel) => {
                    let client = self.primary(sentinel).await?;
                    self.one(&client, pushes).await?
                }
                Address::Cluster {
                    seeds,
                    certificates,
                } => self.seed(seeds, certificates, turn, &pushes).await?,
            };
            let channels = [self.names.own_channel(), self.names.common_channel()];
            let subscribed = connection.subscribe(&channels).await;
            subscribed.map_err(|error| failure::of_check(&error))?;
            Ok(connection)
        })
        .await
    }

    async fn bounded<T>(
        &self,
        opening: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        match timeout(self.within, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(ConnectError::TimedOut(self.within)),
        }
    }

    async fn one(
        &self,
        client: &Client,
        pushes: UnboundedSender<PushInfo>,
    ) -> Result<MultiplexedConnection, ConnectError> {
        let config = bounds().set_push_sender(pushes);
        let opened = client
            .get_multiplexed_async_connection_with_config(&config)
            .await;
        let mut connection = opened.map_err(|error| failure::of_connect(&error))?;
        // For who reads CLIENT LIST. A user may be forbidden to.
        let name = format!("{}:{}", self.names.namespace, self.names.node);
        let name = Cmd::new().arg("CLIENT").arg("SETNAME").arg(name).to_owned();
        let _: RedisResult<_> = connection.send_packed_command(&name).await;
        Ok(connection)
    }

    async fn cluster(
        &self,
        seeds: &[ConnectionInfo],
        certificates: &Certificates,
    ) -> Result<redis::cluster_async::ClusterConnection, ConnectError> {
        // By itself it would send a command again sixteen times, and take fourteen seconds over it. Once is needed: that
        // is how it follows a slot that has moved.
        let builder = ClusterClient::builder(seeds.iter().cloned())
            .use_protocol(ProtocolVersion::RESP3)
            .tcp_settings(tcp())
            // A node that is away takes its part, and there is time for the others.
            .connection_timeout(self.within / 5)
            .response_timeout(self.within / 5)
            .retries(1)
            .min_retry_wait(5)
            .max_retry_wait(20);
        #[cfg(feature = "redis-tls")]
        let builder = match certificates.for_redis() {
            Some(certificates) => builder.certs(certificates),
            None => builder,
        };
        #[cfg(not(feature = "redis-tls"))]
        let _ = certificates;
        let client = builder
            .build()
            .map_err(|error| failure::of_connect(&error))?;
        match client.get_async_connection().await {
            Ok(cluster) => Ok(cluster),
            Err(error) => {
                // That nothing could be connected is all it says. One node says why.
                let (pushes, _ends) = unbounded_channel();
                self.seed(seeds, certificates, 0, &pushes).await?;
                Err(failure::of_connect(&error))
            }
        }
    }

    /// A connection to the first node of a cluster that can be reached.
    async fn seed(
        &self,
        seeds: &[ConnectionInfo],
        certificates: &Certificates,
        turn: usize,
        pushes: &UnboundedSender<PushInfo>,
    ) -> Result<MultiplexedConnection, ConnectError> {
        let mut last = ConnectError::Url("it names no node".to_owned());
        let share = self.within / (seeds.len() as u32 + 1);
        let (before, first) = seeds.split_at(turn % seeds.len().max(1));
        for seed in first.iter().chain(before) {
            let client = client(seed.clone(), certificates)?;
            match timeout(share, self.one(&client, pushes.clone())).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = error,
                Err(_) => last = ConnectError::TimedOut(share),
            }
        }
        Err(last)
    }

    /// Where the primary is now. The first sentinel that answers is believed; the checks refuse what is none any more.
    async fn primary(&self, sentinel: &Sentinel) -> Result<Client, ConnectError> {
        let mut last = ConnectError::Unreachable("no sentinel was asked".to_owned());
        let share = self.within / (sentinel.sentinels.len() as u32 + 1);
        let turn = self.turn.fetch_add(1, Relaxed) % sentinel.sentinels.len();
        let (before, first) = sentinel.sentinels.split_at(turn);
        for client in first.iter().chain(before) {
            match timeout(share, ask(client, &sentinel.primary)).await {
                Ok(Ok((host, port))) => return sentinel.client_of(host, port),
                // What one of them has said is worth more than that another is away.
                Ok(Err(error)) if matches!(last, ConnectError::Unreachable(_)) => last = error,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(last)
    }
}

/// Calls have deadlines of their own, and connections are made within a time for all of it.
fn bounds() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
}

async fn ask(sentinel: &Client, primary: &str) -> Result<(String, u16), ConnectError> {
    let opened = sentinel
        .get_multiplexed_async_connection_with_config(&bounds())
        .await;
    let mut connection = opened.map_err(|error| failure::of_connect(&error))?;
    let mut question = Cmd::new();
    question
        .arg("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(primary);
    let answer: RedisResult<Option<(String, u16)>> = question.query_async(&mut connection).await;
    match answer {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(ConnectError::Url(format!(
            "the sentinels know no primary called {primary:?}"
        ))),
        Err(error) => Err(failure::of_connect(&error)),
    }
}
