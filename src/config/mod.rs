//! Settings from flags, environment and file, made into what the program runs with.
//!
//! [`settings`] lists every setting once, as data: the flags, their help, the names in the
//! environment and the keys of the file all come from there. [`values`] gathers what was given,
//! text with its origin; this module turns it into a [`Config`], and tells all that is wrong
//! with it at once. Nothing else in the program reads the environment.

mod identity;
mod jwt;
mod lookup;
mod publish_keys;
pub mod safety;
mod settings;
mod values;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::ExposeSecret;

use identity::identification;
pub use identity::{CookieKind, RailsCookie, RailsSecrets, signed_names};
pub use jwt::{jwt, signing_secret};
pub use publish_keys::publish_keys;
pub use settings::{Group, SETTINGS, Setting, args};
pub use values::{ConfigError, Values};

use crate::bus::{BusConfig, DatabaseUrl, Wake, sqlite};
use crate::channels::{Channels, Doors, GlobalIdApp, Pattern, Rule, TemplateError};
use crate::connection;
use crate::http::{self, ClientLimits, Hosts, Origins, Proxies, PublishKeys};
use crate::identity::IdentificationConfig;
use crate::stream::Prefix;
use crate::telemetry::LogFormat;
use crate::tls;

/// What a server runs with.
#[derive(Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub internal_listen: SocketAddr,
    /// What the public listener speaks TLS with.
    pub tls: Option<tls::Files>,
    pub bus: BusConfig,
    pub path: String,
    pub allowed_origins: Origins,
    pub allowed_hosts: Hosts,
    pub identification: IdentificationConfig,
    pub trusted_proxies: Proxies,
    pub channels: Channels,
    pub publish_keys: PublishKeys,
    pub public_publish: bool,
    pub compression: bool,
    pub connection: connection::Limits,
    pub replay: ReplayLimits,
    pub http: http::Limits,
    pub drain_timeout: Duration,
    /// For what is unsafe about all of it together.
    pub facts: safety::Facts,
}

/// How to log; read before anything else so that there is a log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    pub format: LogFormat,
    pub filter: String,
}

impl LogConfig {
    pub fn resolve(values: &mut Values) -> Self {
        Self {
            format: values.parse("log", |text| match text {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("it must be text or json".into()),
            }),
            filter: values.parse("log-level", |text| {
                let parsed = tracing_subscriber::EnvFilter::try_new(text);
                parsed.map(|_| text.to_owned()).map_err(|error| error.to_string())
            }),
        }
    }
}

/// What clients that come back are given.
#[derive(Debug, Clone, Copy)]
pub struct ReplayLimits {
    /// How old a position may be; none where it wasn't said: as old as rows are kept.
    pub window: Option<Option<Duration>>,
    pub max_messages: usize,
    pub memory_bytes: usize,
}

impl BusConfig {
    /// What all commands need that touch the database.
    pub fn resolve(values: &mut Values) -> Self {
        Self {
            url: values
                .parse("database-url", |text| DatabaseUrl::parse(text).map_err(|error| error.to_string())),
            table: values.parse("table", table),
            prefix: values
                .optional("channel-prefix", |text| Prefix::new(text).map_err(|error| error.to_string()))
                .unwrap_or_default(),
            owns_table: values.optional("owns-table", switch),
            retention: values
                .parse("retention", |text| if text == "off" { Ok(None) } else { duration(text).map(Some) }),
            poll_interval: values.parse("poll-interval", |text| match duration(text)? {
                Duration::ZERO => Err("it must be more than nothing".into()),
                interval => Ok(interval),
            }),
            wake: values.parse("wake", |text| match text {
                "auto" => Ok(Wake::Auto),
                "notify" => Ok(Wake::Notify),
                "poll" => Ok(Wake::Poll),
                _ => Err("it must be notify, poll or auto".into()),
            }),
            max_payload_bytes: values.parse("max-payload-bytes", bytes),
            max_pending_bytes: values.parse("max-pending-bytes", bytes),
            marks_superseded: false,
            replay_connections: values.parse("replay-connections", positive),
            sqlite_synchronous: values.parse("sqlite-synchronous", |text| match text {
                "normal" => Ok(sqlite::Synchronous::Normal),
                "full" => Ok(sqlite::Synchronous::Full),
                _ => Err("it must be normal or full".into()),
            }),
        }
    }
}

