use std::fmt::Write;

use crate::support::{DatabaseServer, mariadb, postgres};

/// What differs between the databases in how they are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Postgres,
    MariaDb,
}

impl Engine {
    /// A server of the run's own, on which committed means committed.
    pub fn start(self, prepares: bool) -> DatabaseServer {
        match self {
            Self::Postgres => postgres::server()
                .with("fsync", "on")
                .with("synchronous_commit", "on")
                .with("max_prepared_transactions", if prepares { "50" } else { "0" })
                .start(),
            // It shows a commit before it has written it to its log; where it waits for the disk in between,
            // what has been seen may not outlive its process. Here it leaves the disk to the system.
            Self::MariaDb => mariadb::server()
                .with("innodb-flush-log-at-trx-commit", "2")
                .with("innodb-lock-wait-timeout", "20")
                .start(),
        }
    }

    /// Tables for work that has nothing to do with messages, and a trigger that is slow for those who
    /// ask for it: it sleeps between the draw of a row's id and the row itself.
    pub fn set_up(self) -> &'static str {
        match self {
            Self::Postgres => {
                "CREATE TABLE work_a AS SELECT id, 0 AS done FROM generate_series(1, 100) AS id;
                 CREATE TABLE work_b AS SELECT id, 0 AS done FROM generate_series(1, 100) AS id;
                 CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
                 DECLARE seconds float8 := current_setting('history.slow', true);
                 BEGIN
                   PERFORM pg_sleep(seconds / 2);
                   IF current_setting('history.redraw', true) = 'on' THEN
                     NEW.id := nextval('solid_cable_messages_id_seq');
                     PERFORM pg_sleep(seconds / 2);
                   END IF;
                   RETURN NEW;
                 END $$;
                 CREATE TRIGGER slow BEFORE INSERT ON solid_cable_messages FOR EACH ROW
                   WHEN (current_setting('history.slow', true) > '0') EXECUTE FUNCTION slow();"
            }
            Self::MariaDb => {
                "CREATE TABLE work_a (id INT PRIMARY KEY, done INT NOT NULL DEFAULT 0);
                 CREATE TABLE work_b LIKE work_a;
                 INSERT INTO work_a (id) WITH RECURSIVE n AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM n WHERE id < 100) SELECT id FROM n;
                 INSERT INTO work_b SELECT * FROM work_a;
                 CREATE TRIGGER slow BEFORE INSERT ON solid_cable_messages FOR EACH ROW
                   SET @slept = IF(coalesce(@slow, 0) > 0, SLEEP(@slow), 0);"
            }
        }
    }

    /// The database that is always there.
    pub fn first_database(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mysql",
        }
    }

    pub fn can_prepare(self) -> bool {
        self == Self::Postgres
    }

    pub fn can_copy(self) -> bool {
        self == Self::Postgres
    }

    /// Rows inserted by one SELECT hold up all other writers here (InnoDB's lock for ids), so that
    /// they should not take long.
    pub fn slow_select_millis(self) -> f64 {
        match self {
            Self::Postgres => 3000.0,
            Self::MariaDb => 300.0,
        }
    }

    pub fn begin(self, isolation: &str) -> String {
        match self {
            Self::Postgres => format!("BEGIN ISOLATION LEVEL {isolation}"),
            Self::MariaDb => format!("SET TRANSACTION ISOLATION LEVEL {isolation}; BEGIN"),
        }
    }

    /// From now on the trigger sleeps so long in this session.
    pub fn slow(self, seconds: f64, redraws: bool) -> String {
        let redraws = if redraws { "on" } else { "off" };
        match self {
            Self::Postgres => format!("SET history.slow = '{seconds}'; SET history.redraw = {redraws}"),
            Self::MariaDb => format!("SET @slow = {seconds}"),
        }
    }

    pub fn bytes(self, bytes: &[u8]) -> String {
        let mut literal = String::from(match self {
            Self::Postgres => "'\\x",
            Self::MariaDb => "X'",
        });
        for byte in bytes {
            write!(literal, "{byte:02x}").unwrap();
        }
        literal.push('\'');
        literal
    }

    /// An expression that makes bytes of a text.
    pub fn bytes_of(self, text: &str) -> String {
        match self {
            Self::Postgres => format!("convert_to({text}, 'UTF8')"),
            Self::MariaDb => format!("CAST({text} AS BINARY)"),
        }
    }

    pub fn now(self) -> &'static str {
        match self {
            Self::Postgres => "clock_timestamp() AT TIME ZONE 'UTC'",
            Self::MariaDb => "UTC_TIMESTAMP(6)",
        }
    }

    /// A FROM clause that gives `count` rows with an `i` from `first` on, each after a pause.
    pub fn slow_rows(self, first: u32, count: u32, seconds: f64) -> String {
        let last = first + count - 1;
        match self {
            // The sleep refers to the row, or it would be done once for all.
            Self::Postgres => format!(
                "FROM generate_series({first}, {last}) AS i, LATERAL (SELECT pg_sleep({seconds} + 0 * i)) AS pause"
            ),
            Self::MariaDb => {
                format!("FROM (SELECT seq AS i FROM seq_{first}_to_{last}) AS n WHERE SLEEP({seconds}) = 0")
            }
        }
    }

    /// A text expression with the `i` of such a row in it.
    pub fn with_i(self, before: &str, after: &str) -> String {
        match self {
            Self::Postgres => format!("'{before}' || i || '{after}'"),
            Self::MariaDb => format!("CONCAT('{before}', i, '{after}')"),
        }
    }
}
