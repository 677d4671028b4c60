use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use super::engine::Engine;
use super::journal::{Outcome, Transaction};
use super::reader::{MARKER, unpack};
use super::session::Session;
use super::{Name, PREFIX, SHARED_STREAMS, STREAMS, Stage, stream_name};

/// How a writer works for some seconds, until it chooses anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Autocommit,
    Short,
    Long,
    Savepoints,
    RollsBack,
    ManyRows,
    Copy,
    SlowSelect,
    /// By a trigger that sleeps between the draw of an id and its row.
    SlowTrigger,
    /// Has a transaction id long before it publishes.
    WorksBefore,
    Prepares,
}

const STYLES: [Style; 11] = [
    Style::Autocommit,
    Style::Short,
    Style::Long,
    Style::Savepoints,
    Style::RollsBack,
    Style::ManyRows,
    Style::Copy,
    Style::SlowSelect,
    Style::SlowTrigger,
    Style::WorksBefore,
    Style::Prepares,
];

/// A prefix that nobody serves here, and that begins with the one that is served.
const FOREIGN: &str = "historybook";

struct Writer {
    stage: Arc<Stage>,
    number: u16,
    random: SmallRng,
    session: Option<Session>,
    /// The number of its next message.
    next: u32,
}

/// Writes until the run is over; gives back all that it did.
pub async fn write(stage: Arc<Stage>, number: u16) -> Vec<Transaction> {
    let random = stage.random(number.into());
    let mut writer = Writer { stage, number, random, session: None, next: 0 };
    let mut journal = Vec::new();
    while !writer.stage.is_over() {
        let style = writer.choose_style();
        let longest_pause = writer.random.random_range(1..200);
        let end = writer.stage.now() + writer.random.random_range(500..6000);
        while writer.stage.now() < end && !writer.stage.is_over() {
            let transaction = writer.transaction(journal.len() as u32, style).await;
            journal.push(transaction);
            writer.pause(0..longest_pause).await;
        }
    }
    journal
}