impl Config {
    /// Reads every setting; what is wrong with them is in `values` afterwards.
    pub fn resolve(values: &mut Values) -> Self {
        let mut bus = BusConfig::resolve(values);
        let rails = RailsSecrets::resolve(values);
        let global_id_app = values
            .optional("global-id-app", |text| text.parse::<GlobalIdApp>().map_err(|error| error.to_string()));
        let channels = channels(values, &rails, global_id_app.clone(), bus.prefix.clone());
        let cookie = RailsCookie::resolve(values, &rails);
        let identification = identification(values, cookie.as_ref(), global_id_app, &bus.url);
        bus.marks_superseded = channels.have_states();
        let mut secrets = secret_lengths(values);
        let publish_keys = publish_keys(values, &mut secrets);
        let internal_listen: SocketAddr = values.parse("internal-listen", address);
        if !internal_listen.ip().is_loopback() && publish_keys.is_empty() {
            values.complain(format!(
                "--internal-listen {internal_listen} can be reached from elsewhere, and anybody there could publish: \
                 set --publish-key (or --secret), or listen on a loopback address"
            ));
        }
        let public_publish = values.parse("public-publish", switch);
        if public_publish && publish_keys.is_empty() {
            values.complain("--public-publish needs a --publish-key (or --secret): it opens publishing to all who can reach --listen".into());
        }
        let listen: SocketAddr = values.parse("listen", address);
        let tls = tls_files(values);
        let allowed_origins =
            Origins::new(&values.list("allowed-origins"), tls.is_some()).unwrap_or_else(|error| {
                values.complain(format!("--allowed-origins: {error}"));
                Origins::new(&[], tls.is_some()).expect("none is wrong")
            });
        let jwks = identification.jwt.as_ref().and_then(|jwt| jwt.jwks.as_ref());
        let audience = identification.jwt.as_ref().map(|jwt| jwt.audience.as_slice());
        let facts = safety::Facts {
            is_reachable: !listen.ip().to_canonical().is_loopback(),
            speaks_tls: tls.is_some(),
            is_behind_proxy: values.is_given("trusted-proxies"),
            takes_any_origin: allowed_origins.is_any(),
            cookies_identify: identification.cookie.is_some(),
            something_identifies: identification.can_identify(),
            publishing_is_open: publish_keys.is_empty(),
            every_stream_is_public: channels.open_everything(),
            secrets,
            rules_for_identified: channels.for_identified(),
            rules_without_keys: channels.without_keys(),
            undermined_rules: channels.undermined(),
            reads_cbc_in_vain: cookie.is_some_and(|cookie| cookie.reads_cbc_in_vain()),
            plain_jwks: jwks.filter(|jwks| jwks.source.can_be_altered()).map(|jwks| jwks.source.to_string()),
            takes_tokens_for_others: jwks.is_some() && audience.is_some_and(<[String]>::is_empty),
        };
        Self {
            listen,
            internal_listen,
            tls,
            path: values.parse("path", |text| {
                let good = text.starts_with('/')
                    && text.len() > 1
                    && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#{}*:".contains(&b));
                let taken =
                    ["/events", "/position", "/history", "/health", "/ready", "/broadcast", "/disconnect"]
                        .contains(&text);
                if good && !taken {
                    Ok(text.to_owned())
                } else {
                    Err("it must be a path of one's own such as /cable".into())
                }
            }),
            allowed_origins,
            allowed_hosts: Hosts::new(&values.list("allowed-hosts")),
            identification,
            trusted_proxies: Proxies::new(&values.list("trusted-proxies")).unwrap_or_else(|error| {
                values.complain(format!("--trusted-proxies: {error}"));
                Proxies::default()
            }),
            channels,
            publish_keys,
            public_publish,
            compression: values.parse("compression", switch),
            connection: connection::Limits {
                max_subscriptions: values.parse("max-subscriptions", positive),
                max_identifier_bytes: values.parse("max-identifier-bytes", bytes),
                max_command_bytes: values.parse("max-command-bytes", bytes),
                send_buffer_bytes: values.parse("send-buffer-bytes", bytes),
                write_timeout: values.parse("write-timeout", duration),
                rate_limit: values.parse("rate-limit", positive),
                rate_burst: values.parse("rate-burst", positive),
                max_connections_per_user: values.parse("max-connections-per-user", or_off),
            },
            replay: ReplayLimits {
                window: values.optional("resume-window", |text| {
                    if text == "off" { Ok(None) } else { duration(text).map(Some) }
                }),
                max_messages: values.parse("max-replay", positive),
                memory_bytes: values.parse("replay-memory-bytes", bytes),
            },
            http: http::Limits {
                max_connections: values.optional("max-connections", positive),
                accept_rate: values.parse("accept-rate", positive),
                clients: ClientLimits {
                    max_connections_per_address: values.parse("max-connections-per-address", or_off),
                    handshake_rate: values.parse("handshake-rate", or_off),
                    handshake_rate_per_address: values.parse("handshake-rate-per-address", or_off),
                },
                max_header_bytes: values.parse("max-header-bytes", bytes),
                max_query_bytes: values.parse("max-query-bytes", bytes),
                max_broadcast_bytes: values.parse("max-broadcast-bytes", bytes),
                max_broadcast_messages: values.parse("max-broadcast-messages", positive),
                max_payload_bytes: bus.max_payload_bytes,
            },
            drain_timeout: values.parse("drain-timeout", duration),
            facts,
            bus,
        }
    }
}

