//! Where the server is, as a URL says it.

#[cfg(target_os = "linux")]
use std::time::Duration;

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion,
    RedisConnectionInfo,
};

use redis::io::tcp::TcpSettings;
#[cfg(feature = "redis-tls")]
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::super::error::ConnectError;

/// What servers call the library of a connection in `CLIENT LIST`.
const LIBRARY: &str = "tower-bulwark";

/// What encrypts a connection, in PEM.
#[derive(Clone, Default)]
pub(in super::super) struct Certificates {
    /// Instead of the roots of the system.
    #[cfg(feature = "redis-tls")]
    pub(in super::super) roots: Option<Vec<u8>>,
    /// Certificate and key of this client.
    #[cfg(feature = "redis-tls")]
    pub(in super::super) client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Where the server is.
pub(super) enum Address {
    One(Client),
    /// Nodes of a cluster, of which one that answers is enough.
    Cluster {
        seeds: Vec<ConnectionInfo>,
        certificates: Certificates,
    },
    Sentinel(Sentinel),
}

/// Sentinels, which know the primary.
pub(super) struct Sentinel {
    pub(super) sentinels: Vec<Client>,
    /// What they call it.
    pub(super) primary: String,
    /// How it is talked to. The address is that of a sentinel.
    settings: ConnectionInfo,
    certificates: Certificates,
}

impl Address {
    /// Reads `redis://`, `redis-cluster://`, `redis-sentinel://` and their forms with TLS.
    pub(super) fn parse(url: &str, certificates: Certificates) -> Result<Self, ConnectError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            let why = "it has to begin with `redis://`, `redis-cluster://` or `redis-sentinel://`";
            return Err(ConnectError::Url(why.to_owned()));
        };
        let (kind, tls) = match scheme.split_once('-') {
            Some((scheme, kind)) => (kind, matches!(scheme, "rediss" | "valkeys")),
            None => ("", matches!(scheme, "rediss" | "valkeys")),
        };
        if tls {
            tls_is_possible()?;
        }
        let scheme = if tls { "rediss" } else { "redis" };
        match kind {
            "" => Ok(Self::One(client(read(url)?, &certificates)?)),
            "cluster" => {
                let infos = urls(scheme, rest, "6379");
                let seeds = infos
                    .iter()
                    .map(|url| read(url))
                    .collect::<Result<_, _>>()?;
                Ok(Self::Cluster {
                    seeds,
                    certificates,
                })
            }
            "sentinel" => Sentinel::parse(&urls(scheme, rest, "26379"), certificates),
            _ => Err(ConnectError::Url(format!("`{kind}` is not known"))),
        }
    }
}

impl Sentinel {
    fn parse(urls: &[String], certificates: Certificates) -> Result<Address, ConnectError> {
        let unknown = || ConnectError::Url("it names no sentinel".to_owned());
        let first = urls.first().ok_or_else(unknown)?;
        let query = redis::parse_redis_url(first).ok_or_else(unknown)?;
        let asked = |name: &str| {
            let mut pairs = query.query_pairs();
            pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
        };
        let primary = asked("sentinelMasterId").ok_or_else(|| {
            let why = "`redis-sentinel://` needs what the sentinels call the primary: `?sentinelMasterId=NAME`";
            ConnectError::Url(why.to_owned())
        })?;
        // A sentinel has users of its own, and no databases.
        let mut own = settings(RedisConnectionInfo::default());
        if let Some(user) = asked("sentinelUsername") {
            own = own.set_username(user);
        }
        if let Some(password) = asked("sentinelPassword") {
            own = own.set_password(password);
        }
        let sentinel =
            |url: &String| client(read(url)?.set_redis_settings(own.clone()), &certificates);
        Ok(Address::Sentinel(Self {
            sentinels: urls.iter().map(sentinel).collect::<Result<_, _>>()?,
            primary,
            settings: read(first)?,
            certificates,
        }))
    }

