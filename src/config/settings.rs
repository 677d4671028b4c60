use clap::{Arg, ArgAction};

/// One setting, in all its forms: `--poll-interval`, `TABLECAST_POLL_INTERVAL` and
/// `poll_interval` in the file.
pub struct Setting {
    /// The flag without its dashes; the file's key with `_` or `-`.
    pub key: &'static str,
    /// The first that is set and not empty counts.
    pub env: &'static [&'static str],
    /// As one would write it; none where there is none, or none that is a constant.
    pub default: Option<&'static str>,
    pub kind: Kind,
    pub group: Group,
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value, named so in the help.
    Value(&'static str),
    /// Several that are never shown, and that may hold commas: by repeating the flag, or one a line
    /// in the environment.
    Secrets(&'static str),
    /// Several, separated by commas or by repeating the flag.
    List(&'static str),
    /// Alone it means true.
    Switch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Listeners,
    Database,
    Following,
    Connecting,
    Listening,
    Publishing,
    Limits,
    Operation,
}

impl Group {
    pub const ALL: [Self; 8] = [
        Self::Listeners,
        Self::Database,
        Self::Following,
        Self::Connecting,
        Self::Listening,
        Self::Publishing,
        Self::Limits,
        Self::Operation,
    ];

    pub fn heading(self) -> &'static str {
        match self {
            Self::Listeners => "Listeners",
            Self::Database => "Database",
            Self::Following => "Following the table",
            Self::Connecting => "Who may connect",
            Self::Listening => "Who may listen",
            Self::Publishing => "Publishing by HTTP",
            Self::Limits => "Limits",
            Self::Operation => "Operation",
        }
    }
}

/// All of them, in the order of the help.
pub static SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        env: &["TABLECAST_LISTEN"],
        default: Some("127.0.0.1:8080"),
        kind: Kind::Value("ADDRESS"),
        group: Group::Listeners,
        help: "Public listener: WebSocket",
    },
    Setting {
        key: "internal-listen",
        env: &["TABLECAST_INTERNAL_LISTEN"],
        default: Some("127.0.0.1:8081"),
        kind: Kind::Value("ADDRESS"),
        group: Group::Listeners,
        help: "Listener for workers and operators: publish, metrics. On an address that isn't loopback it needs --publish-key",
    },
    Setting {
        key: "tls-cert",
        env: &["TABLECAST_TLS_CERT"],
        default: None,
        kind: Kind::Value("FILE"),
        group: Group::Listeners,
        help: "Certificate of the public listener, PEM, those that vouch for it behind it: that listener speaks TLS (wss:, https:) alone then. Read again when it changes, and on SIGHUP [default: none]",
    },
    Setting {
        key: "tls-key",
        env: &["TABLECAST_TLS_KEY"],
        default: None,
        kind: Kind::Value("FILE"),
        group: Group::Listeners,
        help: "Private key of the certificate, PEM, not encrypted [default: none]",
    },
    Setting {
        key: "path",
        env: &["TABLECAST_PATH"],
        default: Some("/cable"),
        kind: Kind::Value("PATH"),
        group: Group::Listeners,
        help: "Path of the WebSocket",
    },
    Setting {
        key: "compression",
        env: &["TABLECAST_COMPRESSION"],
        default: Some("false"),
        kind: Kind::Switch,
        group: Group::Listeners,
        help: "Compress messages of a kilobyte and more (permessage-deflate) for clients that offer it, once for all of them",
    },
    Setting {
        key: "allowed-hosts",
        env: &["TABLECAST_ALLOWED_HOSTS"],
        default: None,
        kind: Kind::List("HOSTS"),
        group: Group::Listeners,
        help: "Host names that requests may be addressed to, a * for one label. On a loopback address localhost, *.localhost, 127.0.0.0/8 and [::1] always are [default: on a loopback address these alone, on others any]",
    },
    Setting {
        key: "trusted-proxies",
        env: &["TABLECAST_TRUSTED_PROXIES"],
        default: None,
        kind: Kind::List("ADDRESSES"),
        group: Group::Listeners,
        help: "Proxies whose X-Forwarded-For and X-Forwarded-Host are believed on the public listener: addresses and networks such as 10.0.0.0/8. Limits by address count the client behind them, and its page's host is compared with the one that they were asked for [default: none]",
    },
    Setting {
        key: "database-url",
        env: &["TABLECAST_DATABASE_URL", "DATABASE_URL"],
        default: Some("sqlite://tablecast.db"),
        kind: Kind::Value("URL"),
        group: Group::Database,
        help: "The database with the table: sqlite:FILE, postgres://user:password@host/database, mysql://…; Rails' sqlite3:, postgresql:, mysql2: and trilogy: too",
    },
    Setting {
        key: "database-url-file",
        env: &["TABLECAST_DATABASE_URL_FILE"],
        default: None,
        kind: Kind::Value("FILE"),
        group: Group::Database,
        help: "A file with the URL, for one that holds a password [default: none]",
    },
    Setting {
        key: "table",
        env: &["TABLECAST_TABLE"],
        default: Some("solid_cable_messages"),
        kind: Kind::Value("NAME"),
        group: Group::Database,
        help: "The table of messages",
    },
    Setting {
        key: "channel-prefix",
        env: &["TABLECAST_CHANNEL_PREFIX", "CABLE_PREFIX"],
        default: None,
        kind: Kind::Value("PREFIX"),
        group: Group::Database,
        help: "The prefix of one's streams, as Rails' channel_prefix; a server serves no others. No colon in it [default: none]",
    },
    Setting {
        key: "sqlite-synchronous",
        env: &["TABLECAST_SQLITE_SYNCHRONOUS"],
        default: Some("normal"),
        kind: Kind::Value("HOW"),
        group: Group::Database,
        help: "When an HTTP publish is answered: normal (it outlives a crash of the process) or full (and a power failure)",
    },
    Setting {
        key: "owns-table",
        env: &["TABLECAST_OWNS_TABLE"],
        default: None,
        kind: Kind::Switch,
        group: Group::Following,
        help: "Without a prefix: trim all rows [default: true where tablecast made the table]",
    },
    Setting {
        key: "retention",
        env: &["TABLECAST_RETENTION"],
        default: Some("1d"),
        kind: Kind::Value("TIME"),
        group: Group::Following,
        help: "Rows older than this are trimmed, of one's own prefix alone; off keeps them",
    },
    Setting {
        key: "poll-interval",
        env: &["TABLECAST_POLL_INTERVAL"],
        default: Some("100ms"),
        kind: Kind::Value("TIME"),
        group: Group::Following,
        help: "The longest that an idle tail sleeps where nothing wakes it",
    },
    Setting {
        key: "wake",
        env: &["TABLECAST_WAKE"],
        default: Some("auto"),
        kind: Kind::Value("HOW"),
        group: Group::Following,
        help: "What wakes the tail: notify (changes of SQLite's file, NOTIFY on PostgreSQL; an error without), poll, or auto: both",
    },
    Setting {
        key: "allow-anonymous",
        env: &["TABLECAST_ALLOW_ANONYMOUS"],
        default: Some("false"),
        kind: Kind::Switch,
        group: Group::Connecting,
        help: "Let in who shows neither token nor cookie too, though one is asked for: to what is public, and by signed names",
    },
    Setting {
        key: "connection-name",
        env: &["TABLECAST_CONNECTION_NAME"],
        default: None,
        kind: Kind::Value("NAME"),
        group: Group::Connecting,
        help: "By what name the application ends a user's connections, made of claims: {gid(User, user.id)} as Rails' identified_by :current_user has it [default: a token's ext or sub, a cookie's id, the first column of --session-query]",
    },
    Setting {
        key: "jwt-key",
        env: &["TABLECAST_JWT_KEY"],
        default: None,
        kind: Kind::Secrets("KEY"),
        group: Group::Connecting,
        help: "What the application signs JWTs with: a text, or a public key in PEM (RSA, P-256, Ed25519). Of several any will do. Who connects is asked for a token then [default: --secret, which judges tokens and asks for none]",
    },
    Setting {
        key: "jwt-key-file",
        env: &["TABLECAST_JWT_KEY_FILE"],
        default: None,
        kind: Kind::Value("FILE"),
        group: Group::Connecting,
        help: "A file with it, or with several, one a line [default: none]",
    },
    Setting {
        key: "jwks",
        env: &["TABLECAST_JWKS"],
        default: None,
        kind: Kind::Value("FILE|URL"),
        group: Group::Connecting,
        help: "A JWKS with public keys of JWTs, a file or a URL of https or http. Who connects is asked for a token then [default: none]",
    },
    Setting {
        key: "jwks-refresh",
        env: &["TABLECAST_JWKS_REFRESH"],
        default: Some("10m"),
        kind: Kind::Value("TIME"),
        group: Group::Connecting,
        help: "How often the JWKS is read again; for a token with a key that it hadn't it is too, at most each 30 seconds",
    },
    Setting {
        key: "jwt-algorithms",
        env: &["TABLECAST_JWT_ALGORITHMS"],
        default: None,
        kind: Kind::List("NAMES"),
        group: Group::Connecting,
        help: "Algorithms of JWTs that are accepted, of HS256, HS384, HS512, RS256, ES256, EdDSA [default: HS256 for a text, RS256, ES256 or EdDSA for a key of theirs, these three for a JWKS]",
    },
    Setting {
        key: "jwt-audience",
        env: &["TABLECAST_JWT_AUDIENCE"],
        default: None,
        kind: Kind::List("NAMES"),
        group: Group::Connecting,
        help: "A JWT must be for one of these (aud) [default: any, and none]",
    },
    Setting {
        key: "jwt-issuer",
        env: &["TABLECAST_JWT_ISSUER"],
        default: None,
        kind: Kind::Value("NAME"),
        group: Group::Connecting,
        help: "A JWT must be from it (iss) [default: any, and none]",
    },
    Setting {
        key: "jwt-leeway",
        env: &["TABLECAST_JWT_LEEWAY"],
        default: Some("10s"),
        kind: Kind::Value("TIME"),
        group: Group::Connecting,
        help: "How far the clocks of who makes JWTs and of this server may be apart",
    },
    Setting {
        key: "rails-cookie",
        env: &["TABLECAST_RAILS_COOKIE"],
        default: None,
        kind: Kind::Value("KIND:NAME"),
        group: Group::Connecting,
        help: "The Rails cookie that says who a visitor is: signed:session_id, encrypted:NAME, or session:_my_app_session for the session itself [default: none]",
    },
    Setting {
        key: "rails-identity",
        env: &["TABLECAST_RAILS_IDENTITY"],
        default: None,
        kind: Kind::Value("PATH"),
        group: Group::Connecting,
        help: "Where in the cookie's value the id stands, a text or a whole number: user_id, warden.user.user.key.0.0. A session needs one [default: the value itself]",
    },
    Setting {
        key: "secret-key-base",
        env: &["TABLECAST_SECRET_KEY_BASE", "SECRET_KEY_BASE"],
        default: None,
        kind: Kind::Secrets("TEXT"),
        group: Group::Connecting,
        help: "The Rails application's secret_key_base, from which the keys of its cookies and of Turbo's stream names are derived; several, in the order in which they are tried, by repeating the flag or as an array in the file [default: none]",
    },
    Setting {
        key: "secret-key-base-file",
        env: &["TABLECAST_SECRET_KEY_BASE_FILE"],
        default: None,
        kind: Kind::Value("FILE"),
        group: Group::Connecting,
        help: "A file with it, or with several, one a line [default: none]",
    },
    Setting {
        key: "rails-signed-key",
        env: &["TABLECAST_RAILS_SIGNED_KEY"],
        default: None,
        kind: Kind::Secrets("HEX"),
        group: Group::Connecting,
        help: "In place of it, the key of signed cookies alone, 128 hexadecimal digits, of which commas may separate several: bin/rails runner 'puts Rails.application.key_generator.generate_key(\"signed cookie\").unpack1(\"H*\")' [default: none]",
    },
    Setting {
        key: "rails-signed-key-file",
        env: &["TABLECAST_RAILS_SIGNED_KEY_FILE"],
        default: None,
        kind: Kind::Value("FILE"),
        group: Group::Connecting,
        help: "A file with it, or with several, one a line [default: none]",
    },
    Setting {
        key: "rails-encrypted-key",
        env: &["TABLECAST_RAILS_ENCRYPTED_KEY"],
        default: None,
        kind: Kind::Secrets("HEX"),
        group: Group::Connecting,
        help: "In place of it, the key of encrypted cookies and the session alone, 64 hexadecimal digits (32 for AES-128-GCM): bin/rails runner 'puts Rails.application.key_generator.generate_key(\"authenticated encrypted cookie\", 32).unpack1(\"H*\")' [default: none]",
    },
    Setting {
        key: "rails-encrypted-key-file",
        env: &["TABLECAST_RAILS_ENCRYPTED_KEY_FILE"],
        default: None,
        kind: Kind::Value("FILE"),
        group: Group::Connecting,
        help: "A file with it, or with several, one a line [default: none]",
    },
    Setting {
        key: "rails-key-digest",
        env: &["TABLECAST_RAILS_KEY_DIGEST"],
        default: Some("sha256"),
        kind: Kind::List("DIGESTS"),
        group: Group::Connecting,
        help: "What keys are derived with from secret_key_base: sha256, as with load_defaults 7.0 and later, sha1 as before, or both in the order in which they are tried",
    },
    Setting {
        key: "rails-cookie-digest",
        env: &["TABLECAST_RAILS_COOKIE_DIGEST"],
        default: Some("sha1"),
        kind: Kind::Value("DIGEST"),
        group: Group::Connecting,
        help: "What signed cookies are signed with: sha1, or sha256 where the application sets signed_cookie_digest",
    },
    Setting {
        key: "rails-unbound-cookies",
        env: &["TABLECAST_RAILS_UNBOUND_COOKIES"],
        default: Some("false"),
        kind: Kind::Switch,
        group: Group::Connecting,
        help: "Read cookies too that don't say which cookie they are, as applications with load_defaults below 6.0 write them: any that such an application signs can then stand in for the one that says who a visitor is",
    },
    Setting {
        key: "rails-cbc-cookies",
        env: &["TABLECAST_RAILS_CBC_COOKIES"],
        default: Some("false"),
        kind: Kind::Switch,
        group: Group::Connecting,
        help: "Read encrypted cookies too as Rails wrote them before 5.2 (AES-256-CBC), with keys derived from secret_key_base",
    },
    Setting {
        key: "session-query",
        env: &["TABLECAST_SESSION_QUERY"],
        default: None,
        kind: Kind::Value("SQL"),
        group: Group::Connecting,
        help: "The query by which the session in a cookie is looked up: SELECT user_id FROM sessions WHERE id = $1. Its first column says who it is (NULL, or no row: nobody), each column is a claim. The session's column is compared with $1 itself, or also selected AS session_key [default: none]",
    },
    Setting {
        key: "session-database-url",
        env: &["TABLECAST_SESSION_DATABASE_URL"],
        default: None,
        kind: Kind::Value("URL"),
        group: Group::Connecting,
        help: "The database of --session-query, which is only read [default: --database-url]",
    },
    Setting {
        key: "session-recheck",
        env: &["TABLECAST_SESSION_RECHECK"],
        default: Some("1m"),
        kind: Kind::Value("TIME"),
        group: Group::Connecting,
        help: "How often the sessions of open connections are asked for again; those that are gone or another user's end. A database that is away ends none. off never asks",
    },
    Setting {
        key: "session-cache",
        env: &["TABLECAST_SESSION_CACHE"],
        default: Some("5s"),
        kind: Kind::Value("TIME"),
        group: Group::Connecting,
        help: "How long a session that was found is good for further connections; 0 asks each time",
    },
    Setting {
        key: "session-connections",
        env: &["TABLECAST_SESSION_CONNECTIONS"],
        default: Some("4"),
        kind: Kind::Value("NUMBER"),
        group: Group::Connecting,
        help: "Connections to the database of --session-query; who gets none within 3 s is refused, and may come back",
    },
    Setting {
        key: "public-streams",
        env: &["TABLECAST_PUBLIC_STREAMS"],
        default: None,
        kind: Kind::List("PATTERNS"),
        group: Group::Listening,
        help: "Streams that anybody may subscribe to by name (progress:*), through $pubsub or any channel with a stream or stream_name parameter; * matches anything [default: none]",
    },
    Setting {
        key: "public-channel",
        env: &["TABLECAST_PUBLIC_CHANNEL"],
        default: None,
        kind: Kind::List("NAME=STREAM"),
        group: Group::Listening,
        help: "A channel that anybody may subscribe to, and its stream: 'ProgressChannel=progress:{job_id}'. In the file it is a [[channel]] [default: none]",
    },
    Setting {
        key: "global-id-app",
        env: &["TABLECAST_GLOBAL_ID_APP"],
        default: None,
        kind: Kind::Value("NAME"),
        group: Group::Listening,
        help: "The Rails application's name in its GlobalIDs (GlobalID.app, my-app for MyApp), for gid() in rules [default: none]",
    },
    Setting {
        key: "allowed-origins",
        env: &["TABLECAST_ALLOWED_ORIGINS"],
        default: None,
        kind: Kind::List("ORIGINS"),
        group: Group::Listening,
        help: "Pages that may connect, besides those of the same host: https://app.example.com, https://*.example.com (one label); * alone is any, and clients that name none [default: none]",
    },
    Setting {
        key: "publish-key",
        env: &["TABLECAST_PUBLISH_KEY"],
        default: None,
        kind: Kind::Secrets("KEY"),
        group: Group::Publishing,
        help: "Bearer key for POST /broadcast and /disconnect; of several (a flag, an item of the file's array or a line of the variable each) any is good, so that they can be changed one after the other. In the file a [[publish_key]] has a key or a key_file, and can be limited to streams [default: from --secret, else none: open on loopback]",
    },
    Setting {
        key: "publish-key-file",
        env: &["TABLECAST_PUBLISH_KEY_FILE"],
        default: None,
        kind: Kind::Value("FILE"),
        group: Group::Publishing,
        help: "A file with it, or with several, one a line [default: none]",
    },
    Setting {
        key: "secret",
        env: &["TABLECAST_SECRET"],
        default: None,
        kind: Kind::Secrets("TEXT"),
        group: Group::Publishing,
        help: "The application's secret, as AnyCable has it: JWTs and signed stream names are judged with it, and the publish key is derived from it. Of several any will do [default: none]",
    },
    Setting {
        key: "secret-file",
        env: &["TABLECAST_SECRET_FILE"],
        default: None,
        kind: Kind::Value("FILE"),
        group: Group::Publishing,
        help: "A file with it, or with several, one a line [default: none]",
    },
    Setting {
        key: "public-publish",
        env: &["TABLECAST_PUBLIC_PUBLISH"],
        default: Some("false"),
        kind: Kind::Switch,
        group: Group::Publishing,
        help: "Serve POST /broadcast and /disconnect on the public listener too; needs a key",
    },
    Setting {
        key: "max-payload-bytes",
        env: &["TABLECAST_MAX_PAYLOAD_BYTES"],
        default: Some("1MiB"),
        kind: Kind::Value("SIZE"),
        group: Group::Limits,
        help: "The largest message; larger rows are skipped, larger publishes refused",
    },
    Setting {
        key: "max-broadcast-bytes",
        env: &["TABLECAST_MAX_BROADCAST_BYTES"],
        default: Some("8MiB"),
        kind: Kind::Value("SIZE"),
        group: Group::Limits,
        help: "The largest body of POST /broadcast",
    },
    Setting {
        key: "max-broadcast-messages",
        env: &["TABLECAST_MAX_BROADCAST_MESSAGES"],
        default: Some("1000"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "The longest array of POST /broadcast",
    },
    Setting {
        key: "max-pending-bytes",
        env: &["TABLECAST_MAX_PENDING_BYTES"],
        default: Some("64MiB"),
        kind: Kind::Value("SIZE"),
        group: Group::Limits,
        help: "What may wait for the database, 256 bytes and the payload for each message; more gets 429",
    },
    Setting {
        key: "max-connections",
        env: &["TABLECAST_MAX_CONNECTIONS"],
        default: None,
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "Open sockets of the public listener; more get 503 [default: what the limit of file descriptors leaves]",
    },
    Setting {
        key: "max-connections-per-address",
        env: &["TABLECAST_MAX_CONNECTIONS_PER_ADDRESS"],
        default: Some("off"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "Open sockets of one address on the public listener, of an IPv6 address those of its /64; more get 429. Behind one of --trusted-proxies: WebSockets of the client's address",
    },
    Setting {
        key: "accept-rate",
        env: &["TABLECAST_ACCEPT_RATE"],
        default: Some("2000"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "New sockets a second on the public listener; more wait",
    },
    Setting {
        key: "max-connections-per-user",
        env: &["TABLECAST_MAX_CONNECTIONS_PER_USER"],
        default: Some("off"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "Connections of one identity, by its name; more are ended with reconnect true (max_connections_per_user)",
    },
    Setting {
        key: "handshake-rate",
        env: &["TABLECAST_HANDSHAKE_RATE"],
        default: Some("off"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "WebSocket handshakes a second, and at once; more get 503",
    },
    Setting {
        key: "handshake-rate-per-address",
        env: &["TABLECAST_HANDSHAKE_RATE_PER_ADDRESS"],
        default: Some("off"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "WebSocket handshakes of one address a second, and at once; more get 429",
    },
    Setting {
        key: "max-header-bytes",
        env: &["TABLECAST_MAX_HEADER_BYTES"],
        default: Some("32KiB"),
        kind: Kind::Value("SIZE"),
        group: Group::Limits,
        help: "All headers of a request; more get 431",
    },
    Setting {
        key: "max-query-bytes",
        env: &["TABLECAST_MAX_QUERY_BYTES"],
        default: Some("8KiB"),
        kind: Kind::Value("SIZE"),
        group: Group::Limits,
        help: "The query of a request; a longer one gets 414",
    },
    Setting {
        key: "max-subscriptions",
        env: &["TABLECAST_MAX_SUBSCRIPTIONS"],
        default: Some("1000"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "Subscriptions of a connection; more are rejected",
    },
    Setting {
        key: "max-identifier-bytes",
        env: &["TABLECAST_MAX_IDENTIFIER_BYTES"],
        default: Some("4KiB"),
        kind: Kind::Value("SIZE"),
        group: Group::Limits,
        help: "The longest identifier of a subscription; longer ones are rejected",
    },
    Setting {
        key: "max-command-bytes",
        env: &["TABLECAST_MAX_COMMAND_BYTES"],
        default: Some("64KiB"),
        kind: Kind::Value("SIZE"),
        group: Group::Limits,
        help: "The largest message of a client; a larger one ends the connection (close code 1009)",
    },
    Setting {
        key: "rate-limit",
        env: &["TABLECAST_RATE_LIMIT"],
        default: Some("100"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "Commands and pings a second of a connection; more end it with reconnect true (rate_limit)",
    },
    Setting {
        key: "rate-burst",
        env: &["TABLECAST_RATE_BURST"],
        default: Some("1000"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "Commands that a connection may send at once",
    },
    Setting {
        key: "send-buffer-bytes",
        env: &["TABLECAST_SEND_BUFFER_BYTES"],
        default: Some("1MiB"),
        kind: Kind::Value("SIZE"),
        group: Group::Limits,
        help: "What may wait for a slow client, though one message always fits where less than half of it waits; of a state (state = true) the latest message stays, and more of others ends the connection with reconnect true (slow_consumer)",
    },
    Setting {
        key: "write-timeout",
        env: &["TABLECAST_WRITE_TIMEOUT"],
        default: Some("30s"),
        kind: Kind::Value("TIME"),
        group: Group::Limits,
        help: "How long a client may take nothing of what waits for it; then its connection ends (write_timeout)",
    },
    Setting {
        key: "drain-timeout",
        env: &["TABLECAST_DRAIN_TIMEOUT"],
        default: Some("10s"),
        kind: Kind::Value("TIME"),
        group: Group::Limits,
        help: "How long a server that was told to stop may take to say goodbye",
    },
    Setting {
        key: "log",
        env: &["TABLECAST_LOG"],
        default: Some("text"),
        kind: Kind::Value("FORMAT"),
        group: Group::Operation,
        help: "Log lines as text or json, on standard error",
    },
    Setting {
        key: "log-level",
        env: &["TABLECAST_LOG_LEVEL", "RUST_LOG"],
        default: Some("info"),
        kind: Kind::Value("FILTER"),
        group: Group::Operation,
        help: "What is logged: error, warn, info, debug, trace, or directives such as tablecast=debug",
    },
];

/// The flags of some groups, and `--config`.
pub fn args(groups: &[Group]) -> Vec<Arg> {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("Settings file [default: ./tablecast.toml if it is there] [env: TABLECAST_CONFIG]")
        .help_heading(Group::Operation.heading());
    let settings = SETTINGS.iter().filter(|setting| groups.contains(&setting.group));
    settings.map(Setting::arg).chain([config]).collect()
}

impl Setting {
    fn arg(&self) -> Arg {
        let default = self.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let help = format!("{}{default} [env: {}]", self.help, self.env.join(", "));
        let arg = Arg::new(self.key)
            .long(self.key)
            .help(help)
            .help_heading(self.group.heading())
            .allow_negative_numbers(true);
        match self.kind {
            Kind::Value(name) => arg.value_name(name),
            Kind::List(name) => arg.value_name(name).action(ArgAction::Append),
            // A PEM begins with dashes, and a secret may.
            Kind::Secrets(name) => arg.value_name(name).action(ArgAction::Append).allow_hyphen_values(true),
            Kind::Switch => arg
                .value_name("true|false")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
        }
    }
}
