//! What a server must be before a fleet relies on it. Asked on every new connection: another server may stand there.

use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, FromRedisValue, Value};

use super::super::error::ConnectError;
use super::super::names::Names;
use super::connection::Connection;
use super::failure;
use super::script::{self, Script};

/// Deletes a key that nobody sets, and tells this process: what every script of a fleet does, and nothing is left of it.
pub(super) static PING: Script = Script::new(
    "ping",
    "redis.call('DEL', KEYS[1]) redis.call('PUBLISH', ARGV[1], ARGV[2]) return 1",
);

/// The payload of a message that only tells that messages come through.
pub(super) const NOTHING: &[u8] = b"";

/// What a server says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Server {
    /// `Redis 7.0.15`, `Valkey 9.1.2`.
    pub(super) version: String,
}

/// What is let through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lenience {
    /// Also servers that evict keys.
    pub(super) eviction: bool,
}

/// Asks all that must be known of a server.
pub(super) async fn check(
    connection: &mut Connection,
    names: &Names,
    lenience: Lenience,
) -> Result<Server, ConnectError> {
    let mut server = Server::default();
    for info in infos(connection).await? {
        server = judge(&info, connection.is_cluster(), lenience)?;
    }
    let (keys, args) = ping(names);
    match script::run(connection, &PING, &keys, &args).await {
        Ok(_) => Ok(server),
        Err(error) => match failure::of_check(&error) {
            // The node of this key is away. The others are not, and who asks it is told.
            ConnectError::Store(_) | ConnectError::Replica if connection.is_cluster() => Ok(server),
            error => Err(error),
        },
    }
}

/// The key and the arguments of [`PING`].
pub(super) fn ping(names: &Names) -> ([String; 1], [Vec<u8>; 2]) {
    let args = [names.own_channel().into_bytes(), NOTHING.to_vec()];
    ([names.key("ping", &names.node, "k")], args)
}

/// What each primary says about itself.
async fn infos(connection: &mut Connection) -> Result<Vec<String>, ConnectError> {
    let info = Cmd::new().arg("INFO").to_owned();
    let answer = match connection {
        Connection::One(_) => connection.send(&info).await,
        Connection::Cluster(cluster) => {
            let primaries = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
            let all = cluster.route_command(info.clone(), primaries).await;
            match all.and_then(Value::extract_error) {
                // One that is away does not speak against the others.
                Err(error) if error.code().is_none() => {
                    let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
                    let any = cluster.route_command(info, any).await;
                    any.and_then(Value::extract_error)
                }
                answer => answer,
            }
        }
    };
    let read = |value: Value| {
        String::from_redis_value(value)
            .map_err(|error| failure::of_check(&redis::RedisError::from(error)))
    };
    match answer.map_err(|error| failure::of_check(&error))? {
        Value::Map(nodes) => nodes.into_iter().map(|(_, value)| read(value)).collect(),
        value => Ok(vec![read(value)?]),
    }
}

/// Whether a server that answers `INFO` like this can be used.
fn judge(info: &str, cluster: bool, lenience: Lenience) -> Result<Server, ConnectError> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    // Valkey and others name the version of Redis whose commands they have.
    let version = field("redis_version").unwrap_or_default();
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(ConnectError::TooOld(format!("of version {version:?}")));
    };
    let server = Server {
        version: match field("valkey_version") {
            Some(valkey) => format!("Valkey {valkey}"),
            None => format!("Redis {version}"),
        },
    };
    if (major, minor) < (6, 2) {
        return Err(ConnectError::TooOld(server.version));
    }
    let mode = field("redis_mode").or_else(|| field("server_mode"));
    if mode == Some("cluster") && !cluster {
        return Err(ConnectError::Url(
            "the server is part of a cluster: write `redis-cluster://HOST:PORT,HOST:PORT`"
                .to_owned(),
        ));
    }
    if matches!(field("role"), Some("slave" | "replica")) {
        return Err(ConnectError::Replica);
    }
    // Some hosted servers do not say; theirs is what the operator has chosen.
    match field("maxmemory_policy") {
        Some(policy) if policy != "noeviction" && !lenience.eviction => {
            Err(ConnectError::Evicts(policy.to_owned()))
        }
        _ => Ok(server),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(info: &str) -> Result<Server, ConnectError> {
        judge(info, false, Lenience::default())
    }

    #[test]
    fn a_server_before_6_2_is_refused_and_one_that_names_no_version_too() {
        for (version, fits) in [
            ("6.0.16", false),
            ("5.9", false),
            ("6.2.0", true),
            ("10.1", true),
        ] {
            let judged = says(&format!(
                "# Server\r\nredis_version:{version}\r\nrole:master\r\n"
            ));
            assert_eq!(judged.is_ok(), fits, "{version}: {judged:?}");
        }
        assert!(matches!(says("role:master"), Err(ConnectError::TooOld(_))));
    }

    #[test]
    fn valkey_is_called_by_its_own_name_and_judged_by_the_version_it_is_compatible_with() {
        let server = says("redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n").unwrap();
        assert_eq!(server.version, "Valkey 9.1.2");
    }

    #[test]
    fn eviction_is_refused_unless_it_is_accepted_and_unknown_is_let_through() {
        let info = "redis_version:7.2.4\r\nmaxmemory_policy:volatile-lru\r\n";
        assert_eq!(
            says(info),
            Err(ConnectError::Evicts("volatile-lru".to_owned()))
        );
        assert!(judge(info, false, Lenience { eviction: true }).is_ok());
        assert!(says("redis_version:7.2.4\r\n").is_ok());
    }

    #[test]
    fn a_replica_and_a_node_of_a_cluster_are_not_taken_for_a_server() {
        let replica = "redis_version:7.2.4\r\nrole:slave\r\n";
        assert_eq!(says(replica), Err(ConnectError::Replica));
        // Valkey has another word for it.
        for mode in ["redis_mode", "server_mode"] {
            let node = format!("redis_version:7.2.4\r\n{mode}:cluster\r\nrole:master\r\n");
            assert!(matches!(says(&node), Err(ConnectError::Url(_))));
            assert!(judge(&node, true, Lenience::default()).is_ok());
        }
    }
}