    /// The client for a primary that a sentinel has named.
    pub(super) fn client_of(&self, host: String, port: u16) -> Result<Client, ConnectError> {
        let at = match self.settings.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure,
                tls_params,
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        client(self.settings.clone().set_addr(at), &self.certificates)
    }
}

/// One URL for each of the hosts, which stand between commas, with all else that the URL says.
fn urls(scheme: &str, rest: &str, port: &str) -> Vec<String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let hosts = hosts.split(',').map(|host| {
        // An IPv6 address has colons of its own, in brackets.
        let has_port = host.rsplit(']').next().is_some_and(|it| it.contains(':'));
        let port = if has_port {
            String::new()
        } else {
            format!(":{port}")
        };
        format!("{scheme}://{user}{host}{port}{after}")
    });
    hosts.collect()
}

fn read(url: &str) -> Result<ConnectionInfo, ConnectError> {
    let info = url.into_connection_info().map_err(|error| {
        // Not the URL: it has a password.
        ConnectError::Url(
            error
                .detail()
                .map_or_else(|| error.to_string(), str::to_owned),
        )
    })?;
    let redis = settings(info.redis_settings().clone());
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp()))
}

fn settings(redis: RedisConnectionInfo) -> RedisConnectionInfo {
    // RESP3: a connection that ends says so by itself, and one that subscribes can be asked whether it still stands.
    redis
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name(LIBRARY, env!("CARGO_PKG_VERSION"))
}

pub(super) fn tcp() -> TcpSettings {
    let tcp = TcpSettings::default().set_nodelay(true);
    // What is sent into a route that is lost fails after this, and not after a quarter of an hour.
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(Duration::from_secs(5));
    tcp
}

#[cfg(not(feature = "redis-tls"))]
pub(super) fn client(info: ConnectionInfo, _: &Certificates) -> Result<Client, ConnectError> {
    Client::open(info).map_err(|error| ConnectError::Url(error.to_string()))
}

#[cfg(feature = "redis-tls")]
pub(super) fn client(
    info: ConnectionInfo,
    certificates: &Certificates,
) -> Result<Client, ConnectError> {
    let encrypted = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    certificates.check()?;
    match (encrypted, certificates.for_redis()) {
        (true, Some(certificates)) => Client::build_with_tls(info, certificates)
            .map_err(|error| ConnectError::Tls(error.to_string())),
        _ => Client::open(info).map_err(|error| ConnectError::Url(error.to_string())),
    }
}

#[cfg(feature = "redis-tls")]
impl Certificates {
    /// Roots without a certificate in them would trust nobody, and no error would say why.
    fn check(&self) -> Result<(), ConnectError> {
        let Some(roots) = &self.roots else {
            return Ok(());
        };
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(roots).collect();
        match read {
            Ok(read) if !read.is_empty() => Ok(()),
            Ok(_) => Err(ConnectError::Tls(
                "the roots hold no certificate in PEM".to_owned(),
            )),
            Err(error) => Err(ConnectError::Tls(format!(
                "the roots cannot be read: {error}"
            ))),
        }
    }

    pub(super) fn for_redis(&self) -> Option<redis::TlsCertificates> {
        if self.roots.is_none() && self.client.is_none() {
            return None;
        }
        let client = self.client.clone();
        Some(redis::TlsCertificates {
            client_tls: client.map(|(client_cert, client_key)| redis::ClientTlsConfig {
                client_cert,
                client_key,
            }),
            root_cert: self.roots.clone(),
        })
    }
}

#[cfg(not(feature = "redis-tls"))]
fn tls_is_possible() -> Result<(), ConnectError> {
    Err(ConnectError::Tls(
        "it needs the feature `redis-tls`".to_owned(),
    ))
}

