//! What differs between the databases, but for the servers themselves.

use crate::harness::report::Figure;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Postgres,
    MariaDb,
}

impl Engine {
    pub const ALL: [Self; 2] = [Self::Postgres, Self::MariaDb];

    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
        }
    }

    pub fn figure(self) -> Figure {
        Figure::new().with("database", self.name())
    }

    /// Rows for `$first..=$last` of a series, whose ages go from `age_s` seconds down to none.
    /// Channels come in turns, each with Rails' hash.
    pub fn insert_rows(self, lead: &str, channels: u64, numbers: (u64, u64), of: u64, age_s: u64) -> String {
        let (first, last) = numbers;
        let text = "x".repeat(100);
        match self {
            Self::Postgres => format!(
                r#"INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
                SELECT c.channel, convert_to('{{"percent":' || i % 100 || ',"text":"{text}"}}', 'UTF8'),
                  (clock_timestamp() AT TIME ZONE 'UTC') - make_interval(secs => ({of} - i) * {age_s}::float8 / {of}),
                  ('x' || encode(substr(sha256(c.channel), 1, 8), 'hex'))::bit(64)::int8
                FROM generate_series({first}, {last}) AS i,
                  LATERAL (SELECT convert_to('{lead}' || i % {channels}, 'UTF8') AS channel) AS c"#
            ),
            Self::MariaDb => format!(
                r#"INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
                SELECT CONCAT('{lead}', seq % {channels}), CONCAT('{{"percent":', seq % 100, ',"text":"{text}"}}'),
                  UTC_TIMESTAMP(6) - INTERVAL ({of} - seq) * {age_s} / {of} SECOND,
                  CAST(CONV(LEFT(SHA2(CONCAT('{lead}', seq % {channels}), 256), 16), 16, -10) AS SIGNED)
                FROM seq_{first}_to_{last}"#
            ),
        }
    }

    /// What gives the statements that drop all indexes but the primary key's, and what gives those
    /// that make them again. Each row is a statement.
    pub fn indexes(self) -> [&'static str; 2] {
        match self {
            Self::Postgres => [
                "SELECT 'DROP INDEX ' || quote_ident(indexname) FROM pg_indexes
                 WHERE tablename = 'solid_cable_messages' AND indexname NOT LIKE '%_pkey'",
                "SELECT indexdef FROM pg_indexes
                 WHERE tablename = 'solid_cable_messages' AND indexname NOT LIKE '%_pkey'",
            ],
            Self::MariaDb => [
                "SELECT DISTINCT CONCAT('ALTER TABLE solid_cable_messages DROP INDEX `', index_name, '`')
                 FROM information_schema.statistics WHERE table_schema = DATABASE()
                   AND table_name = 'solid_cable_messages' AND index_name <> 'PRIMARY'",
                "SELECT CONCAT('ALTER TABLE solid_cable_messages ADD INDEX `', index_name, '` (',
                   GROUP_CONCAT('`', column_name, '`' ORDER BY seq_in_index), ')')
                 FROM information_schema.statistics WHERE table_schema = DATABASE()
                   AND table_name = 'solid_cable_messages' AND index_name <> 'PRIMARY' GROUP BY index_name",
            ],
        }
    }

    /// Makes statistics current and, on PostgreSQL, leaves a vacuum nothing to do.
    pub fn tidy(self) -> &'static str {
        match self {
            Self::Postgres => "VACUUM (ANALYZE) solid_cable_messages",
            Self::MariaDb => "ANALYZE TABLE solid_cable_messages",
        }
    }

    /// Payloads as text, in the order of ids.
    pub fn payloads(self) -> &'static str {
        match self {
            Self::Postgres => "SELECT convert_from(payload, 'UTF8') FROM solid_cable_messages ORDER BY id",
            Self::MariaDb => "SELECT CONVERT(payload USING utf8mb4) FROM solid_cable_messages ORDER BY id",
        }
    }

    /// How much has been done in the database `bench`, by all but who asks on PostgreSQL: its
    /// transactions, which are statements where nobody says BEGIN; MariaDB counts those.
    pub fn work(self) -> &'static str {
        match self {
            Self::Postgres => {
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'bench'"
            }
            Self::MariaDb => {
                "SELECT CAST(variable_value AS SIGNED) FROM information_schema.global_status
                 WHERE variable_name = 'QUESTIONS'"
            }
        }
    }
}