/// Publishes one message on each stream, after which none comes.
pub async fn publish_markers(stage: &Stage) {
    let mut sql = Insert::table(stage.engine);
    for stream in 0..STREAMS {
        let payload = format!(r#"{{"w":{MARKER},"t":0,"n":{stream}}}"#);
        sql.row(PREFIX, &stream_name(stream), &payload);
    }
    Session::open(stage).await.unwrap().run(sql.sql).await.unwrap();
}

impl Writer {
    fn choose_style(&mut self) -> Style {
        loop {
            let style = *STYLES.choose(&mut self.random).unwrap();
            let can = match style {
                Style::Copy => self.stage.engine.can_copy(),
                Style::Prepares => self.stage.prepares,
                _ => true,
            };
            if can {
                return style;
            }
        }
    }

    async fn pause(&mut self, millis: std::ops::Range<u64>) {
        let millis = self.random.random_range(millis);
        sleep(Duration::from_millis(millis)).await;
    }

    /// Connects for as long as it takes.
    async fn connect(&mut self) -> Result<Option<i32>, sqlx::Error> {
        if self.session.is_none() {
            self.session = Some(loop {
                match Session::open(&self.stage).await {
                    Ok(session) => break session,
                    Err(_) => self.pause(20..200).await,
                }
            });
        }
        self.session().backend().await
    }

    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("it is connected")
    }

    async fn transaction(&mut self, number: u32, style: Style) -> Transaction {
        let backend = loop {
            match self.connect().await {
                Ok(backend) => break backend,
                Err(_) => self.session = None,
            }
        };
        let mut transaction = Transaction {
            number,
            style: format!("{style:?}"),
            backend,
            // Before it begins: whatever a connection has shown by now is there before this.
            after: self.choose_seen(),
            began: self.stage.now(),
            committing: None,
            ended: 0,
            first: self.next,
            end: self.next,
            left_out: Vec::new(),
            outcome: Outcome::Unknown,
            error: None,
        };
        let slot = self.number as usize;
        self.stage.backends[slot].store(backend.unwrap_or(0), Relaxed);
        let result = self.perform(&mut transaction, style).await;
        self.stage.backends[slot].store(0, Relaxed);
        transaction.outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                let refused = is_refusal(&error);
                transaction.error = Some(error.to_string());
                // A session that is slow would stay so, and make a statement of many rows take minutes.
                let stays = refused && style != Style::SlowTrigger;
                if !stays || self.session().run("ROLLBACK".into()).await.is_err() {
                    self.session = None;
                }
                let unknown = !refused && transaction.committing.is_some();
                if unknown { Outcome::Unknown } else { Outcome::RolledBack }
            }
        };
        transaction.end = self.next;
        transaction.ended = self.stage.now();
        transaction
    }

    fn choose_seen(&mut self) -> Option<Name> {
        let seen = self.stage.seen.choose(&mut self.random).unwrap().load(Relaxed);
        self.random.random_bool(0.6).then(|| unpack(seen)).flatten()
    }

    async fn perform(&mut self, transaction: &mut Transaction, style: Style) -> Result<Outcome, sqlx::Error> {
        let stage = self.stage.clone();
        let engine = stage.engine;
        if style == Style::SlowTrigger {
            let (seconds, redraws) = (self.random.random_range(0.01..2.0), self.random.random());
            self.session().run(engine.slow(seconds, redraws)).await?;
        }
        let rows = self.random.random_range(1..=3);
        if style == Style::Autocommit
            || matches!(style, Style::SlowSelect | Style::SlowTrigger | Style::Copy) && self.random.random()
        {
            transaction.committing = Some(stage.now());
            match style {
                Style::SlowSelect => self.slow_select(transaction).await?,
                Style::Copy => self.copy(transaction).await?,
                _ => self.insert(transaction, rows).await?,
            }
            return self.reset(style, Outcome::Committed).await;
        }

        let isolation = ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
        let isolation = isolation.choose(&mut self.random).unwrap();
        self.session().run(engine.begin(isolation)).await?;
        match style {
            Style::Autocommit | Style::Short => {
                for _ in 0..rows {
                    self.insert(transaction, 1).await?;
                }
            }
            Style::RollsBack => {
                self.insert(transaction, rows).await?;
                self.pause(0..500).await;
                match self.random.random_range(0..4) {
                    // It fails, and everything with it.
                    0 => self.session().run("SELECT nothing FROM nowhere".into()).await?,
                    // It hangs up.
                    1 => self.session = None,
                    _ => self.session().run("ROLLBACK".into()).await?,
                }
                return Ok(Outcome::RolledBack);
            }
            Style::Long => {
                self.insert(transaction, rows).await?;
                let parts = self.random.random_range(1..=3);
                for _ in 0..parts {
                    self.pause(500 / parts..6000 / parts).await;
                    self.insert(transaction, 1).await?;
                }
                if self.random.random() {
                    self.pause(0..1000).await;
                }
            }
            Style::Savepoints => {
                for number in 0..rows {
                    self.session().run(format!("SAVEPOINT s{number}")).await?;
                    let first = self.next;
                    let count = self.random.random_range(1..=3);
                    self.insert(transaction, count).await?;
                    self.pause(0..100).await;
                    if self.random.random() {
                        self.session().run(format!("ROLLBACK TO SAVEPOINT s{number}")).await?;
                        transaction.left_out.extend(first..self.next);
                    } else if self.random.random() {
                        self.session().run(format!("RELEASE SAVEPOINT s{number}")).await?;
                    }
                }
                self.insert(transaction, 1).await?;
            }
            Style::ManyRows => {
                let count = self.random.random_range(2..=40);
                self.insert(transaction, count).await?;
            }
            Style::Copy => self.copy(transaction).await?,
            Style::SlowSelect => self.slow_select(transaction).await?,
            Style::SlowTrigger => self.insert(transaction, rows).await?,
            Style::WorksBefore | Style::Prepares => {
                for table in ["work_a", "work_b"] {
                    let row = self.random.random_range(1..=100);
                    let sql = format!("UPDATE {table} SET done = done + 1 WHERE id = {row}");
                    self.session().run(sql).await?;
                    self.pause(0..1000).await;
                }
                for _ in 0..rows {
                    self.insert(transaction, 1).await?;
                }
            }
        }
        if style == Style::Prepares {
            return Ok(self.prepare(transaction).await);
        }
        transaction.committing = Some(stage.now());
        self.session().run("COMMIT".into()).await?;
        self.reset(style, Outcome::Committed).await
    }

    /// Lets the trigger sleep no more; what was committed stays so if this fails.
    async fn reset(&mut self, style: Style, outcome: Outcome) -> Result<Outcome, sqlx::Error> {
        let quick = self.stage.engine.slow(0.0, false);
        if style == Style::SlowTrigger && self.session().run(quick).await.is_err() {
            self.session = None;
        }
        Ok(outcome)
    }

    async fn prepare(&mut self, transaction: &mut Transaction) -> Outcome {
        let name = format!("{}/{}", self.number, transaction.number);
        if self.session().run(format!("PREPARE TRANSACTION '{name}'")).await.is_err() {
            self.session = None;
        }
        self.pause(0..4000).await;
        let (end, outcome) = match self.random.random_range(0..6) {
            0 => ("ROLLBACK", Outcome::RolledBack),
            _ => ("COMMIT", Outcome::Committed),
        };
        transaction.committing = Some(self.stage.now());
        loop {
            let result = match self.connect().await {
                Ok(_) => self.session().run(format!("{end} PREPARED '{name}'")).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => return outcome,
                // There is none (any more): it was ended by an attempt of which nothing was heard, or
                // never prepared.
                Err(error) if sql_state(&error).as_deref() == Some("42704") => return Outcome::Unknown,
                Err(error) => {
                    transaction.error = Some(error.to_string());
                    self.session = None;
                }
            }
        }
    }

    /// Inserts rows by one statement: straight into the table as Rails does, or by the publishing view.
    async fn insert(&mut self, transaction: &mut Transaction, rows: u32) -> Result<(), sqlx::Error> {
        let engine = self.stage.engine;
        let mut insert = if self.random.random() { Insert::table(engine) } else { Insert::view(engine) };
        for _ in 0..rows {
            let (prefix, stream) = self.address();
            let number = self.draw(transaction, prefix, 1);
            let payload = format!("{}{number}}}", self.head(transaction));
            insert.row(prefix, &stream_name(stream), &payload);
        }
        if self.random.random() {
            self.session().run(insert.sql).await
        } else {
            self.session().run_in_steps(insert.sql).await
        }
    }

    async fn slow_select(&mut self, transaction: &mut Transaction) -> Result<(), sqlx::Error> {
        let engine = self.stage.engine;
        let rows = 500_f64.powf(self.random.random()) as u32;
        let seconds = self.random.random_range(0.0..engine.slow_select_millis() / 1000.0) / f64::from(rows);
        let (prefix, stream) = self.address();
        let first = self.draw(transaction, prefix, rows);
        let payload = engine.with_i(&self.head(transaction), "}");
        let rows = engine.slow_rows(first, rows, seconds);
        let sql = if self.random.random() {
            let (channel, hash) = channel(prefix, &stream_name(stream));
            format!(
                "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
                 SELECT {}, {}, {}, {hash} {rows}",
                engine.bytes(channel.as_bytes()),
                engine.bytes_of(&payload),
                engine.now(),
            )
        } else {
            format!(
                "INSERT INTO tablecast_publish (stream, data, prefix) SELECT '{}', {payload}, '{prefix}' {rows}",
                stream_name(stream)
            )
        };
        self.session().run_in_steps(sql).await
    }

    async fn copy(&mut self, transaction: &mut Transaction) -> Result<(), sqlx::Error> {
        let into_table = self.random.random();
        let mut pieces = Vec::new();
        for _ in 0..self.random.random_range(1..=3) {
            let mut piece = String::new();
            for _ in 0..self.random.random_range(1..=30) {
                let (prefix, stream) = self.address();
                let number = self.draw(transaction, prefix, 1);
                let payload = format!("{}{number}}}", self.head(transaction));
                let stream = stream_name(stream);
                piece += &if into_table {
                    let (channel, hash) = channel(prefix, &stream);
                    format!("{channel}\t{payload}\tnow\t{hash}\n")
                } else {
                    format!("{stream}\t{payload}\t{prefix}\n")
                };
            }
            pieces.push((piece, self.random.random_range(0..700)));
        }
        let sql = if into_table {
            "COPY solid_cable_messages (channel, payload, created_at, channel_hash) FROM STDIN"
        } else {
            "COPY tablecast_publish (stream, data, prefix) FROM STDIN"
        };
        let Session::Postgres(connection) = self.session() else { panic!("no COPY here") };
        let mut copy = connection.copy_in_raw(sql).await?;
        for (piece, pause) in pieces {
            copy.send(piece.into_bytes()).await?;
            sleep(Duration::from_millis(pause)).await;
        }
        copy.finish().await.map(drop)
    }

    /// Where a message goes: mostly to a stream that is served.
    fn address(&mut self) -> (&'static str, u16) {
        let prefix = *[FOREIGN, ""].choose(&mut self.random).unwrap();
        let prefix = if self.random.random_bool(0.9) { PREFIX } else { prefix };
        let own = SHARED_STREAMS + self.number;
        let stream = if self.random.random() { own } else { self.random.random_range(0..SHARED_STREAMS) };
        (prefix, stream)
    }

    /// Numbers for messages; the first of them.
    fn draw(&mut self, transaction: &mut Transaction, prefix: &str, count: u32) -> u32 {
        let first = self.next;
        self.next += count;
        if prefix != PREFIX {
            transaction.left_out.extend(first..self.next);
        }
        first
    }

    /// A message up to its number.
    fn head(&self, transaction: &Transaction) -> String {
        let after = match transaction.after {
            Some((writer, number)) => format!(r#","after":[{writer},{number}]"#),
            None => String::new(),
        };
        format!(r#"{{"w":{},"t":{}{after},"n":"#, self.number, transaction.number)
    }
}

/// A statement to which rows are added.
struct Insert {
    engine: Engine,
    into_table: bool,
    sql: String,
}

impl Insert {
    fn table(engine: Engine) -> Self {
        let sql = "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash) VALUES ";
        Self { engine, into_table: true, sql: sql.into() }
    }

    fn view(engine: Engine) -> Self {
        let sql = "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ";
        Self { engine, into_table: false, sql: sql.into() }
    }

    fn row(&mut self, prefix: &str, stream: &str, payload: &str) {
        let engine = self.engine;
        if self.sql.ends_with(')') {
            self.sql += ", ";
        }
        self.sql += &if self.into_table {
            let (channel, hash) = channel(prefix, stream);
            let (channel, payload) = (engine.bytes(channel.as_bytes()), engine.bytes(payload.as_bytes()));
            format!("({channel}, {payload}, {}, {hash})", engine.now())
        } else {
            format!("('{stream}', '{payload}', '{prefix}')")
        };
    }
}

/// A stream's name in the table, and its hash as Rails computes it.
fn channel(prefix: &str, stream: &str) -> (String, i64) {
    let channel = if prefix.is_empty() { stream.to_owned() } else { format!("{prefix}:{stream}") };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, channel.as_bytes());
    let hash = i64::from_be_bytes(*digest.as_ref().first_chunk().unwrap());
    (channel, hash)
}

fn sql_state(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether the database has refused it, and surely not done it: a deadlock or a conflict between
/// transactions, a lock that was waited for in vain, a name that isn't there.
fn is_refusal(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|state| ["40", "42", "HY000"].iter().any(|class| state.starts_with(class)))
}