/// Without a provider, rustls panics at the first connection.
#[cfg(feature = "redis-tls")]
fn tls_is_possible() -> Result<(), ConnectError> {
    if rustls::crypto::CryptoProvider::get_default().is_some() {
        return Ok(());
    }
    let why = "rustls has no crypto provider: at the start of the program, call \
               `rustls::crypto::ring::default_provider().install_default()`, or that of `aws_lc_rs`";
    Err(ConnectError::Tls(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, ConnectError> {
        Address::parse(url, Certificates::default())
    }

    fn at(info: &ConnectionInfo) -> String {
        let redis = info.redis_settings();
        let user = redis.username().unwrap_or_default();
        let password = redis.password().unwrap_or_default();
        format!("{user}:{password}@{}/{}", info.addr(), redis.db())
    }

    #[test]
    fn a_cluster_has_a_seed_for_each_host_with_the_user_of_the_url() {
        let Ok(Address::Cluster { seeds, .. }) =
            parse("redis-cluster://u:p%2C@a,b:7000,[::1]:7001,[fe80::2]")
        else {
            panic!()
        };
        let seeds: Vec<_> = seeds.iter().map(at).collect();
        let expected = [
            "u:p,@a:6379/0",
            "u:p,@b:7000/0",
            "u:p,@::1:7001/0",
            "u:p,@fe80::2:6379/0",
        ];
        assert_eq!(seeds, expected);
    }

    #[test]
    fn a_sentinel_has_users_and_a_port_of_its_own_and_the_primary_keeps_those_of_the_url() {
        let url = "redis-sentinel://u:p@a,b:7000/3?sentinelMasterId=main&sentinelPassword=s%26t";
        let Ok(Address::Sentinel(sentinel)) = parse(url) else {
            panic!()
        };
        let sentinels = sentinel.sentinels.iter();
        let sentinels: Vec<_> = sentinels.map(|it| at(it.get_connection_info())).collect();
        assert_eq!(sentinels, [":s&t@a:26379/0", ":s&t@b:7000/0"]);
        assert_eq!(sentinel.primary, "main");
        let primary = sentinel.client_of("10.0.0.7".to_owned(), 6380).unwrap();
        assert_eq!(at(primary.get_connection_info()), "u:p@10.0.0.7:6380/3");
    }

    #[test]
    fn a_url_that_cannot_be_used_is_an_error_that_says_what_is_missing_and_shows_no_password() {
        for (url, says) in [
            ("localhost:6379", "begin with `redis://`"),
            ("http://u:secret@localhost", "URL"),
            ("redis-ring://u:secret@localhost", "`ring` is not known"),
            ("redis://u:secret@localhost/x", ""),
            (
                "redis-sentinel://u:secret@localhost",
                "sentinelMasterId=NAME",
            ),
            ("redis-cluster://", ""),
        ] {
            let Err(error) = parse(url) else {
                panic!("{url} is taken")
            };
            let text = error.to_string();
            assert!(text.contains(says) && !text.contains("secret"), "{text}");
            assert!(matches!(error, ConnectError::Url(_)), "{error:?}");
        }
    }

    #[test]
    fn no_error_shows_a_password_that_was_not_encoded() {
        for kind in ["redis", "redis-cluster", "redis-sentinel"] {
            for special in [
                "@", "/", "#", "?", ",", "[", "]", " ", "%", "%zz", ":", "|", "\\",
            ] {
                for url in [
                    format!("{kind}://u:12{special}secret@localhost/0?sentinelMasterId=a"),
                    format!("{kind}://u:secret{special}x@localhost/0?sentinelMasterId=a"),
                    format!("{kind}://u:secret{special}@localhost/x?sentinelMasterId=a"),
                    format!("{kind}://{special}secret@localhost:99999?sentinelMasterId=a"),
                    format!("{kind}://localhost?sentinelPassword={special}secret"),
                ] {
                    if let Err(error) = parse(&url) {
                        let text = format!("{error} {error:?}");
                        assert!(!text.contains("secret"), "{url}: {text}");
                    }
                }
            }
        }
    }

    #[cfg(not(feature = "redis-tls"))]
    #[test]
    fn without_the_feature_tls_is_refused_with_its_name() {
        let Err(error) = parse("rediss://localhost") else {
            panic!()
        };
        assert!(error.to_string().contains("redis-tls"), "{error}");
    }
}
