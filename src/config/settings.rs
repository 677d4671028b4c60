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
    /// A value that is never shown.
    Secret(&'static str),
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
    Listening,
    Publishing,
    Limits,
    Operation,
}

impl Group {
    pub const ALL: [Self; 7] = [
        Self::Listeners,
        Self::Database,
        Self::Following,
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
        key: "database-url",
        env: &["TABLECAST_DATABASE_URL", "DATABASE_URL"],
        default: Some("sqlite://tablecast.db"),
        kind: Kind::Value("URL"),
        group: Group::Database,
        help: "The database with the table: sqlite:FILE, postgres://user:password@host/database, mysql://…; Rails' sqlite3:, postgresql:, mysql2: and trilogy: too",
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
        kind: Kind::Secret("KEY"),
        group: Group::Publishing,
        help: "Bearer key for POST /broadcast [default: from --secret, else none: open on loopback]",
    },
    Setting {
        key: "secret",
        env: &["TABLECAST_SECRET"],
        default: None,
        kind: Kind::Secret("TEXT"),
        group: Group::Publishing,
        help: "The application's secret, from which the publish key is derived as AnyCable does [default: none]",
    },
    Setting {
        key: "public-publish",
        env: &["TABLECAST_PUBLIC_PUBLISH"],
        default: Some("false"),
        kind: Kind::Switch,
        group: Group::Publishing,
        help: "Serve POST /broadcast on the public listener too; needs a key",
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
        key: "accept-rate",
        env: &["TABLECAST_ACCEPT_RATE"],
        default: Some("2000"),
        kind: Kind::Value("NUMBER"),
        group: Group::Limits,
        help: "New sockets a second on the public listener; more wait",
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
            Kind::Value(name) | Kind::Secret(name) => arg.value_name(name),
            Kind::List(name) => arg.value_name(name).action(ArgAction::Append),
            Kind::Switch => arg
                .value_name("true|false")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
        }
    }
}