fn tls_files(values: &mut Values) -> Option<tls::Files> {
    let mut file = |key| values.optional(key, |text| Ok(PathBuf::from(text)));
    match (file("tls-cert"), file("tls-key")) {
        (Some(certificate), Some(key)) => Some(tls::Files { certificate, key }),
        (None, None) => None,
        (given, _) => {
            let (given, missing) =
                if given.is_some() { ("--tls-cert", "--tls-key") } else { ("--tls-key", "--tls-cert") };
            values.complain(format!(
                "{given} is nothing without {missing}: TLS takes a certificate and its key"
            ));
            None
        }
    }
}

fn channels(
    values: &mut Values,
    rails: &RailsSecrets,
    global_id_app: Option<GlobalIdApp>,
    prefix: Prefix,
) -> Channels {
    let mut rules = values.rules();
    for text in values.list("public-channel") {
        let rule = text
            .split_once('=')
            .ok_or_else(|| "it must be NAME=STREAM, such as ProgressChannel=progress:{job_id}".to_owned());
        let rule = rule.and_then(|(name, stream)| {
            let stream = stream.parse().map_err(|error: TemplateError| error.to_string())?;
            Rule::public(name, stream).map_err(|error| error.to_string())
        });
        match rule {
            Ok(rule) => rules.push(rule),
            Err(reason) => values.complain(format!("--public-channel {text}: {reason}")),
        }
    }
    let doors = Doors {
        rules,
        public_streams: values.list("public-streams").iter().map(|text| Pattern::new(text)).collect(),
        signed_names: signed_names(values, rails),
        global_id_app,
    };
    Channels::new(doors, prefix.clone()).unwrap_or_else(|error| {
        values.complain(error.to_string());
        Channels::new(Doors::default(), prefix).expect("no rule is wrong")
    })
}

/// Of each secret that a key is made of.
fn secret_lengths(values: &mut Values) -> Vec<(&'static str, usize)> {
    let mut lengths = Vec::new();
    for (key, name) in [
        ("secret", "--secret"),
        ("secret-key-base", "--secret-key-base"),
        ("jwt-key", "--jwt-key"),
        ("publish-key", "--publish-key"),
    ] {
        let secrets = values.secrets(key);
        lengths.extend(secrets.iter().map(|secret| (name, secret.expose_secret().len())));
    }
    lengths
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text
        .to_socket_addrs()
        .map_err(|error| format!("it must be an address and a port such as 127.0.0.1:8080 ({error})"))?;
    found.next().ok_or_else(|| "the name has no address".into())
}

/// What can be added to a clock's time anywhere.
const LONGEST_TIME: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("it must be a time such as 100ms, 10s or 1d ({error})"))?;
    if time <= LONGEST_TIME { Ok(time) } else { Err("it must be at most ten years".into()) }
}

fn bytes(text: &str) -> Result<usize, String> {
    let size: ByteSize =
        text.parse().map_err(|error| format!("it must be a size such as 65536 or 64KiB ({error})"))?;
    match usize::try_from(size.as_u64()) {
        Ok(0) | Err(_) => Err("it must be more than nothing and less than all memory".into()),
        Ok(bytes) => Ok(bytes),
    }
}

fn positive<T: TryFrom<u32>>(text: &str) -> Result<T, String> {
    let number: u32 = text.replace('_', "").parse().map_err(|_| "it must be a number".to_owned())?;
    match T::try_from(number) {
        Ok(value) if number > 0 => Ok(value),
        _ => Err("it must be a number from 1 on".into()),
    }
}

/// A limit that there may not be.
fn or_off<T: TryFrom<u32>>(text: &str) -> Result<Option<T>, String> {
    if text == "off" { Ok(None) } else { positive(text).map(Some) }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err("it must be true or false".into()),
    }
}

/// A plain name: it goes into SQL, where a name can't be a parameter.
fn table(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let begins_well = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if plain
        && begins_well
        && text.len() <= 63
        && !text.starts_with("tablecast_")
        && !text.starts_with("sqlite_")
    {
        Ok(text.to_owned())
    } else {
        Err("it must be a plain name of at most 63 letters, digits and _, and not tablecast_* or sqlite_*"
            .into())
    }
}

#[cfg(test)]
mod tests;
